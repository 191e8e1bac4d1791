"""HTTP1Connection as a client: what it writes, and how it reads responses."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from typing import Any

import pytest

from conftest import StrayLogs
from whimbrel.http1connection import HTTP1Connection
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import StreamClosedError

from .support import GET, HELLO, Message, client, get, until

POST = RequestStartLine("POST", "/path?x=1", "HTTP/1.1")
HOST = HTTPHeaders({"Host": "test"})
BIG = b"0123456789abcdef" * 100_000


async def respond(peer: Any, response: bytes, request: bytes = GET) -> None:
    """Read one request, byte for byte, and answer it."""
    assert await peer.receive(len(request)) == request
    await peer.send(response)


async def test_the_same_object_carries_exchange_after_exchange() -> None:
    async with client() as (connection, peer):
        for _ in range(3):
            get(connection)
            message = Message()
            reading = connection.read_response(message)
            await respond(peer, HELLO)
            assert await reading is True
            assert message.heads == [ResponseStartLine("HTTP/1.1", 200, "OK")]
            assert message.headers["Content-Length"] == "5"
            assert message.body == b"hello"
            assert (message.finished, message.closed) == (1, 0)


async def test_the_stream_is_free_after_the_response() -> None:
    async with client() as (connection, peer):
        get(connection)
        reading = connection.read_response(Message())
        await respond(peer, HELLO + b"more")
        assert await reading is True
        assert await connection.stream.read_bytes(4) == b"more"
        second = HTTP1Connection(connection.stream, True)
        get(second)
        reading = second.read_response(Message())
        await respond(peer, HELLO)
        assert await reading is True


async def test_a_response_that_came_before_it_was_asked_for_is_kept() -> None:
    async with client() as (connection, peer):
        get(connection)
        await respond(peer, HELLO)
        peer.close()
        await asyncio.sleep(0.02)
        message = Message()
        # The server has left: what it said first is whole nevertheless.
        assert await connection.read_response(message) is False
        assert message.body == b"hello"
        assert message.finished == 1


async def test_a_response_is_read_though_the_connection_was_reset_behind_it() -> None:
    async with client() as (connection, peer):
        get(connection)
        await respond(peer, HELLO)
        await until(lambda: connection._channel.protocol.buffered)
        peer.reset()
        await until(connection.stream.closed)
        await asyncio.sleep(0)
        message = Message()
        assert await connection.read_response(message) is False
        assert message.body == b"hello"


async def test_little_is_read_before_it_is_asked_for() -> None:
    async with client() as (connection, peer):
        get(connection)
        await peer.receive(len(GET))
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (10 * len(BIG))
        sending = asyncio.create_task(peer.send(head + BIG * 10))
        await until(lambda: connection._channel._held)
        await asyncio.sleep(0.05)
        assert not sending.done()
        message = Message()
        assert await connection.read_response(message) is True
        assert message.body == BIG * 10
        await sending


async def test_a_body_without_a_length_is_sent_in_chunks() -> None:
    head = b"POST /path?x=1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with client() as (connection, peer):
        connection.write_headers(POST, HOST, b"one")
        connection.write(b"three")
        connection.finish()
        expected = head + b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
        assert await peer.receive(len(expected)) == expected
        assert list(HOST) == ["Host"]


async def test_a_body_with_a_length_is_sent_as_it_is() -> None:
    async with client() as (connection, peer):
        fields = HTTPHeaders({"Host": "test", "Content-Length": "5"})
        connection.write_headers(POST, fields, b"he")
        connection.write(bytearray(b"llo"))  # type: ignore[arg-type]
        connection.finish()
        expected = b"POST /path?x=1 HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
        assert await peer.receive(len(expected)) == expected


async def test_a_block_that_is_encoded_already_may_be_written() -> None:
    async with client() as (connection, peer):
        connection.write(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")
        connection.finish()
        reading = connection.read_response(Message())
        await respond(peer, HELLO[:-5], GET.replace(b"GET", b"HEAD"))
        assert await reading is True  # it knows that the method was HEAD


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        ("GET\r\n", "/", {}),
        ("", "/", {}),
        ("GET", "/ HTTP/1.1\r\nX: y", {}),
        ("GET", "/\x00", {}),
        ("GET", "/", {"X": "y\r\nZ: z"}),
    ],
)
async def test_text_that_would_break_the_request_is_refused(
    method: str, target: str, fields: dict[str, str]
) -> None:
    async with client() as (connection, peer):
        with pytest.raises(HTTPOutputError) as caught:
            connection.write_headers(RequestStartLine(method, target, ""), HTTPHeaders(fields))
        assert isinstance(caught.value, ValueError)
        get(connection)
        assert await peer.receive(len(GET)) == GET


async def test_a_body_that_does_not_fit_its_length_closes_the_connection() -> None:
    fields = HTTPHeaders({"Host": "test", "Content-Length": "5"})
    async with client() as (connection, peer):
        connection.write_headers(POST, fields)
        with pytest.raises(HTTPOutputError, match="1 bytes longer than its Content-Length"):
            connection.write(b"longer")
        assert connection.stream.closed()
        assert not (await peer.receive_all()).endswith(b"longer")
    async with client() as (connection, peer):
        connection.write_headers(POST, fields, b"shor")
        with pytest.raises(HTTPOutputError, match="1 bytes shorter than its Content-Length"):
            connection.finish()
        assert connection.stream.closed()


async def test_a_second_request_before_the_response_is_refused() -> None:
    async with client() as (connection, _):
        get(connection)
        with pytest.raises(HTTPOutputError):
            get(connection)
        connection.read_response(Message())
        with pytest.raises(RuntimeError, match="being read already"):
            connection.read_response(Message())


@pytest.mark.parametrize(
    ("response", "body", "open_after"),
    [
        (HELLO, b"hello", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
            b"hello",
            True,
        ),
        (HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"hello", False),
        (HELLO.replace(b"1.1", b"1.0"), b"hello", False),
        (
            HELLO.replace(b"1.1", b"1.0").replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n"),
            b"hello",
            True,
        ),
    ],
)
async def test_read_response_tells_whether_the_stream_is_still_open(
    response: bytes, body: bytes, open_after: bool
) -> None:
    async with client() as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, response)
        assert await reading is open_after
        assert connection.stream.closed() is not open_after
        assert message.body == body
        assert (message.finished, message.closed) == (1, 0)


async def test_no_keep_alive_closes_after_the_response() -> None:
    async with client(no_keep_alive=True) as (connection, peer):
        get(connection)
        reading = connection.read_response(Message())
        await respond(peer, HELLO)
        assert await reading is False
        assert connection.stream.closed()


async def test_a_body_without_framing_ends_with_the_connection() -> None:
    async with client() as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, b"HTTP/1.1 200 OK\r\n\r\nall of it")
        peer.close()
        assert await reading is False
        assert message.body == b"all of it"
        assert message.finished == 1


async def test_a_body_without_framing_does_not_end_with_a_reset() -> None:
    async with client() as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, b"HTTP/1.1 200 OK\r\n\r\npart")
        await until(lambda: message.body)
        peer.reset()
        with pytest.raises(StreamClosedError) as caught:
            await reading
        assert isinstance(caught.value.real_error, ConnectionResetError)
        assert (message.finished, message.closed) == (0, 1)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_m15_a_response_that_is_cut_short_is_an_error(response: bytes) -> None:
    async with client() as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, response)
        peer.close()
        with pytest.raises(StreamClosedError):
            await reading
        assert message.finished == 0
        assert message.closed == (1 if message.heads else 0)
        assert connection.stream.closed()
        with pytest.raises(StreamClosedError):
            await connection.read_response(Message())


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 11,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
async def test_a_malformed_response_is_false_and_logged(
    response: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "whimbrel.http1connection"):
        async with client() as (connection, peer):
            get(connection)
            message = Message()
            reading = connection.read_response(message)
            await respond(peer, response)
            assert await reading is False
            assert message.finished == 0
            assert connection.stream.closed()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Malformed HTTP message from the test: ")


async def test_interim_responses_come_as_headers_of_their_own() -> None:
    async with client() as (connection, peer):
        fields = HTTPHeaders({"Host": "test", "Expect": "100-continue", "Content-Length": "4"})

        class Expecting(Message):
            def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
                super().headers_received(start_line, headers)
                if start_line.code == 100:
                    connection.write(b"body")
                    connection.finish()

        connection.write_headers(POST, fields)
        message = Expecting()
        reading = connection.read_response(message)
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        head = b"POST /path?x=1 HTTP/1.1\r\nHost: test\r\n"
        head += b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        assert await peer.receive(len(head) + 4) == head + b"body"
        await peer.send(HELLO)
        assert await reading is True
        assert [head.code for head in message.heads] == [103, 100, 200]
        assert message.finished == 1


async def test_a_response_before_the_end_of_the_request_waits_for_it_or_ends_it() -> None:
    fields = HTTPHeaders({"Host": "test", "Content-Length": "10"})
    async with client() as (connection, peer):
        connection.write_headers(POST, fields, b"01234")
        message = Message()
        reading = connection.read_response(message)
        await peer.send(HELLO)
        await until(lambda: message.finished)
        assert not reading.done()  # the connection would be out of step
        connection.write(b"56789")
        connection.finish()
        assert await reading is True
    async with client() as (connection, peer):
        connection.write_headers(POST, fields, b"01234")
        reading = connection.read_response(Message())
        await peer.send(HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
        assert await reading is False
        with pytest.raises(StreamClosedError):
            await connection.write(b"56789")


async def test_a_refusal_during_an_upload_is_read_though_sending_fails() -> None:
    async with client() as (connection, peer):
        connection.write_headers(POST, HTTPHeaders({"Host": "test"}))
        write = connection.write(BIG * 20)
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nstop")
        peer.close()
        message = Message()
        outcome = await asyncio.gather(connection.read_response(message), return_exceptions=True)
        assert message.heads == [ResponseStartLine("HTTP/1.1", 413, "Too Large")]
        assert message.body == b"stop"
        assert outcome == [False]
        with pytest.raises(StreamClosedError):
            await write


@pytest.mark.parametrize("method", ["headers_received", "data_received"])
async def test_a_delegate_that_is_awaited_holds_the_server_back(method: str) -> None:
    gate = asyncio.Event()

    class Slow(Message):
        async def _wait(self) -> None:
            await gate.wait()

    def slow(self: Slow, *args: Any) -> Any:
        getattr(super(Slow, self), method)(*args)
        return self._wait()

    setattr(Slow, method, slow)
    async with client() as (connection, peer):
        get(connection)
        message = Slow()
        reading = connection.read_response(message)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (10 * len(BIG))
        sending = asyncio.create_task(respond(peer, head + BIG * 10))
        await until(lambda: message.heads)
        await asyncio.sleep(0.05)
        assert not sending.done()
        assert len(message.body) <= 65536
        gate.set()
        assert await reading is True
        assert message.body == BIG * 10
        await sending


async def test_a_response_is_whole_though_the_server_left_while_its_delegate_was_awaited() -> None:
    gate = asyncio.Event()

    class Slow(Message):
        async def data_received(self, chunk: bytes) -> None:
            await gate.wait()
            self.pieces.append(chunk)

    async with client(chunk_size=2) as (connection, peer):
        get(connection)
        message = Slow()
        reading = connection.read_response(message)
        await respond(peer, HELLO)
        await until(lambda: message.heads)
        connection.stream._lost(ConnectionResetError("of the test"))
        gate.set()
        assert await reading is False
        assert message.body == b"hello"


@pytest.mark.parametrize("uploading", [False, True])
async def test_closing_does_not_wait_for_a_delegate(uploading: bool) -> None:
    class Stuck(Message):
        async def data_received(self, chunk: bytes) -> None:
            await asyncio.get_running_loop().create_future()

    async with client() as (connection, peer):
        if uploading:
            connection.write_headers(POST, HOST)
        else:
            get(connection)
        message = Stuck()
        reading = connection.read_response(message)
        await peer.send(HELLO)
        await until(lambda: connection._channel._waiting)
        waiting = connection._channel._waiting
        connection.close()
        with pytest.raises(StreamClosedError):
            await reading
        assert message.closed == 1
        waiting.cancel()


async def test_what_a_delegate_raises_is_logged_and_closes(stray_logs: StrayLogs) -> None:
    class Failing(Message):
        def data_received(self, chunk: bytes) -> None:
            raise LookupError("of the test")

    async with client() as (connection, peer):
        get(connection)
        reading = connection.read_response(Failing())
        await respond(peer, HELLO)
        with pytest.raises(StreamClosedError) as caught:
            await reading
        assert isinstance(caught.value.real_error, LookupError)
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception of a delegate")


async def test_a_delegate_can_say_that_the_response_is_malformed() -> None:
    class Picky(Message):
        def finish(self) -> None:
            raise HTTPInputError("not what I wanted")

    async with client() as (connection, peer):
        get(connection)
        reading = connection.read_response(Picky())
        await respond(peer, HELLO)
        assert await reading is False


# -- limits and time


async def test_header_timeout_ends_the_wait_for_a_response() -> None:
    async with client(header_timeout=0.1) as (connection, peer):
        get(connection)
        began = time.monotonic()
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, b"HTTP/1.1 200 OK\r\n")
        assert await reading is False
        assert 0.09 <= time.monotonic() - began < 5
        assert connection.stream.closed()
        assert message.heads == []


async def test_body_timeout_ends_the_wait_for_a_body(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "whimbrel.http1connection"):
        async with client(body_timeout=0.1) as (connection, peer):
            get(connection)
            message = Message()
            reading = connection.read_response(message)
            await respond(peer, HELLO[:-1])
            assert await reading is False
            assert (message.finished, message.closed) == (0, 1)
    assert caplog.messages == ["Timeout reading body from the test"]


async def test_limits_set_for_one_response_do_not_outlive_it() -> None:
    async with client(max_body_size=4) as (connection, peer):
        for limit in (5, None):
            get(connection)
            if limit is not None:
                connection.set_max_body_size(limit)
                connection.set_body_timeout(0.2)
            reading = connection.read_response(Message())
            await respond(peer, HELLO)
            assert await reading is (limit is not None)


@pytest.mark.parametrize(
    "response",
    [
        HELLO,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
    ],
)
async def test_a_body_over_max_body_size_is_refused(response: bytes) -> None:
    async with client(max_body_size=4) as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, response)
        assert await reading is False
        assert message.body == b""
        assert message.finished == 0


async def test_decompress_decodes_the_body() -> None:
    body = gzip.compress(b"content " * 1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with client(decompress=True) as (connection, peer):
        get(connection)
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, head + body)
        assert await reading is True
        assert message.body == b"content " * 1000
        assert message.headers["X-Consumed-Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in message.headers
        # Without a body there is nothing to decode, and the headers stay as they are.
        get(connection, "HEAD")
        message = Message()
        reading = connection.read_response(message)
        await respond(peer, head, GET.replace(b"GET", b"HEAD"))
        assert await reading is True
        assert message.headers["Content-Encoding"] == "gzip"
        assert message.headers["Content-Length"] == str(len(body))


# -- other protocols


async def test_detach_after_101_hands_the_stream_over() -> None:
    streams: list[Any] = []

    class Upgrading(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            super().headers_received(start_line, headers)
            streams.append(connection.detach())

    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    async with client() as (connection, peer):
        get(connection, Connection="upgrade", Upgrade="echo")
        message = Upgrading()
        reading = connection.read_response(message)
        await respond(peer, b"HTTP/1.1 101 Switching Protocols\r\n\r\nfirst", request)
        assert await reading is False
        assert (message.finished, message.closed) == (0, 0)
        (stream,) = streams
        assert not stream.closed()
        assert await stream.read_bytes(5) == b"first"
        await stream.write(b"answer")
        assert await peer.receive(6) == b"answer"
        with pytest.raises(RuntimeError, match="the exchange is over"):
            connection.detach()


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_another_protocol_that_nobody_takes_closes_the_connection(method: str) -> None:
    async with client() as (connection, peer):
        if method == "GET":
            get(connection, Connection="upgrade", Upgrade="echo")
            reply = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        else:
            connection.write_headers(RequestStartLine("CONNECT", "test:443", ""), HOST)
            reply = b"HTTP/1.1 200 Connected\r\n\r\n"
        message = Message()
        reading = connection.read_response(message)
        await peer.send(reply)
        with pytest.raises(StreamClosedError):
            await reading
        assert (message.finished, message.closed) == (0, 1)


async def test_the_close_callback_tells_of_the_end_before_any_response() -> None:
    async with client() as (connection, peer):
        calls: list[str] = []
        connection.set_close_callback(lambda: calls.append("closed"))
        get(connection)
        reading = connection.read_response(Message())
        await peer.receive(len(GET))
        peer.close()
        with pytest.raises(StreamClosedError):
            await reading
        assert calls == ["closed"]


async def test_reprs_tell_the_role_and_no_more() -> None:
    async with client() as (connection, _):
        fd = connection.stream.fileno()
        assert repr(connection) == f"<HTTP1Connection client <IOStream fd={fd}>>"
        assert connection.context == "the test"
        assert connection.is_client
        assert connection.params.chunk_size == 65536
