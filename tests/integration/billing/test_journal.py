"""What people wrote stands in the feed, which can be erased, and not in the audit trail, which cannot."""

from __future__ import annotations

from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.renewal import TermChoice
from dunwell_server.billing.service import credit, engagements, time_entries
from dunwell_server.billing.service.credit import Grant
from dunwell_server.billing.service.renewals import renew_engagement
from dunwell_server.kernel.money import Money
from tests.integration.billing.book import Book
from tests.integration.billing.timebook import JANUARY, approved, as_person, hourly, ids, submitted, worked

WORD = "Zanzibar"


async def test_free_text_is_told_and_not_put_on_record(book: Book) -> None:
    client = await book.client(external_id=f"{WORD}@example.com")
    agreed = await hourly(book, client, external_id=f"{WORD} 1", end_date=JANUARY.replace(year=2027))
    await book.do(engagements.update_engagement, agreed.id, {"name": f"Estate of {WORD}"})
    await book.do(renew_engagement, agreed.id, TermChoice())
    granted = await book.do(
        credit.grant, Grant(client.id, CreditKind.GOODWILL, Money("USD", 500), reason=f"{WORD} was ill")
    )
    await book.do(credit.reverse_grant, granted.entry.id, reason=f"{WORD} is well")
    eve = as_person(book, "eve")
    waiting = await submitted(book, worked(agreed, JANUARY, 30, external_id=f"{WORD} 2"))
    await eve.do(time_entries.reject_time_entries, ids(waiting), f"{WORD} was away")
    done = await approved(book, worked(agreed, JANUARY, 30))
    await eve.do(time_entries.write_down_time_entries, {done[0].id: 5}, f"{WORD} complained")
    actions = await book.sql("SELECT DISTINCT action FROM audit_event WHERE metadata::text LIKE %s", f"%{WORD}%")
    assert actions == []
    told = await book.sql("SELECT DISTINCT type FROM event WHERE payload::text LIKE %s", f"%{WORD}%")
    assert {row["type"] for row in told} >= {
        "client.created", "engagement.created", "engagement.renewed", "credit.granted", "credit.reversed", "time_entry.rejected",
        "time_entry.written_down",
    }  # fmt: skip
