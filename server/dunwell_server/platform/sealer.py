"""The sealer's loop: finds firms with audit entries that wait for their seal, seals them, and anchors the chains' heads.

Writers tell it nothing, so that sealing costs them nothing. Whether anything was written at all shows in the audit table's sequence,
one read for all firms; only when it moved does each firm get one look of its own, inside its own tenancy.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import audit_chain
from dunwell_server.platform.anchors import Anchor, AnchorStore
from dunwell_server.platform.audit_chain import Link
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database, UnitOfWork

INTERVAL: Final = 1.5
"""Seconds between two looks. A seal is promised within five seconds of the commit."""
ANCHOR_SECONDS: Final = 60.0
_log = structlog.get_logger(__name__)

_SURVEY: Final = """
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('public.audit_event', 'sequence')::regclass), 0) AS written,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon
"""
_MARK: Final = "SELECT pg_current_xact_id()::text::bigint"
_FIRMS: Final = "SELECT id FROM control.firm ORDER BY id"


@dataclass(slots=True)
class _Quiet:
    """What is known of the entries numbered up to `written`.

    `mark` is a transaction that began a whole interval after the last of them was numbered: once no transaction up to it runs, none of
    them can still appear. `confirmed`: they are sealed, all of them.
    """

    written: int = -1
    mark: int | None = None
    confirmed: bool = False


class AuditSealer:
    """Seals every firm's audit entries. Several processes may run one each: a firm is sealed by one at a time."""

    def __init__(
        self,
        database: Database,
        anchors: AnchorStore | None = None,
        *,
        interval: float = INTERVAL,
        anchor_seconds: float = ANCHOR_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._anchors = anchors
        self._interval = interval
        self._anchor_seconds = anchor_seconds
        self._monotonic = monotonic
        self._quiet = _Quiet()
        self._heads: dict[UUID, Link] = {}
        self._anchored: dict[UUID, tuple[float, int]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Look and seal until `stop`. Trouble with the database is logged and waited out."""
        while not self._stopping.is_set():
            try:
                await self.tick()
            except DunwellError as error:
                _log.warning("sealing_postponed", reason=error.reason.value)
            except Exception:
                _log.exception("sealing_failed")
            try:
                await asyncio.wait_for(self._stopping.wait(), self._interval * random.uniform(0.8, 1.2))
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Begin nothing more; what is being sealed is finished."""
        self._stopping.set()

    async def tick(self) -> int:
        """One look at everything; returns how many entries were sealed."""
        async with self._database.transaction(system_context(None, "job:seal"), write=False) as uow:
            survey = await uow.fetch_one(_SURVEY)
            assert survey is not None
            await self._begin(uow, survey["written"])
            firms = [] if self._quiet.confirmed else [row["id"] for row in await uow.fetch_all(_FIRMS)]
        sealed, complete = 0, True
        for firm_id in firms:
            count, finished = await self._seal_firm(firm_id)
            sealed += count
            complete = complete and finished
        mark = self._quiet.mark
        if complete and mark is not None and survey["horizon"] > mark:
            self._quiet.confirmed = True
        await self._anchor_heads()
        return sealed

    async def _begin(self, uow: UnitOfWork, written: int) -> None:
        if written != self._quiet.written:
            self._quiet = _Quiet(written)
        elif self._quiet.mark is None:
            self._quiet.mark = await uow.fetch_value(_MARK)

    async def _seal_firm(self, firm_id: UUID) -> tuple[int, bool]:
        """Seal what waits in one firm; how much that was, and whether nothing below the horizon is left."""
        context = system_context(firm_id, "job:seal", upkeep=True)
        sealed = 0
        while not self._stopping.is_set():
            try:
                step = await self._database.run(context, audit_chain.seal_batch)
            except DunwellError as error:
                if error.reason is Reason.DATABASE_UNAVAILABLE:
                    raise
                _log.warning("sealing_postponed", firm_id=str(firm_id), reason=error.reason.value)
                break
            sealed += step.count
            if step.head is not None:
                self._heads[firm_id] = step.head
            if step.busy:
                break
            if not step.more:
                return sealed, True
        return sealed, False

    async def _anchor_heads(self) -> None:
        """Anchor each head that has moved since its last anchor, at most once in `anchor_seconds`."""
        if self._anchors is None:
            return
        now = self._monotonic()
        for firm_id, head in self._heads.items():
            when, seq = self._anchored.get(firm_id, (None, 0))
            if head.seq != seq and (when is None or now - when >= self._anchor_seconds):
                await self.anchor(firm_id)
                self._anchored[firm_id] = (now, head.seq)

    async def anchor(self, firm_id: UUID) -> bool:
        """Anchor the firm's head now; False where there is nothing new, or the chain is not the one anchored before."""
        store = self._anchors
        assert store is not None
        known = await asyncio.to_thread(store.read, firm_id)

        async def heads(uow: UnitOfWork) -> tuple[Anchor | None, bytes | None]:
            row = await uow.fetch_one(
                "SELECT seq, hash FROM audit_seal WHERE firm_id = %(firm_id)s ORDER BY seq DESC LIMIT 1",
                {"firm_id": firm_id},
            )
            before = await audit_chain.hash_at(uow, known.last.seq) if known.last else None
            return (Anchor(firm_id, row["seq"], row["hash"], uow.machine_now) if row else None), before

        head, before = await self._database.run(system_context(firm_id, "job:anchor"), heads, write=False)
        if known.last is not None and before != known.last.hash:
            # A new anchor would hide that the chain was cut or made anew: people have to look.
            _log.error("audit_chain_differs_from_anchor", firm_id=str(firm_id), seq=known.last.seq)
            return False
        if head is None or (known.last is not None and known.last.seq == head.seq):
            return False
        await asyncio.to_thread(store.append, head)
        return True
