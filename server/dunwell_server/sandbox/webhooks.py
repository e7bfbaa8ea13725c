"""The sender of webhooks: every event over HTTP to its account's endpoint, at least once.

What is owed lies in the book beside the events (`outbox`). A sending is settled by a 2xx answer alone; anything else is
repeated with growing waits until it is given up after three days, or because its account has no endpoint any more. A gateway that dies between an answer and noting it
sends again: receivers tell repetitions by the event's id.

The signature is Stripe's scheme: ``Dunwell-Sandbox-Signature: t=<seconds>,v1=<hex>``, where v1 is HMAC-SHA256 over
``<t>.<body>``, once per live secret of the account. ``t`` is machine time, also where the account has a clock of its own.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import sqlite3
import sys
from dataclasses import dataclass

from dunwell_server.sandbox.accounts import Accounts, machine_ms
from dunwell_server.sandbox.answers import dumps
from dunwell_server.sandbox.book import Book
from dunwell_server.sandbox.failpoints import AFTER_ACK, BEFORE_SEND, Failpoints
from dunwell_server.sandbox.outbox import event_object, settle, undelivered
from dunwell_server.sandbox.poster import Poster, PostFailed

SIGNATURE_HEADER = "Dunwell-Sandbox-Signature"
HEADERS = {"User-Agent": "dunwell-sandbox/1", "Content-Type": "application/json"}
CONCURRENCY = 16
ANSWER_SECONDS = 10.0
MAX_WAIT_SECONDS = 60.0
GIVE_UP_MS = 3 * 24 * 3600 * 1000
IDLE_SECONDS = 5.0
WATCH_SECONDS = 0.02


def sign(secret: str, at_seconds: int, body: bytes) -> str:
    """The value of one ``v1``."""
    return hmac.new(secret.encode(), str(at_seconds).encode() + b"." + body, hashlib.sha256).hexdigest()


def signature_header(secrets: tuple[str, ...], at_seconds: int, body: bytes) -> str:
    """The whole header."""
    return ",".join([f"t={at_seconds}", *(f"v1={sign(secret, at_seconds, body)}" for secret in secrets)])


@dataclass(frozen=True, slots=True)
class Sending:
    """One sending that is due."""

    seq: int
    account: str
    attempts: int
    created_ms: int
    url: str
    secrets: tuple[str, ...]
    retry_seconds: float
    body: bytes


class Sender:
    """Sends what is owed, a bounded number at a time, over connections that are kept."""

    def __init__(self, book: Book, accounts: Accounts, failpoints: Failpoints) -> None:
        self._book = book
        self._accounts = accounts
        self._failpoints = failpoints
        self._wake = asyncio.Event()
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._poster = Poster(ANSWER_SECONDS)
        accounts.home.wake = self._wake.set

    async def run(self) -> None:
        """Sends for ever."""
        while True:
            self._wake.clear()
            wait = IDLE_SECONDS
            try:
                due, wait = await self._book.run(self._due)
            except sqlite3.Error as error:
                print(f"sandbox gateway: webhooks: {error}", file=sys.stderr, flush=True)
                due = []
            for sending in due:
                task = asyncio.create_task(self._send(sending))
                self._sending[sending.seq] = task
                task.add_done_callback(functools.partial(self._ended, sending.seq))
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _ended(self, seq: int, task: asyncio.Task[None]) -> None:
        del self._sending[seq]
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"sandbox gateway: webhooks: {error!r}", file=sys.stderr, flush=True)
            return  # It is still owed; not at once again, for what failed is our own book.
        self._wake.set()

    def _due(self, connection: sqlite3.Connection) -> tuple[list[Sending], float]:
        """What can be sent now, and for how long there is nothing to do afterwards."""
        free = CONCURRENCY - len(self._sending)
        if free <= 0:
            return [], IDLE_SECONDS
        now = machine_ms()
        rows = connection.execute(
            "SELECT seq, due_ms FROM deliveries WHERE state = 'due' ORDER BY due_ms, seq LIMIT ?", (CONCURRENCY + 1,)
        ).fetchall()
        rows = [row for row in rows if row["seq"] not in self._sending]
        due = [self._sendable(connection, row["seq"]) for row in rows[:free] if row["due_ms"] <= now]
        if len(due) == free or len(due) == len(rows):
            return due, IDLE_SECONDS  # The end of a sending, or something new, wakes us.
        return due, min(IDLE_SECONDS, max(0.0, (rows[len(due)]["due_ms"] - now) / 1000))

    def _sendable(self, connection: sqlite3.Connection, seq: int) -> Sending:
        row = connection.execute(
            "SELECT d.attempts, d.created_ms AS owed_ms, e.* FROM deliveries AS d JOIN events AS e ON e.id = d.event "
            "WHERE d.seq = ?",
            (seq,),
        ).fetchone()
        account = self._accounts.get(connection, row["account"])
        return Sending(
            seq,
            account.name,
            row["attempts"],
            row["owed_ms"],
            account.webhook_url,
            account.webhooks.signing_secrets(account.name),
            account.webhooks.retry_seconds,
            dumps(event_object(row)).encode(),
        )

    async def _send(self, sending: Sending) -> None:
        self._failpoints.reach(BEFORE_SEND)
        answer, delivered = await self._post(sending)
        if delivered:
            self._failpoints.reach(AFTER_ACK)
        now = machine_ms()
        wait = min(MAX_WAIT_SECONDS, sending.retry_seconds * 2 ** min(sending.attempts, 20))
        over = not sending.url or now - sending.created_ms > GIVE_UP_MS
        ended = "delivered" if delivered else "given_up" if over else None
        due_ms = now if ended else now + int(wait * 1000)

        def note(connection: sqlite3.Connection) -> None:
            account = self._accounts.get(connection, sending.account)
            settle(connection, account, sending.seq, answer, ended=ended, due_ms=due_ms)

        await self._book.run(note)

    async def _post(self, sending: Sending) -> tuple[str, bool]:
        """What came back, in a word, and whether that settles it."""
        if not sending.url:
            return "no endpoint", False
        signature = signature_header(sending.secrets, machine_ms() // 1000, sending.body)
        try:
            status = await self._poster.post(sending.url, HEADERS | {SIGNATURE_HEADER: signature}, sending.body)
        except PostFailed as failure:
            return str(failure), False
        return str(status), 200 <= status < 300

    async def drained(self, account: str | None, timeout_seconds: float) -> int:
        """Waits until an account (None: all) has nothing undelivered, or the time is up; how much is left."""
        deadline = machine_ms() + timeout_seconds * 1000
        while True:
            left = await self._book.run(lambda connection: undelivered(connection, account))
            if left == 0 or machine_ms() >= deadline:
                return left
            await asyncio.sleep(WATCH_SECONDS)

    async def flush(self, account: str | None, timeout_seconds: float) -> int:
        """Has everything owed sent now, in the order in which it would have gone, and waits as `drained`.

        What is held back by a pause stays so, and counts as left.
        """

        def hasten(connection: sqlite3.Connection) -> None:
            now = machine_ms()
            clause, values = ("", ()) if account is None else (" AND account = ?", (account,))
            rows = connection.execute(
                f"SELECT seq FROM deliveries WHERE state = 'due' AND due_ms > ?{clause} ORDER BY due_ms, seq",
                (now, *values),
            ).fetchall()
            connection.executemany(
                "UPDATE deliveries SET due_ms = ? WHERE seq = ?",
                [(now - len(rows) + nth, row["seq"]) for nth, row in enumerate(rows)],
            )

        await self._book.run(hasten)
        self._wake.set()
        return await self.drained(account, timeout_seconds)

    def poke(self) -> None:
        """Looks again what is to do: settings have changed."""
        self._wake.set()

    async def close(self) -> None:
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._poster.close()
