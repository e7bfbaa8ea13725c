"""PaymentService: reconciliation, syncing, the failure report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dunwell.v1 import money_pb2, payment_failure_pb2, payment_report_pb2, run_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.billing.service.invoices import get_invoice
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.payments.jobs.reconciling import start as start_reconciliation
from dunwell_server.payments.jobs.syncing import Syncer
from dunwell_server.payments.rpc.messages import method_message
from dunwell_server.payments.rpc.parts import PaymentHandlers
from dunwell_server.payments.service import reports
from dunwell_server.payments.store import syncing
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.converters import enum_value, id_text, id_value, optional_currency, optional_instant
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.run_progress import tail_run

_PREFIXES: Final = {"pay": Prefix.PAYMENT, "ref": Prefix.REFUND}


class ReconciliationHandlers(PaymentHandlers):
    """Handlers of reconciliation, syncing, the failure report."""

    async def ReconcilePayments(
        self, request: pb.ReconcilePaymentsRequest, context: Any
    ) -> AsyncIterator[pb.ReconcilePaymentsResponse]:
        _check_reach(request.all_firms, current_call())
        params = _run_params(request)

        async def start(uow: UnitOfWork) -> UUID:
            if request.all_firms:
                return await self._all_firms.start(uow, RunKind.RECONCILIATION, params, dry_run=request.dry_run)
            return (await start_reconciliation(uow, params, dry_run=request.dry_run)).id

        def tail(call: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
            if request.all_firms:
                return self._all_firms.tail(call, run_id)
            return tail_run(self._calls.database, call, run_id, omit_items=request.omit_items)

        async for progress in self._calls.run(request, start, tail):
            yield pb.ReconcilePaymentsResponse(progress=progress)

    async def SyncInvoice(self, request: pb.SyncInvoiceRequest, context: Any) -> pb.SyncInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def intent(uow: UnitOfWork) -> UUID:
            return (await get_invoice(uow, invoice_id)).id

        async def settle(call: CallContext, synced: UUID) -> None:
            await Syncer(self._charger).sync(self._calls.database, call, synced)

        async def present(uow: UnitOfWork, synced: UUID) -> pb.SyncInvoiceResponse:
            invoice = await self._present.invoice(uow, await get_invoice(uow, synced))
            rows = await syncing.still_open(uow, synced)
            return pb.SyncInvoiceResponse(
                invoice=invoice, open_ids=[id_text(_PREFIXES[row["kind"]], row["id"]) for row in rows]
            )

        return await self._calls.provider(request, intent, settle, present)

    async def GetPaymentReport(self, request: pb.GetPaymentReportRequest, context: Any) -> pb.GetPaymentReportResponse:
        since, until = _range(request, "range")
        currency = optional_currency(request.currency_code, "currency_code")

        async def read(uow: UnitOfWork) -> pb.GetPaymentReportResponse:
            provider = request.provider or None
            found = await reports.payment_report(uow, since, until, currency=currency, provider=provider)
            return pb.GetPaymentReportResponse(report=report_message(found, id_text(Prefix.FIRM, uow.firm_id)))

        return await self._calls.read(read)


def report_message(report: reports.PaymentReport, firm_text: str) -> payment_report_pb2.PaymentReport:
    """The report as the contract has it."""
    failures = sum(code.count for code in report.codes)
    return payment_report_pb2.PaymentReport(
        finished_count=report.total.finished, failed_count=report.total.failed, failure_rate=report.total.rate,
        months=[
            payment_report_pb2.PaymentReportMonth(month=each.name, finished_count=each.finished, failed_count=each.failed, failure_rate=each.rate)
            for each in report.months
        ],
        codes=[
            payment_report_pb2.PaymentReportCode(
                code=enum_value(payment_failure_pb2.PaymentFailureCode, each.code.upper(), "PAYMENT_FAILURE_CODE_"),  # type: ignore[arg-type]
                count=each.count, share=each.count / failures, amounts=_amounts(each.amounts),
            )
            for each in report.codes
        ],
        providers=[
            payment_report_pb2.PaymentReportProvider(provider=each.name, finished_count=each.finished, failed_count=each.failed, failure_rate=each.rate)
            for each in report.providers
        ],
        slots=[
            payment_report_pb2.PaymentReportSlot(
                slot_no=each.slot, finished_count=each.finished, succeeded_count=each.succeeded, recovery_rate=each.rate, amounts=_amounts(each.amounts),
            )
            for each in report.slots
        ],
        amounts_at_risk=_amounts(report.at_risk), invoices_at_risk=report.invoices_at_risk, amounts_exhausted=_amounts(report.exhausted),
        expiring_payment_methods=[method_message(method, firm_text) for method in report.expiring],
        expiring_payment_methods_count=report.expiring_count,
    )  # fmt: skip


def _amounts(by_currency: Mapping[str, int]) -> list[money_pb2.Money]:
    return [
        money_pb2.Money(currency_code=currency, amount_minor=minor) for currency, minor in sorted(by_currency.items())
    ]


def _range(request: Any, field: str) -> tuple[datetime | None, datetime | None]:
    """A TimeRange, each end of which may be open. Errors: PERIOD_INVALID where it ends before it starts."""
    holder = getattr(request, field)
    start = optional_instant(holder, "start_time", f"{field}.start_time")
    end = optional_instant(holder, "end_time", f"{field}.end_time")
    if start is not None and end is not None and end < start:
        raise DunwellError(Reason.PERIOD_INVALID, f"{field} ends before it starts.", field=field)
    return start, end


def _run_params(request: pb.ReconcilePaymentsRequest) -> dict[str, Any]:
    start, end = _range(request, "window")
    params: dict[str, Any] = {}
    if request.provider:
        params["provider"] = request.provider
    if start is not None:
        params["since"] = start.isoformat()
    if end is not None:
        params["until"] = end.isoformat()
    return params


def _check_reach(all_firms: bool, call: CallContext) -> None:
    if all_firms and call.actor.role is not Role.ADMIN:
        raise DunwellError(Reason.PERMISSION_DENIED, "Only an ADMIN starts runs over all firms.")
    if all_firms and call.firm_id is not None:
        raise field_invalid("all_firms", "a run over all firms names no firm in dunwell-firm")
    if not all_firms and call.firm_id is None:
        raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata, or set all_firms.")
