"""A client and a server of ours, joined by a wire that delivers so many bytes at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from whimbrel._http1.framing import CHUNKED, CLOSE, LENGTH, NONE
from whimbrel._http1.grammar import encode_fields, encode_request_line, encode_status_line
from whimbrel._http1.protocol import Event, Head, Protocol

from .support import CLIENT, SERVER


class Pair:
    """The two ends; `step` is how many bytes arrive at once."""

    def __init__(self, step: int) -> None:
        self.client = Protocol(CLIENT)
        self.server = Protocol(SERVER)
        self._step = step

    def request(
        self, method: str = "GET", target: str = "/", body: bytes = b"", kind: str = NONE
    ) -> None:
        """The client sends a request, which the server receives, but does not read."""
        fields = [("Host", "example")]
        if kind is LENGTH:
            fields.append(("Content-Length", str(len(body))))
        elif kind is CHUNKED:
            fields.append(("Transfer-Encoding", "chunked"))
        self.client.start_request(method, kind, len(body))
        wire = encode_request_line(method, target) + encode_fields(fields) + b"\r\n"
        if kind is not NONE:
            for at in range(0, len(body), 7):
                wire += self.client.encode_body(body[at : at + 7])
            wire += self.client.end_body()
        self.send(self.server, wire)

    def respond(self, code: int = 200, body: bytes = b"", kind: str = LENGTH) -> None:
        """The server sends a response, which the client receives, but does not read."""
        fields = []
        if kind is LENGTH:
            fields.append(("Content-Length", str(len(body))))
        elif kind is CHUNKED:
            fields.append(("Transfer-Encoding", "chunked"))
        self.server.start_response(code, kind, len(body))
        wire = encode_status_line(code, "Whatever") + encode_fields(fields) + b"\r\n"
        if self.server.our_state == "BODY":
            for at in range(0, len(body), 7):
                wire += self.server.encode_body(body[at : at + 7])
            wire += self.server.end_body()
        self.send(self.client, wire)
        if kind is CLOSE:
            self.client.receive_eof()

    def send(self, end: Protocol, wire: bytes) -> None:
        for at in range(0, len(wire), self._step):
            end.receive(wire[at : at + self._step])

    def next(self) -> None:
        self.client.next_message()
        self.server.next_message()


def read(end: Protocol) -> tuple[Head, bytes]:
    """A whole message."""
    head = end.next_event()
    assert isinstance(head, Head)
    body = []
    while (event := end.next_event()) is not Event.END:
        assert isinstance(event, bytes)
        body.append(event)
    return head, b"".join(body)


@pytest.fixture(params=[1, 10, 1 << 20])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


BODY = b"The quick brown fox\r\n\r\njumps over the lazy dog\r\n"


@pytest.mark.parametrize("kind", [LENGTH, CHUNKED])
@pytest.mark.parametrize("body", [b"", b"x", BODY])
def test_exchanges(pair: Pair, kind: str, body: bytes) -> None:
    """Several exchanges on one connection, bodies both ways."""
    for number in range(3):
        pair.request("POST", f"/{number}", body, kind)
        head, received = read(pair.server)
        assert (head.method, head.target, received) == ("POST", f"/{number}", body)
        pair.respond(200 + number, body[::-1], kind)
        head, received = read(pair.client)
        assert (head.code, head.reason, received) == (200 + number, "Whatever", body[::-1])
        assert pair.client.is_reusable()
        assert pair.server.keep_alive
        pair.next()


@pytest.mark.parametrize(
    ("method", "code"), [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304)]
)
def test_exchanges_without_body(pair: Pair, method: str, code: int) -> None:
    """Both ends agree that there is no body, and on where the next message begins."""
    for _ in range(2):
        pair.request(method)
        read(pair.server)
        pair.respond(code, b"" if code == 204 else BODY)
        head, body = read(pair.client)
        assert (head.code, head.framing, body) == (code, NONE, b"")
        pair.next()


def test_a_response_until_the_close(pair: Pair) -> None:
    """Both ends know that the connection ends with it."""
    pair.request()
    read(pair.server)
    pair.respond(200, BODY, CLOSE)
    assert read(pair.client)[1] == BODY
    assert not pair.client.keep_alive
    assert not pair.server.keep_alive


def test_expect_100_continue(pair: Pair) -> None:
    """A request that waits with its body for 100."""
    pair.client.start_request("PUT", LENGTH, len(BODY))
    fields = [("Host", "h"), ("Expect", "100-continue"), ("Content-Length", str(len(BODY)))]
    pair.send(pair.server, encode_request_line("PUT", "/") + encode_fields(fields) + b"\r\n")
    head = pair.server.next_event()
    assert isinstance(head, Head)
    assert head.expects_continue
    assert pair.server.next_event() is None
    pair.server.start_response(100, NONE)
    pair.send(pair.client, encode_status_line(100, "Continue") + b"\r\n")
    head = pair.client.next_event()
    assert isinstance(head, Head)
    assert head.code == 100
    assert pair.client.next_event() is None
    pair.send(pair.server, pair.client.encode_body(BODY) + pair.client.end_body())
    body = b""
    while (event := pair.server.next_event()) is not Event.END:
        assert isinstance(event, bytes)
        body += event
    assert body == BODY
    pair.respond(200, b"thanks")
    assert read(pair.client)[1] == b"thanks"
    pair.next()


def test_requests_that_come_together(pair: Pair) -> None:
    """Pipelining: a server reads one after the other, each after its answer to the one before."""
    wire = b"".join(
        encode_request_line("GET", f"/{n}") + encode_fields([("Host", "h")]) + b"\r\n"
        for n in range(5)
    )
    pair.send(pair.server, wire)
    for number in range(5):
        head, _ = read(pair.server)
        assert head.target == f"/{number}"
        assert pair.server.next_event() is None
        pair.server.start_response(204, NONE)
        pair.server.next_message()
    assert pair.server.next_event() is None
    assert pair.server.buffered == 0


def _connect(pair: Pair) -> None:
    pair.request("CONNECT", "example:443")
    assert read(pair.server)[0].target == "example:443"
    pair.respond(200, kind=NONE)
    head = pair.client.next_event()
    assert isinstance(head, Head)
    assert head.code == 200


def _upgrade(pair: Pair) -> None:
    fields = [("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    pair.client.start_request("GET", NONE, upgrade=True)
    pair.send(pair.server, encode_request_line("GET", "/") + encode_fields(fields) + b"\r\n")
    assert read(pair.server)[0].method == "GET"
    pair.server.start_response(101, NONE)
    pair.send(pair.client, encode_status_line(101, "Switching Protocols") + b"\r\n")
    head = pair.client.next_event()
    assert isinstance(head, Head)
    assert head.code == 101


@pytest.mark.parametrize("switch", [_connect, _upgrade])
def test_another_protocol(pair: Pair, switch: Callable[[Pair], None]) -> None:
    """CONNECT and Upgrade: from there on bytes pass through untouched on both ends."""
    switch(pair)
    pair.send(pair.client, b"\x16\x03\x01server")
    pair.send(pair.server, b"\x16\x03\x01client")
    assert pair.client.next_event() is None
    assert pair.server.next_event() is None
    assert pair.client.take_rest() == b"\x16\x03\x01server"
    assert pair.server.take_rest() == b"\x16\x03\x01client"


def test_an_upgrade_that_is_declined(pair: Pair) -> None:
    """A server may answer in HTTP/1.1, and the connection goes on in it."""
    pair.client.start_request("GET", NONE, upgrade=True)
    pair.send(
        pair.server, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    )
    read(pair.server)
    pair.respond(200, b"no")
    assert read(pair.client)[1] == b"no"
    pair.next()
