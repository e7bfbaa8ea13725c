"""Tables of the floor: schema `control`, idempotency, audit, outbox, runs."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    BYTEA,
    JSONB,
    UUID,
    XID8,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    control_table,
    created,
    flag,
    instant,
    one_of,
    optional,
    tenant_table,
    text,
    updated,
    version,
)  # fmt: skip

firm = control_table(
    "firm",
    Column("id", UUID(), primary_key=True),
    Column("external_id", Text, unique=True),
    Column("display_name", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'ACTIVE'")),
    Column("settings", JSONB, nullable=False),
    version(), created(), updated(),
    one_of("mode", "TEST", "LIVE"),
    one_of("state", "ACTIVE", "SUSPENDED", "IMPORTING", "ERASED"),
)  # fmt: skip

test_clock = control_table(
    "test_clock",
    Column("firm_id", UUID(), primary_key=True),
    Column("id", UUID(), nullable=False, unique=True),
    instant("start_time", nullable=False),
    instant("now_time", nullable=False),
    instant("target_time"),
    Column("state", Text, nullable=False, server_default=text("'READY'")),
    optional("run_id", UUID()),
    optional("owner", UUID()),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    instant("lease_until"),
    version(), created(), updated(),
    one_of("state", "READY", "ADVANCING"),
)  # fmt: skip

api_key = control_table(
    "api_key",
    Column("id", UUID(), primary_key=True),
    optional("firm_id", UUID()),
    Column("role", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("secret_hash", BYTEA, nullable=False),
    flag("may_name_actor"),
    Column("create_actor", Text, nullable=False),
    created(),
    instant("expire_time"),
    instant("revoke_time"),
    one_of("role", "ADMIN", "FIRM_ADMIN", "OPERATOR", "SERVICE", "READER", "SIDECAR"),
    CheckConstraint("(firm_id IS NULL) = (role IN ('ADMIN', 'SIDECAR'))", name="binding"),
    Index("api_key_firm_idx", "firm_id", "id"),
)

provider_account = control_table(
    "provider_account",
    Column("id", UUID(), primary_key=True),
    optional("firm_id", UUID()),
    Column("provider", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("credentials", BYTEA, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'ACTIVE'")),
    version(), created(), updated(),
    one_of("mode", "TEST", "LIVE"),
    one_of("state", "ACTIVE", "DISABLED"),
    Index("provider_account_live_key", "firm_id", "provider", "mode", unique=True, postgresql_where=text("state = 'ACTIVE'"), postgresql_nulls_not_distinct=True),
)  # fmt: skip

control_idempotency = control_table(
    "idempotency",
    Column("principal", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", UUID(), nullable=False),
    Column("request_hash", BYTEA, nullable=False),
    optional("response", BYTEA),
    optional("object_id", UUID()),
    created(),
    instant("expire_time", nullable=False),
    PrimaryKeyConstraint("principal", "method", "request_id"),
    Index("idempotency_expire_idx", "expire_time"),
)

control_run = control_table(
    "run",
    Column("id", UUID(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'RUNNING'")),
    flag("dry_run"),
    Column("params", JSONB, nullable=False),
    Column("actor", Text, nullable=False),
    created(),
    instant("end_time"),
    one_of("state", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"),
)

control_run_part = control_table(
    "run_part",
    Column("run_id", UUID(), nullable=False),
    Column("firm_id", UUID(), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'WAITING'")),
    PrimaryKeyConstraint("run_id", "firm_id"),
    one_of("state", "WAITING", "STARTED", "DONE"),
    Index("run_part_open_idx", "firm_id", postgresql_where=text("state <> 'DONE'")),
)

control_audit_event = control_table(
    "audit_event",
    Column("id", UUID(), primary_key=True),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    created(),
)

due_work = control_table(
    "due_work",
    Column("firm_id", UUID(), nullable=False),
    Column("kind", Text, nullable=False),
    instant("next_due", nullable=False),
    PrimaryKeyConstraint("firm_id", "kind"),
    Index("due_work_next_idx", "next_due"),
)

wake = control_table(
    "wake",
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("firm_id", UUID(), nullable=False),
    Column("kind", Text, nullable=False),
    instant("due", nullable=False),
)

rate_bucket = control_table(
    "rate_bucket",
    Column("key", Text, primary_key=True),
    Column("tokens", Double, nullable=False),
    updated(),
)

idempotency = tenant_table(
    "idempotency",
    Column("method", Text, nullable=False),
    Column("request_id", UUID(), nullable=False),
    Column("request_hash", BYTEA, nullable=False),
    optional("response", BYTEA),
    optional("object_id", UUID()),
    created(),
    instant("expire_time", nullable=False),
    Index("idempotency_expire_idx", "firm_id", "expire_time"),
    key=("method", "request_id"),
)

audit_event = tenant_table(
    "audit_event",
    Column("sequence", BigInteger, Identity(always=True), nullable=False),
    Column("xact", XID8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Column("category", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("object_type", Text, nullable=False),
    Column("object_id", UUID(), nullable=False),
    Column("actor", Text, nullable=False),
    Column("actor_role", Text, nullable=False),
    Column("method", Text, nullable=False),
    optional("request_id", UUID()),
    Column("metadata", JSONB, nullable=False),
    instant("firm_time", nullable=False),
    created(),
    one_of("category", "billing", "payment", "dispute", "subscription", "access", "admin"),
    one_of("severity", "INFO", "WARNING", "CRITICAL"),
    Index("audit_event_order_idx", "firm_id", "xact", "sequence"),
    Index("audit_event_time_idx", "firm_id", "create_time", "id"),
    Index("audit_event_object_idx", "firm_id", "object_id", "create_time"),
)

audit_seal = tenant_table(
    "audit_seal",
    Column("seq", BigInteger, nullable=False),
    Column("audit_id", UUID(), nullable=False),
    Column("hash", BYTEA, nullable=False),
    created(),
    UniqueConstraint("firm_id", "audit_id"),
    key=("seq",),
)

event = tenant_table(
    "event",
    Column("xact", XID8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Column("sequence", BigInteger, Identity(always=True), nullable=False),
    Column("type", Text, nullable=False),
    Column("object_type", Text, nullable=False),
    Column("object_id", UUID(), nullable=False),
    Column("object_seq", BigInteger, nullable=False),
    Column("payload", JSONB, nullable=False),
    instant("firm_time", nullable=False),
    created(),
    UniqueConstraint("firm_id", "object_id", "object_seq"),
    Index("event_feed_idx", "firm_id", "xact", "sequence"),
)

run = tenant_table(
    "run",
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'QUEUED'")),
    flag("dry_run"),
    Column("params", JSONB, nullable=False),
    optional("parent_id", UUID()),
    Column("actor", Text, nullable=False),
    Column("total", BigInteger, nullable=False, server_default=text("0")),
    Column("done", BigInteger, nullable=False, server_default=text("0")),
    Column("counts", JSONB, nullable=False, server_default=text("'{}'")),
    Column("amounts", JSONB, nullable=False, server_default=text("'{}'")),
    optional("error"),
    instant("firm_time"),
    created(),
    instant("start_time"),
    instant("end_time"),
    optional("owner", UUID()),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    instant("lease_until"),
    version(),
    one_of("state", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"),
    Index("run_open_idx", "firm_id", "create_time", postgresql_where=text("state IN ('QUEUED', 'RUNNING')")),
    Index("run_time_idx", "firm_id", "create_time", "id"),
    Index("run_parent_idx", "firm_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
)

run_item = tenant_table(
    "run_item",
    Column("run_id", UUID(), nullable=False),
    Column("subject_id", UUID(), nullable=False),
    Column("subject_type", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    optional("reason"),
    optional("message"),
    optional("client_id", UUID()),
    optional("amount_minor", BigInteger),
    optional("currency_code"),
    optional("detail", JSONB),
    Column("xact", XID8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Column("ordinal", BigInteger, Identity(always=True), nullable=False),
    created(),
    Index("run_item_order_idx", "firm_id", "run_id", "xact", "ordinal"),
    key=("subject_id", "run_id"),
)

state_edge = control_table(
    "state_edge",
    Column("machine", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    PrimaryKeyConstraint("machine", "source", "target"),
)

provider_reference = control_table(
    "provider_reference",
    Column("account_id", UUID(), nullable=False),
    Column("reference", Text, nullable=False),
    Column("firm_id", UUID(), nullable=False),
    created(),
    PrimaryKeyConstraint("account_id", "reference"),
)
"""Whose object a provider's id names, for accounts that several firms share."""

recovery = control_table(
    "recovery",
    Column("firm_id", UUID(), primary_key=True),
    instant("window_start", nullable=False),
    Column("actor", Text, nullable=False),
    optional("run_id", UUID()),
    created(),
)
"""Firms that charge nothing until the providers' record has been taken over, after a restore."""
