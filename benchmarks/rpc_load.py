"""Load on a gRPC server: from h2load where every call is the same, from several processes where each call is its own.

Both first go as fast as the server allows with a fixed number of calls in progress, then, for latencies, begin calls at
fixed times whatever the server does (open loop). Every answer is checked: a rate counts only if the calls were served.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.synchronize import Barrier
from pathlib import Path

import grpc

from benchmarks.common import percentile

Metadata = tuple[tuple[str, str], ...]
CONNECTIONS = 4
IN_PROGRESS = 48
"""Calls in progress over all connections at saturation: more than the pool has connections, fewer than are refused."""
FEW = 100.0
"""Calls per second up to which one connection makes them: several begin their pace at the same moment, so that few calls come in bursts."""
PROCESSES = 2
_DEADLINE = "20S"
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """The calls of one process: one key, one method, and a body for each call (one body: the same for all)."""

    address: str
    path: str
    metadata: Metadata
    bodies: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Answered:
    """What was measured: answers per second and each call's milliseconds."""

    rate: float
    latencies_ms: Sequence[float]

    @property
    def p50_ms(self) -> float:
        """Half of the calls took no longer."""
        return percentile(self.latencies_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """One in a hundred took longer."""
        return percentile(self.latencies_ms, 0.99)


@cache
def has_h2load() -> bool:
    """Whether h2load can be used; installs it where this machine's packages are ours to change."""
    if shutil.which("h2load") is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "nghttp2-client"]):
            subprocess.run(["apt-get", "--quiet", *command], check=False, capture_output=True)
    return shutil.which("h2load") is not None


def repeat(load: Load, answer_bytes: int, *, seconds: float, rate: float | None = None) -> Answered:
    """The same call again and again, for `seconds`: at saturation, or beginning `rate` calls per second.

    `answer_bytes` is the length of the answer's message, by which the answers are checked.
    """
    if has_h2load():
        return _h2load(load, answer_bytes, seconds, rate)
    count = round(seconds * (rate or 5000.0))
    loads = [Load(load.address, load.path, load.metadata, [load.bodies[0]] * count)] * PROCESSES
    return distinct(loads, seconds=seconds, rate=rate)


def _h2load(load: Load, answer_bytes: int, seconds: float, rate: float | None) -> Answered:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        message = load.bodies[0]
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        connections = CONNECTIONS if rate is None or rate > FEW else 1
        pace = [] if rate is None else ["--rps", f"{rate / connections:.2f}"]
        command = [
            "h2load", "-t", "1", "-c", str(connections), "-m", str(IN_PROGRESS // connections), "-D", f"{round(seconds * 1000)}ms",
            "--warm-up-time", "1", "-d", str(body), "--log-file", str(log), *pace, "-H", "content-type: application/grpc",
            "-H", "te: trailers", "-H", f"grpc-timeout: {_DEADLINE}",
        ]  # fmt: skip
        for name, value in load.metadata:
            command += ["-H", f"{name}: {value}"]
        text = subprocess.run(
            [*command, f"http://{load.address}{load.path}"], check=True, capture_output=True, text=True
        ).stdout
        lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
    done, failed = _number(r"(\d+) succeeded", text), _number(r"(\d+) failed", text)
    # h2load knows of HTTP's status only, which is 200 also for a gRPC error; an error has no message.
    data = _number(r"headers \([^)]*\)[^,]*,.*\((\d+)\) data", text)
    if failed or data < done * (answer_bytes + 5):
        raise RuntimeError(f"not every call of {load.path} was served as it should be:\n{text}")
    return Answered(done / seconds, [int(line.split("\t")[2]) / 1000 for line in lines if line.split("\t")[1] == "200"])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"h2load said nothing of {pattern}:\n{text}")
    return int(found.group(1))


def distinct(loads: Sequence[Load], *, seconds: float, rate: float | None = None) -> Answered:
    """Every call with a body of its own, one process for each load, until bodies or `seconds` run out."""
    spawn = multiprocessing.get_context("spawn")
    share = None if rate is None else rate / len(loads)
    with spawn.Manager() as manager, spawn.Pool(len(loads)) as pool:
        barrier = manager.Barrier(len(loads))
        arguments = [(load, seconds, share, IN_PROGRESS // len(loads), barrier) for load in loads]
        parts = pool.starmap(_drive, arguments, chunksize=1)
    latencies = [latency for _, _, part in parts for latency in part]
    # Up to the first process's end, so that all of them are there.
    start, end = max(part[0] for part in parts), min(part[1] for part in parts)
    if not latencies or end <= start:
        raise RuntimeError("the load had no time at which all its processes worked")
    return Answered(sum(len(part) / (stop - begin) for begin, stop, part in parts), latencies)


def _drive(
    load: Load, seconds: float, rate: float | None, in_progress: int, barrier: Barrier
) -> tuple[float, float, list[float]]:
    """In its own process: begin, end (machine's clock), milliseconds per call."""
    import uvloop

    return uvloop.run(_calls(load, seconds, rate, in_progress, barrier))


async def _calls(
    load: Load, seconds: float, rate: float | None, in_progress: int, barrier: Barrier
) -> tuple[float, float, list[float]]:
    latencies: list[float] = []
    bodies = iter(load.bodies)
    async with grpc.aio.insecure_channel(load.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(load.path)
        await channel.channel_ready()
        await asyncio.to_thread(barrier.wait)
        begin = time.time()
        until = time.perf_counter() + seconds

        async def one(body: bytes, since: float) -> None:
            await call(body, metadata=load.metadata, timeout=_SECONDS)
            latencies.append((time.perf_counter() - since) * 1000)

        async def worker() -> None:
            for body in bodies:
                since = time.perf_counter()
                if since >= until:
                    return
                await one(body, since)

        if rate is None:
            await asyncio.gather(*(worker() for _ in range(in_progress)))
        else:
            started = []
            planned = time.perf_counter()
            for body in bodies:
                if planned >= until:
                    break
                await asyncio.sleep(max(0.0, planned - time.perf_counter()))
                started.append(asyncio.create_task(one(body, planned)))
                planned += 1.0 / rate
            await asyncio.gather(*started)
        end = time.time()
    return begin, end, latencies
