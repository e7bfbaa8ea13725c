"""Set-up intents: saving a method for charges without the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dunwell_server.providers.abilities import SetupDetails, SetupState
from dunwell_server.providers.base import CustomerRef, ProviderAccount, ProviderRefused
from dunwell_server.providers.stripe.answers import decline_of, request, unparsable
from dunwell_server.providers.stripe.calls import Calls, existing
from dunwell_server.providers.stripe.client import fresh_key
from dunwell_server.providers.stripe.customers import bare_method
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    maybe_obj,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import SetupIntentCreateParams

_STATES: Final = {
    "requires_payment_method": SetupState.OPEN,
    "requires_confirmation": SetupState.OPEN,
    "requires_action": SetupState.OPEN,
    "processing": SetupState.PROCESSING,
    "succeeded": SetupState.SUCCEEDED,
    "canceled": SetupState.CANCELLED,
}


class SetupCalls(Calls):
    """`abilities.SetupIntents`."""

    async def create_setup_intent(
        self, account: ProviderAccount, customer: CustomerRef, key: str, metadata: Mapping[str, str]
    ) -> SetupDetails:
        params: SetupIntentCreateParams = {
            "customer": customer.provider_reference,
            "usage": "off_session",
            "metadata": {**metadata, "key": key},
        }
        client = self._client(account)
        return _details(account, await request(client.v1.setup_intents.create_async(params, {"idempotency_key": key})))

    async def get_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        client = self._client(account)
        found = await request(
            client.v1.setup_intents.retrieve_async(existing(reference), {"expand": ["payment_method"]})
        )
        return _details(account, found)

    async def cancel_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        client = self._client(account)
        key = fresh_key()
        try:
            ended = await request(
                client.v1.setup_intents.cancel_async(existing(reference), {}, {"idempotency_key": key})
            )
        except ProviderRefused:
            # What has ended already cannot be cancelled: say what it is.
            return await self.get_setup_intent(account, reference)
        return _details(account, ended)


def _details(account: ProviderAccount, body: Body) -> SetupDetails:
    try:
        return setup_details(
            body,
            client_secret=maybe_text(body, "client_secret"),
            publishable_key=account.credentials.get("publishable_key"),
        )
    except ValueError:
        raise unparsable() from None


def setup_details(setup: Body, *, client_secret: str | None = None, publishable_key: str | None = None) -> SetupDetails:
    """A SetupIntent. Raises ValueError when it is none, Unmapped for a new status."""
    status = text(setup, "status")
    state = _STATES.get(status)
    if state is None:
        raise Unmapped(f"set-up status {status[:64]!r}")
    error = maybe_obj(setup.get("last_setup_error"))
    if error and status == "requires_payment_method":
        state = SetupState.FAILED
    return SetupDetails(
        provider_reference=text(setup, "id"),
        state=state,
        client_secret=client_secret,
        publishable_key=publishable_key,
        customer_reference=reference(setup.get("customer")),
        method=bare_method(setup.get("payment_method")),
        failure_code=decline_of(error)[0].value if error else None,
        metadata=metadata(setup),
    )
