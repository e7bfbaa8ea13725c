-- Credit that clients hold, and credit notes by line.

-- 1. Columns --------------------------------------------------------------------------------------------------------------------------
ALTER TABLE client ADD COLUMN auto_apply_credit BOOLEAN DEFAULT true NOT NULL;

ALTER TABLE refund
    ADD COLUMN from_payable_minor BIGINT DEFAULT 0 NOT NULL,
    DROP CONSTRAINT refund_amount_check,
    ADD CONSTRAINT refund_amount_check CHECK (amount_minor > 0 AND from_credit_minor >= 0 AND from_payable_minor >= 0 AND uncovered_minor >= 0
        AND from_credit_minor + from_payable_minor + uncovered_minor <= amount_minor);

-- What a note of a refund takes back is paid out by that refund: none of the four says anything about it.
ALTER TABLE credit_note
    ADD COLUMN applied_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN credited_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN released_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN payable_minor BIGINT DEFAULT 0 NOT NULL,
    ADD CONSTRAINT credit_note_parts_check CHECK (applied_minor >= 0 AND credited_minor >= 0 AND released_minor >= 0 AND payable_minor >= 0
        AND applied_minor + credited_minor + released_minor + payable_minor = CASE WHEN refund_id IS NULL THEN amount_minor ELSE 0 END);
CREATE INDEX credit_note_client_idx ON credit_note (firm_id, client_id, create_time, id);
CREATE INDEX credit_note_time_idx ON credit_note (firm_id, create_time, id);

-- 2. Credit ---------------------------------------------------------------------------------------------------------------------------
CREATE TABLE credit_entry (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    client_id UUID NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT credit_entry_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    kind TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    remaining_minor BIGINT NOT NULL,
    priority SMALLINT DEFAULT 50 NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE,
    source_type TEXT NOT NULL,
    source_id UUID,
    reason TEXT,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT credit_entry_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT credit_entry_kind_check CHECK (kind IN ('GOODWILL', 'PREPAYMENT', 'OVERPAYMENT', 'PROMOTION', 'REFUND_TO_CREDIT', 'DISPUTE_ADJUSTMENT')),
    CONSTRAINT credit_entry_source_type_check CHECK (source_type IN ('grant', 'payment', 'refund', 'dispute', 'credit_note', 'credit_entry', 'opening')),
    CONSTRAINT credit_entry_source_check CHECK ((source_type IN ('grant', 'opening')) = (source_id IS NULL)),
    CONSTRAINT credit_entry_amount_check CHECK (amount_minor > 0),
    CONSTRAINT credit_entry_remaining_check CHECK (remaining_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT credit_entry_priority_check CHECK (priority BETWEEN 0 AND 100),
    CONSTRAINT credit_entry_expiry_check CHECK (expire_time > firm_time),
    CONSTRAINT credit_entry_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT credit_entry_firm_id_id_currency_code_key UNIQUE (firm_id, id, currency_code)
);

-- One fact leaves its credit once; a dispute may give back again and again.
CREATE UNIQUE INDEX credit_entry_source_key ON credit_entry (firm_id, source_id) WHERE source_type IN ('payment', 'refund', 'credit_note');

CREATE INDEX credit_entry_open_idx ON credit_entry (firm_id, client_id, currency_code) WHERE remaining_minor > 0;

CREATE INDEX credit_entry_expiry_idx ON credit_entry (firm_id, expire_time, id) WHERE remaining_minor > 0 AND expire_time IS NOT NULL;

CREATE INDEX credit_entry_client_idx ON credit_entry (firm_id, client_id, create_time, id);

-- Uses are written before a new invoice's row, which takes its number last: the invoice is looked for at the end of the transaction.
CREATE TABLE credit_use (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    entry_id UUID NOT NULL,
    kind TEXT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT credit_use_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor BIGINT NOT NULL,
    invoice_id UUID,
    source_type TEXT,
    source_id UUID,
    reason TEXT,
    firm_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT credit_use_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT credit_use_kind_check CHECK (kind IN ('APPLIED', 'RELEASED', 'EXPIRED', 'REVERSED', 'REFUNDED', 'CHARGED_BACK', 'MOVED')),
    CONSTRAINT credit_use_source_type_check CHECK (source_type IN ('refund', 'dispute', 'credit_note', 'credit_entry')),
    CONSTRAINT credit_use_source_check CHECK ((source_type IS NULL) = (source_id IS NULL)),
    CONSTRAINT credit_use_amount_check CHECK (amount_minor > 0),
    CONSTRAINT credit_use_invoice_check CHECK ((kind IN ('APPLIED', 'RELEASED')) = (invoice_id IS NOT NULL)),
    CONSTRAINT credit_use_firm_id_entry_id_currency_code_fkey FOREIGN KEY(firm_id, entry_id, currency_code)
        REFERENCES credit_entry (firm_id, id, currency_code),
    CONSTRAINT credit_use_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code)
        REFERENCES invoice (firm_id, id, currency_code) DEFERRABLE INITIALLY DEFERRED
);

CREATE INDEX credit_use_entry_idx ON credit_use (firm_id, entry_id, create_time, id);

CREATE INDEX credit_use_invoice_idx ON credit_use (firm_id, invoice_id) WHERE invoice_id IS NOT NULL;

-- What is left of an entry begins as all of it, whatever is said, and follows from its uses.
CREATE FUNCTION begin_credit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.remaining_minor := NEW.amount_minor;
    RETURN NEW;
END $$;
CREATE TRIGGER begins BEFORE INSERT ON credit_entry FOR EACH ROW EXECUTE FUNCTION begin_credit_entry();
CREATE TRIGGER fixed BEFORE UPDATE ON credit_entry FOR EACH ROW
    WHEN ((OLD.firm_id, OLD.id, OLD.client_id, OLD.currency_code, OLD.kind, OLD.amount_minor, OLD.priority, OLD.expire_time, OLD.source_type, OLD.source_id,
           OLD.reason, OLD.firm_time, OLD.create_time)
          IS DISTINCT FROM (NEW.firm_id, NEW.id, NEW.client_id, NEW.currency_code, NEW.kind, NEW.amount_minor, NEW.priority, NEW.expire_time,
           NEW.source_type, NEW.source_id, NEW.reason, NEW.firm_time, NEW.create_time))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON credit_entry FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- SECURITY DEFINER: the application may read what is left of an entry, only this function writes it.
CREATE FUNCTION apply_credit_uses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE credit_entry e SET remaining_minor = e.remaining_minor + d.amount
    FROM (SELECT firm_id, entry_id, sum(CASE kind WHEN 'RELEASED' THEN amount_minor ELSE -amount_minor END) AS amount
          FROM new_rows GROUP BY firm_id, entry_id ORDER BY firm_id, entry_id) d
    WHERE e.firm_id = d.firm_id AND e.id = d.entry_id;
    -- An invoice gives an entry back no more than the entry paid of it.
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT firm_id, entry_id, invoice_id FROM new_rows WHERE kind = 'RELEASED') n
        WHERE (SELECT sum(CASE u.kind WHEN 'APPLIED' THEN u.amount_minor ELSE -u.amount_minor END) FROM credit_use u
               WHERE u.firm_id = n.firm_id AND u.entry_id = n.entry_id AND u.invoice_id = n.invoice_id) < 0) THEN
        RAISE EXCEPTION 'no more credit is released than was applied' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_use_released';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER used AFTER INSERT ON credit_use REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION apply_credit_uses();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON credit_use FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- 3. Credit notes by line -------------------------------------------------------------------------------------------------------------
CREATE TABLE credit_note_line (
    firm_id UUID NOT NULL,
    credit_note_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    invoice_id UUID NOT NULL,
    quantity NUMERIC,
    amount_minor BIGINT NOT NULL,
    discount_minor BIGINT DEFAULT 0 NOT NULL,
    tax_minor BIGINT DEFAULT 0 NOT NULL,
    tax_included_minor BIGINT DEFAULT 0 NOT NULL,
    deferred_minor BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT credit_note_line_pkey PRIMARY KEY (firm_id, credit_note_id, line_no),
    CONSTRAINT credit_note_line_quantity_check CHECK (quantity >= 0),
    CONSTRAINT credit_note_line_signs_check CHECK (amount_minor >= 0 AND discount_minor >= 0 AND tax_included_minor BETWEEN 0 AND tax_minor
        AND deferred_minor BETWEEN 0 AND amount_minor - discount_minor - tax_included_minor),
    CONSTRAINT credit_note_line_firm_id_credit_note_id_fkey FOREIGN KEY(firm_id, credit_note_id) REFERENCES credit_note (firm_id, id),
    CONSTRAINT credit_note_line_line_fkey FOREIGN KEY(firm_id, invoice_id, line_no) REFERENCES invoice_line (firm_id, invoice_id, line_no)
);

CREATE INDEX credit_note_line_invoice_idx ON credit_note_line (firm_id, invoice_id, line_no);

CREATE TABLE credit_note_line_tax (
    firm_id UUID NOT NULL,
    credit_note_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    tax_no SMALLINT NOT NULL,
    invoice_id UUID NOT NULL,
    tax_minor BIGINT NOT NULL,
    CONSTRAINT credit_note_line_tax_pkey PRIMARY KEY (firm_id, credit_note_id, line_no, tax_no),
    CONSTRAINT credit_note_line_tax_tax_check CHECK (tax_minor > 0),
    CONSTRAINT credit_note_line_tax_line_fkey FOREIGN KEY(firm_id, credit_note_id, line_no)
        REFERENCES credit_note_line (firm_id, credit_note_id, line_no),
    CONSTRAINT credit_note_line_tax_rate_fkey FOREIGN KEY(firm_id, invoice_id, line_no, tax_no)
        REFERENCES invoice_line_tax (firm_id, invoice_id, line_no, tax_no)
);

CREATE INDEX credit_note_line_tax_invoice_idx ON credit_note_line_tax (firm_id, invoice_id, line_no, tax_no);

CREATE TABLE credit_note_payout (
    firm_id UUID NOT NULL,
    credit_note_id UUID NOT NULL,
    refund_id UUID NOT NULL,
    amount_minor BIGINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT credit_note_payout_pkey PRIMARY KEY (firm_id, credit_note_id, refund_id),
    CONSTRAINT credit_note_payout_amount_check CHECK (amount_minor > 0),
    CONSTRAINT credit_note_payout_firm_id_credit_note_id_fkey FOREIGN KEY(firm_id, credit_note_id) REFERENCES credit_note (firm_id, id),
    CONSTRAINT credit_note_payout_firm_id_refund_id_fkey FOREIGN KEY(firm_id, refund_id) REFERENCES refund (firm_id, id)
);

CREATE INDEX credit_note_payout_refund_idx ON credit_note_payout (firm_id, refund_id);

-- Notes written before this release: their lines are filled in the lines' order. What was deferred is taken of lines billed in advance, the rest of
-- all, each no further than it was billed; there were neither discounts nor taxes.
CREATE FUNCTION pg_temp.note_lines() RETURNS void LANGUAGE plpgsql AS $$
DECLARE note record; line record; deferred bigint; earned bigint; free bigint; part bigint; other bigint;
BEGIN
    FOR note IN SELECT * FROM credit_note ORDER BY firm_id, invoice_id, create_time, id LOOP
        deferred := note.deferred_minor;
        earned := note.amount_minor - note.tax_minor - note.deferred_minor;
        FOR line IN SELECT l.line_no, l.amount_minor, l.in_advance FROM invoice_line l
                    WHERE l.firm_id = note.firm_id AND l.invoice_id = note.invoice_id ORDER BY l.in_advance, l.line_no LOOP
            free := line.amount_minor - (SELECT coalesce(sum(c.amount_minor), 0) FROM credit_note_line c
                WHERE c.firm_id = note.firm_id AND c.invoice_id = note.invoice_id AND c.line_no = line.line_no);
            part := CASE WHEN line.in_advance THEN least(free, deferred) ELSE 0 END;
            other := CASE WHEN line.in_advance THEN 0 ELSE least(free, earned) END;
            IF part + other > 0 THEN
                INSERT INTO credit_note_line (firm_id, credit_note_id, line_no, invoice_id, amount_minor, deferred_minor)
                VALUES (note.firm_id, note.id, line.line_no, note.invoice_id, part + other, part);
            END IF;
            deferred := deferred - part;
            earned := earned - other;
        END LOOP;
    END LOOP;
END $$;
SELECT pg_temp.note_lines();
DROP FUNCTION pg_temp.note_lines();

-- The lines of a note come in one statement, add up to it, and take back no more of a line than was billed. So do its taxes.
CREATE FUNCTION check_credit_note_lines() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, credit_note_id, invoice_id, sum(amount_minor - discount_minor + tax_minor - tax_included_minor) AS total,
                              sum(tax_minor) AS tax, sum(deferred_minor) AS deferred
                       FROM new_rows GROUP BY firm_id, credit_note_id, invoice_id) l
        WHERE (SELECT (n.invoice_id, n.amount_minor::numeric, n.tax_minor::numeric, n.deferred_minor::numeric)
                      IS DISTINCT FROM (l.invoice_id, l.total, l.tax, l.deferred)
               FROM credit_note n WHERE n.firm_id = l.firm_id AND n.id = l.credit_note_id)) THEN
        RAISE EXCEPTION 'the lines of a credit note add up to it' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_note_line_sum';
    END IF;
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT firm_id, invoice_id, line_no FROM new_rows) d
        CROSS JOIN LATERAL (SELECT sum(c.amount_minor) AS amount, sum(c.discount_minor) AS discount, sum(c.tax_minor) AS tax,
                                   sum(c.tax_included_minor) AS included, sum(c.quantity) AS quantity
                            FROM credit_note_line c WHERE c.firm_id = d.firm_id AND c.invoice_id = d.invoice_id AND c.line_no = d.line_no) c
        JOIN invoice_line l ON l.firm_id = d.firm_id AND l.invoice_id = d.invoice_id AND l.line_no = d.line_no
        WHERE c.amount > l.amount_minor OR c.discount > l.discount_minor OR c.tax > l.tax_minor OR c.included > l.tax_included_minor
           OR c.quantity > l.quantity
           OR c.amount - c.discount - c.included > l.amount_minor - l.discount_minor - l.tax_included_minor) THEN
        RAISE EXCEPTION 'no more of a line is credited than was billed' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_note_line_left';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER lines_add_up AFTER INSERT ON credit_note_line REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_credit_note_lines();

CREATE FUNCTION check_credit_note_taxes() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, credit_note_id, line_no, sum(tax_minor) AS tax FROM new_rows GROUP BY firm_id, credit_note_id, line_no) t
        WHERE (SELECT c.tax_minor <> t.tax FROM credit_note_line c
               WHERE c.firm_id = t.firm_id AND c.credit_note_id = t.credit_note_id AND c.line_no = t.line_no)) THEN
        RAISE EXCEPTION 'the taxes of a credited line add up to its tax' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_note_line_tax_sum';
    END IF;
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT firm_id, invoice_id, line_no, tax_no FROM new_rows) d
        JOIN invoice_line_tax t ON t.firm_id = d.firm_id AND t.invoice_id = d.invoice_id AND t.line_no = d.line_no AND t.tax_no = d.tax_no
        WHERE t.tax_minor < (SELECT sum(c.tax_minor) FROM credit_note_line_tax c
                             WHERE c.firm_id = d.firm_id AND c.invoice_id = d.invoice_id AND c.line_no = d.line_no AND c.tax_no = d.tax_no)) THEN
        RAISE EXCEPTION 'no more tax is credited than was billed' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_note_line_tax_left';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER taxes_add_up AFTER INSERT ON credit_note_line_tax REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION check_credit_note_taxes();

CREATE FUNCTION check_credit_note_payouts() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT firm_id, credit_note_id FROM new_rows) d
        JOIN credit_note n ON n.firm_id = d.firm_id AND n.id = d.credit_note_id
        WHERE n.payable_minor < (SELECT sum(p.amount_minor) FROM credit_note_payout p WHERE p.firm_id = d.firm_id AND p.credit_note_id = d.credit_note_id)) THEN
        RAISE EXCEPTION 'no more is paid out than a credit note promised' USING ERRCODE = 'check_violation', CONSTRAINT = 'credit_note_payout_left';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER within_note AFTER INSERT ON credit_note_payout REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION check_credit_note_payouts();

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['credit_note_line', 'credit_note_line_tax', 'credit_note_payout'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END $$;

-- 4. Credit that clients had before this release --------------------------------------------------------------------------------------
-- What payments and refunds left, what refunds took of their payment's, and what lost disputes took of the rest, the oldest first. Anything that
-- this does not explain opens an entry of its own.
INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, source_id, firm_time)
SELECT firm_id, gen_random_uuid(), client_id, currency_code, 'OVERPAYMENT', credited_minor, 0, 'payment', id, coalesce(finish_time, create_time)
FROM payment WHERE state = 'SUCCEEDED' AND credited_minor > 0
UNION ALL
SELECT firm_id, gen_random_uuid(), client_id, currency_code, 'REFUND_TO_CREDIT', amount_minor, 0, 'refund', id, succeed_time
FROM refund WHERE succeed_time IS NOT NULL AND (destination = 'CREDIT' OR failed_after_success);
INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, source_type, source_id, firm_time)
SELECT r.firm_id, gen_random_uuid(), e.id, 'REFUNDED', r.currency_code, r.from_credit_minor, 'refund', r.id, coalesce(r.succeed_time, r.create_time)
FROM refund r JOIN credit_entry e ON e.firm_id = r.firm_id AND e.source_type = 'payment' AND e.source_id = r.payment_id
WHERE r.from_credit_minor > 0;
INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, source_type, source_id, firm_time)
SELECT d.firm_id, gen_random_uuid(), e.id, 'CHARGED_BACK', d.currency_code, least(d.upto, e.upto) - greatest(d.since, e.since), 'dispute', d.id, d.update_time
FROM (SELECT *, (sum(credit_minor) OVER taken)::bigint AS upto, (sum(credit_minor) OVER taken - credit_minor)::bigint AS since
      FROM dispute WHERE credit_minor > 0
      WINDOW taken AS (PARTITION BY firm_id, client_id, currency_code ORDER BY update_time, id)) d
JOIN (SELECT *, (sum(remaining_minor) OVER held)::bigint AS upto, (sum(remaining_minor) OVER held - remaining_minor)::bigint AS since
      FROM credit_entry WHERE remaining_minor > 0
      WINDOW held AS (PARTITION BY firm_id, client_id, currency_code ORDER BY firm_time, id)) e
    ON e.firm_id = d.firm_id AND e.client_id = d.client_id AND e.currency_code = d.currency_code AND e.since < d.upto AND d.since < e.upto;
INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, firm_time)
SELECT b.firm_id, gen_random_uuid(), b.client_id, b.currency_code, 'PREPAYMENT', b.credit_minor - coalesce(e.remaining, 0), 0, 'opening', clock_timestamp()
FROM client_balance b LEFT JOIN (SELECT firm_id, client_id, currency_code, sum(remaining_minor)::bigint AS remaining FROM credit_entry
                                 GROUP BY firm_id, client_id, currency_code) e USING (firm_id, client_id, currency_code)
WHERE b.credit_minor > coalesce(e.remaining, 0);

SELECT secure_tenant_table(name) FROM unnest(ARRAY['credit_entry', 'credit_use', 'credit_note_line', 'credit_note_line_tax', 'credit_note_payout']::regclass[]) AS t (name);
GRANT INSERT ON credit_entry, credit_use, credit_note_line, credit_note_line_tax, credit_note_payout TO dunwell_app;
