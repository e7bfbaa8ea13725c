"""Documents as PDF, set by typst from the templates in `templates/typst`.

The same document gives the same bytes on every machine: the fonts are ours, no date is written, and nothing is read but the templates.
Texts reach the templates as data and are never read as markup.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import structlog
import typst

from dunwell_server.billing.documents.data import Document, to_json

HERE: Final = Path(__file__).parent
TEMPLATES: Final = HERE / "templates" / "typst"
FONTS: Final = HERE / "fonts"
_EPOCH: Final = 0
_local = threading.local()
_log = structlog.get_logger(__name__)


@cache
def _pool() -> ThreadPoolExecutor:
    """A thread for each core. Typst works without the interpreter's lock, so that they work at once and nobody waits for them."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="dunwell-pdf")


@cache
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(FONTS)])


def _compiler() -> typst.Compiler:
    """The thread's own compiler, which remembers the templates."""
    compiler: typst.Compiler | None = getattr(_local, "compiler", None)
    if compiler is None:
        compiler = _local.compiler = typst.Compiler(root=str(TEMPLATES), font_paths=_fonts())
    return compiler


def render_pdf(document: Document) -> bytes:
    """The document as PDF, in the calling thread."""
    try:
        return _compile(document)
    except typst.TypstError as error:
        if document.branding.logo is None:
            raise
        # The rest of the document is worth more than a picture that cannot be read.
        _log.warning("document_logo_unreadable", error=error.message)
        return _compile(replace(document, branding=replace(document.branding, logo=None)))


async def pdf_of(make: Callable[[], Document]) -> bytes:
    """What `make` makes, as PDF, by a thread of the pool: the caller's loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(_pool(), lambda: render_pdf(make()))


def _compile(document: Document) -> bytes:
    content = _compiler().compile(
        input=str(TEMPLATES / f"{document.kind.lower()}.typ"),
        format="pdf",
        sys_inputs={"document": to_json(document)},
        timestamp=_EPOCH,
    )
    assert isinstance(content, bytes)
    return content
