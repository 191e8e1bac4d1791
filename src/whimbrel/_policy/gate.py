"""Slots for `max_clients` fetches at a time, and the first-in-first-out queue for the rest.

A slot is also a turn's worth of work: where a thousand fetches begin at once, with slots for all, a
few go ahead in each turn of the loop, so that it does not stand still for all of them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from whimbrel._deadlines import Deadlines

SHARE = 32
"""Fetches that go ahead in one turn of the loop, beyond those that follow one that has ended."""
_CREDIT = -96
"""So many that have ended may be followed at once: HTTP/2 streams end by the hundred in a turn."""


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

    __slots__ = ("_deadlines", "_fresh", "_loop", "_next_turn", "active", "limit", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        # Went ahead since a turn is known to have passed; below 0, so many ended without one.
        self._fresh = 0
        self._next_turn: asyncio.Handle | None = None
        self.limit = limit
        self.active = 0
        # Not a dict, in which the way to the first gets longer with each one that is taken out.
        self.waiting: OrderedDict[Entrant, None] = OrderedDict()
        self._deadlines: Deadlines[Entrant] = Deadlines(loop, self._expire)

    def enter(self) -> bool:
        """Take a slot, if one is free and this turn's share is not used up; tell whether it was."""
        if self.active < self.limit and self._fresh < SHARE and not self.waiting:
            self.active += 1
            self._fresh += 1
            return True
        return False

    def wait(self, entrant: Entrant, deadline: float | None) -> None:
        """Join the queue until `deadline`, which is in the loop's time; None waits for ever."""
        if self.active < self.limit and self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._go_on)
        self.waiting[entrant] = None
        if deadline is not None:
            self._deadlines.add(entrant, deadline)

    def withdraw(self, entrant: Entrant) -> None:
        """Take a waiting entrant out of the queue; nothing happens if it is not there."""
        self.waiting.pop(entrant, None)
        self._deadlines.discard(entrant)

    def leave(self) -> None:
        """Give a slot back; the longest waiting entrant gets it at once."""
        fresh = self._fresh
        if fresh > 0:
            self._fresh = 0  # what ended took turns: nothing needs to count them
        elif fresh > _CREDIT:
            self._fresh = fresh - 1
        if self.waiting:
            self._admit()
        else:
            self.active -= 1

    def _admit(self) -> None:
        entrant, _ = self.waiting.popitem(last=False)
        self._deadlines.discard(entrant)
        entrant.admitted()

    def _go_on(self) -> None:
        """A turn has passed: the next may go ahead."""
        self._next_turn = None
        self._fresh = 0
        while self.waiting and self.active < self.limit:
            if self._fresh >= SHARE:
                self._next_turn = self._loop.call_soon(self._go_on)
                return
            self.active += 1
            self._fresh += 1
            self._admit()

    def _expire(self, entrant: Entrant) -> None:
        del self.waiting[entrant]
        if self.active < self.limit:
            # It was waiting for its turn alone: a slot is free.
            self.active += 1
            self._fresh += 1
            entrant.admitted()
        else:
            entrant.queue_expired()
