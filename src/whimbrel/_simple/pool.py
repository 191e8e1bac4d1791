"""Connections, those in use and those that idle, and the buckets in which the latter are kept.

Rules:

1. A connection lies in the bucket of its `Route`, and is only ever taken from there: what differs
   in proxy, credentials, TLS settings or source address never shares one.
2. Whatever comes on an idle connection, bytes or its end, closes it: it is the answer to nothing.
   The loop may not have told of it yet when the connection is taken, so that it is looked at once
   more (`lookout`).
3. The pool knows nothing of clients, so that a client which nobody holds any more can go, and its
   idle connections with it.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import OrderedDict
from time import monotonic
from typing import Protocol

from whimbrel._http1.grammar import Limits
from whimbrel._http1.protocol import Head, Role
from whimbrel._http1.protocol import Protocol as HTTP1
from whimbrel._known_heads import KnownHeads
from whimbrel._simple import lookout
from whimbrel._simple.connect import Connected
from whimbrel._simple.route import Route
from whimbrel._simple.sessions import Sessions
from whimbrel.iostream import SSLIOStream

MAX_IDLE_SECONDS = 118.0
"""As libcurl (CURLOPT_MAXAGE_CONN): below the two minutes after which many servers hang up."""


class Holder(Protocol):
    """What a connection in use talks to."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def connection_lost(self, error: BaseException | None) -> None: ...
    def drained(self) -> None: ...


class Connection:
    """A connection to an origin or a proxy, and the HTTP/1.1 spoken on it.

    Attributes: `number`, `remote` and `local` for `HTTPResponse`; `proxy_code` and `proxy_lines`,
    the proxy's answer to CONNECT; `holder`, the transfer that uses it, None while it idles;
    `looked_at`, when there was a look at it (`lookout`), 0 if not since it began to idle.
    """

    __slots__ = (
        "bucket",
        "fd",
        "holder",
        "http1",
        "idle_since",
        "is_secure",
        "local",
        "looked_at",
        "number",
        "proxy_code",
        "proxy_lines",
        "remote",
        "stream",
    )

    holder: Holder | None

    def __init__(
        self, bucket: Bucket, connected: Connected, limits: Limits, known: KnownHeads[Head]
    ) -> None:
        self.bucket = bucket
        self.stream = connected.stream
        self.fd = self.stream.fileno()  # which the stream forgets when it closes
        self.http1 = HTTP1(Role.CLIENT, limits, known)
        self.remote = connected.remote_address
        self.local = connected.local_address
        self.proxy_code = connected.proxy_code
        self.proxy_lines = connected.proxy_lines
        self.number = next(_numbers)
        self.holder = None
        self.idle_since = 0.0
        self.looked_at = 0.0
        self.is_secure = isinstance(self.stream, SSLIOStream)
        bucket.pool.live.add(self)

    def close(self) -> None:
        """Close the socket at once."""
        pool = self.bucket.pool
        pool.forget(self)
        pool.live.discard(self)
        pool.sessions.keep(self.bucket.route, self.stream.socket)
        self.stream.close()

    def is_quiet(self) -> bool:
        """Whether nothing has come that the loop has not told of yet, neither bytes nor the end.

        Read after the next request has been sent, it would pass for the answer to that.
        """
        try:
            self.stream.socket.recv(1)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return True  # what is there, if anything, is TLS's own affair
        except OSError:
            return False
        return False

    # The stream's Receiver

    def data_received(self, data: bytes) -> None:
        if self.holder is None:
            self.close()
        else:
            self.holder.data_received(data)

    def eof_received(self) -> None:
        if self.holder is not None:
            self.holder.eof_received()
        else:
            self.close()

    def connection_lost(self, error: BaseException | None) -> None:
        if self.holder is not None:
            self.holder.connection_lost(error)
        else:
            self.close()

    def drained(self) -> None:
        if self.holder is not None:
            self.holder.drained()


_numbers = itertools.count()


class Bucket:
    """The idle connections of one route, the one used last at the end."""

    __slots__ = ("idle", "is_known", "pool", "route")

    def __init__(self, pool: Pool, route: Route) -> None:
        self.pool = pool
        self.route = route
        self.idle: list[Connection] = []
        self.is_known = True  # to the pool, by its route

    def take(self, now: float) -> Connection | None:
        """The connection that was used last, None if there is none that still stands.

        `now` is in `time.monotonic`.
        """
        pool = self.pool
        idle = self.idle
        while idle:
            connection = idle[-1]
            if now - connection.looked_at > lookout.LOOK_LASTS:
                others = reversed(pool._idle) if len(pool._idle) > 1 else ()
                lookout.look(connection, others, now)
                if connection not in pool._idle:
                    continue  # it was closed
            idle.pop()
            del pool._idle[connection]
            if (
                # The timer may be late, and the connection be known to the peer no longer.
                now - connection.idle_since < pool.idle_seconds
                # No look sees what lies inside of OpenSSL.
                and not (connection.is_secure and connection.stream.hidden())
            ):
                return connection
            connection.close()
        return None


class Pool:
    """The connections of one client; at most `limit` idle, none for longer than `idle_seconds`.

    `live` are all that are open, in use or idle; `sessions` are those of TLS, to be resumed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        idle_seconds: float = MAX_IDLE_SECONDS,
    ) -> None:
        self._loop = loop
        self._limit = limit
        self.idle_seconds = idle_seconds
        self._buckets: dict[Route, Bucket] = {}
        # Longest idle first. Not a dict, in which the way to either end gets longer with each one
        # that is taken out.
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.live: set[Connection] = set()
        self.sessions = Sessions()

    def __len__(self) -> int:
        return len(self._idle)

    def bucket(self, route: Route) -> Bucket:
        """The bucket of a route, a new one if it has none."""
        found = self._buckets.get(route)
        if found is None:
            if len(self._buckets) > 2 * self._limit:
                # Routes come and go, with rotating proxies for one.
                for empty in [b for b in self._buckets.values() if not b.idle]:
                    empty.is_known = False
                    del self._buckets[empty.route]
            found = self._buckets[route] = Bucket(self, route)
        return found

    def give_back(self, connection: Connection, now: float) -> None:
        """Keep a connection for the next request on its route, from `now` on."""
        connection.holder = None
        if self._closed:
            connection.close()
            return
        bucket = connection.bucket
        if not bucket.is_known:
            bucket = connection.bucket = self.bucket(bucket.route)
        connection.idle_since = now
        connection.looked_at = 0.0
        bucket.idle.append(connection)
        self._idle[connection] = None
        if len(self._idle) > self._limit:
            next(iter(self._idle)).close()
        if self._timer is None:
            self._timer = self._loop.call_later(self.idle_seconds, self._expire)

    def forget(self, connection: Connection) -> None:
        """Take a connection out, for use or because it is closed; it may be out already."""
        if connection in self._idle:
            del self._idle[connection]
            idle = connection.bucket.idle
            if idle[-1] is connection:
                idle.pop()
            else:
                idle.remove(connection)

    def _expire(self) -> None:
        self._timer = None
        now = monotonic()
        while self._idle:
            oldest = next(iter(self._idle))
            left = oldest.idle_since + self.idle_seconds - now
            if left > 0:
                self._timer = self._loop.call_later(left, self._expire)
                return
            oldest.close()

    def close(self) -> None:
        """Close all connections, those in use too."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self.live):
            connection.close()
        self._buckets.clear()
        self.sessions.clear()
