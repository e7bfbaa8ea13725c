"""PaymentService: refunds."""

from __future__ import annotations

from dunwell_server.payments.rpc.parts import PaymentHandlers


class RefundHandlers(PaymentHandlers):
    """Handlers of refunds."""
