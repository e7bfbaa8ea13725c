"""Bulk records: files become clients, engagements and opening balances by the rules that single ones follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from dunwell_server.admin.rpc.records import ENGAGEMENT_COLUMNS, read_file
from dunwell_server.billing.importing import Outcome, RecordKind
from dunwell_server.billing.service.clients import NewClient, create_client
from dunwell_server.billing.service.closing import void_invoice
from dunwell_server.billing.service.importing import import_records
from dunwell_server.bootstrap import wire
from dunwell_server.config import Settings
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import invariants
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)
CLIENTS = b"external_id,name,currency_code\nacme,Acme,USD\nyen,Yen & Co,JPY\n"


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.open(database_urls.application, bus=wire(Settings()), max_size=4)
    yield database
    await database.close()


@pytest.fixture
async def firm(db: Database) -> CallContext:
    """A firm with two clients, one of them billed in yen."""
    context = await support.add_firm(db, clock=NOON, currency_code="EUR")
    assert (await bring(db, context, RecordKind.CLIENTS, CLIENTS)).imported == 2
    return context


async def bring(
    db: Database, firm: CallContext, kind: RecordKind, csv: bytes, *, dry_run: bool = False, skip_invalid: bool = False
) -> Outcome:
    batch = read_file(kind, csv)
    return await db.run(firm, lambda uow: import_records(uow, batch, dry_run=dry_run, skip_invalid=skip_invalid))


async def rows(db: Database, firm: CallContext, query: Any) -> list[dict[str, Any]]:
    async with db.transaction(firm, write=False) as uow:
        return await uow.fetch_all(query)


def told(outcome: Outcome) -> list[tuple[int, str, str]]:
    return [(error.row, error.column, error.reason.value) for error in outcome.errors]


async def sound(db: Database, firm: CallContext) -> None:
    async with db.transaction(firm, write=False) as uow:
        assert [check for check in await invariants.run_for_firm(uow) if not check.ok] == []


async def test_clients_get_what_single_ones_get(db: Database, firm: CallContext) -> None:
    csv = (
        "\ufeffexternal_id;name;email;phone;address_line1;address_line2;city;country_code;tax_id;payment_terms_days;metadata.team\r\n"
        'z1;"Zoë; Söhne";zoe@example.com;+4930123456;Am Markt 1;Hof;Berlin;DE;DE 12;14;north\r\n'
    )
    assert (await bring(db, firm, RecordKind.CLIENTS, csv.encode())).imported == 1
    [client] = await rows(db, firm, "SELECT * FROM client WHERE external_id = 'z1'")
    assert client["name"] == "Zoë; Söhne"
    assert client["address"] == {
        "lines": ["Am Markt 1", "Hof"],
        "city": "Berlin",
        "region": "",
        "postal_code": "",
        "country_code": "DE",
    }
    assert (client["currency_code"], client["payment_terms_days"], client["metadata"]) == ("EUR", 14, {"team": "north"})
    told_of = await rows(db, firm, "SELECT action FROM audit_event WHERE action = 'client_created'")
    events = await rows(db, firm, "SELECT type FROM event WHERE type = 'client.created'")
    assert (len(told_of), len(events)) == (3, 3)


async def test_engagements_find_their_clients_and_are_billed_from_their_start(db: Database, firm: CallContext) -> None:
    csv = (
        b"client_external_id,external_id,name,start_date,end_date,fee,interval,anchor,pricing_mode,default_rate\n"
        b"acme,e1,Bookkeeping,2027-04-01,,1500.50,monthly,,,\n"
        b"yen,e2,Audit,2027-04-01,2028-04-01,150000,yearly,calendar,package,\n"
        b"acme,e3,Advice,2027-04-01,,,monthly,,hourly,149.50\n"
    )
    assert (await bring(db, firm, RecordKind.ENGAGEMENTS, csv)).imported == 3
    found = await rows(db, firm, "SELECT * FROM engagement ORDER BY external_id")
    assert [(row["fee_minor"], row["currency_code"], row["billing_interval"]) for row in found[:2]] == [
        (150_050, "USD", "MONTHLY"), (150_000, "JPY", "YEARLY"),
    ]  # fmt: skip
    assert (found[0]["billed_through_date"], found[0]["next_bill_date"]) == (date(2027, 4, 1), date(2027, 4, 1))
    assert [row["pricing_mode"] for row in found] == ["PACKAGE", "PACKAGE", "HOURLY"]
    await sound(db, firm)


async def test_every_wrong_cell_of_an_engagement_is_named(db: Database, firm: CallContext) -> None:
    header = ",".join(ENGAGEMENT_COLUMNS) + "\n"

    def row(**cells: str) -> str:
        standard = {
            "client_external_id": "acme",
            "name": "Care",
            "start_date": "2027-04-01",
            "fee": "10",
            "interval": "monthly",
        }
        return ",".join({**standard, **cells}.get(name, "") for name in ENGAGEMENT_COLUMNS) + "\n"

    csv = header + "".join([
        row(client_external_id="nobody"), row(client_external_id="", client_id="cli_x"), row(fee="1.005"), row(fee="-5"), row(fee="1 000"),
        row(start_date="1.4.2027"), row(end_date="2027-03-01"), row(interval="fortnightly"), row(currency_code="EUR"), row(fee="", interval=""),
        row(payment_terms_days="400"), row(external_id="same"), row(external_id="same"), row(name="x" * 201), row(client_external_id=""),
        row(default_rate="5"), row(pricing_mode="hourly"),
    ])  # fmt: skip
    outcome = await bring(db, firm, RecordKind.ENGAGEMENTS, csv.encode())
    assert told(outcome) == [
        (2, "client_external_id", "RESOURCE_NOT_FOUND"), (3, "client_id", "INVALID_ID"), (4, "fee", "FIELD_INVALID"), (5, "fee", "FIELD_INVALID"),
        (6, "fee", "FIELD_INVALID"), (7, "start_date", "FIELD_INVALID"), (8, "end_date", "PERIOD_INVALID"), (9, "interval", "FIELD_INVALID"),
        (10, "currency_code", "CURRENCY_MISMATCH"), (11, "fee", "FIELD_INVALID"), (11, "interval", "FIELD_INVALID"),
        (12, "payment_terms_days", "FIELD_INVALID"), (14, "external_id", "EXTERNAL_ID_TAKEN"), (15, "name", "FIELD_INVALID"),
        (16, "client_external_id", "FIELD_INVALID"), (17, "default_rate", "FIELD_INVALID"), (18, "default_rate", "FIELD_INVALID"),
        (18, "fee", "FIELD_INVALID"),
    ]  # fmt: skip
    assert all(error.message for error in outcome.errors)
    assert "WEEKLY, MONTHLY" in next(error.message for error in outcome.errors if error.row == 9)
    assert (outcome.rows, outcome.imported) == (17, 0)
    assert await rows(db, firm, "SELECT 1 FROM engagement") == []


OPEN = (
    b"number,client_external_id,issue_date,due_date,open_amount,description\n"
    b"2026/17,acme,2026-12-01,2026-12-31,1200.50,\n"
    b"2027/3,yen,2027-03-01,2027-03-31,90000,Balance\n"
    b"2027/4,acme,2027-03-01,2027-03-31,0.01,\n"
)


async def test_open_invoices_are_owed_and_earn_nothing(db: Database, firm: CallContext) -> None:
    assert (await bring(db, firm, RecordKind.INVOICES, OPEN, dry_run=True)).valid == 3
    assert await rows(db, firm, "SELECT 1 FROM invoice") == []
    assert (await bring(db, firm, RecordKind.INVOICES, OPEN)).imported == 3
    found = await rows(db, firm, "SELECT * FROM invoice ORDER BY series_no")
    assert [row["number"] for row in found] == ["OB-INV-2027-000001", "OB-INV-2027-000002", "OB-INV-2027-000003"]
    assert [(row["total"], row["currency_code"], row["state"]) for row in found] == [
        (120_050, "USD", "SENT"),
        (90_000, "JPY", "SENT"),
        (1, "USD", "SENT"),
    ]
    assert found[0]["metadata"] == {"imported_number": "2026/17"}
    assert (found[0]["issue_date"], found[0]["due_date"]) == (date(2026, 12, 1), date(2026, 12, 31))
    assert not any(row["autopay_enabled"] for row in found)
    books = await rows(
        db,
        firm,
        "SELECT account, currency_code, sum(amount_minor)::bigint AS amount FROM ledger_entry GROUP BY 1, 2 ORDER BY 1, 2",
    )
    assert [tuple(row.values()) for row in books] == [
        ("opening_balance", "JPY", -90_000), ("opening_balance", "USD", -120_051), ("receivable", "JPY", 90_000), ("receivable", "USD", 120_051),
    ]  # fmt: skip
    await sound(db, firm)
    more = OPEN.replace(b"2026/17", b"2026/18")
    assert (await bring(db, firm, RecordKind.INVOICES, more)).imported == 3
    await sound(db, firm)


async def test_an_imported_invoice_lives_on_like_any_other(db: Database, firm: CallContext) -> None:
    await bring(db, firm, RecordKind.INVOICES, OPEN)
    [invoice] = await rows(db, firm, "SELECT id FROM invoice WHERE series_no = 1")

    async def void(uow: UnitOfWork) -> None:
        await void_invoice(uow, invoice["id"], reason="written twice")

    await db.run(firm, void)
    [balance] = await rows(db, firm, "SELECT receivable_minor FROM client_balance WHERE currency_code = 'USD'")
    assert balance["receivable_minor"] == 1
    await sound(db, firm)


async def test_every_wrong_cell_of_an_invoice_is_named(db: Database, firm: CallContext) -> None:
    csv = (
        b"number,client_external_id,issue_date,due_date,open_amount,currency_code\n"
        b"1,acme,2027-03-11,2027-04-01,5,\n"
        b"2,acme,2027-03-01,2027-02-01,5,\n"
        b"3,acme,2027-03-01,2027-04-01,0,\n"
        b"4,yen,2027-03-01,2027-04-01,5.5,\n"
        b"5,acme,2027-03-01,2027-04-01,5,EUR\n"
        b",acme,2027-03-01,2027-04-01,5,\n"
        b"7,acme,2027-03-01,2027-04-01,99999999999999999,\n"
    )
    outcome = await bring(db, firm, RecordKind.INVOICES, csv, skip_invalid=True)
    assert told(outcome) == [
        (2, "issue_date", "FIELD_INVALID"), (3, "due_date", "PERIOD_INVALID"), (4, "open_amount", "FIELD_INVALID"), (5, "open_amount", "FIELD_INVALID"),
        (6, "currency_code", "CURRENCY_MISMATCH"), (7, "number", "FIELD_INVALID"), (8, "open_amount", "FIELD_INVALID"),
    ]  # fmt: skip
    assert outcome.imported == 0


async def test_an_archived_client_gets_nothing(db: Database, firm: CallContext) -> None:
    async def archive(uow: UnitOfWork) -> None:
        await uow.execute("UPDATE client SET state = 'ARCHIVED' WHERE external_id = 'acme'")

    await db.run(firm, archive)
    outcome = await bring(db, firm, RecordKind.INVOICES, OPEN, skip_invalid=True)
    assert (outcome.imported, told(outcome)[0]) == (1, (2, "", "STATE_CONFLICT"))


@pytest.mark.parametrize(
    ("csv", "row", "column"),
    [
        (b"name,shoe_size\nAda,5\n", 1, "shoe_size"),
        (b"email\nada@example.com\n", 1, "name"),
        (b"name,name\nAda,Ada\n", 1, "name"),
        (b"", 1, "name"),
        (b"name\nAda,surplus\n", 2, ""),
    ],
)
def test_a_header_that_does_not_fit_is_told_once(csv: bytes, row: int, column: str) -> None:
    batch = read_file(RecordKind.CLIENTS, csv)
    assert [(error.row, error.column) for error in batch.errors] == [(row, column)]
    assert batch.records == []


@pytest.mark.parametrize("csv", [b"name\n\xff\n", b'name\n"Ada\n', b"name\n\x00\n", b"name\n" + b"Ada\n" * 10_001])
def test_what_is_no_csv_file_is_refused(csv: bytes) -> None:
    with pytest.raises(DunwellError) as caught:
        read_file(RecordKind.CLIENTS, csv)
    assert (caught.value.reason, caught.value.field) == (Reason.FIELD_INVALID, "csv")


async def test_ten_thousand_rows_take_few_statements(db: Database, firm: CallContext) -> None:
    csv = b"name,external_id\n" + b"".join(b"Client %d,bulk-%d\n" % (number, number) for number in range(10_000))
    batch = read_file(RecordKind.CLIENTS, csv)
    with support.statements() as sent:
        done = await db.run(firm, lambda uow: import_records(uow, batch, dry_run=False, skip_invalid=False))
    assert done.imported == 10_000
    assert len(sent) < 60


async def test_two_imports_of_one_file_create_its_clients_once(db: Database, firm: CallContext) -> None:
    csv = b"name,external_id\nTwin,twin\n"

    async def first(uow: UnitOfWork) -> None:
        await create_client(uow, NewClient(name="Twin", external_id="twin"))

    await db.run(firm, first)
    assert told(await bring(db, firm, RecordKind.CLIENTS, csv)) == [(2, "external_id", "EXTERNAL_ID_TAKEN")]
    assert len(await rows(db, firm, "SELECT 1 FROM client WHERE external_id = 'twin'")) == 1


def test_metadata_keys_keep_their_case() -> None:
    csv = b"NAME,Metadata.costCenter,metadata.Team,metadata.team\nAda,4711,A,b\n"
    batch = read_file(RecordKind.CLIENTS, csv)
    assert batch.errors == []
    assert [record.new.metadata for record in batch.records] == [{"costCenter": "4711", "Team": "A", "team": "b"}]


def test_the_place_of_the_old_number_is_taken() -> None:
    csv = b"number,client_external_id,issue_date,due_date,open_amount,metadata.imported_number\n17,c1,2026-01-01,2026-02-01,10,18\n"
    batch = read_file(RecordKind.INVOICES, csv)
    assert [(error.row, error.column) for error in batch.errors] == [(2, "metadata.imported_number")]
    assert batch.records == []
