"""Test clocks through a real channel: given once, moved forward, told from the beginning however often one asks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import firm_pb2, provider_pb2, run_pb2, test_clock_pb2
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.journal import Category, Change, record
from tests import support
from tests.rpc.admin.conftest import Served
from tests.rpc.floor.fakes import failure

START = datetime(2026, 1, 1, tzinfo=UTC)


def stamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def days(count: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(days=count))
    return message


async def clocked(served: Served, start: datetime = START) -> UUID:
    firm = await served.firm()
    await served.call("CreateTestClock", pb.CreateTestClockRequest(firm_time=stamp(start)), Role.FIRM_ADMIN, firm)
    return firm


async def advance(served: Served, firm: UUID, **to: Any) -> list[pb.AdvanceTestClockResponse]:
    stream = await served.stream("AdvanceTestClock", pb.AdvanceTestClockRequest(**to), Role.FIRM_ADMIN, firm)
    return [message async for message in stream]


async def test_a_clock_stands_where_it_was_set(served: Served) -> None:
    firm = await served.firm()
    request = pb.CreateTestClockRequest(firm_time=stamp(START), request_id=str(uuid4()))
    metadata = await served.metadata(Role.FIRM_ADMIN, firm)
    clock = (await served.call("CreateTestClock", request, metadata=metadata)).test_clock
    assert (clock.state, clock.firm_time) == (test_clock_pb2.TEST_CLOCK_STATE_READY, stamp(START))
    assert (await served.call("CreateTestClock", request, metadata=metadata)).test_clock.id == clock.id
    read = await served.call("GetTestClock", pb.GetTestClockRequest(), Role.READER, firm)
    assert read.test_clock == clock
    assert (await served.call("GetFirm", pb.GetFirmRequest(), Role.READER, firm)).firm.test_clock_id == clock.id
    assert served.outside.times == [START]
    again = await failure(served.call("CreateTestClock", pb.CreateTestClockRequest(), metadata=metadata))
    assert (again.reason, again.metadata["resource_id"]) == ("ALREADY_EXISTS", clock.id)


async def test_a_clock_without_a_time_stands_now(served: Served) -> None:
    firm = await served.firm()
    clock = (await served.call("CreateTestClock", pb.CreateTestClockRequest(), Role.FIRM_ADMIN, firm)).test_clock
    assert abs(clock.firm_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=30)


async def test_what_has_no_clock(served: Served) -> None:
    firm = await served.firm()
    for rpc, request in (
        ("GetTestClock", pb.GetTestClockRequest()), ("AdvanceTestClock", pb.AdvanceTestClockRequest(advance_by=days(1), request_id=str(uuid4()))),
    ):  # fmt: skip
        call = getattr(served.stub, rpc)(request, metadata=await served.metadata(Role.FIRM_ADMIN, firm))
        assert (await failure(call)).reason == "CLOCK_NOT_TEST", rpc
    live = await served.firm(mode=provider_pb2.ACCOUNT_MODE_LIVE)
    assert (
        await failure(served.call("CreateTestClock", pb.CreateTestClockRequest(), Role.FIRM_ADMIN, live))
    ).reason == "CLOCK_NOT_TEST"
    other = await clocked(served)
    clock = (await served.call("GetTestClock", pb.GetTestClockRequest(), Role.FIRM_ADMIN, other)).test_clock
    request = pb.GetTestClockRequest(test_clock_id=clock.id)
    assert (await failure(served.call("GetTestClock", request, Role.FIRM_ADMIN, firm))).reason == "RESOURCE_NOT_FOUND"
    unknown = pb.GetTestClockRequest(test_clock_id=encode(Prefix.CLOCK, uuid7()))
    assert (await failure(served.call("GetTestClock", unknown, Role.FIRM_ADMIN, other))).reason == "RESOURCE_NOT_FOUND"


async def test_a_firm_that_has_lived_is_not_set_back(served: Served) -> None:
    firm = await served.firm()
    async with served.db.transaction(support.context(firm)) as uow:
        await record(uow, Change(Category.BILLING, "client_created", "client", uuid4()))
    back = pb.CreateTestClockRequest(firm_time=stamp(START))
    assert (await failure(served.call("CreateTestClock", back, Role.FIRM_ADMIN, firm))).reason == "CLOCK_BACKWARDS"
    assert (await served.call("CreateTestClock", pb.CreateTestClockRequest(), Role.FIRM_ADMIN, firm)).test_clock.id


async def test_an_advance_tells_what_happens_in_order(served: Served) -> None:
    firm = await clocked(served)
    messages = await advance(served, firm, target_time=stamp(START + timedelta(days=100)))
    last = messages[-1]
    assert last.last
    assert not any(message.last for message in messages[:-1])
    assert (last.test_clock.state, last.test_clock.firm_time) == (
        test_clock_pb2.TEST_CLOCK_STATE_READY,
        stamp(START + timedelta(days=100)),
    )
    assert (last.run.state, last.run.kind, last.run.id) == (
        run_pb2.RUN_STATE_SUCCEEDED,
        run_pb2.RUN_KIND_CLOCK_ADVANCE,
        last.test_clock.run_id,
    )
    events = [event for message in messages for event in message.events]
    assert [event.seq for event in events] == [1, 2, 3]
    assert [event.event_time.ToDatetime(tzinfo=UTC) - START for event in events] == [
        timedelta(days=n) for n in (30, 60, 90)
    ]
    assert all(
        event.kind == test_clock_pb2.CLOCK_EVENT_KIND_INVOICE_FINALIZED and event.amount.amount_minor == 2500
        for event in events
    )
    assert all(event.invoice_id.startswith("inv_") and event.client_id.startswith("cli_") for event in events)
    assert [(amount.currency_code, amount.amount_minor) for amount in last.summary.invoiced_amounts] == [("USD", 7500)]
    assert [(count.kind, count.count) for count in last.summary.counts] == [
        (test_clock_pb2.CLOCK_EVENT_KIND_INVOICE_FINALIZED, 3)
    ]
    assert served.outside.times[0] == START
    assert served.outside.times[-1] == START + timedelta(days=100)
    assert served.outside.times == sorted(served.outside.times)


async def test_years_pass_in_one_advance(served: Served) -> None:
    firm = await clocked(served)
    messages = await advance(served, firm, advance_by=days(3653))
    events = [event for message in messages for event in message.events]
    assert [event.seq for event in events] == list(range(1, 122))
    assert all(len(message.events) <= 100 for message in messages)
    times = [event.event_time.ToDatetime() for event in events]
    assert times == sorted(times)


async def test_a_repeat_tells_the_same_advance_from_the_beginning(served: Served) -> None:
    firm = await clocked(served)
    metadata = await served.metadata(Role.FIRM_ADMIN, firm)
    request = pb.AdvanceTestClockRequest(advance_by=days(65), request_id=str(uuid4()))

    async def events() -> list[test_clock_pb2.ClockEvent]:
        stream = served.stub.AdvanceTestClock(request, metadata=metadata, timeout=30)
        return [event async for message in stream for event in message.events]

    cut = served.stub.AdvanceTestClock(request, metadata=metadata, timeout=30)
    await cut.read()
    cut.cancel()
    first = await events()
    assert len(first) == 2
    assert await events() == first
    later = await advance(served, firm, advance_by=days(60))
    assert len([event for message in later for event in message.events]) == 2
    assert await events() == first, "a later advance is none of its business"
    clock = (await served.call("GetTestClock", pb.GetTestClockRequest(), metadata=metadata)).test_clock
    assert clock.firm_time == stamp(START + timedelta(days=125))
    other = pb.AdvanceTestClockRequest(advance_by=days(1), request_id=request.request_id)
    assert (await failure(served.stub.AdvanceTestClock(other, metadata=metadata))).reason == "REQUEST_ID_REUSED"


async def test_a_clock_never_goes_back_nor_beyond_the_calendar(served: Served) -> None:
    firm = await clocked(served)
    back = await served.stream(
        "AdvanceTestClock",
        pb.AdvanceTestClockRequest(target_time=stamp(START - timedelta(seconds=1))),
        Role.FIRM_ADMIN,
        firm,
    )
    found = await failure(back)
    assert found.reason == "CLOCK_BACKWARDS"
    assert found.metadata == {"firm_time": "2026-01-01T00:00:00Z", "target_time": "2025-12-31T23:59:59Z"}
    for request in (
        pb.AdvanceTestClockRequest(advance_by=Duration(seconds=-1)),
        pb.AdvanceTestClockRequest(advance_by=Duration()),
        pb.AdvanceTestClockRequest(),
    ):
        stream = await served.stream("AdvanceTestClock", request, Role.FIRM_ADMIN, firm)
        assert (await failure(stream)).reason == "FIELD_INVALID"
    late = await clocked(served, datetime(2190, 1, 1, tzinfo=UTC))
    stream = await served.stream(
        "AdvanceTestClock", pb.AdvanceTestClockRequest(advance_by=days(3700)), Role.FIRM_ADMIN, late
    )
    assert (await failure(stream)).reason == "FIELD_INVALID"
    assert (await advance(served, firm, advance_by=days(0.5)))[-1].test_clock.firm_time == stamp(
        START + timedelta(hours=12)
    )


async def test_others_wait_while_it_advances(served: Served) -> None:
    firm = await clocked(served)
    async with served.db.transaction(support.context(None)) as uow:
        run_id = uuid7()
        await uow.execute(
            "UPDATE control.test_clock SET state = 'ADVANCING', target_time = now_time, run_id = %s, owner = gen_random_uuid(),"
            " lease_until = clock_timestamp() + interval '1 hour' WHERE firm_id = %s", (run_id, firm)
        )  # fmt: skip
    text = encode(Prefix.FIRM, firm)
    change = pb.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=text, display_name="x"), update_mask=FieldMask(paths=["display_name"])
    )
    assert (await failure(served.call("UpdateFirm", change, Role.FIRM_ADMIN, firm))).reason == "CLOCK_ADVANCING"
    stream = await served.stream(
        "AdvanceTestClock", pb.AdvanceTestClockRequest(advance_by=days(1)), Role.FIRM_ADMIN, firm
    )
    found = await failure(stream)
    assert (found.reason, found.metadata["run_id"]) == ("CLOCK_ADVANCING", encode(Prefix.RUN, run_id))
    assert "RetryInfo" in found.details
    assert (await served.call("GetFirm", pb.GetFirmRequest(), Role.READER, firm)).firm.id == text


async def test_an_advance_that_breaks_says_so_and_leaves_the_firm_open(served: Served) -> None:
    firm = await clocked(served)
    served.monthly.broken = True
    messages = await advance(served, firm, advance_by=days(40))
    assert messages[-1].last
    assert messages[-1].run.state == run_pb2.RUN_STATE_FAILED
    assert "ZeroDivisionError" in messages[-1].run.error_message
    clock = messages[-1].test_clock
    assert (clock.state, clock.firm_time) == (test_clock_pb2.TEST_CLOCK_STATE_READY, stamp(START + timedelta(days=30)))
    served.monthly.broken = False
    again = await advance(served, firm, target_time=stamp(START + timedelta(days=40)))
    assert again[-1].run.state == run_pb2.RUN_STATE_SUCCEEDED
    assert sum(len(message.events) for message in again) == 1


async def test_runs_are_read_and_watched(served: Served) -> None:
    firm = await clocked(served)
    run = (await advance(served, firm, advance_by=days(10)))[-1].run
    await advance(served, firm, advance_by=days(10))
    assert (await served.call("GetRun", pb.GetRunRequest(run_id=run.id), Role.READER, firm)).run == run
    watched = await served.stream("WatchRun", pb.WatchRunRequest(run_id=run.id), Role.READER, firm)
    progress = [message.progress async for message in watched]
    assert [item.last for item in progress] == [True]
    assert progress[0].run == run
    listed = (
        await served.call("ListRuns", pb.ListRunsRequest(kinds=[run_pb2.RUN_KIND_CLOCK_ADVANCE]), Role.READER, firm)
    ).runs
    assert [found.id for found in listed][-1] == run.id
    page = await served.call(
        "ListRuns", pb.ListRunsRequest(page_size=1, order=run_pb2.RUN_ORDER_CREATE_TIME_ASC), Role.READER, firm
    )
    assert [found.id for found in page.runs] == [run.id]
    assert page.next_page_token
    assert not (await served.call("ListRuns", pb.ListRunsRequest(dry_run=True), Role.READER, firm)).runs
    other = await served.firm()
    for rpc, request in (("GetRun", pb.GetRunRequest(run_id=run.id)), ("WatchRun", pb.WatchRunRequest(run_id=run.id))):
        call = getattr(served.stub, rpc)(request, metadata=await served.metadata(Role.READER, other))
        assert (await failure(call)).reason == "RESOURCE_NOT_FOUND", rpc
        firmless = getattr(served.stub, rpc)(request, metadata=await served.metadata())
        assert (await failure(firmless)).reason == "RESOURCE_NOT_FOUND", rpc


async def test_permissions(served: Served) -> None:
    firm = await clocked(served)
    for role in (Role.OPERATOR, Role.SERVICE, Role.READER):
        call = served.call("CreateTestClock", pb.CreateTestClockRequest(), role, firm)
        assert (await failure(call)).reason == "PERMISSION_DENIED"
        stream = await served.stream("AdvanceTestClock", pb.AdvanceTestClockRequest(advance_by=days(1)), role, firm)
        assert (await failure(stream)).reason == "PERMISSION_DENIED"
    assert (await failure(served.call("GetTestClock", pb.GetTestClockRequest()))).reason == "FIRM_REQUIRED"
