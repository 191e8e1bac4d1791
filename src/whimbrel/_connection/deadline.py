"""The time by which a peer must have sent something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """One deadline at a time, on one timer of the loop.

    The timer is not moved with the deadline: it rings, looks, and is set again. While the deadline
    is held its time does not run.
    """

    __slots__ = ("_due", "_held", "_left", "_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        """`passed` is called from the loop."""
        self._loop = loop
        self._passed = passed
        self._due: float | None = None
        self._held = False
        self._left: float | None = None  # seconds, of a deadline that is held
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float | None) -> None:
        """Pass in `seconds` from now, or from `go_on`; None or 0: never."""
        if not seconds:
            self._due = self._left = None
        elif self._held:
            self._left = seconds
        else:
            self._start(seconds)

    def clear(self) -> None:
        """Forget the deadline."""
        self._due = self._left = None

    def hold(self) -> None:
        """Stop the time."""
        self._held = True
        if self._due is not None:
            self._left = max(0.0, self._due - self._loop.time())
            self._due = None

    def go_on(self) -> None:
        """Let the time run again, with what was left of it."""
        self._held = False
        left, self._left = self._left, None
        if left is not None:
            self._start(left)

    def cancel(self) -> None:
        """Forget the deadline, and the timer with it."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float) -> None:
        self._due = due = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._ring)
        elif self._timer.when() > due:
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        due = self._due
        if due is None:
            return
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._ring)
            return
        self._due = None
        self._passed()
