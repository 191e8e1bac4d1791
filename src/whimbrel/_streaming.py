"""A body that arrives faster than it is read: a queue with a high-water mark."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self


class ChunkQueue:
    """Chunks from one producer to one reader, who iterates.

    While more than `limit` bytes wait, :meth:`put` returns an awaitable that is done when the
    reader has taken them all: the producer pauses until then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._failure: BaseException | None = None
        self._abandoned = False

    # The producer's side

    def put(self, chunk: bytes) -> Awaitable[None] | None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        self.wake()
        if self._size < self._limit:
            return None
        if self._drained is None or self._drained.done():
            self._drained = self._loop.create_future()
        return self._drained

    def end(self, failure: BaseException | None) -> None:
        """No more chunks will come; `failure` is raised once those that are here are read."""
        self._ended = True
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reader's side

    async def changed(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; raise the failure if the end comes first."""
        while not ready():
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                raise asyncio.CancelledError("the fetch behind the stream was cancelled")
            await self._wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._abandoned:
                raise RuntimeError("the stream's block was left; its body can no longer be read")
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._let_on()
            await self._wait()
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        if not self._size:
            self._let_on()
        return chunk

    def _let_on(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("the stream is read by two tasks at once")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def abandon(self) -> None:
        """The reader wants no more."""
        self._abandoned = True
        self._chunks.clear()
        self._size = 0
        if self._drained is not None and not self._drained.done():
            self._drained.cancel()
