"""PaymentService: provider customers, set-up intents, hosted pages, one-time payments."""

from __future__ import annotations

from dunwell_server.payments.rpc.parts import PaymentHandlers


class PageHandlers(PaymentHandlers):
    """Handlers of provider customers, set-up intents, hosted pages, one-time payments."""
