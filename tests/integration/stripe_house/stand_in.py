"""One Stripe account as the house sees it: localstripe keeps its book, the front adds what localstripe lacks, this adds the rest.

Test methods attached to a customer keep their behaviour under the id they get, pages and disputes are kept here, and a test may say how an
object looks from now on (`overlay`).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from tests.providers.stripe.front import DECLINES, GOOD, Front
from tests.providers.stripe.loopback import Drop, Reply, Seen

Fields = dict[str, Any]


@dataclass
class StripeAccount(Front):
    """The account that `secret` opens."""

    behaviour: dict[str, str] = field(default_factory=dict)
    """Attached method → the test method it was made of."""
    sessions: dict[str, Fields] = field(default_factory=dict)
    disputes: dict[str, Fields] = field(default_factory=dict)
    charges: dict[str, Fields] = field(default_factory=dict)
    overlay: dict[str, Fields] = field(default_factory=dict)
    """Object → the fields that it has instead of those in localstripe's book."""
    next_refund: Fields = field(default_factory=dict)
    """How the next refund looks once it is made."""
    forgotten: set[str] = field(default_factory=set)
    """Objects that it has no longer."""
    drop_next_refund: bool = False
    """The next refund is made, and its answer lost."""
    before_answer: Callable[[str, Fields], Awaitable[None]] | None = None
    """Called with the path of a POST and what it made, before that is answered."""
    posts: list[Seen] = field(default_factory=list)

    async def __call__(self, seen: Seen) -> Reply:
        if seen.method == "POST":
            self.posts.append(seen)
        form = seen.form
        if form.get("payment_method") in self.behaviour:
            form["payment_method"] = self.behaviour[form["payment_method"]]
            seen = replace(seen, body=urlencode(form).encode())
        reply = await super().__call__(seen)
        if reply.status != 200:
            return reply
        try:
            body = json.loads(reply.body)
        except ValueError:
            return reply
        shown = self._seen_now(body)
        if seen.method == "POST" and self.before_answer is not None:
            await self.before_answer(seen.path, shown)
        return replace(reply, body=json.dumps(shown).encode())

    def made(self, path: str) -> int:
        """How many POSTs went to a path."""
        return sum(seen.path == path for seen in self.posts)

    def _seen_now(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._seen_now(item) for item in value]
        if not isinstance(value, dict):
            return value
        known = {name: self._seen_now(item) for name, item in value.items()}
        return {**known, **self.overlay.get(str(value.get("id")), {})}

    async def _execute(self, seen: Seen) -> Reply:
        if self.forgotten & set(seen.path.split("/")):
            return _missing()
        match seen.method, seen.path.strip("/").split("/")[1:]:
            case "POST", ["payment_methods", method, "attach"] if method in DECLINES or method.startswith(
                "pm_sandbox_"
            ):
                reply = await super()._execute(replace(seen, path=f"/v1/payment_methods/{GOOD}/attach"))
                if reply.status == 200:
                    self.behaviour[json.loads(reply.body)["id"]] = method
                return reply
            case "POST", ["refunds"]:
                reply = await super()._execute(seen)
                if reply.status == 200 and self.next_refund:
                    self.overlay[json.loads(reply.body)["id"]] = self.next_refund
                    self.next_refund = {}
                if self.drop_next_refund:
                    self.drop_next_refund = False
                    raise Drop
                return reply
            case "GET", ["setup_intents", _]:
                reply = await super()._execute(seen)
                return await self._with_method(seen, reply)
            case "POST", ["checkout", "sessions"]:
                return self._new_session(seen.form)
            case "GET", ["checkout", "sessions"]:
                return Reply.of({"object": "list", "data": list(self.sessions.values())[::-1], "has_more": False})
            case "GET", ["checkout", "sessions", session] if session in self.sessions:
                return Reply.of(self.sessions[session])
            case "POST", ["checkout", "sessions", session, "expire"] if session in self.sessions:
                if self.sessions[session]["status"] == "open":
                    self.sessions[session] |= {"status": "expired", "url": None}
                    return Reply.of(self.sessions[session])
                return Reply.of({"error": {"type": "invalid_request_error", "message": "Only open sessions"}}, 400)
            case "GET", ["charges", charge]:
                return Reply.of(self.charges[charge]) if charge in self.charges else _missing()
            case "GET", ["disputes", dispute]:
                return Reply.of(self.disputes[dispute]) if dispute in self.disputes else _missing()
        return await super()._execute(seen)

    async def _with_method(self, seen: Seen, reply: Reply) -> Reply:
        """The answer with its method in it, where that was asked for."""
        body = json.loads(reply.body)
        if ("payment_method" in dict(seen.query).values()) and isinstance(body.get("payment_method"), str):
            found = await self._forward("GET", f"/v1/payment_methods/{body['payment_method']}")
            body["payment_method"] = json.loads(found.body)
        return Reply.of(body, reply.status)

    def _new_session(self, form: dict[str, str]) -> Reply:
        name = f"cs_test_{uuid4().hex}"
        amount = form.get("line_items[0][price_data][unit_amount]")
        self.sessions[name] = {
            "id": name, "object": "checkout.session", "mode": form["mode"], "status": "open", "payment_status": "unpaid", "livemode": False,
            "url": f"https://checkout.stripe.com/c/pay/{name}", "customer": form.get("customer"), "payment_intent": None, "setup_intent": None,
            "subscription": None, "amount_total": None if amount is None else int(amount), "created": 1_767_225_600,
            "currency": form.get("line_items[0][price_data][currency]"), "expires_at": int(form.get("expires_at", 1_999_999_999)),
            "metadata": {key[9:-1]: value for key, value in form.items() if key.startswith("metadata[")},
        }  # fmt: skip
        return Reply.of(self.sessions[name])


def _missing() -> Reply:
    return Reply.of(
        {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such object"}}, 404
    )
