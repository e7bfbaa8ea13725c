"""The demonstration's cast: two firms, their clients, what was agreed, and how each client's card behaves.

The firms are invented. Payment methods are names of the sandbox gateway, which plays what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dunwell.v1 import autopay_pb2, engagement_pb2

MONTHLY: Final = engagement_pb2.BILLING_INTERVAL_MONTHLY
QUARTERLY: Final = engagement_pb2.BILLING_INTERVAL_QUARTERLY
YEARLY: Final = engagement_pb2.BILLING_INTERVAL_YEARLY
WEEKLY: Final = engagement_pb2.BILLING_INTERVAL_WEEKLY
ONE_TIME: Final = engagement_pb2.BILLING_INTERVAL_ONE_TIME
ADVANCE: Final = engagement_pb2.BILLING_TIMING_IN_ADVANCE
ARREARS: Final = engagement_pb2.BILLING_TIMING_IN_ARREARS
START: Final = engagement_pb2.BILLING_ANCHOR_START_DATE
CALENDAR: Final = engagement_pb2.BILLING_ANCHOR_CALENDAR
AT_ONCE: Final = autopay_pb2.AUTOPAY_CADENCE_IMMEDIATE
ON_DUE: Final = autopay_pb2.AUTOPAY_CADENCE_ON_DUE

GOOD: Final = "pm_card_visa"
GOOD_TOO: Final = "pm_card_mastercard"
DECLINED: Final = "pm_card_chargeDeclined"
NO_FUNDS: Final = "pm_card_chargeDeclinedInsufficientFunds"
EXPIRED: Final = "pm_card_chargeDeclinedExpiredCard"
ASKS: Final = "pm_card_threeDSecure2Required"
LOST_ANSWER: Final = "pm_sandbox_acceptThenDrop"
SLOW_BANK: Final = "pm_sandbox_pendingThenSuccess"
COMES_GOOD: Final = "pm_sandbox_failTwiceThenSucceed"


@dataclass(frozen=True, slots=True)
class Work:
    """Time that somebody worked, some days ago, which somebody else approves."""

    days_ago: int
    person: str
    role: str
    minutes: int
    text: str


@dataclass(frozen=True, slots=True)
class Hours:
    """How time is billed: the price of an hour by role in the currency's major unit, and the minutes that a fee includes."""

    rate: str
    roles: tuple[tuple[str, str], ...] = ()
    included_minutes: int = 0
    worked: tuple[Work, ...] = ()


@dataclass(frozen=True, slots=True)
class Deal:
    """One engagement, begun some days ago: a fee in minor units per interval, or hours, or (a retainer) both."""

    name: str
    fee: int
    interval: engagement_pb2.BillingInterval.ValueType = MONTHLY
    days_ago: int = 0
    timing: engagement_pb2.BillingTiming.ValueType = ADVANCE
    anchor: engagement_pb2.BillingAnchor.ValueType = START
    ends_in_days: int | None = None
    hours: Hours | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """One client. `method` None: pays by transfer; `cadence` None: a card on file, autopay off."""

    key: str
    name: str
    city: str
    country: str
    deals: tuple[Deal, ...]
    method: str | None = GOOD
    cadence: autopay_pb2.AutopayCadence.ValueType | None = AT_ONCE
    currency: str = "USD"
    terms_days: int | None = None
    region: str = ""
    locale: str = "en-US"


@dataclass(frozen=True, slots=True)
class Company:
    """A demonstration firm."""

    external_id: str
    name: str
    legal_name: str
    time_zone: str
    prefix: str
    people: tuple[Person, ...] = field(default=())


RETAINER: Final = Hours("180", (("partner", "320"),), 600, (
    Work(40, "Ann Reyes", "partner", 150, "Board meeting"), Work(38, "Tom Ode", "analyst", 340, "Cash forecast"),
    Work(36, "Tom Ode", "analyst", 215, "Covenant report"), Work(9, "Ann Reyes", "partner", 95, "Lender call"),
))  # fmt: skip
BY_THE_HOUR: Final = Hours("150", (("partner", "295"), ("senior", "210")), 0, (
    Work(33, "Ann Reyes", "partner", 85, "Terms of the purchase"), Work(33, "Lea Wong", "senior", 410, "Due diligence, first day"),
    Work(32, "Lea Wong", "senior", 385, "Due diligence, second day"), Work(29, "Tom Ode", "analyst", 127, "Data room"),
    Work(4, "Lea Wong", "senior", 240, "Closing accounts"),
))  # fmt: skip

HARBOUR: Final = Company(
    "demo-harbour-vale", "Harbour & Vale Advisory", "Harbour & Vale Advisory LLP", "America/New_York", "HV",
    (
        Person("alder", "Alder Street Dental", "Boston", "US", (Deal("Bookkeeping", 125_000, days_ago=95),), region="MA"),
        Person("brightwater", "Brightwater Marine Supply", "Portland", "US", (Deal("Controller services", 480_000, days_ago=64),), GOOD_TOO, region="ME"),
        Person("calder", "Calder & Finch Architects", "Providence", "US",
               (Deal("Monthly close", 210_000, days_ago=40), Deal("Tax planning", 900_000, YEARLY, 12)), region="RI"),
        Person("dovetail", "Dovetail Joinery", "Burlington", "US", (Deal("Payroll", 38_000, WEEKLY, 24, ARREARS),), region="VT"),
        Person("eastbank", "Eastbank Veterinary Group", "Hartford", "US", (Deal("Bookkeeping", 145_000, days_ago=33),), NO_FUNDS, region="CT"),
        Person("foxglove", "Foxglove Florists", "Boston", "US", (Deal("Bookkeeping", 62_000, days_ago=35),), DECLINED, region="MA"),
        Person("granary", "Granary Lane Bakery", "Cambridge", "US", (Deal("Bookkeeping", 58_500, days_ago=61),), EXPIRED, region="MA"),
        Person("hollis", "Hollis Freight Lines", "Worcester", "US", (Deal("CFO on call", 650_000, days_ago=20),), ASKS, region="MA"),
        Person("ironbridge", "Ironbridge Fabrication", "Springfield", "US", (Deal("Cost accounting", 320_000, days_ago=31),), LOST_ANSWER, region="MA"),
        Person("juniper", "Juniper Health Collective", "New York", "US", (Deal("Monthly close", 275_000, days_ago=45, anchor=CALENDAR),), SLOW_BANK, region="NY"),
        Person("kestrel", "Kestrel Analytics", "New York", "US", (Deal("Fractional CFO", 1_200_000, QUARTERLY, 100),), GOOD_TOO, region="NY"),
        Person("larkspur", "Larkspur Montessori", "Newton", "US", (Deal("Grant reporting", 180_000, QUARTERLY, 95, ARREARS),), GOOD, ON_DUE, region="MA"),
        Person("mossbank", "Mossbank Property Trust", "Concord", "US", (Deal("Trust accounting", 410_000, days_ago=50),), GOOD, ON_DUE, terms_days=14, region="NH"),
        Person("northgate", "Northgate Robotics", "Boston", "US", (Deal("Audit preparation", 2_500_000, ONE_TIME, 3, ends_in_days=60),), None, None, region="MA"),
        Person("orchard", "Orchard & Quill Publishing", "Northampton", "US", (Deal("Royalty accounting", 96_000, days_ago=70),), GOOD, None, region="MA"),
        Person("piazza", "Piazza Verde Ristorante", "New York", "US", (Deal("Bookkeeping", 88_000, days_ago=29),), COMES_GOOD, region="NY"),
        Person("quai", "Quai des Orfèvres Conseil", "Lyon", "FR", (Deal("Reporting Europe", 350_000, days_ago=58),), GOOD, AT_ONCE, "EUR", locale="fr-FR"),
        Person("rangoli", "Rangoli Textiles", "Jaipur", "IN", (Deal("Export compliance", 7_500_000, days_ago=36),), GOOD, AT_ONCE, "INR", locale="en-IN"),
        Person("sakura", "Sakura Precision", "Nagoya", "JP", (Deal("Consolidation", 480_000, days_ago=47),), GOOD_TOO, AT_ONCE, "JPY", locale="ja-JP"),
        Person("tidewater", "Tidewater Sailing School", "Newport", "US", (Deal("Bookkeeping", 72_000, days_ago=10, anchor=CALENDAR),), GOOD, region="RI"),
        Person("umber", "Umber & Ochre Interiors", "New York", "US",
               (Deal("CFO retainer", 240_000, days_ago=45, hours=RETAINER),), GOOD, region="NY"),
        Person("vantage", "Vantage Point Capital", "Boston", "US",
               (Deal("Acquisition", 0, days_ago=35, timing=ARREARS, hours=BY_THE_HOUR),), GOOD, ON_DUE, region="MA"),
    ),
)  # fmt: skip
TAXES: Final = (("New York State sales tax", "4", "US", "NY"), ("New York City sales tax", "4.5", "US", "NY"))
"""Name, percentage, country and region of the main firm's tax rates."""
COUPON: Final = ("WELCOME10", "Welcome: ten percent", "10")
"""Code, name and percentage of the main firm's coupon."""
COUPON_HOLDER: Final = "tidewater"
CREDIT: Final = ("alder", 10_000, "For the late report")
"""Who of the main firm's clients has credit, how many cents, and why."""

LANTERN: Final = Company(
    "demo-lantern", "Lantern Test Studio", "Lantern Test Studio Ltd", "Europe/London", "LT",
    (
        Person("paper", "Paper Moon Stationers", "Bath", "GB", (Deal("Bookkeeping", 40_000),), GOOD, ON_DUE, "GBP", terms_days=7, locale="en-GB"),
        Person("river", "River & Reed", "York", "GB", (Deal("Monthly close", 90_000),), NO_FUNDS, ON_DUE, "GBP", terms_days=7, locale="en-GB"),
        Person("saddler", "Saddler's Yard", "Leeds", "GB", (Deal("Payroll", 25_000),), COMES_GOOD, ON_DUE, "GBP", terms_days=7, locale="en-GB"),
    ),
)  # fmt: skip
