"""Where a response ends, and what is not a response: CONTRACT 32, 33, 38; matrix 15 to 20, 35."""

from __future__ import annotations

import asyncio
import re
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
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    chunk,
    chunked,
    ok,
    reply,
    respond,
)

from .support import BROTLI, BROTLI_TEXT, error_of, gzipped, raw_deflate

CHUNKED = "Transfer-Encoding: chunked"
OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _next_is_sound(client: Any) -> None:
    """The next request on the client succeeds."""
    async with ScriptedServer(canned(ok(b"sound"))) as server:
        assert (await client.fetch(server.url())).body == b"sound"


# -- 32: responses without body


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("HEAD", "200 OK", ["Content-Length: 12345"]),
        ("HEAD", "200 OK", [CHUNKED]),
        ("HEAD", "404 Not Found", ["Content-Length: 9"]),
        ("GET", "304 Not Modified", ["Content-Length: 12345"]),
        ("GET", "304 Not Modified", [CHUNKED]),
        ("GET", "204 No Content", []),
        ("GET", "204 No Content", ["Content-Length: 0"]),
        ("DELETE", "204 No Content", []),
    ],
)
async def test_responses_without_body(
    client: Any, method: str, status: str, headers: list[str]
) -> None:
    """CONTRACT 32: HEAD, 204 and 304 have no body; Content-Length stays readable."""
    async with ScriptedServer(canned(reply(status, b"", *headers))) as server:
        for _ in range(2):
            response = await client.fetch(server.url(), method=method, raise_error=False)
            assert response.code == int(status[:3])
            assert response.body == b""
            assert response.buffer.read() == b""
            for line in headers:
                name, value = line.split(": ")
                assert response.headers[name] == value
        assert len(server.connections) == 1


async def test_204_with_a_length_is_an_error(client: Any) -> None:
    """CONTRACT 32: a 204 that announces a body is an error, and its connection is closed."""
    async with ScriptedServer(respond(reply("204 No", b"hello", "Content-Length: 5"))) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPProtocolError)
        await server.connections[0].closed()
    await _next_is_sound(client)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", ok(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")),
        ("GET", reply("204 No Content", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")),
        ("GET", reply("304 Not Mod", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")),
        ("GET", reply("304 Not Mod", b"evil evil", "Content-Length: 9")),
    ],
)
async def test_matrix_18_body_where_none_may_be(client: Any, method: str, answer: bytes) -> None:
    """Matrix 18: HEAD, 204 or 304 with bytes after it: the connection is not used again."""
    async with ScriptedServer(canned(answer)) as server:
        response = await client.fetch(server.url(), method=method, raise_error=False)
        assert response.body == b""
        await client.fetch(server.url(), method=method, raise_error=False)
        assert len(server.connections) == 2
    await _next_is_sound(client)


# -- 33: Content-Length


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 2, 2"],
        ["Content-Length: 2", "Content-Length: 2"],
        ["Content-Length:   2  "],
        ["Content-Length: 02"],
    ],
)
async def test_accepted_lengths(client: Any, fields: list[str]) -> None:
    """CONTRACT 33: equal repetitions of Content-Length count once."""
    async with ScriptedServer(canned(reply("200 OK", b"ok", *fields))) as server:
        for _ in range(2):
            assert (await client.fetch(server.url())).body == b"ok"
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 2, 3"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2,"],
        ["Content-Length: +2"],
        ["Content-Length: -2"],
        ["Content-Length: 1_0"],
        ["Content-Length: 0x2"],
        ["Content-Length: "],
        ["Content-Length: two"],
        ["Content-Length: 2 2"],
        ["Content-Length: 2.0"],
        ["Content-Length: \xb2"],
        ["Content-Length: 2", CHUNKED],
        [CHUNKED, "Content-Length: 2"],
    ],
)
async def test_malformed_lengths(client: Any, fields: list[str]) -> None:
    """CONTRACT 33: unequal lists, non-digits, and a length with Transfer-Encoding are malformed."""
    body = chunked(b"ok") if CHUNKED in fields else b"ok"
    async with ScriptedServer(respond(reply("200 OK", body, *fields), then="close")) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPProtocolError)
        assert len(server.requests) == 1
    await _next_is_sound(client)


async def test_no_length_reads_to_the_close(client: Any) -> None:
    """CONTRACT 33: without a length the body ends with the connection."""
    head = b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"
    async with ScriptedServer(respond(head + b"x" * 50_000, then="close")) as server:
        for _ in range(2):
            response = await client.fetch(server.url())
            assert response.body == b"x" * 50_000
        assert len(server.connections) == 2


async def test_chunks_followed_at_once_by_the_close(client: Any) -> None:
    """CONTRACT 33: chunks and the close in one packet all arrive."""
    answer = OK_CHUNKED + b"1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"
    async with ScriptedServer(respond(answer, then="close")) as server:
        assert (await client.fetch(server.url())).body == b"12"


async def test_length_followed_at_once_by_the_close(client: Any) -> None:
    """CONTRACT 33: so does a body with a length."""
    async with ScriptedServer(respond(ok(b"x" * 100_000), then="close")) as server:
        assert len((await client.fetch(server.url())).body) == 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"2;ext\r\nok\r\n0\r\n\r\n",
        b'2;a="b;c"\r\nok\r\n0;last\r\n\r\n',
        b"00000002\r\nok\r\n000\r\n\r\n",
        b"2\r\nok\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
async def test_accepted_chunks(client: Any, body: bytes) -> None:
    """Chunk extensions are ignored, leading zeros and trailers accepted."""
    async with ScriptedServer(canned(OK_CHUNKED + body)) as server:
        for _ in range(2):
            assert (await client.fetch(server.url())).body == b"ok"
        assert len(server.connections) == 1


async def test_http_1_0_closes(client: Any) -> None:
    """An HTTP/1.0 response without keep-alive ends its connection."""
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedServer(canned(answer)) as server:
        for _ in range(2):
            response = await client.fetch(server.url())
            assert (response.body, response.http_version) == (b"ok", "1.0")
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("value", "kept"), [("close", False), ("x,\tClose", False), ("keep-alive", True)]
)
@pytest.mark.parametrize("body", [None, b"body"])
async def test_a_callers_connection_close_is_obeyed(
    client: Any, value: str, kept: bool, body: bytes | None
) -> None:
    """RFC 9112 section 9.6: who says close sends no further request on that connection."""
    method = "GET" if body is None else "POST"
    async with ScriptedServer(canned(ok())) as server:
        headers = {"Connection": value}
        await client.fetch(server.url(), method=method, body=body, headers=headers)
        assert (await client.fetch(server.url())).reused is kept
        assert len(server.connections) == (1 if kept else 2)


async def test_connection_close_is_obeyed(client: Any) -> None:
    """A response that says Connection: close is the last one of its connection."""
    async with ScriptedServer(canned(ok(b"ok", "Connection: close"))) as server:
        for _ in range(2):
            await client.fetch(server.url())
        assert len(server.connections) == 2


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "answer",
    [ok(b"whole", "X-A: b"), OK_CHUNKED + chunked(b"wh", b"ole")],
    ids=["length", "chunked"],
)
async def test_responses_in_small_pieces(client: Any, answer: bytes, size: int) -> None:
    """However the bytes are cut on their way, the response is the same."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send_slowly(answer, size, 0)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url())).body == b"whole"


# -- malformed replies that every client refuses (RELIABILITY section 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"hello world",
        b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nA: nul\x00nul\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nA: bare\rcr\r\nContent-Length: 2\r\n\r\nok",
        OK_CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"+2\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"0_2\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"g\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"1" * 17 + b"\r\nok\r\n0\r\n\r\n",
        OK_CHUNKED + b"2\r\nokXX0\r\n\r\n",
        OK_CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n" + chunked(b"ok"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + chunked(b"ok"),
    ],
)
async def test_malformed_replies(client: Any, answer: bytes) -> None:
    """A reply that is not HTTP is an HTTPProtocolError, and the client goes on."""
    async with ScriptedServer(respond(answer, then="close")) as server:
        error = await error_of(client.fetch(server.url(), request_timeout=3))
        assert isinstance(error, HTTPProtocolError)
        assert error.stage in ("response", "body")
        assert len(server.requests) == 1
    await _next_is_sound(client)


@pytest.mark.parametrize("status", ["101 Switching Protocols"])
async def test_matrix_20_unrequested_101(client: Any, status: str) -> None:
    """Matrix 20: a 101 that was not asked for is no success."""
    answer = reply(status, b"", "Upgrade: x", "Connection: upgrade") + b"other protocol"
    async with ScriptedServer(respond(answer, then="close")) as server:
        with pytest.raises(HTTPError):
            await client.fetch(server.url())
    await _next_is_sound(client)


# -- 15: truncation

WHOLE: dict[str, bytes] = {
    "length": ok(b"0123456789", "X-A: b"),
    "chunked": OK_CHUNKED + chunk(b"01234") + chunk(b"56789") + b"0\r\nT: x\r\n\r\n",
    "gzip": ok(gzipped(b"0123456789"), "Content-Encoding: gzip"),
    "gzip-chunked": reply(
        "200 OK", chunked(gzipped(b"0123456789")), CHUNKED, "Content-Encoding: gzip"
    ),
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("framing", WHOLE)
async def test_matrix_15_truncated_anywhere(client: Any, framing: str, then: str) -> None:
    """Matrix 15: cut at any byte, head or body, a response is an error and never a success."""
    answer = WHOLE[framing]
    cut = 0

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer[:cut])
        if then == "reset":
            peer.reset()

    async with ScriptedServer(handler) as server:
        for cut in range(len(answer)):
            error = await error_of(client.fetch(server.url(), method="POST", body=b""))
            assert isinstance(error, HTTPStreamClosedError | HTTPProtocolError), (cut, error)
            assert len(server.requests) == cut + 1
    await _next_is_sound(client)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_matrix_15_truncated_stream_delivers_and_fails(client: Any, framing: str) -> None:
    """Matrix 15: what had come is delivered to the streaming_callback, then the fetch fails."""
    seen: list[bytes] = []
    answer = WHOLE[framing]
    cut = answer.index(b"01234") + 5
    async with ScriptedServer(respond(answer[:cut], then="close")) as server:
        error = await error_of(client.fetch(server.url(), streaming_callback=seen.append))
    assert b"".join(seen) == b"01234"
    assert error.stage == "body"


async def test_matrix_15_empty_head_is_no_200(client: Any) -> None:
    """Matrix 15: the close inside the header block is an error, not an empty 200."""
    for head in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 200"):
        async with ScriptedServer(respond(head, then="close")) as server:
            error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPStreamClosedError | HTTPProtocolError)
        assert error.stage == "response"


# -- 16, 17: encodings

ENCODED: dict[str, tuple[bytes, bytes]] = {
    "gzip": (gzipped(b"0123456789" * 50), b"0123456789" * 50),
    "deflate": (zlib.compress(b"0123456789" * 50), b"0123456789" * 50),
    "br": (BROTLI, BROTLI_TEXT),
}


def _framed(payload: bytes, coding: str, framing: str) -> bytes:
    field = f"Content-Encoding: {coding}"
    if framing == "length":
        return ok(payload, field)
    if framing == "chunked":
        return reply("200 OK", chunked(payload), CHUNKED, field)
    return f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode() + payload


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("coding", ENCODED)
async def test_matrix_16_truncated_encoding(client: Any, coding: str, framing: str) -> None:
    """Matrix 16: an encoded body that ends early is an error, however it is framed and cut."""
    payload, text = ENCODED[coding]
    cut = 0

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(_framed(payload[:cut], coding, framing))
            if framing == "close":
                return

    async with ScriptedServer(handler) as server:
        for cut in range(1, len(payload)):
            error = await error_of(client.fetch(server.url(), method="POST", body=b""))
            assert isinstance(error, HTTPProtocolError), (cut, error)
        cut = len(payload)
        assert (await client.fetch(server.url())).body == text
    await _next_is_sound(client)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_matrix_17_garbage_instead_of_an_encoding(client: Any, coding: str) -> None:
    """Matrix 17: a body that is not what Content-Encoding says is an error."""
    answer = ok(b"this is plain text, not compressed", f"Content-Encoding: {coding}")
    async with ScriptedServer(canned(answer)) as server:
        assert isinstance(await error_of(client.fetch(server.url())), HTTPProtocolError)
    await _next_is_sound(client)


async def test_matrix_17_damaged_gzip(client: Any) -> None:
    """Matrix 17: a wrong checksum or length at the end of a gzip member is an error."""
    good = gzipped(b"0123456789" * 50)
    for position in (-1, -5, len(good) // 2):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        async with ScriptedServer(canned(ok(bytes(bad), "Content-Encoding: gzip"))) as server:
            assert isinstance(await error_of(client.fetch(server.url())), HTTPProtocolError)


async def test_matrix_17_too_many_encodings(client: Any) -> None:
    """Matrix 17: more than five codings in a row are refused."""
    payload = b"deep"
    for _ in range(6):
        payload = gzipped(payload)
    answer = ok(payload, "Content-Encoding: " + ", ".join(["gzip"] * 6))
    async with ScriptedServer(canned(answer)) as server:
        assert isinstance(
            await error_of(client.fetch(server.url())), HTTPProtocolError | HTTPLimitError
        )


async def test_raw_deflate_in_all_framings(client: Any) -> None:
    """Raw deflate, which some servers send as "deflate", is decoded in every framing."""
    for framing in ("length", "chunked", "close"):
        answer = _framed(raw_deflate(b"raw"), "deflate", framing)
        async with ScriptedServer(respond(answer, then="close")) as server:
            assert (await client.fetch(server.url())).body == b"raw"


# -- 19: stray bytes

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize("stray", [EVIL, b"x", b"\r\n", b"HTTP/1.1 408 Timeout\r\n\r\n"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_matrix_19_bytes_beyond_the_body(client: Any, framing: str, stray: bytes) -> None:
    """Matrix 19: bytes behind the body, in the same packet, never become the next response."""
    answer = (ok(b"good") if framing == "length" else OK_CHUNKED + chunked(b"good")) + stray
    async with ScriptedServer(canned(answer)) as server:
        for _ in range(3):
            response = await client.fetch(server.url())
            assert response.body == b"good"
        # libcurl throws away what follows the last chunk, and tells nobody.
        assert framing == "chunked" or len(server.connections) == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("stray", [EVIL, b"x", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_matrix_19_bytes_while_idle(client: Any, stray: bytes, method: str) -> None:
    """Matrix 19: bytes that come while a connection idles cost it; the next fetch takes another."""
    idle = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(b"good"))
        if peer is server.connections[0]:
            await idle.wait()
            await peer.send(stray)
            sent.set()
        await peer.closed()

    sent = asyncio.Event()
    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url())).body == b"good"
        idle.set()
        await sent.wait()
        for _ in range(3):  # the loop sees what the kernel has
            await asyncio.sleep(0)
        arguments = {"body": b"x"} if method == "POST" else {}
        assert (await client.fetch(server.url(), method=method, **arguments)).body == b"good"
        assert len(server.connections) == 2


# -- 35: resets, half-closes, stalls


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_matrix_35_reset_in_the_body(client: Any, framing: str) -> None:
    """Matrix 35: a RST in the middle of the body is an HTTPStreamClosedError of stage "body"."""
    heard = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        head = (
            OK_CHUNKED + chunk(b"half")
            if framing == "chunked"
            else ok(b"half", "Content-Length: 99")
        )
        await peer.send(head)
        await heard.wait()
        peer.reset()

    async with ScriptedServer(handler) as server:
        error = await error_of(
            client.fetch(server.url(), streaming_callback=lambda data: heard.set())
        )
    assert isinstance(error, HTTPStreamClosedError)
    assert error.stage == "body"
    await _next_is_sound(client)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])
async def test_matrix_35_half_close(client: Any, sent: bytes) -> None:
    """Matrix 35: a server that half-closes after the request, or after the headers, is gone."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(sent)
        peer.half_close()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url(), method="POST", body=b"x"))
        assert isinstance(error, HTTPStreamClosedError | HTTPProtocolError)
        await server.finished()
    await _next_is_sound(client)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"request_timeout": 0.3}, "Timeout during request"), ({"stall_timeout": 0.3}, None)],
)
async def test_matrix_35_stall_in_the_body(
    client: Any, arguments: dict[str, Any], message: str | None
) -> None:
    """Matrix 35: a body that stops coming ends by request_timeout, and by stall_timeout."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        started = asyncio.get_running_loop().time()
        error = await error_of(client.fetch(server.url(), **arguments))
        assert 0.25 < asyncio.get_running_loop().time() - started < 3.0
        assert isinstance(error, HTTPTimeoutError)
        assert error.stage == "body"
        assert message is None or message in str(error)
        await server.finished()


# -- 38: limits


async def test_body_limit_names_limit_and_size(client: Any) -> None:
    """CONTRACT 38: a body over the limit is an HTTPLimitError that names limit and size."""
    async with ScriptedServer(canned(ok(b"x" * 5000))) as server:
        assert len((await client.fetch(server.url(), max_body_size=5000)).body) == 5000
        error = await error_of(client.fetch(server.url(), max_body_size=4999))
    assert isinstance(error, HTTPLimitError)
    assert re.search(r"\b4999\b", str(error))
    assert re.search(r"\b5000\b", str(error))
    assert error.stage == "body"


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_body_limit_without_length(client: Any, framing: str) -> None:
    """CONTRACT 38: without Content-Length the limit acts when it is passed."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(OK_CHUNKED if framing == "chunked" else b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(chunk(b"x" * 1000) if framing == "chunked" else b"x" * 1000)
            await asyncio.sleep(0)

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url(), max_body_size=10_000))
        assert isinstance(error, HTTPLimitError)
        assert "10000" in str(error)
        await server.finished()
    await _next_is_sound(client)


async def test_client_wide_body_limit(make_client: Any) -> None:
    """max_body_size of the client holds where a request gives none; 0 is no limit."""
    async with ScriptedServer(canned(ok(b"x" * 100))) as server:
        client = make_client(max_body_size=99)
        assert isinstance(await error_of(client.fetch(server.url())), HTTPLimitError)
        for limit in (100, 0):
            response = await client.fetch(server.url(), max_body_size=limit)
            assert len(response.body) == 100
        client = make_client(max_buffer_size=99)
        assert isinstance(await error_of(client.fetch(server.url())), HTTPLimitError)


async def test_head_response_over_the_limit_is_fine(client: Any) -> None:
    """A Content-Length that announces no body of this response counts for nothing."""
    async with ScriptedServer(canned(reply("200 OK", b"", "Content-Length: 999"))) as server:
        response = await client.fetch(server.url(), method="HEAD", max_body_size=10)
    assert response.headers["Content-Length"] == "999"


async def test_header_limit(make_client: Any) -> None:
    """CONTRACT 38: a header block over max_header_size is an HTTPLimitError that names it."""
    client = make_client(max_header_size=2000)
    async with ScriptedServer(canned(ok(b"ok", "X-Big: " + "x" * 1000))) as server:
        assert (await client.fetch(server.url())).body == b"ok"
    async with ScriptedServer(respond(ok(b"ok", "X-Big: " + "x" * 2000))) as server:
        error = await error_of(client.fetch(server.url()))
    assert isinstance(error, HTTPLimitError)
    assert "2000" in str(error)
    async with ScriptedServer(respond(ok(b"ok", *[f"X-{n}: y" for n in range(300)]))) as server:
        assert isinstance(await error_of(client.fetch(server.url())), HTTPLimitError)
    await _next_is_sound(client)


async def test_matrix_21_header_block_has_a_limit_by_default(client: Any) -> None:
    """Matrix 21: endless headers end by the backend's own limit."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.send(b"X-Endless: " + b"x" * 1000 + b"\r\n")

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPLimitError)
        await server.finished()
    await _next_is_sound(client)
