-- Documents as they were sent.

CREATE TABLE document (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    invoice_id UUID,
    credit_note_id UUID,
    edition TEXT NOT NULL,
    format TEXT NOT NULL,
    locale TEXT NOT NULL,
    content BYTEA NOT NULL,
    content_hash BYTEA NOT NULL,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT document_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT document_kind_check CHECK (kind IN ('INVOICE', 'CREDIT_NOTE')),
    CONSTRAINT document_edition_check CHECK (edition IN ('ISSUED', 'VOID')),
    CONSTRAINT document_format_check CHECK (format IN ('PDF', 'HTML')),
    CONSTRAINT document_object_check CHECK ((kind = 'INVOICE') = (invoice_id IS NOT NULL) AND (kind = 'CREDIT_NOTE') = (credit_note_id IS NOT NULL)),
    CONSTRAINT document_content_hash_check CHECK (content_hash = sha256(content)),
    CONSTRAINT document_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id),
    CONSTRAINT document_firm_id_credit_note_id_fkey FOREIGN KEY(firm_id, credit_note_id) REFERENCES credit_note (firm_id, id)
);

CREATE UNIQUE INDEX document_invoice_key ON document (firm_id, invoice_id, edition, format, locale) WHERE invoice_id IS NOT NULL;

CREATE UNIQUE INDEX document_credit_note_key ON document (firm_id, credit_note_id, edition, format, locale) WHERE credit_note_id IS NOT NULL;

-- PDF and pictures are compressed already.
ALTER TABLE document ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON document FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A statement reads a client's entries in the order of its postings.
CREATE INDEX ledger_entry_client_idx ON ledger_entry (firm_id, client_id) WHERE client_id IS NOT NULL;

SELECT secure_tenant_table('document');
GRANT INSERT ON document TO dunwell_app;
