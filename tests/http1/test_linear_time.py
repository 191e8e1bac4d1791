"""Ten times the input costs about ten times the work, not a hundred times. Matrix 24.

Measured in processor time of this process, so that a busy machine does not matter, and repeated
until it holds: noise makes it slower, never faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from whimbrel._http1.errors import ProtocolError
from whimbrel._http1.protocol import Event, Protocol, Role

from .support import CHUNKED, CLIENT, GET, OK, POST, SERVER, connection

MOST = 20.0  # 10 is linear and 100 is quadratic; caches that others fill cost up to a half more
ATTEMPTS = 10
LENGTH_0 = b"Content-Length: 0\r\n\r\n"


class Input(NamedTuple):
    """Input of about `n` bytes for one end, in reads of `step` bytes; `small` is the lesser n."""

    role: Role
    wire: Callable[[int], bytes]
    small: int = 5_000
    step: int = 65_536


def _requests(count: int) -> bytes:
    return count * (POST + b"Content-Length: 2\r\n\r\nok")


INPUTS: dict[str, Input] = {
    "one long field": Input(CLIENT, lambda n: OK + b"X: " + b"a" * n + b"\r\n" + LENGTH_0),
    "one long field, byte by byte": Input(
        CLIENT, lambda n: OK + b"X: " + b"a" * n + b"\r\n" + LENGTH_0, step=1
    ),
    "a request, byte by byte": Input(
        SERVER, lambda n: GET + b"X: " + b"a" * n + b"\r\n\r\n", step=1
    ),
    "a head without end, byte by byte": Input(CLIENT, lambda n: OK + b"X: " + b"a" * n, step=1),
    "short fields": Input(SERVER, lambda n: GET + n // 40 * b"X: y" * 9 + b"\r\n\r\n"),
    "field lines": Input(
        CLIENT, lambda n: OK + n // 32 * (b"X: " + b"y" * 27 + b"\r\n") + LENGTH_0
    ),
    "equal lengths": Input(
        CLIENT, lambda n: OK + n // 20 * b"Content-Length: 0\r\n" + LENGTH_0, small=3_000
    ),
    "lengths in one field": Input(
        CLIENT, lambda n: OK + b"Content-Length: 0" + n // 2 * b",0" + b"\r\n\r\n"
    ),
    "connection options": Input(
        SERVER, lambda n: GET + b"Connection: " + n // 2 * b"a," + b"\r\n\r\n"
    ),
    "Connection fields": Input(
        SERVER, lambda n: GET + n // 15 * b"Connection: a\r\n" + b"\r\n", small=3_000
    ),
    "spaces in a value": Input(CLIENT, lambda n: OK + b"X:" + b" " * n + b"\r\n" + LENGTH_0),
    "a colon behind a long name": Input(CLIENT, lambda n: OK + b"a" * n + b" : x\r\n" + LENGTH_0),
    "lines without colon": Input(CLIENT, lambda n: OK + n // 3 * b"a\r\n" + LENGTH_0),
    "a long Host": Input(
        SERVER, lambda n: b"GET / HTTP/1.1\r\nHost: " + b"a" * n + b"/\r\n\r\n", step=65_536
    ),
    "a long target": Input(
        SERVER, lambda n: b"CONNECT " + b"a" * n + b"/ HTTP/1.1\r\nHost: h\r\n\r\n", small=1_500
    ),
    "a request line without end, byte by byte": Input(
        SERVER, lambda n: b"GET /" + b"a" * n, small=1_600, step=1
    ),
    "a chunk extension, byte by byte": Input(
        CLIENT, lambda n: OK + CHUNKED + n // 400 * (b"1;" + b"a" * 400 + b"\r\nx\r\n"), step=1
    ),
    "trailers, byte by byte": Input(
        CLIENT, lambda n: OK + CHUNKED + b"0\r\nX: " + b"a" * n + b"\r\n\r\n", small=1_500, step=1
    ),
    "chunks of one byte": Input(CLIENT, lambda n: OK + CHUNKED + n // 6 * b"1\r\nx\r\n", 60_000),
    "chunks of one byte, byte by byte": Input(
        SERVER, lambda n: POST + CHUNKED + n // 6 * b"1\r\nx\r\n", step=1
    ),
    "a body of a length, byte by byte": Input(
        SERVER, lambda n: POST + b"Content-Length: %d\r\n\r\n" % n + b"x" * n, step=1
    ),
    "a body until the close": Input(CLIENT, lambda n: OK + b"\r\n" + b"x" * n, 200_000, 1000),
    "requests in one read": Input(SERVER, lambda n: _requests(n // 60), step=1 << 22),
    "requests, byte by byte": Input(SERVER, lambda n: _requests(n // 60), step=1),
    "bytes that nobody asks for": Input(CLIENT, lambda n: OK + LENGTH_0 + b"x" * n, step=1),
}


def _pieces(given: Input, size: int) -> list[bytes]:
    wire = given.wire(size)
    return [wire[at : at + given.step] for at in range(0, len(wire), given.step)]


def _work(role: Role, pieces: list[bytes]) -> float:
    """Seconds of processor time to read it all."""
    protocol = connection(role)
    begin = time.process_time()
    try:
        for piece in pieces:
            protocol.receive(piece)
            _drain(protocol)
    except ProtocolError:
        pass  # some inputs end in one, and are to be refused in linear time as well
    return time.process_time() - begin


def _drain(protocol: Protocol) -> None:
    while (event := protocol.next_event()) is not None:
        if event is Event.END and protocol.our_state == "HEAD":  # a server answers
            protocol.start_response(204, "none")
            protocol.next_message()


@pytest.mark.parametrize("name", INPUTS)
def test_matrix_24_work(name: str) -> None:
    """Matrix 24: ten times the input takes about ten times as long."""
    given = INPUTS[name]
    small, large = _pieces(given, given.small), _pieces(given, 10 * given.small)
    least_small = least_large = float("inf")
    for _ in range(ATTEMPTS):
        least_small = min(least_small, *(_work(given.role, small) for _ in range(10)))
        least_large = min(least_large, *(_work(given.role, large) for _ in range(2)))
        if least_large <= MOST * least_small:
            return
    pytest.fail(f"{least_large:.6f} s for ten times what takes {least_small:.6f} s")


def test_a_million_chunks_of_one_byte() -> None:
    """No read of 64 KiB holds the loop up for 50 ms, however small the chunks are."""
    wire = OK + CHUNKED + 1_000_000 * b"1\r\nx\r\n" + b"0\r\n\r\n"
    pieces = [wire[at : at + 65_536] for at in range(0, len(wire), 65_536)]
    longest = float("inf")
    for _ in range(3):
        protocol = connection(CLIENT)
        total, slowest = 0, 0.0
        for piece in pieces:
            begin = time.process_time()
            protocol.receive(piece)
            while (event := protocol.next_event()) is not None:
                total += len(event) if isinstance(event, bytes) else 0
            slowest = max(slowest, time.process_time() - begin)
        assert total == 1_000_000
        assert protocol.is_reusable()
        longest = min(longest, slowest)
        if longest < 0.05:
            return
    pytest.fail(f"a read took {longest:.3f} s")
