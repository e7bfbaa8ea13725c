"""The sandbox gateway: a small payment service of its own, spoken to over HTTP.

It stands in for a real provider in development, in tests and in the proofs that no crash charges twice. It has its own
book (SQLite), its own clock per account, and imports nothing from the rest of the code base, so that what it says is
independent evidence. Nothing here ever moves real money, and it holds no card data.

Accounts come into being on first use: ``Authorization: Bearer sk_test_<account>``.

| path | does |
|---|---|
| ``POST /v1/customers``, ``GET /v1/customers/{id}`` | create, fetch a customer |
| ``POST /v1/payment_methods/attach``, ``GET .../{id}``, ``POST .../{id}/detach`` | keep a test token for a customer |
| ``POST /v1/payments`` | charge; header ``Idempotency-Key`` |
| ``GET /v1/payments/{id}`` | one payment |
| ``GET /v1/payments?reference=&key=&status=&created_from=&created_to=&limit=&page=`` | authoritative, oldest first |
| ``POST /v1/payments/{id}/cancel`` | end a payment that waits for the payer |
| ``POST /v1/payments/{id}/complete_action`` | play the payer: ``{"result": "succeed" | "fail"}`` |
| ``GET /v1/ledger?reference=&limit=&page=`` | the account's money movements, oldest first |
| ``GET /v1/events?limit=&page=`` | what happened, oldest first |
| ``GET /v1/clock``, ``POST /v1/clock {"now": instant}`` | the account's time |
| ``POST /control/settings``, ``/control/latency``, ``/control/faults`` | behaviour of one account (``"account"``) |
| ``GET /control/ledger?account=&group=reference|key|payment`` | movements counted, over one account or all |
| ``POST /control/reset`` | empty the book (only if started so) |
| ``GET /healthz`` | readiness |

Instants are RFC 3339 in UTC with milliseconds; amounts are integers of the currency's minor unit.
"""

from dunwell_server.sandbox.app import create_app
from dunwell_server.sandbox.server import serve

__all__ = ["create_app", "serve"]
