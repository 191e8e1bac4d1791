"""Matrix 24, 42, 45, 59, 60, 61: many of them, for long, and with nothing to spare."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from conformance.support import settled
from conftest import open_files
from shortage import no_descriptors
from whimbrel.httpclient import HTTPError, HTTPStreamClosedError, HTTPTimeoutError
from whimbrel.testing.scripted import ScriptedServer, canned, ok, respond

from .byhand import hand_server
from .origin import origin_process


class Stalls:
    """How long the loop stands still: milliseconds between turns, above what was asked for."""

    INTERVAL = 0.005

    def __init__(self) -> None:
        self.all: list[float] = []

    async def __aenter__(self) -> Stalls:
        self._task = asyncio.ensure_future(self._measure())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _measure(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self.INTERVAL)
            self.all.append((time.perf_counter() - began - self.INTERVAL) * 1000)

    @property
    def p99(self) -> float:
        return sorted(self.all)[int(len(self.all) * 0.99)]


# -- 24


async def test_matrix_24_a_million_tiny_chunks(client: Any) -> None:
    """One-byte chunks take their time, and leave the loop to others in between."""
    body = b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ScriptedServer(respond(head + body)) as server, Stalls() as stalls:
        response = await client.fetch(server.url(), request_timeout=25)
        assert response.body == b"x" * 1_000_000
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        # uvloop reads up to 32 times before it looks at its timers.
        assert len(stalls.all) > 20
        assert stalls.p99 < 250


# -- 42


async def test_matrix_42_no_descriptor_for_the_first_request(client: Any) -> None:
    """A client that has never had a connection fails by its future, and works afterwards."""
    async with ScriptedServer(canned(ok())) as server:
        with no_descriptors():
            fetches = [client.fetch(server.url(), request_timeout=5) for _ in range(20)]
            outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, HTTPError)
            assert not isinstance(outcome, HTTPTimeoutError)
            assert outcome.stage == "connect"
        assert (await client.fetch(server.url())).code == 200


# -- 45


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_matrix_45_many_at_once(
    make_client: Callable[..., Any], count: int, record_property: Callable[[str, object], None]
) -> None:
    """All succeed, exactly `max_clients` are under way, and the loop goes on turning."""
    client = make_client(max_clients=count, defaults={"request_timeout": 28})
    with origin_process() as origin:
        async with Stalls() as stalls:
            fetches = [client.fetch(f"{origin}/hold/{count}") for _ in range(2 * count)]
            while len(client.queue) > count:  # noqa: ASYNC110 (they go ahead by turns)
                await asyncio.sleep(0)
            bodies = [(await fetch).body for fetch in fetches]
        assert bodies == [b"held"] * (2 * count)
        assert int((await client.fetch(f"{origin}/peak")).body) == count
        assert len(client._pool.live) <= count
    record_property("stall_p99_ms", stalls.p99)


# -- 59


async def _many(client: Any, origin: str, count: int, kind: str) -> None:
    """`count` fetches, some at a time."""
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if kind == "requests":
                assert (await client.fetch(f"{origin}/x")).body == b"/x"
            elif kind == "errors":
                with pytest.raises(HTTPStreamClosedError):
                    await client.fetch(f"{origin}/error")
            else:
                fetch = client.fetch(f"{origin}/never")
                for _ in range(left % 7):
                    await asyncio.sleep(0)
                fetch.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await fetch

    await asyncio.gather(*(worker() for _ in range(10)))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("requests", 20_000), ("errors", 4_000), ("cancels", 4_000)]
)
async def test_matrix_59_memory_and_descriptors_stay(
    make_client: Callable[..., Any], kind: str, count: int
) -> None:
    """After a while of warming up neither grows, whether fetches succeed, fail or are dropped."""
    client = make_client()
    with origin_process() as origin:
        await _many(client, origin, count // 4, kind)
        gc.collect()
        objects, memory, files = len(gc.get_objects()), _resident(), open_files()
        await _many(client, origin, count, kind)
        await settled(lambda: len(client._pool.live))
        gc.collect()
        assert len(gc.get_objects()) - objects < 300
        assert _resident() - memory < 2 * 1024 * 1024
        assert (open_files() - files)["socket"] <= 10
        assert len(client._pool.live) <= 10


# -- 60


async def test_matrix_60_a_descriptors_number_is_anothers_by_now(
    make_client: Callable[..., Any],
) -> None:
    """Two connections can be read in one turn; the callback of the first closes the second and
    opens something else, which gets its number and must hear of nothing."""
    first, second = make_client(), make_client()
    loop = asyncio.get_running_loop()
    heard: list[int] = []
    taken: list[socket.socket] = []

    def callback(victim: Any) -> Callable[[bytes], None]:
        def close_the_other(piece: bytes) -> None:
            if taken:
                return
            (connection,) = victim._pool.live
            number = connection.stream.fileno()
            victim.close()
            ours, theirs = socket.socketpair()
            taken.extend((ours, theirs))
            assert number in (ours.fileno(), theirs.fileno())
            loop.add_reader(number, heard.append, number)

        return close_the_other

    with hand_server() as server:
        fetches = [
            client.fetch(server.url(), streaming_callback=callback(victim))
            for client, victim in ((first, second), (second, first))
        ]
        peers = [await server.meet() for _ in fetches]
        for peer in peers:
            await asyncio.to_thread(peer.read_head)
        for peer in peers:
            peer.send(ok(b"body"))
        for client in (first, second):
            (connection,) = client._pool.live
            connection.stream.socket.setblocking(False)
            while not _readable(connection.stream.socket):
                time.sleep(0.001)  # noqa: ASYNC251 (the loop is to stand still)
        outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not heard
        for sock in taken:
            loop.remove_reader(sock)
            sock.close()
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(taken) == 2
    assert len(failed) == 1
    assert isinstance(failed[0], HTTPStreamClosedError)


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


# -- 61

PROGRAM = """
import asyncio, gc, sys
from whimbrel.httpclient import HTTPError
from whimbrel.simple_httpclient import SimpleAsyncHTTPClient
from whimbrel.testing.scripted import ScriptedServer, canned, ok, silent_server

async def produce(write):
    await write(b"body")

async def consume(piece):
    await asyncio.sleep(0)

async def main():
    client = SimpleAsyncHTTPClient(force_instance=True, trust_env=False)
    async with ScriptedServer(canned(ok(b"x" * 100000))) as server, silent_server() as quiet:
        for options in (
            {},
            {"method": "POST", "body": b"x" * 1000000},
            {"method": "PUT", "body_producer": produce},
            {"streaming_callback": consume},
            {"request_timeout": 5, "stall_timeout": 5},
        ):
            await asyncio.gather(*(client.fetch(server.url(), **options) for _ in range(15)))
        async with client.stream(server.url()) as response:
            await response.read()
        async with client.stream(server.url()):
            pass
        for failing in (
            client.fetch(quiet.url(), request_timeout=0.05),
            client.fetch(quiet.url(scheme="https"), connect_timeout=0.05),
            client.fetch("http://127.0.0.1:1/"),
        ):
            try:
                await failing
            except HTTPError:
                pass
            else:
                raise AssertionError
        cancelled = client.fetch(quiet.url())
        await quiet.accepted(3)
        cancelled.cancel()
        in_flight = client.fetch(quiet.url())
        await quiet.accepted(4)
        client.close()
        try:
            await in_flight
        except HTTPError:
            pass
    del client
    gc.collect()

if sys.argv[1] == "uvloop":
    import uvloop as loops
else:
    loops = asyncio
with asyncio.Runner(loop_factory=loops.new_event_loop, debug=sys.argv[2] == "debug") as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("mode", ["debug", "production"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_matrix_61_debug_mode_and_uvloop_are_clean(loop: str, mode: str) -> None:
    """asyncio's debug mode, uvloop, -X dev and -W error: not a word on stderr."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(PROGRAM), loop, mode],
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The one thing debug mode may say is how busy this machine is.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout, said) == (0, "", [])
