"""Invariants 9 and 12, and the tenancy rules, as the database's own catalogue tells them."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Check, Fetch, Invariant, run

_TENANT = "c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'"
_FIRM = "(NULLIF(current_setting(''app.firm_id''::text, true), ''''::text))::uuid"

APPEND_ONLY: Final = (
    "audit_event",
    "audit_seal",
    "event",
    "ledger_posting",
    "ledger_entry",
    "payment_allocation",
    "credit_note",
    "refund_allocation",
    "credit_entry",
    "credit_use",
    "credit_note_line",
    "credit_note_line_tax",
    "credit_note_payout",
)
"""Tables that the application's role may add to, and nothing else."""

CATALOGUE: Final = (
    Invariant("row_security_forced", 12, "Row security is on and forced on every tenant table.", f"""
        SELECT NULL::uuid AS firm_id, 'table' AS object_type, c.relname::text AS object_id,
               format('row security %%s, forced %%s', c.relrowsecurity, c.relforcerowsecurity) AS message
        FROM pg_class c WHERE {_TENANT} AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"""),
    Invariant("row_policies", 12, "Every tenant table has the three policies: application by firm, owner all, auditor SELECT all.", f"""
        SELECT NULL::uuid AS firm_id, 'table' AS object_type, c.relname::text AS object_id,
               coalesce('the policies are ' || p.policies, 'there are no policies') AS message
        FROM pg_class c LEFT JOIN LATERAL (
            SELECT string_agg(format('%%s FOR %%s TO %%s USING %%s CHECK %%s', policyname, cmd, roles::text, qual, with_check), '; ' ORDER BY policyname) AS policies,
                   count(*) AS policies_count,
                   count(*) FILTER (WHERE policyname = 'application' AND permissive = 'PERMISSIVE' AND cmd = 'ALL' AND roles = '{{dunwell_app}}'
                                      AND qual = '(firm_id = ( SELECT {_FIRM} AS "nullif"))' AND with_check = '(firm_id = {_FIRM})') AS application,
                   count(*) FILTER (WHERE policyname = 'owner' AND cmd = 'ALL' AND qual = 'true' AND with_check = 'true'
                                      AND roles = ARRAY[pg_get_userbyid(c.relowner)]) AS owner,
                   count(*) FILTER (WHERE policyname = 'auditor' AND cmd = 'SELECT' AND roles = '{{dunwell_auditor}}' AND qual = 'true') AS auditor
            FROM pg_policies WHERE schemaname = 'public' AND tablename = c.relname
        ) p ON true
        WHERE {_TENANT} AND (p.policies_count, p.application, p.owner, p.auditor) IS DISTINCT FROM (3, 1, 1, 1)"""),
    Invariant("keys_led_by_firm", 12, "Every foreign and unique key of a tenant table is composite and led by firm_id.", f"""
        SELECT NULL::uuid AS firm_id, 'constraint' AS object_type, k.conname::text AS object_id, format('of %%s is not led by firm_id', c.relname) AS message
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
        WHERE {_TENANT} AND k.contype IN ('p', 'u', 'f', 'x') AND (a.attname <> 'firm_id' OR (k.contype = 'f' AND k.confrelid <> 'control.firm'::regclass
              AND (SELECT t.attname FROM pg_attribute t WHERE t.attrelid = k.confrelid AND t.attnum = k.confkey[1]) <> 'firm_id'))
        UNION ALL
        SELECT NULL::uuid, 'index', i.indexrelid::regclass::text, format('of %%s is unique and not led by firm_id', c.relname)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE {_TENANT} AND i.indisunique AND a.attname IS DISTINCT FROM 'firm_id'"""),
    Invariant("application_role", 12, "The application's and the auditor's role own nothing, and are neither superuser nor past row security.", """
        SELECT NULL::uuid AS firm_id, 'role' AS object_type, r.rolname::text AS object_id,
               format('superuser %%s, bypasses row security %%s, creates roles %%s, creates databases %%s, replicates %%s', r.rolsuper, r.rolbypassrls,
                      r.rolcreaterole, r.rolcreatedb, r.rolreplication) AS message
        FROM pg_roles r WHERE r.rolname IN ('dunwell_app', 'dunwell_auditor')
          AND (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication)
        UNION ALL
        SELECT NULL::uuid, 'role', r.rolname::text, format('owns %%s', c.oid::regclass) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
        WHERE r.rolname IN ('dunwell_app', 'dunwell_auditor') AND c.relnamespace IN ('public'::regnamespace, 'control'::regnamespace)
        UNION ALL
        SELECT NULL::uuid, 'role', m.rolname::text, format('is a member of %%s', g.rolname)
        FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
        WHERE m.rolname IN ('dunwell_app', 'dunwell_auditor')"""),
    Invariant("append_only_grants", 9, "The application's role cannot change or delete audit, ledger and event rows, the auditor's nothing at all.", f"""
        SELECT NULL::uuid AS firm_id, 'table' AS object_type, c.relname::text AS object_id, format('dunwell_app may %%s', p.privilege) AS message
        FROM pg_class c CROSS JOIN (VALUES ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS p (privilege)
        WHERE {_TENANT} AND c.relname IN {APPEND_ONLY!r} AND has_table_privilege('dunwell_app', c.oid, p.privilege)
        UNION ALL
        SELECT NULL::uuid, 'table', c.oid::regclass::text, format('dunwell_auditor may %%s', p.privilege)
        FROM pg_class c CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS p (privilege)
        WHERE c.relnamespace IN ('public'::regnamespace, 'control'::regnamespace) AND c.relkind IN ('r', 'p')
          AND has_table_privilege('dunwell_auditor', c.oid, p.privilege)"""),
    Invariant("definer_functions", 12, "Only the functions that keep balances and credit, and a firm's erasure, run with their owner's rights.", """
        SELECT NULL::uuid AS firm_id, 'function' AS object_type, p.oid::regprocedure::text AS object_id, 'is SECURITY DEFINER' AS message
        FROM pg_proc p WHERE p.pronamespace IN ('public'::regnamespace, 'control'::regnamespace) AND p.prosecdef
          AND p.proname NOT IN ('apply_entries', 'apply_credit_uses', 'erase_columns', 'purge_documents') AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
        UNION ALL
        SELECT NULL::uuid, 'view', c.oid::regclass::text, 'is a materialised view, or a view with its owner''s rights'
        FROM pg_class c WHERE c.relnamespace IN ('public'::regnamespace, 'control'::regnamespace)
          AND (c.relkind = 'm' OR (c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY(c.reloptions), false)))"""),
    Invariant("triggers_enabled", 7, "The triggers that keep states, books and fixed rows are there and enabled.", """
        SELECT NULL::uuid AS firm_id, 'table' AS object_type, w.name AS object_id, format('trigger %%s is %%s', w.trigger_name,
               CASE WHEN t.oid IS NULL THEN 'missing' ELSE 'disabled' END) AS message
        FROM (SELECT name, trigger_name
              FROM unnest(ARRAY['client', 'engagement', 'invoice', 'payment_method', 'payment', 'attempt', 'run', 'refund',
                       'checkout_session', 'setup_intent', 'provider_event']) AS m (name),
                   unnest(ARRAY['state_edge', 'initial_state']) AS e (trigger_name)
              UNION ALL SELECT name, 'append_only' FROM unnest(ARRAY['audit_event', 'audit_seal', 'event', 'ledger_posting', 'ledger_entry',
                  'payment_allocation', 'credit_note', 'refund_allocation', 'credit_use', 'credit_note_line', 'credit_note_line_tax', 'credit_note_payout']) AS a (name)
              UNION ALL SELECT name, 'fixed' FROM unnest(ARRAY['payment', 'attempt', 'refund', 'payment_method', 'engagement', 'collection_hold']) AS f (name)
              UNION ALL VALUES ('ledger_entry', 'balanced'), ('invoice', 'fixed_once_sent'), ('invoice', 'fixed_ends'), ('invoice', 'kept_once_sent'),
                  ('invoice', 'finalized_lines_add_up'), ('invoice_line', 'lines_add_up'), ('invoice_line', 'lines_kept'),
                  ('invoice_series', 'forward_only'), ('revenue_schedule', 'fixed'), ('credit_entry', 'begins'), ('credit_entry', 'fixed'), ('credit_entry', 'kept'), ('credit_use', 'used'),
                  ('credit_note_line', 'lines_add_up'), ('credit_note_line_tax', 'taxes_add_up'), ('credit_note_payout', 'within_note')) AS w
        LEFT JOIN pg_trigger t ON t.tgrelid = to_regclass('public.' || w.name) AND t.tgname = w.trigger_name
        WHERE t.oid IS NULL OR t.tgenabled NOT IN ('O', 'A')"""),
)  # fmt: skip


async def catalogue_checks(fetch: Fetch) -> list[Check]:
    """Check what the catalogue says; any role may ask."""
    return [await run(invariant, fetch) for invariant in CATALOGUE]
