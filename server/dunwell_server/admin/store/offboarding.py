"""Offboarding's SQL: how far a firm is, what is still under way, and the erasure itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from dunwell_server.platform.database import Row, UnitOfWork

_STANDING: Final = """
SELECT f.id AS firm_id, f.state, f.display_name, o.suspend_time, o.suspend_actor, o.export_time, o.export_sha256, o.erase_time, o.retain_until_date,
       o.purge_time, c.state AS clock_state,
       o.export_snapshot IS NOT NULL AND NOT EXISTS (
           SELECT 1 FROM audit_event a
           WHERE a.firm_id = f.id AND a.xact >= pg_snapshot_xmin(o.export_snapshot::pg_snapshot)
             AND NOT pg_visible_in_snapshot(a.xact, o.export_snapshot::pg_snapshot) AND a.action <> ALL(%(own)s)) AS export_current
FROM control.firm f LEFT JOIN control.firm_offboarding o ON o.firm_id = f.id LEFT JOIN control.test_clock c ON c.firm_id = f.id
WHERE f.id = %(firm_id)s FOR NO KEY UPDATE OF f
"""
_STATE: Final = "UPDATE control.firm SET state = %(state)s, version = version + 1, update_time = clock_timestamp() WHERE id = %(firm_id)s"
_SUSPEND: Final = """
INSERT INTO control.firm_offboarding AS o (firm_id, suspend_time, suspend_actor) VALUES (%(firm_id)s, %(now)s, %(actor)s)
ON CONFLICT (firm_id) DO UPDATE SET suspend_time = excluded.suspend_time, suspend_actor = excluded.suspend_actor
"""
_RESUME: Final = (
    "UPDATE control.firm_offboarding SET suspend_time = NULL, suspend_actor = NULL WHERE firm_id = %(firm_id)s"
)
_ERASED: Final = """
UPDATE control.firm_offboarding SET erase_time = %(now)s, erase_actor = %(actor)s, retain_until_date = %(retain_until)s WHERE firm_id = %(firm_id)s
"""
_PURGED: Final = "UPDATE control.firm_offboarding SET purge_time = %(now)s WHERE firm_id = %(firm_id)s"
_UNDER_WAY: Final = """
SELECT (SELECT count(*) FROM attempt WHERE firm_id = %(firm_id)s AND state IN ('SENT', 'UNKNOWN', 'PENDING', 'REQUIRES_ACTION')) AS attempts,
       (SELECT count(*) FROM refund WHERE firm_id = %(firm_id)s AND state IN ('PROCESSING', 'PENDING')) AS refunds,
       (SELECT count(*) FROM approval WHERE firm_id = %(firm_id)s AND approve_time IS NULL AND reject_time IS NULL) AS approvals
"""
_PATIENCE: Final = "SELECT set_config('statement_timeout', %(timeout)s, true)"
_ERASE: Final = "SELECT erase_columns(%(table)s::regclass, %(columns)s::text[], %(replacements)s::text[])"
_PURGE: Final = "SELECT purge_documents(%(today)s)"
_REVOKE_KEYS: Final = """
UPDATE control.api_key SET revoke_time = coalesce(revoke_time, clock_timestamp()), display_name = 'erased' WHERE firm_id = %(firm_id)s
"""
_CLOSE_ACCOUNTS: Final = """
UPDATE control.provider_account SET credentials = %(credentials)s, key_id = %(key_id)s, state = 'DISABLED', version = version + 1,
    update_time = clock_timestamp()
WHERE id = %(id)s
"""
_FORGET_ROUTES: Final = "DELETE FROM control.provider_reference WHERE firm_id = %(firm_id)s"
_FORGET_HEADERS: Final = (
    "UPDATE control.inbox_envelope SET headers = NULL WHERE firm_id = %(firm_id)s AND headers IS NOT NULL"
)
_FORGET_ANSWERS: Final = (
    "DELETE FROM idempotency WHERE firm_id = %(firm_id)s AND request_id IS DISTINCT FROM %(request_id)s"
)
_FORGET_NOTICES: Final = (
    "UPDATE control.firm SET settings = settings #- '{document,notice_email}' WHERE id = %(firm_id)s"
)
_CANCEL_RUNS: Final = """
UPDATE run SET state = 'CANCELLED', end_time = clock_timestamp(), lease_until = NULL WHERE firm_id = %(firm_id)s AND state IN ('QUEUED', 'RUNNING')
"""


async def lock(uow: UnitOfWork, own_actions: Sequence[str]) -> Row:
    """How the transaction's firm stands, locked. `own_actions` are audit actions that do not count as changes since an export."""
    row = await uow.fetch_one(_STANDING, {"firm_id": uow.firm_id, "own": list(own_actions)})
    assert row is not None
    return row


async def suspend(uow: UnitOfWork) -> None:
    """Stop the firm."""
    await _mark(uow, _SUSPEND, "SUSPENDED")


async def resume(uow: UnitOfWork) -> None:
    """Let the firm work again."""
    await _mark(uow, _RESUME, "ACTIVE")


async def mark_erased(uow: UnitOfWork, retain_until: date) -> None:
    """From here on its columns may be erased, and it never works again."""
    await _mark(uow, _ERASED, "ERASED", retain_until=retain_until)


async def _mark(uow: UnitOfWork, statement: str, state: str, **more: Any) -> None:
    values = {"firm_id": uow.firm_id, "now": uow.machine_now, "actor": uow.context.actor.label, "state": state, **more}
    await uow.execute(_STATE, values)
    await uow.execute(statement, values)


async def under_way(uow: UnitOfWork) -> Row:
    """How many charges (`attempts`) and `refunds` have no outcome yet, and how many `approvals` wait for a person."""
    row = await uow.fetch_one(_UNDER_WAY, {"firm_id": uow.firm_id})
    assert row is not None
    return row


async def erase(uow: UnitOfWork, table: str, columns: Mapping[str, str | None], seconds: float) -> int:
    """Overwrite columns in all of the firm's rows; how many changed. The firm must be marked ERASED."""
    await uow.execute(_PATIENCE, {"timeout": f"{int(seconds * 1000)}ms"})
    values = {"table": f"public.{table}", "columns": list(columns), "replacements": list(columns.values())}
    return int(await uow.fetch_value(_ERASE, values))


async def forget_the_rest(uow: UnitOfWork, accounts: Mapping[Any, tuple[bytes, str]]) -> None:
    """What is neither the firm's books nor its texts: keys, credentials (`accounts`: an empty set of them, sealed, by account), routes,
    stored answers but this call's own, open runs."""
    values = {"firm_id": uow.firm_id, "request_id": uow.context.request_id}
    for statement in (_REVOKE_KEYS, _FORGET_ROUTES, _FORGET_HEADERS, _FORGET_ANSWERS, _FORGET_NOTICES, _CANCEL_RUNS):
        await uow.execute(statement, values)
    for account_id, (credentials, key_id) in accounts.items():
        await uow.execute(_CLOSE_ACCOUNTS, {"id": account_id, "credentials": credentials, "key_id": key_id})


async def purge(uow: UnitOfWork, today: date) -> int:
    """Delete the archived documents; how many they were."""
    count = int(await uow.fetch_value(_PURGE, {"today": today}))
    await uow.execute(_PURGED, {"firm_id": uow.firm_id, "now": uow.machine_now})
    return count
