"""In-transaction domain events: how a lower context tells a higher one without knowing it.

`bootstrap` subscribes plain functions in order. They run inside the publisher's transaction, on sets; a failure fails the transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from dunwell_server.platform.database import UnitOfWork

Subscriber = Callable[["UnitOfWork", Any], Awaitable[None]]


P = TypeVar("P")


class Bus:
    """An ordered list of subscribers per event type, and the ports a lower context calls upwards through.

    Filled once by `bootstrap`; read-only afterwards.
    """

    def __init__(self) -> None:
        self._subscribers: dict[type[Any], list[Subscriber]] = defaultdict(list)
        self._ports: dict[type[Any], Any] = {}

    def provide(self, port: type[P], implementation: P) -> None:
        """Fill a port: a Protocol that a lower context declares and a higher one implements."""
        self._ports[port] = implementation

    def port(self, port: type[P]) -> P:
        """The port's implementation; KeyError where bootstrap forgot it, which a start-up test finds."""
        return cast(P, self._ports[port])

    def subscribe(self, event_type: type[Any], subscriber: Subscriber) -> None:
        """Run `subscriber(uow, event)` for every event of exactly `event_type`, after those subscribed before it."""
        self._subscribers[event_type].append(subscriber)

    async def publish(self, uow: UnitOfWork, event: Any) -> None:
        """Run the event's subscribers, one after the other, in the caller's transaction."""
        for subscriber in self._subscribers.get(type(event), ()):
            await subscriber(uow, event)
