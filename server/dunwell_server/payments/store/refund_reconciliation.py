"""Refunds as reconciliation sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork
from dunwell_server.providers.abilities import ProviderRefund

_OURS: Final = """
r.id, r.payment_id, r.client_id, r.state, r.idempotency_key AS key, r.provider_reference AS reference, r.payment_reference, r.amount_minor,
r.currency_code, r.first_send_time AS send_time"""
_MATCH: Final = f"""
SELECT {_OURS} FROM refund r WHERE r.firm_id = %(firm_id)s AND r.account_id = %(account_id)s
  AND (r.provider_reference = ANY(%(references)s) OR r.id = ANY(%(ids)s))
"""
_PAYMENTS: Final = """
SELECT provider_reference FROM attempt WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = ANY(%(references)s)
UNION
SELECT provider_reference FROM payment WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = ANY(%(references)s)
"""
_SUCCESSES: Final = f"""
SELECT {_OURS} FROM refund r
WHERE r.firm_id = %(firm_id)s AND r.account_id = %(account_id)s AND r.state = 'SUCCEEDED' AND r.destination = 'PAYMENT_METHOD'
  AND r.first_send_time >= %(since)s AND r.first_send_time < %(until)s
  AND (%(after_time)s::timestamptz IS NULL OR (r.first_send_time, r.id) > (%(after_time)s, %(after_id)s))
ORDER BY r.first_send_time, r.id LIMIT %(limit)s
"""
_PREFIX: Final = "v1:refund:"


@dataclass(frozen=True, slots=True)
class OurRefund:
    """A refund of the book."""

    id: UUID
    payment_id: UUID
    client_id: UUID
    state: str
    key: str
    reference: str | None
    payment_reference: str | None
    amount_minor: int
    currency_code: str
    send_time: datetime | None


async def match(uow: UnitOfWork, account_id: UUID, listed: Sequence[ProviderRefund]) -> dict[str, OurRefund]:
    """The firm's refunds among these, by reference and by key."""
    values = {
        "firm_id": uow.firm_id, "account_id": account_id, "references": [each.provider_reference for each in listed],
        "ids": [known for each in listed if (known := _refund_id(each.metadata.get("key"))) is not None],
    }  # fmt: skip
    found: dict[str, OurRefund] = {}
    for row in await uow.fetch_all(_MATCH, values):
        ours = OurRefund(**row)
        found[ours.key] = ours
        if ours.reference is not None:
            found[ours.reference] = ours
    return found


async def known_payments(uow: UnitOfWork, account_id: UUID, references: Sequence[str]) -> set[str]:
    """Which of these payments of the account are the firm's."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "references": list(references)}
    return {row["provider_reference"] for row in await uow.fetch_all(_PAYMENTS, values)}


async def successes(
    uow: UnitOfWork, account_id: UUID, since: datetime, until: datetime, after: OurRefund | None, limit: int
) -> list[OurRefund]:
    """Our successful refunds first sent in [since, until), behind `after`."""
    values = {
        "firm_id": uow.firm_id, "account_id": account_id, "since": since, "until": until, "limit": limit,
        "after_time": after.send_time if after else None, "after_id": after.id if after else None,
    }  # fmt: skip
    return [OurRefund(**row) for row in await uow.fetch_all(_SUCCESSES, values)]


def _refund_id(key: str | None) -> UUID | None:
    if key is None or not key.startswith(_PREFIX):
        return None
    try:
        return UUID(key.removeprefix(_PREFIX))
    except ValueError:
        return None
