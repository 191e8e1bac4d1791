"""Several header blocks for one request (interim responses, challenges, answers to CONNECT), and
trailers between them: each is looked at, and none is taken for another."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.httpclient import (
    HTTPProtocolError,
    HTTPProxyError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.testing.scripted import Handler, Peer, ScriptedServer, canned, ok, reply

from .support import challenge, error_of

CREDENTIALS = {"auth_username": "alice", "auth_password": "secret", "auth_mode": "digest"}
CHALLENGE = f"WWW-Authenticate: {challenge()}\r\n".encode()
EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"
TRAILERS = b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nX-Trailer: 1\r\nX-Leak: 2\r\n\r\n"
ASKED = b"HTTP/1.1 401 Who\r\n" + CHALLENGE
CONNECTED = b"HTTP/1.1 200 Connected\r\nX-Proxy: here\r\n\r\n"

WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "kept": dict,
    "header_callback": lambda: {"header_callback": lambda line: None},
    "streaming_callback": lambda: {"streaming_callback": lambda piece: None},
}
each_way = pytest.mark.parametrize("way", sorted(WAYS))


def answered(asked: bytes, answer: bytes) -> Handler:
    """`asked` for a request without credentials, else `answer`."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(answer if request.get("Authorization") else asked)

    return handler


@pytest.fixture
def origin_context(certificates: Any) -> ssl.SSLContext:
    certificate = certificates.ca.issue_cert("origin.test", "localhost")
    context: ssl.SSLContext = certificates.server_context(certificate)
    return context


# -- the heads of challenges


@each_way
@pytest.mark.parametrize("trailer", [None, b"HTTP/1.1 200 x: y"])
async def test_a_challenge_with_two_lengths(client: Any, way: str, trailer: bytes | None) -> None:
    """RFC 9112 section 6.1: whoever goes by one of them takes the rest for the next answer."""
    smuggled = ok(b"smuggled")
    end = b"0\r\n\r\n" if trailer is None else b"0\r\n" + trailer + b"\r\n\r\n"
    both = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (len(end) + len(smuggled))

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ASKED + both + end)
        await peer.read_request()
        await peer.send(smuggled)

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPProtocolError, match=None if trailer else "both Content-Length and"):
            await client.fetch(server.url(), **CREDENTIALS, **WAYS[way]())
        assert len(server.requests) == 1


@each_way
async def test_a_challenge_with_a_malformed_status_line(client: Any, way: str) -> None:
    asked = b"HTTP/1.1\t401 Who\r\n" + CHALLENGE + b"Content-Length: 0\r\n\r\n"
    async with ScriptedServer(answered(asked, ok())) as server:
        with pytest.raises(HTTPProtocolError, match="malformed status line"):
            await client.fetch(server.url(), **CREDENTIALS, **WAYS[way]())
        assert len(server.requests) == 1


@each_way
@pytest.mark.parametrize("count", [6, 11])
async def test_interim_responses_to_each_of_two_requests(client: Any, way: str, count: int) -> None:
    """CONTRACT 22: ten for each request, not for all that a login takes."""
    asked = count * EARLY + ASKED + b"Content-Length: 0\r\n\r\n"
    async with ScriptedServer(answered(asked, count * EARLY + ok(b"yes"))) as server:
        fetch = client.fetch(server.url(), **CREDENTIALS, **WAYS[way]())
        if count == 6:
            assert (await fetch).code == 200
        else:
            with pytest.raises(HTTPProtocolError, match="more than 10 interim responses"):
                await fetch
            assert len(server.requests) == 1


@each_way
async def test_100_to_one_round_is_none_to_the_next(client: Any, way: str) -> None:
    """A server that sends the last answer at once, without a word to Expect, is not waited for."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(ASKED + b"Content-Length: 0\r\n\r\n")
        await peer.read_head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.read_exactly(4) == b"body"
        again = f"WWW-Authenticate: {challenge('another', ', stale=true')}"
        await peer.send(reply("401 Stale", b"", again))
        await peer.read_head()
        await peer.send(ok(b"yes"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body=b"body",
            expect_100_continue=True,
            request_timeout=5,
            **CREDENTIALS,
            **WAYS[way](),
        )
        assert response.code == 200


# -- max_header_size


_BIG = "X-Big: " + 500 * "x"


@pytest.mark.parametrize(
    "answer",
    [
        EARLY[:-2] + _BIG.encode() + b"\r\n\r\n" + ok(b"yes", _BIG),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        + _BIG.encode()
        + b"\r\n\r\n3\r\nyes\r\n0\r\nX-Trailer: "
        + 500 * b"x"
        + b"\r\n\r\n",
    ],
    ids=["interim", "trailers"],
)
async def test_max_header_size_is_of_one_block(make_client: Any, answer: bytes) -> None:
    client = make_client(max_header_size=800)
    async with ScriptedServer(canned(answer)) as server:
        assert (await client.fetch(server.url())).body == b"yes"


async def test_max_header_size_of_a_challenge(make_client: Any) -> None:
    client = make_client(max_header_size=800)
    asked = reply("401 Who", b"", CHALLENGE.decode().strip(), _BIG)
    async with ScriptedServer(answered(asked, ok(b"yes", _BIG))) as server:
        assert (await client.fetch(server.url(), **CREDENTIALS)).body == b"yes"


# -- 101


@each_way
@pytest.mark.parametrize("then", ["open", "close", "body"])
async def test_101_that_nobody_asked_for(client: Any, way: str, then: str) -> None:
    """RFC 9110 section 15.2.2. Without a callback libcurl tells of it at its end."""
    length = b"Content-Length: 2\r\n\r\nok" if then == "body" else b"\r\n"

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n" + length)
        if then == "open":
            await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url(), request_timeout=0.5, **WAYS[way]()))
        assert isinstance(error, HTTPProtocolError)
        assert "101 Switching Protocols" in str(error)
        assert not error.retryable


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
@each_way
async def test_101_that_a_caller_asked_for(client: Any, way: str) -> None:
    """By an option of libcurl's own. This one is followed by nothing."""

    def prepare(easy: Any) -> None:
        easy.setopt(easy.HTTP_VERSION, 3)  # CURL_HTTP_VERSION_2_0, which asks for h2c

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        assert request.get("Upgrade") == "h2c"
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        )

    async with ScriptedServer(handler) as server:
        error = await error_of(
            client.fetch(server.url(), prepare_curl_callback=prepare, **WAYS[way]())
        )
        assert "was not asked for" not in str(error)


async def test_101_and_stall_timeout(client: Any) -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url(), stall_timeout=0.3))
        assert isinstance(error, HTTPProtocolError)
        assert not error.retryable


# -- what a callback sees


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_a_head_that_is_refused_is_not_delivered(client: Any, head: bytes) -> None:
    seen: list[str] = []
    async with ScriptedServer(canned(head + b"2\r\nok\r\n0\r\n\r\n")) as server:
        with pytest.raises(HTTPProtocolError):
            await client.fetch(server.url(), header_callback=seen.append)
    assert not seen


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_codings_of_no_body(client: Any, method: str) -> None:
    """There is nothing to decode, however often it would have been."""
    codings = ", ".join(6 * ["gzip"])
    head = f"HTTP/1.1 204 None\r\nContent-Encoding: {codings}\r\n\r\n".encode()
    async with ScriptedServer(canned(head)) as server:
        response = await client.fetch(server.url(), method=method)
        assert (response.code, response.body) == (204, b"")


async def test_codings_of_an_empty_body(client: Any) -> None:
    codings = ", ".join(6 * ["gzip"])
    answer = reply("200 OK", b"", f"Content-Encoding: {codings}")
    async with ScriptedServer(canned(answer)) as server:
        with pytest.raises(HTTPProtocolError):
            await client.fetch(server.url())


# -- stages


@pytest.mark.parametrize("way", ["request_timeout", "stall_timeout"])
async def test_nothing_behind_an_interim_response(client: Any, way: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(EARLY)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await error_of(client.fetch(server.url(), **{way: 0.3}))
        assert isinstance(error, HTTPTimeoutError)
        assert error.stage == "response"


# -- answers to CONNECT


@pytest.mark.parametrize(
    "end",
    [
        b"Content-Length: 0\r\n\r\n",
        TRAILERS,
        b"Content-Length: 0\r\nHTTP/1.1 200 x: y\r\n\r\n",
        TRAILERS[:-2] + b"HTTP/1.1 200 x: y\r\n\r\n",
    ],
    ids=["none", "trailers", "field", "both"],
)
async def test_challenges_of_a_proxy_without_end(client: Any, end: bytes) -> None:
    """Matrix 30: they are counted, whatever stands behind their status lines."""
    rounds = 0

    async def handler(peer: Peer) -> None:
        nonlocal rounds
        while True:
            await peer.read_head()
            rounds += 1
            asked = challenge(f"n{rounds}", ", stale=true")
            await peer.send(f"HTTP/1.1 407 Who\r\nProxy-Authenticate: {asked}\r\n".encode() + end)

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch(
                "https://origin.test/",
                proxy=proxy.url(userinfo="alice:secret"),
                proxy_auth_mode="digest",
            )
        )
        assert isinstance(error, HTTPProxyError)
        if b"200 x" not in end:
            assert (error.stage, error.proxy_code) == ("proxy-auth", 407)
            assert "asked for credentials 5 times" in str(error)
        assert rounds <= 6


async def test_trailers_behind_a_challenge_of_a_proxy(
    client: Any, certificates: Any, origin_context: Any
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_head()
        asked = f"HTTP/1.1 407 Who\r\nProxy-Authenticate: {challenge()}\r\n".encode()
        await peer.send(asked + TRAILERS)
        await peer.read_head()
        await peer.start_tls(origin_context, CONNECTED)
        while True:
            await peer.read_request()
            await peer.send(ok(b"yes"))

    async with ScriptedServer(handler) as proxy:
        for _ in range(2):  # a new tunnel, and that one again
            response = await client.fetch(
                "https://origin.test/",
                proxy=proxy.url(userinfo="alice:secret"),
                proxy_auth_mode="digest",
                ca_certs=certificates.ca_file,
            )
            assert (response.code, response.body) == (200, b"yes")
            assert response.proxy_code == 200
            assert dict(response.proxy_headers) == {"X-Proxy": "here"}
        assert len(proxy.connections) == 1


@each_way
@pytest.mark.parametrize("field", [b"Connection: close\r\n", b""])
@pytest.mark.parametrize("second", ["200 Connected", "502 Bad"])
async def test_a_tunnel_that_is_made_again(
    client: Any, certificates: Any, origin_context: Any, way: str, second: str, field: bytes
) -> None:
    """The trailers of the origin's challenge, which came through the first, are not the proxy's;
    and where the second is refused, it is the proxy that failed."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        if len(proxy.connections) == 1:
            await peer.start_tls(origin_context, CONNECTED)
            await peer.read_request()
            await peer.send(ASKED + field + TRAILERS)
            return
        if second != "200 Connected":
            await peer.send(reply(second, b""))
            return
        await peer.start_tls(origin_context, CONNECTED)
        while True:
            await peer.read_request()
            await peer.send(ok(b"yes"))

    async with ScriptedServer(handler) as proxy:
        fetch = client.fetch(
            "https://origin.test/",
            proxy=proxy.url(),
            ca_certs=certificates.ca_file,
            **CREDENTIALS,
            **WAYS[way](),
        )
        if second == "200 Connected":
            response = await fetch
            assert (response.code, response.proxy_code) == (200, 200)
            assert dict(response.proxy_headers) == {"X-Proxy": "here"}
        else:
            error = await error_of(fetch)
            assert isinstance(error, HTTPProxyError)
            assert (error.stage, error.proxy_code) == ("tunnel", 502)


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
@each_way
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connected\r\nSet-Cookie: evil=1\r\nHTTP/1.1 200 x: y\r\n\r\n",
        b"HTTP/1.1 200 Connected\r\nSet-Cookie: evil=1\r\nHTTP/1.1 404: y\r\n\r\n",
        b"HTTP/1.1 200x\r\nSet-Cookie: evil=1\r\n\r\n",
    ],
)
async def test_no_line_of_a_proxys_is_the_origins(
    client: Any, certificates: Any, origin_context: Any, way: str, answer: bytes
) -> None:
    """Whatever it looks like. (The simple backend refuses such answers.)"""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.start_tls(origin_context, answer)
        while True:
            await peer.read_request()
            await peer.send(reply("404 Gone", b"no", "X-Origin: 1"))

    async with ScriptedServer(handler) as proxy:
        for _ in range(2):
            response = await client.fetch(
                "https://origin.test/",
                proxy=proxy.url(),
                ca_certs=certificates.ca_file,
                raise_error=False,
                **WAYS[way](),
            )
            assert response.code == 404
            assert dict(response.headers) == {"X-Origin": "1", "Content-Length": "2"}


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
@pytest.mark.parametrize(
    ("method", "trailer"),
    [("GET", b"X-T: 1"), ("POST", b"X-T: 1"), ("POST", b"HTTP/1.1 401 x: y")],
)
async def test_a_login_for_a_second_tunnel(
    client: Any, certificates: Any, origin_context: Any, method: str, trailer: bytes
) -> None:
    """The proxy's challenge is none of the origin's, which has not answered the request that the
    end of the first tunnel swallowed."""
    inside = 0

    async def handler(peer: Peer) -> None:
        nonlocal inside
        number = len(proxy.connections)
        await peer.read_head()
        asked = challenge(f"n{number}", ", stale=true" if number > 1 else "")
        fields = f"HTTP/1.1 407 Who\r\nProxy-Authenticate: {asked}\r\n".encode()
        await peer.send(fields + TRAILERS.replace(b"X-Trailer: 1", trailer))
        await peer.read_head()
        await peer.start_tls(origin_context, CONNECTED)
        while True:
            await peer.read_request()
            inside += 1
            if inside == 2:
                return
            await peer.send(ok(b"yes"))

    async with ScriptedServer(handler) as proxy:

        def fetch() -> Any:
            return client.fetch(
                "https://origin.test/",
                method=method,
                body=None if method == "GET" else b"x",
                proxy=proxy.url(userinfo="alice:secret"),
                proxy_auth_mode="digest",
                ca_certs=certificates.ca_file,
            )

        assert (await fetch()).code == 200
        if method == "GET":
            assert (await fetch()).code == 200
        else:
            assert not (await error_of(fetch())).retryable
            assert inside == 2


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
async def test_what_a_proxy_said_is_kept(
    client: Any, certificates: Any, origin_context: Any
) -> None:
    """Whatever options a request through its tunnel has."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.start_tls(origin_context, CONNECTED)
        while True:
            await peer.read_request()
            await peer.send(ok(b"yes"))

    async with ScriptedServer(handler) as proxy:
        for prepare in (None, lambda easy: None, None):
            response = await client.fetch(
                "https://origin.test/",
                proxy=proxy.url(),
                ca_certs=certificates.ca_file,
                prepare_curl_callback=prepare,
            )
            assert response.proxy_code == 200
            assert dict(response.proxy_headers) == {"X-Proxy": "here"}
        assert len(proxy.connections) == 1


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
async def test_a_login_at_a_proxy_that_a_caller_set(client: Any) -> None:
    """Of its rounds nobody else knows."""
    rounds = 0

    async def handler(peer: Peer) -> None:
        nonlocal rounds
        while True:
            await peer.read_head()
            rounds += 1
            asked = challenge(f"n{rounds}", ", stale=true")
            await peer.send(
                f"HTTP/1.1 407 Who\r\nProxy-Authenticate: {asked}\r\n".encode() + TRAILERS
            )

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch(
                "https://origin.test/",
                proxy=proxy.url(userinfo="alice:secret"),
                prepare_curl_callback=lambda easy: easy.setopt(easy.PROXYAUTH, 2),
            )
        )
        assert isinstance(error, HTTPProxyError)
        assert rounds == 5


@each_way
@pytest.mark.parametrize("second", ["200 Connected", "502 Bad"])
async def test_a_kept_tunnel_that_was_closed(
    client: Any, certificates: Any, origin_context: Any, way: str, second: str
) -> None:
    """The request goes through another one, and what the proxy said of that is told."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        number = len(proxy.connections)
        if number == 2 and second != "200 Connected":
            await peer.send(reply(second, b"no"))
            return
        await peer.start_tls(
            origin_context, f"HTTP/1.1 200 Connected\r\nX-Proxy: {number}\r\n\r\n".encode()
        )
        await peer.read_request()
        await peer.send(EARLY + ok(b"yes", f"X-Origin: {number}"))
        if number == 1:
            await peer.read_request()  # and closes
        else:
            await peer.closed()

    async with ScriptedServer(handler) as proxy:
        options = {"proxy": proxy.url(), "ca_certs": certificates.ca_file}
        for number in ("1", "2"):
            fetch = client.fetch("https://origin.test/", **options, **WAYS[way]())
            if number == "2" and second != "200 Connected":
                error = await error_of(fetch)
                assert isinstance(error, HTTPProxyError)
                assert (error.stage, error.proxy_code) == ("tunnel", 502)
                continue
            response = await fetch
            assert (response.code, response.proxy_code) == (200, 200)
            assert dict(response.proxy_headers) == {"X-Proxy": number}
            assert dict(response.headers) == {"X-Origin": number, "Content-Length": "3"}


@each_way
@pytest.mark.parametrize("second", ["made", "refused", "broken", "silent"])
async def test_a_post_through_a_kept_tunnel_that_was_closed(
    client: Any, certificates: Any, origin_context: Any, way: str, second: str
) -> None:
    """RFC 9110 section 9.2.2: the answer to CONNECT is none to the request, which may have been
    carried out."""
    inside = 0

    async def handler(peer: Peer) -> None:
        nonlocal inside
        await peer.read_head()
        if inside and second == "refused":
            await peer.send(reply("502 Bad", b""))
        if inside and second == "silent":
            await peer.closed()
        if inside and second != "made":
            return
        await peer.start_tls(origin_context, CONNECTED)
        while True:
            await peer.read_request()
            inside += 1
            if inside > 1:
                return
            await peer.send(ok(b"yes"))

    async with ScriptedServer(handler) as proxy:
        options = {
            "method": "POST",
            "body": b"x",
            "request_timeout": 1,
            "proxy": proxy.url(),
            "ca_certs": certificates.ca_file,
            **WAYS[way](),
        }
        assert (await client.fetch("https://origin.test/", **options)).code == 200
        error = await error_of(client.fetch("https://origin.test/", **options))
        assert isinstance(error, HTTPStreamClosedError | HTTPProxyError | HTTPTimeoutError)
        assert not error.retryable
        assert inside == 2


@pytest.mark.parametrize("timeout", ["connect_timeout", "request_timeout"])
async def test_a_second_tunnel_that_is_never_made(
    client: Any, certificates: Any, origin_context: Any, timeout: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_head()
        if len(proxy.connections) == 1:
            await peer.start_tls(origin_context, CONNECTED)
            await peer.read_request()
            await peer.send(ASKED + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        else:
            await peer.closed()

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch(
                "https://origin.test/",
                proxy=proxy.url(),
                ca_certs=certificates.ca_file,
                **{timeout: 0.5},
                **CREDENTIALS,
            )
        )
        assert isinstance(error, HTTPTimeoutError)
        assert error.stage == "tunnel"


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_second_handshake_that_fails(
    client: Any, certificates: Any, origin_context: Any, then: str
) -> None:
    async def handler(peer: Peer) -> None:
        if len(server.connections) == 1:
            await peer.start_tls(origin_context)
            await peer.read_request()
            await peer.send(ASKED + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        elif then == "reset":
            peer.reset()

    async with ScriptedServer(handler) as server:
        error = await error_of(
            client.fetch(
                server.url(scheme="https", host="localhost"),
                ca_certs=certificates.ca_file,
                **CREDENTIALS,
            )
        )
        assert isinstance(error, HTTPTLSError)
        assert error.stage == "tls"


async def test_max_header_size_of_an_answer_to_connect(
    make_client: Any, certificates: Any, origin_context: Any
) -> None:
    client = make_client(max_header_size=800)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        connected = CONNECTED[:-2] + _BIG.encode() + b"\r\n\r\n"
        await peer.start_tls(origin_context, connected)
        await peer.read_request()
        await peer.send(ok(b"yes", _BIG))
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        response = await client.fetch(
            "https://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert response.body == b"yes"
