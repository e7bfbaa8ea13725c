"""The gateway without its HTTP: idempotency, faults, and one method per call of the API.

Idempotency is Stripe's (version 1 of their API): the status and body of the first execution are remembered for 24 hours
of the *account's* time, failures and server errors included; the same key with another payload is refused; a key in use
by a request still under way answers 409; what is refused before execution is not remembered. After 24 hours the same
key is a new request.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from dunwell_server.sandbox import due, payments, refunds
from dunwell_server.sandbox.accounts import MONEY, Account, Accounts, Fault, Home, Settings, machine_ms
from dunwell_server.sandbox.answers import (
    Answer,
    Delivery,
    Json,
    Refusal,
    conflict,
    dumps,
    instant,
    invalid,
    rate_limited,
)
from dunwell_server.sandbox.book import Book
from dunwell_server.sandbox.instruments import Behaviour
from dunwell_server.sandbox.payments import Charge
from dunwell_server.sandbox.refunds import RefundOrder

KEY_LIFE_MS = 24 * 3600 * 1000
MAX_KEY_LENGTH = 255
TICK_SECONDS = 0.5
PRUNE_SECONDS = 600.0
PRUNE_MARGIN_MS = 3600 * 1000
PRUNE_ROWS = 2000
DELIVERY_LIFE_MS = 7 * 24 * 3600 * 1000
NEVER_SENT = -1
GO_ON = Answer(0, "")
DELIVERY_FAULTS = frozenset(
    {
        Behaviour.ACCEPT_THEN_TIMEOUT,
        Behaviour.ACCEPT_THEN_DROP,
        Behaviour.SERVER_ERROR_AFTER_ACCEPT,
        Behaviour.UNPARSABLE,
        Behaviour.SLOW,
    }
)

Execute: TypeAlias = Callable[[sqlite3.Connection, Account, Fault | None, bool], Answer]
"""Executes a call whose key is new, under a scripted fault or none; True: the request comes late."""


class Gateway:
    """One running gateway over one book."""

    def __init__(self, data_path: Path, *, allow_reset: bool = False, home: Home | None = None) -> None:
        self.accounts = Accounts(home or Home())
        self.book = Book(data_path, on_rollback=self.accounts.forget)
        self.allow_reset = allow_reset
        self._in_flight: set[tuple[str, str]] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def call(self, name: str, work: Callable[[sqlite3.Connection, Account], Answer]) -> Answer:
        """Runs one call for an account, after whatever is due in the account by now."""

        def run(connection: sqlite3.Connection) -> Answer:
            account = self.accounts.get(connection, name)
            if account.clock_ms is None:
                due.run_due(connection, account, account.now_ms)
            try:
                return work(connection, account)
            except Refusal as refusal:  # Raised before anything was written.
                return refusal.answer()

        return await self.book.run(run)

    async def latency(self, name: str) -> None:
        """Waits as long as the account's calls are told to take."""
        account = self.accounts.known(name)
        if account is None:
            account = await self.book.run(lambda connection: self.accounts.get(connection, name))
        if account.settings.latency_ms:
            await asyncio.sleep(account.settings.latency_ms / 1000)

    async def post(
        self, name: str, key: str | None, fingerprint: bytes, work: Callable[[sqlite3.Connection, Account], Answer]
    ) -> Answer:
        """Runs a changing call under its key. ``fingerprint`` is path and payload."""
        if key is None:
            await self.latency(name)
            return await self.call(name, work)
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            return invalid("key_invalid", "Idempotency-Key has 1 to 255 characters.").answer()
        if (name, key) in self._in_flight:
            return conflict().answer()
        self._in_flight.add((name, key))
        try:
            await self.latency(name)
            digest = hashlib.sha256(fingerprint).hexdigest()
            return await self.call(name, lambda connection, account: once(connection, account, key, digest, work))
        finally:
            self._in_flight.discard((name, key))

    async def guarded(self, name: str, key: str | None, fingerprint: bytes, call: str, execute: Execute) -> Answer:
        """Runs a call of one of the kinds `CALLS`, with the account's rate limit and scripted faults before it."""
        fault: Fault | None = None

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            return execute(connection, account, fault, False)

        def gate(connection: sqlite3.Connection, account: Account) -> Answer:
            nonlocal fault
            if call in MONEY and not account.admits():
                return rate_limited().answer()
            before = account.script.dump() if any(f.count is not None for f in account.script.faults) else None
            fault = account.script.draw(key or "", call)
            if before is not None and fault is not None:
                self.accounts.save(connection, account)
            return before_execution(account, fault) or GO_ON

        account = self.accounts.known(name)
        if account is None or account.script.faults or account.settings.rate_limit_per_second is not None:
            early = await self.call(name, gate)
            if early.land_after_seconds is not None:
                self._land_later(name, key, fingerprint, execute, early.land_after_seconds)
            if early is not GO_ON:
                return early
        answer = await self.post(name, key, fingerprint, work)
        if answer.land_after_seconds is not None:
            self._land_later(name, key, fingerprint, execute, answer.land_after_seconds)
        return answer if fault is None else afterwards(answer, fault, self.accounts.known(name))

    def _land_later(self, name: str, key: str | None, fingerprint: bytes, execute: Execute, after: float) -> None:
        """Plays a request that the network delivers long after the caller gave up."""

        async def land() -> None:
            await asyncio.sleep(after)
            await self.post(name, key, fingerprint, lambda c, a: execute(c, a, None, True))

        task = asyncio.get_running_loop().create_task(land())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def tick(self) -> None:
        """Executes what is due in the accounts that follow real time, and forgets what is too old, for ever."""

        def run_all(connection: sqlite3.Connection) -> None:
            for account in self.accounts.all():
                if account.clock_ms is None:
                    due.run_due(connection, account, account.now_ms)

        await self.book.run(self.accounts.load_all)
        pruned = -PRUNE_SECONDS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if any(a.clock_ms is None and a.next_due_ms is not None for a in self.accounts.all()):
                await self.book.run(run_all)
            if time.monotonic() - pruned >= PRUNE_SECONDS:
                more = await self.book.run(lambda connection: prune(connection, self.accounts))
                pruned = time.monotonic() - (PRUNE_SECONDS if more else 0)

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.book.close()


def once(
    connection: sqlite3.Connection,
    account: Account,
    key: str,
    digest: str,
    work: Callable[[sqlite3.Connection, Account], Answer],
) -> Answer:
    """Executes a call once per key and 24 hours; afterwards repeats its answer."""
    now = account.now_ms
    row = connection.execute(
        "SELECT digest, status, body FROM idempotency_keys WHERE account = ? AND key = ? AND created_ms > ?",
        (account.name, key, now - KEY_LIFE_MS),
    ).fetchone()
    if row is not None:
        if row["digest"] != digest:
            message = "Keys for idempotent requests can only be used with the parameters they were first used with."
            raise Refusal(400, "idempotency_error", "idempotency_key_reused", message)
        return Answer(row["status"], row["body"], replayed=True)
    answer = work(connection, account)
    if answer.status > 0 and answer.status not in (409, 429):
        connection.execute(
            "INSERT OR REPLACE INTO idempotency_keys (account, key, digest, status, body, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (account.name, key, digest, answer.status, answer.body, now),
        )
    return answer


def before_execution(account: Account, fault: Fault | None) -> Answer | None:
    """The answer of a fault that strikes before the request reaches its key; None for every other."""
    match fault.outcome if fault else None:
        case Behaviour.RATE_LIMITED:
            return rate_limited().answer()
        case Behaviour.CONFLICT:
            return conflict().answer()
        case Behaviour.DROP_BEFORE_ACCEPT:
            return dropped()
        case Behaviour.LATE_LANDING:
            return lost(account, fault)
    return None


def dropped() -> Answer:
    """The connection is cut and nothing was executed; this status is never sent nor remembered."""
    return Answer(NEVER_SENT, "", delivery=Delivery.DROP)


def lost(account: Account, fault: Fault | None) -> Answer:
    delay = _or(fault.delay_seconds if fault else None, account.settings.late_landing_seconds)
    return replace(dropped(), land_after_seconds=delay)


def play(
    account: Account,
    own: Behaviour,
    fault: Fault | None,
    landed: bool,
    perform: Callable[[Behaviour, str | None], Answer],
) -> Answer:
    """Executes a call whose key is new, with what goes wrong about it.

    ``own`` is what the object of the call does by itself. A scripted fault replaces that or, if it concerns only how
    the answer travels, adds to it. ``landed``: the request was lost on its way and arrives now. ``perform`` does the
    work as the behaviour it is given says, declining for the given reason if it declines.
    """
    behaviour, planned, decline = own, own, None
    if fault is not None:
        behaviour = fault.outcome
        if behaviour not in DELIVERY_FAULTS:
            planned, decline = behaviour, fault.decline
    match behaviour:
        case Behaviour.DROP_BEFORE_ACCEPT:
            return dropped()
        case Behaviour.LATE_LANDING if not landed:
            return lost(account, fault)
        case Behaviour.SERVER_ERROR_BEFORE_ACCEPT:
            return payments.server_error()
    answer = perform(planned, decline)
    if behaviour is Behaviour.SERVER_ERROR_AFTER_ACCEPT:
        return payments.server_error()
    return answer if fault is not None else afterwards(answer, Fault(behaviour), account)


def charging(key: str | None, charge: Charge) -> Execute:
    """What executes a charge."""

    def execute(connection: sqlite3.Connection, account: Account, fault: Fault | None, landed: bool) -> Answer:
        instrument = payments.resolve_instrument(connection, account, charge)
        if fault is None and instrument.behaviour is Behaviour.RATE_LIMITED:
            name = f"limited:{key or charge.payment_method}"
            if payments.count_up(connection, account, name) == 1:
                return rate_limited().answer()

        def perform(behaviour: Behaviour, decline: str | None) -> Answer:
            plan = payments.plan_for(connection, account, charge, behaviour, decline or instrument.decline)
            row = payments.open_payment(connection, account, charge, key, plan, instrument)
            return payments.charge_answer(account, row)

        return play(account, instrument.behaviour, fault, landed, perform)

    return execute


def refunding(key: str | None, order: RefundOrder) -> Execute:
    """What executes a refund."""

    def execute(connection: sqlite3.Connection, account: Account, fault: Fault | None, landed: bool) -> Answer:
        payment, amount = refunds.refundable(connection, account, order)

        def perform(behaviour: Behaviour, _: str | None) -> Answer:
            row = refunds.open_refund(connection, account, payment, amount, order, key, behaviour)
            return Answer(200, dumps(refunds.refund_object(row)))

        return play(account, refunds.instrument_of(connection, payment).refund, fault, landed, perform)

    return execute


def creating(work: Callable[[sqlite3.Connection, Account], Answer]) -> Execute:
    """What executes a call that moves no money: only faults of the way there and back concern it."""

    def execute(connection: sqlite3.Connection, account: Account, fault: Fault | None, landed: bool) -> Answer:
        return play(account, Behaviour.SUCCEED, fault, landed, lambda *_: work(connection, account))

    return execute


def afterwards(answer: Answer, fault: Fault, account: Account | None) -> Answer:
    """What becomes of an answer on its way back to the caller."""
    settings = account.settings if account else Settings()
    match fault.outcome:
        case Behaviour.ACCEPT_THEN_TIMEOUT:
            return answer.delivered(Delivery.HOLD, _or(fault.delay_seconds, settings.hold_seconds))
        case Behaviour.ACCEPT_THEN_DROP:
            return answer.delivered(Delivery.DROP)
        case Behaviour.UNPARSABLE:
            return answer.delivered(Delivery.GARBLE)
        case Behaviour.SLOW:
            return answer.delivered(Delivery.HOLD, _or(fault.delay_seconds, settings.slow_seconds))
    return answer


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def clock_answer(account: Account, undelivered: int, happened: list[Json] | None = None) -> Answer:
    """The account's time, when its next transition is due, and how many webhooks have not been delivered yet."""
    next_ms = account.next_due_ms
    body: Json = {
        "now": instant(account.now_ms),
        "is_set": account.clock_ms is not None,
        "next_due": None if next_ms is None else instant(next_ms),
        "undelivered": undelivered,
    }
    if happened is not None:
        body["transitions"] = happened
    return Answer(200, dumps(body))


def set_clock(connection: sqlite3.Connection, accounts: Accounts, account: Account, to_ms: int) -> list[Json]:
    """Sets the account's clock and executes what falls due on the way, in time order; what that was.

    A clock never goes back; the first setting may, as long as the account has no payments.
    """
    used = connection.execute("SELECT 1 FROM payments WHERE account = ? LIMIT 1", (account.name,)).fetchone()
    if to_ms < account.now_ms and (account.clock_ms is not None or used is not None):
        raise invalid("clock_backwards", "The clock of an account never goes back.", "now")
    happened = due.run_due(connection, account, to_ms)
    account.clock_ms = to_ms
    accounts.save(connection, account)
    return happened


def prune(connection: sqlite3.Connection, accounts: Accounts) -> bool:
    """Forgets keys past their life (by each account's time) and deliveries long settled; True while there is more.

    A bounded number at a time, for all requests wait meanwhile.
    """
    deleted = 0
    for account in accounts.all():
        deleted += connection.execute(
            "DELETE FROM idempotency_keys WHERE account = ?1 AND key IN (SELECT key FROM idempotency_keys "
            "WHERE account = ?1 AND created_ms <= ?2 ORDER BY created_ms LIMIT ?3)",
            (account.name, account.now_ms - KEY_LIFE_MS - PRUNE_MARGIN_MS, PRUNE_ROWS),
        ).rowcount
        if deleted >= PRUNE_ROWS:
            return True
    deleted += connection.execute(
        "DELETE FROM deliveries WHERE seq IN (SELECT seq FROM deliveries WHERE state <> 'due' AND created_ms < ? LIMIT ?)",
        (machine_ms() - DELIVERY_LIFE_MS, PRUNE_ROWS),
    ).rowcount
    return deleted >= PRUNE_ROWS
