"""The installation's provider accounts as the environment configures them, used by the firms that have none of their own.

What ConfigureProvider set up with `shared` is another matter and left alone, unless the environment names the same account: then
the environment is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.admin.service import configuring
from dunwell_server.admin.store import keys
from dunwell_server.admin.store import platform_accounts as store
from dunwell_server.admin.store.platform_accounts import PlatformRow
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.crypto import Vault, VaultError, account_aad
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

NAMES: Final = ("secret_key", "publishable_key", "webhook_secret")
"""The credentials that the environment names; one that it no longer names is gone."""

_SOURCE: Final = {"source": "environment"}
"""Among the sealed credentials: whose account it is to withdraw."""


@dataclass(frozen=True, slots=True)
class PlatformAccount:
    """An account that the environment configures. `mode` is TEST or LIVE; `credentials` are by the names of NAMES."""

    provider: str
    mode: str
    credentials: Mapping[str, str] = field(repr=False)


async def settle(uow: UnitOfWork, wanted: Sequence[PlatformAccount], providers: Sequence[str], vault: Vault) -> None:
    """Make the installation's accounts at `providers` what the environment says: added, changed, taken out of use.

    In a firmless transaction. What is as it should be gets no new version. Every change leaves an audit entry without secrets.
    """
    rows = await store.lock_all(uow, providers)
    known = {row.id: _opened(row, vault) for row in rows}
    for account in wanted:
        candidates = [row for row in rows if (row.provider, row.mode) == (account.provider, account.mode)]
        usable = (row for row in candidates if row.state == "ACTIVE" or _is_ours(known[row.id]))
        await _ensure(uow, account, next(usable, None), known, vault)
    kept = {(account.provider, account.mode) for account in wanted}
    for row in rows:
        if row.state == "ACTIVE" and (row.provider, row.mode) not in kept and _is_ours(known[row.id]):
            await store.disable(uow, row.id)
            await _tell(uow, "provider_account_disabled", row, ())


async def _ensure(
    uow: UnitOfWork,
    account: PlatformAccount,
    row: PlatformRow | None,
    known: Mapping[UUID, Mapping[str, str] | None],
    vault: Vault,
) -> None:
    before = (known[row.id] if row is not None else None) or {}
    after = _merged(before, account.credentials, uow.machine_now)
    sealed = vault.encrypt(after, account_aad(None, account.provider))
    if row is None:
        row = PlatformRow(uuid7(), account.provider, account.mode, "ACTIVE", *sealed)
        await store.insert(uow, row.id, account.provider, account.mode, sealed)
    elif row.state == "ACTIVE" and after == before:
        if row.key_id != vault.newest_key_id:
            await store.reseal(uow, row.id, sealed)
        return
    else:
        await store.replace(uow, row.id, sealed)
    changed = sorted(name for name in NAMES if after.get(name) != before.get(name))
    await _tell(uow, "provider_account_configured", row, changed)


def _merged(before: Mapping[str, str], given: Mapping[str, str], now: datetime) -> dict[str, str]:
    named = {name: given.get(name, "") for name in NAMES}
    return configuring.merged(before, named, now, configuring.DEFAULT_OVERLAP) | _SOURCE


def _opened(row: PlatformRow, vault: Vault) -> Mapping[str, str] | None:
    """The credentials; None where they were sealed with a key that is not configured any more."""
    try:
        return vault.decrypt(row.credentials, row.key_id, account_aad(None, row.provider))
    except VaultError as error:
        log.error("a provider account of the installation cannot be opened", provider=row.provider, error=str(error))
        return None


def _is_ours(credentials: Mapping[str, str] | None) -> bool:
    return credentials is not None and _SOURCE.items() <= credentials.items()


async def _tell(uow: UnitOfWork, action: str, row: PlatformRow, changed: Sequence[str]) -> None:
    metadata = {
        "provider": row.provider, "mode": row.mode, "provider_account_id": encode(Prefix.PROVIDER_ACCOUNT, row.id),
        "changed": list(changed),
    }  # fmt: skip
    await keys.record_firmless(uow, action, metadata)
