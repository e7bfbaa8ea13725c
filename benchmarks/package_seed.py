"""A firm whose billing run has everything to do: packages and retainers, taxes, coupons, credit.

Of its clients, each with one engagement, every fifth has a MIXED one with three approved entries, every tenth a coupon, every tenth (others)
credit. Two taxes are on every line. Half are on autopay. Ids follow from numbers, so that the same firm is the same in two databases.
"""

from __future__ import annotations

import uuid
from datetime import date
from typing import Final

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.common import BenchDatabase
from dunwell_server.platform.firms import FirmSettings

AS_OF: Final = date(2026, 3, 1)

_FUNCTION = """
CREATE OR REPLACE FUNCTION pg_temp.id_of(kind text, firm uuid, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT ('018f' || lpad(to_hex(n >> 16), 4, '0') || '-' || lpad(to_hex(n & 65535), 4, '0') || '-7' || substr(md5(kind || n || firm), 1, 3)
            || '-8' || substr(md5(kind || n || firm), 4, 3) || '-' || substr(md5(kind || n || firm), 8, 12))::uuid $$
"""
_CLIENTS = """
INSERT INTO client (firm_id, id, name, currency_code, autopay_enabled, autopay_method_id, autopay_enable_time, address)
SELECT %(firm)s, pg_temp.id_of('client', %(firm)s, n), 'Client ' || n, 'USD', n %% 2 = 0,
       CASE WHEN n %% 2 = 0 THEN pg_temp.id_of('method', %(firm)s, n) END,
       CASE WHEN n %% 2 = 0 THEN '2025-06-15T00:00:00Z'::timestamptz END, '{"country_code": "US", "region": "NY"}'
FROM generate_series(1, %(size)s) n
"""
# Mostly monthly, mostly with one period due. A MIXED one has begun a month earlier: it bills that month's time with the next month's fee.
_ENGAGEMENTS = """
INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, end_date, fee_minor,
    billing_interval, anchor, timing, partial_periods, proration, line_description, billed_through_date, next_bill_date,
    default_rate, billing_increment_minutes, time_rounding, time_grouping, included_minutes, rollover_periods)
SELECT %(firm)s, pg_temp.id_of('engagement', %(firm)s, n), pg_temp.id_of('client', %(firm)s, n), 'Client ' || n,
       CASE WHEN mixed THEN 'MIXED' ELSE 'PACKAGE' END, 'USD', start_date, end_date, 10000 + n %% 5000, every, anchor, 'IN_ADVANCE',
       'PRORATE', '{}', 'Monthly bookkeeping', CASE WHEN mixed THEN date '2026-03-01' ELSE start_date END,
       CASE WHEN mixed THEN date '2026-03-01' ELSE start_date END,
       CASE WHEN mixed THEN 120 END, CASE WHEN mixed THEN 6 END, CASE WHEN mixed THEN 'UP' END, CASE WHEN mixed THEN 'ROLE' END,
       CASE WHEN mixed THEN 120 END, CASE WHEN mixed THEN 1 END
FROM generate_series(1, %(size)s) n
CROSS JOIN LATERAL (SELECT %(rich)s AND n %% 5 = 0 AS mixed) m
CROSS JOIN LATERAL (SELECT CASE WHEN mixed OR n %% 20 < 15 THEN 'MONTHLY' WHEN n %% 20 < 18 THEN 'QUARTERLY' ELSE 'YEARLY' END AS every,
    CASE WHEN mixed OR n %% 10 = 9 THEN date '2026-02-01' WHEN n %% 10 = 8 THEN date '2026-02-12' ELSE date '2026-03-01' END AS start_date,
    CASE WHEN n %% 10 = 8 THEN 'CALENDAR' ELSE 'START_DATE' END AS anchor,
    CASE WHEN n %% 50 = 7 THEN date '2026-03-20' END AS end_date) d
"""
_TIME = """
INSERT INTO time_entry (firm_id, id, client_id, engagement_id, person, role, work_date, minutes, state, submit_actor, submit_time,
    approve_actor, approve_time)
SELECT %(firm)s, pg_temp.id_of('entry' || k, %(firm)s, n), pg_temp.id_of('client', %(firm)s, n), pg_temp.id_of('engagement', %(firm)s, n),
       'ann', 'senior', date '2026-02-02' + k, 50 + k, 'APPROVED', 'ann', '2026-02-20T12:00:00Z', 'bob', '2026-02-21T12:00:00Z'
FROM generate_series(5, %(size)s, 5) n CROSS JOIN generate_series(1, 3) k
"""
_RATES = """
INSERT INTO tax_rate (firm_id, id, name, percentage, country_code, region)
SELECT %(firm)s, pg_temp.id_of('rate', %(firm)s, n), name, percentage, 'US', 'NY'
FROM (VALUES (1, 'State sales tax', 4.0), (2, 'City sales tax', 4.5)) AS r (n, name, percentage)
"""
_COUPON = """
INSERT INTO coupon (firm_id, id, code, name, kind, percent, duration)
SELECT %(firm)s, pg_temp.id_of('coupon', %(firm)s, 1), 'TEN', 'Ten percent', 'PERCENT', 10, 'FOREVER'
"""
_REDEMPTIONS = """
INSERT INTO coupon_redemption (firm_id, id, coupon_id, client_id, redeem_time)
SELECT %(firm)s, pg_temp.id_of('redemption', %(firm)s, n), pg_temp.id_of('coupon', %(firm)s, 1), pg_temp.id_of('client', %(firm)s, n),
       '2026-01-01T00:00:00Z'
FROM generate_series(3, %(size)s, 10) n
"""
_POSTINGS = """
INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
SELECT %(firm)s, pg_temp.id_of('posting', %(firm)s, n), 'credit_entry', pg_temp.id_of('credit', %(firm)s, n), 'granted', '2026-01-01T00:00:00Z'
FROM generate_series(4, %(size)s, 10) n
"""
_ENTRIES = """
INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, currency_code, amount_minor)
SELECT %(firm)s, pg_temp.id_of('posting', %(firm)s, n), line_no, account, CASE WHEN line_no = 2 THEN pg_temp.id_of('client', %(firm)s, n) END,
       'USD', amount
FROM generate_series(4, %(size)s, 10) n
CROSS JOIN (VALUES (1, 'promotional_contra_revenue', 2500), (2, 'client_credit', -2500)) AS e (line_no, account, amount)
ORDER BY n, line_no
"""
_CREDIT = """
INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, priority, source_type, firm_time)
SELECT %(firm)s, pg_temp.id_of('credit', %(firm)s, n), pg_temp.id_of('client', %(firm)s, n), 'USD', 'GOODWILL', 2500, 2500, 50, 'grant',
       '2026-01-01T00:00:00Z'
FROM generate_series(4, %(size)s, 10) n
"""
PLAIN: Final = (_CLIENTS, _ENGAGEMENTS)
RICH: Final = (_TIME, _RATES, _COUPON, _REDEMPTIONS, _POSTINGS, _ENTRIES, _CREDIT)


def seed(database: BenchDatabase, size: int, *, rich: bool = True) -> uuid.UUID:
    """A firm with `size` clients and engagements; without `rich`, packages and nothing else."""
    firm = uuid.uuid4()
    params = {"firm": firm, "size": size, "rich": rich}
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO control.firm (id, display_name, mode, settings) VALUES (%s, %s, %s, %s)",
            (firm, "Bench", "TEST", Jsonb(FirmSettings().to_json())),
        )
        connection.execute(_FUNCTION)
        for statement in (*PLAIN, *(RICH if rich else ())):
            # Time is entered as a draft and approved later: here it begins where the run finds it.
            connection.execute(
                f"SET session_replication_role = {'replica' if statement is _TIME else 'origin'}".encode()
            )
            connection.execute(statement, params)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    return firm
