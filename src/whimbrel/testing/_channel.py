"""`_http1` over asyncio streams, for the proxy of `whimbrel.testing`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from typing import Final

from whimbrel._http1 import grammar
from whimbrel._http1.protocol import Event, Head, Protocol, Role
from whimbrel._http1.state import BODY, DONE
from whimbrel.testing._server import RequestHead

PIECE: Final = 64 * 1024
"""Bytes moved at once, in either direction."""

_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 1024 * 1024
_CLOSE_SECONDS: Final = 1.0


class Channel:
    """One end of a connection. What the peer does against the rules is a ProtocolError, from
    every method that reads; that it is gone is a ConnectionError, from those that send.

    Args:
        role: which end.
        max_head: bytes of a start line with its header fields that are taken from the peer.
    """

    def __init__(
        self,
        role: Role,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        max_head: int,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = Protocol(role, grammar.Limits(start_line=max_head, header_block=max_head))

    @property
    def goes_on(self) -> bool:
        """Whether both messages are whole, and another may follow."""
        protocol = self.protocol
        return protocol.our_state is DONE and protocol.their_state is DONE and protocol.keep_alive

    async def head(self) -> Head | None:
        """The next head; None when the client left instead of sending another request."""
        event = await self._event()
        return event if isinstance(event, Head) else None

    async def body(self) -> AsyncIterator[bytes]:
        """The body that belongs to the last head, in the pieces in which it comes."""
        while isinstance(event := await self._event(), bytes):
            yield event

    async def send(self, data: bytes) -> None:
        """Write `data`, and wait while the peer is slow."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_response(
        self,
        code: int,
        fields: Iterable[tuple[str, str]],
        body: str,
        length: int = 0,
        *,
        keep_alive: bool = True,
        reason: str | None = None,
    ) -> bool:
        """Send a response's head; `body` and `length` as for `Protocol.start_response`.

        Returns whether a body is to follow.
        """
        self.protocol.start_response(code, body, length, keep_alive=keep_alive)
        reason = reason_phrase(code) if reason is None else reason
        await self.send(grammar.encode_status_line(code, reason) + _block(fields))
        return self.protocol.our_state is BODY

    def write_request(
        self,
        method: str,
        target: str,
        fields: Iterable[tuple[str, str]],
        body: str,
        length: int = 0,
    ) -> None:
        """Write a request's head, the last one on this connection, without waiting."""
        self.protocol.start_request(method, body, length, keep_alive=False)
        self.writer.write(grammar.encode_request_line(method, target) + _block(fields))

    async def send_body(self, pieces: AsyncIterator[bytes]) -> None:
        """Send the body that was announced, and its end."""
        async for piece in pieces:
            await self.send(self.protocol.encode_body(piece))
        await self.send(self.protocol.end_body())

    async def _event(self) -> Head | bytes | Event:
        while (event := self.protocol.next_event()) is None:
            if data := await self.reader.read(PIECE):
                self.protocol.receive(data)
            else:
                self.protocol.receive_eof()
        return event


class Connection(Channel):
    """The server's end of a connection that was accepted: what else can be done with it."""

    async def refuse(self, status: int) -> None:
        """Answer a request that cannot be understood or carried out, and end the connection."""
        fields = [("Content-Length", "0"), ("Connection", "close")]
        await self.send(grammar.encode_status_line(status, reason_phrase(status)) + _block(fields))
        await self.linger()

    def reset(self) -> None:
        """Break the connection so that the peer cannot take it for an orderly end (RST)."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def linger(self) -> None:
        """Half-close, then swallow a bounded rest of what the peer still sends.

        Closing a socket with unread data resets it, and the reset may overtake the answer
        (RFC 9112 section 9.6).
        """
        if not self.writer.can_write_eof():  # TLS
            return
        self.writer.write_eof()
        room = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while room > 0 and (piece := await self.reader.read(PIECE)):
                    room -= len(piece)


async def leave(writer: asyncio.StreamWriter) -> None:
    """Close in order, and abort when the peer does not take what was written within a second."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await writer.wait_closed()
    except OSError:  # TimeoutError included
        writer.transport.abort()


def reason_phrase(status: int) -> str:
    """The registered reason phrase, or "" for a status without one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _block(fields: Iterable[tuple[str, str]]) -> bytes:
    return grammar.encode_fields(tuple(fields)) + b"\r\n"


def fields_of(head: Head) -> list[tuple[str, str]]:
    """The header fields in the order and the case of the wire."""
    pairs = (line.decode("latin-1").partition(":") for line in head.lines[1:-1])
    return [(name, value.strip()) for name, _, value in pairs]


def request_of(head: Head) -> RequestHead:
    """A request's head as handlers and tests get it."""
    return RequestHead(head.method, head.target, head.version, fields_of(head))
