"""A firm's paying customers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from dunwell_server.billing.model.collection import AutopayCadence
from dunwell_server.billing.model.pricing import TaxStatus


class ClientState(StrEnum):
    """An ARCHIVED client gets no new engagements and invoices; what is open is still collected."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Client:
    """A firm's paying customer. `version` is behind the etag."""

    id: UUID
    external_id: str | None
    state: ClientState
    name: str
    email: str | None
    phone: str | None
    address: dict[str, Any] | None
    tax_id: str | None
    locale: str | None
    currency_code: str
    payment_terms_days: int | None
    metadata: dict[str, str]
    autopay_enabled: bool
    autopay_method_id: UUID | None
    autopay_cadence: AutopayCadence
    autopay_enable_time: datetime | None
    version: int
    create_time: datetime
    update_time: datetime
    default_provider: str | None = None
    """Where its new payment methods are kept unless a call says otherwise; None: where the firm's are."""
    tax_status: TaxStatus = TaxStatus.TAXABLE
    auto_apply_credit: bool = True
    """Whether its credit pays for its invoices when they are finalised."""
