"""The kinds of call against a real database: what happens once, what a repeat gets, what outlives its caller."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from dunwell.v1 import admin_service_pb2, billing_service_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import idempotency
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.migrate import head_revision
from dunwell_server.rpc.auth import ApiKeys, Authenticator, DatabaseKeyStore, mint_key
from dunwell_server.rpc.calls import Calls, request_hash
from dunwell_server.rpc.current import adopt, current_call
from dunwell_server.rpc.startup import StartupError, check_database
from tests import support
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import PEPPER, Served, failure, serve
from tests.support import eventually


@dataclass
class Live:
    """A served floor on the module's database, and a firm's credentials."""

    served: Served
    calls: Calls
    firm: CallContext
    metadata: tuple[tuple[str, str], ...]
    admin: tuple[tuple[str, str], ...]


async def add_key(db: Database, firm_id: uuid.UUID | None, role: Role) -> tuple[tuple[str, str], ...]:
    """An API key in the database; returns metadata with it."""
    key = mint_key(PEPPER, live=False)
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.api_key (id, firm_id, role, display_name, secret_hash, create_actor)"
            " VALUES (%s, %s, %s, 'test', %s, 'test')",
            (key.id, firm_id, role.value, key.secret_hash),
        )
    return (("authorization", f"Bearer {key.text}"),)


@pytest.fixture
async def live(db: Database, make_firm: Callable[..., Awaitable[CallContext]], tmp_path: Path) -> AsyncIterator[Live]:
    """A server whose keys and idempotency are in the database."""
    firm = await make_firm()
    authenticator = Authenticator(ApiKeys(DatabaseKeyStore(db), (PEPPER,)))
    async with serve(tmp_path, probe=db.ping, authenticator=authenticator) as served:
        calls = Calls(db, served.server.background)
        metadata = await add_key(db, firm.firm_id, Role.FIRM_ADMIN)
        yield Live(served, calls, firm, metadata, await add_key(db, None, Role.ADMIN))


async def rows(db: Database, firm: CallContext) -> int:
    """How many answers the firm has stored."""
    async with db.transaction(firm, write=False) as uow:
        count: int = await uow.fetch_value("SELECT count(*) FROM idempotency")
    return count


class Counter:
    """A use case that counts its runs and answers with the number."""

    def __init__(self, calls: Calls, delay: float = 0.0) -> None:
        self.runs = 0
        self._calls = calls
        self._delay = delay

    async def __call__(self, request: Any) -> Any:
        return await self._calls.write(request, billing_service_pb2.CreateClientResponse, self._work)

    async def _work(self, uow: UnitOfWork) -> billing_service_pb2.CreateClientResponse:
        self.runs += 1
        run = self.runs
        await asyncio.sleep(self._delay)
        response = billing_service_pb2.CreateClientResponse()
        response.client.name = f"run {run}"
        return response


async def trailers_of(call: Any) -> dict[str, Any]:
    """The trailers of a call that succeeded."""
    await call
    return dict(await call.trailing_metadata())


async def test_a_repeat_replays_the_answer(live: Live) -> None:
    counter = live.served.script.create_client = Counter(live.calls)
    request = requests.create_client()
    first = live.served.billing.CreateClient(request, metadata=live.metadata)
    assert "dunwell-replayed" not in await trailers_of(first)
    second = live.served.billing.CreateClient(request, metadata=live.metadata)
    assert (await trailers_of(second))["dunwell-replayed"] == "true"
    assert (await first) == (await second)
    assert counter.runs == 1


async def test_another_payload_under_the_same_id(live: Live) -> None:
    live.served.script.create_client = Counter(live.calls)
    request = requests.create_client()
    await live.served.billing.CreateClient(request, metadata=live.metadata)
    request.client.name = "Somebody else"
    failed = await failure(live.served.billing.CreateClient(request, metadata=live.metadata))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert failed.metadata == {"request_id": request.request_id}


async def test_concurrent_repeats_do_the_work_once(live: Live) -> None:
    counter = live.served.script.create_client = Counter(live.calls, delay=0.05)
    request = requests.create_client()
    answers = await asyncio.gather(
        *(live.served.billing.CreateClient(request, metadata=live.metadata) for _ in range(8))
    )
    assert counter.runs == 1
    assert {answer.client.name for answer in answers} == {"run 1"}


async def test_a_failure_is_not_stored(live: Live, db: Database) -> None:
    failures = [DunwellError(Reason.STATE_CONFLICT, "Not now.")]
    done: list[int] = []

    async def work(uow: UnitOfWork) -> Any:
        if failures:
            raise failures.pop()
        done.append(1)
        return billing_service_pb2.CreateClientResponse()

    async def create(request: Any) -> Any:
        return await live.calls.write(request, billing_service_pb2.CreateClientResponse, work)

    live.served.script.create_client = create
    request = requests.create_client()
    failed = await failure(live.served.billing.CreateClient(request, metadata=live.metadata))
    assert failed.reason == "STATE_CONFLICT"
    assert await rows(db, live.firm) == 0
    call = live.served.billing.CreateClient(request, metadata=live.metadata)
    assert "dunwell-replayed" not in await trailers_of(call)
    assert done == [1]


async def test_ids_are_per_firm_and_method(
    live: Live, db: Database, make_firm: Callable[..., Awaitable[CallContext]]
) -> None:
    counter = live.served.script.create_client = Counter(live.calls)
    other = await make_firm()
    metadata = await add_key(db, other.firm_id, Role.SERVICE)
    request = requests.create_client()
    await live.served.billing.CreateClient(request, metadata=live.metadata)
    await live.served.billing.CreateClient(request, metadata=metadata)
    assert counter.runs == 2


async def test_what_is_kept_may_leave_a_secret_out(live: Live) -> None:
    async def work(uow: UnitOfWork) -> Any:
        response = billing_service_pb2.CreateClientResponse()
        response.client.name, response.client.tax_id = "Ada", "secret"
        return response

    def without_secret(response: Any) -> Any:
        kept = type(response)()
        kept.CopyFrom(response)
        kept.client.ClearField("tax_id")
        return kept

    async def create(request: Any) -> Any:
        return await live.calls.write(request, billing_service_pb2.CreateClientResponse, work, keep=without_secret)

    live.served.script.create_client = create
    request = requests.create_client()
    first = await live.served.billing.CreateClient(request, metadata=live.metadata)
    second = await live.served.billing.CreateClient(request, metadata=live.metadata)
    assert (first.client.tax_id, second.client.tax_id, second.client.name) == ("secret", "", "Ada")


async def test_firmless_answers_are_per_principal(live: Live, db: Database) -> None:
    runs: list[int] = []

    async def work(uow: UnitOfWork) -> Any:
        assert uow.context.firm_id is None
        runs.append(1)
        return admin_service_pb2.CreateFirmResponse()

    async def create(request: Any) -> Any:
        return await live.calls.firmless_write(request, admin_service_pb2.CreateFirmResponse, work)

    live.served.script.create_firm = create
    request = admin_service_pb2.CreateFirmRequest(request_id=str(uuid.uuid4()))
    context = replace(support.context(None, role=Role.ADMIN), request_id=uuid.UUID(request.request_id))

    async def as_principal(name: str, firm_id: uuid.UUID | None = None) -> bool:
        call = adopt(replace(context, actor=replace(context.actor, id=name), firm_id=firm_id))
        await create(request)
        return ("dunwell-replayed", "true") in call.trailers

    assert await as_principal("key_a") is False
    assert await as_principal("key_a", live.firm.firm_id) is True
    assert await as_principal("key_b") is False
    assert len(runs) == 2


async def test_the_callers_deadline_stops_the_statement_in_the_database(live: Live, db: Database) -> None:
    async def work(uow: UnitOfWork) -> Any:
        setting = await uow.fetch_value("SHOW statement_timeout")
        assert setting.endswith("ms")
        assert 500 < int(setting.removesuffix("ms")) <= 2000
        await uow.execute("SELECT pg_sleep(30)")

    async def read(_: Any) -> Any:
        return await live.calls.read(work)

    live.served.script.get_invoice = read
    call = live.served.billing.GetInvoice(requests.get_invoice(), metadata=live.metadata, timeout=2.0)
    failed = await failure(call)
    assert failed.code is StatusCode.DEADLINE_EXCEEDED

    async def sleeping() -> int:
        async with db.transaction(support.context(None), write=False) as uow:
            count: int = await uow.fetch_value(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(30)%%' AND state = 'active'"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
            )
        return count

    async with asyncio.timeout(15):
        while await sleeping():  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.02)


class Charge:
    """A Provider call: an intent in a temporary store, and an outcome that comes when it is released."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.release = asyncio.Event()
        self.settled: list[uuid.UUID] = []
        self.intents = 0
        self.error: Exception | None = None

    async def __call__(self, request: Any) -> Any:
        return await self._calls.provider(request, self.intent, self.settle, self.present)

    async def intent(self, uow: UnitOfWork) -> uuid.UUID:
        """Transaction A."""
        self.intents += 1
        return uuid.uuid4()

    async def settle(self, context: CallContext, object_id: uuid.UUID) -> None:
        """What belongs to the server."""
        assert context.deadline is None
        assert current_call().deadline is None
        await self.release.wait()
        if self.error is not None:
            raise self.error
        self.settled.append(object_id)

    async def present(self, uow: UnitOfWork, object_id: uuid.UUID) -> Any:
        """The object's state now."""
        response = billing_service_pb2.CreateClientResponse()
        response.client.name = "SUCCEEDED" if object_id in self.settled else "PROCESSING"
        return response


async def test_provider_call_answers_with_the_outcome(live: Live) -> None:
    charge = live.served.script.create_client = Charge(live.calls)
    charge.release.set()
    answer = await live.served.billing.CreateClient(requests.create_client(), metadata=live.metadata)
    assert answer.client.name == "SUCCEEDED"


async def test_neither_cancel_nor_deadline_stops_a_committed_intent(live: Live) -> None:
    charge = live.served.script.create_client = Charge(live.calls)
    request = requests.create_client()
    call = live.served.billing.CreateClient(request, metadata=live.metadata)
    await eventually(lambda: len(live.served.server.background) == 1 and charge.intents == 1)
    await asyncio.sleep(0.05)
    call.cancel()
    # The caller of this one has a deadline: it learns the state before it passes.
    answer = await live.served.billing.CreateClient(request, metadata=live.metadata, timeout=2.0)
    assert answer.client.name == "PROCESSING"
    waiting = live.served.billing.CreateClient(request, metadata=live.metadata)
    await asyncio.sleep(0.05)
    charge.release.set()
    assert (await trailers_of(waiting))["dunwell-replayed"] == "true"
    assert (await waiting).client.name == "SUCCEEDED"
    assert charge.intents == 1
    assert len(charge.settled) == 1


async def test_a_failing_settlement_leaves_the_state_as_the_answer(live: Live) -> None:
    charge = live.served.script.create_client = Charge(live.calls)
    charge.error = ValueError("hunter2")
    charge.release.set()
    answer = await live.served.billing.CreateClient(requests.create_client(), metadata=live.metadata)
    assert answer.client.name == "PROCESSING"


async def test_an_intent_that_is_refused_leaves_nothing(live: Live, db: Database) -> None:
    charge = Charge(live.calls)

    async def refuse(uow: UnitOfWork) -> uuid.UUID:
        raise DunwellError(Reason.COLLECTION_IN_PROGRESS, "Somebody else asks already.")

    charge.intent = refuse  # type: ignore[method-assign]
    live.served.script.create_client = charge
    failed = await failure(live.served.billing.CreateClient(requests.create_client(), metadata=live.metadata))
    assert failed.reason == "COLLECTION_IN_PROGRESS"
    assert await rows(db, live.firm) == 0
    await eventually(lambda: len(live.served.server.background) == 0)


async def test_shutdown_waits_for_a_settlement(live: Live) -> None:
    charge = live.served.script.create_client = Charge(live.calls)
    call = asyncio.ensure_future(live.served.billing.CreateClient(requests.create_client(), metadata=live.metadata))
    await eventually(lambda: charge.intents == 1)
    await asyncio.sleep(0.05)
    stopping = asyncio.ensure_future(live.served.server.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    charge.release.set()
    assert (await call).client.name == "SUCCEEDED"
    await asyncio.wait_for(stopping, 20)
    assert len(charge.settled) == 1


async def test_a_run_is_started_once_and_tailed_by_every_repeat(live: Live) -> None:
    started: list[uuid.UUID] = []
    request = admin_service_pb2.AdvanceTestClockRequest(request_id=str(uuid.uuid4()))
    context = replace(live.firm, request_id=uuid.UUID(request.request_id), method="AdminService.AdvanceTestClock")

    async def start(uow: UnitOfWork) -> uuid.UUID:
        started.append(uuid.uuid4())
        return started[-1]

    async def tail(_: CallContext, run_id: uuid.UUID) -> AsyncIterator[Any]:
        for _step in range(3):
            yield admin_service_pb2.WatchRunResponse()

    async def attach(ctx: CallContext) -> tuple[int, bool]:
        call = adopt(ctx)
        count = len([message async for message in live.calls.run(request, start, tail)])
        return count, ("dunwell-replayed", "true") in call.trailers

    assert await attach(context) == (3, False)
    assert await attach(context) == (3, True)
    assert len(started) == 1
    assert await attach(replace(context, firm_id=None)) == (3, False)  # an all-firm run: kept in schema control
    assert await attach(replace(context, firm_id=None)) == (3, True)
    assert len(started) == 2


async def test_forgetting_old_answers(live: Live, db: Database) -> None:
    counter = live.served.script.create_client = Counter(live.calls)
    old, new = requests.create_client(), requests.create_client()
    for request in (old, new):
        await live.served.billing.CreateClient(request, metadata=live.metadata)
    async with db.transaction(live.firm) as uow:
        assert await idempotency.purge(uow) == 0
        await uow.execute(
            "UPDATE idempotency SET expire_time = clock_timestamp() - interval '1 second' WHERE request_id = %s",
            (uuid.UUID(old.request_id),),
        )
        assert await idempotency.purge(uow) == 1
        assert await idempotency.purge(uow, firmless=True) == 0
    await live.served.billing.CreateClient(new, metadata=live.metadata)
    assert counter.runs == 2
    await live.served.billing.CreateClient(old, metadata=live.metadata)
    assert counter.runs == 3


def test_the_hash_covers_everything_but_the_request_id() -> None:
    one, two = (
        requests.create_client(metadata={"b": "1", "a": "2"}),
        requests.create_client(metadata={"a": "2", "b": "1"}),
    )
    assert one.request_id != two.request_id
    before = one.request_id
    assert request_hash(one) == request_hash(two)
    assert one.request_id == before
    two.client.name = "Grace"
    assert request_hash(one) != request_hash(two)


async def test_revoked_key_in_the_database(live: Live, db: Database) -> None:
    failed = await failure(live.served.billing.GetInvoice(requests.get_invoice(), metadata=live.admin))
    assert failed.reason == "FIRM_REQUIRED"
    metadata = await add_key(db, live.firm.firm_id, Role.READER)
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.api_key SET revoke_time = clock_timestamp() WHERE role = 'READER'")
    failed = await failure(live.served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
    assert failed.reason == "UNAUTHENTICATED"


async def test_the_start_refuses_powerful_roles_and_other_schemas(database_urls: support.DatabaseUrls) -> None:
    await check_database(database_urls.application, head_revision())
    with pytest.raises(StartupError, match="superuser"):
        await check_database(database_urls.owner, head_revision())
    with pytest.raises(StartupError, match="dunwell migrate"):
        await check_database(database_urls.application, "of tomorrow")
    with pytest.raises(StartupError, match="does not answer"):
        await check_database("postgresql://nobody@127.0.0.1:1/none", head_revision())
