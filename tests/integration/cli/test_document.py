"""`document`: what a client gets, as a file."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from hashlib import sha256

from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import Client, Invoice
from dunwell_server.billing.service.clients import NewClient, create_client
from dunwell_server.billing.service.invoices import NewInvoice, create_invoice
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import NOON
from tests.pdf_text import Pdf


async def sent(db: Database) -> tuple[Client, Invoice]:
    """An invoice of 1,234.50 to a German client."""
    context = await support.add_firm(db, clock=NOON)

    async def work(uow: UnitOfWork) -> tuple[Client, Invoice]:
        client = await create_client(uow, NewClient(name="Byron & Söhne", locale="de-DE"))
        new = NewInvoice(client.id, lines=(LineInput("Beratung", Decimal("1234.5")),))
        return client, await create_invoice(uow, new, finalize=True)

    return await db.run(context, work)


async def test_an_invoice_is_written_as_the_client_gets_it(db: Database, dunwell: Command) -> None:
    _, invoice = await sent(db)
    path = dunwell.folder / "invoice.pdf"
    done = dunwell("document", encode(Prefix.INVOICE, invoice.id), "--output", str(path), "--json")
    assert done.code == 0, done.err
    content = path.read_bytes()
    assert (done.json["sha256"], done.json["kept"], done.json["locale"]) == (sha256(content).hexdigest(), True, "de-DE")
    text = Pdf(content).text()
    assert "Rechnung" in text
    assert "Byron & Söhne" in text


async def test_a_statement_includes_its_last_day(db: Database, dunwell: Command) -> None:
    client, invoice = await sent(db)
    path, name = dunwell.folder / "statement.html", encode(Prefix.CLIENT, client.id)
    today = date(NOON.year, NOON.month, NOON.day).isoformat()
    done = dunwell("document", name, "--from", today, "--to", today, "--html", "--locale", "en", "--output", str(path))
    assert done.code == 0, done.err
    assert f"Invoice {invoice.number}" in path.read_text()


async def test_wrong_calls_say_what_is_wrong(db: Database, dunwell: Command) -> None:
    client, invoice = await sent(db)
    for arguments, text in (
        ((encode(Prefix.ENGAGEMENT, invoice.id),), "name an invoice"),
        ((encode(Prefix.CLIENT, client.id),), "--from and --to"),
        ((encode(Prefix.CREDIT_NOTE, invoice.id), "--current"), "as it stands now"),
    ):
        done = dunwell("document", *arguments)
        assert done.code == 2
        assert text in done.err
    missing = dunwell("document", encode(Prefix.INVOICE, client.id))
    assert missing.code == 2
    assert "No firm has such an object" in missing.err
