"""BillingService: parse, use case, map."""

from dunwell_server.billing.rpc.messages import present_client, present_invoice
from dunwell_server.billing.rpc.runs import AllFirms, planned_invoice
from dunwell_server.billing.rpc.servicer import BillingServicer

__all__ = ["AllFirms", "BillingServicer", "planned_invoice", "present_client", "present_invoice"]
