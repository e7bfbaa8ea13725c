"""PaymentService: parse, use case, map."""

from dunwell_server.payments.rpc.servicer import PaymentServicer, Presenters, RunGate

__all__ = ["PaymentServicer", "Presenters", "RunGate"]
