"""The control side of the gateway, for tests and demonstrations: not part of any provider's API, not authenticated."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request

from dunwell_server.sandbox import disputes, outbox, payments, refunds
from dunwell_server.sandbox.accounts import Account, Fault, Script
from dunwell_server.sandbox.answers import Answer, Json, Refusal, dumps, instant, invalid, missing
from dunwell_server.sandbox.api import Handler
from dunwell_server.sandbox.exchange import read_json
from dunwell_server.sandbox.fields import flag_field, needed, text_field
from dunwell_server.sandbox.gateway import Gateway, prune
from dunwell_server.sandbox.movements import KINDS
from dunwell_server.sandbox.webhooks import Sender

FLUSH_SECONDS = 30.0
MAX_FLUSH_SECONDS = 300.0
MAX_DELIVERIES = 1000


class Control:
    """The control calls over one gateway. Each names its account in ``"account"``."""

    def __init__(self, gateway: Gateway, sender: Sender) -> None:
        self._gateway = gateway
        self._sender = sender

    @property
    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every call."""
        return [
            ("GET", "/control/account", self.show_account),
            ("POST", "/control/settings", self._posted(self.settings)),
            ("POST", "/control/latency", self._posted(self.latency)),
            ("POST", "/control/faults", self._posted(self.faults)),
            ("GET", "/control/ledger", self.ledger),
            ("POST", "/control/webhooks", self._posted(self.webhooks)),
            ("GET", "/control/webhooks", self.show_webhooks),
            ("GET", "/control/webhooks/deliveries", self.deliveries),
            ("POST", "/control/webhooks/flush", self.flush),
            ("POST", "/control/webhooks/redeliver", self._posted(self.redeliver)),
            ("POST", "/control/refunds/end", self._posted(self.end_refund)),
            ("POST", "/control/disputes", self._posted(self.open_dispute)),
            ("POST", "/control/disputes/decide", self._posted(self.decide_dispute)),
            ("POST", "/control/prune", self.prune),
            ("POST", "/control/reset", self.reset),
        ]

    def _posted(self, change: Callable[[sqlite3.Connection, Account, Json], Answer]) -> Handler:
        async def handler(request: Request) -> Answer:
            body = (await read_json(request))[1]
            name = needed(body, "account")
            values = {key: value for key, value in body.items() if key != "account"}
            return await self._gateway.call(name, lambda c, a: change(c, a, values))

        return handler

    def settings(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """Changes settings of an account; answers all of them."""
        account.settings = account.settings.changed(body)
        self._gateway.accounts.save(connection, account)
        return Answer(200, dumps(asdict(account.settings)))

    async def show_account(self, request: Request) -> Answer:
        """Settings, faults, and how many keys are remembered."""

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            row = connection.execute(
                "SELECT count(*) AS n FROM idempotency_keys WHERE account = ?", (account.name,)
            ).fetchone()
            faults = [asdict(fault) for fault in account.script.faults]
            return Answer(200, dumps({"settings": asdict(account.settings), "faults": faults, "keys": row["n"]}))

        return await self._gateway.call(needed(dict(request.query_params), "account"), work)

    def latency(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"ms"}``: how long every call of the account takes."""
        return self.settings(connection, account, {"latency_ms": body.get("ms", 0)})

    def faults(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"seed", "faults": [...]}``: replaces the account's scripted faults; an empty list ends them."""
        seed, scripted = body.get("seed", 0), body.get("faults", [])
        whole = isinstance(seed, int) and isinstance(scripted, list) and all(isinstance(f, dict) for f in scripted)
        if not whole:
            raise invalid("parameter_invalid", "seed is a whole number and faults a list of objects.")
        account.script = Script([Fault.parse(fault) for fault in scripted], seed)
        self._gateway.accounts.save(connection, account)
        return Answer(200, account.script.dump())

    async def ledger(self, request: Request) -> Answer:
        """The independent book: movements counted and summed per reference, key or payment.

        ``{"movements": total, "groups": {value: {"count", "amounts": {currency: minor units}}}}``. What belongs
        together is what the caller gave one ``reference``. ``kind`` is ``charge`` unless said otherwise; ``all``
        nets charges, refunds and disputes.
        """
        query = request.query_params
        group, kind, account = query.get("group", "reference"), query.get("kind", "charge"), query.get("account")
        if group not in ("reference", "key", "payment", "object"):
            raise invalid("parameter_invalid", "group is reference, key, payment or object.", "group")
        if kind not in (*KINDS, "all"):
            raise invalid("parameter_invalid", f"kind is all, {', '.join(KINDS)}.", "kind")

        def work(connection: sqlite3.Connection) -> Answer:
            groups: dict[str, Json] = {}
            total = 0
            rows = connection.execute(
                f"SELECT {group} AS name, currency, count(*) AS n, sum(amount) AS amount FROM movements "
                "WHERE (?1 IS NULL OR account = ?1) AND (?2 = 'all' OR kind = ?2) GROUP BY 1, 2 ORDER BY 1, 2",
                (account, kind),
            )
            for row in rows:
                entry = groups.setdefault(row["name"] or "", {"count": 0, "amounts": {}})
                entry["count"] += row["n"]
                entry["amounts"][row["currency"]] = row["amount"]
                total += row["n"]
            return Answer(200, dumps({"movements": total, "groups": groups}))

        return await self._gateway.book.run(work)

    def webhooks(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """Changes where an account's events go and what befalls them; answers all of it."""
        account.webhooks = account.webhooks.changed(body)
        self._gateway.accounts.save(connection, account)
        outbox.pause_or_resume(connection, account)
        self._sender.poke()
        return _webhooks_answer(connection, account)

    async def show_webhooks(self, request: Request) -> Answer:
        """Settings, and how many sendings are in which state."""
        return await self._gateway.call(needed(dict(request.query_params), "account"), _webhooks_answer)

    async def deliveries(self, request: Request) -> Answer:
        """The account's latest sendings, oldest first."""
        name = needed(dict(request.query_params), "account")

        def work(connection: sqlite3.Connection, _: Account) -> Answer:
            rows = connection.execute(
                "SELECT d.*, e.type FROM deliveries AS d JOIN events AS e ON e.id = d.event WHERE d.account = ? "
                "ORDER BY d.seq DESC LIMIT ?",
                (name, MAX_DELIVERIES),
            ).fetchall()
            return Answer(200, dumps({"object": "list", "data": [_delivery(row) for row in reversed(rows)]}))

        return await self._gateway.call(name, work)

    async def flush(self, request: Request) -> Answer:
        """``{"account"?, "timeout_seconds"?}``: sends what is owed now, whatever delays were set, and waits for it.

        Answers ``{"undelivered": 0}``, or what is left when the time is up (also: what is paused).
        """
        body = (await read_json(request))[1]
        account, seconds = text_field(body, "account"), body.get("timeout_seconds", FLUSH_SECONDS)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_FLUSH_SECONDS:
            raise invalid("parameter_invalid", f"timeout_seconds lies between 0 and {MAX_FLUSH_SECONDS:g}.")
        return Answer(200, dumps({"undelivered": await self._sender.flush(account, float(seconds))}))

    def redeliver(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"event"}``: sends an event once more, also one that was lost."""
        event = needed(body, "event")
        row = connection.execute("SELECT 1 FROM events WHERE id = ? AND account = ?", (event, account.name)).fetchone()
        if row is None:
            raise missing("event", event, "event")
        outbox.owe_again(connection, account, event)
        return _webhooks_answer(connection, account)

    def end_refund(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"refund", "status": "succeeded" | "failed"}``: also has a refund that had succeeded fail."""
        row = refunds.find_refund(connection, account, needed(body, "refund"))
        status = body.get("status")
        if status not in ("succeeded", "failed"):
            raise invalid("parameter_invalid", "status is succeeded or failed.", "status")
        reason = text_field(body, "reason") or "expired_or_canceled_card"
        changed = refunds.end_refund(connection, account, row, status, account.now_ms, reason)
        return Answer(200, dumps(refunds.refund_object(changed)))

    def open_dispute(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"payment", "reason"?, "inquiry"?}``: the payer's bank objects to a payment."""
        payment = payments.find_payment(connection, account, needed(body, "payment"), "payment")
        reason, inquiry = text_field(body, "reason") or "fraudulent", flag_field(body, "inquiry")
        if reason not in disputes.REASONS:
            raise invalid("parameter_invalid", f"reason is one of {', '.join(sorted(disputes.REASONS))}.", "reason")
        left = payment["amount_received"] - payment["amount_refunded"]
        if payment["status"] != "succeeded" or payment["disputed"] or left <= 0:
            raise invalid("payment_unexpected_state", "Only money that is there, and not disputed yet, is disputed.")
        row = disputes.open_dispute(connection, account, payment, reason, inquiry=inquiry)
        return Answer(200, dumps(disputes.dispute_object(row)))

    def decide_dispute(self, connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
        """``{"dispute", "verdict": "won" | "lost"}``."""
        row = disputes.find_dispute(connection, account, needed(body, "dispute"))
        verdict: Any = body.get("verdict")
        if verdict not in ("won", "lost"):
            raise invalid("parameter_invalid", "verdict is won or lost.", "verdict")
        changed = disputes.decide(connection, account, row, verdict, account.now_ms)
        return Answer(200, dumps(disputes.dispute_object(changed)))

    async def prune(self, _: Request) -> Answer:
        """Forgets now what is too old, which otherwise happens every ten minutes."""
        await self._gateway.book.run(self._gateway.accounts.load_all)
        more = await self._gateway.book.run(lambda connection: prune(connection, self._gateway.accounts))
        return Answer(200, dumps({"more": more}))

    async def reset(self, _: Request) -> Answer:
        """Empties the book, if the gateway was started so."""
        if not self._gateway.allow_reset:
            raise Refusal(403, "invalid_request_error", "reset_not_allowed", "Start the gateway with --allow-reset.")
        await self._gateway.book.clear()
        return Answer(200, dumps({"status": "empty"}))


def _webhooks_answer(connection: sqlite3.Connection, account: Account) -> Answer:
    rows = connection.execute(
        "SELECT state, count(*) AS n FROM deliveries WHERE account = ? GROUP BY state", (account.name,)
    )
    settings: Mapping[str, Any] = account.webhooks.dump()
    body = {**settings, "sends_to": account.webhook_url or None, "deliveries": {row["state"]: row["n"] for row in rows}}
    return Answer(200, dumps(body))


def _delivery(row: sqlite3.Row) -> Json:
    return {
        "event": row["event"],
        "type": row["type"],
        "state": row["state"],
        "attempts": row["attempts"],
        "last_answer": row["last_answer"],
        "due": instant(row["due_ms"]),
    }
