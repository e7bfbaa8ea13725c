"""What bootstrap gives to the SubscriptionService's handlers, which live in a file for each topic."""

from __future__ import annotations

from dataclasses import dataclass

from dunwell.v1.subscription_service_pb2_grpc import SubscriptionServiceServicer
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager


@dataclass(frozen=True, slots=True)
class SubscriptionParts:
    """The parts that handlers work with."""

    calls: Calls
    pager: Pager


class SubscriptionHandlers(SubscriptionServiceServicer):
    """The base of each topic's handlers."""

    def __init__(self, parts: SubscriptionParts) -> None:
        self._calls = parts.calls
        self._pager = parts.pager
