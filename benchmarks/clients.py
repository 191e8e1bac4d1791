"""The clients of a benchmark, each measured in a process of its own, pinned to a core.

    python -m benchmarks.clients NAME URL IN_FLIGHT SECONDS WARM_UP CORE

prints one measurement as JSON; CORE is a number, or -1 for wherever the system likes.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

from benchmarks.servers import BODY

Fetch = Callable[[], Awaitable[None]]
"""Fetches the URL once, through the client's public interface, and checks status and body."""

Opener = Callable[[str, int], AbstractAsyncContextManager[Fetch]]
"""Makes a client for a URL and a number of requests in flight."""


def _whimbrel(backend: str) -> Opener:
    @asynccontextmanager
    async def open_client(url: str, in_flight: int) -> AsyncIterator[Fetch]:
        from whimbrel.httpclient import AsyncHTTPClient

        AsyncHTTPClient.configure(backend)
        async with AsyncHTTPClient(force_instance=True, max_clients=in_flight) as client:

            async def fetch() -> None:
                response = await client.fetch(url)
                assert response.code == 200
                assert response.body == BODY

            yield fetch

    return open_client


@asynccontextmanager
async def _aiohttp(url: str, in_flight: int) -> AsyncIterator[Fetch]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def fetch() -> None:
            async with session.get(url) as response:
                body = await response.read()
            assert response.status == 200
            assert body == BODY

        yield fetch


def _tornado(backend: str) -> Opener:
    @asynccontextmanager
    async def open_client(url: str, in_flight: int) -> AsyncIterator[Fetch]:
        from tornado.httpclient import AsyncHTTPClient

        AsyncHTTPClient.configure(backend, max_clients=in_flight)
        client = AsyncHTTPClient(force_instance=True)

        async def fetch() -> None:
            response = await client.fetch(url)
            assert response.code == 200
            assert response.body == BODY

        yield fetch
        client.close()

    return open_client


class Client(NamedTuple):
    """A client and what it needs.

    Attributes:
        open: makes it.
        packages: the distributions whose versions count, the one that is measured first; all
            have to be installed.
        uvloop: whether it runs on uvloop instead of asyncio's own loop.
    """

    open: Opener
    packages: tuple[str, ...]
    uvloop: bool = False

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if not importlib.util.find_spec(name)]

    @property
    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in self.packages}


CURL: Final = "whimbrel curl"
SIMPLE: Final = "whimbrel simple"
AIOHTTP: Final = "aiohttp"
TORNADO_CURL: Final = "Tornado curl"
TORNADO_SIMPLE: Final = "Tornado simple"

_curl = _whimbrel("whimbrel.curl_httpclient.CurlAsyncHTTPClient")
_simple = _whimbrel("whimbrel.simple_httpclient.SimpleAsyncHTTPClient")

CLIENTS: Final = {
    CURL: Client(_curl, ("whimbrel", "pycurl")),
    f"{CURL}, uvloop": Client(_curl, ("whimbrel", "pycurl", "uvloop"), uvloop=True),
    SIMPLE: Client(_simple, ("whimbrel",)),
    f"{SIMPLE}, uvloop": Client(_simple, ("whimbrel", "uvloop"), uvloop=True),
    AIOHTTP: Client(_aiohttp, ("aiohttp",)),
    TORNADO_CURL: Client(
        _tornado("tornado.curl_httpclient.CurlAsyncHTTPClient"), ("tornado", "pycurl")
    ),
    TORNADO_SIMPLE: Client(
        _tornado("tornado.simple_httpclient.SimpleAsyncHTTPClient"), ("tornado",)
    ),
}


class Sample(NamedTuple):
    """One measurement.

    Attributes:
        requests: how many were completed.
        seconds: of wall clock, from the first start to the last end.
        cpu_seconds: that the client's process spent, system calls included.
    """

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def microseconds(self) -> float:
        """CPU time a request."""
        return self.cpu_seconds / self.requests * 1e6


async def _run(fetch: Fetch, in_flight: int, seconds: float) -> Sample:
    """Keep `in_flight` requests going for `seconds`; each slot makes at least one."""
    clock = time.perf_counter
    started, cpu = clock(), time.process_time()
    end = started + seconds

    async def slot() -> int:
        requests = 0
        while not requests or clock() < end:
            await fetch()
            requests += 1
        return requests

    counts = await asyncio.gather(*(slot() for _ in range(in_flight)))
    return Sample(sum(counts), clock() - started, time.process_time() - cpu)


async def _measure(client: Client, url: str, in_flight: int, seconds: float, warm: float) -> Sample:
    async with client.open(url, in_flight) as fetch:
        await _run(fetch, in_flight, warm)
        return await _run(fetch, in_flight, seconds)


def sample(
    name: str, url: str, in_flight: int, seconds: float, warm_up: float, core: int | None
) -> Sample:
    """Measure the client called `name` in a process of its own.

    Raises:
        RuntimeError: the process failed (its words are on stderr).
    """
    arguments = [name, url, in_flight, seconds, warm_up, -1 if core is None else core]
    # Some clients obey the environment's proxies; none of them is to.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.clients", *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"{name} failed")
    return Sample(*json.loads(child.stdout))


def _main(name: str, url: str, in_flight: str, seconds: str, warm_up: str, core: str) -> None:
    if int(core) >= 0:
        os.sched_setaffinity(0, {int(core)})
    client = CLIENTS[name]
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if client.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(_measure(client, url, int(in_flight), float(seconds), float(warm_up)))
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
