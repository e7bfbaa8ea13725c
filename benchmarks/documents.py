"""PDF documents: a thousand invoices by all cores, beside typst alone on the very same data.

    python -m benchmarks.documents [--count 1000] [--rows 5600]

The figure goes from the facts of an invoice to its bytes; the ceiling sets the data that was made of the same facts before. Latencies are
processor time of one document after the other. `--rows` time entries make the annex whose milliseconds a page are told as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import typst

from benchmarks.common import Figure, peak_memory_mib, percentile, report
from dunwell_server.billing.documents import pdf
from dunwell_server.billing.documents.data import to_json
from dunwell_server.billing.documents.facts import InvoiceFacts
from dunwell_server.billing.documents.formats import formats_for
from dunwell_server.billing.documents.invoices import invoice_document
from tests.pdf_text import Pdf
from tests.unit.billing.documents import samples

TARGET_RATIO = 0.8
TARGET_P99_MS = 50.0
TAGS = ("en-GB", "hi-IN", "de-DE", "fr-FR", "es-ES", "ja-JP")


def invoices(count: int) -> list[tuple[InvoiceFacts, str]]:
    """Invoices that differ, with their locales in turn."""
    usual = samples.usual()
    return [
        (samples.invoice_facts(replace(usual, number=f"HV-2026-{number:06d}", total=usual.total + number)), TAGS[number % len(TAGS)])
        for number in range(count)
    ]  # fmt: skip


def rendered(given: tuple[InvoiceFacts, str]) -> bytes:
    """What the service does off its loop."""
    facts, tag = given
    return pdf.render_pdf(invoice_document(facts, formats_for(tag)))


class Bare:
    """Typst alone, with a compiler for each thread."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._fonts = typst.Fonts(False, False, [str(pdf.FONTS)])

    def __call__(self, data: str) -> None:
        """Set data that is ready."""
        if not hasattr(self._local, "compiler"):
            self._local.compiler = typst.Compiler(root=str(pdf.TEMPLATES), font_paths=self._fonts)
        template = str(Path(pdf.TEMPLATES) / "invoice.typ")
        self._local.compiler.compile(input=template, format="pdf", sys_inputs={"document": data}, timestamp=0)


def per_second(work: Callable[[object], object], items: Sequence[object]) -> float:
    """How many a second by all cores, once every thread has its fonts."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, items[: 8 * cores]))
        start = time.perf_counter()
        list(pool.map(work, items))
        return len(items) / (time.perf_counter() - start)


def one_by_one(items: Sequence[tuple[InvoiceFacts, str]]) -> list[float]:
    """Milliseconds of processor time of each."""
    spans: list[float] = []
    for item in items:
        start = time.process_time()
        rendered(item)
        spans.append((time.process_time() - start) * 1000)
    return spans


def long_annex(rows: int) -> tuple[int, float]:
    """The pages of an invoice with that many time entries, and the milliseconds of processor time that each takes."""
    facts = samples.invoice_facts(samples.usual(), work=samples.work(rows))
    start = time.process_time()
    content = rendered((facts, "en-GB"))
    spent = (time.process_time() - start) * 1000
    pages = Pdf(content).pages
    return pages, spent / pages


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents", description="PDF documents.")
    parser.add_argument("--count", type=int, default=1000, help="how many invoices (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5600, help="time entries of the long annex (default: %(default)s)")
    options = parser.parse_args(arguments)
    given = invoices(options.count)
    data = [to_json(invoice_document(facts, formats_for(tag))) for facts, tag in given]
    ceiling = per_second(Bare(), data)  # type: ignore[arg-type]
    rate = per_second(rendered, given)  # type: ignore[arg-type]
    spans = one_by_one(given[:200])
    figure = Figure(
        f"{options.count:,} PDF invoices by all cores", rate, ceiling, TARGET_RATIO, None, percentile(spans, 0.5),
        percentile(spans, 0.99), peak_memory_mib(), TARGET_P99_MS,
    )  # fmt: skip
    report("Documents", [figure], "documents.json")
    pages, ms = long_annex(options.rows)
    print(f"{options.rows:,} time entries: {pages} pages, {ms:.1f} ms a page")
    return [figure]


if __name__ == "__main__":
    sys.exit(0 if all(figure.is_met for figure in main()) else 1)
