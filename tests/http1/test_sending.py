"""Our own side: what goes on the wire, and what is refused before it does. Matrix 62, 63."""

from __future__ import annotations

import pytest

from whimbrel._http1 import grammar
from whimbrel._http1.errors import LocalProtocolError
from whimbrel._http1.framing import CHUNKED, CLOSE, LENGTH, NONE
from whimbrel._http1.grammar import (
    encode_chunk,
    encode_fields,
    encode_request_line,
    encode_status_line,
)
from whimbrel._http1.protocol import Event, Head, Protocol

from .support import CLIENT, GET, SERVER

CONTROL = [chr(code) for code in (*range(32), 127)]


def test_lines() -> None:
    """The bytes of each line."""
    assert encode_request_line("GET", "/a?b\\|c") == b"GET /a?b\\|c HTTP/1.1\r\n"
    assert encode_status_line(200, "OK") == b"HTTP/1.1 200 OK\r\n"
    assert encode_status_line(599, "") == b"HTTP/1.1 599 \r\n"
    assert encode_fields([]) == b""
    assert encode_fields([("A", "b"), ("a", ""), ("X-A", "\xe9\tz")]) == (
        b"A: b\r\na:\r\nX-A: \xe9\tz\r\n"
    )
    for value in (" \t", "%s", "a: ", "% d"):
        assert encode_fields([("X-%s", value), ("%", " a: b ")]) == (
            f"X-%s: {value}".rstrip().encode() + b"\r\n%: a: b\r\n"
        )
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize("char", [*CONTROL, " ", ":", "(", '"', "\xe9", "\u20ac", "\u212a"])
def test_matrix_62_names_and_methods(char: str) -> None:
    """Matrix 62: a name or a method is a token, and nothing else gets through."""
    for bad in (char, f"a{char}", f"{char}a", f"a{char}b"):
        with pytest.raises(LocalProtocolError, match="cannot be a header name"):
            encode_fields([("Good", "x"), (bad, "x")])
        with pytest.raises(LocalProtocolError, match="cannot be a method"):
            encode_request_line(bad, "/")


@pytest.mark.parametrize("char", [*(c for c in CONTROL if c != "\t"), "\u0100", "\u20ac"])
def test_matrix_62_values(char: str) -> None:
    """Matrix 62: no control byte but the tab in a value or a reason; the value is not shown."""
    for bad in (char, f"secret{char}", f"{char}secret", f"secret{char}secret"):
        with pytest.raises(LocalProtocolError, match="header X-Name holds a character") as caught:
            encode_fields([("X-Name", bad)])
        assert "secret" not in str(caught.value)
        with pytest.raises(LocalProtocolError, match="reason phrase"):
            encode_status_line(200, bad)


def test_remembered_names_are_bounded() -> None:
    """Names that have been checked are known, and may be another's each time."""
    for number in range(2_000):
        assert encode_fields([(f"X-{number}", "1")]) == b"X-%d: 1\r\n" % number
    encode_fields([("Y" * 1_100, "1")])
    assert 0 < len(grammar._templates) <= 256
    assert max(map(len, grammar._templates.values())) <= 1_024


@pytest.mark.parametrize("char", [*CONTROL, " ", "#", "\xe9", "\u20ac", "\u3002"])
def test_matrix_62_targets(char: str) -> None:
    """Matrix 62: a target is visible ASCII without "#"; it is not shown, it may hold a secret."""
    for bad in (char, f"/secret{char}", f"{char}/secret", f"/secret{char}secret"):
        with pytest.raises(LocalProtocolError, match="the request target") as caught:
            encode_request_line("GET", bad)
        assert "secret" not in str(caught.value)


def test_empty_strings() -> None:
    """What must not be empty is refused when it is."""
    with pytest.raises(LocalProtocolError):
        encode_request_line("", "/")
    with pytest.raises(LocalProtocolError):
        encode_request_line("GET", "")
    with pytest.raises(LocalProtocolError):
        encode_fields([("", "x")])


@pytest.mark.parametrize("code", [-200, 0, 99, 1000])
def test_status_codes(code: int) -> None:
    """A status has three digits."""
    with pytest.raises(LocalProtocolError, match=f"{code} cannot be a status code"):
        encode_status_line(code, "OK")


# -- bodies


def test_a_body_of_a_length() -> None:
    """Pieces go out as they are, up to the length, and then it can be ended."""
    client = Protocol(CLIENT)
    client.start_request("POST", LENGTH, 5)
    assert client.encode_body(b"he") == b"he"
    assert client.encode_body(b"") == b""
    assert client.encode_body(b"llo") == b"llo"
    assert client.end_body() == b""
    assert client.end_body() == b""
    assert client.our_state == "DONE"


def test_matrix_63_a_body_too_long() -> None:
    """Matrix 63: a byte more than Content-Length is refused before it is sent."""
    client = Protocol(CLIENT)
    client.start_request("POST", LENGTH, 5)
    client.encode_body(b"hello")
    with pytest.raises(LocalProtocolError, match="the body is 2 bytes longer than its Content-Len"):
        client.encode_body(b"!!")


def test_matrix_63_a_body_too_short() -> None:
    """Matrix 63: a body that ends too soon is refused, and the connection is not used again."""
    client = Protocol(CLIENT)
    client.start_request("POST", LENGTH, 5)
    client.encode_body(b"hel")
    with pytest.raises(LocalProtocolError, match="2 bytes shorter than its Content-Length"):
        client.end_body()
    assert not client.is_reusable()


def test_a_chunked_body() -> None:
    """Each piece is a chunk; an empty one is nothing, since it would be the last."""
    client = Protocol(CLIENT)
    client.start_request("POST", CHUNKED)
    assert client.encode_body(b"hello world, again") == b"12\r\nhello world, again\r\n"
    assert client.encode_body(b"") == b""
    assert client.end_body() == b"0\r\n\r\n"
    with pytest.raises(LocalProtocolError, match="no data may be sent now: this side is at DONE"):
        client.encode_body(b"more")


def test_pieces_that_are_sent_together() -> None:
    """They count as one, and are one chunk, though nobody joins them."""
    client = Protocol(CLIENT)
    client.start_request("POST", LENGTH, 5)
    assert client.encode_pieces([b"he", memoryview(b"l")]) == [b"he", b"l"]
    with pytest.raises(LocalProtocolError, match="the body is 2 bytes longer than its Content-Len"):
        client.encode_pieces([b"lo", b"!!"])
    client = Protocol(CLIENT)
    client.start_request("POST", CHUNKED)
    pieces = client.encode_pieces([b"hello world", b", again"])
    assert pieces == [b"12\r\n", b"hello world", b", again", b"\r\n"]
    client.end_body()
    with pytest.raises(LocalProtocolError, match="no data may be sent now"):
        client.encode_pieces([b"more"])


def test_a_body_until_the_close() -> None:
    """A response to HTTP/1.0 may end with the connection, which then is not kept."""
    server = _asked(GET + b"\r\n")
    server.start_response(200, CLOSE)
    assert server.encode_body(b"hello") == b"hello"
    assert server.end_body() == b""
    assert not server.keep_alive


def test_no_body() -> None:
    """A request without a body is whole with its head."""
    client = Protocol(CLIENT)
    client.start_request("GET", NONE)
    assert client.our_state == "DONE"
    assert client.end_body() == b""
    with pytest.raises(LocalProtocolError, match="no data may be sent now"):
        client.encode_body(b"x")


@pytest.mark.parametrize(
    ("request_head", "code"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok", 404),
        (GET + b"\r\n", 204),
        (GET + b"\r\n", 304),
    ],
)
@pytest.mark.parametrize("framing", [NONE, LENGTH, CHUNKED, CLOSE])
@pytest.mark.parametrize("whole", [False, True])
def test_responses_without_body(request_head: bytes, code: int, framing: str, whole: bool) -> None:
    """RFC 9112 section 6.3: HEAD, 204 and 304 have no body, whatever their fields announce."""
    server = _asked(request_head, whole=whole)
    server.start_response(code, framing, 5)
    assert server.our_state == "DONE"
    assert server.end_body() == b""
    with pytest.raises(LocalProtocolError):
        server.encode_body(b"hello")


@pytest.mark.parametrize("code", [200, 204, 299])
def test_a_tunnel(code: int) -> None:
    """Behind a 2xx to CONNECT a server speaks no HTTP any more."""
    server = _asked(b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n")
    server.start_response(code, NONE)
    assert server.our_state == "SWITCHED"
    assert not server.is_reusable()
    with pytest.raises(LocalProtocolError):
        server.next_message()


def test_a_tunnel_refused() -> None:
    """Any other response to CONNECT is a response like others."""
    server = _asked(b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n")
    server.start_response(403, LENGTH, 2)
    server.encode_body(b"no")
    server.end_body()
    server.next_message()


def test_interim_responses() -> None:
    """Any number of 1xx before the final head, and none after it."""
    server = _asked(GET + b"\r\n")
    for _ in range(20):
        server.start_response(103, NONE)
    server.start_response(200, LENGTH, 2)
    with pytest.raises(LocalProtocolError, match="no interim may be sent now"):
        server.start_response(100, NONE)


def test_a_server_may_answer_before_it_has_read() -> None:
    """408, or 400 to what is no request: a response needs no request to be sent."""
    server = Protocol(SERVER)
    server.start_response(408, LENGTH, 0, keep_alive=False)
    server.end_body()
    assert not server.keep_alive


def _asked(request: bytes, *, whole: bool = False) -> Protocol:
    server = Protocol(SERVER)
    if whole and server.receive_whole(request) is not None:
        return server
    if not whole:
        server.receive(request)
    assert isinstance(server.next_event(), Head)
    while server.next_event() is not Event.END:
        pass
    return server
