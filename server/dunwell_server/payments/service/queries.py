"""Reading payments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import Allocation, Attempt, Payment, PaymentKind
from dunwell_server.payments.store import checkouts, due, payments
from dunwell_server.payments.store.payments import PaymentFilter
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, is_enabled
from dunwell_server.platform.questions import Question, known, together


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment with what it settled and, where one payment was asked for, its attempts."""

    payment: Payment
    allocations: list[Allocation]
    attempts: list[Attempt]
    session_id: UUID | None = None
    """The page on which it is asked for."""


async def get_payment(uow: UnitOfWork, payment_id: UUID) -> PaymentView:
    """One payment with its attempts. Errors: RESOURCE_NOT_FOUND."""
    payment = await payments.get(uow, payment_id)
    if payment is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such payment.", resource=("Payment", encode(Prefix.PAYMENT, payment_id))
        )
    settled = (await payments.allocations_of(uow, [payment_id]))[payment_id]
    page = (await _sessions(uow, [payment])).get(payment_id)
    return PaymentView(payment, settled, await payments.attempts_of(uow, payment_id), page)


async def list_payments(
    uow: UnitOfWork, wanted: PaymentFilter, *, oldest_first: bool, after: tuple[Any, ...] | None, limit: int
) -> list[PaymentView]:
    """A page of payments, without attempts."""
    found = await payments.page(
        uow, wanted, oldest_first=oldest_first, after=(after[0], after[1]) if after else None, limit=limit
    )
    settled = await payments.allocations_of(uow, [payment.id for payment in found]) if found else {}
    pages = await _sessions(uow, found)
    return [PaymentView(payment, settled[payment.id], [], pages.get(payment.id)) for payment in found]


async def _sessions(uow: UnitOfWork, found: Sequence[Payment]) -> dict[UUID, UUID]:
    return await checkouts.of_payments(uow, [each.id for each in found if each.kind is PaymentKind.CHECKOUT])


async def payment_version(uow: UnitOfWork, payment_id: UUID) -> int | None:
    """What a watcher compares: it rises with every change of the payment."""
    return await payments.version(uow, payment_id)


def collect_next_due(uow: UnitOfWork) -> Question[datetime | None]:
    """When collection next has something to do for the firm, in firm time; None: nothing is scheduled, or charging is stopped."""
    # What waits for a breaker to be reset, or for a recovery to end, is not due: whoever ends it wakes the collection.
    if uow.recovering or not is_enabled(uow, Feature.CARD_PAYMENTS):
        return known(uow, None)
    return due.next_collect(uow)


def attempts_next_due(uow: UnitOfWork) -> Question[datetime | None]:
    """When an attempt of the firm next needs somebody, in firm time; None: none does."""
    following: Question[datetime | None] = known(uow, None) if uow.recovering else due.next_attempts(uow)
    return unless_in_hand(uow, due.in_hand(uow), following)


def unless_in_hand(
    uow: UnitOfWork, in_hand: Question[bool], following: Question[datetime | None]
) -> Question[datetime | None]:
    """When something next needs somebody. A test clock does not pass by what is under way: then it is now."""
    if not uow.clock.is_test:
        return following
    first: Question[datetime | None] = in_hand.then(lambda is_in_hand: uow.now if is_in_hand else None)
    return together(uow, [first, following]).then(lambda times: times[0] or times[1])
