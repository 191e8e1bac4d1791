"""Connections that are kept: matrix 19, 37, 44, and the rules of ``_simple/pool.py``."""

from __future__ import annotations

import asyncio
import functools
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Certificates, open_files, pending_timers
from whimbrel import simple_httpclient
from whimbrel._simple import plan
from whimbrel.testing.scripted import Peer, ScriptedServer, ok, reply

from .byhand import hand_server
from .connecting import tunnel_to

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
STRAY = {
    "byte": b"x",
    "blank line": b"\r\n",
    "408": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "200": EVIL,
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
}
KINDS: dict[str, dict[str, Any]] = {"GET": {}, "POST": {"method": "POST", "body": b"once"}}
# What one recv() of a plain connection brings.
CHUNK = 64 * 1024


async def _echo(peer: Peer) -> None:
    """Answer with the target of the request, on each connection for as long as it lasts."""
    while True:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode()))


def filling(body_begins: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A response of exactly one recv(): what follows it stays in the kernel."""
    empty = reply(status, b"", "Content-Length: 00000", *headers)
    body = body_begins.ljust(CHUNK - len(empty), b".")
    return reply(status, body, f"Content-Length: {len(body):05}", *headers)


def arrived(connection: Any) -> None:
    """Wait, while the loop stands still, until what was sent can be read."""
    assert select.select([connection.stream.socket], [], [], 10)[0]


@pytest.fixture(params=["plain", "tls"])
def context(request: pytest.FixtureRequest, server_context: ssl.SSLContext) -> Any:
    return server_context if request.param == "tls" else None


@pytest.fixture
def trusting(make_client: Callable[..., Any], certificates: Certificates) -> Callable[..., Any]:
    """Make clients that trust the test's CA."""

    def make(**kwargs: Any) -> Any:
        return make_client(defaults={"ca_certs": certificates.ca_file}, **kwargs)

    return make


# -- 19, 47: what comes while a connection idles


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("delay", [0.0, 0.005])
async def test_matrix_19_late_bytes(
    context: Any, delay: float, stray: str, kind: str, trusting: Callable[..., Any]
) -> None:
    """Bytes that come after the response, soon or late, close the connection; nothing else."""
    client = trusting()
    async with ScriptedServer(_echo, context) as server:
        for number in range(3):
            target = f"/{number}"
            response = await client.fetch(server.url(target), **KINDS[kind])
            assert response.body == target.encode()
            assert len(server.connections) == number + 1
            await asyncio.sleep(delay)
            (connection,) = client._pool.live
            await server.connections[-1].send(STRAY[stray])
            arrived(connection)
            await asyncio.sleep(delay)
        assert len(server.requests) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stray", STRAY)
async def test_matrix_19_bytes_just_before_the_next_request(
    context: Any, stray: str, kind: str, trusting: Callable[..., Any]
) -> None:
    """They lie in the kernel, and the loop has not turned since: they answer nothing."""
    client = trusting()
    with hand_server(context) as server:
        fetch = client.fetch(server.url("/first"))
        first = await server.serve_one(ok(b"first"))
        assert (await fetch).body == b"first"
        (connection,) = client._pool.live
        first.send(STRAY[stray])
        arrived(connection)
        fetch = client.fetch(server.url("/second"), **KINDS[kind])
        await server.serve_one(ok(b"second"))
        assert (await fetch).body == b"second"
        assert await asyncio.to_thread(first.left)  # without a byte of the second request


async def test_matrix_19_bytes_with_the_response(
    context: Any, trusting: Callable[..., Any]
) -> None:
    """In the same segment, in the same TLS record or one of their own: as good as never sent."""
    client = trusting()
    for pieces in ((ok(b"first") + EVIL,), (ok(b"first"), EVIL)):
        with hand_server(context) as server:
            fetches = [client.fetch(server.url("/first")), client.fetch(server.url("/"))]
            fetches.pop().cancel()
            first = asyncio.ensure_future(server.serve_one(*pieces))
            assert (await fetches[0]).body == b"first"
            await first
            fetch = client.fetch(server.url("/second"))
            await server.serve_one(ok(b"second"))
            assert (await fetch).body == b"second"


async def test_matrix_19_bytes_behind_the_response_in_one_turn(
    trusting: Callable[..., Any],
) -> None:
    """The next request, for which the slot becomes free in the middle of a read, looks first."""
    client = trusting(max_clients=1)

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        if request.target == "/first":
            await peer.send(filling(b"first") + EVIL)
            return await peer.closed()
        await peer.send(ok(b"second"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        first, second = client.fetch(server.url("/first")), client.fetch(server.url("/second"))
        assert (await first).body.startswith(b"first.")
        assert (await second).body == b"second"
        assert len(server.connections) == 2


async def test_matrix_19_bytes_that_lie_inside_of_two_layers_of_tls(
    certificates: Certificates, server_context: ssl.SSLContext, trusting: Callable[..., Any]
) -> None:
    """Neither the kernel nor the outer TLS has them any more; they are found all the same."""
    client = trusting(max_clients=1)
    with hand_server(server_context) as origin:
        async with ScriptedServer(tunnel_to(origin.port), server_context) as proxy:
            via = {"proxy": proxy.url(), "proxy_ssl": {"ca_certs": certificates.ca_file}}
            first = client.fetch(origin.url("/first"), **via)
            second = client.fetch(origin.url("/second"), **via)
            await origin.serve_one(ok(b"first"), EVIL)
            assert (await first).body == b"first"
            await origin.serve_one(ok(b"second"))
            assert (await second).body == b"second"


async def test_bytes_that_are_for_tls_alone(
    certificates: Certificates, make_client: Callable[..., Any]
) -> None:
    """A message of TLS itself on an idle connection is no reason to give the connection up."""
    asking = certificates.server_context(client_certs=True)
    asking.post_handshake_auth = True  # asked for later than in the handshake (RFC 8446 4.6.2)
    answering = ssl.create_default_context(cafile=certificates.ca_file)
    answering.load_cert_chain(certificates.client_cert_file, certificates.client_key_file)
    answering.post_handshake_auth = True
    client = make_client()
    with hand_server(asking) as server:
        fetch = client.fetch(server.url("/first"), ssl_options=answering)
        peer = await server.serve_one(ok(b"first"))
        await fetch
        (connection,) = client._pool.live
        peer.socket.verify_client_post_handshake()
        peer.socket.do_handshake()
        arrived(connection)
        fetch = client.fetch(server.url("/second"), ssl_options=answering)

        def serve() -> None:
            peer.read_head()
            peer.send(ok(b"second"))

        await asyncio.to_thread(serve)
        response = await fetch
        assert (response.body, response.reused) == (b"second", True)
        assert peer.socket.getpeercert()


async def test_matrix_19_bytes_behind_a_challenge(client: Any) -> None:
    """The request with credentials goes on the same connection only if nothing has come on it."""
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    answers = [filling(b"", challenge, status="401 No") + EVIL, ok(b"secret")]

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(answers[request.get("Authorization") is not None])

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), auth_username="u", auth_password="p", auth_mode="digest"
        )
        assert response.body == b"secret"
        assert len(server.connections) == 2


async def test_matrix_19_one_of_several_idle_connections(make_client: Callable[..., Any]) -> None:
    """Only the connection that spoke is lost; the others go on serving, the last used first."""
    client = make_client(max_clients=4)
    async with ScriptedServer(_echo) as server:
        await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(4)))
        assert len(server.connections) == 4
        await server.connections[1].send(EVIL)
        await server.connections[1].closed()
        for turn in range(3):
            targets = [f"/{turn}/{number}" for number in range(4)]
            responses = await asyncio.gather(*(client.fetch(server.url(t)) for t in targets))
            assert [response.body.decode() for response in responses] == targets
        assert len(server.connections) == 5
        assert len(server.connections[1].requests) == 1


async def test_the_connection_used_last_is_used_first(client: Any) -> None:
    """So that what is not needed any more grows old, and is closed."""
    async with ScriptedServer(_echo) as server:
        await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(3)))
        ids = [(await client.fetch(server.url("/"))).connection_id for _ in range(3)]
        assert len(set(ids)) == 1
        last = ids[0]
        both = await asyncio.gather(client.fetch(server.url("/")), client.fetch(server.url("/")))
        assert both[0].connection_id == last != both[1].connection_id
        assert all(response.reused for response in both)


# -- 37: closed while it idles


@pytest.mark.parametrize("how", ["end", "half", "reset"])
@pytest.mark.parametrize("kind", KINDS)
async def test_matrix_37_closed_just_before_the_next_request(
    context: Any, kind: str, how: str, trusting: Callable[..., Any]
) -> None:
    """A connection that its peer has closed is not tried at all: even a POST is sent, and once."""
    client = trusting()
    with hand_server(context) as server:
        fetch = client.fetch(server.url("/first"))
        first = await server.serve_one(ok(b"first"))
        await fetch
        (connection,) = client._pool.live
        if how == "end":
            first.drop()
        elif how == "reset":
            first.reset()
        elif context is not None:
            return  # TLS has no half-closed state
        else:
            first.socket.shutdown(socket.SHUT_WR)
        arrived(connection)
        fetch = client.fetch(server.url("/second"), **KINDS[kind])
        await server.serve_one(ok(b"second"))
        response = await fetch
        assert (response.body, response.reused) == (b"second", False)


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_matrix_37_closed_while_idle_is_seen_at_once(client: Any, how: str) -> None:
    """The client's end is closed as well, without a request that would notice."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        await asked.wait()
        getattr(peer, how)()
        await peer.closed()

    asked = asyncio.Event()
    async with ScriptedServer(handler) as server:
        await client.fetch(server.url())
        assert len(client._pool) == len(client._pool.live) == 1
        asked.set()
        await server.finished()
        while client._pool.live:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        assert len(client._pool) == 0


# -- how many, and how long


async def test_the_pool_is_bounded(make_client: Callable[..., Any]) -> None:
    """Beyond the limit those that have idled longest are closed."""
    client = make_client(max_clients=20)
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        client._pool._limit = 3
        await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(8)))
        assert len(server.connections) == 8
        assert len(client._pool) == len(client._pool.live) == 3
        responses = await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(4)))
        assert [response.reused for response in responses] == [True, True, True, False]


async def test_the_limit_follows_max_clients(make_client: Callable[..., Any]) -> None:
    """Whoever may have 300 requests in flight can keep 300 connections."""
    async with ScriptedServer(_echo) as server:
        for max_clients, limit in ((1, 100), (300, 600)):
            client = make_client(max_clients=max_clients)
            await client.fetch(server.url("/"))
            assert client._pool._limit == limit


async def test_matrix_44_rotating_proxies(client: Any) -> None:
    """200 identities at a proxy, each with a connection of its own: no more are kept than may."""
    before = open_files()["socket"]
    async with ScriptedServer(_echo) as proxy:
        for number in range(200):
            via = f"http://user{number}:secret@{proxy.address}"
            response = await client.fetch("http://origin.test/x", proxy=via)
            assert not response.reused
        assert len(client._pool) == len(client._pool.live) == 100
        # The server's ends go a little later.
        while open_files()["socket"] - before > 2 * 100 + 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(client._pool._buckets) <= 2 * 100 + 1
        again = await client.fetch(
            "http://origin.test/x", proxy=f"http://user199:secret@{proxy.address}"
        )
        assert again.reused


async def test_matrix_44_buckets_of_routes_that_are_gone(client: Any) -> None:
    """They are forgotten, however many routes come; a host that is still in use is not harmed."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/wait":
                await released.wait()
            await peer.send(ok())

    released = asyncio.Event()
    async with ScriptedServer(handler) as server, ScriptedServer(_echo) as proxy:
        waiting = client.fetch(server.url("/wait"))
        await server.requested()
        client._pool._limit = 2
        for number in range(30):
            via = f"http://user{number}:secret@{proxy.address}"
            await client.fetch("http://origin.test/x", proxy=via)
            assert len(client._pool._buckets) <= 2 * 2 + 2
        released.set()
        kept = (await waiting).connection_id
        # Whoever looks for it finds it: the same profile, and another one.
        for headers in ({}, {"X": "y"}, {}):
            response = await client.fetch(server.url("/"), headers=headers)
            assert (response.connection_id, response.reused) == (kept, True)
        assert len(server.connections) == 1


async def test_what_is_remembered_of_requests_is_bounded(client: Any) -> None:
    """However many kinds of requests, and hosts, there are; connections are kept all the same."""
    async with ScriptedServer(_echo) as proxy:
        via = {"proxy": f"http://{proxy.address}"}
        first = await client.fetch("http://origin.test/", **via)
        for number in range(simple_httpclient._PLANS + 10):
            headers = {"X-Number": str(number)}
            response = await client.fetch("http://origin.test/", headers=headers, **via)
            assert response.connection_id == first.connection_id
        assert len(client._plans) <= simple_httpclient._PLANS
        for number in range(plan._HOSTS + 10):
            response = await client.fetch(f"http://host{number}.test/", **via)
            assert response.connection_id == first.connection_id
        assert all(len(known._buckets) <= plan._HOSTS for known in client._plans.values())
        assert len(client._pool._buckets) == 1


async def test_idle_connections_expire(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `idle_seconds` without a request, counted from the last one."""
    monkeypatch.setattr(
        simple_httpclient, "Pool", functools.partial(simple_httpclient.Pool, idle_seconds=0.4)
    )
    loop = asyncio.get_running_loop()
    async with ScriptedServer(_echo) as server:
        await asyncio.gather(client.fetch(server.url("/a")), client.fetch(server.url("/b")))
        assert len(client._pool) == 2
        await asyncio.sleep(0.25)
        assert len(client._pool) == 2
        await client.fetch(server.url("/c"))  # one of the two is young again
        used = loop.time()
        await _until(lambda: len(client._pool) < 2)
        assert len(client._pool) == 1
        assert loop.time() - used < 0.39
        await _until(lambda: not client._pool.live)
        assert loop.time() - used > 0.39
        await server.finished()
        # The timer is there again for the next.
        await client.fetch(server.url("/d"))
        assert len(server.connections) == 3
        await _until(lambda: not client._pool.live)


async def test_what_idled_too_long_is_not_taken(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the loop was busy, and the timer could not see to it."""
    monkeypatch.setattr(
        simple_httpclient, "Pool", functools.partial(simple_httpclient.Pool, idle_seconds=0.2)
    )
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/a"))
        time.sleep(0.25)  # noqa: ASYNC251
        response = await client.fetch(server.url("/b"))
        assert (response.body, response.reused) == (b"/b", False)
        assert len(client._pool.live) == 1


async def test_an_answer_of_the_resolver_that_changes(make_client: Callable[..., Any]) -> None:
    """A name that leads elsewhere now: the connection that idles is not for it."""

    class Moving:
        port = 0

        async def resolve(self, host: str, port: int, family: int = 0) -> Any:
            return [(socket.AF_INET, ("127.0.0.1", self.port))]

    resolver = Moving()
    client = make_client(resolver=resolver)
    async with ScriptedServer(_echo) as old, ScriptedServer(_echo) as new:
        for server in (old, new, old):
            resolver.port = int(server.address.rpartition(":")[2])
            await client.fetch("http://name.test/")
        assert (len(old.requests), len(new.requests)) == (2, 1)
        assert (len(old.connections), len(new.connections)) == (1, 1)


async def test_no_timer_for_each_connection(client: Any) -> None:
    """One timer watches over all that idle, and it goes with the client."""
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        before = len(pending_timers())
        await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(8)))
        assert len(pending_timers()) == before


async def test_closed_pool_keeps_nothing(client: Any) -> None:
    """What is given back after the close is closed; closing twice does nothing."""
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        pool = client._pool
        (connection,) = pool.live
        pool.forget(connection)
        pool._closed = True
        pool.give_back(connection, time.monotonic())
        assert connection.stream.closed()
        assert not pool.live
        assert len(pool) == 0
        pool.forget(connection)  # it may be out already
        await server.finished()


async def test_close_closes_what_idles_and_what_is_in_use(client: Any) -> None:
    """close() leaves no connection behind."""

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        if request.target == "/idle":
            await peer.send(ok())
        await peer.closed()

    async with ScriptedServer(handler) as server:
        waiting = client.fetch(server.url("/wait"))
        await client.fetch(server.url("/idle"))
        await server.requested(2)
        client.close()
        await server.finished()
        with pytest.raises(ConnectionError):
            await waiting
        assert not client._pool.live


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# -- a large body behind it


async def test_a_kept_connection_reads_in_small_pieces_again(client: Any) -> None:
    """Memory for a large piece costs a small response more than its bytes."""
    large, sizes = bytes(4 * 1024 * 1024), set()

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(ok(large))

    def hear(piece: bytes) -> None:
        (connection,) = client._pool.live
        sizes.add(connection.stream.read_chunk_size)

    async with ScriptedServer(handler) as server:
        for _ in range(2):
            await client.fetch(server.url(), streaming_callback=hear)
            (connection,) = client._pool.live
            assert connection.stream.read_chunk_size == CHUNK
    assert sizes == {CHUNK, 120 * 1024}
