"""Plans that do not depend on the firm."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql_file

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Row security names the firm in a way the planner does not evaluate."""
    run_sql_file("0016_plans_for_any_firm.sql")
