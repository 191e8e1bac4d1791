"""Matrix 55 and 57: callbacks that raise, and callbacks that use the client they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from backends import known_difference
from whimbrel.httpclient import HTTPStreamClosedError
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, redirect, routes

from .support import until

Write = Callable[[bytes], Awaitable[None]]


class Mine(Exception):
    """What no library could raise."""


ERRORS = [Mine("mine"), asyncio.CancelledError("mine"), SystemExit("mine")]


def _raising(error: BaseException) -> dict[str, dict[str, Any]]:
    """Arguments of a fetch whose callback raises `error`, by the kind of callback."""

    def plain(*arguments: Any) -> None:
        raise error

    async def coroutine(*arguments: Any) -> None:
        raise error

    async def later(*arguments: Any) -> None:
        await asyncio.sleep(0)
        raise error

    async def after_a_write(write: Write) -> None:
        await write(b"some of it")
        raise error

    async def iterable() -> Any:
        yield b"some of it"
        raise error

    def generator() -> Any:
        yield b"some of it"
        raise error

    def future(*arguments: Any) -> asyncio.Future[None]:
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made.set_exception(error)
        return made

    return {
        "header_callback": {"header_callback": plain},
        "streaming_callback": {"streaming_callback": plain},
        "streaming_callback coroutine": {"streaming_callback": coroutine},
        "streaming_callback coroutine later": {"streaming_callback": later},
        "streaming_callback future": {"streaming_callback": future},
        "body_producer": {"method": "PUT", "body_producer": plain},
        "body_producer coroutine": {"method": "PUT", "body_producer": coroutine},
        "body_producer later": {"method": "PUT", "body_producer": after_a_write},
        "body": {"method": "PUT", "body": iterable()},
        "body generator": {"method": "PUT", "body": generator()},
        "prepare_curl_callback": {"prepare_curl_callback": plain},
    }


@pytest.mark.parametrize("kind", _raising(Mine()))
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_matrix_55_the_original_reaches_the_awaiter(
    error: BaseException, kind: str, backend: str, make_client: Callable[..., Any]
) -> None:
    """Whatever it raises comes out of the await, the transfer ends, others are untouched.

    A callback that the backend does not have is refused, in the same way.
    """
    refusal = known_difference(kind, backend) if kind == "prepare_curl_callback" else None
    client = make_client(max_clients=2)
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/other":
                await release.wait()
            await peer.send(ok(request.target.encode() * 100))

    async with ScriptedServer(handler) as server:
        other = client.fetch(server.url("/other"))
        fetch = client.fetch(server.url("/raises"), **_raising(error)[kind])
        expected = type(error) if refusal is None else refusal.raises
        assert expected is not None
        with pytest.raises(expected) as caught:
            await fetch
        assert (caught.value is error) == (refusal is None)
        assert client._gate.active == 1
        assert not other.done()
        release.set()
        assert (await other).body == b"/other" * 100
        for _ in range(3):
            assert (await client.fetch(server.url("/next"))).body == b"/next" * 100
    assert client._gate.active == 0


async def test_matrix_55_in_a_redirect(client: Any) -> None:
    """A body that is sent a second time, after a redirect, may raise as well."""
    calls = 0

    async def produce(write: Write) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Mine
        await write(b"body")

    table = {"/": redirect("/again", "307 Temporary Redirect"), "/again": ok()}
    async with ScriptedServer(routes(table)) as server:
        with pytest.raises(Mine):
            await client.fetch(server.url(), method="POST", body_producer=produce)
        assert (await client.fetch(server.url("/again"))).body == b"ok"


async def test_matrix_55_a_producer_that_outlives_its_request(make_client: Any) -> None:
    """What a producer makes of its cancellation hits nobody: its request is over."""
    client = make_client(max_clients=1)
    release = asyncio.Event()
    refused: list[BaseException] = []
    cleaned_up = asyncio.Event()

    async def produce(write: Write) -> None:
        await write(b"x" * 10)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            for _ in range(5):
                await asyncio.sleep(0)
            try:
                await write(b"y")
            except ConnectionError as error:
                refused.append(error)
            cleaned_up.set()
            raise Mine from None

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            if request.method == "POST":
                # An answer before the body has come: the client is content, the producer is not.
                await peer.send(ok(b"early", "Connection: close"))
                await peer.closed()
                return
            await release.wait()
            await peer.send(ok(b"next"))

    async with ScriptedServer(handler) as server:
        early = client.fetch(server.url(), method="POST", body_producer=produce, raise_error=False)
        following = client.fetch(server.url())
        await asyncio.wait([early])
        await server.requested(2)
        await cleaned_up.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        release.set()
        assert (await following).body == b"next"
        assert len(refused) == 1


# -- 57: callbacks that use the client

USES: dict[str, Callable[[Any, str, list[Any]], None]] = {
    "close": lambda client, url, kept: client.close(),
    "fetch": lambda client, url, kept: kept.append(client.fetch(url)),
    "fetch and cancel": lambda client, url, kept: kept.append(client.fetch(url).cancel()),
    "cancel": lambda client, url, kept: kept.append(kept[0].cancel()),
    "cancel another": lambda client, url, kept: kept.append(kept[1].cancel()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "kind", ["header_callback", "streaming_callback", "body_producer", "callback", "coroutine"]
)
async def test_matrix_57_callbacks_use_the_client(
    kind: str, use: str, make_client: Callable[..., Any]
) -> None:
    """close(), fetch() and cancel() from within a callback are carried out, without a deadlock."""
    client = make_client(max_clients=3)
    kept: list[Any] = []
    called = 0

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/silent":
                return await peer.closed()
            await peer.send(ok(request.target.encode()))

    async with ScriptedServer(handler) as server:

        def act(*arguments: Any) -> None:
            nonlocal called
            called += 1
            if called == 1:
                USES[use](client, server.url("/inner"), kept)

        async def act_later(*arguments: Any) -> None:
            act()

        arguments: dict[str, Any] = {
            "header_callback": {"header_callback": act},
            "streaming_callback": {"streaming_callback": act},
            "coroutine": {"streaming_callback": act_later},
            "body_producer": {"method": "PUT", "body_producer": act},
            "callback": {"callback": act},
        }[kind]
        kept.append(client.fetch(server.url("/outer"), **arguments))
        kept.append(client.fetch(server.url("/silent")))
        await asyncio.wait(kept[:1])
        await until(lambda: called)
        outer, silent = kept[:2]
        if use == "close" and kind != "callback":
            assert isinstance(outer.exception(), HTTPStreamClosedError)
        elif use == "cancel" and kind != "callback":
            assert outer.cancelled()
        else:
            assert outer.result().code == 200
        if use == "close":
            await asyncio.wait([silent])
            assert isinstance(silent.exception(), HTTPStreamClosedError)
            with pytest.raises(RuntimeError):
                await client.fetch(server.url())
            return
        if use == "fetch":
            assert (await kept[2]).body == b"/inner"
        elif use == "cancel another":
            assert silent.cancelled()
        silent.cancel()
        assert client._gate.active == 0
        assert (await client.fetch(server.url("/next"))).body == b"/next"


async def test_matrix_57_an_early_answer_ends_one_fetch(make_client: Callable[..., Any]) -> None:
    """A final answer instead of 100, and the close: the next fetch on that handle is its own."""
    client = make_client(max_clients=1)
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        if request.method == "PUT":
            await peer.send(ok(b"early", "Connection: close"))
            return
        await release.wait()
        await peer.send(ok(request.target.encode()))

    async def produce(write: Write) -> None:
        raise AssertionError("no 100 came")

    async with ScriptedServer(handler) as server:
        for number in range(5):
            release.clear()
            early = client.fetch(
                server.url(), method="PUT", body_producer=produce, expect_100_continue=True
            )
            following = client.fetch(server.url(f"/{number}"))
            assert (await early).body == b"early"
            await server.requested(2 * number + 2)
            for _ in range(3):
                await asyncio.sleep(0)
            assert not following.done()
            release.set()
            assert (await following).body == f"/{number}".encode()


async def test_matrix_57_next_fetch_from_the_end_of_the_last(
    make_client: Callable[..., Any],
) -> None:
    """A chain of fetches, each started from the done callback of the one before: no recursion."""
    client = make_client(max_clients=1)
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    count = 0

    async with ScriptedServer(canned(ok())) as server:

        def again(fetch: Any) -> None:
            nonlocal count
            count += 1
            if count == 300:
                end.set_result(None)
            else:
                client.fetch(server.url(f"/{count}")).add_done_callback(again)

        client.fetch(server.url()).add_done_callback(again)
        await end
        assert len(server.connections) == 1
    assert client._gate.active == 0


async def test_matrix_46_cancelled_before_the_coroutine_callback_began(client: Any) -> None:
    """A coroutine callback that never gets to run is closed: no "was never awaited"."""
    called: list[bytes] = []

    async def consume(piece: bytes) -> None:
        raise AssertionError("the fetch was cancelled before")

    def callback(piece: bytes) -> Awaitable[None]:
        called.append(piece)
        asyncio.get_running_loop().call_soon(fetch.cancel)
        return consume(piece)

    async with ScriptedServer(canned(ok(b"body"))) as server:
        fetch = client.fetch(server.url(), streaming_callback=callback)
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert called == [b"body"]
        assert (await client.fetch(server.url())).body == b"body"
