"""What the proxies of `whimbrel.testing` share: credentials, a task per connection, tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import quote

from whimbrel.testing._channel import PIECE, leave
from whimbrel.testing._server import Limits, LoopbackServer

log = logging.getLogger("whimbrel.testing")

_CONNECT_SECONDS: Final = 10.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""The two directions of a connection."""


class ForwardingServer(LoopbackServer):
    """A proxy. A connection is one task, which owns its socket from the accept on, the TLS
    handshake included, so that ending the task ends the connection in every phase.

    Args:
        username, password: what clients must say; a `username` of None lets everybody through, a
            `password` of None is the empty one.
        ssl_context, limits, port: see `LoopbackServer`.
    """

    def __init__(
        self,
        username: str | None,
        password: str | None,
        *,
        ssl_context: SSLContext | None = None,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(ssl_context=ssl_context, limits=limits, port=port)
        self.tunnel_count = 0
        """Tunnels established so far."""
        self.refused_count = 0
        """Requests refused so far because of their credentials, or the lack of them."""
        self._username = username
        self._password = password or ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, socket.socket] = {}  # of tasks that have not begun, by number

    @property
    def url(self) -> str:
        """Where it listens, as a proxy URL without credentials."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def url_with_credentials(self) -> str:
        """`url` with user name and password, percent-encoded; `url` when it asks for none."""
        if self._username is None:
            return self.url
        user, password = quote(self._username, safe=""), quote(self._password, safe="")
        return f"{self.scheme}://{user}:{password}@{self.host}:{self.port}"

    async def _close(self) -> None:
        await super()._close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, near: Streams, number: int) -> None:
        """Serve a client, on connection `number`; an OSError ends it quietly."""
        raise NotImplementedError

    def _adopt(self, sock: socket.socket, address: Any, number: int) -> None:
        self._waiting[number] = sock
        task = asyncio.create_task(self._own(number))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, number))

    def _ended(self, task: asyncio.Task[None], number: int) -> None:
        self._tasks.discard(task)
        if number in self._waiting:  # cancelled before it began
            self._waiting.pop(number).close()
        self._gone()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: a connection failed", type(self).__name__, exc_info=error)

    async def _own(self, number: int) -> None:
        sock = self._waiting.pop(number)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=PIECE, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._ssl_context
            )
        except OSError as error:  # the peer left at once, or its TLS handshake failed
            log.debug("%s: no connection: %s", type(self).__name__, error)
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            # The peer vanished, or was late (TimeoutError is an OSError).
            with contextlib.suppress(OSError):
                await self._serve((reader, writer), number)
            await leave(writer)
        finally:
            # No effect after an orderly close; after a cancellation the socket goes at once.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def connect(host: str, port: int) -> Streams:
    """Connect to a name or an address, each of its addresses in turn, for ten seconds in all.

    Raises:
        OSError: the error of the last address; socket.gaierror where there is none.
        OverflowError, UnicodeError: no such port, or a name that is none.
    """
    async with asyncio.timeout(_CONNECT_SECONDS):
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for _, _, _, _, address in found[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*address[:2], limit=PIECE)
        return await asyncio.open_connection(*found[-1][4][:2], limit=PIECE)


async def relay(near: Streams, far: Streams) -> None:
    """Be blind, both ways, until both sides have ended, or one has broken."""
    try:
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(_pump(near[0], far[1]))
            pumps.create_task(_pump(far[0], near[1]))
    except* OSError:
        pass  # whoever owns the connections breaks the other


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()  # TLS knows no half-close


async def drop(writer: asyncio.StreamWriter) -> None:
    """Close in order, or at once where this task is cancelled."""
    try:
        await leave(writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
