"""One look at all idle connections: has anything come that the loop has not told of yet?

Rules:

1. Whatever lies on an idle connection when the next request is sent would pass for the answer to
   that. So a connection is used only if there has been a look at it since it began to idle, and
   not long ago.
2. One look serves all: the sockets sit in an epoll of their own (`Readiness`), so that a row of
   requests costs one system call, not one each.
3. Where a look does not tell, the connection is asked when its turn comes, which costs a system
   call (`Connection.is_quiet`): where there is no epoll; where a single connection idles; and while
   so many others have something to say that a look would cost more than it spares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whimbrel._readiness import Readiness

if TYPE_CHECKING:
    from whimbrel._simple.pool import Connection

LOOK_LASTS = 0.002
"""Seconds for which a look holds: about what a turn of a busy loop takes. A peer that can choose
its moment can as well choose the one after the request was sent."""

# How many connections may be ready for a look to be worth it.
_READY_FOR_EACH = 4
_READY_AT_MOST = 512


class Lookout:
    """Looks at the idle connections of a pool. `readiness` None has nothing to see.

    Attributes:
        lasts_until: when the last look has had its day, in `time.monotonic`; 0 once another
            connection has begun to idle.
    """

    __slots__ = ("_connections", "_pays_from", "_readiness", "lasts_until")

    def __init__(self, readiness: Readiness | None) -> None:
        self._readiness = readiness
        self._connections: dict[int, Connection] = {}
        self.lasts_until = 0.0
        self._pays_from = 0.0  # after a look that did not

    def add(self, connection: Connection) -> None:
        """Look at `connection` as well, from now on."""
        self._connections[connection.fd] = connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is about to be closed, or is closed already."""
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]

    def look(self, now: float, idle: int) -> None:
        """Close the idle connections on which something has come; `idle` of them may be used."""
        if self._readiness is None or now < self._pays_from:
            return
        most = min(_READY_FOR_EACH * idle, _READY_AT_MOST)
        try:
            ready = self._readiness.peek(most)
        except OSError:
            return  # out of memory
        known = self._connections
        for fd, _ in ready:
            connection = known.get(fd)
            # Most are in use, and what came there is an answer; some are closed by now.
            if connection is not None and connection.holder is None and not connection.is_quiet():
                connection.close()
        if len(ready) < most:
            self.lasts_until = now + LOOK_LASTS
        else:
            self._pays_from = now + LOOK_LASTS
