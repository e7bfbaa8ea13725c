"""Any invoice before it exists: computed by the code that would write it, and not written."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Final
from uuid import UUID

from dunwell_server.billing import packages
from dunwell_server.billing.errors import invoice_conflict
from dunwell_server.billing.model import Invoice, InvoiceOrigin, InvoiceState
from dunwell_server.billing.service import time_billing
from dunwell_server.billing.service.engagements import get_engagement, today
from dunwell_server.billing.service.invoices import NewInvoice, as_sent, compose, get_invoice, parties, with_lines
from dunwell_server.billing.service.switches import in_force
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.platform.database import UnitOfWork

NO_ID: Final = UUID(int=0)
"""The id of an invoice that does not exist."""


async def preview_new(uow: UnitOfWork, new: NewInvoice) -> Invoice:
    """What CreateInvoice with `finalize` would write. Errors: those of CreateInvoice and FinalizeInvoice."""
    charged = await time_billing.prepare(uow, new.client_id, new.time, lock=False)
    draft, client, engagement = await compose(uow, new, lock=False, charged=charged)
    return replace(await as_sent(uow, draft, client, engagement), id=NO_ID)


async def preview_draft(uow: UnitOfWork, invoice_id: UUID) -> Invoice:
    """What FinalizeInvoice would make of a draft. Errors: those of FinalizeInvoice."""
    draft = await get_invoice(uow, invoice_id)
    if draft.state is not InvoiceState.DRAFT:
        raise invoice_conflict(draft, "PreviewInvoice", "a DRAFT")
    client, engagement = await parties(uow, draft)
    return replace(await as_sent(uow, draft, client, engagement), id=NO_ID)


async def preview_engagement(uow: UnitOfWork, engagement_id: UUID, as_of: date | None = None) -> Invoice | None:
    """What a billing run as of a day (None: today) would bill for an engagement; None: nothing.

    Errors: RESOURCE_NOT_FOUND, AMOUNT_OUT_OF_RANGE, and those of FinalizeInvoice.
    """
    engagement = in_force(uow, await get_engagement(uow, engagement_id))
    covered = await engagement_store.covered(uow, engagement_id, engagement.billed_through_date)
    zone = uow.firm.settings.zone
    day = as_of or today(uow)
    lines = packages.package_lines(engagement, engagement_id, day, covered, zone=zone)
    facts = await time_billing.load(uow, [engagement], day, lock=False)
    charged = time_billing.charges(facts, engagement, day).behind(len(lines))
    if not lines and not charged.lines:
        return None
    new = NewInvoice(engagement.client_id, engagement_id=engagement_id)
    draft, client, _ = await compose(uow, new, lock=False)
    draft = with_lines(replace(draft, origin=InvoiceOrigin.RUN, discounts=charged.discounts), [*lines, *charged.lines])
    return replace(await as_sent(uow, draft, client, engagement), id=NO_ID)
