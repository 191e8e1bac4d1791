"""A scripted peer on loopback: the test says, byte by byte, what the other end does.

1. Nothing is added to what a handler sends, and nothing is lost of what the client sent.
2. A handler that meets the client's departure (`PeerLeft`) ends quietly; whatever else it raises
   is raised again when the context manager exits, and hides what the test body raised because of
   it.
3. Leaving the context leaves nothing behind: no socket, no task, no callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self, cast

Handler = Callable[["Peer"], Awaitable[None]]
"""What a connection does, from its acceptance to its end; it is closed when the handler returns."""

READ_AHEAD: Final = 64 * 1024
"""Bytes held unread before the client is no longer read from."""


class PeerLeft(EOFError):
    """The client closed or reset the connection while more was to be read or sent."""


class MalformedRequest(AssertionError):
    """The client sent what RFC 9112 does not allow."""


@dataclass
class RecordedRequest:
    """One request as it came over the wire.

    Attributes:
        raw_head: request line and header block with the empty line, exactly as received.
        method, target, version: the three parts of the request line; version is "HTTP/1.1".
        headers: (name, value) pairs in wire order, the case kept, decoded as Latin-1.
        body: the content, transfer coding removed.
        raw_body: the body exactly as received, chunk sizes and trailers included.
        chunks: the chunks of a chunked body, in order.
        trailers: (name, value) pairs after the last chunk.
    """

    raw_head: bytes
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    raw_body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        """The whole request, exactly as received."""
        return self.raw_head + self.raw_body

    def get_all(self, name: str) -> list[str]:
        """Every value of the field called `name` (case-insensitive), in wire order."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]

    def get(self, name: str) -> str | None:
        """The value of the field called `name`, None if absent.

        Raises MalformedRequest if it came more than once.
        """
        values = self.get_all(name)
        if len(values) > 1:
            raise MalformedRequest(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None


class _Changes:
    """Wakes every waiter at each change; each looks again at what it is waiting for."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def happened(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


class _Wire(asyncio.Protocol):
    """The bytes of one connection: what came and is unread, and whether more may be written."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.unread = bytearray()
        self.received = 0
        self.written = 0
        self.eof = False
        self.lost = False
        self.changes = _Changes()
        self._held = False
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.use(cast("asyncio.Transport", transport))

    def use(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        # "Written" means "taken by the kernel": back-pressure is measured by it. Not 0, by which
        # asyncio's TLS pauses for ever (it compares with >=).
        transport.set_write_buffer_limits(high=1)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        self.received += len(data)
        if len(self.unread) > READ_AHEAD and not self._held:
            self._held = True
            self.transport.pause_reading()
        self.changes.happened()

    def eof_received(self) -> bool:
        self.eof = True
        self.changes.happened()
        # True: the other direction stays open. TLS has no half-closed state.
        return self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof = self.lost = True
        self.changes.happened()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.changes.happened()

    async def more(self) -> bool:
        """Wait for more bytes; False when none will come."""
        if self._held:
            self._held = False
            self.transport.resume_reading()
        seen = self.received
        await self.changes.until(lambda: self.received > seen or self.eof)
        return self.received > seen

    async def write(self, data: bytes) -> None:
        if self.lost:
            raise PeerLeft("the connection is closed")
        self.written += len(data)
        self.transport.write(data)
        await self.changes.until(lambda: self.lost or not self._full)
        if self.lost and self._full:
            raise PeerLeft(f"client left with {self.unsent} bytes unsent")

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()


class Peer:
    """The server's end of one connection.

    Attributes:
        requests: requests whose head was read, in order.
        handshake_error: why the TLS handshake failed, None if it did not.
    """

    def __init__(self, server: ScriptedServer, sock: socket.socket) -> None:
        self.requests: list[RecordedRequest] = []
        self.handshake_error: Exception | None = None
        self.address: tuple[str, int] = sock.getpeername()[:2]
        self._server = server
        self._sock = sock
        self._wire = _Wire()
        self._started = False

    # -- what the client did

    @property
    def bytes_received(self) -> int:
        """Bytes that arrived, read by the handler or not."""
        return self._wire.received

    @property
    def bytes_sent(self) -> int:
        """Bytes that the kernel has taken from the handler."""
        return self._wire.written - self._wire.unsent

    @property
    def unread(self) -> bytes:
        """Bytes that arrived and were not read by the handler."""
        return bytes(self._wire.unread)

    @property
    def is_closed(self) -> bool:
        """Whether the client has closed its sending side, or the connection is gone."""
        return self._wire.eof

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS state of the connection; None without TLS."""
        return cast("ssl.SSLObject | None", self._wire.transport.get_extra_info("ssl_object"))

    async def read_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises PeerLeft when the client leaves before."""
        while len(self._wire.unread) < size:
            await self._more(f"wanted {size} bytes")
        return self._take(size)

    async def read_until(self, separator: bytes) -> bytes:
        """Return the bytes up to and with `separator`. Raises PeerLeft if it never comes."""
        start = 0
        while (at := self._wire.unread.find(separator, start)) < 0:
            start = max(0, len(self._wire.unread) - len(separator) + 1)
            await self._more(f"wanted {separator!r}")
        return self._take(at + len(separator))

    async def read_some(self) -> bytes:
        """Return what has come, at least a byte. Raises PeerLeft at the end."""
        if not self._wire.unread:
            await self._more("wanted a byte")
        return self._take(len(self._wire.unread))

    async def read_head(self) -> RecordedRequest:
        """Read a request up to its empty line; the body stays unread.

        Raises PeerLeft when the client leaves before, MalformedRequest for what is no request.
        """
        request = _parse_head(await self.read_until(b"\r\n\r\n"))
        self.requests.append(request)
        self._server._note(request)
        return request

    async def read_body(self, request: RecordedRequest) -> bytes:
        """Read the body of `request`, and return and record it.

        Raises PeerLeft when the client leaves before the end of it: what came until then is
        recorded. MalformedRequest for contradictory lengths or malformed chunks.
        """
        lengths = request.get_all("Content-Length")
        codings = request.get_all("Transfer-Encoding")
        if len(lengths) + len(codings) > 1:
            raise MalformedRequest(f"contradictory framing: {request.raw_head!r}")
        if codings:
            if codings != ["chunked"]:
                raise MalformedRequest(f"unknown transfer coding: {codings}")
            await self._read_chunks(request)
        elif lengths:
            if not (lengths[0].isascii() and lengths[0].isdigit()):
                raise MalformedRequest(f"malformed Content-Length: {lengths}")
            while missing := int(lengths[0]) - len(request.raw_body):
                if not self._wire.unread:
                    await self._more(f"{missing} bytes of the body missing")
                request.raw_body += self._take(min(missing, len(self._wire.unread)))
                request.body = request.raw_body
        return request.body

    async def read_request(self) -> RecordedRequest:
        """Read a whole request; see `read_head` and `read_body` for what it raises."""
        request = await self.read_head()
        await self.read_body(request)
        return request

    async def closed(self) -> None:
        """Wait until the client has closed or reset the connection; what it sends is dropped."""
        while not self._wire.eof:
            self._wire.unread.clear()
            await self._wire.more()

    # -- what it is to see

    async def send(self, data: bytes) -> None:
        """Send, and wait until the kernel has taken all. Raises PeerLeft if the client leaves."""
        await self._wire.write(data)

    async def send_slowly(self, data: bytes, chunk: int = 1, delay: float = 0.001) -> None:
        """Send `chunk` bytes at a time, `delay` seconds apart."""
        for start in range(0, len(data), chunk):
            await self.send(data[start : start + chunk])
            await asyncio.sleep(delay)

    async def start_tls(self, context: ssl.SSLContext, greeting: bytes = b"") -> None:
        """Send `greeting` in clear and go on in TLS, as the server of the handshake.

        What a proxy that plays its origin as well does after CONNECT. Raises ssl.SSLError,
        PeerLeft or another OSError when the handshake fails.
        """
        # Paused first: the client may answer the greeting before the handshake is set up.
        self._wire.transport.pause_reading()
        await self.send(greeting)
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._wire.transport, self._wire, context, server_side=True
            )
        except OSError as error:
            self.handshake_error = error
            raise
        if transport is None:
            raise PeerLeft("client left during the TLS handshake")
        self._wire.use(transport)

    def close(self) -> None:
        """Close in order, after all that was sent; with TLS, close_notify goes first."""
        self._wire.transport.close()

    def half_close(self) -> None:
        """Send a FIN and go on reading. TCP only: TLS has no such thing."""
        self._wire.transport.write_eof()

    def drop(self) -> None:
        """Close the socket at once; unsent bytes are dropped, and TLS says no goodbye."""
        self._wire.transport.abort()

    def reset(self) -> None:
        """Send a RST, and forget what the kernel has not sent yet."""
        sock = self._wire.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._wire.transport.abort()

    # -- inside

    async def _more(self, why: str) -> None:
        if not await self._wire.more():
            raise PeerLeft(f"client left: {why}, {bytes(self._wire.unread[:200])!r} unread")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._wire.unread[:size])
        del self._wire.unread[:size]
        return taken

    async def _read_chunks(self, request: RecordedRequest) -> None:
        while True:
            line = await self.read_until(b"\r\n")
            request.raw_body += line
            try:
                size = int(line[:-2], 16)
            except ValueError:
                raise MalformedRequest(f"malformed chunk size: {line!r}") from None
            if size == 0:
                break
            chunk = await self.read_exactly(size)
            end = await self.read_exactly(2)
            request.raw_body += chunk + end
            if end != b"\r\n":
                raise MalformedRequest(f"chunk of {size} bytes followed by {end!r}")
            request.chunks.append(chunk)
            request.body += chunk
        while (line := await self.read_until(b"\r\n")) != b"\r\n":
            request.raw_body += line
            request.trailers.append(_parse_field(line[:-2]))
        request.raw_body += line

    async def _run(self, handler: Handler, context: ssl.SSLContext | None) -> None:
        self._started = True
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._wire, self._sock, ssl=context)
        except OSError as error:
            self.handshake_error = error
            self._sock.close()
            return
        try:
            await handler(self)
        except PeerLeft:
            pass
        finally:
            self._wire.transport.close()

    def _abort(self) -> None:
        if hasattr(self._wire, "transport"):
            # A transport that ended while it sent its last does not take an abort any more.
            if not self._wire.lost:
                self._wire.transport.abort()
        elif not self._started:
            self._sock.close()  # nothing else knows it yet


class ScriptedServer:
    """A server whose every connection runs `handler`, between `async with` and its end.

    It listens from its construction on; who connects before `async with` waits for it.

    Arguments:
        handler: run once for each connection.
        ssl_context: server side context; None speaks plain TCP.
        host: the address to listen on; the port is free, or `port`.
        send_buffer, receive_buffer: size in bytes of the kernel's buffers for each connection
            (SO_SNDBUF, SO_RCVBUF; Linux doubles them); None leaves them to the kernel, which
            makes room for megabytes. Tests of back-pressure set them.

    Attributes:
        connections: one `Peer` for each connection accepted, in order, also when its TLS
            handshake fails.
        requests: the requests of all connections, in order of arrival.
    """

    def __init__(
        self,
        handler: Handler,
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        *,
        port: int = 0,
        send_buffer: int | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.host = host
        self.connections: list[Peer] = []
        self.requests: list[RecordedRequest] = []
        self._handler = handler
        self._context = ssl_context
        self._changes = _Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option, size in (
                (socket.SO_SNDBUF, send_buffer),
                (socket.SO_RCVBUF, receive_buffer),
            ):
                if size is not None:
                    # Inherited by the connections, and in time for the window of the handshake.
                    self._listener.setsockopt(socket.SOL_SOCKET, option, size)
            self._listener.bind((host, port))
            self._listener.listen(128)
            self.port: int = self._listener.getsockname()[1]
        except OSError:
            self._listener.close()
            raise

    @property
    def address(self) -> str:
        """``host:port``, as in a Host field."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(
        self,
        path: str = "/",
        scheme: str | None = None,
        host: str | None = None,
        userinfo: str | None = None,
    ) -> str:
        """Return a URL of this server; `host` is another name for it, without port."""
        authority = self.address if host is None else f"{host}:{self.port}"
        if userinfo is not None:
            authority = f"{userinfo}@{authority}"
        return f"{scheme or ('https' if self._context else 'http')}://{authority}{path}"

    async def accepted(self, count: int = 1) -> list[Peer]:
        """Wait until `count` connections have been accepted; return all there are."""
        await self._changes.until(lambda: len(self.connections) >= count)
        return self.connections

    async def requested(self, count: int = 1) -> list[RecordedRequest]:
        """Wait until the heads of `count` requests have been read; return all there are."""
        await self._changes.until(lambda: len(self.requests) >= count)
        return self.requests

    async def finished(self) -> None:
        """Wait until the handlers of all connections so far have ended."""
        await self._changes.until(lambda: not self._tasks)

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.connections:
            peer._abort()
        # Transports close their sockets in a callback of their own; give them their turn.
        async with asyncio.timeout(5):
            while any(p._sock.fileno() != -1 for p in self.connections):  # noqa: ASYNC110
                await asyncio.sleep(0)
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise BaseExceptionGroup("several handlers failed", self._errors)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # gone again before we looked
        sock.setblocking(False)
        try:
            peer = Peer(self, sock)
        except OSError:
            sock.close()
            return
        self.connections.append(peer)
        task = asyncio.ensure_future(peer._run(self._handler, self._context))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._changes.happened()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changes.happened()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    def _note(self, request: RecordedRequest) -> None:
        self.requests.append(request)
        self._changes.happened()


# -- parsing

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([^\s]+) ([^\s]+) (HTTP/[0-9]\.[0-9])")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def _parse_head(raw: bytes) -> RecordedRequest:
    """Strict: a test must not pass because its server is forgiving."""
    request_line, *lines = raw[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        raise MalformedRequest(f"malformed request line: {request_line!r}")
    method, target, version = (part.decode("latin-1") for part in match.groups())
    return RecordedRequest(raw, method, target, version, [_parse_field(line) for line in lines])


def _parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise MalformedRequest(f"malformed header line: {line!r}")
    return name.decode("ascii"), value.strip(b" \t").decode("latin-1")


# -- handlers


def respond(*responses: bytes, then: Literal["wait", "close", "reset"] = "wait") -> Handler:
    """Answer the successive requests of each connection with `responses`, one for each.

    After the last one wait for the client to close, where another request is an error; or close;
    or reset.
    """

    async def handler(peer: Peer) -> None:
        for response in responses:
            await peer.read_request()
            await peer.send(response)
        if then == "wait":
            request = await peer.read_head()
            raise AssertionError(f"nothing is scripted for {request.method} {request.target}")
        if then == "reset":
            peer.reset()

    return handler


def canned(response: bytes) -> Handler:
    """Answer every request of every connection with `response`."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(response)

    return handler


def routes(table: Mapping[str, bytes | Callable[[RecordedRequest], bytes]]) -> Handler:
    """Answer every request by its target: with bytes, or what a function makes of the request."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target not in table:
                raise AssertionError(f"nothing is scripted for {request.method} {request.target}")
            answer = table[request.target]
            await peer.send(answer if isinstance(answer, bytes) else answer(request))

    return handler


async def silent(peer: Peer) -> None:
    """Read what comes and never answer."""
    await peer.closed()


# -- responses


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a response: `status` is ``"404 Not Found"``, each header ``"Name: value"``.

    Content-Length is added, unless a header says how the body is framed; 1xx, 204 and 304 get
    none.
    """
    framed = any(h.lower().startswith(("content-length:", "transfer-encoding:")) for h in headers)
    bodiless = status[:1] == "1" or status[:3] in ("204", "304")
    lines = [f"HTTP/1.1 {status}", *headers]
    if not framed and not bodiless:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def ok(body: bytes = b"ok", *headers: str) -> bytes:
    """Return a 200 with `body`; see `reply`."""
    return reply("200 OK", body, *headers)


def redirect(location: str, status: str = "302 Found", *headers: str) -> bytes:
    """Return a redirect to `location`."""
    return reply(status, b"", f"Location: {location}", *headers)


def chunk(piece: bytes) -> bytes:
    """Return one chunk (RFC 9112 section 7.1); an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def chunked(*pieces: bytes) -> bytes:
    """Return a whole chunked body, one chunk for each piece."""
    return b"".join(map(chunk, pieces)) + chunk(b"")


# -- ports that do not answer


def silent_server(ssl_context: ssl.SSLContext | None = None) -> ScriptedServer:
    """Return a server that accepts and never answers; with TLS, the handshake still succeeds."""
    return ScriptedServer(silent, ssl_context)


@contextlib.contextmanager
def unaccepting_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port to which connecting hangs: it listens, and its accept queue is full.

    Raises RuntimeError where the kernel does not let a connect hang (known to work on Linux).
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(16):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            # On loopback a connect that is not done by then is one that hangs.
            if not select.select([], [client], [], 0.05)[1]:
                break
        else:
            raise RuntimeError("this kernel accepts connections beyond the backlog")
        yield listener.getsockname()[1]


@contextlib.contextmanager
def refused_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as holder:
        holder.bind((host, 0))
        yield holder.getsockname()[1]
