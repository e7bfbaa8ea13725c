"""The streams that are open, so that a shutdown can end each with a status instead of a broken connection."""

from __future__ import annotations

import asyncio

from dunwell_server.kernel.errors import DunwellError


class OpenStream:
    """One stream and the task that serves it."""

    __slots__ = ("ending", "task")

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = task
        self.ending: DunwellError | None = None

    def end(self, error: DunwellError) -> None:
        """Stop the stream where it stands; it answers `error`. A second time changes nothing."""
        if self.ending is None:
            self.ending = error
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
