"""Hourly and mixed work: time entries, rates, included hours, caps."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Time entries and the terms that they are billed by."""
    run_sql_file("0006_time.sql")
