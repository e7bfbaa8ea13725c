"""What handlers read of pages, links, set-up intents and customers, and the giving up of a page that was never made."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.invoices import get_invoice
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import AttemptState, Payment, PaymentMethod, PaymentState, checkout_session_id
from dunwell_server.payments.page_model import CheckoutSession, Customer, SessionState, SetupIntent
from dunwell_server.payments.service.checkouts import PageWish, get_session
from dunwell_server.payments.service.customers import methods_at, no_such_customer
from dunwell_server.payments.service.methods import resolve_account
from dunwell_server.payments.service.sending import cancel_unsent
from dunwell_server.payments.service.settling import lock_targets
from dunwell_server.payments.service.setups import get_setup
from dunwell_server.payments.store import asking, attempts, checkouts, customers, methods, payments
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature


@dataclass(frozen=True, slots=True)
class SessionView:
    """A page, and the payment that it asks for."""

    session: CheckoutSession
    payment: Payment | None


@dataclass(frozen=True, slots=True)
class SetupView:
    """A set-up intent, the method it has saved, and the account it was made at."""

    setup: SetupIntent
    method: PaymentMethod | None
    account: ProviderAccount | None


@dataclass(frozen=True, slots=True)
class LinkView:
    """What is behind a link: a page, a payment, or a page that asks for a payment."""

    session: CheckoutSession | None
    payment: Payment | None


async def session_view(uow: UnitOfWork, session_id: UUID) -> SessionView:
    """Errors: RESOURCE_NOT_FOUND."""
    session = await get_session(uow, session_id)
    return SessionView(session, await payments.get(uow, session.payment_id) if session.payment_id else None)


async def find_session(uow: UnitOfWork, session_id: UUID) -> CheckoutSession | None:
    """The page, if the id is a page's."""
    return await checkouts.get(uow, session_id)


async def session_of_request(uow: UnitOfWork) -> CheckoutSession | None:
    """The page that an earlier call with this request_id asked for."""
    assert uow.context.request_id is not None
    return await checkouts.get(uow, checkout_session_id(uow.firm_id, uow.context.request_id))


async def setup_view(uow: UnitOfWork, setup_id: UUID) -> SetupView:
    """Errors: RESOURCE_NOT_FOUND."""
    setup = await get_setup(uow, setup_id)
    method = await methods.get(uow, setup.method_id) if setup.method_id else None
    return SetupView(setup, method, await customers.account(uow, setup.account_id))


async def customer_view(uow: UnitOfWork, client_id: UUID, account_id: UUID) -> tuple[Customer, list[PaymentMethod]]:
    """The client as the account's customer, with its methods there. Errors: RESOURCE_NOT_FOUND."""
    customer = await customers.get(uow, client_id, account_id)
    if customer is None:
        raise no_such_customer()
    return customer, await methods_at(uow, client_id, account_id)


async def link_view(uow: UnitOfWork, object_id: UUID) -> LinkView:
    """What the link leads to now. Errors: PROVIDER_UNAVAILABLE while the page is not made yet, STATE_CONFLICT once the link is over."""
    session = await checkouts.get(uow, object_id)
    if session is None:
        payment = await payments.get(uow, object_id)
        assert payment is not None
        session = await checkouts.of_payment(uow, payment.id)
    else:
        payment = await payments.get(uow, session.payment_id) if session.payment_id else None
    if session is not None and session.state is SessionState.CREATING:
        raise DunwellError(
            Reason.PROVIDER_UNAVAILABLE, "The page could not be made yet; repeat the call.", retry_after=5.0,
            metadata={"provider": session.provider},
        )  # fmt: skip
    is_open = session.state is SessionState.OPEN if session is not None else _waits(payment)
    if not is_open:
        state = session.state.value if session is not None else payment.state.value if payment is not None else ""
        raise DunwellError(
            Reason.STATE_CONFLICT, f"The link is over: what it led to is {state}.", metadata={"state": state, "allowed": "OPEN"}
        )  # fmt: skip
    return LinkView(session, payment)


def _waits(payment: Payment | None) -> bool:
    return payment is not None and payment.state is PaymentState.REQUIRES_ACTION and bool(payment.action_url)


async def client_of(uow: UnitOfWork, wish: PageWish) -> UUID:
    """Whose page it is to be. Errors: RESOURCE_NOT_FOUND, FEATURE_DISABLED."""
    await require_cards(uow)
    if wish.invoice_id is not None:
        return (await get_invoice(uow, wish.invoice_id)).client_id
    assert wish.client_id is not None
    return (await get_client(uow, wish.client_id)).id


async def require_cards(uow: UnitOfWork) -> None:
    """Errors: FEATURE_DISABLED."""
    require_feature(uow, Feature.CARD_PAYMENTS)


async def account_for(uow: UnitOfWork, provider: str | None) -> ProviderAccount:
    """The firm's account at a provider, its default one where none is named. Errors: PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH."""
    return await resolve_account(uow, provider or uow.firm.settings.default_provider)


async def is_unsent(uow: UnitOfWork, session: CheckoutSession) -> bool:
    """Whether a page is surely not made, and nobody is about to make it: its payment's attempt waits to be sent again."""
    if session.payment_id is None or session.state is not SessionState.CREATING:
        return False
    where = await attempts.whereabouts(uow, asking.first_attempt(session.payment_id))
    return where is not None and where["state"] == AttemptState.NOT_SENT


async def give_up(uow: UnitOfWork, session_id: UUID) -> None:
    """End an invoice's page that was surely never made, with its payment; its invoice may be asked for otherwise.

    Errors: PROVIDER_UNAVAILABLE where it is being made after all.
    """
    session = await get_session(uow, session_id)
    assert session.payment_id is not None
    invoices = await lock_targets(uow, session.payment_id, session.invoice_id, session.client_id)
    loaded = await attempts.load(uow, asking.first_attempt(session.payment_id))
    attempt = loaded.attempt
    if attempt.state is AttemptState.NOT_SENT and attempt.owner is None:
        await cancel_unsent(uow, loaded, invoices, "the page was not wanted any more", again_at=None)
    elif attempt.state.is_open:
        raise DunwellError(
            Reason.PROVIDER_UNAVAILABLE, "The page is being made; try again.", retry_after=5.0,
            resource=("CheckoutSession", encode(Prefix.CHECKOUT_SESSION, session_id)),
        )  # fmt: skip
