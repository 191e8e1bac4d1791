"""A server connection, or a client's, with a plain socket at the other end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from iostream.support import Peer, tcp_pair, until
from whimbrel.http1connection import (
    HTTP1Connection,
    HTTP1ConnectionParameters,
    HTTP1ServerConnection,
)
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream

__all__ = ["Peer", "tcp_pair", "until"]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class Message(HTTPMessageDelegate):
    """Keeps what it is given; what happens then is set by the test."""

    connection: HTTP1Connection

    def __init__(self) -> None:
        self.heads: list[Any] = []
        self.headers = HTTPHeaders()
        self.pieces: list[bytes] = []
        self.finished = 0
        self.closed = 0

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def start_line(self) -> Any:
        return self.heads[-1]

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        self.heads.append(start_line)
        self.headers = headers

    def data_received(self, chunk: bytes) -> Any:
        self.pieces.append(chunk)

    def finish(self) -> None:
        self.finished += 1

    def on_connection_close(self) -> None:
        self.closed += 1


def answer(
    conn: HTTP1Connection,
    body: bytes = b"hello",
    code: int = 200,
    reason: str = "OK",
    **headers: str,
) -> None:
    """A whole response with a Content-Length."""
    fields = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
    fields["Content-Length"] = str(len(body))
    conn.write_headers(ResponseStartLine("HTTP/1.1", code, reason), fields, body)
    conn.finish()


class Answering(Message):
    """Answers when the request is whole."""

    def finish(self) -> None:
        super().finish()
        answer(self.connection)


@dataclass
class Served(HTTPServerConnectionDelegate):
    """What a server connection told its delegate, and the client's end of it."""

    peer: Peer
    stream: IOStream
    connection: HTTP1ServerConnection
    make: Callable[[], Message]
    requests: list[Any] = field(default_factory=list)
    closed: int = 0

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        assert server_conn is self.connection
        message = self.make()
        message.connection = request_conn
        self.requests.append(message)
        return message

    def on_close(self, server_conn: object) -> None:
        assert server_conn is self.connection
        self.closed += 1

    async def ask(self, request: bytes, size: int) -> bytes:
        """Send `request`; the `size` bytes that come back."""
        await self.peer.send(request)
        return await self.peer.receive(size)


@contextlib.asynccontextmanager
async def serve(make: Callable[[], Message] = Answering, **params: Any) -> AsyncIterator[Served]:
    """Serve one connection; `make` makes the delegate of each request."""
    ours, theirs = tcp_pair()
    stream = IOStream(ours)
    settings = HTTP1ConnectionParameters(**params)
    connection = HTTP1ServerConnection(stream, settings, context="the test")
    served = Served(Peer(theirs), stream, connection, make)
    connection.start_serving(served)
    try:
        yield served
    finally:
        await connection.close()
        served.peer.close()
        assert served.closed == 1


@contextlib.asynccontextmanager
async def client(**params: Any) -> AsyncIterator[tuple[HTTP1Connection, Peer]]:
    """A client's connection, and the server's end of it."""
    ours, theirs = tcp_pair()
    stream, peer = IOStream(ours), Peer(theirs)
    settings = HTTP1ConnectionParameters(**params)
    try:
        yield HTTP1Connection(stream, True, settings, context="the test"), peer
    finally:
        stream.close()
        peer.close()


def get(connection: HTTP1Connection, method: str = "GET", **headers: str) -> None:
    """Send a request without a body."""
    fields = HTTPHeaders({"Host": "test"})
    for name, value in headers.items():
        fields[name.replace("_", "-")] = value
    connection.write_headers(RequestStartLine(method, "/", ""), fields)
    connection.finish()
