"""That a firm was exported: noted where OffboardFirm asks for it, and in the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dunwell_server.admin.store import exports
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record

EXPORTED: Final = "firm_exported"


async def note(uow: UnitOfWork, time: datetime, snapshot: str, digest: bytes, rows: int) -> None:
    """A complete export of the transaction's firm has been handed out: all of its data has left."""
    await exports.note(uow, time, snapshot, digest)
    metadata = {"snapshot_time": time.isoformat(), "rows": rows, "sha256": digest.hex()}
    await record(
        uow, Change(Category.ACCESS, EXPORTED, "firm", uow.firm_id, severity=Severity.WARNING, metadata=metadata)
    )
