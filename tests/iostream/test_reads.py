"""Reads that give futures."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

import pytest

from conftest import watched_files
from whimbrel.iostream import (
    IOStream,
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)

from .support import Told, connected, tcp_pair, until


async def test_reads_take_what_they_ask_for_and_leave_the_rest() -> None:
    with connected() as (stream, peer):
        await peer.send(b"first line\r\nsecond: 12;rest")
        assert await stream.read_until(b"\r\n") == b"first line\r\n"
        assert await stream.read_until_regex(rb"[0-9]+;") == b"second: 12;"
        assert await stream.read_bytes(2) == b"re"
        assert await stream.read_bytes(100, partial=True) == b"st"
        assert await stream.read_bytes(0) == b""


async def test_a_delimiter_that_comes_in_two_pieces_is_found() -> None:
    with connected() as (stream, peer):
        read = stream.read_until(b"\r\n\r\n")
        for piece in (b"abc\r", b"\n", b"\r", b"\ndef"):
            await peer.send(piece)
            await asyncio.sleep(0.01)
        assert await read == b"abc\r\n\r\n"


async def test_a_match_at_the_end_of_a_full_read_is_found_without_more_data() -> None:
    """The search is not put off for data that never comes."""
    with connected(read_chunk_size=1000) as (stream, peer):
        read = stream.read_until_regex(b"END")
        await peer.send(b"x" * 1000)
        await until(lambda: stream._buffer)
        await peer.send(b"y" * 997 + b"END")
        assert (await read).endswith(b"END")


async def test_read_into_fills_a_buffer_larger_than_the_stream_may_hold() -> None:
    with connected(max_buffer_size=1000) as (stream, peer):
        target = bytearray(5000)
        read = stream.read_into(target)
        await peer.send(b"".join(b"%04d," % number for number in range(1000)))
        assert await read == 5000
        assert bytes(target).startswith(b"0000,0001,")
        assert bytes(target).endswith(b"0998,0999,")


async def test_read_into_partial_is_done_with_the_first_bytes() -> None:
    with connected() as (stream, peer):
        target = bytearray(10)
        read = stream.read_into(memoryview(target)[2:], partial=True)
        await peer.send(b"abc")
        assert await read == 3
        assert target == b"\0\0abc\0\0\0\0\0"


async def test_read_until_close_gives_everything() -> None:
    with connected() as (stream, peer):
        read = stream.read_until_close()
        await peer.send(b"x" * 300_000)
        peer.close()
        assert await read == b"x" * 300_000
        assert stream.closed()
        assert stream.error is None
        assert await stream.read_until_close() == b""


async def test_read_until_close_does_not_take_a_reset_for_the_end() -> None:
    """What came may be cut short: it is an error, and the bytes can still be had."""
    with connected() as (stream, peer):
        read = stream.read_until_close()
        await peer.send(b"half")
        await until(lambda: len(stream._buffer) == 4)
        peer.reset()
        with pytest.raises(StreamClosedError) as caught:
            await read
        assert isinstance(caught.value.real_error, ConnectionResetError)
        assert await stream.read_bytes(4) == b"half"


READS: dict[str, Callable[[IOStream], asyncio.Future[object]]] = {
    "bytes": lambda stream: stream.read_bytes(6),
    "into": lambda stream: stream.read_into(bytearray(6)),
    "until": lambda stream: stream.read_until(b"f"),
    "regex": lambda stream: stream.read_until_regex(b"ef"),
    "close": lambda stream: stream.read_until_close(),
}


@pytest.mark.parametrize("kind", READS)
async def test_cancelling_a_read_loses_no_byte(kind: str) -> None:
    with connected() as (stream, peer):
        read = READS[kind](stream)
        await peer.send(b"abc")
        await until(lambda: stream._buffer or kind == "into")
        await asyncio.sleep(0.02)
        read.cancel()
        assert not stream.reading()
        await asyncio.sleep(0)
        await peer.send(b"def")
        assert await stream.read_bytes(6) == b"abcdef"


async def test_what_is_read_into_a_buffer_comes_back_before_the_caller_can_change_it() -> None:
    with connected() as (stream, peer):
        target = bytearray(6)

        async def reader() -> None:
            try:
                await stream.read_into(target)
            finally:
                target[:] = b"######"

        task = asyncio.create_task(reader())
        await peer.send(b"abc")
        await until(lambda: target[:3] == b"abc")
        task.cancel()
        await asyncio.wait([task])
        await peer.send(b"def")
        assert await stream.read_bytes(6) == b"abcdef"


@pytest.mark.parametrize("then", ["read", "attach", "event"])
async def test_a_cancelled_read_gives_back_even_if_another_begins_at_once(then: str) -> None:
    with connected() as (stream, peer):
        target = bytearray(6)
        read = stream.read_into(target)
        await peer.send(b"abc")
        await until(lambda: target[:3] == b"abc")
        read.cancel()
        if then == "read":
            assert await stream.read_bytes(3) == b"abc"
        elif then == "attach":
            told = Told()
            stream.attach(told)
            assert told.data == b"abc"
        else:
            stream.set_close_callback(lambda: None)
            stream._on_readable()
            assert await stream.read_bytes(3) == b"abc"


@pytest.mark.parametrize("kind", READS)
async def test_closing_fails_the_read_that_waits(kind: str) -> None:
    with connected() as (stream, _):
        read = READS[kind](stream)
        assert stream.reading()
        error = LookupError("of the test")
        stream.close(error)
        with pytest.raises(StreamClosedError, match="Stream is closed: of the test") as caught:
            await read
        assert caught.value.real_error is error
        assert isinstance(caught.value, OSError)


async def test_the_end_of_the_stream_fails_a_read_that_wants_more() -> None:
    with connected() as (stream, peer):
        read = stream.read_bytes(10)
        await peer.send(b"short")
        peer.close()
        with pytest.raises(StreamClosedError) as caught:
            await read
        assert caught.value.real_error is None
        assert str(caught.value) == "Stream is closed"
        assert await stream.read_bytes(5) == b"short"
        with pytest.raises(StreamClosedError):
            stream.read_bytes(1)


async def test_a_second_read_at_a_time_is_refused() -> None:
    with connected() as (stream, peer):
        first = stream.read_bytes(1)
        with pytest.raises(RuntimeError, match="a read is waiting"):
            stream.read_bytes(1)
        await peer.send(b"x")
        assert await first == b"x"


@pytest.mark.parametrize("regex", [False, True])
async def test_max_bytes_closes_a_stream_without_the_delimiter(regex: bool) -> None:
    for data in (b"x" * 11, b"x" * 9 + b"\r\n"):
        with connected() as (stream, peer):
            await peer.send(data)
            read = (
                stream.read_until_regex(b"\r\n", max_bytes=10)
                if regex
                else stream.read_until(b"\r\n", max_bytes=10)
            )
            with pytest.raises(StreamClosedError) as caught:
                await read
            assert isinstance(caught.value.real_error, UnsatisfiableReadError)
            assert stream.closed()
    with connected() as (stream, peer):
        await peer.send(b"x" * 8 + b"\r\n")
        assert await stream.read_until(b"\r\n", max_bytes=10) == b"x" * 8 + b"\r\n"


async def test_a_read_gathers_no_more_than_max_buffer_size() -> None:
    with connected(max_buffer_size=100_000) as (stream, peer):
        read = stream.read_until_close()
        sending = asyncio.create_task(peer.send(b"x" * 10_000_000))
        with pytest.raises(StreamClosedError) as caught:
            await read
        assert isinstance(caught.value.real_error, StreamBufferFullError)
        assert len(stream._buffer) <= 100_000 + stream.read_chunk_size
        await asyncio.wait([sending])
        assert isinstance(sending.exception(), ConnectionError)


async def test_short_reads_are_counted_against_max_buffer_size() -> None:
    """What trickles in is bounded like what comes at once."""
    with connected(max_buffer_size=10_000) as (stream, peer):
        read = stream.read_until_close()
        for _ in range(11):
            assert not stream.closed()
            before = len(stream._buffer)
            await peer.send(b"x" * 1_000)
            await until(lambda before=before: len(stream._buffer) > before or stream.closed())
        with pytest.raises(StreamClosedError) as caught:
            await read
        assert isinstance(caught.value.real_error, StreamBufferFullError)


async def test_nothing_is_read_that_nobody_asked_for() -> None:
    with connected() as (stream, peer):
        read = stream.read_bytes(1)
        await peer.send(b"a")
        assert await read == b"a"
        await peer.send(b"b" * 10)
        await until(lambda: stream.fileno() not in watched_files())
        assert not stream._buffer
        assert await stream.read_bytes(10) == b"b" * 10


async def test_the_time_for_a_delimiter_grows_with_the_data_not_its_square() -> None:
    async def seconds(size: int) -> float:
        with connected() as (stream, peer):
            began = time.process_time()
            read = stream.read_until(b"END")
            await peer.send(b"E" * size + b"END")
            await read
            return time.process_time() - began

    await seconds(100_000)
    small = min([await seconds(1_000_000) for _ in range(3)])
    large = min([await seconds(10_000_000) for _ in range(2)])
    assert large < 30 * max(small, 0.001)


async def test_the_close_callback_tells_of_a_peer_that_left_while_nobody_reads() -> None:
    with connected() as (stream, peer):
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        peer.close()
        await closed.wait()
        assert stream.closed()
        assert stream.fileno() == -1
        assert repr(stream) == "<IOStream closed>"


async def test_the_close_callback_is_called_once_and_from_the_loop() -> None:
    with connected() as (stream, _):
        calls: list[str] = []
        stream.set_close_callback(lambda: calls.append("closed"))
        stream.close()
        stream.close()
        assert calls == []
        await asyncio.sleep(0.01)
        assert calls == ["closed"]


async def test_a_close_callback_taken_back_is_not_called() -> None:
    with connected() as (stream, _):
        stream.set_close_callback(pytest.fail)
        stream.set_close_callback(None)
        stream.close()
        await asyncio.sleep(0.01)


async def test_the_watch_for_the_close_holds_unread_data_back_only_a_little() -> None:
    """Data on a stream with a close callback is read once, then left to the system."""
    with connected() as (stream, peer):
        stream.set_close_callback(lambda: None)
        await peer.send(b"x" * 300_000)
        await until(lambda: stream.fileno() not in watched_files())
        assert len(stream._buffer) <= stream.read_chunk_size
        assert await stream.read_bytes(300_000) == b"x" * 300_000


async def test_close_takes_its_reason_in_three_forms() -> None:
    for form in ("exception", "exc_info", "true"):
        with connected() as (stream, _):
            error = KeyError(form)
            try:
                raise error
            except KeyError as caught:
                given = {"exception": caught, "exc_info": (KeyError, caught, None), "true": True}
                stream.close(exc_info=given[form])  # type: ignore[arg-type]
            assert stream.error is error


async def test_a_stream_without_a_loop_says_what_is_missing() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs, pytest.raises(RuntimeError, match="needs an event loop"):
        await asyncio.to_thread(IOStream, ours)


async def test_unread_data_is_read_first() -> None:
    with connected() as (stream, peer):
        await peer.send(b"world")
        stream.unread(b"hello ")
        assert await stream.read_bytes(11) == b"hello world"


async def test_bad_arguments_are_refused() -> None:
    with connected() as (stream, _):
        with pytest.raises(ValueError, match="-1 bytes"):
            stream.read_bytes(-1)
        with pytest.raises(ValueError, match="delimiter is empty"):
            stream.read_until(b"")
        with pytest.raises(re.error):
            stream.read_until_regex(b"(")
