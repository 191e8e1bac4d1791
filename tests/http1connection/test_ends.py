"""How connections end: a body cut short, a tunnel, a failure, a peer that does nothing."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import Certificates, StrayLogs
from whimbrel.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream, StreamClosedError

from .support import (
    GET,
    HELLO,
    Answering,
    Message,
    Peer,
    answer,
    client,
    get,
    serve,
    tcp_pair,
    until,
)

OK = ResponseStartLine("", 200, "OK")
POST = b"POST / HTTP/1.1\r\nHost: test\r\n"
BIG = b"0123456789abcdef" * 1_000_000


class Later(Message):
    """Answers when the test says so."""


# -- a body that ends with its connection, cut short


class Begun(Message):
    """Begins a response, and goes on when the test says so."""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        super().headers_received(start_line, headers)
        self.connection.write_headers(OK, HTTPHeaders(), b"half of it")


class Serving(HTTPServerConnectionDelegate):
    """Makes one delegate for the one request."""

    def __init__(self) -> None:
        self.message = Begun()

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        self.message.connection = request_conn
        return self.message


@contextlib.asynccontextmanager
async def both_ends(
    tls: bool, certificates: Certificates, **params: Any
) -> AsyncIterator[tuple[HTTP1ServerConnection, Serving, IOStream]]:
    """A server's connection, plain or over TLS, what it serves, and the client's stream."""
    ours, theirs = tcp_pair()
    streams: list[IOStream] = [IOStream(ours), IOStream(theirs)]
    if tls:
        streams = list(
            await asyncio.gather(
                streams[0].start_tls(True, certificates.server_context()),
                streams[1].start_tls(False, {"ca_certs": certificates.ca_file}, "localhost"),
            )
        )
    connection = HTTP1ServerConnection(streams[0], HTTP1ConnectionParameters(**params))
    serving = Serving()
    connection.start_serving(serving)
    try:
        yield connection, serving, streams[1]
    finally:
        await connection.close()
        streams[1].close()


@pytest.mark.parametrize(
    ("how", "tls"),
    [
        ("close", False),
        ("close", True),
        ("body_timeout", False),
        ("body_timeout", True),
        ("unsent", False),
        ("unsent", True),
        ("half-close", False),  # which ends both directions of TLS
    ],
)
async def test_a_body_cut_short_does_not_pass_for_a_whole_one(
    how: str, tls: bool, certificates: Certificates
) -> None:
    """Where the connection's end is the body's end, only a reset tells of the difference."""
    params = {"body_timeout": 0.1} if how == "body_timeout" else {}
    async with both_ends(tls, certificates, **params) as (connection, serving, stream):
        request = b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n"
        await stream.write(request + (b"x" if how == "body_timeout" else b"xx"))
        await until(lambda: serving.message.heads)
        if how == "close":
            await connection.close()
        elif how == "half-close":
            stream.socket.shutdown(socket.SHUT_WR)
        elif how == "unsent":
            await until(lambda: serving.message.finished)
            serving.message.connection.write(BIG)
            serving.message.connection.finish()
            assert connection.stream.unsent
            await connection.close()
        # Below TLS, whose closing alert not everybody looks for.
        with (
            socket.socket(fileno=os.dup(stream.fileno())) as below,
            pytest.raises(ConnectionResetError),
        ):
            await Peer(below).receive_all()


async def test_a_whole_body_is_whole_though_the_connection_is_closed_behind_it() -> None:
    async with serve(Later) as served:
        await served.peer.send(b"GET / HTTP/1.0\r\n\r\n")
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        connection.write_headers(OK, HTTPHeaders(), b"all of it")
        connection.finish()
        connection.close()
        assert (await served.peer.receive_all()).endswith(b"all of it")


# -- another protocol


class Tunnel(Message):
    """Answers CONNECT; `then` is what it does after that."""

    then = "finish"
    error: Exception | None = None

    def finish(self) -> None:
        super().finish()
        fields = HTTPHeaders({"Content-Length": "5", "Transfer-Encoding": "chunked"})
        del fields["Content-Length" if self.then == "chunked" else "Transfer-Encoding"]
        self.connection.write_headers(ResponseStartLine("", 200, "Connected"), fields)
        if self.then == "write":
            with pytest.raises(HTTPOutputError, match="detach") as caught:
                self.connection.write(b"hello")
            self.error = caught.value
        else:
            self.connection.finish()


@pytest.mark.parametrize("then", ["finish", "chunked"])
@pytest.mark.parametrize("no_keep_alive", [False, True])
async def test_a_tunnel_has_no_framing_and_without_detach_the_connection_ends(
    then: str, no_keep_alive: bool
) -> None:
    """RFC 9110 section 9.3.6: no Content-Length, no Transfer-Encoding."""
    tunnel = type("Made", (Tunnel,), {"then": then})
    async with serve(tunnel, no_keep_alive=no_keep_alive) as served:
        await served.peer.send(b"CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n")
        assert await served.peer.receive_all() == b"HTTP/1.1 200 Connected\r\n\r\n"
        await until(lambda: served.closed)


async def test_a_body_behind_the_head_of_a_tunnel_is_refused() -> None:
    async with serve(type("Made", (Tunnel,), {"then": "write"})) as served:
        await served.peer.send(b"CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n")
        assert b"hello" not in await served.peer.receive_all()
        await until(lambda: served.closed)
        assert served.requests[0].error is not None


async def test_a_refused_tunnel_is_a_response_as_any_other() -> None:
    class Refusing(Message):
        def finish(self) -> None:
            answer(self.connection, b"no", 403, "Forbidden")

    expected = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    async with serve(Refusing) as served:
        request = b"CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n"
        assert await served.ask(request * 2, 2 * len(expected)) == expected * 2


async def test_a_tunnel_is_detached_with_what_came_behind_its_request() -> None:
    class Detaching(Message):
        stream: IOStream

        def finish(self) -> None:
            self.connection.write_headers(ResponseStartLine("", 200, "OK"), HTTPHeaders())
            self.stream = self.connection.detach()

    async with serve(Detaching) as served:
        request = b"CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n"
        assert await served.ask(request + b"tunnelled", 19) == b"HTTP/1.1 200 OK\r\n\r\n"
        stream = served.requests[0].stream
        assert await stream.read_bytes(9) == b"tunnelled"
        stream.close()


# -- delegates that fail


@pytest.mark.parametrize(
    "how", ["a cancelled future", "a cancelled task", "raised", "raised later", "at the end"]
)
async def test_a_cancellation_is_a_delegate_s_failure(how: str, stray_logs: StrayLogs) -> None:
    """It is logged and closes this connection; nothing of it reaches the loop."""
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    class Cancelled(Message):
        def data_received(self, chunk: bytes) -> Any:
            super().data_received(chunk)
            if how == "a cancelled future":
                future = loop.create_future()
                loop.call_soon(future.cancel)
                return future
            if how == "a cancelled task":
                task = asyncio.ensure_future(asyncio.sleep(60))
                loop.call_soon(task.cancel)
                return task
            if how == "raised later":
                return self.raising()
            if how == "raised":
                raise asyncio.CancelledError
            return None

        async def raising(self) -> None:
            raise asyncio.CancelledError

        def on_connection_close(self) -> None:
            super().on_connection_close()
            if how == "at the end":
                raise asyncio.CancelledError

    async with serve(Cancelled) as served:
        await served.peer.send(POST + b"Content-Length: 2\r\n\r\nx")
        await until(lambda: served.requests and served.requests[0].pieces)
        if how == "at the end":
            served.peer.close()
        else:
            assert await served.peer.receive_all() == b""
        await until(lambda: served.closed)
        assert served.requests[0].closed == 1
    assert contexts == []
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception of a delegate")


@pytest.mark.parametrize("error", [LookupError("of the test"), StreamClosedError()])
async def test_what_a_delegate_raises_after_the_end_is_logged(
    error: Exception, stray_logs: StrayLogs
) -> None:
    """Except that the stream is closed, which is no news."""
    gate = asyncio.Event()
    done: list[object] = []

    class Slow(Message):
        async def data_received(self, chunk: bytes) -> None:
            super().data_received(chunk)
            await gate.wait()
            done.append(self)
            raise error

    async with serve(Slow) as served:
        await served.peer.send(POST + b"Content-Length: 2\r\n\r\nx")
        await until(lambda: served.requests and served.requests[0].pieces)
        await served.connection.close()
        gate.set()
        await until(lambda: done)
        await asyncio.sleep(0)
    if isinstance(error, LookupError):
        stray_logs.expect("whimbrel.http1connection", "Uncaught exception of a delegate")


# -- time


async def test_body_timeout_does_not_count_while_the_delegate_works() -> None:
    class Working(Answering):
        async def data_received(self, chunk: bytes) -> None:
            super().data_received(chunk)
            await asyncio.sleep(0.15)

    async with serve(Working, body_timeout=0.25, chunk_size=1) as served:
        request = POST + b"Content-Length: 4\r\n\r\n"
        assert await served.ask(request + b"body", len(HELLO)) == HELLO
        # When the delegate is done it counts again.
        await served.peer.send(request + b"bod")
        began = time.monotonic()
        assert await served.peer.receive_all() == b""
        assert time.monotonic() - began >= 0.55
        assert served.requests[1].body == b"bod"


async def test_set_body_timeout_counts_from_the_end_of_the_delegate_s_work() -> None:
    class Working(Answering):
        async def data_received(self, chunk: bytes) -> None:
            super().data_received(chunk)
            self.connection.set_body_timeout(0.05)
            await asyncio.sleep(0.15)

    async with serve(Working) as served:
        await served.peer.send(POST + b"Content-Length: 4\r\n\r\nbo")
        began = time.monotonic()
        assert await served.peer.receive_all() == b""
        assert time.monotonic() - began >= 0.19


async def test_a_client_that_stops_reading_its_response_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "whimbrel.http1connection"):
        async with serve(Later, idle_timeout=0.1) as served:
            await served.peer.send(GET)
            await until(lambda: served.requests and served.requests[0].finished)
            connection = served.requests[0].connection
            connection.write_headers(OK, HTTPHeaders({"Content-Length": str(len(BIG))}))
            write = connection.write(BIG)
            with pytest.raises(StreamClosedError) as caught:
                await write
            assert isinstance(caught.value.real_error, TimeoutError)
            await until(lambda: served.closed)
    assert caplog.messages == ["Timeout sending to the test"]


async def test_a_client_that_reads_slowly_is_not_closed() -> None:
    class Large(Message):
        def finish(self) -> None:
            answer(self.connection, BIG * 4)

    async with serve(Large, idle_timeout=0.4) as served:
        received = await served.ask(GET, 100)
        for _ in range(10):
            await asyncio.sleep(0.1)
            received += await served.peer.receive(1_000_000)
        assert served.stream.unsent
        body = received.partition(b"\r\n\r\n")[2]
        body += await served.peer.receive(len(BIG) * 4 - len(body))
        assert body == BIG * 4


async def test_idle_timeout_0_lets_a_response_wait() -> None:
    class Large(Message):
        def finish(self) -> None:
            answer(self.connection, BIG)

    async with serve(Large, idle_timeout=0) as served:
        await served.peer.send(GET)
        await until(lambda: served.stream.unsent)
        await asyncio.sleep(0.1)
        assert not served.stream.closed()


# -- what is not waited for, and what may change


async def test_a_read_that_is_cancelled_closes_the_connection() -> None:
    """Else its response would be taken for the next one's, or the next wait for ever."""
    async with client() as (connection, _):
        get(connection)
        message = Message()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.read_response(message)
        with pytest.raises(StreamClosedError):
            await connection.read_response(Message())
        assert connection.stream.closed()
    async with client() as (connection, peer):
        get(connection)
        reading = connection.read_response(Message())
        await peer.receive(len(GET))
        reading.cancel()
        again = connection.read_response(Message())  # before the loop has had its turn
        with pytest.raises(StreamClosedError):
            await again


@pytest.mark.parametrize("kind", ["bytearray", "memoryview", "two bytes each"])
async def test_what_was_written_is_not_changed_by_what_becomes_of_the_buffer(kind: str) -> None:
    async with client() as (connection, peer):
        size = len(BIG) + 8
        fields = HTTPHeaders({"Host": "test", "Content-Length": str(size)})
        connection.write_headers(RequestStartLine("POST", "/", ""), fields, BIG)
        assert connection.stream.unsent
        buffer: Any = bytearray(b"original")
        if kind == "two bytes each":
            buffer = array.array("H", bytes(buffer))
        chunk: Any = buffer if kind == "bytearray" else memoryview(buffer)
        connection.write(chunk)
        connection.finish()
        buffer[0] = 0
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
        received = await peer.receive(len(head) + size)
        assert received.startswith(head)
        assert received.endswith(b"original")
