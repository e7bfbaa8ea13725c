"""Verifying a firm's audit trail and books."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dunwell_server.ledger.store import trial_balance
from dunwell_server.platform import audit_chain, invariants
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.audit_chain import ChainReport
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.invariants import Check


@dataclass(frozen=True, slots=True)
class TrialTotal:
    """The sums of all debits and all credits in one currency, minor units; equal when the books balance."""

    currency_code: str
    debit_minor: int
    credit_minor: int


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What verifying a firm's books found. `time` is machine time."""

    checks: Sequence[Check]
    totals: Sequence[TrialTotal]
    time: datetime

    @property
    def ok(self) -> bool:
        """Every invariant holds."""
        return all(check.ok for check in self.checks)


async def verify_trail(uow: UnitOfWork, anchors: AnchorStore | None) -> ChainReport:
    """VerifyAuditTrail: recompute the chain of the transaction's firm and compare it with its anchors."""
    known = await asyncio.to_thread(anchors.read, uow.firm_id) if anchors is not None else None
    return await audit_chain.verify(uow.fetch_all, uow.firm_id, known)


async def verify_ledger(uow: UnitOfWork) -> LedgerReport:
    """VerifyLedger: every invariant over everything that the transaction's firm has."""
    checks = await invariants.run_for_firm(uow)
    totals: dict[str, TrialTotal] = {}
    for row in await trial_balance(uow):
        code = row["currency_code"]
        before = totals.get(code, TrialTotal(code, 0, 0))
        totals[code] = TrialTotal(
            code, before.debit_minor + int(row["debits"]), before.credit_minor + int(row["credits"])
        )
    return LedgerReport(checks, list(totals.values()), uow.machine_now)
