"""Reading the audit trail: one query, whatever the filters."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from dunwell_server.admin.model import AuditEntry, AuditFilter
from dunwell_server.platform.database import UnitOfWork

_SELECT: Final[LiteralString] = """
SELECT e.id, e.category, e.action, e.severity, e.object_type, e.object_id, e.actor, e.actor_role, e.method, e.request_id, e.metadata, e.firm_time,
       e.create_time, s.seq, s.hash
FROM audit_event e LEFT JOIN audit_seal s ON s.firm_id = e.firm_id AND s.audit_id = e.id
WHERE e.firm_id = %(firm_id)s"""
# Only the conditions that are asked for, so that the planner sees them and can use an index for each.
_CONDITIONS: Final[dict[str, LiteralString]] = {
    "categories": " AND e.category = ANY(%(categories)s)",
    "actions": " AND e.action = ANY(%(actions)s)",
    "severities": " AND e.severity = ANY(%(severities)s)",
    "object_type": " AND e.object_type = %(object_type)s",
    "object_id": " AND e.object_id = %(object_id)s",
    "actor": " AND e.actor = %(actor)s",
    "since": " AND e.create_time >= %(since)s",
    "until": " AND e.create_time < %(until)s",
}


async def list_entries(
    uow: UnitOfWork, chosen: AuditFilter, after: tuple[datetime, UUID] | None, limit: int
) -> list[AuditEntry]:
    """Entries of the firm, ordered by (create_time, id), behind `after`."""
    values: dict[str, Any] = {name: getattr(chosen, name) for name in _CONDITIONS}
    for name in ("categories", "actions", "severities"):
        values[name] = list(values[name])
    statement = _SELECT
    for name, condition in _CONDITIONS.items():
        if values[name]:
            statement += condition
    if after is not None:
        statement += (
            " AND (e.create_time, e.id) > (%(after_time)s, %(after_id)s)"
            if chosen.oldest_first
            else " AND (e.create_time, e.id) < (%(after_time)s, %(after_id)s)"
        )
        values["after_time"], values["after_id"] = after
    statement += " ORDER BY e.create_time, e.id" if chosen.oldest_first else " ORDER BY e.create_time DESC, e.id DESC"
    values |= {"firm_id": uow.firm_id, "limit": limit}
    return [AuditEntry(**row) for row in await uow.fetch_all(statement + " LIMIT %(limit)s", values)]
