"""What billing writes to the audit trail and the outbox about its objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import Client, Engagement, Invoice, TimeEntry
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.journal import Category, Change, Severity


def client_change(client: Client, verb: str, details: Mapping[str, Any] | None = None) -> Change:
    """`client_created` / `client.created` and so on. Names and addresses stay out of it."""
    metadata = {"client_id": encode(Prefix.CLIENT, client.id), **(details or {})}
    return Change(
        Category.BILLING, f"client_{verb}", "client", client.id, event=f"client.{verb}", metadata=_present(metadata),
        event_only=_present({"external_id": client.external_id}),
    )  # fmt: skip


def engagement_change(
    engagement: Engagement, verb: str, details: Mapping[str, Any] | None = None, severity: Severity = Severity.INFO,
    event_only: Mapping[str, Any] | None = None,
) -> Change:  # fmt: skip
    """`engagement_created` / `engagement.created` and so on."""
    metadata = {
        "engagement_id": encode(Prefix.ENGAGEMENT, engagement.id),
        "client_id": encode(Prefix.CLIENT, engagement.client_id),
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
        severity=severity,
        metadata=_present(metadata),
        event_only=_present({"external_id": engagement.external_id, **(event_only or {})}),
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


def credit_change(
    entry_id: UUID, client_id: UUID, currency: str, verb: str, details: Mapping[str, Any] | None = None, *, reason: str | None = None
) -> Change:  # fmt: skip
    """`credit_granted` / `credit.granted` and so on, of one entry of a client's credit, and why. The client is locked."""
    metadata = {
        "credit_id": encode(Prefix.CREDIT, entry_id),
        "client_id": encode(Prefix.CLIENT, client_id),
        "currency_code": currency,
        **(details or {}),
    }
    return Change(
        Category.BILLING, f"credit_{verb}", "credit", entry_id, event=f"credit.{verb}", metadata=_present(metadata),
        event_only=_present({"reason": reason}),
    )  # fmt: skip


def time_entry_change(entry: TimeEntry, verb: str, details: Mapping[str, Any] | None = None) -> Change:
    """`time_entry_approved` / `time_entry.approved` and so on. What was done stays out of it."""
    metadata = {
        "time_entry_id": encode(Prefix.TIME_ENTRY, entry.id),
        "engagement_id": encode(Prefix.ENGAGEMENT, entry.engagement_id),
        "state": entry.state.value,
        "work_date": entry.work_date.isoformat(),
        "minutes": entry.minutes,
        "written_down_minutes": entry.written_down_minutes or None,
        **(details or {}),
    }
    return Change(
        Category.BILLING,
        f"time_entry_{verb}",
        "time_entry",
        entry.id,
        event=f"time_entry.{verb}",
        metadata=_present(metadata),
        event_only=_present(
            {"external_id": entry.external_id, "reason": entry.reject_reason or entry.write_down_reason}
        ),
    )


def _present(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}
