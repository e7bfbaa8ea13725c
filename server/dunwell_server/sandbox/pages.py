"""The pages that a payer sees: a checkout, and a bank's question. Plain HTML, for people who try things out."""

from __future__ import annotations

import html
import sqlite3
from collections.abc import Callable
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dunwell_server.sandbox import checkouts, due, payments, setups
from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Refusal
from dunwell_server.sandbox.exchange import read_body
from dunwell_server.sandbox.gateway import Gateway
from dunwell_server.sandbox.instruments import INSTRUMENTS

CARDS = (
    ("pm_card_visa", "Visa •••• 4242: succeeds"),
    ("pm_card_mastercard", "Mastercard •••• 4444: succeeds"),
    ("pm_card_threeDSecure2Required", "Visa •••• 3220: asks for authentication"),
    ("pm_card_chargeDeclined", "Visa •••• 0002: declined"),
    ("pm_card_chargeDeclinedInsufficientFunds", "Visa •••• 9995: insufficient funds"),
    ("pm_card_chargeDeclinedExpiredCard", "Visa •••• 0069: expired"),
    ("pm_sandbox_pendingThenSuccess", "Bank debit •••• 8005: pending, then succeeds"),
    ("pm_card_createDispute", "Visa •••• 0259: succeeds, then is disputed"),
    ("pm_sandbox_attachDeclined", "Visa •••• 8014: cannot be saved"),
)
EXPONENTS = {"JPY": 0, "KRW": 0, "VND": 0, "CLP": 0, "BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3}
SESSION_MARK = "{CHECKOUT_SESSION_ID}"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;background:#f4f5f7;color:#1c2330;margin:0}
main{max-width:26rem;margin:3rem auto;background:#fff;padding:2rem;border-radius:.75rem;box-shadow:0 1px 4px #0002}
h1{font-size:1.2rem;margin:0 0 .25rem}.amount{font-size:2rem;font-weight:600;margin:.5rem 0 1rem}
label{display:block;margin:.75rem 0 .25rem}select,button{font:inherit;width:100%;padding:.6rem;border-radius:.5rem;
border:1px solid #c5cad3;background:#fff}button{margin-top:.75rem;cursor:pointer}
button.go{background:#1d4ed8;border-color:#1d4ed8;color:#fff}.wrong{color:#b42318}.note{color:#5b6472;font-size:.85rem}"""


class Pages:
    """The hosted pages over one gateway. A page's address is its key: ids cannot be guessed."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def checkout(self, request: Request) -> Response:
        """Shows a session; a form sent from it pays with a test card, or goes back."""
        identifier = request.path_params["id"]
        form = await _form(request)
        problem = ""
        if form:
            if form.get("action") == "cancel":
                return await self._page("sessions", identifier, lambda c, a: _left(c, a, identifier))
            problem = await self._pay(identifier, form.get("card", ""))
        return await self._page("sessions", identifier, lambda c, a: _checkout(c, a, identifier, problem))

    async def _pay(self, identifier: str, token: str) -> str:
        """Completes the session; what was wrong, in words, if it could not be."""
        if token not in INSTRUMENTS:
            return "Choose a card."
        problem = ""

        def work(connection: sqlite3.Connection, account: Account) -> Response:
            nonlocal problem
            row = checkouts.complete(connection, account, identifier, INSTRUMENTS[token])
            problem = "" if row["error"] is None else "Your card was declined. Try another."
            return Response()

        await self._page("sessions", identifier, work)
        return problem

    async def authenticate(self, request: Request) -> Response:
        """Asks the payer, as their bank would, whether it is them; for payments and set-ups."""
        identifier = request.path_params["id"]
        form = await _form(request)
        table = "setups" if identifier.startswith("seti_") else "payments"
        if form:
            result = "succeed" if form.get("action") == "succeed" else "fail"

            def work(connection: sqlite3.Connection, account: Account) -> Response:
                due.complete_action(connection, account, identifier, {"result": result})
                return Response()

            await self._page(table, identifier, work)
        return await self._page(table, identifier, lambda c, a: _authenticate(c, a, identifier, table))

    async def _page(
        self, table: str, identifier: str, work: Callable[[sqlite3.Connection, Account], Response]
    ) -> Response:
        """Runs ``work`` for the account that an object belongs to; a page of its own where there is none."""
        owner = await self._gateway.book.run(
            lambda c: c.execute(f"SELECT account FROM {table} WHERE id = ?", (identifier,)).fetchone()
        )
        if owner is None:
            return _html("Not found", "<p>There is no such page.</p>", 404)

        def run(connection: sqlite3.Connection) -> Response:
            account = self._gateway.accounts.get(connection, owner["account"])
            if account.clock_ms is None:
                due.run_due(connection, account, account.now_ms)
            try:
                return work(connection, account)
            except Refusal as refusal:
                return _html("Not possible", f"<p>{html.escape(refusal.message)}</p>", 409)

        return await self._gateway.book.run(run)


def _checkout(connection: sqlite3.Connection, account: Account, identifier: str, problem: str) -> Response:
    row = checkouts.find_session(connection, account, identifier)
    if row["status"] == "complete":
        return _sent_to(row["success_url"].replace(SESSION_MARK, quote(identifier)))
    if row["status"] == "expired":
        return _html("Expired", "<p>This page has expired. Nothing was charged.</p>", 410)
    waiting = checkouts.waiting_payment(connection, account, row)
    if waiting is not None:
        return _sent_to(payments.authenticate_url(account, waiting["id"]))
    if row["setup"] is not None and setups.find_setup(connection, account, row["setup"])["status"] == "requires_action":
        return _sent_to(payments.authenticate_url(account, row["setup"]))
    title = {"payment": "Pay", "setup": "Save a card", "subscription": "Subscribe"}[row["mode"]]
    amount = f'<p class="amount">{_money(row["amount"], row["currency"])}</p>' if row["amount"] else ""
    wrong = f'<p class="wrong" role="alert">{html.escape(problem)}</p>' if problem else ""
    options = "".join(f'<option value="{token}">{html.escape(words)}</option>' for token, words in CARDS)
    return _html(
        title,
        f"<p>{html.escape(row['description'] or '')}</p>{amount}{wrong}"
        f'<form method="post"><label for="card">Test card</label><select id="card" name="card">{options}</select>'
        f'<button class="go" name="action" value="pay">{title}</button>'
        f'<button name="action" value="cancel">Cancel</button></form>',
    )


def _left(connection: sqlite3.Connection, account: Account, identifier: str) -> Response:
    """The payer goes back; the page stays open until it expires."""
    row = checkouts.find_session(connection, account, identifier)
    if row["cancel_url"]:
        return _sent_to(row["cancel_url"].replace(SESSION_MARK, quote(identifier)))
    return _html("Not paid", "<p>Nothing was charged. You may close this page.</p>")


def _authenticate(connection: sqlite3.Connection, account: Account, identifier: str, table: str) -> Response:
    row = connection.execute(f"SELECT * FROM {table} WHERE id = ?", (identifier,)).fetchone()
    if row["status"] == "requires_action":
        asked = "to save a card" if table == "setups" else _money(row["amount"], row["currency"])
        return _html(
            "Is it you?",
            f'<p>Your bank asks you to confirm:</p><p class="amount">{asked}</p><form method="post">'
            '<button class="go" name="action" value="succeed">Yes, confirm</button>'
            '<button name="action" value="fail">No, refuse</button></form>',
        )
    if row["session"] is not None:
        session = checkouts.find_session(connection, account, row["session"])
        problem = "" if session["error"] is None else "The payment was not authenticated. Try another card."
        return _checkout(connection, account, row["session"], problem) if not problem else _retry(account, session)
    if table == "payments" and row["return_url"]:
        return _sent_to(row["return_url"])
    words = "Done." if row["status"] == "succeeded" else "It was not confirmed, and nothing was charged."
    return _html("Thank you", f"<p>{words} You may close this page.</p>")


def _retry(account: Account, session: sqlite3.Row) -> Response:
    """Back to the page the payer came from, for another try."""
    return _sent_to(f"{account.home.public_url}/checkout/{session['id']}")


def _sent_to(url: str) -> Response:
    return RedirectResponse(url, status_code=303, headers=HEADERS)


def _money(minor: int, currency: str) -> str:
    places = EXPONENTS.get(currency, 2)
    digits = str(minor).zfill(places + 1)
    whole, part = (digits[:-places], "." + digits[-places:]) if places else (digits, "")
    return html.escape(f"{int(whole):,}{part} {currency}")


def _html(title: str, body: str, status: int = 200) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}"
        '<p class="note">Sandbox: no money moves and no card number is ever asked for.</p></main></body></html>'
    )
    return HTMLResponse(text, status, HEADERS)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent; empty for a page that is only looked at."""
    if request.method != "POST":
        return {}
    fields = parse_qs((await read_body(request, 10_000)).decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}
