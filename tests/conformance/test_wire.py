"""The exact bytes of a request: every method with every kind of body and of authentication."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, reply

from .support import CHUNKED, FORM, basic, challenge, check_digest, expected, sorted_head

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE")

Write = Callable[[bytes], Awaitable[None]]


async def _produce(write: Write) -> None:
    await write(b"one ")
    await write(b"two")


class _AsyncPieces:
    """An async iterable that can be iterated again."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"


# kind: (arguments, body, fields that frame it); None stands for "no body".
BODIES: dict[str, tuple[dict[str, Any], bytes | None, tuple[bytes, ...]]] = {
    "none": ({}, None, ()),
    "empty": ({"body": b""}, b"", (b"Content-Length: 0",)),
    "bytes": ({"body": b"\x00\xff\r\n"}, b"\x00\xff\r\n", (b"Content-Length: 4",)),
    "str": ({"body": "h\xe9"}, "h\xe9".encode(), (b"Content-Length: 3",)),
    "producer": ({"body_producer": _produce}, b"one two", (CHUNKED,)),
    "producer-length": (
        {"body_producer": _produce, "headers": {"Content-Length": "7"}},
        b"one two",
        (b"Content-Length: 7",),
    ),
    "iterable": ({"body": [b"one ", b"two"]}, b"one two", (CHUNKED,)),
    "async-iterable": ({"body": _AsyncPieces()}, b"one two", (CHUNKED,)),
}

# mode: (arguments, user information in the URL, Authorization field).
AUTH: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "none": ({}, None, None),
    "basic": (
        {"auth_username": "Aladdin", "auth_password": "open sesame"},
        None,
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    ),
    "url": ({}, "me:s%40crt", basic("me", "s@crt")),
    "bearer": ({"auth_mode": "bearer", "auth_token": "t0k3n"}, None, "Bearer t0k3n"),
}


def _framing(method: str, kind: str) -> list[bytes]:
    """The fields that the body adds to the usual ones."""
    _, body, fields = BODIES[kind]
    if body is None:
        # RFC 9110 section 8.6: these methods anticipate content, so its absence is said.
        return [b"Content-Length: 0"] if method in ("POST", "PUT", "PATCH") else []
    return [*fields, FORM] if method == "POST" else [*fields]


def _cases() -> list[tuple[str, str]]:
    return [(m, kind) for m in METHODS for kind in BODIES if m != "HEAD" or kind == "none"]


@pytest.mark.parametrize("auth", AUTH)
@pytest.mark.parametrize(("method", "kind"), _cases())
async def test_request_bytes(client: Any, method: str, kind: str, auth: str) -> None:
    """CONTRACT 18: these fields and no others are sent, and exactly the body."""
    arguments, body, _ = BODIES[kind]
    credentials, userinfo, authorization = AUTH[auth]
    async with ScriptedServer(canned(ok(b"" if method == "HEAD" else b"ok"))) as server:
        await client.fetch(
            server.url("/path;p?q=1&r=%20", userinfo=userinfo),
            method=method,
            allow_nonstandard_methods=True,
            **arguments,
            **credentials,
        )
    (request,) = server.requests
    fields = _framing(method, kind)
    if authorization:
        fields.append(f"Authorization: {authorization}".encode())
    assert sorted_head(request) == expected(f"{method} /path;p?q=1&r=%20 HTTP/1.1", server, *fields)
    assert request.body == (body or b"")
    assert server.connections[0].unread == b""


@pytest.mark.parametrize(("method", "kind"), _cases())
async def test_request_bytes_with_digest(client: Any, method: str, kind: str) -> None:
    """CONTRACT 18, 20: a digest request is answered at the second attempt, with the whole body."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(
                ok(b"" if method == "HEAD" else b"ok")
                if request.get("Authorization")
                else reply("401 Unauthorized", b"", f"WWW-Authenticate: {challenge()}")
            )

    arguments, body, _ = BODIES[kind]
    async with ScriptedServer(handler) as server:
        await client.fetch(
            server.url("/secret?q=1"),
            method=method,
            allow_nonstandard_methods=True,
            auth_mode="digest",
            auth_username="alice",
            auth_password="wonder land",
            **arguments,
        )
    first, second = server.requests
    assert first.get("Authorization") is None
    assert (first.method, first.target) == (second.method, second.target)
    authorization = second.get("Authorization")
    check_digest(authorization, second, "alice", "wonder land")
    assert sorted_head(second) == expected(
        f"{method} /secret?q=1 HTTP/1.1",
        server,
        *_framing(method, kind),
        f"Authorization: {authorization}".encode(),
    )
    assert second.body == (body or b"")


@pytest.mark.parametrize("kind", ["producer", "iterable", "async-iterable"])
async def test_chunks_are_what_was_written(client: Any, kind: str) -> None:
    """CONTRACT 22: a streamed body without Content-Length is chunked, up to the last chunk."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="PUT", **BODIES[kind][0])
    (request,) = server.requests
    assert b"".join(request.chunks) == b"one two"
    assert request.raw_body.endswith(b"\r\n0\r\n\r\n")
    assert request.trailers == []


async def test_accept_encoding_is_what_can_be_decoded(client: Any) -> None:
    """CONTRACT 18: Accept-Encoding names gzip and deflate, and nothing outside the four codings."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
    value = server.requests[0].get("Accept-Encoding")
    assert value is not None
    codings = re.split(r",\s*", value)
    assert {"gzip", "deflate"} <= set(codings) <= {"gzip", "deflate", "br", "zstd"}


async def test_no_accept_encoding_without_decompression(client: Any) -> None:
    """CONTRACT 18: decompress_response=False sends no Accept-Encoding; a caller's own passes."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), decompress_response=False)
        await client.fetch(server.url(), use_gzip=False)
        await client.fetch(
            server.url(), decompress_response=False, headers={"Accept-Encoding": "x-mine"}
        )
    assert [r.get("Accept-Encoding") for r in server.requests] == [None, None, "x-mine"]


async def test_large_body_brings_no_expect(client: Any) -> None:
    """CONTRACT 18: libcurl's own Expect: 100-continue for large bodies is off."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="POST", body=bytes(2_000_000))
        await client.fetch(server.url(), method="PUT", body=[bytes(1_100_000)] * 2)
    for request in server.requests:
        assert request.get("Expect") is None
    assert len(server.requests[0].body) == 2_000_000
    assert len(server.requests[1].body) == 2_200_000


async def test_connection_is_kept_alive(client: Any) -> None:
    """CONTRACT 18: successive requests share a connection, and none says Connection."""
    async with ScriptedServer(canned(ok())) as server:
        for _ in range(3):
            await client.fetch(server.url())
        assert len(server.connections) == 1
    assert all(request.get("Connection") is None for request in server.requests)


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("http://example.test", "example.test", "http://example.test/"),
        ("http://example.test/", "example.test", "http://example.test/"),
        ("http://example.test:80/", "example.test", "http://example.test/"),
        ("http://example.test:8080/", "example.test:8080", "http://example.test:8080/"),
        ("HTTP://EXAMPLE.test/", "example.test", "http://example.test/"),
        ("http://u:p@example.test/", "example.test", "http://example.test/"),
        ("http://b\xfccher.test/", "xn--bcher-kva.test", "http://xn--bcher-kva.test/"),
        ("http://[::1]/", "[::1]", "http://[::1]/"),
        ("http://[::1]:81/", "[::1]:81", "http://[::1]:81/"),
        ("http://127.1/", "127.0.0.1", "http://127.0.0.1/"),
    ],
)
async def test_host_field(client: Any, url: str, host: str, target: str) -> None:
    """CONTRACT 18: Host is the normalised authority, without user information or default port."""
    async with ScriptedServer(canned(ok())) as proxy:
        await client.fetch(url, proxy=proxy.url())
    assert proxy.requests[0].get("Host") == host
    assert proxy.requests[0].target == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("?", "/?"),
        ("?q=1", "/?q=1"),
        ("#fragment", "/"),
        ("/a#b?c", "/a"),
        ("/a%2Fb%20c", "/a%2Fb%20c"),
        ("/a%2fb?c=%3d", "/a%2fb?c=%3d"),
        ("/a b", "/a%20b"),
        ("/\xfc?\u20ac", "/%C3%BC?%E2%82%AC"),
        ("/a/../b", "/a/../b"),
        ("/a/./b//c", "/a/./b//c"),
        ("/%2e%2e/x", "/%2e%2e/x"),
        ("/q?a=b+c&d=%26;e[]='\"", "/q?a=b+c&d=%26;e[]='\""),
        ("/a|b{c}^`\\", "/a|b{c}^`\\"),
    ],
)
async def test_request_target(client: Any, path: str, target: str) -> None:
    """The target is the URL's path and query as given; what is not printable ASCII is encoded."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(path))
    assert server.requests[0].target == target


async def test_callers_host_replaces_ours(client: Any) -> None:
    """A caller's Host is sent instead of the URL's, once."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), headers={"Host": "virtual.example"})
    assert server.requests[0].get_all("Host") == ["virtual.example"]


async def test_user_agent_sources(make_client: Any) -> None:
    """As in Tornado: user_agent wins over a header, a header over the defaults."""
    async with ScriptedServer(canned(ok())) as server:
        client = make_client()
        await client.fetch(server.url(), user_agent="param")
        await client.fetch(server.url(), headers={"User-Agent": "header"})
        await client.fetch(server.url(), user_agent="param", headers={"user-agent": "header"})
    assert [r.get_all("User-Agent") for r in server.requests] == [["param"], ["header"], ["param"]]


async def test_repeated_and_empty_headers(client: Any) -> None:
    """Several values of a name are sent as several lines, in order; an empty value is sent too."""
    headers = HTTPHeaders()
    for name, value in [("X-Two", "first"), ("X-Two", "second"), ("X-Empty", "")]:
        headers.add(name, value)
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), headers=headers)
        await client.fetch(server.url(), headers={"X-Semi": "a;", "X-Colon": ":"})
    assert server.requests[0].get_all("X-Two") == ["first", "second"]
    assert server.requests[0].get_all("X-Empty") == [""]
    assert server.requests[1].get("X-Semi") == "a;"
    assert server.requests[1].get("X-Colon") == ":"


@pytest.mark.parametrize(
    "name",
    ["Accept", "Referer", "Connection", "Cache-Control", "Pragma", "X-Custom", "Range", "TE"],
)
async def test_callers_headers_pass_unchanged(client: Any, name: str) -> None:
    """A caller's header reaches the wire once, as given, whatever libcurl would do by itself."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), headers={name: "close, x=1"})
    assert server.requests[0].get_all(name) == ["close, x=1"]


async def test_headers_of_one_request_do_not_reach_the_next(client: Any) -> None:
    """A request with everything set leaves no trace in the plain one that follows it."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url("/everything", userinfo="u:p"),
            method="POST",
            body=b"body",
            headers={"X-Mine": "1", "Content-Type": "text/plain", "Cookie": "a=b"},
            user_agent="other",
            if_modified_since=0,
            decompress_response=False,
            auth_mode="basic",
            http_version="1.1",
        )
        await client.fetch(server.url("/plain"))
    assert sorted_head(server.requests[1]) == expected("GET /plain HTTP/1.1", server)
    assert server.requests[1].body == b""


async def test_caller_content_type_of_post(client: Any) -> None:
    """CONTRACT 18: the form Content-Type is only for a POST that has none."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url(), method="POST", body=b"{}", headers={"content-type": "application/json"}
        )
        await client.fetch(server.url(), method="PUT", body=b"x")
    assert server.requests[0].get_all("Content-Type") == ["application/json"]
    assert server.requests[1].get_all("Content-Type") == []


async def test_http_version_1_1(client: Any) -> None:
    """http_version="1.1" speaks HTTP/1.1, and so does the default without TLS."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url(), http_version="1.1")
        assert response.http_version == "1.1"
        await client.fetch(server.url())
    assert [request.version for request in server.requests] == ["HTTP/1.1"] * 2
    assert all(request.get("Upgrade") is None for request in server.requests)
