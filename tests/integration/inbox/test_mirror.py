"""The mirror of the provider's own subscriptions and invoices: the newest wins, in every order of arrival."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.inbox.ports import Origin
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.platform.context import CallContext
from dunwell_server.providers.abilities import (
    ProviderInvoice,
    ProviderInvoiceState,
    ProviderSubscription,
    ProviderSubscriptionState,
)
from dunwell_server.providers.events import InvoiceNotice, SubscriptionNotice
from tests import support
from tests.integration.inbox.conftest import House, firm_of

MakeFirm = Callable[..., Awaitable[CallContext]]
START = datetime(2026, 3, 1, tzinfo=UTC)

SUBSCRIPTION = ProviderSubscription(
    provider_reference="sub_1", customer_reference="cus_1", state=ProviderSubscriptionState.ACTIVE, price_reference="price_1", quantity=1,
    current_period_start=START, current_period_end=START + timedelta(days=30), cancel_at_period_end=False, cancel_time=None, trial_end=None,
    latest_invoice_reference="in_1", metadata={"plan": "gold"}, created_time=START,
)  # fmt: skip
INVOICE = ProviderInvoice(
    provider_reference="in_1", number="A-1", state=ProviderInvoiceState.OPEN, customer_reference="cus_1", subscription_reference="sub_1",
    payment_reference=None, total=Money("USD", 1200), amount_paid=Money("USD", 0), amount_due=Money("USD", 1200), attempt_count=0,
    hosted_url=None, metadata={}, created_time=START,
)  # fmt: skip


async def apply(house: House, firm: UUID, account: UUID, notice: Any, minute: int | None) -> str:
    when = None if minute is None else START + timedelta(minutes=minute)
    origin = Origin(account, "toy", uuid7(), "x", when)
    async with house.db.transaction(support.context(firm)) as uow:
        return (await MirrorApplier().apply(uow, origin, notice, None)).result

    return support.context(firm)


async def mirrored(house: House, firm: UUID) -> dict[str, Any]:
    (row,) = await house.rows("SELECT client_id, state, snapshot, version FROM provider_mirror", firm=firm)
    return row


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_the_newest_wins_in_every_order(house: House, make_firm: MakeFirm, order: tuple[int, ...]) -> None:
    firm, account = await firm_of(await make_firm()), uuid7()
    active, cancelled = ProviderSubscriptionState.ACTIVE, ProviderSubscriptionState.CANCELLED
    told = [
        (replace(SUBSCRIPTION, state=ProviderSubscriptionState.INCOMPLETE), 0),
        (replace(SUBSCRIPTION, state=active, quantity=1), 1),
        (replace(SUBSCRIPTION, state=cancelled, quantity=3), 2),
        (replace(SUBSCRIPTION, state=active, quantity=2), 2),
    ]
    for index in order:
        subscription, minute = told[index]
        await apply(house, firm, account, SubscriptionNotice(subscription), minute)
    row = await mirrored(house, firm)
    assert (row["state"], row["snapshot"]["quantity"]) == ("CANCELLED", 3), "of one second, the later state"


async def test_it_holds_what_the_provider_told_and_whose_it_is(house: House, make_firm: MakeFirm) -> None:
    firm, account, client = await firm_of(await make_firm()), uuid7(), uuid4()
    assert "is open" in await apply(house, firm, account, InvoiceNotice(INVOICE), 1)
    assert (await mirrored(house, firm))["client_id"] is None
    await house.change(
        "INSERT INTO client (firm_id, id, name, currency_code) VALUES (%s, %s, 'Harbour Bakery', 'USD')",
        firm, client, firm=firm,
    )  # fmt: skip
    await house.change(
        "INSERT INTO provider_customer (firm_id, client_id, account_id, provider, provider_reference) VALUES (%s, %s, %s, 'toy', 'cus_1')",
        firm, client, account, firm=firm,
    )  # fmt: skip
    paid = replace(INVOICE, state=ProviderInvoiceState.PAID, amount_paid=Money("USD", 1200), paid_time=START)
    await apply(house, firm, account, InvoiceNotice(paid), 2)
    assert "something as new" in await apply(house, firm, account, InvoiceNotice(INVOICE), 1)
    row = await mirrored(house, firm)
    assert (row["client_id"], row["state"], row["version"]) == (client, "PAID", 2)
    assert row["snapshot"]["amount_paid"] == {"currency_code": "USD", "minor": 1200}
    assert row["snapshot"]["paid_time"] == START.isoformat()


async def test_a_repeat_changes_nothing(house: House, make_firm: MakeFirm) -> None:
    firm, account = await firm_of(await make_firm()), uuid7()
    for _ in range(3):
        await apply(house, firm, account, SubscriptionNotice(SUBSCRIPTION), 1)
    assert (await mirrored(house, firm))["version"] == 1
