"""A response body on its way from a backend to whoever wants it.

The backend feeds what arrives, still encoded; here it is decoded, counted against
`max_body_size`, and buffered or given to ``exchange.on_data``, whose answer may be a pause.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from io import SEEK_CUR, BytesIO
from typing import Any, NamedTuple

from whimbrel._memory import room_for
from whimbrel._policy.decoding import ContentDecoder, decoder_for
from whimbrel._policy.exchange import Exchange, OnData

LARGE = 256 * 1024
"""A body of so many bytes or more is large: a longer way to take it pays."""


class Download:
    """The body of one response.

    The backend calls, in this order: `discard` or `begin`, where there is need; `feed` for each
    chunk while not `paused`; `finish` once the last chunk is fed and nothing is paused. What
    `feed` and `finish` raise is the end of the exchange, which the backend sees to. `cancel` may
    come at any time, from within `feed` too: a callback that cancels its own fetch does that. What
    is fed after it is thrown away.

    Attributes:
        cancelled: nobody wants any more of it.
        limit: the most bytes it may have; 0 is no limit.
        paused: the consumer is not done with what it got; feed nothing until `resume`.
        size: bytes of the body so far, decoded where it is decoded; a `writer` counts none.
    """

    __slots__ = (
        "_blocker",
        "_buffer",
        "_chunk",
        "_decoder",
        "_failed",
        "_limit_error",
        "_loop",
        "_on_data",
        "_profile",
        "_rest",
        "_resume",
        "cancelled",
        "limit",
        "paused",
        "size",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        limit_error: Callable[[str], Exception],
        resume: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Take the backend's side of the pauses.

        `limit_error` makes the exception for a body that passes ``profile.max_body_size``.
        `resume` is called when a pause is over and all that was decoded is delivered; `failed`
        gets what goes wrong in the meantime. Both are called from the loop, never from `feed`.
        """
        self._loop = loop
        self._limit_error = limit_error
        self._resume = resume
        self._failed = failed
        self._profile = exchange.profile
        self.limit = exchange.profile.max_body_size
        self._on_data = exchange.on_data
        self._decoder: ContentDecoder | None = None
        self._chunk = b""
        self._buffer: BytesIO | None = None
        self.size = 0
        self._blocker: asyncio.Future[Any] | None = None
        self._rest: Iterator[bytes] | None = None
        self.cancelled = False
        self.paused = False

    # For the backend

    @property
    def decoded(self) -> bool:
        """Whether the body comes out other than it arrived."""
        return self._decoder is not None

    @property
    def body(self) -> bytes:
        """What was buffered; empty where the body was delivered or discarded."""
        buffer = self._buffer
        if buffer is None:
            return self._chunk
        buffer.truncate()  # at the end of what was written: there may have been room for more
        return buffer.getvalue()

    def begin(self, content_encoding: str) -> None:
        """Decode what follows, by the value of ``Content-Encoding``; "" is nothing to decode.

        Raises DecodingError for more codings than anyone has use for.
        """
        if content_encoding and self._profile.decompress and self._on_data is not _ignore:
            self._decoder = decoder_for(content_encoding)

    def discard(self) -> None:
        """Nobody wants the body (of a redirect): it is counted, and thrown away undecoded."""
        self._on_data = _ignore
        self._decoder = None

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of the body as it came. Look at `paused` afterwards.

        Raises DecodingError, what `limit_error` made, TypeError for an answer of ``on_data``
        that is no awaitable, and whatever ``on_data`` raises.
        """
        if self._decoder is not None:
            self._consume(self._decoder.feed(chunk))
            return
        if not chunk:
            return
        self.size = size = self.size + len(chunk)
        if size > self.limit > 0:
            raise self.too_long()
        on_data = self._on_data
        if on_data is None:
            self._keep(chunk)
            return
        waiting = on_data(chunk)
        if waiting is not None:
            self.hold(waiting)

    def straight(self) -> OnData | None:
        """What takes each chunk as it came; None where they have to be decoded.

        Whoever calls it does what `feed` would: counts in `size`, raises `too_long` for more than
        `limit`, and gives what it answers to `hold`, unless that is None.
        """
        return None if self._decoder is not None else self._on_data or self._keep

    def room(self, length: int) -> memoryview | None:
        """Where the backend may put what is still to come, instead of feeding it.

        `length` is that of the whole body, as its head announced it. The caller tells with
        `filled` what it put there, from the beginning, and releases the view at last; nothing can
        be fed as long as it exists. None if the body is not just kept, or too long.
        """
        buffer = self._rest_of(length)
        if buffer is None:
            return None
        with buffer.getbuffer() as whole:
            return whole[buffer.tell() :]

    def filled(self, count: int) -> None:
        """`count` bytes have been put into the `room`."""
        assert self._buffer is not None
        self._buffer.seek(count, SEEK_CUR)

    def writer(self, length: int) -> Callable[[bytes], int] | None:
        """A function that takes what is still to come, instead of `feed`, and does not count it.

        `length` and None are as for `room`; the backend sees to it that no more comes.
        """
        buffer = self._rest_of(length)
        return None if buffer is None else buffer.write

    def _rest_of(self, length: int) -> BytesIO | None:
        """The buffer of a body of `length` bytes, for the rest of it, where it is just kept."""
        if self._decoder is not None or self._on_data is not None or length > self.limit > 0:
            return None
        buffer = room_for(length)
        if buffer is not None:
            buffer.write(self.body)
            self._chunk = b""
            self._buffer = buffer
        return buffer

    def finish(self) -> None:
        """The body has ended. Raises DecodingError if it is cut short within its coding."""
        if self._decoder is not None:
            self._decoder.finish()

    def cancel(self) -> None:
        """Drop everything, and cancel what the consumer is doing; nothing more is heard of it."""
        self.cancelled = True
        self._on_data = _ignore  # if the backend was in the middle of feeding
        self.limit = 0
        self._rest = self._decoder = self._buffer = None
        self._chunk = b""
        # Nor is a cycle to outlive the exchange: these are the backend's own methods.
        self._resume = self._failed = _nothing
        self.paused = False
        if self._blocker is not None:
            self._blocker.cancel()

    # Delivery

    def _consume(self, pieces: Iterator[bytes]) -> None:
        """Deliver decoded pieces until there are none, or the consumer asks for a pause."""
        for piece in pieces:
            if not piece:
                continue
            self.size += len(piece)
            if self.size > self.limit > 0:
                raise self.too_long()
            if self._on_data is None:
                self._keep(piece)
                continue
            waiting = self._on_data(piece)
            if (self.cancelled or waiting is not None) and self.hold(waiting, pieces):
                return

    def _keep(self, piece: bytes) -> None:
        """Buffer a piece of the body."""
        if self._buffer is not None:
            self._buffer.write(piece)
        elif self._chunk:
            self._buffer = BytesIO()
            self._buffer.write(self._chunk)
            self._buffer.write(piece)
        else:
            self._chunk = piece

    def too_long(self) -> Exception:
        """What to raise for a body that passes `limit`."""
        return self._limit_error(
            f"the body passes max_body_size: more than {self.limit} bytes, {self.size} so far"
        )

    # Pauses

    def hold(self, waiting: object, rest: Iterator[bytes] | None = None) -> bool:
        """Deliver `rest` when `waiting` is done, which ``on_data`` answered; False if it is, or
        nothing to wait for."""
        if self.cancelled:
            if asyncio.iscoroutine(waiting):
                waiting.close()  # cancelled by the callback: it will not be awaited
            return True
        if waiting is None or not self._wait_for(waiting):
            return False
        self._rest = rest
        return True

    def _wait_for(self, waiting: object) -> bool:
        """Hold the transfer until `waiting` is done; False if it is, or no awaitable."""
        blocker: asyncio.Future[Any]
        if asyncio.isfuture(waiting):
            blocker = waiting
        elif inspect.isawaitable(waiting):
            blocker = self._loop.create_task(_settle(waiting))
            if asyncio.iscoroutine(waiting):
                # It never begins if the fetch is cancelled in this turn of the loop.
                blocker.add_done_callback(lambda _: waiting.close())
        else:
            return False  # as from file.write
        if self.cancelled:
            blocker.cancel()  # an eager task has begun already, and cancelled its own fetch
            return True
        if blocker.done():
            _raise_from(blocker)
            return False
        self._blocker = blocker
        self.paused = True
        blocker.add_done_callback(self._unblocked)
        return True

    def _unblocked(self, blocker: asyncio.Future[Any]) -> None:
        self._blocker = None
        self.paused = False
        rest, self._rest = self._rest, None
        try:
            _raise_from(blocker)
            if rest is not None:
                self._consume(rest)
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            self._failed(error)
            return
        if not self.paused:
            self._resume()


class _Raised(NamedTuple):
    error: BaseException


async def _settle(waiting: Awaitable[None]) -> _Raised | None:
    """Await `waiting`. A task that raised SystemExit itself would end the loop with it."""
    try:
        await waiting
    except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
        return _Raised(error)
    return None


def _raise_from(blocker: asyncio.Future[Any]) -> None:
    outcome = blocker.result()
    if isinstance(outcome, _Raised):
        raise outcome.error


def _ignore(chunk: bytes) -> None:
    """Where the body of a redirect goes."""


def _nothing(*_: object) -> None:
    """Stands for `resume` and `failed` once nobody is to hear of anything."""
