"""Names to addresses, by threads that nobody has to wait for.

Rules of this file:

1. getaddrinfo() cannot be interrupted. It runs in daemon threads of our own: those of an executor
   are joined when the loop or the interpreter ends, and one stuck look-up would hold up both.
2. What needs no look-up (an address, localhost, a remembered answer) never waits for a thread.
3. A thread knows nothing but the work it waits for, so it keeps no client and no loop alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

THREADS = 20
"""Look-ups at a time; further ones queue behind them. libcurl's number."""
LIFETIME = 60.0
"""Seconds that an answer is remembered. libcurl's number; the system does not tell the TTL."""
CAPACITY = 1024
"""Answers remembered at most."""
IDLE = 5.0
"""Seconds after which a thread without work ends."""


class Address(NamedTuple):
    """An IP address to connect to."""

    family: int
    host: str
    """In figures, without zone."""
    scope: int = 0
    """Index of the interface that a link-local IPv6 address belongs to."""

    def sockaddr(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """As the socket module wants it."""
        if self.family == socket.AF_INET6:
            return self.host, port, 0, self.scope
        return self.host, port


Addresses = tuple[Address, ...]
_Key = tuple[str, int]

_LOCALHOST = (Address(socket.AF_INET6, "::1"), Address(socket.AF_INET, "127.0.0.1"))


def system_look_up(host: str, family: int) -> Addresses:
    """Ask the system for the addresses of `host`, in its order of preference. Blocks.

    Raises socket.gaierror.
    """
    # Bytes: a str would go through Python's IDNA codec, and the host is ASCII already.
    try:
        found = socket.getaddrinfo(host.encode("ascii"), None, family, socket.SOCK_STREAM)
    except socket.gaierror:
        raise
    except OSError as error:  # EAI_SYSTEM, out of descriptors for one
        raise socket.gaierror(socket.EAI_SYSTEM, error.strerror) from error
    return tuple(
        Address(kind, str(sockaddr[0]).partition("%")[0], *map(int, sockaddr[3:]))
        for kind, _, _, _, sockaddr in found
        if kind in (socket.AF_INET, socket.AF_INET6)
    )


def literal(host: str) -> Address | None:
    """The address that `host` itself is, None for a name. A zone may follow "%25" or "%".

    Raises socket.gaierror for a zone that this machine does not have.
    """
    text, percent, zone = host.partition("%")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return None if percent else Address(socket.AF_INET, text)
    if not percent:
        return Address(socket.AF_INET6, text)
    zone = zone.removeprefix("25") if len(zone) > 2 else zone  # RFC 6874
    try:
        scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except OSError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"there is no interface {zone!r}") from error
    return Address(socket.AF_INET6, text, scope)


def immediate(host: str, allow_ipv6: bool) -> Addresses | None:
    """The addresses of a host that needs no look-up; None for every other.

    Raises socket.gaierror for an IPv6 address that is not allowed, and for an unknown zone.
    """
    name = host.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
        return _LOCALHOST if allow_ipv6 else _LOCALHOST[1:]
    address = literal(host)
    if address is None:
        return None
    if address.family == socket.AF_INET6 and not allow_ipv6:
        raise socket.gaierror(
            socket.EAI_FAMILY, f"[{host}] is an IPv6 address and allow_ipv6 is False"
        )
    return (address,)


class _LookUp:
    """One question to the system, and everybody who waits for the answer."""

    __slots__ = ("answered", "key", "loop", "waiters")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        key: _Key,
        answered: Callable[[_LookUp, Addresses | BaseException], None],
    ) -> None:
        self.loop = loop
        self.key = key
        self.answered = answered
        self.waiters: set[asyncio.Future[Addresses]] = set()

    def carry(self, answer: Addresses | BaseException) -> None:
        """From a thread: hand the answer to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.answered, self, answer)


class _Threads:
    """Daemon threads, started on demand, that take look-ups from a queue until idle or closed."""

    def __init__(self, look_up: Callable[[str, int], Addresses], limit: int, idle: float) -> None:
        self._look_up = look_up
        self._limit = limit
        self._idle = idle
        self._changed = threading.Condition()
        self._queue: deque[_LookUp] = deque()
        self._waiting = 0
        self.count = 0
        self._closed = False

    def submit(self, work: _LookUp) -> None:
        """Raises socket.gaierror if there is no thread, and none can be started."""
        with self._changed:
            self._queue.append(work)
            if self._waiting >= len(self._queue):
                self._changed.notify()
                return
            if self.count == self._limit:
                return
            self.count += 1
            thread = threading.Thread(target=self._run, name="whimbrel.resolver", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.count -= 1
                if not self.count:
                    self._queue.pop()
                    raise socket.gaierror(socket.EAI_MEMORY, str(error)) from error

    def withdraw(self, work: _LookUp) -> bool:
        """Take `work` out of the queue; False if a thread has it already."""
        with self._changed:
            try:
                self._queue.remove(work)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """End the idle threads now, and the others when they come back. Does not wait."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            answer: Addresses | BaseException
            try:
                answer = self._look_up(*work.key)
            except BaseException as error:  # noqa: BLE001 (raised again at those who wait)
                answer = error
            work.carry(answer)
            del work, answer  # an idle thread holds on to no loop

    def _next(self) -> _LookUp | None:
        with self._changed:
            self._waiting += 1
            while not self._queue and not self._closed:
                if not self._changed.wait(self._idle) and not self._queue:
                    break
            self._waiting -= 1
            if self._queue:
                return self._queue.popleft()
            self.count -= 1
            return None


class Resolver:
    """Looks up names for one loop, remembers the answers, and asks once for all who wait.

    :param look_up: blocking function of host and family (AF_UNSPEC or AF_INET) that returns
        addresses, best first, or raises socket.gaierror; called from several threads.
    :param threads: how many look-ups run at a time.
    :param lifetime: seconds that an answer is remembered; 0 forgets at once.
    :param capacity: how many answers are remembered.
    :param idle: seconds until a thread without work ends.
    """

    def __init__(
        self,
        look_up: Callable[[str, int], Addresses] = system_look_up,
        *,
        threads: int = THREADS,
        lifetime: float = LIFETIME,
        capacity: int = CAPACITY,
        idle: float = IDLE,
    ) -> None:
        self._lifetime = lifetime
        self._capacity = capacity
        self._pool = _Threads(look_up, threads, idle)
        # In the order in which they expire, for all live equally long.
        self._answers: dict[_Key, tuple[float, Addresses]] = {}
        self._running: dict[_Key, _LookUp] = {}
        self._closed = False

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        return self._pool.count

    async def resolve(self, host: str, *, allow_ipv6: bool = True) -> Addresses:
        """Return the addresses of `host`, an ASCII name or an address; at least one.

        Raises socket.gaierror. Cancelling one caller leaves the others undisturbed.
        """
        found = immediate(host, allow_ipv6)
        if found is not None:
            return found
        if self._closed:
            raise _closed_error()
        loop = asyncio.get_running_loop()
        key = (host, socket.AF_UNSPEC if allow_ipv6 else socket.AF_INET)
        remembered = self._answers.get(key)
        if remembered is not None:
            if remembered[0] > loop.time():
                return remembered[1]
            del self._answers[key]
        work = self._running.get(key)
        if work is None:
            work = _LookUp(loop, key, self._answered)
            self._pool.submit(work)
            self._running[key] = work
        waiter: asyncio.Future[Addresses] = loop.create_future()
        work.waiters.add(waiter)
        try:
            return await waiter
        finally:
            work.waiters.discard(waiter)
            if not work.waiters and self._running.get(key) is work and self._pool.withdraw(work):
                # Nobody waits any more. What a thread has begun still ends, and is remembered.
                del self._running[key]

    def close(self) -> None:
        """Fail everybody who waits with socket.gaierror; never blocks. Idempotent."""
        self._closed = True
        self._pool.close()
        running, self._running = self._running, {}
        for work in running.values():
            self._settle(work, _closed_error())
        self._answers.clear()

    def _answered(self, work: _LookUp, answer: Addresses | BaseException) -> None:
        if self._running.get(work.key) is not work:
            return  # closed meanwhile
        del self._running[work.key]
        if not isinstance(answer, BaseException):
            if answer:
                self._remember(work.loop.time(), work.key, answer)
            else:
                answer = socket.gaierror(socket.EAI_NONAME, "the name has no address")
        self._settle(work, answer)

    def _settle(self, work: _LookUp, answer: Addresses | BaseException) -> None:
        for waiter in work.waiters:
            if waiter.done():
                continue
            if isinstance(answer, socket.gaierror):
                # One each: every raise adds its traceback to the exception.
                waiter.set_exception(socket.gaierror(*answer.args))
            elif isinstance(answer, BaseException):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)

    def _remember(self, now: float, key: _Key, answer: Addresses) -> None:
        answers = self._answers
        answers.pop(key, None)
        answers[key] = (now + self._lifetime, answer)
        while answers:
            oldest = next(iter(answers))
            if len(answers) <= self._capacity and answers[oldest][0] > now:
                break
            del answers[oldest]


def _closed_error() -> socket.gaierror:
    return socket.gaierror(socket.EAI_FAIL, "the client was closed")
