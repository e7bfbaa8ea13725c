"""The server of the ceilings: bare gRPC handlers without authentication, validation or retries. A process of its own.

    python -m benchmarks.ceilings PORT FILE

FILE is JSON of `Constants`: answers of the service that the handlers repeat, and what the charges are about.
The database and the sandbox gateway are those of the environment.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import psycopg
from google.protobuf.message import Message
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from benchmarks import calls
from benchmarks.common import BenchDatabase
from dunwell.v1 import billing_service_pb2, payment_service_pb2
from dunwell_server.bootstrap import providers
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.crypto import Vault
from dunwell_server.providers.base import ChargeReferences, ChargeRequest

_FUNCTIONS: Final = Path(__file__).with_name("ceiling_functions.sql")
POOL: Final = 10
"""As many connections as a worker of the service has."""
_ACTOR: Final = "key_01jd3v5zj0f2pr3ahxn5ksm0tb"
_CREATE = """SELECT bench_create_invoice(%(firm)s, %(client)s, %(request)s, %(hash)s, %(answer)s, %(ids)s::uuid[], %(actor)s, %(metadata)s,
    %(descriptions)s::text[], %(quantities)s::text[]::numeric[], %(prices)s::text[]::numeric[], %(amounts)s::bigint[])"""
_INTENT = """SELECT bench_charge_intent(%(firm)s, %(client)s, %(invoice)s, %(method)s, %(account)s, %(amount)s, %(request)s, %(hash)s,
    %(ids)s::uuid[], %(actor)s, %(metadata)s)"""
_OUTCOME = """SELECT bench_charge_outcome(%(firm)s, %(client)s, %(invoice)s, %(method)s, %(amount)s, %(request)s, %(reference)s,
    %(ids)s::uuid[], %(actor)s, %(metadata)s)"""


@dataclass(frozen=True, slots=True)
class Target:
    """An open invoice and how it is charged."""

    invoice_id: str
    firm_id: str
    client_id: str
    method_id: str
    account_id: str
    method_reference: str
    customer_reference: str
    number: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Constants:
    """What the bare handlers need to know. The answers are serialised messages."""

    get_invoice: bytes = b""
    create_invoice: bytes = b""
    charge_invoice: bytes = b""
    clients: dict[str, str] = field(default_factory=dict)
    """Public id of a client to that of its firm."""
    targets: list[Target] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Keep them for the server's process."""
        answers = {name: base64.b64encode(getattr(self, name)).decode() for name in _ANSWERS}
        targets = [[getattr(target, name) for name in Target.__slots__] for target in self.targets]
        file.write_text(json.dumps({**answers, "clients": self.clients, "targets": targets}), encoding="ascii")

    @classmethod
    def read(cls, file: Path) -> Constants:
        """What `write` kept."""
        data = json.loads(file.read_text(encoding="ascii"))
        answers = {name: base64.b64decode(data[name]) for name in _ANSWERS}
        return cls(**answers, clients=data["clients"], targets=[Target(*values) for values in data["targets"]])


_ANSWERS: Final = ("get_invoice", "create_invoice", "charge_invoice")


def install(database: BenchDatabase) -> None:
    """Make the ceilings' functions in the benchmarks' database."""
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute(_FUNCTIONS.read_bytes())


Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


class Bare(grpc.GenericRpcHandler):
    """Parses, calls, serialises: what gRPC itself needs, and not what it spends on methods registered by name."""

    def __init__(self, methods: Mapping[str, tuple[Any, type[Message]]]) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, _serialize)
            for path, (behaviour, request) in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class _Billing:
    def __init__(self, pool: Pool, constants: Constants) -> None:
        self._pool = pool
        self._got = billing_service_pb2.GetInvoiceResponse.FromString(constants.get_invoice)
        self._created = billing_service_pb2.CreateInvoiceResponse.FromString(constants.create_invoice)
        self._answer = constants.create_invoice
        self._parties = {
            client: (decode(Prefix.FIRM, firm, "firm"), decode(Prefix.CLIENT, client, "client"))
            for client, firm in constants.clients.items()
        }
        self._metadata = Jsonb({
            "invoice_id": self._created.invoice.id, "client_id": self._created.invoice.client_id, "state": "SENT", "currency_code": "USD",
            "total_minor": 100, "amount_due_minor": 100, "due_date": "2026-01-01",
        })  # fmt: skip

    async def GetInvoice(self, request: Any, context: Any) -> billing_service_pb2.GetInvoiceResponse:
        return self._got

    async def CreateInvoice(self, request: Any, context: Any) -> billing_service_pb2.CreateInvoiceResponse:
        firm, client = self._parties[request.invoice.client_id]
        lines = request.invoice.lines
        params = {
            "firm": firm, "client": client, "request": UUID(request.request_id), "hash": sha256(request.SerializeToString()).digest(),
            "answer": self._answer, "ids": [uuid7() for _ in range(4)], "actor": _ACTOR, "metadata": self._metadata,
            "descriptions": [line.description for line in lines], "quantities": [line.quantity.value for line in lines],
            "prices": [line.unit_price.value for line in lines],
            "amounts": [round(float(line.quantity.value) * float(line.unit_price.value) * 100) for line in lines],
        }  # fmt: skip
        async with self._pool.connection() as connection:
            await connection.execute(_CREATE, params)
        return self._created


class _Payments:
    def __init__(self, pool: Pool, constants: Constants, gateways: dict[str, Gateway]) -> None:
        self._pool = pool
        self._charged = payment_service_pb2.ChargeInvoiceResponse.FromString(constants.charge_invoice)
        self._targets = {target.invoice_id: target for target in constants.targets}
        self._gateways = gateways

    async def ChargeInvoice(self, request: Any, context: Any) -> payment_service_pb2.ChargeInvoiceResponse:
        target = self._targets[request.invoice_id]
        gateway = self._gateways[target.account_id]
        payment, attempt = uuid7(), uuid7()
        metadata = {
            "invoice_id": target.invoice_id, "client_id": target.client_id, "amount_minor": target.amount_minor, "currency_code": "USD",
            "payment_method_id": target.method_id,
        }  # fmt: skip
        params: dict[str, Any] = {
            "firm": decode(Prefix.FIRM, target.firm_id, ""), "client": decode(Prefix.CLIENT, target.client_id, ""),
            "invoice": decode(Prefix.INVOICE, target.invoice_id, ""), "method": UUID(target.method_id), "account": UUID(target.account_id),
            "amount": target.amount_minor, "request": UUID(request.request_id), "hash": sha256(request.SerializeToString()).digest(),
            "actor": _ACTOR, "metadata": Jsonb(metadata),
        }  # fmt: skip
        async with self._pool.connection() as connection:
            await connection.execute(_INTENT, {**params, "ids": [payment, attempt, uuid7(), uuid7()]})
        outcome = await gateway.provider.charge(ChargeRequest(
            account=gateway.account, key=f"v1:{payment}:1", references=ChargeReferences(target.firm_id, encode(Prefix.PAYMENT, payment)),
            money=Money("USD", target.amount_minor), method_reference=target.method_reference, customer_reference=target.customer_reference,
            description=f"Invoice {target.number}",
        ))  # fmt: skip
        params.update(reference=outcome.provider_reference, ids=[payment, attempt, *(uuid7() for _ in range(5))])
        async with self._pool.connection() as connection:
            await connection.execute(_OUTCOME, params)
        return self._charged


async def _gateways(pool: Pool, settings: Settings) -> dict[str, Gateway]:
    gateways = Gateways(providers(settings), Vault.of(settings.keys))
    async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, firm_id, provider, mode, credentials, key_id, version FROM control.provider_account WHERE provider = 'sandbox'"
        )
        return {str(row["id"]): gateways.gateway(ProviderAccount(**row)) for row in await cursor.fetchall()}


async def serve(port: int, constants: Constants) -> None:
    """Serve until the process is ended."""
    settings = Settings()
    assert settings.database_url is not None

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.set_autocommit(True)
        connection.prepare_threshold = 2

    url = settings.database_url.get_secret_value()
    async with AsyncConnectionPool(url, min_size=POOL, max_size=POOL, configure=configure) as pool:
        billing, payments = _Billing(pool, constants), _Payments(pool, constants, await _gateways(pool, settings))
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Bare({
            calls.GET: (billing.GetInvoice, billing_service_pb2.GetInvoiceRequest),
            calls.CREATE: (billing.CreateInvoice, billing_service_pb2.CreateInvoiceRequest),
            calls.CHARGE: (payments.ChargeInvoice, payment_service_pb2.ChargeInvoiceRequest),
        }),))  # fmt: skip
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


def main() -> None:
    """Serve on uvloop, as the service does."""
    import uvloop

    port, file = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(int(port), Constants.read(Path(file))))


if __name__ == "__main__":
    main()
