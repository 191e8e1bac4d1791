"""Slots for `max_clients` fetches at a time, and the first-in-first-out queue for the rest."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Protocol


class Entrant(Protocol):
    """What waits at the gate."""

    def admitted(self) -> None:
        """A slot is yours; give it back with :meth:`Gate.leave`."""

    def queue_expired(self) -> None:
        """The queue deadline passed; you are no longer in the queue."""


class Gate:
    """Counts slots; holds no timer for a fetch that finds one free.

    All waiting fetches share a single loop timer, set to the earliest queue deadline.
    """

    __slots__ = ("_alarm", "_deadlines", "_loop", "_order", "active", "limit", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self.limit = limit
        self.active = 0
        self.waiting: dict[Entrant, None] = {}
        self._deadlines: list[tuple[float, int, Entrant]] = []
        self._order = count()
        self._alarm: asyncio.TimerHandle | None = None

    def enter(self, entrant: Entrant, deadline: float | None) -> bool:
        """Take a slot and return True, or join the queue until `deadline` and return False.

        `deadline` is in the loop's time; None waits for ever.
        """
        if self.active < self.limit:
            self.active += 1
            return True
        self.waiting[entrant] = None
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, next(self._order), entrant))
            self._arm()
        return False

    def withdraw(self, entrant: Entrant) -> None:
        """Take a waiting entrant out of the queue; nothing happens if it is not there."""
        self.waiting.pop(entrant, None)
        self._forget_departed()

    def leave(self) -> None:
        """Give a slot back; the longest waiting entrant gets it at once."""
        if not self.waiting:
            self.active -= 1
            return
        entrant = next(iter(self.waiting))
        del self.waiting[entrant]
        self._forget_departed()
        entrant.admitted()

    def _forget_departed(self) -> None:
        # Entries of the departed stay in the heap; a rebuild now and then bounds them.
        if not self.waiting:
            self._deadlines.clear()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
        elif len(self._deadlines) > 2 * len(self.waiting) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self.waiting]
            heapq.heapify(self._deadlines)

    def _arm(self) -> None:
        if not self._deadlines:
            return
        due = self._deadlines[0][0]
        if self._alarm is not None:
            if self._alarm.when() <= due:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._alarm = None
        now = self._loop.time()
        while self._deadlines and self._deadlines[0][0] <= now:
            entrant = heapq.heappop(self._deadlines)[2]
            if entrant in self.waiting:
                del self.waiting[entrant]
                entrant.queue_expired()
        self._arm()
