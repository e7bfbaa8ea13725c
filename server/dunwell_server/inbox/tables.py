"""Envelopes of provider events in schema `control`, and the events themselves as tenant rows."""

from __future__ import annotations

from dunwell_server.platform.schema import (
    BYTEA,
    JSONB,
    UUID,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    control_table,
    created,
    flag,
    instant,
    one_of,
    optional,
    reference,
    tenant_table,
    text,
    updated,
    version,
)

EVENT_STATES = ("RECEIVED", "APPLIED", "IGNORED", "QUARANTINED", "DISCARDED")

envelope = control_table(
    "inbox_envelope",
    Column("id", UUID(), primary_key=True),
    Column("account_id", UUID(), nullable=False),
    Column("provider", Text, nullable=False),
    Column("dedupe_key", Text, nullable=False),
    Column("type", Text, nullable=False),
    optional("firm_id", UUID()),
    Column("state", Text, nullable=False),
    optional("sealed_body", BYTEA),
    optional("sealed_key_id"),
    optional("headers", JSONB),
    instant("provider_time"),
    flag("fetched"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    instant("next_attempt_time"),
    optional("last_error"),
    created(),
    one_of("state", "ROUTED", "WAITING", "QUARANTINED", "DISCARDED"),
    CheckConstraint("(state = 'ROUTED') = (firm_id IS NOT NULL)", name="routed"),
    CheckConstraint("(sealed_body IS NULL) = (state = 'ROUTED')", name="sealed"),
    UniqueConstraint("account_id", "dedupe_key"),
    Index("inbox_envelope_unrouted_idx", "create_time", "id", postgresql_where=text("state <> 'ROUTED'")),
    Index("inbox_envelope_waiting_idx", "next_attempt_time", postgresql_where=text("state = 'WAITING'")),
)
"""One row per event of an account, whoever it concerns. `dedupe_key` is the provider's event id, or the body's hash where it has none.

While the firm is not known the body is kept here, encrypted; afterwards it is the firm's row only.
"""

poll = control_table(
    "inbox_poll",
    Column("account_id", UUID(), primary_key=True),
    instant("poll_time", nullable=False),
    instant("polled_until"),
)
"""When the provider's own list of an account's events was last compared with the inbox, and up to which of its instants."""

provider_event = tenant_table(
    "provider_event",
    Column("account_id", UUID(), nullable=False),
    Column("provider", Text, nullable=False),
    Column("dedupe_key", Text, nullable=False),
    optional("event_id"),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'RECEIVED'")),
    Column("body", BYTEA, nullable=False),
    Column("body_hash", BYTEA, nullable=False),
    Column("headers", JSONB, nullable=False),
    optional("object_reference"),
    optional("result"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    instant("next_attempt_time"),
    optional("last_error"),
    flag("fetched"),
    instant("provider_time"),
    instant("finish_time"),
    optional("owner", UUID()),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    instant("lease_until"),
    version(), created(),
    one_of("state", *EVENT_STATES),
    CheckConstraint("(finish_time IS NULL) = (state IN ('RECEIVED', 'QUARANTINED'))", name="finished"),
    UniqueConstraint("firm_id", "account_id", "dedupe_key"),
    Index("provider_event_work_idx", "firm_id", "next_attempt_time", "id", postgresql_where=text("state = 'RECEIVED'")),
    Index("provider_event_quarantine_idx", "firm_id", postgresql_where=text("state = 'QUARANTINED'")),
    Index("provider_event_time_idx", "firm_id", "create_time", "id"),
    Index("provider_event_object_idx", "firm_id", "object_reference", postgresql_where=text("object_reference IS NOT NULL")),
)  # fmt: skip

mirror = tenant_table(
    "provider_mirror",
    Column("account_id", UUID(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("reference", Text, nullable=False),
    optional("client_id", UUID()),
    Column("state", Text, nullable=False),
    Column("snapshot", JSONB, nullable=False),
    instant("provider_time"),
    version(), created(), updated(),
    one_of("kind", "SUBSCRIPTION", "INVOICE"),
    reference("client_id", "client"),
    Index("provider_mirror_client_idx", "firm_id", "client_id", "kind", postgresql_where=text("client_id IS NOT NULL")),
    key=("account_id", "kind", "reference"),
)  # fmt: skip
"""Subscriptions and invoices that live at a provider, as its events last told of them, in normalised form."""
