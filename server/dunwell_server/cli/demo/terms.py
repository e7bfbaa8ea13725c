"""What the main firm of the demonstration agreed beyond packages: hours, taxes, a coupon, credit. Every step may be repeated."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from google.type import date_pb2, decimal_pb2

from dunwell.v1 import (
    billing_service_pb2,
    coupon_pb2,
    credit_pb2,
    engagement_pb2,
    money_pb2,
    subscription_service_pb2,
    tax_pb2,
    time_entry_pb2,
)
from dunwell_server.cli.demo.api import Api, request_id
from dunwell_server.cli.demo.story import COUPON, COUPON_HOLDER, CREDIT, TAXES, Hours, Person

SUBMITTER: Final = "tom@harbour-vale.example"
APPROVER: Final = "ann@harbour-vale.example"


async def offer(api: Api, firm_id: str) -> None:
    """The firm's tax rates and its coupon."""
    for name, percentage, country, region in TAXES:
        rate = tax_pb2.TaxRate(
            name=name, percentage=decimal_pb2.Decimal(value=percentage), country_code=country, region=region
        )
        request = billing_service_pb2.CreateTaxRateRequest(tax_rate=rate, request_id=request_id(firm_id, "tax", name))
        await api.call(api.billing.CreateTaxRate, request)
    code, name, percent = COUPON
    coupon = coupon_pb2.Coupon(
        code=code, name=name, percent=decimal_pb2.Decimal(value=percent), duration=coupon_pb2.COUPON_DURATION_REPEATING,
        duration_periods=3,
    )  # fmt: skip
    await api.call(
        api.subscriptions.CreateCoupon,
        subscription_service_pb2.CreateCouponRequest(coupon=coupon, request_id=request_id(firm_id, "coupon", code)),
    )


async def favour(api: Api, firm_id: str, person: Person, client_id: str) -> None:
    """The coupon and the credit of those who have them."""
    if person.key == COUPON_HOLDER:
        redeem = subscription_service_pb2.RedeemCouponRequest(
            code=COUPON[0], client_id=client_id, request_id=request_id(firm_id, person.key, "redeem")
        )
        await api.call(api.subscriptions.RedeemCoupon, redeem)
    holder, cents, reason = CREDIT
    if person.key == holder:
        grant = billing_service_pb2.GrantCreditRequest(
            client_id=client_id, kind=credit_pb2.CREDIT_KIND_GOODWILL, reason=reason,
            amount=money_pb2.Money(currency_code=person.currency, amount_minor=cents),
            request_id=request_id(firm_id, person.key, "credit"),
        )  # fmt: skip
        await api.call(api.billing.GrantCredit, grant, actor=APPROVER)


def hourly(hours: Hours, interval: engagement_pb2.BillingInterval.ValueType) -> engagement_pb2.HourlyTerms:
    """The terms of the hours, billed every `interval`; unspecified where a fee has one."""
    return engagement_pb2.HourlyTerms(
        default_rate=decimal_pb2.Decimal(value=hours.rate),
        role_rates=[
            engagement_pb2.RoleRate(role=role, rate=decimal_pb2.Decimal(value=rate)) for role, rate in hours.roles
        ],
        billing_increment_minutes=6,
        included_minutes=hours.included_minutes,
        rollover_periods=1 if hours.included_minutes else 0,
        interval=interval,
    )


async def work(api: Api, firm_id: str, engagement: engagement_pb2.Engagement, hours: Hours, today: date) -> None:
    """The time, entered and submitted by one and approved by another."""
    entries = [
        time_entry_pb2.TimeEntry(
            engagement_id=engagement.id, person=each.person, role=each.role, work_date=_date(today - timedelta(days=each.days_ago)),
            minutes=each.minutes, description=each.text,
        )
        for each in hours.worked
    ]  # fmt: skip
    create = billing_service_pb2.CreateTimeEntryRequest(
        time_entries=entries, request_id=request_id(firm_id, engagement.id, "time")
    )
    made = await api.call(api.billing.CreateTimeEntry, create, actor=SUBMITTER)
    ids = [result.time_entry.id for result in made.results]
    submit = billing_service_pb2.SubmitTimeEntriesRequest(
        time_entry_ids=ids, request_id=request_id(firm_id, engagement.id, "submit")
    )
    await api.call(api.billing.SubmitTimeEntries, submit, actor=SUBMITTER)
    approve = billing_service_pb2.ApproveTimeEntriesRequest(
        time_entry_ids=ids, request_id=request_id(firm_id, engagement.id, "approve")
    )
    await api.call(api.billing.ApproveTimeEntries, approve, actor=APPROVER)


def _date(day: date) -> date_pb2.Date:
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)
