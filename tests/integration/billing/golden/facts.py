"""What is agreed in the golden firm and what happens there, as plain facts: the spreadsheet computes from them, the server lives them.

Prices and percentages are decimal texts, amounts minor units. Events happen at noon (UTC) of their day, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from tests.integration.billing.golden.fees import Terms

Excess = Literal["CREDIT", "REFUND_PAYABLE"]


@dataclass(frozen=True)
class RoleRate:
    """The price of an hour of a role for work in [start, end)."""

    role: str
    price: str
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True)
class Hours:
    """How time is billed."""

    price: str
    rates: tuple[RoleRate, ...] = ()
    increment: int = 1
    rounding: str = "UP"
    grouping: str = "ROLE"
    included: int = 0
    rollover: int = 0
    period_cap: int | None = None
    total_cap: int | None = None


@dataclass(frozen=True)
class Renewal:
    """Each term is followed by another of so many months, `percent` dearer, made `days_ahead` of its first day."""

    days_ahead: int
    months: int
    percent: int


@dataclass(frozen=True)
class Worked:
    """Time that is approved on the day it `goes_in`, in the order of the numbers, less the minutes `down`, which are written down the same
    day."""

    goes_in: date
    number: int
    day: date
    minutes: int
    person: str
    role: str | None = None
    price: str | None = None
    down: int = 0


@dataclass(frozen=True)
class Agreement:
    """An engagement, by a name that is the client's own, with the work on it."""

    name: str
    mode: str
    terms: Terms
    hours: Hours | None = None
    renewal: Renewal | None = None
    work: tuple[Worked, ...] = ()


@dataclass(frozen=True)
class TaxRule:
    """A rate of the firm's table, valid in [start, end). `inclusive`: prices contain it."""

    name: str
    percent: str
    country: str
    region: str = ""
    excluded: tuple[str, ...] = ()
    category: str = "standard"
    inclusive: bool = False
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True)
class Coupon:
    """A coupon: percent, or an amount of a currency. `times` None: for ever."""

    code: str
    percent: str | None = None
    fixed: int | None = None
    currency: str | None = None
    times: int | None = 1


@dataclass(frozen=True)
class Discount:
    """A discount that somebody gives by hand."""

    name: str
    percent: str | None = None
    fixed: int | None = None


@dataclass(frozen=True)
class Item:
    """A line of an invoice by hand. The price is that of one, in major units."""

    price: str
    quantity: str = "1"
    category: str = "standard"
    discounts: tuple[Discount, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happens on a day."""

    day: date


@dataclass(frozen=True)
class Redeems(Event):
    """The client redeems a coupon, for one engagement or for everything."""

    code: str
    agreement: str | None = None


@dataclass(frozen=True)
class Grants(Event):
    """Credit is given."""

    kind: str
    amount: int
    priority: int = 50
    expires: datetime | None = None


@dataclass(frozen=True)
class TakesBack(Event):
    """The credit that was the client's n-th is taken back, or `amount` of it."""

    entry: int
    amount: int | None = None


@dataclass(frozen=True)
class Invoices(Event):
    """An invoice by hand, with the time of all engagements through a day where asked."""

    items: tuple[Item, ...] = ()
    discounts: tuple[Discount, ...] = ()
    time_through: date | None = None


@dataclass(frozen=True)
class Applies(Event):
    """Credit is put on the client's n-th invoice by hand."""

    invoice: int


@dataclass(frozen=True)
class Pays(Event):
    """Money comes for the client's n-th invoice; what that does not owe becomes credit."""

    invoice: int
    amount: int


@dataclass(frozen=True)
class Notes(Event):
    """A credit note for the n-th invoice: over `permille` of its total, or over lines, or over all that is left of it.

    `lines` are (line, permille of its amount), or with `by_quantity` (line, how many of its quantity).
    """

    invoice: int
    excess: Excess = "CREDIT"
    permille: int | None = None
    lines: tuple[tuple[int, int], ...] = ()
    by_quantity: bool = False


@dataclass(frozen=True)
class Voids(Event):
    """The n-th invoice is voided."""

    invoice: int


@dataclass(frozen=True)
class Ends(Event):
    """An engagement gets another end; None: it goes on without one."""

    agreement: str
    end: date | None


@dataclass(frozen=True)
class Reprices(Event):
    """The terms of an engagement's time change."""

    agreement: str
    hours: Hours


@dataclass(frozen=True)
class Scene:
    """A client: what was agreed, and what happens besides. `status` as the tax office has it."""

    name: str
    currency: str
    agreements: tuple[Agreement, ...] = ()
    events: tuple[Event, ...] = ()
    country: str = ""
    region: str = ""
    status: str = "TAXABLE"
    tax_id: str | None = None
    uses_credit: bool = True
    payable_after: int | None = None


@dataclass(frozen=True)
class Firm:
    """The firm: its taxes, its coupons, and when it began to round taxes by rate over the invoice instead of by line."""

    zone: str
    taxes: tuple[TaxRule, ...]
    coupons: tuple[Coupon, ...]
    by_rate_from: datetime
    run_hour: int = 2
    payable_after: int = 30
    clients: tuple[Scene, ...] = field(default=())
