"""GetInvoice with its lines over the whole stack, beside a bare handler that answers the same message."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import calls
from benchmarks.ceilings import Constants
from benchmarks.common import Figure
from benchmarks.comparison import Effort, compare
from benchmarks.rpc_load import Answered, Load, repeat
from benchmarks.stack import Stack
from dunwell.v1 import billing_service_pb2

TARGET = 0.2


def measure(stack: Stack, effort: Effort) -> Figure:
    """Measure on a running installation."""
    firm = stack.firms[0]
    created = calls.call(stack.address, calls.CREATE, firm, calls.new_invoice(firm.clients[0]))
    invoice_id = billing_service_pb2.CreateInvoiceResponse.FromString(created).invoice.id
    request = billing_service_pb2.GetInvoiceRequest(invoice_id=invoice_id)
    answer = calls.call(stack.address, calls.GET, firm, request)

    def load(address: str) -> Load:
        return Load(address, calls.GET, firm.metadata, [request.SerializeToString()])

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constants.json"
        Constants(get_invoice=answer).write(file)
        with stack.bare_server(str(file)) as ceiling:

            def figure_rate(rate: float | None) -> Answered:
                return repeat(load(stack.address), len(answer), seconds=effort.seconds, rate=rate)

            def ceiling_rate(rate: float | None) -> Answered:
                return repeat(load(ceiling), len(answer), seconds=effort.seconds, rate=rate)

            return compare("GetInvoice", stack, TARGET, effort, figure_rate, ceiling_rate)
