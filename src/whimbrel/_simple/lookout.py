"""One look at all idle connections: has anything come that the loop has not told of yet?

Rules:

1. Whatever lies on an idle connection when the next request is sent would pass for the answer to
   that. So a connection is used only if there has been a look at it since it began to idle, and
   not long ago.
2. One look serves all: every connection sits in an epoll of the pool's own for its whole life, so
   that a row of requests costs one system call, not one each.
3. Where a look does not tell, the connection is asked when its turn comes, which costs a system
   call (`Connection.is_quiet`): where there is no epoll, or no place in it; where a single
   connection idles; and while so many others have something to say that a look would cost more
   than it spares.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whimbrel._simple.pool import Connection

LOOK_LASTS = 0.002
"""Seconds for which a look holds: about what a turn of a busy loop takes. A peer that can choose
its moment can as well choose the one after the request was sent."""

# How many connections may be ready for a look to be worth it.
_READY_FOR_EACH = 8
_READY_AT_MOST = 1024


class Lookout:
    """Looks at the idle connections of a pool.

    Attributes:
        lasts_until: when the last look has had its day, in `time.monotonic`; 0 once another
            connection has begun to idle.
    """

    __slots__ = ("_connections", "_epoll", "lasts_until")

    def __init__(self) -> None:
        self._connections: dict[int, Connection] = {}
        self._epoll: select.epoll | None = None
        self.lasts_until = 0.0

    def add(self, connection: Connection) -> bool:
        """Watch a connection from now on; tell whether that is possible."""
        if not hasattr(select, "epoll"):
            return False
        fd = connection.stream.fileno()
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN)
        except (OSError, ValueError):
            return False  # out of descriptors, or of memory
        self._connections[fd] = connection
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is about to be closed, which takes it out of the epoll too."""
        fd = connection.stream.fileno()
        if self._connections.get(fd) is connection:
            del self._connections[fd]

    def look(self, now: float, idle: int) -> None:
        """Close the idle connections on which something has come; `idle` of them may be used."""
        if self._epoll is None:
            return
        known = self._connections
        most = min(_READY_FOR_EACH * idle, _READY_AT_MOST)
        try:
            ready = self._epoll.poll(0, most)
        except OSError:
            return  # out of memory
        for fd, _ in ready:
            connection = known.get(fd)
            # Most are in use, and what came there is an answer; some are closed by now.
            if connection is not None and connection.holder is None and not connection.is_quiet():
                connection.close()
        if len(ready) < most:
            self.lasts_until = now + LOOK_LASTS

    def close(self) -> None:
        """Free the descriptor."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._connections.clear()
