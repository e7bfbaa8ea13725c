"""PaymentService: reconciliation, syncing, the failure report."""

from __future__ import annotations

from dunwell_server.payments.rpc.parts import PaymentHandlers


class ReconciliationHandlers(PaymentHandlers):
    """Handlers of reconciliation, syncing, the failure report."""
