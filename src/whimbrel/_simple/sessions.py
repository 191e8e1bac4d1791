"""TLS sessions to be resumed: another connection to the same origin costs a third of the first one.

Rules:

1. A session is for the route and the context that it came from. Resuming it verifies nothing anew,
   so it must have been verified by the very same settings.
2. None of a caller's own context: what that trusts may change from one connection to the next.
3. Connections with one ticket can be told to be the same client's by whoever listens (RFC 8446
   appendix C.4). For a minute, in which their address tells as much; then the ticket is forgotten.
4. Offering one must not be what makes a connection fail: if the handshake does, it is tried again
   without, and on that route none is offered for a while.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from whimbrel._simple.route import Route
from whimbrel._simple.sockets import TLSSocket

LIFETIME = 60.0
"""Seconds for which a session is used."""
REFUSED_SECONDS = 600.0
"""Seconds for which none is tried on a route where one made the handshake fail."""
CAPACITY = 256
"""Routes with a session; the one that has had its session for the longest time goes first."""


class _Kept(NamedTuple):
    session: ssl.SSLSession
    context: ssl.SSLContext
    until: float


class Sessions:
    """The sessions of one client, one for each route. `clock` counts seconds."""

    __slots__ = ("_clock", "_kept", "_refused")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kept: dict[Route, _Kept] = {}
        self._refused: dict[Route, float] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, route: Route, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """A session for a new connection; None if there is none."""
        kept = self._kept.get(route)
        if kept is None:
            return None
        if kept.context is context and self._clock() < kept.until:
            return kept.session
        del self._kept[route]  # too old, or the files behind the settings have changed
        return None

    def keep(self, route: Route, sock: object) -> None:
        """Keep the session of a connection that has served, if one is wanted and can be resumed."""
        if route.tls is None or route.tls.context is not None or not isinstance(sock, TLSSocket):
            return
        if self._clock() < self._refused.get(route, 0.0):
            return
        if self.get(route, sock.context) is not None:
            return  # to take one from a socket costs as much as a handshake
        session = sock.session
        # With TLS 1.3 the ticket comes behind the handshake, or never.
        if session is not None and session.has_ticket:
            self._kept[route] = _Kept(session, sock.context, self._clock() + LIFETIME)
            if len(self._kept) > CAPACITY:
                del self._kept[next(iter(self._kept))]

    def refuse(self, route: Route) -> None:
        """A handshake that offered the session of `route` has failed: do without for a while."""
        self._kept.pop(route, None)
        self._refused[route] = self._clock() + REFUSED_SECONDS
        if len(self._refused) > CAPACITY:
            del self._refused[next(iter(self._refused))]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._refused.clear()
