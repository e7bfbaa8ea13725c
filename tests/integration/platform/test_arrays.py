"""Lists as parameters come to the database as they are, whatever is in them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database

_ID, _OTHER = UUID(int=0), uuid4()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uuid[]", [_ID, None, _OTHER]),
        ("uuid[]", []),
        ("uuid[]", [None, None]),
        ("bigint[]", [0, -1, 2**63 - 1, -(2**63), None]),
        ("smallint[]", [-32768, 32767]),
        ("date[]", [date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31), None]),
        ("timestamptz[]", [datetime(2026, 3, 29, 1, 30, tzinfo=UTC), None]),
        ("boolean[]", [True, False, None]),
        ("numeric[]", [Decimal("0.10"), Decimal("-1E+2"), None]),
        ("text[]", ["", "NULL", "null", None, 'a "b" {c}, d\\', '\\"', " ", "नमस्ते", "\t\n"]),
        ("text[]", ["a"]),
        ("bigint[]", [[1, 2], [3, 4]]),
    ],
)
async def test_a_list_arrives_as_it_is(db: Database, kind: str, values: list[Any]) -> None:
    async with db.transaction(system_context(None, "test"), write=False) as uow:
        statement: Any = f"SELECT %(values)s::{kind}"
        # More often than a statement is prepared after.
        for _ in range(4):
            assert await uow.fetch_value(statement, {"values": values}) == values


async def test_ids_are_found_by_a_list_of_them(db: Database) -> None:
    async with db.transaction(system_context(None, "test"), write=False) as uow:
        found = "SELECT id FROM (VALUES (%(id)s::uuid), (%(other)s::uuid)) AS v (id) WHERE id = ANY(%(ids)s)"
        assert await uow.fetch_all(found, {"id": _ID, "other": _OTHER, "ids": [_OTHER]}) == [{"id": _OTHER}]
        assert await uow.fetch_all(found, {"id": _ID, "other": _OTHER, "ids": []}) == []


async def test_json_arrives_as_it_is(db: Database) -> None:
    said: list[Any] = [{"a": 'b "c" \\ {d}', "é": ["नमस्ते", None, 1.5, "\n"]}, "NULL", None, [], 2**60]
    statement = "SELECT to_jsonb(%(values)s::jsonb[])"
    async with db.transaction(system_context(None, "test"), write=False) as uow:
        for dumps in (None, None, json.dumps):
            values = [Jsonb(each) if dumps is None else Jsonb(each, dumps) for each in said]
            assert await uow.fetch_value(statement, {"values": values}) == said


async def test_json_in_a_list_is_what_it_is_alone(db: Database) -> None:
    value = {"id": _OTHER, "day": date(2024, 2, 29), "amount": Decimal("0.10"), "at": datetime(2026, 3, 29, tzinfo=UTC)}
    async with db.transaction(system_context(None, "test"), write=False) as uow:
        alone = await uow.fetch_value("SELECT %(value)s::jsonb", {"value": Jsonb(value)})
        in_a_list = await uow.fetch_value("SELECT to_jsonb(%(values)s::jsonb[])", {"values": [Jsonb(value)]})
    assert in_a_list == [alone]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_what_is_no_text_is_refused(db: Database, text: str) -> None:
    async with db.transaction(system_context(None, "test"), write=False) as uow:
        with pytest.raises((psycopg.DataError, UnicodeEncodeError)):
            await uow.fetch_value("SELECT %(values)s::text[]", {"values": [text]})
