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

    Use it as an async context manager, or call `start()` and `close()`.

    Args:
        ssl_context: a server-side context; None speaks plain TCP.
        limits: see `Limits`.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, limits: Limits | None = None
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
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(self.limits.connections)
        self._port = 0

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

    async def start(self) -> Self:
        """Listen on a free port of 127.0.0.1.

        Raises:
            RuntimeError: it was started before.
        """
        if self._listener is not None or self._port:
            raise RuntimeError(f"{type(self).__name__} was started before")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener))
        return self

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent."""
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait([accepting])
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _adopt(self, sock: socket.socket, address: Any, number: int) -> None:
        """Take over a connection, the `number`-th; `_gone` is to be called once, at its end."""
        raise NotImplementedError

    def _gone(self) -> None:
        """A connection has ended: another may be accepted."""
        self.open_connections -= 1
        self._room.release()

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

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, most likely: others may be closed soon
                self._room.release()
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            self.connection_count += 1
            self.open_connections += 1
            self._adopt(sock, address, self.connection_count)
