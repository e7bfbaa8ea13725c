"""The tables of a firm, as they are declared: whatever a context declares is exported without further work."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Final

from sqlalchemy import Column, Table

import dunwell_server
from dunwell_server.admin.exit_policy import NOT_EXPORTED, NOT_IMPORTED, SECRET_COLUMNS
from dunwell_server.platform.schema import BYTEA, CONTROL, XID8, metadata

ROOT: Final = "control.firm"


@dataclass(frozen=True, slots=True)
class FirmTable:
    """A table with rows of a firm. `name` is the one in files; `schema` and `relation` are the database's."""

    name: str
    schema: str
    relation: str
    firm_column: str
    columns: tuple[str, ...]
    """Those that are exported, in the order of the declaration."""
    assigned: frozenset[str]
    """Those that the database computes or numbers itself: exported, never imported."""
    order: tuple[str, ...]
    wide: bool
    """Has a column of bytes: its rows may be large."""

    @property
    def is_imported(self) -> bool:
        """Whether an import writes it."""
        return self.name not in NOT_IMPORTED


def declare_all() -> None:
    """Have every context declare its tables: their statements are text, so that nothing else imports the declarations."""
    for module in pkgutil.iter_modules(dunwell_server.__path__):
        # The sandbox is a service of its own, with a database of its own.
        name = f"dunwell_server.{module.name}.tables"
        if module.ispkg and module.name != "sandbox" and find_spec(name) is not None:
            importlib.import_module(name)


def name_of(table: Table) -> str:
    """A table's name in files: that of schema `control` with its schema."""
    return f"{table.schema}.{table.name}" if table.schema else table.name


def firm_column(table: Table) -> str | None:
    """The column that says whose row it is; None for a table that has no rows of firms."""
    if name_of(table) == ROOT:
        return "id"
    return "firm_id" if "firm_id" in table.c else None


@cache
def firm_tables() -> Sequence[FirmTable]:
    """Every table that is exported, in an order in which each row comes behind those it refers to."""
    declare_all()
    chosen = [table for table in metadata.sorted_tables if firm_column(table) and name_of(table) not in NOT_EXPORTED]
    # The firm itself comes first: nothing refers to most of schema `control` by a foreign key.
    return tuple(map(_firm_table, sorted(chosen, key=lambda table: (name_of(table) != ROOT, table.schema != CONTROL))))


def _firm_table(table: Table) -> FirmTable:
    column = firm_column(table)
    assert column is not None
    secret = SECRET_COLUMNS.get(name_of(table), {})
    shown = [each for each in table.columns if each.name not in secret and (each.name != "firm_id")]
    assigned = frozenset(each.name for each in shown if _is_assigned(each))
    key = tuple(each.name for each in table.primary_key.columns if each.name != "firm_id")
    numbered = tuple(each.name for each in shown if isinstance(each.type, XID8) or each.identity is not None)
    # What readers follow in the order of its writing is written in that order again.
    order = tuple(sorted(numbered, key=lambda name: name != "xact")) if numbered else key
    return FirmTable(
        name_of(table), table.schema or "public", table.name, column, tuple(each.name for each in shown), assigned, order or (column,),
        any(isinstance(each.type, BYTEA) for each in shown),
    )  # fmt: skip


def _is_assigned(column: Column[object]) -> bool:
    return column.computed is not None or column.identity is not None or isinstance(column.type, XID8)
