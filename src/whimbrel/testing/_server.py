"""What the servers of `whimbrel.testing` share: accepting, limiting, ending.

1. A connection is one task. It owns its socket from the accept on, the TLS handshake included, so
   that ending the task ends the connection in every phase.
2. `close()` returns when no task and no socket is left.
3. Two counters tell tests what clients did: connections accepted, requests received.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from whimbrel.testing._wire import (
    PIECE,
    Limits,
    MessageError,
    RequestHead,
    encode_head,
    reason_phrase,
)

log = logging.getLogger("whimbrel.testing")

RECORDED_REQUESTS: Final = 1000
RECORDED_BODY: Final = 64 * 1024

_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024
_CLOSE_SECONDS: Final = 1.0
_ACCEPT_RETRY_SECONDS: Final = 0.05


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


class Connection:
    """One accepted connection: its streams, its number, and how it is left.

    Attributes:
        number: 1 for the server's first connection, and so on.
        reader, writer: the streams, above TLS where there is TLS.
    """

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write `data` and wait while the peer is slow.

        Raises:
            ConnectionError: the peer is gone.
        """
        self.writer.write(data)
        await self.writer.drain()

    async def refuse(self, error: MessageError) -> None:
        """Answer a request that cannot be understood and end the connection."""
        await self.send(
            encode_head(
                f"HTTP/1.1 {error.status} {reason_phrase(error.status)}",
                [("Content-Length", "0"), ("Connection", "close")],
            )
        )
        await self.linger()

    def reset(self) -> None:
        """Break the connection so that the peer cannot take it for an orderly end (RST)."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def linger(self) -> None:
        """Half-close, then swallow a bounded rest of what the peer still sends.

        Closing a socket with unread data resets it, and the reset may overtake the answer
        (RFC 9112 section 9.6).
        """
        if not self.writer.can_write_eof():  # TLS
            return
        self.writer.write_eof()
        room = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while room > 0 and (piece := await self.reader.read(PIECE)):
                    room -= len(piece)


class LoopbackServer:
    """A listening socket on 127.0.0.1 and a task for every connection; see the subclasses.

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
        """Requests whose head was read and accepted so far."""
        self.requests: deque[RecordedRequest] = deque(maxlen=RECORDED_REQUESTS)
        """The latest requests, oldest first; at most 1,000 are kept."""
        self._ssl_context = ssl_context
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
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

    @property
    def open_connections(self) -> int:
        """Connections open at this moment."""
        return len(self._tasks)

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def serve(self, connection: Connection) -> None:
        """Speak on one connection until it should end.

        Raises:
            MessageError: answered with its status before the connection is closed.
            OSError, asyncio.IncompleteReadError: the peer vanished or was late; no error here.
        """
        raise NotImplementedError

    def record(self, head: RequestHead, connection: Connection, body: bytes, size: int) -> None:
        """Count a request and remember it."""
        self.request_count += 1
        self.requests.append(
            RecordedRequest(
                head.method,
                head.target,
                head.version,
                tuple(head.fields),
                body[:RECORDED_BODY],
                size,
                connection.number,
            )
        )

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, most likely: others may be closed soon
                self._room.release()
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            self.connection_count += 1
            task = asyncio.create_task(self._own(sock, self.connection_count))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: a connection failed", type(self).__name__, exc_info=error)

    async def _own(self, sock: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self.limits.head, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                _always(protocol), sock, ssl=self._ssl_context
            )
        except OSError as error:  # the peer left at once, or its TLS handshake failed
            log.debug("%s: no connection: %s", type(self).__name__, error)
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = Connection(number, reader, writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                try:
                    await self.serve(connection)
                except MessageError as error:
                    log.debug("%s: %s", type(self).__name__, error)
                    await connection.refuse(error)
            await leave(writer)
        finally:
            # No effect after an orderly close; after a cancellation the socket goes at once.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def leave(writer: asyncio.StreamWriter) -> None:
    """Close in order, and abort when the peer does not take what was written within a second."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await writer.wait_closed()
    except OSError:  # TimeoutError included
        writer.transport.abort()


def _always(protocol: asyncio.StreamReaderProtocol) -> Callable[[], asyncio.StreamReaderProtocol]:
    return lambda: protocol
