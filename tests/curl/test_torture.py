"""Matrix 85: every call that can fail is made to fail, one at a time, for every N.

The rule (matrix, "global pass rule"): a typed error or the right result, in time; the next request
on that client succeeds; after close() nothing is left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPTimeoutError
from whimbrel.testing.scripted import Peer, ScriptedServer, chunked, ok, redirect, reply

from .support import FAILURES, Saboteur

# Seconds; what fails here fails at once, so that nothing is ever to come near it.
DEADLINE = 10.0
PROMPT = 5.0

Scenario = Callable[[Any, ScriptedServer], Awaitable[None]]


async def _serve(peer: Peer) -> None:
    while True:
        request = await peer.read_request()
        target = request.target
        if target == "/redirect":
            await peer.send(redirect("/target"))
        elif target == "/streamed":
            await peer.send(reply("200 OK", chunked(b"one", b"two"), "Transfer-Encoding: chunked"))
        elif target == "/close":
            await peer.send(ok(b"/close", "Connection: close"))
            return
        elif target == "/silence":
            return await peer.closed()
        else:
            await peer.send(ok(target.encode() + request.body))


async def _plain(client: Any, server: ScriptedServer) -> None:
    """On a new connection, on a used one, and after the server has closed it."""
    for target in ("/one", "/two", "/close", "/three"):
        response = await client.fetch(server.url(target), request_timeout=DEADLINE)
        assert response.body == target.encode()


async def _redirected(client: Any, server: ScriptedServer) -> None:
    response = await client.fetch(server.url("/redirect"), request_timeout=DEADLINE)
    assert response.body == b"/target"


async def _streamed(client: Any, server: ScriptedServer) -> None:
    """With a consumer that makes the transfer pause."""
    pieces = []

    async def consume(piece: bytes) -> None:
        await asyncio.sleep(0)
        pieces.append(piece)

    await client.fetch(
        server.url("/streamed"), streaming_callback=consume, request_timeout=DEADLINE
    )
    assert b"".join(pieces) == b"onetwo"


async def _posted(client: Any, server: ScriptedServer) -> None:
    response = await client.fetch(
        server.url("/post"), method="POST", body=b"-body", request_timeout=DEADLINE
    )
    assert response.body == b"/post-body"


async def _uploaded(client: Any, server: ScriptedServer) -> None:
    """With a producer that makes the transfer pause."""

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        await asyncio.sleep(0)
        await write(b"-a")
        await asyncio.sleep(0)
        await write(b"-b")

    response = await client.fetch(
        server.url("/put"), method="PUT", body_producer=produce, request_timeout=DEADLINE
    )
    assert response.body == b"/put-a-b"


async def _concurrent(client: Any, server: ScriptedServer) -> None:
    """Three at a time: what befalls one is to leave the others whole."""
    targets = ["/a", "/b", "/c"]
    fetches = [client.fetch(server.url(t), request_timeout=DEADLINE) for t in targets]
    outcomes = await asyncio.gather(*fetches, return_exceptions=True)
    for target, outcome in zip(targets, outcomes, strict=True):
        if not isinstance(outcome, BaseException):
            assert outcome.body == target.encode()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _cancelled(client: Any, server: ScriptedServer) -> None:
    """A fetch that waits for its answer, and one of which nothing has happened yet."""
    asked = len(server.requests)
    waiting = client.fetch(server.url("/silence"), request_timeout=DEADLINE)
    asking = asyncio.ensure_future(server.requested(asked + 1))
    await asyncio.wait([waiting, asking], return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    begun = client.fetch(server.url("/silence"), request_timeout=DEADLINE)
    begun.cancel()
    if waiting.done():
        await waiting
    waiting.cancel()


SCENARIOS: dict[str, Scenario] = {
    "plain": _plain,
    "redirect": _redirected,
    "streamed": _streamed,
    "post": _posted,
    "upload": _uploaded,
    "concurrent": _concurrent,
    "cancelled": _cancelled,
}

# "unregister" and "epoll" belong to the one way, "add_writer" to the other.
OPERATIONS = {
    True: [name for name in FAILURES if name != "add_writer"],
    False: [name for name in FAILURES if name not in ("epoll", "register", "modify", "unregister")],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_matrix_85_every_call_fails_once(
    scenario: str, use_epoll: bool, make_client: Callable[..., Any], saboteur: Saboteur
) -> None:
    """Whatever fails, at whichever call, ends in a typed error at most, and hurts no later one."""
    reached = set()
    async with ScriptedServer(_serve) as server:
        for name in OPERATIONS[use_epoll]:
            nth = 1
            while True:
                client = make_client(use_epoll=use_epoll)
                saboteur.fail(name, nth)
                before = saboteur.hits
                await _typed_and_prompt(SCENARIOS[scenario](client, server), f"{name} {nth}")
                hit = saboteur.hits > before
                saboteur.fail("")
                await _recovered(client, server, f"{name} {nth}")
                client.close()
                if not hit:
                    break
                reached.add(name)
                nth += 1
    assert {"setopt", "add_handle", "socket_action", "add_reader"} <= reached
    if use_epoll:
        assert {"epoll", "register"} <= reached


async def _recovered(client: Any, server: ScriptedServer, what: str) -> None:
    """Slots and handles are back, and the next request succeeds."""
    assert not client.queue, what
    assert client._gate.active == 0, what
    assert len(client._driver) == 0, what
    assert not len(client._driver), what
    async with asyncio.timeout(PROMPT):
        response = await client.fetch(server.url("/next"), request_timeout=DEADLINE)
    assert response.body == b"/next", what


async def _typed_and_prompt(scenario: Awaitable[None], what: str) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    (outcome,) = await asyncio.gather(scenario, return_exceptions=True)
    assert loop.time() - begun < PROMPT, what
    if outcome is None:
        return
    if not isinstance(outcome, HTTPError):
        raise outcome
    assert outcome.code == 599, what
    # A time-out would mean that the failure went unnoticed, and a wake-up was lost.
    assert not isinstance(outcome, HTTPTimeoutError), (what, outcome)
    assert outcome.stage, what


@pytest.mark.parametrize("scenario", ["plain", "streamed", "concurrent"])
async def test_matrix_42_nothing_works_for_a_while(
    scenario: str, use_epoll: bool, make_client: Callable[..., Any], saboteur: Saboteur
) -> None:
    """From the Nth call on all fail, as when descriptors have run out; then all is well again."""
    async with ScriptedServer(_serve) as server:
        for name in OPERATIONS[use_epoll]:
            for nth in (1, 2, 3, 5, 8):
                client = make_client(use_epoll=use_epoll)
                saboteur.fail(name, nth, for_good=True)
                await _typed_and_prompt(SCENARIOS[scenario](client, server), f"{name} {nth}")
                saboteur.fail("")
                await _recovered(client, server, f"{name} {nth}")
                client.close()


@pytest.mark.parametrize("name", ["epoll", "register", "add_reader"])
async def test_matrix_42_the_very_first_call_fails(
    name: str, make_client: Callable[..., Any], saboteur: Saboteur
) -> None:
    """Without a file descriptor left the first fetch fails by its future; the second works."""
    async with ScriptedServer(_serve) as server:
        client = make_client(use_epoll=name != "add_reader")
        saboteur.fail(name)
        fetch = client.fetch(server.url("/first"))
        with pytest.raises(HTTPError) as caught:
            await fetch
        assert caught.value.code == 599
        assert (await client.fetch(server.url("/second"))).body == b"/second"
