"""Creating, reading, changing and listing clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from dunwell_server.billing.errors import check_version, external_id_unique, not_found
from dunwell_server.billing.model import Client, TaxStatus
from dunwell_server.billing.service.journal import client_change
from dunwell_server.billing.service.pricing import firm_place
from dunwell_server.billing.store import clients as store
from dunwell_server.billing.store.clients import ClientQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.tax_ids import country_of, invalid_tax_id
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import known_currency
from dunwell_server.ledger import service as ledger
from dunwell_server.ledger.service import ClientBalance
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client as a caller creates it. No currency: the firm's. `address` is the JSON form of the contract's message."""

    name: str
    external_id: str | None = None
    email: str | None = None
    phone: str | None = None
    address: dict[str, Any] | None = None
    tax_id: str | None = None
    locale: str | None = None
    currency_code: str | None = None
    payment_terms_days: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    default_provider: str | None = None
    tax_status: TaxStatus = TaxStatus.TAXABLE
    auto_apply_credit: bool = True


async def create_client(uow: UnitOfWork, new: NewClient) -> Client:
    """Add a client. Errors: UNKNOWN_CURRENCY, EXTERNAL_ID_TAKEN, PROVIDER_NOT_CONFIGURED, FIELD_INVALID for a tax id that is none."""
    values = planned(uow, new)
    await check_provider(uow, new.default_provider)
    with external_id_unique("client"):
        client = await store.insert(uow, values)
    await journal.record(uow, client_change(client, "created"))
    return client


def planned(uow: UnitOfWork, new: NewClient) -> dict[str, Any]:
    """The columns of the client that `new` describes; writes nothing. Errors: UNKNOWN_CURRENCY, FIELD_INVALID for a tax id that is none."""
    values = asdict(new)
    values["id"] = uuid7()
    values["currency_code"] = _currency(uow, new.currency_code)
    _check_tax_id(uow, new.tax_status, new.tax_id, new.address)
    return values


async def get_client(uow: UnitOfWork, client_id: UUID, *, lock: bool = False) -> Client:
    """The client; locked against other changes when asked. Errors: RESOURCE_NOT_FOUND."""
    client = await store.get(uow, client_id, lock=lock)
    if client is None:
        raise not_found("Client", client_id)
    return client


async def client_balances(uow: UnitOfWork, client_id: UUID) -> list[ClientBalance]:
    """What the client owes and holds, per currency, in the currencies' alphabetical order."""
    return await ledger.client_balances(uow, client_id)


async def update_client(
    uow: UnitOfWork, client_id: UUID, changes: Mapping[str, Any], *, expected_version: int | None = None
) -> Client:
    """Change the named columns (those of `NewClient`); an empty currency means the firm's.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, EXTERNAL_ID_TAKEN, UNKNOWN_CURRENCY, PROVIDER_NOT_CONFIGURED, FIELD_INVALID for
    a tax id that is none, and STATE_CONFLICT for another
    currency while a going engagement, a draft or an open invoice is in the old one.
    """
    client = await get_client(uow, client_id, lock=True)
    check_version("Client", client_id, client.version, expected_version)
    changes = dict(changes)
    if "currency_code" in changes:
        changes["currency_code"] = _currency(uow, changes["currency_code"])
        if changes["currency_code"] != client.currency_code:
            await _refuse_currency_in_use(uow, client)
    await check_provider(uow, changes.get("default_provider"))
    if not changes.keys().isdisjoint(("tax_status", "tax_id", "address")):
        status, tax_id, address = (
            changes.get(name, getattr(client, name)) for name in ("tax_status", "tax_id", "address")
        )
        _check_tax_id(uow, status, tax_id, address)
    with external_id_unique("client"):
        updated = await store.update(uow, client_id, changes)
    assert updated is not None
    await journal.record(uow, client_change(updated, "updated", {"fields": sorted(changes)}))
    return updated


async def list_clients(uow: UnitOfWork, query: ClientQuery, page: PageRequest) -> list[Client]:
    """One page of clients."""
    return await store.select(uow, query, page)


def _currency(uow: UnitOfWork, given: str | None) -> str:
    return known_currency(given, "client.currency_code") if given else uow.firm.settings.currency_code


async def check_provider(uow: UnitOfWork, provider: str | None) -> None:
    """PROVIDER_NOT_CONFIGURED unless the firm has an account at the provider; None is none in particular."""
    if provider and not await store.can_use(uow, provider):
        raise DunwellError(
            Reason.PROVIDER_NOT_CONFIGURED, f"Provider {provider[:64]!r} is not configured for this firm.",
            field="client.default_provider", metadata={"provider": provider[:64]},
        )  # fmt: skip


def _check_tax_id(uow: UnitOfWork, status: TaxStatus, tax_id: str | None, address: Mapping[str, Any] | None) -> None:
    """Who is taxed under the reverse charge has a tax id that can be one in its country."""
    if status is not TaxStatus.REVERSE_CHARGE:
        return
    if not tax_id:
        raise field_invalid("client.tax_id", "is required for the reverse charge")
    given = (address or {}).get("country_code") or ""
    problem = invalid_tax_id(country_of(given, tax_id, firm_place(uow.firm.settings).country_code), tax_id)
    if problem is not None:
        raise field_invalid("client.tax_id", problem)


async def _refuse_currency_in_use(uow: UnitOfWork, client: Client) -> None:
    engagement, invoice = await store.billed_in(uow, client.id, client.currency_code)
    if engagement or invoice:
        what = "a going engagement" if engagement else "a draft or open invoice"
        raise DunwellError(
            Reason.STATE_CONFLICT,
            f"The client has {what} in {client.currency_code}: its currency can change when it has none.",
            metadata={"state": client.state.value, "allowed": "none", "currency_code": client.currency_code},
            resource=("Client", encode(Prefix.CLIENT, client.id)),
        )
