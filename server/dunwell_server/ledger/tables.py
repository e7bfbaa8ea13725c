"""Double-entry ledger: postings, their entries, and the two balances that are stored."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
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
)  # fmt: skip

ACCOUNTS = (
    "receivable", "revenue", "deferred_revenue", "tax_payable", "cash", "clearing", "provider_fees", "dispute_fees", "client_credit",
    "unapplied_receipts", "refund_payable", "disputed_funds", "promotional_contra_revenue", "breakage", "bad_debt", "recoveries",
    "opening_balance",
)  # fmt: skip

posting = tenant_table(
    "ledger_posting",
    Column("source_type", Text, nullable=False),
    Column("source_id", UUID(), nullable=False),
    Column("kind", Text, nullable=False),
    instant("firm_time", nullable=False),
    created(),
    UniqueConstraint("firm_id", "source_id", "kind"),
)

entry = tenant_table(
    "ledger_entry",
    Column("posting_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("account", Text, nullable=False),
    optional("client_id", UUID()),
    optional("provider"),
    currency(),
    minor("amount_minor"),
    one_of("account", *ACCOUNTS),
    CheckConstraint("amount_minor <> 0", name="amount"),
    CheckConstraint("(account IN ('receivable', 'client_credit')) <= (client_id IS NOT NULL)", name="client"),
    CheckConstraint("(account IN ('cash', 'clearing')) <= (provider IS NOT NULL)", name="provider"),
    reference("posting_id", "ledger_posting"),
    Index("ledger_entry_account_idx", "firm_id", "account", "currency_code"),
    Index("ledger_entry_client_idx", "firm_id", "client_id", postgresql_where=text("client_id IS NOT NULL")),
    key=("posting_id", "line_no"),
)

client_balance = tenant_table(
    "client_balance",
    Column("client_id", UUID(), nullable=False),
    currency(),
    Column("receivable_minor", BigInteger, nullable=False),
    Column("credit_minor", BigInteger, nullable=False),
    CheckConstraint("receivable_minor >= 0", name="receivable"),
    CheckConstraint("credit_minor >= 0", name="credit"),
    key=("client_id", "currency_code"),
)
