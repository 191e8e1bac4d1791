"""Which descriptors are ready: many of them behind one that the loop watches.

asyncio serves all that is ready in the turn of the loop in which it finds it. With a thousand busy
connections that is a turn of a tenth of a second, in which no timer rings and nobody else has a
say. Here a turn has a share, and the loop's own bookkeeping per descriptor is saved as well.

Rules:

1. What is ready beyond a turn's share is served in the next turns, before what becomes ready later.
2. Nobody is called for a descriptor that was taken out, even if its number is another one's by now.
3. A loop that ends, or a closed `Readiness`, watches nothing, and may be told to forget anything.
4. The child of a fork has the very same epoll: whatever it took out would be taken from its parent.
   So there every `Readiness` is closed at once, without a word to the epoll.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import weakref
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, Protocol

from whimbrel._busy_poll import BusyPoll
from whimbrel._loops import may_nest
from whimbrel._wakeups import Wakeups

# Where there is no epoll, nothing of this is used.
_IN, _OUT = getattr(select, "EPOLLIN", 1), getattr(select, "EPOLLOUT", 4)
# An error, or the end, is for readers and writers to find.
_FOR_READERS, _FOR_WRITERS = ~_OUT, ~_IN

SHARE = 32
"""Descriptors that are served in one turn of the loop."""
SHARE_SECONDS = 0.003
"""Serving ends a turn after this time, even if they are fewer: TLS handshakes are long."""


class Watcher(Protocol):
    """What tells of descriptors that are ready: an event loop, or a `Readiness`."""

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> object: ...
    def remove_reader(self, fd: int) -> object: ...
    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> object: ...
    def remove_writer(self, fd: int) -> object: ...


class Readiness:
    """Descriptors in an epoll of their own, with the methods that a loop has for them.

    :param busy_poll: see `whimbrel._busy_poll`.
    :param wakeups: what the served bring about, and what ends with them; None is nothing.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_epoll",
        "_found",
        "_loop",
        "_readers",
        "_wakeups",
        "_writers",
        "busy_poll",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        busy_poll: float = 0.0,
        wakeups: Wakeups | None = None,
    ) -> None:
        self._loop = loop
        self._wakeups = wakeups
        self.busy_poll = BusyPoll(loop, busy_poll, self._look)
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        self._found: dict[int, int] = {}  # ready, and not served yet
        # Made for the first descriptor: that there is none left for it is that one's failure.
        self._epoll: select.epoll | None = None
        self._closed = False
        _all.add(self)

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Call `callback` whenever `fd` can be read, in place of what was called before.

        Raises OSError if it cannot be watched.
        """
        self._add(fd, self._readers, self._writers, partial(callback, *args) if args else callback)

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """As `add_reader`, for writing."""
        self._add(fd, self._writers, self._readers, partial(callback, *args) if args else callback)

    def remove_reader(self, fd: int) -> bool:
        """Call nobody any more when `fd` can be read; tell whether anybody was called."""
        return self._remove(fd, self._readers, self._writers)

    def remove_writer(self, fd: int) -> bool:
        """As `remove_reader`, for writing."""
        return self._remove(fd, self._writers, self._readers)

    def _add(
        self,
        fd: int,
        these: dict[int, Callable[[], object]],
        those: dict[int, Callable[[], object]],
        callback: Callable[[], object],
    ) -> None:
        if fd in these:
            these[fd] = partial(copy_context().run, callback)
            return
        epoll = self._epoll or self._open()
        # As a loop does it: in the context of whoever wants to know.
        these[fd] = partial(copy_context().run, callback)
        try:
            if fd in those:
                epoll.modify(fd, _IN | _OUT)
            else:
                self._found.pop(fd, None)
                epoll.register(fd, _IN if these is self._readers else _OUT)
        except OSError:
            del these[fd]
            raise

    def _remove(
        self,
        fd: int,
        these: dict[int, Callable[[], object]],
        those: dict[int, Callable[[], object]],
    ) -> bool:
        if these.pop(fd, None) is None:
            return False
        assert self._epoll is not None
        try:
            if fd in those:
                left = _IN if those is self._readers else _OUT
                self._epoll.modify(fd, left)
            else:
                self._found.pop(fd, None)
                self._epoll.unregister(fd)
        except OSError:
            pass  # it was closed, which took it out; loops see it like that, too
        return True

    def _open(self) -> select.epoll:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        epoll = select.epoll()
        try:
            self._loop.add_reader(epoll.fileno(), self._readable)
        except BaseException:
            epoll.close()
            raise
        self._epoll = epoll
        return epoll

    def _look(self) -> bool:
        """Serve what is ready; tell whether anything was."""
        if not self._found:
            if self._epoll is None:
                return False
            ready = self._epoll.poll(0, SHARE)
            if not ready:
                return False
            self._found.update(ready)
        self._serve()
        return True

    def _readable(self) -> None:
        if may_nest(self._loop):
            self._loop.call_soon(self._serve)
        else:
            self._serve()

    def _serve(self) -> None:
        """Call whoever wants to know of what is ready, as far as this turn's share goes."""
        found = self._found
        if not found:
            if self._epoll is None:
                return  # closed since this was asked for
            found.update(self._epoll.poll(0, SHARE))
            if not found:
                return
        wakeups = self._wakeups
        if wakeups is None:
            self._call_who_waits(found)
            return
        try:
            wakeups.begin_turn()
            self._call_who_waits(found)
        finally:
            wakeups.end_turn()

    def _call_who_waits(self, found: dict[int, int]) -> None:
        readers, writers = self._readers, self._writers
        now = monotonic()
        if self.busy_poll.since:
            self.busy_poll.arrived(now, len(found))
        end = now + SHARE_SECONDS
        while found:
            fd, events = found.popitem()
            try:
                if events & _FOR_READERS and (callback := readers.get(fd)) is not None:
                    callback()
                if events & _FOR_WRITERS and (callback := writers.get(fd)) is not None:
                    callback()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 (as a loop does it)
                self._loop.call_exception_handler(
                    {"message": "a callback of a descriptor failed", "exception": error}
                )
            if monotonic() > end:
                break

    def close(self) -> None:
        """Watch nothing any more. Idempotent."""
        if self._epoll is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self.abandon()

    def abandon(self) -> None:
        """As `close`, without a word to the loop, whose epoll is the parent's after a fork."""
        self._closed = True
        self.busy_poll.close()
        self._readers.clear()
        self._writers.clear()
        self._found.clear()
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            epoll.close()


_all: weakref.WeakSet[Readiness] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for readiness in list(_all):
        readiness.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def watcher_of(
    loop: asyncio.AbstractEventLoop, busy_poll: float, wakeups: Wakeups
) -> Readiness | None:
    """A `Readiness` where the platform has what it takes, else None: the loop will do."""
    return Readiness(loop, busy_poll, wakeups) if hasattr(select, "epoll") else None
