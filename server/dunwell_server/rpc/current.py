"""The call in progress: what interceptors know of it, for handlers and for what they call.

gRPC runs each call in a task of its own, so a context variable set there never reaches another call.
"""

from __future__ import annotations

from contextvars import ContextVar

from dunwell_server.platform.context import CallContext


class Call:
    """The mutable side of one call: its context once it is known, and the trailers it will send."""

    __slots__ = ("context", "trailers")

    def __init__(self) -> None:
        self.context: CallContext | None = None
        self.trailers: list[tuple[str, str | bytes]] = []


_current: ContextVar[Call] = ContextVar("dunwell_call")
set_current = _current.set


def current_call() -> CallContext:
    """The caller, firm, method and deadline of the call in progress. RuntimeError outside of a call."""
    call = _current.get(None)
    if call is None or call.context is None:
        raise RuntimeError("no call in progress")
    return call.context


def add_trailer(name: str, value: str | bytes) -> None:
    """Send a trailer with the call's OK answer; its error answers have trailers of their own."""
    call = _current.get(None)
    if call is None:
        raise RuntimeError("no call in progress")
    call.trailers.append((name, value))


def adopt(context: CallContext) -> Call:
    """Make `context` that of the current task: for tests, and for server-owned tasks that outlive their call."""
    call = Call()
    call.context = context
    _current.set(call)
    return call
