"""Time entries, the rates they are billed at, and what invoices hold of them."""

from __future__ import annotations

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from dunwell_server.platform.schema import (
    DATE,
    DATERANGE,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    client_key,
    created,
    instant,
    minor,
    one_of,
    optional,
    reference,
    tenant_table,
    text,
    updated,
    version,
)

_LIVE = text("release_time IS NULL")

engagement_rate = tenant_table(
    "engagement_rate",
    Column("engagement_id", UUID(), nullable=False),
    Column("rate_no", SmallInteger, nullable=False),
    Column("role", Text, nullable=False),
    Column("rate", Numeric, nullable=False),
    Column("period", DATERANGE, nullable=False),
    CheckConstraint("rate >= 0", name="rate"),
    CheckConstraint("role <> ''", name="role"),
    CheckConstraint("NOT isempty(period)", name="period"),
    reference("engagement_id", "engagement"),
    ExcludeConstraint(
        ("firm_id", "="), ("engagement_id", "="), ("role", "="), ("period", "&&"), name="engagement_rate_overlap_excl", using="gist",
    ),
    key=("engagement_id", "rate_no"),
)  # fmt: skip

time_entry = tenant_table(
    "time_entry",
    *client_key(),
    Column("client_id", UUID(), nullable=False),
    Column("engagement_id", UUID(), nullable=False),
    Column("person", Text, nullable=False),
    optional("role"),
    Column("work_date", DATE, nullable=False),
    Column("minutes", Integer, nullable=False),
    optional("description"),
    optional("rate", Numeric),
    Column("state", Text, nullable=False, server_default=text("'DRAFT'")),
    Column("written_down_minutes", Integer, nullable=False, server_default=text("0")),
    optional("write_down_reason"),
    optional("submit_actor"),
    instant("submit_time"),
    optional("approve_actor"),
    instant("approve_time"),
    optional("reject_actor"),
    instant("reject_time"),
    optional("reject_reason"),
    optional("invoice_id", UUID()),
    version(), created(), updated(),
    one_of("state", "DRAFT", "SUBMITTED", "APPROVED", "INVOICED", "REJECTED"),
    CheckConstraint("minutes BETWEEN 1 AND 100000 AND written_down_minutes BETWEEN 0 AND minutes", name="minutes"),
    CheckConstraint("(written_down_minutes = 0) = (write_down_reason IS NULL)", name="write_down"),
    CheckConstraint("rate >= 0", name="rate"),
    CheckConstraint(
        "num_nonnulls(submit_actor, submit_time) = 2 OR (state = 'DRAFT' AND num_nonnulls(submit_actor, submit_time) = 0)", name="submitted"
    ),
    CheckConstraint(
        "num_nonnulls(approve_actor, approve_time) = CASE WHEN state IN ('APPROVED', 'INVOICED') THEN 2 ELSE 0 END", name="approved"
    ),
    CheckConstraint(
        "num_nonnulls(reject_actor, reject_time, reject_reason) IN (0, 3) AND (state <> 'REJECTED' OR reject_time IS NOT NULL)", name="rejected"
    ),
    CheckConstraint("(state = 'INVOICED') = (invoice_id IS NOT NULL)", name="invoiced"),
    reference("engagement_id", "engagement", ("client_id", "client_id")),
    Index("time_entry_time_idx", "firm_id", "create_time", "id"),
    Index("time_entry_engagement_idx", "firm_id", "engagement_id", "create_time", "id"),
    Index("time_entry_open_idx", "firm_id", "engagement_id", "work_date", "id", postgresql_where=text("state <> 'INVOICED'")),
)  # fmt: skip

# Triggers keep it and the entries in agreement, for whole sets.
invoice_time = tenant_table(
    "invoice_time",
    Column("invoice_id", UUID(), nullable=False),
    Column("time_entry_id", UUID(), nullable=False),
    Column("line_no", SmallInteger, nullable=False),
    Column("minutes", Integer, nullable=False),
    Column("included_minutes", Integer, nullable=False, server_default=text("0")),
    instant("release_time"),
    CheckConstraint("minutes >= 0 AND included_minutes BETWEEN 0 AND minutes", name="minutes"),
    CheckConstraint("line_no > 0", name="line_no"),
    Index("invoice_time_live_key", "firm_id", "time_entry_id", unique=True, postgresql_where=_LIVE),
    key=("invoice_id", "time_entry_id"),
)


def _invoice_key() -> ForeignKeyConstraint:
    """An invoice is written last, when its number is taken: looked for at the commit."""
    return ForeignKeyConstraint(
        ["firm_id", "invoice_id"], ["invoice.firm_id", "invoice.id"], deferrable=True, initially="DEFERRED"
    )


invoice_time_period = tenant_table(
    "invoice_time_period",
    Column("invoice_id", UUID(), nullable=False),
    Column("engagement_id", UUID(), nullable=False),
    Column("period_start", DATE, nullable=False),
    Column("period_end", DATE, nullable=False),
    Column("minutes", BigInteger, nullable=False),
    minor("amount_minor"),
    minor("capped_minor"),
    instant("release_time"),
    CheckConstraint("period_end > period_start", name="period"),
    CheckConstraint("minutes >= 0 AND amount_minor >= 0 AND capped_minor BETWEEN 0 AND amount_minor", name="amount"),
    reference("engagement_id", "engagement"),
    _invoice_key(),
    Index("invoice_time_period_live_idx", "firm_id", "engagement_id", "period_start", postgresql_where=_LIVE),
    key=("invoice_id", "engagement_id", "period_start"),
)

allowance_use = tenant_table(
    "allowance_use",
    Column("invoice_id", UUID(), nullable=False),
    Column("engagement_id", UUID(), nullable=False),
    Column("period_start", DATE, nullable=False),
    Column("grant_start", DATE, nullable=False),
    Column("minutes", Integer, nullable=False),
    Column("granted_minutes", Integer, nullable=False),
    instant("release_time"),
    CheckConstraint("minutes > 0 AND minutes <= granted_minutes", name="minutes"),
    CheckConstraint("grant_start <= period_start", name="period"),
    reference("engagement_id", "engagement"),
    _invoice_key(),
    Index("allowance_use_live_idx", "firm_id", "engagement_id", "grant_start", postgresql_where=_LIVE),
    key=("invoice_id", "engagement_id", "period_start", "grant_start"),
)

cap_alert = tenant_table(
    "cap_alert",
    Column("engagement_id", UUID(), nullable=False),
    Column("scope", Text, nullable=False),
    Column("period_start", DATE, nullable=False),
    Column("percent", SmallInteger, nullable=False),
    minor("amount_minor"),
    minor("cap_minor"),
    created(),
    one_of("scope", "PERIOD", "TOTAL"),
    CheckConstraint("percent IN (80, 100)", name="percent"),
    reference("engagement_id", "engagement"),
    key=("engagement_id", "scope", "period_start", "percent", "cap_minor"),
)
