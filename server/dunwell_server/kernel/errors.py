"""The one error type of the business, and the closed list of reasons it may carry.

The reasons mirror the contract's enum ``ErrorReason``; how each maps to a gRPC status is the transport's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a request was refused or failed. The value is the name in the contract, without its prefix."""

    FIELD_INVALID = "FIELD_INVALID"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REQUEST_IN_PROGRESS = "REQUEST_IN_PROGRESS"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    PAGE_TOKEN_MISMATCH = "PAGE_TOKEN_MISMATCH"
    UPDATE_MASK_INVALID = "UPDATE_MASK_INVALID"
    INVALID_ID = "INVALID_ID"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    UNKNOWN_CURRENCY = "UNKNOWN_CURRENCY"
    UNKNOWN_TIME_ZONE = "UNKNOWN_TIME_ZONE"
    AMOUNT_OUT_OF_RANGE = "AMOUNT_OUT_OF_RANGE"
    PERIOD_INVALID = "PERIOD_INVALID"
    CARD_NUMBER_REFUSED = "CARD_NUMBER_REFUSED"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    EXTERNAL_ID_TAKEN = "EXTERNAL_ID_TAKEN"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    STATE_CONFLICT = "STATE_CONFLICT"
    INVOICE_EMPTY = "INVOICE_EMPTY"
    PAYMENT_METHOD_MISSING = "PAYMENT_METHOD_MISSING"
    PAYMENT_METHOD_UNUSABLE = "PAYMENT_METHOD_UNUSABLE"
    COLLECTION_IN_PROGRESS = "COLLECTION_IN_PROGRESS"
    ATTEMPT_NOT_RESOLVABLE = "ATTEMPT_NOT_RESOLVABLE"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    PROVIDER_NOT_CONFIGURED = "PROVIDER_NOT_CONFIGURED"
    PROVIDER_MODE_MISMATCH = "PROVIDER_MODE_MISMATCH"
    CLOCK_ADVANCING = "CLOCK_ADVANCING"
    CLOCK_NOT_TEST = "CLOCK_NOT_TEST"
    CLOCK_BACKWARDS = "CLOCK_BACKWARDS"
    FEATURE_DISABLED = "FEATURE_DISABLED"
    AUTOPAY_DISABLED = "AUTOPAY_DISABLED"
    FIRM_REQUIRED = "FIRM_REQUIRED"
    FIRM_SUSPENDED = "FIRM_SUSPENDED"
    CREDIT_INSUFFICIENT = "CREDIT_INSUFFICIENT"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    SERIALIZATION_CONFLICT = "SERIALIZATION_CONFLICT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RATE_LIMITED = "RATE_LIMITED"
    OVERLOADED = "OVERLOADED"
    DEADLINE_TOO_SHORT = "DEADLINE_TOO_SHORT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    UNIMPLEMENTED_METHOD = "UNIMPLEMENTED_METHOD"
    RUN_NOT_ACTIVE = "RUN_NOT_ACTIVE"
    CANCELLED = "CANCELLED"
    REFUND_EXCEEDS_PAYMENT = "REFUND_EXCEEDS_PAYMENT"
    PAYMENT_DISPUTED = "PAYMENT_DISPUTED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    BREAKER_OPEN = "BREAKER_OPEN"
    CREDENTIAL_INVALID = "CREDENTIAL_INVALID"
    RECOVERING = "RECOVERING"
    SELF_APPROVAL_REFUSED = "SELF_APPROVAL_REFUSED"
    COUPON_NOT_REDEEMABLE = "COUPON_NOT_REDEEMABLE"
    IMPORT_DAMAGED = "IMPORT_DAMAGED"
    IMPORT_UNVERIFIED = "IMPORT_UNVERIFIED"
    EXPORT_REQUIRED = "EXPORT_REQUIRED"
    CREDIT_NOTE_EXCEEDS_INVOICE = "CREDIT_NOTE_EXCEEDS_INVOICE"
    EXCHANGE_RATE_MISSING = "EXCHANGE_RATE_MISSING"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path as the caller wrote it, and what is wrong with it."""

    field: str
    description: str


class DunwellError(Exception):
    """A refusal or failure that the caller is meant to read.

    ``message`` is for developers and never holds secrets or other firms' data. ``metadata`` is machine-readable and
    goes into ``ErrorInfo``. ``field`` alone is shorthand for a single violation whose description is the message.
    ``resource`` is (type, id) of the object concerned. ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata: dict[str, str] = dict(metadata) if metadata else {}
        if violations:
            self.violations: tuple[FieldViolation, ...] = tuple(violations)
        elif field is not None:
            self.violations = (FieldViolation(field, message),)
        else:
            self.violations = ()
        self.resource = resource
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def field_invalid(field: str, description: str) -> DunwellError:
    """A FIELD_INVALID error about one field, ready to raise."""
    return DunwellError(Reason.FIELD_INVALID, description, field=field)
