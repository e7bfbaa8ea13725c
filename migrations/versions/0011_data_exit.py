"""Data exit and import."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """What exporting, importing and offboarding a firm need."""
    run_sql_file("0011_data_exit.sql")
