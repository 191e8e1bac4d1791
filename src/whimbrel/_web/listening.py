"""Listening sockets: how they are bound, and how connections are accepted.

Rules:

1. One wake-up accepts several connections, but not without end: others wait for the loop too.
2. Where accepting fails, as for want of descriptors or memory, the listener looks away for a
   second. Left registered it would be readable all the time, and the loop would spin.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

_ACCEPTS_PER_WAKE_UP: Final = 64
_PAUSE: Final = 1.0  # seconds, as asyncio
# What accept() tells of the connection, and not of the listener (accept(2) of Linux).
_OF_THE_CONNECTION: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    )
)

log = logging.getLogger("whimbrel.general")


def bind_sockets(
    port: int,
    address: str | None = None,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    backlog: int = 128,
    reuse_port: bool = False,
) -> list[socket.socket]:
    """Return non-blocking sockets that listen on `port`, one for each address of `address`.

    `address` is an IP address or a name that stands for several; None or ``""`` is every interface,
    by IPv4 and IPv6. Port 0 is a free one, the same for all. `family` restricts them to ``AF_INET``
    or ``AF_INET6``; `backlog` is the length of the queue of connections not yet accepted.

    Raises ``OSError`` if the port is taken, or the name unknown.
    """
    found = socket.getaddrinfo(
        address or None, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for kind, _, protocol, _, target in dict.fromkeys(found):
            try:
                sock = _bind(kind, protocol, (target[0], port, *target[2:]), reuse_port)
            except OSError as error:
                # Name services list IPv6 addresses that the kernel may not have.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
            sock.listen(backlog)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets and missing is not None:
        raise missing
    return sockets


def _bind(
    family: socket.AddressFamily, protocol: int, address: tuple[Any, ...], reuse_port: bool
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # The IPv4 addresses have sockets of their own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """A listening socket on a loop; calls ``accepted(connection, address)`` for each connection.

    The connections are non-blocking. An exception of `accepted` closes that connection and goes to
    the loop's exception handler.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        accepted: Callable[[socket.socket, Any], None],
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._loop = loop
        self._accepted = accepted
        self._pause: asyncio.TimerHandle | None = None
        self._failing = False
        loop.add_reader(sock.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop listening; also on a loop that no longer runs, or is closed."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self.socket.fileno())
        self.socket.close()

    def _on_readable(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE_UP):
            try:
                connection, address = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _OF_THE_CONNECTION:
                    self._look_away(error)
                return
            self._failing = False
            try:
                connection.setblocking(False)
                self._accepted(connection, address)
            except Exception as error:  # noqa: BLE001 (one connection must not end the others)
                connection.close()
                self._loop.call_exception_handler(
                    {"message": "Exception while accepting a connection", "exception": error}
                )
            if self.socket.fileno() < 0:  # closed by what it called
                return

    def _look_away(self, error: OSError) -> None:
        self._loop.remove_reader(self.socket.fileno())
        self._pause = self._loop.call_later(_PAUSE, self._look_again)
        if not self._failing:
            self._failing = True
            log.error("Cannot accept connections, trying again every second: %s", error.strerror)

    def _look_again(self) -> None:
        self._pause = None
        self._loop.add_reader(self.socket.fileno(), self._on_readable)
