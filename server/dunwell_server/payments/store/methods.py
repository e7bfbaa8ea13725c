"""Payment methods, the provider's customers behind them, and provider accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.kernel.calendar import local_date
from dunwell_server.payments.health import NEAR_DECLINES, NEAR_TRIES
from dunwell_server.payments.model import MethodState, PaymentMethod
from dunwell_server.payments.store.rows import METHOD_COLUMNS, build, columns
from dunwell_server.platform.database import Row, UnitOfWork

_SELECT = f"""
SELECT {columns(METHOD_COLUMNS, "m")}, coalesce(c.autopay_method_id = m.id, false) AS is_default, coalesce(k.state = 'ACTIVE', false) AS reachable
FROM payment_method m JOIN client c ON c.firm_id = m.firm_id AND c.id = m.client_id LEFT JOIN control.provider_account k ON k.id = m.account_id
WHERE m.firm_id = %(firm_id)s"""
# Counted for those that failed lately only.
_NEAR = f"""
m.last_failure_time > %(now)s - interval '30 days' AND (
    SELECT count(*) >= {NEAR_TRIES} OR count(*) FILTER (WHERE a.first_send_time > %(now)s - interval '1 day') >= {NEAR_DECLINES}
    FROM payment_method o JOIN attempt a ON a.firm_id = o.firm_id AND a.method_id = o.id
    WHERE o.firm_id = m.firm_id AND o.client_id = m.client_id AND (o.id = m.id OR o.fingerprint = m.fingerprint)
      AND a.first_send_time > %(now)s - interval '30 days' AND a.state = 'DECLINED') AS near_ceiling"""
_SHOWN = _SELECT.replace("SELECT ", f"SELECT {_NEAR}, ", 1)
_GET = _SHOWN + " AND m.id = %(id)s"
_LOCK = _GET + " FOR NO KEY UPDATE OF m"
_OF_IDS = _SHOWN + " AND m.id = ANY(%(ids)s) ORDER BY m.id"
_OF_CLIENTS = (
    _SELECT
    + " AND m.client_id = ANY(%(clients)s) AND m.state <> 'DETACHED' ORDER BY m.client_id, m.backup_priority, m.id"
)
_PAGE = f"""
WITH ranked AS (
    SELECT listed.*, CASE WHEN is_default THEN 0 WHEN backup_priority > 0 THEN backup_priority ELSE 1000 END AS rank
    FROM ({_SHOWN} AND m.client_id = %(client_id)s AND (%(detached)s OR m.state <> 'DETACHED')) listed
)
SELECT * FROM ranked
WHERE %(rank)s::int IS NULL OR rank > %(rank)s
   OR (rank = %(rank)s AND (create_time, id) < (%(create_time)s::timestamptz, %(last_id)s::uuid))
ORDER BY rank, create_time DESC, id DESC LIMIT %(limit)s
"""
_INSERT = """
INSERT INTO payment_method (firm_id, id, client_id, provider, account_id, mode, provider_reference, kind, brand, last4, exp_month, exp_year,
                            fingerprint, country, backup_priority, metadata, create_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(client_id)s, %(provider)s, %(account_id)s, %(mode)s, %(provider_reference)s, %(kind)s, %(brand)s, %(last4)s,
        %(exp_month)s, %(exp_year)s, %(fingerprint)s, %(country)s, %(backup_priority)s, %(metadata)s, %(now)s, %(now)s)
ON CONFLICT DO NOTHING
"""
_UPDATE = """
UPDATE payment_method SET backup_priority = %(backup_priority)s, metadata = %(metadata)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_SET_STATE = """
UPDATE payment_method SET state = %(state)s, block_code = %(block_code)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s AND state <> %(state)s
"""
_IN_USE = """
SELECT 1 FROM attempt WHERE firm_id = %(firm_id)s AND method_id = %(id)s
   AND state IN ('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN') LIMIT 1
"""
_CUSTOMER = """
SELECT provider_reference FROM provider_customer
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND account_id = %(account_id)s
"""
_ADD_CUSTOMER = """
INSERT INTO provider_customer (firm_id, client_id, account_id, provider, provider_reference)
VALUES (%(firm_id)s, %(client_id)s, %(account_id)s, %(provider)s, %(reference)s) ON CONFLICT DO NOTHING
"""
_ACCOUNTS = """
SELECT id, firm_id, provider, mode, credentials, key_id, version FROM control.provider_account
WHERE provider = %(provider)s AND state = 'ACTIVE' AND (firm_id = %(firm_id)s OR firm_id IS NULL)
ORDER BY firm_id NULLS LAST
"""
_DECLINES = """
SELECT a.first_send_time FROM attempt a JOIN payment_method m ON m.firm_id = a.firm_id AND m.id = a.method_id
WHERE a.firm_id = %(firm_id)s AND a.state = 'DECLINED' AND a.first_send_time > %(since)s
  AND (m.id = %(method_id)s OR (m.client_id = %(client_id)s AND m.fingerprint = %(fingerprint)s))
ORDER BY a.first_send_time DESC LIMIT 20
"""


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """One account at a provider, the firm's own or (`firm_id` None) the platform's; its secrets still encrypted."""

    id: UUID
    firm_id: UUID | None
    provider: str
    mode: str
    credentials: bytes
    key_id: str
    version: int
    state: str = "ACTIVE"
    """ACTIVE; DISABLED: nothing new is started at it, what is open at it is still looked after."""


async def get(uow: UnitOfWork, method_id: UUID, *, lock: bool = False) -> PaymentMethod | None:
    """One method of the firm, in any state."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": method_id, "now": uow.now})
    return _method(uow, row) if row else None


async def of_ids(uow: UnitOfWork, ids: Sequence[UUID]) -> list[PaymentMethod]:
    """The methods with these ids, in the ids' order."""
    rows = await uow.fetch_all(_OF_IDS, {"firm_id": uow.firm_id, "ids": list(ids), "now": uow.now}) if ids else ()
    return [_method(uow, row) for row in rows]


async def of_clients(uow: UnitOfWork, clients: Sequence[UUID]) -> dict[UUID, list[PaymentMethod]]:
    """The attached methods of each client, backups in their order."""
    found: dict[UUID, list[PaymentMethod]] = {client: [] for client in clients}
    for row in await uow.fetch_all(_OF_CLIENTS, {"firm_id": uow.firm_id, "clients": list(found)}):
        found[row["client_id"]].append(_method(uow, row))
    return found


async def page(
    uow: UnitOfWork, client_id: UUID, *, detached: bool, after: tuple[int, datetime, UUID] | None, limit: int
) -> list[tuple[int, PaymentMethod]]:
    """Methods with their rank: the default, then backups in order, then the rest, newest first."""
    rank, create_time, last_id = after or (None, None, None)
    rows = await uow.fetch_all(_PAGE, {
        "firm_id": uow.firm_id, "client_id": client_id, "detached": detached, "rank": rank, "create_time": create_time, "last_id": last_id,
        "limit": limit, "now": uow.now,
    })  # fmt: skip
    return [(row["rank"], _method(uow, row)) for row in rows]


async def insert(uow: UnitOfWork, values: dict[str, Any]) -> bool:
    """Add a method; False where it exists already, under this id or as the same method at the provider."""
    return (
        await uow.execute(
            _INSERT, {**values, "firm_id": uow.firm_id, "now": uow.now, "metadata": Jsonb(values["metadata"])}
        )
        == 1
    )


async def update(uow: UnitOfWork, method_id: UUID, backup_priority: int, metadata: dict[str, str]) -> None:
    """Change what a caller may change."""
    await uow.execute(
        _UPDATE,
        {
            "firm_id": uow.firm_id,
            "now": uow.now,
            "id": method_id,
            "backup_priority": backup_priority,
            "metadata": Jsonb(metadata),
        },
    )


async def set_state(uow: UnitOfWork, method_id: UUID, state: MethodState, block_code: str | None = None) -> None:
    """Move a method along its states; nothing where it is there already."""
    values = {"firm_id": uow.firm_id, "now": uow.now, "id": method_id, "state": state.value, "block_code": block_code}
    await uow.execute(_SET_STATE, values)


async def in_use(uow: UnitOfWork, method_id: UUID) -> bool:
    """Whether an open attempt charges it."""
    return await uow.fetch_value(_IN_USE, {"firm_id": uow.firm_id, "id": method_id}) is not None


async def customer_reference(uow: UnitOfWork, client_id: UUID, account_id: UUID) -> str | None:
    """The provider's id of the client as a customer of the account."""
    reference: str | None = await uow.fetch_value(
        _CUSTOMER, {"firm_id": uow.firm_id, "client_id": client_id, "account_id": account_id}
    )
    return reference


async def add_customer(uow: UnitOfWork, client_id: UUID, account_id: UUID, provider: str, reference: str) -> None:
    """Remember the client as a customer of the account; the first one remembered stays."""
    await uow.execute(_ADD_CUSTOMER, {
        "firm_id": uow.firm_id, "client_id": client_id, "account_id": account_id, "provider": provider, "reference": reference,
    })  # fmt: skip


async def accounts(uow: UnitOfWork, provider: str) -> list[ProviderAccount]:
    """The active accounts of `provider` that the firm may use, in any mode: its own before the platform's."""
    rows = await uow.fetch_all(_ACCOUNTS, {"firm_id": uow.firm_id, "provider": provider})
    return [ProviderAccount(**{**row, "credentials": bytes(row["credentials"])}) for row in rows]


async def declines_since(uow: UnitOfWork, method: PaymentMethod, since: datetime) -> list[datetime]:
    """Firm times at which tries of this card of the client were refused, newest first."""
    rows = await uow.fetch_all(_DECLINES, {
        "firm_id": uow.firm_id, "method_id": method.id, "client_id": method.client_id, "fingerprint": method.fingerprint, "since": since,
    })  # fmt: skip
    return [row["first_send_time"] for row in rows]


def _method(uow: UnitOfWork, row: Row) -> PaymentMethod:
    return build(
        PaymentMethod, row, is_default=row["is_default"], reachable=row["reachable"], near_ceiling=bool(row.get("near_ceiling")),
        seen_on=local_date(uow.now, uow.firm.settings.zone),
    )  # fmt: skip
