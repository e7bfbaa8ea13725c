"""Payment methods: which account they belong to, attaching, changing, detaching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import Client
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices, set_autopay, set_collection
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import MethodState, PaymentMethod, saved_method_id
from dunwell_server.payments.service.reactions import in_progress
from dunwell_server.payments.store import methods, scheduling
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.provider_references import remember
from dunwell_server.platform.work import WorkKind, wake


@dataclass(frozen=True, slots=True)
class AttachContext:
    """What attaching a method needs to know before the provider is called."""

    client: Client
    account: ProviderAccount
    customer_reference: str | None


async def resolve_account(uow: UnitOfWork, provider: str) -> ProviderAccount:
    """The firm's account at a provider, in the firm's mode: its own, else the platform's.

    Errors: PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH where there are accounts, but of the other mode.
    """
    accounts = await methods.accounts(uow, provider)
    for account in accounts:
        if account.mode == uow.firm.mode:
            return account
    if accounts:
        raise DunwellError(
            Reason.PROVIDER_MODE_MISMATCH,
            f"The firm is {uow.firm.mode}, but its accounts at {provider} are {accounts[0].mode}: test and live are never mixed.",
            metadata={"firm_mode": uow.firm.mode, "account_mode": accounts[0].mode, "provider": provider},
        )
    raise DunwellError(
        Reason.PROVIDER_NOT_CONFIGURED,
        f"No account at {provider} is configured for the firm.",
        metadata={"provider": provider},
    )


def provider_of(uow: UnitOfWork, client: Client, named: str | None) -> str:
    """The provider for something new of a client: the one that the call names, else the client's, else the firm's."""
    return named or client.default_provider or uow.firm.settings.default_provider


async def prepare_attach(uow: UnitOfWork, client_id: UUID, provider: str | None) -> AttachContext:
    """Read what attaching needs. Errors: RESOURCE_NOT_FOUND, and those of `resolve_account`."""
    client = await get_client(uow, client_id)
    account = await resolve_account(uow, provider_of(uow, client, provider))
    return AttachContext(client, account, await methods.customer_reference(uow, client_id, account.id))


async def attach(
    uow: UnitOfWork, values: dict[str, Any], *, customer_reference: str, make_default: bool
) -> PaymentMethod:
    """Keep a method that the provider has attached. The client's first usable method becomes its default.

    `values` are the columns of the method. Errors: ALREADY_EXISTS.
    """
    client_id = values["client_id"]
    await scheduling.lock_client(uow, client_id)
    client = await get_client(uow, client_id)
    await methods.add_customer(uow, client_id, values["account_id"], values["provider"], customer_reference)
    if not await methods.insert(uow, values) and not await _told_before(uow, values):
        raise DunwellError(
            Reason.ALREADY_EXISTS,
            "The payment method is attached already.",
            resource=("Client", encode(Prefix.CLIENT, client_id)),
        )
    await remember(uow, values["account_id"], customer_reference, values["provider_reference"])
    default = await methods.get(uow, client.autopay_method_id) if client.autopay_method_id else None
    if make_default or default is None or not default.usable:
        await _make_default(uow, client, values["id"])
    method = await method_of(uow, client_id, values["id"])
    await record(uow, _told(method, "payment_method_attached", "payment_method.attached"))
    return method


async def _told_before(uow: UnitOfWork, values: dict[str, Any]) -> bool:
    """Whether the provider's event about this very attachment came first: then what it made is taken over, with the caller's choices."""
    told = await methods.get(
        uow, saved_method_id(uow.firm_id, values["account_id"], values["provider_reference"]), lock=True
    )
    if told is None or told.client_id != values["client_id"] or told.state is MethodState.DETACHED:
        return False
    values["id"] = told.id
    await methods.update(uow, told.id, values["backup_priority"], values["metadata"])
    return True


async def method_of(uow: UnitOfWork, client_id: UUID, method_id: UUID) -> PaymentMethod:
    """The client's method. Errors: RESOURCE_NOT_FOUND, also for another client's."""
    method = await methods.get(uow, method_id)
    if method is None or method.client_id != client_id:
        raise no_such_method(method_id)
    return method


async def get_method(uow: UnitOfWork, method_id: UUID) -> PaymentMethod:
    """The firm's method. Errors: RESOURCE_NOT_FOUND."""
    method = await methods.get(uow, method_id)
    if method is None:
        raise no_such_method(method_id)
    return method


async def require_client(uow: UnitOfWork, client_id: UUID) -> None:
    """Errors: RESOURCE_NOT_FOUND for a client that the firm does not have."""
    await get_client(uow, client_id)


def no_such_method(method_id: UUID) -> DunwellError:
    """No such payment method in this firm, or of this client."""
    return DunwellError(
        Reason.RESOURCE_NOT_FOUND,
        "No such payment method.",
        resource=("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method_id)),
    )


async def update(
    uow: UnitOfWork,
    method_id: UUID,
    *,
    is_default: bool | None = None,
    backup_priority: int | None = None,
    metadata: dict[str, str] | None = None,
    expected_version: int | None = None,
) -> PaymentMethod:
    """Change the default, the place among the backups, the labels; None leaves as it is.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, PAYMENT_METHOD_UNUSABLE, FIELD_INVALID for clearing the default, STATE_CONFLICT.
    """
    method = await _locked(uow, method_id, expected_version)
    if method.state is MethodState.DETACHED:
        raise _detached(method)
    if backup_priority is not None or metadata is not None:
        priority = method.backup_priority if backup_priority is None else backup_priority
        await methods.update(uow, method_id, priority, method.metadata if metadata is None else metadata)
    if is_default is False and method.is_default:
        raise field_invalid("payment_method.is_default", "a default is not cleared: make another method the default")
    if is_default and not method.is_default:
        if not method.usable:
            raise DunwellError(
                Reason.PAYMENT_METHOD_UNUSABLE, f"The payment method is {method.state}; it cannot be the default.",
                metadata={"state": method.state.value}, resource=("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method_id)),
            )  # fmt: skip
        await _make_default(uow, await get_client(uow, method.client_id), method_id)
    changed = await method_of(uow, method.client_id, method_id)
    await record(uow, _told(changed, "payment_method_updated", "payment_method.updated"))
    return changed


async def detach(uow: UnitOfWork, method_id: UUID, expected_version: int | None = None) -> PaymentMethod:
    """Never charge the method again. Autopay stays on.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT, COLLECTION_IN_PROGRESS while a charge of it is open.
    """
    method = await _locked(uow, method_id, expected_version)
    if method.state is MethodState.DETACHED:
        raise _detached(method)
    if await methods.in_use(uow, method_id):
        error = in_progress(method_id)
        error.resource = ("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method_id))
        raise error
    await methods.set_state(uow, method_id, MethodState.DETACHED)
    if method.is_default:
        client = await get_client(uow, method.client_id)
        await set_autopay(
            uow, client.id, client.autopay_enabled, None, client.autopay_cadence, client.autopay_enable_time
        )
    detached = await method_of(uow, method.client_id, method_id)
    await record(uow, _told(detached, "payment_method_detached", "payment_method.detached"))
    return detached


async def list_methods(
    uow: UnitOfWork, client_id: UUID, *, include_detached: bool, after: tuple[Any, ...] | None, limit: int
) -> list[tuple[int, PaymentMethod]]:
    """A page of the client's methods with their rank. Errors: RESOURCE_NOT_FOUND."""
    await get_client(uow, client_id)
    position = (after[0], after[1], after[2]) if after else None
    return await methods.page(uow, client_id, detached=include_detached, after=position, limit=limit)


async def _locked(uow: UnitOfWork, method_id: UUID, expected_version: int | None) -> PaymentMethod:
    """Lock the method's client, then the method."""
    seen = await methods.get(uow, method_id)
    if seen is None:
        raise no_such_method(method_id)
    await scheduling.lock_client(uow, seen.client_id)
    method = await methods.get(uow, method_id, lock=True)
    assert method is not None
    if expected_version is not None and expected_version != method.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH, "The payment method has changed since it was read; read it again and repeat the change.",
            resource=("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method_id)),
        )  # fmt: skip
    return method


async def _make_default(uow: UnitOfWork, client: Client, method_id: UUID) -> None:
    old = client.autopay_method_id
    changed = await set_autopay(
        uow, client.id, client.autopay_enabled, method_id, client.autopay_cadence, client.autopay_enable_time
    )
    await follow_default(uow, changed, old)


async def follow_default(uow: UnitOfWork, client: Client, old: UUID | None) -> None:
    """The client has a new default: invoices that had copied the old one follow; by firm policy waiting retries are made at once.

    The retries' count stays as it is.
    """
    if not client.autopay_enabled or client.autopay_method_id == old:
        return
    at_once = uow.firm.settings.retry.retry_on_new_method
    columns: dict[UUID, dict[str, Any]] = {}
    for invoice in await lock_invoices(uow, await scheduling.following(uow, client.id, old)):
        changes: dict[str, Any] = {}
        if old is not None and invoice.collection.autopay_method_id == old:
            changes["autopay_method_id"] = client.autopay_method_id
        if at_once and invoice.retry_pending and invoice.collection.autopay_next_charge_time is not None:
            changes["autopay_next_charge_time"] = uow.now
        if changes:
            columns[invoice.id] = changes
    if columns:
        await set_collection(uow, columns)
        if any("autopay_next_charge_time" in each for each in columns.values()):
            await wake(uow, WorkKind.COLLECT)


def _detached(method: PaymentMethod) -> DunwellError:
    return DunwellError(
        Reason.STATE_CONFLICT, "The payment method is detached for ever.", metadata={"state": method.state.value, "allowed": "none"},
        resource=("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method.id)),
    )  # fmt: skip


def _told(method: PaymentMethod, action: str, event: str) -> Change:
    metadata = {
        "client_id": encode(Prefix.CLIENT, method.client_id), "provider": method.provider, "kind": method.kind, "brand": method.brand,
        "last4": method.last4, "state": method.state.value,
    }  # fmt: skip
    return Change(Category.PAYMENT, action, "payment_method", method.id, event, metadata=metadata)
