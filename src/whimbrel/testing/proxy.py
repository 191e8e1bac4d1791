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
import logging
from collections.abc import AsyncIterator
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from whimbrel._http1.errors import IncompleteError, ProtocolError
from whimbrel._http1.framing import CHUNKED, CLOSE, LENGTH, NONE
from whimbrel._http1.protocol import Head, Role
from whimbrel.testing._auth import basic_matches
from whimbrel.testing._channel import Channel, Connection, fields_of, request_of
from whimbrel.testing._forwarding import ForwardingServer, Streams, connect, drop, relay
from whimbrel.testing._server import Limits, Refusal, RequestHead

log = logging.getLogger("whimbrel.testing")

REALM: Final = "whimbrel proxy"

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


class ProxyServer(ForwardingServer):
    """The proxy described in this module's docstring.

    Args:
        username, password: what Basic credentials must say; a `username` of None lets everybody
            through, a `password` of None is the empty one.
        ssl_context: a server-side context makes it an HTTPS proxy; None speaks plain HTTP.
        limits: see `Limits`.
        port: the TCP port to listen on; 0 is a free one.
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        *,
        ssl_context: SSLContext | None = None,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(username, password, ssl_context=ssl_context, limits=limits, port=port)
        self.forward_count = 0
        """Requests forwarded so far, CONNECT not counted."""

    async def _serve(self, near: Streams, number: int) -> None:
        connection = Connection(Role.SERVER, *near, self.limits.head)
        with contextlib.suppress(IncompleteError):  # the client vanished
            await self._serve_or_refuse(connection, number)

    async def _serve_or_refuse(self, connection: Connection, number: int) -> None:
        try:
            await self._serve_requests(connection, number)
        except IncompleteError:
            raise
        except (Refusal, ProtocolError) as error:
            log.debug("%s: %s", type(self).__name__, error)
            await connection.refuse(error.status)

    async def _serve_requests(self, connection: Connection, number: int) -> None:
        """Serve requests until one side wants to close, or one becomes a tunnel."""
        while True:
            async with asyncio.timeout(self.limits.request_time):
                head = await connection.head()
            if head is None:
                return
            request = request_of(head)
            self._record(request, number, b"", -1)
            if not self._authorized(request):
                await self._refuse(connection, head)
            elif head.method == "CONNECT":
                await self._tunnel(connection, head)
                return
            else:
                await self._forward(connection, head, request)
            if not connection.goes_on:
                return
            connection.protocol.next_message()

    def _authorized(self, request: RequestHead) -> bool:
        return self._username is None or basic_matches(
            request.get("proxy-authorization"), self._username, self._password
        )

    async def _refuse(self, connection: Connection, head: Head) -> None:
        """Answer 407."""
        self.refused_count += 1
        body = b"proxy credentials wanted\n"
        # A client that waits for 100 will not send its body now, one that does not may be sending.
        keep_alive = head.keep_alive and not head.expects_continue
        fields = [
            ("Proxy-Authenticate", f'Basic realm="{REALM}", charset="UTF-8"'),
            ("Content-Type", "text/plain"),
            ("Content-Length", str(len(body))),
            ("Connection", "keep-alive" if keep_alive else "close"),
        ]
        if await connection.send_response(407, fields, LENGTH, len(body), keep_alive=keep_alive):
            await connection.send_body(_once(body))
        if not keep_alive:
            await connection.linger()
            return
        async with asyncio.timeout(self.limits.request_time):
            async for _ in connection.body():
                pass

    async def _tunnel(self, connection: Connection, head: Head) -> None:
        """RFC 9110 section 9.3.6: blind, both ways, until both sides have ended."""
        host, _, port = head.target.rpartition(":")
        far = await _open(host.strip("[]"), int(port))
        try:
            await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.tunnel_count += 1
            far[1].write(connection.protocol.take_rest())
            await relay((connection.reader, connection.writer), far)
        finally:
            await drop(far[1])

    async def _forward(self, connection: Connection, head: Head, request: RequestHead) -> None:
        """Send one request on and its response back."""
        destination = _destination(request.target)
        reader, writer = await _open(destination.host, destination.port)
        self.forward_count += 1
        try:
            origin = Channel(Role.CLIENT, reader, writer, self.limits.head)
            await self._exchange(connection, head, destination, origin)
        finally:
            await drop(writer)

    async def _exchange(
        self, connection: Connection, head: Head, destination: _Destination, origin: Channel
    ) -> None:
        fields = [
            ("Host", destination.authority),  # whatever Host said (RFC 9112 section 3.2.2)
            *((name, value) for name, value in _end_to_end(head) if name.lower() != "host"),
            ("Via", f"{head.version} whimbrel"),
            ("Connection", "close"),
        ]
        if head.framing is CHUNKED:
            fields.append(("Transfer-Encoding", "chunked"))
        origin.write_request(head.method, destination.target, fields, head.framing, head.length)
        # The body travels while we already listen: the origin may answer 100, or refuse, first.
        upload = asyncio.create_task(self._upload(connection, origin))
        started = False
        try:
            response = await self._final_head(connection, origin)
            started = True
            await self._relay(connection, head, response, origin)
        except (ProtocolError, ConnectionError) as error:
            if started:
                connection.reset()  # cut short, and so it must look downstream
                raise
            if upload.done() and isinstance(upload.exception(), ProtocolError):
                raise Refusal(400, "malformed request body") from error
            raise Refusal(502, "no valid response from the origin") from error
        finally:
            upload.cancel()
            await asyncio.wait([upload])
            if not upload.cancelled():
                upload.exception()  # retrieved: the answer already said what there was to say

    async def _upload(self, connection: Connection, origin: Channel) -> None:
        try:
            await origin.send_body(connection.body())
        except ProtocolError:
            # The origin waits for what will never come: wake our reader.
            origin.writer.transport.abort()
            raise

    async def _final_head(self, connection: Connection, origin: Channel) -> Head:
        """Read up to the final response's head, passing interim ones on."""
        while (response := await origin.head()) is not None and response.code < 200:
            await connection.send_response(
                response.code, fields_of(response), NONE, reason=response.reason
            )
        assert response is not None  # a client's end of the stream is an error
        return response

    async def _relay(
        self, connection: Connection, head: Head, response: Head, origin: Channel
    ) -> None:
        """Send the final response on."""
        body = response.framing
        if body is CHUNKED or body is CLOSE:
            body = CHUNKED if head.minor else CLOSE
        keep_alive = head.keep_alive and body is not CLOSE
        fields = [*_end_to_end(response), ("Via", "1.1 whimbrel")]
        if body is CHUNKED:
            fields.append(("Transfer-Encoding", "chunked"))
        if not keep_alive:
            fields.append(("Connection", "close"))
        await connection.send_response(
            response.code,
            fields,
            body,
            response.length,
            keep_alive=keep_alive,
            reason=response.reason,
        )
        await connection.send_body(origin.body())


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
        raise Refusal(400, "an absolute http URL is wanted")
    path = parts.path or "/"
    return _Destination(
        host,
        80 if port is None else port,
        parts.netloc,
        f"{path}?{parts.query}" if parts.query else path,
    )


def _end_to_end(head: Head) -> list[tuple[str, str]]:
    """The fields that pass a proxy: not the hop's own, not those that Connection names."""
    fields = fields_of(head)
    named = ",".join(value.lower() for name, value in fields if name.lower() == "connection")
    dropped = _HOP_BY_HOP.union(token.strip() for token in named.split(","))
    return [(name, value) for name, value in fields if name.lower() not in dropped]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _open(host: str, port: int) -> Streams:
    """Connect to an origin.

    Raises:
        Refusal: 502, or 504 when it took too long.
    """
    try:
        return await connect(host, port)
    except TimeoutError as error:
        raise Refusal(504, "the origin cannot be reached in time") from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise Refusal(502, "the origin cannot be reached") from error
