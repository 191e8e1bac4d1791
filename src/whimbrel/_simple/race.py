"""A TCP connection to whichever of several addresses answers first (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections import deque
from collections.abc import Sequence

from whimbrel._readiness import Watcher
from whimbrel._simple import interface
from whimbrel._simple.resolve import Address
from whimbrel._simple.sockets import Socket

ATTEMPT_DELAY = 0.25
"""Seconds that an attempt has to itself before the next begins (RFC 8305 section 5)."""


class InterfaceError(OSError):
    """The local end that was asked for cannot be had."""


async def open_socket(
    addresses: Sequence[Address],
    port: int,
    network_interface: str | None = None,
    *,
    delay: float = ATTEMPT_DELAY,
    watcher: Watcher | None = None,
) -> tuple[socket.socket, Address]:
    """Connect to the first of `addresses`, best first, that lets us; tell which it was.

    An attempt that fails, or is not through after `delay` seconds, starts the next one. All but
    the winner are closed; all, if this is cancelled. The socket is non-blocking. `watcher`
    tells when an attempt is settled; None is the loop.

    Raises InterfaceError if `network_interface` is what kept every attempt from beginning, else
    the OSError of an attempt: a refusal, if there was one, for it says the most.
    """
    if network_interface is not None and interface.is_address(network_interface):
        family = socket.AF_INET6 if ":" in network_interface else socket.AF_INET
        addresses = [address for address in addresses if address.family == family]
        if not addresses:
            raise InterfaceError(
                errno.EAFNOSUPPORT, "the addresses to connect to are of the other IP version"
            )
    race = _Race(addresses, port, network_interface, delay, watcher)
    try:
        return await race.run()
    finally:
        race.end()


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """The same addresses, the IP versions by turns, in their order else (RFC 8305 section 4)."""
    first = [a for a in addresses if a.family == addresses[0].family]
    others = [a for a in addresses if a.family != addresses[0].family]
    pairs = itertools.zip_longest(first, others)
    return [address for pair in pairs for address in pair if address is not None]


class _Race:
    """The attempts of one `open_socket`, driven by callbacks of the loop."""

    def __init__(
        self,
        addresses: Sequence[Address],
        port: int,
        network_interface: str | None,
        delay: float,
        watcher: Watcher | None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._watcher: Watcher = watcher or loop
        self._to_come = deque(interleaved(addresses))
        self._port = port
        self._interface = network_interface
        self._delay = delay
        self._running: dict[socket.socket, Address] = {}
        self._winner: tuple[socket.socket, Address] | None = None
        self._handed_over = False
        self._errors: list[OSError] = []
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> tuple[socket.socket, Address]:
        self._next()
        await self._over
        if self._winner is None:
            raise self._best_error()
        self._handed_over = True
        return self._winner

    def end(self) -> None:
        """Close whatever `run` did not return."""
        if self._timer is not None:
            self._timer.cancel()
        for sock in self._running:
            self._watcher.remove_writer(sock.fileno())
            sock.close()
        self._running.clear()
        if self._winner is not None and not self._handed_over:
            self._winner[0].close()

    def _next(self) -> None:
        """Begin the next attempt, if there is one, and those after it that begin by failing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._to_come and not self._over.done():
            address = self._to_come.popleft()
            try:
                self._attempt(address)
            except OSError as error:
                self._errors.append(error)
                continue
            if self._to_come and not self._over.done():
                self._timer = self._loop.call_later(self._delay, self._next)
            return
        self._look_for_the_end()

    def _attempt(self, address: Address) -> None:
        sock = Socket(address.family)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._interface is not None:
                try:
                    interface.bind(sock, self._interface)
                except OSError as error:
                    raise InterfaceError(*error.args) from error
            try:
                sock.connect(address.sockaddr(self._port))
            except (BlockingIOError, InterruptedError):
                self._watcher.add_writer(sock.fileno(), self._settled, sock)
                self._running[sock] = address
            else:
                self._won(sock, address)
        except BaseException:
            sock.close()
            raise

    def _settled(self, sock: socket.socket) -> None:
        """An attempt has come to its end, good or bad."""
        self._watcher.remove_writer(sock.fileno())
        address = self._running.pop(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            self._won(sock, address)
            return
        sock.close()
        self._errors.append(OSError(code, os.strerror(code)))
        self._next()

    def _won(self, sock: socket.socket, address: Address) -> None:
        if self._over.done():  # another one won in the same moment, or nobody waits any more
            sock.close()
            return
        self._winner = (sock, address)
        self._over.set_result(None)

    def _look_for_the_end(self) -> None:
        if not self._running and not self._to_come and not self._over.done():
            self._over.set_result(None)

    def _best_error(self) -> OSError:
        def telling(error: OSError) -> int:
            if isinstance(error, InterfaceError):
                return 0
            return 2 if error.errno == errno.ECONNREFUSED else 1

        return max(self._errors, key=telling)
