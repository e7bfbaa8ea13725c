"""Look-ups, cancellations and refunds: what is not known is never taken for what is not there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import RefundOutcomeClass, RefundRequest
from dunwell_server.providers.base import (
    OutcomeClass,
)
from tests.providers.stripe.loopback import Drop, Reply, Seen
from tests.providers.stripe.support import (
    TEST_ACCOUNT,
    charge_request,
    error,
    intent,
    stripe_answering,
)


async def test_a_search_that_breaks_off_is_unknown_never_none() -> None:
    request = charge_request()
    first = {"object": "list", "has_more": True, "data": [intent(request, metadata={"key": "other"})]}
    endings: list[Any] = [
        error(500, "api_error"),
        error(429),
        Reply(200, b"<html>"),
        Reply.of({"object": "list", "data": []}),
        Reply.of({"object": "list", "data": [], "has_more": True}),
        Reply.of({"object": "list", "data": ["pi_1"], "has_more": False}),
    ]
    for ending in endings:

        def pages(seen: Seen, ending: Reply = ending) -> Reply:
            return ending if "starting_after" in dict(seen.query) else Reply.of(first)

        async with stripe_answering(pages) as (provider, server):
            found = await provider.lookup(TEST_ACCOUNT, key=request.key, customer_reference="cus_1")
            assert found is not None
            assert found.outcome is OutcomeClass.UNKNOWN
            assert len(server.seen) == 2


async def test_a_search_goes_through_all_pages_of_the_customer_since_then() -> None:
    request = charge_request()
    since = datetime(2026, 1, 1, tzinfo=UTC)
    other = [intent(request, id=f"pi_{n}", metadata={"key": "other"}) for n in range(2)]

    def pages(seen: Seen) -> Reply:
        query = dict(seen.query)
        assert (query["customer"], query["created[gte]"]) == ("cus_1", str(int(since.timestamp()) - 3600))
        last = query.get("starting_after") == "pi_1"
        return Reply.of(
            {"object": "list", "has_more": not last, "data": [intent(request, id="pi_9")] if last else other}
        )

    async with stripe_answering(pages) as (provider, server):
        found = await provider.lookup(
            TEST_ACCOUNT, key=request.key, money=request.money, customer_reference="cus_1", since=since
        )
        assert found is not None
        assert (found.outcome, found.provider_reference) == (OutcomeClass.SUCCEEDED, "pi_9")
        assert await provider.lookup(TEST_ACCOUNT, key="nobody's", customer_reference="cus_1", since=since) is None
        assert len(server.seen) == 4


async def test_a_clock_ahead_of_stripes_does_not_narrow_a_search() -> None:
    def page(seen: Seen) -> Reply:
        assert "created[gte]" not in dict(seen.query)
        return Reply.of({"object": "list", "has_more": False, "data": []})

    async with stripe_answering(page) as (provider, _):
        ahead = datetime.now(UTC) + timedelta(days=400)
        assert await provider.lookup(TEST_ACCOUNT, key="k", since=ahead) is None


async def test_cancelling_says_what_the_payment_has_become() -> None:
    request = charge_request()
    for status, expected in (("succeeded", OutcomeClass.SUCCEEDED), ("processing", OutcomeClass.PENDING)):

        def late(seen: Seen, status: str = status) -> Reply:
            if seen.path.endswith("/cancel"):
                return error(400, code="payment_intent_unexpected_state")
            return Reply.of(intent(request, status=status))

        async with stripe_answering(late) as (provider, server):
            assert (await provider.cancel(TEST_ACCOUNT, "pi_1")).outcome is expected
            assert [seen.path for seen in server.seen] == [
                "/v1/payment_intents/pi_1/cancel",
                "/v1/payment_intents/pi_1",
            ]


@pytest.mark.parametrize(
    ("reply", "expected", "executed"),
    [
        (error(429), RefundOutcomeClass.NOT_SENT, False),
        (error(401), RefundOutcomeClass.NOT_SENT, False),
        (error(400, code="charge_already_refunded"), RefundOutcomeClass.FAILED, False),
        (error(400, "idempotency_error"), RefundOutcomeClass.UNKNOWN, True),
        (error(409), RefundOutcomeClass.UNKNOWN, True),
        (error(500, "api_error"), RefundOutcomeClass.UNKNOWN, True),
        (Reply(200, b"<html>"), RefundOutcomeClass.UNKNOWN, True),
        (
            Reply.of({"id": "re_1", "amount": 101, "currency": "usd", "status": "succeeded"}),
            RefundOutcomeClass.UNKNOWN,
            True,
        ),
        (Reply.of({"id": "re_1", "amount": 100, "currency": "usd", "status": "odd"}), RefundOutcomeClass.UNKNOWN, True),
        (
            Reply.of({"id": "re_1", "amount": 100, "currency": "usd", "status": "pending"}),
            RefundOutcomeClass.PENDING,
            True,
        ),
        (
            Reply.of({"id": "re_1", "amount": 100, "currency": "usd", "status": "requires_action"}),
            RefundOutcomeClass.PENDING,
            True,
        ),
        (
            Reply.of({"id": "re_1", "amount": 100, "currency": "usd", "status": "canceled"}),
            RefundOutcomeClass.FAILED,
            True,
        ),
        (
            Reply.of(
                {"id": "re_1", "amount": 100, "currency": "usd", "status": "failed", "failure_reason": "declined"}
            ),
            RefundOutcomeClass.FAILED,
            True,
        ),
        (Drop, RefundOutcomeClass.UNKNOWN, True),
    ],
)
async def test_each_answer_about_a_refund_has_one_class(
    reply: Any, expected: RefundOutcomeClass, executed: bool
) -> None:
    refund = RefundRequest(
        account=TEST_ACCOUNT,
        key="r:1",
        firm="f",
        payment="p",
        refund="r",
        payment_reference="pi_1",
        money=Money("USD", 100),
    )
    async with stripe_answering(reply) as (provider, server):
        outcome = await provider.refund(refund)
        assert (outcome.outcome, outcome.executed) == (expected, executed)
        [seen] = server.seen
        assert seen.headers["idempotency-key"] == "r:1"
        assert seen.form["payment_intent"] == "pi_1"
