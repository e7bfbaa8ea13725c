-- Data exit and import: export files on their way in, firms on their way out.

-- 1. Tables ---------------------------------------------------------------------------------------------------------------------------
ALTER TABLE control.firm DROP CONSTRAINT firm_state_check;
ALTER TABLE control.firm ADD CONSTRAINT firm_state_check CHECK (state IN ('ACTIVE', 'SUSPENDED', 'IMPORTING', 'ERASED'));

CREATE TABLE control.firm_import (
    id UUID NOT NULL,
    firm_id UUID NOT NULL,
    state TEXT DEFAULT 'OPEN' NOT NULL,
    sha256 BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    received_bytes BIGINT DEFAULT 0 NOT NULL,
    actor TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT firm_import_pkey PRIMARY KEY (id),
    CONSTRAINT firm_import_state_check CHECK (state IN ('OPEN', 'FINISHED')),
    CONSTRAINT firm_import_bytes_check CHECK (size_bytes > 0 AND received_bytes BETWEEN 0 AND size_bytes)
);

CREATE UNIQUE INDEX firm_import_open_key ON control.firm_import (firm_id, sha256) WHERE state = 'OPEN';

CREATE TABLE control.firm_import_chunk (
    import_id UUID NOT NULL,
    start_byte BIGINT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sealed BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    CONSTRAINT firm_import_chunk_pkey PRIMARY KEY (import_id, start_byte),
    CONSTRAINT firm_import_chunk_size_check CHECK (start_byte >= 0 AND size_bytes > 0),
    CONSTRAINT firm_import_chunk_import_id_fkey FOREIGN KEY(import_id) REFERENCES control.firm_import (id)
);

CREATE TABLE control.firm_offboarding (
    firm_id UUID NOT NULL,
    suspend_time TIMESTAMP WITH TIME ZONE,
    suspend_actor TEXT,
    export_time TIMESTAMP WITH TIME ZONE,
    export_snapshot TEXT,
    export_sha256 BYTEA,
    erase_time TIMESTAMP WITH TIME ZONE,
    erase_actor TEXT,
    retain_until_date DATE,
    purge_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT firm_offboarding_pkey PRIMARY KEY (firm_id),
    CONSTRAINT firm_offboarding_firm_id_fkey FOREIGN KEY(firm_id) REFERENCES control.firm (id),
    CONSTRAINT firm_offboarding_export_check CHECK ((export_time IS NULL) = (export_snapshot IS NULL) AND (export_time IS NULL) = (export_sha256 IS NULL)),
    CONSTRAINT firm_offboarding_suspended_check CHECK ((suspend_time IS NULL) = (suspend_actor IS NULL)),
    CONSTRAINT firm_offboarding_erased_check CHECK ((erase_time IS NULL) = (erase_actor IS NULL) AND (erase_time IS NULL) = (retain_until_date IS NULL)
        AND (erase_time IS NULL OR suspend_time IS NOT NULL)),
    CONSTRAINT firm_offboarding_second_person_check CHECK (erase_actor <> suspend_actor),
    CONSTRAINT firm_offboarding_purged_check CHECK (purge_time IS NULL OR erase_time IS NOT NULL)
);

GRANT SELECT ON control.firm_import, control.firm_import_chunk, control.firm_offboarding TO dunwell_app, dunwell_auditor;
GRANT INSERT, UPDATE, DELETE ON control.firm_import, control.firm_import_chunk TO dunwell_app;
GRANT INSERT, UPDATE ON control.firm_offboarding TO dunwell_app;
GRANT DELETE ON control.provider_reference TO dunwell_app;

-- What invoices of other systems were earned as, there.
ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_account_check;
ALTER TABLE ledger_entry ADD CONSTRAINT ledger_entry_account_check CHECK (account IN ('receivable', 'revenue', 'deferred_revenue', 'tax_payable', 'cash', 'clearing', 'provider_fees', 'dispute_fees', 'client_credit', 'unapplied_receipts', 'refund_payable', 'disputed_funds', 'promotional_contra_revenue', 'breakage', 'bad_debt', 'recoveries', 'opening_balance'));

-- 2. A firm that comes in comes as it was ---------------------------------------------------------------------------------------------
-- True only in the transaction that writes an imported firm: the firm is in a state that no other transaction ever sees it in.
CREATE FUNCTION importing() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF current_setting('app.importing', true) IS DISTINCT FROM 'on' THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT 1 FROM control.firm WHERE id = nullif(current_setting('app.firm_id', true), '')::uuid AND state = 'IMPORTING');
END $$;

-- Its rows are in the states that their lives have brought them to, what triggers have counted is counted, and what was checked against the
-- terms of its day is not checked against today's. The invariants look at the whole before it is committed.
DO $$
DECLARE t record;
BEGIN
    FOR t IN
        SELECT g.tgname, g.tgrelid::regclass AS target, pg_get_triggerdef(g.oid) AS definition
        FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        WHERE NOT g.tgisinternal AND c.relnamespace IN ('public'::regnamespace, 'control'::regnamespace)
          AND g.tgname IN ('initial_state', 'clock_starts', 'counted', 'holds_on_insert', 'within_caps', 'within_grant')
    LOOP
        IF position(' WHEN ' IN t.definition) > 0 THEN
            RAISE EXCEPTION 'trigger % of % has a condition already', t.tgname, t.target;
        END IF;
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.target);
        EXECUTE replace(t.definition, ' EXECUTE FUNCTION ', ' WHEN (NOT importing()) EXECUTE FUNCTION ');
    END LOOP;
END $$;

-- 3. A firm that leaves: personal data goes, also from rows that are otherwise fixed --------------------------------------------------
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The owner's rights are those of `erase_columns` and `purge_documents` alone; the application never has them.
    IF TG_OP IN ('UPDATE', 'DELETE') AND current_setting('app.erasing', true) = 'on'
       AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    RAISE EXCEPTION '% of % is refused: its rows are append-only or fixed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_fixed';
END $$;

-- Overwrites columns in all rows of the transaction's firm, which must be ERASED. What a column becomes: NULL, a text of its type, or where
-- there is something, for `*` the word "erased" and for `#` a word that differs from value to value and tells nothing of it. Returns how
-- many rows changed.
-- SECURITY DEFINER: rows that nobody may change lose their personal data all the same.
CREATE FUNCTION erase_columns(target regclass, columns text[], replacements text[]) RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public SET "app.erasing" = 'on' AS $$
DECLARE
    firm uuid := nullif(current_setting('app.firm_id', true), '')::uuid;
    salt text := gen_random_uuid()::text;
    sets text := '';
    differs text := '';
    type_name text;
    value text;
    changed bigint;
BEGIN
    IF firm IS NULL OR NOT EXISTS (SELECT 1 FROM control.firm f WHERE f.id = firm AND f.state = 'ERASED') THEN
        RAISE EXCEPTION 'only an erased firm loses its data' USING ERRCODE = 'check_violation', CONSTRAINT = 'erase_columns_firm';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = target AND c.relnamespace = 'public'::regnamespace AND c.relrowsecurity) THEN
        RAISE EXCEPTION '% is no tenant table', target USING ERRCODE = 'check_violation', CONSTRAINT = 'erase_columns_table';
    END IF;
    FOR i IN 1 .. cardinality(columns) LOOP
        SELECT format_type(a.atttypid, NULL) INTO type_name FROM pg_attribute a
        WHERE a.attrelid = target AND a.attname = columns[i] AND a.attnum > 0 AND NOT a.attisdropped;
        IF type_name IS NULL OR type_name NOT IN ('text', 'text[]', 'jsonb', 'bytea', 'smallint', 'date') THEN
            RAISE EXCEPTION 'column % of % cannot be erased', columns[i], target USING ERRCODE = 'check_violation', CONSTRAINT = 'erase_columns_column';
        END IF;
        value := CASE
            WHEN replacements[i] = '*' THEN format('CASE WHEN %I IS NOT NULL THEN ''erased'' END', columns[i])
            WHEN replacements[i] = '#' THEN
                format('CASE WHEN %1$I IS NULL OR %1$I LIKE ''erased:%%'' THEN %1$I ELSE ''erased:'' || md5(%2$L || %1$I) END', columns[i], salt)
            ELSE format('%L::%s', replacements[i], type_name) END;
        sets := sets || CASE WHEN i > 1 THEN ', ' ELSE '' END || format('%I = %s', columns[i], value);
        differs := differs || CASE WHEN i > 1 THEN ' OR ' ELSE '' END || format('%I IS DISTINCT FROM %s', columns[i], value);
    END LOOP;
    EXECUTE format('UPDATE %s SET %s WHERE firm_id = $1 AND (%s)', target, sets, differs) USING firm;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;
REVOKE ALL ON FUNCTION erase_columns(regclass, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erase_columns(regclass, text[], text[]) TO dunwell_app;

-- Deletes what was archived of the transaction's firm, once it has been kept for as long as was promised. Returns how many documents.
CREATE FUNCTION purge_documents(today date) RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public SET "app.erasing" = 'on' AS $$
DECLARE
    firm uuid := nullif(current_setting('app.firm_id', true), '')::uuid;
    gone bigint;
BEGIN
    IF firm IS NULL OR NOT EXISTS (
        SELECT 1 FROM control.firm f JOIN control.firm_offboarding o ON o.firm_id = f.id
        WHERE f.id = firm AND f.state = 'ERASED' AND o.retain_until_date <= today) THEN
        RAISE EXCEPTION 'documents are kept until their date' USING ERRCODE = 'check_violation', CONSTRAINT = 'purge_documents_date';
    END IF;
    DELETE FROM document WHERE firm_id = firm;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;
REVOKE ALL ON FUNCTION purge_documents(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_documents(date) TO dunwell_app;
