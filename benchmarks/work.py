"""The work of a measurement, upon a session that is open; every response is checked.

Each function of `WORK` takes the session and the task, and returns a sample: numbers by name,
``requests``, ``seconds`` (of wall clock) and ``cpu_seconds`` (of this process, system calls
included) among them.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.clients.session import Body, Session
from benchmarks.servers.content import BODY, REQUEST_ID

Sample = dict[str, Any]
Task = dict[str, Any]
"""What `benchmarks.worker` was given."""

_EDGE: Final = 64
"""Bytes that are looked at, at each end of a large body and of its pieces."""
_TICK_SECONDS: Final = 0.001
_MEMORY_SAMPLES: Final = 100
_STEP: Final = 2000
"""New connections at a time."""


class WrongResponse(Exception):
    """A response that is not what the server sends."""


def memory() -> int:
    """Bytes that are resident now; where the system does not tell, the most that ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


async def get(session: Session, task: Task) -> Sample:
    """Small GETs, so many in flight, for so long and until there were ``at_least`` so many times as
    many; ``urls`` take turns."""
    fetch = _small(session, task)
    await _warm_up(fetch, task)
    return await _keep_going(fetch, task["in_flight"], task["seconds"], task.get("at_least", 1))


async def varied(session: Session, task: Task) -> Sample:
    """Small GETs as `get`, none like another: each has its own path below ``urls`` and its own
    `REQUEST_ID`, which is read from the response and has to be the same there."""
    url = task["urls"][0]
    numbers = itertools.count(1_000_000)  # of seven digits, so that all are equally long

    async def fetch() -> None:
        number = str(next(numbers))
        status, body, echoed = await session.get_varied(url + number, {REQUEST_ID: number})
        if status != 200 or body != BODY or echoed != number:
            words = f"status {status}, {bytes(body[:80])!r}, {REQUEST_ID} {echoed}"
            raise WrongResponse(f"{words} instead of {number}")

    await _warm_up(fetch, task)
    return await _keep_going(fetch, task["in_flight"], task["seconds"], at_least=1)


async def stall(session: Session, task: Task) -> Sample:
    """The same, and ``stall``: the most seconds that the loop was late for a timer.

    Less what its thread waited for its core, which another process had: that is nobody's fault.
    The timer starts when all are under way: to start so many at once is a burst of the caller's.
    """
    fetch, in_flight = _small(session, task), task["in_flight"]
    await _warm_up(fetch, task)
    late = 0.0
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle | None = None

    def tick(due: float, kept_waiting: float) -> None:
        nonlocal late
        late = max(late, loop.time() - due - (_kept_waiting() - kept_waiting))
        schedule()

    def schedule() -> None:
        nonlocal timer
        due = loop.time() + _TICK_SECONDS
        timer = loop.call_at(due, tick, due, _kept_waiting())

    found = await _keep_going(fetch, in_flight, task["seconds"], at_least=1, begun=schedule)
    assert timer is not None
    timer.cancel()
    return {**found, "stall": late}


def _kept_waiting() -> float:
    """Seconds for which this thread could have run and did not; 0 where no system tells."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


async def many(session: Session, task: Task) -> Sample:
    """``count`` small GETs, and resident ``memory`` a hundred times on the way."""
    fetch = _small(session, task)
    in_flight, count = task["in_flight"], task["count"]
    started = _Clock()
    sizes: list[int] = []
    for part in range(_MEMORY_SAMPLES):
        goal = count * (part + 1) // _MEMORY_SAMPLES - count * part // _MEMORY_SAMPLES
        left = iter(range(goal))

        async def slot(left: Any = left) -> None:
            for _ in left:
                await fetch()

        await asyncio.gather(*(slot() for _ in range(in_flight)))
        sizes.append(memory())
    return {**started.sample(count), "memory": sizes}


async def held(session: Session, task: Task) -> Sample:
    """``count`` GETs that the server holds back; resident bytes before, and with all in flight."""
    url, count = task["urls"][0], task["count"]
    _expect(await session.get(f"{url}/now"), BODY)
    gc.collect()
    before = memory()
    started = _Clock()
    requests: list[asyncio.Future[tuple[int, Body]]] = []
    for step in _steps(count):
        requests += [asyncio.ensure_future(session.get(f"{url}/held")) for _ in range(step)]
        waiting = asyncio.ensure_future(_ask(url, f"/wait/{len(requests)}"))
        # A request that fails would never be held: its words instead of a wait without end.
        both: list[asyncio.Future[Any]] = [waiting, *requests]
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for future in done - {waiting}:
            _expect(await future, b"held back")
    during = memory()
    await _ask(url, "/release")
    for response in await asyncio.gather(*requests):
        _expect(response, BODY)
    return {**started.sample(count), "before": before, "during": during}


async def read(session: Session, task: Task) -> Sample:
    """Download ``size`` zeros into memory."""
    url, size = task["urls"][0], task["size"]

    async def fetch() -> None:
        status, body = await session.get(url)
        if status != 200 or len(body) != size or not _zeros(body):
            raise WrongResponse(f"status {status}, {len(body)} bytes")

    return await _bodies(session, task, fetch)


async def stream(session: Session, task: Task) -> Sample:
    """Download ``size`` bytes and throw them away as they come."""
    url, size = task["urls"][0], task["size"]

    async def fetch() -> None:
        found = await session.download(url)
        if found[:2] != (200, size) or not _zeros(found.first) or not _zeros(found.last):
            raise WrongResponse(f"status {found.status}, {found.size} bytes")

    return await _bodies(session, task, fetch)


async def upload(session: Session, task: Task) -> Sample:
    """Upload ``size`` bytes that are in memory."""
    url, size = task["urls"][0], task["size"]
    body = b"." * size  # not bytes(size): all of its pages would be the same one

    async def fetch() -> None:
        _expect(await session.post(url, body), b"%d" % size)

    return await _bodies(session, task, fetch)


async def upload_stream(session: Session, task: Task) -> Sample:
    """Upload ``size`` bytes, handed over in pieces of ``chunk``."""
    url, size = task["urls"][0], task["size"]
    count, rest = divmod(size, task["chunk"])
    assert not rest
    chunk = bytes(task["chunk"])

    async def fetch() -> None:
        _expect(await session.post_chunks(url, chunk, count), b"%d" % size)

    return await _bodies(session, task, fetch)


WORK: Final[dict[str, Callable[[Session, Task], Awaitable[Sample]]]] = {
    work.__name__: work
    for work in (get, varied, stall, many, held, read, stream, upload, upload_stream)
}


# -- what they share


class _Clock:
    """Wall clock and CPU time from its making on."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    def sample(self, requests: int) -> Sample:
        cpu = time.process_time() - self._cpu
        return {"requests": requests, "seconds": self.seconds, "cpu_seconds": cpu}


Fetch = Callable[[], Awaitable[None]]


def _small(session: Session, task: Task) -> Fetch:
    """Fetches the next of ``urls``."""
    urls = itertools.cycle(task["urls"])

    async def fetch() -> None:
        status, body = await session.get(next(urls))
        if status != 200 or body != BODY:
            raise WrongResponse(f"status {status}, {bytes(body[:80])!r}")

    return fetch


def _expect(response: tuple[int, Body], body: bytes) -> None:
    if response[0] != 200 or response[1] != body:
        raise WrongResponse(f"status {response[0]}, {bytes(response[1][:80])!r}")


def _zeros(piece: Body) -> bool:
    """Whether both ends of a piece are what it has to consist of."""
    return not any(bytes(piece[:_EDGE])) and not any(bytes(piece[-_EDGE:]))


def _steps(count: int) -> list[int]:
    """`count` in parts that no queue of new connections is too short for."""
    return [min(_STEP, count - begun) for begun in range(0, count, _STEP)]


async def _warm_up(fetch: Fetch, task: Task) -> None:
    """Until the time is over, every slot has had a response, and so has every host and proxy."""
    clock = time.perf_counter
    end = clock() + task["warm_up"]
    left = max(len(task["urls"]), len(task.get("proxies", ())))
    joining = True

    async def slot() -> None:
        nonlocal left
        while joining or left > 0 or clock() < end:
            await fetch()
            left -= 1

    slots: list[asyncio.Task[None]] = []
    for step in _steps(task["in_flight"]):
        await asyncio.gather(*(fetch() for _ in range(step)))
        slots += [asyncio.create_task(slot()) for _ in range(step)]
    joining = False
    await asyncio.gather(*slots)


async def _keep_going(
    fetch: Fetch,
    in_flight: int,
    seconds: float,
    at_least: int,
    begun: Callable[[], None] = lambda: None,
) -> Sample:
    """Keep `in_flight` requests going for `seconds`, and until there were `at_least` times as many.

    The clock starts when every slot has had a response, of which `begun` is told, and stops before
    the first of them ends: measured is what so many cost in flight, not what it costs to begin
    them.
    """
    clock = time.perf_counter
    answered = ended = 0
    end = 0.0
    started: _Clock | None = None
    sample: Sample | None = None

    async def slot() -> None:
        nonlocal answered, ended, end, started, sample
        await fetch()
        answered += 1
        if answered == in_flight:
            begun()
            started = _Clock()
            end = clock() + seconds
        while sample is None:
            await fetch()
            if started is not None:
                ended += 1
                if ended >= at_least * in_flight and clock() >= end and sample is None:
                    sample = started.sample(ended)

    await asyncio.gather(*(slot() for _ in range(in_flight)))
    assert sample is not None
    return sample


async def _bodies(session: Session, task: Task, fetch: Fetch) -> Sample:
    """One after the other for so long, and ``at_least`` so many.

    One more comes before the clock: it grows the buffers, the kernel's as well, and it is one alone
    because of the clients that take seconds for a gigabyte.
    """
    await fetch()
    started = _Clock()
    requests = 0
    while requests < task["at_least"] or started.seconds < task["seconds"]:
        await fetch()
        requests += 1
    return started.sample(requests)


async def _ask(url: str, path: str) -> None:
    """GET from `benchmarks.servers.raw`, beside the session."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(BODY)
    writer.close()
    await writer.wait_closed()
