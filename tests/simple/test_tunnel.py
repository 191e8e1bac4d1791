"""CONNECT against scripted proxies: its bytes, and every way in which a tunnel does not come."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel._policy.exchange import Exchange, prepare
from whimbrel._simple.digest import DigestState
from whimbrel._simple.route import Progress, route_of
from whimbrel._simple.tunnel import (
    MAX_REFUSAL,
    Reconnect,
    TunnelReply,
    open_tunnel,
)
from whimbrel.httpclient import HTTPProxyError
from whimbrel.httputil import HTTPHeaders
from whimbrel.iostream import IOStream
from whimbrel.testing._auth import DigestGuard
from whimbrel.testing.scripted import (
    Handler,
    Peer,
    ScriptedServer,
    canned,
    reply,
    respond,
    silent,
)

CONNECTED = b"HTTP/1.1 200 Connection established\r\nX-Proxy: here\r\n\r\n"


class Tunneller:
    """Asks one proxy for tunnels, reconnecting as often as it is told to."""

    def __init__(self, server: ScriptedServer, **options: Any) -> None:
        self.server = server
        self.options = {
            "url": "https://origin.test/",
            "user_agent": "agent/1",
            "max_body_size": 1,
            "proxy": server.url(),
            **options,
        }
        exchange = self.exchange
        self.route = route_of(exchange)
        self.progress = Progress(self.route)
        self.connections = 0

    @property
    def exchange(self) -> Exchange:
        return prepare(self.options)

    async def connect(self) -> IOStream:
        stream = IOStream(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        await stream.connect(("127.0.0.1", self.server.port))
        self.connections += 1
        return stream

    async def open(self, digest: DigestState | None = None) -> TunnelReply:
        while True:
            stream = await self.connect()
            try:
                return await open_tunnel(stream, self.route, self.exchange, self.progress, digest)
            except Reconnect as again:
                digest = again.digest
            finally:
                stream.close()

    async def refused(self, digest: DigestState | None = None) -> HTTPProxyError:
        """The error of a tunnel that does not come."""
        with pytest.raises(HTTPProxyError) as caught:
            await self.open(digest)
        error = caught.value
        assert error.proxy == self.server.url().rstrip("/")
        assert str(error).startswith(f"proxy {error.proxy} ")
        assert "s3cret" not in str(error) + repr(error)
        return error


def challenge(nonce: str, extra: str = "") -> str:
    return f'Proxy-Authenticate: Digest realm="p", nonce="{nonce}", qop="auth"{extra}'


def digest_options(server: ScriptedServer) -> dict[str, Any]:
    return {"proxy": server.url(userinfo="alice:s3cret"), "proxy_auth_mode": "digest"}


# -- what is sent


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (
            {},
            b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n"
            b"User-Agent: agent/1\r\n\r\n",
        ),
        (
            {
                "url": "https://[::1]:8443/path?query",
                "headers": HTTPHeaders.parse("User-Agent: mine\nUser-Agent: other\nX: y\n"),
            },
            b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\nUser-Agent: mine\r\n\r\n",
        ),
        (
            {"proxy_username": "alice", "proxy_password": "s3cret"},
            b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n"
            b"Proxy-Authorization: Basic YWxpY2U6czNjcmV0\r\nUser-Agent: agent/1\r\n\r\n",
        ),
        (
            {"auth_username": "u", "auth_password": "p", "headers": {"Host": "virtual"}},
            b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n"
            b"User-Agent: agent/1\r\n\r\n",
        ),
    ],
    ids=["plain", "IPv6", "basic", "origin's fields"],
)
async def test_bytes_of_connect(options: dict[str, Any], sent: bytes) -> None:
    """Target and Host name the origin; of the request's fields only User-Agent goes along."""
    async with ScriptedServer(respond(CONNECTED)) as server:
        tunneller = Tunneller(server, **options)
        assert await tunneller.open() == TunnelReply(
            200,
            [b"HTTP/1.1 200 Connection established\r\n", b"X-Proxy: here\r\n", b"\r\n"],
        )
        assert tunneller.progress.proxy_code == 200
    assert server.requests[0].raw_head == sent


async def test_next_byte_is_the_origins() -> None:
    """Of the stream nothing is lost: what comes after the reply is there to be read."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(CONNECTED)
        await peer.send(await peer.read_exactly(5))

    async with ScriptedServer(handler) as server:
        tunneller = Tunneller(server)
        stream = await tunneller.connect()
        await open_tunnel(stream, tunneller.route, tunneller.exchange, tunneller.progress)
        await stream.write(b"hello")
        assert await stream.read_bytes(5) == b"hello"
        stream.close()


# -- 26 to 29: proxies that break


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "sent", [b"", b"H", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX: y\r\n", b"HTTP/1.1 100 C\r\n\r\n"]
)
async def test_matrix_26_broken_off(sent: bytes, then: Any) -> None:
    """Matrix 26: a proxy that leaves before its answer is whole broke the connection."""
    async with ScriptedServer(respond(sent, then=then)) as server:
        error = await Tunneller(server).refused()
    assert (error.stage, error.retryable, error.proxy_code) == ("tunnel", True, None)
    assert "broke the connection while it was to make a tunnel" in str(error)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_matrix_26_malformed_answer(sent: bytes) -> None:
    """Matrix 26: what is no answer of HTTP/1.1 is the proxy's failure."""
    async with ScriptedServer(respond(sent)) as server:
        error = await Tunneller(server).refused()
    assert error.stage == "tunnel"
    assert "sent a malformed answer to CONNECT" in str(error)


async def test_matrix_27_never_answered() -> None:
    """Matrix 27: the caller's time-out ends it, and the stage tells where it was."""
    async with ScriptedServer(silent) as server:
        tunneller = Tunneller(server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await tunneller.open()
        assert tunneller.progress.stage == "tunnel"
        assert tunneller.progress.proxy_code is None


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500, 502, 503])
async def test_matrix_28_refused(status: int) -> None:
    """Matrix 28: another status ends it, never followed; from 500 on a retry may help."""
    answer = reply(f"{status} Whatever", b"body", "Location: http://elsewhere.test/")
    async with ScriptedServer(canned(answer)) as server:
        tunneller = Tunneller(server)
        error = await tunneller.refused()
        assert len(server.requests) == 1
    assert (error.stage, error.proxy_code) == ("tunnel", status)
    assert error.retryable is (status >= 500)
    assert str(error).endswith(f" answered CONNECT origin.test with {status}")
    assert tunneller.progress.proxy_code == status


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 100\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 100\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: nonsense\r\n",
        b"Connection: close\r\n",
    ],
)
async def test_matrix_29_framing_is_ignored(fields: bytes) -> None:
    """Matrix 29: behind a 2xx the tunnel begins, whatever its fields say (RFC 9110 9.3.6)."""
    sent = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"
    async with ScriptedServer(respond(sent)) as server:
        assert (await Tunneller(server).open()).code == 200


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_matrix_29_endless_headers(sent: bytes) -> None:
    """Matrix 29: header lines that do not end are given up at 64 KiB."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(sent)
        while True:
            await peer.send(b"HTTP/1.1 " if not sent else b"X-More: and more\r\n" * 64)

    async with ScriptedServer(handler) as server:
        error = await Tunneller(server).refused()
    assert error.stage == "tunnel"
    assert "malformed answer" in str(error)


@pytest.mark.parametrize(("count", "good"), [(10, True), (11, False)])
async def test_matrix_29_interim_answers(count: int, good: bool) -> None:
    """Matrix 29: ten interim answers are skipped, an eleventh is one too many."""
    sent = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * count + CONNECTED
    async with ScriptedServer(respond(sent)) as server:
        tunneller = Tunneller(server)
        if good:
            assert (await tunneller.open()).lines[1] == b"X-Proxy: here\r\n"
        else:
            assert "interim" in str(await tunneller.refused())


@pytest.mark.parametrize("behind", [b"\x16\x03", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"])
async def test_bytes_behind_the_answer(behind: bytes) -> None:
    """The origin was not spoken to yet, so they are nobody's: an error, and no silent loss."""
    async with ScriptedServer(respond(CONNECTED + behind)) as server:
        error = await Tunneller(server).refused()
    assert (error.stage, error.proxy_code) == ("tunnel", 200)
    assert "sent bytes behind its answer" in str(error)


# -- 30, 31: credentials


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proxy_username": "alice", "proxy_password": "s3cret"},
        {"proxy_auth_mode": "digest"},
    ],
    ids=["none", "basic", "digest without a user"],
)
async def test_matrix_30_one_attempt(options: dict[str, Any]) -> None:
    """Matrix 30: Basic was sent already and nobody else has an answer: one request."""
    answer = reply("407 Auth", b"", 'Proxy-Authenticate: Basic realm="p"', challenge("n"))
    async with ScriptedServer(canned(answer)) as server:
        error = await Tunneller(server, **options).refused()
        assert len(server.requests) == 1
    assert (error.stage, error.proxy_code, error.retryable) == ("proxy-auth", 407, False)
    assert str(error).endswith(" wants other credentials (407)")


def _asking_for_ever(field: Callable[[int], str], close: bool) -> Handler:
    """A proxy that answers each request, the how-manieth it is in all, with a 407."""
    count = itertools.count(1)

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_head()
            closing = ["Connection: close"] if close else []
            await peer.send(reply("407 Auth", b"refused", field(next(count)), *closing))
            if close:
                return

    return handler


@pytest.mark.parametrize("close", [False, True], ids=["kept", "closed"])
@pytest.mark.parametrize(
    ("extra", "requests", "text"),
    [
        ("", 2, "wants other credentials (407)"),
        (", stale=true", 5, "asked for credentials 5 times (407)"),
    ],
    ids=["wrong", "stale"],
)
async def test_matrix_30_for_ever(extra: str, requests: int, text: str, close: bool) -> None:
    """Matrix 30: Digest is tried twice, stale=true five times, on one connection or on several."""
    handler = _asking_for_ever(lambda count: challenge(f"n{count}", extra), close)
    async with ScriptedServer(handler) as server:
        tunneller = Tunneller(server, **digest_options(server))
        error = await tunneller.refused()
        assert len(server.requests) == requests
        assert tunneller.connections == (requests if close else 1)
    assert (error.stage, error.proxy_code) == ("proxy-auth", 407)
    assert str(error).endswith(text)


REFUSALS = {
    "length": (b"Content-Length: 7\r\n\r\nrefused", 1),
    "no body": (b"Content-Length: 0\r\n\r\n", 1),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n7\r\nrefused\r\n0\r\n\r\n", 1),
    "said to close": (b"Content-Length: 0\r\nConnection: close\r\n\r\n", 2),
    "until the end": (b"\r\nrefused", 2),
    "malformed": (b"Transfer-Encoding: chunked\r\n\r\nno size\r\n", 2),
    "and more": (b"Content-Length: 0\r\n\r\nmore", 2),
    "long": (b"Content-Length: 1000000\r\n\r\n" + b"x" * MAX_REFUSAL, 2),
    "cut": (b"Content-Length: 7\r\n\r\nref", 2),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_digest_is_answered(kind: str) -> None:
    """On the same connection where the refusal was read to its end, else on a new one."""
    refusal, connections = REFUSALS[kind]
    guard = DigestGuard("p", "alice", "s3cret")

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            given = request.get("Proxy-Authorization")
            if guard.check(given, "CONNECT", request.target, ["MD5"]) == "granted":
                await peer.send(CONNECTED)
                await peer.closed()
                return
            assert given is None
            (value,) = guard.challenges(["MD5"])
            head = f"HTTP/1.1 407 Auth\r\nProxy-Authenticate: {value}\r\n".encode()
            await peer.send(head + refusal)
            if kind == "cut":
                return

    async with ScriptedServer(handler) as server:
        tunneller = Tunneller(server, **digest_options(server))
        assert (await tunneller.open()).code == 200
        assert tunneller.connections == connections
        assert len(server.requests) == 2


async def test_kept_connection_that_is_closed_all_the_same() -> None:
    """A proxy that closes behind its 407 unsaid gets the answer on a new connection."""

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        if request.get("Proxy-Authorization") is None:
            await peer.send(reply("407 Auth", b"", challenge("n")))
            return
        await peer.send(CONNECTED)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        tunneller = Tunneller(server, **digest_options(server))
        assert (await tunneller.open()).code == 200
        assert tunneller.connections == 2


async def test_proxy_that_leaves_at_every_answer() -> None:
    """Closing instead of looking at an answer does not bring it back for ever."""

    async def handler(peer: Peer) -> None:
        if (await peer.read_head()).get("Proxy-Authorization") is None:
            await peer.send(reply("407 Auth", b"", challenge("n")))
            await peer.read_head()

    async with ScriptedServer(handler) as server:
        tunneller = Tunneller(server, **digest_options(server))
        error = await tunneller.refused()
        assert tunneller.connections == 2
    assert "broke the connection" in str(error)


@pytest.mark.parametrize("mode", ["basic", "digest"])
@pytest.mark.parametrize("field", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
async def test_matrix_31_endless_refusal(mode: str, field: str) -> None:
    """Matrix 31: the body of a 407 is read to a limit, or not at all."""
    taken: list[int] = []

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        if (request.get("Proxy-Authorization") or "").startswith("Digest"):
            await peer.send(CONNECTED)
            await peer.closed()
            return
        try:
            await peer.send(f"HTTP/1.1 407 Auth\r\n{challenge('n')}\r\n{field}\r\n\r\n".encode())
            while True:
                await peer.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        finally:
            taken.append(peer.bytes_sent)

    async with ScriptedServer(handler) as server:
        options = digest_options(server) | {"proxy_auth_mode": mode}
        tunneller = Tunneller(server, **options)
        if mode == "digest":
            assert (await tunneller.open()).code == 200
            assert tunneller.connections == 2
        else:
            assert (await tunneller.refused()).stage == "proxy-auth"
    # What we read, and what the two kernels held for us.
    assert taken[0] < MAX_REFUSAL + 8 * 1024 * 1024
