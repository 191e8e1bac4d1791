"""HTTP/1.1 messages over asyncio streams, for the servers of `whimbrel.testing`.

1. Strict: what RFC 9112 forbids is a `MessageError` that carries the status to answer with. A test
   server that forgives hides the client's mistakes.
2. Every length is bounded by `Limits`; nothing is read without one.
3. Deliberately not whimbrel's own HTTP/1 core: a bug shared by client and server cancels out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

PIECE: Final = 64 * 1024
"""Bytes moved at once, in either direction."""

Fields = Sequence[tuple[str, str]]
"""Header fields in the order and the case of the wire, decoded as Latin-1."""

Framing = int | Literal["chunked", "close"]
"""How a message's body ends: after so many bytes, by its last chunk, or with the connection."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[!-~]+")
_FIELD_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_HOST = re.compile(r"[^\s/?#@\\]*")
_DIGITS = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")


@dataclass(frozen=True)
class Limits:
    """What a server of this package puts up with.

    Attributes:
        head: bytes of a start line with its header fields (431 beyond).
        fields: number of header fields in one message (431 beyond).
        body: bytes of a request's body (413 beyond). A proxy does not store bodies and has no use
            for it.
        trailer: bytes of a chunk's extension, and of all trailer fields together.
        request_time: seconds for a whole request to arrive, waiting for it included; an idle
            connection is closed then. 0 or less is not "none".
        connections: open at once; the next ones wait in the listening socket's backlog.
    """

    head: int = 64 * 1024
    fields: int = 200
    body: int = 64 * 1024 * 1024
    trailer: int = 4096
    request_time: float = 60.0
    connections: int = 2048


class MessageError(Exception):
    """The peer's message cannot be accepted; `status` is the answer it deserves."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RequestHead:
    """A request's start line and header fields.

    Attributes:
        method: as sent, case included.
        target: the request target as sent: a path with its query, an absolute URL, or host:port.
        version: "1.0" or "1.1".
        fields: header fields in wire order.
    """

    method: str
    target: str
    version: str
    fields: Fields

    def get_all(self, name: str) -> list[str]:
        """Every value of the field called `name` (case-insensitive), in wire order."""
        return get_all(self.fields, name)

    def get(self, name: str) -> str | None:
        """The only value of the field called `name`; several are joined by ", " (RFC 9110 5.3)."""
        values = self.get_all(name)
        return ", ".join(values) if values else None

    @property
    def keep_alive(self) -> bool:
        """Whether the client means to go on with this connection (RFC 9112 section 9.3)."""
        options = tokens(self.fields, "connection")
        return "close" not in options and (self.version == "1.1" or "keep-alive" in options)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 10.1.1).

        Raises:
            MessageError: 417 for any other expectation.
        """
        expectation = self.get("expect")
        if expectation is None or self.version == "1.0":
            return False
        if expectation.lower() != "100-continue":
            raise MessageError(417, "unknown expectation")
        return True


def get_all(fields: Fields, name: str) -> list[str]:
    """Every value of the field called `name` (case-insensitive), in wire order."""
    wanted = name.lower()
    return [value for field, value in fields if field.lower() == wanted]


def tokens(fields: Fields, name: str) -> list[str]:
    """The elements of a list field such as Connection, in lower case (RFC 9110 section 5.6.1)."""
    joined = ",".join(get_all(fields, name))
    return [token for token in (part.strip(" \t").lower() for part in joined.split(",")) if token]


async def read_request_head(reader: asyncio.StreamReader, limits: Limits) -> RequestHead | None:
    """Read one request up to its empty line; None when the peer closed between requests.

    Raises:
        MessageError: malformed, or over a limit.
        asyncio.IncompleteReadError: the peer closed inside the head.
    """
    room = limits.head
    line = b""
    for _ in range(3):  # RFC 9112 2.2: a server should ignore an empty line before a request
        try:
            line = await _read_line(reader, room, too_long=414)
        except asyncio.IncompleteReadError as end:
            if not end.partial:
                return None
            raise
        if line:
            break
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise MessageError(400, "malformed request line")
    if parts[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        known = re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[2])
        raise MessageError(505 if known else 400, "unsupported protocol version")
    fields = await _read_fields(reader, room - len(line), limits.fields)
    head = RequestHead(
        parts[0].decode("ascii"), parts[1].decode("ascii"), parts[2][5:].decode("ascii"), fields
    )
    hosts = head.get_all("host")
    if len(hosts) > 1 or (not hosts and head.version == "1.1"):
        raise MessageError(400, "a request needs exactly one Host")  # RFC 9112 section 3.2
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise MessageError(400, "malformed Host")
    return head


@dataclass(frozen=True)
class ResponseHead:
    """A response's status, reason phrase and header fields."""

    status: int
    reason: str
    fields: Fields


async def read_response_head(reader: asyncio.StreamReader, limits: Limits) -> ResponseHead:
    """Read one response up to its empty line.

    Raises:
        MessageError: malformed, or over a limit (always 502: a gateway's answer).
        asyncio.IncompleteReadError: the peer closed inside the head.
    """
    try:
        line = await _read_line(reader, limits.head, too_long=502)
        match = _STATUS_LINE.fullmatch(line)
        if not match:
            raise MessageError(502, "malformed status line")
        fields = await _read_fields(reader, limits.head - len(line), limits.fields)
    except MessageError as error:
        raise MessageError(502, str(error)) from error
    return ResponseHead(int(match[1]), (match[2] or b"").decode("latin-1"), fields)


def request_framing(head: RequestHead) -> Framing:
    """Where the request's body ends (RFC 9112 section 6.3; a request never ends by closing).

    Raises:
        MessageError: contradictory or unknown framing.
    """
    codings = tokens(head.fields, "transfer-encoding")
    lengths = head.get_all("content-length")
    if codings:
        if lengths:
            raise MessageError(400, "Content-Length with Transfer-Encoding")
        if head.version == "1.0":
            raise MessageError(400, "Transfer-Encoding in HTTP/1.0")
        if codings != ["chunked"]:
            raise MessageError(501, "unknown transfer coding")
        return "chunked"
    return _content_length(lengths, 400) if lengths else 0


def response_framing(method: str, head: ResponseHead) -> Framing:
    """Where the body of a response to `method` ends (RFC 9112 section 6.3).

    Raises:
        MessageError: contradictory or unknown framing (502).
    """
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return 0
    codings = tokens(head.fields, "transfer-encoding")
    lengths = get_all(head.fields, "content-length")
    if codings:
        if lengths or codings != ["chunked"]:
            raise MessageError(502, "contradictory framing")
        return "chunked"
    return _content_length(lengths, 502) if lengths else "close"


async def iter_body(
    reader: asyncio.StreamReader, framing: Framing, limits: Limits
) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most `PIECE` bytes, chunked coding removed.

    Raises:
        MessageError: malformed chunks.
        asyncio.IncompleteReadError: the peer closed inside the body.
    """
    if framing == "chunked":
        while size := await _read_chunk_size(reader, limits):
            async for piece in _iter_exactly(reader, size):
                yield piece
            if await reader.readexactly(2) != b"\r\n":
                raise MessageError(400, "chunk not followed by CRLF")
        await _read_fields(reader, limits.trailer, limits.fields)  # trailers: checked and dropped
    elif framing == "close":
        while piece := await reader.read(PIECE):
            yield piece
    else:
        async for piece in _iter_exactly(reader, framing):
            yield piece


async def read_body(reader: asyncio.StreamReader, framing: Framing, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        MessageError: 413 when it is, or grows, longer than `limits.body`; malformed chunks.
        asyncio.IncompleteReadError: the peer closed inside the body.
    """
    if isinstance(framing, int) and framing > limits.body:
        raise MessageError(413, f"body of {framing} bytes, at most {limits.body} are accepted")
    body = bytearray()
    async for piece in iter_body(reader, framing, limits):
        body += piece
        if len(body) > limits.body:
            raise MessageError(413, f"body over {limits.body} bytes")
    return bytes(body)


def encode_head(start_line: str, fields: Fields) -> bytes:
    """The bytes of a head, empty line included."""
    lines = [start_line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def encode_chunk(piece: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1). An empty piece would end the body: give none."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK: Final = b"0\r\n\r\n"


def reason_phrase(status: int) -> str:
    """The registered reason phrase, or "" for a status without one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


async def _read_line(reader: asyncio.StreamReader, room: int, too_long: int) -> bytes:
    """One line without its CRLF; a bare LF or CR is malformed (RFC 9112 section 2.2)."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise MessageError(too_long, "line too long") from None
    if len(line) > room:
        raise MessageError(too_long, "line too long")
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        raise MessageError(400, "bare LF or CR")
    return line[:-2]


async def _read_fields(reader: asyncio.StreamReader, room: int, most: int) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    while line := await _read_line(reader, room, too_long=431):
        room -= len(line) + 2
        name, colon, value = line.partition(b":")
        # A folded line starts with a space, and a space before the colon is no token either.
        if not colon or not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise MessageError(400, "malformed header field")
        if len(fields) == most:
            raise MessageError(431, "too many header fields")
        fields.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return fields


async def _read_chunk_size(reader: asyncio.StreamReader, limits: Limits) -> int:
    match = _CHUNK_SIZE.fullmatch(await _read_line(reader, limits.trailer, too_long=400))
    if not match:
        raise MessageError(400, "malformed chunk size")
    return int(match[1], 16)


async def _iter_exactly(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _content_length(lengths: list[str], status: int) -> int:
    values = {part.strip(" \t") for value in lengths for part in value.split(",")}
    value = values.pop()
    # RFC 9112 section 6.3: equal repetitions may be taken as one, anything else is an error.
    if values or not _DIGITS.fullmatch(value):
        raise MessageError(status, "malformed Content-Length")
    return int(value)
