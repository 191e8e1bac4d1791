"""`whimbrel._wakeups`, and the future that `fetch()` returns: who is woken, in what order, how."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from whimbrel._wakeups import Wakeups

LOCAL: contextvars.ContextVar[str] = contextvars.ContextVar("LOCAL", default="nobody's")


async def _turn() -> None:
    await asyncio.sleep(0)


def _made(
    loop: asyncio.AbstractEventLoop,
) -> tuple[Wakeups, asyncio.Future[Any], contextvars.Context]:
    """What a test is about, a future that somebody waits for, and their context."""
    return Wakeups(loop), loop.create_future(), contextvars.copy_context()


async def test_all_of_a_turn_in_order_and_in_the_next_one() -> None:
    loop = asyncio.get_running_loop()
    wakeups = Wakeups(loop)
    one, two = loop.create_future(), loop.create_future()
    context = contextvars.copy_context()
    seen: list[Any] = []
    wakeups.add([(one, lambda f: seen.append(("a", f)), context), (one, seen.append, context)])
    wakeups.add([(two, seen.append, context)])
    assert seen == []
    await _turn()
    assert seen == [("a", one), one, two]


async def test_what_a_callback_brings_about_has_its_turn_later() -> None:
    loop = asyncio.get_running_loop()
    wakeups, future, context = _made(loop)
    seen: list[str] = []

    def first(_: object) -> None:
        seen.append("first")
        loop.call_soon(seen.append, "between")
        wakeups.add([(future, lambda _: seen.append("second"), context)])

    wakeups.add([(future, first, context)])
    await _turn()
    assert seen == ["first"]
    await _turn()
    assert seen == ["first", "between", "second"]


async def test_who_waits_for_what_comes_in_a_turn_is_called_at_its_end() -> None:
    wakeups, future, context = _made(asyncio.get_running_loop())
    seen: list[str] = []

    def first(_: object) -> None:
        seen.append("first")
        wakeups.add([(future, lambda _: seen.append("second"), context)])

    wakeups.begin_turn()
    wakeups.add([(future, first, context)])
    await _turn()
    assert seen == []
    wakeups.end_turn()
    assert seen == ["first"]  # and what that brought about has its turn later
    await _turn()
    assert seen == ["first", "second"]
    wakeups.begin_turn()
    wakeups.end_turn()
    await _turn()
    assert seen == ["first", "second"]


async def test_nobody_overtakes_those_who_wait_already() -> None:
    wakeups, future, context = _made(asyncio.get_running_loop())
    seen: list[str] = []
    wakeups.add([(future, lambda _: seen.append("before"), context)])
    wakeups.begin_turn()
    wakeups.add([(future, lambda _: seen.append("in it"), context)])
    wakeups.end_turn()
    assert seen == []
    await _turn()
    assert seen == ["before", "in it"]


def test_who_runs_the_loop_from_within_keeps_nobody_waiting() -> None:
    """As notebooks do: the others are woken by the nested run."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        wakeups, future, context = _made(loop)
        seen: list[str] = []

        def nests(_: object) -> None:
            seen.append("nests")
            for handle in list(loop._ready):  # type: ignore[attr-defined]
                loop._ready.remove(handle)  # type: ignore[attr-defined]
                if not handle.cancelled():
                    handle._run()
            seen.append("goes on")

        others = contextvars.copy_context()
        wakeups.add([(future, nests, context), (future, lambda _: seen.append("other"), others)])
        loop.run_until_complete(_turn())
        assert seen == ["nests", "other", "goes on"]


async def test_each_runs_in_its_own_context() -> None:
    loop = asyncio.get_running_loop()
    wakeups = Wakeups(loop)
    seen: list[str] = []
    contexts = []
    for name in ("one", "two"):
        context = contextvars.copy_context()
        context.run(LOCAL.set, name)
        contexts.append(context)
    future = loop.create_future()
    wakeups.add([(future, lambda _: seen.append(LOCAL.get()), context) for context in contexts])
    await _turn()
    assert seen == ["one", "two"]


async def test_one_that_fails_keeps_nobody_from_being_woken() -> None:
    loop = asyncio.get_running_loop()
    wakeups = Wakeups(loop)
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    future = loop.create_future()
    context = contextvars.copy_context()
    seen: list[Any] = []

    def fails(_: object) -> None:
        raise ValueError("mine")

    wakeups.add([(future, fails, context), (future, seen.append, context)])
    await _turn()
    loop.set_exception_handler(None)
    assert seen == [future]
    (report,) = reports
    assert str(report["exception"]) == "mine"
    assert report["future"] is future
    assert "fails" in report["message"]


def test_who_is_left_when_the_loop_is_ended_is_woken_when_it_runs_again() -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        wakeups = Wakeups(loop)
        context = contextvars.copy_context()
        future = loop.create_future()
        seen: list[Any] = []

        def exits(_: object) -> None:
            raise SystemExit(3)

        wakeups.add([(future, exits, context), (future, seen.append, context)])
        with pytest.raises(SystemExit):
            loop.run_until_complete(_turn())
        assert seen == []
        loop.run_until_complete(_turn())
        assert seen == [future]
