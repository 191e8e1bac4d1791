"""A look at idle connections: has anything come that the loop has not told of yet?

Rules:

1. Whatever lies on an idle connection when the next request is sent would pass for the answer to
   that. So a connection is used only if there has been a look at it since it began to idle, and
   not long ago.
2. One look serves all that have begun to idle since the last: those whose responses came in one
   turn of the loop are the ones on which the next requests go, and the look costs one system call,
   not one each. It asks of these alone (`poll`): asking an epoll costs as much as all sockets have
   to say, of which busy ones have a lot.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whimbrel._simple.pool import Connection

LOOK_LASTS = 0.002
"""Seconds for which a look holds: about what a turn of a busy loop takes. A peer that can choose
its moment can as well choose the one after the request was sent."""
_AT_ONCE = 64
_IN = select.POLLIN


def look(wanted: Connection, others: Iterable[Connection], now: float) -> None:
    """Look at `wanted`, and at those of `others` before the first that has been looked at.

    All idle; those on which something has come are closed. `now` is in `time.monotonic`.
    """
    poll = select.poll()
    asked = {wanted.fd: wanted}
    poll.register(wanted.fd, _IN)
    wanted.looked_at = now
    for connection in others:
        if connection is not wanted:
            if connection.looked_at or len(asked) == _AT_ONCE:
                break
            asked[connection.fd] = connection
            poll.register(connection.fd, _IN)
            connection.looked_at = now
    try:
        ready = poll.poll(0)
    except OSError:  # out of memory: then each has to say for itself
        ready = [(fd, 0) for fd in asked]
    for fd, _ in ready:
        connection = asked[fd]
        if not connection.is_quiet():
            connection.close()
