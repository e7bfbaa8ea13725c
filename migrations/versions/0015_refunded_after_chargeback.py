"""An edge of the invoice's states."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """From CHARGED_BACK to REFUNDED."""
    run_sql_file("0015_refunded_after_chargeback.sql")
