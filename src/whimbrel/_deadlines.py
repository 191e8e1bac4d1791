"""Many deadlines on one loop timer, for those that nearly never pass."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")  # hashable

_REST = 0.001
"""Seconds between two rings for each thousand items: a ring looks at all of them, which takes about
a tenth of that, and where they expire one by one it would do nothing else."""
_EARLY = 0.0005
"""Seconds by which a timer may ring too early: uvloop's are of whole milliseconds."""


class Deadlines(Generic[T]):
    """Items, each with the time at which it expires unless it is discarded before.

    What comes and goes between two rings of the timer costs a dict entry. Nothing is sorted: a ring
    goes through all items for the earliest, which C does. With some thousands of them a deadline
    may be late by as many microseconds.
    """

    __slots__ = ("_due", "_expired", "_linger", "_loop", "_rang", "_timer", "_when")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expired: Callable[[T], None], linger: float = 0.0
    ) -> None:
        """`expired` is called from the loop, with an item that is no longer here.

        `linger`: seconds for which the timer may outlive the last item, so that it need not be
        made anew for each where there is one item at a time. 0 cancels it with the last item.
        """
        self._loop = loop
        self._expired = expired
        self._linger = linger
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._when = math.inf  # when it rings
        self._rang = -math.inf

    def add(self, item: T, due: float) -> None:
        """Let `item` expire at `due`, in the loop's time; a deadline that it has is replaced.

        One that has passed already makes it expire in a later turn of the loop.
        """
        self._due[item] = due
        if due < self._when:
            self._arm(due)

    def discard(self, item: T) -> None:
        """Take `item` out; nothing happens if it is not there."""
        self._due.pop(item, None)
        if not self._linger and not self._due:
            self._disarm()

    def close(self) -> None:
        """Forget all items, and cancel the timer."""
        self._due.clear()
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._when = math.inf

    def _arm(self, due: float) -> None:
        """Ring at `due`, unless that is never; with `linger` earlier, after much work later."""
        if due == math.inf:
            return
        if self._linger:
            due = min(due, self._loop.time() + self._linger)
        when = max(due, self._rang + len(self._due) // 1000 * _REST)
        if when < self._when:
            self._disarm()
            self._when = when
            self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._disarm()
        dues = self._due
        self._rang = self._loop.time()
        now = self._rang + _EARLY
        try:
            if min(dues.values(), default=math.inf) <= now:
                # A copy, which is made at once: a signal's handler may discard items at any time.
                passed = [item for item, due in list(dues.items()) if due <= now]
                passed.sort(key=lambda item: dues.get(item, math.inf))
                for item in passed:
                    # Unless it has been discarded, or given another deadline.
                    if dues.get(item, math.inf) <= now:
                        del dues[item]
                        self._expired(item)
        finally:
            self._arm(min(dues.values(), default=math.inf))
