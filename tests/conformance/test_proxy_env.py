"""Proxies: named by a request or the environment, what they see, and how they fail."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from whimbrel import __version__
from whimbrel.httpclient import HTTPError, HTTPProxyError, HTTPRequest
from whimbrel.testing.scripted import (
    Handler,
    Peer,
    ScriptedServer,
    canned,
    ok,
    redirect,
    refused_port,
    reply,
    respond,
    routes,
    silent,
)

from .support import basic, check_digest, error_of, expected, sorted_head

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CONNECTED = b"HTTP/1.1 200 Connection established\r\nX-Proxy: here\r\n\r\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy variable of whoever runs the tests."""
    for name in (*VARIABLES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def tunnelling(context: ssl.SSLContext, inside: Handler) -> Handler:
    """A proxy that answers CONNECT and then plays the origin in TLS by `inside`."""

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        assert request.method == "CONNECT"
        await peer.start_tls(context, CONNECTED)
        await inside(peer)

    return handler


@pytest.fixture
def origin_context(certificates: Any) -> ssl.SSLContext:
    """TLS for origin.test and other.test."""
    context: ssl.SSLContext = certificates.server_context(
        certificates.ca.issue_cert("origin.test", "other.test", "127.0.0.1", "localhost")
    )
    return context


# -- what the proxy sees


async def test_plain_request_through_a_proxy(client: Any) -> None:
    """Through an HTTP proxy the target is the absolute URL; the other bytes are the usual ones."""
    async with ScriptedServer(canned(ok(b"proxied"))) as proxy:
        response = await client.fetch("http://origin.test:81/p?q", proxy=proxy.url())
        assert response.body == b"proxied"
        assert response.proxy == proxy.url().rstrip("/")
        assert response.effective_url == "http://origin.test:81/p?q"
    (request,) = proxy.requests
    head = sorted_head(request).replace(b"Host: origin.test:81", f"Host: {proxy.address}".encode())
    assert head == expected("GET http://origin.test:81/p?q HTTP/1.1", proxy)


async def test_connect_bytes(client: Any, certificates: Any, origin_context: Any) -> None:
    """CONNECT carries Host, User-Agent and the proxy's credentials, and nothing of the request."""
    async with ScriptedServer(tunnelling(origin_context, canned(ok(b"inside")))) as proxy:
        response = await client.fetch(
            "https://origin.test/path",
            method="POST",
            body=b"body",
            headers={"X-Mine": "1", "Cookie": "a=b"},
            auth_username="u",
            auth_password="p",
            proxy=proxy.url(userinfo="alice:s3cret"),
            ca_certs=certificates.ca_file,
        )
        assert response.body == b"inside"
        connect, inner = proxy.requests
        line, *fields = connect.raw_head[:-4].split(b"\r\n")
        assert line == b"CONNECT origin.test:443 HTTP/1.1"
        assert sorted(fields) == [
            b"Host: origin.test:443",
            f"Proxy-Authorization: {basic('alice', 's3cret')}".encode(),
            f"User-Agent: whimbrel/{__version__}".encode(),
        ]
        assert inner.target == "/path"
        assert inner.get("Host") == "origin.test"
        assert inner.get("Proxy-Authorization") is None
        assert inner.get("Authorization") == basic("u", "p")
        assert (response.proxy_code, response.code) == (200, 200)
        assert response.proxy_headers["X-Proxy"] == "here"
        assert "X-Proxy" not in response.headers


async def test_reused_tunnel_tells_of_its_proxy_too(
    client: Any, certificates: Any, origin_context: Any
) -> None:
    """The second response through a tunnel has the proxy's code and headers as well."""
    async with ScriptedServer(tunnelling(origin_context, canned(ok()))) as proxy:
        for reused in (False, True):
            response = await client.fetch(
                "https://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file
            )
            assert response.reused is reused
            assert response.proxy_code == 200
            assert response.proxy_headers["X-Proxy"] == "here"
        assert len(proxy.connections) == 1


async def test_header_callback_does_not_hear_the_proxy(
    client: Any, certificates: Any, origin_context: Any
) -> None:
    """CONTRACT 24: the lines of the CONNECT reply are not the response's."""
    lines: list[str] = []
    async with ScriptedServer(tunnelling(origin_context, canned(ok(b"")))) as proxy:
        await client.fetch(
            "https://origin.test/",
            proxy=proxy.url(),
            ca_certs=certificates.ca_file,
            header_callback=lines.append,
        )
    assert lines == ["HTTP/1.1 200 OK\r\n", "Content-Length: 0\r\n", "\r\n"]


@pytest.mark.parametrize(
    ("arguments", "pair"),
    [
        ({"userinfo": "alice:secret"}, ("alice", "secret")),
        ({"userinfo": "al%40ice:s%3Ae%2Fc%25"}, ("al@ice", "s:e/c%")),
        ({"userinfo": "alice"}, ("alice", "")),
        ({"userinfo": "jos%C3%A9:%E2%82%AC"}, ("jos\xe9", "\u20ac")),
        ({"proxy_username": "alice", "proxy_password": "a b:c"}, ("alice", "a b:c")),
        ({"proxy_username": "alice"}, ("alice", "")),
    ],
)
@pytest.mark.parametrize("style", ["url", "host"])
async def test_proxy_credentials(
    client: Any, arguments: dict[str, Any], pair: tuple[str, str], style: str
) -> None:
    """Credentials come from the proxy's URL or from arguments, and go out as Basic."""
    arguments = dict(arguments)
    userinfo = arguments.pop("userinfo", None)
    async with ScriptedServer(canned(ok())) as proxy:
        if style == "url":
            arguments["proxy"] = proxy.url(userinfo=userinfo)
        elif userinfo is not None:
            arguments.update(proxy_host=f"http://{userinfo}@127.0.0.1", proxy_port=proxy.port)
        else:
            arguments.update(proxy_host="127.0.0.1", proxy_port=proxy.port)
        await client.fetch("http://origin.test/", **arguments)
    assert proxy.requests[0].get_all("Proxy-Authorization") == [basic(*pair)]
    assert proxy.requests[0].get("Authorization") is None


@pytest.mark.parametrize("form", ["{url}", "{address}", "http://{address}", "HTTP://{address}/"])
async def test_proxy_forms(client: Any, form: str) -> None:
    """proxy= takes a URL, or host:port for an HTTP proxy."""
    async with ScriptedServer(canned(ok(b"proxied"))) as proxy:
        value = form.format(url=proxy.url(), address=proxy.address)
        assert (await client.fetch("http://origin.test/", proxy=value)).body == b"proxied"


@pytest.mark.parametrize(
    "value",
    ["gopher://h:1", "ftp://h:1", "http://", "http://h:99999", "http://h/path", "socks6://h"],
)
async def test_bad_proxies(client: Any, value: str) -> None:
    """An unknown scheme or a malformed proxy is a ValueError that names the field."""
    with pytest.raises(ValueError, match="proxy"):
        await client.fetch("http://127.0.0.1:9/", proxy=value)


# -- SOCKS, to the byte


@asynccontextmanager
async def _socks(
    inside: Handler, log: list[bytes], login: bool = False
) -> AsyncIterator[ScriptedServer]:
    async def socks5(peer: Peer) -> None:
        log.append(greeting := await peer.read_exactly(2))
        log[-1] += await peer.read_exactly(greeting[1])
        await peer.send(b"\x05\x02" if login else b"\x05\x00")
        if login:
            head = await peer.read_exactly(2)
            user = await peer.read_exactly(head[1])
            length = await peer.read_exactly(1)
            log.append(head + user + length + await peer.read_exactly(length[0]))
            await peer.send(b"\x01\x00")
        request = await peer.read_exactly(5)
        rest = {1: 5, 3: request[4] + 2, 4: 17}[request[3]]
        log.append(request + await peer.read_exactly(rest))
        await peer.send(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        await inside(peer)

    async def socks4(peer: Peer) -> None:
        request = await peer.read_exactly(8) + await peer.read_until(b"\0")
        if request[4:7] == b"\0\0\0" and request[7]:
            request += await peer.read_until(b"\0")
        log.append(request)
        await peer.send(b"\x00\x5a\x00\x50\x7f\x00\x00\x01")
        await inside(peer)

    async def handler(peer: Peer) -> None:
        while not peer.unread:
            first = await peer.read_exactly(1)
            peer._wire.unread[:0] = first
        await (socks5 if peer.unread[0] == 5 else socks4)(peer)

    async with ScriptedServer(handler) as server:
        yield server


NAME = b"\x0borigin.test"
HERE = b"\x7f\x00\x00\x01"


@pytest.mark.parametrize(
    ("scheme", "host", "sent"),
    [
        ("socks5h", "origin.test", b"\x05\x01\x00\x03" + NAME + b"\x00\x50"),
        ("socks5h", "127.0.0.1", b"\x05\x01\x00\x01" + HERE + b"\x00\x50"),
        ("socks5", "127.0.0.1", b"\x05\x01\x00\x01" + HERE + b"\x00\x50"),
        ("socks5", "mapped.test", b"\x05\x01\x00\x01" + HERE + b"\x00\x50"),
        ("socks4a", "origin.test", b"\x04\x01\x00\x50\x00\x00\x00\x01\x00origin.test\x00"),
        ("socks4", "127.0.0.1", b"\x04\x01\x00\x50" + HERE + b"\x00"),
    ],
)
async def test_socks_bytes(make_client: Any, scheme: str, host: str, sent: bytes) -> None:
    """Each SOCKS scheme resolves where it says: the h and a forms at the proxy, others here."""
    log: list[bytes] = []
    client = make_client(hostname_mapping={"mapped.test": "127.0.0.1"})
    async with _socks(canned(ok(b"inside")), log) as proxy:
        url = f"{scheme}://{proxy.address}"
        response = await client.fetch(f"http://{host}/p", proxy=url)
        assert response.body == b"inside"
        assert response.proxy == url
    assert log[-1] == sent
    assert proxy.requests[0].target == "/p"
    assert proxy.requests[0].get("Host") == host


async def test_socks5_credentials(client: Any) -> None:
    """User name and password go into the SOCKS handshake (RFC 1929), and nowhere else."""
    log: list[bytes] = []
    async with _socks(canned(ok()), log, login=True) as proxy:
        await client.fetch("http://origin.test/", proxy=f"socks5h://al%40:p%3Aw@{proxy.address}")
    assert b"\x02" in log[0][2:]
    assert log[1] == b"\x01\x03al@\x03p:w"
    assert proxy.requests[0].get("Proxy-Authorization") is None
    assert proxy.requests[0].get("Authorization") is None


async def test_socks_users_do_not_share_connections(client: Any) -> None:
    """Two users of a SOCKS proxy never share a connection."""
    log: list[bytes] = []
    async with _socks(canned(ok()), log, login=True) as proxy:
        for user in ("alice", "bob", "alice"):
            await client.fetch("http://origin.test/", proxy=f"socks5h://{user}:x@{proxy.address}")
        assert len(proxy.connections) == 2


# -- identities


async def test_matrix_68_identities_never_share_a_tunnel(
    client: Any, certificates: Any, origin_context: Any
) -> None:
    """Matrix 68: alice, bob, nobody, alice: each has tunnels of its own."""

    async def inside(peer: Peer) -> None:
        connect = peer.requests[0].get("Proxy-Authorization") or "nobody"
        await canned(ok(connect.encode()))(peer)

    async with ScriptedServer(tunnelling(origin_context, inside)) as proxy:
        for user in ("alice:a", "bob:b", None, "alice:a", "alice:wrong"):
            response = await client.fetch(
                "https://origin.test/",
                proxy=proxy.url(userinfo=user),
                ca_certs=certificates.ca_file,
            )
            name = "nobody" if user is None else basic(*user.split(":"))
            assert response.body == name.encode()
        assert len(proxy.connections) == 4


async def test_proxied_and_direct_connections_are_apart(client: Any) -> None:
    """proxy=False after a proxied fetch goes to the origin itself, and the other way round."""
    async with (
        ScriptedServer(canned(ok(b"proxy"))) as proxy,
        ScriptedServer(canned(ok(b"origin"))) as origin,
    ):
        for arguments, body in (
            ({"proxy": proxy.url()}, b"proxy"),
            ({"proxy": False}, b"origin"),
            ({}, b"origin"),
            ({"proxy": proxy.url()}, b"proxy"),
        ):
            assert (await client.fetch(origin.url(), **arguments)).body == body


# -- 67: Proxy-Authorization


async def _sees(client: Any, origin: ScriptedServer, url: str, **arguments: Any) -> None:
    with_secret = HTTPRequest(url, **arguments)
    try:
        await client.fetch(with_secret)
    except ValueError as error:
        assert "Proxy-Authorization" in str(error)  # noqa: PT017
    for request in origin.requests:
        assert request.get_all("Proxy-Authorization") == []
        assert b"s3cret" not in request.raw


async def test_matrix_67_direct(client: Any) -> None:
    """Matrix 67: a caller's Proxy-Authorization without a proxy is refused, and reaches nobody."""
    async with ScriptedServer(canned(ok())) as origin:
        for name in ("Proxy-Authorization", "proxy-authorization"):
            await _sees(client, origin, origin.url(), headers={name: basic("a", "s3cret")})
            await _sees(client, origin, origin.url(), headers={name: "Bearer s3cret"})


async def test_matrix_67_tunnel(client: Any, certificates: Any, origin_context: Any) -> None:
    """Matrix 67: in a tunnel it becomes the proxy's credentials, or is refused; never inside."""
    async with ScriptedServer(tunnelling(origin_context, canned(ok()))) as proxy:
        await client.fetch(
            "https://origin.test/",
            headers={"Proxy-Authorization": basic("alice", "s3cret")},
            proxy=proxy.url(),
            ca_certs=certificates.ca_file,
        )
        connect, inner = proxy.requests
        assert connect.get("Proxy-Authorization") == basic("alice", "s3cret")
        assert inner.get("Proxy-Authorization") is None
        await client.fetch("https://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file)
        assert len(proxy.connections) == 2


async def test_matrix_67_socks(client: Any) -> None:
    """Matrix 67: nor does it pass through a SOCKS proxy."""
    log: list[bytes] = []
    async with _socks(canned(ok()), log) as proxy:
        await _sees(
            client,
            proxy,
            "http://origin.test/",
            proxy=f"socks5h://{proxy.address}",
            headers={"Proxy-Authorization": "Bearer s3cret"},
        )


async def test_matrix_67_no_proxy(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix 67: what NO_PROXY sends straight to the origin carries no proxy credentials."""
    async with ScriptedServer(canned(ok())) as proxy, ScriptedServer(canned(ok())) as origin:
        monkeypatch.setenv("http_proxy", proxy.url(userinfo="alice:s3cret"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        client = make_client(trust_env=True)
        await _sees(client, origin, origin.url())
        assert len(origin.requests) == 1
        await _sees(client, origin, origin.url(), proxy_username="a", proxy_password="s3cret")
        assert proxy.connections == []


async def test_matrix_67_redirect_from_proxied_to_direct(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 67: a hop that NO_PROXY sends to the origin drops the credentials of the last."""
    origin = ScriptedServer(canned(ok(b"end")))
    async with origin, ScriptedServer(canned(redirect(origin.url()))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(userinfo="alice:s3cret"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        response = await make_client(trust_env=True).fetch("http://elsewhere.test/")
        assert response.body == b"end"
        assert proxy.requests[0].get("Proxy-Authorization") == basic("alice", "s3cret")
        assert origin.requests[0].get("Proxy-Authorization") is None


# -- 30: 407


def _digest_challenge(stale: bool, count: int) -> bytes:
    return reply(
        "407 Proxy Authentication Required",
        b"",
        f'Proxy-Authenticate: Digest realm="p", nonce="n{count}", qop="auth", algorithm=MD5'
        + (", stale=true" if stale else ""),
    )


def _refusing(log: list[Any], challenge: Any) -> Handler:
    """A proxy that answers every request with a 407, over all its connections."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            log.append(request)
            await peer.send(challenge(len(log)))

    return handler


PROXY_AUTH: dict[str, tuple[str, Any, int]] = {
    "basic": (
        "basic",
        lambda count: reply("407 Auth", b"", 'Proxy-Authenticate: Basic realm="p"'),
        1,
    ),
    "digest": ("digest", lambda count: _digest_challenge(False, count), 2),
    "digest-stale": ("digest", lambda count: _digest_challenge(True, count), 5),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("case", PROXY_AUTH)
async def test_matrix_30_407_for_ever(make_client: Any, case: str, scheme: str) -> None:
    """Matrix 30: Basic is tried once, Digest twice, and stale=true at most five times in all."""
    mode, challenge, most = PROXY_AUTH[case]
    log: list[Any] = []
    client = make_client(max_clients=1)
    async with ScriptedServer(_refusing(log, challenge)) as proxy:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(
                f"{scheme}://origin.test/",
                proxy=proxy.url(userinfo="alice:s3cret"),
                proxy_auth_mode=mode,
                request_timeout=5,
            )
        error = caught.value
        assert not isinstance(error, TimeoutError)
        assert (error.stage, error.proxy_code) == ("proxy-auth", 407)
        assert error.proxy == proxy.url().rstrip("/")
        assert 1 <= len(log) <= most
        assert "s3cret" not in str(error) + repr(error)
        async with ScriptedServer(canned(ok(b"next"))) as origin:
            assert (await client.fetch(origin.url())).body == b"next"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_digest_at_a_proxy(
    client: Any, certificates: Any, origin_context: Any, scheme: str
) -> None:
    """A proxy's Digest challenge is answered, for plain requests and for CONNECT."""

    async def handler(peer: Peer) -> None:
        first = await peer.read_request()
        assert first.get("Proxy-Authorization") is None
        await peer.send(_digest_challenge(False, 1))
        second = await peer.read_request()
        check_digest(second.get("Proxy-Authorization"), second, "alice", "wonder land")
        if scheme == "https":
            await peer.start_tls(origin_context, CONNECTED)
            inner = await peer.read_request()
            assert inner.get("Proxy-Authorization") is None
        await peer.send(ok(b"let in"))
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        response = await client.fetch(
            f"{scheme}://origin.test/",
            proxy=proxy.url(userinfo="alice:wonder%20land"),
            proxy_auth_mode="digest",
            ca_certs=certificates.ca_file,
        )
        assert response.body == b"let in"


async def test_407_without_credentials(client: Any) -> None:
    """A 407 that nothing was given for is proxy-auth too, in both schemes."""
    answer = reply("407 Auth", b"why", 'Proxy-Authenticate: Basic realm="p"')
    async with ScriptedServer(canned(answer)) as proxy:
        with pytest.raises(HTTPError) as caught:
            await client.fetch("http://origin.test/", proxy=proxy.url())
        assert caught.value.code == 407
        assert (caught.value.stage, caught.value.proxy_code) == ("proxy-auth", 407)
        error = await error_of(client.fetch("https://origin.test/", proxy=proxy.url()))
        assert isinstance(error, HTTPProxyError)
        assert (error.stage, error.proxy_code) == ("proxy-auth", 407)


# -- 26, 28, 33: how proxies fail


@pytest.mark.parametrize("status", ["302 Found", "403 Forbidden", "502 Bad Gateway", "503 Later"])
async def test_matrix_28_connect_refused(client: Any, status: str) -> None:
    """Matrix 28: a CONNECT refused is an HTTPProxyError with its status, and never followed."""
    answer = reply(status, b"<html>", "Location: http://127.0.0.1:9/")
    async with ScriptedServer(canned(answer)) as proxy:
        error = await error_of(client.fetch("https://origin.test/", proxy=proxy.url()))
        assert isinstance(error, HTTPProxyError)
        assert isinstance(error, ConnectionError)
        assert (error.stage, error.proxy_code) == ("tunnel", int(status[:3]))
        assert status[:3] in str(error)
        assert error.proxy == proxy.url().rstrip("/")
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"nonsense"]
)
async def test_matrix_26_proxy_breaks_off(client: Any, sent: bytes, then: Any) -> None:
    """Matrix 26: a proxy that leaves in the CONNECT exchange is an HTTPProxyError of the tunnel."""
    async with ScriptedServer(respond(sent, then=then)) as proxy:
        error = await error_of(client.fetch("https://origin.test/", proxy=proxy.url()))
    assert isinstance(error, HTTPProxyError)
    assert error.stage == "tunnel"


async def test_matrix_33_proxy_cannot_be_reached(client: Any) -> None:
    """Matrix 33: a proxy that refuses, or has no address, is told from an origin that does."""
    with refused_port() as port:
        error = await error_of(
            client.fetch("http://origin.test/", proxy=f"http://u:s3cret@127.0.0.1:{port}")
        )
    assert isinstance(error, HTTPProxyError)
    assert (error.stage, error.retryable) == ("proxy-connect", True)
    assert error.proxy == f"http://127.0.0.1:{port}"
    assert "s3cret" not in str(error)
    for scheme in ("http", "https", "socks5h"):
        error = await error_of(
            client.fetch("http://origin.test/", proxy=f"{scheme}://no-proxy.invalid:1080")
        )
        assert isinstance(error, HTTPProxyError)
        assert error.stage == "proxy-connect"


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        (b"\x05\x05", "tunnel"),
        (b"\x05\x01", "tunnel"),
        (b"\x05\x04", "tunnel"),
        (b"", "tunnel"),
    ],
)
async def test_matrix_32_socks_failures(client: Any, answer: bytes, stage: str) -> None:
    """Matrix 32: a SOCKS proxy that says no, or leaves, is an HTTPProxyError of stage "tunnel"."""

    async def handler(peer: Peer) -> None:
        await peer.read_exactly(3)
        await peer.send(b"\x05\x00")
        await peer.read_exactly(10)
        if answer:
            await peer.send(answer + b"\x00\x01\x00\x00\x00\x00\x00\x00")

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch("http://127.0.0.1:9/", proxy=f"socks5://{proxy.address}")
        )
    assert isinstance(error, HTTPProxyError)
    assert error.stage == stage


UNDEFINED = r"it failed (\(code 9|with a code that SOCKS. does not define)"  # libcurl hides it


@pytest.mark.parametrize(
    ("scheme", "answers", "stage", "words"),
    [
        ("socks5", [b"HTTP/1.1 400"], "tunnel", "it does not speak SOCKS5"),
        ("socks5", [b"\x05\x00", b"HTTP/1.1 400"], "tunnel", "it does not speak SOCKS5"),
        ("socks4", [b"HTTP/1.1 400"], "tunnel", "it does not speak SOCKS4"),
        ("socks4a", [b"HTTP/1.1 400"], "tunnel", "it does not speak SOCKS4"),
        ("socks5", [b"\x05\x7f"], "tunnel", "it chose .* not offered"),
        ("socks5", [b"\x05\x01"], "proxy-auth", "it chose authentication"),
        (
            "socks5",
            [b"\x05\x00", b"\x05\x00\x00\x09" + bytes(12)],
            "tunnel",
            "it answered with an unknown address type",
        ),
        ("socks5", [b"\x05\x00", b"\x05\x09\x00\x01" + bytes(6)], "tunnel", UNDEFINED),
        ("socks4", [b"\x00\x63" + bytes(6)], "tunnel", UNDEFINED),
        ("socks4", [b"\x00\x5c" + bytes(6)], "proxy-auth", "it does not accept the user id"),
        ("socks4", [b"\x00\x5d" + bytes(6)], "proxy-auth", "it does not accept the user id"),
    ],
)
async def test_what_is_wrong_with_a_socks_proxy(
    client: Any, scheme: str, answers: list[bytes], stage: str, words: str
) -> None:
    """In words, not in libcurl's numbers."""

    async def handler(peer: Peer) -> None:
        for answer in answers:
            await peer.read_some()
            await peer.send(answer)
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        url = f"{scheme}://{proxy.address}"
        error = await error_of(client.fetch("http://127.0.0.1:9/", proxy=url))
    assert isinstance(error, HTTPProxyError)
    assert error.stage == stage
    assert re.match(f"proxy {re.escape(url)}: {words}", str(error)), error


async def test_socks_wants_credentials(client: Any) -> None:
    """A SOCKS proxy that accepts no method, or rejects the password, is of stage "proxy-auth"."""

    async def none_accepted(peer: Peer) -> None:
        await peer.read_exactly(3)
        await peer.send(b"\x05\xff")
        await peer.closed()

    async def rejecting(peer: Peer) -> None:
        await peer.read_some()
        await peer.send(b"\x05\x02")
        await peer.read_some()
        await peer.send(b"\x01\x01")
        await peer.closed()

    for handler, userinfo in ((none_accepted, ""), (rejecting, "alice:s3cret@")):
        async with ScriptedServer(handler) as proxy:
            error = await error_of(
                client.fetch("http://127.0.0.1:9/", proxy=f"socks5://{userinfo}{proxy.address}")
            )
        assert isinstance(error, HTTPProxyError)
        assert error.stage == "proxy-auth"
        assert "s3cret" not in str(error) + repr(error)


async def test_origin_failures_through_a_proxy_are_the_origins(
    client: Any, certificates: Any, origin_context: Any, server_context: Any
) -> None:
    """What fails inside the tunnel is told as usual, with the proxy named."""

    async def inside(peer: Peer) -> None:
        await peer.read_request()

    async with ScriptedServer(tunnelling(origin_context, inside)) as proxy:
        error = await error_of(
            client.fetch("https://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file)
        )
        assert not isinstance(error, HTTPProxyError)
        assert error.stage == "response"
        assert error.proxy == proxy.url().rstrip("/")

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        try:
            await peer.start_tls(server_context, CONNECTED)
        except OSError:
            pass

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch("https://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file)
        )
        assert error.stage == "tls"
        assert isinstance(error, ssl.SSLError)


async def test_cancel_while_a_tunnel_is_made(make_client: Any) -> None:
    """CONTRACT 10: cancelled during CONNECT, the connection to the proxy is closed at once."""
    client = make_client(max_clients=1)
    async with ScriptedServer(silent) as proxy:
        fetch = client.fetch("https://origin.test/", proxy=proxy.url())
        (peer,) = await proxy.accepted()
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        await peer.closed()
    async with ScriptedServer(canned(ok())) as origin:
        await client.fetch(origin.url())


# -- 76: the environment


async def _through(client: Any, url: str, through: ScriptedServer, **arguments: Any) -> bool:
    """Whether a fetch of `url` goes through that proxy."""
    before = len(through.requests)
    await client.fetch(url, **arguments)
    return len(through.requests) > before


@pytest.fixture
async def two() -> AsyncIterator[tuple[ScriptedServer, ScriptedServer]]:
    """A proxy and an origin."""
    async with (
        ScriptedServer(canned(ok(b"proxy"))) as proxy,
        ScriptedServer(canned(ok())) as origin,
    ):
        yield proxy, origin


Two = tuple[ScriptedServer, ScriptedServer]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("form", ["http://{}", "{}", "http://{}/"])
async def test_matrix_76_variables(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    """Matrix 76: http_proxy and all_proxy, in both cases, with or without a scheme."""
    proxy, origin = two
    monkeypatch.setenv(name, form.format(proxy.address))
    assert await _through(make_client(trust_env=True), origin.url(), proxy)
    assert not await _through(make_client(trust_env=False), origin.url(), proxy)


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
async def test_matrix_76_variables_for_https(
    make_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    certificates: Any,
    origin_context: Any,
    name: str,
) -> None:
    """Matrix 76: https has a variable of its own; http_proxy does not count for it."""
    async with ScriptedServer(tunnelling(origin_context, canned(ok(b"inside")))) as proxy:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv(name, proxy.url())
        response = await make_client(trust_env=True).fetch(
            "https://origin.test/", ca_certs=certificates.ca_file
        )
    assert response.body == b"inside"


async def test_matrix_76_trust_env_is_the_default(
    two: Two, client_class: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 76: a client reads the environment unless told otherwise."""
    proxy, origin = two
    monkeypatch.setenv("http_proxy", proxy.url())
    async with client_class(force_instance=True) as client:
        assert await _through(client, origin.url(), proxy)


async def test_matrix_76_proxy_false_is_direct(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 76: proxy=False goes straight to the origin, whatever the environment says."""
    proxy, origin = two
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url())
    client = make_client(trust_env=True)
    assert not await _through(client, origin.url(), proxy, proxy=False)
    assert not await _through(
        make_client(trust_env=True, defaults={"proxy": False}), origin.url(), proxy
    )


async def test_matrix_76_explicit_proxy_wins(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 76: an explicit proxy wins over the environment, and NO_PROXY does not concern it."""
    proxy, origin = two
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    for trust in (True, False):
        client = make_client(trust_env=trust)
        assert await _through(client, origin.url(), proxy, proxy=proxy.url())
        assert await _through(
            client, origin.url(), proxy, proxy_host="127.0.0.1", proxy_port=proxy.port
        )


async def test_matrix_76_httpoxy(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 76: in a CGI program HTTP_PROXY is the attacker's and ignored; http_proxy is not."""
    proxy, origin = two
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    monkeypatch.setenv("HTTP_PROXY", proxy.url())
    assert not await _through(make_client(trust_env=True), origin.url(), proxy)
    monkeypatch.setenv("http_proxy", proxy.url())
    assert await _through(make_client(trust_env=True), origin.url(), proxy)


async def test_matrix_76_empty_variables(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 76: an empty variable counts as not set."""
    proxy, origin = two
    monkeypatch.setenv("http_proxy", "")
    monkeypatch.setenv("no_proxy", "")
    assert not await _through(make_client(trust_env=True), origin.url(), proxy)


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "127.0.0.1", True),
        ("origin.test", "origin.test", True),
        ("origin.test", "sub.origin.test", True),
        (".origin.test", "sub.origin.test", True),
        ("*.origin.test", "sub.origin.test", True),
        ("origin.test", "notorigin.test", False),
        ("ORIGIN.Test", "origin.test", True),
        ("origin.test.", "origin.test", True),
        ("a, origin.test ,b", "origin.test", True),
        ("a origin.test", "origin.test", True),
        ("other.test", "origin.test", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("10.0.0.0/8", "127.0.0.1", False),
        ("127.0.0.1/33", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        (",,", "127.0.0.1", False),
    ],
)
async def test_matrix_76_no_proxy(
    two: Two,
    make_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
    host: str,
    direct: bool,
) -> None:
    """Matrix 76: NO_PROXY takes names, suffixes, addresses, blocks and *; nonsense is skipped."""
    proxy, origin = two
    monkeypatch.setenv("http_proxy", proxy.url())
    monkeypatch.setenv("no_proxy", no_proxy)
    mapping = {host: ("127.0.0.1", origin.port)} if direct else None
    client = make_client(trust_env=True, hostname_mapping=mapping)
    assert await _through(client, origin.url(host=host), proxy) is not direct
    assert len(origin.requests) == int(direct)


@pytest.mark.parametrize(("offset", "direct"), [(0, True), (1, False)])
async def test_matrix_76_no_proxy_with_port(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch, offset: int, direct: bool
) -> None:
    """Matrix 76: an entry with a port holds for that port only."""
    proxy, origin = two
    monkeypatch.setenv("http_proxy", proxy.url())
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{origin.port + offset}")
    assert await _through(make_client(trust_env=True), origin.url(), proxy) is not direct


@pytest.mark.parametrize("no_proxy", ["::1", "[::1]", "::/64", "0:0:0:0:0:0:0:1"])
async def test_matrix_76_no_proxy_ipv6(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    """Matrix 76: IPv6 entries work with and without brackets, and never crash a client."""
    async with ScriptedServer(canned(ok()), host="::1") as origin:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", no_proxy)
        assert (await make_client(trust_env=True).fetch(origin.url())).body == b"ok"


async def test_environment_credentials(make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in a proxy variable are the proxy's."""
    async with ScriptedServer(canned(ok())) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(userinfo="alice:s%40crt"))
        await make_client(trust_env=True).fetch("http://origin.test/")
    assert proxy.requests[0].get("Proxy-Authorization") == basic("alice", "s@crt")


async def test_redirects_choose_their_proxy_anew(
    two: Two, make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hop of a redirect asks the environment again."""
    proxy, _ = two
    monkeypatch.setenv("http_proxy", proxy.url())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    table = {"/": redirect("http://elsewhere.test/")}
    async with ScriptedServer(routes(table)) as direct:
        response = await make_client(trust_env=True).fetch(direct.url())
    assert response.body == b"proxy"
    assert [request.target for request in proxy.requests] == ["http://elsewhere.test/"]


# -- 81: secrets


async def test_matrix_81_secrets_are_in_no_text(
    client: Any, caplog: pytest.LogCaptureFixture, certificates: Any
) -> None:
    """Matrix 81: no secret of a request is in a repr, an error or a log, at any level."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    async with ScriptedServer(canned(reply("403 No"))) as proxy:
        request = HTTPRequest(
            "http://urluser:urls3cret@origin.test/",
            headers={"Authorization": "hdrs3cret", "Cookie": "a=cooks3cret"},
            auth_mode="bearer",
            auth_token="toks3cret",
            proxy=proxy.url(userinfo="pu:proxs3cret"),
        )
        texts.append(repr(request))
        response = await client.fetch(request, raise_error=False)
        texts += [repr(response), repr(response.request), str(response.error), repr(response.error)]
        texts += [repr(response.headers), str(response.proxy), repr(client)]
        for url in ("https://u:urls3cret@origin.test/", "http://u:urls3cret@no-such.invalid/"):
            arguments = {"proxy": request.proxy} if "https" in url else {}
            error = await error_of(client.fetch(url, auth_password="pws3cret", **arguments))
            texts += [str(error), repr(error), str(error.proxy), repr(error.args)]
    basics = [basic("pu", "proxs3cret"), basic("u", "urls3cret"), basic("u", "pws3cret")]
    texts += [record.getMessage() for record in caplog.records]
    for text in texts:
        assert "s3cret" not in text
        assert not any(value.removeprefix("Basic ") in text for value in basics)


@pytest.mark.parametrize(
    "arguments",
    [
        {"request": "http://u:s3cret@[bad/"},
        {"request": "ftp://u:s3cret@h/"},
        {"request": "http://u:s3cret@h:99999/"},
        {"request": "u:s3cret@h"},
        {"request": "http://h/", "proxy": "gopher://u:s3cret@h"},
        {"request": "http://h/", "proxy": "http://u:s3cret@h:bad"},
        {"request": "http://h/", "proxy": "http://u:s3/cret@h"},
        {"request": "http://h/", "proxy": "http://u:s3cret@h\n"},
        {"request": "http://h/", "headers": {"Authorization": "s3cret\n"}},
        {"request": "http://h/", "headers": {"Cookie": "s3cret\x00"}},
        {"request": "http://h/", "auth_username": "u", "auth_password": "s3cret\n"},
        {"request": "http://h/", "auth_mode": "bearer", "auth_token": "s3cret\n"},
        {"request": "http://h/", "headers": {"Proxy-Authorization": "Basic s3cret"}},
        {"request": "http://h/", "headers": {"Proxy-Authorization": basic("u", "s3cret")}},
    ],
    ids=str,
)
async def test_matrix_81_refusals_keep_secrets(client: Any, arguments: dict[str, Any]) -> None:
    """Matrix 81: the ValueError that refuses a value does not tell it."""
    arguments = dict(arguments)
    with pytest.raises(ValueError) as caught:
        await client.fetch(arguments.pop("request"), **arguments)
    text = str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
    assert "s3cret" not in text
    assert "s3/cret" not in text
    assert base64.b64encode(b"u:s3cret").decode() not in text
