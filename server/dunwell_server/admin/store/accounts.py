"""Provider accounts' SQL: what ConfigureProvider reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork

# Of one in use and several taken out of use the one in use, else the latest: what belongs to it is then found again.
_LOCK: Final = """
SELECT id, state, credentials, key_id FROM control.provider_account
WHERE firm_id IS NOT DISTINCT FROM %(firm_id)s AND provider = %(provider)s AND mode = %(mode)s
ORDER BY (state = 'ACTIVE') DESC, update_time DESC LIMIT 1 FOR UPDATE
"""
_INSERT: Final = """
INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id, state)
VALUES (%(id)s, %(firm_id)s, %(provider)s, %(mode)s, %(credentials)s, %(key_id)s, %(state)s)
ON CONFLICT DO NOTHING
"""
_UPDATE: Final = """
UPDATE control.provider_account SET credentials = %(credentials)s, key_id = %(key_id)s, state = %(state)s, version = version + 1,
    update_time = clock_timestamp()
WHERE id = %(id)s
"""


@dataclass(frozen=True, slots=True, repr=False)
class SealedAccount:
    """An account with its credentials as they are stored."""

    id: UUID
    state: str
    credentials: bytes
    key_id: str


async def lock(uow: UnitOfWork, firm_id: UUID | None, provider: str, mode: str) -> SealedAccount | None:
    """The account of the firm (None: the installation) at a provider, locked."""
    row = await uow.fetch_one(_LOCK, {"firm_id": firm_id, "provider": provider, "mode": mode})
    return None if row is None else SealedAccount(**{**row, "credentials": bytes(row["credentials"])})


async def insert(
    uow: UnitOfWork, account_id: UUID, firm_id: UUID | None, provider: str, mode: str, sealed: tuple[bytes, str]
) -> bool:
    """Add an account in use; False where somebody else has just added one."""
    values = {
        "id": account_id, "firm_id": firm_id, "provider": provider, "mode": mode, "credentials": sealed[0], "key_id": sealed[1],
        "state": "ACTIVE",
    }  # fmt: skip
    return await uow.execute(_INSERT, values) == 1


async def update(uow: UnitOfWork, account_id: UUID, sealed: tuple[bytes, str], state: str) -> None:
    """Write an account's next version: whoever uses it next sees it."""
    await uow.execute(_UPDATE, {"id": account_id, "credentials": sealed[0], "key_id": sealed[1], "state": state})
