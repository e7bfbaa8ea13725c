"""Disputes and their evidence."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import ProviderDispute, ProviderDisputeState
from dunwell_server.providers.base import ProviderAccount
from dunwell_server.providers.stripe.amounts import from_stripe
from dunwell_server.providers.stripe.answers import request, unparsable
from dunwell_server.providers.stripe.calls import Calls, existing
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    instant,
    items,
    maybe_instant,
    maybe_int,
    maybe_obj,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import DisputeUpdateParams, DisputeUpdateParamsEvidence

_STATES: Final = {
    "warning_needs_response": ProviderDisputeState.INQUIRY_NEEDS_RESPONSE,
    "warning_under_review": ProviderDisputeState.INQUIRY_UNDER_REVIEW,
    "warning_closed": ProviderDisputeState.INQUIRY_CLOSED,
    "needs_response": ProviderDisputeState.NEEDS_RESPONSE,
    "appeal_needs_response": ProviderDisputeState.NEEDS_RESPONSE,
    "under_review": ProviderDisputeState.UNDER_REVIEW,
    "appeal_under_review": ProviderDisputeState.UNDER_REVIEW,
    "won": ProviderDisputeState.WON,
    "lost": ProviderDisputeState.LOST,
    "prevented": ProviderDisputeState.PREVENTED,
}
_MONEY_IS_GONE: Final = (
    ProviderDisputeState.NEEDS_RESPONSE,
    ProviderDisputeState.UNDER_REVIEW,
    ProviderDisputeState.LOST,
)
_READING_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, DunwellError)


class _NamedFile(io.BytesIO):
    """What the SDK uploads: it takes the file's name from the object."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class DisputeCalls(Calls):
    """`abilities.Disputes`."""

    async def get_dispute(self, account: ProviderAccount, reference: str) -> ProviderDispute:
        return _dispute(await request(self._client(account).v1.disputes.retrieve_async(existing(reference))))

    async def upload_evidence_file(
        self, account: ProviderAccount, name: str, content_type: str, content: bytes, key: str
    ) -> str:
        # The SDK names no content type; Stripe goes by the name's ending and the content.
        client = self._client(account)
        made = await request(
            client.v1.files.create_async(
                {"purpose": "dispute_evidence", "file": _NamedFile(content, file_name(name, content_type))},
                {"idempotency_key": key},
            )
        )
        try:
            return text(made, "id")
        except ValueError:
            raise unparsable() from None

    async def stage_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        return await self._evidence(account, reference, evidence, key, submit=False)

    async def submit_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        return await self._evidence(account, reference, evidence, key, submit=True)

    async def _evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str, *, submit: bool
    ) -> ProviderDispute:
        params: DisputeUpdateParams = {"submit": submit}
        if evidence:
            params["evidence"] = cast("DisputeUpdateParamsEvidence", dict(evidence))
        disputes = self._client(account).v1.disputes
        return _dispute(await request(disputes.update_async(existing(reference), params, {"idempotency_key": key})))

    async def accept_dispute(self, account: ProviderAccount, reference: str, key: str) -> ProviderDispute:
        disputes = self._client(account).v1.disputes
        return _dispute(await request(disputes.close_async(existing(reference), {}, {"idempotency_key": key})))


_ENDINGS: Final = {"application/pdf": ".pdf", "image/jpeg": ".jpg", "image/png": ".png"}


def file_name(name: str, content_type: str) -> str:
    """The name under which a file is uploaded: printable, without folders, with its kind's ending."""
    plain = "".join(c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable())[-100:] or "evidence"
    ending = _ENDINGS.get(content_type.partition(";")[0].strip().lower(), "")
    return plain if "." in plain else plain + ending


def _dispute(body: Body) -> ProviderDispute:
    try:
        return dispute_of(body)
    except _READING_ERRORS:
        raise unparsable() from None


def dispute_of(dispute: Body, *, withdrawn: bool | None = None) -> ProviderDispute:
    """A dispute. ``withdrawn`` overrides what is said of the money, for events that are about just that.

    Raises ValueError or DunwellError when it is none, Unmapped for a new status.
    """
    status = text(dispute, "status")
    state = _STATES.get(status)
    if state is None:
        raise Unmapped(f"dispute status {status[:64]!r}")
    currency = dispute.get("currency")
    movements = dispute.get("balance_transactions")
    known = items(movements) if isinstance(movements, list) and all(map(_is_object, movements)) else None
    if withdrawn is None:
        if known is None:
            withdrawn = state in _MONEY_IS_GONE
        else:
            withdrawn = sum(maybe_int(movement, "amount") or 0 for movement in known) < 0
    details = maybe_obj(dispute.get("evidence_details"))
    return ProviderDispute(
        provider_reference=text(dispute, "id"),
        payment_reference=reference(dispute.get("payment_intent")) or reference(dispute.get("charge")),
        state=state,
        reason=maybe_text(dispute, "reason") or "general",
        money=from_stripe(currency, dispute.get("amount")),
        fee=_fee(known),
        funds_withdrawn=withdrawn,
        respond_by=maybe_instant(details.get("due_by")),
        submission_count=maybe_int(details, "submission_count") or 0,
        metadata=metadata(dispute),
        created_time=instant(dispute.get("created")),
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _fee(movements: list[Body] | None) -> Money | None:
    """What Stripe has taken for the dispute in all (given back again: nothing); None where it does not say."""
    if not movements:
        return None
    currencies = {maybe_text(movement, "currency") for movement in movements}
    if len(currencies) != 1 or None in currencies:
        return None
    return from_stripe(currencies.pop(), sum(maybe_int(movement, "fee") or 0 for movement in movements))
