"""The processes that `serve` starts: an RPC worker, a job worker. Each also runs alone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dunwell_server.bootstrap import open_application
from dunwell_server.cli.problems import levels
from dunwell_server.config import Settings
from dunwell_server.platform.logging import configure_logging, get_logger
from dunwell_server.platform.loop_monitor import LoopMonitor
from dunwell_server.platform.metrics import Exporter
from dunwell_server.platform.migrate import head_revision
from dunwell_server.rpc.startup import StartupError, check_database
from dunwell_server.sandbox.__main__ import main as sandbox_main
from dunwell_server.scheduler.ticks import start_ticks
from dunwell_server.supervisor import die_with_supervisor

log = get_logger(__name__)


def rpc_worker(settings: Settings, index: int) -> int:
    """Serve RPCs until SIGTERM or SIGINT. Workers of one supervisor share its port, which it has probed."""
    supervised = die_with_supervisor()
    name = f"rpc-{index}"
    _configure(settings, name)

    async def work() -> int:
        async with open_application(settings, name=name) as app:
            await check_database(app.urls.application, head_revision())
            with _metrics(settings, index):
                # What is loaded by now lives as long as the process: collections need not walk through it while calls wait.
                gc.collect()
                gc.freeze()
                await app.rpc_server(index=index, shared_port=supervised).serve()
        return 0

    return _run(work())


def job_worker(settings: Settings, index: int) -> int:
    """Do due work until SIGTERM or SIGINT."""
    die_with_supervisor()
    _give_way(settings.job_nice)
    name = f"job-{index}"
    _configure(settings, name)

    async def work() -> int:
        async with open_application(settings, name=name) as app:
            await check_database(app.urls.application, head_revision())
            worker, sealer, router = app.job_worker(), app.sealer(), app.router()
            loop = asyncio.get_running_loop()

            def stop() -> None:
                log.info("stopping")
                worker.stop()
                sealer.stop()
                router.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            ticks = start_ticks(worker, app.database)
            with _metrics(settings, settings.workers + index):
                async with LoopMonitor():
                    log.info("working")
                    await asyncio.gather(worker.run(), sealer.run(), router.run())
            ticks.shutdown(wait=False)
        return 0

    return _run(work())


def sandbox_gateway(port: int, book: Path, webhook_url: str | None = None, public_url: str | None = None) -> int:
    """The sandbox gateway, which knows nothing of supervisors, as a child of ours. URLs not given: as its environment says."""
    die_with_supervisor()
    arguments = ["--port", str(port), "--data", str(book)]
    if webhook_url is not None:
        arguments += ["--webhook-url", webhook_url]
    if public_url is not None:
        arguments += ["--public-url", public_url]
    return sandbox_main(arguments)


def _give_way(nice: int) -> None:
    """Let processes that somebody waits for go first; where the system knows no priorities, nothing changes."""
    if nice and hasattr(os, "nice"):
        os.nice(nice)


def _configure(settings: Settings, name: str) -> None:
    configure_logging(level=settings.log_level, levels=levels(settings), form=settings.log_format, process=name)


@contextmanager
def _metrics(settings: Settings, offset: int) -> Iterator[None]:
    """The process's exporter, on a port of its own."""
    if not settings.metrics_port:
        yield
        return
    port = settings.metrics_port + offset
    try:
        exporter = Exporter(port)
    except OSError as error:
        raise StartupError(
            f"metrics: port {port} is in use; set DUNWELL_METRICS_PORT to another, or to 0 for none"
        ) from error
    try:
        yield
    finally:
        exporter.close()


def _run(work: Coroutine[Any, Any, int]) -> int:
    """On uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
