"""The table of states: it is complete, and `Protocol` does what it says and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from whimbrel._http1 import state
from whimbrel._http1.errors import IncompleteError, LocalProtocolError, ProtocolError
from whimbrel._http1.framing import CHUNKED, LENGTH, NONE
from whimbrel._http1.protocol import Event, Head, Protocol
from whimbrel._http1.state import (
    BODY,
    CLOSED,
    DONE,
    ERROR,
    HEAD,
    ON_DATA,
    ON_END,
    ON_HEAD,
    ON_INTERIM,
    ON_NEXT,
    ON_SWITCH,
    SWITCHED,
    TRANSITIONS,
)

from .support import CLIENT, GET, OK, SERVER, connection

STATES = [HEAD, BODY, DONE, SWITCHED, CLOSED, ERROR]
EVENTS = [value for name, value in vars(state).items() if name.startswith("ON_")]


def test_the_table_is_closed() -> None:
    """It has a row for every state, and leads to no other; every event stands in it."""
    assert sorted(TRANSITIONS) == sorted(STATES)
    assert {target for row in TRANSITIONS.values() for target in row.values()} <= set(STATES)
    assert {event for row in TRANSITIONS.values() for event in row} == set(EVENTS)


def test_every_state_is_reached() -> None:
    """From the first state all others can be reached, except for the error, which has no way."""
    reached, found = set(), {HEAD}
    while found:
        reached |= found
        found = {t for name in found for t in TRANSITIONS[name].values()} - reached
    assert reached == set(STATES) - {ERROR}
    assert not TRANSITIONS[ERROR]


def test_the_page_shows_the_table() -> None:
    """docs/internals/http1.md has the same table."""
    page = Path(__file__).parents[2] / "docs" / "internals" / "http1.md"
    shown = {
        row[0]: dict(re.findall(r"(\w+) → (\w+)", row[1]))
        for row in re.findall(r"^\| ([A-Z]+) \| (.*?) \|$", page.read_text("utf-8"), re.MULTILINE)
    }
    assert shown == TRANSITIONS


# -- our side

DO: dict[str, Callable[[Protocol], object]] = {
    ON_INTERIM: lambda server: server.start_response(103, NONE),
    ON_HEAD: lambda server: server.start_response(200, CHUNKED),
    ON_DATA: lambda server: server.encode_body(b"x"),
    ON_END: lambda server: server.end_body(),
    ON_NEXT: lambda server: server.next_message(),
    ON_SWITCH: lambda server: server.start_response(101, NONE),
}


def _server_at(name: str) -> Protocol:
    """A server that has read a request, and whose own side is at that state."""
    server = Protocol(SERVER)
    server.receive(GET + b"\r\n")
    assert isinstance(server.next_event(), Head)
    assert server.next_event() is Event.END
    {
        HEAD: lambda: None,
        BODY: lambda: server.start_response(200, CHUNKED),
        DONE: lambda: server.start_response(304, NONE),
        SWITCHED: lambda: server.start_response(101, NONE),
    }[name]()
    assert server.our_state == name
    return server


@pytest.mark.parametrize("event", DO)
@pytest.mark.parametrize("name", [HEAD, BODY, DONE, SWITCHED])
def test_our_side(name: str, event: str) -> None:
    """What the table has leads where it says; all else is an error that changes nothing."""
    server = _server_at(name)
    if (name, event) == (DONE, ON_END):
        assert server.end_body() == b""  # what has no body may be ended all the same
    elif event in TRANSITIONS[name]:
        DO[event](server)
        assert server.our_state == TRANSITIONS[name][event]
        return
    else:
        with pytest.raises(LocalProtocolError):
            DO[event](server)
    assert server.our_state == name


def test_a_client_begins_one_request_at_a_time() -> None:
    """A second request waits for `next_message`, and that for the response."""
    client = connection(CLIENT)
    with pytest.raises(LocalProtocolError, match="no head may be sent now: this side is at DONE"):
        client.start_request("GET", NONE)
    with pytest.raises(LocalProtocolError, match="we are at DONE, the peer at HEAD"):
        client.next_message()
    client.receive(OK + b"Content-Length: 1\r\n\r\n")
    client.next_event()
    with pytest.raises(LocalProtocolError, match="we are at DONE, the peer at BODY"):
        client.next_message()


def test_an_early_response_does_not_end_the_request() -> None:
    """A response that is whole before the request is: the connection waits for both."""
    client = Protocol(CLIENT)
    client.start_request("POST", LENGTH, 3)
    client.receive(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(client.next_event(), Head)
    assert client.next_event() is Event.END
    assert not client.is_reusable()
    with pytest.raises(LocalProtocolError, match="we are at BODY, the peer at DONE"):
        client.next_message()
    client.encode_body(b"abc")
    client.end_body()
    assert client.is_reusable()


@pytest.mark.parametrize(
    ("theirs", "wire"),
    [
        (True, OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"),
        (True, b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (False, OK + b"Content-Length: 0\r\n\r\n"),
    ],
)
def test_a_client_whose_connection_is_to_close(theirs: bool, wire: bytes) -> None:
    """RFC 9112 section 9.3: where either side means to close there is no next request."""
    client = Protocol(CLIENT)
    client.start_request("GET", NONE, keep_alive=theirs)
    client.receive(wire)
    assert isinstance(client.next_event(), Head)
    assert client.next_event() is Event.END
    assert not client.keep_alive
    assert not client.is_reusable()
    with pytest.raises(LocalProtocolError, match="cannot be used again"):
        client.next_message()


@pytest.mark.parametrize(
    ("request_head", "options"),
    [
        (GET + b"Connection: close\r\n\r\n", {"body": LENGTH}),
        (b"GET / HTTP/1.0\r\n\r\n", {"body": LENGTH}),
        (GET + b"\r\n", {"body": LENGTH, "keep_alive": False}),
        (GET + b"\r\n", {"body": "close"}),
    ],
)
def test_a_server_whose_connection_is_to_close(
    request_head: bytes, options: dict[str, object]
) -> None:
    """RFC 9112 section 9.6: nor does a server read one, after a request that closes."""
    server = Protocol(SERVER)
    server.receive(request_head + GET + b"\r\n")
    server.next_event()
    assert server.next_event() is Event.END
    server.start_response(200, **options)  # type: ignore[arg-type]
    server.end_body()
    assert not server.keep_alive
    with pytest.raises(LocalProtocolError, match="cannot be used again"):
        server.next_message()


# -- the peer's


def test_nothing_is_read_of_a_message_that_is_whole() -> None:
    """DONE: the next message waits for `next_message`."""
    server = _server_at(HEAD)
    server.receive(GET + b"\r\n")
    assert server.next_event() is None
    assert server.their_state == DONE
    assert server.buffered == len(GET) + 2


def test_nothing_is_read_of_another_protocol() -> None:
    """SWITCHED: whatever comes is the other protocol's, the end of the stream too."""
    client = connection(CLIENT, "CONNECT")
    client.receive(OK + b"\r\n")
    assert isinstance(client.next_event(), Head)
    assert client.their_state == SWITCHED
    client.receive(b"\0garbage\r\n\r\n")
    assert client.next_event() is None
    client.receive_eof()
    assert client.next_event() is None
    assert client.take_rest() == b"\0garbage\r\n\r\n"
    with pytest.raises(LocalProtocolError):
        client.next_message()


@pytest.mark.parametrize(
    ("fields", "rest", "here", "skipped"),
    [
        (b"", b"", True, True),
        (b"Content-Length: 4\r\n", b"", False, False),
        (b"Content-Length: 4\r\n", b"bod", False, False),
        (b"Content-Length: 4\r\n", b"body", True, True),
        (b"Content-Length: 4\r\n", b"bodyGET", True, True),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n", False, False),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n\r\nGET", False, True),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\nnonsense", False, False),
    ],
)
def test_a_body_may_be_skipped(fields: bytes, rest: bytes, here: bool, skipped: bool) -> None:
    """As far as it has come; of a chunked body only reading tells whether that is all."""
    protocol = Protocol(SERVER)
    protocol.receive(b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n" + rest)
    assert isinstance(protocol.next_event(), Head)
    assert protocol.rest_is_here is here
    assert protocol.skip_body() is skipped
    assert (protocol.their_state == DONE) is skipped
    if skipped:
        assert protocol.skip_body()
        assert protocol.take_rest() in (b"", b"GET")


def test_nothing_is_read_after_an_error() -> None:
    """ERROR: it stays, and good bytes do not mend it."""
    client = connection(CLIENT)
    client.receive(b"nonsense")
    for _ in range(2):
        with pytest.raises(ProtocolError):
            client.next_event()
        assert client.their_state == ERROR
        client.receive(OK + b"Content-Length: 0\r\n\r\n")
        assert client.receive_whole(OK + b"Content-Length: 0\r\n\r\n") is None
    assert not client.is_reusable()


def test_nothing_comes_after_the_end() -> None:
    """CLOSED: a server that was told goes on to be told nothing else."""
    server = Protocol(SERVER)
    server.receive_eof()
    assert server.next_event() is Event.CLOSED
    assert server.their_state == CLOSED
    assert server.next_event() is None
    with pytest.raises(LocalProtocolError):
        server.next_message()


def test_the_end_before_any_response() -> None:
    """A client that waits for a response is told of its end by an error."""
    client = connection(CLIENT)
    client.receive_eof()
    with pytest.raises(IncompleteError, match="before any response"):
        client.next_event()
