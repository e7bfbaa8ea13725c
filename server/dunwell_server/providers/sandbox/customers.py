"""Customers and the payment methods kept for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dunwell_server.providers.abilities import ProviderCustomer
from dunwell_server.providers.base import (
    ClientProfile,
    CustomerRef,
    MethodDetails,
    ProviderAccount,
    ProviderRefused,
)
from dunwell_server.providers.sandbox.reading import Body, maybe_text, method_details, obj, path, text, texts
from dunwell_server.providers.sandbox.wire import Wire


class CustomerCalls(Wire):
    """The calls of `Provider` about customers and methods, and `abilities.Customers`."""

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        body = {
            "name": client.name,
            "email": client.email,
            "metadata": {"firm": client.firm_id, "client": client.client_id, "key": key},
        }
        reference = await self.read(account, "POST", "/v1/customers", _id, key=key, json=body)
        return CustomerRef(reference)

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        body = {"customer": customer.provider_reference, "token": token}
        return await self.read(account, "POST", "/v1/payment_methods/attach", method_details, key=key, json=body)

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        try:
            await self.ask(account, "POST", path("/v1/payment_methods", method_reference, "detach"))
        except ProviderRefused as refused:
            if refused.provider_code != "resource_missing":
                raise

    async def get_customer(self, account: ProviderAccount, reference: str) -> ProviderCustomer:
        return await self.read(account, "GET", path("/v1/customers", reference), _customer)

    async def update_customer(
        self,
        account: ProviderAccount,
        reference: str,
        *,
        name: str | None,
        email: str | None,
        metadata: Mapping[str, str],
    ) -> ProviderCustomer:
        body: dict[str, Any] = {"metadata": dict(metadata)}
        if name is not None:
            body["name"] = name
        if email is not None:
            body["email"] = email
        return await self.read(account, "POST", path("/v1/customers", reference), _customer, json=body)

    async def list_methods(self, account: ProviderAccount, reference: str) -> tuple[MethodDetails, ...]:
        return await self.read(account, "GET", path("/v1/customers", reference, "payment_methods"), _methods)

    async def set_default_method(self, account: ProviderAccount, reference: str, method_reference: str) -> None:
        body = {"default_payment_method": method_reference}
        await self.ask(account, "POST", path("/v1/customers", reference), json=body)


def _id(body: Body) -> str:
    return text(body, "id")


def _methods(body: Body) -> tuple[MethodDetails, ...]:
    return tuple(method_details(obj(method)) for method in body["data"])


def _customer(body: Body) -> ProviderCustomer:
    return ProviderCustomer(
        provider_reference=text(body, "id"),
        name=maybe_text(body, "name"),
        email=maybe_text(body, "email"),
        metadata=texts(body["metadata"]),
        default_method_reference=maybe_text(body, "default_payment_method"),
    )
