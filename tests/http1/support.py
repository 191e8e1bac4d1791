"""Feeding a `Protocol` in every way that a network can, and telling what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from whimbrel._http1.errors import ProtocolError
from whimbrel._http1.framing import LENGTH, NONE
from whimbrel._http1.grammar import LIMITS, Limits
from whimbrel._http1.protocol import Event, Head, Protocol, Role
from whimbrel._known_heads import KnownHeads

CLIENT = Role.CLIENT
SERVER = Role.SERVER

OK = b"HTTP/1.1 200 OK\r\n"
GET = b"GET / HTTP/1.1\r\nHost: example\r\n"
POST = b"POST / HTTP/1.1\r\nHost: example\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


class Told(NamedTuple):
    """What a connection told, from its first byte to its end.

    `events` has, in order: ``(code, framing, keep_alive)`` for the head of a response,
    ``(method, target, framing, keep_alive)`` for that of a request; the bytes of a body, in one
    piece; ``("end", trailers)``; ``"closed"``; and the class of the error that ended it all.
    `rest` is what was left over; `reusable` what a client may think of the connection.
    """

    events: list[Any]
    rest: bytes
    reusable: bool

    @property
    def error(self) -> type[ProtocolError] | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, type) else None

    @property
    def body(self) -> bytes:
        return b"".join(event for event in self.events if isinstance(event, bytes))

    @property
    def codes(self) -> list[int]:
        return [event[0] for event in self.events if len(event) == 3] if self.events else []


def connection(
    role: Role,
    method: str = "GET",
    *,
    upgrade: bool = False,
    limits: Limits = LIMITS,
    known: KnownHeads[Head] | None = None,
) -> Protocol:
    """A connection at which the peer has its turn: a client's has sent its request."""
    protocol = Protocol(role, limits, known)
    if role is CLIENT:
        protocol.start_request(method, NONE, upgrade=upgrade)
    return protocol


def summary(head: Head) -> tuple[Any, ...]:
    """A head as it stands in `Told.events`."""
    if hasattr(head, "code"):
        return head.code, head.framing, head.keep_alive
    return head.method, head.target, head.framing, head.keep_alive


def feed(
    protocol: Protocol, pieces: Iterable[bytes], *, eof: bool = True, whole: bool = False
) -> Told:
    """Give `pieces` to `protocol`, and after them the end of the stream; tell what came of it.

    A server answers each request, so that the next can be read. `whole` gives the pieces by
    `receive_whole`.
    """
    told: list[Any] = []
    server = protocol.our_state == "HEAD"
    try:
        for piece in pieces:
            found = protocol.receive_whole(piece) if whole else protocol.receive(piece)
            if found is not None:
                _tell(told, protocol, found[0], server)
                _tell(told, protocol, found[1], server)
                _tell(told, protocol, Event.END, server)
            _drain(told, protocol, server)
        if eof:
            protocol.receive_eof()
            _drain(told, protocol, server)
    except ProtocolError as error:
        told.append(type(error))
        _check_failed(protocol)
    reusable = protocol.is_reusable()
    rest = protocol.take_rest() if not told or not isinstance(told[-1], type) else b""
    return Told(told, rest, reusable)


def _drain(told: list[Any], protocol: Protocol, server: bool) -> None:
    while (event := protocol.next_event()) is not None:
        _tell(told, protocol, event, server)


def _tell(told: list[Any], protocol: Protocol, event: Head | bytes | Event, server: bool) -> None:
    if isinstance(event, Head):
        told.append(summary(event))
    elif isinstance(event, bytes):
        if told and isinstance(told[-1], bytes):
            told[-1] += event
        elif event:
            told.append(event)
    elif event is Event.END:
        told.append(("end", protocol.trailers))
        if server:
            protocol.start_response(405, LENGTH)
            protocol.end_body()
            if protocol.keep_alive:
                protocol.next_message()
    else:
        told.append("closed")


def _check_failed(protocol: Protocol) -> None:
    """After an error nothing more is read, and nobody takes the connection for a sound one."""
    assert protocol.their_state == "ERROR"
    assert not protocol.is_reusable()
    try:
        protocol.next_event()
    except ProtocolError:
        return
    raise AssertionError("a failed connection told something more")


def splits(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, byte by byte, and cut in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def told_by(
    role: Role,
    data: bytes,
    method: str = "GET",
    *,
    upgrade: bool = False,
    limits: Limits = LIMITS,
    eof: bool = True,
) -> Told:
    """What `data` amounts to; AssertionError if it depends on how the data is cut."""
    expected: Told | None = None
    for pieces in splits(data):
        for whole in (False, True):
            protocol = connection(role, method, upgrade=upgrade, limits=limits)
            told = feed(protocol, pieces, eof=eof, whole=whole)
            if expected is None:
                expected = told
            assert told == expected, f"cut as {[len(p) for p in pieces][:3]}, whole={whole}"
    assert expected is not None
    return expected


def refusal(role: Role, data: bytes, method: str = "GET", **options: Any) -> type[ProtocolError]:
    """The error that `data` ends in, however it is cut, before the peer has closed."""
    told = told_by(role, data, method, eof=False, **options)
    assert told.error is not None, f"accepted: {told}"
    return told.error


# Small ones, so that generated messages pass them.
TIGHT = Limits(
    start_line=64,
    header_block=256,
    header_count=4,
    chunk_extension=8,
    trailers=48,
    interim=2,
    blank_lines=1,
)


def check(
    role: Role, data: bytes, cuts: list[int], method: str, upgrade: bool, tight: bool
) -> None:
    """What is true of any bytes, valid or not; AssertionError where it is not.

    They amount to events or a ProtocolError; to the same however they are cut and by whichever
    way they go in; to no more body than there were bytes; and what waits is bounded.
    """
    limits = TIGHT if tight else LIMITS
    bounds = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    expected = feed(connection(role, method, upgrade=upgrade, limits=limits), [data])
    assert len(expected.body) <= len(data)
    for whole in (False, True):
        protocol = connection(role, method, upgrade=upgrade, limits=limits)
        told = feed(protocol, pieces, whole=whole)
        assert told == expected, f"{pieces}, whole={whole}: {told}, but together {expected}"
    protocol = connection(role, method, upgrade=upgrade, limits=limits)
    try:
        for piece in pieces:
            protocol.receive(piece)
            while protocol.next_event() is not None:
                pass
            if protocol.their_state in ("HEAD", "BODY"):
                assert protocol.buffered <= limits.header_block
    except ProtocolError:
        pass
