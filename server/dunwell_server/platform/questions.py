"""Questions to the firm's database that can be asked alone or many at once, in one statement.

Whoever looks what is due asks a dozen things of one value each. Asked one after another each takes a round trip; written as questions
they are the columns of one SELECT, whoever they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, LiteralString, TypeVar

from dunwell_server.platform.database import PLAN_FOR_ANY, UnitOfWork

T = TypeVar("T")
U = TypeVar("U")

_PARAMETER: Final = re.compile(r"%\((?!firm_id\))(\w+)\)s")


@dataclass(frozen=True, slots=True)
class _Part:
    """A statement of at most one row and one column, and what it needs besides `firm_id`."""

    statement: LiteralString
    params: tuple[tuple[str, Any], ...]


class Question(Generic[T]):
    """What the database is to answer. Awaited it is asked alone; `together` makes one of several, `answers` asks several at once."""

    __slots__ = ("_parts", "_read", "_uow")

    def __init__(self, uow: UnitOfWork, parts: tuple[_Part, ...], read: Callable[[Sequence[Any]], T]) -> None:
        """Not called directly: see `ask`, `known` and `together`."""
        self._uow = uow
        self._parts = parts
        self._read = read

    def __await__(self) -> Generator[Any, None, T]:
        return self._answer().__await__()

    def then(self, change: Callable[[T], U]) -> Question[U]:
        """The same question, its answer changed. `change` does no I/O."""
        read = self._read
        return Question(self._uow, self._parts, lambda values: change(read(values)))

    async def keeping_the_plan(self) -> T:
        """The answer, by a plan that the connection keeps whatever the parameters are; see `answers`. Not in a `SingleRead`."""
        if not self._parts:
            return self._read(())
        conn = self._uow.conn
        statement, params = _statement(self._uow, self._parts)
        async with conn.pipeline():
            await conn.execute(PLAN_FOR_ANY)
            cursor = await conn.execute(statement, params, prepare=True)
        row = await cursor.fetchone()
        assert row is not None
        return self._read(row)

    async def _answer(self) -> T:
        if not self._parts:
            return self._read(())
        [row] = await self._uow.fetch_tuples(*_statement(self._uow, self._parts))
        return self._read(row)


def ask(uow: UnitOfWork, statement: LiteralString, params: Mapping[str, Any] | None = None) -> Question[Any]:
    """The value of a SELECT of one column and at most one row; None without a row. `%(firm_id)s` is the transaction's, and not in `params`."""
    return Question(uow, (_Part(statement, tuple((params or {}).items())),), lambda values: values[0])


def known(uow: UnitOfWork, value: T) -> Question[T]:
    """What needs no asking."""
    return Question(uow, (), lambda _: value)


def together(uow: UnitOfWork, questions: Sequence[Question[T]]) -> Question[list[T]]:
    """One question of several; its answer are theirs, in order."""
    parts: list[_Part] = []
    reads: list[tuple[Callable[[Sequence[Any]], T], list[int]]] = []
    for question in questions:
        places = []
        for part in question._parts:
            if part not in parts:
                parts.append(part)
            places.append(parts.index(part))
        reads.append((question._read, places))
    return Question(
        uow, tuple(parts), lambda values: [read([values[place] for place in places]) for read, places in reads]
    )


async def answers(uow: UnitOfWork, asked: Sequence[Awaitable[T]]) -> list[T]:
    """What all of them say, in order: questions in one statement, whatever else is awaited after them, one by one.

    For the same questions over and over: each connection plans their statement once and keeps the plan, which costs more than to
    execute it. What else the transaction executes is planned so too: it should only ask.
    """
    questions = together(uow, [each for each in asked if isinstance(each, Question)])
    said = iter(await questions.keeping_the_plan())
    return [next(said) if isinstance(each, Question) else await each for each in asked]


def _statement(uow: UnitOfWork, parts: tuple[_Part, ...]) -> tuple[LiteralString, dict[str, Any]]:
    params: dict[str, Any] = {"firm_id": uow.firm_id}
    for place, part in enumerate(parts):
        params.update((f"{name}_{place}", value) for name, value in part.params)
    return _select(tuple(part.statement for part in parts)), params


@lru_cache(maxsize=256)
def _select(statements: tuple[LiteralString, ...]) -> LiteralString:
    """One SELECT of all; each statement's parameters are named for its place, so that they are its own."""
    columns = (_PARAMETER.sub(rf"%(\1_{place})s", statement).strip() for place, statement in enumerate(statements))
    # Put together from literals only: no value has become text.
    return "SELECT " + ", ".join(f"({column})" for column in columns)
