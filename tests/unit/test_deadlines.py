"""Many deadlines on one timer: when they pass, what they cost, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from whimbrel._deadlines import Deadlines


class Clock(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves; counts the timers that were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made = 0
        super().__init__()

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.made += 1
        return super().call_at(when, callback, *args, context=context)

    def turn(self) -> None:
        """Let everything run that is due."""
        self.call_soon(self.stop)
        self.run_forever()

    def advance(self, to: float) -> None:
        """Go from timer to timer."""
        while (due := self.pending) and due[0] <= to:
            self.now = max(self.now, due[0])
            self.turn()
        self.now = to

    @property
    def pending(self) -> list[float]:
        """When the timers ring that have not been cancelled."""
        handles: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sorted(handle.when() for handle in handles if not handle.cancelled())


class Item:
    """Hashable, without an order, and weakly referable."""


@pytest.fixture
def clock() -> Iterator[Clock]:
    loop = Clock()
    yield loop
    loop.close()


def test_each_at_its_time(clock: Clock) -> None:
    log: list[tuple[str, float]] = []
    deadlines: Deadlines[str] = Deadlines(clock, lambda item: log.append((item, clock.now)))
    for item, due in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0)):
        deadlines.add(item, due)
    clock.advance(0.999)
    assert log == []
    clock.advance(10)
    assert log == [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)]
    assert clock.pending == []


def test_equal_deadlines_in_the_order_they_came(clock: Clock) -> None:
    """Also where the timer has rung in between."""
    log: list[Any] = []
    items = [Item() for _ in range(6)]
    deadlines = Deadlines(clock, log.append)
    deadlines.add("early", 1.0)
    for item in items[:3]:
        deadlines.add(item, 2.0)
    clock.advance(1.0)
    for item in items[3:]:
        deadlines.add(item, 2.0)
    clock.advance(2.0)
    assert log == ["early", *items]


def test_the_discarded_do_not_expire(clock: Clock) -> None:
    log: list[str] = []
    deadlines = Deadlines(clock, log.append)
    for item in ("early", "new", "old", "stays"):
        deadlines.add(item, 1.0 if item == "early" else 3.0)
    deadlines.discard("new")
    clock.advance(2.0)
    deadlines.discard("old")
    deadlines.discard("old")
    deadlines.discard("never was here")
    clock.advance(5.0)
    assert log == ["early", "stays"]


@pytest.mark.parametrize("rang_before", [False, True])
@pytest.mark.parametrize("due", [2.0, 8.0])
def test_a_new_deadline_replaces_the_old(clock: Clock, due: float, rang_before: bool) -> None:
    """Earlier or later, whether the timer has rung in between or not."""
    log: list[tuple[str, float]] = []
    deadlines: Deadlines[str] = Deadlines(clock, lambda item: log.append((item, clock.now)))
    deadlines.add("item", 5.0)
    if rang_before:
        deadlines.add("early", 1.0)
        clock.advance(1.0)
        log.clear()
    deadlines.add("item", due)
    clock.advance(20.0)
    assert log == [("item", due)]


def test_a_deadline_that_has_passed(clock: Clock) -> None:
    """add() calls nobody: the item expires in the next turn of the loop."""
    log: list[str] = []
    deadlines = Deadlines(clock, log.append)
    clock.now = 10.0
    deadlines.add("late", 9.0)
    assert log == []
    clock.turn()
    assert log == ["late"]


def test_no_end_of_time(clock: Clock) -> None:
    """An infinite deadline is allowed, and asks for no timer."""
    log: list[str] = []
    deadlines = Deadlines(clock, log.append)
    deadlines.add("for ever", math.inf)
    assert clock.pending == []
    deadlines.add("item", 1.0)
    clock.advance(1e9)
    assert log == ["item"]
    assert clock.pending == []


# -- the timer


def test_one_timer_set_to_the_earliest(clock: Clock) -> None:
    deadlines: Deadlines[int] = Deadlines(clock, lambda item: None)
    for item, due in enumerate((5.0, 9.0, 3.0, 4.0)):
        deadlines.add(item, due)
        assert len(clock.pending) == 1
    assert clock.pending == [3.0]
    clock.advance(4.5)
    assert clock.pending == [5.0]


def test_later_deadlines_make_no_timer(clock: Clock) -> None:
    deadlines: Deadlines[int] = Deadlines(clock, lambda item: None)
    for item in range(1000):
        deadlines.add(item, 1.0 + item)
    assert clock.made == 1


def test_the_last_takes_the_timer_along(clock: Clock) -> None:
    """Without `linger`, at once: new ones, old ones, and the last of both."""
    deadlines: Deadlines[str] = Deadlines(clock, lambda item: None)
    deadlines.add("a", 1.0)
    deadlines.add("b", 2.0)
    deadlines.discard("a")
    assert clock.pending
    deadlines.discard("b")
    assert clock.pending == []
    deadlines.add("early", 1.0)
    deadlines.add("a", 3.0)
    clock.advance(2.0)
    deadlines.add("b", 4.0)
    deadlines.discard("b")
    assert clock.pending
    deadlines.discard("a")
    assert clock.pending == []


def test_lingering_makes_few_timers(clock: Clock) -> None:
    """One item at a time, 1000 a second for 30 s: a timer every five seconds."""
    deadlines: Deadlines[int] = Deadlines(clock, lambda item: None, linger=5.0)
    for item in range(30_000):
        clock.advance(item / 1000)
        deadlines.add(item, clock.now + 20.0)
        deadlines.discard(item)
    assert clock.made <= 7
    # And none outlives the last by more than that.
    (when,) = clock.pending
    assert when <= clock.now + 5.0
    clock.advance(when)
    assert clock.pending == []


def test_lingering_is_punctual(clock: Clock) -> None:
    """The timer rings more often than it need; items expire at their time all the same."""
    log: list[tuple[str, float]] = []
    deadlines: Deadlines[str] = Deadlines(
        clock, lambda item: log.append((item, clock.now)), linger=5.0
    )
    deadlines.add("b", 21.0)
    deadlines.add("a", 12.5)
    clock.advance(13.0)
    deadlines.add("c", 22.0)
    deadlines.add("soon", 14.0)
    clock.advance(100.0)
    assert log == [("a", 12.5), ("soon", 14.0), ("b", 21.0), ("c", 22.0)]
    assert clock.pending == []


def test_close(clock: Clock) -> None:
    """Nothing expires any more and no timer is left; what comes after that is a new beginning."""
    log: list[str] = []
    deadlines = Deadlines(clock, log.append, linger=5.0)
    deadlines.add("early", 1.0)
    deadlines.add("old", 8.0)
    clock.advance(2.0)
    deadlines.add("new", 9.0)
    log.clear()
    deadlines.close()
    deadlines.close()
    assert clock.pending == []
    clock.advance(20.0)
    assert log == []
    deadlines.add("again", 21.0)
    clock.advance(30.0)
    assert log == ["again"]


def test_looks_are_few(clock: Clock) -> None:
    """20 s time-outs, 5,000 at a time and 100,000 in 4 s: one look at all of them in a second."""
    deadlines: Deadlines[int] = Deadlines(clock, lambda item: None, linger=1.0)
    for item in range(100_000):
        clock.advance(item / 25_000)
        deadlines.add(item, clock.now + 20.0)
        deadlines.discard(item - 5_000)
    assert clock.made <= 5


def test_many_that_expire_one_by_one(clock: Clock) -> None:
    """Not a look at all of them for each: they expire in order, late by a ms for each thousand."""
    log: list[tuple[float, float]] = []
    deadlines: Deadlines[float] = Deadlines(clock, lambda due: log.append((due, clock.now)))
    dues = [1.0 + number / 10_000 for number in range(10_000)]
    for due in dues:
        deadlines.add(due, due)
    clock.advance(3.0)
    assert [due for due, _ in log] == dues
    # Within half a millisecond of each other they expire together.
    assert all(due - 0.00051 <= now <= due + 0.0101 for due, now in log)
    assert clock.made <= 1_500
    # With few of them left, nothing is late.
    assert all(now <= due for due, now in log[-900:])


# -- callbacks


def test_the_callback_may_add_discard_and_close(clock: Clock) -> None:
    log: list[tuple[str, float]] = []

    def expired(item: str) -> None:
        log.append((item, clock.now))
        if item == "adds":
            deadlines.add("sooner", clock.now + 1)
            deadlines.add("later", clock.now + 6)
            deadlines.add("at once", clock.now)
        elif item == "discards":
            deadlines.discard("discards")  # is not there any more
            deadlines.discard("equal")
        elif item == "closes":
            deadlines.close()

    deadlines = Deadlines(clock, expired)
    deadlines.add("adds", 1.0)
    deadlines.add("between", 5.0)
    clock.advance(10.0)
    assert log == [
        ("adds", 1.0),
        ("at once", 1.0),
        ("sooner", 2.0),
        ("between", 5.0),
        ("later", 7.0),
    ]
    log.clear()
    deadlines.add("discards", 11.0)
    deadlines.add("equal", 11.0)
    deadlines.add("closes", 12.0)
    deadlines.add("never", 12.0)
    clock.advance(20.0)
    assert log == [("discards", 11.0), ("closes", 12.0)]
    assert clock.pending == []


def test_a_callback_that_raises(clock: Clock) -> None:
    """The loop's handler hears of it, and the others still expire."""
    log: list[str] = []
    heard: list[str] = []

    def expired(item: str) -> None:
        log.append(item)
        if item == "raises":
            raise ZeroDivisionError

    clock.set_exception_handler(lambda loop, context: heard.append(repr(context["exception"])))
    deadlines = Deadlines(clock, expired)
    for item, due in (("raises", 1.0), ("equal", 1.0), ("later", 2.0)):
        deadlines.add(item, due)
    clock.advance(5.0)
    assert log == ["raises", "equal", "later"]
    assert heard == ["ZeroDivisionError()"]


def test_a_ring_that_is_disturbed(clock: Clock) -> None:
    """A signal's handler may discard an item while a ring goes through them all."""
    log: list[float] = []
    deadlines: Deadlines[float] = Deadlines(clock, log.append)

    class Due(float):
        def __le__(self, other: object) -> bool:
            deadlines.discard(3.0)
            return float(self) <= float(other)  # type: ignore[arg-type]

    for due in (2.0, 3.0, 4.0):
        deadlines.add(due, Due(due))
    deadlines.add(1.0, 1.0)
    clock.advance(10.0)
    assert log == [1.0, 2.0, 4.0]
    assert clock.pending == []


def test_a_timer_that_rings_early(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """By less than a millisecond, as uvloop's do: it is near enough, and nothing rings on."""
    log: list[str] = []
    call_at = clock.call_at

    def early(when: float, *arguments: Any) -> asyncio.TimerHandle:
        assert clock.made < 10
        return call_at(when - 0.0004, *arguments)

    monkeypatch.setattr(clock, "call_at", early)
    deadlines: Deadlines[str] = Deadlines(clock, log.append)
    deadlines.add("item", 1.0)
    clock.advance(2.0)
    assert log == ["item"]
    assert clock.made == 1


# -- memory


@pytest.mark.parametrize("rang_before", [False, True])
@pytest.mark.parametrize("linger", [0.0, 5.0])
def test_the_departed_are_not_held(clock: Clock, linger: float, rang_before: bool) -> None:
    """An item may be a whole request: it is free when it is discarded, not when its time comes."""
    deadlines: Deadlines[Any] = Deadlines(clock, lambda item: None, linger=linger)
    deadlines.add("stays", 100.0)
    deadlines.add("early", 1.0)
    item = Item()
    gone = weakref.ref(item)
    deadlines.add(item, 50.0)
    if rang_before:
        clock.advance(2.0)
    deadlines.discard(item)
    gc.disable()
    try:
        del item
        assert gone() is None
    finally:
        gc.enable()


def test_closed_holds_nothing(clock: Clock) -> None:
    deadlines: Deadlines[Any] = Deadlines(clock, lambda item: None, linger=5.0)
    items = [Item(), Item()]
    gone = [weakref.ref(item) for item in items]
    deadlines.add(items[0], 100.0)
    clock.advance(10.0)
    deadlines.add(items[1], 100.0)
    deadlines.close()
    gc.disable()
    try:
        items.clear()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("linger", [0.0, 7.0])
def test_against_a_model(clock: Clock, seed: int, linger: float) -> None:
    """Random additions, replacements, departures and time: as a plain dict would have it."""
    rng = random.Random(seed)
    log: list[int] = []
    expected: list[int] = []
    deadlines = Deadlines(clock, log.append, linger=linger)
    model: dict[int, float] = {}
    for _ in range(500):
        action = rng.choice(("add", "add", "discard", "time"))
        item = rng.randint(0, 30)
        if action == "add":
            # No two are equal: their order is another test's.
            model[item] = clock.now + rng.uniform(0, 20)
            deadlines.add(item, model[item])
        elif action == "discard":
            model.pop(item, None)
            deadlines.discard(item)
        else:
            clock.advance(clock.now + rng.uniform(0, 5))
            late = sorted((due, item) for item, due in model.items() if due <= clock.now)
            for _, item in late:
                del model[item]
                expected.append(item)
        assert log == expected
        assert len(clock.pending) <= 1
        assert clock.pending or not model
        if not linger:
            assert model or not clock.pending


async def test_on_a_real_loop() -> None:
    """Not before its time, by more than the clock's resolution."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()
    log: list[str] = []

    def expired(item: str) -> None:
        log.append(item)
        if item == "last":
            done.set_result(loop.time())

    deadlines = Deadlines(loop, expired, linger=0.005)
    deadline = loop.time() + 0.03
    deadlines.add("last", deadline)
    deadlines.add("first", loop.time() + 0.01)
    deadlines.add("gone", loop.time() + 0.02)
    deadlines.discard("gone")
    assert await done >= deadline - 0.001
    assert log == ["first", "last"]
