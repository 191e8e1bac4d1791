"""Every limit: what stands just within it passes, one more is refused, and at once. Matrix 13,
14, 20, 21.

Each is tested with limits of its own, so that no other limit answers for it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest

from whimbrel._http1.errors import LimitError, ProtocolError
from whimbrel._http1.grammar import LIMITS, Limits
from whimbrel._http1.protocol import Head, Protocol, Role

from .support import CHUNKED, CLIENT, GET, OK, POST, SERVER, connection, feed, told_by

MB = 1024 * 1024


class Case(NamedTuple):
    """A limit on one end.

    `wire` makes a message that has `n` of what is limited; the first byte of it that is one too
    many is the last of ``wire(n)[: refused_at(n)]``.
    """

    role: Role
    limit: str
    most: int
    wire: Callable[[int], bytes]
    what: str
    status: int = 400
    unit: str = "bytes"


def _padded(start: bytes, end: bytes, size: int) -> bytes:
    return start + b"a" * (size - len(start) - len(end)) + end


def _status_line(size: int) -> bytes:
    return _padded(b"HTTP/1.1 200 ", b"\r\n", size) + b"Content-Length: 0\r\n\r\n"


def _request_line(size: int) -> bytes:
    return _padded(b"GET /", b" HTTP/1.1\r\n", size) + b"Host: h\r\n\r\n"


def _response_head(size: int) -> bytes:
    return _padded(OK + b"Content-Length: 0\r\nX: ", b"\r\n\r\n", size)


def _request_head(size: int) -> bytes:
    return _padded(GET + b"X: ", b"\r\n\r\n", size)


def _trailers(start: bytes) -> Callable[[int], bytes]:
    return lambda size: start + CHUNKED + b"0\r\n" + _padded(b"X: ", b"\r\n\r\n", size)


def _extension(start: bytes) -> Callable[[int], bytes]:
    # The line's own end is counted with the extension.
    return lambda size: start + CHUNKED + b"2" + _padded(b";", b"\r\n", size) + b"ok\r\n0\r\n\r\n"


CASES: dict[str, Case] = {
    "status line": Case(CLIENT, "start_line", 100, _status_line, "start line", 414),
    "request line": Case(SERVER, "start_line", 100, _request_line, "start line", 414),
    "response head": Case(CLIENT, "header_block", 200, _response_head, "header block", 431),
    "request head": Case(SERVER, "header_block", 200, _request_head, "header block", 431),
    "response fields": Case(
        CLIENT,
        "header_count",
        10,
        lambda n: OK + b"Content-Length: 0\r\n" + (n - 1) * b"X: y\r\n" + b"\r\n",
        "number of header lines",
        431,
        "lines",
    ),
    "request fields": Case(
        SERVER,
        "header_count",
        10,
        lambda n: GET + (n - 1) * b"X:\r\n" + b"\r\n",
        "number of header lines",
        431,
        "lines",
    ),
    "response trailer fields": Case(
        CLIENT,
        "header_count",
        10,
        lambda n: OK + CHUNKED + b"0\r\n" + n * b"X:\r\n" + b"\r\n",
        "number of trailer lines",
        unit="lines",
    ),
    "request trailer fields": Case(
        SERVER,
        "header_count",
        10,
        lambda n: POST + CHUNKED + b"0\r\n" + n * b"X:\r\n" + b"\r\n",
        "number of trailer lines",
        unit="lines",
    ),
    "response extension": Case(CLIENT, "chunk_extension", 50, _extension(OK), "chunk extension"),
    "request extension": Case(SERVER, "chunk_extension", 50, _extension(POST), "chunk extension"),
    "response trailers": Case(CLIENT, "trailers", 50, _trailers(OK), "trailer section", 431),
    "request trailers": Case(SERVER, "trailers", 50, _trailers(POST), "trailer section", 431),
    "interim responses": Case(
        CLIENT,
        "interim",
        3,
        lambda n: n * b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        "number of interim responses",
        unit="responses",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_within_the_limit(name: str) -> None:
    """As much as the limit says passes, however it is cut."""
    case = CASES[name]
    limits = LIMITS._replace(**{case.limit: case.most})
    told = told_by(case.role, case.wire(case.most), limits=limits, eof=False)
    assert told.error is None
    assert told.events[-1][0] == "end"


@pytest.mark.parametrize("name", CASES)
def test_past_the_limit(name: str) -> None:
    """One more is a LimitError, however it is cut, which says what passed which limit."""
    case = CASES[name]
    limits = LIMITS._replace(**{case.limit: case.most})
    told = told_by(case.role, case.wire(case.most + 1), limits=limits, eof=False)
    assert told.error is LimitError
    protocol = connection(case.role, limits=limits)
    protocol.receive(case.wire(case.most + 1))
    with pytest.raises(LimitError) as caught:
        _exhaust(protocol)
    error = caught.value
    assert (error.what, error.limit, error.size) == (case.what, case.most, case.most + 1)
    assert (error.unit, error.status) == (case.unit, case.status)
    assert str(error) == (
        f"the {case.what} passes its limit: {case.most + 1} of {case.most} {case.unit}"
    )


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.unit == "bytes" and "ext" not in name]
)
def test_refused_before_its_end(name: str) -> None:
    """A part that has no end is refused with the first byte past the limit, not at its end."""
    case = CASES[name]
    limits = LIMITS._replace(**{case.limit: case.most})
    wire = case.wire(10 * case.most)
    # Up to the limit nothing is wrong with it.
    start = wire.index(b"0\r\n") + 3 if case.limit == "trailers" else 0
    protocol = connection(case.role, limits=limits)
    for at in range(start + case.most):
        protocol.receive(wire[at : at + 1])
        _exhaust(protocol)
    assert protocol.buffered == case.most
    protocol.receive(b"a")
    with pytest.raises(LimitError):
        _exhaust(protocol)


def _exhaust(protocol: Protocol) -> None:
    while protocol.next_event() is not None:
        pass


def test_the_limits() -> None:
    """The numbers that are promised."""
    assert (
        Limits(
            start_line=16 * 1024,
            header_block=64 * 1024,
            header_count=2000,
            chunk_extension=4 * 1024,
            trailers=16 * 1024,
            interim=10,
            blank_lines=4,
        )
        == LIMITS
    )


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_matrix_21_header_blocks(size: int, step: int) -> None:
    """Matrix 21: 64 KiB pass on both ends, a byte more does not, whatever the reads bring."""
    for role, wire in ((CLIENT, _response_head(size)), (SERVER, _request_head(size))):
        pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
        told = feed(connection(role), pieces, eof=False)
        assert told.error is (None if size == 64 * 1024 else LimitError)


@pytest.mark.parametrize("count", [2000, 2001])
def test_matrix_21_header_lines(count: int) -> None:
    """Matrix 21: 2,000 lines pass, one more does not."""
    for role, start in ((CLIENT, OK), (SERVER, GET)):
        lines = count if role is CLIENT else count - 1
        told = feed(connection(role), [start + lines * b"X: y\r\n" + b"\r\n"], eof=False)
        assert told.error is (None if count == 2000 else LimitError)


@pytest.mark.parametrize(
    "name", ["header block", "start line", "trailers", "extension", "chunk data", "length", "close"]
)
def test_memory(name: str) -> None:
    """However much a peer sends, what is kept is bounded by the limits and one read."""
    role, start, more = {
        "header block": (CLIENT, OK + b"X: ", b"a"),
        "start line": (SERVER, b"GET /", b"a"),
        "trailers": (CLIENT, OK + CHUNKED + b"0\r\nX: ", b"a"),
        "extension": (SERVER, POST + CHUNKED + b"1;", b"a"),
        "chunk data": (CLIENT, OK + CHUNKED + b"ffffffff\r\n", b"a"),
        "length": (SERVER, POST + b"Content-Length: 99999999999\r\n\r\n", b"a"),
        "close": (CLIENT, OK + b"\r\n", b"a"),
    }[name]
    protocol = connection(role)
    protocol.receive(start)
    piece = 60 * 1024 * more
    most = received = 0
    try:
        for _ in range(MB // len(piece) + 1):
            _exhaust(protocol)
            protocol.receive(piece)
            received += len(piece)
            most = max(most, protocol.buffered)
    except ProtocolError:
        assert received < MB
    assert most <= LIMITS.header_block + len(piece)


def test_a_limit_error_is_copied_with_all_it_says() -> None:
    """Errors cross process borders."""
    error = LimitError("header block", 10, 11, status=431, unit="lines")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is LimitError
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_which_limit_answers_first_does_not_depend_on_the_cut() -> None:
    """Several faults in one head: the first of them is told, whole or byte by byte."""
    limits = Limits(start_line=60, header_block=100)
    long_line = b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    bad_line = b"GET / HTTP/9\r\nHost: h\r\nX: " + b"a" * 200 + b"\r\n\r\n"
    bad_long_line = b"GET /" + b"a" * 200 + b" HTTP/9\r\n\r\n"
    long_method = b"G" * 200 + b"( / HTTP/1.1\r\nHost: h\r\n\r\n"
    bare_lf = b"GET / HTTP/1.1\r\nHost: h\nX: " + b"a" * 200 + b"\r\n\r\n"
    late_bare_lf = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 200 + b"\nY: z\r\n\r\n"
    for wire, expected in (
        (long_line, LimitError),
        (bad_line, ProtocolError),
        (bad_long_line, LimitError),
        (long_method, LimitError),
        (bare_lf, ProtocolError),
        (late_bare_lf, LimitError),
    ):
        assert told_by(SERVER, wire, limits=limits, eof=False).error is expected


def test_heads_are_counted_one_by_one() -> None:
    """A second message on the connection has the limits to itself."""
    wire = _request_head(40_000)
    told = feed(connection(SERVER), [wire + wire + wire], eof=False)
    assert told.error is None
    assert len(told.events) == 6
    protocol = connection(CLIENT)
    protocol.receive(_response_head(40_000))
    assert isinstance(protocol.next_event(), Head)
