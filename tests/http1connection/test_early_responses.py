"""Responses that are finished before their request is: what becomes of the rest of it."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from whimbrel.httputil import HTTPHeaders, ResponseStartLine

from .support import GET, HELLO, Message, answer, serve, until

POST = b"POST / HTTP/1.1\r\nHost: test\r\n"
LENGTH_4 = POST + b"Content-Length: 4\r\n\r\n"
CHUNKED_4 = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSING = HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
BIG = b"0123456789abcdef" * 1_000_000
OK = ResponseStartLine("", 200, "OK")


class AtOnce(Message):
    """Answers when the head of the request is there."""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        super().headers_received(start_line, headers)
        answer(self.connection)


class AtFirstPiece(Message):
    """Answers when the body has begun."""

    def data_received(self, chunk: bytes) -> None:
        super().data_received(chunk)
        answer(self.connection)


class Large(AtOnce):
    """Answers at once, and with more than there is room for on the way."""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        answer(self.connection, BIG)


async def test_a_request_that_is_not_here_yet_ends_the_connection_and_is_told_so() -> None:
    async with serve(AtOnce) as served:
        await served.peer.send(LENGTH_4 + b"ab")
        assert await served.peer.receive_all() == CLOSING
        assert (served.requests[0].finished, served.requests[0].closed) == (0, 1)


async def test_a_request_that_is_here_is_thrown_away_and_the_connection_stays() -> None:
    async with serve(AtOnce) as served:
        for request in (GET, LENGTH_4 + b"body", LENGTH_4 + b"body" + GET):
            count = request.count(b"HTTP")
            assert await served.ask(request, count * len(HELLO)) == HELLO * count
        for request in served.requests:
            # Neither the body nor its end: the answer was there before.
            assert (request.pieces, request.finished, request.closed) == ([], 0, 1)
        assert not served.stream.closed()


async def test_nothing_of_a_request_is_given_after_its_answer() -> None:
    async with serve(AtFirstPiece, chunk_size=2) as served:
        assert await served.ask(LENGTH_4 + b"body" + GET[:5], len(HELLO)) == HELLO
        assert served.requests[0].pieces == [b"bo"]
        assert served.requests[0].closed == 1
        assert not served.stream.closed()


async def test_a_coded_body_is_not_decoded_to_its_end() -> None:
    body = gzip.compress(bytes(300_000))
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serve(AtFirstPiece, decompress=True) as served:
        # Broken at its end, of which nobody hears.
        request = POST + fields + body[:-8] + bytes(8)
        assert await served.ask(request * 2, 2 * len(HELLO)) == HELLO * 2
        assert len(served.requests[0].pieces) == 1


async def test_a_client_that_waits_for_100_and_is_answered_is_told_of_the_close() -> None:
    """Whether its body follows nobody knows, also where the response is not written in one."""

    class Streamed(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "5"}))
            self.connection.write(b"hello")
            self.connection.finish()

    async with serve(Streamed) as served:
        await served.peer.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await served.peer.receive_all() == CLOSING


@pytest.mark.parametrize("ends", [True, False])
async def test_of_a_chunked_body_the_end_decides(ends: bool) -> None:
    """A head that goes out before cannot tell yet; what is here when the response ends can."""

    class Streamed(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "5"}))
            self.connection.write(b"hello")
            self.connection.finish()

    body = b"4\r\nbody\r\n" + (b"0\r\n\r\n" if ends else b"")
    async with serve(Streamed) as served:
        await served.peer.send(CHUNKED_4 + body)
        if ends:
            assert await served.peer.receive(len(HELLO)) == HELLO
            assert await served.ask(GET, len(HELLO)) == HELLO
        else:
            assert await served.peer.receive_all() == HELLO


async def test_a_chunked_body_whose_end_is_not_seen_yet_closes() -> None:
    async with serve(AtOnce) as served:
        await served.peer.send(CHUNKED_4 + b"4\r\nbody\r\n0\r\n\r\n")
        assert await served.peer.receive_all() == CLOSING


async def test_a_malformed_rest_does_not_spoil_the_response() -> None:
    async with serve(AtOnce) as served:
        await served.peer.send(CHUNKED_4 + b"nonsense\r\n")
        assert await served.peer.receive_all() == CLOSING


async def test_a_response_that_streams_while_its_request_does_keeps_the_connection() -> None:
    class Echo(Message):
        def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
            self.connection.write_headers(OK, HTTPHeaders({"Content-Length": "4"}))

        def data_received(self, chunk: bytes) -> None:
            self.connection.write(chunk)

        def finish(self) -> None:
            self.connection.finish()

    expected = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    async with serve(Echo) as served:
        for _ in range(2):
            await served.peer.send(LENGTH_4 + b"bo")
            assert await served.ask(b"dy", len(expected)) == expected


async def test_what_follows_an_early_response_is_taken_and_not_kept() -> None:
    """A client may read nothing before it has sent everything; that must not fill the memory."""
    async with serve(Large) as served:
        await served.peer.send(POST + b"Content-Length: 1000000000\r\n\r\n")
        await until(lambda: served.stream.unsent)
        channel = served.requests[0].connection._channel
        for _ in range(20):
            await served.peer.send(bytes(1_000_000))
            assert channel.protocol.buffered == 0
        assert served.stream.unsent
        assert (await served.peer.receive_all()).endswith(b"\r\n\r\n" + BIG)


async def test_a_delegate_that_is_still_awaited_does_not_hold_the_rest_back() -> None:
    gate = asyncio.Event()

    class Waiting(Message):
        async def data_received(self, chunk: bytes) -> None:
            answer(self.connection, BIG)
            await gate.wait()

    async with serve(Waiting) as served:
        await served.peer.send(POST + b"Content-Length: 50000000\r\n\r\nx")
        await until(lambda: served.stream.unsent)
        await served.peer.send(bytes(20_000_000))
        gate.set()
        assert (await served.peer.receive_all()).endswith(b"\r\n\r\n" + BIG)


@pytest.mark.parametrize(("piece", "body"), [(False, b"ab"), (True, b"ab"), (False, b"body")])
async def test_body_timeout_ends_with_an_early_response(piece: bool, body: bytes) -> None:
    """Whose body is not waited for is not timed for it, while the response goes out."""

    class LargeAtFirstPiece(Message):
        def data_received(self, chunk: bytes) -> None:
            answer(self.connection, BIG)

    async with serve(LargeAtFirstPiece if piece else Large, body_timeout=0.1) as served:
        await served.peer.send(LENGTH_4 + body)
        await until(lambda: served.stream.unsent)
        await asyncio.sleep(0.3)
        size = len(BIG) + len(b"HTTP/1.1 200 OK\r\nContent-Length: 16000000\r\n\r\n")
        received = await served.peer.receive(
            size + (len(b"Connection: close\r\n") if body == b"ab" else 0)
        )
        assert received.endswith(b"\r\n\r\n" + BIG)
