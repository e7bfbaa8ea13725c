"""Stripe, through its SDK: pinned API version, own timeouts, no retries, an explicit key on every POST.

`provider` puts the adapter together from its groups of calls; `client` holds the connections; `answers` says what
errors mean; `amounts` is the table of currencies; `signature` and `events_map` read webhooks.
"""

from dunwell_server.providers.stripe.client import NAME, STRIPE_VERSION
from dunwell_server.providers.stripe.events_map import HANDLED
from dunwell_server.providers.stripe.provider import StripeProvider

__all__ = ["HANDLED", "NAME", "STRIPE_VERSION", "StripeProvider"]
