"""Messages and the events they amount to, however the network cuts them."""

from __future__ import annotations

import pytest

from whimbrel._http1.errors import IncompleteError, ProtocolError
from whimbrel._http1.framing import LENGTH, NONE
from whimbrel._http1.protocol import Event, Head, Protocol
from whimbrel._known_heads import KnownHeads

from .messages import END, REQUESTS, RESPONSES
from .support import CLIENT, SERVER, connection, feed, splits, told_by


@pytest.mark.parametrize("name", RESPONSES)
def test_response(name: str) -> None:
    """A response gives the same events whole, byte by byte, and cut in two anywhere."""
    message = RESPONSES[name]
    told = told_by(CLIENT, message.wire, message.method, eof=not message.ends)
    assert told.events == message.events
    assert told.rest == b""
    assert told.reusable is message.reusable


@pytest.mark.parametrize("name", [name for name, message in RESPONSES.items() if message.ends])
def test_response_and_more(name: str) -> None:
    """Bytes behind a response change nothing in it, and the connection is not used again."""
    message = RESPONSES[name]
    extra = b"HTTP/1.1 200 evil\r\nContent-Length: 0\r\n\r\n"
    told = told_by(CLIENT, message.wire + extra, message.method)
    assert told.events == message.events
    assert told.rest == extra
    assert not told.reusable


@pytest.mark.parametrize("name", RESPONSES)
def test_the_next_exchange(name: str) -> None:
    """It begins where the connection is reusable; where it is not, nothing changes."""
    message = RESPONSES[name]
    for extra in (b"", b"\r\n"):
        protocol = connection(CLIENT, message.method)
        assert not protocol.next_exchange()
        protocol.receive(message.wire + extra)
        if not message.ends:
            protocol.receive_eof()
        while protocol.next_event() is not None:
            pass
        before = protocol.our_state, protocol.their_state
        expected = message.reusable and not extra
        assert protocol.next_exchange() is expected
        after = protocol.our_state, protocol.their_state
        assert after == (("HEAD", "HEAD") if expected else before)
        assert protocol.trailers == b"" or not expected


@pytest.mark.parametrize("name", REQUESTS)
def test_request(name: str) -> None:
    """A request gives the same events whole, byte by byte, and cut in two anywhere."""
    message = REQUESTS[name]
    assert told_by(SERVER, message.wire, eof=False).events == message.events
    assert told_by(SERVER, message.wire).events == [*message.events, "closed"]


@pytest.mark.parametrize("name", REQUESTS)
def test_request_and_more(name: str) -> None:
    """What is behind a request is the next one, if the first does not close."""
    message = REQUESTS[name]
    told = told_by(SERVER, message.wire + REQUESTS["length"].wire)
    if message.reusable:
        assert told.events == [*message.events, *REQUESTS["length"].events, "closed"]
    else:
        assert told.events == message.events
        assert told.rest == REQUESTS["length"].wire


@pytest.mark.parametrize("name", RESPONSES)
def test_matrix_15_truncated_response(name: str) -> None:
    """Matrix 15: a response that ends at any byte of it is IncompleteError, never a success."""
    message = RESPONSES[name]
    whole = b"".join(event for event in message.events if isinstance(event, bytes))
    for size in range(len(message.wire)):
        told = feed(connection(CLIENT, message.method), [message.wire[:size]])
        # Until the close: only a cut within the head can be noticed.
        if message.ends or size < message.wire.index(b"\r\n\r\n") + 4:
            assert told.error is IncompleteError, size
            assert whole.startswith(told.body)
        assert not told.reusable


@pytest.mark.parametrize("name", REQUESTS)
def test_matrix_15_truncated_request(name: str) -> None:
    """Matrix 15: nor does a server take a request that is cut short for a whole one."""
    message = REQUESTS[name]
    heads = [event for event in message.events if len(event) == 4]
    for size in range(1, len(message.wire)):
        told = feed(connection(SERVER), [message.wire[:size]])
        if told.error is None:
            assert told.events[-1] == "closed"
            assert sum(event == END for event in told.events) < len(heads)
        else:
            assert told.error is IncompleteError


def test_one_read_is_one_message() -> None:
    """`receive_whole` returns a head and its body, and the connection can be used again."""
    protocol = connection(CLIENT)
    found = protocol.receive_whole(RESPONSES["length"].wire)
    assert found is not None
    head, body = found
    assert (head.code, head.reason, head.version, body) == (200, "OK", "1.1", b"hello")
    assert protocol.is_reusable()
    protocol.next_message()
    protocol.start_request("GET", "none")
    assert protocol.receive_whole(RESPONSES["length 0"].wire) is not None


@pytest.mark.parametrize("first", [name for name, message in RESPONSES.items() if message.reusable])
def test_one_response_after_another(first: str) -> None:
    """By `receive_whole` a response is what it is, whichever came before it on the connection."""
    for message in RESPONSES.values():
        for method in ("GET", "HEAD"):
            after = connection(CLIENT, RESPONSES[first].method, known=KnownHeads[Head](256))
            feed(after, [RESPONSES[first].wire], eof=False, whole=True)
            after.next_message()
            after.start_request(method, NONE)
            alone = feed(connection(CLIENT, method), [message.wire])
            assert feed(after, [message.wire], whole=True) == alone


@pytest.mark.parametrize("first", RESPONSES)
def test_connections_may_share_what_they_know(first: str) -> None:
    """Whatever came on one connection, by whichever cuts, a response on another is what it is."""
    for message in RESPONSES.values():
        behind_head = message.wire.find(b"\r\n\r\n") + 4
        for method in ("GET", "HEAD", "CONNECT"):
            for size in (len(message.wire), behind_head, behind_head + 1):
                pieces = [piece for piece in (message.wire[:size], message.wire[size:]) if piece]
                alone = feed(connection(CLIENT, method), pieces)
                known = KnownHeads[Head](256)
                feed(
                    connection(CLIENT, RESPONSES[first].method, known=known),
                    [RESPONSES[first].wire],
                )
                for _ in range(2):
                    sharing = connection(CLIENT, method, known=known)
                    assert feed(sharing, pieces, whole=True) == alone


def test_an_interim_response_is_not_remembered() -> None:
    """Whether 101 may be depends on what was asked for."""
    known = KnownHeads[Head](256)
    switching = [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]
    assert feed(connection(CLIENT, upgrade=True, known=known), switching, whole=True).error is None
    told = feed(connection(CLIENT, known=known), switching, whole=True)
    assert told.error is ProtocolError


def test_what_is_known_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all connections that share it; of a head that is answered by itself, too."""
    parsed: list[bytes] = []
    parse = Protocol._parse_head

    def counted(protocol: Protocol, buffer: bytes, start: int, end: int) -> Head:
        parsed.append(bytes(buffer[start:end]))
        return parse(protocol, buffer, start, end)

    monkeypatch.setattr(Protocol, "_parse_head", counted)
    known = KnownHeads[Head](3)
    heads = [b"HTTP/1.1 200 OK\r\nX: %d\r\nContent-Length: 1\r\n\r\n" % n for n in range(3)]
    for body in (b"a", b"b", b""):
        for head in heads:
            told = feed(connection(CLIENT, known=known), [head + body], eof=False, whole=True)
            assert told.body == body
    assert parsed == heads
    # A fourth is one too many: all have to be learned anew.
    feed(connection(CLIENT, known=known), [b"HTTP/1.1 204 \r\n\r\n"], whole=True)
    feed(connection(CLIENT, known=known), [heads[0] + b"a"], whole=True)
    assert len(parsed) == 5
    # What is large is not kept.
    large = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2048 + b"\r\nContent-Length: 0\r\n\r\n"
    for _ in range(2):
        feed(connection(CLIENT, known=known), [large], whole=True)
    assert len(parsed) == 7


def test_one_request_after_another() -> None:
    """Nor does it matter to a request, or to how it is answered."""
    head = b" / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n"
    server = Protocol(SERVER, known=KnownHeads[Head](1))
    for method, body in ((b"POST", b"1:"), (b"POST", b"2:"), (b"HEAD", b"3:"), (b"HEAD", b"4:")):
        found = server.receive_whole(method + head + body)
        assert found is not None
        assert (found[0].method.encode(), found[1]) == (method, body)
        server.start_response(200, LENGTH, 0)
        assert server.our_state == ("BODY" if method == b"POST" else "DONE")
        server.end_body()
        server.next_message()
    # A body that is shorter, longer, or not there yet is no whole message.
    assert server.receive_whole(b"HEAD" + head + b"5") is None
    assert isinstance(server.next_event(), Head)
    assert server.next_event() == b"5"
    assert server.next_event() is None


@pytest.mark.parametrize(
    "name", [name for name in RESPONSES if name not in ("length", "length 0", "asks to close")]
)
def test_one_read_that_is_something_else(name: str) -> None:
    """What `receive_whole` does not return comes by `next_event`, and is lost to neither."""
    message = RESPONSES[name]
    told = feed(connection(CLIENT, message.method), [message.wire], whole=True)
    assert told.events == message.events


def test_a_head_that_was_not_asked_for_yet_is_not_lost() -> None:
    """A caller that asks for nothing between two reads gets everything later."""
    protocol = connection(CLIENT)
    assert protocol.receive_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") is None
    assert protocol.receive_whole(b"X: y\r\n\r\nz") is None
    assert isinstance(protocol.next_event(), Head)
    assert protocol.next_event() == b"X: y\r\n\r\nz"
    assert protocol.next_event() is Event.END
    assert protocol.next_event() is None


def test_flow_control_is_not_asking() -> None:
    """What is received and not asked for waits, and is counted."""
    protocol = connection(CLIENT)
    protocol.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
    assert isinstance(protocol.next_event(), Head)
    protocol.receive(b"abc")
    protocol.receive(b"def")
    assert protocol.buffered == 6
    assert protocol.next_event() == b"abcdef"
    assert protocol.buffered == 0


def test_the_head_of_a_response() -> None:
    """What a head tells of a response besides its framing."""
    protocol = connection(CLIENT)
    protocol.receive(
        b"HTTP/1.0 203 Not so sure\r\nContent-Encoding: GZIP\r\ncontent-encoding: br\r\n"
        b"Content-Length: 3\r\n\r\n"
    )
    head = protocol.next_event()
    assert isinstance(head, Head)
    assert (head.code, head.reason, head.version, head.minor) == (203, "Not so sure", "1.0", 0)
    assert (head.framing, head.length, head.content_encoding) == ("length", 3, "gzip, br")
    assert head.lines[0] == b"HTTP/1.0 203 Not so sure\r\n"
    assert head.lines[-1] == b"\r\n"
    assert b"".join(head.lines) == head.block
    assert repr(head) == f"<Head 203 length {len(head.block)} bytes>"


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        (b"Content-Length: 2\r\nExpect: 100-Continue\r\n", True),
        (b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", True),
        (b"Content-Length: 2\r\nExpect: something\r\n", False),
        (b"Expect: 100-continue\r\n", False),  # there is no body to wait with
    ],
)
def test_the_head_of_a_request(fields: bytes, continues: bool) -> None:
    """Whether a request waits for 100."""
    protocol = Protocol(SERVER)
    protocol.receive(b"POST /x HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
    head = protocol.next_event()
    assert isinstance(head, Head)
    assert (head.method, head.target, head.version) == ("POST", "/x", "1.1")
    assert head.expects_continue is continues
    assert head.keep_alive
    assert repr(head) == f"<Head POST {head.framing} {len(head.block)} bytes>"


def test_http_1_0_does_not_wait_for_100() -> None:
    """RFC 9110 section 10.1.1: Expect of an HTTP/1.0 request is ignored."""
    protocol = Protocol(SERVER)
    protocol.receive(b"POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    head = protocol.next_event()
    assert isinstance(head, Head)
    assert not head.expects_continue


def test_a_switched_connection_hands_over_the_rest() -> None:
    """101 that was asked for: what is behind it belongs to the other protocol."""
    wire = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\x81\x00"
    for pieces in splits(wire):
        protocol = connection(CLIENT, upgrade=True)
        told = feed(protocol, pieces)
        assert told.events == [(101, "none", True)]
        assert told.rest == b"\x81\x00"
        assert protocol.their_state == "SWITCHED"
        assert protocol.buffered == 0


def test_the_end_of_a_connection_between_requests() -> None:
    """A client that leaves between requests is told once, and is no error."""
    protocol = Protocol(SERVER)
    assert protocol.next_event() is None
    protocol.receive_eof()
    assert protocol.next_event() is Event.CLOSED
    assert protocol.their_state == "CLOSED"


def test_a_half_closed_request_is_answered() -> None:
    """Matrix 35: a client that ends its side behind its request still gets the response."""
    protocol = Protocol(SERVER)
    protocol.receive(REQUESTS["GET"].wire)
    protocol.receive_eof()
    assert isinstance(protocol.next_event(), Head)
    assert protocol.next_event() is Event.END
    assert protocol.next_event() is Event.CLOSED
    protocol.start_response(200, "length", 2)
    assert protocol.encode_body(b"ok") == b"ok"
    assert protocol.end_body() == b""
    assert not protocol.is_reusable()


def test_a_response_before_the_close_is_not_reusable() -> None:
    """A client whose peer has ended its side sends no second request there."""
    protocol = connection(CLIENT)
    assert feed(protocol, [RESPONSES["length"].wire]).events[-1] == END
    assert not protocol.is_reusable()


# -- the short way for a large body

_LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def test_pieces_of_a_body_of_known_length_need_no_event() -> None:
    protocol = connection(CLIENT)
    protocol.receive(_LARGE + b"01")
    assert isinstance(protocol.next_event(), Head)
    assert protocol.rest == 0  # some that has come has not been looked at
    assert not protocol.receive_body(b"23")
    assert protocol.next_event() == b"01"
    assert protocol.rest == 8
    assert protocol.receive_body(b"23")
    assert protocol.rest == 6
    protocol.received_elsewhere(3)
    assert protocol.rest == 3
    assert protocol.next_event() is None
    # The last of it, and what comes behind, goes the long way.
    assert not protocol.receive_body(b"789")
    protocol.receive(b"789")
    assert [protocol.next_event(), protocol.next_event()] == [b"789", Event.END]
    assert not protocol.receive_body(b"")
    assert protocol.is_reusable()


def test_a_body_that_was_received_elsewhere_to_its_end() -> None:
    protocol = connection(CLIENT)
    protocol.receive(_LARGE)
    assert isinstance(protocol.next_event(), Head)
    protocol.received_elsewhere(10)
    assert protocol.rest == 0
    assert protocol.next_event() is Event.END
    assert protocol.is_reusable()


def test_a_body_that_is_cut_short_while_it_is_received_elsewhere() -> None:
    protocol = connection(CLIENT)
    protocol.receive(_LARGE)
    assert isinstance(protocol.next_event(), Head)
    protocol.received_elsewhere(4)
    protocol.receive_eof()
    with pytest.raises(IncompleteError, match="with 6 bytes of the body to come"):
        protocol.next_event()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",
    ],
)
def test_no_short_way_for_a_body_of_unknown_length(head: bytes) -> None:
    protocol = connection(CLIENT)
    protocol.receive(head)
    protocol.next_event()
    assert protocol.rest == 0
    assert not protocol.receive_body(b"2\r\nab\r\n")
