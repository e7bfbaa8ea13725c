-- Every index is led by firm_id. The planner evaluates a policy's current_setting beforehand and asks the statistics for that very firm: of one
-- that came after the last ANALYZE they say that it has no rows, and then any index is as good as the primary key, so that each look-up by id
-- read all of the firm. As a sub-select it is not known beforehand, and every firm is believed to be of average size.
CREATE OR REPLACE FUNCTION secure_tenant_table(name regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY application ON %s TO dunwell_app USING (firm_id = (SELECT nullif(current_setting(''app.firm_id'', true), '''')::uuid))'
                   ' WITH CHECK (firm_id = nullif(current_setting(''app.firm_id'', true), '''')::uuid)', name);
    EXECUTE format('CREATE POLICY owner ON %s TO CURRENT_USER USING (true) WITH CHECK (true)', name);
    EXECUTE format('CREATE POLICY auditor ON %s FOR SELECT TO dunwell_auditor USING (true)', name);
    EXECUTE format('GRANT SELECT ON %s TO dunwell_app, dunwell_auditor', name);
END $$;

DO $$
DECLARE name regclass;
BEGIN
    FOR name IN SELECT p.polrelid::regclass FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                WHERE p.polname = 'application' AND c.relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER POLICY application ON %s USING (firm_id = (SELECT nullif(current_setting(''app.firm_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;
