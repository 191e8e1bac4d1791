"""Slots for `max_clients` fetches at a time, and the first-in-first-out queue for the rest."""

from __future__ import annotations

import asyncio
from typing import Protocol

from whimbrel._deadlines import Deadlines


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

    __slots__ = ("_deadlines", "active", "limit", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.limit = limit
        self.active = 0
        self.waiting: dict[Entrant, None] = {}
        self._deadlines: Deadlines[Entrant] = Deadlines(loop, self._expire)

    def enter(self) -> bool:
        """Take a slot, if one is free; tell whether it was."""
        if self.active < self.limit:
            self.active += 1
            return True
        return False

    def wait(self, entrant: Entrant, deadline: float | None) -> None:
        """Join the queue until `deadline`, which is in the loop's time; None waits for ever."""
        self.waiting[entrant] = None
        if deadline is not None:
            self._deadlines.add(entrant, deadline)

    def withdraw(self, entrant: Entrant) -> None:
        """Take a waiting entrant out of the queue; nothing happens if it is not there."""
        self.waiting.pop(entrant, None)
        self._deadlines.discard(entrant)

    def leave(self) -> None:
        """Give a slot back; the longest waiting entrant gets it at once."""
        if not self.waiting:
            self.active -= 1
            return
        entrant = next(iter(self.waiting))
        self.withdraw(entrant)
        entrant.admitted()

    def _expire(self, entrant: Entrant) -> None:
        del self.waiting[entrant]
        entrant.queue_expired()
