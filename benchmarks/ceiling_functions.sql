-- What the ceilings write: the same rows as the service, each set in one call. Only the benchmarks' own database has these functions.

CREATE FUNCTION bench_journal(
    p_firm uuid, p_now timestamptz, p_id uuid, p_event_id uuid, p_category text, p_action text, p_type text, p_object uuid, p_seq bigint,
    p_event text, p_actor text, p_method text, p_request uuid, p_metadata jsonb
) RETURNS void LANGUAGE sql AS $$
    WITH audited AS (
        INSERT INTO audit_event (firm_id, id, category, action, severity, object_type, object_id, actor, actor_role, method, request_id, metadata, firm_time)
        VALUES (p_firm, p_id, p_category, p_action, 'INFO', p_type, p_object, p_actor, 'FIRM_ADMIN', p_method, p_request, p_metadata, p_now)
    )
    INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)
    VALUES (p_firm, p_event_id, p_event, p_type, p_object, p_seq, p_metadata, p_now)
$$;

-- Ids: invoice, posting, audit entry, event.
CREATE FUNCTION bench_create_invoice(
    p_firm uuid, p_client uuid, p_request uuid, p_hash bytea, p_answer bytea, p_ids uuid[], p_actor text, p_metadata jsonb,
    p_descriptions text[], p_quantities numeric[], p_prices numeric[], p_amounts bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_total bigint := (SELECT sum(a) FROM unnest(p_amounts) a);
    v_number text;
BEGIN
    PERFORM set_config('app.firm_id', p_firm::text, true);
    INSERT INTO idempotency (firm_id, method, request_id, request_hash, response, expire_time)
    VALUES (p_firm, 'BillingService.CreateInvoice', p_request, p_hash, p_answer, v_now + interval '48 hours');
    INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
    VALUES (p_firm, p_ids[2], 'invoice', p_ids[1], 'finalized', v_now);
    INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, currency_code, amount_minor)
    VALUES (p_firm, p_ids[2], 1, 'receivable', p_client, 'USD', v_total), (p_firm, p_ids[2], 2, 'revenue', NULL, 'USD', -v_total);
    PERFORM bench_journal(p_firm, v_now, p_ids[3], p_ids[4], 'billing', 'invoice_finalized', 'invoice', p_ids[1], 1, 'invoice.finalized',
                          p_actor, 'BillingService.CreateInvoice', p_request, p_metadata);
    WITH taken AS (
        INSERT INTO invoice_series AS s (firm_id, series, next_no) VALUES (p_firm, 'BENCH', 2)
        ON CONFLICT (firm_id, series) DO UPDATE SET next_no = s.next_no + 1 RETURNING s.next_no - 1 AS series_no
    ), lines AS (
        INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor)
        SELECT p_firm, p_ids[1], n, 'ITEM', d, q, p, a
        FROM unnest(p_descriptions, p_quantities, p_prices, p_amounts) WITH ORDINALITY AS l (d, q, p, a, n)
    )
    INSERT INTO invoice (firm_id, id, client_id, origin, currency_code, series, series_no, number, issue_date, due_date, line_count, subtotal,
                         total, finalize_time, create_time, update_time)
    SELECT p_firm, p_ids[1], p_client, 'MANUAL', 'USD', 'BENCH', series_no, 'BENCH-' || lpad(series_no::text, 6, '0'), v_now::date,
           v_now::date + 30, cardinality(p_amounts), v_total, v_total, v_now, v_now, v_now
    FROM taken RETURNING number INTO v_number;
    RETURN v_number;
END $$;

-- Ids: payment, attempt, audit entry, event.
CREATE FUNCTION bench_charge_intent(
    p_firm uuid, p_client uuid, p_invoice uuid, p_method uuid, p_account uuid, p_amount bigint, p_request uuid, p_hash bytea, p_ids uuid[],
    p_actor text, p_metadata jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('app.firm_id', p_firm::text, true);
    INSERT INTO idempotency (firm_id, method, request_id, request_hash, object_id, expire_time)
    VALUES (p_firm, 'PaymentService.ChargeInvoice', p_request, p_hash, p_ids[1], v_now + interval '48 hours');
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, provider, account_id, mode, method_id,
                         firm_time, update_time)
    VALUES (p_firm, p_ids[1], p_client, p_invoice, 'CHARGE', 'PROCESSING', 'USD', p_amount, 'sandbox', p_account, 'TEST', p_method, v_now, v_now);
    INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel) VALUES (p_firm, p_invoice, p_ids[1], 'CHARGE');
    INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor,
                         owner, fence, lease_until)
    VALUES (p_firm, p_ids[2], p_ids[1], 1, 'v1:' || p_ids[1] || ':1', 'sandbox', p_account, p_method, 'USD', p_amount,
            p_request, 1, v_now + interval '60 s');
    UPDATE attempt SET state = 'SENT', send_count = 1, first_send_time = v_now, send_time = v_now, request_digest = p_hash, version = version + 1,
        update_time = v_now
    WHERE firm_id = p_firm AND id = p_ids[2];
    PERFORM bench_journal(p_firm, v_now, p_ids[3], p_ids[4], 'payment', 'payment_requested', 'payment', p_ids[1], 1, 'payment.created',
                          p_actor, 'PaymentService.ChargeInvoice', p_request, p_metadata);
END $$;

-- Ids: payment, attempt, posting, audit entry and event of the invoice, audit entry and event of the payment.
CREATE FUNCTION bench_charge_outcome(
    p_firm uuid, p_client uuid, p_invoice uuid, p_method uuid, p_amount bigint, p_request uuid, p_reference text, p_ids uuid[], p_actor text,
    p_metadata jsonb
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('app.firm_id', p_firm::text, true);
    UPDATE invoice SET amount_received = amount_received + p_amount, paid_time = v_now, version = version + 1, update_time = v_now
    WHERE firm_id = p_firm AND id = p_invoice;
    PERFORM bench_journal(p_firm, v_now, p_ids[4], p_ids[5], 'billing', 'invoice_paid', 'invoice', p_invoice, 2, 'invoice.paid',
                          p_actor, 'PaymentService.ChargeInvoice', p_request, p_metadata);
    UPDATE attempt SET state = 'SUCCEEDED', provider_reference = p_reference, finish_time = v_now, owner = NULL, lease_until = NULL,
        version = version + 1, update_time = v_now
    WHERE firm_id = p_firm AND id = p_ids[2];
    UPDATE payment SET state = 'SUCCEEDED', captured_minor = p_amount, allocated_minor = p_amount, finish_time = v_now, version = version + 1,
        update_time = v_now
    WHERE firm_id = p_firm AND id = p_ids[1];
    UPDATE collection_hold SET release_time = v_now WHERE firm_id = p_firm AND payment_id = p_ids[1];
    INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor) VALUES (p_firm, p_ids[1], p_invoice, 'USD', p_amount);
    UPDATE payment_method SET last_success_time = v_now, version = version + 1, update_time = v_now WHERE firm_id = p_firm AND id = p_method;
    INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
    VALUES (p_firm, p_ids[3], 'payment', p_ids[1], 'received', v_now);
    INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, provider, currency_code, amount_minor)
    VALUES (p_firm, p_ids[3], 1, 'clearing', NULL, 'sandbox', 'USD', p_amount), (p_firm, p_ids[3], 2, 'receivable', p_client, NULL, 'USD', -p_amount);
    PERFORM bench_journal(p_firm, v_now, p_ids[6], p_ids[7], 'payment', 'payment_succeeded', 'payment', p_ids[1], 2, 'payment.succeeded',
                          p_actor, 'PaymentService.ChargeInvoice', p_request, p_metadata);
END $$;

-- A provider's event: the envelope of its account and the firm's own row.
CREATE FUNCTION bench_store_webhook(
    p_firm uuid, p_account uuid, p_id uuid, p_event text, p_type text, p_body bytea, p_hash bytea, p_headers jsonb, p_created double precision
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.firm_id', p_firm::text, true);
    INSERT INTO control.inbox_envelope (id, account_id, provider, dedupe_key, type, firm_id, state, provider_time)
    VALUES (p_id, p_account, 'stripe', p_event, p_type, p_firm, 'ROUTED', to_timestamp(p_created));
    INSERT INTO provider_event (firm_id, id, account_id, provider, dedupe_key, event_id, type, body, body_hash, headers, provider_time, next_attempt_time)
    VALUES (p_firm, p_id, p_account, 'stripe', p_event, p_event, p_type, p_body, p_hash, p_headers, to_timestamp(p_created), clock_timestamp());
END $$;
