"""PaymentService: parse, use case, map."""

from dunwell_server.payments.rpc.parts import AllFirms, PaymentParts, Presenters
from dunwell_server.payments.rpc.servicer import PaymentServicer

__all__ = ["AllFirms", "PaymentParts", "PaymentServicer", "Presenters"]
