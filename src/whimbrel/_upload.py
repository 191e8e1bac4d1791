"""A request body that is produced while it is sent.

The backend takes, a producer writes; whoever is ahead waits: the backend until it is woken, while
there is nothing to send; the producer's `write` while much waits to be sent.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable

from whimbrel._policy.exchange import Exchange

# What may wait to be sent before write() holds its caller back.
HIGH_WATER = 256 * 1024


class Upload:
    """The body of one request. Its producer starts when the first byte is asked for: with
    ``Expect: 100-continue`` that is after the 100."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        wake: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Take the backend's side.

        `wake` is called when there is something to take again, also from within the producer's
        ``write``. `failed` gets what the producer raises; the backend then ends the exchange.
        """
        self._loop = loop
        self._exchange = exchange
        self._wake_backend = wake
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._run_number = 0  # of the run whose body is wanted; the one before may linger
        self._stopped = False
        self._reset()

    def _reset(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # what is taken of the first chunk: slicing that off would copy the rest
        self._size = 0
        self._written = 0
        self._finished = False
        self._waiting = False  # the backend waits until there is something
        self._room: asyncio.Future[None] | None = None

    # The backend's side

    @property
    def waiting(self) -> bool:
        """Whether the backend waits for the producer."""
        return self._waiting

    @property
    def unfinished(self) -> bool:
        """Whether some of the body is still to be sent."""
        return not self._finished or bool(self._chunks)

    @property
    def stopped(self) -> bool:
        """Whether `cancel` was called: nothing more will come."""
        return self._stopped

    def take(self, size: int) -> bytes | None:
        """Return at most `size` bytes (1 or more), b"" at the end.

        None: there is nothing yet, and `wake` will be called; or, once `stopped`, never will be.
        """
        if self._task is None and not self._stopped:
            self._task = self._loop.create_task(self._run(self._run_number))
            if self._stopped:
                self.cancel()  # an eager task has begun already, and ended the exchange
        if self._stopped:
            return None
        if not self._chunks:
            if self._finished:
                return b""
            self._waiting = True
            return None
        chunk = self._chunks[0]
        end = self._offset + size
        if end < len(chunk):
            chunk = chunk[self._offset : end]
            self._offset = end
        else:
            chunk = self._chunks.popleft()[self._offset :]
            self._offset = 0
            if self._chunks and len(chunk) + len(self._chunks[0]) <= size:
                chunk = self._joined(chunk, size)
        self._size -= len(chunk)
        if self._size < HIGH_WATER and self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        return chunk

    def _joined(self, first: bytes, size: int) -> bytes:
        """`first`, and as many of the chunks behind it as fit into `size` bytes."""
        chunks, pieces = self._chunks, [first]
        size -= len(first)
        while chunks and len(chunks[0]) <= size:
            size -= len(chunks[0])
            pieces.append(chunks.popleft())
        return b"".join(pieces)

    def rewind(self) -> bool:
        """Go back to the beginning; False if the body cannot be produced once more."""
        if self._task is None:
            return True
        if not self._exchange.replayable:
            return False
        self._run_number += 1
        self._task.cancel()
        self._task = None
        self._reset()
        return True

    def cancel(self) -> None:
        """Stop the producer for good; nothing is heard of it any more."""
        self._stopped = True
        self._run_number += 1
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    # The producer's side

    async def _run(self, number: int) -> None:
        producer = self._exchange.producer
        assert producer is not None

        def write(chunk: bytes) -> Awaitable[None]:
            # A producer that outlives its cancellation must not write into another body.
            if number != self._run_number:
                raise ConnectionAbortedError("the request is over: its body is no longer wanted")
            return self._write(chunk)

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
            if number != self._run_number:
                # Cancelled by us: whatever the producer makes of that is nobody's failure.
                if isinstance(error, asyncio.CancelledError | GeneratorExit):
                    raise
                return
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by the loop's owner; otherwise it is the producer's own
            self._failed(error)
        else:
            if number == self._run_number:
                self._finished = True
                self._wake()

    def _write(self, chunk: bytes) -> Awaitable[None]:
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
            self._wake_backend()
