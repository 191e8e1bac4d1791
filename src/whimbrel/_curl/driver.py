"""libcurl's multi interface on an asyncio loop. Knows no HTTP: `start`, `cancel`, `close`.

The rules:

1. No libcurl callback calls into libcurl, and none raises into it: one exception out of
   M_SOCKETFUNCTION ends every transfer with code 42 and poisons the multi. What is asked for
   while libcurl is running waits for the next turn of the loop.
2. libcurl is asked when it wants to be called next (`multi.timeout`) once all that was to be done
   has been done, and not told to say so with each change (M_TIMERFUNCTION), which costs more; but
   for multis on which a caller has had a handle, whose `pause` nobody else tells of. -1 deletes the
   timer; a new value replaces the old one; 0 is soon, not now.
3. The same fd number may come back as another socket (curl's MULTI-EV page, "Come Again"). A
   socket whose transfer ended stays registered while its connection idles, but every activation
   is modify-or-register. An event on an idle socket unregisters it; a registration that cannot
   be taken back (another process still holds the socket) means: build a new epoll.
4. Callbacks may fire during `close()`, from another thread: nobody listens then.
5. A failing `socket_action` is fatal for the multi: its transfers fail, a new one is built.
6. No heartbeat. If one seems needed, a rule above is broken.
7. No turn of the loop may become long. What is ready beyond a turn's share is served in the next
   turns, first come, first served. How many transfers begin in one is for the client to bound.
8. libcurl looks for a connection that a transfer can use by going through all that go to the same
   host. So a multi carries `LANE` transfers at most, and the next one goes to another multi.

How its sockets are watched is for `whimbrel._curl.pollers`. See docs/internals/driver.md.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
from collections.abc import Callable
from functools import partial
from itertools import count
from time import monotonic

import pycurl

from whimbrel._curl.lanes import Lane, close_multis, eventfds_from, keep_for_ever, lowest_free_fd
from whimbrel._curl.pollers import EpollPoller, LoopPoller
from whimbrel._curl.room import ROOM, Room
from whimbrel._loops import clock_of
from whimbrel._wakeups import Wakeups

Done = Callable[[int, str], None]

FAILED = -1
"""The code that `done` gets when not libcurl's transfer but the driver under it failed."""

LANE = 256
"""Transfers on one multi handle."""
LINGER = 60.0
"""Seconds for which a multi handle beyond the first is kept, with its connections, for nobody."""


class Driver:
    """Runs easy handles on multi handles, on one as long as they are few.

    :param loop: the loop; every method is called in its thread.
    :param on_idle_event: called with the fd of an idle connection that became readable, that is:
        was closed, or sent what nobody asked for.
    :param use_epoll: False takes ``loop.add_reader`` per socket; None takes epoll where it is.
    :param busy_poll: see `whimbrel._busy_poll`.
    :param wakeups: what ends with the sockets that are served in a turn.

    Attributes:
        room: for what is delivered of bodies in a turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle_event: Callable[[int], None],
        *,
        use_epoll: bool | None = None,
        max_connections: int | None = None,
        busy_poll: float = 0.0,
        wakeups: Wakeups | None = None,
    ) -> None:
        self._loop = loop
        self._on_idle_event = on_idle_event
        self._max_connections = max_connections
        self._transfers: dict[pycurl.Curl, Done] = {}
        self._shown: set[pycurl.Curl] = set()  # that begin, and are somebody else's as well
        # What is in a multi handle: not yet what was started in a callback, and still what was
        # cancelled in one.
        self._attached: dict[pycurl.Curl, Lane] = {}
        # Of every socket that libcurl opened: whose transfer asked for it, and its inode.
        self._openers: dict[int, tuple[pycurl.Curl, int]] = {}
        self._inside = False  # libcurl is on the stack
        self._deferred: list[Callable[[], None]] = []
        self._broken: list[tuple[Lane, int]] = []  # fds that could not be watched
        self._closed = False
        self._soon: asyncio.Handle | None = None
        self._soon_lanes: dict[Lane, None] = {}
        self._starts_at_once = False  # what is wanted soon is about to be done
        self._sweep: asyncio.TimerHandle | None = None
        if use_epoll is None:
            use_epoll = hasattr(select, "epoll")
        self._poller: EpollPoller | LoopPoller = (EpollPoller if use_epoll else LoopPoller)(
            loop,
            self._before_serving,
            self._action,
            self._on_batch,
            self._note_broken,
            wakeups or Wakeups(loop),
            lambda: self.is_inside,
        )
        self._poller.stay_awake(busy_poll)
        self._clock = clock_of(loop)
        self.room = Room(loop, self._serve_soon)
        self._lane_numbers = count()
        self._lanes: list[Lane] = []
        self._open_lane()

    def _open_lane(self) -> Lane:
        free = lowest_free_fd()
        lane = Lane(pycurl.CurlMulti(), next(self._lane_numbers))
        lane.own = eventfds_from(free)
        multi = lane.multi
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._poller.listener(lane))
        if self._max_connections is not None:
            most = self._max_connections
            multi.setopt(pycurl.M_MAXCONNECTS, min(most, 2 * LANE) if self._lanes else most)
        self._lanes.append(lane)
        return lane

    def _lane_with_room(self) -> Lane:
        # The first that has room, so that few transfers share one multi and its connections.
        for lane in self._lanes:
            if lane.attached < LANE:
                return lane
        try:
            return self._open_lane()
        except pycurl.error:
            # Out of descriptors: one more on a multi that is full costs time alone.
            if not self._lanes:
                raise
            return min(self._lanes, key=lambda lane: lane.attached)

    # What the owner asks for

    def start(
        self, easy: pycurl.Curl, done: Done, at_once: bool = False, is_shown: bool = False
    ) -> None:
        """Begin a transfer; ``done(code, message)`` is called once, from the loop, at its end.

        `code` is libcurl's (0 is success), or `FAILED`. When `done` is called, the handle is
        the caller's again. With `at_once` libcurl's callbacks may be called before this returns,
        which spares a transfer that is alone a turn of the loop. `is_shown`: somebody else has the
        handle as well, and may resume it.
        """
        if self._closed:
            raise RuntimeError("the driver is closed")
        self._transfers[easy] = done
        if is_shown:
            self._shown.add(easy)
        if self._inside:
            self._defer(lambda: self._add(easy))
            return
        if at_once and not self._attached and self._soon is None:
            # Several that start in one turn are better served together.
            self._begin_at_once(easy)
        else:
            self._add(easy)

    def cancel(self, easy: pycurl.Curl) -> None:
        """End a transfer without a word, and close its handle and its connection."""
        if self._transfers.pop(easy, None) is None:
            return
        if self._inside:
            self._defer(lambda: self._discard(easy))
        else:
            self._discard(easy)

    def pause(self, easy: pycurl.Curl, mask: int) -> None:
        """Set which directions of a transfer are paused (libcurl's PAUSE_* bits)."""
        if self._inside:
            self._defer(lambda: self.pause(easy, mask))
            return
        if easy not in self._transfers:
            return
        lane = self._attached.get(easy)
        if lane is None:
            return  # it has not begun, and asks for whatever it needs when it does
        self._inside = True
        try:
            easy.pause(mask)
        except pycurl.error as error:
            self._finish(easy, *_reason(error))
        finally:
            self._inside = False
        # An unpaused transfer may have everything it needs in libcurl's own buffers, where no
        # socket event tells of it.
        self._run_soon(lane)

    def lane_of(self, easy: pycurl.Curl) -> int:
        """The number of the multi that a transfer is on: libcurl's connection ids are its own."""
        return self._attached[easy].number

    @property
    def is_inside(self) -> bool:
        """Whether libcurl is on the stack: no handle may be touched."""
        return self._inside

    def watch_idle(self, fd: int) -> None:
        """Report events on the socket of a connection that is idle now, and was not when one came:
        its transfer was paused."""
        self._poller.watch_idle(fd)

    def opened(self, fd: int, easy: pycurl.Curl) -> None:
        """Note that libcurl opened `fd` for `easy`: whom to tell if it cannot be watched."""
        self._openers[fd] = easy, os.fstat(fd).st_ino

    def close(self) -> None:
        """Free everything; what is in flight is dropped without a word."""
        if self._closed:
            return
        self._closed = True
        lanes, poller = self._lanes, self._poller
        easies = {**self._attached, **self._transfers}
        self._transfers.clear()
        self._shown.clear()
        self.room.close()

        def finish() -> None:
            close_multis([lane.multi for lane in lanes], easies)
            poller.close()
            self._drop_timers()

        if self._inside:
            # Closed from within a callback: libcurl must return first.
            self._loop.call_soon(finish)
        else:
            finish()
        self._openers.clear()

    def abandon(self) -> None:
        """Forget everything without touching a shared socket: for the child of a fork."""
        self._closed = True
        self._poller.stay_awake(0.0)
        self.room.close()
        self._transfers.clear()
        # Whatever libcurl does to these from now on, at the exit of the interpreter for one, must
        # not reach the peer (a TLS close_notify would). And while the child held the sockets as
        # well, they would stay open when the parent closes them.
        null = os.open(os.devnull, os.O_RDWR)
        for fd, (_, inode) in self._openers.items():
            try:
                if os.fstat(fd).st_ino == inode:
                    os.dup2(null, fd, inheritable=False)
            except OSError:
                pass  # closed by libcurl since then
        os.close(null)
        keep_for_ever((self._lanes, self._poller))

    def __len__(self) -> int:
        return len(self._transfers)

    # Into libcurl

    def _add(self, easy: pycurl.Curl) -> None:
        is_shown = easy in self._shown
        if is_shown:
            self._shown.remove(easy)
        if easy not in self._transfers:
            return  # cancelled before it began
        self._inside = True
        try:
            lane = self._lanes[0] if self._lanes else self._open_lane()
            if lane.attached >= LANE:
                lane = self._lane_with_room()
            if is_shown:
                lane.multi.setopt(pycurl.M_TIMERFUNCTION, partial(self._on_timer, lane))
            lane.add_handle(easy)
            self._attached[easy] = lane
            lane.attached += 1
            self._run_soon(lane)
        except pycurl.error as error:
            # start() promised not to call back from inside itself.
            self._loop.call_soon(self._transfers.pop(easy), *_reason(error))
        finally:
            self._inside = False

    def _begin_at_once(self, easy: pycurl.Curl) -> None:
        """What `_on_soon` does, but for the ends of transfers: nobody is told of one in here."""
        self._starts_at_once = True
        try:
            self._poller.look()  # nothing is to be reaped: there is no transfer
            if self._closed:
                return
            self._add(easy)
            lane = self._attached.get(easy)
            if lane is not None and self._soon_lanes.pop(lane, True) is None:
                self._inside = lane.acted = True
                try:
                    _, lane.running = lane.socket_action(pycurl.SOCKET_TIMEOUT, 0)
                except pycurl.error:
                    lane.running = 0  # it will fail again, where that may be told
                finally:
                    self._inside = False
                if lane.running < lane.attached:
                    self._soon_lanes[lane] = None
                else:
                    self._ask_for_timer(lane)
        finally:
            self._starts_at_once = False
        for lane in list(self._soon_lanes):
            self._run_soon(lane)
        self._poller.expect(monotonic())

    def _discard(self, easy: pycurl.Curl) -> None:
        lane = self._attached.get(easy)
        if lane is not None:
            try:
                self._detach(easy)
            except pycurl.error:
                pass  # closing the handle removes it as well
        easy.close()
        if lane is not None:
            self._ask_for_timer(lane)
        self._after()

    def _detach(self, easy: pycurl.Curl) -> None:
        lane = self._attached.pop(easy)
        lane.attached -= 1
        lane.acted = True
        if not lane.attached and lane is not self._lanes[0]:
            self._note_idle(lane)
        self._inside = True
        try:
            lane.remove_handle(easy)
        finally:
            self._inside = False

    def _action(self, lane: Lane, fd: int, mask: int) -> bool:
        """Let libcurl act on a socket or its timers; False if that ended the multi (rule 5)."""
        self._inside = lane.acted = True
        try:
            _, lane.running = lane.socket_action(fd, mask)
        except pycurl.error as error:
            self._inside = False
            if not self._closed:
                self._rebuild(lane, f"libcurl's multi handle failed: {error}")
            return False
        finally:
            self._inside = False
        return True

    def _reap(self) -> None:
        """Hand over what has finished."""
        for lane in self._lanes:
            if lane.acted:
                if lane.running < lane.attached:
                    self._reap_lane(lane)
                    if self._closed:
                        return
                self._ask_for_timer(lane)

    def _reap_lane(self, lane: Lane) -> None:
        more = True
        while more and not self._closed:
            more, succeeded, failed = lane.multi.info_read()
            for easy in succeeded:
                self._finish(easy, 0, "")
            for easy, code, message in failed:
                self._finish(easy, code, message)

    def _finish(self, easy: pycurl.Curl, code: int, message: str) -> None:
        done = self._transfers.pop(easy, None)
        if done is None:
            return  # cancelled in a callback; its removal is deferred
        try:
            self._detach(easy)
        except pycurl.error as error:
            code, message = _reason(error)
        try:
            done(code, message)
        except Exception as error:  # noqa: BLE001 (the others that finished must be heard)
            self._was_not_handled(error)

    def _was_not_handled(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "the end of a transfer was not handled", "exception": error}
        )

    def _rebuild(self, lane: Lane, message: str) -> None:
        """Replace a multi that failed; its transfers fail with it, the next one works."""
        attached = [easy for easy, its in self._attached.items() if its is lane]
        failed = [self._transfers.pop(easy, None) for easy in attached]
        for easy in attached:
            del self._attached[easy]
        self._remove_lane(lane)  # the next transfer opens another
        close_multis([lane.multi], attached, close_handles=False)
        for done in failed:
            if done is not None:  # else it was cancelled in a callback, and is about to be closed
                try:
                    done(FAILED, message)
                except Exception as error:  # noqa: BLE001 (as in `_finish`)
                    self._was_not_handled(error)

    def _remove_lane(self, lane: Lane) -> None:
        self._lanes.remove(lane)
        self._soon_lanes.pop(lane, None)
        lane.drop_timer()
        for fd in self._poller.forget(lane):
            self._openers.pop(fd, None)

    def _note_idle(self, lane: Lane) -> None:
        """A multi beyond the first has nothing to do: do not keep its connections for ever."""
        lane.idle_since = self._loop.time()
        if self._sweep is None:
            self._sweep = self._loop.call_later(LINGER, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        if self._closed:
            return
        now = self._loop.time()
        waits = []
        gone = []
        for lane in self._lanes[1:]:
            if not lane.attached:
                left = lane.idle_since + LINGER - now
                if left > 0:
                    waits.append(left)
                else:
                    self._remove_lane(lane)
                    gone.append(lane.multi)
        if waits:
            self._sweep = self._loop.call_later(min(waits), self._close_idle)
        if gone:
            close_multis(gone, ())

    def _after(self) -> None:
        """Do what callbacks asked for while libcurl was running."""
        if self._inside:
            return  # one of them runs the loop: when libcurl has returned
        while self._deferred and not self._closed:
            deferred, self._deferred = self._deferred, []
            for call in deferred:
                call()
        if self._soon is None and self._soon_lanes and not self._closed:
            self._soon = self._loop.call_soon(self._on_soon)

    def _defer(self, call: Callable[[], None]) -> None:
        if not self._deferred:
            self._loop.call_soon(self._after)
        self._deferred.append(call)

    # The timers

    def _on_timer(self, lane: Lane, timeout_ms: int) -> None:
        """M_TIMERFUNCTION, where libcurl may be called by others than this driver."""
        if not (self._inside and lane.acted):  # else it is asked anyway, when libcurl returns
            lane.acted = True
            self._run_soon(lane)

    def _ask_for_timer(self, lane: Lane) -> None:
        """Rule 2."""
        lane.acted = False
        timeout_ms = lane.multi.timeout()
        if timeout_ms <= 0:
            lane.due = None
            if not timeout_ms:
                self._run_soon(lane)
        else:
            lane.due = due = self._clock() + timeout_ms / 1000
            # An alarm that rings early looks at `due` again: moving a deadline later is free.
            if due < lane.alarm_due:
                if lane.alarm is not None:
                    lane.alarm.cancel()
                self._set_alarm(lane, due)

    def _set_alarm(self, lane: Lane, due: float) -> None:
        lane.alarm_due = due
        lane.alarm = self._loop.call_at(due, self._ring, lane)

    def _note_broken(self, lane: Lane, fd: int) -> None:
        self._broken.append((lane, fd))
        if len(self._broken) == 1:
            self._loop.call_soon(self._fail_broken)

    # From the loop

    def _run_soon(self, lane: Lane) -> None:
        self._soon_lanes[lane] = None
        if self._soon is None and not self._closed and not self._starts_at_once:
            self._soon = self._loop.call_soon(self._on_soon)

    def _serve_soon(self) -> None:
        """Do at once what would be done soon."""
        if self._soon is not None:
            self._soon.cancel()
            self._on_soon()

    def _on_soon(self) -> None:
        self._soon = None
        if self._inside:
            return  # one of libcurl's callbacks runs the loop: see `_after`
        lanes, self._soon_lanes = self._soon_lanes, {}
        if self._closed:
            return
        # First what lies on idle sockets: a connection that must not be used again has to be
        # known before a new transfer picks one.
        self._poller.look()
        for lane in lanes:
            if self._closed:
                return
            self._action(lane, pycurl.SOCKET_TIMEOUT, 0)
        self._on_batch([])
        if self._attached and not self._closed:
            # For what began here. Not while a body comes: whoever looks at once gets it in crumbs.
            self._poller.expect(monotonic())

    def _ring(self, lane: Lane) -> None:
        lane.alarm = None
        lane.alarm_due = math.inf
        if self._closed or lane.due is None:
            return
        # The loop's clock may end a hair early: then ring again.
        if lane.due > self._clock() + 0.0005:
            self._set_alarm(lane, lane.due)
            return
        lane.due = None
        self._run_soon(lane)

    def _before_serving(self, is_new_turn: bool = True) -> None:
        """Sockets are about to be served.

        First begins what is to begin soon: else it would in the middle of that, on a connection
        whose response has just ended, and that nobody has looked at.
        """
        if is_new_turn:
            self.room.left = ROOM
        if self._soon_lanes:
            self._serve_soon()

    def _on_batch(self, idle: list[int]) -> None:
        """What was ready has been served; `idle` had events though none was due."""
        for fd in idle:
            self._on_idle_event(fd)
        if not self._closed:
            self._reap()
            self._after()

    def _fail_broken(self) -> None:
        broken, self._broken = self._broken, []
        if self._closed:
            return
        message = "the event loop cannot watch a socket: out of file descriptors?"
        # Not of a transfer but libcurl's own, such as the one its resolver threads write to.
        for lane in {lane for lane, fd in broken if fd not in self._openers}:
            if lane in self._lanes:
                self._rebuild(lane, message)
        for lane, fd in broken:
            for easy in self._users_of(fd) if lane in self._lanes else ():
                self._finish(easy, FAILED, message)
        self._on_batch([])  # whoever waited for those goes on

    def _users_of(self, fd: int) -> list[pycurl.Curl]:
        """The transfers on a socket: libcurl tells when it is connected; else it is its opener's.

        That a handle once opened a socket alone says nothing: the connection may serve another
        handle by now, and the handle another transfer.
        """
        sockets = {}
        for easy in self._attached:
            try:
                sockets[easy] = easy.getinfo(pycurl.ACTIVESOCKET)
            except pycurl.error:
                sockets[easy] = -1
        users = [easy for easy, socket in sockets.items() if socket == fd]
        opener, _ = self._openers[fd]
        return users or ([opener] if sockets.get(opener) == -1 else [])

    def _drop_timers(self) -> None:
        for lane in self._lanes:
            lane.drop_timer()
        if self._soon is not None:
            self._soon.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        self._soon = self._sweep = None


def _reason(error: pycurl.error) -> tuple[int, str]:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else FAILED
    return FAILED, f"{error.args[-1] if error.args else error} (code {code})"
