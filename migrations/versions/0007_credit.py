"""Credit that clients hold, and credit notes by line."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Credit entries, their uses, and the lines of credit notes."""
    run_sql_file("0007_credit.sql")
