"""Deferred revenue recognised day by day, and exchange rates."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """The revenue schedule and exchange rates."""
    run_sql_file("0008_recognition.sql")
