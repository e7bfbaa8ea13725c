"""Money in, for real: provider events, refunds, hosted pages, breakers, recovery."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """New tables; wider checks and new columns of payments, approvals and methods."""
    run_sql_file("0003_money_in.sql")
