"""Accounts of the gateway: their time, their settings, their scripted faults."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from dunwell_server.sandbox.answers import Json, invalid
from dunwell_server.sandbox.instruments import DECLINES, Behaviour
from dunwell_server.sandbox.webhook_settings import WebhookSettings


def machine_ms() -> int:
    """The machine's time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set per account. The seconds of pending, action, refund, setup, checkout and dispute are account time, all others real time."""

    latency_ms: float = 0.0
    rate_limit_per_second: float | None = None
    pending_seconds: float = 3600.0
    action_seconds: float = 86_400.0
    hold_seconds: float = 30.0
    slow_seconds: float = 1.0
    late_landing_seconds: float = 1.0
    failures_before_success: int = 2
    refund_seconds: float = 3600.0
    """How long a refund is pending that is so at first."""
    refund_failure_seconds: float = 86_400.0
    """How long after its success a refund fails that does."""
    setup_seconds: float = 86_400.0
    checkout_seconds: float = 86_400.0
    dispute_fee: int = 1500
    """Minor units."""
    dispute_response_seconds: float = 7 * 86_400.0
    """A dispute that nobody answers by then is lost."""
    dispute_decision_seconds: float = 86_400.0
    """How long the decision takes where the evidence says how it is to end."""

    def changed(self, values: Json) -> Settings:
        """A copy with the given values. Raises Refusal for an unknown name or a value that is no number >= 0."""
        known = {item.name for item in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise invalid("parameter_unknown", f"Unknown setting {name}.", name)
            if value is None and name == "rate_limit_per_second":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
                raise invalid("parameter_invalid", f"{name} must be a number, zero or more.", name)
        return replace(self, **values)


DEFAULT_PUBLIC_URL = "http://127.0.0.1:4280"
CALLS = ("charge", "refund", "checkout", "setup", "customer")
MONEY = ("charge", "refund")


@dataclass(slots=True)
class Fault:
    """One scripted fault: with probability ``probability``, the next ``count`` calls behave like ``outcome``.

    ``on`` names the calls it strikes: ``money`` (charges and refunds), one of `CALLS`, or ``any``.
    """

    outcome: Behaviour
    on: str = "money"
    probability: float = 1.0
    count: int | None = None
    decline: str = "generic_decline"
    delay_seconds: float | None = None

    @classmethod
    def parse(cls, body: Json) -> Fault:
        """Raises Refusal for a fault that cannot be played."""
        unknown = set(body) - {item.name for item in fields(cls)}
        if unknown:
            raise invalid("parameter_unknown", f"Unknown fault fields: {', '.join(sorted(unknown))}.")
        try:
            fault = cls(**{**body, "outcome": Behaviour(str(body.get("outcome")))})
        except ValueError:
            raise invalid("parameter_invalid", f"outcome is one of {', '.join(Behaviour)}.", "outcome") from None
        if fault.decline not in DECLINES:
            raise invalid("parameter_invalid", f"decline is one of {', '.join(DECLINES)}.", "decline")
        if not isinstance(fault.probability, int | float) or not 0 <= fault.probability <= 1:
            raise invalid("parameter_invalid", "probability lies between 0 and 1.", "probability")
        if fault.on not in (*CALLS, "money", "any"):
            raise invalid("parameter_invalid", f"on is money, any, {', '.join(CALLS)}.", "on")
        if fault.count is not None and (not isinstance(fault.count, int) or fault.count < 0):
            raise invalid("parameter_invalid", "count is a whole number, zero or more.", "count")
        return fault

    def strikes(self, call: str) -> bool:
        """Whether calls of this kind are meant."""
        return self.on in ("any", call) or (self.on == "money" and call in MONEY)


@dataclass(slots=True)
class Script:
    """The scripted faults of an account.

    What is drawn depends only on the seed, the request's key and how often that key has been sent, never on the order
    in which requests of different keys arrive: a seed replays under concurrency.
    """

    faults: list[Fault] = field(default_factory=list)
    seed: int = 0
    _sent: dict[str, int] = field(default_factory=dict)

    def draw(self, key: str, call: str = "charge") -> Fault | None:
        """The fault that strikes this sending of the key, if one does."""
        if not self.faults:
            return None
        nth = self._sent[key] = self._sent.get(key, 0) + 1
        dice = random.Random(f"{self.seed}:{key}:{nth}")
        for fault in self.faults:
            if not fault.strikes(call):
                continue
            if dice.random() < fault.probability and fault.count != 0:
                if fault.count is not None:
                    fault.count -= 1
                return fault
        return None

    def dump(self) -> str:
        return json.dumps({"seed": self.seed, "faults": [asdict(fault) for fault in self.faults]})

    @classmethod
    def load(cls, text: str) -> Script:
        body = json.loads(text)
        return cls([Fault.parse(fault) for fault in body["faults"]], body["seed"])


@dataclass(slots=True)
class Home:
    """What accounts know of the gateway they live in."""

    public_url: str = DEFAULT_PUBLIC_URL
    """Where browsers find the hosted pages."""
    webhook_url: str = ""
    """Where events go unless an account says otherwise, ``{account}`` in it being the name; empty: nowhere."""
    wake: Callable[[], None] = lambda: None
    """Tells the sender of webhooks that there is something to do."""


@dataclass(slots=True)
class Account:
    """One account as held in memory; the book has the same."""

    name: str
    clock_ms: int | None
    settings: Settings
    script: Script
    home: Home
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    next_due_ms: int | None = None
    """Lower bound of the next transition's due time; None when nothing is due ever."""
    _tokens: float = 0.0
    _filled_at: float = 0.0

    @property
    def now_ms(self) -> int:
        """The account's time: its clock if it has been set, else the machine's."""
        return machine_ms() if self.clock_ms is None else self.clock_ms

    @property
    def webhook_url(self) -> str:
        """Where the account's events go; empty: nowhere."""
        if self.webhooks.url is not None:
            return self.webhooks.url
        return self.home.webhook_url.replace("{account}", self.name)

    def plan(self, connection: sqlite3.Connection, identifier: str, kind: str, due_ms: int) -> None:
        """Has something happen to an object when the account's time has come to ``due_ms``."""
        connection.execute(
            "INSERT INTO transitions (account, due_ms, object, kind) VALUES (?, ?, ?, ?)",
            (self.name, due_ms, identifier, kind),
        )
        self.next_due_ms = due_ms if self.next_due_ms is None else min(self.next_due_ms, due_ms)

    def unplan(self, connection: sqlite3.Connection, identifier: str) -> None:
        """Nothing more happens to an object by itself."""
        deleted = connection.execute("DELETE FROM transitions WHERE object = ?", (identifier,)).rowcount
        if deleted:
            self.next_due_ms = next_due(connection, self)

    def admits(self) -> bool:
        """Takes one token of the rate limit (a bucket of one second); False when there is none."""
        rate = self.settings.rate_limit_per_second
        if rate is None:
            return True
        now = time.monotonic()
        self._tokens = min(max(rate, 1.0), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Accounts:
    """All accounts, read from the book when first named and created when new."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._known: dict[str, Account] = {}

    def forget(self) -> None:
        """Drops what is in memory; the book has the truth. Called when work was rolled back."""
        self._known.clear()

    def known(self, name: str) -> Account | None:
        """The account if it is in memory."""
        return self._known.get(name)

    def all(self) -> list[Account]:
        return list(self._known.values())

    def load_all(self, connection: sqlite3.Connection) -> None:
        for row in connection.execute("SELECT name FROM accounts").fetchall():
            self.get(connection, row["name"])

    def get(self, connection: sqlite3.Connection, name: str) -> Account:
        account = self._known.get(name)
        if account is not None:
            return account
        row = connection.execute("SELECT * FROM accounts WHERE name = ?", (name,)).fetchone()
        if row is None:
            account = Account(name, None, Settings(), Script(), self.home)
            connection.execute(
                "INSERT INTO accounts (name, clock_ms, settings, faults) VALUES (?, NULL, ?, ?)",
                (name, json.dumps(asdict(account.settings)), account.script.dump()),
            )
        else:
            settings = Settings(**json.loads(row["settings"]))
            webhooks = WebhookSettings.load(json.loads(row["webhooks"]))
            account = Account(name, row["clock_ms"], settings, Script.load(row["faults"]), self.home, webhooks)
            account.next_due_ms = next_due(connection, account)
        self._known[name] = account
        return account

    def save(self, connection: sqlite3.Connection, account: Account) -> None:
        connection.execute(
            "UPDATE accounts SET clock_ms = ?, settings = ?, faults = ?, webhooks = ? WHERE name = ?",
            (
                account.clock_ms,
                json.dumps(asdict(account.settings)),
                account.script.dump(),
                json.dumps(account.webhooks.dump()),
                account.name,
            ),
        )


def next_due(connection: sqlite3.Connection, account: Account) -> int | None:
    """When the account's next transition is due (account time, ms); None without any."""
    row = connection.execute("SELECT min(due_ms) AS due FROM transitions WHERE account = ?", (account.name,)).fetchone()
    due: Any = row["due"]
    return None if due is None else int(due)
