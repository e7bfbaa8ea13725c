"""The error catalogue: one line per reason, naming its gRPC status and what goes beside it.

Contexts raise `DunwellError(Reason.X, …)` and know nothing of gRPC. A test holds this table, `Reason` and the
contract's `ErrorReason` to the same set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpc import StatusCode

from dunwell_server.kernel.errors import Reason


@dataclass(frozen=True, slots=True)
class Entry:
    """How one reason travels."""

    code: StatusCode
    precondition: bool = False
    """Carries a PreconditionFailure: the state of an object has to change before the same request can succeed."""
    quota: bool = False
    """Carries a QuotaFailure."""
    retry_after: float | None = None
    """Seconds of RetryInfo where the error itself names none; None: no RetryInfo unless the error names one."""
    logged: bool = False
    """Worth a warning in the log, not only a line in the access log: trouble of ours rather than of the caller."""


_ARGUMENT = Entry(StatusCode.INVALID_ARGUMENT)
_STATE = Entry(StatusCode.FAILED_PRECONDITION, precondition=True)

CATALOGUE: Final[dict[Reason, Entry]] = {
    # The request is wrong, whatever the state of things.
    Reason.FIELD_INVALID: _ARGUMENT,
    Reason.REQUEST_ID_REUSED: _ARGUMENT,
    Reason.PAGE_TOKEN_INVALID: _ARGUMENT,
    Reason.PAGE_TOKEN_MISMATCH: _ARGUMENT,
    Reason.UPDATE_MASK_INVALID: _ARGUMENT,
    Reason.INVALID_ID: _ARGUMENT,
    Reason.CURRENCY_MISMATCH: _ARGUMENT,
    Reason.UNKNOWN_CURRENCY: _ARGUMENT,
    Reason.UNKNOWN_TIME_ZONE: _ARGUMENT,
    Reason.AMOUNT_OUT_OF_RANGE: _ARGUMENT,
    Reason.PERIOD_INVALID: _ARGUMENT,
    Reason.CARD_NUMBER_REFUSED: _ARGUMENT,
    Reason.MALFORMED_MESSAGE: _ARGUMENT,
    Reason.FIRM_REQUIRED: _ARGUMENT,
    Reason.SIGNATURE_INVALID: _ARGUMENT,
    Reason.CREDENTIAL_INVALID: _ARGUMENT,
    Reason.IMPORT_DAMAGED: _ARGUMENT,
    Reason.IMPORT_UNVERIFIED: _ARGUMENT,
    # What the request names.
    Reason.RESOURCE_NOT_FOUND: Entry(StatusCode.NOT_FOUND),
    Reason.EXTERNAL_ID_TAKEN: Entry(StatusCode.ALREADY_EXISTS),
    Reason.ALREADY_EXISTS: Entry(StatusCode.ALREADY_EXISTS),
    # The state of things forbids it.
    Reason.STATE_CONFLICT: _STATE,
    Reason.INVOICE_EMPTY: _STATE,
    Reason.PAYMENT_METHOD_MISSING: _STATE,
    Reason.PAYMENT_METHOD_UNUSABLE: _STATE,
    Reason.COLLECTION_IN_PROGRESS: _STATE,
    Reason.ATTEMPT_NOT_RESOLVABLE: _STATE,
    Reason.APPROVAL_REQUIRED: _STATE,
    Reason.PROVIDER_NOT_CONFIGURED: _STATE,
    Reason.PROVIDER_MODE_MISMATCH: _STATE,
    Reason.CLOCK_NOT_TEST: _STATE,
    Reason.CLOCK_BACKWARDS: _STATE,
    Reason.FEATURE_DISABLED: _STATE,
    Reason.AUTOPAY_DISABLED: _STATE,
    Reason.FIRM_SUSPENDED: _STATE,
    Reason.CREDIT_INSUFFICIENT: _STATE,
    Reason.RUN_NOT_ACTIVE: _STATE,
    Reason.REFUND_EXCEEDS_PAYMENT: _STATE,
    Reason.PAYMENT_DISPUTED: _STATE,
    Reason.BREAKER_OPEN: _STATE,
    Reason.EXCHANGE_RATE_MISSING: _STATE,
    Reason.SELF_APPROVAL_REFUSED: _STATE,
    Reason.COUPON_NOT_REDEEMABLE: _STATE,
    Reason.EXPORT_REQUIRED: _STATE,
    Reason.CREDIT_NOTE_EXCEEDS_INVOICE: _STATE,
    Reason.CLOCK_ADVANCING: Entry(StatusCode.FAILED_PRECONDITION, precondition=True, retry_after=1.0),
    # Somebody else was faster.
    Reason.ETAG_MISMATCH: Entry(StatusCode.ABORTED),
    Reason.SERIALIZATION_CONFLICT: Entry(StatusCode.ABORTED, retry_after=0.1),
    Reason.REQUEST_IN_PROGRESS: Entry(StatusCode.ABORTED, retry_after=1.0),
    # Who calls.
    Reason.UNAUTHENTICATED: Entry(StatusCode.UNAUTHENTICATED),
    Reason.CREDENTIAL_EXPIRED: Entry(StatusCode.UNAUTHENTICATED),
    Reason.PERMISSION_DENIED: Entry(StatusCode.PERMISSION_DENIED),
    # Too much.
    Reason.RATE_LIMITED: Entry(StatusCode.RESOURCE_EXHAUSTED, quota=True, retry_after=0.1),
    Reason.OVERLOADED: Entry(StatusCode.RESOURCE_EXHAUSTED, retry_after=0.5),
    Reason.MESSAGE_TOO_LARGE: Entry(StatusCode.RESOURCE_EXHAUSTED),
    # Time.
    Reason.DEADLINE_TOO_SHORT: Entry(StatusCode.DEADLINE_EXCEEDED),
    Reason.DEADLINE_EXCEEDED: Entry(StatusCode.DEADLINE_EXCEEDED),
    Reason.CANCELLED: Entry(StatusCode.CANCELLED),
    # Us.
    Reason.DATABASE_UNAVAILABLE: Entry(StatusCode.UNAVAILABLE, retry_after=1.0, logged=True),
    Reason.PROVIDER_UNAVAILABLE: Entry(StatusCode.UNAVAILABLE, retry_after=5.0, logged=True),
    Reason.RECOVERING: Entry(StatusCode.UNAVAILABLE, retry_after=60.0),
    Reason.SHUTTING_DOWN: Entry(StatusCode.UNAVAILABLE, retry_after=1.0),
    Reason.INTERNAL: Entry(StatusCode.INTERNAL, logged=True),
    Reason.UNIMPLEMENTED_METHOD: Entry(StatusCode.UNIMPLEMENTED),
}
