"""The feed's index, and what the planner may assume before the first ANALYZE."""

from __future__ import annotations

from dunwell_server.platform.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Readers of the outbox page by transaction and sequence, below the snapshot horizon."""
    run_sql("CREATE INDEX event_feed_idx ON event (firm_id, xact, sequence)")
    run_sql(STATISTICS)


STATISTICS = """
-- Every index starts with firm_id. Without statistics they all look equally good, and a cached plan may scan a whole firm for one row
-- until autovacuum has looked at the table. One firm, many distinct objects: that is what a young database has.
DO $$
DECLARE col record;
BEGIN
    IF current_setting('server_version_num')::int < 180000 THEN
        RETURN;
    END IF;
    FOR col IN
        SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND NOT a.attisdropped
          AND a.attname IN ('firm_id', 'id', 'client_id', 'invoice_id', 'payment_id', 'posting_id', 'object_id', 'source_id', 'run_id', 'engagement_id',
                            'method_id', 'request_id', 'audit_id')
    LOOP
        EXECUTE format(
            'SELECT pg_restore_attribute_stats(''schemaname'', ''public'', ''relname'', %L, ''attname'', %L, ''inherited'', false,'
            ' ''null_frac'', 0::real, ''avg_width'', 16, ''n_distinct'', %s::real)',
            col.relname, col.attname, CASE col.attname WHEN 'firm_id' THEN '1' WHEN 'run_id' THEN '100' ELSE '-0.5' END);
    END LOOP;
END $$;
"""
