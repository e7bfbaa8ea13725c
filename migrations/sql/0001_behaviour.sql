-- What the tables do by themselves: state machines, immutability, the balanced ledger, row security, grants.
-- The roles dunwell_app and dunwell_auditor exist already (`dunwell migrate` creates them before it runs this).

-- 1. State machines -------------------------------------------------------------------------------------------------------------------
INSERT INTO control.state_edge (machine, source, target)
SELECT machine, source, unnest(string_to_array(targets, ' ')) FROM (VALUES
    ('client', '', 'ACTIVE'),
    ('client', 'ACTIVE', 'ARCHIVED'),
    ('client', 'ARCHIVED', 'ACTIVE'),
    ('engagement', '', 'ACTIVE ENDED'),
    ('engagement', 'ACTIVE', 'ENDED'),
    ('engagement', 'ENDED', 'ACTIVE'),
    ('invoice', '', 'DRAFT SENT PAID'),
    ('invoice', 'DRAFT', 'SENT PAID'),
    ('invoice', 'SENT', 'PAID FAILED OVERDUE VOID UNCOLLECTIBLE DISPUTED REFUNDED'),
    ('invoice', 'FAILED', 'SENT PAID OVERDUE VOID UNCOLLECTIBLE DISPUTED REFUNDED'),
    ('invoice', 'OVERDUE', 'SENT PAID FAILED VOID UNCOLLECTIBLE DISPUTED REFUNDED'),
    ('invoice', 'PAID', 'SENT FAILED OVERDUE DISPUTED CHARGED_BACK REFUNDED UNCOLLECTIBLE'),
    ('invoice', 'DISPUTED', 'SENT FAILED OVERDUE PAID CHARGED_BACK REFUNDED UNCOLLECTIBLE'),
    ('invoice', 'CHARGED_BACK', 'PAID DISPUTED UNCOLLECTIBLE'),
    ('invoice', 'REFUNDED', 'DISPUTED'),
    ('invoice', 'UNCOLLECTIBLE', 'PAID DISPUTED REFUNDED'),
    ('payment_method', '', 'ACTIVE'),
    ('payment_method', 'ACTIVE', 'NEEDS_ACTION DEAD DETACHED'),
    ('payment_method', 'NEEDS_ACTION', 'ACTIVE DEAD DETACHED'),
    ('payment_method', 'DEAD', 'DETACHED'),
    ('payment', '', 'PROCESSING SUCCEEDED FAILED'),
    ('payment', 'PROCESSING', 'REQUIRES_ACTION SUCCEEDED FAILED CANCELLED'),
    ('payment', 'REQUIRES_ACTION', 'PROCESSING SUCCEEDED FAILED CANCELLED'),
    ('payment', 'FAILED', 'SUCCEEDED'),
    ('payment', 'CANCELLED', 'SUCCEEDED'),
    ('attempt', '', 'CREATED'),
    ('attempt', 'CREATED', 'SENT CLOSED SUCCEEDED'),
    ('attempt', 'SENT', 'SUCCEEDED DECLINED REQUIRES_ACTION PENDING NOT_SENT UNKNOWN CLOSED'),
    ('attempt', 'NOT_SENT', 'SENT CLOSED SUCCEEDED'),
    ('attempt', 'UNKNOWN', 'SUCCEEDED DECLINED REQUIRES_ACTION PENDING NOT_SENT CLOSED'),
    ('attempt', 'PENDING', 'SUCCEEDED DECLINED REQUIRES_ACTION UNKNOWN CLOSED'),
    ('attempt', 'REQUIRES_ACTION', 'SUCCEEDED DECLINED PENDING UNKNOWN CLOSED'),
    ('attempt', 'DECLINED', 'SUCCEEDED'),
    ('attempt', 'CLOSED', 'SUCCEEDED'),
    ('run', '', 'QUEUED'),
    ('run', 'QUEUED', 'RUNNING CANCELLED'),
    ('run', 'RUNNING', 'SUCCEEDED FAILED CANCELLED'),
    ('run', 'FAILED', 'QUEUED')
) AS edges (machine, source, targets);

CREATE FUNCTION refuse_state_edge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM control.state_edge WHERE machine = TG_ARGV[0] AND source = OLD.state AND target = NEW.state) THEN
        RAISE EXCEPTION 'a % cannot go from % to %', TG_ARGV[0], OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0] || '_state_edge';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_initial_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM new_rows n
               WHERE n.state NOT IN (SELECT target FROM control.state_edge WHERE machine = TG_ARGV[0] AND source = '')) THEN
        RAISE EXCEPTION 'a % cannot begin in that state', TG_ARGV[0]
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0] || '_state_edge';
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE machine text;
BEGIN
    FOREACH machine IN ARRAY ARRAY['client', 'engagement', 'invoice', 'payment_method', 'payment', 'attempt', 'run'] LOOP
        EXECUTE format('CREATE TRIGGER state_edge AFTER UPDATE ON %I FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)'
                       ' EXECUTE FUNCTION refuse_state_edge(%L)', machine, machine);
        EXECUTE format('CREATE TRIGGER initial_state AFTER INSERT ON %I REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT'
                       ' EXECUTE FUNCTION refuse_initial_state(%L)', machine, machine);
    END LOOP;
END $$;

-- 2. What never changes ---------------------------------------------------------------------------------------------------------------
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: its rows are append-only or fixed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_fixed';
END $$;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit_event', 'audit_seal', 'event', 'ledger_posting', 'ledger_entry', 'payment_allocation'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END $$;

CREATE TRIGGER fixed_once_sent BEFORE UPDATE ON invoice FOR EACH ROW
    WHEN (OLD.finalize_time IS NOT NULL AND (
        OLD.client_id, OLD.engagement_id, OLD.currency_code, OLD.series, OLD.series_no, OLD.number, OLD.issue_date, OLD.due_date, OLD.line_count,
        OLD.subtotal, OLD.discount_total, OLD.tax_total, OLD.total, OLD.finalize_time, OLD.origin, OLD.run_id)
        IS DISTINCT FROM (
        NEW.client_id, NEW.engagement_id, NEW.currency_code, NEW.series, NEW.series_no, NEW.number, NEW.issue_date, NEW.due_date, NEW.line_count,
        NEW.subtotal, NEW.discount_total, NEW.tax_total, NEW.total, NEW.finalize_time, NEW.origin, NEW.run_id))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed_ends BEFORE UPDATE ON invoice FOR EACH ROW
    WHEN ((OLD.void_time IS NOT NULL AND NEW.void_time IS DISTINCT FROM OLD.void_time)
          OR (OLD.write_off_time IS NOT NULL AND NEW.write_off_time IS DISTINCT FROM OLD.write_off_time)
          OR OLD.client_id <> NEW.client_id)
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER kept_once_sent BEFORE DELETE ON invoice FOR EACH ROW WHEN (OLD.finalize_time IS NOT NULL) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON payment FOR EACH ROW
    WHEN ((OLD.client_id, OLD.invoice_id, OLD.kind, OLD.currency_code, OLD.amount_minor, OLD.cycle, OLD.slot, OLD.revision)
          IS DISTINCT FROM (NEW.client_id, NEW.invoice_id, NEW.kind, NEW.currency_code, NEW.amount_minor, NEW.cycle, NEW.slot, NEW.revision)
          OR (OLD.captured_minor > 0 AND OLD.captured_minor <> NEW.captured_minor))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON attempt FOR EACH ROW
    WHEN ((OLD.payment_id, OLD.attempt_no, OLD.idempotency_key, OLD.provider, OLD.account_id, OLD.method_id, OLD.currency_code, OLD.amount_minor)
          IS DISTINCT FROM (NEW.payment_id, NEW.attempt_no, NEW.idempotency_key, NEW.provider, NEW.account_id, NEW.method_id, NEW.currency_code, NEW.amount_minor)
          OR NEW.fence < OLD.fence OR (OLD.state = 'SUCCEEDED' AND NEW.state <> 'SUCCEEDED')
          OR (OLD.provider_reference IS NOT NULL AND NEW.provider_reference IS DISTINCT FROM OLD.provider_reference))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON payment_method FOR EACH ROW
    WHEN ((OLD.client_id, OLD.provider, OLD.account_id, OLD.mode) IS DISTINCT FROM (NEW.client_id, NEW.provider, NEW.account_id, NEW.mode))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON engagement FOR EACH ROW
    WHEN ((OLD.client_id, OLD.currency_code) IS DISTINCT FROM (NEW.client_id, NEW.currency_code)) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON collection_hold FOR EACH ROW
    WHEN (OLD.release_time IS NOT NULL OR (OLD.invoice_id, OLD.payment_id, OLD.channel) IS DISTINCT FROM (NEW.invoice_id, NEW.payment_id, NEW.channel))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER forward_only BEFORE UPDATE ON invoice_series FOR EACH ROW WHEN (NEW.next_no < OLD.next_no) EXECUTE FUNCTION refuse_change();

-- A clock starts where it is first set; daily ticks before that are not made up for.
CREATE FUNCTION clock_starts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.start_time := NEW.now_time;
    RETURN NEW;
END $$;
CREATE TRIGGER clock_starts BEFORE INSERT ON control.test_clock FOR EACH ROW EXECUTE FUNCTION clock_starts();
CREATE TRIGGER fixed BEFORE UPDATE ON control.test_clock FOR EACH ROW
    WHEN (OLD.start_time <> NEW.start_time OR OLD.now_time > NEW.now_time OR OLD.fence > NEW.fence) EXECUTE FUNCTION refuse_change();

-- 3. Lines of a sent invoice add up and stay ------------------------------------------------------------------------------------------
-- The lines of an invoice that is sent already come in one statement, numbered 1 to n. So what is inserted is all there can be: the primary key
-- refuses a second such set, and no line that was there before need be read.
-- A session keeps the plans of its triggers, so one made while a table was small would read all of it for ever: joins by index, whatever the size.
CREATE FUNCTION check_lines() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, invoice_id, count(*) AS lines, max(line_no) AS last_no, sum(amount_minor) AS amount
                       FROM new_rows GROUP BY firm_id, invoice_id) l
        WHERE (SELECT i.finalize_time IS NOT NULL AND (l.lines <> i.line_count OR l.last_no <> i.line_count OR l.amount <> i.subtotal)
               FROM invoice i WHERE i.firm_id = l.firm_id AND i.id = l.invoice_id)) THEN
        RAISE EXCEPTION 'the lines of a sent invoice must be its own and add up to its subtotal'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_sum';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER lines_add_up AFTER INSERT ON invoice_line REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_lines();

CREATE FUNCTION check_lines_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM invoice i WHERE i.firm_id = OLD.firm_id AND i.id IN (OLD.invoice_id, NEW.invoice_id) AND i.finalize_time IS NOT NULL) THEN
        RAISE EXCEPTION 'the lines of a sent invoice are fixed' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_fixed';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER lines_kept BEFORE UPDATE OR DELETE ON invoice_line FOR EACH ROW EXECUTE FUNCTION check_lines_kept();

CREATE FUNCTION check_finalized_lines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT (count(*), coalesce(sum(amount_minor), 0)) IS DISTINCT FROM (NEW.line_count::bigint, NEW.subtotal::numeric)
        FROM invoice_line l WHERE l.firm_id = NEW.firm_id AND l.invoice_id = NEW.id) THEN
        RAISE EXCEPTION 'a sent invoice''s subtotal is the sum of its lines' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_sum';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER finalized_lines_add_up AFTER UPDATE ON invoice FOR EACH ROW
    WHEN (OLD.finalize_time IS NULL AND NEW.finalize_time IS NOT NULL) EXECUTE FUNCTION check_finalized_lines();

-- 4. The ledger balances, and the two stored balances follow it -----------------------------------------------------------------------
-- SECURITY DEFINER: the application may read balances, only this function writes them.
CREATE FUNCTION apply_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM new_rows GROUP BY firm_id, posting_id, currency_code HAVING sum(amount_minor) <> 0) THEN
        RAISE EXCEPTION 'debits and credits of a posting must be equal in each currency'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entry_balanced';
    END IF;
    -- A posting takes its entries in one statement, numbered 1 to n; later ones would change a closed fact. The primary key refuses a second
    -- such set, and any other numbers are refused here, so that no entry that was there before need be read.
    IF EXISTS (SELECT 1 FROM new_rows GROUP BY firm_id, posting_id HAVING count(*) <> max(line_no) OR min(line_no) < 1) THEN
        RAISE EXCEPTION 'a posting takes all its entries at once, numbered from 1'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_entry_once';
    END IF;
    -- Nobody else makes a client's first balance meanwhile: whoever posts to a client's ledger has locked the client.
    MERGE INTO client_balance b
        USING (SELECT firm_id, client_id, currency_code,
                      coalesce(sum(amount_minor) FILTER (WHERE account = 'receivable'), 0) AS receivable,
                      -coalesce(sum(amount_minor) FILTER (WHERE account = 'client_credit'), 0) AS credit
               FROM new_rows WHERE account IN ('receivable', 'client_credit') GROUP BY firm_id, client_id, currency_code) d
        ON b.firm_id = d.firm_id AND b.client_id = d.client_id AND b.currency_code = d.currency_code
        WHEN MATCHED THEN UPDATE SET receivable_minor = b.receivable_minor + d.receivable, credit_minor = b.credit_minor + d.credit
        WHEN NOT MATCHED THEN INSERT (firm_id, client_id, currency_code, receivable_minor, credit_minor)
            VALUES (d.firm_id, d.client_id, d.currency_code, d.receivable, d.credit);
    RETURN NULL;
END $$;
CREATE TRIGGER balanced AFTER INSERT ON ledger_entry REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION apply_entries();

-- 5. Row security and grants ----------------------------------------------------------------------------------------------------------
CREATE FUNCTION secure_tenant_table(name regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY application ON %s TO dunwell_app USING (firm_id = nullif(current_setting(''app.firm_id'', true), '''')::uuid)'
                   ' WITH CHECK (firm_id = nullif(current_setting(''app.firm_id'', true), '''')::uuid)', name);
    EXECUTE format('CREATE POLICY owner ON %s TO CURRENT_USER USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY auditor ON %s FOR SELECT TO dunwell_auditor USING (true)', name);
    EXECUTE format('GRANT SELECT ON %s TO dunwell_app, dunwell_auditor', name);
END $$;
REVOKE ALL ON FUNCTION secure_tenant_table(regclass) FROM PUBLIC;

SELECT secure_tenant_table(c.oid::regclass) FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version';

GRANT USAGE ON SCHEMA public, control TO dunwell_app, dunwell_auditor;
GRANT SELECT ON alembic_version TO dunwell_app, dunwell_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA control TO dunwell_app, dunwell_auditor;
GRANT INSERT ON audit_event, audit_seal, event, ledger_posting, ledger_entry, payment_allocation TO dunwell_app;
GRANT INSERT, UPDATE ON client, engagement, invoice, coverage, invoice_series, run, run_item, payment_method, provider_customer, payment, attempt,
    collection_hold, approval TO dunwell_app;
GRANT INSERT, UPDATE, DELETE ON invoice_line, idempotency TO dunwell_app;
GRANT DELETE ON invoice TO dunwell_app;
GRANT INSERT, UPDATE ON control.firm, control.test_clock, control.api_key, control.provider_account, control.run, control.run_part TO dunwell_app;
GRANT INSERT, UPDATE, DELETE ON control.idempotency, control.due_work, control.wake, control.rate_bucket TO dunwell_app;
GRANT INSERT ON control.audit_event TO dunwell_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public, control TO dunwell_app;
