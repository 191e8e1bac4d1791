"""Responses while they arrive: callbacks, streams, decoding, back-pressure. CONTRACT 23 to 27."""

from __future__ import annotations

import asyncio
import contextlib
import io
import zlib
from typing import Any

import pytest

from whimbrel.httpclient import (
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
)
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import (
    Handler,
    Peer,
    ScriptedServer,
    canned,
    chunk,
    chunked,
    ok,
    redirect,
    reply,
    routes,
)

from .support import (
    BROTLI,
    BROTLI_BOMB,
    BROTLI_BOMB_SIZE,
    BROTLI_TEXT,
    MB,
    FlushingGzip,
    error_of,
    gzip_bomb,
    gzipped,
    peak_memory,
    raw_deflate,
    settled,
    until,
)

CHUNKED = "Transfer-Encoding: chunked"


# -- 23: chunks


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_flushed_pieces_arrive_separately(client: Any, encoding: str, framing: str) -> None:
    """CONTRACT 23: what the server flushes separately arrives as separate callbacks."""
    pieces = [b"first " * 100, b"second", b"third"]
    compressor = FlushingGzip()
    wire = list(pieces) if encoding == "identity" else [compressor.piece(p) for p in pieces]
    if encoding == "gzip":
        wire[-1] += compressor.end()
    seen: list[bytes] = []
    heard = asyncio.Event()

    def hear(data: bytes) -> None:
        seen.append(data)
        heard.set()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n"
        if framing == "length":
            head += f"Content-Length: {sum(map(len, wire))}\r\n"
        elif framing == "chunked":
            head += f"{CHUNKED}\r\n"
        await peer.send(head.encode() + b"\r\n")
        for piece in wire:
            heard.clear()
            await peer.send(chunk(piece) if framing == "chunked" else piece)
            await heard.wait()
        if framing == "chunked":
            await peer.send(chunk(b""))

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), streaming_callback=hear)
    assert seen == pieces
    assert response.body == b""
    assert response.buffer.getvalue() == b""


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"Hello world!"),
        reply("200 OK", chunked(b"Hello world!"), CHUNKED),
        ok(gzipped(b"Hello world!"), "Content-Encoding: gzip"),
    ],
)
async def test_small_body_is_one_callback(client: Any, answer: bytes) -> None:
    """CONTRACT 23: a small body is exactly one callback."""
    seen: list[bytes] = []
    async with ScriptedServer(canned(answer)) as server:
        await client.fetch(server.url(), streaming_callback=seen.append)
    assert seen == [b"Hello world!"]


@pytest.mark.parametrize(
    "answer", [ok(b""), reply("204 No Content"), reply("200 OK", b"0\r\n\r\n", CHUNKED)]
)
async def test_empty_body_is_no_callback(client: Any, answer: bytes) -> None:
    """CONTRACT 23: without a body the callback is never called."""
    seen: list[bytes] = []
    async with ScriptedServer(canned(answer)) as server:
        await client.fetch(server.url(), streaming_callback=seen.append)
    assert seen == []


async def test_large_body_arrives_once_and_in_order(client: Any) -> None:
    """Nothing is lost, repeated or reordered between many chunks."""
    body = b"".join(b"%09d\n" % number for number in range(300_000))
    seen: list[bytes] = []
    async with ScriptedServer(canned(ok(body))) as server:
        await client.fetch(server.url(), streaming_callback=seen.append)
    assert b"".join(seen) == body
    assert len(seen) > 1


async def test_error_statuses_are_streamed_too(client: Any) -> None:
    """The body of a 404 goes to the streaming_callback like any other."""
    seen: list[bytes] = []
    async with ScriptedServer(canned(reply("404 Not Found", b"sorry"))) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url(), streaming_callback=seen.append)
    assert seen == [b"sorry"]
    assert caught.value.response.body == b""


async def test_bodies_of_redirects_are_not_streamed(client: Any) -> None:
    """The streaming_callback hears the final response only."""
    seen: list[bytes] = []
    table = {"/": reply("302 Found", b"moved", "Location: /end"), "/end": ok(b"end")}
    async with ScriptedServer(routes(table)) as server:
        await client.fetch(server.url(), streaming_callback=seen.append)
    assert seen == [b"end"]


# -- 24: header_callback


async def test_header_callback_lines(client: Any) -> None:
    r"""CONTRACT 24: str lines with CRLF, start line first, "\r\n" last, all before any data."""
    events: list[str | bytes] = []
    head = b"HTTP/1.1 200 Very Fine\r\nX-A: 1\r\nx-a:2\r\nX-L: caf\xe9\r\nContent-Length: 4\r\n\r\n"
    answer = head + b"body"
    async with ScriptedServer(canned(answer)) as server:
        response = await client.fetch(
            server.url(), header_callback=events.append, streaming_callback=events.append
        )
    assert events == [
        "HTTP/1.1 200 Very Fine\r\n",
        "X-A: 1\r\n",
        "x-a:2\r\n",
        "X-L: caf\xe9\r\n",
        "Content-Length: 4\r\n",
        "\r\n",
        b"body",
    ]
    assert response.headers.get_list("X-A") == ["1", "2"]
    assert response.reason == "Very Fine"


async def test_header_callback_with_buffered_body(client: Any) -> None:
    """CONTRACT 24: without a streaming_callback the body is in the response."""
    lines: list[str] = []
    async with ScriptedServer(canned(ok(b"body"))) as server:
        response = await client.fetch(server.url(), header_callback=lines.append)
    assert lines[0].startswith("HTTP/1.1 200")
    assert response.body == b"body"
    assert response.headers["Content-Length"] == "4"


async def test_header_callback_of_redirects_and_interim_responses(client: Any) -> None:
    """CONTRACT 24: of redirects only the final response's lines (Tornado's curl gives all)."""
    lines: list[str] = []
    hints = b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n"
    table = {"/": redirect("/end", "302 Found", "X-Hop: 1"), "/end": hints + ok(b"", "X-End: 1")}
    async with ScriptedServer(routes(table)) as server:
        await client.fetch(server.url(), header_callback=lines.append)
    assert lines == ["HTTP/1.1 200 OK\r\n", "X-End: 1\r\n", "Content-Length: 0\r\n", "\r\n"]


async def test_header_callback_hears_an_unfollowed_redirect(client: Any) -> None:
    """CONTRACT 24: a 3xx that is the outcome is reported."""
    for arguments in ({"follow_redirects": False}, {"max_redirects": 0}):
        lines: list[str] = []
        async with ScriptedServer(canned(redirect("/end"))) as server:
            await client.fetch(
                server.url(), header_callback=lines.append, raise_error=False, **arguments
            )
        assert lines[0] == "HTTP/1.1 302 Found\r\n"
        assert lines[-1] == "\r\n"


async def test_trailers_are_no_headers(client: Any) -> None:
    """CONTRACT 24: trailers reach neither the header_callback nor response.headers."""
    lines: list[str] = []
    body = chunk(b"data") + b"0\r\nX-Trailer: t\r\nContent-Length: 99\r\nSet-Cookie: a=b\r\n\r\n"
    async with ScriptedServer(canned(reply("200 OK", body, CHUNKED))) as server:
        for _ in range(2):  # nor do they disturb the next response on the connection
            response = await client.fetch(server.url(), header_callback=lines.append)
            assert response.body == b"data"
            assert list(response.headers) == ["Transfer-Encoding"]
        assert len(server.connections) == 1
    assert lines == ["HTTP/1.1 200 OK\r\n", f"{CHUNKED}\r\n", "\r\n"] * 2


async def test_header_callback_feeds_parse_line(client: Any) -> None:
    """CONTRACT 24: the lines after the first can be given to HTTPHeaders.parse_line."""
    headers = HTTPHeaders()

    def feed(line: str) -> None:
        if not line.startswith("HTTP/"):
            headers.parse_line(line)

    async with ScriptedServer(canned(ok(b"", "X-A: b"))) as server:
        response = await client.fetch(server.url(), header_callback=feed)
    assert headers == response.headers


# -- 25, matrix 79: coroutine callbacks and back-pressure


async def test_coroutine_callback_is_awaited_chunk_by_chunk(client: Any) -> None:
    """CONTRACT 25: the next chunk is not delivered before the coroutine for the last has ended."""
    body = b"".join(b"%09d\n" % number for number in range(100_000))
    inside = 0
    seen: list[bytes] = []

    async def consume(data: bytes) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        seen.append(data)
        inside -= 1

    async with ScriptedServer(canned(ok(body))) as server:
        response = await client.fetch(server.url(), streaming_callback=consume)
    assert b"".join(seen) == body
    assert response.body == b""
    assert inside == 0


async def test_fetch_ends_after_its_last_callback(client: Any) -> None:
    """CONTRACT 25: the future is done only when the last coroutine is."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def consume(data: bytes) -> None:
        entered.set()
        await release.wait()

    async with ScriptedServer(canned(ok(b"all of it"))) as server:
        future = client.fetch(server.url(), streaming_callback=consume)
        await entered.wait()
        await settled(lambda: server.connections[0].bytes_sent, quiet=0.05)
        assert not future.done()
        release.set()
        assert (await future).code == 200


async def test_future_returning_callback_holds_back_too(client: Any) -> None:
    """CONTRACT 25: whatever awaitable a plain callback returns is waited for."""
    seen: list[bytes] = []
    gate: list[asyncio.Future[None]] = []

    def consume(data: bytes) -> asyncio.Future[None]:
        seen.append(data)
        gate.append(asyncio.get_running_loop().create_future())
        return gate[-1]

    async with ScriptedServer(canned(ok(b"x" * 500_000))) as server:
        future = client.fetch(server.url(), streaming_callback=consume)
        while not future.done():
            await until(lambda: future.done() or (gate and not gate[-1].done()))
            if not future.done():
                gate[-1].set_result(None)
                await asyncio.sleep(0)
    assert b"".join(seen) == b"x" * 500_000


async def test_a_stream_is_not_awaited(client: Any) -> None:
    with pytest.raises(TypeError, match=r"async with client\.stream\(\.\.\.\) as response"):
        await client.stream("http://127.0.0.1:9/")


async def test_what_callbacks_return_otherwise_is_ignored(client: Any) -> None:
    """``file.write`` will do: a result that cannot be awaited is nothing to wait for."""
    body = bytes(range(256)) * 2000
    lines, file = io.StringIO(), io.BytesIO()
    async with ScriptedServer(canned(ok(body))) as server:
        response = await client.fetch(
            server.url(), header_callback=lines.write, streaming_callback=file.write
        )
    assert response.code == 200
    assert file.getvalue() == body
    assert lines.getvalue().startswith("HTTP/1.1 200 OK\r\n")


def _endless(size: int, head: bytes, piece: bytes) -> Handler:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(head)
        for _ in range(size // len(piece)):
            await peer.send(piece)

    return handler


TOTAL = 64 * MB
PLAIN = _endless(TOTAL, f"HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n".encode(), bytes(MB))


async def test_matrix_79_slow_consumer_pauses_the_transfer(client: Any) -> None:
    """CONTRACT 25, matrix 79: while the coroutine runs, the server cannot send on and on."""
    entered, release = asyncio.Event(), asyncio.Event()
    received = 0

    async def consume(data: bytes) -> None:
        nonlocal received
        received += len(data)
        entered.set()
        await release.wait()

    async with ScriptedServer(PLAIN, send_buffer=64 * 1024) as server:
        with peak_memory() as peak:
            future = client.fetch(server.url(), streaming_callback=consume)
            await entered.wait()
            (peer,) = server.connections
            assert await settled(lambda: peer.bytes_sent) < 16 * MB
            assert received < MB
        assert peak.above < 32 * MB
        release.set()
        await future
    assert received == TOTAL


async def test_matrix_79_other_transfers_go_on_beside_a_paused_one(client: Any) -> None:
    """Matrix 79: a slow consumer holds only its own transfer."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def consume(data: bytes) -> None:
        entered.set()
        await release.wait()

    async with ScriptedServer(PLAIN) as slow, ScriptedServer(canned(ok(b"quick"))) as quick:
        future = client.fetch(slow.url(), streaming_callback=consume)
        await entered.wait()
        for _ in range(20):
            assert (await client.fetch(quick.url())).body == b"quick"
        assert not future.done()
        future.cancel()


async def test_matrix_79_paused_transfer_notices_its_deadline(client: Any) -> None:
    """Matrix 79: request_timeout ends a fetch whose consumer never finishes."""
    cancelled = asyncio.Event()

    async def consume(data: bytes) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with ScriptedServer(PLAIN) as server:
        error = await error_of(
            client.fetch(server.url(), streaming_callback=consume, request_timeout=0.3)
        )
        assert isinstance(error, HTTPTimeoutError)
        await cancelled.wait()
        await server.connections[0].closed()


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_matrix_79_slow_consumer_of_a_bomb(client: Any, coding: str) -> None:
    """Matrix 79: nothing is decoded ahead of a consumer that is not done."""
    entered, release = asyncio.Event(), asyncio.Event()
    payload = gzip_bomb(TOTAL) if coding == "gzip" else BROTLI_BOMB
    received = 0

    async def consume(data: bytes) -> None:
        nonlocal received
        received += len(data)
        if not release.is_set():
            entered.set()
            await release.wait()

    async with ScriptedServer(canned(ok(payload, f"Content-Encoding: {coding}"))) as server:
        with peak_memory() as peak:
            future = client.fetch(server.url(), streaming_callback=consume)
            await entered.wait()
            await settled(lambda: received)
            assert received < 4 * MB
        assert peak.above < 32 * MB
        release.set()
        await future
    assert received == TOTAL


# -- client.stream()


async def test_stream_gives_the_head_first(client: Any) -> None:
    """Entering the block waits for status and headers, not for the body."""
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 Fine\r\nX-A: b\r\nContent-Length: 8\r\n\r\n")
        await release.wait()
        await peer.send(b"one ")
        await peer.send(b"two!")
        await peer.closed()

    async with ScriptedServer(handler) as server, client.stream(server.url("/x")) as response:
        assert (response.code, response.reason) == (200, "Fine")
        assert response.headers["X-A"] == "b"
        assert response.effective_url == server.url("/x")
        release.set()
        assert b"".join([data async for data in response]) == b"one two!"


async def test_stream_read_returns_the_rest(client: Any) -> None:
    """read() gives what the iteration has not; afterwards the body is at its end."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"one "))
        await more.wait()
        await peer.send(chunk(b"two ") + chunk(b"three") + chunk(b""))

    more = asyncio.Event()
    async with ScriptedServer(handler) as server, client.stream(server.url()) as response:
        assert await anext(aiter(response)) == b"one "
        more.set()
        assert await response.read() == b"two three"
        assert await response.read() == b""
        assert [data async for data in response] == []


async def test_stream_takes_a_request_and_arguments(client: Any) -> None:
    """stream() takes what fetch() takes, bodies and redirects included."""
    table = {"/": redirect("/end", "307 T"), "/end": lambda request: ok(request.body)}
    async with (
        ScriptedServer(routes(table)) as server,
        client.stream(server.url(), method="PUT", body=b"echo") as response,
    ):
        assert await response.read() == b"echo"
        assert response.effective_url == server.url("/end")
        assert [r.code for r in response.history] == [307]


async def test_stream_decodes(client: Any) -> None:
    """The body of a stream is decoded like any other."""
    answer = ok(gzipped(b"decoded"), "Content-Encoding: gzip")
    async with ScriptedServer(canned(answer)) as server, client.stream(server.url()) as response:
        assert response.headers["X-Consumed-Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in response.headers
        assert "Content-Length" not in response.headers
        assert await response.read() == b"decoded"


async def test_stream_keeps_the_connection_when_read_to_the_end(client: Any) -> None:
    """A body read to its end leaves a connection for the next request."""
    async with ScriptedServer(canned(ok(b"x" * 10_000))) as server:
        for _ in range(3):
            async with client.stream(server.url()) as response:
                assert len(await response.read()) == 10_000
        assert len(server.connections) == 1


async def test_stream_left_early_aborts(make_client: Any) -> None:
    """Leaving the block before the end closes the connection and frees the slot."""
    client = make_client(max_clients=1)
    async with ScriptedServer(PLAIN, send_buffer=64 * 1024) as server:
        async with client.stream(server.url()) as response:
            await anext(aiter(response))
        await server.finished()
        assert server.connections[0].bytes_sent < TOTAL
        async with ScriptedServer(canned(ok(b"next"))) as other:
            assert (await client.fetch(other.url())).body == b"next"


async def test_stream_left_by_an_exception_aborts(make_client: Any) -> None:
    """So does an exception in the block; it comes out as it is."""
    client = make_client(max_clients=1)
    async with ScriptedServer(PLAIN) as server:
        with pytest.raises(LookupError, match="mine"):  # noqa: PT012
            async with client.stream(server.url()) as response:
                async for _ in response:
                    raise LookupError("mine")
        await server.finished()
        async with ScriptedServer(canned(ok())) as other:
            await client.fetch(other.url())


async def test_stream_cancelled_while_reading(make_client: Any) -> None:
    """Cancelling the task that reads aborts the transfer."""
    client = make_client(max_clients=1)
    reading = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxx")
        await peer.closed()

    async def read() -> None:
        async with client.stream(server.url()) as response:
            async for _ in response:
                reading.set()

    async with ScriptedServer(handler) as server:
        task = asyncio.ensure_future(read())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.finished()


async def test_stream_raises_for_status(client: Any) -> None:
    """A status error raises on entering, unless raise_error=False."""
    async with ScriptedServer(canned(reply("404 Not Found", b"why"))) as server:
        with pytest.raises(HTTPError, match="404") as caught:
            async with client.stream(server.url()):
                raise AssertionError("entered")
        assert caught.value.response.code == 404
        async with client.stream(server.url(), raise_error=False) as response:
            assert response.code == 404
            assert response.error is not None
            assert await response.read() == b"why"


@pytest.mark.parametrize(
    ("arguments", "kind"), [({"method": "POST"}, ValueError), ({"method": "X"}, KeyError)]
)
async def test_stream_refuses_bad_input(client: Any, arguments: Any, kind: Any) -> None:
    """Bad input raises on entering."""
    with pytest.raises(kind):
        async with client.stream("http://127.0.0.1:9/", **arguments):
            raise AssertionError("entered")


async def test_stream_reports_failures_in_the_body(client: Any) -> None:
    """A body that is cut short raises from the iteration, after what had come."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await heard.wait()

    heard = asyncio.Event()
    seen: list[bytes] = []
    async with ScriptedServer(handler) as server, client.stream(server.url()) as response:
        with pytest.raises(HTTPError) as caught:  # noqa: PT012
            async for data in response:
                seen.append(data)
                heard.set()
    assert seen == [b"half"]
    assert caught.value.code == 599
    assert caught.value.stage == "body"


async def test_stream_slow_reader_pauses_the_transfer(client: Any) -> None:
    """A reader that does not read holds the server back, and then gets everything."""
    async with ScriptedServer(PLAIN, send_buffer=64 * 1024) as server:
        with peak_memory() as peak:
            async with client.stream(server.url()) as response:
                (peer,) = server.connections
                assert await settled(lambda: peer.bytes_sent) < 16 * MB
                total = 0
                async for data in response:
                    total += len(data)
        assert peak.above < 32 * MB
    assert total == TOTAL


async def test_stream_respects_max_body_size(client: Any) -> None:
    """max_body_size counts in a stream as well."""
    async with ScriptedServer(PLAIN) as server:
        with pytest.raises(HTTPLimitError, match="100000"):  # noqa: PT012
            async with client.stream(server.url(), max_body_size=100_000) as response:
                async for _ in response:
                    pass


async def test_stream_times_out(client: Any) -> None:
    """request_timeout covers the reading of the body."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPTimeoutError):
            async with client.stream(server.url(), request_timeout=0.2) as response:
                await response.read()
        await server.finished()


async def test_stream_closed_with_its_client(make_client: Any) -> None:
    """Closing the client ends a stream that is being read with a typed error."""
    client = make_client()
    async with ScriptedServer(PLAIN) as server, client.stream(server.url()) as response:
        await anext(aiter(response))
        client.close()
        with pytest.raises(HTTPStreamClosedError):
            async for _ in response:
                pass


# -- 26: decoding


async def test_decoded_response_headers(client: Any) -> None:
    """CONTRACT 26: Content-Encoding moves to X-Consumed-Content-Encoding; Content-Length goes."""
    answer = ok(gzipped(b"text"), "Content-Encoding: gzip", "X-Other: 1")
    async with ScriptedServer(canned(answer)) as server:
        response = await client.fetch(server.url())
    assert response.body == b"text"
    assert dict(response.headers) == {"X-Consumed-Content-Encoding": "gzip", "X-Other": "1"}


async def test_undecoded_response_is_untouched(client: Any) -> None:
    """CONTRACT 26: with decompress_response=False body and headers are as sent."""
    payload = gzipped(b"text")
    async with ScriptedServer(canned(ok(payload, "Content-Encoding: gzip"))) as server:
        response = await client.fetch(server.url(), decompress_response=False)
    assert response.body == payload
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Length"] == str(len(payload))
    assert "X-Consumed-Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    ("coding", "payload", "text"),
    [
        ("gzip", gzipped(b"text"), b"text"),
        ("x-gzip", gzipped(b"text"), b"text"),
        ("GZIP", gzipped(b"text"), b"text"),
        ("deflate", zlib.compress(b"text"), b"text"),
        ("deflate", raw_deflate(b"text"), b"text"),
        ("br", BROTLI, BROTLI_TEXT),
        ("gzip, gzip", gzipped(gzipped(b"text")), b"text"),
        ("deflate, gzip", gzipped(zlib.compress(b"text")), b"text"),
    ],
)
async def test_codings(client: Any, coding: str, payload: bytes, text: bytes) -> None:
    """CONTRACT 26: gzip, deflate with and without zlib's header, br, and several in a row."""
    async with ScriptedServer(canned(ok(payload, f"Content-Encoding: {coding}"))) as server:
        response = await client.fetch(server.url())
    assert response.body == text


async def test_empty_body_with_a_coding(client: Any) -> None:
    """An empty body needs no decoding, and HEAD and 304 have none whatever they say."""
    async with ScriptedServer(canned(ok(b"", "Content-Encoding: gzip"))) as server:
        assert (await client.fetch(server.url())).body == b""
    head = ok(b"", "Content-Encoding: gzip", "Content-Length: 20")
    async with ScriptedServer(canned(head)) as server:
        assert (await client.fetch(server.url(), method="HEAD")).body == b""
    async with ScriptedServer(canned(reply("304 Not", b"", "Content-Encoding: gzip"))) as server:
        assert (await client.fetch(server.url(), raise_error=False)).body == b""


# -- 27: gzip in detail


async def test_concatenated_members(client: Any) -> None:
    """CONTRACT 27: several gzip members one after the other decode to the sum of them."""
    payload = gzipped(b"one ") + gzipped(b"") + gzipped(b"two")
    async with ScriptedServer(canned(ok(payload, "Content-Encoding: gzip"))) as server:
        assert (await client.fetch(server.url())).body == b"one two"


async def test_concatenated_members_byte_by_byte(client: Any) -> None:
    """CONTRACT 27: wherever the pieces are cut, members decode the same."""
    payload = gzipped(b"one ") + gzipped(b"two")
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(payload)}\r\n\r\n"

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send_slowly(head.encode() + payload, 1, 0)

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url())).body == b"one two"


@pytest.mark.parametrize("tail", [b"\0", b"garbage", b"\x1f\x8b", b"\x1f\x8b\x08\0\0\0"])
async def test_trailing_garbage_is_an_error(client: Any, tail: bytes) -> None:
    """CONTRACT 27: what follows the last member and is none is an error."""
    answer = ok(gzipped(b"Hello World " * 9000) + tail, "Content-Encoding: gzip")
    async with ScriptedServer(canned(answer)) as server:
        assert isinstance(await error_of(client.fetch(server.url())), HTTPProtocolError)


@pytest.mark.parametrize("limit", [1000, 65_536, 1_000_000])
@pytest.mark.parametrize("streamed", [False, True])
async def test_max_body_size_counts_decoded_bytes(client: Any, limit: int, streamed: bool) -> None:
    """CONTRACT 27: the limit is on what comes out of the decoder, buffered or streamed."""
    seen: list[bytes] = []
    arguments = {"streaming_callback": seen.append} if streamed else {}
    for size, fits in ((limit, True), (limit + 1, False)):
        answer = ok(gzipped(bytes(size)), "Content-Encoding: gzip")
        async with ScriptedServer(canned(answer)) as server:
            fetch = client.fetch(server.url(), max_body_size=limit, **arguments)
            if fits:
                response = await fetch
                assert (sum(map(len, seen)) if streamed else len(response.body)) == size
            else:
                error = await error_of(fetch)
                assert isinstance(error, HTTPLimitError)
                assert str(limit) in str(error)
        seen.clear()


@pytest.mark.parametrize("mode", ["buffered", "streaming", "stream", "redirect", "error"])
@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_matrix_78_bombs(client: Any, mode: str, coding: str) -> None:
    """Matrix 78: a bomb costs no more memory than the limit allows, in whatever response it is."""
    limit = 8 * MB
    payload = gzip_bomb(TOTAL) if coding == "gzip" else BROTLI_BOMB
    status = {"redirect": "302 Found", "error": "500 Oops"}.get(mode, "200 OK")
    bomb = reply(status, payload, f"Content-Encoding: {coding}", "Location: /end")
    received = 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)

    async with ScriptedServer(routes({"/": bomb, "/end": ok(b"end")})) as server:
        with peak_memory() as peak:
            if mode == "redirect":
                # To skip the body and go on, or to give up at the limit: both are bounded.
                with contextlib.suppress(HTTPLimitError):
                    response = await client.fetch(server.url(), max_body_size=limit)
                    assert response.body == b"end"
            elif mode == "streaming":
                error = await error_of(
                    client.fetch(server.url(), streaming_callback=count, max_body_size=limit)
                )
                assert isinstance(error, HTTPLimitError)
                assert received <= limit
            elif mode == "stream":
                with pytest.raises(HTTPLimitError):  # noqa: PT012
                    async with client.stream(server.url(), max_body_size=limit) as response:
                        async for data in response:
                            count(data)
                assert received <= limit
            else:
                error = await error_of(client.fetch(server.url(), max_body_size=limit))
                assert isinstance(error, HTTPLimitError)
        assert peak.above < limit + 32 * MB


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_matrix_78_streamed_bomb_stays_small(client: Any, coding: str) -> None:
    """CONTRACT 27, matrix 78: 64 MB of zeros streamed to the end peak below 16 MB."""
    payload = gzip_bomb(TOTAL) if coding == "gzip" else BROTLI_BOMB
    assert BROTLI_BOMB_SIZE == TOTAL
    received = 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)

    async with ScriptedServer(canned(ok(payload, f"Content-Encoding: {coding}"))) as server:
        with peak_memory() as peak:
            await client.fetch(server.url(), streaming_callback=count)
    assert received == TOTAL
    assert peak.above < 16 * MB


async def test_default_max_body_size(client: Any) -> None:
    """CONTRACT 27: without any setting the limit is 100 MB of decoded bytes."""
    payload = gzip_bomb(101 * MB)
    received = 0

    def count(data: bytes) -> None:
        nonlocal received
        received += len(data)

    async with ScriptedServer(canned(ok(payload, "Content-Encoding: gzip"))) as server:
        error = await error_of(client.fetch(server.url(), streaming_callback=count))
    assert isinstance(error, HTTPLimitError)
    assert "104857600" in str(error)
    assert received <= 100 * MB
