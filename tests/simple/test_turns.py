"""`whimbrel._simple.turns`: who is called when, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from whimbrel._simple import turns
from whimbrel._simple.turns import Turns
from whimbrel.testing.scripted import ScriptedServer, canned, ok


async def test_first_come_first_served_in_the_next_turn() -> None:
    work = Turns(asyncio.get_running_loop())
    seen: list[str] = []
    work.soon(lambda: seen.append("one"))
    work.soon(lambda: seen.append("two"))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["one", "two"]


async def test_who_comes_again_has_the_turn_after() -> None:
    work = Turns(asyncio.get_running_loop())
    seen: list[int] = []

    def again() -> None:
        seen.append(len(seen))
        if len(seen) < 3:
            work.soon(again)

    work.soon(again)
    for count in (1, 2, 3, 3):
        await asyncio.sleep(0)
        assert len(seen) == count


async def test_all_together_have_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.005)
    work = Turns(asyncio.get_running_loop())
    seen: list[int] = []

    def long(number: int) -> None:
        seen.append(number)
        end = time.monotonic() + 0.006
        while time.monotonic() < end:
            pass

    for number in range(3):
        work.soon(lambda number=number: long(number))
    for count in (1, 2, 3):
        await asyncio.sleep(0)
        assert seen == list(range(count))


async def test_a_call_that_runs_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As notebooks do: the others have their turn from within."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 10.0)
    loop = asyncio.get_running_loop()
    work = Turns(loop)
    seen: list[str] = []

    def nests() -> None:
        seen.append("nests")
        work._run()  # what the loop would call
        seen.append("goes on")

    work.soon(nests)
    work.soon(lambda: seen.append("other"))
    await asyncio.sleep(0)
    assert seen == ["nests", "other", "goes on"]
    await asyncio.sleep(0)
    assert len(seen) == 3


async def test_uploads_have_their_turns(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is time for one alone, no other is asked for its body in that turn."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    loop = asyncio.get_running_loop()
    turn = 0
    asked: list[int] = []

    def count() -> None:
        nonlocal turn, counting
        turn += 1
        counting = loop.call_soon(count)

    def body() -> Iterator[bytes]:
        asked.append(turn)
        yield b"x"

    async with ScriptedServer(canned(ok())) as server:
        await asyncio.gather(*(client.fetch(server.url("/")) for _ in range(5)))
        counting = loop.call_soon(count)
        await asyncio.gather(
            *(client.fetch(server.url("/"), method="PUT", body=body()) for _ in range(5))
        )
        counting.cancel()
    assert len(set(asked)) == 5


async def test_who_waits_for_its_turn_has_not_stalled(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the turns of others last."""
    client = make_client(max_clients=40)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)

    def body() -> Iterator[bytes]:
        for _ in range(2):
            time.sleep(0.01)
            yield bytes(70_000)

    async with ScriptedServer(canned(ok())) as server:
        await asyncio.gather(
            *(
                client.fetch(server.url("/"), method="PUT", body=body(), stall_timeout=0.1)
                for _ in range(40)
            )
        )
        assert len(server.requests) == 40
