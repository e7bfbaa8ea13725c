"""What the store modules share: rows as tuples, in the order of the model's fields, and keyset pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from dunwell_server.kernel.paging import SortValue
from dunwell_server.platform.database import UnitOfWork

T = TypeVar("T")
TupleRow = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list: at most `limit` rows behind the row whose sort values are `after` (None: from the start)."""

    limit: int = 50
    after: tuple[SortValue, ...] | None = None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open range of instants; an end that is None does not limit."""

    start: datetime | None = None
    end: datetime | None = None


class Conditions:
    """The WHERE clause of a list: only the filters that are set, so that each combination can use its index."""

    def __init__(self, firm_id: UUID, alias: str) -> None:
        self._alias = alias
        self._texts = [f"{alias}.firm_id = %(firm_id)s"]
        self.params: dict[str, Any] = {"firm_id": firm_id}

    def compare(self, column: str, value: Any, operator: str = "=", name: str | None = None) -> None:
        """`column operator value`, unless the value is None."""
        if value is not None:
            self.add(f"{self._alias}.{column} {operator} %({name or column})s", **{name or column: value})

    def any_of(self, column: str, values: Sequence[str]) -> None:
        """`column` is one of `values`, unless there are none."""
        if values:
            self.add(f"{self._alias}.{column} = ANY(%({column}_any)s)", **{f"{column}_any": list(values)})

    def within(self, column: str, start: Any, end: Any) -> None:
        """`column` lies in the half-open range."""
        self.compare(column, start, ">=", f"{column}_from")
        self.compare(column, end, "<", f"{column}_until")

    def add(self, text: str, **params: Any) -> None:
        """A condition as it stands."""
        self._texts.append(text)
        self.params.update(params)

    def page(self, keys: tuple[str, str], descending: bool, page: PageRequest) -> str:
        """The whole tail of the statement: WHERE, ORDER BY the two keys, LIMIT."""
        columns = [f"{self._alias}.{key}" for key in keys]
        if page.after is not None:
            operator = "<" if descending else ">"
            self.add(
                f"({', '.join(columns)}) {operator} (%(after_0)s, %(after_1)s)",
                after_0=page.after[0],
                after_1=page.after[1],
            )
        self.params["limit"] = page.limit
        direction = "DESC" if descending else "ASC"
        order = ", ".join(f"{column} {direction}" for column in columns)
        return f"WHERE {' AND '.join(self._texts)} ORDER BY {order} LIMIT %(limit)s"


async def fetch(uow: UnitOfWork, make: Callable[[TupleRow], T], statement: str, params: Mapping[str, Any]) -> list[T]:
    """Run a statement and make an object of every row."""
    return [make(row) for row in await uow.fetch_tuples(statement, params)]


async def fetch_first(
    uow: UnitOfWork, make: Callable[[TupleRow], T], statement: str, params: Mapping[str, Any]
) -> T | None:
    """Run a statement and make an object of its first row, if there is one."""
    rows = await uow.fetch_tuples(statement, params)
    return make(rows[0]) if rows else None


def assignments(columns: Sequence[str]) -> str:
    """`a = %(a)s, b = %(b)s, …` for an UPDATE of columns that the code names."""
    return ", ".join(f"{column} = %({column})s" for column in columns)


def words(text: str) -> tuple[str, ...]:
    """The names in a text, separated by blanks."""
    return tuple(text.split())
