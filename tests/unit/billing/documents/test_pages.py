"""Documents as pages: what is read on them, and what no text on them can do."""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser

import pytest
from fontTools.ttLib import TTFont

from dunwell_server.billing.documents import facts
from dunwell_server.billing.documents.data import Document
from dunwell_server.billing.documents.formats import LANGUAGES, formats_for, words_of
from dunwell_server.billing.documents.html import render_html
from dunwell_server.billing.documents.invoices import invoice_document
from dunwell_server.billing.documents.pdf import FONTS, pdf_of, render_pdf
from dunwell_server.kernel.money import exponent
from tests.pdf_text import Pdf
from tests.unit.billing.documents import samples
from tests.unit.billing.documents.every import every_kind

HOSTILE = (
    '<script>alert(1)</script>',
    '#panic("no") #set page(fill: red) #read("/etc/passwd") #sys.inputs',
    "*bold* _it_ $x^2$ `raw` @ref <label> // c /* c */ = Head \\ ~ -- ...",
    '"; } body { display:none } /* ]] }} {{ 7*7 }} {% raw %}',
    "{number} {0} %s %(x)s ${x}",
)  # fmt: skip


def invoice(tag: str = "en-GB", **changes: object) -> Document:
    return invoice_document(samples.invoice_facts(samples.usual(), **changes), formats_for(tag))


def flat(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("tag", ["en-GB", "de-DE", "es-ES", "fr-FR", "hi-IN", "ja-JP"])
def test_every_kind_is_set_in_every_language(tag: str) -> None:
    for document in every_kind(formats_for(tag)):
        pdf, html = Pdf(render_pdf(document)), render_html(document).decode()
        for shown in (document.title, *(fact.value for fact in (*document.facts, *document.totals))):
            assert flat(shown) in flat(pdf.text()), (document.kind, shown)
        page = Page.of(html)
        for shown in (
            document.title,
            document.buyer.name,
            *(fact.value for fact in (*document.facts, *document.totals)),
        ):
            assert shown in page.texts, (document.kind, shown)
        assert page.language == document.locale


def test_the_same_document_is_the_same_bytes() -> None:
    first, second = render_pdf(invoice()), render_pdf(invoice())
    assert first == second
    assert b"/CreationDate" not in first
    assert render_pdf(invoice("de")) != first


def test_no_text_is_read_as_markup_in_pdf() -> None:
    for hostile in HOSTILE:
        named = samples.client(hostile, address={"lines": [hostile]})
        line = samples.line(1, hostile, "1", "1", "EUR")
        made = samples.invoice([line], "EUR", memo=hostile, number=hostile, external_id=hostile)
        given = samples.invoice_facts(made, client=named, firm=samples.firm(hostile, branding={"footer": hostile}))
        text = flat(Pdf(render_pdf(invoice_document(given, formats_for("en")))).text())
        # Firm, client, street, line, number, reference, memo, foot.
        assert text.count(flat(hostile)) == 8, hostile


def test_no_text_is_read_as_markup_in_html() -> None:
    for hostile in HOSTILE:
        named = samples.client(hostile, address={"lines": [hostile]})
        made = samples.invoice([samples.line(1, hostile, "1", "1", "EUR")], "EUR", memo=hostile, number=hostile)
        given = samples.invoice_facts(
            made, client=named, firm=samples.firm(hostile, branding={"logo_url": f'https://x.test/"{hostile}'})
        )
        page = Page.of(render_html(invoice_document(given, formats_for("en"))).decode())
        assert page.texts.count(hostile) == 6
        assert not page.scripts


def test_marks_go_over_the_page() -> None:
    document = replace(invoice(), mark="Draft")
    assert "Draft" in Pdf(render_pdf(document)).text()
    assert "Draft" in Page.of(render_html(document).decode()).texts


def test_a_way_to_pay_is_a_link_and_a_code() -> None:
    document = invoice("hi-IN", pay=facts.PayFacts(samples.LINK, date(2026, 3, 11), samples.UPI))
    assert samples.LINK.encode() in render_pdf(document)
    page = Page.of(render_html(document).decode())
    assert page.links == [samples.LINK]
    assert any(source.startswith("data:image/svg+xml;base64,") for source in page.images)
    assert "UPI से भुगतान के लिए स्कैन करें" in page.texts


def test_a_picture_that_cannot_be_read_is_left_out() -> None:
    broken = base64.b64encode(samples.png(40, 40, (9, 9, 9))[:40] + bytes(30)).decode()
    document = invoice(firm=samples.firm(branding={"logo_image": broken}))
    assert document.branding.logo is not None
    assert "HV-2026-000042" in Pdf(render_pdf(document)).text()


def test_a_hundred_pages_of_hours_are_set() -> None:
    document = invoice(work=samples.work(5_600))
    pdf = Pdf(render_pdf(document))
    assert pdf.pages >= 100
    last = pdf.text(slice(-1, None))
    assert "Review of ledger 5599" in last
    assert "Rate (EUR)" in last
    assert f"Page {pdf.pages} of {pdf.pages}" in last


def test_long_words_stay_on_the_page() -> None:
    made = samples.invoice([samples.line(1, "x" * 400, "1", "1", "EUR")], "EUR")
    text = Pdf(render_pdf(invoice_document(samples.invoice_facts(made), formats_for("en")))).text()
    rows = [row.replace("\u200b", "") for row in text.splitlines() if "xxxx" in row]
    assert len(rows) > 3
    assert sum(map(len, rows)) == 400


async def test_setting_pages_keeps_nobody_waiting() -> None:
    """The loop goes on while pages are set; a hundredth of a second is what one callback may take."""
    document, longest = invoice(work=samples.work(200)), 0.0
    done = asyncio.gather(*(pdf_of(lambda: document) for _ in range(4)))
    loop = asyncio.get_running_loop()
    turns = 0
    while not done.done():
        before = loop.time()
        await asyncio.sleep(0)
        longest, turns = max(longest, loop.time() - before), turns + 1
    assert len(set(await done)) == 1
    # Were the pages set in the loop it would turn four times.
    assert turns > 100, longest


def test_the_fonts_have_every_sign_that_we_write() -> None:
    signs: set[str] = set()
    for language in LANGUAGES:
        formats = formats_for(language)
        signs.update(*words_of(language).values())
        for currency in ("EUR", "INR", "JPY", "USD", "GBP", "CNY", "KRW", "KWD", "CHF", "BRL", "ILS", "VND", "UAH"):
            signs.update(formats.money(-1234567 * 10 ** exponent(currency), currency))
        for month in range(1, 13):
            signs.update(formats.day(date(2026, month, 28)), formats.period(date(2026, month, 2), date(2026, month, 9)))
    known: set[int] = set()
    for path in FONTS.glob("*-Regular.?tf"):
        known |= TTFont(path).getBestCmap().keys()
    assert not {sign for sign in signs if ord(sign) not in known and sign not in "{}"}
    for path in FONTS.glob("*-Bold.?tf"):
        regular = TTFont(str(path).replace("-Bold", "-Regular")).getBestCmap().keys()
        assert TTFont(path).getBestCmap().keys() >= regular


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.scripts = False
        self.language = ""
        self._style = False

    @classmethod
    def of(cls, html: str) -> Page:
        page = cls()
        page.feed(html)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._style = tag == "style"
        self.scripts |= tag == "script" or any(name.startswith("on") for name in given)
        if tag == "a":
            self.links.append(given["href"] or "")
        elif tag == "img":
            self.images.append(given["src"] or "")
        elif tag == "html":
            self.language = given["lang"] or ""

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._style:
            self.texts.append(data.strip())
