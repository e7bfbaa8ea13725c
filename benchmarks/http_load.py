"""Webhooks over HTTP from several processes (`http_sender`), each event with its own body, over connections that are kept."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.http_sender import Endpoint
from benchmarks.rpc_load import IN_PROGRESS, PROCESSES, Answered


def deliver(endpoint: Endpoint, count: int, *, seconds: float, rate: float | None = None) -> Answered:
    """Send up to `count` webhooks from each process for `seconds`: at saturation, or `rate` per second over all of them."""
    share = 0.0 if rate is None else rate / PROCESSES
    command = [
        sys.executable, "-m", "benchmarks.http_sender", endpoint.host, str(endpoint.port), endpoint.path, endpoint.secret,
        str(count), str(seconds), str(share), str(IN_PROGRESS // PROCESSES),
    ]  # fmt: skip
    senders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        parts = _results(senders)
    finally:
        for sender in senders:
            sender.kill()
            sender.communicate()
    start, end = max(part[0] for part in parts), min(part[1] for part in parts)
    latencies = [latency for _, _, part in parts for latency in part]
    if not latencies or end <= start:
        raise RuntimeError("the load had no time at which all its processes worked")
    return Answered(sum(len(part) / (stop - begin) for begin, stop, part in parts), latencies)


def _results(senders: list[subprocess.Popen[str]]) -> list[tuple[float, float, list[float]]]:
    for sender in senders:
        assert sender.stdout is not None
        if sender.stdout.readline().strip() != "ready":
            raise RuntimeError("a sender of webhooks did not start")
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    lines = [sender.stdout.readline() for sender in senders if sender.stdout is not None]
    if not all(lines):
        raise RuntimeError("a sender of webhooks ended before its time; see above")
    return [json.loads(line) for line in lines]
