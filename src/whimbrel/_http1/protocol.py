"""One HTTP/1.1 connection, seen from either end: bytes in, events out.

Rules:

1. The peer's bytes go in with `receive` and `receive_eof`; `next_event` takes what they amount to,
   one event at a time, and returns None when it needs more. A caller that wants no more for now
   just stops asking: that is the whole of flow control here.
2. Whatever the peer sends, `next_event` returns an event or raises ProtocolError, in time linear in
   what it sent and in memory bounded by `Limits`. After an error nothing more is read.
3. Both directions go through the table in `state`. Their errors are the peer's; ours are
   LocalProtocolError.
4. A message is begun by `start_request` or `start_response`, which also tells the receiving side
   what a response may be. The bytes of heads are made by `grammar`, and may be kept and used again.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, Literal

from whimbrel._http1 import framing, grammar
from whimbrel._http1.errors import (
    IncompleteError,
    LimitError,
    LocalProtocolError,
    ProtocolError,
)
from whimbrel._http1.framing import CHUNKED, CLOSE, LENGTH, NONE, REFUSED
from whimbrel._http1.grammar import LIMITS, Limits
from whimbrel._http1.state import (
    BODY,
    CLOSED,
    DONE,
    ERROR,
    HEAD,
    ON_CLOSE,
    ON_DATA,
    ON_END,
    ON_HEAD,
    ON_INTERIM,
    ON_NEXT,
    ON_SWITCH,
    SWITCHED,
    TRANSITIONS,
)
from whimbrel._known_heads import KnownHeads


class Role(Enum):
    """Which end of the connection we are."""

    CLIENT = "client"
    SERVER = "server"


class Event(Enum):
    """Events that carry nothing."""

    END = "end"
    """The message is whole; `Protocol.trailers` holds what came behind its last chunk."""
    CLOSED = "closed"
    """The peer ended the connection between messages. A server is told, and once."""


END: Final = Event.END


class Head:
    """Start line and header block of a message.

    `block` is its bytes, blank line included. Of a response `code` is the status, of a request
    `method` and `target` are str. `minor` is the 0 or 1 of the version. `framing` and `length` tell
    how the body ends; `keep_alive`, whether its sender means to keep the connection.
    `content_encoding` is the value of that field ("" without), `expects_continue` whether a request
    waits for 100.
    """

    __slots__ = (
        "block",
        "code",
        "content_encoding",
        "expects_continue",
        "framing",
        "keep_alive",
        "length",
        "method",
        "minor",
        "target",
    )

    block: bytes
    code: int
    method: str
    target: str
    minor: int
    framing: str
    length: int
    keep_alive: bool
    content_encoding: str
    expects_continue: bool

    @property
    def lines(self) -> list[bytes]:
        """The lines of `block`, each with its end: start line first, blank line last."""
        return self.block.splitlines(True)

    @property
    def version(self) -> str:
        """``"1.0"`` or ``"1.1"``."""
        return "1.1" if self.minor else "1.0"

    @property
    def reason(self) -> str:
        """The reason phrase of a response; "" without."""
        line = self.block[: self.block.index(b"\n")].rstrip(b"\r")
        return line[13:].decode("latin-1")

    def __repr__(self) -> str:
        start = self.code if hasattr(self, "code") else self.method
        return f"<Head {start} {self.framing} {len(self.block)} bytes>"


_NOTHING_KNOWN: Final = KnownHeads[Head](0)


# Where a chunked body is: at a size line, in a chunk's data, at the CRLF behind it, in trailers.
_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3


class Protocol:
    """The state of one connection; see the rules above.

    `role` is our own end. `limits` bounds what the peer may send. `known` may be shared; with
    None every head is parsed.
    """

    __slots__ = (
        "_buffer",
        "_chunk_state",
        "_eof",
        "_framing",
        "_head",
        "_interim",
        "_is_client",
        "_known",
        "_left",
        "_limits",
        "_method",
        "_our_framing",
        "_our_keep_alive",
        "_our_left",
        "_position",
        "_scanned",
        "_start_line_seen",
        "_their_keep_alive",
        "_upgrade",
        "our_state",
        "their_state",
        "trailers",
    )

    def __init__(
        self, role: Role, limits: Limits = LIMITS, known: KnownHeads[Head] | None = None
    ) -> None:
        self._known = _NOTHING_KNOWN if known is None else known
        self._is_client = role is Role.CLIENT
        self._limits = limits
        self._buffer: bytes | bytearray = b""
        self._position = 0  # what of the buffer has been taken
        self._scanned = 0  # up to where the end of the head has been looked for
        self._start_line_seen = False
        self._eof = False
        self._head: Head | None = None  # parsed, and not yet given out
        self._interim = 0
        self._method = ""
        self._upgrade = False
        self._framing: str = NONE
        self._left = 0
        self._chunk_state = _SIZE
        self._their_keep_alive = True
        self._our_keep_alive = True
        self._our_framing: str = NONE
        self._our_left = 0
        self.trailers = b""
        self.our_state: str = HEAD
        self.their_state: str = HEAD

    # Receiving

    @property
    def buffered(self) -> int:
        """Bytes received that no event has covered yet."""
        return len(self._buffer) - self._position

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer. b"" is nothing; for the end of the stream see `receive_eof`."""
        position = self._position
        if position >= len(self._buffer):
            self._buffer = data
        else:
            if type(self._buffer) is not bytearray:
                self._buffer = bytearray(memoryview(self._buffer)[position:])
            else:
                del self._buffer[:position]
            self._buffer += data
            self._scanned = max(0, self._scanned - position)
            self._position = 0
            return
        self._position = self._scanned = 0

    def receive_body(self, data: bytes) -> bool:
        """Take bytes from the peer if they are nothing but body, and not the last of it.

        The short way for a large body of known length: `data` itself is the event then. After
        False, `receive` them.
        """
        if len(data) >= self.rest:
            return False
        self._left -= len(data)
        return True

    def received_elsewhere(self, size: int) -> None:
        """So many bytes of the `rest` of the body have come, and were taken past us."""
        self._left -= size

    def receive_eof(self) -> None:
        """The peer has ended its side of the connection."""
        self._eof = True

    def receive_whole(self, data: bytes) -> tuple[Head, bytes] | None:
        """Take bytes from the peer; if they are one whole message and no more, return it.

        The short way for the common case, one read that brings head and body. After None go on
        with `next_event`.
        """
        if (
            self.their_state is not HEAD
            or self._head is not None
            or self._position < len(self._buffer)
        ):
            self.receive(data)
            return None
        is_client = self._is_client
        knowable = not is_client or self._method not in _SPECIAL_METHODS
        head = self._known.last
        if head is not None and knowable and data.startswith(head.block):
            end = len(head.block)
        else:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3 or data[0] == 13:  # a blank line, which may precede a request
                self.receive(data)
                return None
            head = self._known.find(data[:end]) if knowable else None
        if head is None:
            self._buffer = data
            self._position = self._scanned = 0
            try:
                head = self._parse_head(data, 0, end)
            except ProtocolError:
                self.their_state = ERROR
                raise
            end = self._position
            if knowable and not (is_client and head.code < 200):
                self._known.add(head)
            self._position = len(data)
        if (
            len(data) - end == head.length
            and (head.framing is LENGTH or head.framing is NONE)
            and not (is_client and (head.code < 200 or self._method == "CONNECT"))
        ):
            if not is_client:
                self._method = head.method
            self._their_keep_alive = head.keep_alive
            self.their_state = DONE
            self._left = 0
            return head, data[end:]
        self._buffer = data
        self._position = self._scanned = end
        self._frame(head)
        self._head = head
        return None

    def next_event(self) -> Head | bytes | Event | None:
        """The next event: a `Head`, bytes of a body, `Event.END` or `Event.CLOSED`; None to wait.

        Raises ProtocolError.
        """
        try:
            if self._head is not None:
                return self._begin_message()
            return _READERS[self.their_state](self)
        except ProtocolError:
            self.their_state = ERROR
            raise

    def _read_head(self) -> Head | Event | None:
        buffer = self._buffer
        start = self._position
        if not self._is_client:
            start = self._skip_blank_lines()
        scan = max(start, self._scanned)
        end = self._find_end(buffer, start)
        if end < 0:
            if len(buffer) - start:
                self._check_begun_head(buffer, start, scan)
            if not self._eof:
                return None
            if len(buffer) - start:
                raise IncompleteError("the connection ended within the header block")
            if self._is_client:
                raise IncompleteError("the connection ended before any response")
            self.their_state = TRANSITIONS[self.their_state][ON_CLOSE]
            return Event.CLOSED
        self._head = self._parse_head(buffer, start, end)
        return self._begin_message()

    def _skip_blank_lines(self) -> int:
        """RFC 9112 section 2.2: CRLFs before a request line are to be ignored."""
        start = first = self._position
        buffer = self._buffer
        while buffer[start : start + 2] == b"\r\n":
            start += 2
            if start - first > 2 * self._limits.blank_lines:
                raise ProtocolError("nothing but blank lines")
        return start

    def _find_end(self, buffer: bytes | bytearray, start: int) -> int:
        """Where the header block ends, or -1."""
        scan = max(start, self._scanned)
        end = buffer.find(b"\r\n\r\n", scan)
        if end >= 0:
            end += 4
        if self._is_client:
            # A client takes bare LFs; whichever blank line comes first ends the block.
            for blank in (b"\n\n", b"\n\r\n"):
                other = buffer.find(blank, scan, len(buffer) if end < 0 else end)
                if other >= 0 and (end < 0 or other + len(blank) < end):
                    end = other + len(blank)
        if end < 0:
            self._scanned = max(start, len(buffer) - 3)
        return end

    def _check_begun_head(self, buffer: bytes | bytearray, start: int, scan: int) -> None:
        """Refuse at once what cannot become a head, and what grows past its limits.

        What is before `scan` has been looked at.
        """
        limits = self._limits
        size = len(buffer) - start
        if not self._start_line_seen:
            self._refuse_other_protocol(buffer, start, scan)
            line_end = buffer.find(b"\n", start, start + limits.start_line) + 1
            if line_end:
                pattern = grammar.STATUS_LINE if self._is_client else grammar.REQUEST_LINE
                if pattern.match(buffer, start) is None:
                    raise self._start_line_error(buffer, start)
                self._start_line_seen = True
            elif size > limits.start_line:
                raise LimitError("start line", limits.start_line, size, status=414)
        if not self._is_client:
            self._refuse_bare_lf(scan, start + limits.header_block)
        if size > limits.header_block:
            raise LimitError("header block", limits.header_block, size, status=431)

    def _refuse_other_protocol(self, buffer: bytes | bytearray, start: int, scan: int) -> None:
        """Refuse another protocol's greeting: whoever sends one may wait for an answer.

        What is before `scan` has been looked at.
        """
        if self._is_client:
            if not b"HTTP/1.".startswith(bytes(buffer[start : start + 7])):
                text = grammar.shown(bytes(buffer[start : start + 100]))
                raise ProtocolError(f"no HTTP/1.x reply: {text}")
            return
        if buffer.find(b" ", start, scan) >= 0:
            return  # the method is behind us
        most = min(len(buffer), start + self._limits.start_line)
        found = grammar.METHOD_END.search(buffer, scan, most)
        if found is None or (found[0] == b" " and found.start() > start):
            return
        if found[0] == b"\r" and found.start() == start == len(buffer) - 1:
            return  # a blank line may precede a request
        raise ProtocolError("a request that does not begin with a method")

    def _refuse_bare_lf(self, start: int, end: int) -> None:
        """At once: who sends bare LFs may never send the CRLFs that end a block."""
        if grammar.BARE_LF.search(self._buffer, start, end):
            raise ProtocolError("a header line that does not end in CRLF")

    def _start_line_error(self, buffer: bytes | bytearray, start: int) -> ProtocolError:
        """Say what is wrong with a start line that does not match."""
        self._refuse_other_protocol(buffer, start, start)
        limit = self._limits.start_line
        size = buffer.find(b"\n", start) + 1 - start
        if size > limit:
            return LimitError("start line", limit, size, status=414)
        line = bytes(buffer[start : start + 200]).split(b"\n", 1)[0].rstrip(b"\r")
        kind = "status" if self._is_client else "request"
        # A request's target may hold a secret.
        text = f": {grammar.shown(line)}" if self._is_client else ""
        return ProtocolError(f"a malformed {kind} line{text}")

    def _parse_head(self, buffer: bytes | bytearray, start: int, end: int) -> Head:
        """Parse the head that begins at `start`; settles the framing of the body behind it.

        `end` is behind a blank line. For a client, an earlier one may be made of bare LFs.
        """
        pattern = grammar.STATUS_LINE if self._is_client else grammar.REQUEST_LINE
        found = pattern.match(buffer, start)
        if found is None:
            raise self._start_line_error(buffer, start)
        fields = found.end()
        end = self._check_fields(buffer, start, fields, end)
        self._position = end
        head = Head()
        head.block = block = bytes(buffer[start:end])
        # From the LF of the start line on, so that every name is preceded by one.
        special = _special(block[fields - start - 1 :].lower())
        if self._is_client:
            self._read_response(head, found, special)
        else:
            self._read_request(head, found, special)
        codings = special.get(b"content-encoding")
        head.content_encoding = b", ".join(codings).decode("latin-1") if codings else ""
        connection = _tokens(special, b"connection")
        # RFC 9112 section 9.3.
        head.keep_alive = (
            b"close" not in connection
            and (head.minor == 1 or b"keep-alive" in connection)
            and head.framing is not CLOSE
            # 6.1: Transfer-Encoding in HTTP/1.0 means that someone did not understand it.
            and (head.minor == 1 or head.framing is not CHUNKED)
        )
        self._frame(head)
        return head

    def _frame(self, head: Head) -> None:
        """A body as `head` tells it is to come."""
        self._framing = head.framing
        self._left = head.length
        self._chunk_state = _SIZE

    def _check_fields(self, buffer: bytes | bytearray, start: int, fields: int, end: int) -> int:
        """Hold a head against the grammar and the limits; return where it ends.

        It begins at `start`, its fields at `fields`.
        """
        limits = self._limits
        if fields - start > limits.start_line:
            raise LimitError("start line", limits.start_line, fields - start, status=414)
        pattern = grammar.CLIENT_FIELDS if self._is_client else grammar.SERVER_FIELDS
        matched = pattern.match(buffer, fields)
        if matched is not None:
            end = matched.end()
        elif self._is_client:
            end = self._find_end(buffer, start)
        else:
            self._refuse_bare_lf(fields, min(end, start + limits.header_block))
        if end - start > limits.header_block:
            raise LimitError("header block", limits.header_block, end - start, status=431)
        if matched is None:
            raise grammar.field_error(bytes(buffer[fields:end]))
        if end - fields > 2 * limits.header_count:  # else there cannot be as many
            count = buffer.count(b"\n", fields, end) - 1
            if count > limits.header_count:
                raise LimitError(
                    "number of header lines", limits.header_count, count, status=431, unit="lines"
                )
        return end

    def _read_response(self, head: Head, start_line: re.Match[bytes], special: _Special) -> None:
        head.minor = 1 if start_line[1] == b"1" else 0
        head.code = int(start_line[2])
        self._frame_response(head, special)
        if head.code == 101 and not self._upgrade:
            # RFC 9110 section 15.2.2: only a client that asked is switched.
            raise ProtocolError("101 Switching Protocols, which was not asked for")

    def _read_request(self, head: Head, start_line: re.Match[bytes], special: _Special) -> None:
        method, target, minor = start_line.groups()
        head.minor = 1 if minor == b"1" else 0
        head.method = method.decode()
        head.target = target.decode()
        if not grammar.target_fits(method, target):
            raise ProtocolError("a request target of the wrong form")
        self._check_host(head, special)
        self._frame_request(head, special)
        head.expects_continue = (
            head.minor == 1
            and head.framing is not NONE
            and b"100-continue" in _tokens(special, b"expect")
        )

    def _frame_response(self, head: Head, special: _Special) -> None:
        if self._method == "CONNECT" and 200 <= head.code < 300:
            # RFC 9110 section 9.3.6: whatever such a response says of its body is to be ignored.
            head.framing, head.length = NONE, 0
            return
        lengths = special.get(b"content-length")
        codings = special.get(b"transfer-encoding")
        kind = framing.RESPONSE[codings is not None, lengths is not None]
        if kind is REFUSED:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        length = 0
        if lengths is not None:
            length = framing.content_length(lengths, repeated=True)
        elif codings is not None:
            framing.transfer_encoding(codings)
        code = head.code
        if code < 200 or code == 204 or code == 304 or self._method in _SPECIAL_METHODS:
            if code == 204 and length:
                raise ProtocolError(f"204 with Content-Length {length}")
            if framing.response_has_no_body(self._method, code):
                kind, length = NONE, 0
        head.framing = kind
        head.length = length

    def _frame_request(self, head: Head, special: _Special) -> None:
        lengths = special.get(b"content-length")
        codings = special.get(b"transfer-encoding")
        kind = framing.REQUEST[codings is not None, lengths is not None]
        if kind is REFUSED:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        head.length = 0
        if lengths is not None:
            head.length = framing.content_length(lengths, repeated=False)
        elif codings is not None:
            if not head.minor:
                # RFC 9112 section 6.1: such a message was mangled on its way.
                raise ProtocolError("Transfer-Encoding in HTTP/1.0")
            framing.transfer_encoding(codings)
        head.framing = NONE if kind is LENGTH and not head.length else kind

    def _check_host(self, head: Head, special: _Special) -> None:
        """RFC 9112 section 3.2: exactly one Host in HTTP/1.1, and a valid one wherever it is."""
        hosts = special.get(b"host", ())
        if len(hosts) > 1 or (not hosts and head.minor):
            raise ProtocolError("a request without Host" if not hosts else "more than one Host")
        if hosts and not grammar.HOST.fullmatch(hosts[0]):
            raise ProtocolError("a malformed Host")

    def _begin_message(self) -> Head:
        head = self._head
        assert head is not None
        self._head = None
        self._start_line_seen = False
        self._scanned = self._position
        moves = TRANSITIONS[self.their_state]
        if self._is_client and head.code < 200:
            if head.code == 101:
                self.their_state = moves[ON_SWITCH]
                return head
            self._interim += 1
            if self._interim > self._limits.interim:
                raise LimitError(
                    "number of interim responses",
                    self._limits.interim,
                    self._interim,
                    unit="responses",
                )
            self.their_state = moves[ON_INTERIM]
            return head
        self._their_keep_alive = head.keep_alive
        if self._is_client and self._method == "CONNECT" and head.code < 300:
            self.their_state = moves[ON_SWITCH]
            return head
        if not self._is_client:
            self._method = head.method
        self.their_state = moves[ON_HEAD]
        return head

    def _read_body(self) -> bytes | Event | None:
        return _BODY_READERS[self._framing](self)

    def _end_message(self) -> Event:
        self.their_state = TRANSITIONS[self.their_state][ON_END]
        return END

    def _read_none(self) -> Event:
        return self._end_message()

    def _read_length(self) -> bytes | Event | None:
        left = self._left
        if not left:
            return self._end_message()
        data = self._take(left)
        if data is None:
            raise IncompleteError(f"the connection ended with {left} bytes of the body to come")
        self._left -= len(data)
        return data or None

    def _read_until_close(self) -> bytes | Event | None:
        data = self._take(len(self._buffer))
        return self._end_message() if data is None else data or None

    def _take(self, most: int) -> bytes | None:
        """At most that many bytes, b"" for none yet, None at the end of the stream."""
        buffer = self._buffer
        start = self._position
        available = len(buffer) - start
        if not available:
            return None if self._eof else b""
        if available <= most:
            self._buffer = b""
            self._position = 0
            if not start and type(buffer) is bytes:
                return buffer
            return bytes(memoryview(buffer)[start:])
        self._position = start + most
        return bytes(memoryview(buffer)[start : start + most])

    def _read_chunks(self) -> bytes | Event | None:
        """Everything that has come of a chunked body, its pieces joined (RFC 9112 section 7.1)."""
        pieces: list[bytes | bytearray] = []
        try:
            while _CHUNK_READERS[self._chunk_state](self, pieces):
                pass
        except ProtocolError:
            # What came before the fault is the same whether or not it came with it: first these
            # pieces, and the error again with the next call.
            if not pieces:
                raise
        if pieces:
            return bytes(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self.their_state is DONE:
            return END
        if self._eof:
            raise IncompleteError("the connection ended within a chunked body")
        return None

    # Each of the following reads one part of a chunked body, as far as it is here. It tells whether
    # to go on, and leaves the place at which something is wrong.

    def _read_chunk_lines(self, pieces: list[bytes | bytearray]) -> bool:
        """A size line; and as many chunks as are here in whole, the common case."""
        buffer = self._buffer
        position = self._position
        most = self._limits.chunk_extension
        match_line = grammar.CHUNK_LINE.match
        while True:
            found = match_line(buffer, position)
            if found is None:
                self._position = position
                self._check_begun_chunk(position)
                return False
            data = found.end()
            left = int(found[1], 16)
            if data - position > most or left > grammar.MAX_LENGTH:
                self._position = position
                self._check_extension(found.end(1), data)
                if left > grammar.MAX_LENGTH:
                    raise ProtocolError("a chunk of more bytes than there can be")
            end = data + left
            if not left or buffer[end : end + 2] != b"\r\n":
                break
            pieces.append(buffer[data:end])
            position = end + 2
        self._position = data
        self._left = left
        self._chunk_state = _DATA if left else _TRAILERS
        return True

    def _read_chunk_data(self, pieces: list[bytes | bytearray]) -> bool:
        piece = self._buffer[self._position : self._position + self._left]
        if not piece:
            return False
        pieces.append(piece)
        self._position += len(piece)
        self._left -= len(piece)
        if self._left:
            return False
        self._chunk_state = _DATA_END
        return True

    def _read_chunk_end(self, pieces: list[bytes | bytearray]) -> bool:
        ending = bytes(self._buffer[self._position : self._position + 2])
        if not b"\r\n".startswith(ending):
            raise ProtocolError("a chunk that does not end in CRLF")
        if len(ending) < 2:
            return False
        self._position += 2
        self._chunk_state = _SIZE
        return True

    def _read_last_chunk(self, pieces: list[bytes | bytearray]) -> bool:
        """The trailer section; but the pieces before it are an event of their own."""
        if not pieces:
            end = self._read_trailers(self._position)
            if end >= 0:
                self._position = end
                self._end_message()
        return False

    def _check_begun_chunk(self, position: int) -> None:
        """Refuse at once what cannot become a chunk-size line."""
        buffer = self._buffer
        if position == len(buffer):
            return
        begun = grammar.CHUNK_SIZE_BEGUN.match(buffer, position)
        if begun is None or begun.end() != len(buffer):
            line = bytes(buffer[position : position + 80]).split(b"\n", 1)[0]
            raise ProtocolError(f"a malformed chunk size: {grammar.shown(line, 40)}")
        self._check_extension(begun.end(1), len(buffer))

    def _check_extension(self, start: int, end: int) -> None:
        if end - start > self._limits.chunk_extension:
            raise LimitError("chunk extension", self._limits.chunk_extension, end - start)

    def _read_trailers(self, position: int) -> int:
        """Where the trailer section ends, or -1 (RFC 9112 section 7.1.2).

        They are kept as bytes and never merged: nothing in them may change framing or routing.
        """
        buffer = self._buffer
        limit = self._limits.trailers
        if buffer[position : position + 2] == b"\r\n":
            return position + 2
        scan = max(position, self._scanned)
        end = buffer.find(b"\r\n\r\n", scan) + 4
        self._refuse_bare_lf(scan, min(end if end > 3 else len(buffer), position + limit))
        if end == 3:
            self._scanned = max(position, len(buffer) - 3)
            if len(buffer) - position > limit:
                raise LimitError("trailer section", limit, len(buffer) - position, status=431)
            return -1
        if end - position > limit:
            raise LimitError("trailer section", limit, end - position, status=431)
        block = bytes(buffer[position:end])
        found = grammar.SERVER_FIELDS.match(block)
        if found is None or found.end() != len(block):
            raise grammar.field_error(block)
        if block.count(b"\n") - 1 > self._limits.header_count:
            raise LimitError(
                "number of trailer lines",
                self._limits.header_count,
                block.count(b"\n") - 1,
                unit="lines",
            )
        self.trailers = block
        return end

    def _read_nothing(self) -> Event | None:
        """Between messages, or after the last: only the end of the stream is news."""
        if self.their_state is DONE and self._eof and not self.buffered and not self._is_client:
            self.their_state = TRANSITIONS[self.their_state][ON_CLOSE]
            return Event.CLOSED
        return None

    def _read_refused(self) -> None:
        raise ProtocolError("the connection has failed already")

    @property
    def rest(self) -> int:
        """Bytes of the body that are still to come; 0 where its length is not known, or where
        some that have come have not been looked at."""
        if self._framing is LENGTH and self.their_state is BODY and not self.buffered:
            return self._left
        return 0

    @property
    def rest_is_here(self) -> bool:
        """Whether all of the body has come; of a chunked one that is not known before its end."""
        return self._framing is not CHUNKED and self._left <= self.buffered

    def skip_body(self) -> bool:
        """Throw away what has come of the body; tell whether that was the rest of the message."""
        try:
            while self.their_state is BODY:
                if self.next_event() is None:
                    break
        except ProtocolError:
            return False
        return self.their_state is DONE

    def take_rest(self) -> bytes:
        """What came behind the head that switched the protocol, or has not been looked at."""
        rest = bytes(memoryview(self._buffer)[self._position :])
        self._buffer = b""
        self._position = self._scanned = 0
        return rest

    # Sending

    def start_request(
        self,
        method: str,
        body: str,
        length: int = 0,
        keep_alive: bool = True,
        upgrade: bool = False,
    ) -> None:
        """A request's head is sent now.

        `body` is NONE, LENGTH (of `length` bytes) or CHUNKED; `upgrade`, whether it asks for
        another protocol, so that 101 may be the answer.
        """
        if self.our_state is not HEAD:
            self._move(ON_HEAD)  # it raises
        self._method = method
        self._upgrade = upgrade
        self._our_framing = body
        self._our_left = length
        self._our_keep_alive = keep_alive
        self.our_state = DONE if body is NONE else BODY

    def start_response(
        self, code: int, body: str, length: int = 0, *, keep_alive: bool = True
    ) -> None:
        """A response's head is sent now; `body` may also be CLOSE. For 1xx the final head follows.

        `keep_alive` False is a head that says ``Connection: close``. Behind 101, and behind 2xx to
        CONNECT, this side speaks another protocol.
        """
        if code < 200:
            self._move(ON_SWITCH if code == 101 else ON_INTERIM)
            return
        if self._method == "CONNECT" and code < 300:
            self._move(ON_SWITCH)
            return
        self._move(ON_HEAD)
        if framing.response_has_no_body(self._method, code):
            body, length = NONE, 0
        self._begin_body(body, length, keep_alive and body is not CLOSE)

    def _begin_body(self, body: str, length: int, keep_alive: bool) -> None:
        self._our_framing = body
        self._our_left = length
        self._our_keep_alive = keep_alive
        if body is NONE:
            self.our_state = DONE

    def _move(self, what: Literal["head", "interim", "switch", "data", "end"]) -> None:
        try:
            self.our_state = TRANSITIONS[self.our_state][what]
        except KeyError:
            raise LocalProtocolError(
                f"no {what} may be sent now: this side is at {self.our_state}"
            ) from None

    def encode_body(self, data: bytes) -> bytes:
        """A piece of the body as it is sent. Raises LocalProtocolError past its length."""
        self._count_body(len(data))
        if self._our_framing is CHUNKED:
            return grammar.encode_chunk(data) if data else b""
        return data

    def encode_pieces(self, pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """The same for pieces that are sent together, and not joined; not all of them empty."""
        size = sum(map(len, pieces))
        self._count_body(size)
        if self._our_framing is CHUNKED:
            return [b"%x\r\n" % size, *pieces, b"\r\n"]
        return pieces

    def _count_body(self, size: int) -> None:
        self._move(ON_DATA)
        if self._our_framing is LENGTH:
            self._our_left -= size
            if self._our_left < 0:
                raise LocalProtocolError(
                    f"the body is {-self._our_left} bytes longer than its Content-Length"
                )

    def end_body(self) -> bytes:
        """What ends the body on the wire. Raises LocalProtocolError if it is too short."""
        if self.our_state is DONE:
            return b""
        if self._our_framing is LENGTH and self._our_left:
            raise LocalProtocolError(
                f"the body is {self._our_left} bytes shorter than its Content-Length"
            )
        self._move(ON_END)
        return b"0\r\n\r\n" if self._our_framing is CHUNKED else b""

    # From message to message

    @property
    def keep_alive(self) -> bool:
        """Whether both sides mean to keep the connection, as far as their heads have told."""
        return self._our_keep_alive and self._their_keep_alive

    def is_reusable(self) -> bool:
        """Whether a client may send another request: both messages are whole, and nothing else
        has come."""
        return (
            self.their_state is DONE
            and self.our_state is DONE
            and self._our_keep_alive
            and self._their_keep_alive
            and not self._eof
            and self._position >= len(self._buffer)
        )

    def next_exchange(self) -> bool:
        """Begin the next request and response if the connection `is_reusable`; whether it is."""
        if not self.is_reusable():
            return False
        self._begin_anew()
        return True

    def next_message(self) -> None:
        """Begin the next request and response.

        Raises LocalProtocolError before both are whole, where one side meant to close, and for a
        client whose connection is not reusable: what came behind one response must not be taken
        for the next.
        """
        if self.their_state is not DONE or self.our_state is not DONE:
            raise LocalProtocolError(
                f"the last message is not whole: we are at {self.our_state}, the peer at"
                f" {self.their_state}"
            )
        if not (self.is_reusable() if self._is_client else self.keep_alive):
            raise LocalProtocolError("the connection cannot be used again")
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.our_state = self.their_state = _FIRST
        self.trailers = b""
        self._method = ""
        self._interim = 0


_FIRST = TRANSITIONS[DONE][ON_NEXT]

_SPECIAL_METHODS = frozenset(("HEAD", "CONNECT"))


_Special = dict[bytes, list[bytes]]
"""Lower-case names of the fields that mean something here, and their lower-case values."""


def _special(low: bytes) -> _Special:
    """What a lower-case block of field lines, each behind an LF, holds of those fields."""
    special: _Special = {}
    for name, value in grammar.SPECIAL_FIELD.findall(low):
        value = value.rstrip(b" \t")
        if name in special:
            special[name].append(value)
        else:
            special[name] = [value]
    return special


def _tokens(special: _Special, name: bytes) -> list[bytes]:
    """The members of a list-valued field (RFC 9110 section 5.6.1)."""
    values = special.get(name)
    if values is None:
        return []
    return [token.strip(b" \t") for value in values for token in value.split(b",")]


_READERS = {
    HEAD: Protocol._read_head,
    BODY: Protocol._read_body,
    DONE: Protocol._read_nothing,
    SWITCHED: Protocol._read_nothing,
    CLOSED: Protocol._read_nothing,
    ERROR: Protocol._read_refused,
}

_CHUNK_READERS = {
    _SIZE: Protocol._read_chunk_lines,
    _DATA: Protocol._read_chunk_data,
    _DATA_END: Protocol._read_chunk_end,
    _TRAILERS: Protocol._read_last_chunk,
}

_BODY_READERS = {
    NONE: Protocol._read_none,
    LENGTH: Protocol._read_length,
    CHUNKED: Protocol._read_chunks,
    CLOSE: Protocol._read_until_close,
}
