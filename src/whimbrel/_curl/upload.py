"""A request body that is produced while it is sent.

libcurl asks (`read`), a producer writes; whoever is ahead waits: libcurl is paused while there
is nothing to send, the producer's `write` is not done while much waits to be sent.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable

import pycurl

from whimbrel._policy.exchange import Exchange

# What may wait to be sent before write() holds its caller back.
HIGH_WATER = 64 * 1024


class Upload:
    """Feeds READFUNCTION from a producer, which starts when libcurl first asks: with
    ``Expect: 100-continue`` that is after the 100."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        resume: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._exchange = exchange
        self._resume = resume
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._reset()

    def _reset(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._offset = (
            0  # what libcurl has of the first chunk: slicing that off would copy the rest
        )
        self._size = 0
        self._written = 0
        self._finished = False
        self._waiting = False  # libcurl is paused until there is something
        self._room: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether libcurl waits for the producer."""
        return self._waiting

    @property
    def unfinished(self) -> bool:
        """Whether some of the body is still to be sent."""
        return not self._finished or bool(self._chunks)

    # libcurl's side

    def read(self, size: int) -> bytes | int:
        """READFUNCTION: at most `size` bytes, b"" at the end, PAUSE, or ABORT after `cancel`."""
        if self._stopped:
            return int(pycurl.READFUNC_ABORT)
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        if not self._chunks:
            if self._finished:
                return b""
            self._waiting = True
            return int(pycurl.READFUNC_PAUSE)
        chunk = self._chunks[0]
        end = self._offset + size
        if end < len(chunk):
            chunk = chunk[self._offset : end]
            self._offset = end
        else:
            chunk = self._chunks.popleft()[self._offset :]
            self._offset = 0
        self._size -= len(chunk)
        if self._size < HIGH_WATER and self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        return chunk

    def rewind(self) -> bool:
        """SEEKFUNCTION to 0: whether the body can be sent from its beginning again."""
        if self._task is None:
            return True
        if not self._exchange.replayable:
            return False
        self._task.cancel()
        self._task = None
        self._reset()
        return True

    # The producer's side

    async def _run(self) -> None:
        producer = self._exchange.producer
        assert producer is not None
        task = asyncio.current_task()
        assert task is not None

        def write(chunk: bytes) -> Awaitable[None]:
            # A producer that outlives its cancellation must not write into another body.
            if task is not self._task:
                raise ConnectionAbortedError("the request is over: its body is no longer wanted")
            return self.write(chunk)

        try:
            outcome = producer(write)
            if inspect.isawaitable(outcome):
                await outcome
            length = self._exchange.content_length
            if length is not None and self._written != length:
                raise ValueError(
                    f"the body producer wrote {self._written} bytes, but header Content-Length"
                    f" says {length}"
                )
        except BaseException as error:
            if task is not self._task:
                # Cancelled by us: whatever the producer makes of that is nobody's failure.
                if isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
                return
            if isinstance(error, asyncio.CancelledError) and task.cancelling():
                raise  # by the loop's owner; otherwise it is the producer's own
            self._failed(error)
        else:
            if task is self._task:
                self._finished = True
                self._wake()

    def write(self, chunk: bytes) -> Awaitable[None]:
        """Send `chunk`; the returned awaitable is done when there is room for more.

        Raises TypeError for anything but bytes, ValueError past Content-Length.
        """
        if not isinstance(chunk, bytes):
            if not isinstance(chunk, bytearray | memoryview):
                raise TypeError(f"a body is written as bytes, not {type(chunk).__name__}")
            chunk = bytes(chunk)
        self._written += len(chunk)
        length = self._exchange.content_length
        if length is not None and self._written > length:
            raise ValueError(
                f"the body producer wrote {self._written} bytes, but header Content-Length says"
                f" {length}"
            )
        if chunk:
            self._chunks.append(chunk)
            self._size += len(chunk)
            self._wake()
        room = self._loop.create_future()
        if self._size < HIGH_WATER:
            room.set_result(None)
            return room
        if self._room is None or self._room.done():
            self._room = room
        return self._room

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._resume()

    def cancel(self) -> None:
        """Stop the producer for good; nothing is heard of it any more."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
