"""The audit trail, verification, providers and runs over all firms, through a real channel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import audit_pb2, options_pb2, provider_pb2, range_pb2, run_pb2, verification_pb2
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.platform import runs
from dunwell_server.platform.context import Role
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.runs import RunItem, RunKind
from tests import support
from tests.integration.platform.horizon import past_horizon
from tests.rpc.admin.conftest import Served
from tests.rpc.floor.fakes import failure


async def told(served: Served, firm: UUID, client: UUID) -> None:
    async with served.db.transaction(support.context(firm, person="maria@example.com")) as uow:
        await record(
            uow,
            Change(Category.BILLING, "client_created", "client", client, metadata={"n": 1, "nested": {"a": [1, None]}}),
            Change(Category.PAYMENT, "payment_failed", "payment", uuid7(), severity=Severity.WARNING),
            Change(Category.DISPUTE, "payment_disputed", "payment", uuid7(), severity=Severity.CRITICAL),
        )


async def listed(served: Served, firm: UUID, **wanted: object) -> list[audit_pb2.AuditEvent]:
    request = pb.ListAuditEventsRequest(**wanted)  # type: ignore[arg-type]
    return list((await served.call("ListAuditEvents", request, Role.READER, firm)).audit_events)


async def test_entries_are_found_by_every_filter(served: Served) -> None:
    firm, client = await served.firm(), uuid7()
    await told(served, firm, client)
    everything = await listed(served, firm)
    assert [entry.action for entry in everything] == [
        "payment_disputed",
        "payment_failed",
        "client_created",
        "firm_created",
    ]
    oldest = await listed(served, firm, order=audit_pb2.AUDIT_EVENT_ORDER_CREATE_TIME_ASC)
    assert oldest == everything[::-1]

    async def actions(**wanted: object) -> set[str]:
        return {entry.action for entry in await listed(served, firm, **wanted)}

    assert await actions(categories=[audit_pb2.AUDIT_CATEGORY_PAYMENT, audit_pb2.AUDIT_CATEGORY_DISPUTE]) == {
        "payment_failed",
        "payment_disputed",
    }
    assert await actions(actions=["client_created"]) == {"client_created"}
    assert await actions(severities=[audit_pb2.AUDIT_SEVERITY_CRITICAL]) == {"payment_disputed"}
    assert await actions(object_type="client") == {"client_created"}
    assert await actions(object_id=encode(Prefix.CLIENT, client)) == {"client_created"}
    assert await actions(actor="maria@example.com") == {"client_created", "payment_failed", "payment_disputed"}
    assert await actions(actor="maria@example.com", severities=[audit_pb2.AUDIT_SEVERITY_INFO]) == {"client_created"}
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    assert await actions(create_time={"start_time": moment}) == set()
    assert len(await actions(create_time={"end_time": moment})) == 4
    [entry] = await listed(served, firm, actions=["client_created"])
    assert entry.object_id == encode(Prefix.CLIENT, client)
    assert dict(entry.metadata) == {"n": "1", "nested": '{"a":[1,null]}'}
    assert (entry.actor, entry.actor_role) == ("maria@example.com", options_pb2.ROLE_FIRM_ADMIN)
    assert oldest[0].method == "AdminService/CreateFirm"
    assert oldest[0].request_id


async def test_entries_are_paged_and_bad_filters_refused(served: Served) -> None:
    firm = await served.firm()
    for _ in range(3):
        await told(served, firm, uuid7())
    seen, token = [], ""
    metadata = await served.metadata(Role.READER, firm)
    while True:
        page = await served.call(
            "ListAuditEvents", pb.ListAuditEventsRequest(page_size=3, page_token=token), metadata=metadata
        )
        seen += [entry.id for entry in page.audit_events]
        if not (token := page.next_page_token):
            break
        kept = token
    assert len(seen) == len(set(seen)) == 10
    mixed = pb.ListAuditEventsRequest(page_token=kept, actor="x")
    assert (await failure(served.call("ListAuditEvents", mixed, metadata=metadata))).reason == "PAGE_TOKEN_MISMATCH"
    backwards = pb.ListAuditEventsRequest(
        create_time=range_pb2.TimeRange(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=9))
    )
    assert (await failure(served.call("ListAuditEvents", backwards, metadata=metadata))).reason == "PERIOD_INVALID"
    foreign = pb.ListAuditEventsRequest(object_id="zzz_01k2m9v3e8f0r9t6z1q4x7w5ab")
    assert (await failure(served.call("ListAuditEvents", foreign, metadata=metadata))).reason in (
        "INVALID_ID",
        "FIELD_INVALID",
    )
    assert [entry.action for entry in await listed(served, await served.firm())] == ["firm_created"]


async def test_the_trail_is_verified_against_its_anchor(served: Served, database_urls: support.DatabaseUrls) -> None:
    firm = await served.firm()
    await told(served, firm, uuid7())
    before = await served.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest(), Role.READER, firm)
    assert (before.ok, before.verified_count, before.unsealed_count, before.anchored) == (True, 0, 4, False)
    await past_horizon(served.db)
    await served.sealer.tick()
    after = await served.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest(), Role.READER, firm)
    assert (after.ok, after.verified_count, after.unsealed_count, after.anchored) == (True, 4, 0, True)
    assert after.anchor == after.head
    entries = await listed(served, firm, order=audit_pb2.AUDIT_EVENT_ORDER_CREATE_TIME_ASC)
    assert entries[-1].seal == after.head
    with psycopg.connect(database_urls.owner) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM audit_seal WHERE firm_id = %s AND seq = 4", (firm,))
        connection.execute("DELETE FROM audit_event WHERE firm_id = %s AND action = 'payment_disputed'", (firm,))
    cut = await served.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest(), Role.READER, firm)
    assert not cut.ok
    assert [problem.kind for problem in cut.problems] == [verification_pb2.AUDIT_PROBLEM_KIND_ANCHOR_MISMATCH]


async def test_the_books_are_verified(served: Served, database_urls: support.DatabaseUrls) -> None:
    firm, client = await served.firm(), uuid7()
    report = await served.call("VerifyLedger", pb.VerifyLedgerRequest(), Role.READER, firm)
    assert report.ok
    assert len({check.name for check in report.checks}) == len(report.checks) > 25
    assert all(check.description for check in report.checks)
    async with served.db.transaction(support.context(firm)) as uow:
        await post(uow, [rules.invoice_finalized(uuid4(), client, "USD", earned=1000, deferred=0, tax=0)])
    wrong = await served.call("VerifyLedger", pb.VerifyLedgerRequest(), Role.READER, firm)
    assert [
        (total.debit.amount_minor, total.credit.amount_minor, total.debit.currency_code) for total in wrong.totals
    ] == [(1000, 1000, "USD")]
    [bad] = [check for check in wrong.checks if not check.ok]
    assert (bad.name, bad.violation_count) == ("receivable_matches_invoices", 1)
    assert bad.violations[0].object_id == encode(Prefix.CLIENT, client)
    other = await served.call("VerifyLedger", pb.VerifyLedgerRequest(), Role.READER, await served.firm())
    assert other.ok


async def test_books_whose_totals_do_not_fit_are_refused_as_such(served: Served) -> None:
    firm = await served.firm()
    async with served.db.transaction(support.context(firm)) as uow:
        for _ in range(2):
            await post(uow, [rules.invoice_finalized(uuid4(), uuid7(), "USD", earned=2**62, deferred=0, tax=0)])
    call = served.call("VerifyLedger", pb.VerifyLedgerRequest(), Role.READER, firm)
    assert (await failure(call)).reason == "AMOUNT_OUT_OF_RANGE"


async def test_providers_are_listed_with_how_the_firm_stands(served: Served) -> None:
    firm = await served.firm()
    manual, sandbox, stripe = (
        await served.call("ListProviders", pb.ListProvidersRequest(), Role.READER, firm)
    ).providers
    assert not stripe.configured
    assert (sandbox.name, sandbox.configured, sandbox.mode, sandbox.is_default) == (
        "sandbox",
        True,
        provider_pb2.ACCOUNT_MODE_TEST,
        True,
    )
    assert not sandbox.shared_account
    assert sandbox.provider_account_id.startswith("pva_")
    assert manual.provider_account_id == ""
    assert provider_pb2.PROVIDER_CAPABILITY_TEST_CLOCK in sandbox.capabilities
    assert sandbox.key_semantics.lifetime.seconds == 24 * 3600
    assert (manual.name, manual.configured, manual.is_default) == ("manual", True, False)
    assert list(manual.capabilities) == [provider_pb2.PROVIDER_CAPABILITY_OFFLINE]
    assert not manual.HasField("key_semantics")


async def test_items_of_a_run_are_watched_from_any_position(served: Served) -> None:
    firm, run_id = await served.firm(), uuid7()
    context = support.context(firm)
    async with served.db.transaction(context) as uow:
        await runs.create(uow, RunKind.PACKAGES, {"as_of": "2026-03-01"}, dry_run=True, run_id=run_id)
        await runs.begin(uow, run_id, 250)
    for start in range(0, 250, 50):
        items = [RunItem("engagement", uuid7(), "SKIPPED", "NOTHING_TO_BILL", f"{n}") for n in range(start, start + 50)]
        async with served.db.transaction(context) as uow:
            await runs.advance(uow, run_id, done=50, counts={"SKIPPED": 50}, items=items)
    async with served.db.transaction(context) as uow:
        await runs.finish(uow, run_id)
    text = encode(Prefix.RUN, run_id)

    async def watch(**more: object) -> list[run_pb2.RunProgress]:
        request = pb.WatchRunRequest(run_id=text, **more)  # type: ignore[arg-type]
        stream = await served.stream("WatchRun", request, Role.READER, firm)
        return [message.progress async for message in stream]

    progress = await watch()
    items_seen = [item for message in progress for item in message.items]
    assert [item.seq for item in items_seen] == list(range(1, 251))
    assert len({item.message for item in items_seen}) == 250
    assert [message.last for message in progress] == [False, False, True]
    rest = [item for message in await watch(after_seq=180) for item in message.items]
    assert rest == items_seen[180:]
    [only] = await watch(omit_items=True)
    assert not only.items
    assert (only.run.total_count, only.run.done_count, only.run.outcome_counts[0].count) == (250, 250, 250)
    assert (only.run.as_of_date.year, only.run.as_of_date.month, only.run.as_of_date.day) == (2026, 3, 1)


async def test_a_run_over_all_firms_is_the_sum_of_its_parts(served: Served) -> None:
    parent, firms = uuid7(), [await served.firm() for _ in range(3)]
    async with served.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.run (id, kind, params, actor) VALUES (%s, 'PACKAGES', '{}', 'test')", (parent,)
        )
    for number, firm in enumerate(firms, 1):
        run_id = uuid7()
        async with served.db.transaction(support.context(firm)) as uow:
            await runs.create(uow, RunKind.PACKAGES, {}, dry_run=False, run_id=run_id, parent_id=parent)
            await runs.begin(uow, run_id, 10)
            await runs.advance(uow, run_id, done=number, counts={"CREATED": number}, amounts={"USD": 100 * number})
    text = encode(Prefix.RUN, parent)
    run = (await served.call("GetRun", pb.GetRunRequest(run_id=text))).run
    assert (run.firm_id, run.total_count, run.done_count) == ("", 30, 6)
    assert [(amount.currency_code, amount.amount_minor) for amount in run.amounts] == [("USD", 600)]
    listed_runs = (await served.call("ListRuns", pb.ListRunsRequest())).runs
    assert run in listed_runs
    parts = (await served.call("ListRuns", pb.ListRunsRequest(parent_run_id=text), Role.READER, firms[0])).runs
    assert [part.parent_run_id for part in parts] == [text]
    assert (
        await failure(served.call("GetRun", pb.GetRunRequest(run_id=text), Role.READER, firms[0]))
    ).reason == "RESOURCE_NOT_FOUND"
    async with served.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.run SET state = 'SUCCEEDED', end_time = clock_timestamp() WHERE id = %s", (parent,)
        )
    stream = await served.stream("WatchRun", pb.WatchRunRequest(run_id=text))
    assert [message.progress.last async for message in stream] == [True]


@pytest.mark.parametrize("rpc", ["ListAuditEvents", "VerifyAuditTrail", "VerifyLedger"])
async def test_services_do_not_read_the_trail(rpc: str, served: Served) -> None:
    request = {
        "ListAuditEvents": pb.ListAuditEventsRequest(),
        "VerifyAuditTrail": pb.VerifyAuditTrailRequest(),
        "VerifyLedger": pb.VerifyLedgerRequest(),
    }[rpc]
    assert (await failure(served.call(rpc, request, Role.SERVICE, await served.firm()))).reason == "PERMISSION_DENIED"
    assert (await failure(served.call(rpc, request))).reason == "FIRM_REQUIRED"


async def test_a_deadline_that_is_too_short_is_told(served: Served) -> None:
    firm = await served.firm()
    call = served.call("VerifyLedger", pb.VerifyLedgerRequest(), Role.READER, firm, timeout=0.004)
    assert (await failure(call)).code.name == "DEADLINE_EXCEEDED"
