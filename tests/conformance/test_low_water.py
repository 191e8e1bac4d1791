"""Large bodies that are delivered as they come: larger pieces, and nothing waits for them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest

from whimbrel import _low_water, _memory
from whimbrel._low_water import MARK, LowWater
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, routes

from .support import MB, settled, until

pytestmark = pytest.mark.skipif(
    not _low_water._IS_AVAILABLE, reason="needs sockets with a low-water mark"
)

BODY = os.urandom(16 * MB + 4_321)
_HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


class Taken:
    """A streaming_callback that keeps what it got."""

    def __init__(self) -> None:
        self.body = bytearray()

    def __call__(self, chunk: bytes) -> None:
        self.body += chunk


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> list[LowWater]:
    """Those that were made."""
    made: list[LowWater] = []
    create = LowWater.where_it_pays.__func__  # type: ignore[attr-defined]

    def noting(cls: Any, *arguments: Any) -> Any:
        found = create(cls, *arguments)
        if found is not None:
            made.append(found)
        return found

    monkeypatch.setattr(LowWater, "where_it_pays", classmethod(noting))
    return made


async def test_a_lull(client: Any, marks: list[LowWater]) -> None:
    """Whatever has come is delivered, also less than the mark, while the server does nothing."""
    taken = Taken()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[: 8 * MB])
        await until(lambda: len(taken.body) == 8 * MB)
        assert marks
        await peer.send(BODY[8 * MB : 8 * MB + 100])
        await until(lambda: len(taken.body) == 8 * MB + 100)
        await peer.send(BODY[8 * MB + 100 :])

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), streaming_callback=taken, request_timeout=20)
    assert taken.body == BODY


@pytest.mark.parametrize("last", [1, MARK - 1, MARK, MARK + 1])
async def test_the_end(
    client: Any, marks: list[LowWater], last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for, not even where no timer sees to that."""
    monkeypatch.setattr(_low_water, "_PERIOD", 3600.0)
    taken = Taken()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[:-last])
        await until(lambda: len(taken.body) >= len(BODY) - last - MARK)
        await settled(lambda: len(taken.body), quiet=0.05)
        await peer.send(BODY[-last:])
        # Its close would wake whoever waits.
        await until(lambda: len(taken.body) == len(BODY))

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), streaming_callback=taken, request_timeout=20)
        assert marks
    assert taken.body == BODY


async def test_nothing_is_left_of_it(client: Any, marks: list[LowWater]) -> None:
    """The next response on the connection is a small one, and comes at once."""
    table = {"/large": ok(BODY), "/small": ok(b"small")}
    async with ScriptedServer(routes(table)) as server:
        for _ in range(3):
            taken = Taken()
            await client.fetch(server.url("/large"), streaming_callback=taken)
            assert taken.body == BODY
            began = time.monotonic()
            response = await client.fetch(server.url("/small"), request_timeout=20)
            assert response.body == b"small"
            assert time.monotonic() - began < 5
        assert len(server.connections) == 1
    assert all(mark._timer is None and not mark._is_high for mark in marks)
    assert len(marks) == 3


async def test_nothing_is_left_of_a_kept_body_without_room(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that is larger than what is set aside for what a peer only announces."""
    monkeypatch.setattr(_memory, "_MOST", MB)
    monkeypatch.setattr(_low_water, "_PERIOD", 3600.0)
    table = {"/large": ok(BODY), "/small": ok(b"small")}
    async with ScriptedServer(routes(table)) as server:
        for _ in range(3):
            assert (await client.fetch(server.url("/large"))).body == BODY
            assert (await client.fetch(server.url("/small"), request_timeout=5)).body == b"small"
        assert len(server.connections) == 1


@pytest.mark.parametrize("how", ["cancel", "close", "cut"])
async def test_a_body_that_is_given_up(make_client: Any, marks: list[LowWater], how: str) -> None:
    """By us or by the server: no timer outlives it."""
    taken = Taken()
    client = make_client()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[: 8 * MB])
        await until(lambda: len(taken.body) == 8 * MB)
        if how == "cut":
            peer.reset()
        else:
            await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), streaming_callback=taken)
        await until(lambda: len(taken.body) == 8 * MB)
        if how == "cancel":
            fetch.cancel()
        elif how == "close":
            client.close()
        with pytest.raises((asyncio.CancelledError, Exception)):
            await fetch
    assert marks
    assert all(mark._timer is None for mark in marks)


async def test_a_consumer_that_takes_its_time(client: Any, marks: list[LowWater]) -> None:
    """Back-pressure: what waits meanwhile is not lost, and nothing hangs."""
    body = bytearray()
    slow = 0

    async def take(chunk: bytes) -> None:
        nonlocal slow
        body.extend(chunk)
        if len(body) > (slow + 1) * 2 * MB:
            slow += 1
            await asyncio.sleep(0.02)

    async with ScriptedServer(routes({"/": ok(BODY)})) as server:
        await client.fetch(server.url(), streaming_callback=take, request_timeout=20)
    assert body == BODY
    assert slow >= 7


async def test_not_below_tls(make_client: Any, certificates: Any, marks: list[LowWater]) -> None:
    """Where the rest of a record may be held back."""
    client = make_client()
    context = certificates.server_context()
    taken = Taken()
    async with ScriptedServer(routes({"/": ok(BODY)}), ssl_context=context) as server:
        await client.fetch(server.url(), streaming_callback=taken, ca_certs=certificates.ca_file)
    assert taken.body == BODY
    assert not marks


async def test_not_through_an_https_proxy(
    make_client: Any, certificates: Any, marks: list[LowWater]
) -> None:
    """Though the origin is a plain one: what the socket carries are records."""
    client = make_client()
    context = certificates.server_context()
    taken = Taken()
    async with ScriptedServer(canned(ok(BODY)), ssl_context=context) as proxy:
        await client.fetch(
            "http://origin.test/",
            proxy=proxy.url(),
            ca_certs=certificates.ca_file,
            streaming_callback=taken,
        )
    assert taken.body == BODY
    assert not marks
