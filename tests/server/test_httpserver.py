"""The server: how it listens, what it calls, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import os
import resource
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from conftest import Certificates, StrayLogs
from whimbrel._web import listening
from whimbrel._web.listening import Listener, bind_sockets
from whimbrel.httpserver import HTTPServer
from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.ioloop import IOLoop
from whimbrel.web import Application, RequestHandler, stream_request_body

from .support import BAD_REQUEST, Connect, Serve, get, without_date

APP = "whimbrel.application"


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")


HELLO = Application([(r"/", Hello)])


def blocking_get(port: int, address: str = "127.0.0.1") -> bytes:
    """What the server answers, by a blocking socket."""
    with socket.create_connection((address, port), timeout=10) as sock:
        sock.sendall(get("/", "Connection: close"))
        return b"".join(iter(lambda: sock.recv(65536), b""))


def respond(request: HTTPServerRequest, body: bytes) -> None:
    """Answer a request as a program without a framework does."""
    connection = request.connection
    assert connection is not None
    headers = HTTPHeaders({"Content-Length": str(len(body))})
    connection.write_headers(ResponseStartLine("", 200, "OK"), headers, body)
    connection.finish()


# -- listening


async def test_a_free_port(serve: Serve, connect: Connect) -> None:
    server = serve(HELLO)
    assert server.port == server.sockets[0].getsockname()[1] > 0
    assert (await (await connect(server)).ask(get())).body == b"hello"


async def test_every_interface_has_the_same_port() -> None:
    """Without an address: by IPv4, and by IPv6 where there is one."""
    server = HTTPServer(HELLO)
    server.listen(0)
    try:
        families = {sock.family for sock in server.sockets}
        assert socket.AF_INET in families
        assert {sock.getsockname()[1] for sock in server.sockets} == {server.port}
        addresses = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
        for family in families:
            answer = await asyncio.to_thread(blocking_get, server.port, addresses[family])
            assert answer.endswith(b"hello")
    finally:
        server.stop()
        await server.close_all_connections()


async def test_one_family_only() -> None:
    server = HTTPServer(HELLO)
    server.listen(0, family=socket.AF_INET)
    assert [sock.family for sock in server.sockets] == [socket.AF_INET]
    server.stop()


async def test_several_ports(serve: Serve) -> None:
    server = serve(HELLO)
    server.listen(0, "127.0.0.1")
    first, second = (sock.getsockname()[1] for sock in server.sockets)
    assert first != second
    for port in (first, second):
        assert (await asyncio.to_thread(blocking_get, port)).endswith(b"hello")


async def test_a_port_that_is_taken(serve: Serve) -> None:
    """OSError, and no socket is left open (which the fixture checks)."""
    taken = serve(HELLO).port
    other = HTTPServer(HELLO)
    with pytest.raises(OSError) as caught:
        other.listen(taken, "127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
    assert other.sockets == []


async def test_one_address_of_several_is_taken() -> None:
    """Nothing is listened on then, neither there nor elsewhere."""
    families = list(dict.fromkeys(found[0] for found in socket.getaddrinfo(None, 0)))
    if len(families) < 2:
        pytest.skip("there is only one family of addresses here")
    with socket.socket(families[-1]) as taken:
        if families[-1] == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            bind_sockets(port)
        assert caught.value.errno == errno.EADDRINUSE
        for sock in bind_sockets(port, family=families[0]):
            sock.close()


async def test_reuse_port(serve: Serve) -> None:
    """Two sockets may listen on the port if both say so."""
    server = HTTPServer(HELLO)
    server.listen(0, "127.0.0.1", reuse_port=True)
    server.listen(server.port, "127.0.0.1", reuse_port=True)
    server.stop()


async def test_an_unknown_name() -> None:
    with pytest.raises(socket.gaierror):
        bind_sockets(0, "no-such-host.invalid")


async def test_no_port() -> None:
    with pytest.raises(RuntimeError, match="listens on no port"):
        _ = HTTPServer(HELLO).port


async def test_bind_and_start(connect: Connect) -> None:
    """Connections wait until start()."""
    server = HTTPServer(HELLO)
    server.bind(0, "127.0.0.1")
    assert server.sockets == []
    with pytest.raises(ValueError, match="runs in one process"):
        server.start(4)
    server.start(1)
    assert (await (await connect(server)).ask(get())).body == b"hello"
    server.stop()
    await server.close_all_connections()


async def test_stop_frees_what_was_bound_but_not_started() -> None:
    server = HTTPServer(HELLO)
    server.bind(0, "127.0.0.1")
    port = server._bound[0].getsockname()[1]
    server.stop()
    for sock in bind_sockets(port, "127.0.0.1"):
        sock.close()


async def test_add_socket(connect: Connect) -> None:
    """A socket that listens already, blocking or not."""
    sock = socket.create_server(("127.0.0.1", 0))
    server = HTTPServer(HELLO)
    server.add_socket(sock)
    assert server.port == sock.getsockname()[1]
    assert (await (await connect(server)).ask(get())).body == b"hello"
    server.stop()
    assert sock.fileno() < 0
    await server.close_all_connections()


async def test_a_unix_socket(tmp_path: Path) -> None:
    """There is no address to tell of, and none is made up."""
    addresses: list[str | None] = []

    def note(request: HTTPServerRequest) -> None:
        addresses.append(request.remote_ip)
        respond(request, b"unix")

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket"))
    sock.listen()
    server = HTTPServer(note)
    server.add_sockets([sock])
    reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    writer.write(get("/", "Connection: close"))
    assert (await reader.read()).endswith(b"\r\n\r\nunix")
    assert addresses == [None]
    with pytest.raises(RuntimeError, match="listens on no port"):
        _ = server.port
    writer.close()
    await writer.wait_closed()
    server.stop()
    await server.close_all_connections()


@pytest.fixture
def loop() -> Iterator[IOLoop]:
    """A loop that does not run, and is current."""
    loop = IOLoop()
    yield loop
    loop.close()


def test_listen_and_stop_outside_of_the_loop(loop: IOLoop) -> None:
    """Both before the loop runs and after it; between, the server serves."""
    server = HTTPServer(HELLO)
    server.listen(0, "127.0.0.1")
    port = server.port

    async def use() -> bytes:
        return await asyncio.to_thread(blocking_get, port)

    assert loop.run_sync(use).endswith(b"hello")
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        blocking_get(port)
    server.stop()  # once more, and nothing happens
    loop.run_sync(server.close_all_connections)


def test_stop_after_the_loop_was_closed() -> None:
    loop = IOLoop()
    server = HTTPServer(HELLO)
    server.listen(0, "127.0.0.1")
    port = server.port
    loop.close()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        blocking_get(port)


def test_several_threads_have_a_server_each() -> None:
    """Each on its own loop, in one process."""
    ports: list[int] = []
    ready = threading.Barrier(3)
    loops: list[IOLoop] = []

    def serve() -> None:
        loop = IOLoop()
        server = HTTPServer(HELLO)
        server.listen(0, "127.0.0.1")
        ports.append(server.port)
        loops.append(loop)
        ready.wait()
        loop.start()
        server.stop()
        loop.run_sync(server.close_all_connections)
        loop.close()

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    for port in ports:
        assert blocking_get(port).endswith(b"hello")
    for loop in loops:
        loop.add_callback(loop.stop)
    for thread in threads:
        thread.join()


# -- what is called


async def test_a_function(serve: Serve, connect: Connect) -> None:
    """It is called with the whole request, whose form is parsed."""

    def answer(request: HTTPServerRequest) -> None:
        assert request.body_arguments == {"a": [b"1"]}
        assert request.arguments == {"q": [b"2"], "a": [b"1"]}
        respond(request, request.method.encode() + request.body)

    form = "Content-Type: application/x-www-form-urlencoded"
    wire = await connect(serve(answer))
    await wire.send(get("/?q=2", form, "Connection: close", method="POST", body=b"a=1"))
    assert await wire.rest() == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nPOSTa=1"
    )


async def test_a_coroutine_function(serve: Serve, connect: Connect) -> None:
    async def answer(request: HTTPServerRequest) -> None:
        await asyncio.sleep(0)
        respond(request, b"later")

    assert (await (await connect(serve(answer))).ask(get())).body == b"later"


async def test_a_function_that_fails(serve: Serve, connect: Connect, stray_logs: StrayLogs) -> None:
    """It is logged, and the connection closed; other connections go on."""

    def fail(request: HTTPServerRequest) -> None:
        if request.path == "/fail":
            raise LookupError("mine")
        respond(request, b"fine")

    server = serve(fail)
    other = await connect(server)
    assert (await other.ask(get())).body == b"fine"
    wire = await connect(server)
    await wire.send(get("/fail"))
    assert await wire.rest() == b""
    assert (await other.ask(get())).body == b"fine"
    stray_logs.expect("whimbrel.http1connection", "Uncaught exception")


async def test_a_coroutine_function_that_fails(
    serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    async def fail(request: HTTPServerRequest) -> None:
        await asyncio.sleep(0)
        raise LookupError("mine")

    wire = await connect(serve(fail))
    await wire.send(get())
    assert await wire.rest() == b""
    stray_logs.expect(APP, "Uncaught exception\nHTTPServerRequest")


async def test_what_a_function_returns_is_awaited_only_if_it_can_be(
    serve: Serve, connect: Connect
) -> None:
    """Anything else, as what a last expression gives, is passed over."""

    def answer(request: HTTPServerRequest) -> object:
        respond(request, b"ok")
        return True

    wire = await connect(serve(answer))
    for _ in range(2):
        assert (await wire.ask(get())).body == b"ok"


async def test_a_function_is_not_called_with_a_malformed_form(
    serve: Serve, connect: Connect
) -> None:
    """There is no error page without a framework: the connection answers."""
    called: list[str] = []
    form = "Content-Type: multipart/form-data; boundary=XX"
    wire = await connect(serve(lambda request: called.append(request.path)))
    await wire.send(get("/", form, method="POST", body=b"--YY"))
    assert await wire.rest() == BAD_REQUEST
    assert called == []


async def test_a_client_that_leaves_before_its_function_is_called(
    serve: Serve, connect: Connect
) -> None:
    called: list[str] = []

    def answer(request: HTTPServerRequest) -> None:
        called.append(request.path)
        respond(request, b"")

    server = serve(answer)
    wire = await connect(server)
    await wire.send(get("/half", "Content-Length: 10", method="PUT") + b"half")
    wire.reset()
    await (await connect(server)).ask(get("/whole"))
    assert called == ["/whole"]


class Recorder(HTTPServerConnectionDelegate):
    """A delegate without a framework, that notes all calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.closed = asyncio.Event()

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        self.calls.append("start_request")
        return RecordedMessage(self.calls, request_conn)

    def on_close(self, server_conn: object) -> None:
        self.calls.append("on_close")
        self.closed.set()


class RecordedMessage(HTTPMessageDelegate):
    def __init__(self, calls: list[Any], connection: HTTPConnection) -> None:
        self.calls = calls
        self.connection = connection

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        self.calls.append((start_line, dict(headers)))

    def data_received(self, chunk: bytes) -> None:
        self.calls.append(chunk)

    def finish(self) -> None:
        self.calls.append("finish")
        headers = HTTPHeaders({"Content-Length": "2"})
        self.connection.write_headers(ResponseStartLine("", 200, "OK"), headers, b"ok")
        self.connection.finish()


@pytest.mark.parametrize("xheaders", [False, True])
async def test_a_delegate(xheaders: bool, serve: Serve, connect: Connect) -> None:
    recorder = Recorder()
    wire = await connect(serve(recorder, xheaders=xheaders))
    assert (await wire.ask(get(method="PUT", body=b"body"))).body == b"ok"
    await wire.close()
    await asyncio.wait_for(recorder.closed.wait(), 5)
    assert recorder.calls == [
        "start_request",
        (RequestStartLine("PUT", "/", "HTTP/1.1"), {"Host": "example.com", "Content-Length": "4"}),
        b"body",
        "finish",
        "on_close",
    ]


# -- connections


async def test_keep_alive_and_pipelining(serve: Serve, connect: Connect) -> None:
    """Requests in one packet, with blank lines before one, are answered in order."""
    wire = await connect(serve(HELLO))
    await wire.send(get() + b"\r\n" + get() + get("/", "Connection: close") + get())
    answers = without_date(await wire.rest()).split(b"hello")
    assert [answer.count(b"HTTP/1.1 200 OK") for answer in answers] == [1, 1, 1, 0]
    assert answers[2].endswith(b"Connection: close\r\n\r\n")


async def test_http_1_0(serve: Serve, connect: Connect) -> None:
    """Closed after the response, unless the client asks to keep the connection."""
    server = serve(HELLO)
    wire = await connect(server)
    await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (await wire.response()).value("Connection") == "Keep-Alive"
    await wire.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = without_date(await wire.rest())
    assert answer.endswith(b"Content-Length: 5\r\n\r\nhello")


async def test_no_keep_alive(serve: Serve, connect: Connect) -> None:
    wire = await connect(serve(HELLO, no_keep_alive=True))
    await wire.send(get() + get())
    answer = await wire.rest()
    assert answer.count(b"hello") == 1
    assert b"\r\nConnection: close\r\n" in answer


async def test_expect_100_continue(serve: Serve, connect: Connect) -> None:
    """The server asks for the body once the handler has seen the headers."""

    class Put(RequestHandler):
        def put(self) -> None:
            self.write(self.request.body)

    wire = await connect(serve(Put))
    await wire.send(get("/", "Expect: 100-continue", "Content-Length: 4", method="PUT"))
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await wire.ask(b"body")).body == b"body"


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_decompress_request(
    coding: str, compress: Callable[[bytes], bytes], serve: Serve, connect: Connect
) -> None:
    class Put(RequestHandler):
        def put(self) -> None:
            self.write(self.request.body)

    body = compress(b"body")
    request = get("/", f"Content-Encoding: {coding}", method="PUT", body=body)
    assert (await (await connect(serve(Put))).ask(request)).body == body
    assert (await (await connect(serve(Put, decompress_request=True))).ask(request)).body == b"body"


async def test_chunk_size(serve: Serve, connect: Connect) -> None:
    """A streamed body comes in pieces of at most that."""
    sizes: list[int] = []

    @stream_request_body
    class Put(RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            sizes.append(len(chunk))

        def put(self) -> None: ...

    wire = await connect(serve(Put, chunk_size=1000))
    await wire.ask(get(method="PUT", body=bytes(10_000)))
    assert sum(sizes) == 10_000
    assert max(sizes) <= 1000


# -- TLS


@pytest.fixture
def trusting(certificates: Certificates) -> ssl.SSLContext:
    """A client's context."""
    context = ssl.create_default_context()
    certificates.ca.configure_trust(context)
    return context


@pytest.fixture
def certfile(certificates: Certificates, tmp_path: Path) -> str:
    path = tmp_path / "server.pem"
    certificates.server.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


class Scheme(RequestHandler):
    def get(self) -> None:
        self.write(self.request.full_url())


async def test_tls_by_dict_and_by_context(
    serve: Serve,
    connect: Connect,
    trusting: ssl.SSLContext,
    certfile: str,
    certificates: Certificates,
) -> None:
    for options in ({"certfile": certfile}, certificates.server_context()):
        server = serve(Scheme, ssl_options=options)
        wire = await connect(server, trusting)
        for _ in range(2):
            assert (await wire.ask(get("/x"))).body == b"https://example.com/x"


async def test_tls_asks_for_client_certificates(
    serve: Serve,
    connect: Connect,
    trusting: ssl.SSLContext,
    certfile: str,
    certificates: Certificates,
) -> None:
    server = serve(
        Scheme,
        ssl_options={
            "certfile": certfile,
            "cert_reqs": ssl.CERT_REQUIRED,
            "ca_certs": certificates.ca_file,
        },
    )
    wire = await connect(server, trusting)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await wire.ask(get())
    certificates.client.configure_cert(trusting)
    wire = await connect(server, trusting)
    assert (await wire.ask(get())).code == 200


def test_tls_options_need_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match='missing key "certfile" in ssl_options'):
        HTTPServer(HELLO, ssl_options={})
    with pytest.raises(KeyError, match="certfile"):
        HTTPServer(HELLO, ssl_options={"keyfile": "x"})
    with pytest.raises(FileNotFoundError):
        HTTPServer(HELLO, ssl_options={"certfile": str(tmp_path / "none.pem")})


async def test_plain_http_to_a_tls_port(
    serve: Serve, connect: Connect, certificates: Certificates
) -> None:
    """The connection is closed, without a word in the log; others are served."""
    server = serve(HELLO, ssl_options=certificates.server_context())
    wire = await connect(server)
    await wire.send(get())
    with contextlib.suppress(ConnectionError):
        assert b"HTTP/1.1" not in await wire.rest()


async def test_a_client_that_is_gone_before_the_handshake(
    serve: Serve, connect: Connect, trusting: ssl.SSLContext, certificates: Certificates
) -> None:
    """Reset while it waited to be accepted, with and without data: nothing is logged."""
    server = serve(HELLO, ssl_options=certificates.server_context())
    for data in (b"", b"x"):
        # All of it before the loop's next turn.
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert (await (await connect(server, trusting)).ask(get())).code == 200


async def test_a_handshake_that_does_not_end(
    serve: Serve, connect: Connect, certificates: Certificates
) -> None:
    """header_timeout is for the handshake as well."""
    server = serve(HELLO, ssl_options=certificates.server_context(), header_timeout=0.1)
    wire = await connect(server)
    await wire.send(b"\x16\x03\x01")
    assert await wire.rest() == b""


# -- behind a proxy


class Client(RequestHandler):
    def get(self) -> None:
        self.write(f"{self.request.remote_ip} {self.request.protocol}")


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ([], "127.0.0.1 http"),
        (["X-Real-Ip: 4.4.4.4"], "4.4.4.4 http"),
        (["X-Real-Ip: 2620:0:1cfe:face:b00c::3"], "2620:0:1cfe:face:b00c::3 http"),
        (["X-Forwarded-For: 127.0.0.1, 4.4.4.4"], "4.4.4.4 http"),
        (["X-Forwarded-For: 4.4.4.4, 5.5.5.5, 10.0.0.1, 10.0.0.2"], "5.5.5.5 http"),
        (["X-Forwarded-For: 10.0.0.1, 10.0.0.2"], "10.0.0.1 http"),
        (["X-Real-Ip: 4.4.4.4", "X-Forwarded-For: 5.5.5.5"], "4.4.4.4 http"),
        (["X-Real-Ip: 4.4.4.4<script>"], "127.0.0.1 http"),
        (["X-Real-Ip: fe80::1%eth0.1_2~3-4"], "fe80::1%eth0.1_2~3-4 http"),
        (["X-Real-Ip: ::1%<img src=x>"], "127.0.0.1 http"),
        (["X-Real-Ip: ::1%"], "127.0.0.1 http"),
        (["X-Forwarded-For: 4.4.4.4, <script>"], "127.0.0.1 http"),
        (["X-Real-Ip: www.google.com"], "127.0.0.1 http"),
        (["X-Real-Ip: 4.4.4.4", "X-Real-Ip: 5.5.5.5"], "127.0.0.1 http"),
        (["X-Scheme: https"], "127.0.0.1 https"),
        (["X-Forwarded-Proto: https"], "127.0.0.1 https"),
        (["X-Forwarded-Proto: https, http"], "127.0.0.1 http"),
        (["X-Forwarded-Proto: unknown"], "127.0.0.1 http"),
        (["X-Scheme: https", "X-Forwarded-Proto: http"], "127.0.0.1 https"),
    ],
)
async def test_xheaders(headers: list[str], seen: str, serve: Serve, connect: Connect) -> None:
    """The client as the proxy tells, for this one request; what is no address is passed over."""
    server = serve(Client, xheaders=True, trusted_downstream=["10.0.0.1", "10.0.0.2"])
    wire = await connect(server)
    assert (await wire.ask(get("/", *headers))).body == seen.encode()
    assert (await wire.ask(get())).body == b"127.0.0.1 http"


async def test_without_xheaders_nobody_is_believed(serve: Serve, connect: Connect) -> None:
    headers = ["X-Real-Ip: 4.4.4.4", "X-Forwarded-For: 4.4.4.4", "X-Scheme: https"]
    wire = await connect(serve(Client))
    assert (await wire.ask(get("/", *headers))).body == b"127.0.0.1 http"


async def test_xheaders_and_a_client_that_leaves(serve: Serve, connect: Connect) -> None:
    """The program is told of the close in the middle of a body."""
    recorder = Recorder()
    wire = await connect(serve(recorder, xheaders=True))
    await wire.send(get("/", "X-Real-Ip: 4.4.4.4", "Content-Length: 9", method="PUT") + b"half")
    wire.reset()
    await asyncio.wait_for(recorder.closed.wait(), 5)
    assert "finish" not in recorder.calls


async def test_protocol_of_ones_own(serve: Serve, connect: Connect) -> None:
    wire = await connect(serve(Client, protocol="https"))
    assert (await wire.ask(get())).body == b"127.0.0.1 https"
    with pytest.raises(ValueError, match="neither http nor https"):
        HTTPServer(HELLO, protocol="ftp")


# -- the end


class Waiting(RequestHandler):
    """Answers when it is told to; at /stream after the headers have gone out."""

    begun: asyncio.Event
    go: asyncio.Event

    async def get(self) -> None:
        if self.request.path == "/stream":
            await self.flush()
        self.begun.set()
        await self.go.wait()
        self.write("whole")


@pytest.fixture
def waiting() -> type[Waiting]:
    return type("Waiting", (Waiting,), {"begun": asyncio.Event(), "go": asyncio.Event()})


async def test_idle_connections_are_closed_at_once(serve: Serve, connect: Connect) -> None:
    """Those that have been used, and those that have not."""
    server = serve(HELLO)
    fresh, used = await connect(server), await connect(server)
    await used.ask(get())
    server.stop()
    await asyncio.wait_for(server.close_all_connections(timeout=None), 5)
    assert await fresh.rest() == await used.rest() == b""


@pytest.mark.parametrize("path", ["/", "/stream"])
async def test_a_response_under_way_is_finished(
    path: str, serve: Serve, connect: Connect, waiting: type[Waiting]
) -> None:
    """The connection is closed behind it, which a head that is still to go says."""
    server = serve(waiting)
    wire = await connect(server)
    await wire.send(get(path))
    await waiting.begun.wait()
    server.stop()
    closing = asyncio.create_task(server.close_all_connections(timeout=None))
    await asyncio.sleep(0.1)
    assert not closing.done()
    waiting.go.set()
    response = await wire.response()
    assert response.body == b"whole"
    assert response.value("Connection") == (None if path == "/stream" else "close")
    assert await wire.rest() == b""
    await asyncio.wait_for(closing, 5)


async def test_the_time_to_finish_is_limited(
    serve: Serve, connect: Connect, waiting: type[Waiting]
) -> None:
    server = serve(waiting)
    wire = await connect(server)
    await wire.send(get())
    await waiting.begun.wait()
    server.stop()
    begin = time.monotonic()
    await server.close_all_connections(timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 5
    assert await wire.rest() == b""
    waiting.go.set()


async def test_a_server_may_listen_again_after_the_end(serve: Serve, connect: Connect) -> None:
    server = serve(HELLO)
    server.stop()
    await server.close_all_connections()
    server.listen(0, "127.0.0.1")
    wire = await connect(server)
    assert (await wire.ask(get())).value("Connection") is None


# -- accepting


@pytest.fixture
async def listener_socket() -> AsyncIterator[socket.socket]:
    (sock,) = bind_sockets(0, "127.0.0.1")
    yield sock
    sock.close()


async def test_a_connection_that_cannot_be_taken_does_not_stop_the_others(
    listener_socket: socket.socket,
) -> None:
    errors: list[Any] = []
    taken: list[socket.socket] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    second = asyncio.Event()

    def take(connection: socket.socket, address: Any) -> None:
        if not errors:
            raise LookupError("the first")
        taken.append(connection)
        second.set()

    listener = Listener(asyncio.get_running_loop(), listener_socket, take)
    clients = [socket.create_connection(listener_socket.getsockname()) for _ in range(2)]
    await asyncio.wait_for(second.wait(), 5)
    assert str(errors[0]["exception"]) == "the first"
    clients[0].setblocking(False)
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(clients[0], 1) == b""  # closed
    listener.close()
    for sock in (*clients, *taken):
        sock.close()


async def test_closing_while_accepting(listener_socket: socket.socket) -> None:
    """Connections that wait behind the one that had it closed are not looked for."""
    taken: list[socket.socket] = []
    done = asyncio.Event()

    def take(connection: socket.socket, address: Any) -> None:
        taken.append(connection)
        listener.close()
        done.set()

    clients = [socket.create_connection(listener_socket.getsockname()) for _ in range(3)]
    listener = Listener(asyncio.get_running_loop(), listener_socket, take)
    await asyncio.wait_for(done.wait(), 5)
    assert len(taken) == 1
    for sock in (*clients, *taken):
        sock.close()


async def test_a_connection_that_was_given_up_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What accept() says of one connection is no reason to look away, nor to log.

    Linux reports the error of a connection where BSDs drop it; there is no way to ask for one.
    """
    monkeypatch.setattr(listening, "_PAUSE", 60.0)
    accepted = asyncio.Event()
    taken: list[socket.socket] = []

    class GivenUp(socket.socket):
        errors: ClassVar = [errno.ECONNABORTED, errno.EPROTO]

        def accept(self) -> tuple[socket.socket, Any]:
            if self.errors:
                raise OSError(self.errors.pop(), "given up")
            return super().accept()

    def take(connection: socket.socket, address: Any) -> None:
        taken.append(connection)
        accepted.set()

    (sock,) = bind_sockets(0, "127.0.0.1")
    listener = Listener(asyncio.get_running_loop(), GivenUp(fileno=sock.detach()), take)
    with socket.create_connection(listener.socket.getsockname()):
        await asyncio.wait_for(accepted.wait(), 5)
    listener.close()
    taken[0].close()


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Use up all file descriptors of the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    copies: list[int] = []
    try:
        while len(copies) < 1000:
            try:
                copies.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for copy in copies:
            os.close(copy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_shortage_of_descriptors(
    serve: Serve, stray_logs: StrayLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 42: one line in the log, no spinning, and it goes on when there are some again."""
    monkeypatch.setattr(listening, "_PAUSE", 0.02)
    loop = asyncio.get_running_loop()
    server = serve(HELLO)
    with socket.socket() as client:
        client.setblocking(False)
        with no_descriptors_left():
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            await loop.sock_sendall(client, get())
            cpu = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - cpu < 0.25
        async with asyncio.timeout(5):
            assert (await loop.sock_recv(client, 65536)).endswith(b"hello")
    told = [text for text in stray_logs.texts if "Cannot accept" in text]
    assert len(told) == 1
    stray_logs.expect("whimbrel.general", "Cannot accept connections.*: Too many open files")


async def test_stop_during_a_shortage(
    serve: Serve, stray_logs: StrayLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener does not come back."""
    monkeypatch.setattr(listening, "_PAUSE", 0.05)
    loop = asyncio.get_running_loop()
    server = serve(HELLO)
    with socket.socket() as client:
        client.setblocking(False)
        with no_descriptors_left():
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            await asyncio.sleep(0.02)
            server.stop()
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionError):
            await loop.sock_recv(client, 1)
    stray_logs.expect("whimbrel.general", "Cannot accept")


async def test_a_listener_that_is_broken(
    listener_socket: socket.socket, stray_logs: StrayLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is always readable, and never gives a connection: no spinning either."""
    monkeypatch.setattr(listening, "_PAUSE", 0.02)
    taken: list[socket.socket] = []
    listener = Listener(
        asyncio.get_running_loop(), listener_socket, lambda sock, address: taken.append(sock)
    )
    listener_socket.shutdown(socket.SHUT_RDWR)
    cpu = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - cpu < 0.25
    listener.close()
    assert taken == []
    assert len([text for text in stray_logs.texts if "Cannot accept" in text]) == 1
    stray_logs.expect("whimbrel.general", "Cannot accept connections.*: Invalid argument")


async def test_many_connections_at_once(serve: Serve, connect: Connect) -> None:
    """More than one wake-up accepts are all served."""
    server = serve(HELLO)
    wires = await asyncio.gather(*(connect(server) for _ in range(100)))
    answers = await asyncio.gather(*(wire.ask(get()) for wire in wires))
    assert {answer.body for answer in answers} == {b"hello"}
