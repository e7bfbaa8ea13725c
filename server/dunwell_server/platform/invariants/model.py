"""What an invariant is, and what checking one finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import UUID

MAX_ROWS: Final = 100
"""Offending rows that a check carries; `count` has them all."""

Fetch = Callable[[LiteralString, dict[str, Any]], Awaitable[Sequence[dict[str, Any]]]]
"""Runs a query and returns its rows. Which firms it sees is the affair of the role behind it."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """One thing that must hold. `sql` returns the rows that break it: firm_id, object_type, object_id (text) and message.

    The same text serves one firm (as the application's role, row security limits it) and all firms (as the auditor). Tables of
    schema `control` have no row security: a query that starts from one limits itself by `OWN_FIRM`.
    """

    name: str
    number: int
    description: str
    sql: LiteralString


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that breaks an invariant. `firm_id` is None for what belongs to no firm, such as the catalogue."""

    firm_id: UUID | None
    object_type: str
    object_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Check:
    """The result for one invariant. `number` is its number in the specification; `rows` holds the first hundred of `count`."""

    name: str
    number: int
    description: str
    count: int
    rows: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        """It holds."""
        return self.count == 0


async def run(invariant: Invariant, fetch: Fetch) -> Check:
    """Check one invariant."""
    rows = await fetch(
        "SELECT v.*, count(*) OVER () AS total FROM (" + invariant.sql + ") v LIMIT %(max_rows)s",
        {"max_rows": MAX_ROWS},
    )
    violations = tuple(
        Violation(row["firm_id"], row["object_type"], str(row["object_id"]), row["message"]) for row in rows
    )
    return Check(invariant.name, invariant.number, invariant.description, rows[0]["total"] if rows else 0, violations)


OWN_FIRM: Final[LiteralString] = (
    "(nullif(current_setting('app.firm_id', true), '') IS NULL"
    " OR {0}.firm_id = nullif(current_setting('app.firm_id', true), '')::uuid)"
)
"""Limits a table of schema `control` to the transaction's firm, where there is one; `{0}` is its alias."""
