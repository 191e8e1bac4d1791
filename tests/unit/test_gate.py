"""The gate: `max_clients` at a time, first in first out, and one timer for all who wait."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel._policy.gate import SHARE, Gate


class Timer:
    """What `call_at` returns, as far as the gate looks."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop's clock that the test moves; counts the timers there are at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.made = 0

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(due, callback)
        self.timers.append(timer)
        self.made += 1
        return timer

    @property
    def pending(self) -> list[Timer]:
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        return self.timers

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.pending if timer.due <= to]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
        self.now = to


class Entrant:
    def __init__(self, log: list[tuple[str, Any]], name: Any = None) -> None:
        self.log = log
        self.name = name

    def admitted(self) -> None:
        self.log.append(("in", self.name))

    def queue_expired(self) -> None:
        self.log.append(("expired", self.name))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> list[tuple[str, Any]]:
    return []


Log = list[tuple[str, Any]]


def gate_of(clock: Clock, limit: int) -> Gate:
    loop: Any = clock
    return Gate(loop, limit)


def enter(gate: Gate, entrant: Entrant, deadline: float | None) -> bool:
    """Take a slot, or a place in the queue; tell which, by True and False."""
    if gate.enter():
        return True
    gate.wait(entrant, deadline)
    return False


def test_free_slots_take_no_timer_and_no_queue(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 3)
    for name in range(3):
        assert enter(gate, Entrant(log, name), 1.0)
    assert gate.active == 3
    assert not gate.waiting
    assert clock.made == 0
    assert log == []  # who gets a slot at once is told by the answer


def test_first_in_first_out(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    assert enter(gate, Entrant(log), None)
    # Deadlines have no say in the order.
    for name, deadline in enumerate((9.0, None, 3.0, 7.0, None, 5.0)):
        assert not enter(gate, Entrant(log, name), deadline)
    for _ in range(6):
        gate.leave()
    assert log == [("in", name) for name in range(6)]
    assert gate.active == 1
    gate.leave()
    assert gate.active == 0


def test_a_slot_passes_on_without_a_gap(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 2)
    enter(gate, Entrant(log), None)
    enter(gate, Entrant(log), None)
    enter(gate, Entrant(log, "waiting"), None)
    gate.leave()
    assert gate.active == 2
    assert not enter(gate, Entrant(log, "late"), None)  # nobody slips in between


def test_one_timer_for_all_set_to_the_earliest(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    for name, deadline in enumerate((5.0, 9.0, 3.0, 4.0)):
        enter(gate, Entrant(log, name), deadline)
        assert len(clock.pending) == 1
    assert clock.pending[0].due == 3.0
    clock.advance(4.5)
    assert log == [("expired", 2), ("expired", 3)]
    assert [timer.due for timer in clock.pending] == [5.0]
    clock.advance(100)
    assert log[2:] == [("expired", 0), ("expired", 1)]
    assert not clock.pending
    assert gate.active == 1
    assert not gate.waiting


def test_later_deadlines_make_no_new_timer(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    for deadline in range(1, 1000):
        enter(gate, Entrant(log), float(deadline))
    assert clock.made == 1


def test_equal_deadlines_expire_in_order(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    for name in range(5):
        enter(gate, Entrant(log, name), 1.0)  # the entrants themselves have no order
    clock.advance(1.0)
    assert log == [("expired", name) for name in range(5)]


def test_no_deadline_waits_for_ever(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    enter(gate, Entrant(log, 1), None)
    assert clock.made == 0
    clock.advance(1e9)
    gate.leave()
    assert log == [("in", 1)]


def test_the_admitted_do_not_expire(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    enter(gate, Entrant(log, 1), 1.0)
    enter(gate, Entrant(log, 2), 2.0)
    gate.leave()
    clock.advance(1.5)
    assert log == [("in", 1)]
    clock.advance(2.5)
    assert log == [("in", 1), ("expired", 2)]


def test_the_withdrawn_are_told_nothing(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    first, second = Entrant(log, 1), Entrant(log, 2)
    enter(gate, first, 1.0)
    enter(gate, second, 2.0)
    gate.withdraw(first)
    gate.withdraw(first)
    gate.withdraw(Entrant(log))  # never was here
    assert list(gate.waiting) == [second]
    clock.advance(1.5)
    gate.leave()
    assert log == [("in", 2)]
    assert gate.active == 1


def test_the_last_to_go_takes_the_timer_along(clock: Clock, log: Log) -> None:
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    first, second = Entrant(log, 1), Entrant(log, 2)
    enter(gate, first, 1.0)
    enter(gate, second, 2.0)
    gate.withdraw(first)
    assert len(clock.pending) == 1
    gate.withdraw(second)
    assert not clock.pending
    enter(gate, first, 3.0)
    gate.leave()  # and so when the last is admitted
    assert not clock.pending
    # A new queue starts afresh.
    enter(gate, second, 4.0)
    assert [timer.due for timer in clock.pending] == [4.0]


@pytest.mark.parametrize("way", ["withdrawn", "admitted", "expired"])
def test_the_departed_are_not_held(clock: Clock, log: Log, way: str) -> None:
    """Long before their deadline; an entrant is a whole fetch."""
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)
    entrant = Entrant(log, 1)
    gone = weakref.ref(entrant)
    enter(gate, entrant, 1.0 if way == "expired" else 100.0)
    enter(gate, Entrant(log, "stays"), 100.0)
    if way == "withdrawn":
        gate.withdraw(entrant)
    elif way == "admitted":
        gate.leave()
    else:
        clock.advance(1.0)
    gc.disable()
    try:
        del entrant
        assert gone() is None
    finally:
        gc.enable()
    clock.advance(100.0)
    assert log[-1] == ("expired", "stays")


def test_expiry_may_leave_and_enter(clock: Clock, log: Log) -> None:
    """Callbacks act on the gate at once: whoever expires may bring another, or free a slot."""
    gate = gate_of(clock, 1)
    enter(gate, Entrant(log), None)

    class Busy(Entrant):
        def queue_expired(self) -> None:
            super().queue_expired()
            enter(gate, Entrant(log, "again"), clock.now + 1)
            gate.leave()

    enter(gate, Busy(log, "busy"), 1.0)
    enter(gate, Entrant(log, "next"), 5.0)
    clock.advance(1.0)
    assert log == [("expired", "busy"), ("in", "next")]
    assert [timer.due for timer in clock.pending] == [2.0]
    clock.advance(10.0)
    assert log[2:] == [("expired", "again")]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_model(seed: int) -> None:
    """Random arrivals, ends, withdrawals and time: as a plain deque would have it."""
    rng = random.Random(seed)
    clock, log = Clock(), []
    limit = rng.randint(1, 4)
    gate = gate_of(clock, limit)
    active = 0
    queue: deque[tuple[Entrant, float | None]] = deque()
    expected: Log = []
    for step in range(400):
        action = rng.choice(("enter", "enter", "leave", "withdraw", "time"))
        if action == "enter":
            entrant = Entrant(log, step)
            deadline = rng.choice((None, clock.now + rng.randint(1, 20)))
            entered = enter(gate, entrant, deadline)
            assert entered is (active < limit)
            if entered:
                active += 1
            else:
                queue.append((entrant, deadline))
        elif action == "leave" and active:
            gate.leave()
            if queue:
                expected.append(("in", queue.popleft()[0].name))
            else:
                active -= 1
        elif action == "withdraw" and queue:
            chosen = rng.choice(queue)
            queue.remove(chosen)
            gate.withdraw(chosen[0])
        elif action == "time":
            clock.advance(clock.now + rng.randint(1, 5))
            late = [(d, e) for e, d in queue if d is not None and d <= clock.now]
            late.sort(key=lambda pair: pair[0])
            expected += [("expired", e.name) for _, e in late]
            queue = deque((e, d) for e, d in queue if d is None or d > clock.now)
        assert log == expected
        assert gate.active == active <= limit
        assert list(gate.waiting) == [e for e, _ in queue]
        assert len(clock.pending) <= 1
        assert bool(clock.pending) or not any(d is not None for _, d in queue)


async def test_on_a_real_loop(log: Log) -> None:
    loop = asyncio.get_running_loop()
    gate = Gate(loop, 1)
    enter(gate, Entrant(log), None)
    done = loop.create_future()

    class Last(Entrant):
        def queue_expired(self) -> None:
            super().queue_expired()
            done.set_result(loop.time())

    deadline = loop.time() + 0.02
    enter(gate, Entrant(log, "first"), loop.time() + 0.01)
    enter(gate, Last(log, "last"), deadline)
    # Not before its time, by more than the clock's resolution.
    assert await done >= deadline - 0.001
    assert log == [("expired", "first"), ("expired", "last")]


async def test_a_turn_of_the_loop_has_its_share(log: Log) -> None:
    """Slots for all, and still only so many go ahead in each turn, in the order of their coming."""
    gate = Gate(asyncio.get_running_loop(), 4 * SHARE)
    at_once = sum(enter(gate, Entrant(log, name), None) for name in range(3 * SHARE))
    assert at_once == SHARE
    # The rest waits its turn, and nobody overtakes it.
    after = []
    for turn in range(3):
        after.append(len(log))
        assert gate.active == (turn + 1) * SHARE
        await asyncio.sleep(0)
    assert after == [0, SHARE, 2 * SHARE]
    assert log == [("in", name) for name in range(SHARE, 3 * SHARE)]


async def test_the_share_is_no_second_limit(log: Log) -> None:
    """Who comes while others end goes ahead: a turn has passed since those began."""
    gate = Gate(asyncio.get_running_loop(), 4 * SHARE)
    for _ in range(SHARE):
        assert enter(gate, Entrant(log), None)
    gate.leave()
    assert enter(gate, Entrant(log), None)


@pytest.mark.parametrize("ended", [3 * SHARE, 50 * SHARE])
async def test_as_many_as_have_ended_may_follow_at_once(log: Log, ended: int) -> None:
    """A hundred HTTP/2 streams end in one turn, and who asked for them asks again; no more."""
    gate = Gate(asyncio.get_running_loop(), 100 * SHARE)
    for _ in range(ended):
        gate.active += 1
        gate.leave()
    at_once = sum(enter(gate, Entrant(log), None) for _ in range(10 * SHARE))
    assert at_once == 4 * SHARE


async def test_a_long_queue_costs_no_more_for_each(log: Log) -> None:
    async def each(count: int) -> float:
        gate = Gate(asyncio.get_running_loop(), count)
        start = time.process_time()
        for _ in range(count):
            enter(gate, Entrant(log), None)
        for _ in range(count // SHARE + 1):
            await asyncio.sleep(0)
        assert not gate.waiting
        return (time.process_time() - start) / count

    short = min([await each(1_000) for _ in range(3)])
    assert min([await each(40_000) for _ in range(2)]) < 4 * short


async def test_who_waits_for_a_turn_needs_a_slot_too(log: Log) -> None:
    gate = Gate(asyncio.get_running_loop(), SHARE + 1)
    for name in range(SHARE + 2):
        enter(gate, Entrant(log, name), None)
    await asyncio.sleep(0)
    assert log == [("in", SHARE)]
    assert gate.active == SHARE + 1
    gate.leave()
    assert log == [("in", SHARE), ("in", SHARE + 1)]


def test_a_deadline_in_the_wait_for_a_turn(clock: Clock, log: Log) -> None:
    """A slot is free: what expires is the wait for one, and there was none."""
    clock.call_soon = lambda callback: None  # type: ignore[attr-defined]  # the turn is a long one
    gate = gate_of(clock, 3 * SHARE)
    for name in range(SHARE):
        assert enter(gate, Entrant(log, name), 1.0)
    assert not enter(gate, Entrant(log, "turn"), 1.0)
    clock.advance(2.0)
    assert log == [("in", "turn")]
    assert gate.active == SHARE + 1
