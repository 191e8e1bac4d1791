"""Connections made by hand: a route, a resolver, and what `connect` makes of them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from whimbrel._policy.exchange import Exchange, prepare
from whimbrel._simple.connect import Connected, connect
from whimbrel._simple.resolve import Address, Addresses, Resolver
from whimbrel._simple.route import Progress, route_of
from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Handler, Peer


def exchange_of(url: str, **options: Any) -> Exchange:
    """The exchange of a request with these parameters."""
    return prepare({"url": url, "user_agent": "test/1", "max_body_size": 0, **options})


class Names:
    """A look-up that knows these names and no other."""

    def __init__(self, **addresses: str) -> None:
        self._addresses = addresses

    def __call__(self, host: str, family: int) -> Addresses:
        known = self._addresses.get(host.replace(".", "_"))
        if known is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = tuple(
            Address(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
            for text in known.split()
        )
        return tuple(a for a in found if family in (socket.AF_UNSPEC, a.family))


class Connector:
    """Makes connections, as a client does, and closes them all at the end."""

    def __init__(self) -> None:
        self.resolver = Resolver()
        self.progress: Progress | None = None
        """Of the last connection."""
        self._made: list[Connected] = []

    def names(self, **addresses: str) -> None:
        """Know these names only; "name_test" stands for name.test, several addresses by spaces."""
        self.resolver.close()
        self.resolver = Resolver(Names(**addresses))

    async def connect(
        self,
        url: str,
        *,
        exchange: Exchange | None = None,
        **options: Any,
    ) -> Connected:
        exchange = exchange or exchange_of(url, **options)
        route = route_of(exchange)
        self.progress = Progress(route)
        self._made.append(await connect(route, exchange, self.resolver, self.progress))
        return self._made[-1]

    async def error(self, url: str, **options: Any) -> HTTPError:
        """The error that the connection fails with."""
        try:
            await self.connect(url, **options)
        except HTTPError as error:
            return error
        raise AssertionError("the connection was made")

    async def timeout_error(self, url: str, seconds: float, **options: Any) -> HTTPError:
        """The error of a connection that is cancelled after so many seconds."""
        exchange = exchange_of(url, **options)
        task = asyncio.ensure_future(self.connect(url, exchange=exchange))
        done, _ = await asyncio.wait([task], timeout=seconds)
        assert not done, task
        assert self.progress is not None
        error = self.progress.timeout_error(exchange)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return error

    def close(self) -> None:
        self.resolver.close()
        for made in self._made:
            made.stream.close()
        self._made.clear()


def tunnel_to(port: int) -> Handler:
    """A proxy whose CONNECT always leads to this port of 127.0.0.1.

    The origin is a server of its own: asyncio's TLS in TLS, on the server's side, cannot be
    aborted in Python 3.11.
    """

    async def copy_to(writer: asyncio.StreamWriter, peer: Peer) -> None:
        while True:
            writer.write(await peer.read_some())
            await writer.drain()

    async def copy_from(reader: asyncio.StreamReader, peer: Peer) -> None:
        while data := await reader.read(65536):
            await peer.send(data)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tasks: list[asyncio.Future[None]] = []
        try:
            await peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            tasks.append(asyncio.ensure_future(copy_to(writer, peer)))
            tasks.append(asyncio.ensure_future(copy_from(reader, peer)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            for task in tasks:
                task.cancel()
            # Either end may be reset while there is something on its way.
            await asyncio.gather(*tasks, return_exceptions=True)

    return handler
