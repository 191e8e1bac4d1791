"""How libcurl's sockets are watched: in an epoll of their own, or each on the loop.

With epoll, libcurl's sockets sit in an epoll of our own, and the loop watches that one fd: one
wake-up serves every socket that is ready, and the loop's own bookkeeping is never touched.
Elsewhere (or when asked for) each socket is given to ``loop.add_reader`` and ``add_writer``.
The rules are the driver's.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import Any

import pycurl

from whimbrel._busy_poll import BusyPoll
from whimbrel._curl.lanes import Lane
from whimbrel._loops import may_nest
from whimbrel._wakeups import Wakeups

SHARE = 32
"""Sockets that are served in one turn of the loop."""
CROWD_SECONDS = 0.05
"""Seconds for which idle sockets are asked one by one, when so many others are ready that a look at
all of them would take longer."""
SHARE_SECONDS = 0.003
"""Serving sockets ends a turn after this time, even if they are fewer: TLS handshakes are long."""

_IN, _OUT, _REMOVE = pycurl.POLL_IN, pycurl.POLL_OUT, pycurl.POLL_REMOVE

_UNWATCHABLE = (OSError, ValueError, RuntimeError, NotImplementedError)
"""What it raises if there is no descriptor left, or none that can be watched. Only the transfer
on it must fail then."""


class Poller:
    """What both ways of watching libcurl's sockets have in common.

    `before_serving` is called before sockets are served, `on_ready` for each of them, `on_batch`
    when all have been, with those that had events while they idled; `on_broken`, if one cannot be
    watched. `is_inside` tells whether libcurl is on the stack, which must not be entered again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        before_serving: Callable[..., None],
        on_ready: Callable[[Lane, int, int], object],
        on_batch: Callable[[list[int]], None],
        on_broken: Callable[[Lane, int], None],
        wakeups: Wakeups,
        is_inside: Callable[[], bool] = lambda: False,
    ) -> None:
        self._loop = loop
        self._is_inside = is_inside
        self._before_serving = before_serving
        self._on_ready = on_ready
        self._on_batch = on_batch
        self._on_broken = on_broken
        self._wakeups = wakeups

    def listener(self, lane: Lane) -> Callable[[int, int, Any, Any], None]:
        """M_SOCKETFUNCTION of a multi."""

        def on_socket(what: int, fd: int, multi: Any, data: Any) -> None:
            try:
                if what == _REMOVE:
                    self.idle(fd)
                else:
                    self.watch(fd, what, lane)
            except _UNWATCHABLE:
                self._on_broken(lane, fd)

        return on_socket

    def watch(self, fd: int, what: int, lane: Lane) -> None:
        """Watch a socket for what libcurl wants of it."""
        raise NotImplementedError

    def idle(self, fd: int) -> None:
        """No transfer is on a socket any more; it may be closed the next moment."""
        raise NotImplementedError

    def watch_idle(self, fd: int) -> None:
        """Watch an idle socket again that had an event before, when it was not idle in truth."""
        raise NotImplementedError

    def _is_blocked(self) -> bool:
        """Whether a callback of libcurl's has run the loop."""
        return may_nest(self._loop) and self._is_inside()

    def stay_awake(self, seconds: float) -> None:
        """Set for how long `expect` may keep the loop from sleeping; 0 ends it."""

    def expect(self, now: float) -> None:
        """Something is about to be ready: see `whimbrel._busy_poll`."""


_TO_EPOLL = (
    {
        pycurl.POLL_IN: select.EPOLLIN,
        pycurl.POLL_OUT: select.EPOLLOUT,
        pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
    }
    if hasattr(select, "epoll")
    else {}
)


class EpollPoller(Poller):
    """All of libcurl's sockets behind one fd, which the loop reads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._masks: dict[int, int] = {}  # of what is in the epoll
        self._resting: set[int] = set()  # idle, as far as is known
        self._lanes: dict[int, Lane] = {}
        # Until when so much is ready that a look at all of it does not pay.
        self._crowded_until = 0.0
        # What is ready and has not been served, in the order in which it was found (rule 7).
        self._found: dict[int, int] = {}
        # Whose events have been told of, and that are watched no more: their multis.
        self._told: dict[int, Lane] = {}
        # Numbers that came back as another socket. Is the old one really gone? See look().
        self._reborn: set[int] = set()
        # Made for the first socket: that there is no descriptor left for it is that one's failure.
        self._epoll: select.epoll | None = None
        self._busy_poll = BusyPoll(self._loop, 0.0, self._serve_more)

    def stay_awake(self, seconds: float) -> None:
        self._busy_poll.close()
        self._busy_poll = BusyPoll(self._loop, seconds, self._serve_more)

    def expect(self, now: float) -> None:
        self._busy_poll.expect(now)

    def _open(self) -> select.epoll:
        epoll = select.epoll()
        self._loop.add_reader(epoll.fileno(), self._readable)
        self._epoll = epoll
        return epoll

    def watch(self, fd: int, what: int, lane: Lane) -> None:
        epoll = self._epoll or self._open()
        events = _TO_EPOLL[what]
        self._resting.discard(fd)
        masks = self._masks
        if lane.is_new:
            lane.is_new = False
            lane.own &= {fd}
        elif fd in lane.own and masks.get(fd) == what:
            return
        if fd in masks:
            # What was found before was for what libcurl wanted before.
            self._found.pop(fd, None)
            # libcurl may have closed it and got the number again: epoll forgot the old one.
            try:
                epoll.modify(fd, events)
            except FileNotFoundError:
                epoll.register(fd, events)
                self._reborn.add(fd)
        else:
            epoll.register(fd, events)
        masks[fd] = what
        self._lanes[fd] = lane

    def idle(self, fd: int) -> None:
        self._resting.add(fd)
        self._found.pop(fd, None)
        if self._masks.get(fd, _IN) != _IN:
            # Writable for ever: an idle connection is watched for reading alone.
            assert self._epoll is not None
            try:
                self._epoll.modify(fd, select.EPOLLIN)
                self._masks[fd] = _IN
            except OSError:
                pass  # then an event that is none takes it out, and the next use tries again

    def watch_idle(self, fd: int) -> None:
        lane = self._told.pop(fd, None)
        if lane is None or fd in self._masks:
            return
        try:
            (self._epoll or self._open()).register(fd, select.EPOLLIN)
        except OSError:
            return  # out of memory, of descriptors, or of watches
        self._masks[fd] = _IN
        self._lanes[fd] = lane
        self._resting.add(fd)

    def look(self) -> None:
        """Tell of idle sockets that are ready."""
        resting = len(self._resting)
        if not resting or self._epoll is None:
            return
        most = max(2 * SHARE, 4 * resting)
        now = monotonic()
        if now < self._crowded_until:
            self._ask_idle()
        elif self._find(most) == most:
            # Thousands of others are ready, and which of the idle ones are is not known yet.
            self._crowded_until = now + CROWD_SECONDS
            self._ask_idle()

    def _ask_idle(self) -> None:
        poll = select.poll()
        for fd in self._resting:
            poll.register(fd, select.POLLIN)
        idle = []
        for fd, events in poll.poll(0):
            self._drop(fd)
            if not events & select.POLLNVAL:
                idle.append(fd)
            try:
                assert self._epoll is not None
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed, and perhaps somebody else's by now
        if idle:
            self._on_batch(idle)

    def _drop(self, fd: int) -> None:
        self._masks.pop(fd, None)
        lane = self._lanes.pop(fd, None)
        if lane is not None and fd in self._resting:
            self._told[fd] = lane
        self._resting.discard(fd)

    def _find(self, most: int) -> int:
        """Find sockets that are ready, at most so many, and tell of the idle ones; their number."""
        epoll = self._epoll
        if epoll is None:
            return 0
        idle: list[int] = []
        stuck = False
        ready = epoll.poll(0, most)
        for fd, events in ready:
            if fd in self._masks and fd not in self._resting:
                if fd in self._reborn and not self._is_ready(fd, events):
                    stuck = True
                else:
                    self._found[fd] = events
            else:
                self._drop(fd)
                try:
                    epoll.unregister(fd)
                    idle.append(fd)
                except OSError:
                    stuck = True
        if stuck:
            self._replace()
        if idle:
            self._on_batch(idle)
        return len(ready)

    def _serve_more(self) -> bool:
        """Serve the sockets that are ready; tell whether any is."""
        if self._is_blocked():
            return False
        if not self._found:
            self._find(SHARE)
        if not self._found:
            return False
        self._serve()
        return True

    def _readable(self) -> None:
        if not may_nest(self._loop):
            self._serve()
        elif not self._is_inside():
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Serve the sockets that are ready, as far as this turn's share goes."""
        if self._is_blocked():
            return
        self._before_serving()
        found = self._found
        if not found:
            self._find(SHARE)
            if not found:
                return
        try:
            self._wakeups.begin_turn()
            self._act(found)
            self._on_batch([])
        finally:
            self._wakeups.end_turn()

    def _act(self, found: dict[int, int]) -> None:
        now = monotonic()
        if self._busy_poll.since:
            self._busy_poll.arrived(now, len(found))
        end = now + SHARE_SECONDS
        for fd in tuple(islice(found, SHARE)):
            events = found.pop(fd, None)
            if events is None:
                continue  # libcurl is done with it
            if events == 1:
                self._on_ready(self._lanes[fd], fd, 1)
            else:
                mask = 0
                if events & (select.EPOLLIN | select.EPOLLHUP):
                    mask |= pycurl.CSELECT_IN
                if events & select.EPOLLOUT:
                    mask |= pycurl.CSELECT_OUT
                if events & select.EPOLLERR:
                    mask |= pycurl.CSELECT_ERR
                self._on_ready(self._lanes[fd], fd, mask)
            if monotonic() > end:
                break

    def _is_ready(self, fd: int, events: int) -> bool:
        """Whether the open socket `fd` has `events`, not a closed one of the same number."""
        poll = select.poll()
        poll.register(fd, _TO_EPOLL[self._masks[fd]])
        return any(events & found for _, found in poll.poll(0))

    def _replace(self) -> None:
        """A closed socket still reports: another process holds it. Leave that epoll to it."""
        masks, lanes, resting = self._masks, self._lanes, self._resting.copy()
        told = self._told
        self._told = {}
        self.clear()
        self._told = told
        for fd, what in masks.items():
            try:
                self.watch(fd, what, lanes[fd])
            except OSError:
                if fd not in resting:
                    self._on_broken(lanes[fd], fd)
        self._resting = self._masks.keys() & resting

    def forget(self, lane: Lane) -> list[int]:
        """Forget every socket of a multi; return them."""
        gone = [fd for fd, its in self._lanes.items() if its is lane]
        for fd in gone:
            del self._masks[fd], self._lanes[fd]
            self._resting.discard(fd)
        self._told = {fd: its for fd, its in self._told.items() if its is not lane}
        # Some may be closed, or held by another process: an epoll without them is the sure way.
        self._replace()
        return gone

    def clear(self) -> None:
        """Forget every socket."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._resting.clear()
        self._found.clear()
        self._reborn.clear()
        self._told.clear()
        self._masks = {}
        self._lanes = {}

    def close(self) -> None:
        self.stay_awake(0.0)
        if self._epoll is not None and self._loop.is_closed():
            self._epoll.close()
            self._epoll = None
        self.clear()


class LoopPoller(Poller):
    """Each of libcurl's sockets on the loop itself, for platforms without epoll."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._watched: dict[int, int] = {}
        self._lanes: dict[int, Lane] = {}
        # Numbers of idle sockets. Some are closed, or another's, by the time they are looked at.
        self._idle: set[int] = set()
        self._idle_poll = select.poll()
        self._turn: asyncio.Handle | None = None  # its end

    def watch(self, fd: int, what: int, lane: Lane) -> None:
        before = self._watched.get(fd, 0)
        self._forget_idle(fd)
        # Not a selector's idea of the fd but libcurl's: the number may be a new socket.
        self._remove(fd, before)
        self._watched[fd] = what
        self._lanes[fd] = lane
        if what & _IN:
            self._loop.add_reader(fd, self._ready, lane, fd, pycurl.CSELECT_IN)
        if what & _OUT:
            self._loop.add_writer(fd, self._ready, lane, fd, pycurl.CSELECT_OUT)

    def _remove(self, fd: int, what: int) -> None:
        if what & _IN:
            self._loop.remove_reader(fd)
        if what & _OUT:
            self._loop.remove_writer(fd)

    def idle(self, fd: int) -> None:
        # libcurl closes a socket right after this call or never: it may not stay with the
        # loop, whose selector would keep a dead number. Idle ones are looked at in look().
        self._remove(fd, self._watched.pop(fd, 0))
        self._idle.add(fd)
        self._idle_poll.register(fd, select.POLLIN)

    def _forget_idle(self, fd: int) -> None:
        if fd in self._idle:
            self._idle.remove(fd)
            self._idle_poll.unregister(fd)

    def watch_idle(self, fd: int) -> None:
        if fd not in self._watched:
            self._idle.add(fd)
            self._idle_poll.register(fd, select.POLLIN)

    def _end_turn(self) -> None:
        self._turn = None

    def _ready(self, lane: Lane, fd: int, mask: int) -> None:
        if self._is_blocked():
            return
        is_new_turn = self._turn is None
        if self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn)
        self._before_serving(is_new_turn)
        if fd not in self._watched:
            return  # what that told of has ended it
        self._on_ready(lane, fd, mask)
        self._on_batch([])

    def look(self) -> None:
        """Find the idle sockets that became readable."""
        if not self._idle:
            return
        readable = []
        for fd, events in self._idle_poll.poll(0):
            self._forget_idle(fd)
            if not events & select.POLLNVAL:
                readable.append(fd)
        if readable:
            self._on_batch(readable)

    def forget(self, lane: Lane) -> list[int]:
        """Forget every socket of a multi; return them."""
        gone = [fd for fd, its in self._lanes.items() if its is lane]
        for fd in gone:
            del self._lanes[fd]
            self._remove(fd, self._watched.pop(fd, 0))
            self._forget_idle(fd)
        return gone

    def clear(self) -> None:
        for fd, what in self._watched.items():
            self._remove(fd, what)
        self._watched.clear()
        self._lanes.clear()
        for fd in list(self._idle):
            self._forget_idle(fd)

    def close(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        if not self._loop.is_closed():
            self.clear()
