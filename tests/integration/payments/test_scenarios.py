"""The four scenarios that name the product: a charge succeeds; failures are retried to the end; switching off cancels; twice pays once."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.payments.model import PaymentState
from tests.integration.payments.world import START, World


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


async def test_a_due_invoice_is_charged_once_and_paid(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, "120.00", due=date(2026, 3, 10))
    assert invoice.collection.autopay_next_charge_time == at("2026-03-10T03:00")

    await world.advance(at("2026-03-10T02:59"))
    assert world.movements == 0
    await world.advance(at("2026-03-10T03:00"))

    paid = await world.invoice_now(invoice.id)
    assert (paid.state, paid.amount_due, paid.collection.autopay_status) == (
        InvoiceState.PAID,
        0,
        AutopayStatus.SUCCEEDED,
    )
    [payment] = await world.payments(invoice.id)
    assert (payment.state, payment.captured_minor, payment.allocated_minor) == (PaymentState.SUCCEEDED, 12000, 12000)
    assert world.moved(payment.id) == world.movements == 1
    assert await world.balances(client.id) == (0, 0)
    assert ("payment_succeeded", "INFO") in await world.actions(payment.id)
    assert (
        await world.scalar(
            "SELECT count(*) FROM collection_hold WHERE firm_id = %s AND release_time IS NULL", world.firm_id
        )
        == 0
    )


async def test_failures_are_retried_after_3_7_and_14_days_and_end_overdue(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    seen = []
    for day, count, state in (("10", 1, "FAILED"), ("13", 2, "FAILED"), ("20", 3, "FAILED"), ("03", 4, "OVERDUE")):
        month = "04" if day == "03" else "03"
        await world.advance(at(f"2026-{month}-{day}T03:00"))
        now = await world.invoice_now(invoice.id)
        assert (now.collection.failure_count, now.state.value) == (count, state)
        assert (now.collection.failure_code, now.collection.failure_provider_code) == (
            "card_declined",
            "generic_decline",
        )
        seen.append(now.collection.autopay_next_charge_time)
    assert seen == [at("2026-03-13T03:00"), at("2026-03-20T03:00"), at("2026-04-03T03:00"), None]

    await world.advance(at("2026-06-01T00:00"))
    tries = await world.payments(invoice.id)
    assert [payment.slot for payment in tries] == [0, 1, 2, 3]
    assert {payment.state for payment in tries} == {PaymentState.FAILED}
    assert ("collection_exhausted", "CRITICAL") in await world.actions(invoice.id)
    assert world.movements == 0


async def test_with_two_waits_the_third_failure_is_the_last(make_world) -> None:  # type: ignore[no-untyped-def]
    from dunwell_server.platform.firms import RetryPolicy

    world: World = await make_world(retry=RetryPolicy((3, 7)))
    client, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    await world.advance(START + timedelta(days=60))
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count, now.collection.failure_code) == (
        InvoiceState.OVERDUE,
        3,
        "insufficient_funds",
    )
    assert len(await world.payments(invoice.id)) == 3


async def test_a_retry_that_succeeds_pays_the_invoice(world: World) -> None:
    client, _ = await world.client("pm_sandbox_failTwiceThenSucceed")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    await world.advance(START + timedelta(days=60))
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count, now.retry_pending) == (InvoiceState.PAID, 2, False)
    assert world.movements == 1


async def test_switching_autopay_off_cancels_pending_retries_and_scheduled_charges_at_once(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    failing = await world.invoice(client, due=date(2026, 3, 10))
    waiting = await world.invoice(client, due=date(2026, 5, 1))
    await world.advance(at("2026-03-10T12:00"))
    assert (await world.invoice_now(failing.id)).state is InvoiceState.FAILED

    change = await world.autopay(client.id, False)
    assert change.cancelled == 2
    for invoice_id in (failing.id, waiting.id):
        now = await world.invoice_now(invoice_id)
        assert now.collection.autopay_status is AutopayStatus.CANCELLED
        assert (now.retry_pending, now.collection.autopay_next_charge_time, now.collection.autopay_enabled) == (
            False,
            None,
            False,
        )
    await world.advance(START + timedelta(days=90))
    assert len(await world.payments(failing.id)) == 1
    assert await world.payments(waiting.id) == []


async def test_executing_twice_pays_once(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    await world.move(at("2026-03-10T03:00"))
    first = await world.collection_run()
    second = await world.collection_run()
    assert (first.total, first.done, first.counts, first.amounts) == (1, 1, {"CHARGED": 1}, {"USD": 12000})
    assert (second.total, second.done, second.counts) == (0, 0, {})
    assert world.movements == 1
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
