"""Credit notes."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    DATE,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Text,
    UniqueConstraint,
    created,
    currency,
    minor,
    optional,
    reference,
    tenant_table,
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
    CheckConstraint(
        "amount_minor > 0 AND tax_minor >= 0 AND deferred_minor >= 0 AND tax_minor + deferred_minor <= amount_minor",
        name="amount",
    ),
    reference("client_id", "client"),
    reference("invoice_id", "invoice", ("currency_code", "currency_code")),
    UniqueConstraint("firm_id", "series", "series_no"),
    UniqueConstraint("firm_id", "refund_id", "invoice_id"),
    Index("credit_note_invoice_idx", "firm_id", "invoice_id"),
)
