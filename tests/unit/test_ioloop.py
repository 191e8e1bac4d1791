"""IOLoop: Tornado's names over the asyncio loop."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from whimbrel.ioloop import IOLoop


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[IOLoop]:
    """A loop that does not run, and is current; afterwards none is."""
    if request.param == "uvloop":
        asyncio.set_event_loop(pytest.importorskip("uvloop").new_event_loop())
    loop = IOLoop.current()
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


# -- which loop


def test_current_makes_a_loop_where_there_is_none() -> None:
    """... and sets it as asyncio's current one, so that it is found the next time."""
    asyncio.set_event_loop(None)
    loop = IOLoop.current()
    try:
        assert IOLoop.current() is loop
        assert IOLoop.instance() is loop
        assert asyncio.get_event_loop_policy().get_event_loop() is loop.asyncio_loop
    finally:
        loop.close()


def test_current_takes_asyncios_loop() -> None:
    asyncio_loop = asyncio.new_event_loop()
    asyncio.set_event_loop(asyncio_loop)
    try:
        assert IOLoop.current().asyncio_loop is asyncio_loop
    finally:
        IOLoop.current().close()


async def test_current_is_the_running_loop() -> None:
    assert IOLoop.current().asyncio_loop is asyncio.get_running_loop()


def test_current_passes_over_a_closed_loop() -> None:
    """asyncio keeps a closed loop as the current one: it would be of no use."""
    closed = asyncio.new_event_loop()
    closed.close()
    asyncio.set_event_loop(closed)
    loop = IOLoop.current()
    try:
        assert loop.run_sync(lambda: 1) == 1
    finally:
        loop.close()


def test_close_takes_the_loop_back() -> None:
    """After close() the thread has no current loop, and the next is a new one."""
    first = IOLoop()
    first.close()
    assert first.asyncio_loop.is_closed()
    second = IOLoop.current()
    try:
        assert second is not first
    finally:
        second.close()


def test_make_current_is_optional(loop: IOLoop) -> None:
    other = IOLoop(make_current=False)
    try:
        assert IOLoop.current() is loop
        other.make_current()
        assert IOLoop.current() is other
    finally:
        other.close()


def test_each_thread_has_its_own() -> None:
    found: list[IOLoop] = []

    def look() -> None:
        found.append(IOLoop.current())
        found[0].close()

    mine = IOLoop.current()
    try:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert found[0] is not mine
    finally:
        mine.close()


def test_repr_names_the_asyncio_loop(loop: IOLoop) -> None:
    assert repr(loop) == f"<IOLoop of {loop.asyncio_loop!r}>"


# -- running


def test_start_runs_until_stop(loop: IOLoop) -> None:
    calls: list[str] = []
    loop.add_callback(calls.append, "first")
    loop.add_callback(loop.stop)
    loop.start()
    assert calls == ["first"]
    loop.add_callback(loop.stop)
    loop.start()  # it can be started again


def test_stop_before_start(loop: IOLoop) -> None:
    """The next start() then ends at once; what is due runs."""
    calls: list[str] = []
    loop.add_callback(calls.append, "due")
    loop.stop()
    loop.start()
    assert calls == ["due"]


def test_run_sync_gives_what_the_coroutine_returns(loop: IOLoop) -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert loop.run_sync(work) == "done"


def test_run_sync_takes_plain_functions_and_futures(loop: IOLoop) -> None:
    def future() -> asyncio.Future[int]:
        made: asyncio.Future[int] = loop.asyncio_loop.create_future()
        loop.add_callback(made.set_result, 2)
        return made

    assert loop.run_sync(lambda: 1) == 1
    assert loop.run_sync(future) == 2
    assert loop.run_sync(lambda: None) is None


def test_run_sync_raises_what_the_coroutine_raises(loop: IOLoop) -> None:
    async def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        loop.run_sync(fail)
    with pytest.raises(ZeroDivisionError):
        loop.run_sync(lambda: 1 // 0)


def test_run_sync_cancels_after_its_timeout(loop: IOLoop) -> None:
    ended: list[type[BaseException]] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise

    with pytest.raises(TimeoutError, match=r"operation timed out after 0\.01 seconds"):
        loop.run_sync(for_ever, timeout=0.01)
    assert ended == [asyncio.CancelledError]


def test_run_sync_leaves_the_coroutines_own_timeout_alone(loop: IOLoop) -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        loop.run_sync(fail, timeout=60)


def test_run_sync_that_is_stopped_leaves_nothing_behind(loop: IOLoop) -> None:
    """stop() interrupts it: the coroutine is cancelled, and does not go on at the next start."""
    ended: list[type[BaseException]] = []

    async def stop() -> None:
        loop.stop()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            ended.append(type(error))
            raise

    with pytest.raises(RuntimeError, match="stopped"):
        loop.run_sync(stop)
    assert ended == [asyncio.CancelledError]
    assert not asyncio.all_tasks(loop.asyncio_loop)


async def test_run_sync_refuses_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="await instead"):
        IOLoop.current().run_sync(lambda: 1)


# -- callbacks


def test_add_callback_passes_arguments_and_keeps_the_order(loop: IOLoop) -> None:
    calls: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    loop.add_callback(note, 1, key=2)
    loop.add_callback(note, 3)
    loop.add_callback(loop.stop)
    assert calls == []
    loop.start()
    assert calls == [((1,), {"key": 2}), ((3,), {})]


def test_add_callback_from_within_the_loop(loop: IOLoop) -> None:
    async def work() -> list[str]:
        order = ["begun"]
        loop.add_callback(order.append, "called")
        order.append("added")
        await asyncio.sleep(0)
        return order

    assert loop.run_sync(work) == ["begun", "added", "called"]


def test_add_callback_from_another_thread_wakes_the_loop(loop: IOLoop) -> None:
    """The loop has nothing to do and sleeps; a plain call_soon would not be noticed."""
    # Ends the test if the wake-up is lost.
    guard = loop.call_later(10, loop.stop)
    started = threading.Event()
    seen: list[int] = []

    def work() -> None:
        started.wait()
        loop.add_callback(lambda: (seen.append(threading.get_ident()), loop.stop()))

    thread = threading.Thread(target=work)
    thread.start()
    loop.add_callback(started.set)
    loop.start()
    thread.join()
    loop.remove_timeout(guard)
    assert seen == [threading.get_ident()]


def test_add_callback_runs_coroutines(loop: IOLoop) -> None:
    calls: list[str] = []

    async def work(text: str) -> None:
        await asyncio.sleep(0)
        calls.append(text)
        loop.stop()

    loop.add_callback(work, "whole")
    loop.start()
    assert calls == ["whole"]


@pytest.mark.parametrize("coroutine", [False, True])
def test_what_a_callback_raises_is_reported(coroutine: bool, loop: IOLoop) -> None:
    """It goes to the loop's exception handler, and the loop goes on."""
    errors: list[BaseException] = []
    loop.asyncio_loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def fail() -> None:
        raise LookupError("mine")

    async def fail_later() -> None:
        fail()

    loop.add_callback(fail_later if coroutine else fail)
    loop.call_later(0.01, loop.stop)
    loop.start()
    assert [str(error) for error in errors] == ["mine"]


# -- time


def test_timeouts_are_called_in_order(loop: IOLoop) -> None:
    """call_later, call_at and both forms of add_timeout, with arguments."""
    calls: list[str] = []
    now = loop.time()
    loop.add_timeout(datetime.timedelta(milliseconds=200), loop.stop)
    loop.add_timeout(now + 0.15, calls.append, "deadline")
    loop.add_timeout(datetime.timedelta(milliseconds=100), calls.append, "timedelta")
    loop.call_at(now + 0.05, calls.append, "call_at")
    loop.call_later(0.001, lambda **kwargs: calls.extend(kwargs), call_later=1)
    loop.start()
    assert calls == ["call_later", "call_at", "timedelta", "deadline"]


def test_time_is_the_wall_clock_and_past_deadlines_are_due(loop: IOLoop) -> None:
    """Programs write add_timeout(time.time() + 5, …)."""
    assert loop.time() == pytest.approx(time.time(), abs=5)
    loop.call_at(time.time() - 100, loop.stop)
    loop.start()


def test_a_removed_timeout_is_not_called(loop: IOLoop) -> None:
    calls: list[str] = []
    handle = loop.call_later(0.001, calls.append, "removed")
    loop.remove_timeout(handle)
    loop.call_later(0.02, loop.stop)
    loop.start()
    loop.remove_timeout(handle)  # once more, and nothing happens
    assert calls == []


def test_a_timeout_may_be_a_coroutine(loop: IOLoop) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        loop.stop()

    loop.call_later(0, work)
    loop.start()


def test_current_may_make_none(loop: IOLoop) -> None:
    """With instance=False there is a loop, or None."""
    assert IOLoop.current(instance=False) is IOLoop.current(instance=True) is loop
    loop.close(all_fds=True)
    assert IOLoop.current(instance=False) is None
    loop.make_current()  # closed, and so as good as none
    assert IOLoop.current(instance=False) is None
    asyncio.set_event_loop(None)


@pytest.mark.parametrize("outcome", ["result", "exception", "cancelled"])
def test_add_future(outcome: str, loop: IOLoop) -> None:
    """The callback is given the future, in another turn, however it ended."""
    calls: list[object] = []
    future: asyncio.Future[int] = loop.asyncio_loop.create_future()

    async def note(done: asyncio.Future[int]) -> None:
        calls.append(done)
        loop.stop()

    def end() -> None:
        if outcome == "result":
            future.set_result(1)
        elif outcome == "exception":
            future.set_exception(LookupError())
            future.exception()
        else:
            future.cancel()
        calls.append("ended")

    loop.add_future(future, note)
    loop.spawn_callback(end)
    loop.start()
    assert calls == ["ended", future]


def test_add_future_of_a_thread(loop: IOLoop) -> None:
    """The callback runs in the loop's thread."""
    threads: list[int] = []

    def note(done: object) -> None:
        threads.append(threading.get_ident())
        loop.stop()

    with ThreadPoolExecutor(1) as executor:
        loop.add_future(executor.submit(lambda: threads.append(threading.get_ident())), note)
        loop.start()
    assert threads[0] != threads[1] == threading.get_ident()


def test_run_in_executor(loop: IOLoop) -> None:
    """A function runs in a thread of the executor; what it raises is raised."""

    async def use() -> None:
        with ThreadPoolExecutor(1) as executor:
            threads = [
                await loop.run_in_executor(one, threading.get_ident) for one in (executor, None)
            ]
            assert threading.get_ident() not in threads
            assert await loop.run_in_executor(executor, divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(executor, divmod, 1, 0)

    loop.run_sync(use)
    loop.run_sync(loop.asyncio_loop.shutdown_default_executor)
