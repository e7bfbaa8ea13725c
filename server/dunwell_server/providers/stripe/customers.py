"""Customers and their payment methods."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from dunwell_server.providers import http
from dunwell_server.providers.abilities import ProviderCustomer
from dunwell_server.providers.base import (
    ClientProfile,
    CustomerRef,
    DeclineClass,
    FailureCode,
    MethodDetails,
    MethodKind,
    ProviderAccount,
    ProviderDeclined,
    ProviderRefused,
    ProviderUnavailable,
)
from dunwell_server.providers.stripe.answers import refusal, refusal_is_final, request, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, TooMany, all_items, existing, seconds
from dunwell_server.providers.stripe.client import NAME, Refused, ask, fresh_key
from dunwell_server.providers.stripe.reading import (
    Body,
    is_reference,
    maybe_int,
    maybe_obj,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import (
        CustomerCreateParams,
        CustomerListParams,
        CustomerPaymentMethodListParams,
        CustomerUpdateParams,
        PaymentMethodCreateParams,
    )

_KINDS: Final = {
    "card": MethodKind.CARD,
    "card_present": MethodKind.CARD,
    "upi": MethodKind.UPI,
    **dict.fromkeys(
        ("acss_debit", "au_becs_debit", "bacs_debit", "sepa_debit", "us_bank_account", "nz_bank_account", "ideal"),
        MethodKind.BANK,
    ),
    **dict.fromkeys(("link", "paypal", "cashapp", "amazon_pay", "revolut_pay", "alipay"), MethodKind.WALLET),
}

_KEYS_LIVE: Final = timedelta(hours=25)
"""How long Stripe remembers keys, and how far its clock may be from ours."""


class CustomerCalls(Calls):
    """`abilities.Customers`, and `base.Provider`'s calls about customers and methods."""

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        params: CustomerCreateParams = {
            "metadata": {"firm": client.firm_id, "client": client.client_id, "key": key},
        }
        if client.name:
            params["name"] = client.name
        if client.email:
            params["email"] = client.email
        try:
            made = await request(self._client(account).v1.customers.create_async(params, {"idempotency_key": key}))
            return CustomerRef(text(made, "id"))
        except ProviderRefused as refused:
            if refused.provider_code != "idempotency_error":
                raise
            # An earlier try, whose answer was lost, was made when the client had another name or address.
            found = await self._made_before(account, key)
            if found is None:
                raise
        except ValueError:
            raise unparsable() from None
        await self.update_customer(account, found, name=client.name or None, email=client.email or None, metadata={})
        return CustomerRef(found)

    async def _made_before(self, account: ProviderAccount, key: str) -> str | None:
        """The customer that was made under the key while Stripe remembers it; None where there is none."""
        customers = self._client(account).v1.customers
        since = seconds(datetime.now(UTC) - _KEYS_LIVE)

        async def page(after: str | None) -> Body:
            params: CustomerListParams = {"limit": PAGE_SIZE, "created": {"gte": since}}
            if after is not None:
                params["starting_after"] = after
            return await request(customers.list_async(params))

        try:
            async for item in all_items(page):
                if metadata(item).get("key") == key:
                    return text(item, "id")
        except TooMany:
            raise ProviderUnavailable(NAME, "too many customers to search") from None
        except ValueError:
            raise unparsable() from None
        return None

    async def get_customer(self, account: ProviderAccount, reference: str) -> ProviderCustomer:
        return _customer(await request(self._client(account).v1.customers.retrieve_async(existing(reference))))

    async def update_customer(
        self,
        account: ProviderAccount,
        reference: str,
        *,
        name: str | None,
        email: str | None,
        metadata: Mapping[str, str],
    ) -> ProviderCustomer:
        params: CustomerUpdateParams = {}
        if metadata:
            params["metadata"] = dict(metadata)
        if name is not None:
            params["name"] = name
        if email is not None:
            params["email"] = email
        if not params:
            return await self.get_customer(account, reference)
        customers = self._client(account).v1.customers
        return _customer(
            await request(customers.update_async(existing(reference), params, {"idempotency_key": fresh_key()}))
        )

    async def set_default_method(self, account: ProviderAccount, reference: str, method_reference: str) -> None:
        params: CustomerUpdateParams = {"invoice_settings": {"default_payment_method": method_reference}}
        customers = self._client(account).v1.customers
        await request(customers.update_async(existing(reference), params, {"idempotency_key": fresh_key()}))

    async def list_methods(self, account: ProviderAccount, reference: str) -> tuple[MethodDetails, ...]:
        methods = self._client(account).v1.customers.payment_methods
        existing(reference)

        async def page(after: str | None) -> Body:
            params: CustomerPaymentMethodListParams = {"limit": PAGE_SIZE}
            if after is not None:
                params["starting_after"] = after
            return await request(methods.list_async(reference, params))

        try:
            return tuple([method_details(item) async for item in all_items(page)])
        except (TooMany, ValueError):
            raise unparsable() from None

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        methods = self._client(account).v1.payment_methods
        owner = existing(customer.provider_reference)
        try:
            method = token
            if token.startswith("tok_"):
                params: PaymentMethodCreateParams = {"type": "card", "card": {"token": token}}
                made = await ask(methods.create_async(params, {"idempotency_key": f"{key}:method"[:255]}))
                method = text(made, "id")
            if not is_reference(method):
                raise ProviderDeclined(FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD, "resource_missing")
            return method_details(
                await ask(methods.attach_async(method, {"customer": owner}, {"idempotency_key": key}))
            )
        except Refused as refused:
            if refused.error is not None and refused.param == "customer":
                raise refusal(refused) from None
            if refusal_is_final(refused):
                present = await self._attached(account, method, owner)
                if present is not None:
                    return present
                code = refused.code or refused.kind
                raise ProviderDeclined(FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD, code) from None
            raise refusal(refused) from None
        except (http.NothingSent, http.NoAnswer) as error:
            raise ProviderUnavailable(NAME, str(error)) from None
        except ValueError:
            raise unparsable() from None

    async def _attached(self, account: ProviderAccount, method: str, owner: str) -> MethodDetails | None:
        """The method, if the customer has it already: Stripe refuses to attach it again."""
        if method.startswith("tok_"):
            return None
        try:
            found = await request(self._client(account).v1.payment_methods.retrieve_async(method))
            return method_details(found) if reference(found.get("customer")) == owner else None
        except ProviderRefused:
            return None

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        methods = self._client(account).v1.payment_methods
        if not is_reference(method_reference):
            return
        try:
            await request(methods.detach_async(method_reference, {}, {"idempotency_key": fresh_key()}))
        except ProviderRefused as refused:
            if refused.provider_code == "resource_missing":
                return
            # Stripe refuses to detach what is attached to nobody.
            try:
                found = await request(methods.retrieve_async(method_reference))
            except ProviderRefused as gone:
                if gone.provider_code == "resource_missing":
                    return
                raise
            if reference(found.get("customer")) is not None:
                raise


def method_details(method: Body) -> MethodDetails:
    """What may be shown of a PaymentMethod. Raises ValueError when it is none."""
    kind = maybe_text(method, "type") or ""
    details = maybe_obj(method.get(kind))
    wallet = MethodKind.WALLET if kind == "card" and maybe_obj(details.get("wallet")) else None
    return MethodDetails(
        provider_reference=text(method, "id"),
        kind=wallet or _KINDS.get(kind, MethodKind.OTHER),
        brand=maybe_text(details, "brand") or maybe_text(details, "bank_name") or maybe_text(details, "bank"),
        last4=maybe_text(details, "last4"),
        exp_month=maybe_int(details, "exp_month"),
        exp_year=maybe_int(details, "exp_year"),
        fingerprint=maybe_text(details, "fingerprint"),
        country=maybe_text(details, "country"),
    )


def bare_method(value: object) -> MethodDetails | None:
    """A method known by its id only, or in full where it is expanded; None where there is none."""
    known = reference(value)
    if known is None:
        return None
    if isinstance(value, Mapping):
        return method_details(value)
    return MethodDetails(provider_reference=known, kind=MethodKind.OTHER)


def customer_of(customer: Body) -> ProviderCustomer:
    """A customer as Stripe has it, or what is left of a deleted one. Raises ValueError when it is none."""
    default = maybe_obj(customer.get("invoice_settings")).get("default_payment_method")
    return ProviderCustomer(
        provider_reference=text(customer, "id"),
        name=maybe_text(customer, "name"),
        email=maybe_text(customer, "email"),
        metadata=metadata(customer),
        default_method_reference=reference(default) or reference(customer.get("default_source")),
        deleted=customer.get("deleted") is True,
    )


def _customer(body: Body) -> ProviderCustomer:
    try:
        return customer_of(body)
    except ValueError:
        raise unparsable() from None
