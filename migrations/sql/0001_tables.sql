-- The tables of the foundation, as they were when it was released. Later changes are migrations of their own.

CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE SCHEMA IF NOT EXISTS control;

CREATE TABLE approval (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    subject_id UUID NOT NULL,
    proposal JSONB NOT NULL,
    actor TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    approve_actor TEXT,
    approve_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT approval_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT approval_kind_check CHECK (kind IN ('RESOLVE_ATTEMPT')),
    CONSTRAINT approval_second_person_check CHECK (approve_actor <> actor)
);

CREATE UNIQUE INDEX approval_pending_key ON approval (firm_id, kind, subject_id) WHERE approve_time IS NULL;

CREATE TABLE audit_event (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    sequence BIGINT GENERATED ALWAYS AS IDENTITY,
    xact xid8 DEFAULT pg_current_xact_id() NOT NULL,
    category TEXT NOT NULL,
    action TEXT NOT NULL,
    severity TEXT NOT NULL,
    object_type TEXT NOT NULL,
    object_id UUID NOT NULL,
    actor TEXT NOT NULL,
    actor_role TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id UUID,
    metadata JSONB NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT audit_event_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT audit_event_category_check CHECK (category IN ('billing', 'payment', 'dispute', 'subscription', 'access', 'admin')),
    CONSTRAINT audit_event_severity_check CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL'))
);

CREATE INDEX audit_event_object_idx ON audit_event (firm_id, object_id, create_time);

CREATE INDEX audit_event_order_idx ON audit_event (firm_id, xact, sequence);

CREATE INDEX audit_event_time_idx ON audit_event (firm_id, create_time, id);

CREATE TABLE audit_seal (
    firm_id UUID NOT NULL,
    seq BIGINT NOT NULL,
    audit_id UUID NOT NULL,
    hash BYTEA NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT audit_seal_pkey PRIMARY KEY (firm_id, seq),
    CONSTRAINT audit_seal_firm_id_audit_id_key UNIQUE (firm_id, audit_id)
);

CREATE TABLE client_balance (
    firm_id UUID NOT NULL,
    client_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT client_balance_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    receivable_minor BIGINT NOT NULL,
    credit_minor BIGINT NOT NULL,
    CONSTRAINT client_balance_pkey PRIMARY KEY (firm_id, client_id, currency_code),
    CONSTRAINT client_balance_receivable_check CHECK (receivable_minor >= 0),
    CONSTRAINT client_balance_credit_check CHECK (credit_minor >= 0)
);

CREATE TABLE control.api_key (
    id UUID NOT NULL,
    firm_id UUID,
    role TEXT NOT NULL,
    display_name TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    may_name_actor BOOLEAN DEFAULT false NOT NULL,
    create_actor TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE,
    revoke_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT api_key_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_role_check CHECK (role IN ('ADMIN', 'FIRM_ADMIN', 'OPERATOR', 'SERVICE', 'READER', 'SIDECAR')),
    CONSTRAINT api_key_binding_check CHECK ((firm_id IS NULL) = (role IN ('ADMIN', 'SIDECAR')))
);

CREATE INDEX api_key_firm_idx ON control.api_key (firm_id, id);

CREATE TABLE control.audit_event (
    id UUID NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    method TEXT NOT NULL,
    metadata JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT audit_event_pkey PRIMARY KEY (id)
);

CREATE TABLE control.due_work (
    firm_id UUID NOT NULL,
    kind TEXT NOT NULL,
    next_due TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT due_work_pkey PRIMARY KEY (firm_id, kind)
);

CREATE INDEX due_work_next_idx ON control.due_work (next_due);

CREATE TABLE control.firm (
    id UUID NOT NULL,
    external_id TEXT,
    display_name TEXT NOT NULL,
    mode TEXT NOT NULL,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    settings JSONB NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT firm_pkey PRIMARY KEY (id),
    CONSTRAINT firm_mode_check CHECK (mode IN ('TEST', 'LIVE')),
    CONSTRAINT firm_state_check CHECK (state IN ('ACTIVE', 'SUSPENDED')),
    CONSTRAINT firm_external_id_key UNIQUE (external_id)
);

CREATE TABLE control.idempotency (
    principal TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id UUID NOT NULL,
    request_hash BYTEA NOT NULL,
    response BYTEA,
    object_id UUID,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (principal, method, request_id)
);

CREATE INDEX idempotency_expire_idx ON control.idempotency (expire_time);

CREATE TABLE control.provider_account (
    id UUID NOT NULL,
    firm_id UUID,
    provider TEXT NOT NULL,
    mode TEXT NOT NULL,
    credentials BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_account_pkey PRIMARY KEY (id),
    CONSTRAINT provider_account_mode_check CHECK (mode IN ('TEST', 'LIVE')),
    CONSTRAINT provider_account_state_check CHECK (state IN ('ACTIVE', 'DISABLED'))
);

CREATE UNIQUE INDEX provider_account_live_key ON control.provider_account (firm_id, provider, mode) NULLS NOT DISTINCT WHERE state = 'ACTIVE';

CREATE TABLE control.rate_bucket (
    key TEXT NOT NULL,
    tokens DOUBLE PRECISION NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT rate_bucket_pkey PRIMARY KEY (key)
);

CREATE TABLE control.run (
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    state TEXT DEFAULT 'RUNNING' NOT NULL,
    dry_run BOOLEAN DEFAULT false NOT NULL,
    params JSONB NOT NULL,
    actor TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT run_pkey PRIMARY KEY (id),
    CONSTRAINT run_state_check CHECK (state IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
);

CREATE TABLE control.run_part (
    run_id UUID NOT NULL,
    firm_id UUID NOT NULL,
    state TEXT DEFAULT 'WAITING' NOT NULL,
    CONSTRAINT run_part_pkey PRIMARY KEY (run_id, firm_id),
    CONSTRAINT run_part_state_check CHECK (state IN ('WAITING', 'STARTED', 'DONE'))
);

CREATE INDEX run_part_open_idx ON control.run_part (firm_id) WHERE state <> 'DONE';

CREATE TABLE control.state_edge (
    machine TEXT NOT NULL,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    CONSTRAINT state_edge_pkey PRIMARY KEY (machine, source, target)
);

CREATE TABLE control.test_clock (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    now_time TIMESTAMP WITH TIME ZONE NOT NULL,
    target_time TIMESTAMP WITH TIME ZONE,
    state TEXT DEFAULT 'READY' NOT NULL,
    run_id UUID,
    owner UUID,
    fence BIGINT DEFAULT 0 NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT test_clock_pkey PRIMARY KEY (firm_id),
    CONSTRAINT test_clock_state_check CHECK (state IN ('READY', 'ADVANCING')),
    CONSTRAINT test_clock_id_key UNIQUE (id)
);

CREATE TABLE control.wake (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    firm_id UUID NOT NULL,
    kind TEXT NOT NULL,
    due TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT wake_pkey PRIMARY KEY (id)
);

CREATE TABLE event (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    xact xid8 DEFAULT pg_current_xact_id() NOT NULL,
    sequence BIGINT GENERATED ALWAYS AS IDENTITY,
    type TEXT NOT NULL,
    object_type TEXT NOT NULL,
    object_id UUID NOT NULL,
    object_seq BIGINT NOT NULL,
    payload JSONB NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT event_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT event_firm_id_object_id_object_seq_key UNIQUE (firm_id, object_id, object_seq)
);

CREATE TABLE idempotency (
    firm_id UUID NOT NULL,
    method TEXT NOT NULL,
    request_id UUID NOT NULL,
    request_hash BYTEA NOT NULL,
    response BYTEA,
    object_id UUID,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (firm_id, method, request_id)
);

CREATE INDEX idempotency_expire_idx ON idempotency (firm_id, expire_time);

CREATE TABLE invoice_series (
    firm_id UUID NOT NULL,
    series TEXT NOT NULL,
    next_no BIGINT NOT NULL,
    CONSTRAINT invoice_series_pkey PRIMARY KEY (firm_id, series),
    CONSTRAINT invoice_series_next_no_check CHECK (next_no >= 1)
);

CREATE TABLE ledger_posting (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    source_type TEXT NOT NULL,
    source_id UUID NOT NULL,
    kind TEXT NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ledger_posting_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT ledger_posting_firm_id_source_id_kind_key UNIQUE (firm_id, source_id, kind)
);

CREATE TABLE run (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    state TEXT DEFAULT 'QUEUED' NOT NULL,
    dry_run BOOLEAN DEFAULT false NOT NULL,
    params JSONB NOT NULL,
    parent_id UUID,
    actor TEXT NOT NULL,
    total BIGINT DEFAULT 0 NOT NULL,
    done BIGINT DEFAULT 0 NOT NULL,
    counts JSONB DEFAULT '{}' NOT NULL,
    amounts JSONB DEFAULT '{}' NOT NULL,
    error TEXT,
    firm_time TIMESTAMP WITH TIME ZONE,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE,
    end_time TIMESTAMP WITH TIME ZONE,
    owner UUID,
    fence BIGINT DEFAULT 0 NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    CONSTRAINT run_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT run_state_check CHECK (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
);

CREATE INDEX run_open_idx ON run (firm_id, create_time) WHERE state IN ('QUEUED', 'RUNNING');

CREATE INDEX run_parent_idx ON run (firm_id, parent_id) WHERE parent_id IS NOT NULL;

CREATE INDEX run_time_idx ON run (firm_id, create_time, id);

CREATE TABLE run_item (
    firm_id UUID NOT NULL,
    run_id UUID NOT NULL,
    subject_id UUID NOT NULL,
    subject_type TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    message TEXT,
    client_id UUID,
    amount_minor BIGINT,
    currency_code TEXT,
    detail JSONB,
    xact xid8 DEFAULT pg_current_xact_id() NOT NULL,
    ordinal BIGINT GENERATED ALWAYS AS IDENTITY,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT run_item_pkey PRIMARY KEY (firm_id, subject_id, run_id)
);

CREATE INDEX run_item_order_idx ON run_item (firm_id, run_id, xact, ordinal);

CREATE TABLE client (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    external_id TEXT,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    name TEXT NOT NULL,
    email TEXT,
    phone TEXT,
    address JSONB,
    tax_id TEXT,
    locale TEXT,
    currency_code TEXT NOT NULL CONSTRAINT client_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    payment_terms_days INTEGER,
    metadata JSONB DEFAULT '{}' NOT NULL,
    autopay_enabled BOOLEAN DEFAULT false NOT NULL,
    autopay_method_id UUID,
    autopay_cadence TEXT DEFAULT 'ON_DUE' NOT NULL,
    autopay_enable_time TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT client_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT client_firm_id_external_id_key UNIQUE (firm_id, external_id),
    CONSTRAINT client_state_check CHECK (state IN ('ACTIVE', 'ARCHIVED')),
    CONSTRAINT client_autopay_cadence_check CHECK (autopay_cadence IN ('ON_DUE', 'MONTHLY', 'QUARTERLY', 'IMMEDIATE')),
    CONSTRAINT client_autopay_check CHECK (NOT autopay_enabled OR autopay_enable_time IS NOT NULL),
    CONSTRAINT client_terms_check CHECK (payment_terms_days BETWEEN 0 AND 365),
    CONSTRAINT client_firm_id_fkey FOREIGN KEY(firm_id) REFERENCES control.firm (id)
);

CREATE INDEX client_email_idx ON client (firm_id, email) WHERE email IS NOT NULL;

CREATE INDEX client_name_idx ON client (firm_id, name, id);

CREATE INDEX client_time_idx ON client (firm_id, create_time, id);

CREATE TABLE ledger_entry (
    firm_id UUID NOT NULL,
    posting_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    account TEXT NOT NULL,
    client_id UUID,
    provider TEXT,
    currency_code TEXT NOT NULL CONSTRAINT ledger_entry_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    CONSTRAINT ledger_entry_pkey PRIMARY KEY (firm_id, posting_id, line_no),
    CONSTRAINT ledger_entry_account_check CHECK (account IN ('receivable', 'revenue', 'deferred_revenue', 'tax_payable', 'cash', 'clearing', 'provider_fees', 'dispute_fees', 'client_credit', 'unapplied_receipts', 'refund_payable', 'disputed_funds', 'promotional_contra_revenue', 'breakage', 'bad_debt', 'recoveries')),
    CONSTRAINT ledger_entry_amount_check CHECK (amount_minor <> 0),
    CONSTRAINT ledger_entry_client_check CHECK ((account IN ('receivable', 'client_credit')) <= (client_id IS NOT NULL)),
    CONSTRAINT ledger_entry_provider_check CHECK ((account IN ('cash', 'clearing')) <= (provider IS NOT NULL)),
    CONSTRAINT ledger_entry_firm_id_posting_id_fkey FOREIGN KEY(firm_id, posting_id) REFERENCES ledger_posting (firm_id, id)
);

CREATE INDEX ledger_entry_account_idx ON ledger_entry (firm_id, account, currency_code);

CREATE TABLE engagement (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    external_id TEXT,
    client_id UUID NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    pricing_mode TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT engagement_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    start_date DATE NOT NULL,
    end_date DATE,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    fee_minor BIGINT NOT NULL,
    billing_interval TEXT NOT NULL,
    anchor TEXT NOT NULL,
    timing TEXT NOT NULL,
    partial_periods TEXT NOT NULL,
    proration JSONB NOT NULL,
    line_description TEXT NOT NULL,
    payment_terms_days INTEGER,
    billed_through_date DATE NOT NULL,
    next_bill_date DATE,
    void_count INTEGER DEFAULT 0 NOT NULL,
    metadata JSONB DEFAULT '{}' NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT engagement_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT engagement_firm_id_external_id_key UNIQUE (firm_id, external_id),
    CONSTRAINT engagement_pricing_mode_check CHECK (pricing_mode IN ('PACKAGE', 'HOURLY', 'MIXED')),
    CONSTRAINT engagement_state_check CHECK (state IN ('ACTIVE', 'ENDED')),
    CONSTRAINT engagement_billing_interval_check CHECK (billing_interval IN ('WEEKLY', 'MONTHLY', 'QUARTERLY', 'HALF_YEARLY', 'YEARLY', 'ONE_TIME')),
    CONSTRAINT engagement_anchor_check CHECK (anchor IN ('START_DATE', 'CALENDAR')),
    CONSTRAINT engagement_timing_check CHECK (timing IN ('IN_ADVANCE', 'IN_ARREARS')),
    CONSTRAINT engagement_partial_periods_check CHECK (partial_periods IN ('PRORATE', 'FULL')),
    CONSTRAINT engagement_dates_check CHECK (end_date > start_date),
    CONSTRAINT engagement_fee_check CHECK (fee_minor >= 0),
    CONSTRAINT engagement_terms_check CHECK (payment_terms_days BETWEEN 0 AND 365),
    CONSTRAINT engagement_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id)
);

CREATE INDEX engagement_client_idx ON engagement (firm_id, client_id, id);

CREATE INDEX engagement_due_idx ON engagement (firm_id, next_bill_date, id) WHERE next_bill_date IS NOT NULL;

CREATE INDEX engagement_time_idx ON engagement (firm_id, create_time, id);

CREATE TABLE payment_method (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    provider TEXT NOT NULL,
    account_id UUID NOT NULL,
    mode TEXT NOT NULL,
    provider_reference TEXT NOT NULL,
    kind TEXT NOT NULL,
    brand TEXT,
    last4 TEXT,
    exp_month SMALLINT,
    exp_year SMALLINT,
    fingerprint TEXT,
    country TEXT,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    block_code TEXT,
    backup_priority INTEGER DEFAULT 0 NOT NULL,
    metadata JSONB DEFAULT '{}' NOT NULL,
    last_success_time TIMESTAMP WITH TIME ZONE,
    last_failure_time TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT payment_method_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT payment_method_mode_check CHECK (mode IN ('TEST', 'LIVE')),
    CONSTRAINT payment_method_kind_check CHECK (kind IN ('CARD', 'UPI', 'BANK', 'OTHER')),
    CONSTRAINT payment_method_state_check CHECK (state IN ('ACTIVE', 'NEEDS_ACTION', 'DEAD', 'DETACHED')),
    CONSTRAINT payment_method_exp_month_check CHECK (exp_month BETWEEN 1 AND 12),
    CONSTRAINT payment_method_last4_check CHECK (last4 ~ '^[0-9]{4}$'),
    CONSTRAINT payment_method_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id)
);

CREATE INDEX payment_method_client_idx ON payment_method (firm_id, client_id, backup_priority, id);

CREATE UNIQUE INDEX payment_method_provider_key ON payment_method (firm_id, account_id, provider_reference) WHERE state <> 'DETACHED';

CREATE TABLE provider_customer (
    firm_id UUID NOT NULL,
    client_id UUID NOT NULL,
    account_id UUID NOT NULL,
    provider TEXT NOT NULL,
    provider_reference TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT provider_customer_pkey PRIMARY KEY (firm_id, client_id, account_id),
    CONSTRAINT provider_customer_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT provider_customer_firm_id_account_id_provider_reference_key UNIQUE (firm_id, account_id, provider_reference)
);

CREATE TABLE invoice (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    external_id TEXT,
    client_id UUID NOT NULL,
    engagement_id UUID,
    run_id UUID,
    origin TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT invoice_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    series TEXT,
    series_no BIGINT,
    number TEXT,
    memo TEXT,
    metadata JSONB DEFAULT '{}' NOT NULL,
    issue_date DATE,
    due_date DATE,
    payment_terms_days INTEGER,
    line_count INTEGER DEFAULT 0 NOT NULL,
    subtotal BIGINT NOT NULL,
    discount_total BIGINT DEFAULT 0 NOT NULL,
    tax_total BIGINT DEFAULT 0 NOT NULL,
    total BIGINT NOT NULL,
    amount_received BIGINT DEFAULT 0 NOT NULL,
    amount_refunded BIGINT DEFAULT 0 NOT NULL,
    amount_charged_back BIGINT DEFAULT 0 NOT NULL,
    amount_credited BIGINT DEFAULT 0 NOT NULL,
    amount_paid BIGINT GENERATED ALWAYS AS (amount_received - amount_refunded - amount_charged_back) STORED NOT NULL,
    amount_due BIGINT GENERATED ALWAYS AS (total - amount_credited - (amount_received - amount_refunded - amount_charged_back)) STORED NOT NULL,
    finalize_time TIMESTAMP WITH TIME ZONE,
    void_time TIMESTAMP WITH TIME ZONE,
    write_off_time TIMESTAMP WITH TIME ZONE,
    overdue_time TIMESTAMP WITH TIME ZONE,
    paid_time TIMESTAMP WITH TIME ZONE,
    open_chargebacks SMALLINT DEFAULT 0 NOT NULL,
    lost_disputes SMALLINT DEFAULT 0 NOT NULL,
    retry_pending BOOLEAN DEFAULT false NOT NULL,
    retries_exhausted BOOLEAN DEFAULT false NOT NULL,
    state TEXT GENERATED ALWAYS AS (CASE
    WHEN finalize_time IS NULL THEN 'DRAFT'
    WHEN void_time IS NOT NULL THEN 'VOID'
    WHEN write_off_time IS NOT NULL AND total - amount_credited - (amount_received - amount_refunded - amount_charged_back) > 0 THEN 'UNCOLLECTIBLE'
    WHEN open_chargebacks > 0 THEN 'DISPUTED'
    WHEN lost_disputes > 0 AND total - amount_credited - (amount_received - amount_refunded - amount_charged_back) > 0 THEN 'CHARGED_BACK'
    WHEN amount_received > 0 AND amount_refunded = amount_received AND total - amount_credited - (amount_received - amount_refunded - amount_charged_back) = 0 THEN 'REFUNDED'
    WHEN total - amount_credited - (amount_received - amount_refunded - amount_charged_back) = 0 THEN 'PAID'
    WHEN overdue_time IS NOT NULL OR retries_exhausted THEN 'OVERDUE'
    WHEN retry_pending THEN 'FAILED'
    ELSE 'SENT' END) STORED NOT NULL,
    autopay_enabled BOOLEAN DEFAULT false NOT NULL,
    autopay_status TEXT,
    autopay_cadence TEXT,
    autopay_method_id UUID,
    autopay_next_charge_time TIMESTAMP WITH TIME ZONE,
    collection_cycle INTEGER DEFAULT 1 NOT NULL,
    failure_count SMALLINT DEFAULT 0 NOT NULL,
    failure_code TEXT,
    failure_provider_code TEXT,
    failure_message TEXT,
    failure_time TIMESTAMP WITH TIME ZONE,
    last_retry_time TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT invoice_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT invoice_firm_id_external_id_key UNIQUE (firm_id, external_id),
    CONSTRAINT invoice_origin_check CHECK (origin IN ('MANUAL', 'RUN')),
    CONSTRAINT invoice_autopay_status_check CHECK (autopay_status IN ('SCHEDULED', 'PROCESSING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    CONSTRAINT invoice_autopay_cadence_check CHECK (autopay_cadence IN ('ON_DUE', 'MONTHLY', 'QUARTERLY', 'IMMEDIATE')),
    CONSTRAINT invoice_failure_code_check CHECK (failure_code IN ('card_declined', 'insufficient_funds', 'expired_card', 'incorrect_cvc', 'processing_error', 'authentication_required', 'network_error', 'missing_payment_method')),
    CONSTRAINT invoice_total_check CHECK (total = subtotal - discount_total + tax_total),
    CONSTRAINT invoice_signs_check CHECK (subtotal >= 0 AND discount_total >= 0 AND tax_total >= 0 AND total >= 0),
    CONSTRAINT invoice_facts_check CHECK (amount_received >= 0 AND amount_refunded >= 0 AND amount_charged_back >= 0 AND amount_credited >= 0),
    CONSTRAINT invoice_returned_check CHECK (amount_refunded + amount_charged_back <= amount_received),
    CONSTRAINT invoice_due_check CHECK (total - amount_credited - (amount_received - amount_refunded - amount_charged_back) >= 0),
    CONSTRAINT invoice_credited_check CHECK (amount_credited <= total),
    CONSTRAINT invoice_void_check CHECK (void_time IS NULL OR amount_received = 0),
    CONSTRAINT invoice_number_check CHECK ((finalize_time IS NULL) = (number IS NULL)),
    CONSTRAINT invoice_series_check CHECK ((number IS NULL) = (series_no IS NULL) AND (series IS NULL) = (series_no IS NULL)),
    CONSTRAINT invoice_dates_check CHECK (finalize_time IS NULL OR (issue_date IS NOT NULL AND due_date IS NOT NULL)),
    CONSTRAINT invoice_draft_check CHECK (finalize_time IS NOT NULL OR (amount_received + amount_credited = 0 AND void_time IS NULL AND write_off_time IS NULL)),
    CONSTRAINT invoice_retries_check CHECK (NOT (retry_pending AND retries_exhausted)),
    CONSTRAINT invoice_failures_check CHECK (failure_count >= 0),
    CONSTRAINT invoice_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT invoice_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id),
    CONSTRAINT invoice_firm_id_series_series_no_key UNIQUE (firm_id, series, series_no),
    CONSTRAINT invoice_firm_id_id_currency_code_key UNIQUE (firm_id, id, currency_code)
);

CREATE INDEX invoice_client_idx ON invoice (firm_id, client_id, create_time, id);

CREATE INDEX invoice_collect_idx ON invoice (firm_id, autopay_next_charge_time, id) WHERE autopay_next_charge_time IS NOT NULL;

CREATE INDEX invoice_open_idx ON invoice (firm_id, client_id, due_date, id) WHERE amount_due > 0 AND finalize_time IS NOT NULL;

CREATE INDEX invoice_overdue_idx ON invoice (firm_id, due_date, id) WHERE state IN ('SENT', 'FAILED') AND NOT autopay_enabled;

CREATE INDEX invoice_time_idx ON invoice (firm_id, create_time, id);

CREATE TABLE coverage (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    engagement_id UUID NOT NULL,
    component TEXT NOT NULL,
    period DATERANGE NOT NULL,
    release_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT coverage_pkey PRIMARY KEY (firm_id, invoice_id, line_no),
    CONSTRAINT coverage_component_check CHECK (component IN ('PACKAGE')),
    CONSTRAINT coverage_period_check CHECK (NOT isempty(period) AND lower_inc(period) AND NOT upper_inc(period) AND lower(period) IS NOT NULL),
    CONSTRAINT coverage_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id),
    CONSTRAINT coverage_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id),
    CONSTRAINT coverage_overlap_excl EXCLUDE USING gist (firm_id WITH =, engagement_id WITH =, component WITH =, period WITH &&) WHERE (release_time IS NULL)
);

CREATE TABLE invoice_line (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    quantity NUMERIC NOT NULL,
    unit_price NUMERIC NOT NULL,
    amount_minor BIGINT NOT NULL,
    period_start DATE,
    period_end DATE,
    engagement_id UUID,
    in_advance BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT invoice_line_pkey PRIMARY KEY (firm_id, invoice_id, line_no),
    CONSTRAINT invoice_line_kind_check CHECK (kind IN ('ITEM', 'PACKAGE')),
    CONSTRAINT invoice_line_signs_check CHECK (amount_minor >= 0 AND quantity >= 0 AND unit_price >= 0),
    CONSTRAINT invoice_line_line_no_check CHECK (line_no > 0),
    CONSTRAINT invoice_line_period_check CHECK (period_end > period_start),
    CONSTRAINT invoice_line_period_whole_check CHECK ((period_start IS NULL) = (period_end IS NULL)),
    CONSTRAINT invoice_line_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id)
);

CREATE TABLE payment (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    invoice_id UUID,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT payment_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    captured_minor BIGINT DEFAULT 0 NOT NULL,
    allocated_minor BIGINT DEFAULT 0 NOT NULL,
    credited_minor BIGINT DEFAULT 0 NOT NULL,
    refunded_minor BIGINT DEFAULT 0 NOT NULL,
    charged_back_minor BIGINT DEFAULT 0 NOT NULL,
    cycle INTEGER,
    slot SMALLINT,
    revision INTEGER,
    provider TEXT NOT NULL,
    account_id UUID,
    mode TEXT,
    method_id UUID,
    failure_code TEXT,
    failure_provider_code TEXT,
    failure_message TEXT,
    action_url TEXT,
    action_expire_time TIMESTAMP WITH TIME ZONE,
    manual_method TEXT,
    manual_reference TEXT,
    received_date DATE,
    late_attempt_id UUID,
    run_id UUID,
    finish_time TIMESTAMP WITH TIME ZONE,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT payment_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT payment_kind_check CHECK (kind IN ('AUTOPAY', 'CHARGE', 'MANUAL', 'LATE_LANDING')),
    CONSTRAINT payment_state_check CHECK (state IN ('PROCESSING', 'REQUIRES_ACTION', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    CONSTRAINT payment_failure_code_check CHECK (failure_code IN ('card_declined', 'insufficient_funds', 'expired_card', 'incorrect_cvc', 'processing_error', 'authentication_required', 'network_error', 'missing_payment_method')),
    CONSTRAINT payment_manual_method_check CHECK (manual_method IN ('CASH', 'BANK_TRANSFER', 'CHEQUE', 'OTHER')),
    CONSTRAINT payment_amount_check CHECK (amount_minor > 0),
    CONSTRAINT payment_captured_check CHECK (captured_minor = 0 OR state = 'SUCCEEDED'),
    CONSTRAINT payment_spread_check CHECK (state <> 'SUCCEEDED' OR (captured_minor > 0 AND captured_minor = allocated_minor + credited_minor)),
    CONSTRAINT payment_signs_check CHECK (allocated_minor >= 0 AND credited_minor >= 0),
    CONSTRAINT payment_returned_check CHECK (refunded_minor >= 0 AND charged_back_minor >= 0 AND refunded_minor + charged_back_minor <= captured_minor),
    CONSTRAINT payment_slot_check CHECK (kind <> 'AUTOPAY' OR (invoice_id IS NOT NULL AND slot IS NOT NULL AND cycle IS NOT NULL AND revision IS NOT NULL)),
    CONSTRAINT payment_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT payment_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code),
    CONSTRAINT payment_firm_id_method_id_fkey FOREIGN KEY(firm_id, method_id) REFERENCES payment_method (firm_id, id),
    CONSTRAINT payment_firm_id_id_currency_code_key UNIQUE (firm_id, id, currency_code)
);

CREATE INDEX payment_client_idx ON payment (firm_id, client_id, create_time, id);

CREATE INDEX payment_invoice_idx ON payment (firm_id, invoice_id, create_time);

CREATE INDEX payment_run_idx ON payment (firm_id, run_id) WHERE run_id IS NOT NULL;

CREATE UNIQUE INDEX payment_slot_key ON payment (firm_id, invoice_id, cycle, slot, revision) WHERE kind = 'AUTOPAY';

CREATE INDEX payment_time_idx ON payment (firm_id, create_time, id);

CREATE TABLE attempt (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    attempt_no SMALLINT NOT NULL,
    idempotency_key TEXT NOT NULL,
    state TEXT DEFAULT 'CREATED' NOT NULL,
    provider TEXT NOT NULL,
    account_id UUID NOT NULL,
    method_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT attempt_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    request_digest BYTEA,
    provider_reference TEXT,
    failure_code TEXT,
    provider_code TEXT,
    network_code TEXT,
    advice_code TEXT,
    decline_class TEXT,
    message TEXT,
    action_url TEXT,
    action_expire_time TIMESTAMP WITH TIME ZONE,
    evidence JSONB,
    send_count INTEGER DEFAULT 0 NOT NULL,
    check_count INTEGER DEFAULT 0 NOT NULL,
    next_check_time TIMESTAMP WITH TIME ZONE,
    needs_person BOOLEAN DEFAULT false NOT NULL,
    first_send_time TIMESTAMP WITH TIME ZONE,
    send_time TIMESTAMP WITH TIME ZONE,
    unknown_time TIMESTAMP WITH TIME ZONE,
    finish_time TIMESTAMP WITH TIME ZONE,
    owner UUID,
    fence BIGINT DEFAULT 0 NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT attempt_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT attempt_state_check CHECK (state IN ('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN', 'SUCCEEDED', 'DECLINED', 'CLOSED')),
    CONSTRAINT attempt_failure_code_check CHECK (failure_code IN ('card_declined', 'insufficient_funds', 'expired_card', 'incorrect_cvc', 'processing_error', 'authentication_required', 'network_error', 'missing_payment_method')),
    CONSTRAINT attempt_decline_class_check CHECK (decline_class IN ('SOFT', 'HARD', 'CUSTOMER', 'TECHNICAL')),
    CONSTRAINT attempt_key_check CHECK (idempotency_key = 'v1:' || payment_id::text || ':' || attempt_no::text),
    CONSTRAINT attempt_amount_check CHECK (amount_minor > 0 AND attempt_no > 0),
    CONSTRAINT attempt_sent_check CHECK (state <> 'SENT' OR lease_until IS NOT NULL),
    CONSTRAINT attempt_firm_id_payment_id_currency_code_fkey FOREIGN KEY(firm_id, payment_id, currency_code) REFERENCES payment (firm_id, id, currency_code),
    CONSTRAINT attempt_firm_id_method_id_fkey FOREIGN KEY(firm_id, method_id) REFERENCES payment_method (firm_id, id),
    CONSTRAINT attempt_firm_id_payment_id_attempt_no_key UNIQUE (firm_id, payment_id, attempt_no),
    CONSTRAINT attempt_firm_id_account_id_idempotency_key_key UNIQUE (firm_id, account_id, idempotency_key)
);

CREATE INDEX attempt_check_idx ON attempt (firm_id, next_check_time, id) WHERE next_check_time IS NOT NULL;

CREATE INDEX attempt_method_idx ON attempt (firm_id, method_id, first_send_time);

CREATE UNIQUE INDEX attempt_open_key ON attempt (firm_id, payment_id) WHERE state IN ('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN');

CREATE UNIQUE INDEX attempt_provider_key ON attempt (firm_id, account_id, provider_reference) WHERE provider_reference IS NOT NULL;

CREATE UNIQUE INDEX attempt_success_key ON attempt (firm_id, payment_id) WHERE state = 'SUCCEEDED';

CREATE INDEX attempt_work_idx ON attempt (firm_id, lease_until) WHERE state IN ('CREATED', 'SENT');

CREATE TABLE collection_hold (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    payment_id UUID NOT NULL,
    channel TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    release_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT collection_hold_pkey PRIMARY KEY (firm_id, payment_id, invoice_id),
    CONSTRAINT collection_hold_channel_check CHECK (channel IN ('AUTOPAY', 'CHARGE', 'LINK', 'QR', 'CHECKOUT')),
    CONSTRAINT collection_hold_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id),
    CONSTRAINT collection_hold_firm_id_payment_id_fkey FOREIGN KEY(firm_id, payment_id) REFERENCES payment (firm_id, id)
);

CREATE UNIQUE INDEX collection_hold_live_key ON collection_hold (firm_id, invoice_id) WHERE release_time IS NULL;

CREATE TABLE payment_allocation (
    firm_id UUID NOT NULL,
    payment_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT payment_allocation_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT payment_allocation_pkey PRIMARY KEY (firm_id, payment_id, invoice_id),
    CONSTRAINT payment_allocation_amount_check CHECK (amount_minor > 0),
    CONSTRAINT payment_allocation_firm_id_payment_id_currency_code_fkey FOREIGN KEY(firm_id, payment_id, currency_code) REFERENCES payment (firm_id, id, currency_code),
    CONSTRAINT payment_allocation_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code)
);

CREATE INDEX payment_allocation_invoice_idx ON payment_allocation (firm_id, invoice_id);
