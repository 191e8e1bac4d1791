"""A server under test, and a client that speaks byte by byte."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import Baseline
from whimbrel.httpserver import HTTPServer
from whimbrel.web import Application, RequestHandler

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"

_DATE = re.compile(
    rb"\r\nDate: (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3]\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
)
_VERSION = re.compile(rb"Server: whimbrel/\S+")


def without_date(response: bytes) -> bytes:
    """`response` with its Date, which must be there, taken out, and the version of Server."""
    found, count = _DATE.subn(b"", response)
    assert count == response.count(b"HTTP/1.1 "), response
    return _VERSION.sub(b"Server: whimbrel", found)


def get(target: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request with Host, `headers` ("Name: value"), and with Content-Length if it has a body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: example.com", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass(frozen=True)
class Response:
    """A response as it came: `head` with its blank line, and `body`, its chunks undone."""

    head: bytes
    body: bytes

    @property
    def code(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def reason(self) -> str:
        return self.head.partition(b"\r\n")[0].split(b" ", 2)[2].decode("latin-1")

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        found = re.findall(rb"(?im)^" + re.escape(name.encode()) + rb": (.*)\r$", self.head)
        return [value.decode("latin-1") for value in found]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) < 2, values
        return values[0] if values else None


class Wire:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, *, head: bool = False) -> Response:
        """Read one response; `head`: of a HEAD request."""
        block = await self.reader.readuntil(b"\r\n\r\n")
        response = Response(block, b"")
        if head or response.code in (204, 304) or response.code < 200:
            return response
        if response.value("Transfer-Encoding") == "chunked":
            return Response(block, b"".join([chunk async for chunk in self.chunks()]))
        length = response.value("Content-Length")
        if length is None:
            return Response(block, await self.reader.read())
        return Response(block, await self.reader.readexactly(int(length)))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a body, as they come."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ask(self, request: bytes, *, head: bool = False) -> Response:
        await self.send(request)
        return await self.response(head=head)

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # the server was faster, or rude

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.writer.transport.abort()


Serve = Callable[..., HTTPServer]
Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on free ports of 127.0.0.1; closed at the end, when nothing may be left.

    Takes what `HTTPServer` takes; a handler class becomes an application with that one handler.
    """
    baseline = Baseline.take()
    servers: list[HTTPServer] = []

    def start(program: Any, **kwargs: Any) -> HTTPServer:
        if isinstance(program, type) and issubclass(program, RequestHandler):
            program = Application([(r"/.*", program)])
        server = HTTPServer(program, **kwargs)
        servers.append(server)
        server.listen(0, "127.0.0.1")
        return server

    yield start
    for server in servers:
        server.stop()
        await server.close_all_connections()
    servers.clear()
    await baseline.restored()


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """Connect to a server; the connections are closed at the end."""
    wires: list[Wire] = []

    async def connect(server: HTTPServer, context: ssl.SSLContext | None = None) -> Wire:
        wire = Wire(
            *await asyncio.open_connection(
                "127.0.0.1",
                server.port,
                ssl=context,
                server_hostname=None if context is None else "localhost",
            )
        )
        wires.append(wire)
        return wire

    yield connect
    for wire in wires:
        await wire.close()
