"""What each parser makes of a reply: ``"200 hello"``, ``"rejects"``, or ``"waits"``."""

from __future__ import annotations

import logging
import zlib
from typing import Any, Final

from whimbrel._http1.errors import ProtocolError
from whimbrel._http1.framing import NONE
from whimbrel._http1.protocol import Head, Protocol, Role
from whimbrel.httpclient import HTTPError, HTTPTimeoutError
from whimbrel.testing.scripted import ScriptedServer, respond

from .corpus import Reply

REJECTED: Final = "rejects"
WAITS: Final = "waits"
"""For more, though the server has closed, until the time-out."""


def accepted(code: int, body: bytes) -> str:
    return f"{code} {body.decode('latin-1')}"


def by_core(reply: Reply) -> str:
    """By `whimbrel._http1` alone, without a network."""
    protocol = Protocol(Role.CLIENT)
    protocol.start_request(reply.method, NONE)
    protocol.receive(reply.wire)
    protocol.receive_eof()
    code, body = 0, b""
    try:
        while (event := protocol.next_event()) is not None:
            if isinstance(event, Head):
                code = event.code
            elif isinstance(event, bytes):
                body += event
    except ProtocolError:
        return REJECTED
    return accepted(code, body)


def by_h11(reply: Reply) -> str:
    """By h11, whose bound on a header block is set to ours."""
    import h11

    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    connection.send(h11.Request(method=reply.method, target="/", headers=[("Host", "localhost")]))
    connection.send(h11.EndOfMessage())
    code, body = 0, b""
    try:
        connection.receive_data(reply.wire)
        if connection.their_state is not h11.CLOSED:
            connection.receive_data(b"")
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                code = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif not isinstance(event, h11.InformationalResponse):
                raise AssertionError(f"{event!r} in place of the end")
    except h11.RemoteProtocolError:
        return REJECTED
    return accepted(code, body)


async def by_whimbrel(client: Any, reply: Reply) -> str:
    """By a client of ours, over a socket."""
    async with ScriptedServer(respond(reply.wire, then="close")) as server:
        try:
            response = await client.fetch(server.url(), method=reply.method, raise_error=False)
        except HTTPTimeoutError:
            return WAITS
        except HTTPError:
            return REJECTED
    return accepted(response.code, response.body)


async def by_tornado(reply: Reply) -> str:
    """By the simple client of Tornado, which has to be installed."""
    from tornado.httpclient import HTTPError
    from tornado.iostream import UnsatisfiableReadError
    from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

    # It logs every refusal, some with tracebacks.
    logging.getLogger("tornado").setLevel(logging.CRITICAL)

    client = SimpleAsyncHTTPClient(force_instance=True)
    async with ScriptedServer(respond(reply.wire, then="close")) as server:
        try:
            response = await client.fetch(
                server.url(), method=reply.method, raise_error=False, request_timeout=3
            )
        except HTTPTimeoutError:
            return WAITS
        except (HTTPError, UnsatisfiableReadError, OSError, ValueError, zlib.error):
            return REJECTED
        finally:
            client.close()
    return accepted(response.code, response.body)
