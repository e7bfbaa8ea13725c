"""${message}."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Forward only: expand first, contract in a later release."""
    ${upgrades if upgrades else "run_sql(\"\")"}
