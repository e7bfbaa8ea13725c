"""Pages that ask for no money, and set-up intents: made under one key however often that is tried, looked after until they end.

An invoice's page is made and looked after as its payment's attempt is: see `charging` and `checking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import ladder
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.jobs.opening import full_method, pages_of, plain_page, setups_of, with_method
from dunwell_server.payments.jobs.translation import page_request
from dunwell_server.payments.model import Source
from dunwell_server.payments.page_model import CheckoutSession, SessionState, SetupIntent, SetupIntentState
from dunwell_server.payments.service import checkouts, setups
from dunwell_server.payments.store import checkouts as session_store
from dunwell_server.payments.store import customers
from dunwell_server.payments.store import setups as setup_store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.questions import Question, together
from dunwell_server.platform.work import WorkKind
from dunwell_server.providers.abilities import CheckoutDetails, SetupDetails
from dunwell_server.providers.base import CustomerRef, ProviderRefused

log = get_logger(__name__)

BATCH: Final = 50
_CLAIM: Final = timedelta(minutes=1)
"""Firm time after which what a dead worker had taken is looked at again."""
NOT_MADE: Final = "not_made"
"""Failure code of what surely was not made at the provider."""


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where a page or set-up intent lives, whose it is there, and what time it is."""

    gateway: Gateway
    customer_reference: str | None
    now: datetime


class PageKeeper:
    """Makes pages and set-up intents at their providers, asks about them, ends them."""

    def __init__(self, gateways: Gateways) -> None:
        self.gateways = gateways

    # Set-up intents ----------------------------------------------------------------------------------------------

    async def make_setup(self, database: Database, context: CallContext, setup: SetupIntent) -> SetupDetails | None:
        """Make a set-up intent, or find the one made before under its key; None where the provider refuses it.

        Errors: PROVIDER_UNAVAILABLE and what else leaves unknown whether it was made: to be tried again.
        """
        desk = await self._desk(database, context, setup.client_id, setup.account_id)
        ability = setups_of(desk.gateway)
        assert context.firm_id is not None
        metadata = {
            "firm": encode(Prefix.FIRM, context.firm_id), "client": encode(Prefix.CLIENT, setup.client_id),
            "setup": encode(Prefix.SETUP_INTENT, setup.id), "key": setup.idempotency_key,
        }  # fmt: skip
        failpoint("setup.before_create")
        try:
            async with desk.gateway.turn():
                details = await ability.create_setup_intent(
                    desk.gateway.account, CustomerRef(desk.customer_reference or ""), setup.idempotency_key, metadata
                )
        except ProviderRefused as refusal:
            code = refusal.provider_code or "refused"
            await database.run(_recording(context), lambda uow: setups.fail_setup(uow, setup.id, code))
            return None
        failpoint("setup.after_create")
        await self.apply_setup(database, context, setup.id, desk.gateway, details)
        return details

    async def read_setup(self, database: Database, context: CallContext, setup: SetupIntent) -> SetupDetails:
        """The set-up intent as the provider has it, taken over. Errors: PROVIDER_UNAVAILABLE, …"""
        desk = await self._desk(database, context, setup.client_id, setup.account_id)
        assert setup.provider_reference is not None
        async with desk.gateway.turn():
            details = await setups_of(desk.gateway).get_setup_intent(desk.gateway.account, setup.provider_reference)
        await self.apply_setup(database, context, setup.id, desk.gateway, details)
        return details

    async def apply_setup(
        self, database: Database, context: CallContext, setup_id: UUID, gateway: Gateway, details: SetupDetails
    ) -> None:
        """Take over what the provider says, with the method in full."""
        complete = await complete_setup(gateway, details)
        await database.run(_recording(context), lambda uow: setups.apply_setup(uow, setup_id, complete))
        failpoint("setup.record")

    def publishable_key(self, account: ProviderAccount, details: SetupDetails) -> str:
        """What the client's browser names the account by; empty: the account has none."""
        known: str | None = self.gateways.gateway(account).account.credentials.get("publishable_key")
        return details.publishable_key or known or ""

    def plain_page(self, account: ProviderAccount) -> str | None:
        """A page of the provider's own, for clients who have nowhere to come back to. Errors: PROVIDER_NOT_CONFIGURED without pages."""
        gateway = self.gateways.gateway(account)
        pages_of(gateway)
        return plain_page(gateway)

    # Pages -------------------------------------------------------------------------------------------------------

    async def make_page(self, database: Database, context: CallContext, session: CheckoutSession) -> None:
        """Make a page that asks for no money, or find the one made before under its key.

        Errors: PROVIDER_UNAVAILABLE and what else leaves unknown whether it was made: to be tried again.
        """
        desk = await self._desk(database, context, session.client_id, session.account_id)
        assert context.firm_id is not None
        request = page_request(session, desk.gateway, encode(Prefix.FIRM, context.firm_id), desk.customer_reference)
        failpoint("page.before_create")
        try:
            async with desk.gateway.turn():
                details = await pages_of(desk.gateway).create_checkout(request)
        except ProviderRefused as refusal:
            # An earlier try may have made it all the same: the provider's record decides.
            code, found = refusal.provider_code or "refused", await self._find(desk, session)
            if found is None:
                await database.run(_recording(context), lambda uow: checkouts.fail_page(uow, session.id, code))
                return
            details = found
        failpoint("page.after_create")
        await self._apply_page(database, context, session, desk.gateway, details)

    async def read_page(self, database: Database, context: CallContext, session: CheckoutSession) -> None:
        """Ask about a page and take the answer over; one whose time is over is closed. Errors: PROVIDER_UNAVAILABLE, …"""
        desk = await self._desk(database, context, session.client_id, session.account_id)
        over = session.expire_time is not None and session.expire_time <= desk.now
        await self._end(database, context, session, desk.gateway, closes=over)

    async def expire_page(self, database: Database, context: CallContext, session: CheckoutSession) -> CheckoutDetails:
        """Have the provider close a page; what it has become, which may be complete. Nothing is written. Errors: PROVIDER_UNAVAILABLE, …"""
        if session.provider_reference is None:
            raise DunwellError(
                Reason.PROVIDER_UNAVAILABLE, "The page is being made, or it is not known yet whether it was; try again.", retry_after=5.0
            )  # fmt: skip
        desk = await self._desk(database, context, session.client_id, session.account_id)
        async with desk.gateway.turn():
            details = await pages_of(desk.gateway).expire_checkout(desk.gateway.account, session.provider_reference)
        return await with_method(desk.gateway, session, details)

    async def _end(
        self, database: Database, context: CallContext, session: CheckoutSession, gateway: Gateway, *, closes: bool
    ) -> None:
        assert session.provider_reference is not None
        pages = pages_of(gateway)
        ask = pages.expire_checkout if closes else pages.get_checkout
        async with gateway.turn():
            details = await ask(gateway.account, session.provider_reference)
        await self._apply_page(database, context, session, gateway, details)

    async def _find(self, desk: _Desk, session: CheckoutSession) -> CheckoutDetails | None:
        async with desk.gateway.turn():
            return await pages_of(desk.gateway).find_checkout(
                desk.gateway.account, session.idempotency_key, session.firm_time
            )

    async def _apply_page(
        self,
        database: Database,
        context: CallContext,
        session: CheckoutSession,
        gateway: Gateway,
        details: CheckoutDetails,
    ) -> None:
        complete = await with_method(gateway, session, details)
        await database.run(
            _recording(context), lambda uow: checkouts.apply_page(uow, session.id, complete, Source.LOOKUP)
        )
        failpoint("page.record")

    # Looking after -----------------------------------------------------------------------------------------------

    async def look_at_setup(self, database: Database, context: CallContext, setup: SetupIntent) -> None:
        """The next step of a set-up intent: made, asked about, or given up once its key is surely forgotten."""
        desk = await self._desk(database, context, setup.client_id, setup.account_id)
        if setup.state is not SetupIntentState.CREATING and setup.provider_reference is not None:
            await self.read_setup(database, context, setup)
        elif ladder.may_replay(setup.firm_time, desk.now, desk.gateway.memory):
            await self.make_setup(database, context, setup)
        else:
            await database.run(_recording(context), lambda uow: setups.fail_setup(uow, setup.id, NOT_MADE))

    async def look_at_page(self, database: Database, context: CallContext, session: CheckoutSession) -> None:
        """The next step of a page: made, asked about, closed when its time is over, or given up when the provider surely has none."""
        if session.provider_reference is not None:
            await self.read_page(database, context, session)
            return
        desk = await self._desk(database, context, session.client_id, session.account_id)
        if ladder.may_replay(session.firm_time, desk.now, desk.gateway.memory):
            await self.make_page(database, context, session)
            return
        details = await self._find(desk, session)
        if details is None:
            await database.run(_recording(context), lambda uow: checkouts.fail_page(uow, session.id, NOT_MADE))
        else:
            await self._apply_page(database, context, session, desk.gateway, details)

    async def _desk(self, database: Database, context: CallContext, client_id: UUID, account_id: UUID) -> _Desk:
        async def read(uow: UnitOfWork) -> tuple[ProviderAccount | None, str | None, datetime]:
            known = await customers.get(uow, client_id, account_id)
            reference = None if known is None else known.provider_reference
            return await customers.account(uow, account_id), reference, uow.now

        account, reference, now = await database.run(context, read, write=False)
        if account is None:
            raise DunwellError(Reason.PROVIDER_NOT_CONFIGURED, "The provider account is gone.")
        return _Desk(self.gateways.gateway(account), reference, now)


async def complete_setup(gateway: Gateway, details: SetupDetails) -> SetupDetails:
    """The details with the saved method in full, as far as the provider lets it be read. Errors: PROVIDER_UNAVAILABLE, …"""
    if details.method is None or details.customer_reference is None:
        return details
    return replace(details, method=await full_method(gateway, details.customer_reference, details.method))


class PagesHandler:
    """WorkKind.PAGES: pages and set-up intents that are being made, or whose next check has come."""

    kind = WorkKind.PAGES

    def __init__(self, keeper: PageKeeper, *, batch: int = BATCH) -> None:
        self._keeper = keeper
        self._batch = batch

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """When one of them is next to be looked at, in firm time."""
        dues = together(uow, [session_store.next_check(uow), setup_store.next_check(uow)])
        return dues.then(lambda times: min((due for due in times if due is not None), default=None))

    async def work(self, database: Database, context: CallContext) -> None:
        """One step for a batch of each. One that goes wrong stops no other."""

        async def take(uow: UnitOfWork) -> tuple[Sequence[CheckoutSession], Sequence[SetupIntent]]:
            following = uow.now + _CLAIM
            return (
                await session_store.claim(uow, self._batch, following),
                await setup_store.claim(uow, self._batch, following),
            )

        sessions, made = await database.run(context, take)
        await asyncio.gather(
            *(self._session(database, context, session) for session in sessions),
            *(self._setup(database, context, setup) for setup in made),
        )

    async def _session(self, database: Database, context: CallContext, session: CheckoutSession) -> None:
        await _tried(self._keeper.look_at_page(database, context, session), "page", session.id)

        async def plan(uow: UnitOfWork) -> None:
            now = await session_store.get(uow, session.id, lock=True)
            if now is not None and now.next_check_time is not None:
                await session_store.plan(uow, session.id, next_look(now, uow.now))

        await database.run(_recording(context), plan)

    async def _setup(self, database: Database, context: CallContext, setup: SetupIntent) -> None:
        await _tried(self._keeper.look_at_setup(database, context, setup), "set-up intent", setup.id)

        async def plan(uow: UnitOfWork) -> None:
            now = await setup_store.get(uow, setup.id, lock=True)
            if now is None or now.next_check_time is None:
                return
            if now.state is SetupIntentState.CREATING:
                await setup_store.plan(uow, setup.id, _try_again(now.firm_time, uow.now))
            else:
                await setup_store.plan(uow, setup.id, setups.next_look(now, uow.now))

        await database.run(_recording(context), plan)


def next_look(session: CheckoutSession, now: datetime) -> datetime:
    """When a page is looked at next (firm time): ever more rarely, and when its time is over. Pure."""
    if session.state is SessionState.CREATING:
        return _try_again(session.firm_time, now)
    return checkouts.next_look(session.firm_time, session.expire_time, now)


def _try_again(since: datetime, now: datetime) -> datetime:
    """The steps of the ladder of unknown outcomes; afterwards once a day, which ends when the provider answers."""
    return ladder.next_check(since, now) or now + timedelta(days=1)


async def _tried(work: Awaitable[None], what: str, object_id: UUID) -> None:
    try:
        await work
    except DunwellError as error:
        log.info(f"a {what} could not be looked after", object_id=str(object_id), reason=error.reason.value)
    except Exception as error:
        log.error(f"looking after a {what} was interrupted", object_id=str(object_id), exc_info=error)


def _recording(context: CallContext) -> CallContext:
    """What a provider has said is recorded, whatever the firm's clock does and however long the caller waits."""
    return replace(context, upkeep=True, deadline=None)
