"""The control side of the gateway, for tests and demonstrations: not part of any provider's API, not authenticated."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict

from dunwell_server.sandbox.accounts import Account, Fault, Script
from dunwell_server.sandbox.answers import Answer, Json, Refusal, dumps, invalid
from dunwell_server.sandbox.gateway import Gateway


def _account(body: Mapping[str, object]) -> str:
    name = body.get("account")
    if not isinstance(name, str) or not name:
        raise invalid("parameter_missing", "account is required.", "account")
    return name


async def settings(gateway: Gateway, body: Json) -> Answer:
    """Changes settings of an account; answers all of them."""
    name = _account(body)
    values = {key: value for key, value in body.items() if key != "account"}

    def work(connection: sqlite3.Connection, account: Account) -> Answer:
        account.settings = account.settings.changed(values)
        gateway.accounts.save(connection, account)
        return Answer(200, dumps(asdict(account.settings)))

    return await gateway.call(name, work)


async def latency(gateway: Gateway, body: Json) -> Answer:
    """``{"account", "ms"}``: how long every call of the account takes."""
    return await settings(gateway, {"account": body.get("account"), "latency_ms": body.get("ms", 0)})


async def faults(gateway: Gateway, body: Json) -> Answer:
    """``{"account", "seed", "faults": [...]}``: replaces the account's scripted faults; an empty list ends them."""
    name, seed, scripted = _account(body), body.get("seed", 0), body.get("faults", [])
    if not isinstance(seed, int) or not isinstance(scripted, list) or not all(isinstance(f, dict) for f in scripted):
        raise invalid("parameter_invalid", "seed is a whole number and faults a list of objects.")
    script = Script([Fault.parse(fault) for fault in scripted], seed)

    def work(connection: sqlite3.Connection, account: Account) -> Answer:
        account.script = script
        gateway.accounts.save(connection, account)
        return Answer(200, script.dump())

    return await gateway.call(name, work)


async def ledger(gateway: Gateway, query: Mapping[str, str]) -> Answer:
    """The independent book: movements counted and summed per reference, key or payment.

    ``{"movements": total, "groups": {value: {"count", "amounts": {currency: minor units}}}}``. What belongs together is
    what the caller gave one ``reference``.
    """
    group = query.get("group", "reference")
    if group not in ("reference", "key", "payment"):
        raise invalid("parameter_invalid", "group is reference, key or payment.", "group")
    account = query.get("account")

    def work(connection: sqlite3.Connection) -> Answer:
        groups: dict[str, Json] = {}
        total = 0
        rows = connection.execute(
            f"SELECT {group} AS name, currency, count(*) AS n, sum(amount) AS amount FROM movements "
            "WHERE ? IS NULL OR account = ? GROUP BY 1, 2 ORDER BY 1, 2",
            (account, account),
        )
        for row in rows:
            entry = groups.setdefault(row["name"] or "", {"count": 0, "amounts": {}})
            entry["count"] += row["n"]
            entry["amounts"][row["currency"]] = row["amount"]
            total += row["n"]
        return Answer(200, dumps({"movements": total, "groups": groups}))

    return await gateway.book.run(work)


async def reset(gateway: Gateway) -> Answer:
    """Empties the book, if the gateway was started so."""
    if not gateway.allow_reset:
        raise Refusal(403, "invalid_request_error", "reset_not_allowed", "Start the gateway with --allow-reset.")
    await gateway.book.clear()
    return Answer(200, dumps({"status": "empty"}))
