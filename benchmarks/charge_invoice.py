"""ChargeInvoice on the sandbox without latency, beside two server-side functions, two commits and the same sandbox call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from uuid import uuid4

import psycopg

from benchmarks import calls
from benchmarks.ceilings import Constants, Target
from benchmarks.common import Figure
from benchmarks.comparison import Effort, compare, require_same_rows
from benchmarks.rpc_load import PROCESSES, Answered, Load, distinct
from benchmarks.stack import BenchFirm, Stack
from dunwell.v1 import payment_service_pb2
from dunwell_server.kernel.ids import Prefix, decode, encode

TARGET = 0.3
_MOST_PER_SECOND = 250
"""More charges per second than either makes with one sandbox gateway: so many invoices are made ready."""

# In turn over the clients, so that calls in progress are on different cards.
_TARGETS = """
SELECT i.id, i.firm_id, i.client_id, m.id, m.account_id, m.provider_reference, k.provider_reference, i.number, i.amount_due
FROM invoice i
JOIN payment_method m ON m.firm_id = i.firm_id AND m.client_id = i.client_id
JOIN provider_customer k ON k.firm_id = i.firm_id AND k.client_id = i.client_id AND k.account_id = m.account_id
WHERE i.firm_id = %s AND i.state = 'SENT'
ORDER BY row_number() OVER (PARTITION BY i.client_id ORDER BY i.id), i.client_id LIMIT %s
"""


def measure(stack: Stack, effort: Effort) -> Figure:
    """Measure on a running installation."""
    firms = stack.firms[:PROCESSES]
    share = round(_MOST_PER_SECOND * effort.seconds / PROCESSES)
    wanted = (2 * effort.samples + 3) * share + 3
    targets = {firm.id: _targets(stack, firm, wanted) for firm in firms}
    queues = {firm.id: iter(targets[firm.id]) for firm in firms}

    def one(address: str) -> bytes:
        return calls.call(address, calls.CHARGE, firms[0], _request(next(queues[firms[0].id])))

    answer = one(stack.address)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constants.json"
        Constants(charge_invoice=answer, targets=[target for part in targets.values() for target in part]).write(file)
        with stack.bare_server(str(file)) as ceiling:
            require_same_rows(stack.database, lambda: one(stack.address), lambda: one(ceiling))

            def rate_of(address: str, rate: float | None) -> Answered:
                loads = [_load(address, firm, queues[firm.id], share) for firm in firms]
                return distinct(loads, seconds=effort.seconds, rate=rate)

            return compare(
                "ChargeInvoice, sandbox", stack, TARGET, effort,
                lambda rate: rate_of(stack.address, rate), lambda rate: rate_of(ceiling, rate),
            )  # fmt: skip


def _load(address: str, firm: BenchFirm, queue: Iterator[Target], count: int) -> Load:
    return Load(
        address, calls.CHARGE, firm.metadata, [_request(target).SerializeToString() for target in islice(queue, count)]
    )


def _request(target: Target) -> payment_service_pb2.ChargeInvoiceRequest:
    return payment_service_pb2.ChargeInvoiceRequest(invoice_id=target.invoice_id, request_id=str(uuid4()))


def _targets(stack: Stack, firm: BenchFirm, count: int) -> list[Target]:
    """`count` open invoices of the firm, made where there are too few."""
    found = _open_invoices(stack, firm, count)
    if len(found) < count:
        bodies = list(calls.new_invoices(firm, count - len(found)))
        distinct([Load(stack.address, calls.CREATE, firm.metadata, bodies)], seconds=600.0)
        found = _open_invoices(stack, firm, count)
    return found


def _open_invoices(stack: Stack, firm: BenchFirm, count: int) -> list[Target]:
    with psycopg.connect(stack.database.owner) as connection:
        rows = connection.execute(_TARGETS, (decode(Prefix.FIRM, firm.id, "firm"), count)).fetchall()
    return [
        Target(
            encode(Prefix.INVOICE, row[0]), encode(Prefix.FIRM, row[1]), encode(Prefix.CLIENT, row[2]), str(row[3]), str(row[4]), *row[5:]
        )
        for row in rows
    ]  # fmt: skip
