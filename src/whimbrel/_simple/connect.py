"""From a route to a connection that a request can be sent on.

The name is looked up, a socket connected, the proxy asked for a tunnel, TLS put on top. Whatever
fails becomes the error that the curl backend would raise, with the same words before the colon;
whatever is cancelled leaves nothing open.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import NamedTuple

from whimbrel._policy.exchange import Exchange
from whimbrel._readiness import Watcher
from whimbrel._simple.digest import DigestState
from whimbrel._simple.race import InterfaceError, open_socket
from whimbrel._simple.resolve import Addresses, Resolver, literal
from whimbrel._simple.route import Progress, Route, route_of
from whimbrel._simple.sessions import Sessions
from whimbrel._simple.sockets import Socket
from whimbrel._simple.socks import Handshake, handshake
from whimbrel._simple.tls import context_for, ready, reason_of, tls_error, wrap
from whimbrel._simple.tunnel import Reconnect, TunnelReply, open_tunnel, proxy_digest
from whimbrel.httpclient import (
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPProxyError,
    HTTPResolveError,
    HTTPTLSError,
)
from whimbrel.iostream import IOStream, SSLIOStream

__all__ = ["Connected", "Progress", "Route", "connect", "open_socket", "route_of"]

_BUSY_SECONDS = 0.01
"""Between two attempts at a Unix socket whose queue is full: no event tells when it is not."""


class Connected(NamedTuple):
    """A connection that stands."""

    stream: IOStream
    """An SSLIOStream where the last hop is TLS; idle, and without unread bytes but the peer's."""
    proxy_code: int | None
    """The proxy's status for CONNECT; None without one."""
    proxy_lines: list[bytes]
    """The raw lines of that answer, status line first; [] without one."""
    remote_address: tuple[str, int] | None
    """Of the TCP connection, so the proxy's if there is one; None for a Unix socket."""
    local_address: tuple[str, int] | None


async def connect(
    route: Route,
    exchange: Exchange,
    resolver: Resolver,
    progress: Progress,
    watcher: Watcher | None = None,
    sessions: Sessions | None = None,
) -> Connected:
    """Make a connection over `route`, for `exchange` first.

    `progress` is kept up to date. Time is for the caller to bound, by cancelling. `watcher` tells
    when the socket is ready, then and later; None is the loop. TLS with the origin resumes one of
    `sessions`.

    Raises an HTTPError of code 599, the cause chained, or ValueError for a context of a server.
    """
    proxy = route.proxy
    try:
        # First, for a file that cannot be read needs no connection to fail.
        contexts = _contexts(route)
        digest = None if proxy is None else proxy_digest(proxy)
        while True:
            try:
                return await _connect(
                    route, contexts, exchange, resolver, progress, watcher, sessions, digest
                )
            except Reconnect as again:
                digest = again.digest
                progress.stage = "proxy-connect"
            except _SessionRefused:
                progress.stage = "dns" if proxy is None else "proxy-connect"
    except HTTPError as error:
        if proxy is not None:
            error.proxy = proxy.url
            if error.proxy_code is None:
                error.proxy_code = progress.proxy_code
        raise
    except OSError as error:  # the system denied something in between
        raise _unreachable(error, route, exchange) from error


class _SessionRefused(Exception):
    """A handshake failed that offered a session; without one it may succeed."""


class _Contexts(NamedTuple):
    origin: ssl.SSLContext | None
    proxy: ssl.SSLContext | None


def _contexts(route: Route) -> _Contexts:
    proxy_context = None
    if route.proxy_tls is not None:
        try:
            proxy_context = context_for(route.proxy_tls, "proxy_ssl")
        except HTTPTLSError as error:
            error.stage = "proxy-connect"
            raise
    return _Contexts(None if route.tls is None else context_for(route.tls), proxy_context)


async def _connect(
    route: Route,
    contexts: _Contexts,
    exchange: Exchange,
    resolver: Resolver,
    progress: Progress,
    watcher: Watcher | None,
    sessions: Sessions | None,
    digest: DigestState | None,
) -> Connected:
    proxy = route.proxy
    sock, remote = await _reach(route, exchange, resolver, progress, watcher)
    stream: IOStream | None = None
    reply: TunnelReply | None = None
    try:
        local = sock.getsockname()[:2] if remote is not None else None
        progress.connect = progress.elapsed()
        if proxy is not None:
            progress.stage = "tunnel"
            if proxy.is_socks:
                address = await _address_for_proxy(route, exchange, resolver)
                host, port = _destination(route)
                await run_handshake(sock, handshake(proxy, host, port, address))
            elif contexts.proxy is not None:
                stream = await _secure(
                    sock,
                    watcher,
                    contexts.proxy,
                    proxy.host,
                    proxy.url,
                    "proxy-connect",
                    "proxy_ssl",
                )
            if route.is_tunnel:
                stream = stream or IOStream(sock, watcher=watcher)
                reply = await open_tunnel(stream, route, exchange, progress, digest)
                sock = stream.release()
        if contexts.origin is not None:
            progress.stage = "tls"
            session = None if sessions is None else sessions.get(route, contexts.origin)
            try:
                stream = await _secure(
                    sock,
                    watcher,
                    contexts.origin,
                    route.host,
                    exchange.url.netloc,
                    "tls",
                    "ssl_options",
                    session,
                )
            except BaseException as error:
                if session is None or sessions is None:
                    raise
                sessions.refuse(route)
                if not isinstance(error, OSError):
                    raise  # cancelled, perhaps because nothing came back
                raise _SessionRefused from error
            progress.appconnect = progress.elapsed()
        return Connected(
            stream or IOStream(sock, watcher=watcher),
            None if reply is None else reply.code,
            [] if reply is None else reply.lines,
            remote,
            local,
        )
    except BaseException:
        if stream is not None:
            stream.close()
        sock.close()
        raise


# -- the first hop


async def _reach(
    route: Route,
    exchange: Exchange,
    resolver: Resolver,
    progress: Progress,
    watcher: Watcher | None,
) -> tuple[socket.socket, tuple[str, int] | None]:
    """Connect to the origin or the proxy; return the socket and the address at its other end."""
    if route.unix_socket is not None:
        progress.namelookup = progress.elapsed()
        progress.stage = "connect"
        try:
            return await _open_unix_socket(route.unix_socket), None
        except OSError as error:
            raise _unreachable(error, route, exchange) from error
    proxy = route.proxy
    try:
        if proxy is None:
            addresses = await _look_up(route, resolver)
            _, port = _destination(route)
            progress.stage = "connect"
        else:
            addresses = await resolver.resolve(proxy.host, allow_ipv6=route.allow_ipv6)
            port = proxy.port
    except socket.gaierror as error:
        raise _unresolved(error, route, exchange) from error
    progress.namelookup = progress.elapsed()
    try:
        sock, address = await open_socket(addresses, port, route.network_interface, watcher=watcher)
    except OSError as error:
        raise _unreachable(error, route, exchange, addresses) from error
    return sock, (address.host, port)


def _destination(route: Route) -> tuple[str, int]:
    """Host and port that stand for the origin."""
    return route.connect_to or (route.host, route.port)


async def _look_up(
    route: Route, resolver: Resolver, *, allow_ipv6: bool | None = None
) -> Addresses:
    """The addresses of the origin. Raises socket.gaierror."""
    if allow_ipv6 is None:
        allow_ipv6 = route.allow_ipv6
    if not route.addresses:
        return await resolver.resolve(_destination(route)[0], allow_ipv6=allow_ipv6)
    found = tuple(address for text in route.addresses if (address := literal(text)) is not None)
    usable = tuple(address for address in found if allow_ipv6 or address.family == socket.AF_INET)
    if not usable:
        raise socket.gaierror(socket.EAI_NONAME, "the resolver gave no address that can be used")
    return usable


async def _open_unix_socket(path: str) -> socket.socket:
    sock = Socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_BUSY_SECONDS)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _unresolved(error: socket.gaierror, route: Route, exchange: Exchange) -> HTTPError:
    proxy = route.proxy
    if proxy is not None:
        return HTTPProxyError(
            f"the name of proxy {proxy.url} has no address: {reason_of(error)}",
            stage="proxy-connect",
            retryable=True,
        )
    return _origin_unresolved(error, exchange)


def _origin_unresolved(error: socket.gaierror, exchange: Exchange) -> HTTPResolveError:
    failure = HTTPResolveError(
        f"the name {exchange.url.host} has no address: {reason_of(error)}",
        stage="dns",
        retryable=True,
    )
    failure.errno = error.errno
    return failure


def _unreachable(
    error: OSError, route: Route, exchange: Exchange, tried: Addresses = ()
) -> HTTPError:
    """What the failure of a socket amounts to."""
    proxy, netloc = route.proxy, exchange.url.netloc
    reason = reason_of(error)
    where = "" if route.unix_socket is None else f": unix_socket {route.unix_socket}"
    failure: HTTPError
    if isinstance(error, InterfaceError):
        failure = HTTPConnectError(
            f"network_interface {route.network_interface!r} cannot be used: {reason}",
            stage="connect",
            retryable=False,
        )
    elif proxy is not None:
        failure = HTTPProxyError(
            f"{reason}: proxy {proxy.url}", stage="proxy-connect", retryable=True
        )
    elif error.errno == errno.ECONNREFUSED:
        if len(tried) > 1:
            where = f": {', '.join(address.host for address in tried)}"
        failure = HTTPConnectionRefusedError(
            f"Connection refused by {netloc}{where}", stage="connect", retryable=True
        )
    else:
        failure = HTTPConnectError(
            f"cannot connect to {netloc}: {reason}{where}", stage="connect", retryable=True
        )
    failure.errno = error.errno
    if proxy is not None:
        failure.proxy = proxy.url
    return failure


# -- through a proxy


async def _address_for_proxy(route: Route, exchange: Exchange, resolver: Resolver) -> str | None:
    """The origin's address for a proxy that wants it from us; None if it has none for SOCKS4."""
    assert route.proxy is not None
    if route.proxy.scheme not in ("socks4", "socks5"):
        return None
    if route.proxy.scheme == "socks4" and ":" in _destination(route)[0]:
        return None
    try:
        addresses = await _look_up(
            route, resolver, allow_ipv6=route.allow_ipv6 and route.proxy.scheme == "socks5"
        )
    except socket.gaierror as error:
        raise _origin_unresolved(error, exchange) from error
    return addresses[0].host


async def run_handshake(sock: socket.socket, steps: Handshake) -> None:
    """Carry out a SOCKS handshake on a connected socket; nothing beyond it is read.

    Raises what the handshake does: HTTPProxyError.
    """
    try:
        wish = next(steps)
        while True:
            try:
                answer = await _exchange(sock, wish)
            except OSError as error:
                wish = steps.throw(EOFError(reason_of(error)))
            else:
                wish = steps.send(answer)
    except StopIteration:
        return


async def _exchange(sock: socket.socket, wish: bytes | int) -> bytes:
    """Send the bytes, or receive that many. Raises EOFError or another OSError."""
    if isinstance(wish, bytes):
        while wish:
            try:
                wish = wish[sock.send(wish) :]
            except BlockingIOError:
                await ready(sock.fileno(), write=True)
        return b""
    received = b""
    while len(received) < wish:
        try:
            data = sock.recv(wish - len(received))
        except BlockingIOError:
            await ready(sock.fileno(), write=False)
            continue
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        received += data
    return received


# -- TLS


async def _secure(
    sock: socket.socket,
    watcher: Watcher | None,
    context: ssl.SSLContext,
    host: str,
    peer: str,
    stage: str,
    field: str,
    session: ssl.SSLSession | None = None,
) -> SSLIOStream:
    """Put TLS on a connection to `host`, which messages call `peer`."""
    try:
        stream = SSLIOStream(wrap(sock, context, host, session), watcher=watcher)
    except (OSError, ValueError) as error:
        raise tls_error(error, peer, stage) from error
    try:
        await stream.wait_for_handshake()
        chosen = stream.socket.selected_alpn_protocol()  # type: ignore[attr-defined]
        if chosen not in (None, "http/1.1"):
            raise HTTPTLSError(
                f"TLS with {peer} settled on {chosen!r}, and this backend speaks HTTP/1.1: let"
                f" {field} offer no other protocol, or use the curl backend",
                stage=stage,
            )
    except BaseException as error:
        stream.close()
        if isinstance(error, OSError) and not isinstance(error, HTTPError):
            raise tls_error(error, peer, stage) from error
        raise
    return stream
