"""Disputes: opened, won, lost, with what they take from payments and invoices."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """The two tables of disputes."""
    run_sql_file("0004_disputes.sql")
