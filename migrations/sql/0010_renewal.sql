-- Terms that follow one another.

-- The day of month that periods aim for, where the start date's own day is a month's end that falls short of it. NULL: the start date's.
-- A term of no days is a renewal withdrawn before it began: over, nothing of it was or will be billed, nothing follows it.
ALTER TABLE engagement
    ADD COLUMN anchor_day SMALLINT,
    ADD COLUMN renewed_to_id UUID,
    ADD COLUMN auto_renew_days SMALLINT,
    ADD COLUMN auto_renew_months SMALLINT,
    ADD COLUMN auto_renew_uplift NUMERIC,
    ADD COLUMN renewal_notice_time TIMESTAMP WITH TIME ZONE,
    DROP CONSTRAINT engagement_dates_check,
    ADD CONSTRAINT engagement_dates_check CHECK (end_date > start_date OR (end_date = start_date AND state = 'ENDED' AND next_bill_date IS NULL
        AND billed_through_date = start_date AND renewed_to_id IS NULL)),
    ADD CONSTRAINT engagement_anchor_day_check CHECK (anchor_day IS NULL OR (anchor_day BETWEEN 29 AND 31
        AND anchor_day > extract(day FROM start_date) AND extract(day FROM start_date + 1) = 1)),
    ADD CONSTRAINT engagement_renewal_check CHECK (renewed_to_id IS NULL OR (end_date IS NOT NULL AND renewed_to_id <> id)),
    ADD CONSTRAINT engagement_auto_renew_check CHECK ((auto_renew_days IS NULL) = (auto_renew_uplift IS NULL)
        AND (auto_renew_days IS NOT NULL OR auto_renew_months IS NULL) AND (auto_renew_days IS NULL OR end_date IS NOT NULL)),
    ADD CONSTRAINT engagement_auto_renew_terms_check CHECK (auto_renew_days BETWEEN 0 AND 365 AND auto_renew_months BETWEEN 1 AND 1200
        AND auto_renew_uplift BETWEEN -100 AND 1000),
    ADD CONSTRAINT engagement_firm_id_renewed_to_id_fkey FOREIGN KEY (firm_id, renewed_to_id) REFERENCES engagement (firm_id, id);

-- A term follows one term; one term follows it (renewed_to_id is a single column).
CREATE UNIQUE INDEX engagement_renewed_to_key ON engagement (firm_id, renewed_to_id) WHERE renewed_to_id IS NOT NULL;
-- What a day renews by itself: end_date less the days ahead, of what has not been renewed.
CREATE INDEX engagement_auto_renew_idx ON engagement (firm_id, (end_date - auto_renew_days), id) WHERE auto_renew_days IS NOT NULL AND renewed_to_id IS NULL;

-- The next term is the same client's, in the same currency, and begins the day its predecessor ends. All three are fixed in it, so it is enough to
-- look when the predecessor's end or its renewal changes.
CREATE FUNCTION check_renewal() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM engagement s WHERE s.firm_id = NEW.firm_id AND s.id = NEW.renewed_to_id AND s.client_id = NEW.client_id
                   AND s.currency_code = NEW.currency_code AND s.start_date = NEW.end_date
                   AND (s.end_date IS NULL OR s.end_date > s.start_date)) THEN
        RAISE EXCEPTION 'a renewal is the same client''s, in the same currency, and begins the day the term before it ends'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'engagement_renewal';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER renewal_inserted AFTER INSERT ON engagement FOR EACH ROW WHEN (NEW.renewed_to_id IS NOT NULL) EXECUTE FUNCTION check_renewal();
CREATE TRIGGER renewal_changed AFTER UPDATE ON engagement FOR EACH ROW
    WHEN (NEW.renewed_to_id IS NOT NULL AND (OLD.renewed_to_id, OLD.end_date) IS DISTINCT FROM (NEW.renewed_to_id, NEW.end_date))
    EXECUTE FUNCTION check_renewal();
CREATE TRIGGER fixed_start BEFORE UPDATE ON engagement FOR EACH ROW
    WHEN ((OLD.start_date, OLD.anchor_day) IS DISTINCT FROM (NEW.start_date, NEW.anchor_day)
          OR (OLD.renewal_notice_time IS NOT NULL AND NEW.renewal_notice_time IS DISTINCT FROM OLD.renewal_notice_time))
    EXECUTE FUNCTION refuse_change();

-- A withdrawn renewal must have been let go by the term before it.
CREATE FUNCTION check_withdrawn() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM engagement p WHERE p.firm_id = NEW.firm_id AND p.renewed_to_id = NEW.id) THEN
        RAISE EXCEPTION 'a term that another one was renewed to has days'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'engagement_renewal';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER withdrawn AFTER UPDATE ON engagement FOR EACH ROW
    WHEN (NEW.end_date = NEW.start_date AND OLD.end_date IS DISTINCT FROM NEW.end_date) EXECUTE FUNCTION check_withdrawn();
