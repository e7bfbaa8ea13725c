"""Changes of state in bulk."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """How many changes of state in one statement are checked."""
    run_sql_file("0012_bulk_states.sql")
