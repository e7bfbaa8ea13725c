"""The ledger's SQL: postings in, in bulk; the trial balance and its proof out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from dunwell_server.kernel.ids import uuid7
from dunwell_server.ledger.model import Posting
from dunwell_server.platform.database import Row, UnitOfWork

# One statement each, so that the balance trigger sees whole postings.
_INSERT = """
WITH posted AS (
    INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
    SELECT %(firm_id)s, id, source_type, source_id, kind, firm_time
    FROM unnest(%(ids)s::uuid[], %(source_types)s::text[], %(source_ids)s::uuid[], %(kinds)s::text[], %(times)s::timestamptz[])
        AS p (id, source_type, source_id, kind, firm_time)
)
INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, provider, currency_code, amount_minor)
SELECT %(firm_id)s, posting_id, line_no, account, client_id, provider, currency_code, amount_minor
FROM unnest(%(posting_ids)s::uuid[], %(line_nos)s::int[], %(accounts)s::text[], %(client_ids)s::uuid[], %(providers)s::text[],
            %(currencies)s::text[], %(amounts)s::bigint[]) AS e (posting_id, line_no, account, client_id, provider, currency_code, amount_minor)
ORDER BY posting_id, line_no
"""

TRIAL_BALANCE = """
SELECT account, currency_code, sum(amount_minor) AS balance,
       coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0) AS debits, -coalesce(sum(amount_minor) FILTER (WHERE amount_minor < 0), 0) AS credits
FROM ledger_entry WHERE firm_id = %(firm_id)s GROUP BY account, currency_code ORDER BY currency_code, account
"""


async def insert(uow: UnitOfWork, postings: Sequence[Posting]) -> None:
    """Write postings with their entries. The database refuses an unbalanced one, and a second posting of the same fact."""
    params: dict[str, Any] = {"firm_id": uow.firm_id, "ids": [uuid7() for _ in postings]}
    params["source_types"] = [posting.source_type for posting in postings]
    params["source_ids"] = [posting.source_id for posting in postings]
    params["kinds"] = [posting.kind for posting in postings]
    params["times"] = [posting.firm_time or uow.now for posting in postings]
    entries = [
        (posting_id, line_no, entry)
        for posting_id, posting in zip(params["ids"], postings, strict=True)
        for line_no, entry in enumerate(posting.entries, 1)
    ]
    params["posting_ids"] = [posting_id for posting_id, _, _ in entries]
    params["line_nos"] = [line_no for _, line_no, _ in entries]
    params["accounts"] = [entry.account.value for _, _, entry in entries]
    params["client_ids"] = [entry.client_id for _, _, entry in entries]
    params["providers"] = [entry.provider for _, _, entry in entries]
    params["currencies"] = [entry.currency_code for _, _, entry in entries]
    params["amounts"] = [entry.amount_minor for _, _, entry in entries]
    await uow.execute(_INSERT, params)


async def trial_balance(uow: UnitOfWork) -> list[Row]:
    """Per account and currency: balance (debits − credits), debits, credits, in minor units."""
    return await uow.fetch_all(TRIAL_BALANCE, {"firm_id": uow.firm_id})


_BALANCES = """
SELECT currency_code, receivable_minor, credit_minor FROM client_balance
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s ORDER BY currency_code
"""


async def client_balances(uow: UnitOfWork, client_id: UUID) -> list[Row]:
    """The stored balances of a client, one row per currency it has ever used."""
    return await uow.fetch_all(_BALANCES, {"firm_id": uow.firm_id, "client_id": client_id})
