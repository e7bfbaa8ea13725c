"""ConfigureProvider: a firm's own provider account, or the installation's that firms without one share.

Credentials are sealed before they touch the database and are never shown, logged or audited: only their names are. Every use of an account
reads its row, and opens the credentials again when the version is another: a change takes effect at once, in every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from dunwell_server.admin.model import Account, ProviderStanding
from dunwell_server.admin.service import firms
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.providers import OFFLINE, list_providers, require
from dunwell_server.admin.store import accounts, keys
from dunwell_server.admin.store import firms as firm_store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.providers.base import AccountMode
from dunwell_server.providers.credentials import HISTORY, check_credentials, invalid

DEFAULT_OVERLAP: Final = timedelta(hours=24)
"""For how long a webhook secret that is replaced still verifies where the caller does not say."""
WEBHOOK_SECRET: Final = "webhook_secret"
PREVIOUS: Final = "webhook_secret_previous"
PREVIOUS_UNTIL: Final = "webhook_secret_previous_until"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What ConfigureProvider takes. An empty credential removes the one there is; those not named stay."""

    provider: str
    mode: str
    credentials: Mapping[str, str] = field(repr=False)
    overlap: timedelta = DEFAULT_OVERLAP
    disable: bool = False
    make_default: bool = False


async def configure(uow: UnitOfWork, wanted: Configuration, installation: Installation) -> ProviderStanding:
    """The firm's own account. PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, CREDENTIAL_INVALID, FIELD_INVALID."""
    _check_request(wanted, installation)
    firm = await firm_store.get(uow, uow.firm_id, lock=True)
    if firm is None:
        raise firms.not_found(uow.firm_id)
    if wanted.mode != firm.mode or (wanted.mode == "LIVE" and uow.clock.is_test):
        metadata = {"provider": wanted.provider, "firm_mode": firm.mode, "account_mode": wanted.mode}
        message = f"The firm is {firm.mode} and takes no {wanted.mode} account: test and live are never mixed."
        raise DunwellError(Reason.PROVIDER_MODE_MISMATCH, message, field="mode", metadata=metadata)
    if wanted.provider != OFFLINE:
        account_id, changed, state = await _store(uow, uow.firm_id, wanted, installation)
        told = {**_metadata(wanted, changed, state), "shared": False}
        action = "provider_disabled" if wanted.disable else "provider_configured"
        await record(uow, Change(
            Category.ADMIN, action, "provider_account", account_id, action.replace("_", "."), Severity.WARNING, told,
        ))  # fmt: skip
    if wanted.make_default:
        require(wanted.provider, firm.mode, await firm_store.accounts(uow, firm.id), installation.registry)
        chosen = replace(firm, settings=replace(firm.settings, default_provider=wanted.provider))
        await firm_store.update(uow, chosen)
        fields = {"fields": ["default_provider"]}
        await record(uow, Change(Category.ADMIN, "firm_updated", "firm", firm.id, "firm.updated", metadata=fields))
    standings = await list_providers(uow, installation.registry)
    [standing] = [each for each in standings if each.name == wanted.provider]
    # The settings of this transaction were read before the change.
    return replace(standing, is_default=standing.is_default or wanted.make_default)


async def configure_shared(uow: UnitOfWork, wanted: Configuration, installation: Installation) -> ProviderStanding:
    """The installation's account, by an ADMIN outside of every firm. Errors as of `configure`, PERMISSION_DENIED."""
    if uow.context.actor.role is not Role.ADMIN:
        raise DunwellError(
            Reason.PERMISSION_DENIED, "Only an ADMIN sets up the installation's accounts.", metadata={"role": uow.context.actor.role.value}
        )  # fmt: skip
    _check_request(wanted, installation)
    if wanted.make_default:
        raise field_invalid("make_default", "a shared account is nobody's default: choose it per firm")
    if wanted.provider == OFFLINE:
        raise DunwellError(
            Reason.PROVIDER_NOT_CONFIGURED, f"{OFFLINE} has no accounts.", metadata={"provider": OFFLINE}
        )  # fmt: skip
    account_id, changed, state = await _store(uow, None, wanted, installation)
    metadata = {
        **_metadata(wanted, changed, state), "shared": True, "provider_account_id": encode(Prefix.PROVIDER_ACCOUNT, account_id),
    }  # fmt: skip
    await keys.record_firmless(uow, "provider_disabled" if wanted.disable else "provider_configured", metadata)
    account = None if wanted.disable else Account(account_id, None, wanted.provider, wanted.mode)
    return ProviderStanding(wanted.provider, account, account is not None, False)


def _check_request(wanted: Configuration, installation: Installation) -> None:
    provider = installation.registry.get(wanted.provider)
    if AccountMode(wanted.mode) not in provider.capabilities.modes:
        metadata = {"provider": wanted.provider, "account_mode": wanted.mode}
        message = f"{wanted.provider} has no {wanted.mode} accounts."
        raise DunwellError(Reason.PROVIDER_MODE_MISMATCH, message, field="mode", metadata=metadata)
    if wanted.disable and wanted.make_default:
        raise field_invalid("make_default", "an account that is no longer used cannot be the default")
    if wanted.provider == OFFLINE and (wanted.credentials or wanted.disable):
        name = min(wanted.credentials, default="account")
        raise invalid(name, f"{OFFLINE} needs no account and has no credentials")
    for name in sorted(HISTORY & wanted.credentials.keys()):
        raise invalid(name, f"{name} is kept by the server")


async def _store(
    uow: UnitOfWork, firm_id: UUID | None, wanted: Configuration, installation: Installation
) -> tuple[UUID, list[str], str]:
    """Write the account: its id, the names of the credentials that changed, its state."""
    vault, aad = installation.vault, account_aad(firm_id, wanted.provider)
    found = await accounts.lock(uow, firm_id, wanted.provider, wanted.mode)
    before = {} if found is None else vault.decrypt(found.credentials, found.key_id, aad)
    after = merged(before, wanted.credentials, uow.machine_now, wanted.overlap)
    if found is None and wanted.disable:
        metadata = {"provider": wanted.provider}
        raise DunwellError(Reason.PROVIDER_NOT_CONFIGURED, "There is no such account to disable.", metadata=metadata)
    if not wanted.disable:
        provider = installation.registry.get(wanted.provider)
        current = {name: value for name, value in after.items() if name not in HISTORY}
        check_credentials(provider, AccountMode(wanted.mode), current, wanted.provider)
    sealed, state = vault.encrypt(after, aad), "DISABLED" if wanted.disable else "ACTIVE"
    changed = sorted(name for name in wanted.credentials if before.get(name) != after.get(name))
    if found is not None:
        await accounts.update(uow, found.id, sealed, state)
        return found.id, changed, state
    account_id = uuid7()
    if not await accounts.insert(uow, account_id, firm_id, wanted.provider, wanted.mode, sealed):
        raise DunwellError(Reason.SERIALIZATION_CONFLICT, "Somebody else has just set up the account.", retry_after=0.1)
    return account_id, changed, state


def merged(before: Mapping[str, str], given: Mapping[str, str], now: datetime, overlap: timedelta) -> dict[str, str]:
    """Credentials after a change. A webhook secret that is replaced goes on verifying for `overlap`; one that is removed does not. Pure."""
    after = {**before, **given}
    replaced, secret = before.get(WEBHOOK_SECRET), after.get(WEBHOOK_SECRET)
    if not secret:
        after.pop(PREVIOUS, None)
        after.pop(PREVIOUS_UNTIL, None)
    elif replaced and replaced != secret:
        after[PREVIOUS] = replaced
        after[PREVIOUS_UNTIL] = (now + overlap).isoformat()
    # What a person has set up is not the environment's to withdraw.
    after.pop("source", None)
    return {name: value for name, value in after.items() if value}


def _metadata(wanted: Configuration, changed: list[str], state: str) -> dict[str, Any]:
    return {"provider": wanted.provider, "mode": wanted.mode, "credentials_changed": changed, "state": state}
