"""Runs localstripe, a stand-in for Stripe that this project did not write, as a process of its own."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass
class LocalStripe:
    """A running localstripe. It accepts any key that begins with ``sk_``."""

    url: str
    process: subprocess.Popen[bytes]

    def movements(self, payment: str) -> int:
        """How many succeeded PaymentIntents its own book has for one of our payments."""
        return sum(
            intent["status"] == "succeeded" and intent["metadata"].get("payment") == payment
            for intent in self.all("payment_intents")
        )

    def all(self, collection: str) -> list[dict[str, Any]]:
        """Every object of a kind."""
        found: list[dict[str, Any]] = []
        with httpx.Client(
            base_url=self.url, trust_env=False, headers={"authorization": "Bearer sk_test_book"}
        ) as client:
            while True:
                query = {"limit": 100} | ({"starting_after": found[-1]["id"]} if found else {})
                page = client.get(f"/v1/{collection}", params=query).json()
                found += page["data"]
                if not page["has_more"]:
                    return found

    def post(self, path: str, **form: str) -> Any:
        """A request past the adapter, such as a client's browser would make it."""
        with httpx.Client(
            base_url=self.url, trust_env=False, headers={"authorization": "Bearer sk_test_book"}
        ) as client:
            response = client.post(path, data=form)
            assert response.status_code == 200, response.text
            return response.json() if response.content else None

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(timeout=20)


def start_localstripe(folder: Path) -> LocalStripe:
    """Starts one on a free port and waits until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "localstripe.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"],
            stdout=sink,
            stderr=sink,
            cwd=folder,
        )
    atexit.register(process.kill)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(
                f"{url}/v1/customers", headers={"authorization": "Bearer sk_test_book"}, trust_env=False
            ).is_success:
                return LocalStripe(url, process)
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"localstripe did not start: {log.read_text()}")
