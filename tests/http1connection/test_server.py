"""HTTP1ServerConnection: requests in, responses out, byte for byte."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from conftest import StrayLogs
from whimbrel.http1connection import HTTP1ServerConnection
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream, StreamClosedError

from .support import (
    BAD_REQUEST,
    GET,
    HELLO,
    Answering,
    Message,
    answer,
    serve,
    until,
)

OK = ResponseStartLine("", 200, "OK")
BIG = b"0123456789abcdef" * 100_000


async def test_a_connection_carries_request_after_request() -> None:
    async with serve() as served:
        for _ in range(3):
            assert await served.ask(GET, len(HELLO)) == HELLO
        assert len(served.requests) == 3
        request = served.requests[0]
        assert request.start_line == RequestStartLine("GET", "/", "HTTP/1.1")
        assert list(request.headers.get_all()) == [("Host", "test")]
        assert (request.finished, request.closed) == (1, 0)
        assert request.connection.context == "the test"
        assert not request.connection.is_client


async def test_head_and_body_go_out_in_one_piece() -> None:
    async with serve() as served:
        sent: list[bytes] = []
        send = served.stream._send

        def noted(data: bytes) -> int:
            sent.append(bytes(data))
            return send(data)

        served.stream._send = noted
        assert await served.ask(GET * 3, 3 * len(HELLO)) == HELLO * 3
        assert sent == [HELLO * 3]  # and so do the responses to pipelined requests


async def test_a_request_that_needs_no_waiting_makes_no_task_and_no_timer() -> None:
    loop = asyncio.get_running_loop()
    made: list[object] = []
    loop.set_task_factory(lambda loop, coro: made.append(coro) or asyncio.Task(coro, loop=loop))  # type: ignore[func-returns-value,arg-type]
    async with serve(header_timeout=60) as served:
        await served.ask(GET, len(HELLO))
        timer = served.requests[0].connection._channel.deadline._timer
        await served.ask(GET, len(HELLO))
        assert served.requests[1].connection._channel.deadline._timer is timer
        assert made == []
    loop.set_task_factory(None)


async def test_responses_do_not_wait_for_acknowledgements() -> None:
    async with serve() as served:
        sock = served.stream.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_blank_lines_before_a_request_are_skipped() -> None:
    async with serve() as served:
        assert await served.ask(b"\r\n\r\n" + GET + b"\r\n" + GET, 2 * len(HELLO)) == HELLO * 2


async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    body = b"POST /path?q=1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    body += b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n"
    async with serve() as served:
        for position in range(len(body)):
            await served.peer.send(body[position : position + 1])
            await asyncio.sleep(0)
        assert await served.peer.receive(len(HELLO)) == HELLO
        assert served.requests[0].body == b"hello!"
        assert served.requests[0].start_line == RequestStartLine("POST", "/path?q=1", "HTTP/1.1")


async def test_http_1_0_closes_unless_it_asks_to_stay() -> None:
    keeping = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serve() as served:
        kept = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive\r\n\r\n")
        assert await served.ask(keeping, len(kept)) == kept
        await served.peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await served.peer.receive_all() == HELLO


async def test_connection_close_is_answered_in_kind() -> None:
    closing = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serve() as served:
        await served.peer.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert await served.peer.receive_all() == closing
    async with serve(no_keep_alive=True) as served:
        await served.peer.send(GET + GET)
        assert await served.peer.receive_all() == closing
        assert len(served.requests) == 1


async def test_a_handler_may_close_by_its_own_header() -> None:
    class Closing(Message):
        def finish(self) -> None:
            answer(self.connection, connection="close")

    async with serve(Closing) as served:
        await served.peer.send(GET)
        assert (await served.peer.receive_all()).count(b"close") == 1


async def test_a_handler_s_keep_alive_is_taken_back_where_the_connection_closes() -> None:
    class Keeping(Message):
        def finish(self) -> None:
            answer(self.connection, Connection="keep-alive")

    async with serve(Keeping, no_keep_alive=True) as served:
        await served.peer.send(GET)
        head = (await served.peer.receive_all()).lower()
        assert b"connection: close\r\n" in head
        assert b"keep-alive" not in head


class Chunking(Message):
    """Answers without a Content-Length."""

    def finish(self) -> None:
        self.connection.write_headers(OK, HTTPHeaders(), b"one")
        self.connection.write(b"")
        self.connection.write(b"three")
        self.connection.finish()


async def test_without_a_length_the_body_is_chunked() -> None:
    expected = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    )
    async with serve(Chunking) as served:
        assert await served.ask(GET, len(expected)) == expected
        assert await served.ask(GET, len(expected)) == expected


async def test_without_a_length_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async with serve(Chunking) as served:
        await served.peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert await served.peer.receive_all() == b"HTTP/1.1 200 OK\r\n\r\nonethree"


@pytest.mark.parametrize("how", ["close", "exception"])
async def test_a_body_cut_short_does_not_look_like_one_that_ended(
    how: str, stray_logs: StrayLogs
) -> None:
    """Where the connection's end is the body's end, only a reset tells of the difference."""

    class Failing(Message):
        def finish(self) -> None:
            self.connection.write_headers(OK, HTTPHeaders(), b"half of it")
            if how == "exception":
                raise LookupError("of the test")
            asyncio.get_running_loop().call_soon(self.connection.close)

    async with serve(Failing) as served:
        await served.peer.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await served.peer.receive_all()
        await until(lambda: served.closed)
    if how == "exception":
        stray_logs.expect("whimbrel.http1connection", "Uncaught exception")


async def test_head_is_answered_without_a_body() -> None:
    head = GET.replace(b"GET", b"HEAD")
    async with serve() as served:
        expected = HELLO[: -len(b"hello")]
        assert await served.ask(head, len(expected)) == expected
        assert await served.ask(GET, len(HELLO)) == HELLO
    async with serve(Chunking) as served:
        expected = b"HTTP/1.1 200 OK\r\n\r\n"
        assert await served.ask(head, len(expected)) == expected


@pytest.mark.parametrize("code", [204, 304])
async def test_204_and_304_have_no_body(code: int) -> None:
    class Bodyless(Message):
        def finish(self) -> None:
            fields = HTTPHeaders({"Content-Length": "0" if code == 204 else "7"})
            self.connection.write_headers(ResponseStartLine("", code, "Reason"), fields)
            self.connection.finish()

    # RFC 9110 section 8.6: no Content-Length with 204; with 304 it is that of the 200.
    length = b"Content-Length: 7\r\n" if code == 304 else b""
    expected = b"HTTP/1.1 %d Reason\r\n%b\r\n" % (code, length)
    async with serve(Bodyless) as served:
        assert await served.ask(GET + GET, 2 * len(expected)) == expected * 2


async def test_a_body_where_none_may_be_is_refused(stray_logs: StrayLogs) -> None:
    class Wrong(Message):
        def finish(self) -> None:
            self.connection.write_headers(
                ResponseStartLine("", 204, "No Content"), HTTPHeaders(), b"x"
            )

    async with serve(Wrong) as served:
        await served.peer.send(GET)
        assert b"x" not in await served.peer.receive_all()
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception")


async def test_interim_responses_may_come_before_the_final_one() -> None:
    class Hinting(Message):
        def finish(self) -> None:
            hint = HTTPHeaders({"Link": "</style.css>"})
            self.connection.write_headers(ResponseStartLine("", 103, "Early Hints"), hint)
            answer(self.connection)

    expected = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + HELLO
    async with serve(Hinting) as served:
        assert await served.ask(GET, len(expected)) == expected
        assert await served.ask(GET, len(expected)) == expected


# -- request bodies


async def test_a_body_comes_in_pieces_no_longer_than_chunk_size() -> None:
    async with serve(chunk_size=1000) as served:
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(BIG)
        assert await served.ask(head + BIG, len(HELLO)) == HELLO
        request = served.requests[0]
        assert request.body == BIG
        assert max(map(len, request.pieces)) == 1000


async def test_tiny_chunks_are_given_together() -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve() as served:
        await served.ask(head + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n", len(HELLO))
        request = served.requests[0]
        assert request.body == b"x" * 1000
        assert len(request.pieces) == 1


async def test_trailers_reach_nobody() -> None:
    """RFC 9110 section 6.5.1: they must not change framing or routing."""
    head = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"Content-Length: 100\r\nHost: evil\r\nConnection: close\r\n\r\n"
    async with serve() as served:
        assert await served.ask(head + b"0\r\n" + trailers + GET, 2 * len(HELLO)) == HELLO * 2
        assert served.requests[0].headers["Host"] == "test"
        assert "Content-Length" not in served.requests[0].headers


async def test_expect_100_continue_is_told_to_go_on() -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with serve() as served:
        assert await served.ask(head, len(go_on)) == go_on
        assert await served.ask(b"body", len(HELLO)) == HELLO
        # A client that did not wait is not told (RFC 9110 section 10.1.1).
        assert await served.ask(head + b"body" + GET, 2 * len(HELLO)) == HELLO * 2


async def test_a_body_that_did_not_wait_for_100_keeps_the_connection() -> None:
    class Streaming(Message):
        def data_received(self, chunk: bytes) -> None:
            if not self.pieces:
                self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "5"}))
            super().data_received(chunk)

        def finish(self) -> None:
            self.connection.write(b"hello")
            self.connection.finish()

    head = b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    async with serve(Streaming) as served:
        for _ in range(2):
            await served.peer.send(head + b"bo")
            assert await served.ask(b"dy", len(HELLO)) == HELLO


async def test_a_refused_expectation_ends_the_connection() -> None:
    """Whether the body follows nobody knows: the connection cannot be used again."""

    class Refusing(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            answer(self.connection, b"", 417, "Expectation Failed")

    head = b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    async with serve(Refusing) as served:
        await served.peer.send(head)
        assert await served.peer.receive_all() == (
            b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )


async def test_an_answer_before_the_end_of_the_request_survives_the_rest_of_it() -> None:
    """What is still on its way is taken and thrown away: a reset would destroy the answer."""

    class Refusing(Message):
        def data_received(self, chunk: bytes) -> None:
            if not self.pieces:
                answer(self.connection, b"no", 413, "Too Large")
            super().data_received(chunk)

    size = 20_000_000
    async with serve(Refusing) as served:
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
        await served.peer.send(head + bytes(size - 1))
        expected = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        assert await served.peer.receive_all() == expected
        request = served.requests[0]
        assert (request.finished, request.closed) == (0, 1)
        assert len(request.pieces) == 1  # nothing after the answer


async def test_a_client_that_never_stops_sending_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("whimbrel._connection.server._LINGER_SECONDS", 0.05)

    class Refusing(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            answer(self.connection, b"no", 413, "Too Large")

    async with serve(Refusing) as served:
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n"
        await served.peer.send(head)
        await until(lambda: served.closed)
        assert served.stream.closed()


# -- waiting


class Later(Message):
    """Answers when the test says so."""

    def finish(self) -> None:
        super().finish()


async def test_the_next_request_waits_for_the_response_to_the_one_before() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET + GET)
        await until(lambda: served.requests)
        await asyncio.sleep(0.02)
        assert len(served.requests) == 1
        answer(served.requests[0].connection)
        assert await served.peer.receive(len(HELLO)) == HELLO
        await until(lambda: len(served.requests) == 2)
        answer(served.requests[1].connection)
        assert await served.peer.receive(len(HELLO)) == HELLO


@pytest.mark.parametrize("method", ["headers_received", "data_received"])
async def test_a_delegate_that_is_awaited_holds_the_client_back(method: str) -> None:
    gate = asyncio.Event()

    class Slow(Answering):
        async def _wait(self, *args: Any) -> None:
            await gate.wait()

    def slow(self: Slow, *args: Any) -> Any:
        getattr(super(Slow, self), method)(*args)
        return self._wait()

    setattr(Slow, method, slow)
    async with serve(Slow) as served:
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (10 * len(BIG))
        sending = asyncio.create_task(served.peer.send(head + BIG * 10))
        await until(lambda: served.requests and served.requests[0].heads)
        await asyncio.sleep(0.1)
        assert not sending.done()
        assert len(served.requests[0].pieces) <= 1
        assert served.requests[0].connection._channel.protocol.buffered <= 2 * 65536
        gate.set()
        assert await served.peer.receive(len(HELLO)) == HELLO
        assert served.requests[0].body == BIG * 10
        await sending


async def test_pieces_are_given_one_at_a_time_to_a_coroutine() -> None:
    class Counting(Answering):
        inside = 0

        async def data_received(self, chunk: bytes) -> None:
            assert not self.inside
            self.inside += 1
            await asyncio.sleep(0)
            self.inside -= 1
            self.pieces.append(chunk)

    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n"
    async with serve(Counting, chunk_size=10) as served:
        assert await served.ask(head + b"0123456789" * 100, len(HELLO)) == HELLO
        assert served.requests[0].pieces == [b"0123456789"] * 100


async def test_writes_are_done_when_the_client_has_room() -> None:
    class Writing(Message):
        def finish(self) -> None:
            self.futures = [
                self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "16000000"})),
                *[self.connection.write(BIG) for _ in range(10)],
            ]
            self.connection.finish()

    async with serve(Writing) as served:
        await served.peer.send(GET + GET)
        await until(lambda: served.requests)
        futures = served.requests[0].futures
        assert futures[0].done()
        await asyncio.sleep(0.05)
        assert not futures[-1].done()
        assert len(served.requests) == 1  # a client that does not read is not read from
        await served.peer.receive(16_000_000)
        await asyncio.gather(*futures)
        await until(lambda: len(served.requests) == 2)


async def test_writes_fail_when_the_client_is_gone() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        connection.write_headers(OK, HTTPHeaders({"Content-Length": "16000000"}))
        write = connection.write(BIG * 10)
        served.peer.reset()
        with pytest.raises(StreamClosedError):
            await write
        with pytest.raises(StreamClosedError):
            await connection.write(b"x")
        connection.finish()  # nobody hears it


# -- the connection's end


async def test_a_client_that_leaves_within_a_request_closes_its_delegate() -> None:
    for sent in (GET[:20], b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf"):
        async with serve() as served:
            await served.peer.send(sent)
            await asyncio.sleep(0.01)
            served.peer.close()
            await until(lambda: served.closed)
            for request in served.requests:
                assert (request.finished, request.closed) == (0, 1)
                assert request.body == b"half"
    assert served.requests


async def test_a_client_that_leaves_before_the_response_is_told_by_the_callback() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        calls: list[str] = []
        served.requests[0].connection.set_close_callback(lambda: calls.append("closed"))
        served.peer.close()
        await until(lambda: served.closed)
        assert calls == ["closed"]
        assert served.requests[0].closed == 0


async def test_a_response_that_is_done_leaves_nothing_to_be_told() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        served.requests[0].connection.set_close_callback(pytest.fail)
        answer(served.requests[0].connection)
        await served.peer.receive(len(HELLO))
        served.peer.close()
        await until(lambda: served.closed)


async def test_close_waits_until_serving_has_ended() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET[:-2])
        await served.connection.close()
        assert served.closed == 1
        await served.connection.close()


async def test_winding_up_lets_a_response_go_out_and_takes_no_other_request() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET + GET)
        await until(lambda: served.requests and served.requests[0].finished)
        served.connection.wind_up()
        await asyncio.sleep(0.02)
        assert not served.stream.closed()
        answer(served.requests[0].connection)
        closing = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert await served.peer.receive_all() == closing
        assert len(served.requests) == 1
    async with serve() as served:
        assert await served.ask(GET, len(HELLO)) == HELLO
        served.connection.wind_up()  # idle
        assert await served.peer.receive_all() == b""
    async with serve(Chunking) as served:
        served.connection.wind_up()
        await until(lambda: served.closed)


async def test_winding_up_after_the_head_of_the_response_closes_behind_its_body() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        connection.write_headers(OK, HTTPHeaders({"Content-Length": "5"}))
        served.connection.wind_up()
        connection.write(b"hello")
        connection.finish()
        assert await served.peer.receive_all() == HELLO


async def test_close_tells_the_delegate_of_a_request_under_way() -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n"
    async with serve() as served:
        await served.peer.send(head)
        await until(lambda: served.requests)
        await served.connection.close()
        assert served.requests[0].closed == 1


async def test_a_stream_that_is_closed_already_is_served_to_its_end() -> None:
    async with serve() as served:
        served.stream.close()
        await until(lambda: served.closed)
    ours = IOStream(socket.socket())
    ours.close()
    connection = HTTP1ServerConnection(ours)
    connection.start_serving(served)
    served.connection = connection
    await connection.close()
    assert served.closed == 2
    with pytest.raises(RuntimeError, match="called before"):
        connection.start_serving(served)
    served.closed = 1


@pytest.mark.parametrize(
    "method", ["start_request", "headers_received", "data_received", "finish", "coroutine"]
)
async def test_what_a_delegate_raises_is_logged_and_closes_the_connection(
    method: str, stray_logs: StrayLogs
) -> None:
    class Failing(Message):
        pass

    def fail(*_: object) -> Any:
        raise LookupError("of the test")

    async def fail_later(*_: object) -> None:
        raise LookupError("of the test")

    async with serve(fail if method == "start_request" else Failing) as served:
        if method == "coroutine":
            Failing.data_received = fail_later  # type: ignore[method-assign]
        else:
            setattr(Failing, method, fail)
        await served.peer.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx")
        assert await served.peer.receive_all() == b""
        await until(lambda: served.closed)
        if method in ("headers_received", "data_received", "coroutine"):
            assert served.requests[0].closed == 1
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception of a delegate")


@pytest.mark.parametrize("method", ["on_connection_close", "close callback", "on_close"])
async def test_what_is_raised_at_the_end_is_logged(method: str, stray_logs: StrayLogs) -> None:
    def fail(*_: object) -> None:
        raise LookupError("of the test")

    async with serve(Later) as served:
        if method == "on_close":
            on_close, served.on_close = served.on_close, lambda conn: on_close(conn) or fail()  # type: ignore[method-assign,func-returns-value]
        await served.peer.send(GET if method == "close callback" else GET[:-2] + b"X: ")
        if method == "on_connection_close":
            await served.peer.send(b"y\r\nContent-Length: 5\r\n\r\n")
            await until(lambda: served.requests)
            served.requests[0].on_connection_close = fail
        elif method == "close callback":
            await until(lambda: served.requests and served.requests[0].finished)
            served.requests[0].connection.set_close_callback(fail)
        served.peer.close()
        await until(lambda: served.closed)
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception of a delegate")


async def test_a_failure_does_not_lose_the_responses_before_it(stray_logs: StrayLogs) -> None:
    class FailsSecond(Answering):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            if start_line.path == "/fail":
                raise LookupError("of the test")

    async with serve(FailsSecond) as served:
        await served.peer.send(GET + GET.replace(b"/ ", b"/fail ", 1))
        assert await served.peer.receive_all() == HELLO
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception")


async def test_a_delegate_can_say_that_the_request_is_malformed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Picky(Message):
        def data_received(self, chunk: bytes) -> None:
            raise HTTPInputError("not what I wanted")

    with caplog.at_level(logging.INFO, "whimbrel.http1connection"):
        async with serve(Picky) as served:
            await served.peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            assert await served.peer.receive_all() == BAD_REQUEST
    assert caplog.messages == ["Malformed HTTP message from the test: not what I wanted"]


# -- mistakes of the program


@pytest.mark.parametrize("by", ["write_headers", "write", "finish"])
async def test_a_body_that_does_not_fit_its_length_closes_the_connection(by: str) -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        fields = HTTPHeaders({"Content-Length": "5"})
        if by != "write_headers":
            connection.write_headers(OK, fields, b"hell")
        step = {
            "write_headers": lambda: connection.write_headers(OK, fields, b"too long"),
            "write": lambda: connection.write(b"ooo"),
            "finish": connection.finish,
        }[by]
        with pytest.raises(HTTPOutputError, match="Content-Length"):
            step()
        assert served.stream.closed()
        assert len(await served.peer.receive_all()) < len(HELLO)


@pytest.mark.parametrize(
    ("reason", "name", "value"),
    [
        ("OK\r\nX: y", "X", "y"),
        ("OK\n", "X", "y"),
        ("OK", "X\r\nY", "y"),
        ("OK", "X", "y\r\nZ: z"),
        ("OK", "X", "y\x00"),
        ("OK", "X", "y\x7f"),
        ("OK", "X", "\u20ac"),
        ("OK", "X Y", "y"),
        ("OK", "X: y", "z"),
        ("OK", "", "y"),
    ],
)
async def test_text_that_would_break_the_message_is_refused_before_writing(
    reason: str, name: str, value: str
) -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        fields = HTTPHeaders({name: value})
        with pytest.raises(HTTPOutputError) as caught:
            connection.write_headers(ResponseStartLine("", 200, reason), fields)
        assert isinstance(caught.value, ValueError)
        answer(connection)  # nothing has been spoiled
        assert await served.peer.receive(len(HELLO)) == HELLO


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        {"Content-Length": "5, 5"},
        {"Content-Length": "-1"},
        {"Content-Length": "\u0662"},
        {"Transfer-Encoding": "gzip"},
    ],
)
async def test_framing_fields_that_contradict_each_other_are_refused(
    fields: dict[str, str],
) -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        with pytest.raises(HTTPOutputError):
            connection.write_headers(OK, HTTPHeaders(fields))
        answer(connection)
        assert await served.peer.receive(len(HELLO)) == HELLO


async def test_calls_out_of_turn_are_refused() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET + GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        with pytest.raises(HTTPOutputError, match="before write_headers"):
            connection.finish()
        with pytest.raises(HTTPOutputError, match="before write_headers"):
            connection.write(b"body")
        connection.write_headers(OK, HTTPHeaders({"Content-Length": "5"}), b"hello")
        with pytest.raises(HTTPOutputError, match="no head may be sent"):
            connection.write_headers(OK, HTTPHeaders())
        connection.finish()
        await until(lambda: len(served.requests) == 2)
        # An old connection object must not write into the next response.
        for late in (
            lambda: connection.write(b"x"),
            lambda: connection.write_headers(OK, HTTPHeaders()),
        ):
            with pytest.raises(HTTPOutputError, match="finished already"):
                late()
        connection.finish()
        with pytest.raises(RuntimeError, match="the exchange is over"):
            connection.detach()
        answer(served.requests[1].connection)
        assert await served.peer.receive(2 * len(HELLO)) == HELLO * 2


async def test_headers_may_be_any_mapping_with_get_all_and_stay_as_they_are() -> None:
    class Fields:
        pairs = (("X-One", "1"), ("content-length", "5"), ("X-One", "2"))

        def get_all(self) -> Any:
            return iter(self.pairs)

    class Mapped(Message):
        def finish(self) -> None:
            self.connection.write_headers(OK, Fields(), b"hello")  # type: ignore[arg-type]
            self.connection.finish()

    expected = b"HTTP/1.1 200 OK\r\nX-One: 1\r\ncontent-length: 5\r\nX-One: 2\r\n\r\nhello"
    async with serve(Mapped) as served:
        assert await served.ask(GET, len(expected)) == expected
    fields = HTTPHeaders()
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        served.requests[0].connection.write_headers(OK, fields)
        assert list(fields) == []


async def test_a_header_block_that_is_encoded_already_may_still_be_written() -> None:
    class Old(Message):
        def finish(self) -> None:
            self.connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            self.connection.write(b"llo")
            self.connection.finish()

    async with serve(Old) as served:
        assert await served.ask(GET + GET, 2 * len(HELLO)) == HELLO * 2


async def test_a_malformed_block_is_refused_in_its_encoded_form_too() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        with pytest.raises(HTTPOutputError, match="malformed header block"):
            served.requests[0].connection.write(b"HTTP/1.1 OK\r\n\r\n")


# -- handing over


@pytest.mark.parametrize("when", ["headers_received", "coroutine", "later"])
async def test_detach_hands_the_stream_to_another_protocol(when: str) -> None:
    taken: list[IOStream] = []

    class Upgrading(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
            super().headers_received(start_line, headers)
            if when == "headers_received":
                self.upgrade()
            elif when == "coroutine":
                return self.upgrade_soon()
            return None

        def finish(self) -> None:
            super().finish()
            if when == "later":
                asyncio.get_running_loop().call_later(0.01, self.upgrade)

        async def upgrade_soon(self) -> None:
            await asyncio.sleep(0.01)
            self.upgrade()

        def upgrade(self) -> None:
            fields = HTTPHeaders({"Connection": "Upgrade", "Upgrade": "echo"})
            switching = ResponseStartLine("", 101, "Switching Protocols")
            self.connection.write_headers(switching, fields)
            taken.append(self.connection.detach())

    async with serve(Upgrading) as served:
        request = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        expected = (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        assert await served.ask(request + b"first line\n", len(expected)) == expected
        await until(lambda: served.closed)
        stream = taken[0]
        assert await stream.read_until(b"\n") == b"first line\n"
        await served.peer.send(b"second line\n")
        assert await stream.read_until(b"\n") == b"second line\n"
        await stream.write(b"answer\n")
        assert await served.peer.receive(7) == b"answer\n"
        assert served.requests[0].finished == (when == "later")
        assert served.requests[0].closed == 0
        stream.close()


async def test_writes_that_wait_are_done_after_detach_too() -> None:
    async with serve(Later) as served:
        await served.peer.send(GET)
        await until(lambda: served.requests and served.requests[0].finished)
        connection = served.requests[0].connection
        connection.write_headers(OK, HTTPHeaders({"Content-Length": "16000000"}))
        write = connection.write(BIG * 10)
        assert not write.done()
        stream = connection.detach()
        await served.peer.receive(16_000_000)
        await write
        stream.close()
