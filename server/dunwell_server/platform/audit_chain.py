"""The audit chain: per firm, every audit entry gets a place in a gapless chain of hashes, within seconds of its commit.

Entries are ordered by (transaction id, sequence) and sealed only below the snapshot horizon, where no running transaction can still
put one in between. A link is SHA-256 over the link before and the entry's canonical bytes, version 1: every column as text, each
prefixed with its length in bytes. `verify` recomputes everything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, LiteralString
from uuid import UUID

from dunwell_server.platform.anchors import FirmAnchors
from dunwell_server.platform.database import Row, UnitOfWork

BATCH: Final = 2000
"""Entries sealed in one transaction."""
VERIFY_BATCH: Final = 1000
MAX_PROBLEMS: Final = 100
UNSEALED_SECONDS: Final = 60
"""An entry below the horizon that has waited longer than this is a problem: the sealer is meant to take five."""
_LOCK_SPACE: Final = 0x64775345

COLUMNS: Final = (
    "firm_id", "id", "sequence", "xact", "category", "action", "severity", "object_type", "object_id", "actor", "actor_role", "method",
    "request_id", "metadata", "firm_time", "create_time",
)  # fmt: skip
"""Every column of `audit_event`, in the order of canonical version 1."""

# Text forms that depend on no setting: instants are microseconds since 1970; jsonb prints its keys in one order. NULL is `~`, which no length is.
CANONICAL: Final[LiteralString] = """convert_to(concat('v1',
    octet_length(e.firm_id::text), ':', e.firm_id, octet_length(e.id::text), ':', e.id,
    octet_length(e.sequence::text), ':', e.sequence, octet_length(e.xact::text), ':', e.xact,
    octet_length(e.category), ':', e.category, octet_length(e.action), ':', e.action, octet_length(e.severity), ':', e.severity,
    octet_length(e.object_type), ':', e.object_type, octet_length(e.object_id::text), ':', e.object_id,
    octet_length(e.actor), ':', e.actor, octet_length(e.actor_role), ':', e.actor_role, octet_length(e.method), ':', e.method,
    coalesce(octet_length(e.request_id::text) || ':' || e.request_id, '~'),
    octet_length(e.metadata::text), ':', e.metadata,
    octet_length((extract(epoch FROM e.firm_time) * 1000000)::bigint::text), ':', (extract(epoch FROM e.firm_time) * 1000000)::bigint,
    octet_length((extract(epoch FROM e.create_time) * 1000000)::bigint::text), ':', (extract(epoch FROM e.create_time) * 1000000)::bigint
), 'UTF8')"""

_LOCK: Final = "SELECT pg_try_advisory_xact_lock(%(space)s, hashtext(%(firm_text)s))"
# The position is that of the last sealed entry that is still there; the link to continue is the last one, whatever became of its entry.
_HEAD: Final = """
SELECT s.seq, s.hash, p.xact::text AS xact, p.sequence
FROM (SELECT seq, hash FROM audit_seal WHERE firm_id = %(firm_id)s ORDER BY seq DESC LIMIT 1) s
LEFT JOIN LATERAL (
    SELECT e.xact, e.sequence FROM audit_seal k JOIN audit_event e ON e.firm_id = k.firm_id AND e.id = k.audit_id
    WHERE k.firm_id = %(firm_id)s ORDER BY k.seq DESC LIMIT 1
) p ON true
"""
_UNSEALED: Final[LiteralString] = (
    "SELECT e.id, "
    + CANONICAL
    + """ AS canonical FROM audit_event e
WHERE e.firm_id = %(firm_id)s AND (e.xact, e.sequence) > (%(xact)s::text::xid8, %(sequence)s)
  AND e.xact < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY e.xact, e.sequence LIMIT %(limit)s
"""
)
_SEAL: Final = """
INSERT INTO audit_seal (firm_id, seq, audit_id, hash)
SELECT %(firm_id)s, %(seq)s + position, id, hash FROM unnest(%(ids)s::uuid[], %(hashes)s::bytea[]) WITH ORDINALITY AS s (id, hash, position)
ORDER BY position
"""
_CHAIN: Final[LiteralString] = (
    "SELECT s.seq, s.hash, s.audit_id, e.xact::text::bigint AS xact, e.sequence, e.id IS NULL AS missing, "
    + CANONICAL
    + """ AS canonical
FROM audit_seal s LEFT JOIN audit_event e ON e.firm_id = s.firm_id AND e.id = s.audit_id
WHERE s.firm_id = %(firm_id)s AND s.seq > %(after)s ORDER BY s.seq LIMIT %(limit)s
"""
)
_WAITING: Final = f"""
SELECT count(*) AS waiting,
       count(*) FILTER (WHERE e.xact < pg_snapshot_xmin(pg_current_snapshot()) AND e.create_time < clock_timestamp() - interval '{UNSEALED_SECONDS} s') AS late,
       count(*) FILTER (WHERE (e.xact, e.sequence) < (%(xact)s::text::xid8, %(sequence)s)) AS behind,
       (array_agg(e.id ORDER BY e.xact, e.sequence))[1] AS first_id
FROM audit_event e
WHERE e.firm_id = %(firm_id)s AND NOT EXISTS (SELECT 1 FROM audit_seal s WHERE s.firm_id = e.firm_id AND s.audit_id = e.id)
"""


class ProblemKind(StrEnum):
    """What is wrong with a chain; the names are the contract's."""

    ALTERED = "ALTERED"
    MISSING = "MISSING"
    BROKEN_LINK = "BROKEN_LINK"
    ANCHOR_MISMATCH = "ANCHOR_MISMATCH"
    UNSEALED = "UNSEALED"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `seq` is 0 where it concerns no link; `message` is for people."""

    seq: int
    kind: ProblemKind
    message: str
    audit_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain and its hash."""

    seq: int
    hash: bytes


@dataclass(slots=True)
class ChainReport:
    """What verifying one firm's chain found. `problems` holds the first hundred, in chain order."""

    firm_id: UUID
    verified: int = 0
    unsealed: int = 0
    head: Link | None = None
    anchor: Link | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def add(self, seq: int, kind: ProblemKind, message: str, audit_id: UUID | None = None) -> None:
        """Note a problem, unless there are enough."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(seq, kind, message, audit_id))


Fetch = Callable[[LiteralString, dict[str, Any]], Awaitable[Sequence[Row]]]


def genesis(firm_id: UUID) -> bytes:
    """What the first link of a firm's chain continues."""
    return sha256(b"dunwell audit chain v1" + firm_id.bytes).digest()


def next_hash(previous: bytes, canonical: bytes) -> bytes:
    """The link of an entry after `previous`."""
    return sha256(previous + canonical).digest()


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one step of sealing did: how many entries it sealed, the chain's head, and whether more may wait.

    `busy`: another process seals this firm now, and nothing was done.
    """

    count: int
    head: Link | None
    more: bool
    busy: bool = False


async def seal_batch(uow: UnitOfWork, limit: int = BATCH) -> Sealed:
    """Seal up to `limit` waiting entries of the transaction's firm. Does nothing where another process is at it."""
    values: dict[str, Any] = {
        "firm_id": uow.firm_id,
        "firm_text": str(uow.firm_id),
        "space": _LOCK_SPACE,
        "limit": limit,
    }
    if not await uow.fetch_value(_LOCK, values):
        return Sealed(0, None, False, busy=True)
    row = await uow.fetch_one(_HEAD, values)
    head = Link(row["seq"], row["hash"]) if row else Link(0, genesis(uow.firm_id))
    values["xact"], values["sequence"] = (row["xact"] or "0", row["sequence"] or 0) if row else ("0", 0)
    entries = await uow.fetch_all(_UNSEALED, values)
    if entries:
        hashes, last = [], head.hash
        for entry in entries:
            last = next_hash(last, entry["canonical"])
            hashes.append(last)
        await uow.execute(
            _SEAL, {**values, "seq": head.seq, "ids": [entry["id"] for entry in entries], "hashes": hashes}
        )
        head = Link(head.seq + len(entries), last)
    return Sealed(len(entries), head if head.seq else None, len(entries) == limit)


async def hash_at(uow: UnitOfWork, seq: int) -> bytes | None:
    """The stored hash of one link of the transaction's firm; None where there is no such link."""
    values = {"firm_id": uow.firm_id, "seq": seq}
    hashed: bytes | None = await uow.fetch_value(
        "SELECT hash FROM audit_seal WHERE firm_id = %(firm_id)s AND seq = %(seq)s", values
    )
    return hashed


async def verify(fetch: Fetch, firm_id: UUID, anchors: FirmAnchors | None = None) -> ChainReport:
    """Recompute a firm's whole chain and compare it with its anchors.

    Finds entries that were changed, deleted, exchanged, or slipped in behind the head, links that were changed or removed, and a
    chain that is shorter than, or another one than, its anchors say. `fetch` runs a query as a role that sees the firm's rows.
    """
    report = ChainReport(firm_id)
    wanted = {anchor.seq: anchor.hash for anchor in anchors.anchors} if anchors else {}
    expected, previous, position = 1, genesis(firm_id), (0, 0)
    mended = True
    async for row in _chain(fetch, firm_id):
        seq, audit_id = row["seq"], row["audit_id"]
        if seq != expected:
            report.add(expected, ProblemKind.BROKEN_LINK, f"links {expected} to {seq - 1} are gone")
        if row["missing"]:
            report.add(seq, ProblemKind.MISSING, "the sealed entry is gone", audit_id)
        else:
            mended = _check_link(report, row, previous, position, intact=mended and seq == expected)
            position = (row["xact"], row["sequence"])
        if wanted.get(seq, row["hash"]) != row["hash"]:
            report.add(seq, ProblemKind.ANCHOR_MISMATCH, "the link is not the one that was anchored", audit_id)
        report.verified += 1
        expected, previous = seq + 1, row["hash"]
        report.head = Link(seq, row["hash"])
    await _check_rest(fetch, report, position, anchors)
    return report


def _check_link(report: ChainReport, row: Row, previous: bytes, position: tuple[int, int], *, intact: bool) -> bool:
    """Compare one link with what it should be; False where it is wrong, so that the next one's trouble is told as a consequence."""
    seq, audit_id = row["seq"], row["audit_id"]
    here = (row["xact"], row["sequence"])
    right: bool = next_hash(previous, row["canonical"]) == row["hash"]
    if here <= position:
        report.add(seq, ProblemKind.BROKEN_LINK, "the entry is out of order", audit_id)
    elif not right and intact:
        report.add(seq, ProblemKind.ALTERED, "the entry or its link was changed after it was sealed", audit_id)
    elif not right:
        report.add(seq, ProblemKind.BROKEN_LINK, "the link does not continue the one before", audit_id)
    return right


async def _check_rest(
    fetch: Fetch, report: ChainReport, position: tuple[int, int], anchors: FirmAnchors | None
) -> None:
    values = {"firm_id": report.firm_id, "xact": str(position[0]), "sequence": position[1]}
    [waiting] = await fetch(_WAITING, values)
    report.unsealed = waiting["waiting"]
    if waiting["behind"]:
        message = f"{waiting['behind']} entries stand before the head of the chain and are not in it"
        report.add(0, ProblemKind.UNSEALED, message, waiting["first_id"])
    elif waiting["late"]:
        message = f"{waiting['late']} entries have waited for their seal for more than {UNSEALED_SECONDS} seconds"
        report.add(0, ProblemKind.UNSEALED, message, waiting["first_id"])
    if anchors is None:
        return
    if anchors.invalid_lines:
        report.add(0, ProblemKind.ANCHOR_MISMATCH, f"{anchors.invalid_lines} anchors have no valid signature")
    last = anchors.last
    if last is None:
        return
    report.anchor = Link(last.seq, last.hash)
    head = report.head.seq if report.head else 0
    if last.seq > head:
        report.add(head + 1, ProblemKind.ANCHOR_MISMATCH, f"the chain ends at {head}; link {last.seq} was anchored")


async def _chain(fetch: Fetch, firm_id: UUID) -> AsyncIterator[Row]:
    after = -1
    while rows := await fetch(_CHAIN, {"firm_id": firm_id, "after": after, "limit": VERIFY_BATCH}):
        for row in rows:
            yield row
        after = rows[-1]["seq"]
