"""Messages that both ends take, and the events they amount to."""

from __future__ import annotations

from typing import Any, NamedTuple


class Message(NamedTuple):
    """A message: its bytes, the events, and how the connection stands behind it.

    `method` is that of the request. `ends` tells whether it ends by itself, not by the close.
    """

    wire: bytes
    events: list[Any]
    method: str = "GET"
    reusable: bool = True
    ends: bool = True


END = ("end", b"")

RESPONSES: dict[str, Message] = {
    "length": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        [(200, "length", True), b"hello", END],
    ),
    "length 0": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [(200, "length", True), END]
    ),
    "no reason phrase": Message(
        b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\nno", [(404, "length", True), b"no", END]
    ),
    "no space behind the code": Message(
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", [(200, "length", True), b"ok", END]
    ),
    "obs-text in reason and value": Message(
        b"HTTP/1.1 200 d\xe9j\xe0 vu\r\nX: \xff\tz\r\nContent-Length: 0\r\n\r\n",
        [(200, "length", True), END],
    ),
    "obs-text in Content-Encoding": Message(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\r\nContent-Length: 0\r\n\r\n",
        [(200, "length", True), END],
    ),
    "no field but the framing, without spaces": Message(
        b"HTTP/1.1 200 OK\r\ncontent-length:1\r\n\r\nx", [(200, "length", True), b"x", END]
    ),
    "an empty value": Message(
        b"HTTP/1.1 200 OK\r\nX:\r\nContent-Length: 1\r\n\r\nx", [(200, "length", True), b"x", END]
    ),
    "body like a head": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nA: b\r\n\r\nxy",
        [(200, "length", True), b"A: b\r\n\r\nxy", END],
    ),
    "asks to close": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nok",
        [(200, "length", False), b"ok", END],
        reusable=False,
    ),
    "1.0": Message(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        [(200, "length", False), b"ok", END],
        reusable=False,
    ),
    "1.0 keeps alive": Message(
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
        [(200, "length", True), b"ok", END],
    ),
    "1.0 cannot decide": Message(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok",
        [(200, "length", False), b"ok", END],
        reusable=False,
    ),
    "1.0 chunked": Message(
        # RFC 9112 section 6.1: read it, and close.
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\n\r\n",
        [(200, "chunked", False), b"ok", END],
        reusable=False,
    ),
    "until the close": Message(
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        [(200, "close", False), b"hello", END],
        reusable=False,
        ends=False,
    ),
    "until the close, nothing": Message(
        b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", [(200, "close", False), END], reusable=False, ends=False
    ),
    "chunked": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n00A\r\n, chunked!\r\n0\r\n\r\n",
        [(200, "chunked", True), b"hello, chunked!", END],
    ),
    "chunked, nothing": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n000\r\n\r\n",
        [(200, "chunked", True), END],
    ),
    "chunked, extensions": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'2;a\r\nok\r\n2 ; b="c;\t";d=e\r\nok\r\n0;last\r\n\r\n',
        [(200, "chunked", True), b"okok", END],
    ),
    "chunked, trailers": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n",
        [(200, "chunked", True), b"ok", ("end", b"X: y\r\nContent-Length: 7\r\n\r\n")],
    ),
    "chunks that hold CRLFs": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n\r\n\r\n\r\n2\r\n0\r\r\n0\r\n\r\n",
        [(200, "chunked", True), b"\r\n\r\n0\r", END],
    ),
    "204": Message(b"HTTP/1.1 204 No Content\r\n\r\n", [(204, "none", True), END]),
    "204 with length 0": Message(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", [(204, "none", True), END]
    ),
    "304 with length": Message(
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\n\r\n", [(304, "none", True), END]
    ),
    "HEAD": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", [(200, "none", True), END], "HEAD"
    ),
    "HEAD chunked": Message(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", [(200, "none", True), END], "HEAD"
    ),
    "CONNECT refused": Message(
        b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno",
        [(407, "length", True), b"no", END],
        "CONNECT",
    ),
    "CONNECT": Message(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        [(200, "none", True)],
        "CONNECT",
        reusable=False,
    ),
    "interim": Message(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        [(100, "none", True), (103, "none", True), (200, "length", True), b"ok", END],
    ),
    "interim with a length": Message(
        b"HTTP/1.1 103 X\r\nContent-Length: 3\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        [(103, "none", True), (200, "length", True), b"ok", END],
    ),
    "interim of 1.0": Message(
        b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        [(100, "none", False), (204, "none", True), END],
    ),
}

REQUESTS: dict[str, Message] = {
    "GET": Message(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", [("GET", "/", "none", True), END]),
    "1.0": Message(b"GET / HTTP/1.0\r\n\r\n", [("GET", "/", "none", False), END], reusable=False),
    "1.0 keeps alive": Message(
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [("GET", "/", "none", True), END]
    ),
    "length": Message(
        b"POST /p?q=%20 HTTP/1.1\r\nHost: example:8080\r\nContent-Length: 5\r\n\r\nhello",
        [("POST", "/p?q=%20", "length", True), b"hello", END],
    ),
    "length 0": Message(
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        [("POST", "/", "none", True), END],
    ),
    "chunked": Message(
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n",
        [("PUT", "/", "chunked", True), b"abcde", ("end", b"T: u\r\n\r\n")],
    ),
    "close": Message(
        b"GET / HTTP/1.1\r\nHost: h\r\nconnection:close\r\n\r\n",
        [("GET", "/", "none", False), END],
        reusable=False,
    ),
    "OPTIONS": Message(
        b"OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n", [("OPTIONS", "*", "none", True), END]
    ),
    "absolute form": Message(
        b"GET http://example/x HTTP/1.1\r\nHost: example\r\n\r\n",
        [("GET", "http://example/x", "none", True), END],
    ),
    "CONNECT": Message(
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
        [("CONNECT", "[::1]:443", "none", True), END],
    ),
    "a method of one's own": Message(
        b"M-SEARCH /x HTTP/1.1\r\nHost: h\r\n\r\n", [("M-SEARCH", "/x", "none", True), END]
    ),
    "blank lines before it": Message(
        b"\r\n\r\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
        [("POST", "/", "length", True), b"x", END],
    ),
    "three, of which one is followed by a blank line": Message(
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok\r\n"
        b"GET /3 HTTP/1.1\r\nHost: h\r\n\r\n",
        [
            ("GET", "/1", "none", True),
            END,
            ("POST", "/2", "length", True),
            b"ok",
            END,
            ("GET", "/3", "none", True),
            END,
        ],
    ),
}
