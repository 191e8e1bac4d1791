"""Push mode: a receiver is told of everything, and nothing is a future."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from conftest import watched_files
from whimbrel.iostream import IOStream, StreamClosedError

from .support import Told, connected, until

BIG = os.urandom(4096) * 1000


async def test_a_receiver_is_given_what_comes_and_then_the_end() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        await peer.send(b"hello")
        await until(lambda: told.data == b"hello")
        assert stream.push(b"answer")
        assert await peer.receive(6) == b"answer"
        peer.sock.shutdown(1)
        await until(lambda: told.eof)
        assert not stream.closed()
        assert stream.fileno() not in watched_files()
        assert stream.push(b"after the end")
        assert await peer.receive(13) == b"after the end"
        assert told.lost == []


async def test_a_piece_is_no_longer_than_read_chunk_size() -> None:
    with connected(read_chunk_size=1000) as (stream, peer):
        told = Told()
        stream.unread(b"x" * 2500)
        stream.attach(told)
        assert [len(piece) for piece in told.pieces] == [1000, 1000, 500]
        await peer.send(b"y" * 2500)
        await until(lambda: len(told.data) == 5000)
        assert max(len(piece) for piece in told.pieces) == 1000


async def test_bytes_in_the_read_buffer_are_delivered_by_attach() -> None:
    with connected() as (stream, peer):
        await peer.send(b"line\nrest")
        assert await stream.read_until(b"\n") == b"line\n"
        told = Told()
        stream.attach(told)
        assert told.data == b"rest"


async def test_attach_wants_the_stream_for_itself() -> None:
    with connected() as (stream, peer):
        read = stream.read_bytes(1)
        with pytest.raises(RuntimeError, match="has a reader"):
            stream.attach(Told())
        await peer.send(b"x")
        await read
        stream.attach(Told())
        with pytest.raises(RuntimeError, match="has a reader"):
            stream.attach(Told())
        with pytest.raises(RuntimeError, match="push mode"):
            stream.read_bytes(1)
        stream.close()
        with pytest.raises(StreamClosedError):
            stream.attach(Told())


async def test_after_detaching_the_stream_is_read_from_as_before() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        await peer.send(b"one")
        await until(lambda: told.data == b"one")
        stream.detach_receiver()
        assert stream.fileno() not in watched_files()
        await peer.send(b"two")
        assert await stream.read_bytes(3) == b"two"
        assert told.data == b"one"


async def test_the_end_that_a_receiver_saw_ends_the_reads_after_it() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        peer.close()
        await until(lambda: told.eof)
        stream.detach_receiver()
        with pytest.raises(StreamClosedError):
            await stream.read_bytes(1)
        assert stream.closed()


async def test_another_receiver_is_told_of_the_end_that_was_there_before() -> None:
    with connected() as (stream, peer):
        first, second = Told(), Told()
        stream.attach(first)
        peer.sock.shutdown(1)
        await until(lambda: first.eof)
        stream.detach_receiver()
        stream.attach(second)
        assert second.eof


async def test_nothing_is_delivered_or_read_while_paused() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        stream.pause_reading()
        stream.pause_reading()
        sending = asyncio.create_task(peer.send(BIG))
        await until(lambda: stream.fileno() not in watched_files())
        await asyncio.sleep(0.02)
        assert told.pieces == []
        assert not sending.done()  # the peer is held back
        stream.resume_reading()
        stream.resume_reading()
        assert told.pieces == []  # not from within the call
        await until(lambda: told.data == BIG)
        await sending


async def test_a_pause_between_two_pieces_of_the_buffer_holds_the_second() -> None:
    with connected(read_chunk_size=10) as (stream, peer):

        class Pausing(Told):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                stream.pause_reading()

        told = Pausing()
        stream.unread(b"0123456789abcde")
        stream.attach(told)
        assert told.pieces == [b"0123456789"]
        await peer.send(b"later")
        stream.resume_reading()
        await until(lambda: len(told.pieces) == 2)
        stream.resume_reading()
        await until(lambda: len(told.pieces) == 3)
        assert told.pieces[1:] == [b"abcde", b"later"]


async def test_push_tells_whether_all_has_gone_and_drained_when() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        assert stream.push(b"small")
        assert stream.push(b"")
        assert not stream.push(BIG)
        assert not stream.push(b"end")
        assert not stream.push(b"")
        assert 0 < stream.unsent <= len(BIG) + 3
        assert told.drains == 0
        assert await peer.receive(5 + len(BIG) + 3) == b"small" + BIG + b"end"
        await until(lambda: told.drains)
        assert stream.unsent == 0
        assert stream.push(b"more")
        await asyncio.sleep(0.01)
        assert told.drains == 1


_PIECES = [b"one", memoryview(b"and two"), BIG, *[b"%d" % n for n in range(100)]]


@pytest.mark.parametrize("gathers", [True, False])
async def test_several_pieces_are_pushed_as_one(gathers: bool) -> None:
    """With a system call for many of them, or where there is none for that."""
    with connected() as (stream, peer):
        if not gathers:
            stream._send_pieces = None
        told = Told()
        stream.attach(told)
        assert stream.push_all([b"a", memoryview(b"b"), b"c"])
        assert stream.push_all([b"d"])
        assert not stream.push_all(_PIECES)
        assert not stream.push_all([b"x", b"y"])
        size = sum(map(len, _PIECES))
        assert 0 < stream.unsent <= size + 2
        assert await peer.receive(4 + size + 2) == b"abcd" + b"".join(_PIECES) + b"xy"
        await until(lambda: told.drains)
        assert stream.unsent == 0
        assert stream.sent == 4 + size + 2
        assert stream.push_all([b"more", b"and more"])
        await asyncio.sleep(0.01)
        assert told.drains == 1


async def test_several_pieces_on_a_stream_that_has_ended() -> None:
    """As with push(): an error that is known is raised, one that comes is told."""
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        stream.pause_reading()
        peer.reset()
        await until(lambda: not stream.push_all([b"x", b"y"]))
        await until(lambda: told.lost)
        with pytest.raises(StreamClosedError):
            stream.push_all([b"x", b"y"])
        assert len(told.lost) == 1


async def test_a_peer_that_takes_everything_does_not_hold_up_the_loop() -> None:
    """Of a large push a part goes at once, however much the system would take."""
    calls: list[int] = []
    with connected() as (stream, _peer):
        told = Told()
        stream.attach(told)

        def send(data: bytes) -> int:
            calls.append(len(data))
            time.sleep(0.001)
            return len(data)

        stream._send = send
        assert not stream.push(bytes(100_000_000))
        assert stream.unsent > 50_000_000
        await until(lambda: told.drains)
        assert sum(calls) == 100_000_000
        assert max(calls) <= 8 * 1024 * 1024


async def test_pushes_and_writes_keep_their_order() -> None:
    with connected() as (stream, peer):
        stream.attach(Told())
        stream.push(BIG)
        write = stream.write(b"written")
        stream.push(b"pushed")
        assert (await peer.receive(len(BIG) + 13))[-13:] == b"writtenpushed"
        await write


async def test_a_reset_closes_the_stream_and_is_told_once() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        peer.reset()
        await until(lambda: told.lost)
        assert isinstance(told.lost[0], ConnectionResetError)
        assert stream.error is told.lost[0]
        assert stream.closed()
        with pytest.raises(StreamClosedError):
            stream.push(b"x")
        assert not told.eof
        assert len(told.lost) == 1


async def test_an_answer_that_came_before_sending_failed_is_delivered() -> None:
    """A server refuses an upload and closes: what it said must not be lost by that."""
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        stream.pause_reading()
        await peer.send(b"413 Too Large")
        peer.close()
        await asyncio.sleep(0.01)
        assert stream.push(b"x")  # the peer answers with a reset
        await asyncio.sleep(0.01)
        stream.resume_reading()
        assert not stream.push(b"y")
        assert told.lost == []
        assert not stream.push(b"z")
        await until(lambda: told.lost)
        assert told.data == b"413 Too Large"
        assert isinstance(told.lost[0], ConnectionError)
        assert stream.closed()


async def test_writes_fail_with_the_stream_that_could_not_send() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        write = stream.write(BIG)
        peer.reset()
        with pytest.raises(StreamClosedError):
            await write
        assert len(told.lost) == 1


async def test_our_own_close_is_not_told_to_the_receiver() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        stream.push(BIG)
        stream.close()
        peer.close()
        await asyncio.sleep(0.01)
        assert told.lost == []
        assert not told.eof
        assert told.drains == 0


async def test_a_receiver_may_close_within_every_call() -> None:
    for method in ("data_received", "eof_received", "drained"):
        with connected() as (stream, peer):
            closing = type(
                "Closing", (Told,), {method: lambda self, *rest, stream=stream: stream.close()}
            )
            stream.attach(closing())
            if method == "drained":
                stream.push(BIG)
                await peer.receive(len(BIG))
            elif method == "eof_received":
                peer.sock.shutdown(1)
            else:
                await peer.send(b"x")
            await until(stream.closed)


@pytest.mark.parametrize("method", ["data_received", "eof_received", "connection_lost", "drained"])
async def test_what_a_receiver_raises_closes_the_stream_and_is_reported(method: str) -> None:
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    error = LookupError("of the test")

    def fail(*_: object) -> None:
        raise error

    with connected() as (stream, peer):
        told = Told()
        setattr(told, method, fail)
        stream.attach(told)
        if method == "connection_lost":
            peer.reset()
        elif method == "eof_received":
            peer.sock.shutdown(1)
        elif method == "drained":
            stream.push(BIG)
            await peer.receive(len(BIG))
        else:
            await peer.send(b"x")
        await until(lambda: contexts)
        assert stream.closed()
        assert contexts[0]["exception"] is error
        assert contexts[0]["stream"] is stream
        assert told.lost == []


async def test_a_receiver_that_fails_during_attach_is_reported_too() -> None:
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))

    class Failing(Told):
        def data_received(self, data: bytes) -> None:
            raise LookupError(data)

    with connected() as (stream, _):
        stream.unread(b"x")
        stream.attach(Failing())
        assert stream.closed()
        assert len(contexts) == 1


async def test_a_receiver_may_hand_the_stream_to_another() -> None:
    with connected() as (stream, peer):
        second = Told()

        class First(Told):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                stream.detach_receiver()
                stream.unread(data[3:])
                stream.attach(second)

        first = First()
        stream.attach(first)
        await peer.send(b"oneTWO")
        await until(lambda: second.data == b"TWO")
        await peer.send(b"THREE")
        await until(lambda: second.data == b"TWOTHREE")
        assert first.pieces == [b"oneTWO"]


Watch = Callable[..., None]


@pytest.mark.parametrize("watch", ["add_reader", "add_writer"])
async def test_a_watcher_that_cannot_watch_loses_this_stream_alone(watch: str) -> None:
    class Refusing:
        """The running loop, but for one method that has run out of what it needs."""

        def __getattr__(self, name: str) -> Any:
            if name == watch:
                return self._refuse
            return getattr(asyncio.get_running_loop(), name)

        def _refuse(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

    with connected(watcher=Refusing()) as (stream, _), connected() as (other, other_peer):
        told = Told()
        stream.attach(told)
        if watch == "add_writer":
            assert not stream.push(BIG)
        await until(lambda: told.lost)
        assert isinstance(told.lost[0], OSError)
        assert stream.closed()
        await other_peer.send(b"x")
        assert await other.read_bytes(1) == b"x"


async def test_a_dropped_stream_is_collected_with_its_receiver() -> None:
    gone: list[str] = []

    class Noting(Told):
        def __del__(self) -> None:
            gone.append("receiver")

    def use() -> IOStream:
        with connected() as (stream, _):
            stream.attach(Noting())
            return stream

    stream = use()
    gc.collect()
    assert gone == ["receiver"]  # a closed stream holds it no more
    assert stream.closed()


@pytest.mark.parametrize("mode", ["push", "pull", "paused"])
async def test_a_reset_right_behind_data_is_noticed(mode: str) -> None:
    """Both lie there when the loop looks: some loops tell of that only once."""
    with connected() as (stream, peer):
        told = Told()
        await asyncio.sleep(0.01)
        if mode == "pull":
            read = stream.read_bytes(4)
            peer.sock.send(b"data")
            peer.reset()
            assert await read == b"data"
            with pytest.raises(StreamClosedError):
                await stream.read_bytes(1)
            return
        if mode == "paused":
            told.data_received = (  # type: ignore[method-assign]
                lambda data: (told.pieces.append(data), stream.pause_reading())  # type: ignore[func-returns-value,assignment]
            )
        stream.attach(told)
        await asyncio.sleep(0.01)
        peer.sock.send(b"data")
        peer.reset()
        await until(lambda: told.data)
        stream.resume_reading()
        await until(lambda: told.lost)
        assert told.data == b"data"


# -- large messages: more at a time, and into a buffer that is there


class Filling:
    """A target for fill(), and the counts that its owner is told."""

    def __init__(self, stream: IOStream, size: int) -> None:
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self.counts: list[int] = []
        self.begun = stream.fill(self.view, self.counts.append)

    @property
    def released(self) -> bool:
        try:
            self.buffer.append(0)  # which a view forbids
        except BufferError:
            return False
        self.buffer.pop()
        return True


async def test_a_target_is_filled_and_the_rest_delivered() -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        await peer.send(b"head")
        await until(lambda: told.data == b"head")
        filling = Filling(stream, len(BIG))
        assert filling.begun
        sending = asyncio.ensure_future(peer.send(BIG + b"behind it"))
        await until(lambda: told.data == b"headbehind it")
        await sending
        assert filling.buffer == BIG
        assert sum(filling.counts) == len(BIG)
        assert filling.released


async def test_a_target_is_released_before_its_owner_is_told_that_it_is_full() -> None:
    with connected() as (stream, peer):
        stream.attach(Told())
        buffer = bytearray(5)

        def filled(count: int) -> None:
            if len(bytes(buffer).rstrip(b"\0")) == 5:
                buffer.extend(b"!")  # which a view forbids

        assert stream.fill(memoryview(buffer), filled)
        await peer.send(b"hello")
        await until(lambda: buffer == b"hello!")


async def test_what_is_here_is_delivered_before_a_target_is_filled() -> None:
    """fill() says no, and the view stays the caller's."""
    with connected() as (stream, _):
        answers: list[bool] = []

        class Eager(Told):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                with memoryview(bytearray(10)) as view:
                    answers.append(stream.fill(view, lambda _: None))
                    assert len(view) == 10

        stream.read_chunk_size = 5
        stream.unread(b"helloworld")
        told = Eager()
        stream.attach(told)
        assert told.data == b"helloworld"
        assert answers == [False, True]


@pytest.mark.parametrize("end", ["eof", "reset", "close", "detach"])
async def test_a_target_that_is_never_full(end: str) -> None:
    with connected() as (stream, peer):
        told = Told()
        stream.attach(told)
        filling = Filling(stream, 100)
        await peer.send(b"some")
        await until(lambda: filling.counts == [4])
        assert not filling.released
        if end == "eof":
            peer.sock.shutdown(1)
            await until(lambda: told.eof)
            stream.close()
        elif end == "reset":
            peer.reset()
            await until(lambda: told.lost)
        elif end == "close":
            stream.close()
        else:
            stream.detach_receiver()
            await peer.send(b"thing")
            assert await stream.read_bytes(5) == b"thing"
        assert filling.released
        assert filling.buffer[:4] == b"some"
        assert told.pieces == []


async def test_a_filled_that_raises_closes_the_stream() -> None:
    with connected() as (stream, peer):
        failures: list[Any] = []
        stream.loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        stream.attach(Told())

        def filled(count: int) -> None:
            raise ValueError(count)

        stream.fill(memoryview(bytearray(10)), filled)
        await peer.send(b"x")
        await until(lambda: failures)
        assert isinstance(failures[0], ValueError)
        assert stream.closed()


async def test_in_bulk_more_is_read_at_once_and_several_times() -> None:
    with connected() as (stream, peer):
        told = Told()
        recv, waiting = stream._recv, b""

        def receive(size: int) -> bytes:
            # What lies in the system's buffer, which is too small here.
            nonlocal waiting
            recv(1)
            data, waiting = waiting[:size], waiting[size:]
            return data

        stream._recv = receive
        stream.attach(told)
        stream.set_bulk(True)
        waiting = b"x" * 1_000_000
        await peer.send(b"y" * 9)  # a byte to be told of, for each read
        await until(lambda: len(told.data) == 1_000_000)
        sizes = [len(piece) for piece in told.pieces]
        assert sizes == [122_880] * 8 + [16_960]
        stream.set_bulk(False)
        stream._recv = recv
        told.pieces.clear()
        await peer.send(b"z" * 200_000)
        await until(lambda: len(told.data) == 200_000)
        assert max(map(len, told.pieces)) <= 64 * 1024


async def test_in_bulk_a_pause_holds_at_once() -> None:
    with connected() as (stream, peer):

        class Pausing(Told):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                stream.pause_reading()

        told = Pausing()
        stream.attach(told)
        stream.set_bulk(True)
        sending = asyncio.ensure_future(peer.send(BIG))
        for count in range(1, 6):
            await until(lambda count=count: len(told.pieces) == count)
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(told.pieces) == count
            stream.resume_reading()
        sending.cancel()


async def test_in_bulk_others_have_their_turn() -> None:
    """However much is here, sixteen reads are the most in a row, and two such rows in a turn: one
    that the loop told of, one that was left over."""
    with connected() as (stream, peer):
        reads: list[int] = []
        turns: list[int] = []
        told = Told()

        def receive(size: int) -> bytes:
            reads.append(size)
            return b"x" * size

        def turn() -> None:
            turns.append(len(reads))
            if len(turns) < 20:
                stream.loop.call_soon(turn)

        stream._recv = receive
        stream.attach(told)
        stream.set_bulk(True)
        await peer.send(b"y")
        turn()
        await until(lambda: len(turns) == 20)
        stream.close()
        assert reads
        assert max(b - a for a, b in pairwise(turns)) <= 32


@pytest.mark.parametrize(
    "sizes", [(10, 9_000_000), (5_000_000, 5_000_000), (9_000_000, 10)], ids=str
)
async def test_no_system_call_is_given_more_than_it_may(sizes: tuple[int, ...]) -> None:
    """However large the pieces are that wait behind each other."""
    with connected() as (stream, peer):
        stream.attach(Told())
        given: list[int] = []
        send, send_pieces = stream._send, stream._send_pieces
        assert send_pieces is not None

        def noting(data: Any) -> int:
            given.append(len(data))
            return send(data)

        def noting_pieces(pieces: Any) -> int:
            given.append(sum(map(len, pieces)))
            return send_pieces(pieces)

        stream._send, stream._send_pieces = noting, noting_pieces
        stream.push_all([bytes(size) for size in sizes])
        assert len(await peer.receive(sum(sizes))) == sum(sizes)
        assert max(given) <= 8 * 1024 * 1024
