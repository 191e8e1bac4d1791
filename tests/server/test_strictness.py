"""What the server refuses, and how much it takes: matrix 22, 23 and 24, and the limits."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from conftest import StrayLogs
from whimbrel.web import RequestHandler

from .support import BAD_REQUEST, Connect, Serve, Wire, get


class Parsing(RequestHandler):
    """Looks at everything that there is to parse."""

    def get(self) -> None:
        found = [len(self.request.headers), len(self.cookies), len(self.request.arguments)]
        found.append(len(self.request.files))
        self.write(" ".join(map(str, found)))

    post = put = get


def host(*lines: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1")


def line(first: bytes) -> bytes:
    return first + b"\r\nHost: a\r\n\r\n"


# -- 22: malformed requests

MALFORMED: dict[str, bytes] = {
    "no host": host(),
    "two hosts": host("Host: a", "Host: a"),
    "two hosts in one": host("Host: a, b"),
    "host with a space": host("Host: a b"),
    "host with a path": host("Host: a/b"),
    "host with a user": host("Host: user@a"),
    "host with a bad port": host("Host: a:b"),
    "host with two ports": host("Host: a:1:2"),
    "host in HTTP/1.0 with a space": b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n",
    "no method": line(b" / HTTP/1.1"),
    "method with a colon": line(b"GE:T / HTTP/1.1"),
    "method with a control": line(b"GE\x01T / HTTP/1.1"),
    "method in parentheses": line(b"(GET) / HTTP/1.1"),
    "no target": line(b"GET HTTP/1.1"),
    "empty target": line(b"GET  HTTP/1.1"),
    "target with a space": line(b"GET /a b HTTP/1.1"),
    "target with a tab": line(b"GET /a\tb HTTP/1.1"),
    "target with a control": line(b"GET /a\x00 HTTP/1.1"),
    "target with DEL": line(b"GET /\x7f HTTP/1.1"),
    "target above ASCII": line(b"GET /\xe9 HTTP/1.1"),
    "relative target": line(b"GET a HTTP/1.1"),
    "asterisk for GET": line(b"GET * HTTP/1.1"),
    "authority for GET": line(b"GET a:80 HTTP/1.1"),
    "origin form for CONNECT": line(b"CONNECT / HTTP/1.1"),
    "absolute form of another scheme": line(b"GET ftp://a/ HTTP/1.1"),
    "absolute form with a user": line(b"GET http://user@a/ HTTP/1.1"),
    "no version": line(b"GET /"),
    "HTTP/2.0": line(b"GET / HTTP/2.0"),
    "HTTP/1.2": line(b"GET / HTTP/1.2"),
    "lower-case version": line(b"GET / http/1.1"),
    "more than a version": line(b"GET / HTTP/1.1 "),
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a value": host("Host: a", "X: a\rb"),
    "NUL in a value": host("Host: a", "X: a\0b"),
    "control in a value": host("Host: a", "X: a\x01b"),
    "control in a name": host("Host: a", "X\x01: a"),
    "folded line": host("Host: a", "X: a", " b"),
    "white space first": host(" Host: a"),
    "space before the colon": host("Host: a", "X : a"),
    "no colon": host("Host: a", "X"),
    "no name": host("Host: a", ": a"),
    "Content-Length +4": host("Host: a", "Content-Length: +4"),
    "Content-Length 0x4": host("Host: a", "Content-Length: 0x4"),
    "Content-Length twice": host("Host: a", "Content-Length: 1", "Content-Length: 1"),
    "Content-Length and coding": host("Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"),
    "unknown coding": host("Host: a", "Transfer-Encoding: gzip, chunked"),
    "coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": host("Host: a", "Transfer-Encoding: chunked") + b"x\r\n",
    "more than 1,000 arguments": line(b"GET /?" + b"&".join([b"a"] * 1001) + b" HTTP/1.1"),
}


@pytest.mark.parametrize("name", list(MALFORMED))
async def test_22_malformed_requests(
    name: str, serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Exactly this answer, one INFO line, and the close; what follows is not looked at."""
    caplog.set_level(logging.INFO, logger="whimbrel")
    wire = await connect(serve(Parsing))
    await wire.send(MALFORMED[name] + get("/smuggled", "Connection: close"))
    assert await wire.rest() == BAD_REQUEST
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("Malformed HTTP message from 127.0.0.1: ")


async def test_22_malformed_after_a_good_one(serve: Serve, connect: Connect) -> None:
    """The responses that are owed come first."""
    wire = await connect(serve(Parsing))
    await wire.send(get() + get() + MALFORMED["no host"])
    answer = await wire.rest()
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(BAD_REQUEST)


async def test_22_bytes_of_a_peer_cannot_write_log_lines(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """What is quoted of them is escaped."""
    caplog.set_level(logging.INFO, logger="whimbrel")
    wire = await connect(serve(Parsing))
    await wire.send(host("Host: a", "X\x1b[31m\x85: secret"))
    assert await wire.rest() == BAD_REQUEST
    message = caplog.records[0].getMessage()
    assert message.isprintable()
    assert "secret" not in message


@pytest.mark.parametrize(
    "request_bytes",
    [
        host("Host: a:8080"),
        host("Host: [::1]:8080"),
        host("Host:"),
        host("host:\ta \t"),
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\n\r\n" + host("Host: a"),
        line(b"GET http://b/ HTTP/1.1"),
        line(b"GET /?" + b"&".join([b"a"] * 1000) + b" HTTP/1.1"),
        line(b"GET /%00%ff?%zz HTTP/1.1"),
    ],
)
async def test_22_odd_but_good(request_bytes: bytes, serve: Serve, connect: Connect) -> None:
    """The strictness above refuses nothing that RFC 9112 allows."""
    assert (await (await connect(serve(Parsing))).ask(request_bytes)).code == 200


# -- 23: pipelining, time-outs


async def test_23_pipelining_is_capped(serve: Serve, connect: Connect) -> None:
    """While a response is under way no more is read than a little; later all are answered."""
    go = asyncio.Event()

    class Slow(RequestHandler):
        async def get(self) -> None:
            await go.wait()

    wire = await connect(serve(Slow))
    one = get(f"/?{'x' * 8000}")
    count = 32 * 1024 * 1024 // len(one)
    wire.writer.write(one * count)
    assert await stuck(wire) > 16 * 1024 * 1024
    go.set()
    for _ in range(count):
        assert (await wire.response()).code == 200


async def stuck(wire: Wire) -> int:
    """How many bytes the client is left with, once the server takes no more."""
    seen = -1
    while seen != (now := wire.writer.transport.get_write_buffer_size()):
        seen = now
        await asyncio.sleep(0.2)
    return seen


async def drip(wire: Wire, data: bytes, seconds: float) -> float:
    """Send a byte at a time until the server closes; how long it took."""
    begun = time.monotonic()
    closed = asyncio.create_task(wire.reader.read())
    for index in range(len(data)):
        wire.writer.write(data[index : index + 1])
        done, _ = await asyncio.wait([closed], timeout=seconds)
        if done:
            with contextlib.suppress(ConnectionError):  # a reset, for the byte that came later
                assert closed.result() == b""
            return time.monotonic() - begun
    raise AssertionError("the server took it all")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", get()[:-2]])
async def test_23_headers_that_do_not_come(sent: bytes, serve: Serve, connect: Connect) -> None:
    """Closed after header_timeout; from the beginning of the connection on."""
    wire = await connect(serve(Parsing, header_timeout=0.1, idle_connection_timeout=60))
    await wire.send(sent)
    assert await wire.rest() == b""


async def test_23_slow_loris_in_the_headers(serve: Serve, connect: Connect) -> None:
    """Bytes that keep coming do not buy more time."""
    wire = await connect(serve(Parsing, header_timeout=0.2))
    assert await drip(wire, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, 0.01) < 5


async def test_23_slow_loris_in_a_later_request(serve: Serve, connect: Connect) -> None:
    """header_timeout counts from the first byte, idle_connection_timeout until then."""
    wire = await connect(serve(Parsing, header_timeout=0.2, idle_connection_timeout=60))
    assert (await wire.ask(get())).code == 200
    await asyncio.sleep(0.4)  # idle for longer than that
    assert (await wire.ask(get())).code == 200
    assert 0.15 < await drip(wire, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, 0.01) < 5


async def test_23_an_idle_connection(serve: Serve, connect: Connect) -> None:
    wire = await connect(serve(Parsing, idle_connection_timeout=0.1))
    assert (await wire.ask(get())).code == 200
    assert await wire.rest() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_23_a_body_that_does_not_come(
    framing: str, serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Closed after body_timeout, with one INFO line; the handler is not called."""
    caplog.set_level(logging.INFO, logger="whimbrel")
    wire = await connect(serve(Parsing, body_timeout=0.1))
    await wire.send(get("/", framing, method="POST"))
    assert await wire.rest() == b""
    (record,) = caplog.records
    assert record.getMessage() == "Timeout reading body from 127.0.0.1"


async def test_23_slow_loris_in_the_body(serve: Serve, connect: Connect) -> None:
    wire = await connect(serve(Parsing, body_timeout=0.2))
    await wire.send(get("/", "Content-Length: 100000", method="POST"))
    assert await drip(wire, bytes(1000), 0.01) < 5


async def test_23_a_slow_handler_is_no_slow_client(serve: Serve, connect: Connect) -> None:
    """None of the time-outs counts while the response is being made."""

    class Slow(RequestHandler):
        async def post(self) -> None:
            await asyncio.sleep(0.5)

    server = serve(Slow, header_timeout=0.2, body_timeout=0.2, idle_connection_timeout=0.2)
    wire = await connect(server)
    assert (await wire.ask(get(method="POST", body=b"x"))).code == 200


# -- 24: no input takes more than linear time


def headers(n: int) -> bytes:
    return get("/", *(f"X-{i}: {i}" for i in range(n)))


def one_header(n: int) -> bytes:
    return get("/", *("X: y" for _ in range(n)))


def cookies(n: int) -> bytes:
    return get("/", f"Cookie: {'; '.join(f'c{i}=v' for i in range(n))}")


def broken_cookies(n: int) -> bytes:
    return get("/", f'Cookie: {";=" * n}"{chr(92) * n}')


def multipart(n: int) -> bytes:
    part = b'--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
    body = part + b"\r\n--A" * (n * 200) + b"\r\n--B--\r\n"
    return get("/", "Content-Type: multipart/form-data; boundary=B", method="POST", body=body)


def multipart_parameters(n: int) -> bytes:
    disposition = "; ".join(f'p{i}="\\"' for i in range(n))
    body = f"--B\r\nContent-Disposition: form-data; {disposition}\r\n\r\n\r\n--B--\r\n".encode()
    return get("/", "Content-Type: multipart/form-data; boundary=B", method="POST", body=body)


def urlencoded(n: int) -> bytes:
    body = b"&".join([b"a=" + b"%41+" * 200] * n)
    kind = "Content-Type: application/x-www-form-urlencoded"
    return get("/", kind, method="POST", body=body)


def query(n: int) -> bytes:
    return get(f"/?{'&'.join(['a=%41'] * n)}")


def chunks(n: int) -> bytes:
    head = get("/", "Transfer-Encoding: chunked", method="POST")
    return head + b"1;x\r\ny\r\n" * (n * 20) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (headers, 190),
        (one_header, 190),
        (cookies, 500),
        (broken_cookies, 1500),
        (multipart, 100),
        (multipart_parameters, 90),
        (urlencoded, 100),
        (query, 100),
        (chunks, 100),
    ],
)
async def test_24_ten_times_the_input_takes_ten_times_the_time(
    make: Callable[[int], bytes], size: int, serve: Serve, connect: Connect, stray_logs: StrayLogs
) -> None:
    """Of CPU, the least of some runs; what is quadratic would take a hundred times as much."""
    wire = await connect(serve(Parsing))

    async def cpu(message: bytes) -> float:
        least = 1e9
        for _ in range(7):
            begun = time.process_time()
            await wire.ask(message)
            least = min(least, time.process_time() - begun)
        return least

    small, large = await cpu(make(size)), await cpu(make(10 * size))
    # Twice the ten, for what else the machine does meanwhile.
    assert large < 20 * small + 0.005
    stray_logs.records = [r for r in stray_logs.records if r.name != "whimbrel.access"]
    stray_logs.records = [r for r in stray_logs.records if r.name != "whimbrel.general"]


# -- limits


async def test_max_header_size(serve: Serve, connect: Connect) -> None:
    server = serve(Parsing, max_header_size=1000)
    bare = len(get("/", "X: "))
    assert (await (await connect(server)).ask(get("/", f"X: {'y' * (1000 - bare)}"))).code == 200
    wire = await connect(server)
    await wire.send(get("/", f"X: {'y' * (1001 - bare)}"))
    assert await wire.rest() == BAD_REQUEST


async def test_headers_without_end_are_not_gathered(serve: Serve, connect: Connect) -> None:
    """64 KiB by default; more is refused before the block ends."""
    wire = await connect(serve(Parsing))
    await wire.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000)
    assert await wire.rest() == BAD_REQUEST


@pytest.mark.parametrize(
    "options",
    [{"max_body_size": 1000}, {"max_buffer_size": 1000}, {"max_body_size": 1000, "chunk_size": 10}],
)
async def test_max_body_size(options: dict[str, Any], serve: Serve, connect: Connect) -> None:
    """Announced or not; without it, max_buffer_size."""
    server = serve(Parsing, **options)

    def chunked(size: int) -> bytes:
        piece = b"1f4\r\n" + bytes(500) + b"\r\n"
        body = piece * (size // 500) + b"1\r\nx\r\n" * (size % 500) + b"0\r\n\r\n"
        return get("/", "Transfer-Encoding: chunked", method="POST") + body

    wire = await connect(server)
    assert (await wire.ask(get(method="POST", body=bytes(1000)))).code == 200
    assert (await wire.ask(chunked(1000))).code == 200
    for request in (get(method="POST", body=bytes(1001)), chunked(1001)):
        wire = await connect(server)
        await wire.send(request)
        assert await wire.rest() == BAD_REQUEST


async def test_a_bomb(serve: Serve, connect: Connect) -> None:
    """max_body_size counts what a body decodes to."""
    bomb = gzip.compress(bytes(10_000_000))
    request = get("/", "Content-Encoding: gzip", method="POST", body=bomb)
    wire = await connect(serve(Parsing, decompress_request=True, max_body_size=1_000_000))
    await wire.send(request)
    assert await wire.rest() == BAD_REQUEST
    wire = await connect(serve(Parsing, decompress_request=True, max_body_size=10_000_000))
    assert (await wire.ask(request)).code == 200


async def test_a_body_that_is_not_what_it_says(serve: Serve, connect: Connect) -> None:
    request = get("/", "Content-Encoding: gzip", method="POST", body=b"not gzip at all")
    wire = await connect(serve(Parsing, decompress_request=True))
    await wire.send(request)
    assert await wire.rest() == BAD_REQUEST


async def test_the_answer_to_an_upload_that_is_refused_arrives(
    serve: Serve, connect: Connect
) -> None:
    """The client is still sending: the answer must not be lost to a reset."""
    wire = await connect(serve(Parsing, max_body_size=1000))
    wire.writer.write(get("/", "Content-Length: 3000000", method="POST") + bytes(3_000_000))
    assert await wire.rest() == BAD_REQUEST
