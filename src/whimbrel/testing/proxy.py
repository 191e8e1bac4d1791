"""A small HTTP proxy on loopback, for demos and tests: forwarding, CONNECT, Basic authentication.

    async with ProxyServer("alice", "secret") as proxy:
        response = await client.fetch(url, proxy=proxy.url_with_credentials)

It forwards to wherever it is asked, opens one upstream connection per request, relays interim
responses, and never passes on Proxy-Authorization. 407 without the right credentials, 502 when the
origin cannot be reached or answers nonsense, 504 when it cannot be reached in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from whimbrel.testing._auth import basic_matches
from whimbrel.testing._server import Connection, LoopbackServer, leave
from whimbrel.testing._wire import (
    LAST_CHUNK,
    PIECE,
    Framing,
    Limits,
    MessageError,
    RequestHead,
    ResponseHead,
    encode_chunk,
    encode_head,
    iter_body,
    read_body,
    read_request_head,
    read_response_head,
    reason_phrase,
    request_framing,
    response_framing,
    tokens,
)

REALM: Final = "whimbrel proxy"

_CONNECT_SECONDS: Final = 10.0
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+):([0-9]{1,5})")
# RFC 9110 section 7.6.1, and the proxy's own business.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ProxyServer(LoopbackServer):
    """The proxy described in this module's docstring.

    Args:
        username, password: what Basic credentials must say; a `username` of None lets everybody
            through, a `password` of None is the empty one.
        ssl_context: a server-side context makes it an HTTPS proxy; None speaks plain HTTP.
        limits: see `Limits`.
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        *,
        ssl_context: SSLContext | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(ssl_context=ssl_context, limits=limits)
        self._username = username
        self._password = password or ""
        self.tunnel_count = 0
        """CONNECT tunnels established so far."""
        self.forward_count = 0
        """Requests forwarded so far, CONNECT not counted."""
        self.refused_count = 0
        """Requests answered with 407 so far."""

    @property
    def url(self) -> str:
        """Where it listens, as a proxy URL without credentials."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def url_with_credentials(self) -> str:
        """`url` with user name and password, percent-encoded; `url` when it asks for none."""
        if self._username is None:
            return self.url
        user, password = quote(self._username, safe=""), quote(self._password, safe="")
        return f"{self.scheme}://{user}:{password}@{self.host}:{self.port}"

    async def serve(self, connection: Connection) -> None:
        """Serve requests until one side wants to close, or one becomes a tunnel."""
        keep_alive = True
        while keep_alive:
            async with asyncio.timeout(self.limits.request_time):
                head = await read_request_head(connection.reader, self.limits)
            if head is None:
                return
            self.record(head, connection, b"", -1)
            framing = request_framing(head)
            if not self._authorized(head):
                keep_alive = await self._refuse(connection, head, framing)
            elif head.method == "CONNECT":
                await self._tunnel(connection, head)
                return
            else:
                keep_alive = await self._forward(connection, head, framing)

    def _authorized(self, head: RequestHead) -> bool:
        return self._username is None or basic_matches(
            head.get("proxy-authorization"), self._username, self._password
        )

    async def _refuse(self, connection: Connection, head: RequestHead, framing: Framing) -> bool:
        """Answer 407; whether the connection may go on."""
        self.refused_count += 1
        body = b"proxy credentials wanted\n"
        # A client that waits for 100 will not send its body now, one that does not may be sending.
        keep_alive = head.keep_alive and not (framing != 0 and head.expects_continue)
        fields = [
            ("Proxy-Authenticate", f'Basic realm="{REALM}", charset="UTF-8"'),
            ("Content-Type", "text/plain"),
            ("Content-Length", str(len(body))),
            ("Connection", "keep-alive" if keep_alive else "close"),
        ]
        data = encode_head(f"HTTP/1.1 407 {reason_phrase(407)}", fields)
        await connection.send(data if head.method == "HEAD" else data + body)
        if not keep_alive:
            await connection.linger()
            return False
        async with asyncio.timeout(self.limits.request_time):
            await read_body(connection.reader, framing, self.limits)
        return True

    async def _tunnel(self, connection: Connection, head: RequestHead) -> None:
        """RFC 9110 section 9.3.6: blind, both ways, until both sides have ended."""
        match = _AUTHORITY.fullmatch(head.target)
        if not match:
            raise MessageError(400, "CONNECT wants host:port")
        reader, writer = await _open(match[1].strip("[]"), int(match[2]))
        try:
            await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.tunnel_count += 1
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(connection.reader, writer))
                pumps.create_task(_pump(reader, connection.writer))
        except* OSError:
            pass  # one side broke: the finally below and our caller break the other
        finally:
            await _drop(writer)

    async def _forward(self, connection: Connection, head: RequestHead, framing: Framing) -> bool:
        """Send one request on and its response back; whether the connection may go on."""
        destination = _destination(head.target)
        streams = await _open(destination.host, destination.port)
        self.forward_count += 1
        try:
            return await self._exchange(connection, head, framing, destination, streams)
        finally:
            await _drop(streams[1])

    async def _exchange(
        self,
        connection: Connection,
        head: RequestHead,
        framing: Framing,
        destination: _Destination,
        streams: _Streams,
    ) -> bool:
        reader, writer = streams
        fields = [
            ("Host", destination.authority),  # whatever Host said (RFC 9112 section 3.2.2)
            *((name, value) for name, value in _end_to_end(head) if name.lower() != "host"),
            ("Via", f"{head.version} whimbrel"),
            ("Connection", "close"),
        ]
        if framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        writer.write(encode_head(f"{head.method} {destination.target} HTTP/1.1", fields))
        # The body travels while we already listen: the origin may answer 100, or refuse, first.
        upload = asyncio.create_task(self._upload(connection.reader, framing, writer))
        started = False
        try:
            response = await self._final_head(connection, reader)
            body = response_framing(head.method, response)
            started = True
            keep_alive = await self._relay(connection, head, response, body, reader)
            return keep_alive and upload.done() and upload.exception() is None
        except (MessageError, asyncio.IncompleteReadError, ConnectionError) as error:
            if started:
                connection.reset()  # cut short, and so it must look downstream
                raise
            if upload.done() and isinstance(upload.exception(), MessageError):
                raise MessageError(400, "malformed request body") from error
            raise MessageError(502, "no valid response from the origin") from error
        finally:
            upload.cancel()
            await asyncio.wait([upload])
            if not upload.cancelled():
                upload.exception()  # retrieved: the answer already said what there was to say

    async def _upload(
        self, reader: asyncio.StreamReader, framing: Framing, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async for piece in iter_body(reader, framing, self.limits):
                writer.write(encode_chunk(piece) if framing == "chunked" else piece)
                await writer.drain()
            if framing == "chunked":
                writer.write(LAST_CHUNK)
            await writer.drain()
        except (MessageError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the origin waits for what will never come: wake our reader
            raise

    async def _final_head(
        self, connection: Connection, reader: asyncio.StreamReader
    ) -> ResponseHead:
        """Read up to the final response's head, passing interim ones on."""
        while True:
            response = await read_response_head(reader, self.limits)
            if response.status == 101:
                raise MessageError(502, "the origin switched protocols")
            if response.status >= 200:
                return response
            interim = f"HTTP/1.1 {response.status} {response.reason}"
            await connection.send(encode_head(interim, response.fields))

    async def _relay(
        self,
        connection: Connection,
        head: RequestHead,
        response: ResponseHead,
        framing: Framing,
        reader: asyncio.StreamReader,
    ) -> bool:
        """Send the final response on; whether its framing leaves the connection usable."""
        chunked = isinstance(framing, str) and head.version == "1.1"
        keep_alive = head.keep_alive and (isinstance(framing, int) or chunked)
        fields = [*_end_to_end(response), ("Via", "1.1 whimbrel")]
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        if not keep_alive:
            fields.append(("Connection", "close"))
        await connection.send(encode_head(f"HTTP/1.1 {response.status} {response.reason}", fields))
        async for piece in iter_body(reader, framing, self.limits):
            await connection.send(encode_chunk(piece) if chunked else piece)
        if chunked:
            await connection.send(LAST_CHUNK)
        return keep_alive


class _Destination(NamedTuple):
    """An absolute-form target taken apart: whom to connect to, what to send there."""

    host: str
    port: int
    authority: str
    target: str


def _destination(target: str) -> _Destination:
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme != "http" or "@" in parts.netloc:
        raise MessageError(400, "an absolute http URL is wanted")
    path = parts.path or "/"
    return _Destination(
        host,
        80 if port is None else port,
        parts.netloc,
        f"{path}?{parts.query}" if parts.query else path,
    )


def _end_to_end(head: RequestHead | ResponseHead) -> list[tuple[str, str]]:
    """The fields that pass a proxy: not the hop's own, not those that Connection names."""
    dropped = _HOP_BY_HOP.union(tokens(head.fields, "connection"))
    return [(name, value) for name, value in head.fields if name.lower() not in dropped]


async def _open(host: str, port: int) -> _Streams:
    """Connect to an origin.

    Raises:
        MessageError: 502, or 504 when it took too long.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            return await asyncio.open_connection(host, port, limit=PIECE)
    except TimeoutError as error:
        raise MessageError(504, "the origin cannot be reached in time") from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise MessageError(502, "the origin cannot be reached") from error


async def _drop(writer: asyncio.StreamWriter) -> None:
    try:
        await leave(writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()  # TLS knows no half-close
