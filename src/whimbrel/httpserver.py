"""An HTTP/1.1 server: sockets are listened on, and each connection's requests handed to a program.

The program is a :class:`whimbrel.web.Application`, any other
:class:`~whimbrel.httputil.HTTPServerConnectionDelegate`, or a function that is called with each
request. Everything runs on one event loop, in one process.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

from whimbrel._web.listening import Listener, bind_sockets
from whimbrel.http1connection import (
    HTTP1Connection,
    HTTP1ConnectionParameters,
    HTTP1ServerConnection,
)
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
from whimbrel.iostream import IOStream, SSLIOStream, ssl_options_to_context

app_log = logging.getLogger("whimbrel.application")

_Callback = Callable[[HTTPServerRequest], object]

_DEFAULT_IDLE_TIMEOUT = 3600.0  # seconds, as in Tornado


class HTTPServer(HTTPServerConnectionDelegate):
    """A server for HTTP/1.1 and HTTP/1.0, over TCP, TLS or unix sockets.

    :param request_callback: an ``Application`` or another delegate, or a function (plain or
        coroutine) that is called with each :class:`~whimbrel.httputil.HTTPServerRequest`, whose
        body is there by then, and answers by its ``connection``. What it returns is awaited, if it
        can be.
    :param no_keep_alive: close each connection after one request.
    :param xheaders: take the client's address and scheme from ``X-Real-Ip`` or ``X-Forwarded-For``
        and ``X-Scheme`` or ``X-Forwarded-Proto``. Only behind a proxy that sets them: everybody
        else could lie.
    :param trusted_downstream: addresses of proxies, to be passed over in ``X-Forwarded-For``.
    :param ssl_options: an ``ssl.SSLContext``, or a dict of ``certfile`` and, as far as wanted,
        ``keyfile``, ``ca_certs``, ``cert_reqs`` and ``ciphers``. None: no TLS.
    :param protocol: ``"http"`` or ``"https"``, as the client sees it, where a proxy ends TLS. None:
        as the connection is.
    :param decompress_request: decode bodies with a ``Content-Encoding`` of gzip or deflate, and
        of br where a brotli module is there.
    :param chunk_size: bytes of a body that are passed on at once (64 KiB).
    :param max_header_size: bytes of a request's header block (64 KiB); a larger one is refused.
    :param max_body_size: bytes of a body, decoded ones too; a larger one is refused. None:
        `max_buffer_size`.
    :param max_buffer_size: bytes that are held of one connection at most (100 MiB).
    :param idle_connection_timeout: seconds that a connection may wait for its next request (3600;
        0: no limit).
    :param header_timeout: seconds for a header block to arrive, counted from its first byte, for
        a TLS handshake, and for the first request to begin (60; 0: no limit).
    :param body_timeout: seconds for a whole body to arrive. None or 0: no limit.

    Raises ``KeyError`` for a dict of TLS options without ``certfile``, ``OSError`` for files that
    cannot be read, ``ValueError`` for other options.
    """

    def __init__(
        self,
        request_callback: HTTPServerConnectionDelegate | _Callback,
        no_keep_alive: bool = False,
        xheaders: bool = False,
        ssl_options: Mapping[str, Any] | ssl.SSLContext | None = None,
        protocol: str | None = None,
        decompress_request: bool = False,
        chunk_size: int | None = None,
        max_header_size: int | None = None,
        idle_connection_timeout: float | None = None,
        body_timeout: float | None = None,
        max_body_size: int | None = None,
        max_buffer_size: int | None = None,
        trusted_downstream: Iterable[str] | None = None,
        header_timeout: float = 60.0,
    ) -> None:
        self._delegate: HTTPServerConnectionDelegate
        if isinstance(request_callback, HTTPServerConnectionDelegate):
            self._delegate = request_callback
        else:
            self._delegate = _CallableDelegate(request_callback)
        self._xheaders = xheaders
        if isinstance(ssl_options, Mapping) and "certfile" not in ssl_options:
            raise KeyError('missing key "certfile" in ssl_options')
        self._tls = None if ssl_options is None else ssl_options_to_context(ssl_options, True)
        if protocol not in (None, "http", "https"):
            raise ValueError(f"protocol {protocol!r} is neither http nor https")
        self._protocol = protocol or ("http" if self._tls is None else "https")
        self._trusted = frozenset(trusted_downstream or ())
        self._max_buffer_size = max_buffer_size
        self._chunk_size = chunk_size
        self._parameters = HTTP1ConnectionParameters(
            no_keep_alive=no_keep_alive,
            chunk_size=chunk_size,
            max_header_size=max_header_size,
            header_timeout=header_timeout,
            max_body_size=max_body_size,
            body_timeout=body_timeout,
            decompress=decompress_request,
            idle_timeout=(
                _DEFAULT_IDLE_TIMEOUT
                if idle_connection_timeout is None
                else idle_connection_timeout
            ),
        )
        self._listeners: list[Listener] = []
        self._bound: list[socket.socket] = []  # by bind(), until start()
        self._connections: set[HTTP1ServerConnection] = set()
        self._one_closed = asyncio.Event()

    # -- listening

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets that are listened on."""
        return [listener.socket for listener in self._listeners]

    @property
    def port(self) -> int:
        """The port that is listened on; with :meth:`listen` on port 0, the one that was found.

        Raises ``RuntimeError`` if no TCP port is.
        """
        for sock in self.sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                port: int = sock.getsockname()[1]
                return port
        raise RuntimeError("the server listens on no port")

    def listen(
        self,
        port: int,
        address: str | None = None,
        family: socket.AddressFamily = socket.AF_UNSPEC,
        backlog: int = 128,
        reuse_port: bool = False,
    ) -> None:
        """Listen on `port`, and serve when the loop runs; may be called for several ports.

        `address` is an IP address or a name that stands for several; None or ``""`` is every
        interface, by IPv4 and IPv6. Port 0 is a free one. `family` restricts to ``AF_INET`` or
        ``AF_INET6``; `backlog` connections may wait to be accepted; `reuse_port` lets other
        processes listen on the port too.

        The loop is the running one, else the thread's current one. Raises ``OSError`` if the port
        is taken.
        """
        self.add_sockets(bind_sockets(port, address, family, backlog, reuse_port))

    def bind(
        self,
        port: int,
        address: str | None = None,
        family: socket.AddressFamily = socket.AF_UNSPEC,
        backlog: int = 128,
        reuse_port: bool = False,
    ) -> None:
        """Bind as :meth:`listen` does, but accept connections from :meth:`start` on only."""
        self._bound += bind_sockets(port, address, family, backlog, reuse_port)

    def start(self, num_processes: int | None = 1) -> None:
        """Serve on what :meth:`bind` has bound.

        Raises ``ValueError`` for more processes than one: this server does not fork.
        """
        if num_processes != 1:
            raise ValueError("whimbrel's server runs in one process: start(1)")
        sockets, self._bound = self._bound, []
        self.add_sockets(sockets)

    def add_socket(self, sock: socket.socket) -> None:
        """Serve on a socket that listens already; it belongs to the server from now on."""
        self.add_sockets([sock])

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on sockets that listen already, such as unix sockets."""
        loop = IOLoop.current().asyncio_loop
        self._listeners += [Listener(loop, sock, self._accepted) for sock in sockets]

    def stop(self) -> None:
        """Stop listening; connections that are open go on. May be called outside of the loop."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        bound, self._bound = self._bound, []
        for sock in bound:
            sock.close()

    # -- connections

    def _accepted(self, connection: socket.socket, address: Any) -> None:
        is_ip = connection.family in (socket.AF_INET, socket.AF_INET6)
        context = _Context(address[0] if is_ip else None, address, self._protocol)
        stream: IOStream
        if self._tls is None:
            stream = IOStream(connection, self._max_buffer_size, self._chunk_size)
        else:
            try:
                # Of a connection that is reset already wrap_socket() would lose the descriptor.
                connection.getpeername()
                connection = self._tls.wrap_socket(
                    connection,
                    server_side=True,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
            except OSError:
                connection.close()
                return
            stream = SSLIOStream(connection, self._max_buffer_size, self._chunk_size)
        served = HTTP1ServerConnection(stream, self._parameters, context)
        self._connections.add(served)
        served.start_serving(self)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Called by a connection for each request; returns the program's delegate for it."""
        request = cast("HTTP1Connection", request_conn)
        delegate = self._delegate.start_request(server_conn, request_conn)
        if self._xheaders:
            return _Proxied(delegate, request.context, self._trusted)
        return delegate

    def on_close(self, server_conn: object) -> None:
        """Called by a connection that has been closed."""
        self._connections.discard(cast("HTTP1ServerConnection", server_conn))
        self._one_closed.set()
        self._delegate.on_close(server_conn)

    async def close_all_connections(self, timeout: float | None = 10.0) -> None:
        """Close the connections, each when the response under way on it is finished.

        After `timeout` seconds (None: never; 0: at once) those that are left are closed in the
        middle of it. Call :meth:`stop` first, or there will be new ones.
        """
        for connection in list(self._connections):
            connection.wind_up()
        try:
            async with asyncio.timeout(timeout):
                while self._connections:
                    self._one_closed.clear()
                    await self._one_closed.wait()
        except TimeoutError:
            pass
        for connection in list(self._connections):
            await connection.close()


class _Context:
    """What is known of a connection's client; requests take it from here.

    Attributes:
        remote_ip: the client's IP address; None on unix sockets.
        address: as the system gave it.
        protocol: ``"http"`` or ``"https"``.
    """

    __slots__ = ("address", "protocol", "remote_ip")

    def __init__(self, remote_ip: str | None, address: Any, protocol: str) -> None:
        self.remote_ip = remote_ip
        self.address = address
        self.protocol = protocol

    def __str__(self) -> str:
        return self.remote_ip or "unix socket"


class _Proxied(HTTPMessageDelegate):
    """Has the context tell, for one request, what the proxy's headers say."""

    def __init__(
        self, delegate: HTTPMessageDelegate, context: _Context, trusted: frozenset[str]
    ) -> None:
        self._delegate = delegate
        self._context = context
        self._trusted = trusted
        self._own = context.remote_ip, context.protocol
        self.data_received = delegate.data_received  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        context = self._context
        address = headers.get("X-Real-Ip") or self._forwarded_for(headers)
        if address is not None and _is_ip_address(address):
            context.remote_ip = address
        scheme = headers.get("X-Scheme") or headers.get("X-Forwarded-Proto") or ""
        scheme = scheme.rpartition(",")[2].strip()  # of several proxies, the last
        if scheme in ("http", "https"):
            context.protocol = scheme
        return self._delegate.headers_received(start_line, headers)

    def _forwarded_for(self, headers: HTTPHeaders) -> str | None:
        """The last address that is not of a trusted proxy: what stands before it may be a lie."""
        address = None
        for part in reversed(headers.get("X-Forwarded-For", "").split(",")):
            address = part.strip()
            if address not in self._trusted:
                break
        return address

    def finish(self) -> None:
        self._delegate.finish()
        self._restore()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()
        self._restore()

    def _restore(self) -> None:
        self._context.remote_ip, self._context.protocol = self._own


# ZoneID (RFC 6874 section 2), which ipaddress takes to be any text.
_ZONE = re.compile(r"[0-9A-Za-z._~-]+")


def _is_ip_address(text: str) -> bool:
    zone = text.partition("%")[2]
    if zone and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _CallableDelegate(HTTPServerConnectionDelegate):
    """Calls a function with each whole request."""

    def __init__(self, callback: _Callback) -> None:
        self.callback = callback
        self.tasks: set[asyncio.Future[None]] = set()

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        return _CallableMessage(self, server_conn, request_conn)


class _CallableMessage(HTTPMessageDelegate):
    def __init__(
        self, owner: _CallableDelegate, server_conn: object, request_conn: HTTPConnection
    ) -> None:
        self._owner = owner
        self._server_connection = server_conn
        self._connection = request_conn
        self._chunks: list[bytes] = []

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._request = HTTPServerRequest(
            connection=self._connection,
            server_connection=self._server_connection,
            start_line=cast("RequestStartLine", start_line),
            headers=headers,
        )
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._chunks.append(chunk)
        return None

    def finish(self) -> None:
        request = self._request
        request.body = b"".join(self._chunks)
        _ = request.arguments  # a malformed form is the connection's to refuse
        waiting = self._owner.callback(request)
        if inspect.isawaitable(waiting):
            task = asyncio.ensure_future(waiting)
            self._owner.tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._owner.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            app_log.error("Uncaught exception\n%r", self._request, exc_info=error)
            cast("HTTP1Connection", self._connection).close()
