"""Invariant 14: no card number in any text of the database."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from dunwell_server.kernel.luhn import contains_card_number
from dunwell_server.platform.invariants.model import MAX_ROWS, Check, Fetch, Violation

NAME: Final = "no_card_numbers"
DESCRIPTION: Final = "No text of the database holds a card number."

# A provider's own id is random: one in some thousand reads like a card number. It never comes from a caller's free field.
_COLUMNS: Final = """
SELECT n.nspname AS schema, c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       bool_or(a.attname = 'firm_id') OR EXISTS (SELECT 1 FROM pg_attribute f WHERE f.attrelid = c.oid AND f.attname = 'firm_id') AS has_firm
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname IN ('public', 'control') AND c.relkind = 'r' AND a.attname <> 'provider_reference' AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'jsonb'::regtype, 'json'::regtype)
GROUP BY n.nspname, c.relname, c.oid ORDER BY 1, 2
"""
# Thirteen digits with at most one separator between two: the database picks the candidates, the kernel's rules decide.
_CANDIDATE: Final = "[[:digit:]]([ \u00a0-]?[[:digit:]]){12}"


async def check_cards(fetch: Fetch, *, tenant_only: bool = False) -> Check:
    """Scan every text and json column of every table that `fetch` may read; `tenant_only` leaves schema `control` out.

    What is found is named by table, column and row; the text itself is not repeated.
    """
    found: list[Violation] = []
    for table in await fetch(_COLUMNS, {}):
        if tenant_only and table["schema"] != "public":
            continue
        for column in table["columns"]:
            found += await _scan(fetch, table["schema"], table["name"], column, has_firm=table["has_firm"])
    return Check(NAME, 14, DESCRIPTION, len(found), tuple(found[:MAX_ROWS]))


async def _scan(fetch: Fetch, schema: str, table: str, column: str, *, has_firm: bool) -> list[Violation]:
    query = sql.SQL(
        "SELECT {firm} AS firm_id, to_jsonb(t) ->> 'id' AS object_id, t.{column}::text AS text FROM {table} t WHERE t.{column}::text ~ {pattern}"
    ).format(
        firm=sql.SQL("t.firm_id") if has_firm else sql.SQL("NULL::uuid"),
        column=sql.Identifier(column),
        table=sql.Identifier(schema, table),
        pattern=sql.Literal(_CANDIDATE),
    )
    rows = await fetch(query.as_string(None).replace("%", "%%"), {})
    return [
        Violation(row["firm_id"], table, row["object_id"] or "", f"{schema}.{table}.{column} holds a card number")
        for row in rows
        if contains_card_number(row["text"])
    ]
