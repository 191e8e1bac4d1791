"""What once went wrong, a test or two for each; the numbers keep together what belongs together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.cookiejar
import ssl
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from backends import known_difference
from conftest import Certificates
from whimbrel.httpclient import (
    HTTPError,
    HTTPProtocolError,
    HTTPRequest,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    chunk,
    chunked,
    ok,
    redirect,
    refused_port,
    reply,
    silent,
    unaccepting_port,
)

from .support import MB, basic, error_of, gzipped, until

CUT_GZIP = ok(gzipped(b"hello " * 40)[:-6], "Content-Encoding: gzip")


async def caught(fetch: asyncio.Future[Any]) -> BaseException:
    """Wait for a fetch that is to fail, and return what it raises."""
    # Waited for first: the CancelledError of a test that hangs must not be taken for the fetch's.
    await asyncio.wait([fetch], timeout=10)
    assert fetch.done(), "the fetch hangs"
    with pytest.raises(BaseException) as found:
        await fetch
    return found.value


class Held:
    """A server whose first response waits for `release`, for what queues behind it."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.server = ScriptedServer(self._handler)

    async def _handler(self, peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/held":
                await self.release.wait()
            await peer.send(ok(request.target.encode()))


# -- 1: connections that must not be used again


class UnixPeer(asyncio.Protocol):
    """Answers the first request of each connection from a script; then only listens."""

    def __init__(self, script: list[bytes], connections: list[UnixPeer]) -> None:
        self._script = script
        connections.append(self)
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.endswith(b"\r\n\r\n"):
            self._seen = b""
            if self._script:
                self.transport.write(self._script.pop(0))


@contextlib.asynccontextmanager
async def unix_server(path: Path, *script: bytes) -> AsyncIterator[list[UnixPeer]]:
    """Listen on `path`; yields the connections, in order of acceptance."""
    connections: list[UnixPeer] = []
    answers = list(script)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: UnixPeer(answers, connections), str(path)
    )
    try:
        yield connections
    finally:
        server.close()
        for connection in connections:
            connection.transport.abort()
        await server.wait_closed()


async def test_1_a_bad_reply_over_a_unix_socket_disturbs_nobody(
    client: Any, backend: str, tmp_path: Path
) -> None:
    """The ends of a Unix socket have no address; they must not all be taken for the bad one.

    The curl backend keeps no connection over a Unix socket, since it could not tell them apart.
    """
    path = tmp_path / "socket"
    async with unix_server(path, CUT_GZIP, ok(b"next")) as connections:
        arguments = {"unix_socket": str(path), "request_timeout": 5}
        with pytest.raises(HTTPProtocolError):
            await client.fetch("http://host/", **arguments)
        assert (await client.fetch("http://host/", **arguments)).body == b"next"
        assert len(connections) == 2
        # Nothing is scripted for this one.
        begun = time.perf_counter()
        arguments["request_timeout"] = 0.3
        with pytest.raises(HTTPTimeoutError):
            await client.fetch("http://host/", **arguments)
        assert time.perf_counter() - begun < 2
        assert len(connections) == (3 if backend == "curl" else 2)


# -- 2, 3: the queue


async def test_2_a_shrunken_deadline_is_not_remembered(make_client: Callable[..., Any]) -> None:
    """A plain request that waited a second has half a second left; the next one has all."""
    client = make_client(max_clients=1, defaults={"request_timeout": 1.5})

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            answer = ok(b"0123456789")
            if request.target == "/at-once":
                await peer.send(answer)
            else:
                await peer.send_slowly(answer, len(answer) // 10 + 1, 0.1)

    async with ScriptedServer(handler) as server:
        first = client.fetch(server.url("/slow"), headers={"X-Plain": "no"}, request_timeout=5)
        queued = client.fetch(server.url("/at-once"), callback=None)
        await first
        await queued
        assert (await client.fetch(server.url("/slow"))).body == b"0123456789"


@pytest.mark.parametrize("mapping", [None, {"unused.example": "127.0.0.1"}])
@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
async def test_3_whatever_prepare_curl_callback_raises_reaches_its_own_awaiter(
    make_client: Callable[..., Any],
    backend: str,
    kind: type[BaseException],
    mapping: dict[str, str] | None,
) -> None:
    """Called when a slot is free, in the turn of another fetch, which must not suffer.

    So is the refusal of a backend that has no libcurl.
    """
    refusal = known_difference("prepare_curl_callback", backend)
    client = make_client(max_clients=1, hostname_mapping=mapping)
    held = Held()

    def refuse(curl: Any) -> None:
        raise kind("mine")

    async with held.server as server:
        first = client.fetch(server.url("/held"))
        second = client.fetch(server.url("/2"), prepare_curl_callback=refuse)
        third = client.fetch(server.url("/3"))
        held.release.set()
        assert (await first).body == b"/held"
        error = await caught(second)
        if refusal is None:
            assert type(error) is kind
        else:
            assert refusal.raises is not None
            assert isinstance(error, refusal.raises)
        assert (await third).body == b"/3"
        assert client._gate.active == 0
        assert not client._fetches


# -- 4: trailers


EMPTY_WITH_TRAILER = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Head: head\r\n\r\n"
    b"0\r\nX-Trailer: trailer\r\n\r\n"
)


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"])
@pytest.mark.parametrize("way", ["plain", "header_callback", "stream"])
async def test_4_a_trailer_behind_an_empty_body(client: Any, way: str, interim: bytes) -> None:
    """It is neither a broken connection nor a header."""
    heard: list[str] = []
    async with ScriptedServer(canned(interim + EMPTY_WITH_TRAILER)) as server:
        for _ in range(2):
            heard.clear()
            if way == "stream":
                async with client.stream(server.url()) as response:
                    assert await response.read() == b""
            else:
                more = {"header_callback": heard.append} if way == "header_callback" else {}
                response = await client.fetch(server.url(), **more)
                assert response.body == b""
            assert response.code == 200
            assert dict(response.headers.get_all()) == {
                "Transfer-Encoding": "chunked",
                "X-Head": "head",
            }
        assert len(server.connections) == 1
    if way == "header_callback":
        assert heard == [
            "HTTP/1.1 200 OK\r\n",
            "Transfer-Encoding: chunked\r\n",
            "X-Head: head\r\n",
            "\r\n",
        ]


# -- 5: cookies


def hand_made(value: str) -> http.cookiejar.Cookie:
    return http.cookiejar.Cookie(
        version=0,
        name="mine",
        value=value,
        port=None,
        port_specified=False,
        domain="127.0.0.1",
        domain_specified=False,
        domain_initial_dot=False,
        path="/",
        path_specified=True,
        secure=False,
        expires=None,
        discard=True,
        comment=None,
        comment_url=None,
        rest={},
    )


@pytest.mark.parametrize("headers", [{}, {"Cookie": "own=1"}, {"X-Other": "1"}])
async def test_5_a_cookie_that_splits_the_request(
    make_client: Callable[..., Any], headers: dict[str, str]
) -> None:
    """A cookie set by hand may hold anything; beside a Cookie header it is checked as well."""
    jar = http.cookiejar.CookieJar()
    client = make_client(cookies=jar)
    async with ScriptedServer(canned(ok())) as server:
        jar.set_cookie(hand_made("good"))
        await client.fetch(server.url(), headers=headers)
        own = headers.get("Cookie")
        assert server.requests[0].get("Cookie") == (f"{own}; mine=good" if own else "mine=good")
        jar.set_cookie(hand_made("x\r\nInjected: yes"))
        with pytest.raises(ValueError, match="cookie"):
            await client.fetch(server.url(), headers=headers)
        assert len(server.requests) == 1


# -- 6: an SSLContext that cannot be mapped


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        ("leaf", "refused"),  # OpenSSL wants a root, unless VERIFY_X509_PARTIAL_CHAIN says else
        ("leaf, partial chain", "accepted"),
        ("leaf and CA", "accepted"),
        ("empty", "refused"),  # it trusts nobody
        ("client certificate", "presented"),
    ],
)
async def test_6_what_a_context_holds_and_libcurl_cannot_have(
    client: Any,
    backend: str,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    outcome: str,
) -> None:
    """Refused, naming ssl_options: left out, it would fail, or trust more than was asked for.

    Where the context itself is used, it means what it means to Python.
    """
    # So that Python's own default context shows certificates whatever the system is like.
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if case.startswith("leaf"):
        context.load_verify_locations(
            cadata=certificates.server.cert_chain_pems[0].bytes().decode()
        )
    if case == "leaf, partial chain":
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if case in ("leaf and CA", "client certificate"):
        certificates.ca.configure_trust(context)
    if case == "client certificate":
        context.load_cert_chain(certificates.client_cert_file, certificates.client_key_file)
    server_context = certificates.server_context()
    certificates.ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with ScriptedServer(canned(ok()), server_context) as server:
        fetch = client.fetch(server.url(), ssl_options=context)
        if backend == "curl":
            with pytest.raises(ValueError, match=r"^ssl_options") as found:
                await fetch
            assert not isinstance(found.value, HTTPError)
            assert server.connections == []
        elif outcome == "refused":
            assert isinstance(await error_of(fetch), HTTPTLSError)
            assert server.requests == []
        else:
            assert (await fetch).body == b"ok"
            seen = server.connections[0].ssl_object
            assert seen is not None
            assert bool(seen.getpeercert()) == (outcome == "presented")


# -- 7: what the caller changes meanwhile


@pytest.mark.parametrize("make", [dict, HTTPHeaders])
async def test_7_headers_changed_while_a_redirect_is_under_way(client: Any, make: Any) -> None:
    headers = make({"X-Mine": "before"})

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        headers["X-Mine"] = "after"
        headers["X-Late"] = "1"
        await peer.send(redirect("/next"))
        await peer.read_request()
        await peer.send(ok())
        await peer.closed()

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), headers=headers)
    assert [request.get("X-Mine") for request in server.requests] == ["before", "before"]
    assert server.requests[1].get("X-Late") is None


@pytest.mark.parametrize("name", ["json", "form"])
async def test_7_json_changed_while_a_redirect_is_under_way(client: Any, name: str) -> None:
    payload = {"a": "before"}

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        payload["a"] = "after"
        await peer.send(redirect("/next", "307 Temporary Redirect"))
        await peer.read_request()
        await peer.send(ok())
        await peer.closed()

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), method="POST", **{name: payload})
    first, second = server.requests
    assert b"before" in first.body
    assert second.body == first.body
    assert second.method == "POST"
    assert second.get("Content-Type") == first.get("Content-Type")


# -- 8: the resolver's time


class SlowResolver:
    """Says after `seconds` that every name is 127.0.0.1."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def resolve(self, host: str, port: int, family: int = 0) -> list[Any]:
        import socket

        await asyncio.sleep(self._seconds)
        return [(socket.AF_INET, ("127.0.0.1", port))]


@pytest.mark.parametrize("name", ["request_timeout", "connect_timeout"])
async def test_8_the_resolvers_time_counts(make_client: Callable[..., Any], name: str) -> None:
    """A time-out covers the look-up too; it does not begin again behind it."""
    client = make_client(resolver=SlowResolver(0.8))
    arguments = {"request_timeout": 10, "connect_timeout": 10, name: 1}
    begun = time.perf_counter()
    if name == "request_timeout":
        async with ScriptedServer(silent) as server:
            error = await error_of(client.fetch(server.url(host="slow.example"), **arguments))
            assert len(server.connections) == 1
    else:
        with unaccepting_port() as port:
            error = await error_of(client.fetch(f"http://slow.example:{port}/", **arguments))
    assert isinstance(error, HTTPTimeoutError)
    assert 0.9 < time.perf_counter() - begun < 1.6


async def test_8_a_resolver_that_will_not_be_interrupted(make_client: Callable[..., Any]) -> None:
    """The deadline holds, and what the resolver does later is nobody's."""
    released = asyncio.Event()
    ended = asyncio.Event()

    class Stubborn:
        async def resolve(self, host: str, port: int, family: int = 0) -> list[Any]:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()
            raise OSError("too late")

    client = make_client(resolver=Stubborn(), max_clients=1)
    fetch = client.fetch("http://stuck.example/", request_timeout=0.3)
    try:
        done, _ = await asyncio.wait([fetch], timeout=3)
        assert done, "the resolver outlived the deadline"
        error = await error_of(fetch)
        assert isinstance(error, HTTPTimeoutError)
        assert error.stage == "dns"
        assert client._gate.active == 0
    finally:
        released.set()
        await ended.wait()


async def test_8_a_resolver_that_was_cancelled(make_client: Callable[..., Any]) -> None:
    """Its CancelledError is the fetch's failure: the awaiter does not wait for ever."""

    class Cancelled:
        async def resolve(self, host: str, port: int, family: int = 0) -> list[Any]:
            raise asyncio.CancelledError

    client = make_client(resolver=Cancelled())
    fetch = client.fetch("http://name.example/", request_timeout=3)
    assert type(await caught(fetch)) is asyncio.CancelledError
    assert client._gate.active == 0


# -- 9: None is "not given"


@pytest.mark.parametrize(
    "name",
    [
        "headers",
        "body",
        "json",
        "form",
        "params",
        "connect_timeout",
        "request_timeout",
        "stall_timeout",
        "max_body_size",
        "user_agent",
        "max_redirects",
        "follow_redirects",
        "if_modified_since",
        "auth_username",
        "auth_mode",
        "auth_token",
        "proxy",
        "proxy_host",
        "proxy_username",
        "body_producer",
        "method",
    ],
)
async def test_9_attributes_set_to_none(client: Any, name: str) -> None:
    """As if they had never been set."""

    async def handler(peer: Peer) -> None:
        for answer in (redirect("/next"), ok()):
            await peer.read_request()
            await peer.send(answer)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        request = HTTPRequest(server.url())
        setattr(request, name, None)
        response = await client.fetch(request)
        assert (response.code, len(response.history)) == (200, 1)
        for sent in server.requests:
            assert (sent.method, sent.body) == ("GET", b"")
            assert (sent.get("User-Agent") or "").startswith("whimbrel/")
            for unwanted in ("Authorization", "If-Modified-Since", "Proxy-Authorization"):
                assert sent.get(unwanted) is None


async def test_9_decompress_response_none_decodes(client: Any) -> None:
    answer = ok(gzipped(b"text"), "Content-Encoding: gzip")
    async with ScriptedServer(canned(answer)) as server:
        request = HTTPRequest(server.url())
        request.decompress_response = None
        assert (await client.fetch(request)).body == b"text"


async def test_9_none_gives_way_to_the_defaults(make_client: Callable[..., Any]) -> None:
    client = make_client(defaults={"user_agent": "default/1", "headers": {"X-Default": "1"}})
    async with ScriptedServer(canned(ok())) as server:
        request = HTTPRequest(server.url(), user_agent="own/1")
        request.user_agent = None
        request.__dict__["headers"] = None
        await client.fetch(request)
    assert server.requests[0].get("User-Agent") == "default/1"
    assert server.requests[0].get("X-Default") == "1"


@pytest.mark.parametrize("name", ["validate_cert", "ssl_options", "ca_certs"])
async def test_9_none_keeps_verification_on(
    client: Any, certificates: Certificates, name: str
) -> None:
    async with ScriptedServer(canned(ok()), certificates.server_context()) as server:
        request = HTTPRequest(server.url())
        setattr(request, name, None)
        with pytest.raises(HTTPTLSError):
            await client.fetch(request)
        assert server.requests == []


# -- 10: secrets


@pytest.mark.parametrize(
    "url",
    [
        "http:/user:SECRET@host/",
        "http:user:SECRET@host/",
        "bob:1SECRET@host/",
        "user:SECRET@host/",
        "//user:SECRET@host/",
        "SECRET:x-oauth-basic@host/",
        "SECRET:1@host/",
        "ftp://user:SECRET@host/",
        "http://u:SEC/RET@host/",
        "http://u:sec?ret@h/",
        "http://u:SEC#RET@h/",
        "http://user:SECRET@ho st/",
        "http://user:SECRET@host:port/",
        "http://user:SECRET@[::g]/",
        "http://user:SECRET@/",
        b"http://user:SECRET@host/",
    ],
)
async def test_10_no_secret_of_a_malformed_url_in_any_message(client: Any, url: Any) -> None:
    """Whatever stands before the last "@" may be a password, well-formed URL or not."""
    heard: list[Any] = []
    error = await caught(client.fetch(url))
    assert isinstance(error, ValueError)
    response = await client.fetch(url, callback=heard.append)
    await until(lambda: heard)
    texts = [str(error), repr(error), "".join(traceback.format_exception_only(error))]
    texts += [repr(HTTPRequest(url)), repr(response), response.reason, repr(heard[0].error)]
    for cause in (error.__cause__, error.__context__):
        texts.append(repr(cause))
    for text in texts:
        for secret in ("sec", "ret@", "ret/"):
            assert secret not in text.lower(), text


@pytest.mark.parametrize(
    "proxy",
    [
        "user:SECRET://h",
        "ftp://user:SECRET@h:1",
        "http://user:SEC/RET@h:1",
        "http://u:SEC?RET@h:1",
        "http://user:SECRET@h:x",
        "user:SECRET@ho st",
        "http://user:SECRET@",
    ],
)
async def test_10_no_secret_of_a_proxy_in_any_message(client: Any, proxy: str) -> None:
    error = await caught(client.fetch("http://host.example/", proxy=proxy))
    assert isinstance(error, ValueError)
    text = "".join(traceback.format_exception_only(error)) + repr(error.__context__)
    for secret in ("sec", "ret@"):
        assert secret not in text.lower()


async def test_10_reprs_of_request_and_response(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        request = HTTPRequest(
            server.url(userinfo="user:SECRET"),
            headers={"X-Key": "SECRET"},
            auth_token=None,
            proxy_password=None,
        )
        response = await client.fetch(request)
        assert server.requests[0].get("Authorization") == basic("user", "SECRET")
    for thing in (request, response, client, response.effective_url):
        assert "SECRET" not in repr(thing)


# -- 12, 13, 14: the head of a stream


@pytest.mark.parametrize(
    ("method", "coding", "kept"),
    [("GET", "zstd", True), ("HEAD", "gzip", True), ("GET", "gzip", False)],
)
async def test_12_what_a_streams_headers_say_of_the_body(
    client: Any, method: str, coding: str, kept: bool
) -> None:
    """Content-Encoding and Content-Length go only where the body was really decoded."""
    body = gzipped(b"text") if coding == "gzip" else b"\x28\xb5\x2f\xfd\x00\x00\x01\x00\x00"
    head = ok(body, f"Content-Encoding: {coding}")[: -len(body)]
    read = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(head)
            if method != "HEAD":
                await read.wait()
                await peer.send(body)

    async with ScriptedServer(handler) as server:
        async with client.stream(server.url(), method=method) as response:
            early = dict(response.headers.get_all())
            read.set()
            data = await response.read()
        fetched = await client.fetch(server.url(), method=method)
    assert early == dict(fetched.headers.get_all())
    if kept:
        assert early == {"Content-Encoding": coding, "Content-Length": str(len(body))}
        assert data == (b"" if method == "HEAD" else body)
    else:
        assert early == {"X-Consumed-Content-Encoding": coding}
        assert data == b"text"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
async def test_13_a_stream_that_is_left_early_has_stored_its_cookies(
    make_client: Callable[..., Any], status: str
) -> None:
    client = make_client(cookies=True)

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        if request.target == "/next":
            await peer.send(ok())
        else:
            head = reply(status, b"", "Set-Cookie: a=b", "Transfer-Encoding: chunked")
            await peer.send(head + chunk(b"some"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        if status.startswith("200"):
            async with client.stream(server.url()) as response:
                assert response.code == 200
        else:
            with pytest.raises(HTTPError, match="404"):
                async with client.stream(server.url()):
                    pass
        await client.fetch(server.url("/next"))
    assert server.requests[-1].get("Cookie") == "a=b"


async def test_14_a_407_over_a_stream_tells_what_it_tells_otherwise(
    make_client: Callable[..., Any],
) -> None:
    refusal = reply(
        "407 Proxy Authentication Required", b"no", 'Proxy-Authenticate: Basic realm="x"'
    )

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        # The head of a stream must do: the body is still to come.
        await peer.send(refusal if request.target.endswith("/whole") else refusal[:-2])
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        through = proxy.url("", userinfo="user:wrong")
        arguments = {"proxy": through, "request_timeout": 5}
        with pytest.raises(HTTPError) as fetched:
            await make_client().fetch("http://origin.example/whole", **arguments)
        with pytest.raises(HTTPError) as streamed:
            async with make_client().stream("http://origin.example/head", **arguments):
                pass
    for found in (fetched.value, streamed.value):
        assert (found.code, found.stage, found.proxy_code) == (407, "proxy-auth", 407)
        assert found.proxy == proxy.url("")
        assert found.response is not None
        assert found.response.proxy == proxy.url("")


# -- 15: cancelled by its own callback


@pytest.mark.known_difference("prepare_curl_callback")
@pytest.mark.parametrize("way", ["queue", "hostname_mapping"])
async def test_15_cancelled_by_prepare_curl_callback(
    make_client: Callable[..., Any], way: str
) -> None:
    """Nothing of it is sent, and its slot is free."""
    held = Held()
    mapping = {"unused.example": "127.0.0.1"} if way == "hostname_mapping" else None
    client = make_client(max_clients=1, hostname_mapping=mapping)
    fetches: list[asyncio.Future[Any]] = []

    def cancel(curl: Any) -> None:
        assert fetches[-1].cancel()

    async with held.server as server:
        if way == "queue":
            first = client.fetch(server.url("/held"))
            await server.requested()
        fetches.append(client.fetch(server.url("/cancelled"), prepare_curl_callback=cancel))
        held.release.set()
        if way == "queue":
            await first
        assert await asyncio.wait(fetches, timeout=10) == (set(fetches), set())
        with pytest.raises(asyncio.CancelledError):
            await fetches[0]
        assert client._gate.active == 0
        assert not client._fetches
        if hasattr(client, "_driver"):
            assert not len(client._driver)
        assert (await client.fetch(server.url("/next"))).body == b"/next"
        assert "/cancelled" not in [request.target for request in server.requests]


async def test_15_cancelled_by_header_callback(make_client: Callable[..., Any]) -> None:
    """No further line is heard."""
    client = make_client(max_clients=1)
    lines: list[str] = []
    fetches: list[asyncio.Future[Any]] = []

    def cancel(line: str) -> None:
        lines.append(line)
        fetches[0].cancel()

    async with ScriptedServer(canned(ok(b"ok", "X-More: 1"))) as server:
        fetches.append(client.fetch(server.url(), header_callback=cancel))
        assert type(await caught(fetches[0])) is asyncio.CancelledError
        assert lines == ["HTTP/1.1 200 OK\r\n"]
        assert (await client.fetch(server.url())).body == b"ok"
        assert lines == ["HTTP/1.1 200 OK\r\n"]


# -- 16, 17: wrong kinds


WRONG_CALLS: dict[str, Callable[[Any, str, Any], Any]] = {
    "method": lambda client, url, cb: client.fetch(HTTPRequest(url, method=[]), cb),  # type: ignore[arg-type]
    "surrogate": lambda client, url, cb: client.fetch(url, cb, method="POST", body="\ud800"),
    "keyword": lambda client, url, cb: client.fetch(url, cb, no_such_thing=1),
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("case", WRONG_CALLS)
async def test_16_bad_calls_come_through_the_future(client: Any, case: str, warm: bool) -> None:
    """Never out of fetch() itself; nothing stays behind; callback= hears of it."""
    heard: list[Any] = []
    async with ScriptedServer(canned(ok())) as server:
        if warm:  # plain requests are remembered, and take a short way
            await client.fetch(server.url())
        future = WRONG_CALLS[case](client, server.url(), None)
        error = await caught(future)
        assert type(error) in (TypeError, ValueError, UnicodeEncodeError)
        assert not client._fetches
        await WRONG_CALLS[case](client, server.url(), heard.append)
        await until(lambda: heard)
        assert len(heard) == 1
        assert type(heard[0].error) is type(error)
        assert heard[0].code == 599
        assert not client._fetches
        assert client._gate.active == 0
        assert len(server.requests) == warm


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("headers", {"headers": 5}),
        ("headers", {"headers": "x"}),
        ("headers", {"headers": (1,)}),
        ("user_agent", {"user_agent": []}),
        ("method", {"method": []}),
        ("proxy", {"proxy": []}),
        ("ca_certs", {"ca_certs": "a\nb"}),
        ("client_cert", {"client_cert": "a\r\nb"}),
        ("client_key", {"client_key": "a\0b"}),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_17_values_of_the_wrong_kind(
    client: Any, scheme: str, field: str, arguments: dict[str, Any]
) -> None:
    """ValueError that names the parameter, also where this URL would not have needed it."""
    with refused_port() as port:
        error = await caught(client.fetch(f"{scheme}://127.0.0.1:{port}/", **arguments))
    assert isinstance(error, ValueError)
    assert not isinstance(error, HTTPError)
    assert str(error).startswith(field)


@pytest.mark.parametrize("ciphers", ["a\r\n", ["a"]])
async def test_17_ciphers_of_the_wrong_kind(client: Any, ciphers: Any) -> None:
    with refused_port() as port:
        url = f"https://127.0.0.1:{port}/"
        error = await caught(client.fetch(url, ssl_options={"ciphers": ciphers}))
    assert type(error) is ValueError
    assert str(error).startswith("ssl_options['ciphers']")


async def test_17_a_url_that_is_no_text(client: Any) -> None:
    for url in ([], 5, None, b"http://a/"):
        error = await caught(client.fetch(url))
        assert type(error) is ValueError
        assert str(error).startswith("url")


async def test_17_a_user_agent_of_bytes(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), user_agent=b"ua")
        await client.fetch(server.url(), user_agent=b"ua", headers={"X-Other": "1"})
    assert [request.get("User-Agent") for request in server.requests] == ["ua", "ua"]


async def test_17_a_network_interface_with_a_foreign_name(client: Any) -> None:
    """The error tells which interface there is none of, rather than of a codec."""
    with refused_port() as port:
        error = await error_of(
            client.fetch(f"http://127.0.0.1:{port}/", network_interface="\xe9th0")
        )
    assert "\xe9th0" in str(error)


# -- 18: proxies and credentials


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"proxy": "http://h:1", "proxy_password": "p"}, "proxy_password"),
        ({"proxy_host": "h", "proxy_port": 1, "proxy_password": "p"}, "proxy_password"),
        ({"auth_password": "p"}, "auth_password"),
        ({"proxy": "http://h:1", "proxy_username": "a:b"}, "user name"),
        ({"proxy": "http://a%3Ab@h:1"}, "user name"),
        ({"proxy": "http://h:1", "unix_socket": "/s"}, "unix_socket"),
        ({"proxy_host": "h", "proxy_port": 1, "unix_socket": "/s"}, "unix_socket"),
        ({"proxy": "http://h:1", "proxy_host": "h", "proxy_port": 1}, "proxy_host"),
        ({"proxy": "http://h:1", "http_version": "3-only"}, "http_version"),
        ({"auth_token": "t", "auth_username": "u"}, "auth_token"),
        ({"auth_token": "t", "auth_mode": "basic"}, "auth_token"),
        ({"auth_token": "t", "auth_mode": "digest"}, "auth_token"),
        ({"auth_mode": "bearer"}, "auth_token"),
    ],
)
async def test_18_parameters_that_do_not_go_together(
    client: Any, arguments: dict[str, Any], named: str
) -> None:
    error = await caught(client.fetch("https://127.0.0.1:1/", **arguments))
    assert type(error) is ValueError, repr(error)
    assert named in str(error)


async def test_18_credentials_for_a_proxy_of_the_environment(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with ScriptedServer(canned(ok())) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        client = make_client(trust_env=True)
        await client.fetch("http://origin.example/", proxy_username="u", proxy_password="p")
    assert proxy.requests[0].get("Proxy-Authorization") == basic("u", "p")


@pytest.mark.parametrize("way", ["proxy_host over proxy", "proxy over proxy_host"])
async def test_18_the_requests_proxy_wins_over_the_defaults(
    make_client: Callable[..., Any], way: str
) -> None:
    """However each of them names it, and with none of the other's credentials."""
    async with (
        ScriptedServer(canned(ok(b"default"))) as other,
        ScriptedServer(canned(ok(b"own"))) as own,
    ):
        if way == "proxy_host over proxy":
            defaults: dict[str, Any] = {"proxy": other.url("", userinfo="u:SECRET")}
            mine: dict[str, Any] = {"proxy_host": own.host, "proxy_port": own.port}
        else:
            defaults = {
                "proxy_host": other.host,
                "proxy_port": other.port,
                "proxy_username": "u",
                "proxy_password": "SECRET",
            }
            mine = {"proxy": own.url("")}
        client = make_client(defaults=defaults)
        assert (await client.fetch("http://origin.example/")).body == b"default"
        assert (await client.fetch("http://origin.example/", **mine)).body == b"own"
        assert other.requests[0].get("Proxy-Authorization") == basic("u", "SECRET")
        assert own.requests[0].get("Proxy-Authorization") is None


@pytest.mark.known_difference("http-2-and-3")
async def test_18_http_3_falls_back_through_a_proxy(
    client: Any, certificates: Certificates
) -> None:
    """No proxy here carries QUIC, and "3" may fall back."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.start_tls(certificates.server_context(), b"HTTP/1.1 200 Connected\r\n\r\n")
        await canned(ok())(peer)

    async with ScriptedServer(handler) as proxy:
        response = await client.fetch(
            "https://localhost/",
            proxy=proxy.url(""),
            http_version="3",
            ca_certs=certificates.ca_file,
        )
    assert response.http_version == "1.1"
    assert [request.method for request in proxy.requests] == ["CONNECT", "GET"]


async def test_18_params_with_several_values(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url("/?x=0"), params={"a": ["1", "2"], "b": ("3",), "c": "4 5"})
    assert server.requests[0].target == "/?x=0&a=1&a=2&b=3&c=4+5"


# -- 20: memory


async def test_20_an_idle_handle_lets_go_of_a_large_body(client: Any) -> None:
    body = bytes(MB)

    async def post(url: str) -> None:
        response = await client.fetch(url, method="POST", body=body)
        assert response.code == 200

    async with ScriptedServer(canned(ok())) as server:
        before = sys.getrefcount(body)
        await post(server.url())
        assert len(server.requests[0].body) == MB
        # Not at once: the loop is still in a callback that knows the fetch.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(until(lambda: sys.getrefcount(body) == before), 2)
        assert sys.getrefcount(body) == before, gc.get_referrers(body)
        # The handle is still good for what comes next.
        assert (await client.fetch(server.url(), method="POST", body=b"small")).body == b"ok"
        assert server.requests[1].body == b"small"


# -- a documented difference


async def test_an_early_chunked_200_to_expect_continue(client: Any, backend: str) -> None:
    """Documented behaviour: libcurl goes on waiting for the 100, and where a chunked body ends
    is known to it alone. The deadline holds, and the next fetch is none the worse.

    Who reads the body itself sees its end.
    """

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        if request.get("Expect"):
            await peer.send(reply("200 OK", chunked(b"early"), "Transfer-Encoding: chunked"))
        else:
            await peer.read_body(request)
            await peer.send(ok(request.body))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        begun = time.perf_counter()
        early = client.fetch(
            server.url(),
            method="POST",
            body=b"unsent",
            expect_100_continue=True,
            request_timeout=0.5,
        )
        if known_difference("early-chunked-response", backend) is None:
            assert (await early).body == b"early"
        else:
            assert isinstance(await error_of(early), HTTPTimeoutError)
        assert time.perf_counter() - begun < 2
        response = await client.fetch(server.url(), method="POST", body=b"next")
        assert response.body == b"next"
        assert server.connections[0].unread == b""
