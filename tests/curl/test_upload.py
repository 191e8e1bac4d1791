"""The body that is produced while libcurl asks for it: beginning again, and stopping for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pycurl
import pytest

from whimbrel._curl.upload import Upload
from whimbrel._policy.exchange import prepare

Write = Callable[[bytes], Awaitable[None]]


class Rig:
    """An upload, and libcurl's part played by the test."""

    def __init__(self, **options: Any) -> None:
        self.failures: list[BaseException] = []
        self.resumed = 0
        options = {"url": "http://h/", "method": "PUT", "user_agent": "", **options}
        self.upload = Upload(
            asyncio.get_running_loop(),
            prepare({"max_body_size": 0, **options}),
            self._resume,
            self.failures.append,
        )

    def _resume(self) -> None:
        self.resumed += 1

    async def rest(self) -> bytes:
        """Read as libcurl does: until the end, waiting where there is a pause."""
        pieces = []
        while True:
            before = self.resumed
            piece = self.upload.read(65536)
            if piece == pycurl.READFUNC_PAUSE:
                while self.resumed == before:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                continue
            assert isinstance(piece, bytes)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_body_begins_when_it_is_asked_for_and_may_begin_again() -> None:
    """The producer is called at the first read, and once more after each rewind that follows."""
    calls = 0

    async def produce(write: Write) -> None:
        nonlocal calls
        calls += 1
        await write(b"one ")
        await asyncio.sleep(0)
        await write(b"two")

    rig = Rig(body_producer=produce)
    await _turns()
    assert calls == 0
    assert rig.upload.rewind()  # nothing was read: nothing to do
    assert await rig.rest() == b"one two"
    assert not rig.upload.unfinished
    assert rig.upload.rewind()
    assert rig.upload.unfinished
    assert await rig.rest() == b"one two"
    assert calls == 2


async def test_an_iterator_cannot_begin_again() -> None:
    """What has run out is not sent again in part: libcurl is told that it cannot rewind."""
    rig = Rig(body=iter([b"one", b"two"]))
    assert await rig.rest() == b"onetwo"
    assert not rig.upload.rewind()


@pytest.mark.parametrize("end", ["returns", "raises", "writes"])
async def test_a_producer_that_outlives_a_rewind(end: str) -> None:
    """The first run's last deeds are not the second one's: no byte, no end and no failure."""
    calls = 0
    last_deeds = 0

    async def produce(write: Write) -> None:
        nonlocal calls, last_deeds
        calls += 1
        if calls == 1:
            await write(b"old")
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                last_deeds += 1
                if end == "raises":
                    raise ZeroDivisionError from None
                if end == "writes":
                    await write(b"late")
            return
        await _turns(10)
        await write(b"new")

    rig = Rig(body_producer=produce)
    assert rig.upload.read(100) == pycurl.READFUNC_PAUSE
    await _turns()
    assert rig.upload.read(100) == b"old"
    assert rig.upload.rewind()
    assert await rig.rest() == b"new"
    assert last_deeds == 1
    assert rig.failures == []


async def test_stopped_for_good() -> None:
    """After cancel() libcurl's next read ends the transfer, and starts no producer."""
    calls = 0
    ended = asyncio.Event()

    async def produce(write: Write) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    rig = Rig(body_producer=produce)
    assert rig.upload.read(100) == pycurl.READFUNC_PAUSE
    await _turns()
    rig.upload.cancel()
    rig.upload.cancel()
    assert rig.upload.read(100) == pycurl.READFUNC_ABORT
    await ended.wait()
    await _turns()
    assert calls == 1
    assert rig.failures == []


async def test_cancelled_by_another_hand() -> None:
    """Whoever cancels all tasks of a loop means the producer's too: that is no failure of it."""

    async def produce(write: Write) -> None:
        await asyncio.get_running_loop().create_future()

    rig = Rig(body_producer=produce)
    others = asyncio.all_tasks()
    rig.upload.read(100)
    (task,) = asyncio.all_tasks() - others
    await _turns()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert rig.failures == []


async def test_back_pressure_between_producer_and_libcurl() -> None:
    """write() is done when less than 64 KiB wait to be sent, and not before."""
    done: list[int] = []

    async def produce(write: Write) -> None:
        for number in range(4):
            await write(b"x" * 40_000)
            done.append(number)

    rig = Rig(body_producer=produce)
    assert rig.upload.read(1) == pycurl.READFUNC_PAUSE
    await _turns()
    assert done == [0]
    assert len(rig.upload.read(20_000)) == 20_000  # type: ignore[arg-type]
    await _turns()
    assert done == [0, 1]
    assert await rig.rest() == b"x" * 140_000
    assert done == [0, 1, 2, 3]


async def test_a_large_chunk_is_not_copied_at_every_read() -> None:
    """64 MB in one write(), read in the pieces that libcurl asks for, take no time to speak of."""

    async def produce(write: Write) -> None:
        await write(bytes(64 * 1024 * 1024))

    rig = Rig(body_producer=produce)
    assert rig.upload.read(1) == pycurl.READFUNC_PAUSE
    await _turns()
    size = 0
    begun = time.process_time()
    while piece := rig.upload.read(16384):
        assert isinstance(piece, bytes)
        size += len(piece)
        if size == 64 * 1024 * 1024:
            await _turns()
    assert size == 64 * 1024 * 1024
    assert time.process_time() - begun < 3


async def test_pieces_of_any_size() -> None:
    """Whatever libcurl asks for at a time, the body is the body."""
    body = bytes(range(256)) * 4

    async def produce(write: Write) -> None:
        for start in range(0, len(body), 100):
            await write(body[start : start + 100])

    for size in (1, 7, 99, 100, 101, 250, 5000):
        rig = Rig(body_producer=produce)
        assert rig.upload.read(size) == pycurl.READFUNC_PAUSE
        await _turns(20)
        got = b""
        while piece := rig.upload.read(size):
            assert isinstance(piece, bytes)
            assert 0 < len(piece) <= size
            got += piece
        assert got == body
