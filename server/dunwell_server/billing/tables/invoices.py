"""Invoices with their lines, coverage, and number series.

An invoice stores facts; `amount_paid`, `amount_due` and `state` are computed by the database from them, so that they cannot drift apart.
`model.derive_state` is the same function in Python; a test proves the two equal.
"""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import ExcludeConstraint

from dunwell_server.billing.tables.vocabulary import AUTOPAY_STATUSES, CADENCES, FAILURE_CODES
from dunwell_server.platform.schema import (
    DATE,
    DATERANGE,
    JSONB,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    client_key,
    created,
    currency,
    flag,
    generated,
    instant,
    last_part,
    minor,
    one_of,
    optional,
    reference,
    tenant_table,
    text,
    updated,
    version,
)

AMOUNT_PAID = "amount_received - amount_refunded - amount_charged_back"
AMOUNT_DUE = f"total - amount_credited - ({AMOUNT_PAID})"
STATE = f"""CASE
    WHEN finalize_time IS NULL THEN 'DRAFT'
    WHEN void_time IS NOT NULL THEN 'VOID'
    WHEN write_off_time IS NOT NULL AND {AMOUNT_DUE} > 0 THEN 'UNCOLLECTIBLE'
    WHEN open_chargebacks > 0 THEN 'DISPUTED'
    WHEN lost_disputes > 0 AND {AMOUNT_DUE} > 0 THEN 'CHARGED_BACK'
    WHEN amount_received > 0 AND amount_refunded = amount_received AND {AMOUNT_DUE} = 0 THEN 'REFUNDED'
    WHEN {AMOUNT_DUE} = 0 THEN 'PAID'
    WHEN overdue_time IS NOT NULL OR retries_exhausted THEN 'OVERDUE'
    WHEN retry_pending THEN 'FAILED'
    ELSE 'SENT' END"""

invoice = tenant_table(
    "invoice",
    *client_key(),
    Column("client_id", UUID(), nullable=False),
    optional("engagement_id", UUID()),
    optional("run_id", UUID()),
    Column("origin", Text, nullable=False),
    currency(),
    optional("series"),
    optional("series_no", BigInteger),
    optional("number"),
    optional("memo"),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    optional("issue_date", DATE),
    optional("due_date", DATE),
    optional("payment_terms_days", Integer),
    Column("line_count", Integer, nullable=False, server_default=text("0")),
    minor("subtotal"),
    minor("discount_total", zero=True),
    minor("tax_total", zero=True),
    minor("total"),
    minor("amount_received", zero=True),
    minor("amount_refunded", zero=True),
    minor("amount_charged_back", zero=True),
    minor("amount_credited", zero=True),
    generated("amount_paid", BigInteger, AMOUNT_PAID),
    generated("amount_due", BigInteger, AMOUNT_DUE),
    instant("finalize_time"),
    instant("void_time"),
    instant("write_off_time"),
    instant("overdue_time"),
    instant("paid_time"),
    Column("open_chargebacks", SmallInteger, nullable=False, server_default=text("0")),
    Column("lost_disputes", SmallInteger, nullable=False, server_default=text("0")),
    flag("retry_pending"),
    flag("retries_exhausted"),
    generated("state", Text, STATE),
    flag("autopay_enabled"),
    optional("autopay_status"),
    optional("autopay_cadence"),
    optional("autopay_method_id", UUID()),
    instant("autopay_next_charge_time"),
    Column("collection_cycle", Integer, nullable=False, server_default=text("1")),
    Column("failure_count", SmallInteger, nullable=False, server_default=text("0")),
    optional("failure_code"),
    optional("failure_provider_code"),
    optional("failure_message"),
    instant("failure_time"),
    instant("last_retry_time"),
    version(), created(), updated(),
    one_of("origin", "MANUAL", "RUN"),
    one_of("autopay_status", *AUTOPAY_STATUSES),
    one_of("autopay_cadence", *CADENCES),
    one_of("failure_code", *FAILURE_CODES),
    minor("tax_included_total", zero=True),
    Column("discount_count", SmallInteger, nullable=False, server_default=text("0")),
    generated("last_discount_no", SmallInteger, "nullif(discount_count, 0)", nullable=True),
    last_part(
        "invoice_discount_missing", ["firm_id", "id", "last_discount_no"],
        "invoice_discount", ["firm_id", "invoice_id", "discount_no"],
    ),
    CheckConstraint("total = subtotal - discount_total + tax_total - tax_included_total", name="total"),
    CheckConstraint("subtotal >= 0 AND discount_total >= 0 AND tax_total >= 0 AND total >= 0", name="signs"),
    CheckConstraint("discount_total <= subtotal AND tax_included_total BETWEEN 0 AND least(tax_total, subtotal - discount_total)", name="tax_included"),
    CheckConstraint("discount_count >= 0 AND (discount_total = 0 OR discount_count > 0)", name="discounts"),
    CheckConstraint("amount_received >= 0 AND amount_refunded >= 0 AND amount_charged_back >= 0 AND amount_credited >= 0", name="facts"),
    CheckConstraint("amount_refunded + amount_charged_back <= amount_received", name="returned"),
    CheckConstraint(f"{AMOUNT_DUE} >= 0", name="due"),
    CheckConstraint("amount_credited <= total", name="credited"),
    CheckConstraint("void_time IS NULL OR amount_received = 0", name="void"),
    CheckConstraint("(finalize_time IS NULL) = (number IS NULL)", name="number"),
    CheckConstraint("(number IS NULL) = (series_no IS NULL) AND (series IS NULL) = (series_no IS NULL)", name="series"),
    CheckConstraint("finalize_time IS NULL OR (issue_date IS NOT NULL AND due_date IS NOT NULL)", name="dates"),
    CheckConstraint(
        "finalize_time IS NOT NULL OR (amount_received + amount_credited = 0 AND void_time IS NULL AND write_off_time IS NULL)", name="draft"
    ),
    CheckConstraint("NOT (retry_pending AND retries_exhausted)", name="retries"),
    CheckConstraint("failure_count >= 0", name="failures"),
    reference("client_id", "client"),
    reference("engagement_id", "engagement"),
    UniqueConstraint("firm_id", "series", "series_no"),
    UniqueConstraint("firm_id", "id", "currency_code"),
    Index("invoice_collect_idx", "firm_id", "autopay_next_charge_time", "id", postgresql_where=text("autopay_next_charge_time IS NOT NULL")),
    Index("invoice_overdue_idx", "firm_id", "due_date", "id", postgresql_where=text("state IN ('SENT', 'FAILED') AND NOT autopay_enabled")),
    Index("invoice_client_idx", "firm_id", "client_id", "create_time", "id"),
    Index("invoice_time_idx", "firm_id", "create_time", "id"),
    Index("invoice_open_idx", "firm_id", "client_id", "due_date", "id", postgresql_where=text("amount_due > 0 AND finalize_time IS NOT NULL")),
)  # fmt: skip

invoice_line = tenant_table(
    "invoice_line",
    Column("invoice_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("unit_price", Numeric, nullable=False),
    minor("amount_minor"),
    optional("period_start", DATE),
    optional("period_end", DATE),
    optional("engagement_id", UUID()),
    flag("in_advance"),
    Column("unit", Text, nullable=False, server_default=text("''")),
    Column("tax_category", Text, nullable=False, server_default=text("'standard'")),
    minor("discount_minor", zero=True),
    minor("tax_minor", zero=True),
    minor("tax_included_minor", zero=True),
    Column("tax_count", SmallInteger, nullable=False, server_default=text("0")),
    generated("last_tax_no", SmallInteger, "nullif(tax_count, 0)", nullable=True),
    last_part(
        "invoice_line_tax_missing",
        ["firm_id", "invoice_id", "line_no", "last_tax_no"],
        "invoice_line_tax",
        ["firm_id", "invoice_id", "line_no", "tax_no"],
    ),
    CheckConstraint("discount_minor BETWEEN 0 AND amount_minor", name="within"),
    CheckConstraint("tax_included_minor BETWEEN 0 AND least(tax_minor, amount_minor - discount_minor)", name="tax"),
    CheckConstraint("tax_count >= 0 AND (tax_minor = 0 OR tax_count > 0)", name="tax_count"),
    one_of("kind", "ITEM", "PACKAGE", "TIME", "OVERAGE"),
    CheckConstraint("amount_minor >= 0 AND quantity >= 0 AND unit_price >= 0", name="signs"),
    CheckConstraint("line_no > 0", name="line_no"),
    CheckConstraint("period_end > period_start", name="period"),
    CheckConstraint("(period_start IS NULL) = (period_end IS NULL)", name="period_whole"),
    reference("invoice_id", "invoice"),
    key=("invoice_id", "line_no"),
)

coverage = tenant_table(
    "coverage",
    Column("invoice_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("engagement_id", UUID(), nullable=False),
    Column("component", Text, nullable=False),
    Column("period", DATERANGE, nullable=False),
    instant("release_time"),
    one_of("component", "PACKAGE"),
    CheckConstraint("NOT isempty(period) AND lower_inc(period) AND NOT upper_inc(period) AND lower(period) IS NOT NULL", name="period"),
    reference("engagement_id", "engagement"),
    reference("invoice_id", "invoice"),
    ExcludeConstraint(
        ("firm_id", "="), ("engagement_id", "="), ("component", "="), ("period", "&&"),
        name="coverage_overlap_excl", using="gist", where=text("release_time IS NULL"),
    ),
    key=("invoice_id", "line_no"),
)  # fmt: skip

invoice_series = tenant_table(
    "invoice_series",
    Column("series", Text, nullable=False),
    Column("next_no", BigInteger, nullable=False),
    CheckConstraint("next_no >= 1", name="next_no"),
    key=("series",),
)
