"""Documents as they were sent."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """The archive of documents."""
    run_sql_file("0009_documents.sql")
