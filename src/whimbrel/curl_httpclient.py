"""The default backend: libcurl's multi interface on the asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from collections.abc import Callable
from typing import Any

from whimbrel._known_heads import KnownHeads
from whimbrel._policy.exchange import Exchange, takes_shared
from whimbrel.httpclient import AsyncHTTPClient, HTTPResponse

try:
    from whimbrel._curl import capabilities
    from whimbrel._curl.capabilities import CapabilityError
    from whimbrel._curl.driver import Driver
    from whimbrel._curl.errors import CurlError
    from whimbrel._curl.heads import Head
    from whimbrel._curl.transfer import Address, Ends, Transfer

    capabilities.check()
except ImportError:
    raise
except Exception as error:
    # A pycurl that breaks when it is loaded, lacks names that are used here, or runs on a libcurl
    # that is too old: whoever asks whether this backend can be had asks by an import.
    raise ImportError(f"pycurl cannot be used: {error}") from error

__all__ = ["CapabilityError", "CurlAsyncHTTPClient", "CurlError"]

# What is remembered of connections that libcurl keeps, at least: more where it may keep more.
_REMEMBERED = 4096
_KNOWN_HEADS = 256

_SHARED = ("2", "3")
"""Versions of HTTP that talk on idle connections; libcurl listens there itself."""


class CurlAsyncHTTPClient(AsyncHTTPClient):
    """An :class:`~whimbrel.httpclient.AsyncHTTPClient` on libcurl.

    Takes the arguments of its base, and:

    :param bool use_epoll: True puts libcurl's sockets into an epoll of their own, False gives
        each to ``loop.add_reader``; None, the default, takes epoll where the platform has it.
    """

    def initialize(self, *, use_epoll: bool | None = None, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self._use_epoll = use_epoll
        self._idle: list[Transfer] = []
        self._tunnels: dict[
            tuple[Address | None, Address | None], tuple[int | None, list[bytes]]
        ] = {}
        # Local ends of HTTP/1 connections that were readable while they idled: what they hold
        # is not the answer to any request (libcurl itself looks only after a second).
        self._tainted: set[tuple[str, int]] = set()
        # Both ends of those of transfers that are paused, whose sockets libcurl does not watch
        # either: the descriptor, where there was an event on it.
        self._paused: dict[tuple[Any, Any], int | None] = {}
        # What is spoken, by local end, of the last few that a head came on.
        self._versions: dict[tuple[str, int], str] = {}
        # libcurl's numbers of connections, by both ends: one local port may have several peers.
        self._connections: dict[Ends, tuple[int, Address, Address]] = {}
        self._known_heads = KnownHeads[Head](_KNOWN_HEADS)
        self._remembered = max(_REMEMBERED, 8 * self.max_clients)
        _clients.add(self)

    def open_on(self, loop: asyncio.AbstractEventLoop) -> None:
        capabilities.check()
        self._driver_loop = loop
        self._driver = Driver(
            loop,
            self._idle_event,
            use_epoll=self._use_epoll,
            max_connections=max(100, 2 * self.max_clients),
            busy_poll=self.busy_poll,
            wakeups=self._wakeups,
        )

    @takes_shared
    def fetch_impl(
        self, request: Exchange, callback: Callable[[HTTPResponse], None]
    ) -> Callable[[], None]:
        transfer = self._idle.pop() if self._idle else Transfer(self)
        try:
            transfer.begin(request, callback)
        except BaseException:
            # Half its options are set: not to be used again.
            transfer.easy.close()
            raise
        return transfer.abort

    def close(self) -> None:
        if self._closed:
            return
        super().close()
        if self._loop is not None:
            self._driver.close()
        for transfer in self._idle:
            transfer.easy.close()
        self._idle.clear()
        _clients.discard(self)

    # For transfers

    def _remember_tunnel(
        self, ends: tuple[Address, Address], code: int | None, lines: list[bytes]
    ) -> None:
        """What a proxy said when it made the tunnel between these two, local and remote."""
        self._tunnels.pop(ends, None)
        if len(self._tunnels) >= self._remembered:
            del self._tunnels[next(iter(self._tunnels))]
        self._tunnels[ends] = (code, lines)

    def _remember_connection(
        self, local: Address, remote: Address, number: int, version: str
    ) -> None:
        ends = remote[0], local[0], remote[1], local[1]
        self._connections.pop(ends, None)
        if len(self._connections) >= self._remembered:
            del self._connections[next(iter(self._connections))]
        self._connections[ends] = number, local, remote
        self._note_version(local, version)

    def _note_version(self, local: tuple[str, int], version: str) -> None:
        """What is spoken on the connection with this local end."""
        before = self._versions.pop(local, None)
        if len(self._versions) >= self._remembered:
            del self._versions[next(iter(self._versions))]
        self._versions[local] = version
        if before != version:
            self._tainted.discard(local)

    def _is_shared(self, local: tuple[str, int]) -> bool:
        """Whether the connection with this local end is known as one that requests share."""
        return self._versions.get(local) in _SHARED

    # For the driver

    def _idle_event(self, fd: int) -> None:
        """An idle connection was closed by its peer, or sent what nobody asked for."""
        try:
            duplicate = os.dup(fd)
        except OSError:
            return  # libcurl closed it in the meantime
        try:
            sock = socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
            return  # an eventfd of libcurl's, or somebody else's number by now
        with sock:
            if sock.type != socket.SOCK_STREAM or sock.family == getattr(socket, "AF_UNIX", None):
                return  # a resolver's
            try:
                local = sock.getsockname()[:2]
            except OSError:
                return
            ends = None
            if self._paused:
                with contextlib.suppress(OSError):  # it has no peer any more
                    ends = local, sock.getpeername()[:2]
        if ends in self._paused:
            self._paused[ends] = fd
        elif not self._is_shared(local):
            # Nor do we trust one of which it is not known what is spoken there.
            self._taint(local)

    def _taint(self, local: tuple[str, int]) -> None:
        """Use the connection with this local end no more."""
        if not local[1]:
            return  # a Unix socket; those are never reused
        if len(self._tainted) >= self._remembered:
            self._tainted.clear()
        self._tainted.add(local)

    def _after_fork(self) -> None:
        if self._loop is not None:
            self._driver.abandon()


_clients: weakref.WeakSet[CurlAsyncHTTPClient] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
