"""CreateInvoice with finalise over the whole stack, beside the same rows written by one server-side function."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import calls
from benchmarks.ceilings import Constants
from benchmarks.common import Figure
from benchmarks.comparison import Effort, compare, require_same_rows
from benchmarks.rpc_load import Answered, distinct
from benchmarks.stack import Stack

TARGET = 0.35
_MOST_PER_SECOND = 3000
"""More invoices per second than any of the two can make: so many bodies are prepared."""


def measure(stack: Stack, effort: Effort) -> Figure:
    """Measure on a running installation."""
    firm = stack.firms[-1]
    answer = calls.call(stack.address, calls.CREATE, firm, calls.new_invoice(firm.clients[0]))
    clients = {client: firm.id for firm in stack.firms for client in firm.clients}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constants.json"
        Constants(create_invoice=answer, clients=clients).write(file)
        with stack.bare_server(str(file)) as ceiling:

            def one(address: str) -> bytes:
                return calls.call(address, calls.CREATE, firm, calls.new_invoice(firm.clients[0]))

            one(ceiling)  # the first of a series adds the series' own row
            require_same_rows(stack.database, lambda: one(stack.address), lambda: one(ceiling))
            count = round(_MOST_PER_SECOND * effort.seconds / 2)

            def rate_of(address: str, rate: float | None) -> Answered:
                return distinct(calls.create_loads(stack, address, count), seconds=effort.seconds, rate=rate)

            return compare(
                "CreateInvoice, finalised", stack, TARGET, effort,
                lambda rate: rate_of(stack.address, rate), lambda rate: rate_of(ceiling, rate),
            )  # fmt: skip
