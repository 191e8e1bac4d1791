"""Handlers: methods, responses to the byte, the order of calls, the access log."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import re
import weakref
from collections.abc import Awaitable
from typing import Any

import pytest

from conftest import StrayLogs
from server.support import Connect, Serve, get, without_date
from whimbrel.web import (
    Application,
    HTTPError,
    RequestHandler,
)

from .support import ACCESS, APP, HTML, answering, ask


class Echo(RequestHandler):
    """Each method says its name."""

    def get(self) -> None:
        self.write(self.request.method)

    post = delete = patch = put = options = get


# -- methods


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"])
async def test_each_method(method: str, serve: Serve, connect: Connect) -> None:
    """A request is answered by the handler's method of its name, to the byte."""
    wire = await connect(serve(Echo))
    await wire.send(get("/", "Connection: close", method=method))
    name = method.encode()
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (HTML, len(name), name)
    )


async def test_head_is_get_without_the_body(serve: Serve, connect: Connect) -> None:
    """Content-Length is that of GET; the connection goes on behind the headers."""
    wire = await connect(serve(Echo))
    await wire.send(get(method="HEAD") + get("/", "Connection: close"))
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 200 OK\r\n%bContent-Length: 4\r\n\r\n"
        b"HTTP/1.1 200 OK\r\n%bContent-Length: 3\r\nConnection: close\r\n\r\nGET" % (HTML, HTML)
    )


async def test_head_of_a_streamed_response_has_no_body(serve: Serve, connect: Connect) -> None:
    class Streamed(RequestHandler):
        async def get(self) -> None:
            self.write("one")
            await self.flush()
            self.write("two")
            await self.flush()

    wire = await connect(serve(Streamed))
    await wire.send(get(method="HEAD") + get("/", "Connection: close"))
    first, _, second = (await wire.rest()).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert second.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_head_of_ones_own(serve: Serve, connect: Connect) -> None:
    class Own(RequestHandler):
        def head(self) -> None:
            self.set_header("Content-Length", 1000)

    response = await (await connect(serve(Own))).ask(get(method="HEAD"), head=True)
    assert response.value("Content-Length") == "1000"


@pytest.mark.parametrize("method", ["POST", "HEAD", "PURGE", "CONNECT"])
async def test_a_method_that_is_not_there(
    method: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """405, with those that are (RFC 9110 section 15.5.6)."""

    class Some(RequestHandler):
        def put(self) -> None: ...
        def delete(self) -> None: ...

    target = "example.com:443" if method == "CONNECT" else "/"
    server = serve(Application([(r".*", Some)]))
    response = await (await connect(server)).ask(get(target, method=method), head=method == "HEAD")
    assert (response.code, response.value("Allow")) == (405, "DELETE, PUT")
    stray_logs.expect(ACCESS, f"405 {method} {target} ")


async def test_get_brings_head(serve: Serve, connect: Connect, stray_logs: StrayLogs) -> None:
    class Get(RequestHandler):
        def get(self) -> None: ...

    response = await (await connect(serve(Get))).ask(get(method="POST", body=b"x"))
    assert response.value("Allow") == "GET, HEAD"
    stray_logs.expect(ACCESS, "405")


async def test_supported_methods_may_be_extended(serve: Serve, connect: Connect) -> None:
    class Dav(RequestHandler):
        SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "PROPFIND")

        def propfind(self) -> None:
            self.write("found")

    response = await (await connect(serve(Dav))).ask(get(method="PROPFIND"))
    assert response.body == b"found"


# -- responses


@pytest.mark.parametrize(
    ("chunks", "body", "content_type"),
    [
        ([], b"", "text/html; charset=UTF-8"),
        (["a", b"b\xff", "\xe9"], b"ab\xff\xc3\xa9", "text/html; charset=UTF-8"),
        ([{"a": [1, None]}], b'{"a": [1, null]}', "application/json; charset=UTF-8"),
        ([{"a": "</script>"}], rb'{"a": "<\/script>"}', "application/json; charset=UTF-8"),
    ],
)
async def test_write(
    chunks: list[Any], body: bytes, content_type: str, serve: Serve, connect: Connect
) -> None:
    """bytes, str as UTF-8, dict as JSON."""

    def write(self: RequestHandler) -> None:
        for chunk in chunks:
            self.write(chunk)

    response = await ask(serve, connect, write)
    assert response.body == body
    assert response.value("Content-Type") == content_type
    assert response.value("Content-Length") == str(len(body))


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ([1], r"not list; wrap lists in a dict"),
        (1, r"write\(\) takes bytes, str and dict, not int"),
        (None, r"not NoneType"),
    ],
)
async def test_write_refuses(
    chunk: Any, message: str, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    found: list[str] = []

    def write(self: RequestHandler) -> None:
        try:
            self.write(chunk)
        except TypeError as error:
            found.append(str(error))

    await ask(serve, connect, write)
    assert re.search(message, found[0])


async def test_nothing_is_written_after_the_end(serve: Serve, connect: Connect) -> None:
    found: list[str] = []

    def write(self: RequestHandler) -> None:
        self.finish("whole")
        for late in (lambda: self.write("late"), self.finish, lambda: self.redirect("/")):
            with pytest.raises(RuntimeError) as caught:
                late()
            found.append(str(caught.value))

    response = await ask(serve, connect, write)
    assert response.body == b"whole"
    assert found == [
        "Cannot write() after finish()",
        "finish() called twice",
        "cannot redirect after the headers have been sent",
    ]


async def test_status_and_reason(serve: Serve, connect: Connect) -> None:
    def status(self: RequestHandler) -> None:
        code = int(self.get_query_argument("code"))
        self.set_status(code, self.get_query_argument("reason", None))
        assert self.get_status() == code

    wire = await connect(serve(answering(status)))
    for query, line in [
        ("code=201", b"201 Created"),
        ("code=299", b"299 Unknown"),
        ("code=200&reason=Fine+so+far", b"200 Fine so far"),
        ("code=200&reason=", b"200 "),
        ("code=200&reason=%C3%A9", b"200 \xe9"),
    ]:
        response = await wire.ask(get(f"/?{query}"))
        assert response.head.startswith(b"HTTP/1.1 %b\r\n" % line)


@pytest.mark.parametrize("code", [204, 304])
async def test_a_status_without_body(code: int, serve: Serve, connect: Connect) -> None:
    """No body, nothing that describes one, and the connection goes on."""

    def none(self: RequestHandler) -> None:
        self.set_status(code)

    wire = await connect(serve(answering(none)))
    await wire.send(get())
    await wire.send(get("/", "Connection: close"))
    lines = without_date(await wire.rest()).split(b"\r\n\r\n")
    phrase = {204: b"204 No Content", 304: b"304 Not Modified"}[code]
    assert lines == [
        b"HTTP/1.1 %b\r\nServer: whimbrel" % phrase,
        b"HTTP/1.1 %b\r\nServer: whimbrel\r\nConnection: close" % phrase,
        b"",
    ]


async def test_a_body_with_204_is_refused(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    def wrong(self: RequestHandler) -> None:
        self.set_status(204)
        self.write("body")

    assert (await ask(serve, connect, wrong)).code == 500
    stray_logs.expect(APP, "Uncaught exception GET / ")
    stray_logs.expect(ACCESS, "500 GET / ")


async def test_headers(serve: Serve, connect: Connect) -> None:
    """set_header replaces, add_header adds, clear_header removes; str, bytes, int, datetime."""

    def headers(self: RequestHandler) -> None:
        self.set_header("x-a", "lost")
        self.set_header("X-A", b"caf\xe9")
        self.add_header("X-A", "2")
        self.set_header("X-Int", 17)
        self.set_header("X-Date", datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC))
        self.set_header("X-Gone", "x")
        self.clear_header("x-gone")
        self.clear_header("X-Never-There")
        self.clear_header("Server")

    response = await ask(serve, connect, headers)
    assert response.values("X-A") == ["caf\xe9", "2"]
    assert response.value("X-Int") == "17"
    assert response.value("X-Date") == "Tue, 02 Jan 2024 00:00:00 GMT"
    assert response.value("X-Gone") is None
    assert response.value("Server") is None


class Refusing(RequestHandler):
    """Tries what is illegal, and tells what was raised; has one call a path."""

    calls: dict[str, Any] = {
        "reason-lf": lambda self: self.set_status(200, "a\nb"),
        "reason-cr": lambda self: self.set_status(200, "a\rX: y"),
        "reason-nul": lambda self: self.set_status(200, "a\0"),
        "reason-wide": lambda self: self.set_status(200, "\u20ac"),
        "status-low": lambda self: self.set_status(100),
        "status-high": lambda self: self.set_status(1000),
        "header-lf": lambda self: self.set_header("X", "a\nb"),
        "header-crlf": lambda self: self.add_header("X", "a\r\nY: b"),
        "header-bytes": lambda self: self.set_header("X", b"a\x00"),
        "header-space": lambda self: self.set_header("X", " a"),
        "name-space": lambda self: self.set_header("X Y", "a"),
        "name-colon": lambda self: self.add_header("X:Y", "a"),
        "name-empty": lambda self: self.set_header("", "a"),
        "name-lf": lambda self: self.set_header("X\n", "a"),
        "redirect-crlf": lambda self: self.redirect("/a\r\nX: y"),
        "redirect-tab": lambda self: self.redirect("/\t/b"),
        "redirect-nul": lambda self: self.redirect("/\0"),
        "redirect-backslash": lambda self: self.redirect("/\\example.net"),
        "redirect-status": lambda self: self.redirect("/", status=200),
        "cookie-name": lambda self: self.set_cookie("a b", "x"),
        "cookie-name-lf": lambda self: self.set_cookie("a\n", "x"),
        "cookie-value": lambda self: self.set_cookie("a", "x\r\nY: z"),
        "cookie-wide": lambda self: self.set_cookie("a", "\u20ac"),
        "cookie-path": lambda self: self.set_cookie("a", "x", path="/; HttpOnly"),
        "cookie-domain": lambda self: self.set_cookie("a", "x", domain="a\r\n"),
        "cookie-samesite": lambda self: self.set_cookie("a", "x", samesite="Lax; Secure"),
    }

    def get(self, name: str) -> None:
        try:
            self.calls[name](self)
        except ValueError:
            self.write("refused")


@pytest.mark.parametrize("name", list(Refusing.calls))
async def test_illegal_output_is_refused(name: str, serve: Serve, connect: Connect) -> None:
    """ValueError, and the response is what it would be without the call."""
    wire = await connect(serve(Application([(r"/(.*)", Refusing)])))
    await wire.send(get(f"/{name}", "Connection: close"))
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 200 OK\r\n%bContent-Length: 7\r\nConnection: close\r\n\r\nrefused" % HTML
    )


@pytest.mark.parametrize("value", [1.5, None, ["a"]])
async def test_a_header_of_another_type(value: Any, serve: Serve, connect: Connect) -> None:
    def header(self: RequestHandler) -> None:
        with pytest.raises(TypeError, match="header 'X' must be str or bytes"):
            self.set_header("X", value)

    assert (await ask(serve, connect, header)).code == 200


async def test_default_headers_stand_on_error_pages_too(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    class Framed(RequestHandler):
        def set_default_headers(self) -> None:
            self.set_header("X-Frame-Options", "DENY")

        def get(self) -> None:
            self.set_header("X-Dropped", "by the error")
            self.write("dropped too")
            raise HTTPError(403)

    response = await (await connect(serve(Framed))).ask(get())
    assert response.value("X-Frame-Options") == "DENY"
    assert response.value("X-Dropped") is None
    assert b"dropped" not in response.body
    stray_logs.expect(ACCESS, "403")


@pytest.mark.parametrize(
    ("call", "status", "location"),
    [
        ({"url": "/next"}, "302 Found", "/next"),
        ({"url": "/next", "permanent": True}, "301 Moved Permanently", "/next"),
        ({"url": "../x?a=1&b=%20#f", "status": 303}, "303 See Other", "../x?a=1&b=%20#f"),
        ({"url": "/a b/\xe9"}, "302 Found", "/a%20b/%C3%A9"),
        ({"url": "https://[::1]:8443/"}, "302 Found", "https://[::1]:8443/"),
    ],
)
async def test_redirect(
    call: dict[str, Any], status: str, location: str, serve: Serve, connect: Connect
) -> None:
    def redirect(self: RequestHandler) -> None:
        self.redirect(**call)

    wire = await connect(serve(answering(redirect)))
    await wire.send(get("/", "Connection: close"))
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 %b\r\n%bLocation: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        % (status.encode(), HTML, location.encode())
    )


# -- cookies


async def test_set_cookie(serve: Serve, connect: Connect) -> None:
    """Every attribute; one header a cookie, the last of a name counting."""

    def cookies(self: RequestHandler) -> None:
        self.set_cookie("plain", "lost")
        self.set_cookie("plain", "a=b")
        self.set_cookie(
            "full",
            b"x",
            domain="example.com",
            path="/p",
            expires=datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
            max_age=60,
            httponly=True,
            secure=True,
            samesite="lax",
        )
        self.clear_cookie("old", path="/q", domain="example.com")
        self.set_cookie("session", "", path="/")

    response = await ask(serve, connect, cookies)
    assert response.values("Set-Cookie") == [
        "plain=a=b; Path=/",
        "full=x; Domain=example.com; Path=/p; Expires=Tue, 02 Jan 2024 00:00:00 GMT; Max-Age=60; "
        "Secure; HttpOnly; SameSite=Lax",
        "old=; Domain=example.com; Path=/q; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "session=; Path=/",
    ]


async def test_expires_days_counts_from_now(serve: Serve, connect: Connect) -> None:
    def cookie(self: RequestHandler) -> None:
        self.set_cookie("a", "b", expires_days=2)

    response = await ask(serve, connect, cookie)
    text = response.values("Set-Cookie")[0].rpartition("Expires=")[2]
    expires = datetime.datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")
    left = expires - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert datetime.timedelta(days=2, minutes=-1) < left <= datetime.timedelta(days=2)


@pytest.mark.parametrize("value", ["a b", 'say "hi"', "a,b;c", "back\\slash", "caf\xe9", "\x9b[0m"])
async def test_cookies_come_back(value: str, serve: Serve, connect: Connect) -> None:
    """A value that must be quoted is the same again when the client sends it back."""

    class Cookies(RequestHandler):
        def get(self) -> None:
            self.set_cookie("a", value)

        def post(self) -> None:
            assert self.get_cookie("a") == value == self.cookies["a"].value
            assert self.get_cookie("b") is None
            assert self.get_cookie("b", "default") == "default"
            self.write("same")

    wire = await connect(serve(Cookies))
    cookie = (await wire.ask(get())).values("Set-Cookie")[0].partition("; Path")[0]
    assert cookie.isascii()
    assert cookie.isprintable()
    response = await wire.ask(get("/", f"Cookie: {cookie}", method="POST", body=b"-"))
    assert response.body == b"same"


# -- the order of calls


async def test_hooks_are_called_in_order(serve: Serve, connect: Connect) -> None:
    calls: list[Any] = []

    class Hooked(RequestHandler):
        def initialize(self, database: str) -> None:
            calls.append(("initialize", database))

        def prepare(self) -> None:
            calls.append(("prepare", self.request.method, self.path_args, self.request.body))

        def post(self, name: str) -> None:
            calls.append(("post", name))
            self.finish("done")

        def on_finish(self) -> None:
            calls.append(("on_finish", self.get_status()))

    server = serve(Application([(r"/(.*)", Hooked, {"database": "db"})]))
    response = await (await connect(server)).ask(get("/x%2Fy", method="POST", body=b"body"))
    assert response.body == b"done"
    assert calls == [
        ("initialize", "db"),
        ("prepare", "POST", ["x/y"], b"body"),
        ("post", "x/y"),
        ("on_finish", 200),
    ]


@pytest.mark.parametrize("coroutine", [False, True])
async def test_prepare_may_end_the_request(coroutine: bool, serve: Serve, connect: Connect) -> None:
    """Then the method is not called; as a coroutine, it is awaited first."""

    class Guarded(RequestHandler):
        def prepare(self) -> Awaitable[None] | None:
            if coroutine:
                return self.prepare_slowly()
            self.check()
            return None

        async def prepare_slowly(self) -> None:
            await asyncio.sleep(0)
            self.check()

        def check(self) -> None:
            if self.request.path == "/closed":
                self.finish("guarded")

        def get(self) -> None:
            self.write("open")

    wire = await connect(serve(Guarded))
    assert (await wire.ask(get("/closed"))).body == b"guarded"
    assert (await wire.ask(get("/open"))).body == b"open"


async def test_on_finish_that_fails(serve: Serve, connect: Connect, stray_logs: StrayLogs) -> None:
    """The response is out; the log tells."""

    class Broken(RequestHandler):
        def get(self) -> None:
            self.write("whole")

        def on_finish(self) -> None:
            raise LookupError("too late")

    wire = await connect(serve(Broken))
    assert (await wire.ask(get())).body == b"whole"
    assert (await wire.ask(get())).body == b"whole"
    stray_logs.expect(APP, "Exception in on_finish of GET / ")


async def test_a_plain_method_costs_no_task(serve: Serve, connect: Connect) -> None:
    """The response is written within the call that read the request."""
    tasks: list[asyncio.Task[Any] | None] = []

    def plain(self: RequestHandler) -> None:
        tasks.append(asyncio.current_task())

    await ask(serve, connect, plain)
    assert tasks == [None]


async def test_pipelined_requests_are_answered_in_order(serve: Serve, connect: Connect) -> None:
    """A slow one holds those behind it back, coroutine or not."""
    going: list[str] = []

    class Slow(RequestHandler):
        async def get(self) -> None:
            going.append(self.request.path)
            assert len(going) == 1
            await asyncio.sleep(0.01)
            going.remove(self.request.path)
            self.write(self.request.path)

        def post(self) -> None:
            assert not going
            self.write("post")

    wire = await connect(serve(Slow))
    await wire.send(get("/1") + get("/2") + get("/3", method="POST", body=b"x") + get("/4"))
    bodies = [(await wire.response()).body for _ in range(4)]
    assert bodies == [b"/1", b"/2", b"post", b"/4"]


# -- the access log


async def test_transfer_encoding_of_ones_own(serve: Serve, connect: Connect) -> None:
    """The body is chunked then, and has no Content-Length."""

    def chunked(self: RequestHandler) -> None:
        self.set_header("Transfer-Encoding", "chunked")
        self.write("hello")

    wire = await connect(serve(answering(chunked)))
    await wire.send(get("/", "Connection: close"))
    assert without_date(await wire.rest()) == (
        b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n" % HTML
    )


async def test_current_user(serve: Serve, connect: Connect) -> None:
    """Asked for once, and nobody unless a handler says who; it may be set."""
    asked: list[str] = []

    class Own(RequestHandler):
        def get_current_user(self) -> str | None:
            asked.append(self.request.path)
            return self.get_cookie("user")

        def get(self) -> None:
            user = self.current_user
            assert self.current_user is user
            self.current_user = "somebody"
            self.write(f"{user}, {self.current_user}")

    server = serve(Own)
    response = await (await connect(server)).ask(get("/", "Cookie: user=me"))
    assert response.body == b"me, somebody"
    assert asked == ["/"]
    response = await ask(serve, connect, lambda self: self.write(str(self.current_user)))
    assert response.body == b"None"


async def test_a_coroutine_leaves_no_task_behind(serve: Serve, connect: Connect) -> None:
    """The application holds a request's task as long as it runs."""

    async def later(self: RequestHandler) -> None:
        await asyncio.sleep(0)
        assert len(self.application._tasks) == 1

    application = Application([(r"/", answering(later))])
    wire = await connect(serve(application))
    for _ in range(3):
        assert (await wire.ask(get())).code == 200
    await asyncio.sleep(0)
    assert not application._tasks


async def test_a_request_is_not_collected_while_it_waits(serve: Serve, connect: Connect) -> None:
    """A task that waits for what only it knows of would be, if nobody held it."""
    waiting = asyncio.Event()
    awaited: list[weakref.ref[asyncio.Future[None]]] = []

    async def wait(self: RequestHandler) -> None:
        future = asyncio.get_running_loop().create_future()
        awaited.append(weakref.ref(future))
        waiting.set()
        await future
        self.write("still here")

    wire = await connect(serve(answering(wait)))
    await wire.send(get())
    await waiting.wait()
    gc.collect()
    future = awaited[0]()
    assert future is not None
    future.set_result(None)
    del future
    assert (await wire.response()).body == b"still here"


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (200, logging.INFO),
        (399, logging.INFO),
        (400, logging.WARNING),
        (498, logging.WARNING),
        (499, logging.INFO),
        (500, logging.ERROR),
    ],
)
async def test_access_log(
    status: int,
    level: int,
    serve: Serve,
    connect: Connect,
    stray_logs: StrayLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(self: RequestHandler) -> None:
        self.set_status(status)

    caplog.set_level(logging.INFO, logger=ACCESS)
    await ask(serve, connect, answer, target="/p?q=1")
    (record,) = [record for record in caplog.records if record.name == ACCESS]
    assert record.levelno == level
    assert re.fullmatch(rf"{status} GET /p\?q=1 \(127\.0\.0\.1\) \d+\.\d\dms", record.getMessage())
    if level > logging.INFO:
        stray_logs.expect(ACCESS, str(status))


async def test_a_log_function_of_ones_own(serve: Serve, connect: Connect) -> None:
    logged: list[tuple[int, bool]] = []

    def log(handler: RequestHandler) -> None:
        logged.append((handler.get_status(), 0 <= handler.request.request_time() < 5))

    server = serve(Application([(r"/", Echo)], log_function=log))
    await (await connect(server)).ask(get())
    assert logged == [(200, True)]
