"""Credit that clients hold, and credit notes."""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint

from dunwell_server.platform.schema import (
    DATE,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    created,
    currency,
    instant,
    minor,
    one_of,
    optional,
    reference,
    tenant_table,
    text,
)

credit_note = tenant_table(
    "credit_note",
    Column("client_id", UUID(), nullable=False),
    Column("invoice_id", UUID(), nullable=False),
    optional("refund_id", UUID()),
    Column("series", Text, nullable=False),
    Column("series_no", BigInteger, nullable=False),
    Column("number", Text, nullable=False),
    currency(),
    minor("amount_minor"),
    minor("tax_minor", zero=True),
    minor("deferred_minor", zero=True),
    optional("reason"),
    Column("issue_date", DATE, nullable=False),
    created(),
    minor("applied_minor", zero=True),
    minor("credited_minor", zero=True),
    minor("released_minor", zero=True),
    minor("payable_minor", zero=True),
    CheckConstraint(
        "applied_minor >= 0 AND credited_minor >= 0 AND released_minor >= 0 AND payable_minor >= 0"
        " AND applied_minor + credited_minor + released_minor + payable_minor = CASE WHEN refund_id IS NULL THEN amount_minor ELSE 0 END",
        name="parts",
    ),
    CheckConstraint(
        "amount_minor > 0 AND tax_minor >= 0 AND deferred_minor >= 0 AND tax_minor + deferred_minor <= amount_minor",
        name="amount",
    ),
    reference("client_id", "client"),
    reference("invoice_id", "invoice", ("currency_code", "currency_code")),
    UniqueConstraint("firm_id", "series", "series_no"),
    UniqueConstraint("firm_id", "refund_id", "invoice_id"),
    Index("credit_note_invoice_idx", "firm_id", "invoice_id"),
    Index("credit_note_client_idx", "firm_id", "client_id", "create_time", "id"),
    Index("credit_note_time_idx", "firm_id", "create_time", "id"),
)

credit_note_line = tenant_table(
    "credit_note_line",
    Column("credit_note_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("invoice_id", UUID(), nullable=False),
    optional("quantity", Numeric),
    minor("amount_minor"),
    minor("discount_minor", zero=True),
    minor("tax_minor", zero=True),
    minor("tax_included_minor", zero=True),
    minor("deferred_minor", zero=True),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint(
        "amount_minor >= 0 AND discount_minor >= 0 AND tax_included_minor BETWEEN 0 AND tax_minor"
        " AND deferred_minor BETWEEN 0 AND amount_minor - discount_minor - tax_included_minor",
        name="signs",
    ),
    reference("credit_note_id", "credit_note"),
    ForeignKeyConstraint(
        ["firm_id", "invoice_id", "line_no"],
        ["invoice_line.firm_id", "invoice_line.invoice_id", "invoice_line.line_no"],
        name="credit_note_line_line_fkey",
    ),
    Index("credit_note_line_invoice_idx", "firm_id", "invoice_id", "line_no"),
    key=("credit_note_id", "line_no"),
)

credit_note_line_tax = tenant_table(
    "credit_note_line_tax",
    Column("credit_note_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("tax_no", SmallInteger, nullable=False),
    Column("invoice_id", UUID(), nullable=False),
    minor("tax_minor"),
    CheckConstraint("tax_minor > 0", name="tax"),
    ForeignKeyConstraint(
        ["firm_id", "credit_note_id", "line_no"],
        ["credit_note_line.firm_id", "credit_note_line.credit_note_id", "credit_note_line.line_no"],
        name="credit_note_line_tax_line_fkey",
    ),
    ForeignKeyConstraint(
        ["firm_id", "invoice_id", "line_no", "tax_no"],
        [
            "invoice_line_tax.firm_id",
            "invoice_line_tax.invoice_id",
            "invoice_line_tax.line_no",
            "invoice_line_tax.tax_no",
        ],
        name="credit_note_line_tax_rate_fkey",
    ),
    Index("credit_note_line_tax_invoice_idx", "firm_id", "invoice_id", "line_no", "tax_no"),
    key=("credit_note_id", "line_no", "tax_no"),
)

credit_note_payout = tenant_table(
    "credit_note_payout",
    Column("credit_note_id", UUID(), nullable=False),
    Column("refund_id", UUID(), nullable=False),
    minor("amount_minor"),
    created(),
    CheckConstraint("amount_minor > 0", name="amount"),
    reference("credit_note_id", "credit_note"),
    reference("refund_id", "refund"),
    Index("credit_note_payout_refund_idx", "firm_id", "refund_id"),
    key=("credit_note_id", "refund_id"),
)

credit_entry = tenant_table(
    "credit_entry",
    Column("client_id", UUID(), nullable=False),
    currency(),
    Column("kind", Text, nullable=False),
    minor("amount_minor"),
    minor("remaining_minor"),
    Column("priority", SmallInteger, nullable=False, server_default=text("50")),
    instant("expire_time"),
    Column("source_type", Text, nullable=False),
    optional("source_id", UUID()),
    optional("reason"),
    instant("firm_time", nullable=False),
    created(),
    one_of("kind", "GOODWILL", "PREPAYMENT", "OVERPAYMENT", "PROMOTION", "REFUND_TO_CREDIT", "DISPUTE_ADJUSTMENT"),
    one_of("source_type", "grant", "payment", "refund", "dispute", "credit_note", "credit_entry", "opening"),
    CheckConstraint("(source_type IN ('grant', 'opening')) = (source_id IS NULL)", name="source"),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint("remaining_minor BETWEEN 0 AND amount_minor", name="remaining"),
    CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
    CheckConstraint("expire_time > firm_time", name="expiry"),
    reference("client_id", "client"),
    UniqueConstraint("firm_id", "id", "currency_code"),
    Index(
        "credit_entry_source_key", "firm_id", "source_id", unique=True,
        postgresql_where=text("source_type IN ('payment', 'refund', 'credit_note')"),
    ),
    Index("credit_entry_open_idx", "firm_id", "client_id", "currency_code", postgresql_where=text("remaining_minor > 0")),
    Index(
        "credit_entry_expiry_idx", "firm_id", "expire_time", "id",
        postgresql_where=text("remaining_minor > 0 AND expire_time IS NOT NULL"),
    ),
    Index("credit_entry_client_idx", "firm_id", "client_id", "create_time", "id"),
)  # fmt: skip

credit_use = tenant_table(
    "credit_use",
    Column("entry_id", UUID(), nullable=False),
    Column("kind", Text, nullable=False),
    currency(),
    minor("amount_minor"),
    optional("invoice_id", UUID()),
    optional("source_type"),
    optional("source_id", UUID()),
    optional("reason"),
    instant("firm_time", nullable=False),
    created(),
    one_of("kind", "APPLIED", "RELEASED", "EXPIRED", "REVERSED", "REFUNDED", "CHARGED_BACK", "MOVED"),
    one_of("source_type", "refund", "dispute", "credit_note", "credit_entry"),
    CheckConstraint("(source_type IS NULL) = (source_id IS NULL)", name="source"),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint("(kind IN ('APPLIED', 'RELEASED')) = (invoice_id IS NOT NULL)", name="invoice"),
    reference("entry_id", "credit_entry", ("currency_code", "currency_code")),
    ForeignKeyConstraint(
        ["firm_id", "invoice_id", "currency_code"],
        ["invoice.firm_id", "invoice.id", "invoice.currency_code"],
        deferrable=True,
        initially="DEFERRED",
    ),
    Index("credit_use_entry_idx", "firm_id", "entry_id", "create_time", "id"),
    Index("credit_use_invoice_idx", "firm_id", "invoice_id", postgresql_where=text("invoice_id IS NOT NULL")),
)
