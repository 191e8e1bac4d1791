"""The program whose work is counted: requests over kept connections.

    python -m benchmarks.guard.load WHAT URL COUNT [SWITCH]

WHAT is "curl" or "simple", for one URL over and over, one request at a time; either with " varied"
behind it, for requests of which each has a URL and a header of its own, and that header in its
response, where it is read; either with a number behind it, for so many in flight; or "bare": the
exchange of one URL written by hand, on a socket and the loop and nothing else. COUNT, of all that
are counted, is a multiple of what is in flight. SWITCH is the library made of switch.c, for a run
in callgrind.

Several in flight are served together: the server (server.py) answers when it has heard from all of
them, and the program, once awake, waits until all answers are there. Who comes first, and how many
come in one turn of the loop, would be another matter each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import selectors
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from benchmarks.guard.server import BODY, REQUEST_ID

Fetch = Callable[[], Awaitable[None]]

_WARM_UP: Final = 30
"""Requests of each in flight that are not counted."""
_MAX_CLIENTS: Final = 10
"""The client's default, which is raised to what is in flight."""
_LATE_SECONDS: Final = 0.005
"""Much more than the server takes to answer all who are in flight."""
_TICK_SECONDS: Final = 2e-6
"""By how much time moves on at each look at the clock, where it is ours."""


class _LateSelector(selectors.EpollSelector):
    """Gives what was waited for late, when everything that belongs to it is there as well."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout)
        if found and timeout != 0:
            time.sleep(_LATE_SECONDS)
            found = super().select(0)
        return found


def in_flight(what: str) -> int:
    """How many requests a load has at a time."""
    load = what.partition(" ")[2]
    return int(load) if load.isdecimal() else 1


def _runner(count: int) -> asyncio.Runner:
    """What runs `count` in flight."""
    if count == 1:
        return asyncio.Runner()
    # A turn of the loop ends when its share of time is over, which in valgrind it is at once: so a
    # clock that goes by how often it is looked at. It is made of C, since looks are counted, too;
    # and nothing of the client is imported yet, which keeps the function that it finds.
    time.monotonic = itertools.count(time.monotonic(), _TICK_SECONDS).__next__
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_LateSelector()))


@asynccontextmanager
async def _whimbrel(what: str, url: str) -> AsyncIterator[Fetch]:
    from whimbrel.httpclient import AsyncHTTPClient

    backend, _, load = what.partition(" ")
    AsyncHTTPClient.configure(backend)
    # How often it looks again depends on how fast the machine is, and is nothing to count.
    async with AsyncHTTPClient(
        force_instance=True, busy_poll=0, max_clients=max(_MAX_CLIENTS, in_flight(what))
    ) as client:
        numbers = itertools.count(1_000_000)  # of seven digits, so that all are equally long

        async def fetch() -> None:
            response = await client.fetch(url)
            assert response.code == 200
            assert response.body == BODY

        async def fetch_varied() -> None:
            number = str(next(numbers))
            response = await client.fetch(f"{url}{number}", headers={REQUEST_ID: number})
            assert response.code == 200
            assert response.headers[REQUEST_ID] == number
            assert response.body == BODY

        yield fetch_varied if load == "varied" else fetch


@asynccontextmanager
async def _bare(url: str) -> AsyncIterator[Fetch]:
    loop = asyncio.get_running_loop()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\n\r\n".encode()
    with contextlib.closing(socket.create_connection((str(host), port or 80))) as sock:
        sock.setblocking(False)
        answer: asyncio.Future[bytes] = loop.create_future()

        def readable() -> None:
            answer.set_result(sock.recv(65536))

        async def fetch() -> None:
            nonlocal answer
            answer = loop.create_future()
            sock.send(request)
            received = await answer
            head, _, body = received.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:])
            assert lines[0].split(" ", 2)[1] == "200"
            assert int(fields["Content-Length"]) == len(body)
            assert body == BODY

        loop.add_reader(sock, readable)
        yield fetch
        loop.remove_reader(sock)


async def _run(what: str, url: str, count: int, switch: str | None) -> None:
    library = ctypes.CDLL(switch) if switch else None
    async with _bare(url) if what == "bare" else _whimbrel(what, url) as fetch:
        await _repeat(fetch, what, _WARM_UP)
        # What there is now is not looked through again: whether a full collection falls into the
        # count or not would make a difference.
        gc.collect()
        gc.freeze()
        if library is not None:
            library.start()
        await _repeat(fetch, what, count // in_flight(what))
        if library is not None:
            library.stop()


async def _repeat(fetch: Fetch, what: str, each: int) -> None:
    async def slot() -> None:
        for _ in range(each):
            await fetch()

    if (count := in_flight(what)) == 1:
        await slot()  # no task beside this one, whose making would be counted
    else:
        await asyncio.gather(*(slot() for _ in range(count)))


if __name__ == "__main__":
    what, url, count, *switch = sys.argv[1:]
    with _runner(in_flight(what)) as runner:
        runner.run(_run(what, url, int(count), switch[0] if switch else None))
