"""What the suites about pages, set-up intents and one-time payments do with a world: as callers, as the paying client, as the provider's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from dunwell_server.billing.model import Client, Invoice
from dunwell_server.inbox.ports import Applied, Origin
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.notices import payment_appliers
from dunwell_server.payments.jobs.opening import pages_of, setups_of
from dunwell_server.payments.jobs.pages import PageKeeper
from dunwell_server.payments.model import Channel, Source
from dunwell_server.payments.page_model import CheckoutPurpose, CheckoutSession, SetupIntent
from dunwell_server.payments.service import checkouts, one_time, pages, setups
from dunwell_server.payments.service.checkouts import PageWish
from dunwell_server.payments.service.one_time import PaymentWish
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.payments.service.setups import SetupWish
from dunwell_server.platform.context import CallContext
from dunwell_server.providers.events import Notice
from tests.integration.payments.world import START, World

BACK = "https://shop.example/done"


class Pages:
    """The pages of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keeper = PageKeeper(world.workers.charger.gateways)
        self._http = httpx.Client(
            base_url=world.gateway.url, trust_env=False, timeout=20, headers={"authorization": f"Bearer sk_test_{world.account}"}
        )  # fmt: skip

    # As callers --------------------------------------------------------------------------------------------------

    async def customer(self, client_id: UUID) -> str:
        customers = self.world.workers.keeper.customers
        return (await customers.ensure(self.world.db, self.world.call(), client_id, None)).provider_reference

    async def ask(self, wish: PageWish, call: CallContext | None = None) -> checkouts.Asked:
        """The intent alone: as if the process died after its commit."""
        world, call = self.world, call or self.world.call()
        async with world.db.transaction(call) as uow:
            client_id = await pages.client_of(uow, wish)
        await self.customer(client_id)
        able = world.workers.keeper.customers.able(pages_of)
        async with world.db.transaction(call) as uow:
            return await checkouts.request_page(uow, wish, world.workers.charger.owner, able)

    async def open(self, wish: PageWish, call: CallContext | None = None) -> CheckoutSession:
        """The whole call."""
        call = call or self.world.call()
        asked = await self.ask(wish, call)
        if asked.claim is not None:
            await self.world.workers.charger.run(self.world.db, call, [asked.claim])
        else:
            await self.keeper.make_page(self.world.db, call, await self.session(asked.session_id))
        return await self.session(asked.session_id)

    async def invoice_page(self, invoice: Invoice, **more: Any) -> CheckoutSession:
        return await self.open(invoice_wish(invoice, **more))

    async def setup_page(self, client: Client, **more: Any) -> CheckoutSession:
        wish = PageWish(
            purpose=CheckoutPurpose.SETUP, channel=Channel.CHECKOUT, success_url=BACK, client_id=client.id, **more
        )
        return await self.open(wish)

    async def ask_setup(self, client: Client, **more: Any) -> SetupIntent:
        """The intent alone."""
        await self.customer(client.id)
        able = self.world.workers.keeper.customers.able(setups_of)
        async with self.world.db.transaction(self.world.call()) as uow:
            setup_id = await setups.request_setup(uow, SetupWish(client_id=client.id, **more), able)
        return await self.setup(setup_id)

    async def open_setup(self, client: Client, **more: Any) -> SetupIntent:
        """The whole call."""
        asked = await self.ask_setup(client, **more)
        await self.keeper.make_setup(self.world.db, self.world.call(), asked)
        return await self.setup(asked.id)

    async def expire(self, session: CheckoutSession) -> CheckoutSession:
        """ExpireCheckoutSession."""
        details = await self.keeper.expire_page(self.world.db, self.world.call(), session)
        async with self.world.db.transaction(self.world.call()) as uow:
            await checkouts.apply_page(uow, session.id, details, Source.LOOKUP)
        return await self.session(session.id)

    async def pay(
        self, client: Client, minor: int, *invoices: Invoice, call: CallContext | None = None, **more: Any
    ) -> PaymentView:
        """CreatePayment."""
        world, call = self.world, call or self.world.call()
        wish = PaymentWish(
            client_id=client.id, money=Money("USD", minor), invoices=[invoice.id for invoice in invoices], **more
        )
        async with world.db.transaction(call) as uow:
            claim = await one_time.request_payment(uow, wish, world.workers.charger.owner)
        await world.workers.charger.run(world.db, call, [claim])
        return await world.payment(claim.payment_id)

    # As the paying client ----------------------------------------------------------------------------------------

    def complete(self, session: CheckoutSession, token: str = "pm_card_visa") -> dict[str, Any]:
        """Fill in the page."""
        return self.post(f"/v1/checkout/sessions/{session.provider_reference}/complete", payment_method=token)

    def complete_refused(self, session: CheckoutSession) -> bool:
        """Whether the page takes no card any more."""
        path = f"/v1/checkout/sessions/{session.provider_reference}/complete"
        return self._http.post(path, json={"payment_method": "pm_card_visa"}).status_code == 400

    def confirm(self, setup: SetupIntent, token: str = "pm_card_visa", *, refused: bool = False) -> dict[str, Any]:
        """Complete the set-up in the browser."""
        path = f"/v1/setup_intents/{setup.provider_reference}/confirm"
        return self.post(path, payment_method=token, expect=402 if refused else 200)

    def authenticate(self, reference: str, result: str = "succeed") -> dict[str, Any]:
        """Answer the bank's question."""
        return self.post(f"/v1/payments/{reference}/complete_action", result=result)

    def post(self, path: str, *, expect: int = 200, **body: Any) -> dict[str, Any]:
        response = self._http.post(path, json=body)
        assert response.status_code == expect, response.text
        found: dict[str, Any] = response.json()
        return found

    def count(self, path: str) -> int:
        """How many objects the provider lists."""
        return len(self._http.get(path).json()["data"])

    # As the provider's events ------------------------------------------------------------------------------------

    async def notices(self) -> list[Notice]:
        """Everything that the provider has told so far, oldest first, without what concerns other suites."""
        provider, account = self.world.workers.provider, self.world._clock
        until = self.world.now + timedelta(days=1)
        page = await provider.list_events(account, START - timedelta(days=1), until)
        assert page.next_page is None
        taken = tuple(
            kind for applier in payment_appliers(self.world.workers.charger.gateways) for kind in applier.notices
        )
        events = [provider.normalise(body) for _, body in page.events]
        return [notice for event in events for notice in event.notices if isinstance(notice, taken)]

    async def deliver(self, notices: Iterable[Notice]) -> list[Applied]:
        """Apply notices as the inbox does: prepared without a transaction, applied in one."""
        world = self.world
        appliers = {kind: each for each in payment_appliers(world.workers.charger.gateways) for kind in each.notices}
        account_id = await world.scalar("SELECT id FROM control.provider_account WHERE firm_id = %s", world.firm_id)
        origin, told = Origin(account_id, "sandbox", uuid7(), "test", None), []
        for notice in notices:
            applier = appliers[type(notice)]
            prepared = await applier.prepare(world.db, world.context, origin, notice)
            async with world.db.transaction(world.call()) as uow:
                told.append(await applier.apply(uow, origin, notice, prepared))
        return told

    async def hear(self, pick: Callable[[Sequence[Notice]], Iterable[Notice]] = list) -> list[Applied]:
        """Deliver what the provider has told, as `pick` orders it."""
        return await self.deliver(pick(await self.notices()))

    # What is seen ------------------------------------------------------------------------------------------------

    async def session(self, session_id: UUID) -> CheckoutSession:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            return await checkouts.get_session(uow, session_id)

    async def setup(self, setup_id: UUID) -> SetupIntent:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            return await setups.get_setup(uow, setup_id)

    async def live_holds(self, invoice: Invoice) -> int:
        found: int = await self.world.scalar(
            "SELECT count(*) FROM collection_hold WHERE firm_id = %s AND invoice_id = %s AND release_time IS NULL",
            self.world.firm_id, invoice.id,
        )  # fmt: skip
        return found

    def close(self) -> None:
        self._http.close()


def invoice_wish(invoice: Invoice, **more: Any) -> PageWish:
    return PageWish(
        **{
            "purpose": CheckoutPurpose.INVOICE, "channel": Channel.CHECKOUT, "success_url": BACK, "invoice_id": invoice.id, **more,
        }
    )  # fmt: skip
