"""The sandbox provider: speaks to the sandbox gateway over HTTP.

`provider` puts the adapter together from its groups of calls; `wire` holds the connections; `outcomes` says what answers
to charges mean; `webhooks` reads events.
"""

from dunwell_server.providers.sandbox.outcomes import charge_outcome, payment_outcome
from dunwell_server.providers.sandbox.provider import SandboxProvider
from dunwell_server.providers.sandbox.webhooks import HANDLED
from dunwell_server.providers.sandbox.wire import NAME

__all__ = ["HANDLED", "NAME", "SandboxProvider", "charge_outcome", "payment_outcome"]
