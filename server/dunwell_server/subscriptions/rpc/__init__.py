"""SubscriptionService: parse, use case, map."""

from dunwell_server.subscriptions.rpc.parts import SubscriptionParts
from dunwell_server.subscriptions.rpc.servicer import SubscriptionServicer

__all__ = ["SubscriptionParts", "SubscriptionServicer"]
