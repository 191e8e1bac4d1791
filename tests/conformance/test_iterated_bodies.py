"""Bodies from plain iterables: asked while they are sent, by whatever code the caller wrote."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPStreamClosedError
from whimbrel.testing.scripted import (
    Peer,
    RecordedRequest,
    ScriptedServer,
    canned,
    ok,
    redirect,
    reply,
    routes,
)

from .support import MB, challenge, check_digest, settled, until

BODY = os.urandom(3 * MB + 4_321)


class Mine(Exception):
    """What no library could raise."""


def _cut(*sizes: int) -> list[bytes]:
    """`BODY` in chunks of these sizes, in turn."""
    chunks = []
    start = 0
    while start < len(BODY):
        for size in sizes:
            chunks.append(BODY[start : start + size])
            start += size
    return chunks


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize(
    "sizes", [(10_007,), (1, 70_000, 0, 3), (1_500_000,), (len(BODY),), (300,)], ids=str
)
async def test_to_the_byte(client: Any, sizes: tuple[int, ...], length: bool) -> None:
    """However it is cut; twice on one connection."""
    headers = {"Content-Length": str(len(BODY))} if length else None
    async with ScriptedServer(canned(ok())) as server:
        for chunks in (_cut(*sizes), iter(_cut(*sizes))):
            await client.fetch(server.url(), method="PUT", body=chunks, headers=headers)
        assert [request.body for request in server.requests] == [BODY, BODY]
        assert [request.get("Transfer-Encoding") for request in server.requests] == [
            None if length else "chunked"
        ] * 2
        assert len(server.connections) == 1


async def test_over_tls(client: Any, certificates: Any) -> None:
    context = certificates.server_context()
    async with ScriptedServer(canned(ok()), ssl_context=context) as server:
        for sizes in ((62_500,), (300,), (2 * MB,)):
            await client.fetch(
                server.url(), method="PUT", body=_cut(*sizes), ca_certs=certificates.ca_file
            )
        assert all(request.body == BODY for request in server.requests)


async def test_it_is_not_asked_within_fetch(client: Any) -> None:
    """A generator may use what fetch() returns."""
    fetches: list[Any] = []

    def chunks() -> Iterator[bytes]:
        assert not fetches[-1].done()
        yield b"body"

    async with ScriptedServer(canned(ok())) as server:
        for _ in range(2):
            fetches.append(client.fetch(server.url(), method="PUT", body=chunks()))
            await fetches[-1]


@pytest.mark.parametrize("first", [True, False])
async def test_an_exception_ends_it(client: Any, first: bool) -> None:
    """It reaches the awaiter as it is; the request is not completed, and the next one works."""
    error = Mine()

    def chunks() -> Iterator[bytes]:
        if not first:
            yield bytes(2 * MB)
        raise error

    async def handler(peer: Peer) -> None:
        if peer is server.connections[0]:
            await peer.closed()
        await canned(ok())(peer)

    async with ScriptedServer(handler) as server:
        with pytest.raises(Mine) as caught:
            await client.fetch(server.url(), method="PUT", body=chunks())
        assert caught.value is error
        await server.connections[0].closed()
        assert b"\r\n0\r\n\r\n" not in server.connections[0].unread
        assert (await client.fetch(server.url(), method="PUT", body=[b"x"])).body == b"ok"


@pytest.mark.parametrize("length", [3, 5])
async def test_a_length_that_is_wrong(client: Any, length: int) -> None:
    """Nothing that could pass for the request is sent."""

    async def handler(peer: Peer) -> None:
        await peer.closed()

    async with ScriptedServer(handler) as server:
        with pytest.raises(ValueError, match=f"4 bytes, but header Content-Length says {length}"):
            await client.fetch(
                server.url(),
                method="PUT",
                body=[b"one", b"!"],
                headers={"Content-Length": str(length)},
            )


async def test_cancelled_in_the_middle(client: Any) -> None:
    """The peer reads no more: it is asked until the system is full, and after that never again."""
    asked = 0
    closed = False

    def chunks() -> Iterator[bytes]:
        nonlocal asked, closed
        try:
            while True:
                asked += 1
                yield bytes(100_000)
        finally:
            closed = True

    async def handler(peer: Peer) -> None:
        await peer.closed()

    async with ScriptedServer(handler, receive_buffer=65_536) as server:
        body = chunks()
        fetch = client.fetch(server.url(), method="PUT", body=body)
        await server.accepted()
        await until(lambda: asked > 10)
        fetch.cancel()
        before = asked
        with pytest.raises(asyncio.CancelledError):
            await fetch
        await settled(lambda: asked, quiet=0.05)
        assert asked == before
        del fetch
        body.close()
        assert closed


async def test_a_slow_one_lets_the_loop_go_on(client: Any) -> None:
    """It holds up others for few chunks at a time, and all of it is sent."""
    turns = 0

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            time.sleep(0.005)
            yield b"chunk"

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with ScriptedServer(canned(ok())) as server:
        counting = asyncio.ensure_future(count())
        await client.fetch(server.url(), method="PUT", body=chunks())
        counting.cancel()
        assert server.requests[0].body == b"chunk" * 20
    assert turns >= 5


async def test_one_that_has_nothing_for_a_while(client: Any) -> None:
    """Empty chunks are nothing, and the loop goes on meanwhile."""
    ready = False

    def chunks() -> Iterator[bytes]:
        yield b"one"
        while not ready:
            yield b""
        yield b"two"

    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(server.url(), method="PUT", body=chunks())
        await server.accepted()
        await asyncio.sleep(0.05)
        assert not fetch.done()
        ready = True
        await fetch
        assert server.requests[0].body == b"onetwo"


async def test_one_that_does_not_come_to_its_end(client: Any) -> None:
    """All bytes are there, and it still has something to say: the deadline holds."""
    end = time.monotonic() + 10  # should the loop stand still, the test is to fail, not to hang

    def chunks() -> Iterator[bytes]:
        yield b"one"
        while time.monotonic() < end:
            yield b""

    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(
            server.url(),
            method="PUT",
            body=chunks(),
            headers={"Content-Length": "3"},
            request_timeout=0.3,
        )
        with pytest.raises(HTTPError, match="Timeout during request"):
            await fetch


async def test_stall_timeout_spares_an_upload_that_moves(client: Any) -> None:
    """The peer takes everything at once, so that nothing ever waits here."""

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            time.sleep(0.01)
            yield bytes(1000)

    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="PUT", body=chunks(), stall_timeout=0.1)
        assert server.requests[0].body == bytes(40_000)


@pytest.mark.parametrize("body", [[], [b""], [b"x"], [b"", b"xyz"]])
async def test_a_body_that_is_to_be_empty(client: Any, body: list[bytes]) -> None:
    """It is asked for nevertheless: what does not fit its Content-Length is not lost in silence."""
    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(
            server.url(), method="PUT", body=iter(body), headers={"Content-Length": "0"}
        )
        if any(body):
            with pytest.raises(ValueError, match="header Content-Length says 0"):
                await fetch
        else:
            await fetch
        assert (await client.fetch(server.url())).code == 200


@pytest.mark.parametrize("how", ["iterable", "async iterable"])
async def test_a_generator_ends_with_its_fetch(client: Any, how: str) -> None:
    """Its `finally` does not wait for the garbage collector once nobody has the fetch any more."""
    asked = asyncio.Event()
    ended = asyncio.Event()

    def chunks() -> Iterator[bytes]:
        try:
            while True:
                asked.set()
                yield bytes(65_536)
        finally:
            ended.set()

    async def later() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.closed()

    gc.disable()
    try:
        async with ScriptedServer(handler) as server:
            body: Any = chunks() if how == "iterable" else later()
            fetch = client.fetch(server.url(), method="PUT", body=body)
            del body
            await asked.wait()
            fetch.cancel()
            del fetch
            async with asyncio.timeout(5):
                await ended.wait()
    finally:
        gc.enable()


async def test_an_answer_that_comes_before_the_end(client: Any) -> None:
    """A refusal ends the sending: the rest is not asked for."""
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply("413 Too Large", b"enough", "Connection: close"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url(), method="PUT", body=chunks())
        assert caught.value.code == 413
        assert caught.value.response.body == b"enough"
        before = asked
        assert await settled(lambda: asked, quiet=0.05) == before


async def test_a_peer_that_leaves_in_the_middle(client: Any) -> None:
    """It is not asked for what nobody will get, though it would go on for ever."""

    def chunks() -> Iterator[bytes]:
        while True:
            yield bytes(50_000)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_exactly(MB)
        peer.reset()

    async with ScriptedServer(handler) as server:
        for _ in range(3):
            with pytest.raises(HTTPStreamClosedError):
                await client.fetch(server.url(), method="POST", body=chunks())


async def test_it_may_use_the_client(client: Any) -> None:
    """Its code runs while the request is sent, and may begin another, or cancel that."""
    others: list[Any] = []

    def chunks() -> Iterator[bytes]:
        others.append(client.fetch(server.url("/other")))
        yield b"one"
        doomed = client.fetch(server.url("/doomed"))
        doomed.cancel()
        others.append(client.fetch(server.url("/other"), method="PUT", body=[b"two"]))
        yield b"two"

    async with ScriptedServer(canned(ok())) as server:
        for _ in range(2):
            await client.fetch(server.url("/upload"), method="PUT", body=chunks())
        for other in others:
            assert (await other).body == b"ok"
        uploads = [request for request in server.requests if request.target == "/upload"]
        assert [request.body for request in uploads] == [b"onetwo"] * 2


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_it_may_end_its_own_request(make_client: Any, how: str) -> None:
    """Then it is not asked again."""
    client = make_client()
    went_on = False

    def chunks() -> Iterator[bytes]:
        nonlocal went_on
        yield bytes(2 * MB)
        if how == "cancel":
            fetch.cancel()
        else:
            client.close()
        yield b"two"
        went_on = True

    async def handler(peer: Peer) -> None:
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), method="PUT", body=chunks())
        with pytest.raises((asyncio.CancelledError, HTTPError)):
            await fetch
        await server.connections[0].closed()
        await asyncio.sleep(0.02)
    assert not went_on


async def test_sent_again_after_a_redirect(client: Any) -> None:
    """From its beginning, if it has one, and in the caller's context."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield name.get().encode()
            yield BODY

    table = {"/": redirect("/again", "307 Temporary Redirect"), "/again": ok()}
    async with ScriptedServer(routes(table)) as server:
        await client.fetch(server.url("/again"))  # sockets are watched in the context of this
        server.requests.clear()
        name.set("caller")
        fetch = client.fetch(server.url(), method="POST", body=Body())
        name.set("another")
        await fetch
        assert [request.body for request in server.requests] == [b"caller" + BODY] * 2
        with pytest.raises(ValueError, match="iterator that ran out"):
            await client.fetch(server.url(), method="POST", body=iter([b"once"]))


@pytest.mark.parametrize("has_length", [True, False])
async def test_sent_again_with_credentials(client: Any, has_length: bool) -> None:
    """A nonce that has gone stale is answered with the whole body once more."""
    nonces = iter(["first", "second"])

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        await peer.send(reply("401 Who", b"", f"WWW-Authenticate: {challenge(next(nonces))}"))
        request = await peer.read_request()
        stale = challenge(next(nonces), ", stale=true")
        await peer.send(reply("401 Who", b"", f"WWW-Authenticate: {stale}"))
        request = await peer.read_request()
        check_digest(request.get("Authorization"), request, "alice", "secret")
        await peer.send(ok())

    def bodies(requests: list[RecordedRequest]) -> list[bytes]:
        return [request.body for request in requests]

    async with ScriptedServer(handler) as server:
        await client.fetch(
            server.url(),
            method="PUT",
            body=_cut(100_000),
            headers={"Content-Length": str(len(BODY))} if has_length else None,
            auth_username="alice",
            auth_password="secret",
            auth_mode="digest",
        )
        assert bodies(server.requests) == [b"", BODY, BODY]
