"""Methods that come to us through the provider: saved on a page or in a browser, adopted with a customer, or told of by an event."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices, set_autopay, set_collection
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import FailureCode, MethodState, PaymentMethod, saved_method_id
from dunwell_server.payments.reading import method_columns
from dunwell_server.payments.service import autopay, methods
from dunwell_server.payments.store import customers, scheduling
from dunwell_server.payments.store import methods as store
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake
from dunwell_server.providers.base import MethodDetails

_IDENTITY: Final = frozenset({"last4", "exp_month", "exp_year", "fingerprint"})
"""Columns whose change means another card, or one that is good for longer."""


async def save(
    uow: UnitOfWork,
    client_id: UUID,
    account_id: UUID,
    details: MethodDetails,
    customer_reference: str | None,
    *,
    make_default: bool = False,
    enable_autopay: bool = False,
    backup_priority: int = 0,
    metadata: dict[str, str] | None = None,
) -> UUID | None:
    """Attach a method that the provider keeps for the client, or take over the wishes about one that is attached already.

    Safe to repeat, and whoever tells of it first. None where it cannot be the client's: another's, detached for ever, or of no known customer.
    """
    await scheduling.lock_client(uow, client_id)
    method = await customers.method(uow, account_id, details.provider_reference, lock=True)
    if method is None:
        method = await _attach(
            uow, client_id, account_id, details, customer_reference, make_default, backup_priority, metadata or {}
        )
    elif method.client_id == client_id:
        method = await _take_over(uow, method, make_default, backup_priority, metadata)
    if method is None or method.client_id != client_id:
        return None
    client = await get_client(uow, client_id)
    is_on = client.autopay_enabled and client.autopay_method_id == method.id
    if enable_autopay and not is_on and method.usable:
        await autopay.switch_client(uow, client_id, enabled=True, method_id=method.id)
    return method.id


async def _attach(
    uow: UnitOfWork,
    client_id: UUID,
    account_id: UUID,
    details: MethodDetails,
    customer_reference: str | None,
    make_default: bool,
    backup_priority: int,
    metadata: dict[str, str],
) -> PaymentMethod | None:
    account = await customers.account(uow, account_id)
    known = await customers.get(uow, client_id, account_id)
    customer_reference = customer_reference or (known.provider_reference if known else None)
    if account is None or customer_reference is None:
        return None
    if await customers.method_known(uow, account_id, details.provider_reference):
        return None
    method_id = saved_method_id(uow.firm_id, account_id, details.provider_reference)
    values = {
        "id": method_id, "client_id": client_id, "provider": account.provider, "account_id": account_id, "mode": account.mode,
        "backup_priority": backup_priority, "metadata": metadata, **method_columns(details),
    }  # fmt: skip
    return await methods.attach(uow, values, customer_reference=customer_reference, make_default=make_default)


async def _take_over(
    uow: UnitOfWork, method: PaymentMethod, make_default: bool, backup_priority: int, metadata: dict[str, str] | None
) -> PaymentMethod:
    is_default = True if make_default and not method.is_default and method.usable else None
    priority = backup_priority if backup_priority and backup_priority != method.backup_priority else None
    labels = metadata if metadata and metadata != method.metadata else None
    if is_default is None and priority is None and labels is None:
        return method
    return await methods.update(uow, method.id, is_default=is_default, backup_priority=priority, metadata=labels)


async def detach(uow: UnitOfWork, method: PaymentMethod) -> bool:
    """The provider keeps the method no longer: it is never charged again. Autopay stays on. False where that was known."""
    await scheduling.lock_client(uow, method.client_id)
    if method.state is MethodState.DETACHED:
        return False
    await store.set_state(uow, method.id, MethodState.DETACHED)
    client = await get_client(uow, method.client_id)
    if client.autopay_method_id == method.id:
        await set_autopay(
            uow, client.id, client.autopay_enabled, None, client.autopay_cadence, client.autopay_enable_time
        )
    await record(uow, _told(method, "payment_method_detached", "payment_method.detached", MethodState.DETACHED))
    return True


async def renew(uow: UnitOfWork, method: PaymentMethod, details: MethodDetails) -> bool:
    """The provider, or the card network through it, says something new of a method. One that waits for its client can be charged again when
    it is another card by now, and when it had expired.

    By firm policy retries that wait for it are made at once; their count stays. False where nothing of it is new.
    """
    await scheduling.lock_client(uow, method.client_id)
    columns = {name: value for name, value in method_columns(details).items() if value is not None}
    if all(getattr(method, name) == value for name, value in columns.items() if name != "kind"):
        return False
    another_card = any(name in _IDENTITY and getattr(method, name) != value for name, value in columns.items())
    revived = method.state is MethodState.NEEDS_ACTION and (
        another_card or method.block_code == FailureCode.EXPIRED_CARD
    )
    state = MethodState.ACTIVE if revived else method.state
    await customers.refresh_method(
        uow, method.id, method_columns(details), state, None if revived else method.block_code
    )
    if revived:
        await _retry_at_once(uow, method)
    renewed = await methods.get_method(uow, method.id)
    await record(uow, _told(renewed, "payment_method_renewed", "payment_method.updated", state))
    return True


async def _retry_at_once(uow: UnitOfWork, method: PaymentMethod) -> None:
    """Make the retries that wait for this method now, where the firm wants that."""
    client = await get_client(uow, method.client_id)
    if not (uow.firm.settings.retry.retry_on_new_method and client.autopay_enabled):
        return
    waiting = {
        invoice.id: {"autopay_next_charge_time": uow.now}
        for invoice in await lock_invoices(uow, await scheduling.following(uow, client.id, method.id))
        if invoice.retry_pending and invoice.collection.autopay_next_charge_time is not None
        and (invoice.collection.autopay_method_id or client.autopay_method_id) == method.id
    }  # fmt: skip
    if waiting:
        await set_collection(uow, waiting)
        await wake(uow, WorkKind.COLLECT)


def _told(method: PaymentMethod, action: str, event: str, state: MethodState) -> Change:
    metadata = {
        "client_id": encode(Prefix.CLIENT, method.client_id), "provider": method.provider, "kind": method.kind, "brand": method.brand,
        "last4": method.last4, "exp_month": method.exp_month, "exp_year": method.exp_year, "state": state.value,
    }  # fmt: skip
    return Change(Category.PAYMENT, action, "payment_method", method.id, event, metadata=metadata)
