"""Discounts, coupons and taxes."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Tax rates, coupons, and what of them falls on invoice lines."""
    run_sql_file("0005_pricing.sql")
