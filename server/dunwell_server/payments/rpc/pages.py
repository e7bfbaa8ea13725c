"""PaymentService: provider customers, set-up intents, hosted pages, one-time payments."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from dunwell.v1 import checkout_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.payments.jobs.customers import Live
from dunwell_server.payments.jobs.guarding import tripping
from dunwell_server.payments.jobs.opening import pages_of, setups_of
from dunwell_server.payments.jobs.pages import PageKeeper
from dunwell_server.payments.model import Claim, Source
from dunwell_server.payments.page_model import CheckoutPurpose, SetupIntent, SetupIntentState
from dunwell_server.payments.rpc import messages, page_messages
from dunwell_server.payments.rpc.page_wishes import (
    link_wish,
    page_wish,
    payment_wish,
    setup_wish,
)
from dunwell_server.payments.rpc.parts import PaymentHandlers, PaymentParts
from dunwell_server.payments.service import checkouts, customers, one_time, pages, queries, setups
from dunwell_server.payments.service.checkouts import PageWish
from dunwell_server.platform import idempotency
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.logging import get_logger
from dunwell_server.providers.abilities import SetupDetails
from dunwell_server.rpc.converters import id_text, id_value
from dunwell_server.rpc.current import current_call

log = get_logger(__name__)


class PageHandlers(PaymentHandlers):
    """Handlers of provider customers, set-up intents, hosted pages, one-time payments."""

    def __init__(self, parts: PaymentParts) -> None:
        super().__init__(parts)
        self._pages = PageKeeper(parts.charger.gateways)
        self._customers = parts.keeper.customers

    # Provider customers ------------------------------------------------------------------------------------------

    async def EnsureProviderCustomer(
        self, request: pb.EnsureProviderCustomerRequest, context: Any
    ) -> pb.EnsureProviderCustomerResponse:
        work = self._calls.background.own(self._ensure_customer(request), name="EnsureProviderCustomer")
        return await asyncio.shield(work)

    async def _ensure_customer(self, request: pb.EnsureProviderCustomerRequest) -> pb.EnsureProviderCustomerResponse:
        """Ask the provider under keys that follow from client and account, then keep what it said; a repeat asks nothing."""
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        provider, existing = request.provider or None, request.existing_reference
        database, live = self._calls.database, None
        if not await self._calls.read(idempotency.seen):
            call = current_call()
            if existing:
                live = await self._customers.adoptable(database, call, client_id, provider, existing)
            else:
                live = await self._customers.synchronise(database, call, client_id, provider)

        async def keep(uow: UnitOfWork) -> pb.EnsureProviderCustomerResponse:
            if live is None:
                raise _forgotten()
            if existing:
                default = None if live.theirs is None else live.theirs.default_method_reference
                await customers.keep_adopted(uow, live.place, live.reference, live.methods, default)
            return pb.EnsureProviderCustomerResponse(provider_customer=await _customer(uow, live))

        return await self._calls.write(request, pb.EnsureProviderCustomerResponse, keep)

    async def GetProviderCustomer(
        self, request: pb.GetProviderCustomerRequest, context: Any
    ) -> pb.GetProviderCustomerResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        live = await self._customers.read(self._calls.database, current_call(), client_id, request.provider or None)

        async def read(uow: UnitOfWork) -> pb.GetProviderCustomerResponse:
            return pb.GetProviderCustomerResponse(provider_customer=await _customer(uow, live))

        return await self._calls.read(read)

    # Set-up intents ----------------------------------------------------------------------------------------------

    async def CreateSetupIntent(
        self, request: pb.CreateSetupIntentRequest, context: Any
    ) -> pb.CreateSetupIntentResponse:
        work = self._calls.background.own(self._create_setup(request), name="CreateSetupIntent")
        return await asyncio.shield(work)

    async def _create_setup(self, request: pb.CreateSetupIntentRequest) -> pb.CreateSetupIntentResponse:
        """The client secret goes from the provider to the caller and is kept nowhere: a repeat fetches it again."""
        wish, call = setup_wish(request), current_call()
        able = self._customers.able(setups_of)
        repeated = await self._calls.read(idempotency.seen)
        if not repeated:
            await self._calls.read(pages.require_cards)
            await self._customers.ensure(self._calls.database, call, wish.client_id, wish.provider, able)
        made: dict[UUID, SetupDetails] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            return await setups.request_setup(uow, wish, able)

        async def settle(settling: CallContext, setup_id: UUID) -> None:
            setup = await self._setup(setup_id)
            try:
                details = await self._pages.make_setup(self._calls.database, settling, setup)
            except DunwellError as error:
                log.info("a set-up intent could not be made yet", setup_id=str(setup_id), reason=error.reason.value)
                return
            if details is not None:
                made[setup_id] = details

        async def present(uow: UnitOfWork, setup_id: UUID) -> checkout_pb2.SetupIntent:
            return checkout_pb2.SetupIntent(id=id_text(Prefix.SETUP_INTENT, setup_id))

        shown = await self._calls.provider(request, intent, settle, present)
        setup = await self._setup(id_value(Prefix.SETUP_INTENT, shown.id, "id"))
        details = made.get(setup.id)
        if details is None and repeated:
            details = await self._fetch_setup(call, setup)
        return await self._calls.read(lambda uow: self._setup_response(uow, setup.id, details))

    async def _setup(self, setup_id: UUID) -> SetupIntent:
        return await self._calls.read(lambda uow: setups.get_setup(uow, setup_id))

    async def _fetch_setup(self, call: CallContext, setup: SetupIntent) -> SetupDetails | None:
        """What the provider says of it now; one that was not made yet is made. Errors: PROVIDER_UNAVAILABLE."""
        if not setup.state.is_open:
            return None
        if setup.provider_reference is not None:
            return await self._pages.read_setup(self._calls.database, call, setup)
        if setup.state is not SetupIntentState.CREATING:
            return None
        return await self._pages.make_setup(self._calls.database, call, setup)

    async def _setup_response(
        self, uow: UnitOfWork, setup_id: UUID, details: SetupDetails | None
    ) -> pb.CreateSetupIntentResponse:
        view = await pages.setup_view(uow, setup_id)
        key = ""
        if details is not None and view.account is not None:
            key = self._pages.publishable_key(view.account, details)
        message = page_messages.setup_message(view.setup, view.method, details, key, _firm(uow))
        return pb.CreateSetupIntentResponse(setup_intent=message)

    # Pages -------------------------------------------------------------------------------------------------------

    async def CreateCheckoutSession(
        self, request: pb.CreateCheckoutSessionRequest, context: Any
    ) -> pb.CreateCheckoutSessionResponse:
        work = self._calls.background.own(self._create_session(request), name="CreateCheckoutSession")
        return await asyncio.shield(work)

    async def _create_session(self, request: pb.CreateCheckoutSessionRequest) -> pb.CreateCheckoutSessionResponse:
        wish, call = page_wish(request), current_call()
        repeated = await self._prepare_page(wish, call)
        claims: dict[UUID, Claim] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            return await self._request_page(uow, wish, claims)

        async def present(uow: UnitOfWork, session_id: UUID) -> pb.CreateCheckoutSessionResponse:
            return pb.CreateCheckoutSessionResponse(checkout_session=await _session(uow, session_id))

        if repeated:
            await self._make_again(request, call)
        return await self._calls.provider(request, intent, self._page_settler(claims), present)

    async def _prepare_page(self, wish: PageWish, call: CallContext) -> bool:
        """Make sure that the client is a customer at the provider. Returns whether the request is a repeat, which asks nothing."""
        if await self._calls.read(idempotency.seen):
            return True
        client_id = await self._calls.read(lambda uow: pages.client_of(uow, wish))
        able = self._customers.able(pages_of)
        await self._customers.ensure(self._calls.database, call, client_id, wish.provider, able)
        return False

    async def _request_page(self, uow: UnitOfWork, wish: PageWish, claims: dict[UUID, Claim]) -> UUID:
        asked = await checkouts.request_page(uow, wish, self._charger.owner, self._customers.able(pages_of))
        if asked.claim is not None:
            claims[asked.session_id] = asked.claim
        return asked.session_id

    def _page_settler(self, claims: dict[UUID, Claim]) -> Any:
        """What makes a page at the provider: an invoice's as an attempt of its payment is sent."""

        async def settle(settling: CallContext, object_id: UUID) -> None:
            claim = claims.get(object_id)
            if claim is not None:
                await self._charger.run(self._calls.database, settling, [claim])
                return
            session = await self._calls.read(lambda uow: pages.find_session(uow, object_id))
            if session is None or session.purpose is CheckoutPurpose.INVOICE:
                return
            try:
                await self._pages.make_page(self._calls.database, settling, session)
            except DunwellError as error:
                log.info("a page could not be made yet", session_id=str(object_id), reason=error.reason.value)

        return settle

    async def _make_again(self, request: Any, call: CallContext) -> None:
        """A repeat finds a page that could not be made before: under its key it is tried again."""
        session = await self._calls.read(pages.session_of_request)
        if session is None or session.state != "CREATING" or session.purpose is CheckoutPurpose.INVOICE:
            return
        try:
            await self._pages.make_page(self._calls.database, call, session)
        except DunwellError as error:
            log.info("a page could not be made yet", session_id=str(session.id), reason=error.reason.value)

    async def GetCheckoutSession(
        self, request: pb.GetCheckoutSessionRequest, context: Any
    ) -> pb.GetCheckoutSessionResponse:
        session_id = id_value(Prefix.CHECKOUT_SESSION, request.checkout_session_id, "checkout_session_id")

        async def read(uow: UnitOfWork) -> pb.GetCheckoutSessionResponse:
            return pb.GetCheckoutSessionResponse(checkout_session=await _session(uow, session_id))

        return await self._calls.read(read)

    async def ExpireCheckoutSession(
        self, request: pb.ExpireCheckoutSessionRequest, context: Any
    ) -> pb.ExpireCheckoutSessionResponse:
        work = self._calls.background.own(self._expire_session(request), name="ExpireCheckoutSession")
        return await asyncio.shield(work)

    async def _expire_session(self, request: pb.ExpireCheckoutSessionRequest) -> pb.ExpireCheckoutSessionResponse:
        """Have the provider close it, then take over what it has become."""
        session_id = id_value(Prefix.CHECKOUT_SESSION, request.checkout_session_id, "checkout_session_id")
        session = await self._calls.read(lambda uow: checkouts.get_session(uow, session_id))
        details = None
        asks = not session.state.is_final and not await self._calls.read(idempotency.seen)
        if asks and not await self._calls.read(lambda uow: pages.is_unsent(uow, session)):
            details = await self._pages.expire_page(self._calls.database, current_call(), session)

        async def keep(uow: UnitOfWork) -> pb.ExpireCheckoutSessionResponse:
            if details is not None:
                await checkouts.apply_page(uow, session_id, details, Source.LOOKUP)
            elif not session.state.is_final:
                await pages.give_up(uow, session_id)
            return pb.ExpireCheckoutSessionResponse(checkout_session=await _session(uow, session_id))

        return await self._calls.write(request, pb.ExpireCheckoutSessionResponse, keep)

    async def CreateHostedLink(self, request: pb.CreateHostedLinkRequest, context: Any) -> pb.CreateHostedLinkResponse:
        work = self._calls.background.own(self._create_link(request), name="CreateHostedLink")
        return await asyncio.shield(work)

    async def _create_link(self, request: pb.CreateHostedLinkRequest) -> pb.CreateHostedLinkResponse:
        """A charge that waits for its client is continued; else a page is made."""
        call = current_call()
        plain = await self._plain_page(request, call)
        wish = link_wish(request, self._parts.return_url or plain)
        repeated = await self._prepare_page(wish, call)
        claims: dict[UUID, Claim] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            waiting = None
            if wish.invoice_id is not None:
                waiting = await checkouts.continued_link(uow, wish.invoice_id)
            return waiting or await self._request_page(uow, wish, claims)

        async def present(uow: UnitOfWork, object_id: UUID) -> pb.CreateHostedLinkResponse:
            link = await pages.link_view(uow, object_id)
            message = page_messages.link_message(request.purpose, link.session, link.payment)
            return pb.CreateHostedLinkResponse(hosted_link=message)

        if repeated:
            await self._make_again(request, call)
        return await self._calls.provider(request, intent, self._page_settler(claims), present)

    async def _plain_page(self, request: pb.CreateHostedLinkRequest, call: CallContext) -> str | None:
        if request.return_url or self._parts.return_url:
            return None
        account = await self._calls.read(lambda uow: pages.account_for(uow, request.provider or None))
        return self._pages.plain_page(account)

    # One-time payments -------------------------------------------------------------------------------------------

    async def CreatePayment(self, request: pb.CreatePaymentRequest, context: Any) -> pb.CreatePaymentResponse:
        wish = payment_wish(request, self._parts.return_url)
        claims: dict[UUID, Claim] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            claim = await one_time.request_payment(uow, wish, self._charger.owner)
            claims[claim.payment_id] = claim
            return claim.payment_id

        async def settle(call: CallContext, payment_id: UUID) -> None:
            await self._charger.run(self._calls.database, call, [claims[payment_id]])

        async def present(uow: UnitOfWork, payment_id: UUID) -> pb.CreatePaymentResponse:
            view = await queries.get_payment(uow, payment_id)
            return pb.CreatePaymentResponse(payment=messages.payment_message(view, _firm(uow)))

        async with tripping(self._calls.database, current_call()):
            return await self._calls.provider(request, intent, settle, present)


def _firm(uow: UnitOfWork) -> str:
    return id_text(Prefix.FIRM, uow.firm_id)


async def _session(uow: UnitOfWork, session_id: UUID) -> checkout_pb2.CheckoutSession:
    view = await pages.session_view(uow, session_id)
    return page_messages.session_message(view.session, view.payment, _firm(uow))


async def _customer(uow: UnitOfWork, live: Live) -> checkout_pb2.ProviderCustomer:
    customer, methods = await pages.customer_view(uow, live.place.client.id, live.place.account.id)
    return page_messages.customer_message(customer, live, methods, _firm(uow))


def _forgotten() -> DunwellError:
    return DunwellError(Reason.REQUEST_IN_PROGRESS, "The request is being forgotten; repeat the call.")
