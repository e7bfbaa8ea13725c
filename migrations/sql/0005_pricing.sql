-- Discounts, coupons and taxes: what changes the prices of an invoice's lines.

-- 1. Columns --------------------------------------------------------------------------------------------------------------------------
ALTER TABLE client
    ADD COLUMN tax_status TEXT DEFAULT 'TAXABLE' NOT NULL,
    ADD CONSTRAINT client_tax_status_check CHECK (tax_status IN ('TAXABLE', 'EXEMPT', 'REVERSE_CHARGE')),
    ADD CONSTRAINT client_tax_id_check CHECK (tax_status <> 'REVERSE_CHARGE' OR tax_id IS NOT NULL);

ALTER TABLE invoice
    ADD COLUMN tax_included_total BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN discount_count SMALLINT DEFAULT 0 NOT NULL,
    DROP CONSTRAINT invoice_total_check,
    ADD CONSTRAINT invoice_total_check CHECK (total = subtotal - discount_total + tax_total - tax_included_total),
    ADD CONSTRAINT invoice_tax_included_check
        CHECK (discount_total <= subtotal AND tax_included_total BETWEEN 0 AND least(tax_total, subtotal - discount_total)),
    ADD CONSTRAINT invoice_discounts_check CHECK (discount_count >= 0 AND (discount_total = 0 OR discount_count > 0));

ALTER TABLE invoice_line
    ADD COLUMN unit TEXT DEFAULT '' NOT NULL,
    ADD COLUMN tax_category TEXT DEFAULT 'standard' NOT NULL,
    ADD COLUMN discount_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN tax_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN tax_included_minor BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN tax_count SMALLINT DEFAULT 0 NOT NULL,
    ADD CONSTRAINT invoice_line_within_check CHECK (discount_minor BETWEEN 0 AND amount_minor),
    ADD CONSTRAINT invoice_line_tax_check CHECK (tax_included_minor BETWEEN 0 AND least(tax_minor, amount_minor - discount_minor)),
    ADD CONSTRAINT invoice_line_tax_count_check CHECK (tax_count >= 0 AND (tax_minor = 0 OR tax_count > 0));

-- 2. Tax rates ------------------------------------------------------------------------------------------------------------------------
CREATE TABLE tax_rate (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    name TEXT NOT NULL,
    percentage NUMERIC NOT NULL,
    country_code TEXT NOT NULL,
    region TEXT DEFAULT '' NOT NULL,
    excluded_regions TEXT[] DEFAULT '{}' NOT NULL,
    tax_category TEXT DEFAULT 'standard' NOT NULL,
    behavior TEXT,
    valid_from_date DATE,
    valid_until_date DATE,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT tax_rate_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT tax_rate_behavior_check CHECK (behavior IN ('INCLUSIVE', 'EXCLUSIVE')),
    CONSTRAINT tax_rate_state_check CHECK (state IN ('ACTIVE', 'ARCHIVED')),
    CONSTRAINT tax_rate_percentage_check CHECK (percentage BETWEEN 0 AND 100),
    CONSTRAINT tax_rate_country_code_check CHECK (country_code ~ '^[A-Z]{2}$'),
    CONSTRAINT tax_rate_validity_check CHECK (valid_until_date > valid_from_date),
    CONSTRAINT tax_rate_regions_check CHECK (region = '' OR excluded_regions = '{}'),
    -- The same tax twice on one line is never meant: a change of percentage ends the old rate and begins a new one.
    CONSTRAINT tax_rate_overlap_excl EXCLUDE USING gist (firm_id WITH =, country_code WITH =, region WITH =, tax_category WITH =, name WITH =,
        daterange(valid_from_date, valid_until_date) WITH &&) WHERE (state = 'ACTIVE')
);

CREATE INDEX tax_rate_time_idx ON tax_rate (firm_id, create_time, id);

CREATE TRIGGER fixed BEFORE UPDATE ON tax_rate FOR EACH ROW
    WHEN ((OLD.percentage, OLD.country_code, OLD.region, OLD.excluded_regions, OLD.tax_category, OLD.behavior, OLD.valid_from_date)
          IS DISTINCT FROM (NEW.percentage, NEW.country_code, NEW.region, NEW.excluded_regions, NEW.tax_category, NEW.behavior, NEW.valid_from_date))
    EXECUTE FUNCTION refuse_change();

CREATE TABLE invoice_line_tax (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    tax_no SMALLINT NOT NULL,
    tax_rate_id UUID,
    name TEXT NOT NULL,
    percentage NUMERIC NOT NULL,
    inclusive BOOLEAN DEFAULT false NOT NULL,
    reverse_charge BOOLEAN DEFAULT false NOT NULL,
    taxable_minor BIGINT NOT NULL,
    tax_minor BIGINT NOT NULL,
    CONSTRAINT invoice_line_tax_pkey PRIMARY KEY (firm_id, invoice_id, line_no, tax_no),
    CONSTRAINT invoice_line_tax_tax_no_check CHECK (tax_no > 0),
    CONSTRAINT invoice_line_tax_signs_check CHECK (percentage >= 0 AND taxable_minor >= 0 AND tax_minor >= 0),
    CONSTRAINT invoice_line_tax_reverse_charge_check CHECK (NOT reverse_charge OR (tax_minor = 0 AND NOT inclusive)),
    CONSTRAINT invoice_line_tax_line_fkey FOREIGN KEY(firm_id, invoice_id, line_no) REFERENCES invoice_line (firm_id, invoice_id, line_no),
    CONSTRAINT invoice_line_tax_firm_id_tax_rate_id_fkey FOREIGN KEY(firm_id, tax_rate_id) REFERENCES tax_rate (firm_id, id)
);

-- 3. Coupons and discounts ------------------------------------------------------------------------------------------------------------
CREATE TABLE coupon (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    percent NUMERIC,
    amount_minor BIGINT,
    currency_code TEXT,
    duration TEXT NOT NULL,
    duration_periods INTEGER,
    max_redemptions INTEGER,
    max_redemptions_per_client INTEGER DEFAULT 1 NOT NULL,
    valid_from_date DATE,
    valid_until_date DATE,
    state TEXT DEFAULT 'ACTIVE' NOT NULL,
    redemption_count INTEGER DEFAULT 0 NOT NULL,
    version BIGINT DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT coupon_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT coupon_firm_id_code_key UNIQUE (firm_id, code),
    CONSTRAINT coupon_kind_check CHECK (kind IN ('PERCENT', 'FIXED')),
    CONSTRAINT coupon_duration_check CHECK (duration IN ('ONCE', 'REPEATING', 'FOREVER')),
    CONSTRAINT coupon_state_check CHECK (state IN ('ACTIVE', 'ARCHIVED')),
    CONSTRAINT coupon_value_check CHECK (CASE kind WHEN 'PERCENT' THEN percent IS NOT NULL AND amount_minor IS NULL AND currency_code IS NULL
        ELSE percent IS NULL AND amount_minor IS NOT NULL AND currency_code IS NOT NULL END),
    CONSTRAINT coupon_percent_check CHECK (percent > 0 AND percent <= 100),
    CONSTRAINT coupon_amount_check CHECK (amount_minor > 0),
    CONSTRAINT coupon_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT coupon_duration_periods_check CHECK ((duration = 'REPEATING') = (duration_periods IS NOT NULL) AND duration_periods >= 1),
    CONSTRAINT coupon_max_redemptions_check CHECK (max_redemptions >= 1),
    CONSTRAINT coupon_max_redemptions_per_client_check CHECK (max_redemptions_per_client >= 1),
    CONSTRAINT coupon_redemption_count_check CHECK (redemption_count >= 0 AND redemption_count <= max_redemptions),
    CONSTRAINT coupon_validity_check CHECK (valid_until_date > valid_from_date)
);

CREATE INDEX coupon_time_idx ON coupon (firm_id, create_time, id);

CREATE TRIGGER fixed BEFORE UPDATE ON coupon FOR EACH ROW
    WHEN ((OLD.code, OLD.kind, OLD.percent, OLD.amount_minor, OLD.currency_code, OLD.duration, OLD.duration_periods)
          IS DISTINCT FROM (NEW.code, NEW.kind, NEW.percent, NEW.amount_minor, NEW.currency_code, NEW.duration, NEW.duration_periods)
          OR NEW.redemption_count < OLD.redemption_count)
    EXECUTE FUNCTION refuse_change();

CREATE TABLE coupon_redemption (
    firm_id UUID NOT NULL,
    id UUID NOT NULL,
    coupon_id UUID NOT NULL,
    client_id UUID NOT NULL,
    engagement_id UUID,
    periods_used INTEGER DEFAULT 0 NOT NULL,
    periods_allowed INTEGER,
    redeem_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT coupon_redemption_pkey PRIMARY KEY (firm_id, id),
    CONSTRAINT coupon_redemption_periods_used_check CHECK (periods_used >= 0 AND periods_used <= periods_allowed),
    CONSTRAINT coupon_redemption_periods_allowed_check CHECK (periods_allowed >= 1),
    CONSTRAINT coupon_redemption_firm_id_coupon_id_fkey FOREIGN KEY(firm_id, coupon_id) REFERENCES coupon (firm_id, id),
    CONSTRAINT coupon_redemption_firm_id_client_id_fkey FOREIGN KEY(firm_id, client_id) REFERENCES client (firm_id, id),
    CONSTRAINT coupon_redemption_firm_id_engagement_id_fkey FOREIGN KEY(firm_id, engagement_id) REFERENCES engagement (firm_id, id)
);

CREATE INDEX coupon_redemption_client_idx ON coupon_redemption (firm_id, client_id, redeem_time, id);

CREATE INDEX coupon_redemption_coupon_idx ON coupon_redemption (firm_id, coupon_id, client_id);

CREATE TRIGGER fixed BEFORE UPDATE ON coupon_redemption FOR EACH ROW
    WHEN ((OLD.coupon_id, OLD.client_id, OLD.engagement_id, OLD.periods_allowed, OLD.redeem_time)
          IS DISTINCT FROM (NEW.coupon_id, NEW.client_id, NEW.engagement_id, NEW.periods_allowed, NEW.redeem_time))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER kept BEFORE DELETE ON coupon_redemption FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- A redemption counts on its coupon, whose row is locked by that: whoever redeems meanwhile waits, and then counts this one.
CREATE FUNCTION count_redemption() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE per_client integer; periods integer;
BEGIN
    UPDATE coupon c SET redemption_count = c.redemption_count + 1, version = c.version + 1, update_time = NEW.redeem_time
    WHERE c.firm_id = NEW.firm_id AND c.id = NEW.coupon_id
    RETURNING c.max_redemptions_per_client, CASE c.duration WHEN 'ONCE' THEN 1 ELSE c.duration_periods END INTO per_client, periods;
    IF NEW.periods_used <> 0 OR NEW.periods_allowed IS DISTINCT FROM periods THEN
        RAISE EXCEPTION 'a redemption begins unused, for as long as its coupon says'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'coupon_redemption_duration';
    END IF;
    IF (SELECT count(*) FROM coupon_redemption r WHERE r.firm_id = NEW.firm_id AND r.coupon_id = NEW.coupon_id AND r.client_id = NEW.client_id)
       >= per_client THEN
        RAISE EXCEPTION 'the client has redeemed the coupon as often as it may'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'coupon_redemption_per_client';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER counted BEFORE INSERT ON coupon_redemption FOR EACH ROW EXECUTE FUNCTION count_redemption();

CREATE TABLE invoice_discount (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    discount_no SMALLINT NOT NULL,
    line_no SMALLINT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    percent NUMERIC,
    fixed_minor BIGINT,
    amount_minor BIGINT NOT NULL,
    redemption_id UUID,
    CONSTRAINT invoice_discount_pkey PRIMARY KEY (firm_id, invoice_id, discount_no),
    CONSTRAINT invoice_discount_kind_check CHECK (kind IN ('PERCENT', 'FIXED')),
    CONSTRAINT invoice_discount_discount_no_check CHECK (discount_no > 0),
    CONSTRAINT invoice_discount_value_check CHECK ((kind = 'PERCENT') = (percent IS NOT NULL) AND (kind = 'FIXED') = (fixed_minor IS NOT NULL)),
    CONSTRAINT invoice_discount_percent_check CHECK (percent > 0 AND percent <= 100),
    CONSTRAINT invoice_discount_amount_check CHECK (amount_minor >= 0 AND fixed_minor > 0),
    CONSTRAINT invoice_discount_within_check CHECK (amount_minor <= fixed_minor),
    CONSTRAINT invoice_discount_firm_id_invoice_id_fkey FOREIGN KEY(firm_id, invoice_id) REFERENCES invoice (firm_id, id),
    CONSTRAINT invoice_discount_firm_id_redemption_id_fkey FOREIGN KEY(firm_id, redemption_id) REFERENCES coupon_redemption (firm_id, id)
);

CREATE INDEX invoice_discount_redemption_idx ON invoice_discount (firm_id, redemption_id) WHERE redemption_id IS NOT NULL;

-- 4. Lines, taxes and discounts of a sent invoice add up and stay ---------------------------------------------------------------------
DROP TRIGGER fixed_once_sent ON invoice;
CREATE TRIGGER fixed_once_sent BEFORE UPDATE ON invoice FOR EACH ROW
    WHEN (OLD.finalize_time IS NOT NULL AND (
        OLD.client_id, OLD.engagement_id, OLD.currency_code, OLD.series, OLD.series_no, OLD.number, OLD.issue_date, OLD.due_date, OLD.line_count,
        OLD.subtotal, OLD.discount_total, OLD.tax_total, OLD.tax_included_total, OLD.discount_count, OLD.total, OLD.finalize_time, OLD.origin, OLD.run_id)
        IS DISTINCT FROM (
        NEW.client_id, NEW.engagement_id, NEW.currency_code, NEW.series, NEW.series_no, NEW.number, NEW.issue_date, NEW.due_date, NEW.line_count,
        NEW.subtotal, NEW.discount_total, NEW.tax_total, NEW.tax_included_total, NEW.discount_count, NEW.total, NEW.finalize_time, NEW.origin, NEW.run_id))
    EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE FUNCTION check_lines() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, invoice_id, count(*) AS lines, max(line_no) AS last_no, sum(amount_minor) AS amount,
                              sum(discount_minor) AS discount, sum(tax_minor) AS tax, sum(tax_included_minor) AS included
                       FROM new_rows GROUP BY firm_id, invoice_id) l
        WHERE (SELECT i.finalize_time IS NOT NULL AND (l.lines <> i.line_count OR l.last_no <> i.line_count OR l.amount <> i.subtotal
                      OR l.discount <> i.discount_total OR l.tax <> i.tax_total OR l.included <> i.tax_included_total)
               FROM invoice i WHERE i.firm_id = l.firm_id AND i.id = l.invoice_id)) THEN
        RAISE EXCEPTION 'the lines of a sent invoice must be its own and add up to its subtotal, discounts and tax'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_sum';
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION check_finalized_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE taxes bigint;
BEGIN
    IF (SELECT (count(*), coalesce(sum(amount_minor), 0), coalesce(sum(discount_minor), 0), coalesce(sum(tax_minor), 0),
                coalesce(sum(tax_included_minor), 0))
               IS DISTINCT FROM (NEW.line_count::bigint, NEW.subtotal::numeric, NEW.discount_total::numeric, NEW.tax_total::numeric,
                                 NEW.tax_included_total::numeric)
        FROM invoice_line l WHERE l.firm_id = NEW.firm_id AND l.invoice_id = NEW.id) THEN
        RAISE EXCEPTION 'a sent invoice''s subtotal, discounts and tax are the sums of its lines'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_sum';
    END IF;
    SELECT coalesce(sum(tax_count), 0) INTO taxes FROM invoice_line l WHERE l.firm_id = NEW.firm_id AND l.invoice_id = NEW.id;
    IF taxes > 0 AND EXISTS (
        SELECT 1 FROM invoice_line l
        LEFT JOIN LATERAL (SELECT count(*) AS taxes, coalesce(sum(t.tax_minor), 0) AS tax,
                                  coalesce(sum(t.tax_minor) FILTER (WHERE t.inclusive), 0) AS included
                           FROM invoice_line_tax t WHERE t.firm_id = l.firm_id AND t.invoice_id = l.invoice_id AND t.line_no = l.line_no) t ON true
        WHERE l.firm_id = NEW.firm_id AND l.invoice_id = NEW.id
          AND (t.taxes <> l.tax_count OR t.tax <> l.tax_minor OR t.included <> l.tax_included_minor)) THEN
        RAISE EXCEPTION 'the taxes of a line add up to its tax' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_tax_sum';
    END IF;
    IF NEW.discount_count > 0 AND (
        SELECT (count(*), coalesce(sum(amount_minor), 0)) IS DISTINCT FROM (NEW.discount_count::bigint, NEW.discount_total::numeric)
        FROM invoice_discount d WHERE d.firm_id = NEW.firm_id AND d.invoice_id = NEW.id) THEN
        RAISE EXCEPTION 'a sent invoice''s discounts add up' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_discount_sum';
    END IF;
    RETURN NULL;
END $$;

-- As with lines: what comes to a sent invoice comes in one statement, numbered from 1, and the primary key refuses a second such set.
CREATE FUNCTION check_line_taxes() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, invoice_id, line_no, count(*) AS taxes, max(tax_no) AS last_no, sum(tax_minor) AS tax,
                              coalesce(sum(tax_minor) FILTER (WHERE inclusive), 0) AS included
                       FROM new_rows GROUP BY firm_id, invoice_id, line_no) t
        WHERE (SELECT t.taxes <> l.tax_count OR t.last_no <> l.tax_count OR t.tax <> l.tax_minor OR t.included <> l.tax_included_minor
               FROM invoice_line l WHERE l.firm_id = t.firm_id AND l.invoice_id = t.invoice_id AND l.line_no = t.line_no)) THEN
        RAISE EXCEPTION 'the taxes of a line must be its own and add up to its tax'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_tax_sum';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER taxes_add_up AFTER INSERT ON invoice_line_tax REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION check_line_taxes();
CREATE TRIGGER taxes_kept BEFORE UPDATE OR DELETE ON invoice_line_tax FOR EACH ROW EXECUTE FUNCTION check_lines_kept();

CREATE FUNCTION check_discounts() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (SELECT firm_id, invoice_id, count(*) AS discounts, max(discount_no) AS last_no, sum(amount_minor) AS amount
                       FROM new_rows GROUP BY firm_id, invoice_id) d
        WHERE (SELECT i.finalize_time IS NOT NULL
                      AND (d.discounts <> i.discount_count OR d.last_no <> i.discount_count OR d.amount <> i.discount_total)
               FROM invoice i WHERE i.firm_id = d.firm_id AND i.id = d.invoice_id)) THEN
        RAISE EXCEPTION 'the discounts of a sent invoice must be its own and add up'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_discount_sum';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER discounts_add_up AFTER INSERT ON invoice_discount REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION check_discounts();
CREATE TRIGGER discounts_kept BEFORE UPDATE OR DELETE ON invoice_discount FOR EACH ROW EXECUTE FUNCTION check_lines_kept();

-- A line that says it has taxes gets them in the same transaction, and so do discounts. Nothing is checked where there are none.
CREATE FUNCTION require_line_taxes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM invoice_line l WHERE l.firm_id = NEW.firm_id AND l.invoice_id = NEW.invoice_id AND l.line_no = NEW.line_no
               AND l.tax_count <> (SELECT count(*) FROM invoice_line_tax t
                                   WHERE t.firm_id = NEW.firm_id AND t.invoice_id = NEW.invoice_id AND t.line_no = NEW.line_no)) THEN
        RAISE EXCEPTION 'the taxes of a line are missing' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_line_tax_missing';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER taxes_present AFTER INSERT ON invoice_line DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.tax_count > 0) EXECUTE FUNCTION require_line_taxes();

CREATE FUNCTION require_discounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM invoice i WHERE i.firm_id = NEW.firm_id AND i.id = NEW.id
               AND i.discount_count <> (SELECT count(*) FROM invoice_discount d WHERE d.firm_id = NEW.firm_id AND d.invoice_id = NEW.id)) THEN
        RAISE EXCEPTION 'the discounts of an invoice are missing' USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_discount_missing';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER discounts_present AFTER INSERT ON invoice DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.discount_count > 0) EXECUTE FUNCTION require_discounts();

-- 5. Row security and grants ----------------------------------------------------------------------------------------------------------
SELECT secure_tenant_table('tax_rate');
SELECT secure_tenant_table('invoice_line_tax');
SELECT secure_tenant_table('coupon');
SELECT secure_tenant_table('coupon_redemption');
SELECT secure_tenant_table('invoice_discount');
GRANT INSERT, UPDATE ON tax_rate, coupon, coupon_redemption TO dunwell_app;
GRANT INSERT, UPDATE, DELETE ON invoice_line_tax, invoice_discount TO dunwell_app;
