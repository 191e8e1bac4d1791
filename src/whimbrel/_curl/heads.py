"""Header blocks, in the lines that libcurl gives them in: where the last one is, and what it says.

What libcurl lets through and we do not is refused here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from whimbrel._curl.errors import CurlProtocolError, garbled
from whimbrel._policy.exchange import Exchange
from whimbrel.httputil import HTTPHeaders

MAX_INTERIM = 10
"""Interim (1xx) responses to one request."""
BLANK = (b"\r\n", b"\n")
"""The lines at which a block ends."""
NO_STATUS_LINE = "a malformed status line"
SWITCHING = "101 Switching Protocols, which was not asked for"
"""RFC 9110 section 15.2.2."""

# A tab before the code is refused: libcurl takes it for a space, and who splits at spaces the next
# number for the code; so is a name in lower case, of which libcurl makes a 200 whatever follows.
# Another protocol's name is what a caller has let libcurl take (HTTP200ALIASES).
_STATUS_LINE = re.compile(rb"(?:HTTP/([0-9.]+)|(?!(?i:http/))\S+) ([0-9]{3})(?!\S)")


class Head(NamedTuple):
    """A final header block that was found in order."""

    block: bytes
    code: int
    version: str
    content_encoding: str


def status_of(lines: list[bytes]) -> int:
    """The status in the first of `lines`; 0 if it is no status line."""
    found = _STATUS_LINE.match(lines[0]) if lines else None
    return 0 if found is None else int(found[2])


def parse_head(exchange: Exchange, block: bytes, lines: list[bytes]) -> Head:
    """Look at a whole header block; `lines` are those of `block`.

    Raises CurlProtocolError.
    """
    found = _STATUS_LINE.match(block)
    if found is None:
        raise garbled(exchange, NO_STATUS_LINE)
    version, status = found.groups()
    if status == b"101":
        raise garbled(exchange, SWITCHING)
    if status[:1] == b"1":
        # libcurl took what came behind it for the head, and we do not know it for one.
        raise garbled(exchange, NO_STATUS_LINE)
    lower = block.lower()
    if b"\ntransfer-encoding:" in lower and b"\ncontent-length:" in lower:
        # RFC 9112 section 6.1: likely an attempt at response splitting.
        raise garbled(exchange, "both Content-Length and Transfer-Encoding")
    if status == b"204" and b"\ncontent-length:" in lower:
        length = HTTPHeaders.from_lines(lines[1:]).get("Content-Length", "0")
        if length.strip("0"):
            raise garbled(exchange, f"204 with Content-Length {length}")
    encoding = _content_encoding(lines) if b"\ncontent-encoding:" in lower else ""
    return Head(block, int(status), (version or b"1.0").decode(), encoding)


def start_of_last_block(exchange: Exchange, lines: list[bytes], start: int) -> int:
    """Where the last block begins of those to one request, the first of which begins at `start`.

    Those before it were interim; what follows a block without a status line of its own is a
    trailer. Raises CurlProtocolError for an interim one without a status line, and for too many.
    """
    starts = [start]
    starts += [
        index + 1
        for index, line in enumerate(lines[:-1])
        if index >= start and line in BLANK and lines[index + 1][:5] == b"HTTP/"
    ]
    interim = [status_of(lines[index : index + 1]) for index in starts[:-1]]
    if 0 in interim:
        raise garbled(exchange, NO_STATUS_LINE)
    if sum(100 <= status < 200 for status in interim) > MAX_INTERIM:
        raise too_many_interim(exchange)
    return starts[-1]


def start_of_answer(lines: list[bytes], start: int) -> int:
    """Where the last answer to CONNECT begins; `start`, if no status line comes behind that.

    Trailers of an answer before it lie in front of its status line, without a blank line between.
    They may be an origin's, and must not pass for the proxy's: so it is the last such line.
    """
    for index in range(len(lines) - 1, start, -1):
        if lines[index][:5] == b"HTTP/" and _STATUS_LINE.match(lines[index]):
            return index
    return start


def last_status(lines: list[bytes], start: int) -> int:
    """The status of the last block, of those that begin at `start`; 0 if that has none."""
    for index in range(len(lines) - 1, start, -1):
        if lines[index - 1] in BLANK and lines[index][:5] == b"HTTP/":
            return status_of(lines[index : index + 1])
    return status_of(lines[start : start + 1])


def block_at(lines: list[bytes], start: int) -> list[bytes] | None:
    """The block that begins at `start`, without trailers behind it; None if it has no end."""
    for index in range(start, len(lines)):
        if lines[index] in BLANK:
            return lines[start : index + 1]
    return None


def too_many_interim(exchange: Exchange) -> CurlProtocolError:
    return garbled(exchange, f"more than {MAX_INTERIM} interim responses")


def content_length(lines: list[bytes]) -> int:
    """In bytes; 0 where it is not given, or not once."""
    found = [line[15:].strip() for line in lines if line[:15].lower() == b"content-length:"]
    return int(found[0]) if len(found) == 1 and found[0].isdigit() else 0


def _content_encoding(lines: list[bytes]) -> str:
    found = [
        line.partition(b":")[2].strip()
        for line in lines
        if line[:17].lower() == b"content-encoding:"
    ]
    return b", ".join(found).decode("latin-1")
