"""Sets the demonstration up through the public RPCs. Every step may be repeated: it then finds what it made before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from google.type import date_pb2

from dunwell.v1 import (
    address_pb2,
    admin_service_pb2,
    api_key_pb2,
    billing_service_pb2,
    client_pb2,
    engagement_pb2,
    firm_pb2,
    money_pb2,
    options_pb2,
    payment_service_pb2,
    provider_pb2,
)
from dunwell_server.cli.demo import terms
from dunwell_server.cli.demo.api import Api, fresh_request_id, request_id
from dunwell_server.cli.demo.state import DemoFirm, DemoState
from dunwell_server.cli.demo.story import HARBOUR, LANTERN, Company, Deal, Person

UNSPECIFIED: Final = engagement_pb2.BILLING_INTERVAL_UNSPECIFIED
Step = Callable[[], None]
"""Called after each client that is ready."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where a company's clients are set up: its firm, its caller, and its civil today."""

    company: Company
    firm_id: str
    api: Api
    today: date


def clients_count() -> int:
    """How many clients there are to set up."""
    return len(HARBOUR.people) + len(LANTERN.people)


async def build(address: str, admin_key: str, state: DemoState, step: Step) -> None:
    """Both firms with everything they need before the first run; fills `state.firms`."""
    for company in (HARBOUR, LANTERN):
        firm = await _ensure_firm(address, admin_key, company, state)
        state.firms[company.external_id] = firm
        async with Api(address, firm.key) as api:
            if company is LANTERN:
                today = await _ensure_clock(api, firm.firm_id)
            else:
                today = datetime.now(ZoneInfo(company.time_zone)).date()
            stage = _Stage(company, firm.firm_id, api, today)
            if company is HARBOUR:
                await terms.offer(api, firm.firm_id)
            for person in company.people:
                client_id = await _add_client(stage, person)
                if company is HARBOUR:
                    await terms.favour(api, firm.firm_id, person, client_id)
                step()


async def _ensure_firm(address: str, admin_key: str, company: Company, state: DemoState) -> DemoFirm:
    """The firm and a key that opens it: those remembered where they still work."""
    known = state.firms.get(company.external_id)
    if known is not None and await opens(address, known):
        return known
    async with Api(address, admin_key) as admin:
        firm_id = await _find_firm(admin, company) or await _create_firm(admin, company)
    async with Api(address, admin_key, firm_id=firm_id) as admin:
        api_key = api_key_pb2.ApiKey(
            display_name="Demonstration", role=options_pb2.ROLE_FIRM_ADMIN, may_name_actor=True
        )
        request = admin_service_pb2.CreateApiKeyRequest(api_key=api_key, request_id=fresh_request_id())
        made = await admin.call(admin.admin.CreateApiKey, request)
    return DemoFirm(firm_id, company.name, made.secret)


async def opens(address: str, firm: DemoFirm) -> bool:
    """Whether a remembered key still opens its firm."""
    async with Api(address, firm.key) as api:
        return await api.accepts(api.admin.GetFirm, admin_service_pb2.GetFirmRequest(firm_id=firm.firm_id))


async def _find_firm(admin: Api, company: Company) -> str | None:
    request = admin_service_pb2.ListFirmsRequest(external_id=company.external_id)
    found = (await admin.call(admin.admin.ListFirms, request)).firms
    return str(found[0].id) if found else None


async def _create_firm(admin: Api, company: Company) -> str:
    firm = firm_pb2.Firm(
        external_id=company.external_id,
        display_name=company.name,
        legal_name=company.legal_name,
        currency_code="USD" if company is HARBOUR else "GBP",
        time_zone=company.time_zone,
        locale="en-US" if company is HARBOUR else "en-GB",
        notice_email="billing@example.com",
        mode=provider_pb2.ACCOUNT_MODE_TEST,
        numbering=firm_pb2.InvoiceNumbering(prefix=company.prefix, padding=4),
        payment_terms_days=30,
    )
    request = admin_service_pb2.CreateFirmRequest(firm=firm, request_id=fresh_request_id())
    return str((await admin.call(admin.admin.CreateFirm, request)).firm.id)


async def _ensure_clock(api: Api, firm_id: str) -> date:
    """The firm's test clock, at the first Monday or so of next year; returns its civil date."""
    firm = (await api.call(api.admin.GetFirm, admin_service_pb2.GetFirmRequest())).firm
    if firm.test_clock_id:
        clock = (await api.call(api.admin.GetTestClock, admin_service_pb2.GetTestClockRequest())).test_clock
    else:
        start = datetime(datetime.now(UTC).year + 1, 1, 4, 9, tzinfo=UTC)
        request = admin_service_pb2.CreateTestClockRequest(request_id=request_id(firm_id, "clock"))
        request.firm_time.FromDatetime(start)
        clock = (await api.call(api.admin.CreateTestClock, request)).test_clock
    now: datetime = clock.firm_time.ToDatetime(tzinfo=UTC)
    return now.astimezone(ZoneInfo(LANTERN.time_zone)).date()


async def _add_client(stage: _Stage, person: Person) -> str:
    api, firm_id = stage.api, stage.firm_id
    client = client_pb2.Client(
        external_id=person.key,
        name=person.name,
        email=f"accounts@{person.key}.example",
        address=address_pb2.Address(city=person.city, region=person.region, country_code=person.country),
        locale=person.locale,
        currency_code=person.currency,
        payment_terms_days=person.terms_days,
    )
    request = billing_service_pb2.CreateClientRequest(
        client=client, request_id=request_id(firm_id, person.key, "client")
    )
    client_id = str((await api.call(api.billing.CreateClient, request)).client.id)
    if person.method is not None:
        attach = payment_service_pb2.AttachPaymentMethodRequest(
            client_id=client_id, provider="sandbox", provider_method_id=person.method,
            request_id=request_id(firm_id, person.key, "method"),
        )  # fmt: skip
        method = (await api.call(api.payments.AttachPaymentMethod, attach)).payment_method
        if person.cadence is not None:
            autopay = payment_service_pb2.SetAutopayRequest(
                client_id=client_id, enabled=True, payment_method_id=method.id, cadence=person.cadence,
                request_id=request_id(firm_id, person.key, "autopay"),
            )  # fmt: skip
            await api.call(api.payments.SetAutopay, autopay)
    for deal in person.deals:
        await _add_engagement(stage, person, client_id, deal)
    return client_id


async def _add_engagement(stage: _Stage, person: Person, client_id: str, deal: Deal) -> None:
    start = stage.today - timedelta(days=deal.days_ago)
    engagement = engagement_pb2.Engagement(
        client_id=client_id,
        external_id=f"{person.key}-{deal.name.lower().replace(' ', '-')}",
        name=deal.name,
        pricing_mode=_mode(deal),
        currency_code=person.currency,
        start_date=_date(start),
        end_date=_date(stage.today + timedelta(days=deal.ends_in_days)) if deal.ends_in_days is not None else None,
        package=_package(person, deal) if deal.fee else None,
        hourly=terms.hourly(deal.hours, UNSPECIFIED if deal.fee else deal.interval) if deal.hours else None,
    )
    request = billing_service_pb2.CreateEngagementRequest(
        engagement=engagement, request_id=request_id(stage.firm_id, person.key, "engagement", deal.name)
    )
    made = (await stage.api.call(stage.api.billing.CreateEngagement, request)).engagement
    if deal.hours is not None:
        await terms.work(stage.api, stage.firm_id, made, deal.hours, stage.today)


def _mode(deal: Deal) -> engagement_pb2.PricingMode.ValueType:
    if deal.hours is None:
        return engagement_pb2.PRICING_MODE_PACKAGE
    return engagement_pb2.PRICING_MODE_MIXED if deal.fee else engagement_pb2.PRICING_MODE_HOURLY


def _package(person: Person, deal: Deal) -> engagement_pb2.PackageTerms:
    return engagement_pb2.PackageTerms(
        fee=money_pb2.Money(currency_code=person.currency, amount_minor=deal.fee),
        interval=deal.interval,
        timing=deal.timing,
        anchor=deal.anchor,
        line_description=deal.name,
    )


def _date(day: date) -> date_pb2.Date:
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)
