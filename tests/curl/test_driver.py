"""The rules at the top of driver.py, each by what goes wrong without it.

Most tests drive easy handles directly: the driver knows no HTTP and neither do they need a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pycurl
import pytest

from conftest import Baseline, StrayLogs
from whimbrel._curl import driver, pollers
from whimbrel._curl.driver import FAILED, Driver
from whimbrel._curl.lanes import Lane
from whimbrel._curl.pollers import EpollPoller
from whimbrel._wakeups import Wakeups
from whimbrel.testing import localhost_context
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    ok,
    silent_server,
    unaccepting_port,
)

from .support import Saboteur, until

# Seconds in which something is seen not to happen.
QUIET = 0.3


class SpyDriver(Driver):
    """A driver that notes in which threads libcurl calls it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.threads: set[int] = set()
        super().__init__(*arguments, **keywords)

    def _open_lane(self) -> Lane:
        listener = self._poller.listener

        def noting_listener(lane: Lane) -> Callable[..., None]:
            on_socket = listener(lane)

            def noting(*arguments: Any) -> None:
                self.threads.add(threading.get_ident())
                on_socket(*arguments)

            return noting

        self._poller.listener = noting_listener  # type: ignore[method-assign]
        try:
            return super()._open_lane()
        finally:
            self._poller.listener = listener  # type: ignore[method-assign]


class Rig:
    """A driver, and transfers that end in futures of (code, body)."""

    def __init__(self, use_epoll: bool, max_connections: int | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_events: list[int] = []
        self.sockets: list[int] = []
        self.driver = SpyDriver(
            self.loop,
            self.idle_events.append,
            use_epoll=use_epoll,
            max_connections=max_connections,
        )

    def easy(self, url: str, write: Callable[[bytes], Any], **options: Any) -> pycurl.Curl:
        easy = pycurl.Curl()
        easy.setopt(pycurl.URL, url)
        easy.setopt(pycurl.PROXY, "")
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.WRITEFUNCTION, write)
        easy.setopt(pycurl.SOCKOPTFUNCTION, lambda fd, _purpose: self._opened(fd, easy))
        for name, value in options.items():
            easy.setopt(getattr(pycurl, name), value)
        return easy

    def _opened(self, fd: int, easy: pycurl.Curl) -> int:
        self.sockets.append(fd)
        self.driver.opened(fd, easy)
        return 0

    def run(self, easy: pycurl.Curl, *, close: bool = True) -> asyncio.Future[int]:
        """Start `easy`; return a future of libcurl's code. At the end the handle is closed."""
        future: asyncio.Future[int] = self.loop.create_future()

        def done(code: int, message: str) -> None:
            if close:
                easy.close()
            future.set_result(code)

        self.driver.start(easy, done)
        return future

    async def get(self, url: str, **options: Any) -> tuple[int, bytes]:
        """Run a transfer; return libcurl's code and the body."""
        pieces: list[bytes] = []
        code = await self.run(self.easy(url, pieces.append, **options))
        return code, b"".join(pieces)


@pytest.fixture
async def make_rig(use_epoll: bool, saboteur: Saboteur) -> AsyncIterator[Callable[..., Rig]]:
    """Make rigs; at the end they are closed, and nothing may be left of them."""
    baseline = Baseline.take()
    rigs: list[Rig] = []

    def make(**keywords: Any) -> Rig:
        rigs.append(Rig(use_epoll, **keywords))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.driver.close()
        # Rule 4: the thread that closes the multi is not to be heard of.
        await until(lambda: not _closing_threads())
        assert rig.driver.threads <= {threading.get_ident()}
    rigs.clear()
    await baseline.restored()


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


def _held(release: asyncio.Event, only: str = "/") -> Callable[[Peer], Any]:
    """Answer every request with its target; those whose target begins with `only` wait."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target.startswith(only):
                await release.wait()
            await peer.send(ok(request.target.encode()))

    return handler


def _answer_now(peer: Peer, length: int, body: bytes) -> None:
    """Answer past the event loop, so that several answers are there when it looks next."""
    peer._sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body))


def _ignore(piece: bytes) -> None:
    """Where a body goes that nobody asks for."""


def _closing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "whimbrel.close"]


async def _pass(seconds: float) -> None:
    """Let time pass, for what is not to happen in it."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()


@contextlib.contextmanager
def _held_by_another_process(fd: int) -> Iterator[None]:
    """Let another process hold the socket `fd`, as a child that was forked by C code would."""
    holder = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
    finally:
        holder.communicate()


# -- rule 1: no call into libcurl from a callback, no exception out of one


async def test_rule_1_what_callbacks_ask_for_is_deferred(rig: Rig) -> None:
    """start(), cancel() and pause() from within a callback are done when libcurl has returned."""
    started: list[asyncio.Future[int]] = []
    bodies: dict[str, list[bytes]] = {"first": [], "second": []}

    async with ScriptedServer(canned(ok(b"body"))) as server, silent_server() as quiet:
        victim = rig.easy(quiet.url(), _ignore)
        rig.driver.start(victim, lambda code, message: pytest.fail("it was cancelled"))
        await quiet.accepted()

        def write(piece: bytes) -> None:
            bodies["first"].append(piece)
            rig.driver.pause(first, pycurl.PAUSE_CONT)
            second = rig.easy(server.url(), bodies["second"].append)
            started.append(rig.run(second))
            rig.driver.cancel(victim)

        first = rig.easy(server.url(), write)
        assert await rig.run(first) == 0
        assert await started[0] == 0
        await quiet.connections[0].closed()
    assert bodies == {"first": [b"body"], "second": [b"body"]}
    assert len(rig.driver) == 0


async def test_rule_1_started_and_cancelled_in_one_callback(rig: Rig, saboteur: Saboteur) -> None:
    """A transfer that is cancelled before libcurl ever saw it connects to nothing."""
    async with ScriptedServer(canned(ok())) as server, silent_server() as quiet:

        def write(piece: bytes) -> None:
            easy = rig.easy(quiet.url(), _ignore)
            rig.driver.start(easy, lambda code, message: pytest.fail("it was cancelled"))
            rig.driver.cancel(easy)

        assert await rig.run(rig.easy(server.url(), write)) == 0
        assert saboteur.calls["add_handle"] == 1
        assert (await rig.get(server.url()))[0] == 0
        assert not quiet.connections
    assert len(rig.driver) == 0


async def test_rule_1_closed_in_a_callback(rig: Rig) -> None:
    """close() from within a callback: no deadlock, nobody is called back, nothing is left."""
    async with ScriptedServer(canned(ok())) as server, silent_server() as quiet:
        other = rig.easy(quiet.url(), _ignore)
        rig.driver.start(other, lambda code, message: pytest.fail("closed"))
        await quiet.accepted()

        def write(piece: bytes) -> None:
            rig.driver.cancel(other)  # deferred, and overtaken by the close
            rig.driver.close()

        easy = rig.easy(server.url(), write)
        rig.driver.start(easy, lambda code, message: pytest.fail("closed"))
        await quiet.connections[0].closed()
        await until(lambda: server.connections)
        await server.connections[0].closed()
        assert easy.closed
        assert other.closed
    with pytest.raises(RuntimeError, match="closed"):
        rig.driver.start(easy, lambda code, message: None)


async def test_rule_1_an_owner_that_raises(rig: Rig, stray_logs: StrayLogs) -> None:
    """What `done` raises goes to the loop's exception handler; others that finished are told."""
    release = asyncio.Event()

    def done(easy: pycurl.Curl, code: int, message: str) -> None:
        easy.close()
        raise ZeroDivisionError

    async with ScriptedServer(_held(release)) as server:
        easy = rig.easy(server.url(), _ignore)
        rig.driver.start(easy, partial(done, easy))
        other = rig.run(rig.easy(server.url(), _ignore))
        await server.requested(2)
        release.set()
        assert await other == 0
        assert await rig.get(server.url()) == (0, b"/")
    stray_logs.expect("asyncio", "the end of a transfer was not handled")


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError, NotImplementedError])
async def test_matrix_56_a_socket_that_cannot_be_watched(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Only the transfer on that socket fails; one out of the callback would end them all."""
    release = asyncio.Event()
    async with ScriptedServer(_held(release)) as server:
        others = [asyncio.ensure_future(rig.get(server.url(f"/{n}"))) for n in range(3)]
        await server.requested(3)

        def watch(fd: int, what: int, lane: object) -> None:
            raise error("not this one")

        with monkeypatch.context() as patch:
            patch.setattr(rig.driver._poller, "watch", watch)
            assert (await rig.get(server.url("/broken")))[0] == FAILED
        release.set()
        assert await asyncio.gather(*others) == [(0, b"/0"), (0, b"/1"), (0, b"/2")]
        assert await rig.get(server.url("/next")) == (0, b"/next")


async def test_matrix_56_the_user_of_a_reused_connection_fails(
    saboteur: Saboteur, rig: Rig, use_epoll: bool
) -> None:
    """Not the handle that opened the socket is to blame, but the one that uses it now."""
    release = asyncio.Event()
    release.set()
    async with ScriptedServer(_held(release)) as one, ScriptedServer(_held(release)) as two:
        first, second = rig.easy(one.url(), _ignore), rig.easy(two.url(), _ignore)
        assert [await rig.run(easy, close=False) for easy in (first, second)] == [0, 0]
        socket_of_one = rig.sockets[0]
        release.clear()
        # Each handle goes to the other's server, on the connection that is there.
        first.setopt(pycurl.URL, two.url())
        second.setopt(pycurl.URL, one.url())
        saboteur.fail("modify" if use_epoll else "add_reader", fd=socket_of_one)
        innocent, guilty = rig.run(first), rig.run(second)
        assert await guilty == FAILED
        assert not innocent.done()
        release.set()
        assert await innocent == 0
        assert len(rig.sockets) == 2


# -- rule 2: the timer


@pytest.mark.parametrize("how", ["end", "cancel", "broken"])
async def test_rule_2_whoever_waits_for_a_connection_goes_on(rig: Rig, how: str) -> None:
    """However the one before it ends, libcurl asks to be called at once, and is."""
    lane = rig.driver._lanes[0]
    lane.multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
    release = asyncio.Event()
    async with ScriptedServer(_held(release, "/wait")) as server:
        first = rig.easy(server.url("/wait"), _ignore)
        running = rig.run(first)
        await server.requested(1)
        waiting = asyncio.ensure_future(rig.get(server.url("/next")))
        await _pass(0.05)
        assert len(server.requests) == 1
        if how == "end":
            release.set()
            assert await running == 0
        elif how == "cancel":
            rig.driver.cancel(first)
        else:
            rig.driver._note_broken(lane, rig.sockets[0])
            assert await running == FAILED
        assert await asyncio.wait_for(waiting, 5) == (0, b"/next")
        release.set()


async def test_rule_2_a_deleted_timer_does_not_ring(rig: Rig, saboteur: Saboteur) -> None:
    """-1 deletes the timer: the time-out of a transfer that has ended wakes libcurl no more."""
    async with ScriptedServer(canned(ok())) as server:
        # Long enough for a machine that is busy.
        assert await rig.get(server.url(), TIMEOUT_MS=500) == (0, b"ok")
        saboteur.calls.clear()
        await _pass(0.7)
        assert saboteur.calls["socket_action"] == 0


async def test_rule_2_an_earlier_deadline_replaces_a_later_one(rig: Rig) -> None:
    """A value that is due earlier counts from then on: the second transfer ends in time."""
    async with silent_server() as server:
        late = rig.easy(server.url(), _ignore, TIMEOUT_MS=20_000)
        rig.driver.start(late, lambda code, message: pytest.fail("cancelled"))
        await server.accepted()
        async with asyncio.timeout(5):
            code, _ = await rig.get(server.url(), TIMEOUT_MS=100)
        assert code == pycurl.E_OPERATION_TIMEDOUT
        rig.driver.cancel(late)


async def test_rule_2_a_later_deadline_replaces_an_earlier_one(
    rig: Rig, saboteur: Saboteur
) -> None:
    """A value that is due later counts as well: the alarm that rings early only rings again."""
    async with silent_server() as server:
        early = rig.easy(server.url(), _ignore, TIMEOUT_MS=100)
        rig.driver.start(early, lambda code, message: pytest.fail("cancelled"))
        begun = rig.loop.time()
        later = asyncio.ensure_future(rig.get(server.url(), TIMEOUT_MS=400))
        await until(lambda: sum(peer.bytes_received > 0 for peer in server.connections) == 2)
        rig.driver.cancel(early)
        await _pass(0)
        saboteur.calls.clear()
        await _pass(0.2)
        assert saboteur.calls["socket_action"] == 0
        async with asyncio.timeout(5):
            assert (await later)[0] == pycurl.E_OPERATION_TIMEDOUT
        assert rig.loop.time() - begun >= 0.39


async def test_rule_2_zero_is_soon_not_now(rig: Rig, saboteur: Saboteur) -> None:
    """libcurl asks for 0 ms when a transfer starts: it is served by the loop, not by start()."""
    async with ScriptedServer(canned(ok())) as server:
        transfer = rig.run(rig.easy(server.url(), _ignore))
        assert saboteur.calls["add_handle"] == 1
        assert saboteur.calls["socket_action"] == 0
        assert await transfer == 0


# -- rule 3: the same number, another socket


async def test_rule_3_numbers_come_back(rig: Rig) -> None:
    """Connections that close one after the other share a number, and all are served."""
    async with ScriptedServer(canned(ok(b"ok", "Connection: close"))) as server:
        for _ in range(5):
            assert await rig.get(server.url()) == (0, b"ok")
        assert len(server.connections) == 5
    assert len(rig.sockets) == 5
    assert len(set(rig.sockets)) < 5, "no number came back: this proves nothing"


async def test_rule_3_a_number_comes_back_to_a_slow_peer(rig: Rig) -> None:
    """The new socket of an old number waits as long as it must (matrix 60)."""
    release = asyncio.Event()
    async with (
        ScriptedServer(canned(ok(b"ok", "Connection: close"))) as server,
        ScriptedServer(_held(release)) as slow,
    ):
        assert await rig.get(server.url()) == (0, b"ok")
        fetch = asyncio.ensure_future(rig.get(slow.url()))
        await slow.requested()
        assert rig.sockets[0] == rig.sockets[1]
        assert not fetch.done()
        release.set()
        assert await fetch == (0, b"/")


async def test_rule_3_an_event_on_an_idle_socket_is_told_once(
    rig: Rig, saboteur: Saboteur, use_epoll: bool
) -> None:
    """A peer that closes an idle connection is noticed before the next start, without a spin."""
    async with ScriptedServer(canned(ok())) as server, ScriptedServer(canned(ok())) as other:
        assert await rig.get(server.url()) == (0, b"ok")
        assert rig.idle_events == []
        saboteur.calls.clear()
        server.connections[0].close()
        if use_epoll:
            await until(lambda: rig.idle_events)
            await _pass(QUIET)
            assert saboteur.calls["poll"] <= 3
            assert saboteur.calls["socket_action"] == 0
        else:
            await server.finished()
            assert await rig.get(other.url()) == (0, b"ok")
        assert rig.idle_events == rig.sockets[:1]
        assert await rig.get(server.url()) == (0, b"ok")
        assert rig.idle_events == rig.sockets[:1]


async def test_rule_3_stray_bytes_are_seen_before_a_connection_is_used_again(rig: Rig) -> None:
    """Bytes that came while it idled are told of before libcurl can pick the connection."""
    async with ScriptedServer(canned(ok())) as server:
        assert await rig.get(server.url()) == (0, b"ok")
        await server.connections[0].send(ok(b"stray"))
        seen_at_start: list[list[int]] = []
        easy = rig.easy(server.url(), _ignore)
        easy.setopt(
            pycurl.PREREQFUNCTION,
            lambda *address: seen_at_start.append(list(rig.idle_events)) or 0,
        )
        await rig.run(easy)
        assert seen_at_start == [rig.sockets[:1]]


async def test_rule_3_a_registration_that_cannot_be_taken_back(
    make_rig: Callable[..., Rig], saboteur: Saboteur, use_epoll: bool
) -> None:
    """Another process holds a socket that libcurl closed: a new epoll, no spin, nobody is hurt."""
    rig = make_rig(max_connections=1)
    release = asyncio.Event()
    async with (
        ScriptedServer(canned(ok())) as server,
        ScriptedServer(canned(ok())) as other,
        ScriptedServer(_held(release)) as slow,
    ):
        assert await rig.get(server.url()) == (0, b"ok")
        with _held_by_another_process(rig.sockets[0]):
            in_flight = asyncio.ensure_future(rig.get(slow.url()))
            await slow.requested()
            # One idle connection is allowed: this one takes the place of the first.
            assert await rig.get(other.url()) == (0, b"ok")
            saboteur.calls.clear()
            server.connections[0].close()
            if use_epoll:
                await until(lambda: saboteur.calls["epoll"])
            await _pass(QUIET)
            assert saboteur.calls["epoll"] <= 1
            assert saboteur.calls["poll"] <= 3
            assert not in_flight.done()
            release.set()
            assert await in_flight == (0, b"/")
            assert await rig.get(server.url()) == (0, b"ok")


async def test_rule_3_the_number_of_a_socket_held_elsewhere_comes_back(
    make_rig: Callable[..., Rig], saboteur: Saboteur, use_epoll: bool
) -> None:
    """The old socket's events are not taken for the new one's, over and over (matrix 60)."""
    rig = make_rig(max_connections=1)
    release = asyncio.Event()
    async with (
        ScriptedServer(canned(ok())) as server,
        ScriptedServer(canned(ok())) as other,
        ScriptedServer(_held(release)) as slow,
    ):
        assert await rig.get(server.url()) == (0, b"ok")
        with _held_by_another_process(rig.sockets[0]):
            assert await rig.get(other.url()) == (0, b"ok")
            in_flight = asyncio.ensure_future(rig.get(slow.url()))
            await slow.requested()
            assert rig.sockets[2] == rig.sockets[0]
            saboteur.calls.clear()
            server.connections[0].close()
            await server.finished()
            await _pass(QUIET)
            assert saboteur.calls["socket_action"] <= 3
            assert saboteur.calls["poll"] <= 3
            release.set()
            assert await in_flight == (0, b"/")
            assert await rig.get(server.url()) == (0, b"ok")


async def test_rule_3_idle_sockets_are_watched_by_the_new_epoll(
    make_rig: Callable[..., Rig], use_epoll: bool
) -> None:
    """Replacing the epoll forgets no idle connection: what comes on one is told of."""
    rig = make_rig(max_connections=2)
    async with (
        ScriptedServer(canned(ok())) as held,
        ScriptedServer(canned(ok())) as idle,
        ScriptedServer(canned(ok())) as third,
    ):
        assert await rig.get(held.url()) == (0, b"ok")
        with _held_by_another_process(rig.sockets[0]):
            assert await rig.get(idle.url()) == (0, b"ok")
            assert await rig.get(third.url()) == (0, b"ok")
            held.connections[0].close()
            await held.finished()
            idle.connections[0].close()
            await idle.finished()
            assert await rig.get(third.url()) == (0, b"ok")
            assert rig.idle_events == [rig.sockets[1]]
        assert len(third.connections) == 1


@pytest.mark.parametrize("use_epoll", [True], ids=["epoll"])
async def test_rule_3_a_socket_that_the_new_epoll_does_not_take(
    make_rig: Callable[..., Rig], saboteur: Saboteur
) -> None:
    """Where only the replacement fails, the transfer on that socket fails, and is told so."""
    rig = make_rig(max_connections=1)
    release = asyncio.Event()
    async with (
        ScriptedServer(canned(ok())) as server,
        ScriptedServer(canned(ok())) as other,
        ScriptedServer(_held(release)) as slow,
    ):
        assert await rig.get(server.url()) == (0, b"ok")
        with _held_by_another_process(rig.sockets[0]):
            in_flight = asyncio.ensure_future(rig.get(slow.url()))
            await slow.requested()
            assert await rig.get(other.url()) == (0, b"ok")
            saboteur.fail("register", fd=rig.sockets[1])
            server.connections[0].close()
            assert (await in_flight)[0] == FAILED
            assert await rig.get(other.url()) == (0, b"ok")


async def test_rule_3_an_idle_socket_is_not_watched_for_writing(
    saboteur: Saboteur,
) -> None:
    """A socket that goes idle while it is watched for writing gives no event until it reads.

    Where that cannot be had, its event is taken out like any other, and the next use begins anew.
    """
    loop = asyncio.get_running_loop()
    idle: list[int] = []
    ready: list[tuple[int, int]] = []
    lane = Lane(pycurl.CurlMulti(), 0)
    poller = EpollPoller(
        loop,
        lambda: None,
        lambda lane, fd, mask: ready.append((fd, mask)),
        idle.extend,
        lambda lane, fd: None,
        Wakeups(loop),
    )
    here, there = socket.socketpair()

    on_socket = poller.listener(lane)

    def tell(what: int) -> None:
        on_socket(what, here.fileno(), lane.multi, None)

    with here, there:
        tell(pycurl.POLL_OUT)
        tell(pycurl.POLL_REMOVE)
        await _pass(0.05)
        assert idle == []
        there.send(b"stray")
        await until(lambda: idle)
        assert idle == [here.fileno()]

        tell(pycurl.POLL_OUT)
        saboteur.fail("modify")
        tell(pycurl.POLL_REMOVE)
        tell(pycurl.POLL_IN)
        await until(lambda: ready)
        assert ready[0] == (here.fileno(), pycurl.CSELECT_IN)
        poller.close()
        lane.multi.close()


@pytest.mark.parametrize("removed", ["another", "its own"])
async def test_rule_3_what_was_told_of_is_watched_again(removed: str) -> None:
    """Also by a new epoll, for as long as the socket's multi handle is there."""
    idle: list[int] = []
    lanes = [Lane(pycurl.CurlMulti(), number) for number in range(2)]
    poller = EpollPoller(
        asyncio.get_running_loop(),
        lambda: None,
        lambda lane, fd, mask: None,
        idle.extend,
        lambda lane, fd: None,
        Wakeups(asyncio.get_running_loop()),
    )
    here, there = socket.socketpair()
    with here, there:
        poller.watch(here.fileno(), pycurl.POLL_IN, lanes[0])
        poller.idle(here.fileno())
        there.send(b"stray")
        poller.look()
        assert idle == [here.fileno()]
        poller.forget(lanes[0 if removed == "its own" else 1])
        poller.watch_idle(here.fileno())
        poller.look()
        assert idle == [here.fileno()] * (1 if removed == "its own" else 2)
        poller.close()
    for lane in lanes:
        lane.multi.close()


# -- rule 4: callbacks during close


@pytest.mark.usefixtures("debug_mode")
async def test_rule_4_callbacks_during_close(rig: Rig) -> None:
    """What libcurl says while a thread closes it reaches nobody; see also `make_rig`."""
    async with (
        ScriptedServer(canned(ok()), localhost_context()) as tls,
        ScriptedServer(canned(ok())) as plain,
        silent_server() as quiet,
    ):
        assert await rig.get(tls.url(), SSL_VERIFYPEER=0, SSL_VERIFYHOST=0) == (0, b"ok")
        assert await rig.get(plain.url()) == (0, b"ok")
        easy = rig.easy(quiet.url(), _ignore)
        rig.driver.start(easy, lambda code, message: pytest.fail("closed"))
        await quiet.accepted()
        rig.driver.close()
        for server in (tls, plain, quiet):
            await server.connections[0].closed()
        await until(lambda: not _closing_threads())
        assert [lane.alarm for lane in rig.driver._lanes] == [None]
        assert rig.driver._soon is None


async def test_close_where_no_thread_can_be_started(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that exits starts no threads any more: then close() closes here and now."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with ScriptedServer(canned(ok())) as server:
        assert await rig.get(server.url()) == (0, b"ok")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            rig.driver.close()
        await server.connections[0].closed()


# -- rule 5: a multi handle that fails


@pytest.mark.usefixtures("debug_mode")
async def test_rule_5_a_failing_socket_action(rig: Rig, saboteur: Saboteur) -> None:
    """All in flight fail with FAILED, once; a new multi serves the next, the old one is closed."""
    release = asyncio.Event()
    async with ScriptedServer(_held(release, "/wait"), localhost_context()) as server:
        insecure = {"SSL_VERIFYPEER": 0, "SSL_VERIFYHOST": 0}
        transfers = [rig.run(rig.easy(server.url("/wait"), _ignore, **insecure)) for _ in range(3)]
        await server.requested(3)
        (broken,) = rig.driver._lanes
        saboteur.fail("socket_action")
        transfers.append(rig.run(rig.easy(server.url("/trigger"), _ignore, **insecure)))
        assert await asyncio.gather(*transfers) == [FAILED] * 4
        assert broken not in rig.driver._lanes
        assert await rig.get(server.url("/next"), **insecure) == (0, b"/next")
        for peer in server.connections[:3]:
            await peer.closed()


async def test_rule_5_the_next_one_starts_from_within(rig: Rig, saboteur: Saboteur) -> None:
    """A transfer that is started when another is told of the failure is on the new multi."""
    async with ScriptedServer(canned(ok())) as server:
        following: list[asyncio.Future[int]] = []

        def done(code: int, message: str) -> None:
            assert code == FAILED
            assert "sabotage" in message
            first.close()
            following.append(rig.run(rig.easy(server.url(), _ignore)))

        first = rig.easy(server.url(), _ignore)
        saboteur.fail("socket_action")
        rig.driver.start(first, done)
        await until(lambda: following)
        assert await following[0] == 0


async def test_rule_5_what_was_cancelled_in_a_callback_is_closed(
    rig: Rig, saboteur: Saboteur
) -> None:
    """A failure between a cancellation in a callback and its deferred removal leaves no handle."""
    async with ScriptedServer(lambda peer: peer.closed()) as server:
        victim = rig.easy(server.url(), _ignore)
        rig.driver.start(victim, lambda code, message: pytest.fail("it was cancelled"))
        await server.accepted(1)

        def write(piece: bytes) -> None:
            rig.driver.cancel(victim)
            saboteur.fail("socket_action")

        transfers = [rig.run(rig.easy(server.url(), write)) for _ in range(2)]
        await until(lambda: sum(peer.bytes_received > 0 for peer in server.connections) == 3)
        for peer in server.connections:
            _answer_now(peer, 9, b"first")
        assert await asyncio.gather(*transfers) == [FAILED] * 2
        assert victim.closed


# -- rule 6: no heartbeat, and no wake-up that is lost


async def test_rule_6_idle_means_idle(rig: Rig, saboteur: Saboteur) -> None:
    """While nothing happens nothing is called: neither at rest nor while a peer is silent."""
    async with ScriptedServer(canned(ok())) as server, silent_server() as quiet:
        assert await rig.get(server.url()) == (0, b"ok")
        saboteur.calls.clear()
        await _pass(QUIET)
        assert saboteur.calls == Counter()
        easy = rig.easy(quiet.url(), _ignore)
        rig.driver.start(easy, lambda code, message: pytest.fail("cancelled"))
        await until(lambda: quiet.connections and quiet.connections[0].bytes_received)
        await _pass(QUIET)  # libcurl's own timers of the connection phase run out
        saboteur.calls.clear()
        await _pass(QUIET)
        assert saboteur.calls["socket_action"] <= 1
        assert saboteur.calls["poll"] <= 1
        rig.driver.cancel(easy)


async def test_rule_6_finished_while_another_was_cancelled(rig: Rig) -> None:
    """A transfer that ends in the turn in which a callback cancelled another one is heard of.

    libcurl still counts the cancelled one as running: to go by that alone loses the wake-up.
    """
    async with ScriptedServer(lambda peer: peer.closed()) as server:
        victim = rig.easy(server.url(), _ignore)
        rig.driver.start(victim, lambda code, message: pytest.fail("it was cancelled"))
        await server.accepted(1)
        canceller = rig.run(rig.easy(server.url(), lambda piece: rig.driver.cancel(victim)))
        await server.accepted(2)
        other = rig.run(rig.easy(server.url(), _ignore))
        await server.accepted(3)
        await until(lambda: all(peer.bytes_received for peer in server.connections))
        # Both answers are there when the loop looks next. The first does not end its transfer.
        _answer_now(server.connections[1], 9, b"first")
        _answer_now(server.connections[2], 2, b"ok")
        async with asyncio.timeout(5):
            assert await other == 0
        assert not canceller.done()
        server.connections[1]._sock.send(b"last")
        assert await canceller == 0


async def test_rule_6_data_that_libcurl_already_holds(rig: Rig) -> None:
    """Unpausing a transfer whose answer has arrived in full needs no event on its socket."""
    paused = asyncio.Event()
    pieces: list[bytes] = []

    def write(piece: bytes) -> int | None:
        if not paused.is_set():
            paused.set()
            return int(pycurl.WRITEFUNC_PAUSE)
        pieces.append(piece)
        return None

    async with ScriptedServer(canned(ok(b"whole"))) as server:
        easy = rig.easy(server.url(), write)
        transfer = rig.run(easy)
        await paused.wait()
        await _pass(0.05)
        assert not transfer.done()
        rig.driver.pause(easy, pycurl.PAUSE_CONT)
        async with asyncio.timeout(5):
            assert await transfer == 0
    assert b"".join(pieces) == b"whole"


async def test_cancel_is_silent_and_at_once(rig: Rig) -> None:
    """cancel() closes the connection there and then, in every phase, and may be called again."""
    with unaccepting_port() as port:
        async with silent_server() as server:
            for url in (f"http://127.0.0.1:{port}/", server.url(), server.url("/started")):
                easy = rig.easy(url, _ignore)
                rig.driver.start(easy, lambda code, message: pytest.fail("cancelled"))
                if url == server.url("/started"):
                    await server.accepted(1)
                rig.driver.cancel(easy)
                rig.driver.cancel(easy)
                assert len(rig.driver) == 0
            for peer in server.connections:
                await peer.closed()


# -- rule 7: no long turns


class Turns:
    """Counts what ends in each turn of the loop, while it is entered."""

    def __init__(self) -> None:
        self.ended: list[int] = [0]
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Turns:
        self._turn()
        return self

    def _turn(self) -> None:
        self.ended.append(0)
        self._handle = self._loop.call_soon(self._turn)

    def __exit__(self, *exc_info: object) -> None:
        self._handle.cancel()


@pytest.mark.parametrize("share", ["SHARE", "SHARE_SECONDS"])
async def test_rule_7_a_turn_has_its_share(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    """Of many sockets that are ready at once, a few are served in each turn, and all in time."""
    monkeypatch.setattr(pollers, share, {"SHARE": 2, "SHARE_SECONDS": 0.0}[share])
    rig = Rig(use_epoll=True)
    count = 7
    async with ScriptedServer(lambda peer: peer.closed()) as server:
        transfers = []
        for number in range(count):
            transfers.append(rig.run(rig.easy(server.url(), _ignore)))
            await server.accepted(number + 1)
        await until(lambda: all(peer.bytes_received for peer in server.connections))
        with Turns() as turns:

            def ended(transfer: asyncio.Future[int]) -> None:
                turns.ended[-1] += 1

            for transfer in transfers:
                transfer.add_done_callback(ended)
            for peer in server.connections:
                _answer_now(peer, 2, b"ok")
            assert await asyncio.gather(*transfers) == [0] * count
    rig.driver.close()
    assert sum(turns.ended) == count
    assert max(turns.ended) == {"SHARE": 2, "SHARE_SECONDS": 1}[share]


async def test_rule_7_first_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is ready again and again does not keep others from being served."""
    monkeypatch.setattr(pollers, "SHARE", 1)
    rig = Rig(use_epoll=True)
    async with ScriptedServer(lambda peer: peer.closed()) as server:
        # Each piece brings the next at once, for ever.
        noisy = rig.easy(server.url("/noisy"), lambda piece: _send_more())
        rig.driver.start(noisy, lambda code, message: pytest.fail("it has no end"))
        await server.accepted(1)
        peers = server.connections

        def _send_more() -> None:
            peers[0]._sock.send(b"more")

        quiet = [rig.run(rig.easy(server.url("/quiet"), _ignore)) for _ in range(3)]
        await server.accepted(4)
        await until(lambda: all(peer.bytes_received for peer in peers))
        peers[0]._sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nmore")
        for peer in peers[1:]:
            _answer_now(peer, 2, b"ok")
        async with asyncio.timeout(5):
            assert await asyncio.gather(*quiet) == [0, 0, 0]
        rig.driver.cancel(noisy)
    rig.driver.close()


# -- rule 8: not too many transfers on one multi handle


async def test_rule_8_lanes_open_and_close(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much for one multi goes to others, which are closed once nobody needs them."""
    monkeypatch.setattr(driver, "LANE", 2)
    monkeypatch.setattr(driver, "LINGER", 0.1)
    rig = make_rig()
    release = asyncio.Event()
    async with ScriptedServer(_held(release)) as server:
        transfers = [rig.run(rig.easy(server.url(), _ignore)) for _ in range(5)]
        await server.requested(5)
        assert [lane.attached for lane in rig.driver._lanes] == [2, 2, 1]
        assert len({lane.number for lane in rig.driver._lanes}) == 3
        release.set()
        assert await asyncio.gather(*transfers) == [0] * 5
        # Their connections are used again before new ones are made.
        transfers = [rig.run(rig.easy(server.url(), _ignore)) for _ in range(5)]
        assert await asyncio.gather(*transfers) == [0] * 5
        assert len(server.connections) == 5
        await until(lambda: len(rig.driver._lanes) == 1)
        for peer in server.connections:
            if peer is not server.connections[0] and peer is not server.connections[1]:
                await peer.closed()
        assert await rig.get(server.url()) == (0, b"/")
        assert len(server.connections) == 5


async def test_rule_8_a_lane_in_use_is_not_closed(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for which nobody needs a multi begins anew with every use of it."""
    monkeypatch.setattr(driver, "LANE", 1)
    monkeypatch.setattr(driver, "LINGER", 0.1)
    rig = make_rig()
    release = asyncio.Event()
    async with (
        ScriptedServer(_held(release, "/wait")) as server,
        ScriptedServer(canned(ok())) as other,
    ):
        held = rig.run(rig.easy(server.url("/wait"), _ignore))
        await server.requested(1)
        assert await rig.get(other.url()) == (0, b"ok")
        second = rig.run(rig.easy(server.url("/wait"), _ignore))
        await server.requested(2)
        await _pass(0.3)
        assert len(rig.driver._lanes) == 2
        release.set()
        assert [await held, await second] == [0, 0]


async def test_rule_8_a_multi_fails_alone(
    make_rig: Callable[..., Rig], saboteur: Saboteur, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfers on another multi go on, and so does the watching of their sockets."""
    monkeypatch.setattr(driver, "LANE", 1)
    rig = make_rig()
    release = asyncio.Event()
    async with ScriptedServer(_held(release, "/wait")) as server:
        other = rig.run(rig.easy(server.url("/wait"), _ignore))
        await server.requested(1)
        saboteur.fail("socket_action")
        assert await rig.run(rig.easy(server.url(), _ignore)) == FAILED
        assert not other.done()
        release.set()
        async with asyncio.timeout(5):
            assert await other == 0
        assert await rig.get(server.url("/next")) == (0, b"/next")


async def test_rule_8_connections_have_one_number_each(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """libcurl counts them for each multi; a response tells of one that is the client's."""
    monkeypatch.setattr(driver, "LANE", 1)
    client = make_client(max_clients=3)
    release = asyncio.Event()
    async with ScriptedServer(_held(release)) as server:
        fetches = [client.fetch(server.url()) for _ in range(3)]
        await server.requested(3)
        release.set()
        first = {(await fetch).connection_id for fetch in fetches}
        assert len(first) == 3
        again = await asyncio.gather(*(client.fetch(server.url()) for _ in range(3)))
        assert {response.connection_id for response in again} == first
        assert all(response.reused for response in again)


# -- with a client


@pytest.mark.parametrize("concurrency", [1, 10, 1000])
async def test_concurrency_without_a_lost_wake_up(
    concurrency: int, use_epoll: bool, make_client: Callable[..., Any]
) -> None:
    """Every request gets its own answer, and none waits for another's events."""
    client = make_client(use_epoll=use_epoll, max_clients=concurrency)
    rounds = 2000 // concurrency if concurrency < 1000 else 1

    release = asyncio.Event()
    release.set()
    async with contextlib.AsyncExitStack() as stack:
        # Several, so that no accept queue overflows and TCP has nothing to send again.
        servers = [
            await stack.enter_async_context(ScriptedServer(_held(release)))
            for _ in range(max(1, concurrency // 100))
        ]

        async def worker(number: int) -> None:
            server = servers[number % len(servers)]
            for turn in range(rounds):
                target = f"/{number}/{turn}"
                begun = time.monotonic()
                response = await client.fetch(server.url(target), request_timeout=20)
                assert response.body == target.encode()
                if concurrency == 1:
                    # A wake-up that is lost is made up for by some later timer.
                    assert time.monotonic() - begun < 1

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(worker(number))
        assert sum(len(server.connections) for server in servers) <= concurrency


PROGRAM = """
import asyncio, sys, warnings
from whimbrel.curl_httpclient import CurlAsyncHTTPClient
from whimbrel.httpclient import HTTPError, HTTPTimeoutError
from whimbrel.testing.scripted import (
    ScriptedServer, canned, chunked, ok, redirect, refused_port, reply, routes, silent_server
)

ROUTES = {
    "/": ok(b"plain"),
    "/redirect": redirect("/"),
    "/chunked": reply("200 OK", chunked(b"a" * 50_000, b"b"), "Transfer-Encoding: chunked"),
    "/post": lambda request: ok(request.body),
}

async def main(use_epoll):
    async def consume(piece):
        await asyncio.sleep(0)

    async def produce(write):
        for _ in range(3):
            await asyncio.sleep(0)
            await write(b"x")

    client = CurlAsyncHTTPClient(force_instance=True, use_epoll=use_epoll, max_clients=4)
    with refused_port() as refused:
        async with ScriptedServer(routes(ROUTES)) as server, silent_server() as quiet:
            for response in await asyncio.gather(*(
                client.fetch(server.url(path)) for path in ["/", "/redirect"] * 10
            )):
                assert response.body == b"plain"
            await client.fetch(server.url("/chunked"), streaming_callback=consume)
            async with client.stream(server.url("/chunked")) as response:
                assert len(await response.read()) == 50_001
            response = await client.fetch(
                server.url("/post"), method="POST", body_producer=produce
            )
            assert response.body == b"xxx"
            for failing, kind in (
                (client.fetch(quiet.url(), request_timeout=0.05), HTTPTimeoutError),
                (client.fetch(f"http://127.0.0.1:{refused}/"), ConnectionRefusedError),
            ):
                try:
                    await failing
                except kind:
                    pass
                else:
                    raise AssertionError(kind)
            cancelled = client.fetch(quiet.url())
            await quiet.accepted(2)
            cancelled.cancel()
            in_flight = client.fetch(quiet.url())
            await quiet.accepted(3)
            client.close()
            try:
                await in_flight
            except HTTPError:
                pass

if sys.argv[1] == "uvloop":
    import uvloop as loops
else:
    loops = asyncio
with asyncio.Runner(loop_factory=loops.new_event_loop, debug=sys.argv[2] == "debug") as runner:
    for use_epoll in (True, False):
        runner.run(main(use_epoll))
"""


@pytest.mark.parametrize("mode", ["debug", "production"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_matrix_61_debug_mode_and_uvloop_are_clean(loop: str, mode: str) -> None:
    """asyncio's debug mode, uvloop, -X dev and -W error: not a word on stderr."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(PROGRAM), loop, mode],
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The one thing debug mode may say is how busy this machine is.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout, said) == (0, "", [])
