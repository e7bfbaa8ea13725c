"""The foundation: firms, clients, engagements, invoices, ledger, payments, runs, audit."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything of the first release."""
    run_sql_file("0001_tables.sql")
    run_sql_file("0001_behaviour.sql")
