"""How much of all bodies is delivered in one turn of the loop.

libcurl reads on for as long as something has come, up to 45 buffers of it, and within one call does
so for every transfer that has more: with four large downloads that was a turn of 26 ms.

Rules:

1. A transfer that finds no room is paused, and goes on in one of the next turns.
2. They go on in the order in which they were paused, one after the other: the next one when the one
   before has been served, as far as it left room. Of several that went on together, the first to be
   served would take all of it, turn after turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

ROOM = 4 * 1024 * 1024
"""Bytes; about a millisecond of a callback that does next to nothing."""


class Room:
    """What is left of it in this turn, and who waits for the next.

    Attributes:
        left: bytes; whoever delivers takes them off, and delivers nothing where none are left.
    """

    __slots__ = ("_gone_on", "_handle", "_loop", "_waiting", "left")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, gone_on: Callable[[], object] = lambda: None
    ) -> None:
        """`gone_on` is called when one has been told to go on, to serve it in that turn."""
        self._loop = loop
        self._gone_on = gone_on
        self._waiting: deque[Callable[[], None]] = deque()
        self._handle: asyncio.Handle | None = None
        self.left = ROOM

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` in a later turn, when there is room; even if it has ended by then."""
        self._waiting.append(go_on)
        if self._handle is None:
            self._handle = self._loop.call_soon(self._renew)

    def close(self) -> None:
        """Call nobody any more."""
        self._waiting.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _renew(self) -> None:
        self._handle = None
        self.left = ROOM
        waiting = self._waiting
        for _ in range(len(waiting)):
            if self.left <= 0 or not waiting:
                break
            waiting.popleft()()
            self._gone_on()
        if waiting and self._handle is None:
            self._handle = self._loop.call_soon(self._renew)
