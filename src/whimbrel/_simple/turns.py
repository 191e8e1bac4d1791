"""Long work in short turns: all uploads of a client together have a share of a turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

TURN_SECONDS = 0.002
"""For so long others on the loop may have to wait."""


class Turns:
    """Calls that are due, first come, first served, and as many of them in a turn as there is time
    for."""

    __slots__ = ("_due", "_is_soon", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[Callable[[], None]] = deque()
        self._is_soon = False

    def soon(self, call: Callable[[], None]) -> None:
        """Call `call` in one of the next turns; it must not raise."""
        self._due.append(call)
        self._call_soon()

    def _call_soon(self) -> None:
        if not self._is_soon:
            self._is_soon = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_soon = False
        due = self._due
        count = len(due)  # who comes again has the turn after
        if count > 1:
            self._call_soon()  # for the rest; also where a call runs the loop, as in notebooks
        end = monotonic() + TURN_SECONDS
        for _ in range(count):
            if not due:
                break
            due.popleft()()
            if monotonic() > end:
                break
