"""SQL of the installation's own provider accounts: rows of schema `control` that belong to no firm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('dunwell platform accounts', 0))"
_ALL: Final = """
SELECT id, provider, mode, state, credentials, key_id FROM control.provider_account
WHERE firm_id IS NULL AND provider = ANY(%(providers)s) ORDER BY (state = 'ACTIVE') DESC, update_time DESC, id FOR UPDATE
"""
_INSERT: Final = """
INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id)
VALUES (%(id)s, NULL, %(provider)s, %(mode)s, %(credentials)s, %(key_id)s)
"""
_REPLACE: Final = """
UPDATE control.provider_account SET credentials = %(credentials)s, key_id = %(key_id)s, state = 'ACTIVE', version = version + 1,
    update_time = clock_timestamp()
WHERE id = %(id)s
"""
_RESEAL: Final = (
    "UPDATE control.provider_account SET credentials = %(credentials)s, key_id = %(key_id)s WHERE id = %(id)s"
)
_DISABLE: Final = """
UPDATE control.provider_account SET state = 'DISABLED', version = version + 1, update_time = clock_timestamp() WHERE id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class PlatformRow:
    """One account of the installation, its credentials sealed."""

    id: UUID
    provider: str
    mode: str
    state: str
    credentials: bytes = field(repr=False)
    key_id: str


async def lock_all(uow: UnitOfWork, providers: Sequence[str]) -> list[PlatformRow]:
    """The installation's accounts at these providers, those in use first, kept from being changed, or added to, by others."""
    await uow.execute(_LOCK, {})
    rows = await uow.fetch_all(_ALL, {"providers": list(providers)})
    return [PlatformRow(**{**row, "credentials": bytes(row["credentials"])}) for row in rows]


async def insert(uow: UnitOfWork, account_id: UUID, provider: str, mode: str, sealed: tuple[bytes, str]) -> None:
    """Add an account in use; `sealed` are its encrypted credentials and the id of their key."""
    values = {"id": account_id, "provider": provider, "mode": mode, "credentials": sealed[0], "key_id": sealed[1]}
    await uow.execute(_INSERT, values)


async def replace(uow: UnitOfWork, account_id: UUID, sealed: tuple[bytes, str]) -> None:
    """Give an account other credentials, as its next version, and take it into use."""
    await uow.execute(_REPLACE, {"id": account_id, "credentials": sealed[0], "key_id": sealed[1]})


async def reseal(uow: UnitOfWork, account_id: UUID, sealed: tuple[bytes, str]) -> None:
    """Keep the same credentials under another key: no change that anyone would notice."""
    await uow.execute(_RESEAL, {"id": account_id, "credentials": sealed[0], "key_id": sealed[1]})


async def disable(uow: UnitOfWork, account_id: UUID) -> None:
    """Take an account out of use; what is open at it is still looked after."""
    await uow.execute(_DISABLE, {"id": account_id})
