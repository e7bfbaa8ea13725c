-- Disputes.

CREATE TABLE dispute (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    payment_id UUID NOT NULL,
    client_id UUID NOT NULL,
    account_id UUID NOT NULL,
    provider TEXT NOT NULL,
    provider_reference TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT dispute_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    fee_minor BIGINT DEFAULT 0 NOT NULL,
    withdrawn BOOLEAN DEFAULT false NOT NULL,
    charged_back_minor BIGINT DEFAULT 0 NOT NULL,
    credit_minor BIGINT DEFAULT 0 NOT NULL,
    loss_minor BIGINT DEFAULT 0 NOT NULL,
    resolution TEXT,
    respond_by_time TIMESTAMP WITH TIME ZONE,
    open_time TIMESTAMP WITH TIME ZONE NOT NULL,
    close_time TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT dispute_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT dispute_kind_check CHECK (kind IN ('INQUIRY', 'CHARGEBACK')),
    CONSTRAINT dispute_state_check CHECK (state IN ('OPENED', 'UNDER_REVIEW', 'WON', 'LOST', 'CLOSED')),
    CONSTRAINT dispute_resolution_check CHECK (resolution IN ('WON', 'LOST')),
    CONSTRAINT dispute_amount_check CHECK (amount_minor > 0 AND fee_minor >= 0),
    CONSTRAINT dispute_inquiry_check CHECK (kind = 'CHARGEBACK' OR (charged_back_minor = 0 AND NOT withdrawn)),
    CONSTRAINT dispute_signs_check CHECK (charged_back_minor >= 0 AND credit_minor >= 0 AND loss_minor >= 0),
    CONSTRAINT dispute_firm_id_payment_id_currency_code_fkey FOREIGN KEY(firm_id, payment_id, currency_code) REFERENCES payment (firm_id, id, currency_code),
    CONSTRAINT dispute_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT dispute_firm_id_account_id_provider_reference_key UNIQUE (firm_id, account_id, provider_reference),
    CONSTRAINT dispute_firm_id_id_currency_code_key UNIQUE (firm_id, id, currency_code)
);

CREATE INDEX dispute_payment_idx ON dispute (firm_id, payment_id);

CREATE INDEX dispute_time_idx ON dispute (firm_id, create_time, id);

CREATE TABLE dispute_allocation (
    firm_id UUID NOT NULL,
    dispute_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT dispute_allocation_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT dispute_allocation_pkey PRIMARY KEY (firm_id, dispute_id, invoice_id),
    CONSTRAINT dispute_allocation_amount_check CHECK (amount_minor >= 0),
    CONSTRAINT dispute_allocation_firm_id_dispute_id_currency_code_fkey FOREIGN KEY(firm_id, dispute_id, currency_code) REFERENCES dispute (firm_id, id, currency_code),
    CONSTRAINT dispute_allocation_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code)
);

CREATE INDEX dispute_allocation_invoice_idx ON dispute_allocation (firm_id, invoice_id);

INSERT INTO control.state_edge (machine, source, target)
SELECT machine, source, unnest(string_to_array(targets, ' ')) FROM (VALUES
    ('dispute', '', 'OPENED UNDER_REVIEW CLOSED'),
    ('dispute', 'OPENED', 'UNDER_REVIEW WON LOST CLOSED'),
    ('dispute', 'UNDER_REVIEW', 'OPENED WON LOST CLOSED'),
    ('dispute', 'WON', 'CLOSED'),
    ('dispute', 'LOST', 'UNDER_REVIEW CLOSED'),
    ('dispute', 'CLOSED', 'OPENED')
) AS edges (machine, source, targets);
CREATE TRIGGER state_edge AFTER UPDATE ON dispute FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION refuse_state_edge('dispute');
CREATE TRIGGER initial_state AFTER INSERT ON dispute REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_initial_state('dispute');
-- Back to OPENED only as an inquiry that becomes a chargeback; a chargeback never becomes an inquiry again.
CREATE TRIGGER fixed BEFORE UPDATE ON dispute FOR EACH ROW
    WHEN ((OLD.payment_id, OLD.client_id, OLD.account_id, OLD.provider_reference, OLD.currency_code)
          IS DISTINCT FROM (NEW.payment_id, NEW.client_id, NEW.account_id, NEW.provider_reference, NEW.currency_code)
          OR (OLD.kind = 'CHARGEBACK' AND (NEW.kind <> 'CHARGEBACK' OR (OLD.state <> 'OPENED' AND NEW.state = 'OPENED')))
          OR (OLD.withdrawn AND NOT NEW.withdrawn))
    EXECUTE FUNCTION refuse_change();

SELECT secure_tenant_table('dispute');
SELECT secure_tenant_table('dispute_allocation');
GRANT INSERT, UPDATE ON dispute, dispute_allocation TO dunwell_app;
