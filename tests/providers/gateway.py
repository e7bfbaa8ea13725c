"""Runs the sandbox gateway as a real process, for every suite that needs one.

gateway = start_gateway(tmp_path)           # a free port, its book in tmp_path
gateway.url, gateway.pid
gateway.kill()                              # kill -9; the book stays
gateway = start_gateway(tmp_path, port=gateway.port)
gateway.stop()
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 20.0


@dataclass
class GatewayProcess:
    """One running gateway. ``control`` and ``movements`` speak to it synchronously."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=20)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9: no chance to write anything more."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, sign: signal.Signals) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(sign)
        code = self.process.wait(timeout=20)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._client.close()
        return code

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        """POST /control/<path>. Calls that wait (``timeout_seconds``) are waited for."""
        patience = 20 + float(body.get("timeout_seconds", 30))
        response = self._client.post(f"/control/{path}", json=body, timeout=patience)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    def shown(self, path: str, **params: Any) -> dict[str, Any]:
        """GET /control/<path>."""
        response = self._client.get(f"/control/{path}", params=params)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    def ledger(self, account: str | None = None, group: str = "reference", kind: str = "charge") -> dict[str, Any]:
        """The gateway's own book: ``{"movements": n, "groups": {value: {"count", "amounts"}}}``.

        ``kind`` is charge, refund, … or ``all``, which nets them.
        """
        params = {"group": group, "kind": kind} | ({"account": account} if account else {})
        response = self._client.get("/control/ledger", params=params)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    def movements(self, reference: str, account: str | None = None) -> int:
        """How many times money moved for a reference."""
        count: int = self.ledger(account)["groups"].get(reference, {"count": 0})["count"]
        return count


def start_gateway(
    folder: Path,
    *,
    port: int = 0,
    allow_reset: bool = False,
    webhook_url: str | None = None,
    environment: dict[str, str] | None = None,
) -> GatewayProcess:
    """Starts a gateway whose book lies in ``folder`` and waits until it serves. Fails with its error output.

    ``webhook_url`` is the template for accounts that have no endpoint of their own; ``environment`` is added to ours.
    """
    errors = folder / "gateway.err"
    command = [
        sys.executable,
        "-m",
        "dunwell_server.sandbox",
        "--port",
        str(port),
        "--data",
        str(folder / "gateway.db"),
    ]
    if allow_reset:
        command.append("--allow-reset")
    if webhook_url is not None:
        command += ["--webhook-url", webhook_url]
    variables = os.environ | {"PYTHONPATH": str(ROOT / "server")} | (environment or {})
    with errors.open("ab") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, env=variables, cwd=ROOT)
    atexit.register(process.kill)  # A failing test leaves no gateway behind; killing a dead one does nothing.
    url = _listening(process)
    if url is None:
        process.kill()
        process.wait()
        raise RuntimeError(f"the gateway did not start: {errors.read_text()}")
    return GatewayProcess(url, int(url.rpartition(":")[2]), process, folder)


def _listening(process: subprocess.Popen[bytes]) -> str | None:
    """The URL of the line the gateway prints once it serves."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.2)[0]:
            words = process.stdout.readline().decode().split()
            return words[-1] if words else None
    return None
