"""Coupons: creating and redeeming them, and counting their uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from psycopg.errors import CheckViolation, UniqueViolation

from dunwell_server.billing.coupons import Coupon, CouponRedemption
from dunwell_server.billing.errors import not_found, refuse_archived
from dunwell_server.billing.model import InvoiceDiscount
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.pricing import uses
from dunwell_server.billing.store import coupons as store
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import pricing as pricing_store
from dunwell_server.billing.store.coupons import CouponQuery, NewCoupon
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import known_currency
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change

_LIMITS: Final = {
    "coupon_redemption_count_check": "EXHAUSTED",
    "coupon_redemption_per_client": "CLIENT_LIMIT",
}
"""What the database's refusal of a redemption means."""
_CAUSES: Final = {
    "ARCHIVED": "It is archived.",
    "NOT_YET_VALID": "It is not valid yet.",
    "EXPIRED": "It is no longer valid.",
    "CURRENCY": "It is in another currency than the client's.",
    "EXHAUSTED": "It has been redeemed as often as it may.",
    "CLIENT_LIMIT": "The client has redeemed it as often as it may.",
}


async def create_coupon(uow: UnitOfWork, new: NewCoupon) -> Coupon:
    """Add a coupon. Errors: ALREADY_EXISTS, UNKNOWN_CURRENCY, PERIOD_INVALID."""
    if new.currency_code is not None:
        known_currency(new.currency_code, "coupon.amount.currency_code")
    if new.valid_from_date and new.valid_until_date and new.valid_until_date <= new.valid_from_date:
        raise DunwellError(Reason.PERIOD_INVALID, "a coupon must end after it begins", field="coupon.valid_until_date")
    try:
        coupon = await store.insert(uow, new)
    except UniqueViolation as error:
        message = "Another coupon of the firm has this code."
        raise DunwellError(Reason.ALREADY_EXISTS, message, field="coupon.code") from error
    metadata = {"coupon_id": encode(Prefix.COUPON, coupon.id), "code": coupon.code, "name": coupon.name}
    await journal.record(
        uow,
        Change(Category.BILLING, "coupon_created", "coupon", coupon.id, event="coupon.created", metadata=metadata),
    )
    return coupon


async def list_coupons(uow: UnitOfWork, query: CouponQuery, page: PageRequest) -> list[Coupon]:
    """One page of coupons."""
    return await store.select(uow, query, page)


async def redeem_coupon(
    uow: UnitOfWork, code: str, client_id: UUID, engagement_id: UUID | None = None
) -> tuple[CouponRedemption, Coupon]:
    """Put a coupon into a client's hands, limited to the lines of an engagement where one is given.

    Errors: RESOURCE_NOT_FOUND, COUPON_NOT_REDEEMABLE, STATE_CONFLICT for an archived client, FIELD_INVALID for an engagement of another.
    """
    client = await get_client(uow, client_id, lock=True)
    refuse_archived(client, "coupon")
    if engagement_id is not None:
        engagement = await engagement_store.get(uow, engagement_id)
        if engagement is None:
            raise not_found("Engagement", engagement_id)
        if engagement.client_id != client_id:
            raise field_invalid("engagement_id", "the engagement is of another client")
    coupon = await store.by_code(uow, code)
    if coupon is None:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No coupon has this code.", resource=("Coupon", code))
    cause = coupon.refusal(client.currency_code, today(uow))
    if cause is not None:
        raise _refused(coupon, cause)
    with _within_limits(coupon):
        redemption = await store.redeem(uow, coupon, client_id, engagement_id)
    metadata = {
        "redemption_id": encode(Prefix.COUPON_REDEMPTION, redemption.id),
        "coupon_id": encode(Prefix.COUPON, coupon.id),
        "code": coupon.code,
        "client_id": encode(Prefix.CLIENT, client_id),
    }
    change = Change(
        Category.BILLING,
        "coupon_redeemed",
        "coupon_redemption",
        redemption.id,
        event="coupon.redeemed",
        metadata=metadata,
    )
    await journal.record(uow, change)
    return redemption, coupon


async def record_uses(uow: UnitOfWork, discounts: Iterable[InvoiceDiscount]) -> None:
    """Count the coupons among the discounts of invoices that are being sent, any number at once; no statement where there are none."""
    counted = uses(discounts)
    if counted:
        await pricing_store.take_uses(uow, counted)


async def give_back(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> None:
    """Give the uses of invoices that are being voided back to their coupons: one statement."""
    await pricing_store.give_back_uses(uow, invoice_ids)


def _refused(coupon: Coupon, cause: str) -> DunwellError:
    return DunwellError(
        Reason.COUPON_NOT_REDEEMABLE,
        f"The coupon cannot be redeemed: {_CAUSES[cause]}",
        metadata={"coupon_id": encode(Prefix.COUPON, coupon.id), "cause": cause},
        resource=("Coupon", encode(Prefix.COUPON, coupon.id)),
    )


@contextmanager
def _within_limits(coupon: Coupon) -> Iterator[None]:
    try:
        yield
    except CheckViolation as error:
        cause = _LIMITS.get(error.diag.constraint_name or "")
        if cause is None:
            raise
        raise _refused(coupon, cause) from error
