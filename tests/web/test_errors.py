"""What becomes of a handler's exceptions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from conftest import StrayLogs
from server.support import Connect, Serve, get, without_date
from whimbrel.web import (
    Application,
    Finish,
    HTTPError,
    MissingArgumentError,
    RequestHandler,
    stream_request_body,
)

from .support import ACCESS, APP, GENERAL, HTML, answering, ask


async def test_error_pages(serve: Serve, connect: Connect, stray_logs: StrayLogs) -> None:
    """The exact bytes of one; a reason of one's own is escaped."""

    def fail(self: RequestHandler) -> None:
        raise HTTPError(418, "%s told the log", "it", reason="No <b>tea</b>")

    wire = await connect(serve(answering(fail)))
    await wire.send(get("/", "Connection: close"))
    title = b"418: No &lt;b&gt;tea&lt;/b&gt;"
    body = b"<html><title>%b</title><body>%b</body></html>" % (title, title)
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 418 No <b>tea</b>\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (HTML, len(body), body)
    )
    stray_logs.expect(GENERAL, r"^418 GET / \(127.0.0.1\): it told the log$")
    stray_logs.expect(ACCESS, r"^418 GET / \(127.0.0.1\) \d+\.\d\dms$")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (HTTPError(), "HTTP 500: Internal Server Error"),
        (HTTPError(404, "no %s"), "HTTP 404: Not Found (no %s)"),
        (HTTPError(404, "no %s", "cake"), "HTTP 404: Not Found (no cake)"),
        (HTTPError(299, reason="Odd"), "HTTP 299: Odd"),
        (HTTPError(299), "HTTP 299: Unknown"),
        (MissingArgumentError("a"), "HTTP 400: Bad Request (Missing argument a)"),
    ],
)
def test_error_texts(error: HTTPError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("coroutine", [False, True])
async def test_an_uncaught_exception(
    coroutine: bool, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """500 without a word of what it was, the traceback in the log, the connection goes on."""

    def fail(self: RequestHandler) -> None:
        self.write("lost")
        raise LookupError("a secret")

    async def fail_later(self: RequestHandler) -> None:
        await asyncio.sleep(0)
        fail(self)

    wire = await connect(serve(answering(fail_later if coroutine else fail)))
    for _ in range(2):
        response = await wire.ask(get())
        assert response.code == 500
        assert b"secret" not in response.body
        assert b"lost" not in response.body
    record = stray_logs.records[0]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)
    stray_logs.expect(APP, r"Uncaught exception GET / \(127.0.0.1\)\nHTTPServerRequest\(")
    stray_logs.expect(ACCESS, "500 GET / ")


@pytest.mark.parametrize("setting", ["serve_traceback", "debug"])
async def test_serve_traceback(
    setting: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    def fail(self: RequestHandler) -> None:
        raise LookupError("shown")

    server = serve(Application([(r"/", answering(fail))], **{setting: True}))
    response = await (await connect(server)).ask(get())
    assert response.value("Content-Type") == "text/plain; charset=UTF-8"
    assert response.body.startswith(b"Traceback")
    assert response.body.endswith(b"LookupError: shown\n")
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(ACCESS, "500")


async def test_write_error_of_ones_own(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    class Own(RequestHandler):
        def get(self) -> None:
            self.send_error(503, detail="busy", reason="Later")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.write({"status": status_code, "detail": kwargs["detail"]})

    response = await (await connect(serve(Own))).ask(get())
    assert (response.code, response.reason) == (503, "Later")
    assert json.loads(response.body) == {"status": 503, "detail": "busy"}
    stray_logs.expect(ACCESS, "503")


async def test_write_error_that_fails(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """The status is sent all the same."""

    class Broken(RequestHandler):
        def get(self) -> None:
            self.send_error(503)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            raise LookupError("again")

    response = await (await connect(serve(Broken))).ask(get())
    assert (response.code, response.body) == (503, b"")
    stray_logs.expect(APP, "Uncaught exception in write_error of GET / ")
    stray_logs.expect(ACCESS, "503")


async def test_log_exception_that_fails(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Nothing sensible can be answered: the connection is closed."""

    class Broken(RequestHandler):
        def get(self) -> None:
            raise LookupError("first")

        def log_exception(self, *args: Any) -> None:
            raise LookupError("second")

    wire = await connect(serve(Broken))
    await wire.send(get())
    assert await wire.rest() == b""
    stray_logs.expect(APP, "Exception while answering with an error: GET / ")
    stray_logs.expect(ACCESS, "^500 GET / ")


async def test_an_error_with_an_impossible_reason(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """A control character never reaches the wire; the status does."""

    def fail(self: RequestHandler) -> None:
        raise HTTPError(400, reason="a\r\nX: y")

    response = await ask(serve, connect, fail)
    assert (response.code, response.reason, response.value("X")) == (400, "Bad Request", None)
    stray_logs.expect(APP, r"Invalid reason phrase 'a\\r\\nX: y' for GET / ")
    stray_logs.expect(ACCESS, "400")


async def test_an_error_with_an_impossible_status(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """There is nothing to answer: the connection is closed."""

    def fail(self: RequestHandler) -> None:
        raise HTTPError(4040)

    wire = await connect(serve(answering(fail)))
    await wire.send(get())
    assert await wire.rest() == b""
    stray_logs.expect(APP, "Exception while answering with an error: GET / ")
    stray_logs.expect(ACCESS, "^500 GET / ")


async def test_finish_exception(serve: Serve, connect: Connect) -> None:
    """Finish sends what there is, and what it carries; it is not an error."""

    def early(self: RequestHandler) -> None:
        self.set_status(202)
        self.write("a")
        raise Finish("b")

    async def later(self: RequestHandler) -> None:
        self.write("c")
        await asyncio.sleep(0)
        raise Finish

    response = await ask(serve, connect, early)
    assert (response.code, response.body) == (202, b"ab")
    assert (await ask(serve, connect, later)).body == b"c"


async def test_a_constructor_that_fails(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """500, also for a streamed request, whose body is then taken by nobody."""

    class Broken(RequestHandler):
        def initialize(self) -> None:
            raise LookupError("no database")

    @stream_request_body
    class BrokenStream(Broken):
        pass

    server = serve(Application([(r"/", Broken), (r"/stream", BrokenStream)]))
    assert (await (await connect(server)).ask(get())).code == 500
    response = await (await connect(server)).ask(get("/stream", method="POST", body=b"x" * 100))
    assert response.code == 500
    stray_logs.expect(APP, "Uncaught exception GET / ")
    stray_logs.expect(APP, "Uncaught exception POST /stream ")
    stray_logs.expect(ACCESS, "500")


async def test_a_method_that_returns_something_else(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Not None and not awaitable: a mistake that is not passed over."""
    assert (await ask(serve, connect, lambda self: "a body?")).code == 500
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(ACCESS, "500")


async def test_something_awaited_is_cancelled(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """That is a failure of the handler as any other: the client is not left without an answer."""

    async def cancelled(self: RequestHandler) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert (await ask(serve, connect, cancelled)).code == 500
    stray_logs.expect(APP, "Uncaught exception")
    stray_logs.expect(ACCESS, "500")


@pytest.mark.parametrize("where", ["initialize", "prepare", "post", "data_received"])
async def test_a_plain_method_raises_cancelled_error(
    where: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """There is no task that could have been cancelled: it is a failure as any other."""
    calls: list[Any] = []

    class Plain(RequestHandler):
        def may_fail(self, here: str) -> None:
            if here == where:
                raise asyncio.CancelledError

        def initialize(self) -> None:
            self.may_fail("initialize")

        def prepare(self) -> None:
            self.may_fail("prepare")

        def post(self) -> None:
            self.may_fail("post")

        def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
            calls.append(type(value.__cause__))

        def on_finish(self) -> None:
            calls.append("on_finish")

    @stream_request_body
    class Streamed(Plain):
        def data_received(self, chunk: bytes) -> None:
            self.may_fail("data_received")

    server = serve(Streamed if where == "data_received" else Plain)
    response = await (await connect(server)).ask(get(method="POST", body=b"x"))
    assert response.code == 500
    if where == "initialize":  # there is no handler to tell
        stray_logs.expect(APP, "Uncaught exception POST / ")
    else:
        assert calls == [asyncio.CancelledError, "on_finish"]
    stray_logs.expect(ACCESS, "500")


@pytest.mark.parametrize(
    ("name", "value"), [("Transfer-Encoding", "gzip"), ("Content-Length", "five")]
)
@pytest.mark.parametrize("call", ["finish", "flush"])
async def test_headers_that_cannot_be_sent(
    call: str, name: str, value: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Nothing has gone out then: it is a 500, and the connection goes on."""

    def framed(self: RequestHandler) -> None:
        self.set_header(name, value)
        self.write("body")
        getattr(self, call)()

    wire = await connect(serve(answering(framed)))
    for _ in range(2):
        response = await wire.ask(get())
        assert response.code == 500
        assert b"500: Internal Server Error" in response.body
    stray_logs.expect(APP, "Uncaught exception GET / ")
    stray_logs.expect(ACCESS, "500")


async def test_the_handlers_task_is_cancelled(serve: Serve, connect: Connect) -> None:
    """By whoever shuts the program down: the connection is closed, and nothing is hidden."""
    tasks: list[asyncio.Task[Any]] = []

    async def wait(self: RequestHandler) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.Event().wait()

    wire = await connect(serve(answering(wait)))
    await wire.send(get())
    assert await wire.rest() == b""
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
