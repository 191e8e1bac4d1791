"""Status lines that libcurl lets through."""

from __future__ import annotations

from typing import Any

import pycurl
import pytest

from whimbrel.httpclient import HTTPProtocolError
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok

_LINES = [
    b"HTTP/1.1\t200 404 OK",
    b"HTTP/1.1\t101 200 OK",
    b"HTTP/1.1\t304 200 OK",
    b"HTTP/1.1\t200",
    b"HTTP/1.1 101 Switching Protocols",
    b"http/1.1 404 Not Found",
]
_MALFORMED = "malformed status line"
_SWITCHING = "101 Switching Protocols"
_FIELDS = b"\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
@pytest.mark.parametrize("line", _LINES)
async def test_what_is_no_final_status_line(curl_client: Any, line: bytes, before: bytes) -> None:
    """With a tab before the code, for one: libcurl takes the first number, and who splits at spaces
    the second."""
    seen: list[str] = []
    fault = _SWITCHING if b" 101 " in line else _MALFORMED
    async with ScriptedServer(canned(before + line + _FIELDS)) as server:
        for arguments in (
            {},
            {"streaming_callback": seen.append},
            {"header_callback": seen.append},
        ):
            with pytest.raises(HTTPProtocolError, match=fault):
                await curl_client.fetch(server.url(), **arguments)
        with pytest.raises(HTTPProtocolError, match=fault):
            async with curl_client.stream(server.url(), raise_error=False):
                pass
    assert not seen


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1\t100", b"HTTP/1.1\t100 Continue", b"HTTP/1.1\t103 x", b"http/1.1 103 x"]
)
async def test_nor_in_an_interim_response(curl_client: Any, line: bytes) -> None:
    async with ScriptedServer(canned(line + b"\r\n\r\nHTTP/1.1 200 OK" + _FIELDS)) as server:
        for arguments in ({}, {"header_callback": lambda line: None}):
            with pytest.raises(HTTPProtocolError, match=_MALFORMED):
                await curl_client.fetch(server.url(), **arguments)


@pytest.mark.parametrize("line", [b"ICY", b"ICY 2000 OK"])
async def test_no_code_behind_another_protocols_name(curl_client: Any, line: bytes) -> None:
    """Nor is one looked for in the first field."""

    def prepare(easy: Any) -> None:
        easy.setopt(pycurl.HTTP200ALIASES, ["ICY"])

    answer = line + b"\r\nContent-Length: 404\r\n\r\n" + bytes(404)
    async with ScriptedServer(canned(answer)) as server:
        with pytest.raises(HTTPProtocolError, match=_MALFORMED):
            await curl_client.fetch(server.url(), prepare_curl_callback=prepare)


async def test_another_protocols_name(curl_client: Any) -> None:
    """A caller may let libcurl take it."""
    async with ScriptedServer(canned(b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok")) as server:
        response = await curl_client.fetch(
            server.url(),
            prepare_curl_callback=lambda easy: easy.setopt(pycurl.HTTP200ALIASES, ["ICY 200"]),
        )
        assert (response.code, response.body) == (200, b"ok")


async def test_a_field_that_looks_like_a_status_line(curl_client: Any) -> None:
    """libcurl takes it for a field, which says nothing of where the head begins."""
    head = b"HTTP/1.1 200 OK\r\nHTTP/1.1 404: x\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedServer(canned(head)) as server:
        response = await curl_client.fetch(server.url())
        assert (response.code, response.headers["Content-Length"]) == (200, "0")


_CHALLENGE = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n'
_PLAIN = _CHALLENGE + b"Content-Length: 2\r\n\r\nno"
_CHUNKED = (
    _CHALLENGE
    + b"Transfer-Encoding: chunked\r\nX-Head: first\r\n\r\n2\r\nno\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
_DIGEST = {"auth_mode": "digest", "auth_username": "u", "auth_password": "p"}


def _challenging(challenge: bytes, answer: bytes) -> Any:
    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            is_answered = b"nonce" in request.raw_head
            await peer.send(answer if is_answered else challenge)

    return handler


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_trailers_behind_a_challenge(curl_client: Any, before: bytes) -> None:
    """libcurl passes them on as header lines, without a blank line behind them."""
    async with ScriptedServer(
        _challenging(before + _CHUNKED, ok(b"yes", "X-Head: last"))
    ) as server:
        for _ in range(2):
            response = await curl_client.fetch(server.url(), **_DIGEST)
            assert (response.code, response.body) == (200, b"yes")
            assert response.headers["X-Head"] == "last"


@pytest.mark.parametrize("streamed", [False, True])
async def test_another_protocol_behind_a_challenge(curl_client: Any, streamed: bool) -> None:
    """Which libcurl takes for the final response."""
    seen: list[bytes] = []
    arguments = {"streaming_callback": seen.append} if streamed else {}
    switching = b"HTTP/1.1 101 Switching Protocols" + _FIELDS
    async with ScriptedServer(_challenging(_PLAIN, switching)) as server:
        with pytest.raises(HTTPProtocolError, match=_SWITCHING):
            await curl_client.fetch(server.url(), **_DIGEST, **arguments)
    assert not seen


async def test_another_protocols_name_behind_an_interim_response(curl_client: Any) -> None:
    def prepare(easy: Any) -> None:
        easy.setopt(pycurl.HTTP200ALIASES, ["ICY 200"])

    answer = b"HTTP/1.1 103 Early Hints\r\n\r\nICY 200 OK" + _FIELDS
    async with ScriptedServer(canned(answer)) as server:
        with pytest.raises(HTTPProtocolError, match=_MALFORMED):
            await curl_client.fetch(server.url(), prepare_curl_callback=prepare)


async def test_no_head_at_all(curl_client: Any) -> None:
    """A caller may let libcurl take HTTP/0.9."""
    async with ScriptedServer(canned(b"hello world\n")) as server:
        with pytest.raises(HTTPProtocolError, match="status line"):
            await curl_client.fetch(
                server.url(),
                prepare_curl_callback=lambda easy: easy.setopt(pycurl.HTTP09_ALLOWED, 1),
            )
