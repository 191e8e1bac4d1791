"""Bodies piece by piece, both ways, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from conftest import StrayLogs
from server.support import BAD_REQUEST, Connect, Serve, Wire, get, without_date
from whimbrel.http1connection import HTTP1Connection
from whimbrel.httputil import HTTPHeaders, ResponseStartLine
from whimbrel.iostream import StreamClosedError
from whimbrel.web import (
    Application,
    HTTPError,
    RequestHandler,
    stream_request_body,
)

from .support import ACCESS, APP, GENERAL, HTML, answering

# -- responses


async def test_flush_sends_chunks(serve: Serve, connect: Connect) -> None:
    """To the byte; an empty flush sends nothing."""

    async def stream(self: RequestHandler) -> None:
        self.write("one")
        await self.flush()
        await self.flush()
        self.write("t")
        self.write("wo")
        await self.finish("!")

    wire = await connect(serve(answering(stream)))
    await wire.send(get("/", "Connection: close"))
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\none\r\n4\r\ntwo!\r\n0\r\n\r\n" % HTML
    )


async def test_flush_of_the_headers_alone(serve: Serve, connect: Connect) -> None:
    """They reach the client before there is a body."""
    go = asyncio.Event()

    async def stream(self: RequestHandler) -> None:
        await self.flush()
        await go.wait()
        self.write("body")

    wire = await connect(serve(answering(stream)))
    await wire.send(get())
    head = await wire.reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    go.set()
    assert [chunk async for chunk in wire.chunks()] == [b"body"]


async def test_flush_with_a_length(serve: Serve, connect: Connect) -> None:
    async def stream(self: RequestHandler) -> None:
        self.set_header("Content-Length", 6)
        for piece in ("one", "two"):
            self.write(piece)
            await self.flush()

    wire = await connect(serve(answering(stream)))
    await wire.send(get() + get())
    for _ in range(2):
        response = await wire.response()
        assert (response.value("Content-Length"), response.body) == ("6", b"onetwo")


async def test_flush_to_http_1_0_ends_with_the_connection(serve: Serve, connect: Connect) -> None:
    async def stream(self: RequestHandler) -> None:
        for piece in ("one", "two"):
            self.write(piece)
            await self.flush()

    wire = await connect(serve(answering(stream)))
    await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    assert body == b"onetwo"


@pytest.mark.parametrize("coroutine", [False, True])
async def test_a_failure_in_the_middle_of_the_body(
    coroutine: bool, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """The client sees that something is missing: no last chunk comes before the close.

    The access log tells of the failure, not of the status that had been sent.
    """

    def fail(self: RequestHandler) -> None:
        self.write("part")
        self.flush()
        raise LookupError("half way")

    async def fail_later(self: RequestHandler) -> None:
        fail(self)

    wire = await connect(serve(answering(fail_later if coroutine else fail)))
    await wire.send(get())
    head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    assert (head[:15], body) in ((b"HTTP/1.1 200 OK", b"4\r\npart\r\n"), (b"", b""))
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(GENERAL, "Cannot send error response after headers written")
    stray_logs.expect(ACCESS, "^500 GET / ")


@pytest.mark.parametrize(("length", "sent"), [(3, b""), (100, b"body")])
async def test_a_body_of_another_length_than_announced(
    length: int, sent: bytes, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """The connection is closed: too much is not sent at all, too little cannot be mended."""

    def wrong(self: RequestHandler) -> None:
        self.set_header("Content-Length", length)
        self.write("body")

    wire = await connect(serve(answering(wrong)))
    await wire.send(get())
    received = await wire.rest()
    assert received.partition(b"\r\n\r\n")[2] in (b"", sent)
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(ACCESS, "^500 GET / ")


async def test_a_slow_client_holds_the_handler_back(serve: Serve, connect: Connect) -> None:
    """flush() is awaited until the system has taken the bytes; memory stays flat."""
    flushed: list[int] = []
    left = asyncio.Event()

    class Endless(RequestHandler):
        async def get(self) -> None:
            while not left.is_set():
                self.write(b"x" * 65536)
                await self.flush()
                flushed.append(65536)

        def on_connection_close(self) -> None:
            left.set()

    server = serve(Endless)
    wire = await connect(server)
    await wire.send(get())
    await wire.reader.readuntil(b"\r\n\r\n")
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    seen = -1
    while seen != len(flushed):  # until it is stuck
        seen = len(flushed)
        await asyncio.sleep(0.1)
    assert sum(flushed) < 32 * 1024 * 1024
    wire.reset()
    await asyncio.wait_for(left.wait(), 5)


async def test_the_client_leaves_before_the_response(serve: Serve, connect: Connect) -> None:
    """on_connection_close is called; the method may go on, and nothing is logged as an error."""
    calls: list[str] = []
    waiting, left, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(RequestHandler):
        async def get(self) -> None:
            waiting.set()
            await left.wait()
            self.write("to nobody")
            try:
                await self.finish()
            except StreamClosedError:
                calls.append("not sent")
            ended.set()

        def on_connection_close(self) -> None:
            calls.append("left")
            left.set()

        def on_finish(self) -> None:
            calls.append("on_finish")

    wire = await connect(serve(Slow))
    await wire.send(get())
    await waiting.wait()
    wire.reset()
    await asyncio.wait_for(ended.wait(), 5)
    assert calls == ["left", "on_finish", "not sent"]


async def test_a_client_that_leaves_after_the_end_is_not_told_of(
    serve: Serve, connect: Connect
) -> None:
    """The response is finished, though most of it has not gone out yet."""
    calls: list[str] = []

    class Large(RequestHandler):
        def get(self) -> None:
            self.write(bytes(32 * 1024 * 1024))

        def on_connection_close(self) -> None:
            calls.append("left")

        def on_finish(self) -> None:
            calls.append("on_finish")

    class Told(Application):
        def on_close(self, server_conn: object) -> None:
            closed.set()

    closed = asyncio.Event()
    wire = await connect(serve(Told([(r"/", Large)])))
    await wire.send(get())
    await wire.reader.readuntil(b"\r\n\r\n")
    assert not closed.is_set()
    wire.reset()
    await asyncio.wait_for(closed.wait(), 5)
    assert calls == ["on_finish"]


async def test_writing_to_a_client_that_left_is_no_error(
    serve: Serve, connect: Connect, stray_logs: StrayLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """StreamClosedError out of a handler is told at DEBUG only."""
    left, ended = asyncio.Event(), asyncio.Event()

    class Streamed(RequestHandler):
        async def get(self) -> None:
            await self.flush()
            await left.wait()
            self.write("to nobody")
            await self.flush()

        def on_connection_close(self) -> None:
            left.set()

        def on_finish(self) -> None:
            ended.set()

    caplog.set_level(logging.DEBUG, logger=GENERAL)
    wire = await connect(serve(Streamed))
    await wire.send(get())
    await wire.reader.readuntil(b"\r\n\r\n")
    wire.reset()
    await asyncio.wait_for(ended.wait(), 5)
    assert "GET / (127.0.0.1): the client has left" in caplog.text


# -- requests


@stream_request_body
class Sink(RequestHandler):
    """Takes a body piece by piece."""

    def initialize(self) -> None:
        self.pieces: list[bytes] = []

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self.pieces.append(chunk)
        return None

    def put(self) -> None:
        assert self.request.body == b""
        self.write(b"|".join(self.pieces))


async def send_pieces(wire: Wire, *pieces: bytes, target: str = "/") -> None:
    await wire.send(get(target, "Transfer-Encoding: chunked", method="PUT"))
    for piece in pieces:
        await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0.02)
    await wire.send(b"0\r\n\r\n")


async def test_a_streamed_request(serve: Serve, connect: Connect) -> None:
    """The pieces come as they arrive; the method is called after the last."""
    wire = await connect(serve(Sink))
    await send_pieces(wire, b"one", b"two")
    assert (await wire.response()).body in (b"one|two", b"onetwo")
    assert (await wire.ask(get(method="PUT", body=b"again"))).body == b"again"


async def test_prepare_comes_before_the_body(serve: Serve, connect: Connect) -> None:
    """No piece arrives until it is done, however long it takes."""
    calls: list[str] = []
    begun, prepared = asyncio.Event(), asyncio.Event()

    @stream_request_body
    class Careful(RequestHandler):
        async def prepare(self) -> None:
            calls.append("prepare")
            begun.set()
            await prepared.wait()
            calls.append("prepared")

        def data_received(self, chunk: bytes) -> None:
            calls.append(chunk.decode())

        async def put(self) -> None:
            calls.append("put")

    wire = await connect(serve(Careful))
    await wire.send(get(method="PUT", body=b"body"))
    await begun.wait()
    await asyncio.sleep(0.05)  # time enough for the body to go wrong
    assert calls == ["prepare"]
    prepared.set()
    assert (await wire.response()).code == 200
    assert calls == ["prepare", "prepared", "body", "put"]


async def test_data_received_may_hold_the_client_back(serve: Serve, connect: Connect) -> None:
    """While its awaitable is not done, no more is read from the connection."""
    go = asyncio.Event()
    received: list[int] = []

    @stream_request_body
    class Slow(RequestHandler):
        async def data_received(self, chunk: bytes) -> None:
            received.append(len(chunk))
            await go.wait()

        def put(self) -> None:
            self.write(str(sum(received)))

    size = 32 * 1024 * 1024
    wire = await connect(serve(Slow))
    wire.writer.write(get("/", f"Content-Length: {size}", method="PUT") + bytes(size))
    seen = -1
    while seen != wire.writer.transport.get_write_buffer_size():
        seen = wire.writer.transport.get_write_buffer_size()
        await asyncio.sleep(0.1)
    assert len(received) == 1
    assert seen > size // 2
    go.set()
    assert (await wire.response()).body == str(size).encode()


@pytest.mark.parametrize("where", ["prepare", "data_received", "slow_data_received"])
async def test_a_streamed_request_may_be_refused(
    where: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """By HTTPError, before the body or in it: the answer comes, and the rest is ignored."""

    @stream_request_body
    class Refusing(RequestHandler):
        def prepare(self) -> None:
            if where == "prepare":
                raise HTTPError(413)

        def data_received(self, chunk: bytes) -> Awaitable[None] | None:
            if where == "data_received":
                raise HTTPError(413)
            return self.slowly()

        async def slowly(self) -> None:
            await asyncio.sleep(0)
            raise HTTPError(413)

        def put(self) -> None:
            raise AssertionError("not to be called")

    wire = await connect(serve(Refusing))
    await wire.send(get(method="PUT", body=b"x" * 200_000))
    assert (await wire.response()).code == 413
    stray_logs.expect(ACCESS, "413 PUT / ")


async def test_the_client_leaves_within_a_streamed_body(serve: Serve, connect: Connect) -> None:
    """on_connection_close once, put never, and nothing in the log."""
    calls: list[str] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    @stream_request_body
    class Half(RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            calls.append("data")
            begun.set()

        def put(self) -> None:
            calls.append("put")

        def on_connection_close(self) -> None:
            calls.append("left")

        def on_finish(self) -> None:
            ended.set()

    wire = await connect(serve(Half))
    await wire.send(get("/", "Content-Length: 10", method="PUT") + b"half")
    await begun.wait()
    wire.reset()
    await asyncio.wait_for(ended.wait(), 5)
    assert calls == ["data", "left"]


async def test_a_connection_that_is_closed_during_prepare(serve: Serve, connect: Connect) -> None:
    """A handler that then finishes does not wait for its body, and nothing is logged of that."""
    begun, left, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @stream_request_body
    class Early(RequestHandler):
        async def prepare(self) -> None:
            begun.set()
            await left.wait()
            self.finish("too late")

        def on_connection_close(self) -> None:
            left.set()

        def on_finish(self) -> None:
            ended.set()

    server = serve(Early)
    wire = await connect(server)
    await wire.send(get("/", "Content-Length: 10", method="PUT"))
    await begun.wait()
    await server.close_all_connections(timeout=0)
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)  # the task ends
    gc.collect()  # which is when asyncio tells of exceptions that nobody has looked at


@pytest.mark.parametrize("piece", [b"zz\r\n", b"5\r\nhelloXX", b"5\r\nhello\r\n0\r\nbad\r\n\r\n"])
@pytest.mark.parametrize("waiting", [False, True])
async def test_a_malformed_body_costs_one_line(
    waiting: bool, piece: bytes, serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection answers and logs it; the handler is told, and logs nothing more."""
    calls: list[Any] = []
    ended = asyncio.Event()

    @stream_request_body
    class Put(RequestHandler):
        async def data_received(self, chunk: bytes) -> None:
            if waiting:
                await asyncio.sleep(0)

        def put(self) -> None:
            calls.append("put")

        def on_connection_close(self) -> None:
            calls.append("on_connection_close")

        def on_finish(self) -> None:
            calls.append(self.get_status())
            ended.set()

    caplog.set_level(logging.INFO, logger="whimbrel")
    wire = await connect(serve(Put))
    await wire.send(get("/", "Transfer-Encoding: chunked", method="PUT") + piece)
    assert await wire.rest() == BAD_REQUEST
    await asyncio.wait_for(ended.wait(), 5)
    assert calls == ["on_connection_close", 400]
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("whimbrel.http1connection", logging.INFO)
    assert message.startswith("Malformed HTTP message from 127.0.0.1: ")


async def test_on_connection_close_that_fails(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """It is logged, and the request ends all the same."""
    begun, ended = asyncio.Event(), asyncio.Event()

    @stream_request_body
    class Broken(RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            begun.set()

        def put(self) -> None: ...

        def on_connection_close(self) -> None:
            raise LookupError("mine")

        def on_finish(self) -> None:
            ended.set()

    wire = await connect(serve(Broken))
    await wire.send(get("/", "Content-Length: 10", method="PUT") + b"half")
    await begun.wait()
    wire.reset()
    await asyncio.wait_for(ended.wait(), 5)
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception")


async def test_the_client_leaves_within_a_body(serve: Serve, connect: Connect) -> None:
    """No handler is made of half a request."""
    made: list[str] = []

    class Counting(RequestHandler):
        def initialize(self) -> None:
            made.append(self.request.path)

        def put(self) -> None: ...

    server = serve(Counting)
    wire = await connect(server)
    await wire.send(get("/half", "Content-Length: 10", method="PUT") + b"half")
    wire.reset()
    assert (await (await connect(server)).ask(get("/whole", method="PUT", body=b"x"))).code == 200
    assert made == ["/whole"]


def test_stream_request_body_wants_a_handler() -> None:
    with pytest.raises(TypeError, match="subclass of RequestHandler"):
        stream_request_body(object)  # type: ignore[type-var]


async def test_data_received_must_be_defined(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    @stream_request_body
    class Forgetful(RequestHandler):
        def put(self) -> None: ...

    response = await (await connect(serve(Forgetful))).ask(get(method="PUT", body=b"x"))
    assert response.code == 500
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(ACCESS, "500")


# -- the access log of what was not sent


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The access log so far: level, status, method and target."""
    caplog.set_level(logging.INFO, logger=ACCESS)

    def lines() -> list[str]:
        records = [record for record in caplog.records if record.name == ACCESS]
        return [
            f"{record.levelname} {record.getMessage().partition(' (')[0]}" for record in records
        ]

    return lines


@stream_request_body
class Unsent(RequestHandler):
    """Has not answered when the connection goes, in one of several ways."""

    begun: asyncio.Event
    left: asyncio.Event
    ended: asyncio.Event

    def prepare(self) -> None:
        if self.request.path == "/time-out":
            cast("HTTP1Connection", self.request.connection).set_body_timeout(0.05)

    def data_received(self, chunk: bytes) -> None:
        self.begun.set()

    async def put(self) -> None:
        if self.request.path == "/flushed":
            await self.flush()
        self.begun.set()
        await self.left.wait()
        if self.request.path == "/fails":
            raise LookupError("after all")
        self.write("to nobody")
        if self.request.path == "/flushed":
            await self.flush()  # which raises

    def on_connection_close(self) -> None:
        self.left.set()

    def on_finish(self) -> None:
        assert self.get_status() == 499
        self.ended.set()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/time-out", b"half"),
        ("/upload", b"half"),
        ("/coroutine", b"whole body"),
        ("/flushed", b"whole body"),
        ("/fails", b"whole body"),
    ],
)
async def test_a_response_that_never_went_is_logged_as_499(
    path: str,
    sent: bytes,
    serve: Serve,
    connect: Connect,
    stray_logs: StrayLogs,
    access: Callable[[], list[str]],
) -> None:
    """Once, at INFO, and whatever the handler does afterwards."""
    events = {name: asyncio.Event() for name in ("begun", "left", "ended")}
    wire = await connect(serve(type("Handler", (Unsent,), events)))
    await wire.send(get(path, "Content-Length: 10", method="PUT") + sent)
    await events["begun"].wait()
    if path != "/time-out":
        wire.reset()
    await asyncio.wait_for(events["ended"].wait(), 5)
    assert access() == [f"INFO 499 PUT {path}"]
    if path == "/fails":
        stray_logs.expect(APP, "Uncaught exception PUT /fails")


async def test_a_write_that_finds_the_connection_closed(
    serve: Serve, connect: Connect, access: Callable[[], list[str]]
) -> None:
    """In the same turn of the loop, before the handler is told: it is not to blame either."""

    async def late(self: RequestHandler) -> None:
        cast("HTTP1Connection", self.request.connection).stream.close()
        await self.flush()

    wire = await connect(serve(answering(late)))
    await wire.send(get())
    assert await wire.rest() == b""
    assert access() == ["INFO 499 GET /"]


async def test_a_response_that_the_servers_end_cuts_off(
    serve: Serve, connect: Connect, access: Callable[[], list[str]]
) -> None:
    """It is not the 200 that it might have become."""
    events = {name: asyncio.Event() for name in ("begun", "left", "ended")}
    server = serve(type("Handler", (Unsent,), events))
    wire = await connect(server)
    await wire.send(get("/coroutine", method="PUT"))
    await events["begun"].wait()
    await server.close_all_connections(timeout=0)
    await asyncio.wait_for(events["ended"].wait(), 5)
    assert access() == ["INFO 499 PUT /coroutine"]


# -- another protocol


async def test_detach(serve: Serve, connect: Connect, access: Callable[[], list[str]]) -> None:
    """The stream is the handler's from then on; the request is over, and not logged."""
    calls: list[str] = []

    class Upgrade(RequestHandler):
        async def get(self) -> None:
            headers = HTTPHeaders({"Upgrade": "echo", "Connection": "Upgrade"})
            assert self.request.connection is not None
            self.request.connection.write_headers(
                ResponseStartLine("", 101, "Switching Protocols"), headers
            )
            stream = self.detach()
            await stream.write(b"echo " + await stream.read_bytes(5))
            with pytest.raises(RuntimeError, match="finish\\(\\) called twice"):
                self.finish()
            stream.close()

        def on_finish(self) -> None:
            calls.append("on_finish")

    wire = await connect(serve(Upgrade))
    await wire.send(get("/", "Connection: Upgrade", "Upgrade: echo") + b"hello")
    assert await wire.rest() == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
        b"echo hello"
    )
    assert calls == access() == []
