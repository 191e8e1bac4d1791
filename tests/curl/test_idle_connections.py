"""Matrix 18, 19, 37: what happens to a connection while it idles, on both ways of watching.

libcurl looks at an idle connection only after a second or so; the driver tells of it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Peer, ScriptedServer, ok

from .support import speak, until

STRAY = [
    b"x",
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
]
KINDS: dict[str, dict[str, Any]] = {
    "GET": {},
    "POST": {"method": "POST", "body": b"once"},
}


async def _serve(peer: Peer) -> None:
    """Answer with the target of the request, on each connection for as long as it lasts."""
    while True:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stray", STRAY, ids=["byte", "408", "200"])
@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02])
async def test_matrix_19_late_bytes(
    delay: float, stray: bytes, kind: str, curl_client: Any
) -> None:
    """Bytes that come after the response, soon or late, never become the next one."""
    async with ScriptedServer(_serve) as server:
        for number in range(3):
            target = f"/{number}"
            response = await curl_client.fetch(server.url(target), **KINDS[kind])
            assert response.body == target.encode()
            assert len(server.connections) == number + 1
            await _pass(delay)
            await server.connections[-1].send(stray)
            await _pass(delay)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stray", STRAY, ids=["byte", "408", "200"])
async def test_matrix_19_bytes_just_before_an_immediate_request(
    stray: bytes, kind: str, curl_client: Any
) -> None:
    """They lie in the kernel and the loop has not turned since: the next fetch sees them first."""
    async with ScriptedServer(_serve) as server:
        await curl_client.fetch(server.url("/first"))
        server.connections[0]._sock.send(stray)
        fetch = curl_client.fetch(server.url("/second"), **KINDS[kind])
        assert (await fetch).body == b"/second"
        assert len(server.connections) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_matrix_37_closed_just_before_an_immediate_request(
    kind: str, curl_client: Any
) -> None:
    """A connection that its peer has closed is not tried at all: even a POST is sent, and once."""
    async with ScriptedServer(_serve) as server:
        await curl_client.fetch(server.url("/first"))
        server.connections[0]._sock.shutdown(socket.SHUT_WR)
        fetch = curl_client.fetch(server.url("/second"), **KINDS[kind])
        assert (await fetch).body == b"/second"
        assert [request.target for request in server.requests] == ["/first", "/second"]
        assert len(server.connections) == 2


async def test_matrix_19_one_of_several_idle_connections(
    make_client: Callable[..., Any], use_epoll: bool
) -> None:
    """Only the connection that spoke is lost; the others go on serving."""
    client = make_client(use_epoll=use_epoll, max_clients=4)
    async with ScriptedServer(_serve) as server:
        await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(4)))
        assert len(server.connections) == 4
        await server.connections[2].send(STRAY[2])
        for turn in range(3):
            targets = [f"/{turn}/{number}" for number in range(4)]
            responses = await asyncio.gather(*(client.fetch(server.url(t)) for t in targets))
            assert [response.body.decode() for response in responses] == targets
        assert len(server.connections) == 5
        assert len(server.connections[2].requests) == 1


async def test_matrix_19_a_connection_that_speaks_for_ever(curl_client: Any) -> None:
    """A peer that goes on sending to an idle connection costs neither turns nor memory."""
    sent = 0

    async def handler(peer: Peer) -> None:
        nonlocal sent
        await peer.read_request()
        await peer.send(ok(b"ok"))
        if len(server.connections) > 1:
            return await peer.closed()
        while True:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with ScriptedServer(handler) as server:
        assert (await curl_client.fetch(server.url())).body == b"ok"
        # The kernel's buffers fill up, for nobody reads.
        await until(lambda: sent)
        assert (await curl_client.fetch(server.url())).body == b"ok"
        assert len(server.connections) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_matrix_19_after_many_other_connections(kind: str, curl_client: Any) -> None:
    """However many came since, and failed, and whatever is still remembered of this one."""
    curl_client._remembered = 8

    async def cut(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(b"x" * 100)[:-1])

    async with ScriptedServer(_serve) as server, ScriptedServer(cut) as other:
        await curl_client.fetch(server.url("/first"))
        for number in range(10):
            with pytest.raises(HTTPError):
                await curl_client.fetch(other.url(), streaming_callback=lambda chunk: None)
            if number % 4 == 0:
                await curl_client.fetch(server.url("/again"))
        assert len(server.connections) == 1
        await speak(server.connections[0], STRAY[2])
        assert (await curl_client.fetch(server.url("/last"), **KINDS[kind])).body == b"/last"
        assert len(server.connections) == 2


async def test_what_is_said_on_a_connection_that_requests_share(curl_client: Any) -> None:
    """libcurl listens there itself: it goes on being used."""
    async with ScriptedServer(_serve) as server:
        await curl_client.fetch(server.url("/first"))
        (peer,) = server.connections
        curl_client._versions[peer.address] = "2"
        await speak(peer, b"x")
        with contextlib.suppress(HTTPError):  # what it says is no HTTP/2, of course
            await curl_client.fetch(server.url("/second"))
        assert not curl_client._tainted


async def test_what_was_spoken_on_that_port_before(curl_client: Any) -> None:
    """A new connection between the same ports as an old one, which spoke something else."""
    async with ScriptedServer(_serve) as server:
        for port in range(1024, 65536):
            local = ("127.0.0.1", port)
            remote = ("127.0.0.1", server.port)
            curl_client._connections["127.0.0.1", "127.0.0.1", server.port, port] = 7, local, remote
            curl_client._versions[local] = "2"
        held, go_on = asyncio.Event(), asyncio.Event()

        async def hold(chunk: bytes) -> None:
            held.set()
            await go_on.wait()

        first = curl_client.fetch(server.url("/first"), streaming_callback=hold)
        await held.wait()
        # The connection is idle, though its response is not yet there.
        await until(lambda: not len(curl_client._driver))
        await speak(server.connections[0], STRAY[2])
        assert (await curl_client.fetch(server.url("/second"))).body == b"/second"
        go_on.set()
        await first
        await speak(server.connections[1], STRAY[2])
        assert (await curl_client.fetch(server.url("/third"))).body == b"/third"
        assert len(server.connections) == 3


async def _pass(seconds: float) -> None:
    """Let the connection idle for a while."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()
