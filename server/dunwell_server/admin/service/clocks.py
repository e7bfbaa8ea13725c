"""Test clocks: given to a firm once, and sent on their way. The run that moves one is the scheduler's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from dunwell_server.admin.model import Clock
from dunwell_server.admin.store import clocks, firms
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, derive_uuid, encode, uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.runs import Run, RunKind

LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""No clock goes there or beyond."""


def advance_run_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The run of an advance follows from the request, so that a repeat finds it."""
    return derive_uuid("clock advance", firm_id, request_id)


async def get(uow: UnitOfWork, clock_id: UUID | None, *, lock: bool = False) -> Clock:
    """The firm's clock. CLOCK_NOT_TEST where it lives in real time; RESOURCE_NOT_FOUND for another clock's id."""
    clock = await clocks.get(uow, lock=lock)
    if clock_id is not None and (clock is None or clock.id != clock_id):
        message = "No such test clock."
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, message, resource=("TestClock", encode(Prefix.CLOCK, clock_id)))
    if clock is None:
        raise _not_test(uow, "The firm lives in real time: it has no test clock.")
    return clock


async def create(uow: UnitOfWork, firm_time: datetime | None) -> Clock:
    """CreateTestClock: from then on the firm's time stands at `firm_time`, now where that is None.

    Any time, as long as nothing was done yet to the firm's business; otherwise not before the last thing done.
    Errors: CLOCK_NOT_TEST, ALREADY_EXISTS, CLOCK_BACKWARDS, PROVIDER_MODE_MISMATCH.
    """
    if uow.firm.mode != "TEST":
        raise _not_test(uow, "The firm is LIVE: it cannot have a test clock.")
    live = next(
        (account for account in await firms.accounts(uow, uow.firm_id) if account.firm_id and account.mode == "LIVE"),
        None,
    )
    if live is not None:
        metadata = {"provider": live.provider, "firm_mode": uow.firm.mode, "account_mode": live.mode}
        raise DunwellError(
            Reason.PROVIDER_MODE_MISMATCH, "A firm with a LIVE account cannot have a test clock.", metadata=metadata
        )
    now = firm_time or uow.now
    clock = await clocks.insert(uow, uuid7(), now)
    if clock is None:
        existing = await get(uow, None)
        resource = ("TestClock", encode(Prefix.CLOCK, existing.id))
        metadata = {"resource_type": "test_clock", "resource_id": resource[1]}
        raise DunwellError(
            Reason.ALREADY_EXISTS, "The firm has a test clock already.", resource=resource, metadata=metadata
        )
    lived = await clocks.last_lived(uow)
    if lived is not None and now < lived:
        raise _backwards(lived, now)
    await record(
        uow,
        Change(Category.ADMIN, "test_clock_created", "test_clock", clock.id, metadata={"firm_time": now.isoformat()}),
    )
    return clock


def target_of(clock: Clock, target: datetime | None, by: timedelta | None) -> datetime:
    """Where an advance goes. CLOCK_BACKWARDS before the firm's time; FIELD_INVALID beyond the year 2199."""
    try:
        goal = target if target is not None else clock.now_time + (by or timedelta())
    except OverflowError:
        goal = LATEST
    if goal >= LATEST:
        raise field_invalid("advance_by" if target is None else "target_time", "leads beyond the year 2199")
    if goal < clock.now_time:
        raise _backwards(clock.now_time, goal)
    return goal


async def start_advance(
    uow: UnitOfWork, clock_id: UUID | None, target: datetime | None, by: timedelta | None, run_id: UUID
) -> UUID:
    """AdvanceTestClock: queue the run that moves the clock, and close the firm to everybody else; returns the run.

    Errors: CLOCK_NOT_TEST, RESOURCE_NOT_FOUND, CLOCK_BACKWARDS, CLOCK_ADVANCING, FIELD_INVALID.
    """
    clock = await get(uow, clock_id, lock=True)
    if clock.is_advancing:
        raise advancing(clock)
    goal = target_of(clock, target, by)
    params = {
        "from_time": clock.now_time.isoformat(), "target_time": goal.isoformat(), "after_xact": str(await clocks.current_xact(uow)),
    }  # fmt: skip
    await runs.create(uow, RunKind.CLOCK, params, dry_run=False, run_id=run_id)
    metadata = {
        "run_id": encode(Prefix.RUN, run_id),
        "from_time": params["from_time"],
        "target_time": params["target_time"],
    }
    await record(uow, Change(Category.ADMIN, "test_clock_advanced", "test_clock", clock.id, metadata=metadata))
    await clocks.start(uow, goal, run_id)
    return run_id


def check_same_target(run: Run, target: datetime | None, by: timedelta | None) -> None:
    """REQUEST_ID_REUSED where a repeat asks for another target than its advance has."""
    goal = target if target is not None else datetime.fromisoformat(run.params["from_time"]) + (by or timedelta())
    if goal != datetime.fromisoformat(run.params["target_time"]):
        message = "The request_id was used before with another payload; a new request needs a new one."
        raise DunwellError(Reason.REQUEST_ID_REUSED, message, field="request_id")


def advancing(clock: Clock) -> DunwellError:
    """CLOCK_ADVANCING, naming the clock and the run that moves it."""
    metadata = {"test_clock_id": encode(Prefix.CLOCK, clock.id)}
    if clock.run_id is not None:
        metadata["run_id"] = encode(Prefix.RUN, clock.run_id)
    message = "The firm's test clock is being advanced; try again when it stands."
    resource = ("TestClock", metadata["test_clock_id"])
    return DunwellError(Reason.CLOCK_ADVANCING, message, metadata=metadata, resource=resource, retry_after=1.0)


def _not_test(uow: UnitOfWork, message: str) -> DunwellError:
    firm = encode(Prefix.FIRM, uow.firm_id)
    return DunwellError(Reason.CLOCK_NOT_TEST, message, resource=("Firm", firm), metadata={"firm_id": firm})


def _backwards(firm_time: datetime, target: datetime) -> DunwellError:
    metadata = {"firm_time": _utc(firm_time), "target_time": _utc(target)}
    message = f"A test clock only moves forward: the firm has come to {metadata['firm_time']}."
    return DunwellError(Reason.CLOCK_BACKWARDS, message, metadata=metadata)


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
