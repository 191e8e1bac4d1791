"""The classes on their own: a client and a server written with nothing else of the library."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from conftest import Certificates
from whimbrel.http1connection import HTTP1Connection, HTTP1ServerConnection
from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream, SSLIOStream

from .support import GET, HELLO, Answering, Peer, tcp_pair


class Upcase(HTTPMessageDelegate):
    """Sends the body back in capitals, piece by piece; or speaks lines, if asked to."""

    def __init__(self, connection: HTTPConnection, tasks: set[asyncio.Task[None]]) -> None:
        self.connection: Any = connection
        self.tasks = tasks

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        if headers.get("Upgrade") == "lines":
            switching = ResponseStartLine("HTTP/1.1", 101, "Switching Protocols")
            fields = HTTPHeaders({"Connection": "Upgrade", "Upgrade": "lines"})
            self.connection.write_headers(switching, fields)
            task = asyncio.create_task(self.speak_lines(self.connection.detach()))
            self.tasks.add(task)
            return
        fields = HTTPHeaders({"X-Path": start_line.path})
        self.connection.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), fields)

    async def data_received(self, chunk: bytes) -> None:
        await self.connection.write(chunk.upper())

    def finish(self) -> None:
        self.connection.finish()

    async def speak_lines(self, stream: IOStream) -> None:
        while (line := await stream.read_until(b"\n")) != b"bye\n":
            await stream.write(line.upper())
        stream.close()


class Server(HTTPServerConnectionDelegate):
    """Accepts on a socket of its own."""

    def __init__(self, context: Any = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.context = context
        self.connections: set[object] = set()
        self.tasks: set[asyncio.Task[None]] = {asyncio.create_task(self.accept())}

    async def accept(self) -> None:
        while True:
            sock, address = await asyncio.get_running_loop().sock_accept(self.listener)
            stream = IOStream(sock)
            if self.context is not None:
                stream = await stream.start_tls(True, self.context)
            connection = HTTP1ServerConnection(stream, context=address)
            self.connections.add(connection)
            connection.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> Upcase:
        return Upcase(request_conn, self.tasks)

    def on_close(self, server_conn: object) -> None:
        self.connections.remove(server_conn)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for connection in list(self.connections):
            await connection.close()  # type: ignore[attr-defined]
        self.listener.close()
        assert not self.connections


class Collect(HTTPMessageDelegate):
    """Keeps a response."""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        self.code = start_line.code
        self.headers = headers
        self.body = b""

    def data_received(self, chunk: bytes) -> None:
        self.body += chunk


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_and_a_server_of_one_s_own_speak_http_and_then_something_else(
    tls: bool, certificates: Certificates
) -> None:
    server = Server(certificates.server_context() if tls else None)
    stream: IOStream
    if tls:
        stream = SSLIOStream(socket.socket(), ssl_options={"ca_certs": certificates.ca_file})
    else:
        stream = IOStream(socket.socket())
    await stream.connect(server.listener.getsockname(), server_hostname="localhost")
    connection = HTTP1Connection(stream, is_client=True)

    for number in range(3):
        start_line = RequestStartLine("POST", f"/{number}", "HTTP/1.1")
        await connection.write_headers(start_line, HTTPHeaders({"Host": "localhost"}))
        for _ in range(10):
            await connection.write(b"some text " * 1000)
        connection.finish()
        response = Collect()
        assert await connection.read_response(response) is True
        assert response.code == 200
        assert response.headers["X-Path"] == f"/{number}"
        assert response.body == b"SOME TEXT " * 10_000

    class Switch(Collect):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            super().headers_received(start_line, headers)
            connection.detach()

    fields = {"Host": "localhost", "Connection": "upgrade", "Upgrade": "lines"}
    connection.write_headers(RequestStartLine("GET", "/", ""), HTTPHeaders(fields))
    connection.finish()
    response = Switch()
    assert await connection.read_response(response) is False
    assert response.code == 101
    await stream.write(b"hello\n")
    assert await stream.read_until(b"\n") == b"HELLO\n"
    await stream.write(b"bye\n")
    assert await stream.read_until_close() == b""
    await server.close()
    stream.close()


async def test_one_request_can_be_served_without_a_server_connection() -> None:
    ours, theirs = tcp_pair()
    peer, stream = Peer(theirs), IOStream(ours)
    for _ in range(2):
        connection = HTTP1Connection(stream, False)
        message = Answering()
        message.connection = connection
        reading = connection.read_response(message)
        with pytest.raises(RuntimeError, match="being read"):
            connection.read_response(message)
        await peer.send(GET)
        assert await peer.receive(len(HELLO)) == HELLO
        assert await reading is True
        assert not stream.closed()
        assert message.finished == 1
        with pytest.raises(RuntimeError, match="has had its request"):
            connection.read_response(message)
    connection = HTTP1Connection(stream, False)
    message = Answering()
    message.connection = connection
    reading = connection.read_response(message)
    await peer.send(b"GET / HTTP/1.0\r\n\r\n")
    assert await peer.receive_all() == HELLO
    peer.close()
    assert await reading is False
    assert stream.closed()
