"""What bootstrap gives to the BillingService's handlers, which live in a file for each topic."""

from __future__ import annotations

from dataclasses import dataclass

from dunwell.v1.billing_service_pb2_grpc import BillingServiceServicer
from dunwell_server.billing.rpc.runs import AllFirms
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager


@dataclass(frozen=True, slots=True)
class BillingParts:
    """The parts that handlers work with."""

    calls: Calls
    all_firms: AllFirms
    pager: Pager


class BillingHandlers(BillingServiceServicer):
    """The base of each topic's handlers."""

    def __init__(self, parts: BillingParts) -> None:
        self._calls = parts.calls
        self._all_firms = parts.all_firms
        self._pager = parts.pager
