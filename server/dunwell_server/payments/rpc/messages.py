"""Payments as the contract's messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from dunwell.v1 import payment_failure_pb2, payment_method_pb2, payment_pb2, provider_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import Money
from dunwell_server.payments.health import health_of
from dunwell_server.payments.model import Allocation, Attempt, MethodState, Payment, PaymentKind, PaymentMethod
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.rpc.converters import date_message, enum_value, etag, id_text, money_message, timestamp

STATE: Final = "PAYMENT_STATE_"
KIND: Final = "PAYMENT_KIND_"
MANUAL: Final = "MANUAL_PAYMENT_METHOD_"
RESOLUTION: Final = "ATTEMPT_RESOLUTION_"
CADENCE: Final = "AUTOPAY_CADENCE_"


def _failure_code(code: str | None) -> int:
    if code is None:
        return payment_failure_pb2.PAYMENT_FAILURE_CODE_UNSPECIFIED
    return enum_value(payment_failure_pb2.PaymentFailureCode, code.upper(), "PAYMENT_FAILURE_CODE_")


def _failure(
    code: str | None, decline_class: str | None, provider_code: str | None, message: str | None, at: datetime | None
) -> payment_failure_pb2.PaymentFailure | None:
    if code is None:
        return None
    return payment_failure_pb2.PaymentFailure(
        code=_failure_code(code),  # type: ignore[arg-type]
        decline_class=enum_value(payment_failure_pb2.DeclineClass, decline_class or "UNSPECIFIED", "DECLINE_CLASS_"),  # type: ignore[arg-type]
        provider_code=provider_code or "",
        message=message or "",
        failure_time=timestamp(at),
    )


def _mode(mode: str | None) -> Any:
    return enum_value(provider_pb2.AccountMode, mode or "UNSPECIFIED", "ACCOUNT_MODE_")


def method_message(method: PaymentMethod, firm_text: str) -> payment_method_pb2.PaymentMethod:
    """A payment method."""
    card = None
    if method.kind == "CARD":
        card = payment_method_pb2.CardSummary(
            brand=method.brand or "",
            last4=method.last4 or "",
            exp_month=method.exp_month or 0,
            exp_year=method.exp_year or 0,
            country_code=method.country or "",
        )
    blocked = method.state in (MethodState.NEEDS_ACTION, MethodState.DEAD)
    return payment_method_pb2.PaymentMethod(
        id=id_text(Prefix.PAYMENT_METHOD, method.id),
        firm_id=firm_text,
        client_id=id_text(Prefix.CLIENT, method.client_id),
        provider=method.provider,
        mode=_mode(method.mode),
        provider_method_id=method.provider_reference,
        kind=enum_value(payment_method_pb2.PaymentMethodKind, method.kind, "PAYMENT_METHOD_KIND_"),  # type: ignore[arg-type]
        state=enum_value(payment_method_pb2.PaymentMethodState, method.state.value, "PAYMENT_METHOD_STATE_"),  # type: ignore[arg-type]
        block_code=_failure_code(method.block_code if blocked else None),  # type: ignore[arg-type]
        is_default=method.is_default,
        backup_priority=method.backup_priority,
        metadata=method.metadata,
        card=card,
        last_success_time=timestamp(method.last_success_time),
        last_failure_time=timestamp(method.last_failure_time),
        health=enum_value(payment_method_pb2.PaymentMethodHealth, health_of(method).value, "PAYMENT_METHOD_HEALTH_"),  # type: ignore[arg-type]
        etag=etag(method.version),
        create_time=timestamp(method.create_time),
        update_time=timestamp(method.update_time),
    )


def _allocation(part: Allocation, currency: str) -> payment_pb2.PaymentAllocation:
    amount = money_message(Money(currency, part.amount_minor))
    return payment_pb2.PaymentAllocation(invoice_id=id_text(Prefix.INVOICE, part.invoice_id), amount=amount)


def _attempt(attempt: Attempt) -> payment_pb2.PaymentAttempt:
    failed = _failure(
        attempt.failure_code, attempt.decline_class, attempt.provider_code, attempt.message, attempt.finish_time
    )
    return payment_pb2.PaymentAttempt(
        id=id_text(Prefix.ATTEMPT, attempt.id),
        attempt_no=attempt.attempt_no,
        state=enum_value(payment_pb2.AttemptState, attempt.state.value, "ATTEMPT_STATE_"),  # type: ignore[arg-type]
        provider=attempt.provider,
        payment_method_id=id_text(Prefix.PAYMENT_METHOD, attempt.method_id),
        amount=money_message(Money(attempt.currency_code, attempt.amount_minor)),
        idempotency_key=attempt.idempotency_key,
        provider_reference=attempt.provider_reference or "",
        failure=failed,
        send_count=attempt.send_count,
        needs_person=attempt.needs_person,
        first_send_time=timestamp(attempt.first_send_time),
        send_time=timestamp(attempt.send_time),
        next_check_time=timestamp(attempt.next_check_time),
        finish_time=timestamp(attempt.finish_time),
    )


def _manual(payment: Payment) -> payment_pb2.ManualPaymentDetails | None:
    if payment.kind is not PaymentKind.MANUAL:
        return None
    return payment_pb2.ManualPaymentDetails(
        method=enum_value(payment_pb2.ManualPaymentMethod, payment.manual_method or "UNSPECIFIED", MANUAL),  # type: ignore[arg-type]
        reference=payment.manual_reference or "",
        received_date=date_message(payment.received_date),
    )


def payment_message(view: PaymentView, firm_text: str) -> payment_pb2.Payment:
    """A payment; its attempts are empty where they were not read."""
    payment = view.payment
    currency = payment.currency_code
    last = view.attempts[-1] if view.attempts else None
    decline_class = last.decline_class if last is not None and payment.failure_code is not None else None
    return payment_pb2.Payment(
        id=id_text(Prefix.PAYMENT, payment.id),
        firm_id=firm_text,
        client_id=id_text(Prefix.CLIENT, payment.client_id),
        state=enum_value(payment_pb2.PaymentState, payment.state.value, STATE),  # type: ignore[arg-type]
        kind=enum_value(payment_pb2.PaymentKind, payment.kind.value, KIND),  # type: ignore[arg-type]
        amount=money_message(Money(currency, payment.amount_minor)),
        invoice_id=id_text(Prefix.INVOICE, payment.invoice_id),
        allocations=[_allocation(part, currency) for part in view.allocations],
        amount_credited=money_message(Money(currency, payment.credited_minor)),
        amount_refunded=money_message(Money(currency, payment.refunded_minor)),
        amount_charged_back=money_message(Money(currency, payment.charged_back_minor)),
        amount_refund_pending=money_message(Money(currency, payment.refund_pending_minor)),
        provider=payment.provider,
        mode=_mode(payment.mode),
        payment_method_id=id_text(Prefix.PAYMENT_METHOD, payment.method_id),
        slot_no=payment.slot,
        attempts=[_attempt(attempt) for attempt in view.attempts],
        failure=_failure(
            payment.failure_code,
            decline_class,
            payment.failure_provider_code,
            payment.failure_message,
            payment.finish_time,
        ),
        action_url=payment.action_url or "",
        action_expire_time=timestamp(payment.action_expire_time),
        manual=_manual(payment),
        late_attempt_id=id_text(Prefix.ATTEMPT, payment.late_attempt_id),
        run_id=id_text(Prefix.RUN, payment.run_id),
        finish_time=timestamp(payment.finish_time),
        checkout_session_id=id_text(Prefix.CHECKOUT_SESSION, view.session_id),
        etag=etag(payment.version),
        create_time=timestamp(payment.firm_time),
        update_time=timestamp(payment.update_time),
    )
