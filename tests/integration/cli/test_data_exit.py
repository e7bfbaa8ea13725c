"""`export`, `import` and `import-records`, as people type them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from dunwell_server.platform.database import Database
from tests import support
from tests.integration.admin.books import tables_of
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import MakeFirm, public_id


@pytest.fixture
def elsewhere(cluster_url: str, tmp_path: Path) -> Iterator[Command]:
    """The command on another installation's database."""
    (tmp_path / "elsewhere").mkdir()
    with support.fresh_database(cluster_url) as urls:
        yield Command(urls, tmp_path / "elsewhere")


async def test_a_firm_moves_from_one_installation_to_another(
    db: Database, dunwell: Command, elsewhere: Command, make_billable: MakeFirm, tmp_path: Path
) -> None:
    firm = await make_billable(3)
    billed = dunwell("generate-package-invoices", "--firm-id", public_id(firm), "--json")
    assert billed.code == 0, billed.err
    file = tmp_path / "firm.jsonl.gz"
    out = dunwell("export", public_id(firm), "--output", str(file), "--json")
    assert out.code == 0, out.err
    plain = gzip.decompress(file.read_bytes())
    assert out.json["sha256"] == sha256(plain).hexdigest()
    assert out.json["tables"]["invoice"] == len(tables_of(plain)["invoice"]) > 0
    assert file.stat().st_mode & 0o077 == 0
    again = dunwell("export", public_id(firm), "--output", str(file))
    assert (again.code, "--overwrite" in again.err) == (2, True)
    moved = elsewhere("import", str(file), "--json")
    assert moved.code == 0, moved.err
    assert moved.json["tables"] == {name: len(rows) for name, rows in tables_of(plain).items() if rows}
    assert moved.json["violated"] == []
    twice = elsewhere("import", str(file))
    assert (twice.code, "ALREADY_EXISTS" in twice.err) == (1, True)
    back = tmp_path / "back.jsonl"
    assert elsewhere("export", public_id(firm), "-o", str(back)).code == 0
    there = tables_of(back.read_bytes())
    for name in ("client", "engagement", "invoice", "invoice_line", "coverage", "ledger_entry", "invoice_series"):
        assert there[name] == tables_of(plain)[name], name


async def test_a_damaged_file_is_named_and_can_be_tried_again(
    db: Database, dunwell: Command, elsewhere: Command, make_billable: MakeFirm, tmp_path: Path
) -> None:
    firm = await make_billable(1)
    file = tmp_path / "firm.jsonl"
    assert dunwell("export", public_id(firm), "-o", str(file)).code == 0
    right = file.read_bytes()
    for wrong, word in [
        (right[:-100], "cut short"), (right.replace(b"Client 0", b"Client 1", 1), "checksum"), (b"", "empty"), (b"hello\n", "first line"),
    ]:  # fmt: skip
        file.write_bytes(wrong)
        refused = elsewhere("import", str(file))
        assert refused.code in (1, 2)
        assert word in refused.err, refused.err
        assert refused.err.count("\n") <= 2
    packed = tmp_path / "firm.jsonl.gz"
    packed.write_bytes(gzip.compress(right)[:-20])
    assert "gzip" in elsewhere("import", str(packed)).err
    file.write_bytes(right)
    told = elsewhere("import", str(file))
    assert told.code == 0, told.err
    assert "suspended" in told.out


async def test_records_are_imported_and_wrong_ones_shown(
    db: Database, dunwell: Command, make_billable: MakeFirm, tmp_path: Path
) -> None:
    firm = await make_billable(0)
    clients, invoices = tmp_path / "clients.csv", tmp_path / "invoices.csv"
    clients.write_text("external_id,name,email\na1,Ada,ada@example.com\na2,Ben,nobody\n", encoding="utf-8")
    options = ("--firm-id", public_id(firm))
    refused = dunwell("import-records", "clients", str(clients), *options)
    assert refused.code == 1
    assert "email" in refused.out
    assert "nothing was written" in refused.out
    dry = dunwell("import-records", "clients", str(clients), *options, "--dry-run", "--json")
    assert (dry.json["valid"], dry.json["imported"], dry.json["errors"][0]["row"]) == (1, 0, 3)
    some = dunwell("import-records", "clients", str(clients), *options, "--skip-invalid", "--json")
    assert (some.code, some.json["imported"]) == (1, 1)
    invoices.write_text(
        "number,client_external_id,issue_date,due_date,open_amount\n7,a1,2027-01-01,2027-02-01,99.50\n",
        encoding="utf-8",
    )
    done = dunwell("import-records", "invoices", str(invoices), *options, "--json")
    assert (done.code, done.json["imported"]) == (0, 1), done.err
    assert dunwell("import-records", "people", str(clients), *options).code == 2
    verified = dunwell("verify", *options, "--json")
    assert {check["name"] for check in verified.json["checks"] if not check["ok"]} <= {"audit_sealed"}
    assert json.dumps(done.json)
