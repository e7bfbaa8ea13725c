"""A client's credit as one would keep it on paper: entries, and what was done with each."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Use:
    """A use of an entry: of or for the client's n-th invoice, where it is about one."""

    kind: str
    amount: int
    invoice: int | None
    at: datetime


@dataclass
class Entry:
    """Credit, and what was done with it."""

    kind: str
    amount: int
    priority: int
    expires: datetime | None
    given: datetime
    uses: list[Use] = field(default_factory=list)

    @property
    def left(self) -> int:
        """What is left of it."""
        return self.amount - sum(-use.amount if use.kind == "RELEASED" else use.amount for use in self.uses)

    def on(self, invoice: int) -> int:
        """What it pays of an invoice."""
        uses = [use for use in self.uses if use.invoice == invoice]
        return sum(use.amount if use.kind == "APPLIED" else -use.amount for use in uses)

    def turn(self) -> tuple[int, bool, float, datetime]:
        """Its place in the order of use: by priority, then expiry (none last), then age."""
        expiry = 0.0 if self.expires is None else self.expires.timestamp()
        return self.priority, self.expires is None, expiry, self.given


@dataclass
class Purse:
    """All credit of a client, in the order in which it was given."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def balance(self) -> int:
        """What the client holds."""
        return sum(entry.left for entry in self.entries)

    def give(self, kind: str, amount: int, now: datetime, priority: int = 50, expires: datetime | None = None) -> None:
        """Another entry."""
        if amount:
            self.entries.append(Entry(kind, amount, priority, expires, now))

    def pay(self, invoice: int, owed: int, now: datetime) -> list[int]:
        """Pay what is owed of an invoice as far as the credit that has not expired goes; the amounts, in the order of use."""
        amounts: list[int] = []
        for entry in sorted(self.entries, key=Entry.turn):
            if entry.left == 0 or (entry.expires is not None and entry.expires <= now):
                continue
            amount = min(owed - sum(amounts), entry.left)
            if amount:
                entry.uses.append(Use("APPLIED", amount, invoice, now))
                amounts.append(amount)
        return amounts

    def give_back(self, invoice: int, amount: int, now: datetime) -> list[int]:
        """Give so much of what pays an invoice back, the last used first; the amounts. What comes back to credit that has expired meanwhile
        lasts on as long as it had left when it was used."""
        amounts: list[int] = []
        last_used = [entry for entry in self.entries if entry.on(invoice)]
        last_used.sort(key=lambda entry: (max(use.at for use in entry.uses if use.invoice == invoice), entry.turn()))
        for entry in reversed(last_used):
            part = min(amount - sum(amounts), entry.on(invoice))
            if not part:
                continue
            used = max(use.at for use in entry.uses if use.kind == "APPLIED" and use.invoice == invoice)
            entry.uses.append(Use("RELEASED", part, invoice, now))
            amounts.append(part)
            if entry.expires is not None and entry.expires <= now:
                entry.uses.append(Use("MOVED", part, None, now))
                # In UTC: between two times of a zone Python counts the hours on the wall.
                left = entry.expires.astimezone(UTC) - used.astimezone(UTC)
                self.give(entry.kind, part, now, entry.priority, now.astimezone(UTC) + left)
        return amounts

    def expire(self, now: datetime) -> list[int]:
        """End what is left of credit whose time is over; the amounts."""
        over = [entry for entry in self.entries if entry.left and entry.expires is not None and entry.expires <= now]
        amounts = [entry.left for entry in over]
        for entry, amount in zip(over, amounts, strict=True):
            entry.uses.append(Use("EXPIRED", amount, None, now))
        return amounts

    def take_back(self, number: int, amount: int | None, now: datetime) -> int:
        """Take back what is left of an entry, or an amount; how much. Nothing where there is less."""
        entry = self.entries[number]
        taken = entry.left if amount is None else amount
        if taken == 0 or taken > entry.left:
            return 0
        entry.uses.append(Use("REVERSED", taken, None, now))
        return taken
