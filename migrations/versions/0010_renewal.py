"""Terms that follow one another."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Renewal of engagements."""
    run_sql_file("0010_renewal.sql")
