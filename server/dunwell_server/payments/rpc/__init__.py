"""PaymentService: parse, use case, map."""

from dunwell_server.payments.rpc.servicer import AllFirms, PaymentServicer, Presenters

__all__ = ["AllFirms", "PaymentServicer", "Presenters"]
