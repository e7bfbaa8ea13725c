"""From the id of a charge or a PaymentIntent to the payment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dunwell_server.providers.base import ProviderAccount, ProviderRefused
from dunwell_server.providers.stripe.answers import request, unparsable
from dunwell_server.providers.stripe.calls import Calls, existing
from dunwell_server.providers.stripe.reading import Body, maybe_obj, metadata, reference, text
from dunwell_server.providers.stripe.refunds import is_charge
from dunwell_server.providers.tracing import TracedPayment

if TYPE_CHECKING:
    from stripe.params import ChargeRetrieveParams


class TraceCalls(Calls):
    """`tracing.TracesPayments`."""

    async def trace_payment(self, account: ProviderAccount, reference: str) -> TracedPayment | None:
        client = self._client(account)
        try:
            if is_charge(existing(reference)):
                expanded: ChargeRetrieveParams = {"expand": ["payment_intent"]}
                found = await request(client.v1.charges.retrieve_async(reference, expanded))
            else:
                found = await request(client.v1.payment_intents.retrieve_async(reference))
        except ProviderRefused as refused:
            if refused.provider_code != "resource_missing":
                raise
            return None
        try:
            return traced_payment(found)
        except ValueError:
            raise unparsable() from None


def traced_payment(found: Body) -> TracedPayment:
    """The payment of a charge or PaymentIntent. Raises ValueError when it is neither."""
    intent = found.get("payment_intent")
    return TracedPayment(
        provider_reference=reference(intent) or text(found, "id"),
        metadata={**metadata(found), **metadata(maybe_obj(intent))},
        customer_reference=reference(found.get("customer")),
    )
