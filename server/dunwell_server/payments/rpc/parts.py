"""What bootstrap gives to the PaymentService's handlers, which live in a file for each topic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from dunwell.v1 import client_pb2, invoice_pb2, run_pb2
from dunwell.v1.payment_service_pb2_grpc import PaymentServiceServicer
from dunwell_server.billing.model import Client, Invoice
from dunwell_server.payments.jobs import Charger, MethodKeeper
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager


@dataclass(frozen=True, slots=True)
class Presenters:
    """How billing shows what payments return of it."""

    client: Callable[[UnitOfWork, Client], Awaitable[client_pb2.Client]]
    invoice: Callable[[UnitOfWork, Invoice], Awaitable[invoice_pb2.Invoice]]


class AllFirms(Protocol):
    """What starts runs over all firms, and tells how they go."""

    async def start(self, uow: UnitOfWork, kind: RunKind, params: dict[str, Any], *, dry_run: bool) -> UUID:
        """Queue a run for every active firm that lives in real time, under one run over all; `uow` is firmless."""
        ...

    def tail(self, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
        """The progress of the run over all until it ends."""
        ...


@dataclass(frozen=True, slots=True)
class PaymentParts:
    """The parts that handlers work with."""

    calls: Calls
    charger: Charger
    keeper: MethodKeeper
    presenters: Presenters
    all_firms: AllFirms
    pager: Pager
    return_url: str | None = None
    """Where a client comes back to where a call does not say."""


class PaymentHandlers(PaymentServiceServicer):
    """The base of each topic's handlers."""

    def __init__(self, parts: PaymentParts) -> None:
        self._parts = parts
        self._calls = parts.calls
        self._charger = parts.charger
        self._keeper = parts.keeper
        self._present = parts.presenters
        self._all_firms = parts.all_firms
        self._pager = parts.pager
