"""PaymentService. A handler parses, calls one use case, and maps what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from dunwell.v1 import autopay_pb2, payment_method_pb2, payment_pb2, run_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.billing.model import AutopayCadence
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, uuid7
from dunwell_server.kernel.paging import SortValue
from dunwell_server.payments.jobs.guarding import tripping
from dunwell_server.payments.model import Allocation, Claim, PaymentMethod
from dunwell_server.payments.rpc import messages
from dunwell_server.payments.rpc.pages import PageHandlers
from dunwell_server.payments.rpc.parts import PaymentHandlers
from dunwell_server.payments.rpc.reconciliation import ReconciliationHandlers
from dunwell_server.payments.rpc.refunds import RefundHandlers
from dunwell_server.payments.service import autopay, charges, manual, methods, queries, resolution
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.payments.store.payments import PaymentFilter
from dunwell_server.platform import idempotency, runs
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.converters import (
    enum_name,
    expected_version,
    id_text,
    id_value,
    metadata_map,
    money,
    optional_date,
    optional_id,
    optional_instant,
    optional_value,
)
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.field_masks import checked_paths
from dunwell_server.rpc.run_progress import tail_run

_POLL_SECONDS: Final = 0.2
_SIGN_OF_LIFE_SECONDS: Final = 5.0


class PaymentServicer(RefundHandlers, PageHandlers, ReconciliationHandlers, PaymentHandlers):
    """Every RPC of the service: methods, autopay and payments here, the other topics in files of their own."""

    # Payment methods ---------------------------------------------------------------------------------------------

    async def AttachPaymentMethod(
        self, request: pb.AttachPaymentMethodRequest, context: Any
    ) -> pb.AttachPaymentMethodResponse:
        work = self._calls.background.own(self._attach(request), name="AttachPaymentMethod")
        return await asyncio.shield(work)

    async def _attach(self, request: pb.AttachPaymentMethodRequest) -> pb.AttachPaymentMethodResponse:
        """Ask the provider under keys that follow from the request, then keep what it said; a repeat asks nothing."""
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        attached = None
        if not await self._calls.read(idempotency.seen):
            attached = await self._keeper.attach(
                self._calls.database,
                current_call(),
                client_id,
                request.provider_method_id,
                provider=request.provider or None,
                backup_priority=request.backup_priority,
                metadata=metadata_map(request.metadata),
            )

        async def keep(uow: UnitOfWork) -> pb.AttachPaymentMethodResponse:
            if attached is None:
                raise DunwellError(Reason.REQUEST_IN_PROGRESS, "The request is being forgotten; repeat the call.")
            method = await methods.attach(
                uow, attached.values, customer_reference=attached.customer_reference, make_default=request.make_default
            )
            return pb.AttachPaymentMethodResponse(payment_method=_method(uow, method))

        return await self._calls.write(request, pb.AttachPaymentMethodResponse, keep)

    async def ListPaymentMethods(
        self, request: pb.ListPaymentMethodsRequest, context: Any
    ) -> pb.ListPaymentMethodsResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        page = self._pager.read(request)

        async def read(uow: UnitOfWork) -> pb.ListPaymentMethodsResponse:
            found = await methods.list_methods(
                uow, client_id, include_detached=request.include_detached, after=page.after, limit=page.limit
            )
            shown, token = page.split(found, lambda row: (row[0], row[1].create_time, row[1].id))
            return pb.ListPaymentMethodsResponse(
                payment_methods=[_method(uow, method) for _, method in shown], next_page_token=token
            )

        return await self._calls.read(read)

    async def UpdatePaymentMethod(
        self, request: pb.UpdatePaymentMethodRequest, context: Any
    ) -> pb.UpdatePaymentMethodResponse:
        wanted = request.payment_method
        method_id = id_value(Prefix.PAYMENT_METHOD, wanted.id, "payment_method.id")
        paths = {
            path.partition(".")[0] for path in checked_paths(request.update_mask, payment_method_pb2.PaymentMethod)
        }

        async def change(uow: UnitOfWork) -> pb.UpdatePaymentMethodResponse:
            method = await methods.update(
                uow,
                method_id,
                is_default=wanted.is_default if "is_default" in paths else None,
                backup_priority=wanted.backup_priority if "backup_priority" in paths else None,
                metadata=metadata_map(wanted.metadata) if "metadata" in paths else None,
                expected_version=expected_version(request.etag),
            )
            return pb.UpdatePaymentMethodResponse(payment_method=_method(uow, method))

        return await self._calls.write(request, pb.UpdatePaymentMethodResponse, change)

    async def DetachPaymentMethod(
        self, request: pb.DetachPaymentMethodRequest, context: Any
    ) -> pb.DetachPaymentMethodResponse:
        method_id = id_value(Prefix.PAYMENT_METHOD, request.payment_method_id, "payment_method_id")

        async def intent(uow: UnitOfWork) -> UUID:
            return (await methods.detach(uow, method_id, expected_version(request.etag))).id

        async def settle(call: CallContext, detached: UUID) -> None:
            await self._keeper.detach(self._calls.database, call, detached)

        async def present(uow: UnitOfWork, detached: UUID) -> pb.DetachPaymentMethodResponse:
            return pb.DetachPaymentMethodResponse(payment_method=_method(uow, await methods.get_method(uow, detached)))

        return await self._calls.provider(request, intent, settle, present)

    # Autopay -----------------------------------------------------------------------------------------------------

    async def SetAutopay(self, request: pb.SetAutopayRequest, context: Any) -> pb.SetAutopayResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        method_id = optional_id(Prefix.PAYMENT_METHOD, request.payment_method_id, "payment_method_id")

        async def change(uow: UnitOfWork) -> pb.SetAutopayResponse:
            changed = await autopay.switch_client(
                uow,
                client_id,
                enabled=request.enabled,
                method_id=method_id,
                cadence=_cadence(request.cadence),
                enroll_open=request.enroll_open_invoices,
                expected_version=expected_version(request.etag),
            )
            return pb.SetAutopayResponse(
                client=await self._present.client(uow, changed.client),
                enrolled_invoice_count=changed.enrolled,
                cancelled_invoice_count=changed.cancelled,
            )

        return await self._calls.write(request, pb.SetAutopayResponse, change)

    async def SetInvoiceAutopay(
        self, request: pb.SetInvoiceAutopayRequest, context: Any
    ) -> pb.SetInvoiceAutopayResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")
        method_id = optional_id(Prefix.PAYMENT_METHOD, request.payment_method_id, "payment_method_id")

        async def change(uow: UnitOfWork) -> pb.SetInvoiceAutopayResponse:
            invoice = await autopay.switch_invoice(
                uow,
                invoice_id,
                enabled=request.enabled,
                method_id=method_id,
                cadence=_cadence(request.cadence),
                expected_version=expected_version(request.etag),
            )
            return pb.SetInvoiceAutopayResponse(invoice=await self._present.invoice(uow, invoice))

        return await self._calls.write(request, pb.SetInvoiceAutopayResponse, change)

    # Payments ----------------------------------------------------------------------------------------------------

    async def ChargeInvoice(self, request: pb.ChargeInvoiceRequest, context: Any) -> pb.ChargeInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")
        method_id = optional_id(Prefix.PAYMENT_METHOD, request.payment_method_id, "payment_method_id")
        claims: dict[UUID, Claim] = {}

        async def intent(uow: UnitOfWork) -> UUID:
            claim = await charges.request_charge(
                uow,
                invoice_id,
                self._charger.owner,
                method_id=method_id,
                provider=request.provider or None,
                expected_version=expected_version(request.etag),
            )
            claims[claim.payment_id] = claim
            return claim.payment_id

        async def settle(call: CallContext, payment_id: UUID) -> None:
            await self._charger.run(self._calls.database, call, [claims[payment_id]])

        async def present(uow: UnitOfWork, payment_id: UUID) -> pb.ChargeInvoiceResponse:
            return pb.ChargeInvoiceResponse(payment=_payment(uow, await queries.get_payment(uow, payment_id)))

        async with tripping(self._calls.database, current_call()):
            return await self._calls.provider(request, intent, settle, present)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.GetPaymentResponse:
        payment_id = id_value(Prefix.PAYMENT, request.payment_id, "payment_id")

        async def read(uow: UnitOfWork) -> pb.GetPaymentResponse:
            return pb.GetPaymentResponse(payment=_payment(uow, await queries.get_payment(uow, payment_id)))

        return await self._calls.read(read)

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: Any) -> pb.ListPaymentsResponse:
        wanted, page = _filter(request), self._pager.read(request)
        oldest_first = request.order == payment_pb2.PAYMENT_ORDER_CREATE_TIME_ASC

        async def read(uow: UnitOfWork) -> pb.ListPaymentsResponse:
            found = await queries.list_payments(
                uow, wanted, oldest_first=oldest_first, after=page.after, limit=page.limit
            )
            shown, token = page.split(found, _sort_key)
            return pb.ListPaymentsResponse(payments=[_payment(uow, view) for view in shown], next_page_token=token)

        return await self._calls.read(read)

    async def RecordManualPayment(
        self, request: pb.RecordManualPaymentRequest, context: Any
    ) -> pb.RecordManualPaymentResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        amount = money(request.amount, "amount")
        allocations = _allocations(request, amount.currency)

        async def change(uow: UnitOfWork) -> pb.RecordManualPaymentResponse:
            payment = await manual.record_manual(
                uow,
                client_id,
                amount.minor,
                amount.currency,
                method=enum_name(payment_pb2.ManualPaymentMethod, request.method, messages.MANUAL),
                reference=request.reference,
                received_date=optional_date(request, "received_date"),
                allocations=allocations,
            )
            view = await queries.get_payment(uow, payment.id)
            return pb.RecordManualPaymentResponse(payment=_payment(uow, view))

        return await self._calls.write(request, pb.RecordManualPaymentResponse, change)

    async def WatchPayment(
        self, request: pb.WatchPaymentRequest, context: Any
    ) -> AsyncIterator[pb.WatchPaymentResponse]:
        payment_id = id_value(Prefix.PAYMENT, request.payment_id, "payment_id")
        loop = asyncio.get_running_loop()
        told, told_at = -1, loop.time()
        while True:
            if told < 0 or loop.time() - told_at >= _SIGN_OF_LIFE_SECONDS or await self._version(payment_id) != told:
                view, firm = await self._calls.read(lambda uow: _view(uow, payment_id))
                told, told_at = view.payment.version, loop.time()
                last = view.payment.state.is_final
                yield pb.WatchPaymentResponse(payment=messages.payment_message(view, firm), last=last)
                if last:
                    return
            await asyncio.sleep(_POLL_SECONDS)

    async def _version(self, payment_id: UUID) -> int | None:
        return await self._calls.read(lambda uow: queries.payment_version(uow, payment_id))

    async def ResolveAttempt(self, request: pb.ResolveAttemptRequest, context: Any) -> pb.ResolveAttemptResponse:
        attempt_id = id_value(Prefix.ATTEMPT, request.attempt_id, "attempt_id")
        verdict = enum_name(payment_pb2.AttemptResolution, request.resolution, messages.RESOLUTION)
        found = resolution.Resolution(verdict, request.provider_reference or None, request.note)

        async def change(uow: UnitOfWork) -> pb.ResolveAttemptResponse:
            resolved = await resolution.resolve(uow, attempt_id, found)
            view = await queries.get_payment(uow, resolved.payment_id)
            return pb.ResolveAttemptResponse(payment=_payment(uow, view), awaits_approval=resolved.awaits_approval)

        return await self._calls.write(request, pb.ResolveAttemptResponse, change)

    async def ProcessRecurringCharges(
        self, request: pb.ProcessRecurringChargesRequest, context: Any
    ) -> AsyncIterator[pb.ProcessRecurringChargesResponse]:
        params = _run_params(request)
        _check_reach(request.all_firms, current_call())

        async def start(uow: UnitOfWork) -> UUID:
            if request.all_firms:
                return await self._all_firms.start(uow, RunKind.COLLECTION, params, dry_run=request.dry_run)
            if (client := params.get("client_id")) is not None:
                await methods.require_client(uow, UUID(client))
            run = await runs.create(uow, RunKind.COLLECTION, params, dry_run=request.dry_run, run_id=uuid7())
            return run.id

        def tail(call: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
            if request.all_firms:
                return self._all_firms.tail(call, run_id)
            return tail_run(self._calls.database, call, run_id, omit_items=request.omit_items)

        async for progress in self._calls.run(request, start, tail):
            yield pb.ProcessRecurringChargesResponse(progress=progress)


def _firm(uow: UnitOfWork) -> str:
    return id_text(Prefix.FIRM, uow.firm_id)


def _payment(uow: UnitOfWork, view: PaymentView) -> payment_pb2.Payment:
    return messages.payment_message(view, _firm(uow))


def _method(uow: UnitOfWork, method: PaymentMethod) -> payment_method_pb2.PaymentMethod:
    return messages.method_message(method, _firm(uow))


async def _view(uow: UnitOfWork, payment_id: UUID) -> tuple[PaymentView, str]:
    return await queries.get_payment(uow, payment_id), _firm(uow)


def _sort_key(view: PaymentView) -> tuple[SortValue, ...]:
    return view.payment.create_time, view.payment.id


def _cadence(value: int) -> AutopayCadence | None:
    return AutopayCadence(enum_name(autopay_pb2.AutopayCadence, value, messages.CADENCE)) if value else None


def _filter(request: pb.ListPaymentsRequest) -> PaymentFilter:
    start = optional_instant(request.create_time, "start_time", "create_time.start_time")
    end = optional_instant(request.create_time, "end_time", "create_time.end_time")
    if start is not None and end is not None and end < start:
        raise DunwellError(Reason.PERIOD_INVALID, "create_time ends before it starts.", field="create_time")
    return PaymentFilter(
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        states=[enum_name(payment_pb2.PaymentState, state, messages.STATE) for state in request.states],
        kinds=[enum_name(payment_pb2.PaymentKind, kind, messages.KIND) for kind in request.kinds],
        provider=request.provider or None,
        needs_person=optional_value(request, "needs_person"),
        from_time=start,
        until_time=end,
    )


def _allocations(request: pb.RecordManualPaymentRequest, currency: str) -> list[Allocation]:
    parts = []
    for index, part in enumerate(request.allocations):
        field = f"allocations[{index}]"
        amount = money(part.amount, f"{field}.amount")
        if amount.currency != currency:
            raise DunwellError(
                Reason.CURRENCY_MISMATCH,
                f"{field}.amount is in {amount.currency}, the payment in {currency}.",
                field=f"{field}.amount.currency_code",
                metadata={"given": amount.currency, "expected": currency},
            )
        parts.append(Allocation(id_value(Prefix.INVOICE, part.invoice_id, f"{field}.invoice_id"), amount.minor))
    return parts


def _run_params(request: pb.ProcessRecurringChargesRequest) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if client_id := optional_id(Prefix.CLIENT, request.client_id, "client_id"):
        params["client_id"] = str(client_id)
    if as_of := optional_instant(request, "as_of_time"):
        params["as_of_time"] = as_of.isoformat()
    return params


def _check_reach(all_firms: bool, call: CallContext) -> None:
    if all_firms and call.actor.role is not Role.ADMIN:
        raise DunwellError(Reason.PERMISSION_DENIED, "Only an ADMIN starts runs over all firms.")
    if all_firms and call.firm_id is not None:
        raise field_invalid("all_firms", "a run over all firms names no firm in dunwell-firm")
    if not all_firms and call.firm_id is None:
        raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata, or set all_firms.")
