"""The resolver: threads that nobody waits for, shared look-ups, remembered answers."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from whimbrel._simple.resolve import Address, Addresses, Resolver, literal, system_look_up

HERE = (Address(socket.AF_INET, "127.0.0.1"),)


class System:
    """A system whose look-ups are counted, and wait for `release` if they are told to."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.asked: list[tuple[str, int]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.release = threading.Event()
        if not stuck:
            self.release.set()
        self._lock = threading.Lock()

    def __call__(self, host: str, family: int) -> Addresses:
        with self._lock:
            self.asked.append((host, family))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.release.wait(20)
        with self._lock:
            self.at_once -= 1
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return HERE


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., tuple[Resolver, System]]]:
    """Make a resolver and its system; at the end the look-ups are released, the threads awaited."""
    made: list[tuple[Resolver, System]] = []

    def factory(*, stuck: bool = False, **options: Any) -> tuple[Resolver, System]:
        system = System(stuck=stuck)
        made.append((Resolver(system, **options), system))
        return made[-1]

    yield factory
    for resolver, system in made:
        resolver.close()
        system.release.set()
        await until(lambda resolver=resolver: not resolver.threads)


async def until(condition: Callable[[], Any]) -> None:
    """Wait, a few milliseconds at a time, for what another thread brings about."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


# -- without a thread


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", [("127.0.0.1", 80)]),
        ("::1", [("::1", 80, 0, 0)]),
        ("localhost", [("::1", 80, 0, 0), ("127.0.0.1", 80)]),
        ("localhost.", [("::1", 80, 0, 0), ("127.0.0.1", 80)]),
        ("a.b.localhost", [("::1", 80, 0, 0), ("127.0.0.1", 80)]),
    ],
)
async def test_addresses_and_localhost_are_not_looked_up(
    make: Any, host: str, found: list[Any]
) -> None:
    """An address is itself, and localhost the loopback ones (RFC 6761)."""
    resolver, system = make()
    assert [address.sockaddr(80) for address in await resolver.resolve(host)] == found
    assert (system.asked, resolver.threads) == ([], 0)


async def test_without_ipv6(make: Any) -> None:
    """allow_ipv6=False asks for IPv4 alone, and refuses an IPv6 address."""
    resolver, system = make()
    assert await resolver.resolve("localhost", allow_ipv6=False) == HERE
    with pytest.raises(socket.gaierror, match="allow_ipv6"):
        await resolver.resolve("::1", allow_ipv6=False)
    await resolver.resolve("a.test", allow_ipv6=False)
    await resolver.resolve("a.test")
    assert system.asked == [("a.test", socket.AF_INET), ("a.test", socket.AF_UNSPEC)]


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface is lo on Linux")
@pytest.mark.parametrize("zone", ["%25lo", "%lo", f"%25{socket.if_nametoindex('lo')}"])
def test_zone(zone: str) -> None:
    """The zone of a link-local address becomes the index of its interface (RFC 6874)."""
    assert literal(f"fe80::1{zone}") == Address(
        socket.AF_INET6, "fe80::1", socket.if_nametoindex("lo")
    )


def test_unknown_zone() -> None:
    """A zone that this machine does not have is named."""
    with pytest.raises(socket.gaierror, match="nope0"):
        literal("fe80::1%25nope0")


# -- sharing


async def test_waiters_share_a_look_up(make: Any) -> None:
    """Who asks for a name that is being looked up waits for the same answer."""
    resolver, system = make(stuck=True)
    waiters = [asyncio.ensure_future(resolver.resolve("a.test")) for _ in range(50)]
    await until(lambda: system.asked)
    system.release.set()
    assert await asyncio.gather(*waiters) == [HERE] * 50
    assert len(system.asked) == 1


async def test_cancelling_one_waiter_leaves_the_others(make: Any) -> None:
    """A waiter that is cancelled takes nothing from those who wait with it."""
    resolver, system = make(stuck=True)
    first, second = (asyncio.ensure_future(resolver.resolve("a.test")) for _ in range(2))
    await until(lambda: system.asked)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    system.release.set()
    assert await second == HERE
    assert len(system.asked) == 1


async def test_a_look_up_that_nobody_wants_is_not_begun(make: Any) -> None:
    """Cancelled while it waits for a thread, a look-up costs no thread."""
    resolver, system = make(stuck=True, threads=1)
    first = asyncio.ensure_future(resolver.resolve("first.test"))
    await until(lambda: system.asked)
    second = asyncio.ensure_future(resolver.resolve("second.test"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.ensure_future(resolver.resolve("third.test"))
    system.release.set()
    await asyncio.gather(first, third)
    assert [host for host, _ in system.asked] == ["first.test", "third.test"]


async def test_a_look_up_that_was_begun_is_joined_again(make: Any) -> None:
    """What a thread does already serves whoever comes later, though its first waiter has gone."""
    resolver, system = make(stuck=True)
    first = asyncio.ensure_future(resolver.resolve("a.test"))
    await until(lambda: system.asked)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.ensure_future(resolver.resolve("a.test"))
    await asyncio.sleep(0)
    system.release.set()
    assert await second == HERE
    assert len(system.asked) == 1


# -- remembering


async def test_answers_are_remembered(make: Any) -> None:
    """The second request for a name asks nobody."""
    resolver, system = make()
    for _ in range(3):
        assert await resolver.resolve("a.test") == HERE
    assert len(system.asked) == 1


async def test_answers_grow_old(make: Any) -> None:
    """After `lifetime` seconds a name is asked for again."""
    resolver, system = make(lifetime=0.05)
    await resolver.resolve("a.test")
    await asyncio.sleep(0.06)
    await resolver.resolve("a.test")
    assert len(system.asked) == 2


async def test_answers_are_bounded(make: Any) -> None:
    """Beyond `capacity` answers the oldest is forgotten."""
    resolver, system = make(capacity=2)
    for host in ("a.test", "b.test", "c.test", "c.test", "b.test", "a.test"):
        await resolver.resolve(host)
    assert [host for host, _ in system.asked] == ["a.test", "b.test", "c.test", "a.test"]


async def test_failures_are_not_remembered(make: Any) -> None:
    """Each waiter gets a gaierror of its own, and the next request asks again."""
    resolver, system = make(stuck=True)
    waiters = [asyncio.ensure_future(resolver.resolve("a.invalid")) for _ in range(2)]
    await until(lambda: system.asked)
    system.release.set()
    first, second = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(first, socket.gaierror)
    assert first.args == second.args == (socket.EAI_NONAME, "unknown")  # type: ignore[union-attr]
    assert first is not second
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a.invalid")
    assert len(system.asked) == 2


async def test_no_address_at_all() -> None:
    """An empty answer is a failure like any other."""
    resolver = Resolver(lambda host, family: ())
    with pytest.raises(socket.gaierror):
        await resolver.resolve("a.test")
    resolver.close()


async def test_what_a_look_up_raises_is_raised() -> None:
    """An error that is no gaierror reaches whoever waits, too."""

    def fail(host: str, family: int) -> Addresses:
        raise LookupError("mine")

    resolver = Resolver(fail)
    with pytest.raises(LookupError, match="mine"):
        await resolver.resolve("a.test")
    resolver.close()


# -- threads


async def test_threads_are_bounded(make: Any) -> None:
    """No more than `threads` look-ups run at a time; the others follow."""
    resolver, system = make(stuck=True, threads=3)
    waiters = [asyncio.ensure_future(resolver.resolve(f"{n}.test")) for n in range(10)]
    await until(lambda: len(system.asked) == 3)
    assert resolver.threads == 3
    system.release.set()
    assert await asyncio.gather(*waiters) == [HERE] * 10
    assert (system.most_at_once, len(system.asked)) == (3, 10)


async def test_a_thread_is_used_again(make: Any) -> None:
    """One name after the other needs one thread."""
    resolver, _ = make()
    for number in range(20):
        await resolver.resolve(f"{number}.test")
        await asyncio.sleep(0.001)  # the thread has answered; it goes back to waiting
    assert resolver.threads <= 2


async def test_idle_threads_end(make: Any) -> None:
    """Without work a thread goes after `idle` seconds, and comes again with new work."""
    resolver, _ = make(idle=0.02)
    await resolver.resolve("a.test")
    await until(lambda: not resolver.threads)
    assert await resolver.resolve("b.test") == HERE


async def test_matrix_41_stuck_look_ups_hold_up_no_address(make: Any) -> None:
    """Matrix 41: with 200 look-ups stuck, what needs none is served at once."""
    resolver, system = make(stuck=True)
    stuck = [asyncio.ensure_future(resolver.resolve(f"{n}.test")) for n in range(200)]
    await until(lambda: len(system.asked) == 20)
    started = time.monotonic()
    for host in ("127.0.0.1", "::1", "localhost"):
        await resolver.resolve(host)
    assert time.monotonic() - started < 0.1
    assert resolver.threads == 20
    for waiter in stuck:
        waiter.cancel()
    await asyncio.wait(stuck)


async def test_close_does_not_wait(make: Any) -> None:
    """Matrix 50: close() returns at once, whoever waits gets a gaierror, and it may come twice."""
    resolver, system = make(stuck=True, threads=2)
    waiters = [asyncio.ensure_future(resolver.resolve(f"{n}.test")) for n in range(5)]
    await until(lambda: len(system.asked) == 2)
    started = time.monotonic()
    resolver.close()
    resolver.close()
    assert time.monotonic() - started < 0.05
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(outcome, socket.gaierror) for outcome in outcomes)
    with pytest.raises(socket.gaierror, match="closed"):
        await resolver.resolve("another.test")
    system.release.set()
    await until(lambda: not resolver.threads)
    assert len(system.asked) == 2


async def test_idle_threads_keep_nothing_alive() -> None:
    """A resolver that was never closed can go while its threads still wait for work."""
    resolver = Resolver(System(), idle=20)
    await resolver.resolve("a.test")
    pool = resolver._pool
    gone = weakref.ref(resolver)
    del resolver
    gc.collect()
    assert gone() is None
    pool.close()


async def test_no_thread_can_be_started(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is out of threads fails the look-up, and the next one works again."""
    resolver, _ = make()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(socket.gaierror, match="can't start new thread"):
            await resolver.resolve("a.test")
    assert await resolver.resolve("a.test") == HERE


_EXIT = """
import asyncio, time
from whimbrel._simple.resolve import Resolver

async def main():
    resolver = Resolver(lambda host, family: time.sleep(60))
    waiter = asyncio.ensure_future(resolver.resolve("stuck.test"))
    await asyncio.sleep(0.05)
    assert resolver.threads == 1
    {end}

asyncio.run(main())
print("over")
"""


@pytest.mark.parametrize(
    "end", ["resolver.close(); await asyncio.gather(waiter, return_exceptions=True)", "pass"]
)
def test_stuck_look_ups_hold_up_no_exit(end: str) -> None:
    """Neither the end of the loop nor the interpreter's waits for a look-up, closed or not."""
    script = [sys.executable, "-W", "error", "-c", _EXIT.format(end=end)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


# -- the system


def test_system_look_up() -> None:
    """The system's own answer, for a name that every system knows."""
    assert HERE[0] in system_look_up("localhost", socket.AF_INET)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid"])
def test_system_look_up_that_fails(host: str) -> None:
    """A failure is a gaierror, even for a name that Python's codec would choke on."""
    with pytest.raises(socket.gaierror):
        system_look_up(host, socket.AF_UNSPEC)


def test_system_that_is_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is the machine's, not the name's, is a gaierror as well."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror, match="Too many open files") as caught:
        system_look_up("a.test", socket.AF_UNSPEC)
    assert caught.value.errno == socket.EAI_SYSTEM
