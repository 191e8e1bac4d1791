"""The program whose work is counted: requests over one kept connection, one after the other.

    python -m benchmarks.guard.load WHAT URL COUNT [SWITCH]

WHAT is "curl" or "simple", for one URL over and over; either with " varied" behind it, for requests
of which each has a URL and a header of its own, and that header in its response, where it is read;
or "bare": the exchange of one URL written by hand, on a socket and the loop and nothing else.
SWITCH is the library made of switch.c, for a run in callgrind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from benchmarks.guard.server import BODY, REQUEST_ID

Fetch = Callable[[], Awaitable[None]]

_WARM_UP: Final = 30


@asynccontextmanager
async def _whimbrel(backend: str, load: str, url: str) -> AsyncIterator[Fetch]:
    from whimbrel.httpclient import AsyncHTTPClient

    AsyncHTTPClient.configure(backend)
    # How often it looks again depends on how fast the machine is, and is nothing to count.
    async with AsyncHTTPClient(force_instance=True, busy_poll=0) as client:
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
    backend, _, load = what.partition(" ")
    async with _bare(url) if what == "bare" else _whimbrel(backend, load, url) as fetch:
        await _repeat(fetch, _WARM_UP)
        # What there is now is not looked through again: whether a full collection falls into the
        # count or not would make a difference.
        gc.collect()
        gc.freeze()
        if library is not None:
            library.start()
        await _repeat(fetch, count)
        if library is not None:
            library.stop()


async def _repeat(fetch: Fetch, count: int) -> None:
    for _ in range(count):
        await fetch()


if __name__ == "__main__":
    what, url, count, *switch = sys.argv[1:]
    asyncio.run(_run(what, url, int(count), switch[0] if switch else None))
