"""Asking providers about pages, with no transaction open. Whatever goes wrong leaves unknown what became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.payments.evidence import Declined, Evidence, NotSent, Unknown
from dunwell_server.payments.jobs.gateways import Gateway
from dunwell_server.payments.jobs.translation import order_page
from dunwell_server.payments.model import DeclineClass, Failure, FailureCode
from dunwell_server.payments.page_model import CheckoutSession
from dunwell_server.payments.reading import is_bare
from dunwell_server.payments.service.sending import SendOrder
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.rate_limits import LimitUnavailable
from dunwell_server.providers.abilities import (
    Checkout,
    CheckoutDetails,
    CheckoutState,
    Customers,
    PlainPage,
    SetupIntents,
)
from dunwell_server.providers.base import MethodDetails, ProviderRefused, require_ability

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """What a provider says of a page."""

    session_id: UUID
    details: CheckoutDetails


Answer: TypeAlias = Evidence | PageAnswer
"""What was learned about an attempt: directly, or through the page on which its money is asked for."""


def pages_of(gateway: Gateway) -> Checkout:
    """The provider's pages. Errors: PROVIDER_NOT_CONFIGURED where it has none."""
    return require_ability(gateway.provider, "checkout", Checkout)  # type: ignore[type-abstract]


def plain_page(gateway: Gateway) -> str | None:
    """A page of the provider's own, for clients who have nowhere to come back to; None: it has none."""
    return gateway.provider.plain_page(gateway.account) if isinstance(gateway.provider, PlainPage) else None


def setups_of(gateway: Gateway) -> SetupIntents:
    """The provider's set-up intents. Errors: PROVIDER_NOT_CONFIGURED where it has none."""
    return require_ability(gateway.provider, "setup_intents", SetupIntents)  # type: ignore[type-abstract]


def customers_of(gateway: Gateway) -> Customers:
    """The provider's customers, to be read and changed. Errors: PROVIDER_NOT_CONFIGURED where it has none."""
    return require_ability(gateway.provider, "customers", Customers)  # type: ignore[type-abstract]


async def open_page(gateway: Gateway, order: SendOrder, *, repeated: bool = False) -> Answer:
    """Make the page of an order; under the same key, the one made before. A refusal ends the payment: no page was ever there.

    `repeated`: an earlier sending may have made one, and a refusal now says nothing about that.
    """
    session = order.session
    assert session is not None
    pages = pages_of(gateway)
    try:
        async with gateway.turn():
            return PageAnswer(session.id, await pages.create_checkout(order_page(order, gateway)))
    except ProviderRefused as refusal:
        if repeated:
            return Unknown(f"the provider refuses the repeat: {refusal.provider_code or 'no code'}")
        failure = Failure(
            FailureCode.PROCESSING_ERROR, DeclineClass.TECHNICAL, refusal.provider_code,
            message="The payment page could not be made.",
        )  # fmt: skip
        return Declined(failure)
    except LimitUnavailable:
        return (Unknown if repeated else NotSent)("no place under the rate limit could be had")
    except Exception as error:
        return _unknown(gateway, error)


async def find_page(gateway: Gateway, session: CheckoutSession, since: datetime) -> Answer | None:
    """What the provider's record says of a page; None: it has none."""
    pages = pages_of(gateway)
    if session.provider_reference is not None:
        return await read_page(gateway, session)
    try:
        async with gateway.turn():
            found = await pages.find_checkout(gateway.account, session.idempotency_key, since)
        return None if found is None else PageAnswer(session.id, await with_method(gateway, session, found))
    except Exception as error:
        return _unknown(gateway, error)


async def read_page(gateway: Gateway, session: CheckoutSession) -> Answer:
    """The page as the provider has it now."""
    return await _ask(gateway, session, "get")


async def close_page(gateway: Gateway, session: CheckoutSession) -> Answer:
    """Have the provider close the page; the answer is what it has become, which may be complete."""
    return await _ask(gateway, session, "expire")


async def _ask(gateway: Gateway, session: CheckoutSession, what: str) -> Answer:
    if session.provider_reference is None:
        return Unknown("it is not known whether the page was made")
    pages = pages_of(gateway)
    ask = pages.expire_checkout if what == "expire" else pages.get_checkout
    try:
        async with gateway.turn():
            details = await ask(gateway.account, session.provider_reference)
        return PageAnswer(session.id, await with_method(gateway, session, details))
    except Exception as error:
        return _unknown(gateway, error)


async def with_method(gateway: Gateway, session: CheckoutSession, details: CheckoutDetails) -> CheckoutDetails:
    """The details with the method saved on the page in full, where one was saved and the provider lets it be read."""
    saves = session.save_method or session.invoice_id is None
    if (
        not saves
        or details.state is not CheckoutState.COMPLETED
        or (details.method is not None and not is_bare(details.method))
    ):
        return details
    method = await saved_method(gateway, details)
    return details if method is None else replace(details, method=method)


async def saved_method(gateway: Gateway, details: CheckoutDetails) -> MethodDetails | None:
    """The method that a page has saved, from its set-up intent or its customer's list; None: it cannot be told."""
    if details.setup_reference is not None and gateway.provider.capabilities.setup_intents:
        setups = setups_of(gateway)
        async with gateway.turn():
            found = (await setups.get_setup_intent(gateway.account, details.setup_reference)).method
        if found is not None and not is_bare(found):
            return found
    if details.method is not None and details.customer_reference is not None:
        return await full_method(gateway, details.customer_reference, details.method)
    return details.method


async def full_method(gateway: Gateway, customer_reference: str, method: MethodDetails) -> MethodDetails:
    """A method with all that may be shown of it, as its customer's list has it; as it is where it is not there."""
    return await listed_method(gateway, customer_reference, method) if is_bare(method) else method


async def listed_method(gateway: Gateway, customer_reference: str, method: MethodDetails) -> MethodDetails:
    """A method as its customer's list has it now; as it is where it is not there, or the provider has no such list."""
    if not gateway.provider.capabilities.customers:
        return method
    customers = customers_of(gateway)
    async with gateway.turn():
        listed = await customers.list_methods(gateway.account, customer_reference)
    return next((each for each in listed if each.provider_reference == method.provider_reference), method)


def _unknown(gateway: Gateway, error: Exception) -> Unknown:
    if not isinstance(error, DunwellError):
        log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
        return Unknown(f"the adapter failed: {type(error).__name__}")
    return Unknown(f"no definite answer: {error.message}"[:500])
