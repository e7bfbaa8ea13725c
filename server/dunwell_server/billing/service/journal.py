"""What billing writes to the audit trail and the outbox about its objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dunwell_server.billing.model import Client, Engagement, Invoice
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.journal import Category, Change, Severity


def client_change(client: Client, verb: str, details: Mapping[str, Any] | None = None) -> Change:
    """`client_created` / `client.created` and so on. Names and addresses stay out of it."""
    metadata = {"client_id": encode(Prefix.CLIENT, client.id), "external_id": client.external_id, **(details or {})}
    return Change(
        Category.BILLING, f"client_{verb}", "client", client.id, event=f"client.{verb}", metadata=_present(metadata)
    )


def engagement_change(engagement: Engagement, verb: str, details: Mapping[str, Any] | None = None) -> Change:
    """`engagement_created` / `engagement.created` and so on."""
    metadata = {
        "engagement_id": encode(Prefix.ENGAGEMENT, engagement.id),
        "client_id": encode(Prefix.CLIENT, engagement.client_id),
        "external_id": engagement.external_id,
        "state": engagement.state.value,
        "end_date": None if engagement.end_date is None else engagement.end_date.isoformat(),
        **(details or {}),
    }
    return Change(
        Category.BILLING,
        f"engagement_{verb}",
        "engagement",
        engagement.id,
        event=f"engagement.{verb}",
        metadata=_present(metadata),
    )


def invoice_change(
    invoice: Invoice, verb: str, details: Mapping[str, Any] | None = None, severity: Severity = Severity.INFO
) -> Change:
    """`invoice_finalized` / `invoice.finalized` and so on, with the amounts as they are after the change.

    The number is missing while the invoice is being numbered: the counter is taken after this is written.
    """
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, invoice.id),
        "client_id": encode(Prefix.CLIENT, invoice.client_id),
        "external_id": invoice.external_id,
        "number": invoice.number,
        "state": invoice.state.value,
        "currency_code": invoice.currency_code,
        "total_minor": invoice.total,
        "amount_due_minor": invoice.amount_due,
        "due_date": None if invoice.due_date is None else invoice.due_date.isoformat(),
        **(details or {}),
    }
    return Change(
        Category.BILLING,
        f"invoice_{verb}",
        "invoice",
        invoice.id,
        event=f"invoice.{verb}",
        severity=severity,
        metadata=_present(metadata),
    )


def _present(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}
