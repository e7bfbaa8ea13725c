"""Renewing engagements, by hand and by themselves, and letting ended ones go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing import packages, renewal
from dunwell_server.billing.errors import (
    check_version,
    currency_of,
    external_id_unique,
    not_found,
    refuse_archived,
)
from dunwell_server.billing.model import BillingInterval, Client, Engagement, EngagementState, PricingMode
from dunwell_server.billing.renewal import AS_BEFORE, TermChoice
from dunwell_server.billing.service.engagements import get_engagement, today
from dunwell_server.billing.service.journal import engagement_change
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import engagements as store
from dunwell_server.billing.store import renewals as renewal_store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.proration import service_end
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.platform.journal import Change, Severity

BATCH: Final = 500
"""Engagements renewed in one call."""


async def renew_engagement(
    uow: UnitOfWork, engagement_id: UUID, choice: TermChoice = AS_BEFORE, *, expected_version: int | None = None
) -> tuple[Engagement, Engagement]:
    """Create the next term of an engagement, which begins the day it ends; the new term, and the old one.

    The old term keeps everything but the link. One that has ended is renewed from the day it ended, and the next run bills
    what was missed. Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, EXTERNAL_ID_TAKEN, CURRENCY_MISMATCH, PERIOD_INVALID,
    AMOUNT_OUT_OF_RANGE, FIELD_INVALID, FEATURE_DISABLED, STATE_CONFLICT for one that is open-ended, renewed or withdrawn,
    and for an archived client.
    """
    client, old = await _lock(uow, engagement_id, expected_version)
    _refuse(old, "RenewEngagement")
    if old.end_date is None:
        raise _conflict(
            old, "An open-ended engagement has no end to renew it from; end it on a day first.", "EndEngagement"
        )
    refuse_archived(client, "engagement")
    _refuse_yearly(uow, old)
    _check_price(client, old, choice)
    term = renewal.next_term(old, choice, uuid7(), today(uow), uow.now)
    with external_id_unique("engagement"):
        renewed = await _write(uow, [(old, term)])
    return await get_engagement(uow, term.id), renewed[0]


async def reopen_engagement(
    uow: UnitOfWork, engagement_id: UUID, end_date: date | None = None, *, expected_version: int | None = None
) -> Engagement:
    """Let an engagement that has an end, past or to come, go on until a later one; None: without an end.

    The next run bills from where it stopped. Without an end it is no longer renewed by itself. Errors: RESOURCE_NOT_FOUND,
    ETAG_MISMATCH, PERIOD_INVALID unless the new end is later, STATE_CONFLICT for one that is open-ended, renewed or
    withdrawn, and for an archived client.
    """
    client, old = await _lock(uow, engagement_id, expected_version)
    _refuse(old, "ReopenEngagement")
    if old.end_date is None:
        raise _conflict(
            old, "ReopenEngagement needs an engagement that has an end; this one is open-ended.", "EndEngagement"
        )
    refuse_archived(client, "engagement")
    end = None if end_date is None else service_end(end_date, old.proration)
    if end is not None and end <= old.end_date:
        message = f"the engagement must end later than it does, {old.end_date}"
        raise DunwellError(Reason.PERIOD_INVALID, message, field="end_date")
    over = end is not None and end <= today(uow)
    covered = await store.covered(uow, old.id, old.billed_through_date)
    changes: dict[str, Any] = {
        "end_date": end,
        "state": (EngagementState.ENDED if over else EngagementState.ACTIVE).value,
        "next_bill_date": packages.next_bill_date(replace(old, end_date=end), old.billed_through_date, covered),
    }
    if end is None:
        changes["auto_renew"] = None
    reopened = await store.update(uow, old.id, changes)
    assert reopened is not None
    await journal.record(uow, engagement_change(reopened, "reopened"))
    return reopened


async def auto_renew_engagements(uow: UnitOfWork, limit: int = BATCH) -> list[Engagement]:
    """Renew the terms whose time to be renewed by themselves has come, at most `limit`, each with one notice to its client.

    What was dealt with; call again, in a transaction of its own, until nothing is. A term that cannot be renewed is told of
    in the audit trail and not tried again.
    """
    found = await renewal_store.due(uow, today(uow), limit)
    pairs: list[tuple[Engagement, Engagement]] = []
    failed: dict[UUID, DunwellError] = {}
    for old in found:
        try:
            _refuse_yearly(uow, old)
            term = renewal.next_term(old, renewal.by_itself(old), uuid7(), today(uow), uow.now)
            pairs.append((old, replace(term, renewal_notice_time=uow.now)))
        except DunwellError as error:
            failed[old.id] = error
    if pairs:
        await _write(uow, pairs)
    if failed:
        await _give_up(uow, failed)
    return found


async def _write(uow: UnitOfWork, pairs: list[tuple[Engagement, Engagement]]) -> list[Engagement]:
    """Write next terms with their traces; the old terms as they are now. The old ones are locked and not renewed yet."""
    renewed = {old.id: old for old in await renewal_store.insert_next(uow, [term for _, term in pairs])}
    assert len(renewed) == len(pairs)
    changes: list[Change] = []
    for old, term in pairs:
        created = {"renewed_from_id": encode(Prefix.ENGAGEMENT, old.id)}
        named = {"name": term.name}
        changes += [
            engagement_change(renewed[old.id], "renewed", _terms(old, term), event_only=named),
            engagement_change(term, "created", created),
        ]
        if term.renewal_notice_time is not None:
            changes.append(engagement_change(renewed[old.id], "renewal_notice", _terms(old, term), event_only=named))
    await journal.record(uow, *changes)
    return [renewed[old.id] for old, _ in pairs]


async def _give_up(uow: UnitOfWork, failed: Mapping[UUID, DunwellError]) -> None:
    """A renewal that cannot be made is not tried for ever: it is switched off, and somebody is told."""
    terms = await renewal_store.switch_off(uow, list(failed))
    details = {term.id: {"reason": failed[term.id].reason.value, "message": failed[term.id].message} for term in terms}
    changes = (
        replace(engagement_change(term, "renewal_failed", details[term.id]), severity=Severity.WARNING)
        for term in terms
    )
    await journal.record(uow, *changes)


def _terms(old: Engagement, term: Engagement) -> dict[str, Any]:
    """What a notice of the next term has to say, beside whom it goes to."""
    return {
        "renewed_to_id": encode(Prefix.ENGAGEMENT, term.id),
        "next_start_date": term.start_date.isoformat(),
        "next_end_date": None if term.end_date is None else term.end_date.isoformat(),
        "currency_code": term.currency_code,
        "fee_minor": old.fee_minor,
        "next_fee_minor": term.fee_minor,
        "billing_interval": term.billing_interval.value,
    }


async def _lock(uow: UnitOfWork, engagement_id: UUID, expected_version: int | None) -> tuple[Client, Engagement]:
    """The engagement's client and the engagement, locked in this order; its version is the one expected."""
    client = await client_store.get(uow, (await get_engagement(uow, engagement_id)).client_id, lock=True)
    if client is None:
        raise not_found("Engagement", engagement_id)
    engagement = await get_engagement(uow, engagement_id, lock=True)
    check_version("Engagement", engagement_id, engagement.version, expected_version)
    return client, engagement


def _refuse(old: Engagement, verb: str) -> None:
    if old.renewed_to_id is not None:
        following = encode(Prefix.ENGAGEMENT, old.renewed_to_id)
        raise _conflict(old, f"{verb} needs a term that has not been renewed; {following} follows this one.", "none")
    if old.is_withdrawn:
        raise _conflict(old, f"{verb} needs a term that has days; this renewal was withdrawn before it began.", "none")


def _conflict(old: Engagement, message: str, allowed: str) -> DunwellError:
    return DunwellError(
        Reason.STATE_CONFLICT,
        message,
        metadata={"state": old.state.value, "allowed": allowed},
        resource=("Engagement", encode(Prefix.ENGAGEMENT, old.id)),
    )


def _check_price(client: Client, old: Engagement, choice: TermChoice) -> None:
    renewal.check_uplift(choice.uplift_percent, old.pricing_mode, "uplift_percent")
    if choice.fee_minor is None:
        return
    currency_of(choice.fee_currency, client, "fee.currency_code")
    if choice.fee_minor < 0:
        raise field_invalid("fee.amount_minor", "the fee must not be negative")
    if old.pricing_mode is PricingMode.HOURLY:
        raise field_invalid("fee", "an HOURLY engagement has no fee; change its rates")


def _refuse_yearly(uow: UnitOfWork, old: Engagement) -> None:
    """A next term is a new engagement: it is refused as one where the firm has switched its kind off."""
    annual = old.billing_interval is BillingInterval.YEARLY and old.pricing_mode is not PricingMode.HOURLY
    if annual:
        require_feature(uow, Feature.ANNUAL_BILLING)
