"""Staying awake for an answer that is due within microseconds.

A loop that sleeps lets its core go idle. To be woken costs tens of microseconds, more than a server
on the same machine or in the same rack takes to answer, and on a virtual machine more CPU time than
the wait would. So while an answer is due, the loop looks again instead of sleeping, as the kernel
does with SO_BUSY_POLL.

Rules:

1. Only where it pays: an answer must have come within the time before. After two that are waited
   for in vain the loop sleeps as ever, until one comes fast again. Where many come at once, it has
   no time to sleep, and a look between its turns would only make the turns longer.
2. Every few looks everything else on the loop has its turn.
3. It is never needed: what is not looked for is told of by the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

DEFAULT_SECONDS = 50e-6

_WAKE_UP = 50e-6  # seconds by which an answer is found later where the loop slept
_TRIES = 2
_LOOKS = 8  # a system call of less than a microsecond each
_MANY = 16


def busy_poll_seconds(value: Any) -> float:
    """Return for how long to stay awake; raise ValueError unless it is 0 to 1 second."""
    if type(value) not in (float, int) or not 0 <= value <= 1:
        raise ValueError(f"busy_poll must be seconds, from 0 (never) to 1, not {value!r}")
    return float(value)


class BusyPoll:
    """Keeps one loop awake.

    :param seconds: for how long an answer is waited for like this; 0 never does.
    :param look: serves what is ready, and tells whether anything was. It calls `arrived`.
    """

    __slots__ = ("_handle", "_limit", "_look", "_loop", "_misses", "_seconds", "since")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, look: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._limit = seconds and seconds + _WAKE_UP
        self._look = look
        self._misses = _TRIES
        self._handle: asyncio.Handle | None = None
        self.since = 0.0  # when the wait for whatever comes next began; 0 is that nobody waits

    def expect(self, now: float) -> None:
        """An answer is due from `now` on, in `time.monotonic`."""
        if now - self.since > self._seconds:  # or this wait is part of one that goes on
            self.since = now
            if self._misses < _TRIES and self._handle is None:
                self._handle = self._loop.call_soon(self._turn)

    def arrived(self, now: float, count: int) -> None:
        """So many descriptors were ready."""
        if count > _MANY:
            self._misses = _TRIES
        elif now - self.since < self._limit:
            self._misses = 0
        self.since = 0.0

    def _turn(self) -> None:
        self._handle = None
        if not self.since or self._misses >= _TRIES:
            return  # it came on the loop's own account
        for _ in range(_LOOKS):
            if self._look():
                return
        if monotonic() - self.since < self._seconds:
            self._handle = self._loop.call_soon(self._turn)
        else:
            self._misses += 1

    def close(self) -> None:
        """Let the loop sleep from now on."""
        self._limit = self.since = 0.0
        self._misses = _TRIES
