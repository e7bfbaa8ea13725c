"""The state of an invoice, and the table of its transitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from dunwell_server.billing.model import (
    TRANSITIONS,
    VOIDABLE,
    WRITABLE_OFF,
    InvoiceState,
    derive_state,
    proration_from_json,
    proration_to_json,
)
from dunwell_server.kernel.proration import (
    DEFAULT_POLICY,
    AnchorPolicy,
    ChangeDay,
    DayCount,
    EndPolicy,
    ProrationPolicy,
    ProrationUnit,
)

T = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Facts:
    """The facts of an invoice of two minor units, with the amounts that follow computed as the database does."""

    total: int = 2
    amount_received: int = 0
    amount_refunded: int = 0
    amount_charged_back: int = 0
    amount_credited: int = 0
    finalize_time: datetime | None = None
    void_time: datetime | None = None
    write_off_time: datetime | None = None
    overdue_time: datetime | None = None
    open_chargebacks: int = 0
    lost_disputes: int = 0
    retry_pending: bool = False
    retries_exhausted: bool = False

    @property
    def amount_paid(self) -> int:
        return self.amount_received - self.amount_refunded - self.amount_charged_back

    @property
    def amount_due(self) -> int:
        return self.total - self.amount_credited - self.amount_paid


SENT = Facts(finalize_time=T)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (Facts(), "DRAFT"),
        (SENT, "SENT"),
        (replace(SENT, total=0), "PAID"),
        (replace(SENT, amount_received=1), "SENT"),
        (replace(SENT, amount_received=2), "PAID"),
        (replace(SENT, retry_pending=True), "FAILED"),
        (replace(SENT, retries_exhausted=True), "OVERDUE"),
        (replace(SENT, overdue_time=T), "OVERDUE"),
        (replace(SENT, overdue_time=T, retry_pending=True), "OVERDUE"),
        (replace(SENT, overdue_time=T, amount_received=2), "PAID"),
        (replace(SENT, void_time=T, overdue_time=T), "VOID"),
        (replace(SENT, write_off_time=T), "UNCOLLECTIBLE"),
        (replace(SENT, write_off_time=T, amount_received=2), "PAID"),
        (replace(SENT, amount_received=2, open_chargebacks=1), "DISPUTED"),
        (replace(SENT, amount_received=2, amount_charged_back=2, lost_disputes=1), "CHARGED_BACK"),
        (replace(SENT, amount_received=4, amount_charged_back=2, lost_disputes=1), "PAID"),
        (replace(SENT, amount_received=2, amount_refunded=2, amount_credited=2), "REFUNDED"),
        (replace(SENT, amount_received=2, amount_refunded=2), "SENT"),
        (replace(SENT, amount_credited=2), "PAID"),
    ],
)
def test_state_follows_from_the_facts(facts: Facts, state: str) -> None:
    assert derive_state(facts) == state


def moves(facts: Facts) -> Iterator[Facts]:
    """Every single business fact that can follow: money, credit notes, refunds, disputes, retries, due dates, closing."""
    state, due = derive_state(facts), facts.amount_due
    if state is InvoiceState.DRAFT:
        yield replace(facts, finalize_time=T)
    if state in (InvoiceState.DRAFT, InvoiceState.VOID):
        return
    for amount in range(1, due + 1):
        pending = facts.retry_pending and amount < due
        yield replace(facts, amount_received=facts.amount_received + amount, retry_pending=pending)
        yield replace(facts, amount_credited=facts.amount_credited + amount, retry_pending=pending)
    for amount in range(1, facts.amount_paid + 1):
        refunded = facts.amount_refunded + amount
        yield replace(facts, amount_refunded=refunded)  # reopened
        if facts.amount_credited + amount <= facts.total:
            yield replace(facts, amount_refunded=refunded, amount_credited=facts.amount_credited + amount)
    yield from closing_moves(facts, state)
    yield from collection_moves(facts, state)
    yield from dispute_moves(facts)


def closing_moves(facts: Facts, state: InvoiceState) -> Iterator[Facts]:
    if state in WRITABLE_OFF:
        yield replace(facts, write_off_time=T, retry_pending=False)
    if state in VOIDABLE and not facts.amount_received:
        yield replace(facts, void_time=T, retry_pending=False)


def collection_moves(facts: Facts, state: InvoiceState) -> Iterator[Facts]:
    if state in (InvoiceState.SENT, InvoiceState.FAILED):
        yield replace(facts, overdue_time=T)
    # The outcome of a charge may also land while the invoice is disputed.
    if (
        state in (InvoiceState.SENT, InvoiceState.FAILED, InvoiceState.OVERDUE, InvoiceState.DISPUTED)
        and facts.amount_due
    ):
        yield replace(facts, retry_pending=True, retries_exhausted=False)
        yield replace(facts, retry_pending=False, retries_exhausted=True)
        yield replace(facts, retry_pending=False)
        yield replace(facts, retry_pending=False, retries_exhausted=False)


def dispute_moves(facts: Facts) -> Iterator[Facts]:
    opened, lost = facts.open_chargebacks, facts.lost_disputes
    if facts.amount_received and opened + lost < 1:
        yield replace(facts, open_chargebacks=opened + 1)
    if opened:
        yield replace(facts, open_chargebacks=opened - 1)  # won, or closed
        for amount in range(facts.amount_paid + 1):  # nothing, where all of it was refunded before
            taken = facts.amount_charged_back + amount
            yield replace(facts, open_chargebacks=opened - 1, lost_disputes=lost + 1, amount_charged_back=taken)
    if lost:
        for amount in range(1, facts.amount_paid + 1):  # a refund failed that had kept it back
            yield replace(facts, amount_charged_back=facts.amount_charged_back + amount)
        # Appealed; money that comes back goes to the invoice as far as it is owed.
        appealed = replace(facts, open_chargebacks=opened + 1, lost_disputes=lost - 1)
        yield appealed
        back = min(facts.amount_charged_back, facts.amount_due)
        yield replace(appealed, amount_charged_back=facts.amount_charged_back - back)


def test_the_transition_table_is_exactly_what_can_happen() -> None:
    start = {Facts(), Facts(total=0)}
    seen, todo = set(start), list(start)
    produced: dict[InvoiceState, set[InvoiceState]] = defaultdict(set)
    while todo:
        facts = todo.pop()
        for after in moves(facts):
            assert after.amount_due >= 0
            source, target = derive_state(facts), derive_state(after)
            if source != target:
                produced[source].add(target)
            # Paid, reopened and paid once more is as far as new states appear.
            if after.amount_received <= 4 and after not in seen:
                seen.add(after)
                todo.append(after)
    assert produced == {state: set(targets) for state, targets in TRANSITIONS.items() if targets}


def test_nothing_leaves_void() -> None:
    assert not TRANSITIONS[InvoiceState.VOID]
    assert not list(moves(replace(SENT, void_time=T)))


def test_a_proration_policy_survives_storage() -> None:
    policy = ProrationPolicy(
        ProrationUnit.SECOND, DayCount.FIXED_30, AnchorPolicy.RESET, ChangeDay.KEEP_OLD, EndPolicy.INCLUSIVE
    )
    read = proration_from_json(proration_to_json(policy))
    assert read == policy
    assert read.unit is ProrationUnit.SECOND
    assert proration_from_json({}) == DEFAULT_POLICY
