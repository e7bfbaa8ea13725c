"""The refusals that billing's use cases share, worded once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec, TypeVar
from uuid import UUID

from psycopg.errors import NumericValueOutOfRange, UniqueViolation

from dunwell_server.billing.model import Client, ClientState, Invoice, InvoiceState
from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import known_currency

P = ParamSpec("P")
R = TypeVar("R")

_PREFIXES: Final = {
    "Client": Prefix.CLIENT,
    "Credit": Prefix.CREDIT,
    "Engagement": Prefix.ENGAGEMENT,
    "Invoice": Prefix.INVOICE,
    "TimeEntry": Prefix.TIME_ENTRY,
}

_ALLOWED: Final[dict[InvoiceState, tuple[str, ...]]] = {
    InvoiceState.DRAFT: ("UpdateInvoice", "FinalizeInvoice", "DeleteInvoice"),
    InvoiceState.SENT: ("VoidInvoice", "WriteOffInvoice"),
    InvoiceState.FAILED: ("VoidInvoice", "WriteOffInvoice"),
    InvoiceState.OVERDUE: ("VoidInvoice", "WriteOffInvoice"),
    InvoiceState.CHARGED_BACK: ("WriteOffInvoice",),
}


def not_found(kind: str, object_id: UUID) -> DunwellError:
    """No such Client, Engagement, Invoice or TimeEntry in this firm; another firm's looks the same."""
    return DunwellError(
        Reason.RESOURCE_NOT_FOUND, f"No such {kind.lower()}.", resource=(kind, ids.encode(_PREFIXES[kind], object_id))
    )


def check_version(kind: str, object_id: UUID, current: int, expected: int | None) -> None:
    """Raise ETAG_MISMATCH where the caller read another version than the current one. None: the caller does not mind."""
    if expected is not None and expected != current:
        raise DunwellError(
            Reason.ETAG_MISMATCH,
            f"The {kind.lower()} has changed since it was read; read it again and repeat the change.",
            resource=(kind, ids.encode(_PREFIXES[kind], object_id)),
        )


def invoice_conflict(invoice: Invoice, verb: str, needed: str) -> DunwellError:
    """STATE_CONFLICT of an invoice. `metadata`: its state, and the RPCs that would be allowed now, comma-separated."""
    can = [name for name in _ALLOWED.get(invoice.state, ()) if name != verb]
    if invoice.amount_received and "VoidInvoice" in can:
        can.remove("VoidInvoice")
    allowed = ",".join(can) or "none"
    return DunwellError(
        Reason.STATE_CONFLICT,
        f"{verb} needs {needed}; the invoice is {invoice.state}. Allowed now: {allowed.replace(',', ', ')}.",
        metadata={"state": invoice.state.value, "allowed": allowed},
        resource=("Invoice", ids.encode(Prefix.INVOICE, invoice.id)),
    )


def refuse_archived(client: Client, what: str) -> None:
    """Raise STATE_CONFLICT for a client that is archived: it gets no new engagements and invoices."""
    if client.state is ClientState.ARCHIVED:
        raise DunwellError(
            Reason.STATE_CONFLICT,
            f"The client is ARCHIVED: it cannot get a new {what}.",
            metadata={"state": client.state.value, "allowed": "none"},
            resource=("Client", ids.encode(Prefix.CLIENT, client.id)),
        )


def currency_of(given: str | None, client: Client, field: str) -> str:
    """The currency of something of the client: as given, which must be the client's, or the client's."""
    if given is None or given == client.currency_code:
        return client.currency_code
    known_currency(given, field)
    raise currency_mismatch(given, client.currency_code, field)


def currency_mismatch(given: str, expected: str, field: str) -> DunwellError:
    """CURRENCY_MISMATCH naming the field and both currencies."""
    return DunwellError(
        Reason.CURRENCY_MISMATCH,
        f"{field} is in {given}, but the client is billed in {expected}.",
        field=field,
        metadata={"given": given, "expected": expected},
    )


@contextmanager
def external_id_unique(kind: str) -> Iterator[None]:
    """EXTERNAL_ID_TAKEN for the database's refusal of a second object with the same external id."""
    try:
        yield
    except UniqueViolation as error:
        if not (error.diag.constraint_name or "").endswith("external_id_key"):
            raise
        raise DunwellError(
            Reason.EXTERNAL_ID_TAKEN,
            f"Another {kind} of the firm has this external_id.",
            field=f"{kind}.external_id",
        ) from error


def sums_in_range(report: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """A report whose sums the database makes: AMOUNT_OUT_OF_RANGE where one of them leaves 64 bits, as each amount alone does not."""

    @wraps(report)
    async def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await report(*args, **kwargs)
        except NumericValueOutOfRange as error:
            raise DunwellError(
                Reason.AMOUNT_OUT_OF_RANGE, "A sum of the report would not fit a 64-bit integer."
            ) from error

    return checked
