"""One look at all idle connections: the rules of ``_simple/lookout.py``."""

from __future__ import annotations

import asyncio
import contextvars
import select
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from whimbrel._readiness import Readiness
from whimbrel._simple import lookout as lookout_module
from whimbrel._simple.pool import Connection
from whimbrel.testing.scripted import Peer, ScriptedServer, ok

from .test_pool import EVIL, arrived
from .test_resolve import until

COUNT = 6


async def _echo(peer: Peer) -> None:
    while True:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode()))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Every connection that was asked by itself."""
    found: list[Connection] = []
    ask = Connection.is_quiet

    def is_quiet(connection: Connection) -> bool:
        found.append(connection)
        return ask(connection)

    monkeypatch.setattr(Connection, "is_quiet", is_quiet)
    monkeypatch.setattr(lookout_module, "LOOK_LASTS", 60.0)  # however slow the machine is
    return found


Row = Callable[[Any, ScriptedServer], Awaitable[list[bytes]]]


@pytest.fixture
def row() -> Row:
    """Fetch COUNT targets at once; their bodies."""

    async def fetch(client: Any, server: ScriptedServer) -> list[bytes]:
        fetches = [client.fetch(server.url(f"/{n}")) for n in range(COUNT)]
        return [(await each).body for each in fetches]

    return fetch


TARGETS = [f"/{n}".encode() for n in range(COUNT)]


async def test_a_row_of_requests_takes_one_look(
    make_client: Callable[..., Any], asked: list[Connection], row: Row
) -> None:
    """And it finds the one connection that spoke out of turn, which alone is asked."""
    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        assert await row(client, server) == TARGETS
        asked.clear()
        assert await row(client, server) == TARGETS
        assert asked == []
        stray = next(c for c in client._pool.live if c.local[1] == server.connections[3].address[1])
        await server.connections[3].send(EVIL)
        arrived(stray)
        assert await row(client, server) == TARGETS
        assert asked == [stray]
        assert stray not in client._pool.live
        assert len(server.connections) == COUNT + 1


async def test_a_look_does_not_last(
    make_client: Callable[..., Any],
    asked: list[Connection],
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes after one is found by the next, or by asking."""
    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        await row(client, server)
        # Nothing is trusted for any time: each request but the last finds several, and looks.
        monkeypatch.setattr(lookout_module, "LOOK_LASTS", 0.0)
        asked.clear()
        assert await row(client, server) == TARGETS
        assert len(asked) == COUNT


@pytest.mark.parametrize("way", ["no epoll", "cannot look"])
async def test_without_a_look_each_connection_is_asked(
    way: str,
    make_client: Callable[..., Any],
    asked: list[Connection],
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise OSError("not today")

    if way == "no epoll":
        monkeypatch.delattr(select, "epoll")
    else:
        monkeypatch.setattr(Readiness, "peek", refuse)
    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        await row(client, server)
        asked.clear()
        await server.connections[2].send(EVIL)
        for connection in client._pool.live:
            if connection.local[1] == server.connections[2].address[1]:
                arrived(connection)
        assert await row(client, server) == TARGETS
        assert len(asked) == COUNT
        assert len(server.connections) == COUNT + 1
        client.close()


async def test_a_look_that_is_cut_short_is_not_trusted(
    make_client: Callable[..., Any],
    asked: list[Connection],
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many are ready as a look may give: there may be more, and each connection is asked."""
    client = make_client(max_clients=3 * COUNT)
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/held":
                await release.wait()
            await peer.send(ok(request.target.encode()))

    async with ScriptedServer(handler) as server:
        held = [client.fetch(server.url("/held")) for _ in range(COUNT)]
        await server.requested(COUNT)
        await row(client, server)
        busy = [c for c in client._pool.live if c.holder is not None]
        assert len(busy) == COUNT
        monkeypatch.setattr(lookout_module, "_READY_AT_MOST", COUNT - 1)
        asked.clear()
        assert await row(client, server) == TARGETS
        assert asked == []  # nobody had anything to say
        release.set()
        await asyncio.sleep(0)  # the handlers go on, and answer; the loop has not told of it
        for connection in busy:
            arrived(connection)
        assert await row(client, server) == TARGETS
        assert len(asked) == COUNT
        assert [(await fetch).body for fetch in held] == [b"/held"] * COUNT


async def test_the_descriptor_goes_with_the_pool(make_client: Callable[..., Any]) -> None:
    client = make_client()
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        epoll = client._watcher._epoll
        assert not epoll.closed
        client.close()
        assert epoll.closed


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_what_the_peer_closed_is_forgotten(client: Any, how: str) -> None:
    """Its descriptor may be another connection's the next moment."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        await asked.wait()
        getattr(peer, how)()

    asked = asyncio.Event()
    async with ScriptedServer(handler) as server:
        await client.fetch(server.url())
        assert len(client._pool.lookout._connections) == 1
        asked.set()
        await until(lambda: not client._pool.live)
        assert not client._pool.lookout._connections


async def test_callbacks_run_in_the_context_of_their_fetch(
    make_client: Callable[..., Any],
) -> None:
    """As far as the connection is theirs, and as asyncio does it: of whoever asked to watch it."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    client = make_client(max_clients=3)
    seen = {}

    async def run(own: str) -> None:
        name.set(own)
        await client.fetch(
            server.url(f"/{own}"),
            streaming_callback=lambda chunk: seen.update({chunk.decode(): name.get("none")}),
        )

    async with ScriptedServer(_echo) as server:
        await asyncio.gather(*(asyncio.create_task(run(own)) for own in "abc"))
    assert seen == {"/a": "a", "/b": "b", "/c": "c"}
