"""PaymentService: refunds."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dunwell.v1 import payment_service_pb2 as pb
from dunwell.v1 import refund_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.kernel.paging import SortValue
from dunwell_server.payments.jobs.refunding import Refunder
from dunwell_server.payments.refunds import Destination, RefundClaim
from dunwell_server.payments.rpc.parts import PaymentHandlers, PaymentParts
from dunwell_server.payments.service import refunds
from dunwell_server.payments.service.refunds import RefundOrder
from dunwell_server.payments.store.refunds import RefundAllocation, RefundFilter, RefundView
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import (
    enum_name,
    enum_value,
    etag,
    id_text,
    id_value,
    money,
    money_message,
    optional_id,
    optional_instant,
    timestamp,
)

_STATE: Final = "REFUND_STATE_"
_DESTINATION: Final = "REFUND_DESTINATION_"
_REASON: Final = "REFUND_REASON_"


class RefundHandlers(PaymentHandlers):
    """Handlers of refunds."""

    def __init__(self, parts: PaymentParts) -> None:
        super().__init__(parts)
        self._refunder = Refunder(parts.charger)

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: Any) -> pb.RefundPaymentResponse:
        order = _order(request)
        claims: dict[UUID, RefundClaim] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            claims.clear()
            requested = await refunds.request_refund(uow, order, self._refunder.owner, self._refunder.check_provider)
            if requested.claim is not None:
                claims[requested.refund_id] = requested.claim
            return requested.refund_id

        async def settle(call: CallContext, refund_id: UUID) -> None:
            await self._refunder.run(self._calls.database, call, claims.values())

        async def present(uow: UnitOfWork, refund_id: UUID) -> pb.RefundPaymentResponse:
            return pb.RefundPaymentResponse(refund=refund_message(await refunds.get_refund(uow, refund_id), _firm(uow)))

        return await self._calls.provider(request, intent, settle, present)

    async def ListRefunds(self, request: pb.ListRefundsRequest, context: Any) -> pb.ListRefundsResponse:
        page = self._pager.read(request)
        start = optional_instant(request.create_time, "start_time", "create_time.start_time")
        end = optional_instant(request.create_time, "end_time", "create_time.end_time")
        if start is not None and end is not None and end < start:
            raise DunwellError(Reason.PERIOD_INVALID, "create_time ends before it starts.", field="create_time")
        wanted = RefundFilter(
            payment_id=optional_id(Prefix.PAYMENT, request.payment_id, "payment_id"),
            client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
            invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
            states=[enum_name(refund_pb2.RefundState, state, _STATE) for state in request.states] or None,
            from_time=start,
            until_time=end,
        )

        async def read(uow: UnitOfWork) -> pb.ListRefundsResponse:
            found = await refunds.list_refunds(uow, wanted, after=page.after, limit=page.limit)
            shown, token = page.split(found, _sort_key)
            firm = _firm(uow)
            return pb.ListRefundsResponse(refunds=[refund_message(view, firm) for view in shown], next_page_token=token)

        return await self._calls.read(read)


def refund_message(view: RefundView, firm_text: str) -> refund_pb2.Refund:
    """A refund with its allocations."""
    refund = view.refund
    currency = refund.currency_code
    return refund_pb2.Refund(
        id=id_text(Prefix.REFUND, refund.id),
        firm_id=firm_text,
        client_id=id_text(Prefix.CLIENT, refund.client_id),
        payment_id=id_text(Prefix.PAYMENT, refund.payment_id),
        state=enum_value(refund_pb2.RefundState, refund.state.value, _STATE),  # type: ignore[arg-type]
        amount=money_message(Money(currency, refund.amount_minor)),
        destination=enum_value(refund_pb2.RefundDestination, refund.destination.value, _DESTINATION),  # type: ignore[arg-type]
        reason=enum_value(refund_pb2.RefundReason, refund.reason or "UNSPECIFIED", _REASON),  # type: ignore[arg-type]
        note=refund.note or "",
        allocations=[_allocation(part, currency) for part in view.allocations],
        amount_from_credit=money_message(Money(currency, refund.from_credit_minor)),
        amount_from_credit_notes=money_message(Money(currency, refund.from_payable_minor)),
        reopen_invoice=refund.reopen_invoice,
        provider=refund.provider,
        provider_reference=refund.provider_reference or "",
        idempotency_key=refund.idempotency_key,
        failure_code=refund.failure_code or "",
        failed_after_success=refund.failed_after_success,
        needs_person=refund.needs_person,
        approval_id=id_text(Prefix.APPROVAL, refund.approval_id),
        finish_time=timestamp(refund.finish_time),
        etag=etag(refund.version),
        create_time=timestamp(refund.firm_time),
        update_time=timestamp(refund.update_time),
    )


def _allocation(part: RefundAllocation, currency: str) -> refund_pb2.RefundAllocation:
    return refund_pb2.RefundAllocation(
        invoice_id=id_text(Prefix.INVOICE, part.invoice_id),
        amount=money_message(Money(currency, part.amount_minor)),
        credit_note_id=id_text(Prefix.CREDIT_NOTE, part.credit_note_id),
        credit_note_number=part.credit_note_number or "",
    )


def _order(request: pb.RefundPaymentRequest) -> RefundOrder:
    amount = money(request.amount, "amount") if request.HasField("amount") else None
    destination = enum_name(refund_pb2.RefundDestination, request.destination, _DESTINATION)
    reason = enum_name(refund_pb2.RefundReason, request.reason, _REASON)
    return RefundOrder(
        id_value(Prefix.PAYMENT, request.payment_id, "payment_id"),
        amount.minor if amount else None,
        amount.currency if amount else None,
        None if destination == "UNSPECIFIED" else Destination(destination),
        None if reason == "UNSPECIFIED" else reason,
        request.note or None,
        request.reopen_invoice,
    )


def _sort_key(view: RefundView) -> tuple[SortValue, ...]:
    return (view.refund.create_time, view.refund.id)


def _firm(uow: UnitOfWork) -> str:
    return encode(Prefix.FIRM, uow.firm_id)
