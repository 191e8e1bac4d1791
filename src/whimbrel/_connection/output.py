"""The way out of a connection: what is written meanwhile goes to the stream in one piece."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable

from whimbrel.iostream import IOStream, StreamClosedError

# What is collected before it goes to the stream.
_CORKED = 64 * 1024


class Output:
    """What a channel sends on its stream.

    Attributes:
        corked: collect what is sent, up to 64 KiB, until `uncork`.
        flushed: nothing of what was sent waits within the stream.
    """

    def __init__(self, stream: IOStream) -> None:
        self.corked = False
        self.flushed = True
        self._stream = stream
        self._pieces: list[bytes] = []
        self._size = 0
        self._writes: list[Future[None]] = []
        # Stands for all that wait for nothing.
        self._done: Future[None] = stream.loop.create_future()
        self._done.set_result(None)
        self._patience: float | None = None
        self._stalled: Callable[[], None] | None = None
        self._last_look = 0  # what had gone by then
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, seconds: float | None, stalled: Callable[[], None]) -> None:
        """Call `stalled` if nothing leaves for `seconds`, once or twice; None or 0: never."""
        self._patience = seconds
        self._stalled = stalled

    def send(self, data: bytes, more: bytes = b"") -> None:
        """Send `data` and `more`, now or with what follows."""
        pieces = self._pieces
        if data:
            pieces.append(data)
        if more:
            pieces.append(more)
        self._size += len(data) + len(more)
        if pieces and (not self.corked or self._size > _CORKED):
            self.uncork()

    def uncork(self) -> None:
        """Give the stream what has been collected."""
        pieces = self._pieces
        if not pieces:
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if not self._stream.closed() and not self._stream.push(data):
            self.flushed = False
            if self._patience and self._timer is None:
                self._look_later(self._patience)

    def written(self) -> Future[None]:
        """A future for what has been sent by now: done when it has gone to the system."""
        if self.flushed:
            return self._done
        if self._stream.closed():
            return self.failed()
        future: Future[None] = self._stream.loop.create_future()
        self._writes.append(future)
        return future

    def failed(self) -> Future[None]:
        """A future for what cannot be sent: the stream is closed."""
        future: Future[None] = self._stream.loop.create_future()
        fail(future, StreamClosedError(self._stream.error))
        return future

    def drained(self) -> None:
        """All of it has gone to the system."""
        self.flushed = True
        for future in self.take_writes():
            if not future.done():
                future.set_result(None)

    def take_writes(self) -> list[Future[None]]:
        """Give away the futures that wait."""
        writes, self._writes = self._writes, []
        return writes

    def stop(self, error: StreamClosedError) -> None:
        """Nothing more is sent: `error` goes to the futures that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self.take_writes():
            fail(future, error)

    def _look_later(self, seconds: float) -> None:
        self._last_look = self._stream.sent
        self._timer = self._stream.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.flushed or self._patience is None or self._stalled is None:
            return
        if self._stream.sent == self._last_look:
            self._stalled()
        else:
            self._look_later(self._patience)


def fail(future: Future[None] | Future[bool], error: BaseException) -> None:
    """Set `error` on a future that may have been dropped."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever dropped it does not want to hear of it


def pass_on(futures: list[Future[None]], outcome: Future[None]) -> None:
    """Give the outcome of one write to all that wait for it."""
    error = outcome.exception()
    for future in futures:
        if error is not None:
            fail(future, error)
        elif not future.done():
            future.set_result(None)
