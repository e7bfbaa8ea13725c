"""What stands between the adapter and localstripe, adding what Stripe has and localstripe lacks.

localstripe keeps the book: customers, methods, PaymentIntents, refunds are its own. The front adds

* idempotency keys: stored answers with ``Idempotent-Replayed``, 400 for another body, 409 while one is executed;
* the fields of errors that localstripe leaves out (``param``, ``code``, ``payment_intent``, decline codes);
* filters of lists (``created``, ``customer``) and Stripe's order, newest first;
* parameters that localstripe refuses to hear of (``description``, ``automatic_payment_methods``, …), left out;
* keys that are not accepted, methods that are dead once detached, a place to go to for 3-D Secure;
* faults, by the name of the payment method.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.providers.stripe.loopback import Drop, Reply, Seen, Stall

GOOD = "pm_card_visa"
FAILING = "pm_card_chargeCustomerFail"

DECLINES: dict[str, tuple[str, str | None]] = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_chargeCustomerFail": ("card_declined", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", None),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", None),
    "pm_card_authenticationRequired": ("authentication_required", "authentication_required"),
}
"""Stripe's test methods: ``code`` and ``decline_code`` of their declines, as its documentation has them."""

_FAULTS = {
    "pm_sandbox_acceptThenTimeout": Stall,
    "pm_sandbox_acceptThenDrop": Drop,
}
_NOT_HEARD_OF = ("description", "return_url", "automatic_payment_methods", "expand")


@dataclass
class Front:
    """The state of one front. ``secret`` is the one key it accepts."""

    upstream: str
    secret: str
    stored: dict[str, tuple[tuple[str, bytes], Reply]] = field(default_factory=dict)
    executing: set[str] = field(default_factory=set)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """PaymentIntent → its ``last_payment_error``."""
    detached: set[str] = field(default_factory=set)
    once: set[str] = field(default_factory=set)
    """Keys of requests that had their fault already."""

    def __post_init__(self) -> None:
        self._http = httpx.AsyncClient(base_url=self.upstream, trust_env=False, timeout=20)

    async def close(self) -> None:
        """Gives back the connections to localstripe."""
        await self._http.aclose()

    async def __call__(self, seen: Seen) -> Reply:
        if seen.headers.get("authorization") != f"Bearer {self.secret}":
            return _error(401, "Invalid API Key provided")
        key = seen.headers.get("idempotency-key")
        if seen.method != "POST" or key is None:
            return await self._execute(seen)
        digest = (seen.path, seen.body)
        if key in self.stored:
            before, reply = self.stored[key]
            if before != digest:
                return _error(400, "Keys for idempotent requests", kind="idempotency_error")
            return Reply(reply.status, reply.body, {**reply.headers, "idempotent-replayed": "true"})
        if key in self.executing:
            return _error(409, "There is another request", code="idempotency_key_in_use", stripe_should_retry="true")
        self.executing.add(key)
        try:
            return await self._post(seen, key, digest)
        finally:
            self.executing.discard(key)

    async def _post(self, seen: Seen, key: str, digest: tuple[str, bytes]) -> Reply:
        method = seen.form.get("payment_method", "")
        if method == "pm_sandbox_dropBeforeAccept":
            raise Drop
        if method == "pm_sandbox_rateLimited" and key not in self.once:
            self.once.add(key)
            return _error(429, "Too many requests", code="rate_limit", retry_after="1")
        reply = await self._execute(seen)
        if method == "pm_sandbox_serverErrorAfterAccept":
            reply = _error(500, "Something went wrong", kind="api_error", stripe_should_retry="false")
        # Refused before execution: nothing is kept under the key.
        if reply.status not in (400, 401, 403, 404, 429):
            self.stored[key] = (digest, reply)
        if key not in self.once:
            self.once.add(key)
            if method in _FAULTS:
                raise _FAULTS[method]
            if method == "pm_sandbox_unparsable":
                return Reply(200, b"<html>Bad gateway</html>", {"content-type": "text/html"})
        return reply

    async def _execute(self, seen: Seen) -> Reply:
        parts = seen.path.strip("/").split("/")[1:]
        match (seen.method, parts):
            case "POST", ["payment_intents"]:
                return await self._charge(seen.form)
            case "GET", ["payment_intents" | "refunds" | "events" | "customers" as collection]:
                return await self._list(collection, dict(seen.query))
            case "GET", ["customers", customer, "payment_methods"]:
                query = {"customer": customer, "type": "card", "limit": "100"}
                return await self._forward("GET", "/v1/payment_methods", query=query)
            case "POST", ["payment_methods", method, "attach"]:
                return await self._attach(seen, method)
            case "POST", ["payment_methods", method, "detach"]:
                if method in self.detached:
                    return _error(400, "The payment method you provided is not attached to a customer")
                reply = await self._forward("POST", seen.path)
                if reply.status == 200:
                    self.detached.add(method)
                return reply
        form = {name: value for name, value in seen.form.items() if not name.startswith(_NOT_HEARD_OF)}
        query = {name: value for name, value in seen.query if not name.startswith(_NOT_HEARD_OF)}
        return await self._forward(seen.method, seen.path, form=form, query=query)

    async def _charge(self, form: dict[str, str]) -> Reply:
        method = form["payment_method"]
        if method in self.detached:
            return _error(400, "The provided PaymentMethod may not be used again.", param="payment_method")
        sent = {name: value for name, value in form.items() if not name.startswith(_NOT_HEARD_OF)}
        if method in DECLINES:
            sent["payment_method"] = FAILING
        elif method == "pm_card_threeDSecure2Required":
            sent["payment_method"] = await self._strict_card()
        elif method.startswith("pm_sandbox_"):
            sent["payment_method"] = GOOD
        if method == "pm_sandbox_wrongAmount":
            sent["amount"] = str(int(sent["amount"]) + 1)
        if method == "pm_sandbox_wrongCurrency":
            sent["currency"] = "eur"
        reply = await self._forward("POST", "/v1/payment_intents", form=sent)
        if reply.status == 402:
            return await self._declined(sent["metadata[key]"], method)
        return reply

    async def _strict_card(self) -> str:
        card = {"number": "4000002760003184", "exp_month": "12", "exp_year": "2033", "cvc": "123"}
        form = {"type": "card", **{f"card[{name}]": value for name, value in card.items()}}
        made = await self._forward("POST", "/v1/payment_methods", form=form)
        method: str = json.loads(made.body)["id"]
        return method

    async def _declined(self, key: str, method: str) -> Reply:
        code, decline_code = DECLINES.get(method, ("card_declined", "generic_decline"))
        error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": "Your card was declined."}
        intent = next(i for i in await self._all("payment_intents") if i["metadata"].get("key") == key)
        self.failures[intent["id"]] = error
        return Reply.of({"error": {**error, "payment_intent": self._shown(intent)}}, 402)

    async def _attach(self, seen: Seen, method: str) -> Reply:
        reply = await self._forward("POST", seen.path, form=seen.form)
        if reply.status == 404:
            found = await self._http.get(f"/v1/payment_methods/{method}", headers=self._headers())
            param = "customer" if found.status_code == 200 else "payment_method"
            return _error(404, "No such object", code="resource_missing", param=param)
        return reply

    async def _all(self, collection: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more = True
        while more:
            query = {"limit": "100", **({"starting_after": found[-1]["id"]} if found else {})}
            body = (await self._http.get(f"/v1/{collection}", params=query, headers=self._headers())).json()
            found += body["data"]
            more = body["has_more"]
        return found

    async def _list(self, collection: str, query: dict[str, str]) -> Reply:
        found = (await self._all(collection))[::-1] if collection != "refunds" else await self._all(collection)
        for name in ("customer", "payment_intent", "charge"):
            if name in query:
                found = [item for item in found if item.get(name) == query[name]]
        first, last = int(query.get("created[gte]", 0)), int(query.get("created[lt]", 1 << 40))
        found = [self._shown(item) for item in found if first <= item["created"] < last]
        if "starting_after" in query:
            found = found[[item["id"] for item in found].index(query["starting_after"]) + 1 :]
        limit = int(query.get("limit", 10))
        return Reply.of({"object": "list", "data": found[:limit], "has_more": len(found) > limit})

    def _shown(self, value: dict[str, Any]) -> dict[str, Any]:
        """An object with what localstripe leaves out of it."""
        if value.get("object") != "payment_intent":
            return value
        if value["id"] in self.failures and value["status"] == "requires_payment_method":
            return {**value, "last_payment_error": self.failures[value["id"]]}
        if value["status"] == "requires_action":
            url = "https://hooks.stripe.com/redirect/authenticate/src_1"
            return {**value, "next_action": {"type": "redirect_to_url", "redirect_to_url": {"url": url}}}
        return value

    async def _forward(
        self, method: str, path: str, *, form: dict[str, str] | None = None, query: dict[str, str] | None = None
    ) -> Reply:
        content = urlencode(form).encode() if form else None
        headers = self._headers() | {"content-type": "application/x-www-form-urlencoded"}
        response = await self._http.request(method, path, content=content, params=query, headers=headers)
        await asyncio.sleep(0)
        body = response.json()
        if response.status_code == 404:
            param = {"payment_intents": "intent", "customers": "customer"}.get(path.split("/")[2], "id")
            if form and "payment_method" in form:
                param = "payment_method"
            return _error(404, "No such object", code="resource_missing", param=param)
        return Reply.of(self._shown(body) if response.status_code == 200 else body, response.status_code)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


def _error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    **headers: str,
) -> Reply:
    return Reply.of({"error": {"type": kind, "message": message, "code": code, "param": param}}, status, **headers)
