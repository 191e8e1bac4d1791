"""The mark below which the system tells of nothing: when it goes up and down."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from whimbrel import _low_water
from whimbrel._low_water import MARK, LowWater

GB = 1_000_000_000
PERIOD = 0.005


class Loop(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> int:
        """Go from timer to timer; how many rang."""
        end, rang = self.now + seconds, 0
        while (due := self.pending) and due[0] <= end:
            self.now = max(self.now, due[0])
            self.call_soon(self.stop)
            self.run_forever()
            rang += 1
        self.now = end
        return rang

    @property
    def pending(self) -> list[float]:
        handles: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sorted(handle.when() for handle in handles if not handle.cancelled())


class Body:
    """One that comes at `rate` bytes a second, and the mark of its socket."""

    def __init__(self, loop: Loop, length: int = GB) -> None:
        self.rate = 0.0
        self.marks: list[int] = []
        self.failed: list[OSError] = []
        self._loop = loop
        self._length = length
        self._came = 0.0
        self._since = loop.now

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.marks.append(value)

    def set_rate(self, rate: float) -> None:
        self.rest()
        self.rate = rate

    def rest(self) -> int:
        self._came += (self._loop.now - self._since) * self.rate
        self._since = self._loop.now
        return self._length - int(self._came)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_high_as_long_as_it_comes_fast(loop: Loop) -> None:
    body = Body(loop)
    body.set_rate(GB)
    low = LowWater(loop, body.setsockopt, body.rest, body.failed.append)
    assert loop.advance(0.5) >= 90
    assert body.marks == [MARK]
    low.end()
    low.end()
    assert body.marks == [MARK, 1]
    assert loop.pending == []


@pytest.mark.parametrize("rate", [0.0, 0.5 * MARK / PERIOD])
def test_down_after_two_periods_at_most(loop: Loop, rate: float) -> None:
    """The first may have begun while the body was fast."""
    body = Body(loop)
    body.set_rate(GB)
    LowWater(loop, body.setsockopt, body.rest, body.failed.append)
    loop.advance(0.1 - PERIOD / 10)
    body.set_rate(rate)
    assert body.marks == [MARK]
    loop.advance(2 * PERIOD)
    assert body.marks == [MARK, 1]


def test_up_again_when_it_is_fast_again(loop: Loop) -> None:
    """However slow it was; and a slow one is looked at once a second in the end."""
    body = Body(loop)
    LowWater(loop, body.setsockopt, body.rest, body.failed.append)
    assert loop.advance(60.0) <= 70
    assert body.marks == [MARK, 1]
    body.set_rate(GB / 10)
    loop.advance(2.0)
    assert body.marks == [MARK, 1, MARK]
    assert loop.advance(1.0) >= 190


def test_its_end_is_not_waited_for(loop: Loop) -> None:
    """Even if nobody tells: nothing rings on when there is little left."""
    body = Body(loop, length=50_000_000)
    body.set_rate(GB)
    LowWater(loop, body.setsockopt, body.rest, body.failed.append)
    loop.advance(1.0)
    assert body.marks == [MARK, 1]
    assert loop.pending == []


def test_a_socket_that_refuses_to_go_up(loop: Loop) -> None:
    """Then without: nothing is to be done, or to be undone."""
    body = Body(loop)

    def refuse(level: int, option: int, value: int) -> None:
        body.marks.append(value)
        raise OSError("not today")

    low = LowWater(loop, refuse, body.rest, body.failed.append)
    assert loop.pending == []
    low.end()
    assert body.marks == [MARK]
    assert body.failed == []


def test_a_socket_that_refuses_to_go_down(loop: Loop) -> None:
    """Whoever ends it is told, or its owner if that is a timer."""
    body = Body(loop)

    def refuse(level: int, option: int, value: int) -> None:
        if value == 1:
            raise OSError("not today")

    low = LowWater(loop, refuse, body.rest, body.failed.append)
    with pytest.raises(OSError, match="not today"):
        low.end()
    assert body.failed == []
    LowWater(loop, refuse, body.rest, body.failed.append)
    loop.advance(1.0)
    assert [str(error) for error in body.failed] == ["not today"]
    assert loop.pending == []


def test_a_socket_that_is_closed(loop: Loop) -> None:
    body = Body(loop)
    low = LowWater(loop, body.setsockopt, body.rest, body.failed.append)
    low.forget()
    assert body.marks == [MARK]
    assert loop.pending == []


def test_where_it_pays(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(loop)
    assert LowWater.where_it_pays(loop, body.setsockopt, lambda: 2_000_000, print) is None
    found = LowWater.where_it_pays(loop, body.setsockopt, lambda: 4_000_000, print)
    assert (found is not None) == _low_water._IS_AVAILABLE
    monkeypatch.setattr(_low_water, "_IS_AVAILABLE", False)
    assert LowWater.where_it_pays(loop, body.setsockopt, lambda: 4_000_000, print) is None


@pytest.mark.parametrize(
    ("platform", "release", "is_available"),
    [
        ("linux", "4.18.0-553.el8.x86_64", True),
        ("linux", "6.1.0", True),
        ("linux", "6.18-rc1", True),
        ("linux", "homemade", False),
        ("linux", "4.15.0-213-generic", False),
        ("linux", "3.10.0", False),
        ("darwin", "23.1.0", False),
    ],
)
def test_where_sockets_are_told_of(
    platform: str, release: str, is_available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uname: Callable[[], object] = lambda: type("Uname", (), {"release": release})  # noqa: E731
    monkeypatch.setattr(_low_water.sys, "platform", platform)
    monkeypatch.setattr(_low_water.os, "uname", uname)
    assert _low_water._is_available() is is_available
