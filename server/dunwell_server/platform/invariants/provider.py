"""Invariant 15: what the provider moved is what the book says, joined on the reference from both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.platform.invariants.model import MAX_ROWS, Check, Fetch, Violation

NAME: Final = "provider_and_book_agree"
DESCRIPTION: Final = (
    "Every movement at the provider is a success in the book and the other way round, of the same money."
)

_BOOK: Final = """
SELECT a.firm_id, a.account_id, a.id, coalesce(a.provider_reference, '') AS reference, a.idempotency_key AS key, a.amount_minor, a.currency_code
FROM attempt a
WHERE (a.state = 'SUCCEEDED' OR EXISTS (SELECT 1 FROM payment p WHERE p.firm_id = a.firm_id AND p.late_attempt_id = a.id))
  AND (%(account_id)s::uuid IS NULL OR a.account_id = %(account_id)s)
UNION ALL
SELECT p.firm_id, p.account_id, p.id, p.provider_reference, NULL, p.amount_minor, p.currency_code
FROM payment p
WHERE p.kind = 'ADOPTED' AND p.provider_reference IS NOT NULL AND (%(account_id)s::uuid IS NULL OR p.account_id = %(account_id)s)
"""

_REFUNDS: Final = """
SELECT r.firm_id, r.account_id, r.id, coalesce(r.provider_reference, '') AS reference, r.idempotency_key AS key, r.amount_minor, r.currency_code
FROM refund r
WHERE r.succeed_time IS NOT NULL AND r.destination = 'PAYMENT_METHOD' AND (%(account_id)s::uuid IS NULL OR r.account_id = %(account_id)s)
"""


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that a provider has moved: its reference for it, what it is, and the idempotency key it was asked under."""

    reference: str
    amount_minor: int
    currency_code: str
    key: str | None = None


async def check_provider(
    fetch: Fetch, movements: Iterable[Movement], *, account_id: UUID | None = None, refunds: bool = False
) -> Check:
    """Full outer join of the provider's movements and the book's successes, of one account or of all: charges, or (`refunds`) refunds.

    Names what the provider moved and the book does not know, what the book says and the provider does not, differing amounts, and
    two movements under one key: a double charge. Amounts are positive both ways.
    """
    theirs: dict[str, Movement] = {}
    keys: dict[str, str] = {}
    found: list[Violation] = []
    for movement in movements:
        if movement.reference in theirs:
            found.append(Violation(None, "movement", movement.reference, "the provider lists the movement twice"))
        theirs[movement.reference] = movement
        if movement.key is not None and keys.setdefault(movement.key, movement.reference) != movement.reference:
            found.append(Violation(None, "movement", movement.reference, f"moved twice under the key {movement.key}"))
    kind = "refund" if refunds else "attempt"
    for row in await fetch(_REFUNDS if refunds else _BOOK, {"account_id": account_id}):
        match = theirs.pop(row["reference"], None)
        told = (row["amount_minor"], row["currency_code"])
        if match is None:
            message = f"the provider has no movement {row['reference']!r}"
            found.append(Violation(row["firm_id"], kind, str(row["id"]), message))
        elif (match.amount_minor, match.currency_code) != told:
            message = f"the book says {told[0]} {told[1]}, the provider {match.amount_minor} {match.currency_code}"
            found.append(Violation(row["firm_id"], kind, str(row["id"]), message))
    for movement in theirs.values():
        message = (
            f"{movement.amount_minor} {movement.currency_code} moved under the key {movement.key}, unknown to the book"
        )
        found.append(Violation(None, "movement", movement.reference, message))
    name = f"{NAME}_on_refunds" if refunds else NAME
    return Check(name, 15, DESCRIPTION, len(found), tuple(found[:MAX_ROWS]))
