"""Invariants of collecting, of what has been billed, of states, and of work that must not stand still."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Invariant

_OWN_CLOCK = (
    "(nullif(current_setting('app.firm_id', true), '') IS NULL"
    " OR c.firm_id = nullif(current_setting('app.firm_id', true), '')::uuid)"
)
_OPEN = "('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN')"

COLLECTION: Final = (
    Invariant("one_open_attempt", 3, "A payment has one open attempt and one success at most.", """
        SELECT firm_id, 'payment' AS object_type, payment_id::text AS object_id,
               format('%%s open attempts, %%s successes', count(*) FILTER (WHERE state IN """ + _OPEN + """), count(*) FILTER (WHERE state = 'SUCCEEDED')) AS message
        FROM attempt GROUP BY firm_id, payment_id
        HAVING count(*) FILTER (WHERE state IN """ + _OPEN + """) > 1 OR count(*) FILTER (WHERE state = 'SUCCEEDED') > 1"""),
    Invariant("payment_states", 3, "A payment's state follows from its attempts.", """
        SELECT p.firm_id, 'payment' AS object_type, p.id::text AS object_id,
               format('the payment is %%s; open attempts %%s, successes %%s', p.state, s.open, s.succeeded) AS message
        FROM payment p CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE a.state IN """ + _OPEN + """) AS open, count(*) FILTER (WHERE a.state = 'SUCCEEDED') AS succeeded
            FROM attempt a WHERE a.firm_id = p.firm_id AND a.payment_id = p.id) s
        WHERE p.kind IN ('AUTOPAY', 'CHARGE', 'ONE_TIME', 'CHECKOUT') AND (
            (p.state = 'SUCCEEDED') <> (s.succeeded > 0) OR (p.state IN ('PROCESSING', 'REQUIRES_ACTION') AND s.open = 0)
            OR (p.state IN ('FAILED', 'CANCELLED') AND s.open > 0))"""),
    Invariant("one_asking_hold", 3, "One channel at a time asks for an invoice's money, and none for a payment that has ended.", """
        SELECT firm_id, 'invoice' AS object_type, invoice_id::text AS object_id, format('%%s live holds', count(*)) AS message
        FROM collection_hold WHERE release_time IS NULL GROUP BY firm_id, invoice_id HAVING count(*) > 1
        UNION ALL
        SELECT h.firm_id, 'invoice', h.invoice_id::text, format('a hold lives on though its payment is %%s', p.state)
        FROM collection_hold h JOIN payment p ON p.firm_id = h.firm_id AND p.id = h.payment_id
        WHERE h.release_time IS NULL AND p.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED')"""),
    Invariant("pages_follow_payments", 3, "A page is open while its payment may come, and says expired only where it did not.", """
        SELECT s.firm_id, 'checkout_session' AS object_type, s.id::text AS object_id, format('the page is %%s, its payment %%s', s.state, p.state) AS message
        FROM checkout_session s JOIN payment p ON p.firm_id = s.firm_id AND p.id = s.payment_id
        WHERE (s.state IN ('CREATING', 'OPEN') AND p.state IN ('SUCCEEDED', 'FAILED', 'CANCELLED'))
           OR (s.state IN ('EXPIRED', 'FAILED') AND p.state IN ('PROCESSING', 'REQUIRES_ACTION', 'SUCCEEDED'))"""),
    Invariant("provider_ids_unique", 3, "An object of a provider account belongs to one attempt or one refund.", """
        SELECT firm_id, 'attempt' AS object_type, min(id::text) AS object_id,
               format('%%s attempts have the provider reference %%s', count(*), provider_reference) AS message
        FROM attempt WHERE provider_reference IS NOT NULL GROUP BY firm_id, account_id, provider_reference HAVING count(*) > 1
        UNION ALL
        SELECT firm_id, 'attempt', min(id::text), format('%%s attempts have the key %%s', count(*), idempotency_key)
        FROM attempt GROUP BY firm_id, account_id, idempotency_key HAVING count(*) > 1
        UNION ALL
        SELECT firm_id, 'refund', min(id::text), format('%%s refunds have the provider reference %%s', count(*), provider_reference)
        FROM refund WHERE provider_reference IS NOT NULL GROUP BY firm_id, account_id, provider_reference HAVING count(*) > 1"""),
    Invariant("returned_within_captured", 3, "Refunded, asked back and charged back together are never more than captured.", """
        SELECT firm_id, 'payment' AS object_type, id::text AS object_id,
               format('captured %%s, refunded %%s, asked back %%s, charged back %%s', captured_minor, refunded_minor, refund_pending_minor, charged_back_minor) AS message
        FROM payment WHERE refunded_minor + refund_pending_minor + charged_back_minor > captured_minor
           OR refunded_minor < 0 OR refund_pending_minor < 0 OR charged_back_minor < 0"""),
)  # fmt: skip

COVERAGE: Final = (
    Invariant("coverage_overlaps", 4, "No period of an engagement is billed twice.", """
        SELECT a.firm_id, 'engagement' AS object_type, a.engagement_id::text AS object_id,
               format('%%s on invoice %%s overlaps %%s on invoice %%s', a.period, a.invoice_id, b.period, b.invoice_id) AS message
        FROM coverage a JOIN coverage b ON b.firm_id = a.firm_id AND b.engagement_id = a.engagement_id AND b.component = a.component
            AND (b.invoice_id, b.line_no) > (a.invoice_id, a.line_no) AND b.period && a.period
        WHERE a.release_time IS NULL AND b.release_time IS NULL"""),
    Invariant("coverage_gaps", 4, "Everything before an engagement's billed-through date is covered by live invoices; time has no coverage.", """
        SELECT e.firm_id, 'engagement' AS object_type, e.id::text AS object_id,
               format('billed through %%s, but not covered: %%s', e.billed_through_date, g.gap) AS message
        FROM engagement e CROSS JOIN LATERAL (
            SELECT datemultirange(daterange(e.start_date, greatest(e.billed_through_date, e.start_date)))
                - coalesce((SELECT range_agg(c.period) FROM coverage c
                            WHERE c.firm_id = e.firm_id AND c.engagement_id = e.id AND c.release_time IS NULL), '{}'::datemultirange) AS gap
        ) g
        WHERE e.billing_interval <> 'ONE_TIME' AND e.pricing_mode <> 'HOURLY' AND NOT isempty(g.gap)"""),
    Invariant("coverage_follows_invoice", 4, "Coverage is live while its invoice stands, and released when it is void.", """
        SELECT c.firm_id, 'invoice' AS object_type, c.invoice_id::text AS object_id,
               format('the invoice is %%s, its coverage %%s is %%s', i.state, c.period, CASE WHEN c.release_time IS NULL THEN 'live' ELSE 'released' END) AS message
        FROM coverage c JOIN invoice i ON i.firm_id = c.firm_id AND i.id = c.invoice_id
        WHERE (c.release_time IS NULL) <> (i.void_time IS NULL)"""),
)  # fmt: skip

STATES: Final = (
    Invariant("known_states", 7, "Every object is in a state that the drawn edges lead to.", """
        SELECT s.firm_id, s.machine AS object_type, s.id::text AS object_id, format('no edge leads to %%s', s.state) AS message
        FROM (SELECT firm_id, id, 'client' AS machine, state FROM client UNION ALL SELECT firm_id, id, 'engagement', state FROM engagement
              UNION ALL SELECT firm_id, id, 'invoice', state FROM invoice UNION ALL SELECT firm_id, id, 'payment_method', state FROM payment_method
              UNION ALL SELECT firm_id, id, 'payment', state FROM payment UNION ALL SELECT firm_id, id, 'attempt', state FROM attempt
              UNION ALL SELECT firm_id, id, 'checkout_session', state FROM checkout_session
              UNION ALL SELECT firm_id, id, 'setup_intent', state FROM setup_intent
              UNION ALL SELECT firm_id, id, 'run', state FROM run UNION ALL SELECT firm_id, id, 'refund', state FROM refund) s
        WHERE NOT EXISTS (SELECT 1 FROM control.state_edge e WHERE e.machine = s.machine AND e.target = s.state)"""),
    Invariant("test_clocks", 7, "Test clocks and test accounts belong to TEST firms only, live accounts to LIVE firms only.", """
        SELECT c.firm_id, 'test_clock' AS object_type, c.id::text AS object_id, 'the firm is LIVE' AS message
        FROM control.test_clock c JOIN control.firm f ON f.id = c.firm_id WHERE f.mode <> 'TEST' AND """ + _OWN_CLOCK + """
        UNION ALL
        SELECT c.firm_id, 'provider_account', c.id::text, format('the account is %%s, the firm %%s', c.mode, f.mode)
        FROM control.provider_account c JOIN control.firm f ON f.id = c.firm_id WHERE c.mode <> f.mode AND """ + _OWN_CLOCK),
)  # fmt: skip

AUDIT: Final = (
    Invariant("audit_sealed", 9, "Audit entries are in their firm's chain within a minute of their commit.", """
        SELECT e.firm_id, 'audit_event' AS object_type, e.id::text AS object_id, format('waits for its seal since %%s', e.create_time) AS message
        FROM audit_event e
        WHERE e.create_time < clock_timestamp() - interval '60 s' AND e.xact < pg_snapshot_xmin(pg_current_snapshot())
          AND NOT EXISTS (SELECT 1 FROM audit_seal s WHERE s.firm_id = e.firm_id AND s.audit_id = e.id)"""),
    Invariant("audit_seals_gapless", 9, "The places of a firm's chain run from 1 to n, and each holds an entry.", """
        SELECT firm_id, 'audit_seal' AS object_type, max(seq)::text AS object_id,
               format('%%s links from %%s to %%s', count(*), min(seq), max(seq)) AS message
        FROM audit_seal GROUP BY firm_id HAVING min(seq) <> 1 OR max(seq) <> count(*)
        UNION ALL
        SELECT s.firm_id, 'audit_event', s.audit_id::text, format('link %%s has lost its entry', s.seq)
        FROM audit_seal s WHERE NOT EXISTS (SELECT 1 FROM audit_event e WHERE e.firm_id = s.firm_id AND e.id = s.audit_id)"""),
)  # fmt: skip

STUCK: Final = (
    Invariant("no_expired_claims", 13, "No claim whose lease ended more than 60 seconds ago.", """
        SELECT firm_id, 'attempt' AS object_type, id::text AS object_id, format('%%s, lease ended %%s', state, lease_until) AS message
        FROM attempt WHERE state IN ('CREATED', 'SENT') AND lease_until < clock_timestamp() - interval '60 s'
        UNION ALL
        SELECT firm_id, 'refund', id::text, format('%%s, lease ended %%s', send_state, lease_until)
        FROM refund WHERE state = 'PROCESSING' AND send_state IN ('CREATED', 'SENT') AND lease_until < clock_timestamp() - interval '60 s'
        UNION ALL
        SELECT firm_id, 'run', id::text, format('%%s, lease ended %%s', state, lease_until)
        FROM run WHERE state IN ('QUEUED', 'RUNNING') AND lease_until < clock_timestamp() - interval '60 s'
        UNION ALL
        SELECT c.firm_id, 'test_clock', c.id::text, format('ADVANCING, lease ended %%s', c.lease_until)
        FROM control.test_clock c WHERE c.state = 'ADVANCING' AND c.lease_until < clock_timestamp() - interval '60 s' AND """ + _OWN_CLOCK),
    Invariant("clocks_have_runs", 13, "A clock that advances has an open run that moves it.", """
        SELECT c.firm_id, 'test_clock' AS object_type, c.id::text AS object_id, 'ADVANCING, and its run has ended' AS message
        FROM control.test_clock c
        WHERE c.state = 'ADVANCING' AND """ + _OWN_CLOCK + """
          AND NOT EXISTS (SELECT 1 FROM run r WHERE r.firm_id = c.firm_id AND r.id = c.run_id AND r.state IN ('QUEUED', 'RUNNING'))"""),
    Invariant("no_stale_sends", 13, "No attempt and no refund stays SENT for more than two minutes of machine time.", """
        SELECT firm_id, 'attempt' AS object_type, id::text AS object_id, format('SENT, last touched %%s', update_time) AS message
        FROM attempt WHERE state = 'SENT' AND update_time < clock_timestamp() - interval '2 min'
        UNION ALL
        SELECT firm_id, 'refund', id::text, format('SENT, its lease ended %%s', lease_until) FROM refund
        WHERE state = 'PROCESSING' AND send_state = 'SENT' AND lease_until < clock_timestamp() - interval '2 min'"""),
    Invariant("no_unflagged_unknowns", 13, "No outcome stays unknown for more than 24 hours of firm time without a person being told.", """
        SELECT a.firm_id, 'attempt' AS object_type, a.id::text AS object_id, format('UNKNOWN since %%s', a.unknown_time) AS message
        FROM attempt a LEFT JOIN control.test_clock c ON c.firm_id = a.firm_id
        WHERE a.state = 'UNKNOWN' AND NOT a.needs_person AND a.unknown_time < coalesce(c.now_time, clock_timestamp()) - interval '24 hours'
        UNION ALL
        SELECT r.firm_id, 'refund', r.id::text, format('UNKNOWN since %%s', r.unknown_time)
        FROM refund r LEFT JOIN control.test_clock c ON c.firm_id = r.firm_id
        WHERE r.state = 'PROCESSING' AND r.send_state = 'UNKNOWN' AND NOT r.needs_person
          AND r.unknown_time < coalesce(c.now_time, clock_timestamp()) - interval '24 hours'"""),
)  # fmt: skip
