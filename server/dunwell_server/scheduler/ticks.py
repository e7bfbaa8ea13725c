"""The scheduler: APScheduler wakes the process, PostgreSQL decides who works.

In memory, in UTC, coalescing: correctness never depends on a tick, only punctuality does.
"""

from __future__ import annotations

from datetime import UTC, datetime

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dunwell_server.platform.database import Database
from dunwell_server.scheduler.upkeep import purge_answers
from dunwell_server.scheduler.worker import JobWorker

PURGE_SECONDS = 3600


def start_ticks(worker: JobWorker, database: Database, *, sweep_seconds: int = 60) -> AsyncIOScheduler:
    """Sweep now and every `sweep_seconds`, purge every hour; returns the running scheduler, to be shut down by the caller."""
    scheduler = AsyncIOScheduler(
        timezone=UTC,
        jobstores={"default": MemoryJobStore()},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    scheduler.add_job(
        worker.sweep, "interval", seconds=sweep_seconds, jitter=5, id="sweep", next_run_time=datetime.now(UTC)
    )
    scheduler.add_job(purge_answers, "interval", args=[database], seconds=PURGE_SECONDS, jitter=300, id="purge")
    scheduler.start()
    return scheduler
