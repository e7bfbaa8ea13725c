"""Rendering a document: read in one transaction, set outside of any, kept in another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Final

from dunwell_server.billing.documents.data import Kind
from dunwell_server.billing.documents.html import html_of
from dunwell_server.billing.documents.pdf import pdf_of
from dunwell_server.billing.service import documents
from dunwell_server.billing.service.documents import Form, Wanted
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database

CONTENT_TYPES: Final = {Form.PDF: "application/pdf", Form.HTML: "text/html; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document, its bytes and their SHA-256. `kept`: the same will be answered for ever. `firm_time` is when it was first rendered."""

    kind: Kind
    form: Form
    locale: str
    file_name: str
    content: bytes
    digest: bytes
    kept: bool
    firm_time: datetime

    @property
    def content_type(self) -> str:
        """Its media type."""
        return CONTENT_TYPES[self.form]


async def render(database: Database, context: CallContext, wanted: Wanted) -> Rendered:
    """The document as it was sent, or a new one. Errors: RESOURCE_NOT_FOUND, PERIOD_INVALID, STATE_CONFLICT.

    What is kept is kept whatever else is going on: a firm that is suspended, or whose clock advances, still gets its documents.
    """
    prepared = await database.run(context, lambda uow: documents.prepare(uow, wanted), write=False)
    kept = prepared.kept
    if kept is None:
        assert prepared.make is not None
        content = await (pdf_of(prepared.make) if wanted.form is Form.PDF else html_of(prepared.make))
        digest = (await asyncio.to_thread(sha256, content)).digest()
        if prepared.edition is not None:
            keeping = replace(context, upkeep=True)
            kept = await database.run(keeping, lambda uow: documents.keep(uow, wanted, prepared, content, digest))
    return Rendered(
        wanted.kind,
        wanted.form,
        prepared.formats.tag,
        f"{prepared.name}.{wanted.form.lower()}",
        content if kept is None else kept.content,
        digest if kept is None else kept.content_hash,
        kept is not None,
        prepared.firm_time if kept is None else kept.firm_time,
    )
