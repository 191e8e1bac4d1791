"""Time-outs: what each bounds, what it says, and that it leaves nothing open. CONTRACT 34, 36.

Times are small, and scaled: a limit is met when the fetch ends within half a second after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPTimeoutError
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    ok,
    redirect,
    silent_server,
    unaccepting_port,
)

from .support import error_of

SHORT = 0.2
GRACE = 0.5
# Where time is spent twice, once over the limit must be more than the grace.
LONG = 0.8
MOST = 0.7


@contextlib.contextmanager
def takes(seconds: float) -> Iterator[None]:
    """The block lasts `seconds`: not noticeably less, and no more than the grace longer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    yield
    assert seconds * 0.9 <= loop.time() - started < seconds + GRACE


async def timeout_of(fetch: Awaitable[object], seconds: float = SHORT) -> HTTPTimeoutError:
    """Await a fetch that times out after `seconds`; return its error."""
    with takes(seconds):
        error = await error_of(fetch)
    assert isinstance(error, HTTPTimeoutError)
    assert isinstance(error, TimeoutError)
    return error


# -- 34: messages and stages


class _Stuck:
    """A resolver that never finishes."""

    async def resolve(self, host: str, port: int, family: int = 0) -> Any:
        await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("which", ["connect_timeout", "request_timeout"])
async def test_timeout_while_resolving(make_client: Any, which: str) -> None:
    """CONTRACT 34, 35: "Timeout while resolving HOST", of stage "dns"."""
    client = make_client(resolver=_Stuck())
    error = await timeout_of(client.fetch("http://slow.test/", **{which: SHORT}))
    assert str(error) == "Timeout while resolving slow.test"
    assert (error.stage, error.retryable) == ("dns", True)


@pytest.mark.parametrize("which", ["connect_timeout", "request_timeout"])
async def test_timeout_while_connecting(client: Any, which: str) -> None:
    """CONTRACT 34: "Timeout while connecting", of stage "connect"."""
    with unaccepting_port() as port:
        error = await timeout_of(client.fetch(f"http://127.0.0.1:{port}/", **{which: SHORT}))
    assert "Timeout while connecting" in str(error)
    assert (error.stage, error.retryable) == ("connect", True)


@pytest.mark.parametrize("which", ["connect_timeout", "request_timeout"])
async def test_timeout_in_the_tls_handshake(client: Any, which: str) -> None:
    """CONTRACT 34: "Timeout during TLS handshake with HOST:PORT", of stage "tls"."""
    async with silent_server() as server:
        error = await timeout_of(client.fetch(server.url(scheme="https"), **{which: SHORT}))
        assert str(error).startswith(f"Timeout during TLS handshake with {server.address}")
        assert (error.stage, error.retryable) == ("tls", True)
        await server.finished()


async def test_timeout_while_waiting_for_the_response(client: Any) -> None:
    """CONTRACT 34: "Timeout during request", of stage "response"; the socket is closed."""
    async with silent_server() as server:
        error = await timeout_of(client.fetch(server.url(), request_timeout=SHORT))
        assert str(error).startswith(f"Timeout during request to {server.address}")
        (note,) = error.__notes__
        assert re.fullmatch(
            rf"after [\d.]+ s with request_timeout={SHORT:g}, connect_timeout=20", note
        )
        assert error.stage == "response"
        await server.finished()


async def test_timeout_in_the_headers(client: Any) -> None:
    """CONTRACT 34: a header block that stops is still of stage "response"."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX-A:")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await timeout_of(client.fetch(server.url(), request_timeout=SHORT))
        assert "Timeout during request" in str(error)
        assert error.stage == "response"
        await server.finished()


async def test_timeout_in_the_body(client: Any) -> None:
    """CONTRACT 34: a body that stops is of stage "body"."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await timeout_of(client.fetch(server.url(), request_timeout=SHORT))
        assert "Timeout during request" in str(error)
        assert error.stage == "body"
        await server.finished()


async def test_timeout_while_sending(client: Any) -> None:
    """CONTRACT 34: a server that stops reading the request: stage "send"."""

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            await write(bytes(256 * 1024))

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await never.wait()

    never = asyncio.Event()
    async with ScriptedServer(handler, receive_buffer=16 * 1024) as server:
        error = await timeout_of(
            client.fetch(server.url(), method="PUT", body_producer=produce, request_timeout=SHORT)
        )
        assert error.stage == "send"


async def test_timeout_of_a_producer_that_waits(client: Any) -> None:
    """CONTRACT 34: a producer that never writes is ended by request_timeout, and cancelled."""
    ended = asyncio.Event()

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with silent_server() as server:
        error = await timeout_of(
            client.fetch(server.url(), method="PUT", body_producer=produce, request_timeout=SHORT)
        )
        assert error.stage == "send"
        await ended.wait()


@pytest.mark.parametrize("which", ["connect_timeout", "request_timeout"])
async def test_timeout_while_connecting_to_a_proxy(client: Any, which: str) -> None:
    """CONTRACT 34: a proxy that cannot be reached is of stage "proxy-connect"."""
    with unaccepting_port() as port:
        error = await timeout_of(
            client.fetch("http://origin.test/", proxy=f"http://127.0.0.1:{port}", **{which: SHORT})
        )
    assert error.stage == "proxy-connect"
    assert error.proxy == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("which", ["connect_timeout", "request_timeout"])
async def test_matrix_27_timeout_of_connect(client: Any, which: str) -> None:
    """Matrix 27: a CONNECT that is never answered ends by connect_timeout, of stage "tunnel"."""
    async with silent_server() as proxy:
        error = await timeout_of(
            client.fetch("https://origin.test/", proxy=proxy.url(), **{which: SHORT})
        )
        assert error.stage == "tunnel"
        await proxy.finished()


async def test_connect_timeout_does_not_bound_the_response(client: Any) -> None:
    """connect_timeout is over once the connection stands."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await asyncio.sleep(2 * SHORT)
        await peer.send(ok(b"late"))

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url(), connect_timeout=SHORT)).body == b"late"


# -- 34: 0 and small values


async def test_zero_is_no_limit(make_client: Any) -> None:
    """CONTRACT 34: 0 means none, and overrides a default."""
    limits = {"connect_timeout": SHORT, "request_timeout": SHORT, "queue_timeout": SHORT}

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(1.5 * SHORT)
            await peer.send(ok(b"late"))

    client = make_client(max_clients=1, defaults=limits)
    async with ScriptedServer(handler) as server:
        none = dict.fromkeys(limits, 0)
        first = client.fetch(server.url(), **none)
        queued = client.fetch(server.url(), **none)
        assert (await first).body == (await queued).body == b"late"
        await timeout_of(client.fetch(server.url()))


@pytest.mark.parametrize("limit", [0.0001, 0.0004, 0.0009, 1e-9])
async def test_tiny_limits_are_not_none(client: Any, limit: float) -> None:
    """A limit below a millisecond is a limit: it is never rounded to 0, which would be none."""
    async with silent_server() as server:
        with takes(0):
            await error_of(client.fetch(server.url(), request_timeout=limit))
    with unaccepting_port() as port, takes(0):
        await error_of(client.fetch(f"http://127.0.0.1:{port}/", connect_timeout=limit))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", True, [1]])
@pytest.mark.parametrize(
    "which", ["connect_timeout", "request_timeout", "queue_timeout", "stall_timeout"]
)
async def test_bad_limits(client: Any, which: str, value: Any) -> None:
    """What is no number of seconds is refused, naming the parameter."""
    with pytest.raises(ValueError, match=which):
        await client.fetch("http://127.0.0.1:9/", **{which: value})


# -- one deadline for the whole fetch


async def test_matrix_36_slow_drip_of_the_body(client: Any) -> None:
    """Matrix 36: a body that comes byte by byte cannot outlive request_timeout."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await peer.send_slowly(b"x" * 100_000, 1, SHORT / 20)

    async with ScriptedServer(handler) as server:
        error = await timeout_of(client.fetch(server.url(), request_timeout=SHORT))
        assert error.stage == "body"
        await server.finished()


async def test_matrix_36_slow_drip_of_the_head(client: Any) -> None:
    """Matrix 36: nor can a header block."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send_slowly(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100, 1, SHORT / 20)

    async with ScriptedServer(handler) as server:
        error = await timeout_of(client.fetch(server.url(), request_timeout=SHORT))
        assert error.stage == "response"
        await server.finished()


async def test_matrix_36_interim_responses_do_not_reset_it(client: Any) -> None:
    """Matrix 36: nor can interim responses that keep coming."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        for _ in range(9):
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(SHORT / 3)

    async with ScriptedServer(handler) as server:
        await timeout_of(client.fetch(server.url(), request_timeout=SHORT))


async def test_redirects_share_the_deadline(client: Any) -> None:
    """request_timeout is the whole of fetch: hops do not restart it."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(SHORT / 2)
            await peer.send(redirect("/"))

    async with ScriptedServer(handler) as server:
        await timeout_of(
            client.fetch(server.url(), request_timeout=2 * SHORT, max_redirects=100), 2 * SHORT
        )
        assert len(server.requests) <= 5


async def test_later_hops_have_what_is_left(client: Any) -> None:
    """A hop that hangs after a slow one ends when the whole fetch is due, not a limit later."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await asyncio.sleep(MOST)
        await peer.send(redirect("/"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        await timeout_of(client.fetch(server.url(), request_timeout=LONG), LONG)


async def test_queue_counts_for_the_deadline(make_client: Any) -> None:
    """request_timeout covers the time in the queue as well."""
    client = make_client(max_clients=1)
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/second":
                await peer.closed()
            await release.wait()
            await peer.send(ok())

    async with ScriptedServer(handler) as server:
        first = client.fetch(server.url("/first"))
        with takes(LONG):
            second = client.fetch(server.url("/second"), request_timeout=LONG)
            asyncio.get_running_loop().call_later(MOST, release.set)
            await first
            error = await error_of(second)
    assert isinstance(error, HTTPTimeoutError)
    assert error.stage == "response"


# -- 43: the queue


@pytest.mark.parametrize(
    "arguments",
    [
        {"queue_timeout": SHORT},
        {"queue_timeout": SHORT, "connect_timeout": 5 * SHORT, "request_timeout": 5 * SHORT},
        {"connect_timeout": SHORT, "request_timeout": 5 * SHORT},
        {"connect_timeout": 5 * SHORT, "request_timeout": SHORT},
        {"connect_timeout": SHORT, "request_timeout": 0},
        {"connect_timeout": 0, "request_timeout": SHORT},
        {"queue_timeout": 0, "request_timeout": SHORT},
        {"queue_timeout": 5 * SHORT, "request_timeout": SHORT},
    ],
)
async def test_matrix_43_queue_timeout(make_client: Any, arguments: dict[str, float]) -> None:
    """CONTRACT 34, matrix 43: the wait ends by queue_timeout, or else the smaller of the others."""
    client = make_client(max_clients=1)
    async with silent_server() as server:
        first = client.fetch(server.url("/first"))
        await server.accepted()
        error = await timeout_of(client.fetch(server.url("/second"), **arguments))
        assert str(error) == "Timeout in request queue"
        (note,) = error.__notes__
        assert re.search(r"with request_timeout=.*; [\d.]+ s in the queue, max_clients=1$", note)
        assert (error.stage, error.retryable, error.response) == ("queue", True, None)
        assert len(client.queue) == 0
        assert len(server.connections) == 1
        assert not first.done()
        first.cancel()


async def test_matrix_43_every_waiter_has_its_own_deadline(make_client: Any) -> None:
    """Matrix 43: deadlines fire in their own order, whatever the order of the queue."""
    client = make_client(max_clients=1)
    ended: list[int] = []
    async with silent_server() as server:
        first = client.fetch(server.url())
        fetches = []
        for number, factor in enumerate((3, 1, 2)):
            fetch = client.fetch(server.url(), queue_timeout=factor * SHORT)
            fetch.add_done_callback(lambda _, number=number: ended.append(number))
            fetches.append(fetch)
        with takes(3 * SHORT):
            outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        assert ended == [1, 2, 0]
        assert all(isinstance(outcome, HTTPTimeoutError) for outcome in outcomes)
        first.cancel()


async def test_matrix_43_queue_timeout_in_callback_style(make_client: Any) -> None:
    """Matrix 43: under callback= the time-out is in the response, whose time_info has the wait."""
    client = make_client(max_clients=1)
    seen: list[Any] = []
    done = asyncio.Event()

    def called(response: Any) -> None:
        seen.append(response)
        done.set()

    async with silent_server() as server:
        first = client.fetch(server.url())
        client.fetch(server.url(), callback=called, queue_timeout=SHORT)
        await done.wait()
        assert seen[0].code == 599
        assert isinstance(seen[0].error, HTTPTimeoutError)
        assert seen[0].time_info["queue"] == pytest.approx(SHORT, abs=GRACE)
        first.cancel()


# -- stall_timeout


async def test_stall_timeout_spares_what_moves(client: Any) -> None:
    """A transfer that keeps making progress is not ended by stall_timeout."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
        await peer.send_slowly(b"x" * 60, 10, SHORT)

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), stall_timeout=5 * SHORT)
    assert len(response.body) == 60


async def test_stall_timeout_before_the_response(client: Any) -> None:
    """A server that never answers has stalled too."""
    async with silent_server() as server:
        error = await timeout_of(client.fetch(server.url(), stall_timeout=2 * SHORT), 2 * SHORT)
        assert error.stage == "response"
        await server.finished()


async def test_stall_timeout_spares_a_slow_consumer(client: Any) -> None:
    """A transfer that is paused by its own consumer has not stalled."""
    calls = 0

    async def consume(data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(4 * SHORT)

    async with ScriptedServer(canned(ok(bytes(1_000_000)))) as server:
        response = await client.fetch(
            server.url(), streaming_callback=consume, stall_timeout=2 * SHORT
        )
    assert response.code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell what is not sent yet")
async def test_stall_timeout_spares_what_the_system_sends(client: Any) -> None:
    """A whole body goes to the system at once; the peer takes its time for it, and never stops."""
    body = bytes(1_000_000)
    pause = threading.Event()

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            received = b""
            while b"\r\n\r\n" not in received:
                received += peer.recv(4096)
            left = len(body) - len(received.partition(b"\r\n\r\n")[2])
            while left:
                pause.wait(0.02)
                left -= len(peer.recv(min(left, 12_000)))
            peer.sendall(ok())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        try:
            await client.fetch(url, method="POST", body=body, stall_timeout=2 * SHORT)
        finally:
            pause.set()
            await asyncio.to_thread(thread.join)


async def test_next_fetch_after_a_timeout(make_client: Any) -> None:
    """A time-out gives its slot back, and the next fetch never sees the late answer."""
    client = make_client(max_clients=1)
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/slow":
                await release.wait()
            await peer.send(ok(request.target.encode()))

    async with ScriptedServer(handler) as server:
        await timeout_of(client.fetch(server.url("/slow"), request_timeout=SHORT))
        release.set()
        for number in range(3):
            response = await client.fetch(server.url(f"/{number}"))
            assert response.body == f"/{number}".encode()


async def test_response_and_timeout_in_the_same_instant(client: Any) -> None:
    """Around the deadline a fetch is either a success or a time-out, and never both or none."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(0.05)
            await peer.send(ok())

    async with ScriptedServer(handler) as server:
        for step in range(20):
            try:
                response = await client.fetch(server.url(), request_timeout=0.045 + step / 1000)
                assert response.body == b"ok"
            except HTTPError as error:
                assert isinstance(error, HTTPTimeoutError)  # noqa: PT017
