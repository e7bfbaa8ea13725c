"""What the demonstration shows: how the firm stands, which keys there are, and what to try first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.markup import escape

from dunwell.v1 import (
    autopay_pb2,
    billing_service_pb2,
    invoice_pb2,
    payment_failure_pb2,
    payment_pb2,
    payment_service_pb2,
    provider_event_pb2,
    provider_event_service_pb2,
)
from dunwell_server.cli.demo.api import Api
from dunwell_server.cli.demo.state import ENVIRONMENT, DemoFirm, DemoState
from dunwell_server.cli.demo.story import HARBOUR, LANTERN
from dunwell_server.cli.output import Output, amount_lines, money, table
from dunwell_server.cli.plan import Plan
from dunwell_server.config import Settings

_STATES = ("PAID", "SENT", "FAILED", "OVERDUE", "DRAFT", "VOID", "UNCOLLECTIBLE")
_COLOURS = {"PAID": "green", "FAILED": "red", "OVERDUE": "bold red"}
_AGES = ("overdue", "due today", "in 1–14 days", "in 15–30 days", "later")


def variables(state: DemoState) -> dict[str, str]:
    """What `demo.env` sets in a shell."""
    harbour, lantern = state.firms[HARBOUR.external_id], state.firms[LANTERN.external_id]
    return {
        "DUNWELL_ADDRESS": state.address,
        "DUNWELL_KEY": harbour.key,
        "DUNWELL_FIRM": harbour.firm_id,
        "LANTERN_KEY": lantern.key,
        "LANTERN_FIRM": lantern.firm_id,
    }


async def standing(output: Output, address: str, firm: DemoFirm) -> None:
    """The firm's invoices by state, what is owed by due date, and what needs a look, all read over gRPC."""
    async with Api(address, firm.key) as api:
        invoices = await _invoices(api)
        names = await _client_names(api)
        open_payments = await _open_payments(api)
        webhooks = await _webhooks(api)
    output.say(f"\n[bold]{escape(firm.name)}[/bold]  how it stands")
    _by_state(output, invoices)
    _by_due_date(output, invoices)
    _to_look_at(output, invoices, names, open_payments)
    if webhooks:
        told = ", ".join(f"{count} {state}" for state, count in sorted(webhooks.items()))
        output.say(f"\n{sum(webhooks.values())} webhooks of the gateway have come: {told}")


async def _webhooks(api: Api) -> dict[str, int]:
    """How many provider events there are, by state. Those received wait for a job worker."""
    counts: dict[str, int] = defaultdict(int)
    token = ""
    while True:
        request = provider_event_service_pb2.ListProviderEventsRequest(page_size=1000, page_token=token)
        page = await api.call(api.provider_events.ListProviderEvents, request)
        for event in page.provider_events:
            name = provider_event_pb2.ProviderEventState.Name(event.state).removeprefix("PROVIDER_EVENT_STATE_")
            counts[name.lower()] += 1
        token = page.next_page_token
        if not token:
            return counts


async def _invoices(api: Api) -> list[invoice_pb2.Invoice]:
    found: list[invoice_pb2.Invoice] = []
    token = ""
    while True:
        request = billing_service_pb2.ListInvoicesRequest(page_size=500, page_token=token)
        page = await api.call(api.billing.ListInvoices, request)
        found += page.invoices
        token = page.next_page_token
        if not token:
            return found


async def _client_names(api: Api) -> dict[str, str]:
    page = await api.call(api.billing.ListClients, billing_service_pb2.ListClientsRequest(page_size=1000))
    return {client.id: client.name for client in page.clients}


async def _open_payments(api: Api) -> dict[str, payment_pb2.Payment]:
    states = [payment_pb2.PAYMENT_STATE_PROCESSING, payment_pb2.PAYMENT_STATE_REQUIRES_ACTION]
    request = payment_service_pb2.ListPaymentsRequest(page_size=500, states=states)
    page = await api.call(api.payments.ListPayments, request)
    found: dict[str, payment_pb2.Payment] = {}
    for payment in page.payments:
        request_one = payment_service_pb2.GetPaymentRequest(payment_id=payment.id)
        found[payment.invoice_id] = (await api.call(api.payments.GetPayment, request_one)).payment
    return found


def _by_state(output: Output, invoices: Sequence[invoice_pb2.Invoice]) -> None:
    counts: dict[str, int] = defaultdict(int)
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    paid: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for invoice in invoices:
        name = invoice_pb2.InvoiceState.Name(invoice.state).removeprefix("INVOICE_STATE_")
        counts[name] += 1
        totals[name][invoice.currency_code] += invoice.total.amount_minor
        paid[name][invoice.currency_code] += invoice.amount_paid.amount_minor
    rows = table("Invoices", "Number", "Invoiced", "Collected", right=["Number", "Invoiced", "Collected"])
    for name in sorted(counts, key=lambda state: _STATES.index(state) if state in _STATES else len(_STATES)):
        colour = _COLOURS.get(name)
        shown = f"[{colour}]{name.lower()}[/{colour}]" if colour else name.lower()
        received = {currency: minor for currency, minor in paid[name].items() if minor}
        rows.add_row(shown, str(counts[name]), amount_lines(totals[name]), amount_lines(received))
    output.say(rows)


def _by_due_date(output: Output, invoices: Sequence[invoice_pb2.Invoice]) -> None:
    today = datetime.now(ZoneInfo(HARBOUR.time_zone)).date()
    owed: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_AGES, 0))
    for invoice in invoices:
        if invoice.amount_due.amount_minor and invoice.HasField("due_date"):
            due = date(invoice.due_date.year, invoice.due_date.month, invoice.due_date.day)
            owed[invoice.currency_code][_age((due - today).days)] += invoice.amount_due.amount_minor
    if not owed:
        return
    rows = table("Still owed", *_AGES, right=_AGES)
    for currency, by_age in sorted(owed.items()):
        rows.add_row(
            currency, *(money(minor, currency).partition(" ")[2] if minor else "–" for minor in by_age.values())
        )
    output.say(rows)


def _age(days: int) -> str:
    if days < 0:
        return "overdue"
    if days == 0:
        return "due today"
    return "in 1–14 days" if days <= 14 else "in 15–30 days" if days <= 30 else "later"


def _to_look_at(
    output: Output,
    invoices: Sequence[invoice_pb2.Invoice],
    names: dict[str, str],
    open_payments: dict[str, payment_pb2.Payment],
) -> None:
    rows = table("Not collected", "Invoice", "Owed", "Why", "What follows", right=["Owed"])
    for invoice in sorted(invoices, key=lambda found: found.number):
        why, follows = _why(invoice, open_payments.get(invoice.id))
        if why:
            amount = money(invoice.amount_due.amount_minor, invoice.currency_code)
            rows.add_row(escape(names.get(invoice.client_id, "")), invoice.number, amount, why, follows)
    if rows.row_count:
        output.say(rows)


def _why(invoice: invoice_pb2.Invoice, payment: payment_pb2.Payment | None) -> tuple[str, str]:
    """Why an invoice with autopay is not paid, and what happens next; nothing for one that simply is not due."""
    collection = invoice.collection
    if not invoice.amount_due.amount_minor:
        return "", ""
    if payment is not None:
        return _open(payment)
    if collection.HasField("last_failure"):
        code = payment_failure_pb2.PaymentFailureCode.Name(collection.last_failure.code)
        code = code.removeprefix("PAYMENT_FAILURE_CODE_").lower().replace("_", " ")
        if collection.HasField("next_charge_time"):
            again = collection.next_charge_time.ToDatetime(tzinfo=UTC).astimezone(ZoneInfo(HARBOUR.time_zone))
            return f"[red]{code}[/red]", f"retry {again:%Y-%m-%d}"
        return f"[red]{code}[/red]", "no more automatic tries"
    if collection.status == autopay_pb2.AUTOPAY_STATUS_SCHEDULED and collection.HasField("next_charge_time"):
        due = collection.next_charge_time.ToDatetime(tzinfo=UTC).astimezone(ZoneInfo(HARBOUR.time_zone))
        return "not due yet", f"charge {due:%Y-%m-%d}"
    return ("waits for a transfer", "paid by hand") if not collection.autopay_enabled else ("", "")


def _open(payment: payment_pb2.Payment) -> tuple[str, str]:
    last = payment.attempts[-1].state if payment.attempts else payment_pb2.ATTEMPT_STATE_UNSPECIFIED
    if payment.state == payment_pb2.PAYMENT_STATE_REQUIRES_ACTION:
        return "[yellow]client must confirm[/yellow]", "GetPayment: action_url"
    if last == payment_pb2.ATTEMPT_STATE_UNKNOWN:
        return "[yellow]outcome unknown[/yellow]", "asked again, same key"
    return "[yellow]bank is slow[/yellow]", "gateway will tell"


def keys(output: Output, state: DemoState, data_dir: Path) -> None:
    """The keys, shown this once."""
    output.say("\n[bold]API keys[/bold], shown this once (role FIRM_ADMIN)")
    for firm in state.firms.values():
        output.say(f"  {escape(firm.name)}\n    {firm.key}")
    output.say(
        f"  They are kept in {data_dir / ENVIRONMENT} and {data_dir / 'demo.json'}, for your eyes only (mode 600)."
    )


def how_to_try(output: Output, settings: Settings, state: DemoState, plan: Plan) -> None:
    """Where everything answers, and the first commands."""
    environment, address = settings.data_dir / ENVIRONMENT, state.address
    header = '-H "authorization: Bearer $DUNWELL_KEY"'
    lines = [
        "\n[bold]Serving[/bold]",
        f"  RPCs      {address}   (logs in {settings.data_dir / 'demo.log'})",
        f"  Sandbox   {plan.sandbox}",
        *([f"  Webhooks  {plan.sidecar}/webhooks/PROVIDER/ACCOUNT"] if plan.sidecar else []),
        "\n[bold]Try it[/bold] in another terminal",
        f"  source {environment}",
        f"  grpcurl -plaintext {address} list",
        f"  grpcurl -plaintext {header} -d '{{\"page_size\": 3}}' \\\n    {address} dunwell.v1.BillingService/ListClients",
        f'  grpcurl -plaintext {header} -d \'{{"states": ["INVOICE_STATE_FAILED"]}}\' \\\n'
        f"    {address} dunwell.v1.BillingService/ListInvoices",
        "  without grpcurl:",
        f"  .venv/bin/buf curl --protocol grpc --http2-prior-knowledge {header} \\\n"
        f"    -d '{{\"page_size\": 3}}' http://{address}/dunwell.v1.BillingService/ListClients",
        f"\n  {escape(LANTERN.name)} lives on a test clock: watch six weeks of invoices, failures and retries go by",
        "  .venv/bin/dunwell advance-clock --firm-id $LANTERN_FIRM --by 6w",
        "\nThe README has the whole tour. Ctrl-C stops everything.",
    ]
    for line in lines:
        output.say(line)
