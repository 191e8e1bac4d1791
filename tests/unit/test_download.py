"""The body of a response on its way to the caller: decoded, counted, buffered or delivered."""

from __future__ import annotations

import asyncio
import gc
import gzip
import inspect
import io
import random
import tracemalloc
import weakref
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from whimbrel._download import Download
from whimbrel._policy.decoding import MAX_PIECE, DecodingError
from whimbrel._policy.exchange import prepare

OnData = Callable[[bytes], Any]


class TooLong(Exception):
    """What this backend makes of a body that passes max_body_size."""


class Rig:
    """A download, and the backend's part played by the test."""

    def __init__(self, on_data: OnData | None = None, **options: Any) -> None:
        exchange = prepare({"url": "http://h/", "user_agent": "", "max_body_size": 0, **options})
        exchange.on_data = on_data
        self.resumed = 0
        self.failures: list[BaseException] = []
        self.changed = asyncio.Event()
        self.download = Download(
            asyncio.get_running_loop(), exchange, TooLong, self._resume, self._failed
        )

    def _resume(self) -> None:
        self.resumed += 1
        self.changed.set()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.changed.set()


class Consumer:
    """A streaming_callback that answers with a new future each time, and keeps what it got."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.future: asyncio.Future[None] | None = None

    def __call__(self, piece: bytes) -> Awaitable[None]:
        self.pieces.append(piece)
        self.future = asyncio.get_running_loop().create_future()
        return self.future

    @property
    def answer(self) -> asyncio.Future[None]:
        """The future of the latest answer."""
        assert self.future is not None
        return self.future


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- buffered


async def test_one_chunk_is_the_body() -> None:
    """A small response costs no copy."""
    rig = Rig()
    chunk = b"hello, world"
    rig.download.feed(chunk)
    rig.download.finish()
    assert rig.download.body is chunk
    assert not rig.download.decoded
    assert not rig.download.paused


async def test_no_chunk_is_an_empty_body() -> None:
    rig = Rig()
    rig.download.finish()
    assert rig.download.body == b""


async def test_many_chunks_are_one_body() -> None:
    chunks = [b"", b"one", b"", b"two", b"three", b""]
    rig = Rig()
    for chunk in chunks:
        rig.download.feed(chunk)
    assert rig.download.body == b"onetwothree"


# -- decoded


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_body_is_decoded(size: int) -> None:
    """However the encoded body is cut."""
    body = random.Random(1).randbytes(20_000)
    encoded = gzip.compress(body)
    rig = Rig()
    rig.download.begin("gzip")
    for start in range(0, len(encoded), size):
        rig.download.feed(encoded[start : start + size])
    rig.download.finish()
    assert rig.download.body == body
    assert rig.download.decoded


@pytest.mark.parametrize("value", ["", "identity", "gzip, sdch"])
async def test_nothing_to_decode(value: str) -> None:
    """Without a coding, and with one that nobody knows, the body stays as it came."""
    rig = Rig()
    rig.download.begin(value)
    rig.download.feed(b"as it came")
    rig.download.finish()
    assert rig.download.body == b"as it came"
    assert not rig.download.decoded


async def test_decompress_response_off() -> None:
    rig = Rig(decompress_response=False)
    encoded = gzip.compress(b"text")
    rig.download.begin("gzip")
    rig.download.feed(encoded)
    rig.download.finish()
    assert rig.download.body == encoded
    assert not rig.download.decoded


async def test_too_many_codings() -> None:
    rig = Rig()
    with pytest.raises(DecodingError, match="6 content codings"):
        rig.download.begin(", ".join(["gzip"] * 6))


async def test_malformed() -> None:
    rig = Rig()
    rig.download.begin("gzip")
    with pytest.raises(DecodingError, match="gzip body is malformed"):
        rig.download.feed(b"no gzip at all")


async def test_cut_short_within_the_coding() -> None:
    rig = Rig()
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(b"text")[:-1])
    with pytest.raises(DecodingError, match="cut short"):
        rig.download.finish()


# -- max_body_size


async def test_the_limit_itself_is_allowed() -> None:
    rig = Rig(max_body_size=10)
    rig.download.feed(b"12345")
    rig.download.feed(b"67890")
    assert rig.download.body == b"1234567890"
    with pytest.raises(TooLong) as caught:
        rig.download.feed(b"x")
    assert str(caught.value) == "the body passes max_body_size: more than 10 bytes, 11 so far"


@pytest.mark.parametrize("way", ["buffered", "delivered", "discarded"])
async def test_the_limit_holds_for_every_body(way: str) -> None:
    """Whatever becomes of it; a delivered piece is counted before it is delivered."""
    got: list[bytes] = []
    rig = Rig(got.append if way == "delivered" else None, max_body_size=3)
    if way == "discarded":
        rig.download.discard()
    rig.download.feed(b"abc")
    with pytest.raises(TooLong):
        rig.download.feed(b"d")
    assert got == ([b"abc"] if way == "delivered" else [])


async def test_a_bomb_is_never_whole_in_memory() -> None:
    """What counts is the decoded size, and decoding ends where the limit is passed."""
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    rig = Rig(max_body_size=256 * 1024)
    rig.download.begin("gzip")
    tracemalloc.start()
    try:
        with pytest.raises(TooLong) as caught:
            rig.download.feed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert int(str(caught.value).split()[-3]) <= 256 * 1024 + MAX_PIECE
    assert peak < 2 * 1024 * 1024


# -- discarded


async def test_discarded() -> None:
    """The body of a redirect goes nowhere, and need not even be what it says."""
    got: list[bytes] = []
    rig = Rig(got.append)
    rig.download.discard()
    rig.download.begin("gzip")
    rig.download.feed(b"no gzip at all")
    rig.download.feed(b"nor this")
    rig.download.finish()
    assert got == []
    assert rig.download.body == b""
    assert not rig.download.decoded


async def test_discarded_after_begin() -> None:
    """A backend that begins first finds the same."""
    rig = Rig()
    rig.download.begin("gzip")
    rig.download.discard()
    rig.download.feed(b"no gzip at all")
    rig.download.finish()
    assert rig.download.body == b""


# -- delivered


async def test_delivered_and_not_buffered() -> None:
    """on_data gets each chunk as it comes, but no empty one."""
    got: list[bytes] = []
    rig = Rig(got.append)
    for chunk in (b"one", b"", b"two"):
        rig.download.feed(chunk)
        assert not rig.download.paused
    assert got == [b"one", b"two"]
    assert rig.download.body == b""
    assert rig.resumed == 0


async def test_delivered_decoded() -> None:
    body = bytes(3 * MAX_PIECE)
    got: list[bytes] = []
    rig = Rig(got.append)
    rig.download.begin("deflate")
    rig.download.feed(zlib.compress(body))
    rig.download.finish()
    assert b"".join(got) == body
    assert max(map(len, got)) == MAX_PIECE


async def test_what_the_callback_raises() -> None:
    def on_data(piece: bytes) -> None:
        raise ZeroDivisionError

    rig = Rig(on_data)
    with pytest.raises(ZeroDivisionError):
        rig.download.feed(b"x")
    assert rig.failures == []  # it is told once


async def test_an_answer_that_is_no_awaitable() -> None:
    """It is nothing to wait for: ``file.write`` counts what it wrote."""
    body = bytes(3 * MAX_PIECE)
    file = io.BytesIO()
    rig = Rig(file.write)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(body))
    rig.download.finish()
    assert file.getvalue() == body
    assert not rig.download.paused
    assert rig.resumed == 0


# -- pauses


async def test_a_future_is_a_pause() -> None:
    """The transfer is held until the consumer's future is done, and let go once."""
    consumer = Consumer()
    rig = Rig(consumer)
    rig.download.feed(b"one")
    assert rig.download.paused
    await _turns()
    assert rig.download.paused
    assert rig.resumed == 0
    consumer.answer.set_result(None)
    assert rig.resumed == 0  # from the loop
    await _turns()
    assert not rig.download.paused
    assert rig.resumed == 1
    rig.download.feed(b"two")
    assert rig.download.paused
    assert consumer.pieces == [b"one", b"two"]
    consumer.answer.set_result(None)


async def test_what_was_decoded_comes_before_the_next_chunk() -> None:
    """One chunk that decodes to five pieces: five pauses, and then the transfer goes on."""
    body = random.Random(2).randbytes(1000) * 300
    consumer = Consumer()
    rig = Rig(consumer)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(body))
    for number in range(1, 6):
        assert rig.download.paused
        assert len(consumer.pieces) == number
        assert rig.resumed == 0
        consumer.answer.set_result(None)
        await _turns()
    assert not rig.download.paused
    assert rig.resumed == 1
    rig.download.finish()
    assert b"".join(consumer.pieces) == body


async def test_a_done_future_is_no_pause() -> None:
    def on_data(piece: bytes) -> Awaitable[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    rig = Rig(on_data)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(bytes(3 * MAX_PIECE)))
    assert not rig.download.paused
    await _turns()
    assert rig.resumed == 0


async def test_a_failed_future_fails_the_feeding() -> None:
    def on_data(piece: bytes) -> Awaitable[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(ZeroDivisionError())
        return future

    rig = Rig(on_data)
    with pytest.raises(ZeroDivisionError):
        rig.download.feed(b"x")


async def test_a_coroutine_is_a_pause() -> None:
    got: list[bytes] = []
    go_on = asyncio.Event()

    async def on_data(piece: bytes) -> None:
        await go_on.wait()
        got.append(piece)

    rig = Rig(on_data)
    rig.download.feed(b"x")
    assert rig.download.paused
    await _turns()
    assert rig.download.paused
    go_on.set()
    await rig.changed.wait()
    assert got == [b"x"]
    assert rig.resumed == 1
    assert not rig.download.paused


async def test_any_awaitable_is_a_pause() -> None:
    class Answer:
        def __await__(self) -> Generator[Any, None, None]:
            return asyncio.sleep(0).__await__()

    rig = Rig(lambda piece: Answer())
    rig.download.feed(b"x")
    assert rig.download.paused
    await rig.changed.wait()
    assert rig.resumed == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["coroutine", "future"])
async def test_what_the_consumer_raises_in_the_meantime(
    error: type[BaseException], kind: str
) -> None:
    """It goes to `failed`: SystemExit, too, which a task would let end the loop."""
    consumer = Consumer()

    async def on_data(piece: bytes) -> None:
        await asyncio.sleep(0)
        raise error

    rig = Rig(on_data if kind == "coroutine" else consumer)
    rig.download.feed(b"x")
    if kind == "future":
        consumer.answer.set_exception(error())
    await rig.changed.wait()
    assert [type(failure) for failure in rig.failures] == [error]
    assert rig.resumed == 0


async def test_a_future_that_the_consumer_cancels() -> None:
    consumer = Consumer()
    rig = Rig(consumer)
    rig.download.feed(b"x")
    consumer.answer.cancel()
    await rig.changed.wait()
    assert [type(failure) for failure in rig.failures] == [asyncio.CancelledError]
    assert rig.resumed == 0


@pytest.mark.parametrize("wrong", ["coding", "limit", "callback"])
async def test_what_goes_wrong_behind_a_pause(wrong: str) -> None:
    """The rest of a chunk is delivered from the loop: its errors go to `failed`."""
    calls = 0
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_data(piece: bytes) -> Awaitable[None] | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            return gate
        if wrong == "callback":
            raise ZeroDivisionError
        return None

    encoded = gzip.compress(bytes(2 * MAX_PIECE)) + (b"garbage" if wrong == "coding" else b"")
    rig = Rig(on_data, max_body_size=MAX_PIECE if wrong == "limit" else 0)
    rig.download.begin("gzip")
    rig.download.feed(encoded)
    assert rig.download.paused
    gate.set_result(None)
    await rig.changed.wait()
    expected = {"coding": DecodingError, "limit": TooLong, "callback": ZeroDivisionError}
    assert [type(failure) for failure in rig.failures] == [expected[wrong]]
    assert rig.resumed == 0


# -- cancelled


async def test_cancel_ends_a_pause() -> None:
    """The consumer's future is cancelled; nobody is told."""
    consumer = Consumer()
    rig = Rig(consumer)
    rig.download.feed(b"x")
    rig.download.cancel()
    rig.download.cancel()
    assert consumer.answer.cancelled()
    assert not rig.download.paused
    await _turns()
    assert (rig.resumed, rig.failures) == (0, [])


async def test_cancel_in_the_turn_in_which_the_pause_ends() -> None:
    """The consumer is done, and what comes of that is already on its way: it finds nothing."""
    consumer = Consumer()
    rig = Rig(consumer)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(bytes(2 * MAX_PIECE)))
    consumer.answer.set_result(None)
    rig.download.cancel()
    await _turns()
    assert len(consumer.pieces) == 1
    assert (rig.resumed, rig.failures) == (0, [])


async def test_cancel_cancels_the_callbacks_task() -> None:
    cancelled = asyncio.Event()

    async def on_data(piece: bytes) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    rig = Rig(on_data)
    rig.download.feed(b"x")
    await _turns()
    rig.download.cancel()
    await cancelled.wait()
    await _turns()
    assert (rig.resumed, rig.failures) == (0, [])


async def test_cancel_before_the_coroutine_begins() -> None:
    """It never ran and never will: it is closed, or Python would complain of it."""
    begun = False

    async def run() -> None:
        nonlocal begun
        begun = True

    answer: Coroutine[Any, Any, None] = run()
    rig = Rig(lambda piece: answer)
    rig.download.feed(b"x")
    rig.download.cancel()
    await _turns()
    assert not begun
    assert inspect.getcoroutinestate(answer) == inspect.CORO_CLOSED


@pytest.mark.parametrize("answer_kind", ["none", "coroutine", "future"])
async def test_the_callback_cancels_its_own_fetch(answer_kind: str) -> None:
    """Nothing more is delivered, its answer is not waited for, and what is fed is thrown away."""
    calls = 0
    answers: list[Coroutine[Any, Any, None]] = []

    async def run() -> None:
        raise AssertionError("this is not to run")

    def on_data(piece: bytes) -> Any:
        nonlocal calls
        calls += 1
        rig.download.cancel()
        if answer_kind == "coroutine":
            answers.append(run())
            return answers[0]
        return asyncio.get_running_loop().create_future() if answer_kind == "future" else None

    rig = Rig(on_data, max_body_size=100_000)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(bytes(3 * MAX_PIECE)))
    assert not rig.download.paused
    rig.download.feed(bytes(200_000))
    rig.download.finish()
    await _turns()
    assert calls == 1
    assert rig.download.body == b""
    assert (rig.resumed, rig.failures) == (0, [])
    assert [inspect.getcoroutinestate(answer) for answer in answers] == (
        [inspect.CORO_CLOSED] if answer_kind == "coroutine" else []
    )


async def test_the_callback_cancels_its_own_fetch_behind_a_pause() -> None:
    calls = 0
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_data(piece: bytes) -> Awaitable[None] | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            return gate
        rig.download.cancel()
        return None

    rig = Rig(on_data)
    rig.download.begin("gzip")
    rig.download.feed(gzip.compress(bytes(4 * MAX_PIECE)))
    gate.set_result(None)
    await _turns()
    assert calls == 2
    assert (rig.resumed, rig.failures) == (0, [])


async def test_cancel_drops_what_was_buffered() -> None:
    rig = Rig()
    rig.download.feed(b"one")
    rig.download.cancel()
    assert rig.download.body == b""
    rig = Rig()
    rig.download.feed(b"one")
    rig.download.feed(b"two")
    rig.download.cancel()
    assert rig.download.body == b""


async def test_cancel_leaves_no_cycle() -> None:
    """A backend that is one with its download is gone with its last reference, uncollected."""
    rig = Rig()
    gone = weakref.ref(rig)
    gc.disable()
    try:
        rig.download.cancel()
        del rig
        assert gone() is None
    finally:
        gc.enable()


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
def eager_rig() -> Iterator[Callable[[OnData], Rig]]:
    """Makes a rig on a loop whose tasks are eager."""
    loops: list[asyncio.AbstractEventLoop] = []

    def make(on_data: OnData) -> Rig:
        loops.append(asyncio.get_running_loop())
        loops[0].set_task_factory(_eager)
        return Rig(on_data)

    yield make
    loops[0].set_task_factory(None)


async def test_eager_coroutines(eager_rig: Callable[[OnData], Rig]) -> None:
    """One that is done at once is no pause, and what it raises is not lost."""
    got: list[bytes] = []

    async def on_data(piece: bytes) -> None:
        got.append(piece)
        if piece == b"two":
            raise ZeroDivisionError

    rig = eager_rig(on_data)
    rig.download.feed(b"one")
    assert not rig.download.paused
    with pytest.raises(ZeroDivisionError):
        rig.download.feed(b"two")
    assert got == [b"one", b"two"]


async def test_an_eager_coroutine_that_cancels_its_own_fetch(
    eager_rig: Callable[[OnData], Rig],
) -> None:
    steps: list[str] = []
    over = asyncio.Event()

    async def on_data(piece: bytes) -> None:
        rig.download.cancel()
        steps.append("cancelled the fetch")
        try:
            await asyncio.sleep(0)
            steps.append("went on")
        finally:
            over.set()

    rig = eager_rig(on_data)
    rig.download.feed(b"one")
    assert not rig.download.paused
    await over.wait()
    await _turns()
    assert steps == ["cancelled the fetch"]
    assert (rig.resumed, rig.failures) == (0, [])


# -- room for the rest of a large body


async def test_the_rest_is_put_where_it_is_kept() -> None:
    """What was fed, then what the backend put there itself, in pieces."""
    rig = Rig()
    rig.download.feed(b"fed ")
    rig.download.feed(b"twice ")
    room = rig.download.room(16)
    assert room is not None
    assert len(room) == 6
    for piece in (b"pu", b"t in"):
        with room[: len(piece)] as part:
            part[:] = piece
        rest = room[len(piece) :]
        rig.download.filled(len(piece))
        room.release()
        room = rest
    room.release()
    rig.download.finish()
    assert rig.download.body == b"fed twice put in"


async def test_the_rest_is_written_where_it_is_kept() -> None:
    rig = Rig()
    rig.download.feed(b"fed ")
    write = rig.download.writer(12)
    assert write is not None
    assert write(b"wri") == 3
    assert write(b"tten!") == 5
    rig.download.finish()
    assert rig.download.body == b"fed written!"


async def test_room_that_was_not_used_is_no_part_of_the_body() -> None:
    rig = Rig()
    rig.download.feed(b"all")
    assert rig.download.writer(1000) is not None
    assert rig.download.body == b"all"


async def test_a_body_is_not_copied_once_it_is_whole() -> None:
    size = 8 * 1024 * 1024
    rig = Rig()
    room = rig.download.room(size)
    assert room is not None
    room[:] = b"x" * size
    room.release()
    rig.download.filled(size)
    tracemalloc.start()
    try:
        body = rig.download.body
        assert tracemalloc.get_traced_memory()[1] < size // 2
    finally:
        tracemalloc.stop()
    assert body == b"x" * size


@pytest.mark.parametrize("way", ["room", "writer"])
@pytest.mark.parametrize("why", ["decoded", "delivered", "discarded", "too long", "exabytes"])
async def test_no_room(why: str, way: str) -> None:
    """Where a body is more than just kept it goes through feed(), which sees all of it."""
    options: dict[str, Any] = {"max_body_size": 9} if why == "too long" else {}
    rig = Rig(Consumer() if why == "delivered" else None, **options)
    if why == "discarded":
        rig.download.discard()
    rig.download.begin("gzip" if why == "decoded" else "")
    rig.download.feed(b"")
    assert getattr(rig.download, way)(1 << 60 if why == "exabytes" else 10) is None
    if why == "too long":
        rig.download.feed(b"123456789")
        assert getattr(rig.download, way)(9) is not None
