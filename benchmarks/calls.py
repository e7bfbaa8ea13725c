"""The calls that the benchmarks make: invoices of three lines, and single calls over a plain channel."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from google.type import decimal_pb2

from benchmarks.rpc_load import PROCESSES, Load
from benchmarks.stack import BenchFirm, Stack
from dunwell.v1 import billing_service_pb2, invoice_pb2

CREATE = "/dunwell.v1.BillingService/CreateInvoice"
GET = "/dunwell.v1.BillingService/GetInvoice"
CHARGE = "/dunwell.v1.PaymentService/ChargeInvoice"
_LINES = (
    ("Monthly bookkeeping", "1", "450.00"),
    ("Payroll, per employee", "12", "9.50"),
    ("Year-end filing", "1", "300.00"),
)


def new_invoice(client_id: str) -> billing_service_pb2.CreateInvoiceRequest:
    """A one-off invoice of three lines, finalised at once, under a request id of its own."""
    lines = [
        invoice_pb2.InvoiceLine(
            description=text, quantity=decimal_pb2.Decimal(value=quantity), unit_price=decimal_pb2.Decimal(value=price)
        )
        for text, quantity, price in _LINES
    ]
    invoice = invoice_pb2.Invoice(client_id=client_id, lines=lines)
    return billing_service_pb2.CreateInvoiceRequest(invoice=invoice, finalize=True, request_id=str(uuid4()))


def new_invoices(firm: BenchFirm, count: int) -> Iterator[bytes]:
    """Requests for `count` invoices, over the firm's clients in turn."""
    for number in range(count):
        yield new_invoice(firm.clients[number % len(firm.clients)]).SerializeToString()


def create_loads(stack: Stack, address: str, count: int) -> list[Load]:
    """`count` invoices for each of several processes, of which each has a firm of its own."""
    return [Load(address, CREATE, firm.metadata, list(new_invoices(firm, count))) for firm in stack.firms[:PROCESSES]]


def call(address: str, path: str, firm: BenchFirm, request: Message) -> bytes:
    """One call; the serialised answer."""
    with grpc.insecure_channel(address) as channel:
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        return unary(request.SerializeToString(), metadata=firm.metadata, timeout=20)


def first_of(address: str, path: str, firm: BenchFirm, request: Message) -> bytes:
    """The first message of a streaming call, which is then left; serialised."""
    with grpc.insecure_channel(address) as channel:
        stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
        answers = stream(request.SerializeToString(), metadata=firm.metadata, timeout=20)
        first: bytes = next(iter(answers))
        answers.cancel()
    return first
