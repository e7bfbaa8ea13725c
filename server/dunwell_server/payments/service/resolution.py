"""ResolveAttempt: a person settles an attempt whose outcome is unknown, or has been awaited for too long; two persons above the firm's limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.evidence import Declined, Evidence, NotSent, Succeeded
from dunwell_server.payments.model import AttemptState, DeclineClass, Failure, FailureCode, Source
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.payments.store import approvals, payments
from dunwell_server.platform.approvals import ApprovalKind, same_person
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record

_WHAT = """
SELECT a.id, a.payment_id, a.state, a.provider_reference, a.needs_person, a.amount_minor, a.currency_code, a.attempt_no, p.client_id, p.invoice_id
FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id WHERE a.firm_id = %(firm_id)s AND a.id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person found out: `verdict` is SUCCEEDED (with the provider's reference), NOT_SENT or DECLINED."""

    verdict: str
    provider_reference: str | None
    note: str

    @property
    def proposal(self) -> dict[str, Any]:
        """What a second person must repeat for it to take effect."""
        return {"resolution": self.verdict, "provider_reference": self.provider_reference}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The payment concerned, and whether the resolution still waits for a second person."""

    payment_id: UUID
    awaits_approval: bool


async def resolve(uow: UnitOfWork, attempt_id: UUID, resolution: Resolution) -> Resolved:
    """Apply what a person found out, or keep it as a proposal for a second person.

    Errors: PERMISSION_DENIED without a named person, RESOURCE_NOT_FOUND, ATTEMPT_NOT_RESOLVABLE, APPROVAL_REQUIRED when the same person
    confirms, STATE_CONFLICT when the second person says otherwise, FIELD_INVALID for a provider's payment that is another attempt's.
    """
    person = uow.context.actor.person
    if person is None:
        raise DunwellError(Reason.PERMISSION_DENIED, "Name the person in the dunwell-actor metadata.")
    subject = await _subject(uow, attempt_id)
    if not _open_to_persons(subject):
        raise DunwellError(
            Reason.ATTEMPT_NOT_RESOLVABLE, f"Only an UNKNOWN attempt, or one that needs a person, is resolved by hand; this one is {subject['state']}.",
            metadata={"state": subject["state"]}, resource=_resource(attempt_id),
        )  # fmt: skip
    limit = uow.firm.settings.approval_limits.get(subject["currency_code"])
    if limit is not None and subject["amount_minor"] > limit and not await _approved(uow, subject, resolution, person):
        return Resolved(subject["payment_id"], True)
    await _apply(uow, subject, resolution, Reason.ATTEMPT_NOT_RESOLVABLE)
    return Resolved(subject["payment_id"], False)


async def carry_out(uow: UnitOfWork, attempt_id: UUID, proposal: Mapping[str, Any], note: str) -> None:
    """Apply what one person proposed and another has approved. STATE_CONFLICT where other evidence was first."""
    await _apply(uow, await _subject(uow, attempt_id), _proposed(proposal, note), Reason.STATE_CONFLICT)


async def tell_rejected(uow: UnitOfWork, attempt_id: UUID, proposal: Mapping[str, Any], note: str) -> None:
    """Journal that a second person has dropped the proposal; the attempt stays as it is."""
    subject = await _subject(uow, attempt_id)
    await _tell(uow, subject, _proposed(proposal, note), "attempt_resolution_rejected", "attempt.resolution_rejected")


async def payment_of(uow: UnitOfWork, attempt_id: UUID) -> UUID | None:
    """The payment that an attempt is of."""
    found = await uow.fetch_one(_WHAT, {"firm_id": uow.firm_id, "id": attempt_id})
    return found["payment_id"] if found else None


def _proposed(proposal: Mapping[str, Any], note: str) -> Resolution:
    return Resolution(proposal["resolution"], proposal["provider_reference"], note)


def _resource(attempt_id: UUID) -> tuple[str, str]:
    return "PaymentAttempt", encode(Prefix.ATTEMPT, attempt_id)


async def _subject(uow: UnitOfWork, attempt_id: UUID) -> Row:
    subject = await uow.fetch_one(_WHAT, {"firm_id": uow.firm_id, "id": attempt_id})
    if subject is None:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such attempt.", resource=_resource(attempt_id))
    return subject


def _open_to_persons(subject: Row) -> bool:
    """What is unknown; and what has been with the provider or the client for so long that a person was asked."""
    waits = subject["state"] in (AttemptState.PENDING, AttemptState.REQUIRES_ACTION)
    return subject["state"] == AttemptState.UNKNOWN or (waits and subject["needs_person"])


async def _apply(uow: UnitOfWork, subject: Row, resolution: Resolution, too_late: Reason) -> None:
    applied = None
    if _open_to_persons(subject):
        try:
            applied = await apply_outcome(uow, subject["id"], _evidence(subject, resolution), Source.PERSON)
        except UniqueViolation as error:
            raise field_invalid(
                "provider_reference", "the provider's payment of that id is another attempt's"
            ) from error
    if applied is None or not applied.changed:
        state = subject["state"] if applied is None else applied.state.value
        raise DunwellError(
            too_late, f"The attempt is {state} by now.", metadata={"state": state, "allowed": "none"}, resource=_resource(subject["id"])
        )  # fmt: skip
    if applied.state is AttemptState.SUCCEEDED and subject["provider_reference"] is None:
        await payments.mark_by_hand(uow, subject["id"])
    await _tell(uow, subject, resolution, "attempt_resolved", "attempt.resolved")


async def _approved(uow: UnitOfWork, subject: Row, resolution: Resolution, person: str) -> bool:
    """Whether another person has proposed the same; otherwise this proposal is kept."""
    kind = ApprovalKind.RESOLVE_ATTEMPT.value
    pending = await approvals.waiting(uow, kind, subject["id"])
    if pending is None:
        await approvals.propose(
            uow, kind, subject["id"], payment_id=subject["payment_id"], amount_minor=subject["amount_minor"],
            currency_code=subject["currency_code"], proposal=resolution.proposal, actor=person,
        )  # fmt: skip
        await _tell(uow, subject, resolution, "attempt_resolution_proposed", "attempt.resolution_proposed")
        return False
    if same_person(pending["actor"], person):
        if pending["proposal"] == resolution.proposal:
            raise DunwellError(
                Reason.APPROVAL_REQUIRED, "Above the firm's limit a second person must confirm.",
                metadata={"approval_id": encode(Prefix.APPROVAL, pending["id"])},
            )  # fmt: skip
        await approvals.replace_proposal(uow, pending["id"], resolution.proposal)
        await _tell(uow, subject, resolution, "attempt_resolution_proposed", "attempt.resolution_proposed")
        return False
    if pending["proposal"] != resolution.proposal:
        raise DunwellError(
            Reason.STATE_CONFLICT, "Another person has proposed another resolution.",
            metadata={"state": "PROPOSED", "proposed": pending["proposal"]["resolution"]},
        )  # fmt: skip
    await approvals.approve(uow, pending["id"], person)
    return True


def _evidence(subject: Row, resolution: Resolution) -> Evidence:
    match resolution.verdict:
        case "SUCCEEDED":
            return Succeeded(resolution.provider_reference, subject["amount_minor"], subject["currency_code"])
        case "NOT_SENT":
            return NotSent("resolved by a person")
        case _:
            failure = Failure(FailureCode.CARD_DECLINED, DeclineClass.SOFT, message="The card was declined.")
            return Declined(failure, resolution.provider_reference)


async def _tell(uow: UnitOfWork, subject: Row, resolution: Resolution, action: str, event: str) -> None:
    metadata = {
        "attempt_id": encode(Prefix.ATTEMPT, subject["id"]), "client_id": encode(Prefix.CLIENT, subject["client_id"]),
        "resolution": resolution.verdict, "provider_reference": resolution.provider_reference, "note": resolution.note,
        "amount_minor": subject["amount_minor"], "currency_code": subject["currency_code"],
    }  # fmt: skip
    await record(
        uow, Change(Category.PAYMENT, action, "payment", subject["payment_id"], event, Severity.CRITICAL, metadata)
    )
