"""Whole firms out and in, bulk records and offboarding, through a real channel."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import psycopg
from google.type.date_pb2 import Date

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import audit_pb2, firm_pb2
from dunwell.v1 import data_exit_pb2 as exit_pb
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from tests import support
from tests.integration.admin.books import tables_of
from tests.rpc.admin.conftest import Served
from tests.rpc.floor.fakes import failure

CLIENTS = b"external_id,name,email,city,country_code,metadata.team\nc1,Ada,ada@example.com,Delft,NL,north\nc2,Ben,,,,\n"
TODAY = datetime.now(UTC).date()
NEXT_YEAR = TODAY + timedelta(days=365)


async def person(served: Served, firm: UUID | None, name: str, role: Role = Role.ADMIN) -> tuple[tuple[str, str], ...]:
    """Credentials that name a person."""
    metadata = await served.metadata(role, firm)
    key_id = metadata[0][1].removeprefix("Bearer ")
    assert key_id
    async with served.db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.api_key SET may_name_actor = true WHERE revoke_time IS NULL")
    return (*metadata, ("dunwell-actor", name))


async def offboard(
    served: Served, firm: UUID, step: str, who: str = "ana@example.com", **more: object
) -> exit_pb.Offboarding:
    request = pb.OffboardFirmRequest(step=exit_pb.OffboardStep.Value(f"OFFBOARD_STEP_{step}"), **more)  # type: ignore[arg-type]
    response: pb.OffboardFirmResponse = await served.call(
        "OffboardFirm", request, metadata=await person(served, firm, who)
    )
    return response.offboarding


async def export(served: Served, firm: UUID, role: Role = Role.FIRM_ADMIN) -> tuple[bytes, exit_pb.ExportManifest]:
    stream = await served.stream("ExportFirm", pb.ExportFirmRequest(), role, firm)
    messages = [message async for message in stream]
    assert not any(message.HasField("manifest") for message in messages[:-1])
    assert messages[-1].row_count == messages[-1].total_row_count == messages[-1].manifest.row_count
    return b"".join(message.data for message in messages), messages[-1].manifest


async def records(served: Served, firm: UUID, kind: str, csv: bytes, **more: Any) -> pb.ImportRecordsResponse:
    request = pb.ImportRecordsRequest(kind=exit_pb.RecordKind.Value(f"RECORD_KIND_{kind}"), csv=csv, **more)
    response = await served.call("ImportRecords", request, Role.OPERATOR, firm)
    assert isinstance(response, pb.ImportRecordsResponse)
    return response


def day(value: date) -> Date:
    return Date(year=value.year, month=value.month, day=value.day)


async def test_an_export_is_a_whole_file_and_is_noted(served: Served) -> None:
    firm = await served.firm()
    assert (await records(served, firm, "CLIENTS", CLIENTS)).imported_count == 2
    file, manifest = await export(served, firm)
    assert sha256(file).hexdigest() == manifest.sha256
    assert manifest.firm_id == encode(Prefix.FIRM, firm)
    assert [row["name"] for row in tables_of(file)["client"]] == ["Ada", "Ben"]
    assert {each.name: each.row_count for each in manifest.tables}["client"] == 2
    audit = await served.call(
        "ListAuditEvents", pb.ListAuditEventsRequest(actions=["firm_exported"]), Role.READER, firm
    )
    [entry] = audit.audit_events
    assert entry.metadata["sha256"] == manifest.sha256
    denied = await served.stream("ExportFirm", pb.ExportFirmRequest(), Role.OPERATOR, firm)
    assert (await failure(anext(aiter(denied)))).reason == "PERMISSION_DENIED"


async def test_another_firms_rows_are_not_in_it(served: Served) -> None:
    mine, theirs = await served.firm(), await served.firm()
    await records(served, theirs, "CLIENTS", CLIENTS)
    file, _ = await export(served, mine)
    assert tables_of(file)["client"] == []
    assert str(theirs).encode() not in file
    assert len(tables_of(file)["control.firm"]) == 1


async def test_an_export_left_in_the_middle_is_not_noted(served: Served) -> None:
    firm = await served.firm()
    await records(served, firm, "CLIENTS", b"name,email\n" + b"Client,someone@example.com\n" * 9000)
    stream = await served.stream("ExportFirm", pb.ExportFirmRequest(), Role.FIRM_ADMIN, firm)
    assert (await anext(aiter(stream))).total_row_count > 9000
    stream.cancel()
    audit = await served.call(
        "ListAuditEvents", pb.ListAuditEventsRequest(actions=["firm_exported"]), Role.READER, firm
    )
    assert list(audit.audit_events) == []
    file, manifest = await export(served, firm)
    assert manifest.row_count == len(file.splitlines()) - 2


async def test_a_file_comes_in_by_pieces_and_is_gone_on_with(
    served: Served, database_urls: support.DatabaseUrls
) -> None:
    firm = await served.firm()
    await records(served, firm, "CLIENTS", CLIENTS)
    file, manifest = await export(served, firm)
    begin = pb.ImportBegin(firm_id=encode(Prefix.FIRM, firm), sha256=manifest.sha256, size_bytes=len(file))
    known = await failure(served.call("ImportFirm", pb.ImportFirmRequest(begin=begin)))
    assert known.reason == "ALREADY_EXISTS"
    _forget(database_urls, firm)
    session = (await served.call("ImportFirm", pb.ImportFirmRequest(begin=begin))).session
    half = len(file) // 2

    async def bring(start: int, end: int) -> exit_pb.ImportSession:
        rows = pb.ImportRows(import_id=session.id, offset=start, data=file[start:end])
        response: pb.ImportFirmResponse = await served.call("ImportFirm", pb.ImportFirmRequest(rows=rows))
        return response.session

    assert (await bring(0, half)).received_bytes == half
    assert (await bring(0, half)).received_bytes == half
    assert (await bring(half - 10, half + 10)).received_bytes == half + 10
    gap = await failure(bring(half + 50, half + 60))
    assert (gap.reason, gap.metadata["received_bytes"]) == ("STATE_CONFLICT", str(half + 10))
    early = pb.ImportFirmRequest(finish=pb.ImportFinish(import_id=session.id))
    assert (await failure(served.call("ImportFirm", early))).reason == "STATE_CONFLICT"
    again = (await served.call("ImportFirm", pb.ImportFirmRequest(begin=begin))).session
    assert (again.id, again.received_bytes) == (session.id, half + 10)
    assert (await bring(half + 10, len(file))).received_bytes == len(file)
    finish = pb.ImportFirmRequest(finish=pb.ImportFinish(import_id=session.id), request_id=str(uuid4()))
    admin = await served.metadata()
    done = await served.call("ImportFirm", finish, metadata=admin)
    assert done.session.state == exit_pb.IMPORT_STATE_FINISHED
    assert done.verification.ok
    assert {each.name: each.row_count for each in done.tables}["client"] == 2
    assert await served.call("ImportFirm", finish, metadata=admin) == done
    back = (await served.call("GetFirm", pb.GetFirmRequest(firm_id=encode(Prefix.FIRM, firm)))).firm
    assert back.state == firm_pb2.FIRM_STATE_SUSPENDED
    assert (await offboard(served, firm, "RESUME")).state == exit_pb.OFFBOARD_STATE_ACTIVE
    assert (await records(served, firm, "CLIENTS", b"name\nCleo\n")).imported_count == 1
    assert (await failure(served.call("ImportFirm", early, Role.FIRM_ADMIN, firm))).reason == "PERMISSION_DENIED"


async def test_a_damaged_file_is_forgotten(served: Served, database_urls: support.DatabaseUrls) -> None:
    firm = await served.firm()
    file, _ = await export(served, firm)
    _forget(database_urls, firm)
    damaged = file.replace(b"Harbour", b"Barbour")
    begin = pb.ImportBegin(
        firm_id=encode(Prefix.FIRM, firm), sha256=sha256(damaged).hexdigest(), size_bytes=len(damaged)
    )
    session = (await served.call("ImportFirm", pb.ImportFirmRequest(begin=begin))).session
    await served.call("ImportFirm", pb.ImportFirmRequest(rows=pb.ImportRows(import_id=session.id, data=damaged)))
    async with served.db.transaction(support.context(None), write=False) as uow:
        kept = await uow.fetch_value("SELECT string_agg(sealed, '') FROM control.firm_import_chunk")
    assert b"Barbour" not in kept
    finish = pb.ImportFirmRequest(finish=pb.ImportFinish(import_id=session.id))
    refused = await failure(served.call("ImportFirm", finish))
    assert (refused.reason, refused.metadata["cause"], refused.metadata["table"]) == (
        "IMPORT_DAMAGED",
        "checksum",
        "control.firm",
    )
    assert (await failure(served.call("ImportFirm", finish))).reason == "RESOURCE_NOT_FOUND"
    async with served.db.transaction(support.context(None), write=False) as uow:
        assert await uow.fetch_value("SELECT count(*) FROM control.firm_import_chunk") == 0


async def test_a_file_is_discarded(served: Served) -> None:
    begin = pb.ImportBegin(firm_id=encode(Prefix.FIRM, uuid7()), sha256="ab" * 32, size_bytes=10)
    session = (await served.call("ImportFirm", pb.ImportFirmRequest(begin=begin))).session
    await served.call("ImportFirm", pb.ImportFirmRequest(rows=pb.ImportRows(import_id=session.id, data=b"x" * 10)))
    discard = pb.ImportFirmRequest(discard=pb.ImportDiscard(import_id=session.id))
    assert not (await served.call("ImportFirm", discard)).HasField("session")
    gone = pb.ImportFirmRequest(discard=pb.ImportDiscard(import_id=session.id))
    assert (await failure(served.call("ImportFirm", gone))).reason == "RESOURCE_NOT_FOUND"
    empty = pb.ImportFirmRequest(request_id=str(uuid4()))
    assert (await failure(served.call("ImportFirm", empty))).reason == "FIELD_INVALID"


async def test_records_come_in_and_every_wrong_row_is_named(served: Served) -> None:
    firm = await served.firm()
    dry = await records(served, firm, "CLIENTS", CLIENTS, dry_run=True)
    assert (dry.row_count, dry.valid_count, dry.imported_count, dry.error_count) == (2, 2, 0, 0)
    bad = CLIENTS + b"c1,Cas,nobody,,,\nc4,,d@example.com,,,\n\nc5,4242 4242 4242 4242,,,,\n"
    none = await records(served, firm, "CLIENTS", bad)
    assert (none.row_count, none.valid_count, none.imported_count) == (5, 2, 0)
    assert [(each.row, each.column, each.reason) for each in none.errors] == [
        (4, "email", "FIELD_INVALID"), (5, "name", "FIELD_INVALID"), (7, "name", "CARD_NUMBER_REFUSED"),
    ]  # fmt: skip
    assert not any("4242" in each.message for each in none.errors)
    some = await records(served, firm, "CLIENTS", bad, skip_invalid=True)
    assert (some.imported_count, some.error_count) == (2, 3)
    twice = await records(served, firm, "CLIENTS", CLIENTS)
    assert [(each.row, each.column, each.reason) for each in twice.errors] == [
        (2, "external_id", "EXTERNAL_ID_TAKEN"), (3, "external_id", "EXTERNAL_ID_TAKEN"),
    ]  # fmt: skip
    wrong = await failure(records(served, firm, "CLIENTS", b"name\n\xff\xfe"))
    assert wrong.reason == "FIELD_INVALID"


async def test_a_repeated_call_imports_nothing_twice(served: Served) -> None:
    firm = await served.firm()
    request = pb.ImportRecordsRequest(kind=exit_pb.RECORD_KIND_CLIENTS, csv=b"name\nAda\n", request_id=str(uuid4()))
    first = await served.call("ImportRecords", request, Role.OPERATOR, firm)
    assert await served.call("ImportRecords", request, Role.OPERATOR, firm) == first
    file, _ = await export(served, firm)
    assert len(tables_of(file)["client"]) == 1
    assert (
        await failure(served.call("ImportRecords", pb.ImportRecordsRequest(csv=b"x"), Role.OPERATOR, firm))
    ).reason == "FIELD_INVALID"


async def test_a_large_file_passes_and_a_larger_one_does_not(served: Served) -> None:
    firm = await served.firm()
    header = b"name," + b",".join(b"metadata.m%d" % number for number in range(19)) + b"\n"
    row = b"Client," + b",".join([b"x" * 19] * 19) + b"\n"
    most = header + row * 10_000
    assert 3_800_000 < len(most) < 4_194_304
    assert (await records(served, firm, "CLIENTS", most)).imported_count == 10_000
    refused = await failure(records(served, firm, "CLIENTS", most + row))
    assert refused.reason == "FIELD_INVALID"
    too_long = await failure(records(served, firm, "CLIENTS", header + row * 12_000))
    assert too_long.reason in ("FIELD_INVALID", "MESSAGE_TOO_LARGE")


async def test_a_firm_leaves_step_by_step(served: Served) -> None:
    firm = await served.firm()
    await records(served, firm, "CLIENTS", CLIENTS)
    request = pb.OffboardFirmRequest(step=exit_pb.OFFBOARD_STEP_SUSPEND)
    assert (await failure(served.call("OffboardFirm", request, Role.ADMIN, firm))).reason == "PERMISSION_DENIED"
    early = await failure(offboard(served, firm, "ERASE", retain_until_date=day(NEXT_YEAR)))
    assert (early.reason, early.metadata["state"], early.metadata["allowed"]) == ("STATE_CONFLICT", "ACTIVE", "SUSPEND")
    suspended = await offboard(served, firm, "SUSPEND")
    assert (suspended.state, suspended.suspend_actor, suspended.export_current) == (
        exit_pb.OFFBOARD_STATE_SUSPENDED, "ana@example.com", False,
    )  # fmt: skip
    assert (await failure(records(served, firm, "CLIENTS", b"name\nCleo\n"))).reason == "FIRM_SUSPENDED"
    assert (await offboard(served, firm, "RESUME")).state == exit_pb.OFFBOARD_STATE_ACTIVE
    await records(served, firm, "CLIENTS", b"name\nCleo\n")
    await offboard(served, firm, "SUSPEND")
    erase: dict[str, Any] = {"retain_until_date": day(NEXT_YEAR)}
    assert (await failure(offboard(served, firm, "ERASE", **erase))).reason == "APPROVAL_REQUIRED"
    unexported = await failure(offboard(served, firm, "ERASE", "bob@example.com", **erase))
    assert unexported.reason == "EXPORT_REQUIRED"
    assert (await failure(offboard(served, firm, "ERASE", "bob@example.com"))).reason == "FIELD_INVALID"
    yesterday = day(TODAY - timedelta(days=2))
    assert (
        await failure(offboard(served, firm, "ERASE", "bob@example.com", retain_until_date=yesterday))
    ).reason == "FIELD_INVALID"
    await export(served, firm)
    erased = await offboard(served, firm, "ERASE", "bob@example.com", **erase)
    assert (erased.state, erased.export_current) == (exit_pb.OFFBOARD_STATE_ERASED, False)
    assert {each.name: each.row_count for each in erased.erased}["client"] == 3
    assert (await failure(offboard(served, firm, "RESUME"))).reason == "STATE_CONFLICT"
    assert (await failure(offboard(served, firm, "PURGE"))).metadata["retain_until_date"] == NEXT_YEAR.isoformat()
    audit = await served.call(
        "ListAuditEvents", pb.ListAuditEventsRequest(severities=[audit_pb2.AUDIT_SEVERITY_CRITICAL]), Role.ADMIN, firm
    )
    assert [entry.action for entry in audit.audit_events][:2] == ["firm_erased", "firm_suspended"]
    assert audit.audit_events[0].actor == "bob@example.com"
    file, _ = await export(served, firm, Role.ADMIN)
    assert b"ada@example.com" not in file
    assert {row["name"] for row in tables_of(file)["client"]} == {"Erased client"}
    gone = (await served.call("GetFirm", pb.GetFirmRequest(firm_id=encode(Prefix.FIRM, firm)))).firm
    assert gone.state == firm_pb2.FIRM_STATE_ERASED


async def test_a_change_after_the_export_asks_for_another(served: Served) -> None:
    firm = await served.firm()
    await export(served, firm)
    await records(served, firm, "CLIENTS", CLIENTS)
    await offboard(served, firm, "SUSPEND")
    erase: dict[str, Any] = {"retain_until_date": day(NEXT_YEAR)}
    late = await failure(offboard(served, firm, "ERASE", "bob@example.com", **erase))
    assert late.reason == "EXPORT_REQUIRED"
    assert late.metadata["export_time"]
    assert (
        await failure(offboard(served, firm, "ERASE", "bob@example.com", confirm="yes", **erase))
    ).reason == "EXPORT_REQUIRED"
    erased = await offboard(served, firm, "ERASE", "bob@example.com", confirm="Harbour & Vale", **erase)
    assert erased.state == exit_pb.OFFBOARD_STATE_ERASED


def _forget(urls: support.DatabaseUrls, firm: UUID) -> None:
    """Take a firm away as if it had never been here."""
    with psycopg.connect(urls.owner) as connection:
        connection.execute("SET session_replication_role = replica")
        for schema, table in connection.execute(
            "SELECT n.nspname, c.relname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE a.attname = 'firm_id' AND c.relkind = 'r' AND n.nspname IN ('public', 'control')"
        ).fetchall():
            connection.execute(f"DELETE FROM {schema}.{table} WHERE firm_id = %s", (firm,))
        connection.execute("DELETE FROM control.firm WHERE id = %s", (firm,))
