"""Alerts of a cap by its value."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """A cap that was changed is told of again."""
    run_sql_file("0014_cap_values.sql")
