"""What happened, written in the transaction that made it happen: the audit entry and the outbox event, in one statement.

A use case records `Change`s; it never writes `audit_event` or `event` itself. Bulk runs derive the same rows in SQL from their stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import UnitOfWork


class Category(StrEnum):
    """The audit trail's categories."""

    BILLING = "billing"
    PAYMENT = "payment"
    DISPUTE = "dispute"
    SUBSCRIPTION = "subscription"
    ACCESS = "access"
    ADMIN = "admin"


class Severity(StrEnum):
    """How loud an audit entry is."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True, slots=True)
class Change:
    """One action on one object.

    `action` is the audit action in snake case (`invoice_finalized`); `event` is the outbox type (`invoice.finalized`) or None where the
    world need not know. `metadata` goes to both: small, JSON-ready, free of secrets and of personal data beyond what the action needs.
    `event_only` goes to the event alone: texts that people wrote, which an erasure takes out of the feed and could not out of the chained trail.
    """

    category: Category
    action: str
    object_type: str
    object_id: UUID
    event: str | None = None
    severity: Severity = Severity.INFO
    metadata: Mapping[str, Any] = field(default_factory=dict)
    event_only: Mapping[str, Any] = field(default_factory=dict)


_RECORD = """
WITH change AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(categories)s::text[], %(actions)s::text[], %(severities)s::text[], %(types)s::text[],
                         %(objects)s::uuid[], %(metadata)s::jsonb[], %(extras)s::jsonb[], %(events)s::text[], %(event_ids)s::uuid[]) WITH ORDINALITY
        AS c (id, category, action, severity, object_type, object_id, metadata, extra, event, event_id, position)
), audited AS (
    INSERT INTO audit_event (firm_id, id, category, action, severity, object_type, object_id, actor, actor_role, method, request_id, metadata, firm_time)
    SELECT %(firm_id)s, id, category, action, severity, object_type, object_id, %(actor)s, %(role)s, %(method)s, %(request_id)s, metadata, %(now)s
    FROM change ORDER BY position
)
INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)
SELECT %(firm_id)s, event_id, event, object_type, object_id,
       coalesce((SELECT max(object_seq) FROM event e WHERE e.firm_id = %(firm_id)s AND e.object_id = change.object_id), 0)
           + row_number() OVER (PARTITION BY object_id ORDER BY position),
       CASE WHEN extra IS NULL THEN metadata ELSE metadata || extra END, %(now)s
FROM change WHERE event IS NOT NULL ORDER BY position
"""


async def record(uow: UnitOfWork, *changes: Change) -> None:
    """Write the audit entries and outbox events of `changes`, in order. The object's row must be locked or new, so that its events stay ordered."""
    if changes:
        await uow.execute(_RECORD, _parameters(uow, changes))


def _parameters(uow: UnitOfWork, changes: Sequence[Change]) -> dict[str, Any]:
    context = uow.context
    return {
        "firm_id": uow.firm_id,
        "ids": [uuid7() for _ in changes],
        "categories": [change.category.value for change in changes],
        "actions": [change.action for change in changes],
        "severities": [change.severity.value for change in changes],
        "types": [change.object_type for change in changes],
        "objects": [change.object_id for change in changes],
        "metadata": [Jsonb(dict(change.metadata)) for change in changes],
        "extras": [Jsonb(dict(change.event_only)) if change.event_only else None for change in changes],
        "events": [change.event for change in changes],
        "event_ids": [uuid7() for _ in changes],
        "actor": context.actor.label,
        "role": context.actor.role.value,
        "method": context.method,
        "request_id": context.request_id,
        "now": uow.now,
    }
