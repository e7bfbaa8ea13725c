"""Creating, reading, changing, ending and listing engagements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any
from uuid import UUID

from dunwell_server.billing import packages, renewal
from dunwell_server.billing.errors import (
    check_version,
    currency_mismatch,
    currency_of,
    external_id_unique,
    not_found,
    refuse_archived,
)
from dunwell_server.billing.model import (
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Client,
    Engagement,
    EngagementState,
    HourlyTerms,
    PartialPeriods,
    PricingMode,
)
from dunwell_server.billing.service import time_caps
from dunwell_server.billing.service.journal import engagement_change
from dunwell_server.billing.service.withdrawals import withdraw, withdraw_after
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import engagements as store
from dunwell_server.billing.store import renewals as renewal_store
from dunwell_server.billing.store.engagements import EngagementQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.proration import DEFAULT_POLICY, ProrationPolicy, service_end
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature


@dataclass(frozen=True, slots=True)
class NewEngagement:
    """An engagement as a caller creates it.

    `end_date` is the first day after the work, or its last day where the proration policy's `end` is INCLUSIVE.
    `fee_currency` is that of the fee, None where it is in no currency of its own; no `currency_code`: the client's. `hourly` is there unless it is PACKAGE;
    `cap_currencies` are those of its caps.
    """

    client_id: UUID
    name: str
    pricing_mode: PricingMode
    start_date: date
    fee_minor: int
    fee_currency: str | None
    billing_interval: BillingInterval
    end_date: date | None = None
    external_id: str | None = None
    description: str | None = None
    currency_code: str | None = None
    anchor: BillingAnchor = BillingAnchor.START_DATE
    timing: BillingTiming = BillingTiming.IN_ADVANCE
    partial_periods: PartialPeriods = PartialPeriods.PRORATE
    proration: ProrationPolicy = DEFAULT_POLICY
    line_description: str = ""
    payment_terms_days: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    auto_renew: AutoRenew | None = None
    hourly: HourlyTerms | None = None
    cap_currencies: Mapping[str, str] = field(default_factory=dict)


async def create_engagement(uow: UnitOfWork, new: NewEngagement) -> Engagement:
    """Add an engagement; its first period is billed by the next run that it falls due for.

    One whose end date has come already is created ENDED, and is billed all the same. Errors: RESOURCE_NOT_FOUND,
    EXTERNAL_ID_TAKEN, UNKNOWN_CURRENCY, CURRENCY_MISMATCH, PERIOD_INVALID, FEATURE_DISABLED, STATE_CONFLICT for an
    archived client.
    """
    client = await client_store.get(uow, new.client_id, lock=True)
    if client is None:
        raise not_found("Client", new.client_id)
    engagement = planned(uow, new, client)
    with external_id_unique("engagement"):
        await store.insert(uow, engagement)
    await journal.record(uow, engagement_change(engagement, "created"))
    return engagement


def planned(uow: UnitOfWork, new: NewEngagement, client: Client) -> Engagement:
    """The engagement that `new` describes, of its client; writes nothing. Errors: those of `create_engagement` but for what exists already."""
    _refuse_disabled(uow, new)
    refuse_archived(client, "engagement")
    currency = currency_of(new.currency_code, client, "engagement.currency_code")
    currency_of(new.fee_currency, client, "engagement.package.fee.currency_code")
    _check_fee(new.fee_minor)
    if (new.pricing_mode is PricingMode.PACKAGE) is not (new.hourly is None):
        raise field_invalid("engagement.hourly", "HOURLY and MIXED have terms of time, PACKAGE has none")
    check_hourly(new.hourly, new.cap_currencies, currency)
    end = None if new.end_date is None else service_end(new.end_date, new.proration)
    if end is not None and end <= new.start_date:
        raise _ends_too_early("engagement.end_date", new.start_date)
    renewal.check_auto_renew(new.auto_renew, new.pricing_mode, end)
    engagement = Engagement(
        id=uuid7(), external_id=new.external_id, client_id=client.id, name=new.name, description=new.description,
        pricing_mode=new.pricing_mode, currency_code=currency, start_date=new.start_date, end_date=end,
        state=_state(uow, end), fee_minor=new.fee_minor, billing_interval=new.billing_interval, anchor=new.anchor,
        timing=new.timing, partial_periods=new.partial_periods, proration=new.proration,
        line_description=new.line_description or new.name, payment_terms_days=new.payment_terms_days,
        billed_through_date=new.start_date, next_bill_date=None, void_count=0, metadata=new.metadata,
        version=1, create_time=uow.now, update_time=uow.now, auto_renew=new.auto_renew, hourly=new.hourly,
    )  # fmt: skip
    return replace(engagement, next_bill_date=packages.initial_next_bill_date(engagement))


async def get_engagement(uow: UnitOfWork, engagement_id: UUID, *, lock: bool = False) -> Engagement:
    """The engagement; locked against other changes when asked. Errors: RESOURCE_NOT_FOUND."""
    engagement = await store.get(uow, engagement_id, lock=lock)
    if engagement is None:
        raise not_found("Engagement", engagement_id)
    return engagement


async def update_engagement(
    uow: UnitOfWork, engagement_id: UUID, changes: Mapping[str, Any], *, expected_version: int | None = None
) -> Engagement:
    """Change the named columns; `fee_currency` beside `fee_minor` is checked and not stored.

    What has been billed stays as it is; the next run bills by the new terms, and caps that approved time reaches by them
    are told of. An empty `line_description` is the name.
    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT once ended, CURRENCY_MISMATCH, EXTERNAL_ID_TAKEN,
    AMOUNT_OUT_OF_RANGE where approved time of an engagement with a cap would be worth more than 64 bits hold.
    """
    engagement = await _locked(uow, engagement_id, expected_version, "UpdateEngagement")
    changes = dict(changes)
    currency = changes.pop("fee_currency", engagement.currency_code)
    if currency != engagement.currency_code:
        raise currency_mismatch(currency, engagement.currency_code, "engagement.package.fee.currency_code")
    if "fee_minor" in changes:
        _check_fee(changes["fee_minor"])
    if "auto_renew" in changes:
        renewal.check_auto_renew(changes["auto_renew"], engagement.pricing_mode, engagement.end_date)
    if "hourly" in changes:
        check_hourly(changes["hourly"], changes.pop("cap_currencies", {}), engagement.currency_code)
    if engagement.pricing_mode is PricingMode.HOURLY and "name" in changes:
        changes["line_description"] = changes["name"]
    if "line_description" in changes:
        changes["line_description"] = changes["line_description"] or changes.get("name", engagement.name)
    with external_id_unique("engagement"):
        updated = await store.update(uow, engagement_id, changes)
    assert updated is not None
    await journal.record(uow, engagement_change(updated, "updated", {"fields": sorted(changes)}))
    if "hourly" in changes:
        await time_caps.alert(uow, [engagement_id])
    return updated


async def end_engagement(
    uow: UnitOfWork, engagement_id: UUID, end_date: date | None = None, *, expected_version: int | None = None
) -> Engagement:
    """End the engagement on a day, past or to come; None: today in the firm's zone is the first day after it.

    Until that day has come it stays ACTIVE, and may be ended on another. The run bills up to the end, the last period
    by its share; what has been billed beyond the end (in advance) stays billed. It is no longer renewed by itself, and a
    renewal that has not begun is withdrawn; so is a renewal of which no day would be left. Errors: RESOURCE_NOT_FOUND,
    ETAG_MISMATCH, PERIOD_INVALID unless it ends after it starts, STATE_CONFLICT once ended, and where its renewal has
    begun or would overlap.
    """
    await renewal_store.lock_chain(uow, engagement_id)
    engagement = await _locked(uow, engagement_id, expected_version, "EndEngagement")
    end = today(uow) if end_date is None else service_end(end_date, engagement.proration)
    if end <= engagement.start_date:
        if engagement.renewed_from_id is not None:
            return await withdraw(uow, engagement)
        raise _ends_too_early("end_date", engagement.start_date)
    if engagement.end_date is not None and engagement.renewed_to_id is not None:
        if end > engagement.end_date:
            raise _conflict(engagement, "It has been renewed: its end cannot move into the next term.")
        await withdraw_after(uow, engagement)
    ending = replace(engagement, end_date=end)
    covered = await store.covered(uow, engagement_id, engagement.billed_through_date)
    changes = {
        "end_date": end,
        "state": _state(uow, end).value,
        "next_bill_date": packages.next_bill_date(ending, engagement.billed_through_date, covered),
        "auto_renew": None,
    }
    ended = await store.update(uow, engagement_id, changes)
    assert ended is not None
    await journal.record(uow, engagement_change(ended, "ended"))
    return ended


async def end_due_engagements(uow: UnitOfWork, limit: int = 1000) -> list[Engagement]:
    """Mark as ENDED the engagements whose end date has come, at most `limit`; call again while that many come back.

    Nothing about their billing changes: the end date alone decides what is billed.
    """
    ended = await store.end_due(uow, today(uow), limit)
    await journal.record(uow, *(engagement_change(engagement, "ended") for engagement in ended))
    return ended


async def list_engagements(uow: UnitOfWork, query: EngagementQuery, page: PageRequest) -> list[Engagement]:
    """One page of engagements."""
    return await store.select(uow, query, page)


def today(uow: UnitOfWork) -> date:
    """The civil date in the firm's zone, at firm time."""
    return local_date(uow.now, uow.firm.settings.zone)


async def _locked(uow: UnitOfWork, engagement_id: UUID, expected_version: int | None, verb: str) -> Engagement:
    engagement = await get_engagement(uow, engagement_id, lock=True)
    check_version("Engagement", engagement_id, engagement.version, expected_version)
    if engagement.state is EngagementState.ENDED:
        raise _conflict(engagement, f"{verb} needs an ACTIVE engagement; this one is ENDED.")
    return engagement


def _conflict(engagement: Engagement, message: str) -> DunwellError:
    return DunwellError(
        Reason.STATE_CONFLICT,
        message,
        metadata={"state": engagement.state.value, "allowed": "none"},
        resource=("Engagement", encode(Prefix.ENGAGEMENT, engagement.id)),
    )


def _state(uow: UnitOfWork, end: date | None) -> EngagementState:
    return EngagementState.ENDED if end is not None and end <= today(uow) else EngagementState.ACTIVE


def _check_fee(fee_minor: int) -> None:
    if fee_minor < 0:
        raise field_invalid("engagement.package.fee.amount_minor", "the fee must not be negative")


def check_hourly(terms: HourlyTerms | None, cap_currencies: Mapping[str, str], currency: str) -> None:
    """Check what the contract's rules cannot tell of hourly terms. `cap_currencies`: by the names of the caps.

    Errors: CURRENCY_MISMATCH, PERIOD_INVALID for a rate that ends before it starts, or two of a role that overlap.
    """
    for name, given in cap_currencies.items():
        if given != currency:
            raise currency_mismatch(given, currency, f"engagement.hourly.{name}.currency_code")
    latest: dict[str, date] = {}
    rates = enumerate(() if terms is None else terms.role_rates)
    for position, rate in sorted(rates, key=lambda pair: (pair[1].role, pair[1].start or date.min)):
        path, start, end = f"engagement.hourly.role_rates[{position}]", rate.start or date.min, rate.end or date.max
        if end <= start:
            raise DunwellError(Reason.PERIOD_INVALID, "a rate must end after it starts", field=f"{path}.end_date")
        if start < latest.get(rate.role, date.min):
            message = "the role has another rate on some of these days"
            raise DunwellError(Reason.PERIOD_INVALID, message, field=f"{path}.start_date")
        latest[rate.role] = end


def _ends_too_early(path: str, start: date) -> DunwellError:
    return DunwellError(Reason.PERIOD_INVALID, f"the engagement must end after it starts, {start}", field=path)


def _refuse_disabled(uow: UnitOfWork, new: NewEngagement) -> None:
    annual = new.billing_interval is BillingInterval.YEARLY
    if annual:
        require_feature(uow, Feature.ANNUAL_BILLING)
