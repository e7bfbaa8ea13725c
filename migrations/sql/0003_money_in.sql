-- Money in, for real: provider events, refunds with credit notes, hosted pages, breakers, recovery.

ALTER TABLE payment
    ADD COLUMN refund_pending_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN open_disputes SMALLINT DEFAULT 0 NOT NULL,
    ADD COLUMN description TEXT,
    ADD COLUMN return_url TEXT,
    ADD COLUMN client_present BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN payer JSONB,
    ADD COLUMN provider_reference TEXT;
ALTER TABLE payment DROP CONSTRAINT payment_kind_check, DROP CONSTRAINT payment_returned_check;
ALTER TABLE payment
    ADD CONSTRAINT payment_kind_check CHECK (kind IN ('AUTOPAY', 'CHARGE', 'MANUAL', 'LATE_LANDING', 'ONE_TIME', 'CHECKOUT', 'ADOPTED')),
    ADD CONSTRAINT payment_returned_check CHECK (refunded_minor >= 0 AND charged_back_minor >= 0 AND refund_pending_minor >= 0
        AND refunded_minor + refund_pending_minor + charged_back_minor <= captured_minor);

CREATE UNIQUE INDEX payment_provider_key ON payment (firm_id, account_id, provider_reference) WHERE provider_reference IS NOT NULL;

CREATE INDEX payment_finish_idx ON payment (firm_id, finish_time) WHERE finish_time IS NOT NULL;

ALTER TABLE attempt ALTER COLUMN method_id DROP NOT NULL;

CREATE INDEX attempt_sent_idx ON attempt (firm_id, account_id, first_send_time) WHERE first_send_time IS NOT NULL;

ALTER TABLE collection_hold ADD COLUMN place SMALLINT DEFAULT 0 NOT NULL;
ALTER TABLE payment_method
    ADD COLUMN failure_streak INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN warned_expiry TEXT;
ALTER TABLE client ADD COLUMN default_provider TEXT;
ALTER TABLE provider_customer
    ADD COLUMN adopted BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN deleted BOOLEAN DEFAULT false NOT NULL;
ALTER TABLE approval
    ADD COLUMN payment_id UUID,
    ADD COLUMN amount_minor BIGINT,
    ADD COLUMN currency_code TEXT,
    ADD COLUMN reject_actor TEXT,
    ADD COLUMN reject_time TIMESTAMP WITH TIME ZONE,
    ADD COLUMN note TEXT;
ALTER TABLE approval DROP CONSTRAINT approval_kind_check;
ALTER TABLE approval
    ADD CONSTRAINT approval_kind_check CHECK (kind IN ('RESOLVE_ATTEMPT', 'REFUND')),
    ADD CONSTRAINT approval_decided_check CHECK (approve_time IS NULL OR reject_time IS NULL);
DROP INDEX approval_pending_key;

CREATE UNIQUE INDEX approval_pending_key ON approval (firm_id, kind, subject_id) WHERE approve_time IS NULL AND reject_time IS NULL;

CREATE TABLE control.provider_reference (
    account_id UUID NOT NULL,
    reference TEXT NOT NULL,
    firm_id UUID NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_reference_pkey PRIMARY KEY (account_id, reference)
);

CREATE TABLE control.recovery (
    firm_id UUID NOT NULL,
    window_start TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    run_id UUID,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT recovery_pkey PRIMARY KEY (firm_id)
);

CREATE TABLE control.inbox_envelope (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    provider TEXT NOT NULL,
    dedupe_key TEXT NOT NULL,
    type TEXT NOT NULL,
    firm_id UUID,
    state TEXT NOT NULL,
    sealed_body BYTEA,
    sealed_key_id TEXT,
    headers JSONB,
    provider_time TIMESTAMP WITH TIME ZONE,
    fetched BOOLEAN DEFAULT false NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_attempt_time TIMESTAMP WITH TIME ZONE,
    last_error TEXT,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT inbox_envelope_pkey PRIMARY KEY (id),
    CONSTRAINT inbox_envelope_state_check CHECK (state IN ('ROUTED', 'WAITING', 'QUARANTINED', 'DISCARDED')),
    CONSTRAINT inbox_envelope_routed_check CHECK ((state = 'ROUTED') = (firm_id IS NOT NULL)),
    CONSTRAINT inbox_envelope_sealed_check CHECK ((sealed_body IS NULL) = (state = 'ROUTED')),
    CONSTRAINT inbox_envelope_account_id_dedupe_key_key UNIQUE (account_id, dedupe_key)
);

CREATE INDEX inbox_envelope_unrouted_idx ON control.inbox_envelope (create_time, id) WHERE state <> 'ROUTED';

CREATE INDEX inbox_envelope_waiting_idx ON control.inbox_envelope (next_attempt_time) WHERE state = 'WAITING';

CREATE TABLE control.inbox_poll (
    account_id UUID NOT NULL,
    poll_time TIMESTAMP WITH TIME ZONE NOT NULL,
    polled_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT inbox_poll_pkey PRIMARY KEY (account_id)
);

CREATE TABLE provider_event (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    provider TEXT NOT NULL,
    dedupe_key TEXT NOT NULL,
    event_id TEXT,
    type TEXT NOT NULL,
    state TEXT DEFAULT 'RECEIVED' NOT NULL,
    body BYTEA NOT NULL,
    body_hash BYTEA NOT NULL,
    headers JSONB NOT NULL,
    object_reference TEXT,
    result TEXT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_attempt_time TIMESTAMP WITH TIME ZONE,
    last_error TEXT,
    fetched BOOLEAN DEFAULT false NOT NULL,
    provider_time TIMESTAMP WITH TIME ZONE,
    finish_time TIMESTAMP WITH TIME ZONE,
    owner UUID,
    fence BIGINT DEFAULT 0 NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_event_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT provider_event_state_check CHECK (state IN ('RECEIVED', 'APPLIED', 'IGNORED', 'QUARANTINED', 'DISCARDED')),
    CONSTRAINT provider_event_finished_check CHECK ((finish_time IS NULL) = (state IN ('RECEIVED', 'QUARANTINED'))),
    CONSTRAINT provider_event_firm_id_account_id_dedupe_key_key UNIQUE (firm_id, account_id, dedupe_key)
);

CREATE INDEX provider_event_object_idx ON provider_event (firm_id, object_reference) WHERE object_reference IS NOT NULL;

CREATE INDEX provider_event_quarantine_idx ON provider_event (firm_id) WHERE state = 'QUARANTINED';

CREATE INDEX provider_event_time_idx ON provider_event (firm_id, create_time, id);

CREATE INDEX provider_event_work_idx ON provider_event (firm_id, next_attempt_time, id) WHERE state = 'RECEIVED';

CREATE TABLE credit_note (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    refund_id UUID,
    series TEXT NOT NULL,
    series_no BIGINT NOT NULL,
    number TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT credit_note_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    tax_minor BIGINT DEFAULT 0 NOT NULL,
    deferred_minor BIGINT DEFAULT 0 NOT NULL,
    reason TEXT,
    issue_date DATE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT credit_note_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT credit_note_amount_check CHECK (amount_minor > 0 AND tax_minor >= 0 AND deferred_minor >= 0 AND tax_minor + deferred_minor <= amount_minor),
    CONSTRAINT credit_note_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT credit_note_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code),
    CONSTRAINT credit_note_firm_id_series_series_no_key UNIQUE (firm_id, series, series_no),
    CONSTRAINT credit_note_firm_id_refund_id_invoice_id_key UNIQUE (firm_id, refund_id, invoice_id)
);

CREATE INDEX credit_note_invoice_idx ON credit_note (firm_id, invoice_id);

CREATE TABLE refund (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    client_id UUID NOT NULL,
    state TEXT NOT NULL,
    send_state TEXT DEFAULT 'CREATED' NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT refund_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    from_credit_minor BIGINT DEFAULT 0 NOT NULL,
    uncovered_minor BIGINT DEFAULT 0 NOT NULL,
    destination TEXT NOT NULL,
    reason TEXT,
    note TEXT,
    reopen_invoice BOOLEAN DEFAULT false NOT NULL,
    provider TEXT NOT NULL,
    account_id UUID,
    idempotency_key TEXT NOT NULL,
    provider_reference TEXT,
    payment_reference TEXT,
    failure_code TEXT,
    failed_after_success BOOLEAN DEFAULT false NOT NULL,
    evidence JSONB,
    approval_id UUID,
    actor TEXT NOT NULL,
    send_count INTEGER DEFAULT 0 NOT NULL,
    check_count INTEGER DEFAULT 0 NOT NULL,
    next_check_time TIMESTAMP WITH TIME ZONE,
    needs_person BOOLEAN DEFAULT false NOT NULL,
    first_send_time TIMESTAMP WITH TIME ZONE,
    send_time TIMESTAMP WITH TIME ZONE,
    unknown_time TIMESTAMP WITH TIME ZONE,
    succeed_time TIMESTAMP WITH TIME ZONE,
    finish_time TIMESTAMP WITH TIME ZONE,
    owner UUID,
    fence BIGINT DEFAULT 0 NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT refund_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT refund_state_check CHECK (state IN ('AWAITING_APPROVAL', 'PROCESSING', 'PENDING', 'SUCCEEDED', 'FAILED', 'REJECTED')),
    CONSTRAINT refund_send_state_check CHECK (send_state IN ('CREATED', 'SENT', 'NOT_SENT', 'UNKNOWN', 'ANSWERED')),
    CONSTRAINT refund_destination_check CHECK (destination IN ('PAYMENT_METHOD', 'CREDIT', 'MANUAL')),
    CONSTRAINT refund_amount_check CHECK (amount_minor > 0 AND from_credit_minor >= 0 AND uncovered_minor >= 0 AND from_credit_minor + uncovered_minor <= amount_minor),
    CONSTRAINT refund_key_check CHECK (idempotency_key = 'v1:refund:' || id::text),
    CONSTRAINT refund_sent_check CHECK (send_state <> 'SENT' OR lease_until IS NOT NULL OR state <> 'PROCESSING'),
    CONSTRAINT refund_firm_id_payment_id_currency_code_fkey FOREIGN KEY(firm_id, payment_id, currency_code) REFERENCES payment (firm_id, id, currency_code),
    CONSTRAINT refund_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT refund_firm_id_id_currency_code_key UNIQUE (firm_id, id, currency_code)
);

CREATE INDEX refund_check_idx ON refund (firm_id, next_check_time, id) WHERE next_check_time IS NOT NULL;

CREATE INDEX refund_client_idx ON refund (firm_id, client_id, create_time, id);

CREATE INDEX refund_payment_idx ON refund (firm_id, payment_id, create_time);

CREATE UNIQUE INDEX refund_provider_key ON refund (firm_id, account_id, provider_reference) WHERE provider_reference IS NOT NULL;

CREATE INDEX refund_time_idx ON refund (firm_id, create_time, id);

CREATE INDEX refund_work_idx ON refund (firm_id, lease_until) WHERE state = 'PROCESSING';

CREATE TABLE refund_allocation (
    firm_id UUID NOT NULL,
    refund_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT refund_allocation_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    credit_note_id UUID,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT refund_allocation_pkey PRIMARY KEY (firm_id, refund_id, invoice_id),
    CONSTRAINT refund_allocation_amount_check CHECK (amount_minor > 0),
    CONSTRAINT refund_allocation_firm_id_refund_id_currency_code_fkey FOREIGN KEY(firm_id, refund_id, currency_code) REFERENCES refund (firm_id, id, currency_code),
    CONSTRAINT refund_allocation_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code),
    CONSTRAINT refund_allocation_firm_id_credit_note_id_fkey FOREIGN KEY(firm_id, credit_note_id) REFERENCES credit_note (firm_id, id)
);

CREATE INDEX refund_allocation_invoice_idx ON refund_allocation (firm_id, invoice_id);

CREATE TABLE checkout_session (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    purpose TEXT NOT NULL,
    channel TEXT NOT NULL,
    state TEXT DEFAULT 'CREATING' NOT NULL,
    invoice_id UUID,
    payment_id UUID,
    provider TEXT NOT NULL,
    account_id UUID NOT NULL,
    mode TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    provider_reference TEXT,
    url TEXT,
    success_url TEXT NOT NULL,
    cancel_url TEXT,
    life_seconds INTEGER,
    price_reference TEXT,
    quantity INTEGER DEFAULT 1 NOT NULL,
    subscription_reference TEXT,
    method_id UUID,
    save_method BOOLEAN DEFAULT false NOT NULL,
    make_default BOOLEAN DEFAULT false NOT NULL,
    enable_autopay BOOLEAN DEFAULT false NOT NULL,
    failure_code TEXT,
    expire_time TIMESTAMP WITH TIME ZONE,
    finish_time TIMESTAMP WITH TIME ZONE,
    next_check_time TIMESTAMP WITH TIME ZONE,
    check_count INTEGER DEFAULT 0 NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT checkout_session_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT checkout_session_purpose_check CHECK (purpose IN ('INVOICE', 'SETUP', 'SUBSCRIPTION')),
    CONSTRAINT checkout_session_channel_check CHECK (channel IN ('CHECKOUT', 'LINK')),
    CONSTRAINT checkout_session_state_check CHECK (state IN ('CREATING', 'OPEN', 'COMPLETED', 'EXPIRED', 'FAILED')),
    CONSTRAINT checkout_session_mode_check CHECK (mode IN ('TEST', 'LIVE')),
    CONSTRAINT checkout_session_invoice_check CHECK ((purpose = 'INVOICE') = (invoice_id IS NOT NULL AND payment_id IS NOT NULL)),
    CONSTRAINT checkout_session_price_check CHECK ((purpose = 'SUBSCRIPTION') = (price_reference IS NOT NULL)),
    CONSTRAINT checkout_session_finished_check CHECK ((finish_time IS NULL) = (state IN ('CREATING', 'OPEN'))),
    CONSTRAINT checkout_session_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT checkout_session_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id),
    CONSTRAINT checkout_session_firm_id_payment_id_fkey FOREIGN KEY(firm_id, payment_id) REFERENCES payment (firm_id, id),
    CONSTRAINT checkout_session_firm_id_method_id_fkey FOREIGN KEY(firm_id, method_id) REFERENCES payment_method (firm_id, id)
);

CREATE INDEX checkout_session_check_idx ON checkout_session (firm_id, next_check_time, id) WHERE next_check_time IS NOT NULL;

CREATE INDEX checkout_session_client_idx ON checkout_session (firm_id, client_id, create_time);

CREATE UNIQUE INDEX checkout_session_payment_key ON checkout_session (firm_id, payment_id) WHERE payment_id IS NOT NULL;

CREATE UNIQUE INDEX checkout_session_provider_key ON checkout_session (firm_id, account_id, provider_reference) WHERE provider_reference IS NOT NULL;

CREATE UNIQUE INDEX checkout_session_subscription_key ON checkout_session (firm_id, account_id, subscription_reference) WHERE subscription_reference IS NOT NULL;

CREATE TABLE setup_intent (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    state TEXT DEFAULT 'CREATING' NOT NULL,
    provider TEXT NOT NULL,
    account_id UUID NOT NULL,
    mode TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    provider_reference TEXT,
    make_default BOOLEAN DEFAULT false NOT NULL,
    enable_autopay BOOLEAN DEFAULT false NOT NULL,
    backup_priority INTEGER DEFAULT 0 NOT NULL,
    metadata JSONB DEFAULT '{}' NOT NULL,
    method_id UUID,
    failure_code TEXT,
    finish_time TIMESTAMP WITH TIME ZONE,
    next_check_time TIMESTAMP WITH TIME ZONE,
    check_count INTEGER DEFAULT 0 NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT setup_intent_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT setup_intent_state_check CHECK (state IN ('CREATING', 'OPEN', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    CONSTRAINT setup_intent_mode_check CHECK (mode IN ('TEST', 'LIVE')),
    CONSTRAINT setup_intent_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT setup_intent_firm_id_method_id_fkey FOREIGN KEY(firm_id, method_id) REFERENCES payment_method (firm_id, id)
);

CREATE INDEX setup_intent_check_idx ON setup_intent (firm_id, next_check_time, id) WHERE next_check_time IS NOT NULL;

CREATE INDEX setup_intent_client_idx ON setup_intent (firm_id, client_id, create_time);

CREATE UNIQUE INDEX setup_intent_provider_key ON setup_intent (firm_id, account_id, provider_reference) WHERE provider_reference IS NOT NULL;

CREATE TABLE provider_breaker (
    firm_id UUID NOT NULL,
    account_id UUID NOT NULL,
    cause TEXT NOT NULL,
    detail JSONB NOT NULL,
    trip_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_breaker_pkey PRIMARY KEY (firm_id, account_id),
    CONSTRAINT provider_breaker_cause_check CHECK (cause IN ('charges_per_hour', 'same_amount', 'decline_ratio'))
);

CREATE TABLE provider_breaker_reset (
    firm_id UUID NOT NULL,
    account_id UUID NOT NULL,
    reset_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT provider_breaker_reset_pkey PRIMARY KEY (firm_id, account_id)
);

CREATE TABLE provider_mirror (
    firm_id UUID NOT NULL,
    account_id UUID NOT NULL,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    client_id UUID,
    state TEXT NOT NULL,
    snapshot JSONB NOT NULL,
    provider_time TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_mirror_pkey PRIMARY KEY (firm_id, account_id, kind, reference),
    CONSTRAINT provider_mirror_kind_check CHECK (kind IN ('SUBSCRIPTION', 'INVOICE')),
    CONSTRAINT provider_mirror_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id)
);

CREATE INDEX provider_mirror_client_idx ON provider_mirror (firm_id, client_id, kind) WHERE client_id IS NOT NULL;

INSERT INTO control.state_edge (machine, source, target)
SELECT machine, source, unnest(string_to_array(targets, ' ')) FROM (VALUES
    ('refund', '', 'AWAITING_APPROVAL PROCESSING PENDING SUCCEEDED FAILED'),
    ('refund', 'AWAITING_APPROVAL', 'PROCESSING PENDING SUCCEEDED REJECTED'),
    ('refund', 'PROCESSING', 'PENDING SUCCEEDED FAILED'),
    ('refund', 'PENDING', 'SUCCEEDED FAILED'),
    ('refund', 'SUCCEEDED', 'FAILED'),
    ('refund', 'FAILED', 'SUCCEEDED'),
    ('checkout_session', '', 'CREATING'),
    ('checkout_session', 'CREATING', 'OPEN COMPLETED EXPIRED FAILED'),
    ('checkout_session', 'OPEN', 'COMPLETED EXPIRED'),
    ('checkout_session', 'EXPIRED', 'COMPLETED'),
    ('checkout_session', 'FAILED', 'COMPLETED'),
    ('setup_intent', '', 'CREATING'),
    ('setup_intent', 'CREATING', 'OPEN SUCCEEDED FAILED CANCELLED'),
    ('setup_intent', 'OPEN', 'SUCCEEDED FAILED CANCELLED'),
    ('setup_intent', 'FAILED', 'OPEN SUCCEEDED CANCELLED'),
    ('setup_intent', 'CANCELLED', 'SUCCEEDED'),
    ('provider_event', '', 'RECEIVED'),
    ('provider_event', 'RECEIVED', 'APPLIED IGNORED QUARANTINED DISCARDED'),
    ('provider_event', 'QUARANTINED', 'RECEIVED DISCARDED'),
    ('provider_event', 'APPLIED', 'RECEIVED'),
    ('provider_event', 'IGNORED', 'RECEIVED'),
    ('provider_event', 'DISCARDED', 'RECEIVED')
) AS edges (machine, source, targets);

DO $$
DECLARE machine text;
BEGIN
    FOREACH machine IN ARRAY ARRAY['refund', 'checkout_session', 'setup_intent', 'provider_event'] LOOP
        EXECUTE format('CREATE TRIGGER state_edge AFTER UPDATE ON %I FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)'
                       ' EXECUTE FUNCTION refuse_state_edge(%L)', machine, machine);
        EXECUTE format('CREATE TRIGGER initial_state AFTER INSERT ON %I REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT'
                       ' EXECUTE FUNCTION refuse_initial_state(%L)', machine, machine);
    END LOOP;
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_note FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON refund_allocation FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON refund FOR EACH ROW
    WHEN ((OLD.payment_id, OLD.client_id, OLD.currency_code, OLD.amount_minor, OLD.destination, OLD.reopen_invoice, OLD.provider, OLD.account_id,
           OLD.idempotency_key, OLD.payment_reference)
          IS DISTINCT FROM (NEW.payment_id, NEW.client_id, NEW.currency_code, NEW.amount_minor, NEW.destination, NEW.reopen_invoice, NEW.provider,
           NEW.account_id, NEW.idempotency_key, NEW.payment_reference)
          OR NEW.fence < OLD.fence OR (OLD.failed_after_success AND NOT NEW.failed_after_success)
          OR (OLD.succeed_time IS NOT NULL AND (OLD.succeed_time, OLD.from_credit_minor, OLD.uncovered_minor)
              IS DISTINCT FROM (NEW.succeed_time, NEW.from_credit_minor, NEW.uncovered_minor))
          OR (OLD.provider_reference IS NOT NULL AND NEW.provider_reference IS DISTINCT FROM OLD.provider_reference))
    EXECUTE FUNCTION refuse_change();

SELECT secure_tenant_table(name) FROM unnest(ARRAY['provider_event', 'provider_mirror', 'credit_note', 'refund', 'refund_allocation', 'checkout_session', 'setup_intent',
    'provider_breaker', 'provider_breaker_reset']::regclass[]) AS name;
GRANT INSERT ON credit_note, refund_allocation TO dunwell_app;
GRANT INSERT, UPDATE ON provider_event, provider_mirror, refund, checkout_session, setup_intent, provider_breaker_reset TO dunwell_app;
GRANT INSERT, DELETE ON provider_breaker TO dunwell_app;
GRANT SELECT ON control.provider_reference, control.recovery, control.inbox_envelope, control.inbox_poll TO dunwell_app, dunwell_auditor;
GRANT INSERT ON control.provider_reference TO dunwell_app;
GRANT INSERT, UPDATE ON control.inbox_envelope, control.inbox_poll TO dunwell_app;
GRANT INSERT, UPDATE, DELETE ON control.recovery TO dunwell_app;
