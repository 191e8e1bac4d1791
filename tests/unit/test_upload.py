"""The body that is produced while it is sent: beginning again, and stopping for good."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from whimbrel._policy.exchange import prepare
from whimbrel._upload import upload_of

Write = Callable[[bytes], Awaitable[None]]


class Rig:
    """An upload, and the backend's part played by the test."""

    def __init__(self, **options: Any) -> None:
        self.failures: list[BaseException] = []
        self.woken = 0
        options = {"url": "http://h/", "method": "PUT", "user_agent": "", **options}
        self.upload = upload_of(
            asyncio.get_running_loop(),
            prepare({"max_body_size": 0, **options}),
            self._wake,
            self.failures.append,
        )

    def _wake(self) -> None:
        self.woken += 1

    def take(self, size: int) -> bytes | None:
        """What there is, joined; None and b"" mean what None and [] do."""
        pieces = self.upload.take(size)
        return None if pieces is None else b"".join(pieces)

    async def rest(self) -> bytes:
        """Take as a backend does: until the end, waiting where there is nothing yet."""
        pieces: list[bytes] = []
        while True:
            before = self.woken
            piece = self.take(65536)
            if piece is None:
                while self.woken == before:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                continue
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_body_begins_when_it_is_asked_for_and_may_begin_again() -> None:
    """The producer is called for the first byte, and again for the first after each rewind."""
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
    assert rig.upload.rewind()  # nothing was taken: nothing to do
    assert await rig.rest() == b"one two"
    assert not rig.upload.unfinished
    assert rig.upload.rewind()
    assert rig.upload.unfinished
    assert await rig.rest() == b"one two"
    assert calls == 2


async def test_an_iterator_cannot_begin_again() -> None:
    """What has run out is not sent again in part: the backend is told that it cannot rewind."""
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
    assert rig.take(100) is None
    await _turns()
    assert rig.take(100) == b"old"
    assert rig.upload.rewind()
    assert await rig.rest() == b"new"
    assert last_deeds == 1
    assert rig.failures == []


async def test_stopped_for_good() -> None:
    """After cancel() nothing more is there to take, and no producer starts."""
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
    assert rig.take(100) is None
    await _turns()
    assert not rig.upload.stopped
    rig.upload.cancel()
    rig.upload.cancel()
    assert rig.upload.stopped
    tasks = asyncio.all_tasks()
    assert rig.take(100) is None
    assert asyncio.all_tasks() == tasks
    await ended.wait()
    await _turns()
    assert calls == 1
    assert rig.failures == []


@pytest.mark.parametrize("end", ["returns", "raises", "writes"])
async def test_a_producer_that_outlives_the_exchange(end: str) -> None:
    """Whatever it does then, nobody hears of it; what it writes is refused."""
    over = asyncio.Event()
    refused: list[str] = []

    async def produce(write: Write) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            over.set()
            if end == "raises":
                raise ZeroDivisionError from None
            if end == "writes":
                with pytest.raises(ConnectionAbortedError) as caught:
                    await write(b"late")
                refused.append(str(caught.value))

    rig = Rig(body_producer=produce)
    assert rig.take(100) is None
    await _turns()
    rig.upload.cancel()
    await over.wait()
    await _turns()
    assert (rig.woken, rig.failures) == (0, [])
    assert refused == (
        ["the request is over: its body is no longer wanted"] if end == "writes" else []
    )


async def test_a_producer_that_is_cancelled_inside() -> None:
    """A CancelledError of its own making ends the exchange as any other error does."""

    async def produce(write: Write) -> None:
        raise asyncio.CancelledError

    rig = Rig(body_producer=produce)
    assert rig.take(100) is None
    await _turns()
    assert [type(failure) for failure in rig.failures] == [asyncio.CancelledError]


async def test_cancelled_by_another_hand() -> None:
    """Whoever cancels all tasks of a loop means the producer's too: that is no failure of it."""

    async def produce(write: Write) -> None:
        await asyncio.get_running_loop().create_future()

    rig = Rig(body_producer=produce)
    others = asyncio.all_tasks()
    rig.take(100)
    (task,) = asyncio.all_tasks() - others
    await _turns()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert rig.failures == []


async def test_back_pressure_between_producer_and_backend() -> None:
    """write() is done when less than 256 KiB wait to be sent, and not before."""
    done: list[int] = []

    async def produce(write: Write) -> None:
        for number in range(4):
            await write(b"x" * 160_000)
            done.append(number)

    rig = Rig(body_producer=produce)
    assert rig.take(1) is None
    await _turns()
    assert done == [0]
    assert rig.take(10) == b"x" * 10
    await _turns()
    assert done == [0]
    assert rig.take(80_000) == b"x" * 80_000
    await _turns()
    assert done == [0, 1]
    assert await rig.rest() == b"x" * 559_990
    assert done == [0, 1, 2, 3]


async def test_writes_that_wait_together() -> None:
    """Two at a time wait for the same room, and a third is no longer waited for."""
    done: list[str] = []

    async def produce(write: Write) -> None:
        async def one(name: str) -> None:
            await write(bytes(200_000))
            done.append(name)

        given_up = asyncio.ensure_future(write(bytes(400_000)))
        given_up.cancel()
        await asyncio.gather(one("a"), one("b"))

    rig = Rig(body_producer=produce)
    assert rig.take(1) is None
    await _turns()
    assert done == []
    assert len(await rig.rest()) == 800_000
    assert done == ["a", "b"]


async def test_a_write_that_is_given_up() -> None:
    """Nobody waits for the room any more when it comes; the bytes are sent all the same."""

    async def produce(write: Write) -> None:
        asyncio.ensure_future(write(bytes(400_000))).cancel()

    rig = Rig(body_producer=produce)
    assert len(await rig.rest()) == 400_000


async def test_a_buffer_may_be_used_again() -> None:
    """What was written is sent, whatever becomes of the bytearray."""

    async def produce(write: Write) -> None:
        buffer = bytearray(b"one")
        await write(buffer)  # type: ignore[arg-type]
        buffer[:] = b"two"

    rig = Rig(body_producer=produce)
    assert await rig.rest() == b"one"


async def test_a_large_chunk_is_not_copied_at_every_take() -> None:
    """64 MB in one write(), taken in pieces of a socket's size, take no time to speak of."""

    async def produce(write: Write) -> None:
        await write(bytes(64 * 1024 * 1024))

    rig = Rig(body_producer=produce)
    assert rig.take(1) is None
    await _turns()
    size = 0
    begun = time.process_time()
    while piece := rig.take(16384):
        size += len(piece)
        if size == 64 * 1024 * 1024:
            await _turns()
    assert size == 64 * 1024 * 1024
    assert time.process_time() - begun < 3


async def test_pieces_of_any_size() -> None:
    """Whatever is asked for at a time, the body is the body."""
    body = bytes(range(256)) * 4

    async def produce(write: Write) -> None:
        for start in range(0, len(body), 100):
            await write(body[start : start + 100])

    for size in (1, 7, 99, 100, 101, 250, 5000):
        rig = Rig(body_producer=produce)
        assert rig.take(size) is None
        await _turns(20)
        got = b""
        while piece := rig.take(size):
            assert 0 < len(piece) <= size
            got += piece
        assert got == body


async def test_chunks_that_wait_are_taken_together() -> None:
    """As many as fit are one piece; a chunk that does not fit begins the next."""

    async def produce(write: Write) -> None:
        for chunk in (b"one ", b"two ", b"three ", b"four"):
            await write(chunk)

    rig = Rig(body_producer=produce)
    assert rig.take(1) is None
    await _turns()
    assert rig.take(13) == b"one two "
    assert rig.take(3) == b"thr"
    assert rig.take(100) == b"ee four"
    assert rig.take(100) == b""


async def test_woken_once_for_each_wait() -> None:
    """wake() comes when there is something to take after None, and at no other time."""
    steps = [asyncio.Event() for _ in range(3)]

    async def produce(write: Write) -> None:
        await steps[0].wait()
        await write(b"one")
        await write(b"two")
        await steps[1].wait()
        await write(b"")  # is nothing
        await steps[2].wait()

    rig = Rig(body_producer=produce)
    assert rig.take(100) is None
    assert rig.upload.waiting
    steps[0].set()
    await _turns()
    assert (rig.woken, rig.upload.waiting) == (1, False)
    assert [rig.take(100) for _ in range(2)] == [b"onetwo", None]
    steps[1].set()
    await _turns()
    assert (rig.woken, rig.upload.waiting) == (1, True)
    steps[2].set()
    await _turns()
    assert (rig.woken, rig.upload.waiting) == (2, False)
    assert rig.take(100) == b""
    assert not rig.upload.unfinished


async def test_the_backend_may_take_within_wake() -> None:
    """A backend that sends at once takes the chunk while write() is still running."""
    taken: list[bytes] = []

    async def produce(write: Write) -> None:
        await write(b"one")
        await write(b"two")
        await write(memoryview(b"three"))  # type: ignore[arg-type]

    exchange = prepare(
        {
            "url": "http://h/",
            "method": "PUT",
            "user_agent": "",
            "max_body_size": 0,
            "body_producer": produce,
        }
    )
    done = asyncio.Event()

    def wake() -> None:
        while pieces := upload.take(100):
            taken.append(b"".join(pieces))
        if pieces == []:
            done.set()

    upload = upload_of(asyncio.get_running_loop(), exchange, wake, lambda error: None)
    assert upload.take(100) is None
    await done.wait()
    assert taken == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"four", "wrote 4 bytes, but header Content-Length says 3"),
        (b"to", "wrote 2 bytes, but header Content-Length says 3"),
        ("str", "give bytes, not str; encode each piece"),
    ],
)
async def test_what_a_producer_does_wrong(written: Any, message: str) -> None:
    """More or less than announced, or what is no bytes: `failed` gets it, once."""

    async def produce(write: Write) -> None:
        await write(written)
        if len(written) > 3:
            await asyncio.get_running_loop().create_future()  # it is told in time

    rig = Rig(body_producer=produce, headers={"Content-Length": "3"})
    assert rig.take(100) is None
    await _turns()
    (failure,) = rig.failures
    assert message in str(failure)
    assert rig.upload.unfinished


async def test_a_producer_that_is_no_coroutine() -> None:
    """What it writes before it returns is the body."""

    def produce(write: Write) -> None:
        write(b"all at once")

    rig = Rig(body_producer=produce)
    assert await rig.rest() == b"all at once"


# -- iterables


async def test_an_iterable_is_asked_for_what_there_is_room_for() -> None:
    """Not before there is; what does not fit behind others begins the next piece."""
    asked: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(5):
            asked.append(number)
            yield b"%d" % number * 10

    rig = Rig(body=chunks())
    await _turns()
    assert asked == []
    assert rig.take(30) == b"0" * 10 + b"1" * 10 + b"2" * 10
    assert asked == [0, 1, 2]
    assert rig.take(15) == b"3" * 10
    assert rig.take(4) == b"4" * 4
    assert rig.upload.unfinished
    assert rig.take(100) == b"4" * 6
    assert not rig.upload.unfinished
    assert rig.take(100) == b""
    assert rig.woken == 0


async def test_an_iterable_in_pieces_of_any_size() -> None:
    """Whatever is asked for at a time, the body is the body; and so it is once more."""
    body = bytes(range(256)) * 40
    chunks: list[Any] = [body[:100], b"", memoryview(body)[100:5000], bytearray(body[5000:])]
    rig = Rig(body=chunks)
    for size in (1, 7, 99, 100, 101, 250, 4900, 100_000):
        got: list[bytes] = []
        while piece := rig.take(size):
            assert 0 < len(piece) <= size
            got.append(piece)
        assert b"".join(got) == body
        assert rig.upload.rewind()
        rig.take(150)  # of the next run, which is given up
        assert rig.upload.rewind()
    assert not rig.failures


async def test_many_small_chunks_are_joined() -> None:
    """Few pieces come of them, in a time that is bounded."""
    rig = Rig(body=(b"%d" % (n % 10) for n in range(100_000)))
    got: list[bytes] = []
    while pieces := rig.upload.take(1_000_000):
        assert len(pieces) <= 64
        got += map(bytes, pieces)
    assert b"".join(got) == b"0123456789" * 10_000


async def test_a_slow_iterable_is_asked_once_at_a_time() -> None:
    """Others on the loop do not wait for more than one of its chunks."""

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            time.sleep(0.002)
            yield b"chunk"

    rig = Rig(body=chunks())
    assert [rig.take(1000) for _ in range(4)] == [b"chunk", b"chunk", b"chunk", b""]


async def test_an_iterable_that_has_nothing_to_give() -> None:
    """The loop has its turns until it has, or until nobody wants it any more."""
    nothing = True

    def chunks() -> Iterator[bytes]:
        while nothing:
            yield b""
        yield b"something"

    rig = Rig(body=chunks())
    assert rig.take(100) is None
    assert rig.upload.waiting
    await _turns()
    assert (rig.woken, rig.upload.waiting) == (1, False)
    assert rig.take(100) is None
    nothing = False
    await _turns()
    assert rig.woken == 2
    assert rig.take(100) == b"something"
    nothing = True
    rig = Rig(body=chunks())
    assert rig.take(100) is None
    rig.upload.cancel()
    await _turns()
    assert rig.woken == 0
    assert rig.take(100) is None


async def test_an_iterable_that_raises() -> None:
    """Whoever takes gets it, as it is."""
    error = ZeroDivisionError()

    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise error

    rig = Rig(body=chunks())
    with pytest.raises(ZeroDivisionError) as caught:
        rig.take(100)
    assert caught.value is error


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([b"12", b"3", b"4"], "gave 4 bytes, but header Content-Length says 3"),
        ([b"1234"], "gave 4 bytes, but header Content-Length says 3"),
        ([b"1", b"2"], "gave 2 bytes, but header Content-Length says 3"),
        (["str"], "give bytes, not str; encode each piece"),
        ([None], "give bytes, not NoneType"),
    ],
)
async def test_what_an_iterable_does_wrong(chunks: list[Any], message: str) -> None:
    """It is noticed before the last byte is given away: libcurl does not ask behind it."""
    rig = Rig(body=chunks, headers={"Content-Length": "3"})
    with pytest.raises((ValueError, TypeError), match=message):
        rig.take(3)


async def test_an_iterable_that_ends_its_own_exchange() -> None:
    """It is not asked again, and what it gave is not sent."""
    steps: list[str] = []

    def chunks() -> Iterator[bytes]:
        try:
            rig.upload.cancel()
            steps.append("ended the exchange")
            yield b"one"
            steps.append("went on")
        finally:
            steps.append("was closed")

    rig = Rig(body=chunks())
    assert rig.take(100) is None
    assert rig.upload.stopped
    assert rig.take(100) is None
    assert "went on" not in steps


@pytest.mark.parametrize("kind", ["iterable", "producer"])
async def test_a_body_is_made_in_the_context_of_the_fetch(kind: str) -> None:
    """Not in that of whoever happens to take."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    def chunks() -> Iterator[bytes]:
        yield name.get().encode()
        name.set("changed")
        yield name.get().encode()

    async def produce(write: Write) -> None:
        for chunk in chunks():
            await write(chunk)

    name.set("caller")
    rig = Rig(body=chunks()) if kind == "iterable" else Rig(body_producer=produce)
    name.set("other")
    assert await rig.rest() == b"callerchanged"
    assert name.get() == "other"


# -- eager tasks (Python 3.12)


def _eager(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Future[Any]:
    """A task factory that takes the first step at once, as asyncio.eager_task_factory does."""
    try:
        coro.send(None)
    except StopIteration as stop:
        future = loop.create_future()
        future.set_result(stop.value)
        return future
    return asyncio.Task(coro, loop=loop, **kwargs)


@pytest.fixture
def eager_rig() -> Iterator[Callable[..., Rig]]:
    """Makes a rig on a loop whose tasks are eager."""
    loops: list[asyncio.AbstractEventLoop] = []

    def make(**options: Any) -> Rig:
        loops.append(asyncio.get_running_loop())
        loops[0].set_task_factory(_eager)
        return Rig(**options)

    yield make
    loops[0].set_task_factory(None)


async def test_an_eager_producer(eager_rig: Callable[..., Rig]) -> None:
    """What it writes in its first step is there at once."""

    async def produce(write: Write) -> None:
        write(b"one ")
        await asyncio.sleep(0)
        await write(b"two")

    rig = eager_rig(body_producer=produce)
    assert rig.take(100) == b"one "
    assert await rig.rest() == b"two"


async def test_an_eager_producer_that_ends_its_own_exchange(eager_rig: Callable[..., Rig]) -> None:
    steps: list[str] = []
    over = asyncio.Event()

    async def produce(write: Write) -> None:
        write(b"one")
        rig.upload.cancel()
        steps.append("ended the exchange")
        try:
            await asyncio.sleep(0)
            steps.append("went on")
        finally:
            over.set()

    rig = eager_rig(body_producer=produce)
    assert rig.take(100) is None
    await over.wait()
    await _turns()
    assert steps == ["ended the exchange"]
    assert rig.failures == []
