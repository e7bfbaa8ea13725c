"""Money that has left is booked, though what it was to be taken from is gone: given up, and told loudly."""

from __future__ import annotations

from datetime import timedelta

from dunwell_server.billing.model.credit import CreditSource, CreditUseKind
from dunwell_server.billing.service.credit import take
from dunwell_server.kernel.errors import Reason
from dunwell_server.ledger.model import Account, Entry, Posting
from dunwell_server.ledger.service import post
from dunwell_server.payments.refunds import RefundState
from tests.integration.payments.refunding import Refunds, refused
from tests.integration.payments.world import START, World

TAMPERS = True
"""The client's credit is spent behind the payments' back."""


async def test_credit_that_was_used_up_meanwhile_is_not_overdrawn(world: World) -> None:
    refunds = Refunds(world)
    client, _ = await world.client("pm_sandbox_pendingThenSuccess", autopay=False)
    invoice = await world.invoice(client)
    paid = await world.charge(invoice.id)
    await refunds.received(client.id, 12000, (invoice, 12000))
    await world.advance(START + timedelta(hours=3))
    assert await world.balances(client.id) == (0, 12000), "the invoice was paid otherwise: the charge is credit"
    view = await refunds.ask(paid.payment.id, 11000, send=False)
    async with world.db.transaction(world.call()) as uow:
        await post(uow, [Posting("client", client.id, "spent", [
            Entry(Account.CLIENT_CREDIT, 3000, "USD", client.id), Entry(Account.REVENUE, -3000, "USD"),
        ])])  # fmt: skip
        lost = (CreditSource.DISPUTE, client.id)
        assert await take(uow, client.id, "USD", 3000, CreditUseKind.CHARGED_BACK, lost) == 3000
        await uow.execute("UPDATE refund SET lease_until = now() - interval '1 s' WHERE firm_id = %s", (world.firm_id,))
    error = await refused(refunds.ask(paid.payment.id, 1000))
    assert (error.reason, error.metadata["refundable_minor"]) == (Reason.REFUND_EXCEEDS_PAYMENT, "0")
    await refunds.work()
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.from_credit_minor, refund.uncovered_minor) == (RefundState.SUCCEEDED, 9000, 2000)
    assert await world.balances(client.id) == (0, 0)
    assert (await refunds.accounts())["bad_debt"] == 2000
    assert ("refund_succeeded", "CRITICAL") in await world.actions(refund.id)
    assert (await world.invoice_now(invoice.id)).amount_refunded == 0
    await refunds.agree()
