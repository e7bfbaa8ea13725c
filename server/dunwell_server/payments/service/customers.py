"""Clients as customers of provider accounts: which account, which customer, whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.billing.model import Client
from dunwell_server.billing.service.clients import get_client
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.page_model import Customer
from dunwell_server.payments.service import saving
from dunwell_server.payments.service.methods import provider_of, resolve_account
from dunwell_server.payments.store import customers as store
from dunwell_server.payments.store import methods, scheduling
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import owner_of, remember
from dunwell_server.providers.abilities import ProviderCustomer
from dunwell_server.providers.base import MethodDetails


@dataclass(frozen=True, slots=True)
class Place:
    """A client, the firm's account at a provider, and what the client is there; None: no customer yet."""

    client: Client
    account: ProviderAccount
    customer: Customer | None


async def place_of(uow: UnitOfWork, client_id: UUID, provider: str | None) -> Place:
    """Errors: RESOURCE_NOT_FOUND, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH."""
    client = await get_client(uow, client_id)
    account = await resolve_account(uow, provider_of(uow, client, provider))
    return Place(client, account, await store.get(uow, client_id, account.id))


async def place_to_adopt(uow: UnitOfWork, client_id: UUID, provider: str | None, reference: str) -> Place:
    """The same, for a customer that exists there under `reference`.

    Errors: those of `place_of`; ALREADY_EXISTS when the client is another customer there, or the customer another client's;
    RESOURCE_NOT_FOUND when it is another firm's.
    """
    place = await place_of(uow, client_id, provider)
    known = place.customer
    if known is not None and not known.deleted and known.provider_reference != reference:
        raise _taken("The client is another customer there already.", client_id)
    owner = await store.by_reference(uow, place.account.id, reference)
    if owner is not None and owner.client_id != client_id:
        raise _taken("The customer is another client's.", owner.client_id)
    if place.account.firm_id is None and await owner_of(uow, place.account.id, reference) not in (None, uow.firm_id):
        raise no_such_customer("existing_reference")
    return place


def refuse_foreign(place: Place, theirs: ProviderCustomer, firm_id: UUID) -> None:
    """Refuse to adopt what is deleted, or, at an account that firms share, says that it is another firm's. Errors: RESOURCE_NOT_FOUND."""
    firm = theirs.metadata.get("firm")
    if theirs.deleted or (place.account.firm_id is None and firm not in (None, encode(Prefix.FIRM, firm_id))):
        raise no_such_customer("existing_reference")


async def keep_made(uow: UnitOfWork, place: Place, reference: str) -> Customer:
    """Remember the customer that was made for the client; one remembered meanwhile stays."""
    await scheduling.lock_client(uow, place.client.id)
    kept = await store.keep(uow, place.client.id, place.account, reference, adopted=False)
    if kept is None:
        raise _taken("The customer is another client's.", place.client.id)
    await remember(uow, place.account.id, kept.provider_reference)
    if kept.provider_reference == reference:
        await record(uow, _told(kept, "provider_customer_created"))
    return kept


async def keep_adopted(
    uow: UnitOfWork, place: Place, reference: str, listed: Sequence[MethodDetails], default_reference: str | None
) -> Customer:
    """Remember a customer that existed, and attach its methods. Errors: ALREADY_EXISTS."""
    client_id = place.client.id
    await scheduling.lock_client(uow, client_id)
    before = await store.get(uow, client_id, place.account.id)
    try:
        kept = await store.keep(uow, client_id, place.account, reference, adopted=True)
    except UniqueViolation as error:
        raise _taken("The customer is another client's.", client_id) from error
    if kept is None or kept.provider_reference != reference:
        raise _taken("The client is another customer there already, or the customer is another client's.", client_id)
    await remember(uow, place.account.id, reference)
    # Theirs comes first, so that it becomes the default of a client that has none.
    ordered = sorted(listed, key=lambda each: each.provider_reference != default_reference)
    for details in ordered:
        await saving.save(uow, client_id, place.account.id, details, reference)
    if before is None or before.deleted:
        await record(uow, _told(kept, "provider_customer_adopted"))
    return kept


async def note_deleted(uow: UnitOfWork, customer: Customer) -> bool:
    """The provider has deleted the customer: its methods there cannot be charged any more. False where that was known."""
    await scheduling.lock_client(uow, customer.client_id)
    if not await store.mark_deleted(uow, customer):
        return False
    for method in await methods_at(uow, customer.client_id, customer.account_id):
        await saving.detach(uow, method)
    await record(uow, _told(customer, "provider_customer_deleted", Severity.WARNING))
    return True


async def methods_at(uow: UnitOfWork, client_id: UUID, account_id: UUID) -> list[PaymentMethod]:
    """The client's methods that are attached at the account."""
    attached = (await methods.of_clients(uow, [client_id]))[client_id]
    return [method for method in attached if method.account_id == account_id]


def no_such_customer(field: str | None = None) -> DunwellError:
    """No such customer at the provider, or none that the firm may see."""
    return DunwellError(Reason.RESOURCE_NOT_FOUND, "No such customer at the provider.", field=field)


def _taken(message: str, client_id: UUID) -> DunwellError:
    return DunwellError(Reason.ALREADY_EXISTS, message, resource=("Client", encode(Prefix.CLIENT, client_id)))


def _told(customer: Customer, action: str, severity: Severity = Severity.INFO) -> Change:
    metadata = {"provider": customer.provider, "provider_reference": customer.provider_reference}
    event = f"client.{action}"
    return Change(Category.PAYMENT, action, "client", customer.client_id, event, severity, metadata)
