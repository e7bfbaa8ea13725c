"""Which parts of an invoice a credit note takes back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dunwell_server.kernel.money import distribute


@dataclass(frozen=True, slots=True)
class CreditParts:
    """An amount of an invoice by what it was booked as, in minor units: revenue, revenue that is deferred, tax."""

    earned: int
    deferred: int
    tax: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.earned + self.deferred + self.tax

    def __add__(self, other: CreditParts) -> CreditParts:
        return CreditParts(self.earned + other.earned, self.deferred + other.deferred, self.tax + other.tax)

    def __sub__(self, other: CreditParts) -> CreditParts:
        return CreditParts(self.earned - other.earned, self.deferred - other.deferred, self.tax - other.tax)


def credit_parts(amount: int, left: CreditParts) -> CreditParts:
    """Split `amount` in proportion to what is `left` uncredited of an invoice, by largest remainder.

    No part ever takes more than is left of it, so that crediting everything, in any steps, takes exactly what was booked. Raises
    ValueError beyond what is left.
    """
    if not 0 < amount <= left.total:
        raise ValueError(f"cannot credit {amount} of {left.total}")
    return CreditParts(*distribute(amount, (left.earned, left.deferred, left.tax)))
