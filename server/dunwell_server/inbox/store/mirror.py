"""The mirror of subscriptions and invoices that live at a provider."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.platform.database import UnitOfWork

_UPSERT: Final = """
INSERT INTO provider_mirror AS m (firm_id, account_id, kind, reference, client_id, state, snapshot, provider_time)
VALUES (%(firm_id)s, %(account_id)s, %(kind)s, %(reference)s,
        (SELECT client_id FROM provider_customer WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(customer)s),
        %(state)s, %(snapshot)s, %(provider_time)s)
ON CONFLICT (firm_id, account_id, kind, reference) DO UPDATE SET client_id = coalesce(excluded.client_id, m.client_id), state = excluded.state,
    snapshot = excluded.snapshot, provider_time = excluded.provider_time, version = m.version + 1, update_time = clock_timestamp()
WHERE (coalesce(excluded.provider_time, '-infinity'), coalesce(array_position(%(order)s::text[], excluded.state), 0), excluded.snapshot)
    > (coalesce(m.provider_time, '-infinity'), coalesce(array_position(%(order)s::text[], m.state), 0), m.snapshot)
"""


async def upsert(
    uow: UnitOfWork,
    account_id: UUID,
    kind: str,
    reference: str,
    *,
    customer: str,
    state: str,
    order: tuple[str, ...],
    snapshot: Mapping[str, Any],
    provider_time: datetime | None,
) -> bool:
    """Keep what the provider's object is like, if this is newer than what is kept. False: it is not.

    Events of one second are told apart by their states, the later in `order` winning; then by content, so that every order of arrival
    ends in the same mirror.
    """
    values = {
        "firm_id": uow.firm_id, "account_id": account_id, "kind": kind, "reference": reference, "customer": customer, "state": state,
        "order": list(order), "snapshot": Jsonb(dict(snapshot)), "provider_time": provider_time,
    }  # fmt: skip
    return await uow.execute(_UPSERT, values) == 1
