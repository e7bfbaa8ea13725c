"""Deferred revenue by line, how far the daily recognition has come, and the firm's exchange rates."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    DATE,
    UUID,
    CheckConstraint,
    Column,
    Index,
    Numeric,
    SmallInteger,
    created,
    currency,
    instant,
    minor,
    optional,
    reference,
    tenant_table,
    text,
    updated,
)

revenue_schedule = tenant_table(
    "revenue_schedule",
    Column("invoice_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    currency(),
    Column("start_date", DATE, nullable=False),
    Column("end_date", DATE, nullable=False),
    minor("amount_minor"),
    minor("recognized_minor", zero=True),
    minor("taken_back_minor", zero=True),
    Column("recognized_through_date", DATE, nullable=False),
    optional("base_date", DATE),
    minor("base_minor", zero=True),
    instant("close_time"),
    CheckConstraint("end_date > start_date", name="period"),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint("recognized_minor >= 0 AND taken_back_minor >= 0 AND recognized_minor + taken_back_minor <= amount_minor", name="parts"),
    CheckConstraint("base_minor >= 0 AND base_minor <= recognized_minor AND base_date >= start_date AND base_date < end_date", name="base"),
    CheckConstraint("close_time IS NULL OR recognized_minor + taken_back_minor = amount_minor", name="closed"),
    reference("invoice_id", "invoice", ("currency_code", "currency_code")),
    Index("revenue_schedule_open_idx", "firm_id", "invoice_id", "line_no", postgresql_where=text("close_time IS NULL")),
    key=("invoice_id", "line_no"),
)  # fmt: skip
"""What a sent line deferred (`amount_minor`), over the days [start_date, end_date). `recognized_through_date` is the first day that no posting
accounts for yet; `base_minor` was recognised on `base_date` (the start, where it is null), and what is left then spreads evenly from there."""

recognition_progress = tenant_table(
    "recognition_progress",
    Column("through_date", DATE, nullable=False),
    key=(),
)
"""The first day that the firm's daily recognition has still to do."""

exchange_rate = tenant_table(
    "exchange_rate",
    currency("base_currency"),
    currency("quote_currency"),
    Column("rate_date", DATE, nullable=False),
    Column("rate", Numeric, nullable=False),
    created(),
    updated(),
    CheckConstraint("base_currency <> quote_currency", name="pair"),
    CheckConstraint("rate > 0 AND rate < 'Infinity'", name="rate"),
    key=("base_currency", "quote_currency", "rate_date"),
)
"""How many units of the quote currency one unit of the base currency is worth, from that day on until the next rate."""
