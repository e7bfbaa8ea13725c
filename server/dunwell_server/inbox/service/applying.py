"""Applying one event: read it, ask what has to be asked, then all of its notices in the one transaction that marks it.

Nothing that goes wrong with one event reaches another: its error is kept with it, and it is tried again later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from dunwell_server.inbox import metrics
from dunwell_server.inbox.model import EventState, StoredEvent, clipped, retry_delay
from dunwell_server.inbox.ports import Applied, AppliedState, EventApplier, NotYet, Origin, Unusable
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.routing import FOREIGN, UNREADABLE
from dunwell_server.inbox.store import events
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.logging import get_logger, redact_text
from dunwell_server.providers.events import NormalisedEvent

log = get_logger(__name__)
_OBJECT: Final = "provider_event"


class _NotOurs(Exception):
    """The claim is lost: somebody else has the event, or a person decided about it. What was applied is rolled back."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    applier: EventApplier
    notice: Any
    prepared: Any


class Appliers:
    """The appliers by the notices they take."""

    def __init__(self, appliers: Iterable[EventApplier]) -> None:
        """ValueError where two take the same notice."""
        found: dict[type, EventApplier] = {}
        for applier in appliers:
            for notice in applier.notices:
                if notice in found:
                    raise ValueError(f"two appliers take {notice.__name__}")
                found[notice] = applier
        self._by_notice: Mapping[type, EventApplier] = MappingProxyType(found)

    def of(self, notice: object) -> EventApplier | None:
        """Who takes a notice."""
        return self._by_notice.get(type(notice))


class Applying:
    """Applies claimed events."""

    def __init__(self, endpoints: Endpoints, appliers: Appliers) -> None:
        self._endpoints = endpoints
        self._appliers = appliers

    async def apply(self, database: Database, context: CallContext, event: StoredEvent) -> None:
        """One try. Whatever it comes to is kept in the event's row, unless the database cannot be reached: then its lease ends by itself."""
        read: NormalisedEvent | None = None
        try:
            webhooks = self._endpoints.webhooks_of(event.provider)
            if webhooks is None:
                raise NotYet(f"the provider {event.provider} is not configured")
            try:
                read = webhooks.normalise(event.body)
            except ValueError as error:
                await self._quarantine(database, context, event, f"{UNREADABLE}: {redact_text(str(error))}")
                return
            steps, ignored = await self._prepare(database, context, event, read)
            state = await database.run(context, lambda uow: self._take(uow, event, read, steps, ignored))
        except _NotOurs:
            log.info("inbox_claim_lost", event_id=str(event.id))
        except NotYet as error:
            await self._postpone(database, context, event, error.why, read)
        except Unusable as error:
            await self._quarantine(database, context, event, f"{UNREADABLE}: {error.why}", _reference(read))
        except DunwellError as error:
            await self._postpone(database, context, event, f"{error.reason}: {error.message}", read)
        except Exception as error:
            log.exception("inbox_apply_failed", event_id=str(event.id), type=event.type)
            await self._postpone(database, context, event, f"{type(error).__name__}: {redact_text(str(error))}", read)
        else:
            metrics.handled.labels(event.provider, state.value).inc()

    async def _prepare(
        self, database: Database, context: CallContext, event: StoredEvent, read: NormalisedEvent
    ) -> tuple[list[_Prepared], list[str]]:
        origin, steps, ignored = _origin(event), list[_Prepared](), list[str]()
        for notice in read.notices:
            applier = self._appliers.of(notice)
            if applier is None:
                ignored.append(f"nothing here handles a {type(notice).__name__} yet")
                continue
            steps.append(_Prepared(applier, notice, await applier.prepare(database, context, origin, notice)))
        return steps, ignored

    async def _take(
        self, uow: UnitOfWork, event: StoredEvent, read: NormalisedEvent, steps: list[_Prepared], ignored: list[str]
    ) -> EventState:
        origin = _origin(event)
        done = [await step.applier.apply(uow, origin, step.notice, step.prepared) for step in steps]
        failpoint("webhook.apply")
        state, result = _outcome(done, ignored)
        if not await events.finish(uow, event, state, clipped(result), reference=_reference(read)):
            raise _NotOurs
        return state

    async def _postpone(
        self, database: Database, context: CallContext, event: StoredEvent, error: str, read: NormalisedEvent | None
    ) -> None:
        delay = retry_delay(event.attempts + 1)
        if delay is None:
            await self._quarantine(database, context, event, error, _reference(read))
            return
        kept = await database.run(
            context, lambda uow: events.postpone(uow, event, clipped(error), delay, reference=_reference(read))
        )
        if kept:
            metrics.handled.labels(event.provider, "POSTPONED").inc()

    async def _quarantine(
        self, database: Database, context: CallContext, event: StoredEvent, error: str, reference: str | None = None
    ) -> None:
        async def keep(uow: UnitOfWork) -> bool:
            if not await events.postpone(uow, event, clipped(error), None, reference=reference):
                return False
            metadata = {"provider": event.provider, "type": event.type, "error": clipped(error)}
            change = Change(
                Category.PAYMENT, "provider_event_quarantined", _OBJECT, event.id, "provider_event.quarantined", Severity.CRITICAL, metadata
            )  # fmt: skip
            await record(uow, change)
            return True

        if await database.run(context, keep):
            log.error("provider_event_quarantined", event_id=str(event.id), provider=event.provider, type=event.type)
            metrics.handled.labels(event.provider, EventState.QUARANTINED.value).inc()


def _origin(event: StoredEvent) -> Origin:
    return Origin(event.account_id, event.provider, event.id, event.type, event.provider_time)


def _reference(read: NormalisedEvent | None) -> str | None:
    """What the event is about: of the references the first, which adapters give first for that reason."""
    return read.references[0] if read is not None and read.references else None


def _outcome(done: list[Applied], ignored: list[str]) -> tuple[EventState, str]:
    texts = [applied.result for applied in done] + ignored
    if any(applied.state is AppliedState.APPLIED for applied in done):
        return EventState.APPLIED, "; ".join(texts)
    return EventState.IGNORED, "; ".join(texts) or FOREIGN
