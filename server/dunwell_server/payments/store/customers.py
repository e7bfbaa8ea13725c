"""Clients as customers of provider accounts, and the accounts themselves by their id."""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

from dunwell_server.payments.model import MethodState, PaymentMethod
from dunwell_server.payments.page_model import Customer
from dunwell_server.payments.store import methods
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import Row, UnitOfWork

_SELECT = """
SELECT client_id, account_id, provider, provider_reference, adopted, deleted, create_time FROM provider_customer WHERE firm_id = %(firm_id)s"""
_GET = _SELECT + " AND client_id = %(client_id)s AND account_id = %(account_id)s"
_BY_REFERENCE = _SELECT + " AND account_id = %(account_id)s AND provider_reference = %(reference)s"
_INSERT = """
INSERT INTO provider_customer (firm_id, client_id, account_id, provider, provider_reference, adopted)
VALUES (%(firm_id)s, %(client_id)s, %(account_id)s, %(provider)s, %(reference)s, %(adopted)s) ON CONFLICT DO NOTHING
"""
_REPLACE = """
UPDATE provider_customer SET provider_reference = %(reference)s, adopted = %(adopted)s, deleted = false
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND account_id = %(account_id)s AND deleted
"""
_DELETED = """
UPDATE provider_customer SET deleted = true
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND account_id = %(account_id)s AND NOT deleted
"""
_ACCOUNT = """
SELECT id, firm_id, provider, mode, credentials, key_id, version FROM control.provider_account
WHERE id = %(account_id)s AND (firm_id = %(firm_id)s OR firm_id IS NULL)
"""
_METHOD = """
SELECT id FROM payment_method
WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s AND state <> 'DETACHED'
"""
_KNOWN = """
SELECT 1 FROM payment_method WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s LIMIT 1
"""
_REFRESH = """
UPDATE payment_method SET brand = coalesce(%(brand)s, brand), last4 = coalesce(%(last4)s, last4), exp_month = coalesce(%(exp_month)s, exp_month),
    exp_year = coalesce(%(exp_year)s, exp_year), fingerprint = coalesce(%(fingerprint)s, fingerprint), country = coalesce(%(country)s, country),
    state = %(state)s, block_code = %(block_code)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""


async def get(uow: UnitOfWork, client_id: UUID, account_id: UUID) -> Customer | None:
    """The client as the account's customer."""
    row = await uow.fetch_one(_GET, {"firm_id": uow.firm_id, "client_id": client_id, "account_id": account_id})
    return _customer(row) if row else None


async def by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> Customer | None:
    """Whose customer the account's provider knows under this id."""
    row = await uow.fetch_one(_BY_REFERENCE, {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference})
    return _customer(row) if row else None


async def keep(
    uow: UnitOfWork, client_id: UUID, account: ProviderAccount, reference: str, *, adopted: bool
) -> Customer | None:
    """Remember the client as a customer; one that was deleted at the provider is replaced. None: the id is another client's.

    The customer remembered first stays: look at the answer.
    """
    values = {
        "firm_id": uow.firm_id, "client_id": client_id, "account_id": account.id, "provider": account.provider, "reference": reference,
        "adopted": adopted,
    }  # fmt: skip
    owner = await by_reference(uow, account.id, reference)
    if owner is not None and owner.client_id != client_id:
        return None
    if not await uow.execute(_INSERT, values) and (owner is None or owner.deleted):
        await uow.execute(_REPLACE, values)
    return await get(uow, client_id, account.id)


async def mark_deleted(uow: UnitOfWork, customer: Customer) -> bool:
    """Note that the provider has deleted the customer; False where it was noted before."""
    values = {"firm_id": uow.firm_id, "client_id": customer.client_id, "account_id": customer.account_id}
    return await uow.execute(_DELETED, values) == 1


async def account(uow: UnitOfWork, account_id: UUID) -> ProviderAccount | None:
    """An account that the firm may use, in any state: what was begun there is still asked about."""
    row = await uow.fetch_one(_ACCOUNT, {"firm_id": uow.firm_id, "account_id": account_id})
    return ProviderAccount(**{**row, "credentials": bytes(row["credentials"])}) if row else None


async def method(uow: UnitOfWork, account_id: UUID, reference: str, *, lock: bool = False) -> PaymentMethod | None:
    """The attached method that the account's provider knows under this id."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_METHOD, values)
    return None if found is None else await methods.get(uow, found, lock=lock)


async def method_known(uow: UnitOfWork, account_id: UUID, reference: str) -> bool:
    """Whether a method was ever attached under this id, detached ones included: a provider attaches none a second time."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    return await uow.fetch_value(_KNOWN, values) is not None


async def refresh_method(
    uow: UnitOfWork, method_id: UUID, details: dict[str, object], state: MethodState, block_code: str | None
) -> None:
    """Take over what the provider says of a method now; what it does not say stays."""
    values = {**details, "firm_id": uow.firm_id, "now": uow.now, "id": method_id}
    await uow.execute(_REFRESH, {**values, "state": state.value, "block_code": block_code})


def _customer(row: Row) -> Customer:
    return Customer(**{each.name: row[each.name] for each in fields(Customer)})
