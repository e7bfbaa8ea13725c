"""Taxes and discounts that are there."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Lines refer to their last tax, invoices to their last discount."""
    run_sql_file("0013_parts_present.sql")
