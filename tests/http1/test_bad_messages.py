"""What is no message: matrix 1 to 14, 18 to 20 and 22, on either end, however it is cut.

Every refusal comes without the end of the stream: a peer that waits must not make us wait.
"""

from __future__ import annotations

import pytest

from whimbrel._http1.errors import IncompleteError, LimitError, ProtocolError
from whimbrel._http1.framing import NONE
from whimbrel._http1.protocol import Event, Head, Protocol

from .support import CHUNKED, CLIENT, GET, OK, POST, SERVER, connection, feed, refusal, told_by

OK_CHUNKED = OK + CHUNKED
POST_CHUNKED = POST + CHUNKED
LENGTH_2 = b"Content-Length: 2\r\n"

# What may be wrong with a field line, whoever sends it.
BAD_FIELDS: dict[str, bytes] = {
    # 4
    "first line folded": b" X: y\r\n",
    "first line folded with a tab": b"\tX: y\r\n",
    "obs-fold": b"X: y\r\n z\r\n",
    "obs-fold with a tab": b"X: y\r\n\tz\r\n",
    "obs-fold of nothing": b"X: y\r\n \r\n",
    # 5
    "NUL in a value": b"X: a\0b\r\n",
    "NUL in a name": b"X\0: a\r\n",
    "bare CR in a value": b"X: a\rb\r\n",
    "bare CR in a name": b"X\rY: a\r\n",
    "two CRs": b"X: a\r\r\n",
    "DEL in a value": b"X: \x7f\r\n",
    "control byte in a value": b"X: \x1b[0m\r\n",
    "vertical tab before a value": b"X:\x0bchunked\r\n",
    "tab in a name": b"X\tY: a\r\n",
    "obs-text in a name": b"X\xe9: a\r\n",
    "quotes in a name": b'"X": a\r\n',
    # 6
    "no colon": b"hello\r\n",
    "empty name": b": x\r\n",
    "space before the colon": b"X : y\r\n",
    "tab before the colon": b"X\t: y\r\n",
    "space in a name": b"X Y: z\r\n",
}


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 +20 OK\r\n",
        b"HTTP/1.1 2x0 OK\r\n",
        b"HTTP/1.1 -200 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1\t200 OK\r\n",
        b"HTTP/1.1 200\tOK\r\n",
        b"HTTP/1.1 200OK\r\n",
        b"HTTP/1.1 OK\r\n",
        b"HTTP/1.1\r\n",
        b"HTTP/1.1 200 a\0b\r\n",
        b"HTTP/1.1 200 a\rb\r\n",
        b" HTTP/1.1 200 OK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b"\r\n",
    ],
)
def test_matrix_01_status_lines(line: bytes) -> None:
    """Matrix 1: garbage, and codes that are not three digits from 100 on."""
    assert refusal(CLIENT, line) is ProtocolError
    assert refusal(CLIENT, line + LENGTH_2 + b"\r\nok") is ProtocolError


def test_matrix_01_garbage_is_refused_at_its_first_byte() -> None:
    """Matrix 1: who speaks another protocol is not waited for."""
    protocol = connection(CLIENT)
    protocol.receive(b"220 mail ready")
    with pytest.raises(ProtocolError, match=r"no HTTP/1\.x reply: '220 mail ready'"):
        protocol.next_event()


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.1", b"ICY"])
def test_matrix_02_versions(version: bytes) -> None:
    """Matrix 2: only HTTP/1.0 and HTTP/1.1, for either end."""
    assert refusal(CLIENT, version + b" 200 OK\r\n" + LENGTH_2 + b"\r\nok") is ProtocolError
    assert refusal(SERVER, b"GET / " + version + b"\r\nHost: h\r\n\r\n") is ProtocolError


@pytest.mark.parametrize(
    "line",
    [b"HTTP/2 200\r\n", b"HTTP/11 200 OK\r\n", b"HTTP/1.10 200 OK\r\n", b"HTTP/1 200 OK\r\n"],
)
def test_matrix_02_almost_versions(line: bytes) -> None:
    """Matrix 2: a version has one digit, a dot, and one digit."""
    assert refusal(CLIENT, line + LENGTH_2 + b"\r\nok") is ProtocolError


def test_matrix_02_http_0_9() -> None:
    """Matrix 2: a reply or a request without a version is none."""
    assert refusal(CLIENT, b"<html>hello</html>") is ProtocolError
    assert refusal(SERVER, b"GET /\r\n") is ProtocolError


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        b"HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok",
    ],
)
def test_matrix_03_bare_lf_in_a_response(wire: bytes) -> None:
    """Matrix 3: a client takes bare LFs in the header block; the first blank line ends it."""
    told = told_by(CLIENT, wire, eof=False)
    assert told.events == [(200, "length", True), b"ok", ("end", b"")]
    assert told.reusable


def test_matrix_03_a_body_behind_bare_lfs_may_look_like_a_head() -> None:
    """Matrix 3: the CRLFs of a body do not move the end of the block before it."""
    body = b"x" * 40 + b"\r\n\r\n" + b"y" * 40
    wire = b"HTTP/1.1 200 OK\nContent-Length: 84\n\n" + body
    assert told_by(CLIENT, wire, eof=False).body == body
    # Nor do those of a large one make the block too large.
    body = b"x" * 70_000 + b"\r\n\r\n"
    wire = b"HTTP/1.1 200 OK\nContent-Length: 70004\n\n" + body
    for whole in (False, True):
        assert feed(connection(CLIENT), [wire], whole=whole).body == body


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\n\n",
        b"GET / HTTP/1.1\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
    ],
)
def test_matrix_03_bare_lf_in_a_request(wire: bytes) -> None:
    """Matrix 3: a server refuses them, at once: no CRLF may ever come."""
    assert refusal(SERVER, wire) is ProtocolError


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_matrix_04_05_06_fields(name: str) -> None:
    """Matrix 4 to 6: folded lines, control characters, and lines that are no field."""
    field = BAD_FIELDS[name]
    for before, after in ((b"", LENGTH_2), (LENGTH_2, b"")):
        assert refusal(CLIENT, OK + before + field + after + b"\r\nok") is ProtocolError
    assert refusal(SERVER, GET + field + b"\r\n") is ProtocolError
    assert refusal(SERVER, b"GET / HTTP/1.1\r\n" + field + b"Host: h\r\n\r\n") is ProtocolError


@pytest.mark.parametrize("code", [*range(9), *range(11, 32), 127])
def test_matrix_05_every_control_byte(code: int) -> None:
    """Matrix 5: no control byte but the tab stands in a value, and none in a name."""
    control = bytes([code])
    for field in (b"X: a" + control + b"b\r\n", b"a" + control + b"b: x\r\n"):
        assert refusal(CLIENT, OK + field + LENGTH_2 + b"\r\n") is ProtocolError
        assert refusal(SERVER, GET + field + b"\r\n") is ProtocolError


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b" X: y\r\n", "a folded header line"),
        (b"secret\r\n", "a header line without a colon: 'secret'"),
        (b"X : secret\r\n", "a malformed header name: 'X '"),
        (b"X: secret\0\r\n", "a control character in header 'X'"),
    ],
)
def test_matrix_04_05_06_messages(field: bytes, message: str) -> None:
    """The error says which line it is, escapes what it shows, and keeps a value to itself."""
    protocol = connection(CLIENT)
    protocol.receive(OK + field + b"\r\n")
    with pytest.raises(ProtocolError) as caught:
        protocol.next_event()
    assert str(caught.value) == message
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "value",
    [
        b"+2",
        b"-2",
        b"1_0",
        b"0x2",
        b"",
        b" ",
        b"two",
        b"2 2",
        b"2;",
        b"2.0",
        b"2,",
        b",2",
        b"2,3",
        b"\xb2",
        b"\xef\xbc\x92",
        b"100000000000000000000000",
        b"9223372036854775808",
    ],
)
def test_matrix_07_lengths(value: bytes) -> None:
    """Matrix 7: Content-Length is decimal digits, and less than 2**63."""
    field = b"Content-Length: " + value + b"\r\n\r\n"
    assert refusal(CLIENT, OK + field) is ProtocolError
    assert refusal(SERVER, POST + field) is ProtocolError


def test_matrix_07_the_largest_length() -> None:
    """Matrix 7: 2**63 - 1 is still a length."""
    for role, start in ((CLIENT, OK), (SERVER, POST)):
        protocol = connection(role)
        protocol.receive(start + b"Content-Length: 9223372036854775807\r\n\r\nx")
        head = protocol.next_event()
        assert isinstance(head, Head)
        assert head.length == 2**63 - 1
        assert protocol.next_event() == b"x"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2\r\nX: y\r\ncontent-length: 02\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: 2, 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2\r\nContent-Length:\r\n",
    ],
)
def test_matrix_08_unequal_lengths(fields: bytes) -> None:
    """Matrix 8: lengths that differ are refused by both ends."""
    assert refusal(CLIENT, OK + fields + b"\r\nok") is ProtocolError
    assert refusal(SERVER, POST + fields + b"\r\nok") is ProtocolError


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 2, 2\r\n", b"Content-Length: 2\r\ncontent-length: 2\r\n"]
)
def test_matrix_08_equal_lengths(fields: bytes) -> None:
    """Matrix 8: equal ones count once for a client; a server refuses them."""
    assert told_by(CLIENT, OK + fields + b"\r\nok", eof=False).body == b"ok"
    assert refusal(SERVER, POST + fields + b"\r\nok") is ProtocolError


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"transfer-encoding: CHUNKED\r\nX: y\r\nCONTENT-LENGTH: 0\r\n",
    ],
)
def test_matrix_09_length_and_transfer_encoding(fields: bytes) -> None:
    """Matrix 9: both together are how messages are smuggled."""
    assert refusal(CLIENT, OK + fields + b"\r\n") is ProtocolError
    assert refusal(CLIENT, OK + fields + b"\r\n", "HEAD") is ProtocolError
    assert refusal(SERVER, POST + fields + b"\r\n") is ProtocolError


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunkedx\r\n",
        b"Transfer-Encoding: ,chunked\r\n",
        b"Transfer-Encoding: chunked,\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked chunked\r\n",
        b"Transfer-Encoding: chunked;a=b\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: \r\n",
        b'Transfer-Encoding: "chunked"\r\n',
    ],
)
def test_matrix_10_transfer_encodings(fields: bytes) -> None:
    """Matrix 10: ``chunked`` once and alone, or an error; never a body read some other way."""
    assert refusal(CLIENT, OK + fields + b"\r\n2\r\nok\r\n0\r\n\r\n") is ProtocolError
    assert refusal(SERVER, POST + fields + b"\r\n2\r\nok\r\n0\r\n\r\n") is ProtocolError


def test_matrix_10_transfer_encoding_in_http_1_0() -> None:
    """Matrix 10: a request of HTTP/1.0 with Transfer-Encoding was mangled on its way."""
    wire = b"POST / HTTP/1.0\r\n" + CHUNKED + b"2\r\nok\r\n0\r\n\r\n"
    assert refusal(SERVER, wire) is ProtocolError


@pytest.mark.parametrize(
    "size",
    [
        b"0x2",
        b"+2",
        b"-2",
        b"0_2",
        b"_2",
        b"",
        b" 2",
        b"\t2",
        b"2 ",
        b"2 3",
        b"g",
        b"2g",
        b"00000000000000002",
        b"8000000000000000",
        b"fffffffffffffffff",
        b"2;\0",
        b"2;a\x0bb",
        b"2,a",
    ],
)
@pytest.mark.parametrize("first", [b"", b"3\r\nabc\r\n"], ids=["first", "second"])
def test_matrix_11_chunk_sizes(size: bytes, first: bytes) -> None:
    """Matrix 11: a size is 1 to 16 hexadecimal digits, and less than 2**63."""
    wire = first + size + b"\r\nok\r\n0\r\n\r\n"
    for told in (
        told_by(CLIENT, OK_CHUNKED + wire, eof=False),
        told_by(SERVER, POST_CHUNKED + wire, eof=False),
    ):
        # The data before the fault is told, once, whether or not it came together with it.
        assert told.events[1:] == [*([b"abc"] if first else []), ProtocolError]


@pytest.mark.parametrize(
    "wire",
    [
        b"2\r\nokXX0\r\n\r\n",
        b"2\r\nok\n0\r\n\r\n",
        b"2\r\nok\r0\r\n\r\n",
        b"2\r\nok0\r\n\r\n",
        b"2\r\nokay\r\n0\r\n\r\n",
        b"2\r\nok\n\r0\r\n\r\n",
    ],
)
def test_matrix_12_chunk_terminators(wire: bytes) -> None:
    """Matrix 12: behind the data of a chunk stands CRLF, and not any two bytes."""
    for told in (
        told_by(CLIENT, OK_CHUNKED + wire, eof=False),
        told_by(SERVER, POST_CHUNKED + wire, eof=False),
    ):
        assert told.events[1:] == [b"ok", ProtocolError]


@pytest.mark.parametrize(
    "wire",
    [
        b"2\nok\r\n0\r\n\r\n",
        b"2;x\nok\r\n0\r\n\r\n",
        b"2\r\nok\r\n0\n\r\n",
        b"2\r\nok\r\n0\r\n\n",
        b"2\r\nok\r\n0\r\nX: y\n\n",
        b"2\r\nok\r\n0\r\nX: y\n\r\n",
        b"2\r\nok\r\n0\r\nX: y\r\n\n",
        b"2\rXok\r\n0\r\n\r\n",
    ],
)
def test_matrix_12_bare_lf_in_chunks(wire: bytes) -> None:
    """Matrix 12: no bare LF between chunks, for clients neither; refused without waiting."""
    assert refusal(CLIENT, OK_CHUNKED + wire) is ProtocolError
    assert refusal(SERVER, POST_CHUNKED + wire) is ProtocolError


@pytest.mark.parametrize(
    "line", [b"2;a=b", b"2;a=\xff", b"2 \t; a", b"2;" + b"a" * 4000, b"2;;;", b'2;a="\\"']
)
def test_matrix_13_extensions(line: bytes) -> None:
    """Matrix 13: an extension is ignored; that it is long does not matter."""
    wire = line + b"\r\nok\r\n0\r\n\r\n"
    for role, start in ((CLIENT, OK_CHUNKED), (SERVER, POST_CHUNKED)):
        for pieces in ([start + wire], [bytes([byte]) for byte in start + wire]):
            told = feed(connection(role), pieces, eof=False)
            assert told.events[1:] == [b"ok", ("end", b"")]


@pytest.mark.parametrize("padding", [b";" + b"a" * 4096, b" " * 4097, b";" + b" " * 4096])
def test_matrix_13_too_long_an_extension(padding: bytes) -> None:
    """Matrix 13: above 4 KiB it is refused at once, while its line has no end yet."""
    for role, start in ((CLIENT, OK_CHUNKED), (SERVER, POST_CHUNKED)):
        protocol = connection(role)
        protocol.receive(start + b"2" + padding)
        assert isinstance(protocol.next_event(), Head)
        with pytest.raises(LimitError, match="chunk extension passes its limit: 4097 of 4096 byte"):
            protocol.next_event()


@pytest.mark.parametrize(
    "trailer",
    [
        b"X: y\r\nno colon\r\n\r\n",
        b"X: y\r\n folded\r\n\r\n",
        b" X: y\r\n\r\n",
        b"X : y\r\n\r\n",
        b"X: a\0b\r\n\r\n",
        b": y\r\n\r\n",
    ],
)
def test_matrix_14_malformed_trailers(trailer: bytes) -> None:
    """Matrix 14: trailers are field lines, as strictly as in a header block."""
    wire = b"2\r\nok\r\n0\r\n" + trailer
    assert refusal(CLIENT, OK_CHUNKED + wire) is ProtocolError
    assert refusal(SERVER, POST_CHUNKED + wire) is ProtocolError


def test_matrix_14_trailers_change_nothing() -> None:
    """Matrix 14: what trailers say of framing, connection or host stays with the trailers."""
    trailers = (
        b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\nConnection: close\r\nHost: evil\r\n\r\n"
    )
    wire = b"0\r\n" + trailers
    told = told_by(CLIENT, OK_CHUNKED + wire, eof=False)
    assert told.events == [(200, "chunked", True), ("end", trailers)]
    assert told.reusable
    told = told_by(SERVER, POST_CHUNKED + wire + GET + b"\r\n", eof=False)
    assert told.events[1:] == [("end", trailers), ("GET", "/", "none", True), ("end", b"")]


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", b"200 OK"), ("GET", b"204 No"), ("GET", b"304 No")]
)
def test_matrix_18_a_body_where_none_may_be(method: str, status: bytes) -> None:
    """Matrix 18: bytes behind HEAD, 204 and 304 are no body, and end the connection's use."""
    told = told_by(CLIENT, b"HTTP/1.1 " + status + b"\r\n\r\nevil", method, eof=False)
    assert told.events == [(int(status[:3]), "none", True), ("end", b"")]
    assert told.rest == b"evil"
    assert not told.reusable


def test_matrix_18_a_204_with_a_length() -> None:
    """Matrix 18: a 204 that announces a body contradicts itself."""
    assert refusal(CLIENT, b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok") is ProtocolError


def test_matrix_19_bytes_beyond_the_length() -> None:
    """Matrix 19: they never begin the next response: the connection refuses a next request."""
    protocol = connection(CLIENT)
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    told = feed(protocol, [OK + LENGTH_2 + b"\r\nok" + evil], eof=False)
    assert told.events[-1] == ("end", b"")
    assert told.rest == evil
    protocol.receive(evil)
    assert not protocol.is_reusable()
    with pytest.raises(Exception, match="the connection cannot be used again"):
        protocol.next_message()


def test_matrix_19_bytes_that_come_while_nobody_asks() -> None:
    """Matrix 19: a connection that was reusable is not, once something has come on it."""
    protocol = connection(CLIENT)
    feed(protocol, [OK + LENGTH_2 + b"\r\nok"], eof=False)
    assert protocol.is_reusable()
    protocol.receive(b"H")
    assert not protocol.is_reusable()


@pytest.mark.parametrize("method", ["GET", "CONNECT", "HEAD"])
def test_matrix_20_unrequested_101(method: str) -> None:
    """Matrix 20: only a request that asked for another protocol is switched."""
    wire = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    assert refusal(CLIENT, wire, method) is ProtocolError


def test_matrix_20_interim_responses() -> None:
    """Matrix 20: ten interim responses pass, an eleventh does not."""
    interim = b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"
    final = OK + LENGTH_2 + b"\r\nok"
    told = told_by(CLIENT, 10 * interim + final, eof=False)
    assert told.events == [(103, "none", True)] * 10 + [(200, "length", True), b"ok", ("end", b"")]
    told = told_by(CLIENT, 11 * interim, eof=False)
    assert told.events == [(103, "none", True)] * 10 + [LimitError]


def test_matrix_20_each_request_has_ten() -> None:
    """Matrix 20: the count is that of one request."""
    protocol = connection(CLIENT)
    wire = 10 * b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH_2 + b"\r\nok"
    for _ in range(3):
        told = feed(protocol, [wire], eof=False)
        assert told.error is None
        protocol.next_message()
        protocol.start_request("GET", NONE)


# -- 22: requests


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a, b\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: a?b\r\n",
        b"Host: a#b\r\n",
        b"Host: a/?#\r\n",
        b"Host: user@a\r\n",
        b"Host: a:b\r\n",
        b"Host: a:123456\r\n",
        b"Host: a:1:2\r\n",
        b"Host: [::1\r\n",
        b"Host: [::g]\r\n",
        b"Host: ::1\r\n",
        b"Host: a%2\r\n",
        b"Host: a\\b\r\n",
        b"Host: <a>\r\n",
        b"Host: \xe9\r\n",
    ],
)
def test_matrix_22_hosts(fields: bytes) -> None:
    """Matrix 22: exactly one Host, and one that names a host."""
    assert refusal(SERVER, b"GET / HTTP/1.1\r\n" + fields + b"\r\n") is ProtocolError


@pytest.mark.parametrize(
    "host",
    [b"", b"a", b"A.b-c_d:80", b"a:", b"127.0.0.1:8080", b"[::1]", b"[::ffff:1.2.3.4]:1", b"%41"],
)
def test_matrix_22_valid_hosts(host: bytes) -> None:
    """Matrix 22: what RFC 9110 section 7.2 allows, the empty one included."""
    wire = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    assert told_by(SERVER, wire, eof=False).error is None


def test_matrix_22_host_in_http_1_0() -> None:
    """Matrix 22: HTTP/1.0 needs no Host; a wrong one is wrong there too."""
    assert told_by(SERVER, b"GET / HTTP/1.0\r\n\r\n", eof=False).error is None
    assert refusal(SERVER, b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n") is ProtocolError
    assert refusal(SERVER, b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n") is ProtocolError


@pytest.mark.parametrize(
    "line",
    [
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /a\0 HTTP/1.1",
        b"GET /a\x7f HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"G\xc9T / HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1.1\r",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0",
    ],
)
def test_matrix_22_request_lines(line: bytes) -> None:
    """Matrix 22: method, space, target, space, version; and no other byte."""
    assert refusal(SERVER, line + b"\r\nHost: h\r\n\r\n") is ProtocolError


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"x"),
        (b"GET", b"*"),
        (b"GET", b"?x"),
        (b"GET", b"example.com"),
        (b"POST", b"*"),
        (b"OPTIONS", b"**"),
        (b"CONNECT", b"/"),
        (b"CONNECT", b"*"),
        (b"CONNECT", b"example.com"),
        (b"CONNECT", b"http://example.com/"),
        (b"CONNECT", b"user@example.com:1"),
        (b"CONNECT", b"example.com:"),
        (b"CONNECT", b"example.com:123456"),
        (b"CONNECT", b"[::1:443"),
    ],
)
def test_matrix_22_targets(method: bytes, target: bytes) -> None:
    """Matrix 22: each method has its forms of a target (RFC 9112 section 3.2)."""
    wire = method + b" " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    assert refusal(SERVER, wire) is ProtocolError


@pytest.mark.parametrize(
    "greeting",
    [
        b"\x16",  # TLS
        b"\x80",  # SSL 2
        b"\x00",
        b"\x05",  # SOCKS
        b" ",
        b"\n",
        b"\r\r",
        b"GET\r",
        b"GET\t",
        b"G(",
        b"\r\n\x16",
    ],
)
def test_matrix_22_another_protocol_is_refused_at_once(greeting: bytes) -> None:
    """Matrix 22: its client may wait for an answer, and never send the end of a line."""
    assert refusal(SERVER, greeting) is ProtocolError
    protocol = connection(SERVER)
    for at in range(len(greeting) - 1):
        protocol.receive(greeting[at : at + 1])
        assert protocol.next_event() is None
    protocol.receive(greeting[-1:])
    with pytest.raises(ProtocolError, match="does not begin with a method"):
        protocol.next_event()


@pytest.mark.parametrize("begun", [b"G", b"GET", b"GET ", b"GET \x01", b"!#-", b"\r", b"\r\n\r"])
def test_matrix_22_what_may_become_a_request_is_waited_for(begun: bytes) -> None:
    """Matrix 22: only the method is looked at before the line has ended."""
    assert told_by(SERVER, begun, eof=False).events == []


@pytest.mark.parametrize(
    ("target", "taken"),
    [
        (b"/a#b", False),  # RFC 3986 section 3.5: a fragment stays with the client
        (b"/?a#b", False),
        (b"/#", False),
        (b"http://h/#", False),
        (b"/a\\b", False),  # which is "/a/b" to some
        (b"\\", False),
        (b"http:\\h", False),
        (b"/?a\\b", True),  # browsers send it, and these
        (b"/?a?b", True),
        (b'/a|b{c}^`<d>"', True),
        (b"?", False),
        (b"", False),
    ],
)
def test_matrix_22_characters_of_a_target(target: bytes, taken: bool) -> None:
    """Matrix 22: no fragment, no backslash in a path; what else browsers leave raw passes."""
    wire = b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    told = told_by(SERVER, wire, eof=False)
    assert told.error is (None if taken else ProtocolError)


def test_blank_lines_before_a_request() -> None:
    """RFC 9112 section 2.2: a few CRLFs before a request are skipped, and not many."""
    told = told_by(SERVER, 4 * b"\r\n" + GET + b"\r\n", eof=False)
    assert told.events == [("GET", "/", "none", True), ("end", b"")]
    assert refusal(SERVER, 5 * b"\r\n" + GET + b"\r\n") is ProtocolError
    assert refusal(SERVER, b"\n" + GET + b"\r\n") is ProtocolError
    assert refusal(SERVER, b"\r" + GET + b"\r\n") is ProtocolError


def test_blank_lines_and_no_request() -> None:
    """A client that sends nothing else, and leaves, leaves between requests."""
    assert told_by(SERVER, b"\r\n\r\n").events == ["closed"]
    protocol = Protocol(SERVER)
    protocol.receive(b"\r\n")
    protocol.receive_eof()
    assert protocol.next_event() is Event.CLOSED
    assert protocol.next_event() is None


@pytest.mark.parametrize("wire", [b"", b"H", b"HTTP/1.1", b"HTTP/1.1 200 OK\r\n", OK + LENGTH_2])
def test_matrix_15_no_response(wire: bytes) -> None:
    """Matrix 15: a connection that ends before a response has an error of its own kind."""
    assert told_by(CLIENT, wire).events == [IncompleteError]


def test_a_request_line_is_not_shown() -> None:
    """A target may hold a secret, so the error does not repeat it."""
    protocol = Protocol(SERVER)
    protocol.receive(b"GET /?token=secret HTTP/9\r\n\r\n")
    with pytest.raises(ProtocolError) as caught:
        protocol.next_event()
    assert str(caught.value) == "a malformed request line"
