"""Tables of data exit, in schema `control`: export files on their way in, and how far a firm is on its way out."""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint

from dunwell_server.platform.schema import (
    BYTEA,
    DATE,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
    control_table,
    created,
    instant,
    one_of,
    optional,
    text,
    updated,
)

firm_import = control_table(
    "firm_import",
    Column("id", UUID(), primary_key=True),
    Column("firm_id", UUID(), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'OPEN'")),
    Column("sha256", BYTEA, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("received_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("actor", Text, nullable=False),
    created(), updated(),
    one_of("state", "OPEN", "FINISHED"),
    CheckConstraint("size_bytes > 0 AND received_bytes BETWEEN 0 AND size_bytes", name="bytes"),
    Index("firm_import_open_key", "firm_id", "sha256", unique=True, postgresql_where=text("state = 'OPEN'")),
)  # fmt: skip

firm_import_chunk = control_table(
    "firm_import_chunk",
    Column("import_id", UUID(), nullable=False),
    Column("start_byte", BigInteger, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("sealed", BYTEA, nullable=False),
    Column("key_id", Text, nullable=False),
    PrimaryKeyConstraint("import_id", "start_byte"),
    CheckConstraint("start_byte >= 0 AND size_bytes > 0", name="size"),
    ForeignKeyConstraint(["import_id"], ["control.firm_import.id"]),
)
"""Pieces of a file that has not been imported yet. They are client data outside of row security, and therefore encrypted."""

firm_offboarding = control_table(
    "firm_offboarding",
    Column("firm_id", UUID(), primary_key=True),
    instant("suspend_time"),
    optional("suspend_actor"),
    instant("export_time"),
    optional("export_snapshot"),
    optional("export_sha256", BYTEA),
    instant("erase_time"),
    optional("erase_actor"),
    optional("retain_until_date", DATE),
    instant("purge_time"),
    ForeignKeyConstraint(["firm_id"], ["control.firm.id"]),
    CheckConstraint(
        "(export_time IS NULL) = (export_snapshot IS NULL) AND (export_time IS NULL) = (export_sha256 IS NULL)", name="export"
    ),
    CheckConstraint("(suspend_time IS NULL) = (suspend_actor IS NULL)", name="suspended"),
    CheckConstraint(
        "(erase_time IS NULL) = (erase_actor IS NULL) AND (erase_time IS NULL) = (retain_until_date IS NULL)"
        " AND (erase_time IS NULL OR suspend_time IS NOT NULL)",
        name="erased",
    ),
    CheckConstraint("erase_actor <> suspend_actor", name="second_person"),
    CheckConstraint("purge_time IS NULL OR erase_time IS NOT NULL", name="purged"),
)  # fmt: skip
"""A row per firm that was ever exported, suspended or erased. `export_snapshot` is the export's snapshot as PostgreSQL writes it: what is
visible in it has been exported."""
