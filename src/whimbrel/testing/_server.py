"""What the servers of `whimbrel.testing` share: accepting, limiting, counting, recording."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

log = logging.getLogger("whimbrel.testing")

RECORDED_REQUESTS: Final = 1000
RECORDED_BODY: Final = 64 * 1024

_ACCEPT_RETRY_SECONDS: Final = 0.05
_ACCEPTS_PER_WAKE_UP: Final = 64

Fields = Sequence[tuple[str, str]]
"""Header fields as pairs of name and value, decoded as Latin-1."""


@dataclass(frozen=True)
class Limits:
    """What a server of this package puts up with.

    Attributes:
        head: bytes of a start line with its header fields.
        body: bytes of a request's body. A proxy does not store bodies and has no use for it.
        request_time: seconds for a request's head to arrive, and for its body; an idle connection
            is closed after as long. 0 or less is not "none".
        connections: open at once; the next ones wait in the listening socket's backlog.
    """

    head: int = 64 * 1024
    body: int = 64 * 1024 * 1024
    request_time: float = 60.0
    connections: int = 2048


@dataclass(frozen=True)
class RequestHead:
    """A request's start line and header fields.

    Attributes:
        method: as sent, case included.
        target: the request target as sent: a path with its query, an absolute URL, or host:port.
        version: "1.0" or "1.1".
        fields: header fields in the order in which they came.
    """

    method: str
    target: str
    version: str
    fields: Fields

    def get_all(self, name: str) -> list[str]:
        """Every value of the field called `name` (case-insensitive), in order."""
        wanted = name.lower()
        return [value for field, value in self.fields if field.lower() == wanted]

    def get(self, name: str) -> str | None:
        """The only value of the field called `name`; several are joined by ", " (RFC 9110 5.3)."""
        values = self.get_all(name)
        return ", ".join(values) if values else None


@dataclass(frozen=True, repr=False)
class RecordedRequest(RequestHead):
    """A request as a server received it.

    Attributes:
        body: its first 64 KiB (always `b""` at a proxy, which stores none).
        body_size: its full length in bytes, or -1 at a proxy.
        connection: the number of the connection it came on, from 1.
    """

    body: bytes = field(default=b"")
    body_size: int = 0
    connection: int = 0

    def __repr__(self) -> str:
        # Header values and bodies hold credentials; a failing test prints this.
        return f"<RecordedRequest {self.method} {self.target} on connection {self.connection}>"


class Refusal(Exception):
    """A request that is understood and not carried out; `status` is the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LoopbackServer:
    """A listening socket on 127.0.0.1; see the subclasses.

    Use it as an async context manager, or call `start()` and `close()`; `threaded` of
    `whimbrel.testing` runs it where no loop runs.

    Args:
        ssl_context: a server-side context; None speaks plain TCP.
        limits: see `Limits`.
        port: the TCP port to listen on; 0 is a free one.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        self.limits = limits or Limits()
        self.connection_count = 0
        """Connections accepted so far."""
        self.request_count = 0
        """Requests received so far: whole ones at an origin, their heads at a proxy."""
        self.open_connections = 0
        """Connections open at this moment."""
        self.requests: deque[RecordedRequest] = deque(maxlen=RECORDED_REQUESTS)
        """The latest requests, oldest first; at most 1,000 are kept."""
        self._ssl_context = ssl_context
        self._wanted_port = port
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # from start() on
        self._listener: socket.socket | None = None
        self._watching = False
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def port(self) -> int:
        """The TCP port it listens on.

        Raises:
            RuntimeError: it was not started.
        """
        if not self._port:
            raise RuntimeError(f"{type(self).__name__} was not started")
        return self._port

    @property
    def scheme(self) -> str:
        """ "https" with TLS, else "http"."""
        return "https" if self._ssl_context else "http"

    @property
    def host(self) -> str:
        """How clients should name it: "localhost" with TLS, else "127.0.0.1"."""
        return "localhost" if self._ssl_context else "127.0.0.1"

    def __repr__(self) -> str:
        where = f"{self.scheme}://{self.host}:{self._port}" if self._port else "not started"
        return f"<{type(self).__name__} {where}{', closed' * self._is_closed}>"

    async def start(self) -> Self:
        """Listen on 127.0.0.1.

        Raises:
            RuntimeError: it was started before.
            OSError: the port cannot be had.
        """
        if self._loop is not None:
            raise RuntimeError(f"{type(self).__name__} was started before")
        self._listener = socket.create_server(("127.0.0.1", self._wanted_port), backlog=1024)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._watch()
        return self

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent, and allowed on any loop."""
        if self._loop is None or self._is_closed:
            return
        if self._loop is asyncio.get_running_loop():
            await self._close()
        else:
            done = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            await asyncio.wrap_future(done)
        self._is_closed = True

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _close(self) -> None:
        """What `close` does, on the server's loop."""
        self._look_away()
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _adopt(self, sock: socket.socket, address: Any, number: int) -> None:
        """Take over a connection, the `number`-th; `_gone` is to be called once, at its end."""
        raise NotImplementedError

    def _gone(self) -> None:
        """A connection has ended: another may be accepted."""
        self.open_connections -= 1
        self._watch()

    def _record(self, head: RequestHead, connection: int, body: bytes, size: int) -> None:
        """Count a request that came on connection number `connection`, and remember it."""
        self.request_count += 1
        self.requests.append(
            RecordedRequest(
                head.method,
                head.target,
                head.version,
                tuple(head.fields),
                body[:RECORDED_BODY],
                size,
                connection,
            )
        )

    # Accepting, by a reader of our own: loop.sock_accept(), cancelled while a connection is being
    # accepted, loses its socket.

    @property
    def _has_room(self) -> bool:
        return self.open_connections < self.limits.connections

    def _watch(self) -> None:
        """Look for connections, as long as there is room, and none has just failed."""
        if self._watching or self._listener is None or self._retry is not None:
            return
        if self._has_room and self._loop is not None:
            self._loop.add_reader(self._listener, self._accept)
            self._watching = True

    def _look_away(self) -> None:
        if self._watching and self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener)
        self._watching = False

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE_UP):
            if self._listener is None:
                return
            if not self._has_room:
                self._look_away()
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors, most likely: others may be closed soon
                log.warning("cannot accept a connection: %s", error)
                self._look_away()
                assert self._loop is not None
                self._retry = self._loop.call_later(_ACCEPT_RETRY_SECONDS, self._try_again)
                return
            sock.setblocking(False)
            self.connection_count += 1
            self.open_connections += 1
            self._adopt(sock, address, self.connection_count)

    def _try_again(self) -> None:
        self._retry = None
        self._watch()
