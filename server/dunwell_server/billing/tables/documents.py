"""Documents as they were sent: kept byte for byte, never changed."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    BYTEA,
    UUID,
    CheckConstraint,
    Column,
    Index,
    Text,
    created,
    instant,
    one_of,
    optional,
    reference,
    tenant_table,
    text,
)

document = tenant_table(
    "document",
    Column("kind", Text, nullable=False),
    optional("invoice_id", UUID()),
    optional("credit_note_id", UUID()),
    Column("edition", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("locale", Text, nullable=False),
    Column("content", BYTEA, nullable=False),
    Column("content_hash", BYTEA, nullable=False),
    instant("firm_time", nullable=False),
    created(),
    one_of("kind", "INVOICE", "CREDIT_NOTE"),
    one_of("edition", "ISSUED", "VOID"),
    one_of("format", "PDF", "HTML"),
    CheckConstraint(
        "(kind = 'INVOICE') = (invoice_id IS NOT NULL) AND (kind = 'CREDIT_NOTE') = (credit_note_id IS NOT NULL)",
        name="object",
    ),
    CheckConstraint("content_hash = sha256(content)", name="content_hash"),
    reference("invoice_id", "invoice"),
    reference("credit_note_id", "credit_note"),
    Index(
        "document_invoice_key", "firm_id", "invoice_id", "edition", "format", "locale", unique=True,
        postgresql_where=text("invoice_id IS NOT NULL"),
    ),
    Index(
        "document_credit_note_key", "firm_id", "credit_note_id", "edition", "format", "locale", unique=True,
        postgresql_where=text("credit_note_id IS NOT NULL"),
    ),
)  # fmt: skip
