"""Matrix 46-49: a cancelled fetch is gone at once, wherever it was, and takes nothing along."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPResponse
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    chunk,
    ok,
    redirect,
    silent_server,
    unaccepting_port,
)

from .support import HTTP2Peer, until

Write = Callable[[bytes], Awaitable[None]]


class SlowNames:
    """A resolver that never finds a name of ``.slow``; the rest is on loopback, at once."""

    def __init__(self) -> None:
        self.waiting = 0

    async def resolve(self, host: str, port: int, family: int = 0) -> list[Any]:
        if host.endswith(".slow"):
            self.waiting += 1
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.waiting -= 1
        return [(socket.AF_INET, ("127.0.0.1", port))]


async def serve(peer: Peer) -> None:
    """Answer each request with its target, or stop where the target says.

    /headers/… stops within the header block, /body/… within the body, /upload/… before it reads
    the body, /redirect/… leads to /headers/…, /late/N… answers after N milliseconds.
    """
    while True:
        request = await peer.read_head()
        phase, _, rest = request.target[1:].partition("/")
        if phase == "headers":
            await peer.send(b"HTTP/1.1 200 OK\r\nX-Half: ")
        elif phase == "body":
            await peer.send(ok(request.target.encode(), "Content-Length: 1000000"))
        elif phase == "redirect":
            await peer.send(redirect(f"/headers/{rest}"))
            continue
        elif phase == "silence":
            pass
        elif phase != "upload":
            await peer.read_body(request)
            if phase == "late":
                await asyncio.sleep(int(rest.partition("/")[0]) / 1000)
            await peer.send(ok(request.target.encode()))
            continue
        await peer.closed()
        return


class Rig:
    """A client and all that its fetches can get stuck at.

    `PHASES` names the phases; `begin(phase, tag)` starts a fetch that will not get beyond it.
    """

    def __init__(
        self,
        client: Any,
        origin: ScriptedServer,
        quiet: ScriptedServer,
        port: int,
        names: SlowNames,
    ) -> None:
        self.client = client
        self.origin = origin
        self.quiet = quiet
        self.names = names
        self._port = port
        self.reached: set[str] = set()

    def begin(self, phase: str, tag: str = "0") -> asyncio.Future[HTTPResponse]:
        future: asyncio.Future[HTTPResponse] = getattr(self, f"_{phase}")(tag)
        return future

    def _fetch(self, url: str, **arguments: Any) -> asyncio.Future[HTTPResponse]:
        arguments.setdefault("request_timeout", 25)
        future: asyncio.Future[HTTPResponse] = self.client.fetch(url, **arguments)
        return future

    def _resolver(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(f"http://name{tag}.slow/")

    def _connect(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(f"http://127.0.0.1:{self._port}/{tag}")

    def _tls(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(self.quiet.url(f"/{tag}", scheme="https"))

    def _tunnel(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(f"https://origin.test/{tag}", proxy=self.quiet.url())

    def _socks(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(f"http://origin.test/{tag}", proxy=self.quiet.url(scheme="socks5h"))

    def _waiting(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(self.origin.url(f"/silence/{tag}"))

    def _upload(self, tag: str) -> asyncio.Future[HTTPResponse]:
        async def produce(write: Write) -> None:
            while True:
                await write(b"x" * 65536)

        return self._fetch(self.origin.url(f"/upload/{tag}"), method="PUT", body_producer=produce)

    def _producer(self, tag: str) -> asyncio.Future[HTTPResponse]:
        async def produce(write: Write) -> None:
            await write(b"x")
            await asyncio.get_running_loop().create_future()

        return self._fetch(self.origin.url(f"/upload/{tag}"), method="PUT", body_producer=produce)

    def _headers(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(self.origin.url(f"/headers/{tag}"))

    def _body(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(self.origin.url(f"/body/{tag}"))

    def _redirect(self, tag: str) -> asyncio.Future[HTTPResponse]:
        return self._fetch(self.origin.url(f"/redirect/{tag}"))

    def _consumer(self, tag: str) -> asyncio.Future[HTTPResponse]:
        async def consume(piece: bytes) -> None:
            self.reached.add(tag)
            await asyncio.get_running_loop().create_future()

        return self._fetch(self.origin.url(f"/body/{tag}"), streaming_callback=consume)

    def _within_streaming_callback(self, tag: str) -> asyncio.Future[HTTPResponse]:
        def consume(piece: bytes) -> None:
            self.reached.add(tag)
            future.cancel()

        future = self._fetch(self.origin.url(f"/body/{tag}"), streaming_callback=consume)
        return future

    def _within_header_callback(self, tag: str) -> asyncio.Future[HTTPResponse]:
        def hear(line: str) -> None:
            self.reached.add(tag)
            future.cancel()

        future = self._fetch(self.origin.url(f"/body/{tag}"), header_callback=hear)
        return future

    def _within_producer(self, tag: str) -> asyncio.Future[HTTPResponse]:
        def produce(write: Write) -> None:
            self.reached.add(tag)
            future.cancel()

        future = self._fetch(self.origin.url(f"/late/0/{tag}"), method="PUT", body_producer=produce)
        return future

    async def arrived(self, phase: str) -> None:
        """Wait until the fetch of `phase` is where it gets stuck."""
        if phase == "resolver":
            await until(lambda: self.names.waiting)
        elif phase == "connect":
            await asyncio.sleep(0.02)  # nothing shows on an unaccepting port
        elif phase in ("tls", "tunnel", "socks"):
            await until(lambda: any(peer.bytes_received for peer in self.quiet.connections))
        elif phase == "redirect":
            await self.origin.requested(2)
        elif phase.startswith("within") or phase == "consumer":
            await until(lambda: self.reached)
        else:
            await self.origin.requested()
            if phase == "upload":
                peer = self.origin.connections[-1]
                await until(lambda: peer.bytes_received > 65536)


PHASES = [
    "resolver",
    "connect",
    "tls",
    "tunnel",
    "socks",
    "upload",
    "producer",
    "waiting",
    "headers",
    "body",
    "redirect",
    "consumer",
    "within_streaming_callback",
    "within_header_callback",
    "within_producer",
]


@contextlib.asynccontextmanager
async def rig(make_client: Callable[..., Any], max_clients: int) -> AsyncIterator[Rig]:
    names = SlowNames()
    with unaccepting_port() as port:
        async with ScriptedServer(serve) as origin, silent_server() as quiet:
            client = make_client(max_clients=max_clients, resolver=names)
            try:
                yield Rig(client, origin, quiet, port, names)
            finally:
                client.close()  # before the servers, whose end would fail what still hangs on them


@pytest.mark.parametrize("phase", PHASES)
async def test_matrix_46_cancel_in_each_phase(phase: str, make_client: Callable[..., Any]) -> None:
    """The future is cancelled, the slot is free and the connection gone, all at once."""
    async with rig(make_client, max_clients=1) as it:
        future = it.begin(phase)
        await it.arrived(phase)
        assert future.cancel() is not phase.startswith("within")
        assert future.cancelled()
        # Freed by cancel() itself, not some time after it.
        assert it.client._gate.active == 0
        next_one = it.client.fetch(it.origin.url("/next"))
        assert len(it.client.queue) == 0
        assert (await next_one).body == b"/next"
        assert it.names.waiting == 0
        for peer in it.quiet.connections:
            await peer.closed()
        for peer in it.origin.connections:
            if peer.requests[-1].target != "/next":
                await peer.closed()


async def test_matrix_46_cancel_in_the_queue(make_client: Callable[..., Any]) -> None:
    """A fetch that waits for its turn leaves the queue; the order of the others stays."""
    async with rig(make_client, max_clients=1) as it:
        first = it.begin("waiting")
        queued = [it.client.fetch(it.origin.url(f"/{number}")) for number in range(4)]
        await it.origin.requested()
        assert len(it.client.queue) == 4
        queued[0].cancel()
        queued[2].cancel()
        assert len(it.client.queue) == 2
        first.cancel()
        assert [(await queued[number]).body for number in (1, 3)] == [b"/1", b"/3"]
        assert [request.target for request in it.origin.requests[1:]] == ["/1", "/3"]


async def test_matrix_46_a_thousand_random_cancels(make_client: Callable[..., Any]) -> None:
    """In all phases, at all times: every slot, handle, file and task comes back (`make_client`
    sees to the last three), and what is not cancelled gets its own answer."""
    chance = random.Random(46)
    cancelled = answered = 0
    async with rig(make_client, max_clients=8) as it:
        pending = iter(range(1000))

        async def worker() -> None:
            nonlocal cancelled, answered
            for number in pending:
                phase = chance.choice([*PHASES, "late"])
                if phase == "late":
                    target = f"/late/{chance.choice((0, 0, 1, 2))}/{number}"
                    future = it.client.fetch(it.origin.url(target), request_timeout=25)
                else:
                    future = it.begin(phase, str(number))
                for _ in range(chance.choice((0, 0, 1, 2, 5))):
                    await asyncio.sleep(0)
                if chance.random() < 0.6:
                    await asyncio.sleep(chance.choice((0.0005, 0.001, 0.002, 0.004)))
                if future.cancel() or future.cancelled():
                    cancelled += 1
                else:
                    assert future.result().body == target.encode()
                if chance.random() < 0.3:
                    own = f"/tag/{number}"
                    assert (await it.client.fetch(it.origin.url(own))).body == own.encode()
                    answered += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(worker())
        assert cancelled > 800
        # Not all of them before anything had happened.
        assert len(it.origin.connections) > 100
        assert len(it.quiet.connections) > 30
        assert answered > 200
        assert it.client._gate.active == 0
        assert len(it.client.queue) == 0
        assert it.names.waiting == 0
        assert not it.client._fetches
        # All slots are there: as many fetches as there are slots run side by side.
        fetches = [it.begin("waiting", f"end{number}") for number in range(8)]
        await until(lambda: sum("/end" in request.target for request in it.origin.requests) == 8)
        for fetch in fetches:
            fetch.cancel()


async def test_matrix_46_curl_handles_come_back(make_client: Callable[..., Any]) -> None:
    """After cancels in each phase the backend holds no exchange, and its pool no dead handle."""
    async with rig(make_client, max_clients=4) as it:
        for phase in PHASES:
            future = it.begin(phase, phase)
            await asyncio.sleep(0.002)
            future.cancel()
        await until(lambda: it.client._gate.active == 0)
        assert not it.client._fetches
        if hasattr(it.client, "_driver"):
            assert len(it.client._driver) == 0
            assert not any(transfer.easy.closed for transfer in it.client._idle)


async def test_matrix_47_the_next_response_is_not_the_old_one(
    make_client: Callable[..., Any],
) -> None:
    """Cancelled just when its answer comes, a fetch never hands that answer to the next one."""
    async with rig(make_client, max_clients=1) as it:
        for number in range(300):
            old = it.client.fetch(it.origin.url(f"/late/{number % 3}/old{number}"))
            # From the very beginning to about the arrival of the answer.
            for _ in range(number % 12):
                await asyncio.sleep(0)
            if number % 3:
                await asyncio.sleep(0.0008 * (number % 3))
            old.cancel()
            target = f"/new/{number}"
            response = await it.client.fetch(it.origin.url(target))
            assert response.body == target.encode()


async def test_matrix_47_an_abandoned_connection_is_not_used_again(
    make_client: Callable[..., Any],
) -> None:
    """Matrix 49: the connection of a cancelled HTTP/1 request is dropped, even if all came."""
    async with rig(make_client, max_clients=1) as it:
        old = it.client.fetch(it.origin.url("/late/0/old"))
        await it.origin.requested()
        peer = it.origin.connections[0]
        await until(lambda: peer.bytes_sent)
        old.cancel()
        assert (await it.client.fetch(it.origin.url("/new"))).body == b"/new"
        assert len(it.origin.connections) == (2 if old.cancelled() else 1)
        if old.cancelled():
            await peer.closed()


async def test_matrix_48_cancelled_twice_and_afterwards(make_client: Callable[..., Any]) -> None:
    """A second cancel(), and one after the end, do nothing and free no second slot."""
    async with rig(make_client, max_clients=1) as it:
        future = it.begin("waiting")
        await it.origin.requested()
        assert future.cancel()
        assert not future.cancel()
        assert it.client._gate.active == 0
        done = it.client.fetch(it.origin.url("/done"))
        running = it.begin("waiting")
        await done
        assert not done.cancel()
        assert it.client._gate.active == 1
        assert len(it.client.queue) == 0
        await it.origin.requested(3)
        running.cancel()
        assert it.client._gate.active == 0


async def test_matrix_48_cancelled_during_cleanup(make_client: Callable[..., Any]) -> None:
    """A task that is cancelled again while it handles its first cancellation leaves nothing."""
    async with rig(make_client, max_clients=1) as it:
        inner: list[asyncio.Future[HTTPResponse]] = []

        async def stubborn() -> None:
            inner.append(it.begin("waiting"))
            try:
                await inner[0]
            finally:
                inner.append(it.begin("body"))
                await inner[1]

        task = asyncio.create_task(stubborn())
        await it.origin.requested()
        task.cancel()
        await it.origin.requested(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(future.cancelled() for future in inner)
        assert (await it.client.fetch(it.origin.url("/next"))).body == b"/next"


async def test_matrix_48_wait_for_racing_the_answer(make_client: Callable[..., Any]) -> None:
    """A time-out of wait_for at the very time of the answer: one or the other, never a leak."""
    outcomes = set()
    async with rig(make_client, max_clients=2) as it:
        for number in range(200):
            target = f"/late/2/{number}"
            fetch = it.client.fetch(it.origin.url(target))
            try:
                response = await asyncio.wait_for(fetch, 0.0015 + 0.00001 * number)
            except TimeoutError:
                outcomes.add("timeout")
                assert fetch.cancelled()
            else:
                outcomes.add("answer")
                assert response.body == target.encode()
            assert it.client._gate.active == 0
    assert outcomes, "nothing ran"


@pytest.mark.known_difference("http-2-and-3")
async def test_matrix_49_http2_a_cancelled_stream_is_reset(client: Any) -> None:
    """On HTTP/2 the stream is reset, and the others on that connection go on."""
    sessions: list[HTTP2Peer] = []

    async def handler(peer: Peer) -> None:
        sessions.append(HTTP2Peer(peer))
        await sessions[-1].run()

    async with ScriptedServer(handler) as server:
        arguments = {"http_version": "2-prior-knowledge", "request_timeout": 20}
        first = client.fetch(server.url("/first"), **arguments)
        await until(lambda: first.done() or (sessions and sessions[0].opened))
        if first.done():
            await first
        session = sessions[0]
        await session.answer(session.opened[0], b"first")
        assert (await first).http_version == "2"

        fetches = [client.fetch(server.url(f"/{number}"), **arguments) for number in range(3)]
        await session.until(lambda: len(session.opened) == 4)
        await session.answer(session.opened[2], b"half", end=False)
        fetches[1].cancel()
        await session.until(lambda: bool(session.reset))
        assert session.reset == [session.opened[2]]
        for index in (0, 2):
            await session.answer(session.opened[index + 1], b"whole")
            assert (await fetches[index]).body == b"whole"
        last = client.fetch(server.url("/last"), **arguments)
        await session.until(lambda: len(session.opened) == 5)
        await session.answer(session.opened[4], b"last")
        assert (await last).body == b"last"
        assert len(server.connections) == 1


async def test_matrix_46_the_task_that_streams(client: Any) -> None:
    """A task cancelled in an `async for` over a stream aborts the transfer."""
    got: list[bytes] = []

    async def read(server: ScriptedServer) -> None:
        async with client.stream(server.url("/body/x")) as response:
            async for piece in response:
                got.append(piece)

    async with ScriptedServer(serve) as server:
        task = asyncio.create_task(read(server))
        await until(lambda: got)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.connections[0].closed()
        assert client._gate.active == 0


async def test_nothing_is_heard_of_a_cancelled_fetch(client: Any) -> None:
    """CONTRACT 10: neither callbacks nor logs nor the callback= of a cancelled fetch are called."""
    heard: list[Any] = []
    send = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await send.wait()
        with contextlib.suppress(EOFError):
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x"))
        await peer.closed()

    async with ScriptedServer(handler) as server, ScriptedServer(canned(ok())) as other:
        fetch = client.fetch(
            server.url(),
            callback=heard.append,
            header_callback=heard.append,
            streaming_callback=heard.append,
        )
        await server.requested()
        fetch.cancel()
        send.set()
        await server.finished()
        await client.fetch(other.url())
        assert heard == []
        with pytest.raises(asyncio.CancelledError):
            await fetch


async def test_cancelled_fetches_that_fail_at_the_same_time(
    make_client: Callable[..., Any],
) -> None:
    """A connection that is reset in the turn of the cancel: CancelledError, no second end."""
    async with rig(make_client, max_clients=1) as it:
        ends = set()
        for number in range(60):
            fetch = it.begin("waiting")
            await it.origin.requested(number + 1)
            it.origin.connections[-1].reset()
            for _ in range(number % 4):
                await asyncio.sleep(0)
            cancelled = fetch.cancel()
            try:
                await fetch
            except asyncio.CancelledError:
                assert cancelled
                ends.add("cancelled")
            except HTTPError:
                assert not cancelled
                ends.add("failed")
            assert it.client._gate.active == 0
        assert ends == {"cancelled", "failed"}
