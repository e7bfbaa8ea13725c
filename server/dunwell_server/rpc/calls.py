"""The kinds of call, for handlers that stay under fifteen lines.

Local: one transaction with the work, the audit, the outbox and the stored answer. Firmless: the same, its answer in
schema `control`. Provider: transaction A stores the intent, then the work belongs to the server. Run: `request_id`
names a run that job workers compute and the stream tails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from google.protobuf.message import Message

from dunwell_server.platform import idempotency
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.rpc.background import Background
from dunwell_server.rpc.current import add_trailer, adopt, current_call

T = TypeVar("T")
R = TypeVar("R", bound=Message)

REPLAYED: Final = ("dunwell-replayed", "true")


class Calls:
    """What every servicer is given. The caller, firm and deadline come from the call in progress.

    The functions handed in may run twice, when the database reports a conflict: they keep no state of their own.
    """

    def __init__(self, database: Database, background: Background | None = None) -> None:
        self.database = database
        self.background = background if background is not None else Background()

    async def read(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """The result of `work(uow)` in a read-only transaction."""
        return await self.database.run(current_call(), work, write=False)

    async def read_once(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """The same where `work` reads with one statement: a single round trip. See `platform.database.SingleRead`."""
        return await self.database.read_once(current_call(), work)

    async def write(
        self,
        request: Message,
        response_type: type[R],
        work: Callable[[UnitOfWork], Awaitable[R]],
        *,
        keep: Callable[[R], R] | None = None,
        upkeep: bool = False,
    ) -> R:
        """A Local call: `work(uow)` once per `request_id`, its answer stored in the same transaction.

        A repeat gets the stored answer and the trailer `dunwell-replayed`. `keep` says what to store instead of the
        answer itself, where that holds a secret shown only once. `upkeep`: see `CallContext`. Errors: REQUEST_ID_REUSED,
        and those of `work`.
        """
        return await self._write(request, response_type, work, keep, firmless=False, upkeep=upkeep)

    async def firmless_write(
        self,
        request: Message,
        response_type: type[R],
        work: Callable[[UnitOfWork], Awaitable[R]],
        *,
        keep: Callable[[R], R] | None = None,
    ) -> R:
        """The same for a call that concerns no firm, or creates one: its `request_id` is unique per principal."""
        return await self._write(request, response_type, work, keep, firmless=True)

    async def _write(
        self,
        request: Message,
        response_type: type[R],
        work: Callable[[UnitOfWork], Awaitable[R]],
        keep: Callable[[R], R] | None,
        *,
        firmless: bool,
        upkeep: bool = False,
    ) -> R:
        digest = request_hash(request)

        async def once(uow: UnitOfWork) -> tuple[R, bool]:
            stored = await idempotency.begin(uow, digest, firmless=firmless)
            if stored is not None:
                return response_type.FromString(stored.response or b""), True
            response = await work(uow)
            kept = response if keep is None else keep(response)
            await idempotency.finish(uow, response=kept.SerializeToString(), firmless=firmless)
            return response, False

        context = _context(firmless)
        response, replayed = await self.database.run(replace(context, upkeep=True) if upkeep else context, once)
        if replayed:
            add_trailer(*REPLAYED)
        return response

    async def provider(
        self,
        request: Message,
        intent: Callable[[UnitOfWork], Awaitable[UUID]],
        settle: Callable[[CallContext, UUID], Awaitable[None]],
        present: Callable[[UnitOfWork, UUID], Awaitable[R]],
    ) -> R:
        """A Provider call, which no caller's deadline or departure stops once its intent is committed.

        `intent(uow)` writes the object in transaction A and returns its id. `settle(context, id)` asks the provider
        and stores the outcome, in a task of the server with a context without deadline; it opens its own
        transactions. The answer, also of a repeat, is `present(uow, id)`: the object's state at that time. Where
        `settle` fails or is not done, that is the state in which a worker will find it.
        """
        context = replace(current_call(), deadline=None)

        async def begin() -> tuple[UUID, bool]:
            object_id, replayed = await self._claim(request, intent, firmless=False)
            if not replayed:
                self.background.spawn(object_id, _settle(settle, context, object_id), name=context.method)
            return object_id, replayed

        # Shielded, so that a caller who leaves just after the commit leaves no intent that nobody settles.
        object_id, replayed = await asyncio.shield(self.background.own(begin(), name=context.method))
        if replayed:
            add_trailer(*REPLAYED)
        task = self.background.running(object_id)
        if task is not None:
            # Not awaited itself: neither its failure nor this call's end may reach over to the other.
            await asyncio.wait([task], timeout=_patience(current_call()))
        return await self.read(lambda uow: present(uow, object_id))

    async def run(
        self,
        request: Message,
        start: Callable[[UnitOfWork], Awaitable[UUID]],
        tail: Callable[[CallContext, UUID], AsyncIterator[R]],
    ) -> AsyncIterator[R]:
        """A Run call: `start(uow)` queues a run once per `request_id` and returns its id; then `tail` tells of it.

        A repeat tails the same run. Without a firm (an all-firm run) the `request_id` is kept in schema `control`.
        Ending the stream never ends the run.
        """
        run_id, replayed = await self._claim(request, start, firmless=current_call().firm_id is None)
        if replayed:
            add_trailer(*REPLAYED)
        async with aclosing(cast(Any, tail(current_call(), run_id))) as messages:
            async for message in messages:
                yield message

    async def _claim(
        self, request: Message, create: Callable[[UnitOfWork], Awaitable[UUID]], *, firmless: bool
    ) -> tuple[UUID, bool]:
        digest = request_hash(request)

        async def once(uow: UnitOfWork) -> tuple[UUID, bool]:
            stored = await idempotency.begin(uow, digest, firmless=firmless)
            if stored is not None and stored.object_id is not None:
                return stored.object_id, True
            object_id = await create(uow)
            await idempotency.finish(uow, object_id=object_id, firmless=firmless)
            return object_id, False

        return await self.database.run(_context(firmless), once)


def request_hash(request: Any) -> bytes:
    """SHA-256 of a request without its `request_id`: what makes a repeat the same request."""
    request_id = request.request_id
    request.ClearField("request_id")
    try:
        return sha256(request.SerializeToString(deterministic=True)).digest()
    finally:
        request.request_id = request_id


def _context(firmless: bool) -> CallContext:
    """A firmless call runs outside every tenant, also where an ADMIN named one."""
    context = current_call()
    return replace(context, firm_id=None) if firmless and context.firm_id is not None else context


_RESERVE: Final = 0.050
"""Seconds of the caller's deadline kept to read the object's state and answer with it."""


def _patience(context: CallContext) -> float | None:
    return None if context.deadline is None else max(0.0, context.remaining(0.0) - _RESERVE)


async def _settle(
    settle: Callable[[CallContext, UUID], Awaitable[None]], context: CallContext, object_id: UUID
) -> None:
    adopt(context)
    await settle(context, object_id)
