"""A request body that is made while it is sent.

The backend takes. What it gets comes from one of two sources:

- an iterable is asked from within `take`, for as much as the backend has room for;
- a producer, or an async iterable, runs in a task of its own and writes. Whoever is ahead waits:
  the backend until it is woken, while there is nothing to send; the producer's `write` while much
  waits to be sent.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic

from whimbrel._policy.exchange import Exchange

HIGH_WATER = 256 * 1024
"""Bytes: what may wait to be sent before a producer's write() holds it back."""
ITERATING_SECONDS = 0.001
"""An iterable is not asked for more in one `take` once this time has passed: others on the loop
wait."""
MOST_PIECES = 64
"""More in one `take` are joined: a system call takes so many with ease, and small ones cost more
apart than a copy does."""


class Upload:
    """The body of one request. It begins to be made when the first byte is asked for: with
    ``Expect: 100-continue`` that is after the 100."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        wake: Callable[[], None],
    ) -> None:
        """Take the backend's side. `wake` is called when there is something to take again."""
        self._loop = loop
        self._exchange = exchange
        self._wake_backend = wake
        self._stopped = False
        self._written = 0  # bytes of the body that have been made
        self._finished = False  # no more will be made
        self._waiting = False  # the backend waits until there is something

    @property
    def waiting(self) -> bool:
        """Whether the backend waits for the caller's code."""
        return self._waiting

    @property
    def unfinished(self) -> bool:
        """Whether some of the body is still to be sent."""
        raise NotImplementedError

    @property
    def stopped(self) -> bool:
        """Whether `cancel` was called: nothing more will come."""
        return self._stopped

    def take(self, size: int) -> list[bytes | memoryview] | None:
        """Return pieces of at most `size` bytes (1 or more) together, [] at the end.

        None: there is nothing yet, and `wake` will be called; or, once `stopped`, never will be.
        Raises whatever an iterable raises.
        """
        raise NotImplementedError

    def rewind(self) -> bool:
        """Go back to the beginning; False if the body cannot be had once more."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop for good; nothing is heard of what makes the body any more."""
        raise NotImplementedError

    def _count(self, chunk: bytes) -> bytes:
        """Take note of a chunk that was made; return it as bytes.

        Raises TypeError for anything but bytes, ValueError past Content-Length.
        """
        if not isinstance(chunk, bytes):
            if not isinstance(chunk, bytearray | memoryview):
                remedy = "; encode each piece" if isinstance(chunk, str) else ""
                raise TypeError(
                    f"body and body_producer give bytes, not {type(chunk).__name__}{remedy}"
                )
            chunk = bytes(chunk)  # the caller may change it afterwards
        self._written += len(chunk)
        length = self._exchange.content_length
        if length is not None and self._written > length:
            raise self._wrong_length(length)
        return chunk

    def _check_end(self) -> None:
        """Raise ValueError if that was not all."""
        length = self._exchange.content_length
        if length is not None and self._written != length:
            raise self._wrong_length(length)

    def _wrong_length(self, length: int) -> ValueError:
        who = "body producer wrote" if self._exchange.pieces is None else "body's iterable gave"
        return ValueError(
            f"the {who} {self._written} bytes, but header Content-Length says {length}"
        )

    def _wake(self) -> None:
        if self._waiting:
            self._waiting = False
            self._wake_backend()


def upload_of(
    loop: asyncio.AbstractEventLoop,
    exchange: Exchange,
    wake: Callable[[], None],
    failed: Callable[[BaseException], None],
) -> Upload:
    """Return the streamed body of `exchange`.

    `wake` may also be called from within a producer's ``write``. `failed` gets what a producer
    raises; the backend then ends the exchange.
    """
    if exchange.producer is None:
        return _Iterated(loop, exchange, wake)
    return _Produced(loop, exchange, wake, failed)


class _Iterated(Upload):
    """The body is what an iterable gives."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, exchange: Exchange, wake: Callable[[], None]
    ) -> None:
        super().__init__(loop, exchange, wake)
        self._iterator: Iterator[bytes] | None = None
        self._rest: bytes | memoryview = b""  # of what was given last: it did not fit

    @property
    def unfinished(self) -> bool:
        return not self._finished or bool(self._rest)

    def take(self, size: int) -> list[bytes | memoryview] | None:
        if self._stopped:
            return None
        pieces: list[bytes | memoryview] = []
        if self._rest:
            size -= self._keep_rest(pieces, self._rest, size)
        if not (self._rest or self._finished):
            context = self._exchange.context
            assert context is not None
            context.run(self._ask, pieces, size)
            if self._stopped:
                return None  # by the iterable's own code
            if not (pieces or self._finished):
                self._waiting = True  # for an iterable that has given nothing for a while
                self._loop.call_soon(self._wake)
                return None
        return pieces if len(pieces) <= MOST_PIECES else [b"".join(pieces)]

    def _ask(self, pieces: list[bytes | memoryview], size: int) -> None:
        """Add what the iterable gives; what does not fit behind others begins the next take."""
        if self._iterator is None:
            exchange = self._exchange
            assert exchange.pieces is not None
            self._iterator = iter(exchange.pieces)
        length = self._exchange.content_length
        end = monotonic() + ITERATING_SECONDS
        for chunk in self._iterator:
            if self._stopped:
                return
            chunk = self._count(chunk)
            if pieces and len(chunk) > size:
                self._rest = chunk
            elif chunk:
                size -= self._keep_rest(pieces, chunk, size)
            if self._written == length:
                # Nothing may follow. Look whether something does, before the last piece is given
                # away: libcurl does not ask again behind it.
                if monotonic() > end:
                    if not self._rest:
                        self._rest = pieces.pop() if pieces else b""
                    return
            elif not size or self._rest or monotonic() > end:
                return
        if not self._stopped:
            self._check_end()
            self._finished = True

    def _keep_rest(
        self, pieces: list[bytes | memoryview], chunk: bytes | memoryview, size: int
    ) -> int:
        """Add as much of `chunk` as fits; the rest waits. Return how much was added."""
        self._rest = b""
        if len(chunk) > size:
            view = memoryview(chunk)  # of which a slice is no copy
            chunk, self._rest = view[:size], view[size:]
        pieces.append(chunk)
        return len(chunk)

    def rewind(self) -> bool:
        if self._iterator is None:
            return True
        if not self._exchange.replayable:
            return False
        self._iterator = None
        self._rest = b""
        self._written = 0
        self._finished = self._waiting = False
        return True

    def cancel(self) -> None:
        self._stopped = True
        self._waiting = False
        self._iterator = None
        self._rest = b""


class _Produced(Upload):
    """The body is what a producer writes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        wake: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(loop, exchange, wake)
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._run_number = 0  # of the run whose body is wanted; the one before may linger
        self._chunks: deque[bytes | memoryview] = deque()
        self._size = 0  # bytes that wait in there
        self._room: asyncio.Future[None] | None = None

    # The backend's side

    @property
    def unfinished(self) -> bool:
        return not self._finished or bool(self._chunks)

    def take(self, size: int) -> list[bytes | memoryview] | None:
        if self._task is None and not self._stopped:
            context = self._exchange.context
            assert context is not None
            # Not by an argument of create_task(), which not every task factory takes.
            self._task = context.run(self._loop.create_task, self._run(self._run_number))
            if self._stopped:
                self.cancel()  # an eager task has begun already, and ended the exchange
        if self._stopped:
            return None
        chunks = self._chunks
        if not chunks:
            if self._finished:
                return []
            self._waiting = True
            return None
        if len(chunks[0]) > size:
            view = memoryview(chunks[0])  # of which a slice is no copy
            chunks[0] = view[size:]
            self._size -= size
            pieces: list[bytes | memoryview] = [view[:size]]
        else:
            pieces = []
            while chunks and len(chunks[0]) <= size:
                chunk = chunks.popleft()
                size -= len(chunk)
                self._size -= len(chunk)
                pieces.append(chunk)
        if self._size < HIGH_WATER and self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        return pieces if len(pieces) <= MOST_PIECES else [b"".join(pieces)]

    def rewind(self) -> bool:
        if self._task is None:
            return True
        if not self._exchange.replayable:
            return False
        self._run_number += 1
        self._task.cancel()
        self._task = None
        self._chunks.clear()
        self._size = self._written = 0
        self._finished = self._waiting = False
        self._room = None
        return True

    def cancel(self) -> None:
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
            self._check_end()
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
        """Send `chunk`; the returned awaitable is done when there is room for more."""
        chunk = self._count(chunk)
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
