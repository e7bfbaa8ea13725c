"""The provider's API of the gateway, one method per call."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request

from dunwell_server.sandbox import checkouts, customers, disputes, due, lists, payments, refunds, setups
from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, missing, parse_instant
from dunwell_server.sandbox.checkouts import SessionOrder
from dunwell_server.sandbox.exchange import account_of, browser_account_of, read_body, read_json
from dunwell_server.sandbox.fields import needed
from dunwell_server.sandbox.gateway import Gateway, charging, clock_answer, creating, refunding, set_clock
from dunwell_server.sandbox.payments import Charge
from dunwell_server.sandbox.refunds import RefundOrder
from dunwell_server.sandbox.webhooks import Sender

Handler = Callable[[Request], Awaitable[Answer]]
Work = Callable[[sqlite3.Connection, Account], Answer]
MAX_DRAIN_SECONDS = 10.0


class Api:
    """The calls over one gateway."""

    def __init__(self, gateway: Gateway, sender: Sender) -> None:
        self._gateway = gateway
        self._sender = sender

    @property
    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every call."""
        return [
            ("POST", "/v1/payments", self.create_payment),
            ("GET", "/v1/payments", self._list(lists.list_payments)),
            ("GET", "/v1/payments/{id}", self._show(_payment)),
            ("POST", "/v1/payments/{id}/cancel", self._act(lambda c, a, i, _: due.cancel(c, a, i))),
            ("POST", "/v1/payments/{id}/complete_action", self._act(due.complete_action)),
            ("POST", "/v1/refunds", self.create_refund),
            ("GET", "/v1/refunds", self._list(lists.list_refunds)),
            ("GET", "/v1/refunds/{id}", self._show(refunds.get_refund)),
            ("POST", "/v1/customers", self._create("customer", customers.create_customer)),
            ("GET", "/v1/customers/{id}", self._show(customers.get_customer)),
            ("POST", "/v1/customers/{id}", self._act(customers.update_customer)),
            ("GET", "/v1/customers/{id}/payment_methods", self._show(customers.customer_methods)),
            ("POST", "/v1/payment_methods/attach", self._create("customer", customers.attach_method)),
            ("GET", "/v1/payment_methods/{id}", self._show(customers.get_method)),
            ("POST", "/v1/payment_methods/{id}", self._act(customers.update_method)),
            ("POST", "/v1/payment_methods/{id}/detach", self._act(lambda c, a, i, _: customers.detach_method(c, a, i))),
            ("POST", "/v1/setup_intents", self._create("setup", setups.create_setup)),
            ("GET", "/v1/setup_intents/{id}", self.get_setup),
            ("POST", "/v1/setup_intents/{id}/confirm", self.confirm_setup),
            ("POST", "/v1/setup_intents/{id}/complete_action", self._act(due.complete_action)),
            ("POST", "/v1/setup_intents/{id}/cancel", self._act(_cancel_setup)),
            ("POST", "/v1/checkout/sessions", self.create_session),
            ("GET", "/v1/checkout/sessions", self._list(lists.list_sessions)),
            ("GET", "/v1/checkout/sessions/{id}", self._show(checkouts.get_session)),
            ("POST", "/v1/checkout/sessions/{id}/complete", self._act(_complete_session)),
            ("POST", "/v1/checkout/sessions/{id}/expire", self._act(_expire_session)),
            ("GET", "/v1/disputes", self._list(lists.list_disputes)),
            ("GET", "/v1/disputes/{id}", self._show(_dispute)),
            ("POST", "/v1/disputes/{id}", self._act(disputes.update_dispute)),
            ("POST", "/v1/disputes/{id}/close", self._act(lambda c, a, i, _: disputes.accept_dispute(c, a, i))),
            ("POST", "/v1/files", self.keep_file),
            ("GET", "/v1/files/{id}", self._show(disputes.get_file)),
            ("GET", "/v1/ledger", self._list(lists.list_movements)),
            ("GET", "/v1/events", self._list(lists.list_events)),
            ("GET", "/v1/webhooks", self.webhooks),
            ("GET", "/v1/clock", self.get_clock),
            ("POST", "/v1/clock", self.set_clock),
        ]

    async def create_payment(self, request: Request) -> Answer:
        name = account_of(request)
        raw, body = await read_json(request)
        key, charge = request.headers.get("idempotency-key"), Charge.parse(body)
        return await self._gateway.guarded(name, key, b"/v1/payments\n" + raw, "charge", charging(key, charge))

    async def create_refund(self, request: Request) -> Answer:
        name = account_of(request)
        raw, body = await read_json(request)
        key, order = request.headers.get("idempotency-key"), RefundOrder.parse(body)
        return await self._gateway.guarded(name, key, b"/v1/refunds\n" + raw, "refund", refunding(key, order))

    async def create_session(self, request: Request) -> Answer:
        name = account_of(request)
        raw, body = await read_json(request)
        key, order = request.headers.get("idempotency-key"), SessionOrder.parse(body)

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            row = checkouts.open_session(connection, account, order, key)
            return Answer(200, dumps(checkouts.session_object(connection, account, row)))

        fingerprint = b"/v1/checkout/sessions\n" + raw
        return await self._gateway.guarded(name, key, fingerprint, "checkout", creating(work))

    async def keep_file(self, request: Request) -> Answer:
        name = account_of(request)
        content = await read_body(request, disputes.MAX_FILE_BYTES)
        file_name, kind = request.query_params.get("name", ""), request.headers.get("content-type", "")
        fingerprint = f"/v1/files\n{file_name}\n{kind}\n".encode() + content
        return await self._gateway.post(
            name,
            request.headers.get("idempotency-key"),
            fingerprint,
            lambda c, a: disputes.keep_file(c, a, file_name, kind, content),
        )

    async def get_setup(self, request: Request) -> Answer:
        browser, identifier = browser_account_of(request), request.path_params["id"]
        if browser is None:
            return await self._get(request, lambda c, a: setups.get_setup(c, a, identifier))
        secret = request.query_params.get("client_secret", "")

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            row = _setup_of_browser(connection, account, identifier, secret)
            return Answer(200, dumps(setups.setup_object(connection, account, row, public=True)))

        return await self._gateway.call(browser, work)

    async def confirm_setup(self, request: Request) -> Answer:
        """Confirmed by the browser, with the client secret, or by the firm's own key."""
        browser, identifier = browser_account_of(request), request.path_params["id"]
        name = browser or account_of(request)
        raw, body = await read_json(request)

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            if browser is not None:
                _setup_of_browser(connection, account, identifier, needed(body, "client_secret"))
            instrument = customers.token_field(body, "payment_method")
            row, taken = setups.confirm_setup(connection, account, identifier, instrument)
            checkouts.follow_setup(connection, account, row)
            shown = setups.setup_object(connection, account, row, public=browser is not None)
            if taken:
                return Answer(200, dumps(shown))
            return Answer(402, dumps({"error": {**shown["last_setup_error"], "setup_intent": shown}}))

        fingerprint = request.url.path.encode() + b"\n" + raw
        return await self._gateway.post(name, request.headers.get("idempotency-key"), fingerprint, work)

    async def webhooks(self, request: Request) -> Answer:
        """What is not delivered yet; with ``wait_seconds`` answers once that is nothing, or the time is up."""
        name = account_of(request)
        left = await self._undelivered(request)

        def work(_: sqlite3.Connection, account: Account) -> Answer:
            return Answer(200, dumps({"undelivered": left, "url": account.webhook_url or None}))

        return await self._gateway.call(name, work)

    async def get_clock(self, request: Request) -> Answer:
        """The account's time; ``wait_seconds`` as for `webhooks`."""
        left = await self._undelivered(request)
        return await self._gateway.call(account_of(request), lambda _, account: clock_answer(account, left))

    async def set_clock(self, request: Request) -> Answer:
        """Sets the account's time; with ``wait_seconds`` answers once what it has brought about is told, or the time is up."""
        name = account_of(request)
        to_ms = parse_instant((await read_json(request))[1].get("now"), "now")
        gateway = self._gateway
        happened: list[Json] = []

        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            happened[:] = set_clock(connection, gateway.accounts, account, to_ms)
            return clock_answer(account, 0, happened)

        answer = await gateway.call(name, work)
        if answer.status != 200:
            return answer
        left = await self._undelivered(request)
        return await gateway.call(name, lambda _, account: clock_answer(account, left, happened))

    async def _undelivered(self, request: Request) -> int:
        """How many webhooks of the account are not delivered, once ``wait_seconds`` are over or that is none."""
        try:
            wait = float(request.query_params.get("wait_seconds", "0"))
        except ValueError:
            wait = 0.0
        return await self._sender.drained(account_of(request), min(max(wait, 0.0), MAX_DRAIN_SECONDS))

    async def _get(self, request: Request, work: Work) -> Answer:
        name = account_of(request)
        await self._gateway.latency(name)
        return await self._gateway.call(name, work)

    def _list(self, show: Callable[[sqlite3.Connection, Account, Mapping[str, str]], Answer]) -> Handler:
        async def handler(request: Request) -> Answer:
            return await self._get(request, lambda c, a: show(c, a, request.query_params))

        return handler

    def _show(self, show: Callable[[sqlite3.Connection, Account, str], Answer]) -> Handler:
        async def handler(request: Request) -> Answer:
            return await self._get(request, lambda c, a: show(c, a, request.path_params["id"]))

        return handler

    def _act(self, act: Callable[[sqlite3.Connection, Account, str, Json], Answer]) -> Handler:
        """A call that changes an object there is."""

        async def handler(request: Request) -> Answer:
            name = account_of(request)
            raw, body = await read_json(request)
            fingerprint = request.url.path.encode() + b"\n" + raw
            key, identifier = request.headers.get("idempotency-key"), request.path_params["id"]
            return await self._gateway.post(name, key, fingerprint, lambda c, a: act(c, a, identifier, body))

        return handler

    def _create(self, call: str, create: Callable[[sqlite3.Connection, Account, Json], Answer]) -> Handler:
        """A call that makes an object and moves no money."""

        async def handler(request: Request) -> Answer:
            name = account_of(request)
            raw, body = await read_json(request)
            fingerprint = request.url.path.encode() + b"\n" + raw
            key = request.headers.get("idempotency-key")
            execute = creating(lambda c, a: create(c, a, body))
            return await self._gateway.guarded(name, key, fingerprint, call, execute)

        return handler


def _payment(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    row = payments.find_payment(connection, account, identifier)
    return Answer(200, dumps(payments.payment_object(account, row)))


def _dispute(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(disputes.dispute_object(disputes.find_dispute(connection, account, identifier))))


def _cancel_setup(connection: sqlite3.Connection, account: Account, identifier: str, _: Json) -> Answer:
    row = setups.cancel_setup(connection, account, identifier)
    return Answer(200, dumps(setups.setup_object(connection, account, row)))


def _complete_session(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """Plays the payer on the hosted page."""
    row = checkouts.complete(connection, account, identifier, customers.token_field(body, "payment_method"))
    return Answer(200, dumps(checkouts.session_object(connection, account, row)))


def _expire_session(connection: sqlite3.Connection, account: Account, identifier: str, _: Json) -> Answer:
    row = checkouts.expire(connection, account, identifier)
    return Answer(200, dumps(checkouts.session_object(connection, account, row)))


def _setup_of_browser(connection: sqlite3.Connection, account: Account, identifier: str, secret: str) -> sqlite3.Row:
    """The intent, for a browser that knows its secret."""
    row = setups.find_setup(connection, account, identifier)
    if not hmac.compare_digest(row["secret"].encode(), secret.encode()):
        raise missing("setup_intent", identifier)
    return row
