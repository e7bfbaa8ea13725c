"""Everything that must hold, as SQL that names the rows where it does not.

`run_all` looks at every firm as the auditor's role, in one snapshot; `run_for_firm` at the transaction's firm. What the
specification numbers 10 and 11 (provider events, quotas) has no tables yet.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from dunwell_server.platform import audit_chain
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.invariants.books import FACTS, INVOICES, LEDGER
from dunwell_server.platform.invariants.cards import check_cards
from dunwell_server.platform.invariants.catalogue import CATALOGUE, catalogue_checks
from dunwell_server.platform.invariants.credit import CREDIT
from dunwell_server.platform.invariants.model import MAX_ROWS, Check, Fetch, Invariant, Violation, run
from dunwell_server.platform.invariants.provider import Movement, check_provider
from dunwell_server.platform.invariants.recognition import RECOGNITION
from dunwell_server.platform.invariants.refunds import REFUNDS
from dunwell_server.platform.invariants.work import AUDIT, COLLECTION, COVERAGE, STATES, STUCK

__all__ = [
    "CATALOGUE", "INVARIANTS", "Check", "Fetch", "Invariant", "Movement", "Violation", "catalogue_checks", "check_cards", "check_chains",
    "check_provider", "run", "run_all", "run_for_firm",
]  # fmt: skip

INVARIANTS: Final = (
    *LEDGER,
    *RECOGNITION,
    *INVOICES,
    *CREDIT,
    *FACTS,
    *REFUNDS,
    *COLLECTION,
    *COVERAGE,
    *STATES,
    *AUDIT,
    *STUCK,
)
"""Every invariant that is one query over the firms' rows."""


async def run_for_firm(uow: UnitOfWork) -> list[Check]:
    """Every invariant over the transaction's firm, ordered by number."""
    checks = [await run(invariant, uow.fetch_all) for invariant in INVARIANTS]
    checks.append(await check_cards(uow.fetch_all, tenant_only=True))
    return sorted(checks, key=lambda check: check.number)


async def run_all(auditor_url: str, anchors: AnchorStore | None = None) -> list[Check]:
    """Every invariant over every firm, the catalogue and the audit chains, in one snapshot; ordered by number.

    `auditor_url` connects as the read-only role that sees every firm (an owner's does too). psycopg.Error where it does not answer.
    """
    async with await psycopg.AsyncConnection.connect(auditor_url, row_factory=dict_row, autocommit=True) as connection:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

        async def fetch(statement: LiteralString, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(statement, params)).fetchall()

        checks = [await run(invariant, fetch) for invariant in INVARIANTS]
        checks.append(await check_cards(fetch))
        checks.append(await check_chains(fetch, anchors))
        checks += await catalogue_checks(fetch)
        await connection.execute("COMMIT")
    return sorted(checks, key=lambda check: check.number)


async def check_chains(fetch: Fetch, anchors: AnchorStore | None) -> Check:
    """Recompute the audit chain of every firm and compare it with its anchors."""
    firms: list[UUID] = [row["id"] for row in await fetch("SELECT id FROM control.firm ORDER BY id", {})]
    found: list[Violation] = []
    for firm_id in firms:
        report = await audit_chain.verify(fetch, firm_id, anchors.read(firm_id) if anchors else None)
        found += [
            Violation(firm_id, "audit_seal", str(problem.seq), f"{problem.kind}: {problem.message}")
            for problem in report.problems
        ]
    description = "Every firm's audit chain verifies and agrees with its anchors."
    return Check("audit_chains", 9, description, len(found), tuple(found[:MAX_ROWS]))
