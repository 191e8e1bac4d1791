"""Large bodies in large pieces: the system tells of them when there is a lot (SO_RCVLOWAT).

Whoever is told of each segment reads in crumbs, and keeps the sender from sending larger ones. 1 GB
over loopback came at 2.7 GB/s, and comes at 4.5 to 5.5.

Rules:

1. Only for a body of known length, and as long as more of it than the mark is to come: its end
   would wait for what never comes.
2. Nothing waits for longer than two periods of 5 ms: where little came in one, the mark goes down,
   until the body is fast again.
3. Never below TLS, which may hold the rest of a record back that is here already.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable

MARK = 128 * 1024
"""Bytes that have to be there before the system tells of them."""
_WORTH_IT = 2 * 1024 * 1024  # bytes that are still to come
_PERIOD, _LONGEST_PERIOD = 0.005, 1.0  # seconds
_FAST = 2 * MARK / _PERIOD  # bytes a second


def _is_available() -> bool:
    """Whether sockets that wait below a mark are told of when it goes down: since Linux 4.18."""
    if sys.platform != "linux":
        return False
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= (4, 18)


_IS_AVAILABLE = _is_available()


class LowWater:
    """Keeps the mark of a socket high as long as a body comes fast; see the rules above."""

    __slots__ = (
        "_failed",
        "_is_high",
        "_left",
        "_loop",
        "_period",
        "_rest",
        "_setsockopt",
        "_timer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        setsockopt: Callable[[int, int, int], object],
        rest: Callable[[], int],
        failed: Callable[[OSError], object],
    ) -> None:
        """The mark is high from now on, until `end`, which is due before `rest` is below `MARK`.

        `setsockopt` is the socket's; it may raise OSError. `rest` tells how many bytes of the body
        are still to come. `failed` is called from the loop if the mark does not go down: what has
        come may never be told of.
        """
        self._loop = loop
        self._setsockopt = setsockopt
        self._rest = rest
        self._failed = failed
        self._is_high = False
        self._left = rest()
        self._period = _PERIOD
        self._timer: asyncio.TimerHandle | None = None
        self._raise()

    @classmethod
    def where_it_pays(
        cls,
        loop: asyncio.AbstractEventLoop,
        setsockopt: Callable[[int, int, int], object],
        rest: Callable[[], int],
        failed: Callable[[OSError], object],
    ) -> LowWater | None:
        """One, if the system has it and so much is to come that it pays."""
        if not _IS_AVAILABLE or rest() < _WORTH_IT:
            return None
        return cls(loop, setsockopt, rest, failed)

    def end(self) -> None:
        """Let the system tell of each byte again. Idempotent.

        Raises OSError if it refuses: then the socket must not be used any more.
        """
        self.forget()
        self._lower()

    def forget(self) -> None:
        """The socket is closed, or about to be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _raise(self) -> None:
        if not self._is_high:
            try:
                self._setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, MARK)
            except OSError:
                return  # closed by now, or a system that does not have it; then without
            self._is_high = True
        self._timer = self._loop.call_later(self._period, self._ring)

    def _lower(self) -> None:
        if self._is_high:
            self._is_high = False
            self._setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _ring(self) -> None:
        self._timer = None
        left = self._rest()
        came, self._left = self._left - left, left
        if left >= _WORTH_IT and came >= _FAST * self._period:
            self._period = _PERIOD
            self._raise()
            return
        try:
            self._lower()
        except OSError as error:
            self._failed(error)
            return
        if left >= _WORTH_IT:
            self._period = min(2 * self._period, _LONGEST_PERIOD)
            self._timer = self._loop.call_later(self._period, self._ring)
