"""One look at all idle connections: the rules of ``_simple/lookout.py``."""

from __future__ import annotations

import asyncio
import contextvars
import select
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from whimbrel._simple import lookout as lookout_module
from whimbrel._simple.pool import Connection
from whimbrel.testing.scripted import Peer, ScriptedServer, ok

from .test_pool import EVIL, arrived

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


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch, asked: list[Connection]) -> list[int]:
    """Of how many sockets each look asked."""
    found: list[int] = []

    class Poll:
        def __init__(self) -> None:
            self._poll = poll()
            self._count = 0

        def register(self, fd: int, events: int) -> None:
            self._poll.register(fd, events)
            self._count += 1

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            found.append(self._count)
            return self._poll.poll(timeout)

    poll = select.poll
    monkeypatch.setattr(lookout_module.select, "poll", Poll)
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
    polls: list[int],
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes after one is found by the next."""
    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        await row(client, server)
        # Nothing is trusted for any time.
        monkeypatch.setattr(lookout_module, "LOOK_LASTS", -1.0)
        assert await row(client, server) == TARGETS
        assert polls == [COUNT] + [1] * (COUNT - 1)


async def test_a_poll_that_fails(
    make_client: Callable[..., Any],
    asked: list[Connection],
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of memory, say: then each connection is asked by itself."""

    class Refusing:
        def register(self, fd: int, events: int) -> None:
            pass

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            raise OSError("not today")

    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        await row(client, server)
        asked.clear()
        await server.connections[2].send(EVIL)
        for connection in client._pool.live:
            if connection.local[1] == server.connections[2].address[1]:
                arrived(connection)
        monkeypatch.setattr(lookout_module.select, "poll", Refusing)
        assert await row(client, server) == TARGETS
        assert len(asked) == COUNT
        assert len(server.connections) == COUNT + 1
        client.close()


async def test_a_look_has_an_end(
    make_client: Callable[..., Any], polls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many began to idle at once, a look asks so many of them, and the next the others."""
    monkeypatch.setattr(lookout_module, "_AT_ONCE", COUNT)
    client = make_client(max_clients=3 * COUNT)
    async with ScriptedServer(_echo) as server:
        for _ in range(2):
            polls.clear()
            targets = [f"/{number}" for number in range(3 * COUNT)]
            fetches = [client.fetch(server.url(target)) for target in targets]
            assert [(await fetch).body.decode() for fetch in fetches] == targets
        assert polls == [COUNT] * 3


async def test_who_has_been_looked_at_is_not_asked_for_others(
    make_client: Callable[..., Any], polls: list[int], row: Row
) -> None:
    """One request at a time, beside many connections that idle: a look at that one."""
    client = make_client(max_clients=COUNT)
    async with ScriptedServer(_echo) as server:
        await row(client, server)
        await client.fetch(server.url("/"))
        assert polls == [COUNT]
        for _ in range(3):
            await client.fetch(server.url("/"))
        assert polls == [COUNT, 1, 1, 1]


async def test_the_descriptor_goes_with_the_pool(make_client: Callable[..., Any]) -> None:
    client = make_client()
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        epoll = client._watcher._epoll
        assert not epoll.closed
        client.close()
        assert epoll.closed


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
