"""The scripted server does byte by byte what it is told, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator

import pytest

from whimbrel.testing.scripted import (
    MalformedRequest,
    Peer,
    PeerLeft,
    ScriptedServer,
    canned,
    chunk,
    chunked,
    ok,
    redirect,
    refused_port,
    reply,
    respond,
    routes,
    silent,
    silent_server,
    unaccepting_port,
)

GET = b"GET /x?y HTTP/1.1\r\nHost: a\r\nX-B:  two \r\nx-b: 2\r\n\r\n"


@pytest.fixture(autouse=True)
async def _nothing_left() -> AsyncIterator[None]:
    """No test leaves a task behind; -W error sees to the sockets."""
    before = asyncio.all_tasks()
    yield
    assert not [t for t in asyncio.all_tasks() - before if t is not asyncio.current_task()]


class Client:
    """A raw client: the other end of what is under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, server: ScriptedServer, tls: ssl.SSLContext | None = None) -> Client:
        name = "localhost" if tls else None
        return cls(
            *await asyncio.open_connection(server.host, server.port, ssl=tls, server_hostname=name)
        )

    async def ask(self, request: bytes) -> None:
        self.writer.write(request)
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


async def exchange(server: ScriptedServer, request: bytes, size: int = -1) -> bytes:
    """Send `request` on a new connection; return `size` bytes of the answer, or all to the end."""
    client = await Client.to(server)
    await client.ask(request)
    try:
        return await (client.reader.read() if size < 0 else client.reader.readexactly(size))
    finally:
        await client.close()


async def test_request_is_recorded_exactly_as_received() -> None:
    """Raw head, parts, header order, case and repetitions are what came over the wire."""
    async with ScriptedServer(respond(ok(), then="close")) as server:
        assert await exchange(server, GET) == ok()
    (request,) = server.requests
    assert request.raw_head == request.raw == GET
    assert (request.method, request.target, request.version) == ("GET", "/x?y", "HTTP/1.1")
    assert request.headers == [("Host", "a"), ("X-B", "two"), ("x-b", "2")]
    assert request.get_all("X-b") == ["two", "2"]
    assert request.get("host") == "a"
    assert request.get("absent") is None
    with pytest.raises(MalformedRequest, match="x-b came 2 times"):
        request.get("x-b")
    assert server.connections[0].requests == server.requests


async def test_body_with_content_length() -> None:
    """A body of Content-Length bytes is read whole, and what follows is the next request."""
    message = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    async with ScriptedServer(respond(ok(b"1"), ok(b"2"), then="close")) as server:
        assert await exchange(server, message + GET) == ok(b"1") + ok(b"2")
    assert [request.body for request in server.requests] == [b"hello", b""]
    assert server.requests[0].raw == message


async def test_chunked_body() -> None:
    """A chunked body is de-framed; chunks, trailers and the raw bytes are kept."""
    body = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n"
    async with ScriptedServer(respond(ok(), then="close")) as server:
        await exchange(server, b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    (request,) = server.requests
    assert request.body == b"abc0123456789"
    assert request.raw_body == body
    assert request.chunks == [b"abc", b"0123456789"]
    assert request.trailers == [("X-T", "v")]


@pytest.mark.parametrize(
    "message",
    [
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
    ],
)
async def test_malformed_requests_fail_the_test(message: bytes) -> None:
    """What RFC 9112 forbids is raised from the context manager, not forgiven."""
    with pytest.raises(MalformedRequest):
        async with ScriptedServer(canned(ok())) as server:
            await exchange(server, message)


async def test_handler_errors_are_raised_at_exit() -> None:
    """An exception in a handler surfaces when the context ends, over the one it caused."""

    async def handler(peer: Peer) -> None:
        raise LookupError("scripted wrongly")

    with pytest.raises(LookupError, match="scripted wrongly") as caught:  # noqa: PT012
        async with ScriptedServer(handler) as server:
            assert await exchange(server, b"") == b""
            raise ValueError("because of it")
    assert isinstance(caught.value.__context__, ValueError)


async def test_errors_of_several_handlers_are_grouped() -> None:
    """None of several handler errors is lost."""

    async def handler(peer: Peer) -> None:
        raise LookupError(await peer.read_exactly(1))

    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with ScriptedServer(handler) as server:
            await exchange(server, b"1")
            await exchange(server, b"2")
    assert [error.args for error in caught.value.exceptions] == [(b"1",), (b"2",)]


async def test_departed_client_ends_the_handler_quietly() -> None:
    """A client that leaves in the middle raises PeerLeft in the handler, and nothing outside."""
    seen: list[EOFError] = []

    async def handler(peer: Peer) -> None:
        try:
            await peer.read_request()
        except EOFError as error:
            seen.append(error)
            raise

    async with ScriptedServer(handler) as server:
        client = await Client.to(server)
        await client.ask(b"GET / HT")
        await client.close()
        await server.accepted()
        await server.finished()
    assert isinstance(seen[0], PeerLeft)
    assert "b'GET / HT' unread" in str(seen[0])


async def test_unscripted_request_is_an_error() -> None:
    """`respond` without `then` allows no further request."""
    with pytest.raises(AssertionError, match="nothing is scripted for GET /x"):
        async with ScriptedServer(respond(ok())) as server:
            await exchange(server, GET + GET)


async def test_routes_answer_by_target() -> None:
    """`routes` looks up the target; a function gets the request."""
    table = {"/a": ok(b"A"), "/b": lambda request: ok(request.method.encode())}
    async with ScriptedServer(routes(table)) as server:
        size = len(ok(b"A"))
        assert await exchange(server, b"GET /a HTTP/1.1\r\n\r\n", size) == ok(b"A")
        assert await exchange(server, b"HEAD /b HTTP/1.1\r\n\r\n", size + 3) == ok(b"HEAD")
    with pytest.raises(AssertionError, match="GET /c"):
        async with ScriptedServer(routes(table)) as server:
            await exchange(server, b"GET /c HTTP/1.1\r\n\r\n")


async def test_reset_sends_rst() -> None:
    """`reset` is seen by the client as ECONNRESET, not as the end of the stream."""
    async with ScriptedServer(respond(b"", then="reset")) as server:
        with pytest.raises(ConnectionResetError):
            await exchange(server, GET)


async def test_half_close_goes_on_reading() -> None:
    """After `half_close` the client sees the end, and the server still reads."""
    got: list[bytes] = []

    async def handler(peer: Peer) -> None:
        await peer.send(b"bye")
        peer.half_close()
        got.append(await peer.read_exactly(4))

    async with ScriptedServer(handler) as server:
        client = await Client.to(server)
        assert await client.reader.read() == b"bye"
        await client.ask(b"late")
        await server.finished()
        await client.close()
    assert got == [b"late"]


async def test_closed_waits_for_the_client() -> None:
    """`closed` returns when the client closes, whatever it sent before."""
    async with ScriptedServer(silent) as server:
        client = await Client.to(server)
        await client.ask(b"x" * 300_000)
        (peer,) = await server.accepted()
        waiting = asyncio.ensure_future(peer.closed())
        await client.close()
        await waiting
        assert peer.is_closed
        assert peer.bytes_received == 300_000


async def test_bytes_sent_counts_what_the_kernel_took() -> None:
    """A client that does not read holds `send` back, and `bytes_sent` says how far it got."""
    total = 8 * 1024 * 1024

    async def handler(peer: Peer) -> None:
        await peer.send(bytes(total))

    async with ScriptedServer(handler, send_buffer=16 * 1024) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (server.host, server.port))
            (peer,) = await server.accepted()
            first = await loop.sock_recv(client, 1)
            assert 0 < peer.bytes_sent < total // 4
            left = total - len(first)
            while left:
                left -= len(await loop.sock_recv(client, 256 * 1024))
            assert peer.bytes_sent == total


async def test_send_slowly_sends_piece_by_piece() -> None:
    """Every byte arrives, spread over the time asked for."""

    async def handler(peer: Peer) -> None:
        await peer.send_slowly(b"0123456789", chunk=2, delay=0.01)

    async with ScriptedServer(handler) as server:
        started = time.monotonic()
        assert await exchange(server, b"") == b"0123456789"
        assert time.monotonic() - started >= 0.05


async def test_read_primitives() -> None:
    """`read_until`, `read_exactly` and `read_some` take what they say and leave the rest."""
    got: list[bytes] = []

    async def handler(peer: Peer) -> None:
        got.append(await peer.read_until(b"--"))
        got.append(await peer.read_exactly(2))
        got.append(peer.unread)
        got.append(await peer.read_some())
        await peer.send(b"!")
        await peer.read_some()

    async with ScriptedServer(handler) as server:
        assert await exchange(server, b"ab--cdef", 1) == b"!"
    assert got == [b"ab--", b"cd", b"ef", b"ef"]


async def test_tls(server_context: ssl.SSLContext, certificates) -> None:  # type: ignore[no-untyped-def]
    """With a context the same scripts run over TLS, and URLs say https."""
    trusting = ssl.create_default_context(cafile=certificates.ca_file)
    async with ScriptedServer(respond(ok(), then="close"), server_context) as server:
        assert server.url("/p") == f"https://127.0.0.1:{server.port}/p"
        client = await Client.to(server, trusting)
        await client.ask(GET)
        assert await client.reader.read() == ok()
        assert server.connections[0].ssl_object is not None
        await client.close()


async def test_failed_handshake_is_recorded_not_raised(server_context: ssl.SSLContext) -> None:
    """A client that refuses the certificate is the test's business, not an error of the server."""
    async with ScriptedServer(silent, server_context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.to(server, ssl.create_default_context())
        (peer,) = server.connections
        await server.finished()
        assert isinstance(peer.handshake_error, OSError)


async def test_start_tls_after_a_greeting(server_context: ssl.SSLContext, certificates) -> None:  # type: ignore[no-untyped-def]
    """A scripted proxy answers CONNECT in clear and plays the origin in TLS."""

    async def handler(peer: Peer) -> None:
        assert (await peer.read_head()).method == "CONNECT"
        await peer.start_tls(server_context, b"HTTP/1.1 200 OK\r\n\r\n")
        await respond(ok(), then="close")(peer)

    trusting = ssl.create_default_context(cafile=certificates.ca_file)
    async with ScriptedServer(handler) as server:
        client = await Client.to(server)
        await client.ask(b"CONNECT localhost:1 HTTP/1.1\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        await client.writer.start_tls(trusting, server_hostname="localhost")
        await client.ask(GET)
        assert await client.reader.read() == ok()
        await client.close()


async def test_exit_ends_whatever_still_runs(server_context: ssl.SSLContext) -> None:
    """Handlers that wait, handshakes that hang and connections just made end with the context."""
    with socket.socket() as stuck, socket.socket() as fresh:
        async with ScriptedServer(silent) as plain, silent_server(server_context) as tls:
            client = await Client.to(plain)
            stuck.setblocking(False)
            await asyncio.get_running_loop().sock_connect(stuck, (tls.host, tls.port))
            await tls.accepted()
            fresh.setblocking(False)
            await asyncio.get_running_loop().sock_connect(fresh, (plain.host, plain.port))
            plain._accept()  # leave without a turn of the loop: its task never starts
        assert all(p._sock.fileno() == -1 for p in [*plain.connections, *tls.connections])
        await client.close()


async def test_ipv6_url() -> None:
    """An IPv6 host stands in brackets."""
    async with ScriptedServer(respond(ok(), then="close"), host="::1") as server:
        assert server.url("/", userinfo="u:p") == f"http://u:p@[::1]:{server.port}/"
        assert server.url("/", host="localhost") == f"http://localhost:{server.port}/"
        assert await exchange(server, GET) == ok()


async def test_unaccepting_port_hangs() -> None:
    """Connecting to it neither succeeds nor fails."""
    with unaccepting_port() as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asyncio.open_connection("127.0.0.1", port)


async def test_refused_port_refuses() -> None:
    """Connecting to it fails at once."""
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_response_builders() -> None:
    """Responses are framed by Content-Length unless told otherwise; bodiless ones are not."""
    assert ok() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert ok(b"", "A: b") == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n"
    assert reply("404 Not Found", b"?", "content-length: 9") == (
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n?"
    )
    assert reply("204 No Content") == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert redirect("/x", "301 Moved") == (
        b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"
    )
    assert chunk(b"abc") == b"3\r\nabc\r\n"
    assert chunked(b"ab", b"c") == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
