-- Deferred revenue recognised day by day, and exchange rates.

-- Its rows are changed each day: room on the page keeps the changes off the indexes, none of which holds what changes but the closing.
CREATE TABLE revenue_schedule (
    firm_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    line_no SMALLINT NOT NULL,
    currency_code TEXT NOT NULL CONSTRAINT revenue_schedule_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    start_date DATE NOT NULL,
    end_date DATE NOT NULL,
    amount_minor BIGINT NOT NULL,
    recognized_minor BIGINT DEFAULT 0 NOT NULL,
    taken_back_minor BIGINT DEFAULT 0 NOT NULL,
    recognized_through_date DATE NOT NULL,
    base_date DATE,
    base_minor BIGINT DEFAULT 0 NOT NULL,
    close_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT revenue_schedule_pkey PRIMARY KEY (firm_id, invoice_id, line_no),
    CONSTRAINT revenue_schedule_period_check CHECK (end_date > start_date),
    CONSTRAINT revenue_schedule_amount_check CHECK (amount_minor > 0),
    CONSTRAINT revenue_schedule_parts_check CHECK (recognized_minor >= 0 AND taken_back_minor >= 0 AND recognized_minor + taken_back_minor <= amount_minor),
    CONSTRAINT revenue_schedule_base_check CHECK (base_minor >= 0 AND base_minor <= recognized_minor AND base_date >= start_date AND base_date < end_date),
    CONSTRAINT revenue_schedule_closed_check CHECK (close_time IS NULL OR recognized_minor + taken_back_minor = amount_minor),
    CONSTRAINT revenue_schedule_firm_id_invoice_id_currency_code_fkey FOREIGN KEY(firm_id, invoice_id, currency_code) REFERENCES invoice (firm_id, id, currency_code)
) WITH (fillfactor = 80);

CREATE INDEX revenue_schedule_open_idx ON revenue_schedule (firm_id, invoice_id, line_no) WHERE close_time IS NULL;

-- What is deferred, and over which days, is fixed; days that are accounted for never come again.
CREATE TRIGGER fixed BEFORE UPDATE ON revenue_schedule FOR EACH ROW
    WHEN ((OLD.currency_code, OLD.start_date, OLD.end_date, OLD.amount_minor) IS DISTINCT FROM (NEW.currency_code, NEW.start_date, NEW.end_date, NEW.amount_minor)
          OR NEW.recognized_through_date < OLD.recognized_through_date OR NEW.taken_back_minor < OLD.taken_back_minor
          OR (OLD.close_time IS NOT NULL AND NEW.close_time IS DISTINCT FROM OLD.close_time))
    EXECUTE FUNCTION refuse_change();

CREATE TABLE recognition_progress (
    firm_id UUID NOT NULL,
    through_date DATE NOT NULL,
    CONSTRAINT recognition_progress_pkey PRIMARY KEY (firm_id)
);

CREATE TABLE exchange_rate (
    firm_id UUID NOT NULL,
    base_currency TEXT NOT NULL CONSTRAINT exchange_rate_base_currency_check CHECK (base_currency ~ '^[A-Z]{3}$'),
    quote_currency TEXT NOT NULL CONSTRAINT exchange_rate_quote_currency_check CHECK (quote_currency ~ '^[A-Z]{3}$'),
    rate_date DATE NOT NULL,
    rate NUMERIC NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT exchange_rate_pkey PRIMARY KEY (firm_id, base_currency, quote_currency, rate_date),
    CONSTRAINT exchange_rate_pair_check CHECK (base_currency <> quote_currency),
    CONSTRAINT exchange_rate_rate_check CHECK (rate > 0 AND rate < 'Infinity')
);

SELECT secure_tenant_table('revenue_schedule');
SELECT secure_tenant_table('recognition_progress');
SELECT secure_tenant_table('exchange_rate');
GRANT INSERT, UPDATE ON revenue_schedule, recognition_progress, exchange_rate TO dunwell_app;

-- What was billed in advance before this release: nothing of it has been recognised, and credit notes took back what was deferred. The first
-- daily look catches up, day by day. These lines have neither discounts nor included tax: their amount is what was deferred.
INSERT INTO revenue_schedule (firm_id, invoice_id, line_no, currency_code, start_date, end_date, amount_minor, taken_back_minor, recognized_through_date, close_time)
SELECT firm_id, invoice_id, line_no, currency_code, period_start, period_end, amount_minor, taken_back, greatest(issue_date, period_start),
       CASE WHEN taken_back = amount_minor THEN finalize_time END
FROM (
    SELECT l.firm_id, l.invoice_id, l.line_no, i.currency_code, l.period_start, l.period_end, l.amount_minor, i.issue_date, i.finalize_time,
           greatest(0, least(l.amount_minor, coalesce(n.deferred, 0)
               - (sum(l.amount_minor) OVER (PARTITION BY l.firm_id, l.invoice_id ORDER BY l.line_no) - l.amount_minor)))::bigint AS taken_back
    FROM invoice_line l JOIN invoice i ON i.firm_id = l.firm_id AND i.id = l.invoice_id
    LEFT JOIN (SELECT firm_id, invoice_id, sum(deferred_minor) AS deferred FROM credit_note GROUP BY firm_id, invoice_id) n
        ON n.firm_id = i.firm_id AND n.invoice_id = i.id
    WHERE i.finalize_time IS NOT NULL AND i.void_time IS NULL AND l.in_advance AND l.period_start IS NOT NULL AND l.amount_minor > 0
) s;
