"""A firm that lives on its test clock: billing's due work, done in the order and at the times of production."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from dunwell_server.admin.service import clocks
from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.service.credit import expire_credit
from dunwell_server.billing.service.engagements import end_due_engagements
from dunwell_server.billing.service.overdue import mark_overdue
from dunwell_server.billing.service.renewals import auto_renew_engagements
from dunwell_server.billing.store.due import marks_due, renewals_due
from dunwell_server.platform import runs
from dunwell_server.platform.context import system_context
from dunwell_server.platform.runs import RunKind, RunState
from dunwell_server.platform.work import WorkHandler, WorkKind
from dunwell_server.scheduler.clock import ClockRunExecutor
from dunwell_server.scheduler.daily import DailyMarks, DailyRun
from dunwell_server.scheduler.runs import RunHandler
from tests.integration.billing.book import Book

RENEWALS = DailyMarks([auto_renew_engagements], renewals_due, WorkKind.RENEWALS)
HANDLERS: list[WorkHandler] = [
    RENEWALS,
    DailyRun(WorkKind.PACKAGES, RunKind.PACKAGES, lambda settings: settings.package_run_time),
    DailyMarks([mark_overdue, end_due_engagements, expire_credit], marks_due),
]


async def live_until(book: Book, target: datetime) -> None:
    """Advance the firm's clock; everything of billing that falls due on the way is done."""
    assert book.context.firm_id is not None
    run_id = await book.do(clocks.start_advance, None, target, None, uuid4())
    executor = ClockRunExecutor(HANDLERS, RunHandler([PackageRunExecutor()]), [])
    context = system_context(book.context.firm_id, "job:run")
    await executor.execute(book.db, context, await book.see(runs.get, run_id))
    run = await book.see(runs.get, run_id)
    assert run.state is RunState.SUCCEEDED, run.error
