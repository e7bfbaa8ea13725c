"""A firm's settings as every context reads them, and the firm's time.

The row lives in `control.firm`; the unit of work loads it together with the tenant setting, in the same round trip, and caches the parsed
settings by version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from dunwell_server.kernel.calendar import zone


@dataclass(frozen=True, slots=True)
class Numbering:
    """How invoice numbers look: `{prefix}-{year}-{sequence}` with the sequence padded to `padding` digits."""

    prefix: str = "INV"
    padding: int = 6
    yearly_reset: bool = True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Dunning schedule: after failure k the next automatic try is `wait_days[k-1]` civil days later, at the firm's run time."""

    wait_days: tuple[int, ...] = (3, 7, 14)
    retry_on_new_method: bool = False


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When charging at a provider account stops by itself, per firm and account. Windows are firm time."""

    charges_per_hour: int = 100_000
    """Most charges sent in an hour."""
    same_amount_per_day: int = 20
    """Most charges of the same amount to the same client in 24 hours."""
    decline_percent: int = 90
    """Declines among an hour's charges, in percent, above which it trips; counted from 100 charges on."""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class TimePolicy:
    """Who may approve time."""

    allow_self_approval: bool = False
    """Whether a person may approve the time that he or she submitted."""


@dataclass(frozen=True, slots=True)
class TaxSettings:
    """How invoices are taxed."""

    rounding: str = "LINE"
    """Where tax is rounded: LINE, or RATE for once over the invoice."""
    behavior: str = "EXCLUSIVE"
    """Whether prices contain the taxes whose rates do not say: INCLUSIVE or EXCLUSIVE."""


@dataclass(frozen=True, slots=True)
class FirmSettings:
    """Everything a firm may choose. Amounts are minor units; times of day are civil times in the firm's zone."""

    currency_code: str = "USD"
    time_zone: str = "UTC"
    locale: str = "en"
    payment_terms_days: int = 30
    package_run_time: time = time(2, 0)
    collection_run_time: time = time(3, 0)
    numbering: Numbering = field(default_factory=Numbering)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    default_provider: str = "sandbox"
    approval_limits: dict[str, int] = field(default_factory=dict)
    """Up to which amount one person may resolve an unknown outcome, by currency; one that is missing: never one alone."""
    refund_approval_limits: dict[str, int] = field(default_factory=dict)
    """Up to which amount one person may refund, by currency; one that is missing: any amount."""
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    tax: TaxSettings = field(default_factory=TaxSettings)
    time_policy: TimePolicy = field(default_factory=TimePolicy)
    features: dict[str, bool] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    """What no rule reads: legal name, address, tax id, branding. Kept as the API gave it."""

    @property
    def zone(self) -> ZoneInfo:
        """The firm's IANA time zone."""
        return zone(self.time_zone)

    @staticmethod
    def from_json(data: dict[str, Any]) -> FirmSettings:
        """Parse the stored form (`to_json`)."""
        return FirmSettings(
            currency_code=data["currency_code"],
            time_zone=data["time_zone"],
            locale=data["locale"],
            payment_terms_days=data["payment_terms_days"],
            package_run_time=time.fromisoformat(data["package_run_time"]),
            collection_run_time=time.fromisoformat(data["collection_run_time"]),
            numbering=Numbering(**data["numbering"]),
            retry=RetryPolicy(tuple(data["retry"]["wait_days"]), data["retry"]["retry_on_new_method"]),
            default_provider=data["default_provider"],
            approval_limits=data["approval_limits"],
            # Firms stored by earlier releases have neither.
            refund_approval_limits=data.get("refund_approval_limits", {}),
            breaker=BreakerPolicy(**data.get("breaker", {})),
            tax=TaxSettings(**data.get("tax", {})),
            time_policy=TimePolicy(**data.get("time", {})),
            features=data["features"],
            document=data["document"],
        )

    def to_json(self) -> dict[str, Any]:
        """The stored form: plain JSON values."""
        return {
            "currency_code": self.currency_code,
            "time_zone": self.time_zone,
            "locale": self.locale,
            "payment_terms_days": self.payment_terms_days,
            "package_run_time": self.package_run_time.isoformat("minutes"),
            "collection_run_time": self.collection_run_time.isoformat("minutes"),
            "numbering": {
                "prefix": self.numbering.prefix,
                "padding": self.numbering.padding,
                "yearly_reset": self.numbering.yearly_reset,
            },
            "retry": {"wait_days": list(self.retry.wait_days), "retry_on_new_method": self.retry.retry_on_new_method},
            "default_provider": self.default_provider,
            "approval_limits": self.approval_limits,
            "refund_approval_limits": self.refund_approval_limits,
            "breaker": {
                "charges_per_hour": self.breaker.charges_per_hour,
                "same_amount_per_day": self.breaker.same_amount_per_day,
                "decline_percent": self.breaker.decline_percent,
                "disabled": self.breaker.disabled,
            },
            "time": {"allow_self_approval": self.time_policy.allow_self_approval},
            "tax": {"rounding": self.tax.rounding, "behavior": self.tax.behavior},
            "features": self.features,
            "document": self.document,
        }


@dataclass(frozen=True, slots=True)
class Firm:
    """The tenant as the unit of work sees it."""

    id: UUID
    state: str
    mode: str
    version: int
    settings: FirmSettings


@dataclass(frozen=True, slots=True)
class FirmClock:
    """Firm time at the start of the transaction. `is_test` says that it stands still until AdvanceTestClock moves it."""

    now: datetime
    is_test: bool
