"""What a server's connection does with malformed, endless, slow and greedy clients.

The numbers are those of the acceptance matrix.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from whimbrel.httputil import HTTPHeaders, ResponseStartLine

from .support import BAD_REQUEST, GET, HELLO, Answering, Message, answer, serve, until

POST = b"POST / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "whimbrel.http1connection"):
        yield caplog


MALFORMED = {
    "m02-http-0.9": b"GET /\r\n\r\n",
    "m02-http-1.2": b"GET / HTTP/1.2\r\nHost: test\r\n\r\n",
    "m02-http-3.1": b"GET / HTTP/3.1\r\nHost: test\r\n\r\n",
    "m03-bare-lf": b"GET / HTTP/1.1\nHost: test\n\n",
    "m03-bare-lf-in-field": b"GET / HTTP/1.1\r\nHost: test\nX: y\r\n\r\n",
    "m04-obs-fold": GET[:-2] + b"X: y\r\n z\r\n\r\n",
    "m04-first-line-space": b"GET / HTTP/1.1\r\n Host: test\r\n\r\n",
    "m05-nul-in-value": GET[:-2] + b"X: \0\r\n\r\n",
    "m05-bare-cr-in-value": GET[:-2] + b"X: y\rz\r\n\r\n",
    "m05-control-in-name": GET[:-2] + b"X\x01: y\r\n\r\n",
    "m06-no-colon": GET[:-2] + b"nonsense\r\n\r\n",
    "m06-empty-name": GET[:-2] + b": y\r\n\r\n",
    "m06-space-before-colon": GET[:-2] + b"X : y\r\n\r\n",
    "m07-length-plus": POST + b"Content-Length: +2\r\n\r\nab",
    "m07-length-negative": POST + b"Content-Length: -2\r\n\r\nab",
    "m07-length-underscore": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "m07-length-hex": POST + b"Content-Length: 0x2\r\n\r\nab",
    "m07-length-empty": POST + b"Content-Length: \r\n\r\n",
    "m07-length-unicode": POST + "Content-Length: \uff12\r\n\r\nab".encode(),
    "m07-length-huge": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "m08-lengths-unequal": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "m09-length-and-coding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "m10-xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "m10-chunked-identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "m10-comma-chunked": POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "m10-coding-twice": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "m10-coding-in-1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "m11-chunk-size-0x": CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n",
    "m11-chunk-size-plus": CHUNKED + b"+2\r\nab\r\n0\r\n\r\n",
    "m11-chunk-size-negative": CHUNKED + b"-2\r\nab\r\n0\r\n\r\n",
    "m11-chunk-size-underscore": CHUNKED + b"0_2\r\nab\r\n0\r\n\r\n",
    "m11-chunk-size-empty": CHUNKED + b"\r\nab\r\n0\r\n\r\n",
    "m11-chunk-size-17-digits": CHUNKED + b"00000000000000002\r\nab\r\n0\r\n\r\n",
    "m12-chunk-terminator": CHUNKED + b"2\r\nabXX0\r\n\r\n",
    "m12-chunk-bare-lf": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "m13-extension-endless": CHUNKED + b"2;" + b"x" * 5000,
    "m14-trailers-endless": CHUNKED + b"0\r\n" + b"X: y\r\n" * 5000,
    "m21-header-block": b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X: %b\r\n" % (b"y" * 1000) * 70,
    "m21-header-lines": GET[:-2] + b"X: y\r\n" * 5001 + b"\r\n",
    "m21-start-line": b"GET /" + b"x" * 100_000,
    "m22-host-missing": b"GET / HTTP/1.1\r\n\r\n",
    "m22-host-twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "m22-host-illegal": b"GET / HTTP/1.1\r\nHost: a/?#\r\n\r\n",
    "m22-host-spaces": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "m22-method": b"G(T / HTTP/1.1\r\nHost: test\r\n\r\n",
    "m22-target-space": b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n",
    "m22-target-relative": b"GET path HTTP/1.1\r\nHost: test\r\n\r\n",
    "m22-target-control": b"GET /\x7f HTTP/1.1\r\nHost: test\r\n\r\n",
    "m22-target-star": b"GET * HTTP/1.1\r\nHost: test\r\n\r\n",
    "tls-client-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "blank-lines-endless": b"\r\n" * 100,
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_m22_a_malformed_request_gets_400_one_log_line_and_the_close(
    case: str, log: pytest.LogCaptureFixture
) -> None:
    async with serve() as served:
        await served.peer.send(MALFORMED[case])
        assert await served.peer.receive_all() == BAD_REQUEST
        await until(lambda: served.stream.closed() or served.peer.close())
        for request in served.requests:
            assert (request.finished, request.closed) == (0, 1)
    assert len(log.messages) == 1
    assert log.messages[0].startswith("Malformed HTTP message from the test: ")
    assert log.records[0].levelno == logging.INFO


@pytest.mark.parametrize("case", [case for case in MALFORMED if len(MALFORMED[case]) < 200])
async def test_m22_a_malformed_request_is_refused_byte_by_byte_too(
    case: str, log: pytest.LogCaptureFixture
) -> None:
    data = MALFORMED[case]
    async with serve() as served:
        for position in range(len(data)):
            await served.peer.send(data[position : position + 1])
            await asyncio.sleep(0)
        assert await served.peer.receive_all() == BAD_REQUEST
    assert len(log.messages) == 1


async def test_m22_what_is_malformed_after_a_response_began_just_closes() -> None:
    """A second head in the middle of the first response would pass for its body."""

    class Early(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            self.connection.write_headers(
                ResponseStartLine("", 200, "OK"), HTTPHeaders({"Content-Length": "100"}), b"begun"
            )

    async with serve(Early) as served:
        await served.peer.send(CHUNKED + b"nonsense\r\n")
        data = await served.peer.receive_all()
        assert data == b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun"


async def test_m22_good_requests_before_a_bad_one_are_answered() -> None:
    async with serve() as served:
        await served.peer.send(GET + GET + MALFORMED["m22-host-missing"])
        assert await served.peer.receive_all() == HELLO + HELLO + BAD_REQUEST


async def test_m22_a_secret_in_a_bad_request_is_not_logged(log: pytest.LogCaptureFixture) -> None:
    async with serve() as served:
        await served.peer.send(b"GET /?token=hunter2 HTTP/1.1\r\nX: hunter2\x00\r\n\r\n")
        await served.peer.receive_all()
    assert len(log.messages) == 1
    assert "hunter2" not in log.text


async def test_m22_the_refusal_survives_what_the_client_is_still_sending() -> None:
    async with serve() as served:
        await served.peer.send(b"GET / HTTP/9.9\r\n\r\n" + bytes(10_000_000))
        assert await served.peer.receive_all() == BAD_REQUEST


# -- m23: greedy and slow clients


class Later(Message):
    """Answers when the test says so."""


async def test_m23_pipelining_is_capped() -> None:
    """Only so much is read ahead, and nothing of it handled, while a response is under way."""
    async with serve(Later) as served:
        sending = asyncio.create_task(served.peer.send(GET * 1_000_000))
        await until(lambda: served.requests)
        channel = served.requests[0].connection._channel
        await until(lambda: channel._held)
        await asyncio.sleep(0.05)
        assert not sending.done()
        assert len(served.requests) == 1
        assert channel.protocol.buffered <= 3 * 65536
        sending.cancel()


async def test_m23_pipelined_requests_do_not_keep_others_waiting() -> None:
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(len(served.requests))
            await asyncio.sleep(0)

    async with serve() as served:
        task = asyncio.create_task(other())
        await served.peer.send(GET * 1000)
        assert await served.peer.receive(1000 * len(HELLO)) == HELLO * 1000
        task.cancel()
    steps = [after - before for before, after in pairwise(turns)]
    assert max(steps) <= 64


async def test_m23_a_client_that_reads_no_responses_is_not_read_from() -> None:
    class Large(Message):
        def finish(self) -> None:
            answer(self.connection, bytes(1_000_000))

    async with serve(Large) as served:
        sending = asyncio.create_task(served.peer.send(GET * 100_000))
        await until(lambda: served.requests and served.stream.unsent)
        await asyncio.sleep(0.05)
        assert served.stream.unsent < 2_000_000
        assert len(served.requests) < 20
        sending.cancel()


async def test_m23_slow_loris_is_closed() -> None:
    """A head that comes byte by byte does not outlive header_timeout."""
    async with serve(header_timeout=0.2) as served:
        began = time.monotonic()

        async def drip() -> None:
            for byte in GET[:-2] + b"X: y\r\n" * 10_000:
                await served.peer.send(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        await until(lambda: served.closed)
        assert 0.19 <= time.monotonic() - began < 5
        assert served.requests == []
        await asyncio.wait([dripping], timeout=0.2)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_m23_header_timeout_covers_the_wait_for_the_next_request() -> None:
    async with serve(header_timeout=0.2) as served:
        began = time.monotonic()
        for _ in range(3):
            await asyncio.sleep(0.1)
            assert await served.ask(GET, len(HELLO)) == HELLO
        assert await served.peer.receive_all() == b""
        assert time.monotonic() - began >= 0.49


async def test_m23_a_response_under_way_is_not_timed() -> None:
    async with serve(Later, header_timeout=0.05, body_timeout=0.05) as served:
        await served.peer.send(POST + b"Content-Length: 1\r\n\r\nx")
        await until(lambda: served.requests and served.requests[0].finished)
        await asyncio.sleep(0.2)
        answer(served.requests[0].connection)
        assert await served.peer.receive(len(HELLO)) == HELLO


async def test_m23_a_delegate_that_is_awaited_for_the_head_is_not_timed() -> None:
    class Slow(Answering):
        async def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            await asyncio.sleep(0.2)

    async with serve(Slow, header_timeout=0.05) as served:
        assert await served.ask(GET, len(HELLO)) == HELLO


async def test_m23_idle_timeout_begins_the_header_timeout_with_the_first_byte() -> None:
    async with serve(header_timeout=0.15, idle_timeout=10) as served:
        assert await served.ask(GET, len(HELLO)) == HELLO
        await asyncio.sleep(0.3)
        assert await served.ask(GET, len(HELLO)) == HELLO
        await served.peer.send(GET[:5])
        began = time.monotonic()
        assert await served.peer.receive_all() == b""
        assert 0.09 <= time.monotonic() - began < 5
    async with serve(header_timeout=10, idle_timeout=0.1) as served:
        assert await served.ask(GET, len(HELLO)) == HELLO
        assert await served.peer.receive_all() == b""
    async with serve(header_timeout=0.1, idle_timeout=10) as served:
        assert await served.peer.receive_all() == b""  # the first request has no time to idle


async def test_m23_body_timeout_closes_and_is_logged(log: pytest.LogCaptureFixture) -> None:
    async with serve(body_timeout=0.1) as served:
        await served.peer.send(POST + b"Content-Length: 10\r\n\r\nhalf")
        assert await served.peer.receive_all() == b""
        await until(lambda: served.closed)
        assert (served.requests[0].finished, served.requests[0].closed) == (0, 1)
    assert log.messages == ["Timeout reading body from the test"]


async def test_set_body_timeout_lasts_one_request() -> None:
    class Patient(Answering):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            super().headers_received(start_line, headers)
            if start_line.path == "/slow":
                self.connection.set_body_timeout(0)

    async with serve(Patient, body_timeout=0.1) as served:
        head = POST + b"Content-Length: 4\r\n\r\n"
        await served.peer.send(head.replace(b"/ ", b"/slow ", 1) + b"ab")
        await asyncio.sleep(0.3)
        assert await served.ask(b"cd", len(HELLO)) == HELLO
        await served.peer.send(head + b"ab")
        assert await served.peer.receive_all() == b""


async def test_set_body_timeout_can_take_a_deadline_away() -> None:
    class Patient(Answering):
        def data_received(self, chunk: bytes) -> None:
            self.connection.set_body_timeout(0)

    async with serve(Patient, body_timeout=0.1) as served:
        await served.peer.send(POST + b"Content-Length: 4\r\n\r\nab")
        await asyncio.sleep(0.3)
        assert await served.ask(b"cd", len(HELLO)) == HELLO


async def test_set_body_timeout_counts_within_a_body_too() -> None:
    class Impatient(Answering):
        def data_received(self, chunk: bytes) -> None:
            self.connection.set_body_timeout(0.05)

    async with serve(Impatient) as served:
        await served.peer.send(POST + b"Content-Length: 4\r\n\r\nab")
        assert await served.peer.receive_all() == b""


# -- sizes


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_over_max_body_size_is_refused(framing: str) -> None:
    head = POST + b"Content-Length: 101\r\n\r\n"
    data = head + b"x" * 101 if framing == "length" else CHUNKED + b"65\r\n" + b"x" * 101
    async with serve(max_body_size=100) as served:
        fits = POST + b"Content-Length: 100\r\n\r\n" + b"x" * 100
        assert await served.ask(fits, len(HELLO)) == HELLO
        await served.peer.send(data)
        assert await served.peer.receive_all() == BAD_REQUEST
        assert served.requests[1].pieces == []
        assert served.requests[1].closed == 1


async def test_set_max_body_size_lasts_one_request() -> None:
    class Generous(Answering):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            if start_line.path == "/large":
                self.connection.set_max_body_size(1000)

    request = POST + b"Content-Length: 200\r\n\r\n" + b"x" * 200
    async with serve(Generous, max_body_size=100) as served:
        large = request.replace(b"/ ", b"/large ", 1)
        assert await served.ask(large, len(HELLO)) == HELLO
        await served.peer.send(request)
        assert await served.peer.receive_all() == BAD_REQUEST


async def test_max_body_size_is_the_stream_s_buffer_where_it_is_not_given() -> None:
    async with serve() as served:
        size = served.stream.max_buffer_size
        await served.peer.send(POST + b"Content-Length: %d\r\n\r\n" % (size + 1))
        assert await served.peer.receive_all() == BAD_REQUEST


async def test_max_header_size_is_a_setting() -> None:
    async with serve(max_header_size=200) as served:
        assert await served.ask(GET, len(HELLO)) == HELLO
        await served.peer.send(GET[:-2] + b"X: %b\r\n\r\n" % (b"y" * 200))
        assert await served.peer.receive_all() == BAD_REQUEST
    async with serve(max_header_size=200_000) as served:
        large = GET[:-2] + b"X: %b\r\n\r\n" % (b"y" * 100_000)
        assert await served.ask(large, len(HELLO)) == HELLO


async def test_decompress_decodes_request_bodies() -> None:
    body = gzip.compress(b"content " * 1000)
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serve(decompress=True) as served:
        assert await served.ask(POST + fields + body, len(HELLO)) == HELLO
        request = served.requests[0]
        assert request.body == b"content " * 1000
        assert request.headers["X-Consumed-Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in request.headers
        assert "Content-Length" not in request.headers
    async with serve() as served:
        assert await served.ask(POST + fields + body, len(HELLO)) == HELLO
        assert served.requests[0].body == body
        assert served.requests[0].headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("body", [gzip.compress(b"x" * 100)[:-4], b"not gzip at all"])
async def test_a_body_that_is_not_what_its_encoding_says_is_malformed(body: bytes) -> None:
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serve(decompress=True) as served:
        await served.peer.send(POST + fields + body)
        assert await served.peer.receive_all() == BAD_REQUEST
        assert served.requests[0].finished == 0


async def test_m78_a_bomb_stops_at_max_body_size() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with serve(decompress=True, max_body_size=1_000_000) as served:
        await served.peer.send(POST + fields + bomb)
        assert await served.peer.receive_all() == BAD_REQUEST
        assert len(served.requests[0].body) <= 1_000_000


async def test_m78_a_bomb_for_a_slow_delegate_is_decoded_piece_by_piece() -> None:
    class Slow(Answering):
        total = 0

        async def data_received(self, chunk: bytes) -> None:
            assert len(chunk) <= 65536
            self.total += len(chunk)
            await asyncio.sleep(0)

    bomb = gzip.compress(bytes(20_000_000))
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with serve(Slow, decompress=True) as served:
        assert await served.ask(POST + fields + bomb, len(HELLO)) == HELLO
        assert served.requests[0].total == 20_000_000


# -- m24: work grows with the input, not with its square


async def _seconds_for(request: bytes) -> float:
    async with serve(max_header_size=10_000_000) as served:
        began = time.process_time()
        await served.peer.send(request)
        await served.peer.receive(len(HELLO))
        return time.process_time() - began


@pytest.mark.parametrize("kind", ["headers", "long header", "chunks"])
async def test_m24_ten_times_the_input_takes_about_ten_times_the_work(kind: str) -> None:
    def request(size: int) -> bytes:
        if kind == "headers":
            return GET[:-2] + b"X: y\r\n" * (size // 10) + b"\r\n"
        if kind == "long header":
            return GET[:-2] + b"X: " + b"y" * (200 * size) + b"\r\n\r\n"
        return CHUNKED + b"1\r\nx\r\n" * (20 * size) + b"0\r\n\r\n"

    await _seconds_for(request(100))
    small = min([await _seconds_for(request(1000)) for _ in range(5)])
    large = min([await _seconds_for(request(10_000)) for _ in range(3)])
    assert large < 30 * max(small, 0.001)


async def test_m24_a_million_one_byte_chunks_do_not_stall_the_loop() -> None:
    """No call of the loop's works on them for long, however busy the machine is."""
    async with serve() as served:
        channel_steps: list[float] = []
        on_readable = served.stream._receive

        def timed() -> int:
            began = time.thread_time()
            size = on_readable()
            channel_steps.append(time.thread_time() - began)
            return size

        served.stream._receive = timed  # type: ignore[method-assign]
        await served.peer.send(CHUNKED)
        for _ in range(100):
            await served.peer.send(b"1\r\nx\r\n" * 10_000)
        assert await served.ask(b"0\r\n\r\n", len(HELLO)) == HELLO
        assert len(served.requests[0].body) == 1_000_000
        assert max(channel_steps) < 0.05
