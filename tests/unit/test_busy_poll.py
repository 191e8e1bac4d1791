"""`whimbrel._busy_poll`: when the loop is kept awake, and when it is let sleep."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from whimbrel._busy_poll import BusyPoll, busy_poll_seconds

LONG = 1.0
"""Seconds that are not over before a test has done what it does."""


class Look:
    """Counts the looks, and finds something in the one that is told."""

    def __init__(self, finds_at: int | None = None) -> None:
        self.count = 0
        self.finds_at = finds_at
        self.busy_poll: BusyPoll

    def __call__(self) -> bool:
        self.count += 1
        if self.count == self.finds_at:
            self.busy_poll.arrived(monotonic(), 1)
            return True
        return False


def _make(seconds: float, finds_at: int | None = None) -> tuple[BusyPoll, Look]:
    look = Look(finds_at)
    look.busy_poll = BusyPoll(asyncio.get_running_loop(), seconds, look)
    return look.busy_poll, look


def _prove(busy_poll: BusyPoll) -> None:
    """Let an answer come at once."""
    now = monotonic()
    busy_poll.expect(now)
    busy_poll.arrived(now, 1)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_sleeps_until_an_answer_has_come_fast() -> None:
    busy_poll, look = _make(LONG)
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count == 0
    busy_poll.arrived(monotonic(), 1)
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count > 0
    busy_poll.close()


async def test_an_answer_that_came_late_proves_nothing() -> None:
    busy_poll, look = _make(0.001)
    now = monotonic()
    busy_poll.expect(now)
    busy_poll.arrived(now + 1, 1)
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count == 0


async def test_others_have_their_turn_between_the_looks() -> None:
    busy_poll, look = _make(LONG)
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    seen = []
    for _ in range(5):
        await asyncio.sleep(0)
        seen.append(look.count)
    assert seen == sorted(set(seen))  # some looks in each turn, and then we
    busy_poll.close()


async def test_what_is_found_ends_the_wait() -> None:
    busy_poll, look = _make(LONG, finds_at=20)
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    await _turns(10)
    assert look.count == 20


async def test_two_waits_in_vain_and_it_sleeps_until_it_pays_again() -> None:
    seconds = 0.002
    busy_poll, look = _make(seconds)
    _prove(busy_poll)
    for _ in range(2):
        before = look.count
        busy_poll.expect(monotonic())
        await asyncio.sleep(3 * seconds)  # what passes is the subject
        assert look.count > before
        ended = look.count
        await _turns(3)
        assert look.count == ended  # the time is over
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count == ended
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count > ended
    busy_poll.close()


async def test_a_slow_answer_does_not_keep_the_fast_ones_from_being_waited_for() -> None:
    """A long poll is under way, and other requests come and go."""
    busy_poll, look = _make(LONG)
    _prove(busy_poll)
    busy_poll.expect(monotonic() - 2 * LONG)
    await _turns(1)
    before = look.count
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count > before
    busy_poll.close()


async def test_where_many_come_at_once_nobody_looks() -> None:
    busy_poll, look = _make(LONG)
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    busy_poll.arrived(monotonic(), 32)
    before = look.count
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count == before
    busy_poll.close()


async def test_zero_never_stays_awake() -> None:
    busy_poll, look = _make(0.0)
    for _ in range(3):
        _prove(busy_poll)
        busy_poll.expect(monotonic())
        await _turns(3)
    assert look.count == 0


async def test_after_its_close_it_looks_no_more() -> None:
    busy_poll, look = _make(LONG)
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    busy_poll.close()
    await _turns(3)
    _prove(busy_poll)
    busy_poll.expect(monotonic())
    await _turns(3)
    assert look.count == 0


@pytest.mark.parametrize("value", [-1e-6, 1.5, float("nan"), "1", None, True])
def test_what_is_no_time_to_stay_awake(value: object) -> None:
    with pytest.raises(ValueError, match=r"busy_poll must be seconds, from 0 \(never\) to 1"):
        busy_poll_seconds(value)
