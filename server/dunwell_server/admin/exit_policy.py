"""What of a firm never leaves in an export, and what its erasure takes away: every decision in one place, with its reason. Pure data.

A test holds these lists to the declared tables: a table or a text column that nobody has decided on fails it.
"""

from __future__ import annotations

from typing import Final

NOT_EXPORTED: Final[dict[str, str]] = {
    "idempotency": "stored answers to requests: they repeat what other tables hold, and expire within days",
    "client_balance": "recomputed from ledger_entry by the database itself",
    "control.api_key": "credentials: hashes of keys, of use to this installation only",
    "control.due_work": "recomputed from the firm's rows within a minute",
    "control.wake": "recomputed from the firm's rows within a minute",
    "control.run_part": "the firm's part in runs over all firms of this installation; the part itself is in run",
    "control.recovery": "concerns this installation's backups",
    "control.provider_reference": "routes webhooks of accounts that this installation shares among firms",
    "control.inbox_envelope": "routes webhooks of this installation; the firm's events are in provider_event",
    "control.firm_import": "concerns this installation",
    "control.firm_offboarding": "concerns this installation",
}
"""Tables with rows of a firm that are not exported, and why."""

SECRET_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "control.provider_account": {
        "credentials": "provider credentials and webhook secrets",
        "key_id": "names the key that seals the credentials",
    },
}
"""Columns that are not exported, and why; beside `firm_id`, which the first line tells once."""

NOT_IMPORTED: Final[dict[str, str]] = {
    "audit_seal": "the chain covers transaction numbers of the server that wrote it: the importing server begins a chain of its own, and its"
    " first entries are the imported ones in their order; the old head stands in the entry firm_imported",
}
"""Tables that an import leaves out, and why. Columns that the database computes or numbers itself are left out too."""

GONE: Final = "*"
"""The word `erased` where there was something."""
PSEUDONYM: Final = "#"
"""A word that differs from value to value, and tells nothing of it: for what has to stay distinct."""
NOTHING: Final = None

ERASED: Final[dict[str, dict[str, str | None]]] = {
    "client": {
        "name": "Erased client", "email": NOTHING, "phone": NOTHING, "address": NOTHING, "tax_id": GONE, "external_id": NOTHING, "metadata": "{}",
    },
    "engagement": {
        "name": "Erased engagement", "description": NOTHING, "line_description": "Erased engagement", "external_id": NOTHING, "metadata": "{}",
    },
    "invoice": {"memo": NOTHING, "metadata": "{}", "failure_message": GONE},
    "time_entry": {
        "person": PSEUDONYM, "description": GONE, "external_id": NOTHING, "write_down_reason": GONE, "submit_actor": PSEUDONYM,
        "approve_actor": PSEUDONYM, "reject_actor": PSEUDONYM, "reject_reason": GONE,
    },
    "credit_entry": {"reason": GONE},
    "credit_use": {"reason": GONE},
    "credit_note": {"reason": GONE},
    "payment_method": {
        "provider_reference": PSEUDONYM, "brand": NOTHING, "last4": NOTHING, "exp_month": NOTHING, "exp_year": NOTHING, "fingerprint": NOTHING,
        "country": NOTHING, "warned_expiry": NOTHING, "metadata": "{}",
    },
    "provider_customer": {"provider_reference": PSEUDONYM},
    "provider_mirror": {"reference": PSEUDONYM, "snapshot": "{}"},
    "provider_event": {"body": "", "headers": "{}", "object_reference": PSEUDONYM, "result": GONE, "last_error": GONE},
    "payment": {
        "failure_message": GONE, "action_url": NOTHING, "manual_reference": GONE, "description": NOTHING, "return_url": NOTHING, "payer": NOTHING,
    },
    "attempt": {"message": GONE, "action_url": NOTHING, "evidence": NOTHING},
    "refund": {"note": GONE, "evidence": NOTHING},
    "checkout_session": {
        "url": NOTHING, "success_url": "erased", "cancel_url": NOTHING, "provider_reference": PSEUDONYM, "subscription_reference": PSEUDONYM,
    },
    "setup_intent": {"provider_reference": PSEUDONYM, "metadata": "{}"},
    "approval": {"proposal": "{}", "note": GONE},
    "run": {"error": GONE},
    "run_item": {"message": GONE, "detail": NOTHING},
    "event": {"payload": "{}"},
}  # fmt: skip
"""What an erasure writes over the columns that hold, or may hold, personal data of clients or of those who work for the firm."""

PURGED: Final[dict[str, str]] = {
    "document": "what was sent: names and addresses of the parties are part of what the law has to be kept"
}
"""Tables whose rows are kept until the date given at the erasure, then deleted as a whole, and why."""

KEPT_TABLES: Final[dict[str, str]] = {
    "audit_event": "the audit trail is evidence and chained: it names objects by id, staff as actors, and no clients; of texts it has"
    " the numbers of invoices, why they were voided or written off, and the names of tax rates and coupons",
    "audit_seal": "hashes of the audit trail",
    "ledger_posting": "the books: kinds of facts and ids",
    "ledger_entry": "the books: accounts and amounts",
    "invoice_series": "numbers",
    "tax_rate": "the firm's own terms",
    "coupon": "the firm's own terms",
    "coupon_redemption": "ids and counts",
    "exchange_rate": "numbers",
    "engagement_rate": "the firm's own terms",
    "provider_breaker": "counts and ids",
    "invoice_line": "what was billed is part of an invoice: the law has it kept",
    "invoice_line_tax": "part of an invoice",
    "invoice_discount": "part of an invoice",
    "dispute": "codes of the provider",
    "idempotency": "deleted as a whole",
}
"""Tables of which nothing is erased although they have text columns, and why."""

KEPT_COLUMNS: Final[dict[str, str]] = {
    "locale": "a language",
    "default_provider": "a provider's name",
    "provider": "a provider's name",
    "provider_code": "a code of the provider",
    "network_code": "a code of the card network",
    "advice_code": "a code of the card network",
    "failure_code": "a code",
    "failure_provider_code": "a code of the provider",
    "block_code": "a code",
    "provider_reference": "the provider's id of a payment or refund: the proof that money moved",
    "payment_reference": "the provider's id of a payment",
    "price_reference": "the firm's own price at the provider",
    "idempotency_key": "derived from ids",
    "request_digest": "a hash",
    "body_hash": "a hash",
    "dedupe_key": "the provider's id of an event",
    "event_id": "the provider's id of an event",
    "series": "a number's beginning",
    "number": "a number",
    "proration": "terms",
    "unit": "a unit",
    "mode": "TEST or LIVE",
    "state": "a state",
    "kind": "a kind",
    "type": "a kind",
    "object_type": "a kind",
    "subject_type": "a kind",
    "outcome": "a code",
    "reason": "a code",
    "role": "a role's name, not a person's",
    "params": "a run's dates and ids",
    "counts": "numbers",
    "amounts": "numbers",
    "actor": "who acted for the firm: part of the evidence",
    "approve_actor": "who acted for the firm: part of the evidence",
    "reject_actor": "who acted for the firm: part of the evidence",
    "external_id": "the firm's own number of an invoice",
}
"""Text columns that stay where their table loses others, and why."""
