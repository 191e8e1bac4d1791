"""Connecting, writing, and what closes a stream."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from pathlib import Path

import pytest

from whimbrel.iostream import IOStream, StreamBufferFullError, StreamClosedError

from .support import Peer, connected, tcp_pair, until

BIG = os.urandom(4096) * 1000


async def test_writes_go_in_order_and_their_futures_tell_when() -> None:
    with connected() as (stream, peer):
        small = stream.write(b"first,")
        assert small.done()
        big = stream.write(BIG)
        last = stream.write(b",last")
        assert not big.done()
        assert stream.writing()
        assert stream.unsent > 0
        assert await peer.receive(6 + len(BIG) + 5) == b"first," + BIG + b",last"
        await asyncio.gather(small, big, last)
        assert not stream.writing()
        assert stream.unsent == 0


async def test_an_empty_write_is_done_when_what_came_before_it_is() -> None:
    with connected() as (stream, peer):
        assert stream.write(b"").done()
        big = stream.write(BIG)
        empty = stream.write(b"")
        assert not empty.done()
        await peer.receive(len(BIG))
        await empty
        assert big.done()


async def test_cancelling_a_write_does_not_stop_its_data() -> None:
    with connected() as (stream, peer):
        stream.write(BIG).cancel()
        last = stream.write(b"end")
        assert (await peer.receive(len(BIG) + 3))[-3:] == b"end"
        await last


async def test_a_buffer_may_be_changed_as_soon_as_write_returns() -> None:
    with connected() as (stream, peer):
        data = bytearray(BIG)
        stream.write(memoryview(data))
        data[:] = bytes(len(data))
        assert await peer.receive(len(BIG)) == BIG


async def test_max_write_buffer_size_bounds_what_waits() -> None:
    with connected(max_write_buffer_size=5_000_000) as (stream, peer):
        first = stream.write(BIG)
        waiting = stream.unsent
        with pytest.raises(StreamBufferFullError, match="Reached maximum write buffer size"):
            stream.write(b"x" * (5_000_001 - waiting))
        await peer.receive(len(BIG))
        await first


async def test_many_small_writes_to_a_slow_peer_take_linear_time() -> None:
    async def seconds(count: int) -> float:
        with connected() as (stream, peer):
            stream.write(BIG)
            began = time.process_time()
            for _ in range(count):
                last = stream.write(b"x" * 10)
            await peer.receive(len(BIG) + 10 * count)
            await last
            return time.process_time() - began

    small = min([await seconds(3_000) for _ in range(3)])
    large = min([await seconds(30_000) for _ in range(2)])
    assert large < 30 * max(small, 0.001)


async def test_small_writes_that_wait_go_out_together() -> None:
    """A slow peer costs a system call for 64 KiB, not for each piece."""
    with connected() as (stream, peer):
        stream.write(BIG)
        for _ in range(10_000):
            stream.write(b"x" * 10)
        calls: list[int] = []
        send = stream._send

        def counted(data: bytes) -> int:
            calls.append(len(data))
            return send(data)

        stream._send = counted
        await peer.receive(len(BIG) + 100_000)
        assert len([size for size in calls if size <= 65536]) < 200


async def test_writing_to_a_peer_that_reset_fails_with_its_error() -> None:
    with connected() as (stream, peer):
        big = stream.write(BIG)
        peer.reset()
        with pytest.raises(StreamClosedError) as caught:
            await big
        assert isinstance(caught.value.real_error, ConnectionError)
        assert stream.closed()
        with pytest.raises(StreamClosedError):
            stream.write(b"more")


async def test_closing_fails_writes_under_way_and_drops_their_data() -> None:
    with connected() as (stream, peer):
        big = stream.write(BIG)
        stream.close()
        with pytest.raises(StreamClosedError):
            await big
        assert len(await peer.receive_all()) < len(BIG)


async def test_write_eof_ends_one_side_after_all_has_been_sent() -> None:
    with connected() as (stream, peer):
        stream.write(BIG)
        stream.write_eof()
        assert await peer.receive_all() == BIG
        await peer.send(b"reply")
        assert await stream.read_bytes(5) == b"reply"


async def test_set_nodelay_sets_the_socket_option() -> None:
    with connected() as (stream, _):
        for value in (True, False):
            stream.set_nodelay(value)
            option = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert bool(option) is value
    one, other = socket.socketpair()
    with other:
        stream = IOStream(one)
        stream.set_nodelay(True)  # a unix socket has no such thing
        stream.close()


@contextlib.asynccontextmanager
async def unconnected(family: int = socket.AF_INET):  # type: ignore[no-untyped-def]
    stream = IOStream(socket.socket(family, socket.SOCK_STREAM))
    try:
        yield stream
    finally:
        stream.close()


async def test_reads_and_writes_may_begin_before_the_connection_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with unconnected() as stream:
            connecting = stream.connect(listener.getsockname())
            read = stream.read_until(b"\n")
            stream.write(b"hello")
            listener.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            peer = Peer(accepted)
            assert await connecting is stream
            assert await peer.receive(5) == b"hello"
            await peer.send(b"answer\n")
            assert await read == b"answer\n"
            peer.close()


async def test_a_refused_connection_fails_with_the_system_s_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    async with unconnected() as stream:
        with pytest.raises(StreamClosedError, match="Connection refused") as caught:
            await stream.connect(address)
        assert isinstance(caught.value.real_error, ConnectionRefusedError)
        assert caught.value.real_error.errno == errno.ECONNREFUSED
        assert stream.error is caught.value.real_error


async def test_unix_sockets_connect_or_say_why_not(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with unconnected(socket.AF_UNIX) as stream:
        with pytest.raises(StreamClosedError) as caught:
            await stream.connect(path)
        assert isinstance(caught.value.real_error, FileNotFoundError)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        async with unconnected(socket.AF_UNIX) as stream:
            assert await stream.connect(path) is stream


async def test_a_unix_socket_with_a_full_backlog_is_not_taken_for_connected(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        for _ in range(5):
            stream = IOStream(socket.socket(socket.AF_UNIX))
            stack.callback(stream.close)
            outcome = stream.connect(path)
            await asyncio.wait([outcome])
            if outcome.exception() is not None:
                break
        assert isinstance(stream.error, BlockingIOError)


async def test_closing_while_connecting_fails_the_connection() -> None:
    async with unconnected() as stream:
        connecting = stream.connect(("192.0.2.1", 9))  # TEST-NET-1: nobody answers
        if connecting.done():
            pytest.skip("there is no route to TEST-NET-1 here")
        stream.close()
        with pytest.raises(StreamClosedError):
            await connecting


async def test_release_gives_the_socket_away() -> None:
    ours, theirs = tcp_pair()
    stream, peer = IOStream(ours), Peer(theirs)
    read = stream.read_bytes(1)
    with pytest.raises(ValueError, match="not idle"):
        stream.release()
    await peer.send(b"x")
    await read
    sock = stream.release()
    assert stream.closed()
    stream.close()
    await peer.send(b"still open")
    assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"still open"
    sock.close()
    peer.close()


async def test_closing_twice_never_closes_a_stranger_s_descriptor() -> None:
    with connected() as (stream, _):
        fd = stream.fileno()
        stream.close()
        stranger = os.open(os.devnull, os.O_RDONLY)
        os.dup2(stranger, fd)
        if stranger != fd:
            os.close(stranger)
        stream.close()
        os.close(fd)  # raises if it is closed already


async def test_a_loop_that_is_closed_does_not_keep_a_stream_from_closing() -> None:
    ours, theirs = tcp_pair()
    loop = asyncio.new_event_loop()

    async def make() -> IOStream:
        stream = IOStream(ours)
        stream.read_bytes(1)
        stream.set_close_callback(lambda: None)
        return stream

    stream = await asyncio.get_running_loop().run_in_executor(
        None, lambda: loop.run_until_complete(make())
    )
    loop.close()
    stream.close()
    assert ours.fileno() == -1
    theirs.close()
    await until(stream.closed)
