"""Creating and changing firms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.admin.model import FirmRecord, NewFirm
from dunwell_server.admin.service import providers
from dunwell_server.admin.store import firms
from dunwell_server.kernel import calendar
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import known_currency
from dunwell_server.platform.context import Role
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.providers.registry import ProviderRegistry

SANDBOX: Final = "sandbox"
MANUAL: Final = "manual"
MAX_RETRY_WAIT_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Installation:
    """What firms take from the installation: its providers, its default one, and the vault for their credentials."""

    vault: Vault
    registry: ProviderRegistry
    default_provider: str


def not_found(firm_id: UUID) -> DunwellError:
    """RESOURCE_NOT_FOUND: no such firm, or none that the caller may see."""
    return DunwellError(Reason.RESOURCE_NOT_FOUND, "No such firm.", resource=("Firm", encode(Prefix.FIRM, firm_id)))


def named_firm(uow: UnitOfWork, asked: UUID | None) -> UUID:
    """The firm that a call is about: the one it names, else that of its credential or metadata.

    FIRM_REQUIRED where there is none; RESOURCE_NOT_FOUND for another firm than a bound credential's.
    """
    own = uow.context.firm_id
    if asked is None:
        if own is None:
            raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the request or in the dunwell-firm metadata.")
        return own
    if uow.context.actor.role is not Role.ADMIN and asked != own:
        raise not_found(asked)
    return asked


async def get(uow: UnitOfWork, firm_id: UUID) -> FirmRecord:
    """The firm; RESOURCE_NOT_FOUND."""
    found = await firms.get(uow, firm_id)
    if found is None:
        raise not_found(firm_id)
    return found


async def create(uow: UnitOfWork, new: NewFirm, installation: Installation) -> FirmRecord:
    """CreateFirm, in a firmless transaction, which is bound to the new firm from then on.

    A TEST firm gets an account at the sandbox gateway where the installation offers it. Errors: FIELD_INVALID, UNKNOWN_CURRENCY,
    UNKNOWN_TIME_ZONE, EXTERNAL_ID_TAKEN, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH.
    """
    check(new.settings)
    firm_id = uuid7()
    if not await firms.insert(uow, firm_id, new):
        raise await _taken(uow, new.external_id or "")
    if new.mode == "TEST" and SANDBOX in installation.registry.names:
        account_id = uuid7()
        sealed = installation.vault.encrypt(sandbox_credentials(account_id), account_aad(firm_id, SANDBOX))
        await firms.add_account(uow, account_id, firm_id, SANDBOX, "TEST", sealed)
    await uow.enter(firm_id)
    settled = await _with_provider(uow, await get(uow, firm_id), installation)
    if settled.settings != new.settings:
        await firms.update(uow, settled)
    metadata = {"mode": new.mode, "currency_code": new.settings.currency_code, "time_zone": new.settings.time_zone}
    await record(uow, Change(Category.ADMIN, "firm_created", "firm", firm_id, "firm.created", metadata=metadata))
    return await get(uow, firm_id)


def sandbox_credentials(account_id: UUID) -> dict[str, str]:
    """The gateway knows the account by our own id of it, so that its webhooks find the way back by their path alone."""
    name = encode(Prefix.PROVIDER_ACCOUNT, account_id)
    return {"secret_key": f"sk_test_{name}", "webhook_secret": f"whsec_{name}"}


async def lock(uow: UnitOfWork, firm_id: UUID, expected_version: int | None) -> FirmRecord:
    """Bind the transaction to the firm and lock it for a change. RESOURCE_NOT_FOUND, FIRM_SUSPENDED, CLOCK_ADVANCING, ETAG_MISMATCH."""
    await uow.enter(firm_id)
    found = await firms.get(uow, firm_id, lock=True)
    if found is None:
        raise not_found(firm_id)
    if expected_version is not None and expected_version != found.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH,
            "The firm has changed since it was read; read it again and repeat the change.",
            resource=("Firm", encode(Prefix.FIRM, firm_id)),
            metadata={"etag": f"v{found.version}"},
        )
    return found


async def update(uow: UnitOfWork, changed: FirmRecord, fields: Sequence[str], installation: Installation) -> FirmRecord:
    """UpdateFirm: write the changed form of a firm that `lock` gave; `fields` names what was touched.

    Errors: FIELD_INVALID, UNKNOWN_CURRENCY, UNKNOWN_TIME_ZONE, EXTERNAL_ID_TAKEN, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH.
    """
    check(changed.settings)
    settled = await _with_provider(uow, changed, installation)
    try:
        async with uow.savepoint():
            await firms.update(uow, settled)
    except UniqueViolation as error:
        raise await _taken(uow, changed.external_id or "") from error
    metadata = {"fields": sorted(fields)}
    await record(uow, Change(Category.ADMIN, "firm_updated", "firm", changed.id, "firm.updated", metadata=metadata))
    return await get(uow, changed.id)


def check(settings: FirmSettings) -> None:
    """What the contract's rules cannot tell of settings. UNKNOWN_CURRENCY, UNKNOWN_TIME_ZONE, FIELD_INVALID naming the fields."""
    known_currency(settings.currency_code, "firm.currency_code")
    try:
        calendar.zone(settings.time_zone)
    except DunwellError as error:
        raise DunwellError(error.reason, error.message, field="firm.time_zone", metadata=error.metadata) from None
    limits = {"approval_limits": settings.approval_limits, "refund_approval_limits": settings.refund_approval_limits}
    for name, chosen in limits.items():
        for index, currency in enumerate(chosen):
            known_currency(currency, f"firm.{name}[{index}].currency_code")
    violations = [
        FieldViolation(f"firm.retry_policy.wait_days[{index}]", f"must be 1 to {MAX_RETRY_WAIT_DAYS} days")
        for index, days in enumerate(settings.retry.wait_days)
        if not 1 <= days <= MAX_RETRY_WAIT_DAYS
    ]
    violations += [
        FieldViolation(f"firm.{name}[{index}].amount_minor", "must not be negative")
        for name, chosen in limits.items()
        for index, limit in enumerate(chosen.values())
        if limit < 0
    ]
    if violations:
        raise DunwellError(Reason.FIELD_INVALID, violations[0].description, violations=violations)
    if not settings.numbering.prefix:
        raise field_invalid("firm.numbering.prefix", "must not be empty")


async def _with_provider(uow: UnitOfWork, firm: FirmRecord, installation: Installation) -> FirmRecord:
    """The firm with a default provider that it can use: the one chosen, else the installation's, else money by hand."""
    chosen = firm.settings.default_provider
    accounts = await firms.accounts(uow, firm.id)
    if not chosen:
        usable = providers.account_for(installation.default_provider, firm.mode, accounts) is not None
        chosen = installation.default_provider if usable else MANUAL
    else:
        providers.require(chosen, firm.mode, accounts, installation.registry)
    return replace(firm, settings=replace(firm.settings, default_provider=chosen))


async def _taken(uow: UnitOfWork, external_id: str) -> DunwellError:
    holder = await firms.of_external_id(uow, external_id)
    metadata = {"external_id": external_id} | ({"resource_id": encode(Prefix.FIRM, holder)} if holder else {})
    return DunwellError(
        Reason.EXTERNAL_ID_TAKEN, "Another firm has this external_id.", field="firm.external_id", metadata=metadata
    )
