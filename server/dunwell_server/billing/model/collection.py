"""How invoices are collected automatically. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class AutopayCadence(StrEnum):
    """When an invoice on autopay is charged."""

    ON_DUE = "ON_DUE"
    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    IMMEDIATE = "IMMEDIATE"


class AutopayStatus(StrEnum):
    """How far the automatic collection of an invoice has come."""

    SCHEDULED = "SCHEDULED"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class CollectionColumns:
    """How an invoice is collected automatically. Owned by the invoice, changed only through `set_collection`."""

    autopay_enabled: bool = False
    autopay_status: AutopayStatus | None = None
    autopay_cadence: AutopayCadence | None = None
    autopay_method_id: UUID | None = None
    autopay_next_charge_time: datetime | None = None
    collection_cycle: int = 1
    failure_count: int = 0
    failure_code: str | None = None
    failure_provider_code: str | None = None
    failure_message: str | None = None
    failure_time: datetime | None = None
    last_retry_time: datetime | None = None
    retry_pending: bool = False
    retries_exhausted: bool = False
