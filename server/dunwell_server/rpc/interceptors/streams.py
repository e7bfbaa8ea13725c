"""The streams that are open, so that a shutdown can end each with a status instead of a broken connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from dunwell_server.kernel.errors import DunwellError

WRITE_PATIENCE = 1.0
"""Seconds that a message under way gets before the end of its stream interrupts it."""


class OpenStream:
    """One stream and the task that serves it."""

    __slots__ = ("_sending", "ending", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.ending: DunwellError | None = None
        self._sending = False

    async def send(self, write: Awaitable[None]) -> None:
        """Await something that sends. The end of the stream lets it finish, then takes effect here.

        gRPC is told what was sent only when the write returns: a status after a write that was broken off at the
        wrong moment is refused, and the caller would wait for it in vain.
        """
        self._sending = True
        try:
            await write
        finally:
            self._sending = False
        if self.ending is not None:
            raise self.ending

    def end(self, error: DunwellError) -> None:
        """Stop the stream where it stands; it answers `error`. A second time changes nothing."""
        if self.ending is not None:
            return
        self.ending = error
        if self._sending:  # to a caller who may not read at all
            asyncio.get_running_loop().call_later(WRITE_PATIENCE, self._interrupt)
        else:
            self.task.cancel()

    def _interrupt(self) -> None:
        if self._sending:
            self.task.cancel()

    def take_over(self) -> DunwellError | None:
        """For a stream that was just cancelled: the error it has to answer with, None if the caller left."""
        if self.ending is not None:
            self.task.uncancel()
        return self.ending


class OpenStreams:
    """All open streams of a server."""

    def __init__(self) -> None:
        self._streams: set[OpenStream] = set()
        self._closing: DunwellError | None = None

    def open(self) -> OpenStream:
        """Register the current task's stream. Raises the closing error once the server is shutting down."""
        if self._closing is not None:
            raise self._closing
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a stream is served by a task")
        stream = OpenStream(task)
        self._streams.add(stream)
        return stream

    def close(self, stream: OpenStream) -> None:
        """The stream ended."""
        self._streams.discard(stream)

    def end_all(self, error: DunwellError) -> int:
        """End every open stream with `error`, and refuse new ones with it. Returns how many there were."""
        self._closing = error
        streams = list(self._streams)
        for stream in streams:
            stream.end(error)
        return len(streams)

    def __len__(self) -> int:
        return len(self._streams)
