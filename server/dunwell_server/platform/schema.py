"""How tables are declared: one metadata, and `tenant_table`, which leads every key with the firm.

Declared in SQLAlchemy Core, for constraints and migrations; statements are SQL text in each context's `store.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, DATE, DATERANGE, JSONB, TIMESTAMP, UUID
from sqlalchemy.types import BigInteger, Boolean, Double, Integer, Numeric, SmallInteger, Text, UserDefinedType

NAMING = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}
metadata = MetaData(naming_convention=NAMING)
CONTROL = "control"

__all__ = [
    "BYTEA", "CONTROL", "DATE", "DATERANGE", "JSONB", "UUID", "XID8", "BigInteger", "Boolean", "CheckConstraint", "Column", "Double", "Identity", "Index", "Integer",
    "Numeric", "PrimaryKeyConstraint", "SmallInteger", "Table", "Text", "UniqueConstraint", "client_key", "control_table", "created", "currency",
    "flag", "generated", "instant", "last_part", "metadata", "minor", "one_of", "optional", "reference", "tenant_table", "text", "updated", "version",
]  # fmt: skip


class XID8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id: orders rows by transaction, below the snapshot horizon."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in DDL."""
        return "xid8"


def tenant_table(name: str, *items: Any, key: tuple[str, ...] = ("id",), root: bool = False) -> Table:
    """A table of one firm's data: `firm_id` first, primary key led by it.

    Only a `root` references `control.firm`: a foreign key on every table would lock the firm's row ten times for each invoice.
    """
    return Table(
        name,
        metadata,
        Column("firm_id", UUID(), nullable=False),
        *([Column("id", UUID(), nullable=False)] if key == ("id",) else []),
        *items,
        PrimaryKeyConstraint("firm_id", *key),
        *([ForeignKeyConstraint(["firm_id"], ["control.firm.id"])] if root else []),
        info={"tenant": True},
    )


def control_table(name: str, *items: Any) -> Table:
    """A table of schema `control`: no client data, no row security."""
    return Table(name, metadata, *items, schema=CONTROL)


def reference(column: str, target: str, *extra: tuple[str, str]) -> ForeignKeyConstraint:
    """A composite foreign key inside the firm: `reference("client_id", "client")`; `extra` adds pairs such as the currency."""
    local = ["firm_id", column, *(pair[0] for pair in extra)]
    remote = [f"{target}.firm_id", f"{target}.id", *(f"{target}.{pair[1]}" for pair in extra)]
    return ForeignKeyConstraint(local, remote)


def one_of(column: str, *values: str) -> CheckConstraint:
    """An enumeration as text with a check: a value is added by a migration, without a type change."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def minor(name: str, *, nullable: bool = False, zero: bool = False) -> Column[Any]:
    """An amount in minor units."""
    return Column(name, BigInteger, nullable=nullable, server_default=text("0") if zero else None)


def currency(name: str = "currency_code") -> Column[Any]:
    """An ISO 4217 code."""
    return Column(name, Text, CheckConstraint(f"{name} ~ '^[A-Z]{{3}}$'", name=name), nullable=False)


def instant(name: str, *, nullable: bool = True) -> Column[Any]:
    """A UTC instant."""
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def created() -> Column[Any]:
    """Machine time of the row's birth."""
    return Column("create_time", TIMESTAMP(timezone=True), nullable=False, server_default=text("clock_timestamp()"))


def updated() -> Column[Any]:
    """Machine time of the row's last change."""
    return Column("update_time", TIMESTAMP(timezone=True), nullable=False, server_default=text("clock_timestamp()"))


def version() -> Column[Any]:
    """Row version behind the etag; every update adds one."""
    return Column("version", BigInteger, nullable=False, server_default=text("1"))


def flag(name: str, *, default: bool = False) -> Column[Any]:
    """A boolean that is never null."""
    return Column(name, Boolean, nullable=False, server_default=text(str(default).lower()))


def optional(name: str, kind: Any = Text) -> Column[Any]:
    """A nullable column."""
    return Column(name, kind, nullable=True)


def generated(name: str, kind: Any, expression: str, *, nullable: bool = False) -> Column[Any]:
    """A column the database computes from the row's other columns and keeps true."""
    return Column(name, kind, Computed(expression, persisted=True), nullable=nullable)


def last_part(name: str, columns: Sequence[str], target: str, target_columns: Sequence[str]) -> ForeignKeyConstraint:
    """A foreign key from a whole to the last of its parts, which are written after it in the same transaction."""
    remote = [f"{target}.{column}" for column in target_columns]
    return ForeignKeyConstraint(columns, remote, name=name, deferrable=True, initially="DEFERRED", use_alter=True)


def client_key() -> tuple[Column[Any], UniqueConstraint]:
    """The caller's own id of the object, unique per firm and kind."""
    return Column("external_id", Text, nullable=True), UniqueConstraint("firm_id", "external_id")
