"""The sandbox gateway: a small payment service of its own, spoken to over HTTP.

It stands in for a real provider in development, in tests and in the proofs that no crash charges twice. It has its own
book (SQLite), its own clock per account, and imports nothing from the rest of the code base, so that what it says is
independent evidence. Nothing here ever moves real money, and it holds no card data.

Accounts come into being on first use: ``Authorization: Bearer sk_test_<account>``. A browser shows itself with
``pk_test_<account>``, which opens nothing but a set-up intent whose client secret it knows.

| path | does |
|---|---|
| ``POST /v1/payments`` | charge; header ``Idempotency-Key``, as on every POST |
| ``GET /v1/payments/{id}``, ``GET /v1/payments?reference=&key=&status=`` | authoritative, oldest first |
| ``POST /v1/payments/{id}/cancel`` | end a payment that waits for the payer |
| ``POST /v1/payments/{id}/complete_action`` | play the payer: ``{"result": "succeed" | "fail"}`` |
| ``POST /v1/refunds``, ``GET .../{id}``, ``GET /v1/refunds?payment=&key=&status=`` | send money back, whole or in parts |
| ``POST /v1/customers``, ``GET``, ``POST .../{id}``, ``GET .../{id}/payment_methods`` | customers and their methods |
| ``POST /v1/payment_methods/attach``, ``GET``, ``POST .../{id}``, ``POST .../{id}/detach`` | keep a test token, update it |
| ``POST /v1/setup_intents``, ``GET .../{id}``, ``POST .../{id}/confirm``, ``/complete_action``, ``/cancel`` | save a method |
| ``POST /v1/checkout/sessions``, ``GET .../{id}``, ``GET ...?key=``, ``POST .../{id}/complete``, ``/expire`` | hosted pages |
| ``GET /v1/disputes``, ``GET``, ``POST .../{id}``, ``POST .../{id}/close``, ``POST /v1/files`` | disputes and evidence |
| ``GET /v1/ledger?reference=&kind=`` | the account's money movements, oldest first |
| ``GET /v1/events?type=`` | what happened, oldest first |
| ``GET /v1/webhooks?wait_seconds=`` | how many webhooks are not delivered yet |
| ``GET /v1/clock?wait_seconds=``, ``POST /v1/clock?wait_seconds= {"now": instant}`` | the account's time, and what is not told yet |
| ``GET``, ``POST /checkout/{id}`` and ``/authenticate/{id}`` | the pages a payer sees in a browser |
| ``POST /control/settings``, ``/control/latency``, ``/control/faults``; ``GET /control/account`` | behaviour of an account |
| ``GET``, ``POST /control/webhooks``; ``GET .../deliveries``; ``POST .../flush``, ``.../redeliver`` | webhooks of an account |
| ``POST /control/refunds/end``, ``/control/disputes``, ``/control/disputes/decide`` | play the bank |
| ``GET /control/ledger?account=&group=&kind=`` | movements counted, over one account or all |
| ``POST /control/prune``; ``POST /control/reset`` | forget what is old; empty the book (only if started so) |
| ``GET /healthz`` | readiness |

Lists take ``limit``, ``page`` and, where things are created, ``created_from`` and ``created_to``.
Instants are RFC 3339 in UTC with milliseconds; amounts are integers of the currency's minor unit.
"""

from dunwell_server.sandbox.app import create_app
from dunwell_server.sandbox.server import serve

__all__ = ["create_app", "serve"]
