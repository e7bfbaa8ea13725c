-- Hourly and mixed work: time entries, rates, included hours, caps.

ALTER TABLE invoice_line DROP CONSTRAINT invoice_line_kind_check;
ALTER TABLE invoice_line ADD CONSTRAINT invoice_line_kind_check CHECK (kind IN ('ITEM', 'PACKAGE', 'TIME', 'OVERAGE'));

ALTER TABLE engagement
    ADD COLUMN default_rate NUMERIC,
    ADD COLUMN billing_increment_minutes SMALLINT,
    ADD COLUMN time_rounding TEXT,
    ADD COLUMN time_grouping TEXT,
    ADD COLUMN included_minutes INTEGER,
    ADD COLUMN rollover_periods SMALLINT,
    ADD COLUMN period_cap_minor BIGINT,
    ADD COLUMN total_cap_minor BIGINT,
    ADD CONSTRAINT engagement_hourly_check CHECK (num_nonnulls(default_rate, billing_increment_minutes, time_rounding, time_grouping,
        included_minutes, rollover_periods) = CASE pricing_mode WHEN 'PACKAGE' THEN 0 ELSE 6 END
        AND (pricing_mode <> 'PACKAGE' OR num_nonnulls(period_cap_minor, total_cap_minor) = 0)),
    ADD CONSTRAINT engagement_hourly_terms_check CHECK (default_rate >= 0 AND billing_increment_minutes BETWEEN 1 AND 1440
        AND included_minutes >= 0 AND rollover_periods BETWEEN 0 AND 120 AND (pricing_mode = 'MIXED' OR included_minutes = 0)),
    ADD CONSTRAINT engagement_caps_check CHECK (period_cap_minor >= 0 AND total_cap_minor >= 0),
    ADD CONSTRAINT engagement_time_rounding_check CHECK (time_rounding IN ('UP', 'NEAREST', 'DOWN')),
    ADD CONSTRAINT engagement_time_grouping_check CHECK (time_grouping IN ('ROLE', 'PERSON', 'ENTRY')),
    ADD CONSTRAINT engagement_firm_id_id_client_id_key UNIQUE (firm_id, id, client_id);

CREATE TABLE engagement_rate (
    firm_id UUID NOT NULL,
    engagement_id UUID NOT NULL,
    rate_no SMALLINT NOT NULL,
    role TEXT NOT NULL,
    rate NUMERIC NOT NULL,
    period DATERANGE NOT NULL,
    CONSTRAINT engagement_rate_pkey PRIMARY KEY (firm_id, engagement_id, rate_no),
    CONSTRAINT engagement_rate_rate_check CHECK (rate >= 0),
    CONSTRAINT engagement_rate_role_check CHECK (role <> ''),
    CONSTRAINT engagement_rate_period_check CHECK (NOT isempty(period)),
    CONSTRAINT engagement_rate_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id),
    CONSTRAINT engagement_rate_overlap_excl EXCLUDE USING gist (firm_id WITH =, engagement_id WITH =, role WITH =, period WITH &&)
);

CREATE TABLE time_entry (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    external_id TEXT,
    client_id UUID NOT NULL,
    engagement_id UUID NOT NULL,
    person TEXT NOT NULL,
    role TEXT,
    work_date DATE NOT NULL,
    minutes INTEGER NOT NULL,
    description TEXT,
    rate NUMERIC,
    state TEXT DEFAULT 'DRAFT' NOT NULL,
    written_down_minutes INTEGER DEFAULT 0 NOT NULL,
    write_down_reason TEXT,
    submit_actor TEXT,
    submit_time TIMESTAMP WITH TIME ZONE,
    approve_actor TEXT,
    approve_time TIMESTAMP WITH TIME ZONE,
    reject_actor TEXT,
    reject_time TIMESTAMP WITH TIME ZONE,
    reject_reason TEXT,
    invoice_id UUID,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT time_entry_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT time_entry_firm_id_external_id_key UNIQUE (firm_id, external_id),
    CONSTRAINT time_entry_state_check CHECK (state IN ('DRAFT', 'SUBMITTED', 'APPROVED', 'INVOICED', 'REJECTED')),
    CONSTRAINT time_entry_minutes_check CHECK (minutes BETWEEN 1 AND 100000 AND written_down_minutes BETWEEN 0 AND minutes),
    CONSTRAINT time_entry_write_down_check CHECK ((written_down_minutes = 0) = (write_down_reason IS NULL)),
    CONSTRAINT time_entry_rate_check CHECK (rate >= 0),
    CONSTRAINT time_entry_submitted_check CHECK (num_nonnulls(submit_actor, submit_time) = 2 OR (state = 'DRAFT' AND num_nonnulls(submit_actor, submit_time) = 0)),
    CONSTRAINT time_entry_approved_check CHECK (num_nonnulls(approve_actor, approve_time) = CASE WHEN state IN ('APPROVED', 'INVOICED') THEN 2 ELSE 0 END),
    CONSTRAINT time_entry_rejected_check CHECK (num_nonnulls(reject_actor, reject_time, reject_reason) IN (0, 3)
        AND (state <> 'REJECTED' OR reject_time IS NOT NULL)),
    CONSTRAINT time_entry_invoiced_check CHECK ((state = 'INVOICED') = (invoice_id IS NOT NULL)),
    CONSTRAINT time_entry_firm_id_engagement_id_client_id_fkey FOREIGN KEY(firm_id, engagement_id, client_id) REFERENCES engagement (firm_id, id, client_id)
);

CREATE INDEX time_entry_engagement_idx ON time_entry (firm_id, engagement_id, create_time, id);

CREATE INDEX time_entry_open_idx ON time_entry (firm_id, engagement_id, work_date, id) WHERE state <> 'INVOICED';

CREATE INDEX time_entry_time_idx ON time_entry (firm_id, create_time, id);

CREATE TABLE invoice_time (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    time_entry_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    minutes INTEGER NOT NULL,
    included_minutes INTEGER DEFAULT 0 NOT NULL,
    release_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT invoice_time_pkey PRIMARY KEY (firm_id, invoice_id, time_entry_id),
    CONSTRAINT invoice_time_minutes_check CHECK (minutes >= 0 AND included_minutes BETWEEN 0 AND minutes),
    CONSTRAINT invoice_time_line_no_check CHECK (line_no > 0)
);

-- An entry is on at most one live invoice.
CREATE UNIQUE INDEX invoice_time_live_key ON invoice_time (firm_id, time_entry_id) WHERE release_time IS NULL;

CREATE TABLE invoice_time_period (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    engagement_id UUID NOT NULL,
    period_start DATE NOT NULL,
    period_end DATE NOT NULL,
    minutes BIGINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    capped_minor BIGINT NOT NULL,
    release_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT invoice_time_period_pkey PRIMARY KEY (firm_id, invoice_id, engagement_id, period_start),
    CONSTRAINT invoice_time_period_period_check CHECK (period_end > period_start),
    CONSTRAINT invoice_time_period_amount_check CHECK (minutes >= 0 AND amount_minor >= 0 AND capped_minor BETWEEN 0 AND amount_minor),
    CONSTRAINT invoice_time_period_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id),
    CONSTRAINT invoice_time_period_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id) DEFERRABLE INITIALLY DEFERRED
);

CREATE INDEX invoice_time_period_live_idx ON invoice_time_period (firm_id, engagement_id, period_start) WHERE release_time IS NULL;

CREATE TABLE allowance_use (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    engagement_id UUID NOT NULL,
    period_start DATE NOT NULL,
    grant_start DATE NOT NULL,
    minutes INTEGER NOT NULL,
    granted_minutes INTEGER NOT NULL,
    release_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT allowance_use_pkey PRIMARY KEY (firm_id, invoice_id, engagement_id, period_start, grant_start),
    CONSTRAINT allowance_use_minutes_check CHECK (minutes > 0 AND minutes <= granted_minutes),
    CONSTRAINT allowance_use_period_check CHECK (grant_start <= period_start),
    CONSTRAINT allowance_use_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id),
    CONSTRAINT allowance_use_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id) DEFERRABLE INITIALLY DEFERRED
);

CREATE INDEX allowance_use_live_idx ON allowance_use (firm_id, engagement_id, grant_start) WHERE release_time IS NULL;

CREATE TABLE cap_alert (
    firm_id UUID NOT NULL,
    engagement_id UUID NOT NULL,
    scope TEXT NOT NULL,
    period_start DATE NOT NULL,
    percent SMALLINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    cap_minor BIGINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT cap_alert_pkey PRIMARY KEY (firm_id, engagement_id, scope, period_start, percent),
    CONSTRAINT cap_alert_scope_check CHECK (scope IN ('PERIOD', 'TOTAL')),
    CONSTRAINT cap_alert_percent_check CHECK (percent IN (80, 100)),
    CONSTRAINT cap_alert_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id)
);

INSERT INTO control.state_edge (machine, source, target)
SELECT machine, source, unnest(string_to_array(targets, ' ')) FROM (VALUES
    ('time_entry', '', 'DRAFT'),
    ('time_entry', 'DRAFT', 'SUBMITTED'),
    ('time_entry', 'SUBMITTED', 'APPROVED REJECTED'),
    ('time_entry', 'REJECTED', 'DRAFT'),
    ('time_entry', 'APPROVED', 'INVOICED SUBMITTED'),
    ('time_entry', 'INVOICED', 'APPROVED')
) AS edges (machine, source, targets);

-- As refuse_state_edge, for a table whose rows change by tens of thousands at once. A session keeps the plan of its first call: no nested loop.
CREATE FUNCTION refuse_state_edges() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
DECLARE bad record;
BEGIN
    SELECT o.state AS source, n.state AS target INTO bad
    FROM (SELECT DISTINCT o.state, n.state AS target FROM old_rows o JOIN new_rows n ON n.firm_id = o.firm_id AND n.id = o.id WHERE n.state <> o.state) AS o
    CROSS JOIN LATERAL (SELECT o.target AS state) AS n
    WHERE NOT EXISTS (SELECT 1 FROM control.state_edge e WHERE e.machine = TG_ARGV[0] AND e.source = o.state AND e.target = o.target)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'a % cannot go from % to %', TG_ARGV[0], bad.source, bad.target
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_ARGV[0] || '_state_edge';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER state_edge AFTER UPDATE ON time_entry REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_state_edges('time_entry');
CREATE TRIGGER initial_state AFTER INSERT ON time_entry REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_initial_state('time_entry');

-- What was worked is fixed once it is submitted; what is billed of it once it is invoiced.
CREATE TRIGGER fixed BEFORE UPDATE ON time_entry FOR EACH ROW
    WHEN ((OLD.client_id, OLD.engagement_id) IS DISTINCT FROM (NEW.client_id, NEW.engagement_id)
          OR (OLD.state NOT IN ('DRAFT', 'REJECTED') AND (OLD.person, OLD.role, OLD.work_date, OLD.minutes, OLD.description, OLD.rate)
              IS DISTINCT FROM (NEW.person, NEW.role, NEW.work_date, NEW.minutes, NEW.description, NEW.rate))
          OR (OLD.state = 'APPROVED' AND NEW.state <> 'SUBMITTED' AND (OLD.submit_actor, OLD.submit_time, OLD.approve_actor, OLD.approve_time)
              IS DISTINCT FROM (NEW.submit_actor, NEW.submit_time, NEW.approve_actor, NEW.approve_time))
          OR ('INVOICED' IN (OLD.state, NEW.state) AND (OLD.written_down_minutes, OLD.write_down_reason, OLD.submit_actor, OLD.submit_time, OLD.approve_actor, OLD.approve_time)
              IS DISTINCT FROM (NEW.written_down_minutes, NEW.write_down_reason, NEW.submit_actor, NEW.submit_time, NEW.approve_actor, NEW.approve_time))
          OR (OLD.state = 'INVOICED' AND NEW.state = 'INVOICED' AND OLD.invoice_id <> NEW.invoice_id))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER kept_once_approved BEFORE DELETE ON time_entry FOR EACH ROW WHEN (OLD.state IN ('APPROVED', 'INVOICED')) EXECUTE FUNCTION refuse_change();

-- What an invoice holds changes only by being released, once.
CREATE TRIGGER fixed BEFORE UPDATE ON invoice_time FOR EACH ROW
    WHEN (OLD.release_time IS NOT NULL OR NEW.release_time IS NULL
          OR (OLD.invoice_id, OLD.time_entry_id, OLD.line_no, OLD.minutes, OLD.included_minutes)
             IS DISTINCT FROM (NEW.invoice_id, NEW.time_entry_id, NEW.line_no, NEW.minutes, NEW.included_minutes))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON invoice_time_period FOR EACH ROW
    WHEN (OLD.release_time IS NOT NULL OR NEW.release_time IS NULL
          OR (OLD.invoice_id, OLD.engagement_id, OLD.period_start, OLD.period_end, OLD.minutes, OLD.amount_minor, OLD.capped_minor)
             IS DISTINCT FROM (NEW.invoice_id, NEW.engagement_id, NEW.period_start, NEW.period_end, NEW.minutes, NEW.amount_minor, NEW.capped_minor))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER fixed BEFORE UPDATE ON allowance_use FOR EACH ROW
    WHEN (OLD.release_time IS NOT NULL OR NEW.release_time IS NULL
          OR (OLD.invoice_id, OLD.engagement_id, OLD.period_start, OLD.grant_start, OLD.minutes, OLD.granted_minutes)
             IS DISTINCT FROM (NEW.invoice_id, NEW.engagement_id, NEW.period_start, NEW.grant_start, NEW.minutes, NEW.granted_minutes))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cap_alert FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Time leaves a draft without a trace; a sent invoice keeps it, released or not.
CREATE FUNCTION check_time_kept() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT DISTINCT firm_id, invoice_id FROM old_rows) o JOIN invoice i ON i.firm_id = o.firm_id AND i.id = o.invoice_id
               WHERE i.finalize_time IS NOT NULL) THEN
        RAISE EXCEPTION 'the time of a sent invoice is fixed' USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_fixed';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER kept_once_sent AFTER DELETE ON invoice_time REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_kept();
CREATE TRIGGER kept_once_sent AFTER DELETE ON invoice_time_period REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_kept();
CREATE TRIGGER kept_once_sent AFTER DELETE ON allowance_use REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_kept();

-- An entry says which invoice it is on, and that invoice holds it: the two always agree. Looked at for whole sets, not by foreign keys row by row,
-- which would take longer than all the rest when an invoice bills tens of thousands of entries. As subqueries, which are index look-ups whatever the
-- statistics say; a join would be planned while the tables are empty, and that plan kept.
CREATE FUNCTION check_time_held() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM new_rows n WHERE n.state = 'INVOICED' AND (
                   SELECT i.release_time IS NULL FROM invoice_time i
                   WHERE i.firm_id = n.firm_id AND i.invoice_id = n.invoice_id AND i.time_entry_id = n.id) IS NOT TRUE) THEN
        RAISE EXCEPTION 'an entry that is invoiced is held by its invoice' USING ERRCODE = 'check_violation', CONSTRAINT = 'time_entry_held';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER held AFTER UPDATE ON time_entry REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_held();
CREATE FUNCTION check_time_holds() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM new_rows n WHERE (n.release_time IS NULL) <> coalesce((
                   SELECT t.invoice_id = n.invoice_id FROM time_entry t WHERE t.firm_id = n.firm_id AND t.id = n.time_entry_id), false)) THEN
        RAISE EXCEPTION 'an invoice holds the entries that say so' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_time_holds';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER holds_on_insert AFTER INSERT ON invoice_time REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_holds();
CREATE TRIGGER holds_on_update AFTER UPDATE ON invoice_time REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_holds();
CREATE FUNCTION check_time_let_go() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM old_rows o WHERE (
                   SELECT t.invoice_id = o.invoice_id FROM time_entry t WHERE t.firm_id = o.firm_id AND t.id = o.time_entry_id)) THEN
        RAISE EXCEPTION 'an entry that is invoiced is held by its invoice' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_time_holds';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER holds_on_delete AFTER DELETE ON invoice_time REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION check_time_let_go();

-- No more of a period's included minutes is used than it has; the engagement's row is locked by whoever bills its time.
CREATE FUNCTION check_allowance() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM (SELECT firm_id, engagement_id, grant_start, max(granted_minutes) AS granted FROM new_rows GROUP BY 1, 2, 3) n
               WHERE n.granted < (SELECT sum(u.minutes) FROM allowance_use u WHERE u.firm_id = n.firm_id AND u.engagement_id = n.engagement_id
                                  AND u.grant_start = n.grant_start AND u.release_time IS NULL)) THEN
        RAISE EXCEPTION 'more minutes would be used than are included' USING ERRCODE = 'check_violation', CONSTRAINT = 'allowance_use_granted';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER within_grant AFTER INSERT ON allowance_use REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_allowance();

-- What is billed of a period, and in all, stays within the caps as they are when it is billed.
CREATE FUNCTION check_caps() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM new_rows n JOIN engagement e ON e.firm_id = n.firm_id AND e.id = n.engagement_id
               WHERE n.amount_minor > n.capped_minor
                 AND (e.period_cap_minor < (SELECT sum(p.amount_minor - p.capped_minor) FROM invoice_time_period p WHERE p.firm_id = n.firm_id
                          AND p.engagement_id = n.engagement_id AND p.period_start = n.period_start AND p.release_time IS NULL)
                      OR e.total_cap_minor < (SELECT sum(p.amount_minor - p.capped_minor) FROM invoice_time_period p WHERE p.firm_id = n.firm_id
                          AND p.engagement_id = n.engagement_id AND p.release_time IS NULL))) THEN
        RAISE EXCEPTION 'more would be billed than the cap allows' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_time_period_cap';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER within_caps AFTER INSERT ON invoice_time_period REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION check_caps();

SELECT secure_tenant_table(name) FROM unnest(ARRAY['engagement_rate', 'time_entry', 'invoice_time', 'invoice_time_period', 'allowance_use', 'cap_alert']::regclass[]) AS name;
GRANT INSERT, UPDATE ON time_entry TO dunwell_app;
GRANT INSERT, UPDATE, DELETE ON invoice_time, invoice_time_period, allowance_use TO dunwell_app;
GRANT INSERT, DELETE ON engagement_rate TO dunwell_app;
GRANT INSERT ON cap_alert TO dunwell_app;
