"""Calls that fail when told to, and what several files need."""

from __future__ import annotations

import asyncio
import errno
import select
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pycurl
import pytest

from whimbrel._curl import pollers
from whimbrel._send_queue import unacknowledged
from whimbrel.testing.scripted import Peer

# What the driver and the transfers call that can fail, and as what.
FAILURES: dict[str, Callable[[], Exception]] = {
    "setopt": lambda: pycurl.error(pycurl.E_OUT_OF_MEMORY, "sabotage"),
    "add_handle": lambda: pycurl.error(pycurl.E_MULTI_OUT_OF_MEMORY, "sabotage"),
    "remove_handle": lambda: pycurl.error(pycurl.E_MULTI_INTERNAL_ERROR, "sabotage"),
    "socket_action": lambda: pycurl.error(pycurl.E_MULTI_INTERNAL_ERROR, "sabotage"),
    "pause": lambda: pycurl.error(pycurl.E_OUT_OF_MEMORY, "sabotage"),
    "epoll": lambda: OSError(errno.EMFILE, "sabotage"),
    "register": lambda: OSError(errno.ENOSPC, "sabotage"),
    "modify": lambda: OSError(errno.ENOMEM, "sabotage"),
    "unregister": lambda: OSError(errno.ENOMEM, "sabotage"),
    "add_reader": lambda: OSError(errno.ENOSPC, "sabotage"),
    "add_writer": lambda: OSError(errno.ENOSPC, "sabotage"),
}


class Saboteur:
    """Stands between whimbrel and what it calls: counts, and fails a call when told to.

    Attributes:
        calls: how often each operation of `FAILURES`, and "poll" of an epoll, was asked for.
        hits: how often one was made to fail.
        fds: the file descriptors of "register", "modify" and "add_reader", in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self.fds: dict[str, list[int]] = {}
        self._name = ""
        self._nth = 0
        self._fd: int | None = None
        self._for_good = False
        patch.setattr(pycurl, "Curl", _subclass(pycurl.Curl, self, "setopt", "pause"))
        patch.setattr(
            pycurl,
            "CurlMulti",
            _subclass(pycurl.CurlMulti, self, "add_handle", "remove_handle", "socket_action"),
        )
        patch.setattr(pollers, "select", _Select(self))
        for name in ("add_reader", "add_writer"):
            patch.setattr(loop, name, self._of_pollers(name, getattr(loop, name)), raising=False)

    def fail(
        self, name: str, nth: int = 1, *, fd: int | None = None, for_good: bool = False
    ) -> None:
        """Make the `nth` call of `name` from now on fail, and with `for_good` those after it.

        With `fd` only calls for that file descriptor count. "" lets everything work again.
        """
        self._name, self._nth, self._fd, self._for_good = name, nth, fd, for_good

    def __call__(self, name: str, fd: int | None = None) -> None:
        self.calls[name] += 1
        if fd is not None:
            self.fds.setdefault(name, []).append(fd)
        if name == self._name and self._fd in (None, fd):
            self._nth -= 1
            if self._nth == 0 or (self._nth < 0 and self._for_good):
                self.hits += 1
                raise FAILURES[name]()

    def _of_pollers(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *arguments: Any) -> Any:
            # Servers of the tests share the loop; their calls are not meant.
            if sys._getframe(1).f_globals["__name__"] == pollers.__name__:
                self(name, fd)
            return function(fd, *arguments)

        return call


def _subclass(base: type[Any], saboteur: Saboteur, *names: str) -> type[Any]:
    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def call(self: Any, *arguments: Any) -> Any:
            saboteur(name)
            return original(self, *arguments)

        return call

    return type(base.__name__, (base,), {name: wrap(name) for name in names})


class _Select:
    """The select module, with an epoll that asks the saboteur first."""

    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur

    def __getattr__(self, name: str) -> Any:
        return getattr(select, name)

    def epoll(self) -> _Epoll:
        self._saboteur("epoll")
        return _Epoll(self._saboteur)


class _Epoll:
    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur
        self._real = select.epoll()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if name == "poll":
            self._saboteur.calls["poll"] += 1
        if name not in FAILURES:
            return method

        def call(fd: int, *arguments: Any) -> Any:
            self._saboteur(name, fd)
            return method(fd, *arguments)

        return call


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds, where nothing tells of it; the test's limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def speak(peer: Peer, data: bytes) -> None:
    """Send what nobody asked for, and wait until it lies on the client's socket.

    The system may hold it back until it has heard of what was sent before.
    """
    await peer.send(data)
    await until(lambda: not unacknowledged(peer._sock.fileno()))
