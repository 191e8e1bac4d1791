"""Replies that clients disagree on, or that all of them have to refuse. Matrix 86."""

from __future__ import annotations

import gzip
from typing import NamedTuple


class Reply(NamedTuple):
    """What a server sends, after which it closes.

    `body` is how whoever accepts it should read it. `why`, where parsers disagree, says what the
    core does and for which reason: docs/parser-differences.md shows it. `coded` is a reply with
    Content-Encoding, which a parser of HTTP/1.1 alone does not decode.
    """

    wire: bytes
    why: str = ""
    body: bytes = b"hello"
    method: str = "GET"
    coded: bool = False


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
HELLO = OK + LENGTH + END + b"hello"
_GZIP = gzip.compress(b"hello", mtime=0)


def _status(line: bytes) -> bytes:
    return line + END + LENGTH + END + b"hello"


def _field(field: bytes) -> bytes:
    return OK + field + END + LENGTH + END + b"hello"


def _length(value: bytes) -> bytes:
    return OK + b"Content-Length: " + value + END + END + b"hello"


def _coding(fields: bytes) -> bytes:
    return OK + fields + END + END + b"5\r\nhello\r\n0\r\n\r\n"


def _chunks(wire: bytes) -> bytes:
    return OK + CHUNKED + END + wire


def _gzipped(data: bytes, framing: bytes = b"") -> bytes:
    return OK + b"Content-Encoding: gzip\r\n" + framing + END + data


CORPUS: dict[str, Reply] = {
    # -- the status line
    "Content-Length": Reply(HELLO),
    "no reason phrase": Reply(_status(b"HTTP/1.1 200 ")),
    "no space behind the code": Reply(
        _status(b"HTTP/1.1 200"), "Accepted: many servers leave it out, and nothing hangs on it."
    ),
    "garbage": Reply(b"garbage\r\n\r\n"),
    "HTTP/0.9": Reply(b"hello"),
    "ICY": Reply(_status(b"ICY 200 OK")),
    "HTTP/1.2": Reply(
        _status(b"HTTP/1.2 200 OK"), "Refused: there are 1.0 and 1.1, and nobody sends others."
    ),
    "HTTP/2.0": Reply(_status(b"HTTP/2.0 200 OK"), "Refused: HTTP/2 does not look like this."),
    "HTTP/3.1": Reply(_status(b"HTTP/3.1 200 OK"), "Refused: nor does HTTP/3."),
    "status 20": Reply(_status(b"HTTP/1.1 20 OK")),
    "status 099": Reply(
        _status(b"HTTP/1.1 099 OK"), "Refused: RFC 9110 section 15 has 100 to 599."
    ),
    "status 2000": Reply(_status(b"HTTP/1.1 2000 OK")),
    "status 600": Reply(
        _status(b"HTTP/1.1 600 OK"),
    ),
    "two spaces in the status line": Reply(_status(b"HTTP/1.1  200 OK")),
    "blank line before the status line": Reply(
        b"\r\n" + HELLO, "Refused: only servers skip blank lines (RFC 9112 section 2.2)."
    ),
    "obs-text in the reason phrase": Reply(_status(b"HTTP/1.1 200 d\xe9j\xe0")),
    "NUL in the reason phrase": Reply(_status(b"HTTP/1.1 200 O\0K")),
    # -- header lines
    "bare LF everywhere in the head": Reply(
        HELLO.replace(b"\r\n", b"\n"),
    ),
    "bare LF in one line": Reply(_field(b"X: y\nZ: z")),
    "obs-fold": Reply(
        _field(b"X: y\r\n z"),
        "Refused: RFC 9112 section 5.2 has taken it out, and whoever joins the lines reads another"
        " value than who does not.",
    ),
    "space before the first field": Reply(
        OK + b" X: y\r\n" + LENGTH + END + b"hello",
        "Refused: RFC 9112 section 2.2 has it rejected, or the line skipped, and with it a field.",
    ),
    "space before a colon": Reply(
        _field(b"X : y"), "Refused: RFC 9112 section 5.1 says that it must not be there."
    ),
    "space before the colon of Content-Length": Reply(
        OK + b"Content-Length : 5\r\n\r\nhello",
        "Refused: who skips the field and who takes it disagree on where the body ends.",
    ),
    "space in a name": Reply(_field(b"X Y: z"), "Refused: a name is a token."),
    "empty name": Reply(_field(b": x"), "Refused: a name is a token."),
    "no colon": Reply(_field(b"hello")),
    "NUL in a value": Reply(_field(b"X: a\0b")),
    "bare CR in a value": Reply(_field(b"X: a\rb")),
    "control character in a value": Reply(
        _field(b"X: a\x01b"),
        "Refused: RFC 9110 section 5.5 allows none but the tab; it may end up in a terminal.",
    ),
    "obs-text in a value": Reply(_field(b"X: \xe9")),
    "obs-text in a name": Reply(_field(b"X\xe9: y"), "Refused: a name is a token."),
    "2,000 header lines": Reply(
        OK + 1999 * b"X: y\r\n" + LENGTH + END + b"hello",
    ),
    "6,000 header lines": Reply(
        OK + 6000 * b"X: y\r\n" + LENGTH + END + b"hello",
        "Refused: the bound is 2,000 lines, and 5,000 in libcurl.",
    ),
    "a header block of 80 KiB": Reply(
        OK + b"X: " + b"a" * 80 * 1024 + END + LENGTH + END + b"hello",
        "Refused above 64 KiB, as in Tornado; libcurl's bound is 300 KiB. `max_header_size` sets it"
        " on both backends.",
    ),
    # -- Content-Length
    "Content-Length +5": Reply(_length(b"+5")),
    "Content-Length -5": Reply(_length(b"-5")),
    "Content-Length 0_5": Reply(_length(b"0_5")),
    "Content-Length 0x5": Reply(_length(b"0x5")),
    "Content-Length empty": Reply(_length(b"")),
    "Content-Length 5.0": Reply(_length(b"5.0")),
    "Content-Length 5;": Reply(_length(b"5;")),
    "Content-Length in full-width digits": Reply(_length(b"\xef\xbc\x95")),
    "Content-Length 05": Reply(_length(b"05")),
    "Content-Length 10^23": Reply(
        _length(b"1" + b"0" * 23),
        "Refused: nothing is as long. libcurl reads on to the close.",
    ),
    "Content-Length twice, equal": Reply(OK + LENGTH + LENGTH + END + b"hello"),
    "Content-Length 5, 5": Reply(_length(b"5, 5")),
    "Content-Length twice, unequal": Reply(
        OK + LENGTH + b"Content-Length: 6\r\n\r\nhello!",
    ),
    "Content-Length 5, 6": Reply(_length(b"5, 6") + b"!"),
    # -- Transfer-Encoding
    "chunked": Reply(_coding(b"Transfer-Encoding: chunked")),
    "Chunked in capitals": Reply(_coding(b"TRANSFER-ENCODING: CHUNKED")),
    "Content-Length and Transfer-Encoding": Reply(
        _coding(LENGTH + b"Transfer-Encoding: chunked"),
        "Refused: an error by RFC 9112 section 6.3, and how responses are split.",
    ),
    "Transfer-Encoding xchunked": Reply(_coding(b"Transfer-Encoding: xchunked")),
    "Transfer-Encoding chunked, identity": Reply(_coding(b"Transfer-Encoding: chunked, identity")),
    "Transfer-Encoding identity": Reply(
        OK + b"Transfer-Encoding: identity\r\n" + END + b"hello",
        "Refused: RFC 9112 section 7 knows no such coding any more.",
    ),
    "Transfer-Encoding gzip, chunked": Reply(
        OK
        + b"Transfer-Encoding: gzip, chunked\r\n\r\n"
        + b"%x\r\n" % len(_GZIP)
        + _GZIP
        + b"\r\n0\r\n\r\n",
    ),
    "Transfer-Encoding ,chunked": Reply(
        _coding(b"Transfer-Encoding: ,chunked"),
        "Refused: `chunked`, once and alone, leaves nothing to interpret.",
    ),
    "Transfer-Encoding: chunked twice": Reply(
        _coding(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        "Refused: `chunked` is not applied twice (RFC 9112 section 6.1).",
    ),
    "Transfer-Encoding in HTTP/1.0": Reply(
        b"HTTP/1.0" + _coding(b"Transfer-Encoding: chunked")[8:],
    ),
    # -- chunks
    "chunk size 0x5": Reply(_chunks(b"0x5\r\nhello\r\n0\r\n\r\n")),
    "chunk size +5": Reply(_chunks(b"+5\r\nhello\r\n0\r\n\r\n")),
    "chunk size -5": Reply(_chunks(b"-5\r\nhello\r\n0\r\n\r\n")),
    "chunk size 0_5": Reply(_chunks(b"0_5\r\nhello\r\n0\r\n\r\n")),
    "chunk size empty": Reply(_chunks(b"\r\nhello\r\n0\r\n\r\n")),
    "chunk size of 17 digits": Reply(_chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    "chunk size of 17 digits, zeros first": Reply(
        _chunks(b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
        "Refused: 16 digits are more bytes than there can be, and zeros want a bound as well.",
    ),
    "chunk size 05": Reply(_chunks(b"05\r\nhello\r\n0\r\n\r\n")),
    "space before a chunk size": Reply(_chunks(b" 5\r\nhello\r\n0\r\n\r\n")),
    "space behind a chunk size": Reply(
        _chunks(b"5 \r\nhello\r\n0\r\n\r\n"),
        "Refused: RFC 9112 section 7.1 has none.",
    ),
    "chunk that does not end in CRLF": Reply(_chunks(b"5\r\nhelloXX0\r\n\r\n")),
    "chunk that ends in a bare LF": Reply(
        _chunks(b"5\r\nhello\n0\r\n\r\n"),
        "Refused: two readings of where a chunk ends are two responses out of one.",
    ),
    "chunk-size line that ends in a bare LF": Reply(
        _chunks(b"5\nhello\r\n0\r\n\r\n"), "Refused for the same reason."
    ),
    "chunk extension": Reply(
        _chunks(b"5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        "Ignored, as RFC 9112 section 7.1.1 has it.",
    ),
    "chunk extension of 100 bytes": Reply(
        _chunks(b"5;" + b"a" * 100 + b"\r\nhello\r\n0\r\n\r\n"), "Ignored."
    ),
    "chunk extension of 5,000 bytes": Reply(
        _chunks(b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n"),
        "Refused above 4 KiB: RFC 9112 section 7.1.1 asks for a bound.",
    ),
    "chunk extension with a bare LF": Reply(
        _chunks(b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ),
    "trailers": Reply(
        _chunks(b"5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 1\r\n\r\n"),
        "Accepted, bounded, and merged into nothing.",
    ),
    "a trailer without colon": Reply(
        _chunks(b"5\r\nhello\r\n0\r\nhello\r\n\r\n"),
    ),
    "trailers of 20 KiB": Reply(
        _chunks(b"5\r\nhello\r\n0\r\nX: " + b"a" * 20 * 1024 + b"\r\n\r\n"),
        "Refused above 16 KiB.",
    ),
    # -- what has no body, or not the one that it announces
    "204": Reply(b"HTTP/1.1 204 No Content\r\n\r\n", body=b""),
    "204 with Content-Length 5": Reply(
        b"HTTP/1.1 204 No Content\r\n" + LENGTH + END + b"hello",
        "Refused: RFC 9110 section 8.6 says that a 204 must not announce a body.",
        b"",
    ),
    "204 and bytes behind it": Reply(
        b"HTTP/1.1 204 No Content\r\n\r\nhello",
        body=b"",
    ),
    "304 with Content-Length": Reply(b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + END, body=b""),
    "HEAD with Content-Length": Reply(OK + LENGTH + END, body=b"", method="HEAD"),
    "bytes beyond Content-Length": Reply(
        HELLO + b"HTTP/1.1 200 evil\r\n\r\n",
    ),
    "until the close": Reply(OK + END + b"hello"),
    # -- 1xx
    "103 before it": Reply(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + HELLO),
    "ten interim responses": Reply(10 * b"HTTP/1.1 103 Early Hints\r\n\r\n" + HELLO),
    "11 interim responses": Reply(
        11 * b"HTTP/1.1 103 Early Hints\r\n\r\n" + HELLO,
        "Refused: whoever sends more than ten may go on for ever.",
    ),
    "101 that nobody asked for": Reply(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + HELLO,
        "Refused: it answers a request that asked for an upgrade (RFC 9110 section 15.2.2).",
    ),
    # -- cut short
    "nothing": Reply(b""),
    "cut within the status line": Reply(b"HTTP/1.1 20"),
    "cut within the header block": Reply(
        OK + LENGTH + b"X: ",
        body=b"",
    ),
    "cut before the blank line": Reply(OK + LENGTH, body=b""),
    "cut within a body of a length": Reply(OK + LENGTH + END + b"hell"),
    "cut within a chunk": Reply(_chunks(b"5\r\nhell")),
    "cut behind a chunk": Reply(_chunks(b"5\r\nhello\r\n")),
    "cut within the last chunk": Reply(_chunks(b"5\r\nhello\r\n0\r\n")),
    "cut within the trailers": Reply(_chunks(b"5\r\nhello\r\n0\r\nX: y\r\n")),
    # -- compressed
    "gzip": Reply(_gzipped(_GZIP), coded=True),
    "gzip, two members": Reply(
        _gzipped(_GZIP + gzip.compress(b", hello", mtime=0)),
        body=b"hello, hello",
        coded=True,
    ),
    "gzip, cut short": Reply(
        _gzipped(_GZIP[:-4]),
        coded=True,
    ),
    "gzip, cut short, of the right length": Reply(
        _gzipped(_GZIP[:-4], b"Content-Length: %d\r\n" % (len(_GZIP) - 4)), coded=True
    ),
    "gzip that is none": Reply(_gzipped(b"hello"), coded=True),
    "gzip with bytes behind it": Reply(
        _gzipped(_GZIP + b"garbage"),
        coded=True,
    ),
}
