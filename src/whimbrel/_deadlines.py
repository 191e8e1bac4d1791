"""Many deadlines on one loop timer, for those that nearly never pass."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")  # hashable

# Of an entry in the heap, which is sorted by its first two.
_DUE, _ORDER, _ITEM = range(3)
_GONE: Any = object()


class Deadlines(Generic[T]):
    """Items, each with the time at which it expires unless it is discarded before.

    What comes and goes between two rings of the timer costs a dict entry: only what is still
    there when it rings is put into a heap, once.
    """

    __slots__ = (
        "_entries",
        "_expired",
        "_heap",
        "_linger",
        "_loop",
        "_new",
        "_order",
        "_timer",
        "_when",
    )

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
        self._new: dict[T, float] = {}  # not in the heap yet
        self._entries: dict[T, list[Any]] = {}  # in the heap
        self._heap: list[list[Any]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._when = math.inf  # when it rings

    def add(self, item: T, due: float) -> None:
        """Let `item` expire at `due`, in the loop's time; a deadline that it has is replaced.

        One that has passed already makes it expire in the next turn of the loop.
        """
        if item in self._entries:
            self._take_out(item)
        self._new[item] = due
        if due < self._when:
            self._arm(due)

    def discard(self, item: T) -> None:
        """Take `item` out; nothing happens if it is not there."""
        if self._new.pop(item, None) is None:
            self._take_out(item)
        if not self._linger and not self._new and not self._entries:
            self.close()

    def close(self) -> None:
        """Forget all items, and cancel the timer."""
        self._new.clear()
        self._entries.clear()
        self._heap.clear()
        self._disarm()

    def _take_out(self, item: T) -> None:
        entry = self._entries.pop(item, None)
        if entry is not None:
            # It stays in the heap for now, but holds nobody's request and response.
            entry[_ITEM] = _GONE

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._when = math.inf

    def _arm(self, due: float) -> None:
        self._disarm()
        if self._linger:
            due = min(due, self._loop.time() + self._linger)
        self._when = due
        self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._disarm()
        heap = self._heap
        for item, due in self._new.items():
            self._entries[item] = entry = [due, next(self._order), item]
            heapq.heappush(heap, entry)
        self._new.clear()
        now = self._loop.time()
        try:
            while heap and (heap[0][_DUE] <= now or heap[0][_ITEM] is _GONE):
                item = heapq.heappop(heap)[_ITEM]
                if item is not _GONE:
                    del self._entries[item]
                    self._expired(item)
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Bound the heap, in which the departed stay, and wait for the first that is left."""
        heap = self._heap
        if len(heap) > 2 * len(self._entries) + 64:
            heap[:] = [entry for entry in heap if entry[_ITEM] is not _GONE]
            heapq.heapify(heap)
        if heap and heap[0][_DUE] < self._when:
            self._arm(heap[0][_DUE])
