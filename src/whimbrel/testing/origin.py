"""A small HTTP/1.1 origin on loopback, for demos and tests.

    async with OriginServer() as origin:
        response = await client.fetch(origin.url("/hello"))

| path           | answer                                                                      |
|----------------|-----------------------------------------------------------------------------|
| /, /hello      | a line of text                                                              |
| /echo          | JSON: method, target, version, headers (pairs), body (Latin-1)              |
| /headers       | JSON: the header fields as pairs, names in Http-Header-Case                 |
| /bytes/N       | N bytes of `pattern`, with Content-Length                                   |
| /stream/N/C    | N bytes of `pattern`, chunked, C bytes a chunk; without /C 16,384           |
| /gzip          | JSON like /headers, Content-Encoding: gzip                                  |
| /redirect/N    | N redirects in a row, then /hello; ?status=307 (302) chooses their status   |
| /status/N      | status N (200 to 599) with its reason phrase as the body                    |
| /slow/S        | like /hello, S seconds late (at most 60)                                    |
| /basic         | 200 for alice:secret, else 401 Basic                                        |
| /digest/A      | 200 for alice:secret, else 401 Digest; A: md5, sha-256; without /A both     |
| /cookies       | JSON: the cookies received                                                  |
| /cookies/set   | Set-Cookie for every pair of the query, 302 to /cookies                     |

Anything else is 404. `routes` adds paths, or replaces these. It runs on `whimbrel.httpserver`,
which answers what is malformed, or over a limit, with 400.
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import logging
import socket
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from ssl import SSLContext
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from whimbrel.http1connection import HTTP1Connection, HTTP1ServerConnection
from whimbrel.httpserver import HTTPServer
from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.testing._auth import DigestGuard, basic_matches
from whimbrel.testing._channel import PIECE, reason_phrase
from whimbrel.testing._server import Fields, Limits, LoopbackServer, Refusal, RequestHead

log = logging.getLogger("whimbrel.testing")

USERNAME: Final = "alice"
PASSWORD: Final = "secret"
REALM: Final = "whimbrel"

_PATTERN: Final = bytes(range(251)) * 523
_MAX_BODY: Final = 1 << 32
_MAX_SLOW_SECONDS: Final = 60.0
_MAX_REDIRECTS: Final = 100


def pattern(size: int, offset: int = 0) -> bytes:
    """The `size` bytes that /bytes and /stream send from `offset` on: byte i is i modulo 251.

    251 is a prime, so a buffer of a round size that is lost, doubled or swapped shows.
    """
    start = offset % 251
    if start + size <= len(_PATTERN):
        return _PATTERN[start : start + size]
    return (_PATTERN * ((start + size) // len(_PATTERN) + 1))[start : start + size]


@dataclass(frozen=True)
class Request:
    """What a handler is given.

    Attributes:
        head: start line and header fields.
        path: the target's path, undecoded.
        arguments: the path's segments after the route, undecoded ("/bytes/10" gives ("10",)).
        query: the query's pairs, decoded.
        body: the whole body.
    """

    head: RequestHead
    path: str
    arguments: tuple[str, ...]
    query: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What a handler answers.

    Attributes:
        status: 200 to 599.
        body: bytes, or an async iterable of bytes that is sent as it comes.
        headers: further fields. Framing, Date and Connection are the server's business.
        reason: the reason phrase; None takes the registered one.
        length: Content-Length of an iterable; None sends it chunked.
    """

    status: int = 200
    body: bytes | AsyncIterable[bytes] = b""
    headers: Fields = field(default=())
    reason: str | None = None
    length: int | None = None


Handler = Callable[[Request], Reply | Awaitable[Reply]]
"""Makes the reply to a request: a function, or a coroutine function."""


class OriginServer(LoopbackServer):
    """The origin described in this module's docstring.

    Args:
        ssl_context: a server-side context for https; None speaks http. `localhost_context()` of
            `whimbrel.testing` makes one.
        routes: handlers by first path segment ("/hello"), over and above the built-in ones. A
            handler, a function or a coroutine function, gets a `Request` and returns a `Reply`:
            ``lambda request: Reply(200, request.body)``. What it raises is logged and answered
            with 500.
        limits: see `Limits`.
        port: the TCP port to listen on; 0 is a free one.

    Raises:
        ValueError: a route's path is not a slash and one segment.
    """

    def __init__(
        self,
        ssl_context: SSLContext | None = None,
        *,
        routes: Mapping[str, Handler] | None = None,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(ssl_context=ssl_context, limits=limits, port=port)
        for path in routes or ():
            if not path.startswith("/") or "/" in path[1:]:
                raise ValueError(
                    f'a route is "/" and one path segment, like "/hello", not {path!r}'
                )
        seconds = self.limits.request_time
        self._server = HTTPServer(
            _Requests(self),
            ssl_options=ssl_context,
            max_header_size=self.limits.head,
            max_body_size=self.limits.body,
            header_timeout=seconds,
            body_timeout=seconds,
            idle_connection_timeout=seconds,
        )
        self._numbers: dict[Any, int] = {}  # of the open connections, by the clients' addresses
        self._tasks: set[asyncio.Task[None]] = set()
        self._digest = DigestGuard(REALM, USERNAME, PASSWORD)
        self._routes: dict[str, Handler] = {
            "/": _hello,
            "/hello": _hello,
            "/echo": _echo,
            "/headers": _headers,
            "/bytes": _bytes,
            "/stream": _stream,
            "/gzip": _gzip,
            "/redirect": _redirect,
            "/status": _status,
            "/slow": _slow,
            "/basic": _basic,
            "/digest": self._digest_protected,
            "/cookies": _cookies,
            **(routes or {}),
        }

    def url(self, path: str = "/", host: str | None = None) -> str:
        """The URL of `path` on this server.

        Args:
            path: with its leading slash, and a query if wanted.
            host: how to name the server; None is the attribute `host`.
        """
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    async def _close(self) -> None:
        await super()._close()
        await self._server.close_all_connections(timeout=0)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _adopt(self, sock: socket.socket, address: Any, number: int) -> None:
        self._numbers[address] = number
        try:
            self._server._accepted(sock, address)
        except OSError as error:  # it has left already
            log.debug("OriginServer: no connection: %s", error)
            sock.close()
            self._lost(address)

    def _lost(self, address: Any) -> None:
        """The connection with the client at this address has ended."""
        if self._numbers.pop(address, None) is not None:
            self._gone()

    def _take(
        self, head: RequestHead, body: bytes, address: Any, connection: HTTP1Connection
    ) -> None:
        """Answer a request that is whole; a client that leaves ends its handler."""
        self._record(head, self._numbers.get(address, 0), body, len(body))
        task = asyncio.create_task(self._respond(head, body, connection))
        connection.set_close_callback(task.cancel)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, head: RequestHead, body: bytes, connection: HTTP1Connection) -> None:
        try:
            await _send(connection, head, await self._answer(head, body))
        except OSError:
            connection.close()  # the client has left, or the body of the reply broke off
        except Exception:
            log.exception("the reply to %s failed", head.target)
            connection.close()

    async def _answer(self, head: RequestHead, body: bytes) -> Reply:
        try:
            # Absolute-form is legal from any client (RFC 9112 section 3.2.2).
            parts = urlsplit(head.target)
            query = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            return Reply(400, b"malformed target\n", _TEXT)
        first, *rest = parts.path.lstrip("/").split("/")
        handler = self._routes.get(f"/{first}")
        if handler is None:
            return Reply(404, b"no such path\n", _TEXT)
        try:
            made = handler(Request(head, parts.path, tuple(rest), query, body))
            made = await made if inspect.isawaitable(made) else made
            if not isinstance(made, Reply):
                raise TypeError(f"a handler returns a Reply, not {made!r}")
            return made
        except Refusal as error:
            return Reply(error.status, f"{error}\n".encode(), _TEXT)
        except Exception:
            log.exception("the handler of /%s failed", first)
            return Reply(500, b"the handler failed\n", _TEXT)

    async def _digest_protected(self, request: Request) -> Reply:
        algorithms = _DIGEST_ALGORITHMS.get("/".join(request.arguments).lower())
        if algorithms is None:
            raise Refusal(404, "no such algorithm")
        head = request.head
        verdict = self._digest.check(
            head.get("authorization"), head.method, head.target, algorithms
        )
        if verdict == "granted":
            return Reply(200, f"hello {USERNAME}\n".encode(), _TEXT)
        challenges = self._digest.challenges(algorithms, stale=verdict == "stale")
        return Reply(
            401,
            b"digest credentials wanted\n",
            [*_TEXT, *(("WWW-Authenticate", challenge) for challenge in challenges)],
        )


class _Requests(HTTPServerConnectionDelegate):
    """Hands whole requests to an origin, and tells it which connections have ended."""

    def __init__(self, origin: OriginServer) -> None:
        self._origin = origin

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        return _Request(self._origin, cast("HTTP1Connection", request_conn))

    def on_close(self, server_conn: object) -> None:
        self._origin._lost(cast("HTTP1ServerConnection", server_conn).context.address)


class _Request(HTTPMessageDelegate):
    """Collects one request."""

    def __init__(self, origin: OriginServer, connection: HTTP1Connection) -> None:
        self._origin = origin
        self._connection = connection
        self._body = bytearray()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        method, target, version = cast("RequestStartLine", start_line)
        fields = list(headers.get_all())
        self._head = RequestHead(method, target, version.removeprefix("HTTP/"), fields)

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def finish(self) -> None:
        connection = self._connection
        address = connection.context.address
        self._origin._take(self._head, bytes(self._body), address, connection)


_TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]
_JSON: Final = [("Content-Type", "application/json")]
_BINARY: Final = [("Content-Type", "application/octet-stream")]

_DIGEST_ALGORITHMS: Final = {
    "": ("SHA-256", "MD5"),  # in the order of preference, as RFC 7616 section 3.7 asks
    "md5": ("MD5",),
    "sha-256": ("SHA-256",),
}


async def _send(connection: HTTP1Connection, head: RequestHead, reply: Reply) -> None:
    """Send a reply, as fast as the client takes it."""
    length = len(reply.body) if isinstance(reply.body, bytes) else reply.length
    headers = HTTPHeaders({"Date": formatdate(usegmt=True)})
    for name, value in reply.headers:
        headers.add(name, value)
    if length is not None and reply.status != 204:  # RFC 9110 section 8.6
        headers["Content-Length"] = str(length)
    reason = reason_phrase(reply.status) if reply.reason is None else reply.reason
    start = ResponseStartLine("HTTP/1.1", reply.status, reason)
    if head.method == "HEAD" or reply.status in (204, 304):
        sent = connection.write_headers(start, headers)
    elif isinstance(reply.body, bytes):
        sent = connection.write_headers(start, headers, reply.body)
    else:
        await connection.write_headers(start, headers)
        async for piece in reply.body:
            await connection.write(piece)
        sent = connection.write(b"")
    connection.finish()
    await sent


def _number(request: Request, at: int, most: int, default: int | None = None) -> int:
    if at >= len(request.arguments) and default is not None:
        return default
    text = request.arguments[at] if at < len(request.arguments) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= most):
        raise Refusal(400, f"a number from 0 to {most} is wanted in {request.path}")
    return int(text)


async def _iter_pattern(size: int, piece: int) -> AsyncIterator[bytes]:
    for offset in range(0, size, piece):
        yield pattern(min(piece, size - offset), offset)


def _as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


async def _hello(request: Request) -> Reply:
    return Reply(200, b"Hello from whimbrel\n", _TEXT)


async def _echo(request: Request) -> Reply:
    head = request.head
    return Reply(
        200,
        _as_json(
            {
                "method": head.method,
                "target": head.target,
                "version": head.version,
                "headers": head.fields,
                "body": request.body.decode("latin-1"),
            }
        ),
        _JSON,
    )


async def _headers(request: Request) -> Reply:
    return Reply(200, _as_json({"headers": request.head.fields}), _JSON)


async def _bytes(request: Request) -> Reply:
    size = _number(request, 0, _MAX_BODY)
    if size <= PIECE:
        return Reply(200, pattern(size), _BINARY)
    return Reply(200, _iter_pattern(size, PIECE), _BINARY, length=size)


async def _stream(request: Request) -> Reply:
    size = _number(request, 0, _MAX_BODY)
    piece = _number(request, 1, PIECE, default=16 * 1024)
    return Reply(200, _iter_pattern(size, max(piece, 1)), _BINARY)


async def _gzip(request: Request) -> Reply:
    body = gzip.compress(_as_json({"headers": request.head.fields}))
    return Reply(200, body, [*_JSON, ("Content-Encoding", "gzip")])


async def _redirect(request: Request) -> Reply:
    left = _number(request, 0, _MAX_REDIRECTS)
    status = dict(request.query).get("status", "302")
    if status not in ("301", "302", "303", "307", "308"):
        raise Refusal(400, "no redirect status")
    if not left:
        return await _hello(request)
    location = f"/redirect/{left - 1}?status={status}" if left > 1 else "/hello"
    return Reply(int(status), b"", [("Location", location)])


async def _status(request: Request) -> Reply:
    status = _number(request, 0, 599)
    if status < 200:
        raise Refusal(400, "a final status is wanted")
    return Reply(status, f"{reason_phrase(status)}\n".encode(), _TEXT)


async def _slow(request: Request) -> Reply:
    try:
        seconds = float("/".join(request.arguments))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_SLOW_SECONDS:
        raise Refusal(400, f"seconds from 0 to {_MAX_SLOW_SECONDS:g} are wanted")
    await asyncio.sleep(seconds)
    return await _hello(request)


async def _basic(request: Request) -> Reply:
    if basic_matches(request.head.get("authorization"), USERNAME, PASSWORD):
        return Reply(200, f"hello {USERNAME}\n".encode(), _TEXT)
    challenge = f'Basic realm="{REALM}", charset="UTF-8"'
    return Reply(401, b"basic credentials wanted\n", [*_TEXT, ("WWW-Authenticate", challenge)])


async def _cookies(request: Request) -> Reply:
    if request.arguments == ("set",):
        cookies = [
            ("Set-Cookie", f"{_cookie_octets(n)}={_cookie_octets(v)}; Path=/")
            for n, v in request.query
        ]
        return Reply(302, b"", [("Location", "/cookies"), *cookies])
    pairs = "; ".join(request.head.get_all("cookie")).split("; ")
    received = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return Reply(200, _as_json({"cookies": received}), _JSON)


def _cookie_octets(text: str) -> str:
    """`text`, if it can stand in Set-Cookie as it is (cookie-octet of RFC 6265 section 4.1.1)."""
    if not all("!" <= c <= "~" and c not in '",;\\' for c in text):
        raise Refusal(400, "characters that no cookie may have")
    return text
