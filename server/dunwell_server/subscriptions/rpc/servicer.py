"""SubscriptionService. A handler parses, calls one use case, and maps what comes back."""

from __future__ import annotations

from dunwell_server.subscriptions.rpc.coupons import CouponHandlers


class SubscriptionServicer(CouponHandlers):
    """Every RPC of the service, each topic in a file of its own."""
