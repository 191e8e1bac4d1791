"""The published test servers over raw sockets: what they send, refuse and leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import whimbrel.testing
from conftest import Certificates, StrayLogs, open_files
from whimbrel import HTTPClient
from whimbrel.testing import (
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    LOCALHOST_CERTIFICATE,
    Limits,
    OriginServer,
    ProxyServer,
    Reply,
    Request,
    Socks5Server,
    localhost_context,
    pattern,
    refused_port,
    threaded,
)
from whimbrel.testing._auth import DigestGuard, basic_matches, digest_response, parse_digest

ALICE = "Basic YWxpY2U6c2VjcmV0"  # alice:secret


class Raw:
    """A client that sends bytes and reads exactly one response, or up to the close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = [(n.lower(), v) for n, v in (line.split(": ", 1) for line in lines[1:-2])]
        return int(lines[0].split(" ")[1]), fields

    async def response(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        status, fields = await self.head()
        headers = dict(fields)
        if method == "HEAD" or status in (204, 304):
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return status, headers, body
        if "content-length" in headers:
            return (
                status,
                headers,
                await self.reader.readexactly(int(headers["content-length"])),
            )
        return status, headers, await self.reader.read()

    async def get(self, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
        """One request on this connection, which must succeed and stay open."""
        status, _, received = await self.ask(target, *fields, method=method, body=body)
        assert status == 200
        return received

    async def ask(
        self, target: str, *fields: str, method: str = "GET", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *fields, "", ""]
        await self.send("\r\n".join(lines).encode() + body)
        return await self.response(method)


@contextlib.asynccontextmanager
async def connect(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
    name = "localhost" if context else None
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        async with asyncio.timeout(10):
            yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def origin() -> AsyncIterator[OriginServer]:
    async with OriginServer() as server:
        yield server


@pytest.fixture
async def raw(origin: OriginServer) -> AsyncIterator[Raw]:
    async with connect(origin.port) as client:
        yield client


# What the routes answer


async def test_one_connection_serves_request_after_request(origin: OriginServer, raw: Raw) -> None:
    for size in (0, 1, 65_536, 65_537, 300_000):
        assert await raw.get(f"/bytes/{size}") == pattern(size)
        assert await raw.get(f"/stream/{size}/1000") == pattern(size)
    assert origin.connection_count == 1
    assert origin.request_count == 10


def test_pattern_can_be_cut_anywhere() -> None:
    whole = pattern(400_000)
    assert len(whole) == 400_000
    for offset, size in ((0, 1), (250, 3), (65_536, 65_536), (131_272, 5), (200_000, 200_000)):
        assert pattern(size, offset) == whole[offset : offset + size]
    assert whole[0] == 0
    assert whole[250:252] == b"\xfa\x00"


async def test_stream_uses_chunks_of_the_size_asked_for(raw: Raw) -> None:
    await raw.send(b"GET /stream/5/2 HTTP/1.1\r\nHost: x\r\n\r\n")
    status, fields = await raw.head()
    assert status == 200
    assert ("transfer-encoding", "chunked") in fields
    assert await raw.reader.readuntil(b"0\r\n\r\n") == (
        b"2\r\n\x00\x01\r\n2\r\n\x02\x03\r\n1\r\n\x04\r\n0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5"], b"h\xffllo"),
        (
            ["Transfer-Encoding: chunked"],
            b"2;x=y\r\nh\xff\r\n3\r\nllo\r\n0\r\nTrailer: z\r\n\r\n",
        ),
    ],
)
async def test_echo_returns_the_request_whole(raw: Raw, headers: list[str], body: bytes) -> None:
    received = json.loads(await raw.get("/echo?a=b", *headers, method="PUT", body=body))
    assert received == {
        "method": "PUT",
        "target": "/echo?a=b",
        "version": "1.1",
        "headers": [["Host", "x"], *(line.split(": ", 1) for line in headers)],
        "body": "h\xffllo",
    }


async def test_the_body_is_asked_for_when_the_client_waits_for_100(raw: Raw) -> None:
    await raw.send(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await raw.send(b"ok")
    status, _, body = await raw.response()
    assert (status, json.loads(body)["body"]) == (200, "ok")


async def test_redirects_count_down_to_hello(raw: Raw) -> None:
    target, statuses = "/redirect/3?status=307", []
    while True:
        status, headers, body = await raw.ask(target)
        statuses.append(status)
        if status == 200:
            break
        target = headers["location"]
    assert statuses == [307, 307, 307, 200]
    assert body == b"Hello from whimbrel\n"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/status/204", 204),
        ("/status/304", 304),
        ("/status/418", 418),
        ("/status/599", 599),
        ("/status/100", 400),
        ("/status/600", 400),
        ("/status/x", 400),
        ("/bytes/-1", 400),
        ("/bytes/99999999999", 400),
        ("/bytes/\u0661", 400),
        ("/slow/nan", 400),
        ("/slow/61", 400),
        ("/redirect/1?status=200", 400),
        ("/digest/md4", 404),
        ("/cookies/set?a=%0d%0aX:y", 400),
        ("http://[::1/", 400),
        ("/hello?" + "a&" * 1001, 400),
        ("/nowhere", 404),
    ],
)
async def test_statuses(raw: Raw, target: str, status: int) -> None:
    if not target.isascii():
        target = "/bytes/%D9%A1"  # percent-encoded digits are no digits either
    assert (await raw.ask(target))[0] == status
    assert await raw.get("/hello")  # and the connection is still in step


async def test_head_gets_the_headers_of_get_without_the_body(raw: Raw) -> None:
    status, headers, _ = await raw.ask("/bytes/100000", method="HEAD")
    assert (status, headers["content-length"]) == (200, "100000")
    assert await raw.get("/hello") == b"Hello from whimbrel\n"


async def test_slow_is_slow(raw: Raw) -> None:
    started = asyncio.get_running_loop().time()
    await raw.get("/slow/0.05")
    assert asyncio.get_running_loop().time() - started >= 0.05


async def test_gzip_cookies_and_headers(raw: Raw) -> None:
    assert json.loads(gzip.decompress(await raw.get("/gzip", "A: 1"))) == {
        "headers": [["Host", "x"], ["A", "1"]]
    }
    await raw.send(b"GET /cookies/set?a=1&b=2 HTTP/1.1\r\nHost: x\r\n\r\n")
    status, fields = await raw.head()
    assert status == 302
    assert [v for n, v in fields if n == "set-cookie"] == ["a=1; Path=/", "b=2; Path=/"]
    assert json.loads(await raw.get("/cookies", "Cookie: a=1; b=2")) == {
        "cookies": {"a": "1", "b": "2"}
    }


async def test_http_1_0_is_answered_without_chunks_and_closed(raw: Raw) -> None:
    await raw.send(b"GET /stream/10 HTTP/1.0\r\n\r\n")
    status, headers, body = await raw.response()
    assert (status, body) == (200, pattern(10))
    assert "connection" not in headers  # closing is what HTTP/1.0 does
    assert "transfer-encoding" not in headers


async def test_http_1_0_may_ask_to_stay(raw: Raw) -> None:
    for _ in range(2):
        await raw.send(b"GET /hello HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        status, headers, _ = await raw.response()
        assert (status, headers["connection"]) == (200, "Keep-Alive")


async def test_connection_close_is_obeyed(raw: Raw) -> None:
    await raw.ask("/hello", "Connection: close")
    assert await raw.reader.read() == b""


async def test_own_routes_and_failing_handlers(stray_logs: StrayLogs) -> None:
    async def teapot(request: Request) -> Reply:
        return Reply(418, "/".join(request.arguments).encode(), reason="Short and stout")

    async def broken(request: Request) -> Reply:
        raise ZeroDivisionError

    async with (
        OriginServer(routes={"/teapot": teapot, "/hello": broken}) as origin,
        connect(origin.port) as client,
    ):
        assert (await client.ask("/teapot/a/b"))[::2] == (418, b"a/b")
        assert (await client.ask("/hello"))[0] == 500
        stray_logs.expect("whimbrel.testing", "^the handler of /hello failed$")
        assert (await client.ask("/bytes/1"))[0] == 200


async def test_handlers_may_be_plain_functions() -> None:
    def plain(request: Request) -> Reply:
        return Reply(200, b"plain")

    async with OriginServer(routes={"/plain": plain}) as origin, connect(origin.port) as client:
        assert await client.get("/plain") == b"plain"


async def test_a_handler_that_returns_something_else(stray_logs: StrayLogs) -> None:
    async with (
        OriginServer(routes={"/text": lambda request: "text"}) as origin,  # type: ignore[dict-item,return-value]
        connect(origin.port) as client,
    ):
        assert (await client.ask("/text"))[0] == 500
        (error,) = [record.exc_info[1] for record in stray_logs.records if record.exc_info]
        assert str(error) == "a handler returns a Reply, not 'text'"
        stray_logs.expect("whimbrel.testing", "^the handler of /text failed$")


@pytest.mark.parametrize("path", ["boom", "/a/b", ""])
def test_routes_that_could_not_be_asked_for(path: str) -> None:
    def handler(request: Request) -> Reply:
        return Reply()

    with pytest.raises(ValueError, match=rf'one path segment, like "/hello", not \'{path}\''):
        OriginServer(routes={path: handler})


async def test_a_client_that_leaves_ends_its_handler() -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def hang(request: Request) -> Reply:
        entered.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with OriginServer(routes={"/hang": hang}) as origin:
        async with connect(origin.port) as client:
            await client.send(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            await entered.wait()
        await ended.wait()


@pytest.mark.parametrize(("error", "is_logged"), [(OSError, False), (KeyError, True)])
async def test_a_reply_that_breaks_off_is_cut_short(
    stray_logs: StrayLogs, error: type[Exception], is_logged: bool
) -> None:
    """An OSError is how a handler asks for it; anything else is a bug of the handler's."""

    async def half(request: Request) -> Reply:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise error

        return Reply(200, body())

    async with OriginServer(routes={"/half": half}) as origin, connect(origin.port) as client:
        with pytest.raises(asyncio.IncompleteReadError):
            await client.ask("/half")
    if is_logged:
        stray_logs.expect("whimbrel.testing", "^the reply to /half failed$")


# What is refused


MALFORMED = {
    "no version": b"GET /\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\n\r\n",
    "method no token": b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "control byte in target": b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "no HTTP": b"GET / ICY/1.1\r\nHost: x\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "Host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: x\ry\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "NUL in value": b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    "signed length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nok",
    "unequal lengths": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"
    ),
    "length and chunked": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    "chunked in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    "chunk size": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n"
    ),
    "chunk end": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n"
    ),
    "chunk extension over 4 KiB": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;"
        + b"x" * 5000
        + b"\r\n"
    ),
    "trailers over 16 KiB": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"a: b\r\n" * 3000
    ),
    "target over 64 KiB": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
    "field over 64 KiB": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n"),
    "fields over 64 KiB": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"A: " + b"a" * 10_000 + b"\r\n") * 8
    ),
    "2001 fields": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 2000 + b"\r\n",
    "body over 64 MiB": (
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 67108865\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_are_answered_and_closed(
    origin: OriginServer, raw: Raw, name: str
) -> None:
    """As `whimbrel.httpserver` does it: one answer for all that is malformed or too large."""
    await raw.send(MALFORMED[name])
    assert await raw.reader.read() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert origin.request_count == 0


AT_A_PROXY = {
    "no Host": 400,
    "two Hosts": 400,
    "bare LF": 400,
    "folded": 400,
    "length and chunked": 400,
    "target over 64 KiB": 414,
    "field over 64 KiB": 431,
    "2001 fields": 431,
}


@pytest.mark.parametrize("name", AT_A_PROXY)
async def test_malformed_requests_to_a_proxy_are_answered_and_closed(
    proxy: ProxyServer, through: Raw, name: str
) -> None:
    await through.send(MALFORMED[name])
    status, headers, _ = await through.response()
    assert (status, headers["connection"]) == (AT_A_PROXY[name], "close")
    assert await through.reader.read() == b""
    assert proxy.request_count == 0


async def test_the_answer_survives_what_was_still_being_sent(
    origin: OriginServer, raw: Raw
) -> None:
    """A socket closed with unread data is reset, and a reset discards what was not read yet."""
    await raw.send(b"nonsense\r\n\r\n" + b"x" * 300_000)
    while origin.open_connections:  # noqa: ASYNC110 (the server has no event for it)
        await asyncio.sleep(0.01)
    assert (await raw.response())[0] == 400


async def test_a_chunked_body_over_the_limit_is_refused_on_the_way() -> None:
    async with OriginServer(limits=Limits(body=10)) as origin, connect(origin.port) as client:
        await client.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"8\r\n01234567\r\n8\r\n01234567\r\n"
        )
        assert (await client.response())[0] == 400


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"POST /echo HTTP/1.1\r\nHost: x\r\n"])
async def test_an_idle_or_slow_client_is_dropped(data: bytes) -> None:
    async with (
        OriginServer(limits=Limits(request_time=0.05)) as origin,
        connect(origin.port) as client,
    ):
        await client.send(data)
        assert await client.reader.read() == b""


async def test_every_request_may_come_byte_by_byte(raw: Raw) -> None:
    raw.writer.get_extra_info("socket").setsockopt(6, 1, 1)  # TCP_NODELAY
    data = (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    for offset in range(len(data)):
        await raw.send(data[offset : offset + 1])
    assert json.loads((await raw.response())[2])["body"] == "ok"


async def test_connections_over_the_limit_wait_for_a_place() -> None:
    async with (
        OriginServer(limits=Limits(connections=1)) as origin,
        connect(origin.port) as first,
        connect(origin.port) as second,
    ):
        await second.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        await first.get("/slow/0.05")
        assert origin.connection_count == 1
        first.writer.close()
        assert (await second.response())[0] == 200


CROWDED = """
import asyncio, resource
from whimbrel.testing import OriginServer

async def main():
    async with OriginServer() as origin:
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        print(origin.port, flush=True)
        await asyncio.to_thread(input)

asyncio.run(main())
"""


async def test_a_server_out_of_descriptors_recovers() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", CROWDED),
        env={"PYTHONPATH": str(Path(whimbrel.testing.__file__).parents[2])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with contextlib.AsyncExitStack() as crowd:
        for _ in range(25):
            await crowd.enter_async_context(connect(port))
    async with connect(port) as client:
        assert await client.get("/hello")
    _, err = await process.communicate(b"\n")
    assert process.returncode == 0
    assert b"cannot accept a connection: [Errno 24]" in err
    assert b"Traceback" not in err


# Authentication


def credentials(challenge: str, uri: str = "/digest", nc: str = "00000001", **change: str) -> str:
    """A client's half, from a WWW-Authenticate value."""
    given = parse_digest(challenge)
    fields = {
        "username": "alice",
        "realm": given["realm"],
        "nonce": given["nonce"],
        "uri": uri,
        "algorithm": given["algorithm"],
        "opaque": given["opaque"],
        "qop": "auth",
        "nc": nc,
        "cnonce": 'c"\\',
    }
    fields["response"] = digest_response(
        given["algorithm"],
        username=fields["username"],
        realm=fields["realm"],
        password="secret",
        nonce=fields["nonce"],
        nc=nc,
        cnonce=fields["cnonce"],
        method="GET",
        uri=uri,
    )
    fields.update(change)
    quoted = {n: v.replace("\\", "\\\\").replace('"', '\\"') for n, v in fields.items()}
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in quoted.items())


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_agrees_with_the_rfc(algorithm: str, response: str) -> None:
    """RFC 7616 section 3.9.1."""
    assert response == digest_response(
        algorithm,
        username="Mufasa",
        realm="http-auth@example.org",
        password="Circle of Life",
        nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        nc="00000001",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        method="GET",
        uri="/dir/index.html",
    )


@pytest.mark.parametrize(
    ("target", "algorithms"),
    [("/digest", ["SHA-256", "MD5"]), ("/digest/md5", ["MD5"]), ("/digest/sha-256", ["SHA-256"])],
)
async def test_digest_challenges_and_grants(raw: Raw, target: str, algorithms: list[str]) -> None:
    nonces = set()
    for at in range(len(algorithms)):
        await raw.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, fields = await raw.head()
        await raw.reader.readexactly(int(dict(fields)["content-length"]))
        challenges = [v for n, v in fields if n == "www-authenticate"]
        assert status == 401
        assert [parse_digest(c)["algorithm"] for c in challenges] == algorithms
        answer = credentials(challenges[at], target)
        assert await raw.get(target, f"Authorization: {answer}") == b"hello alice\n"
        nonces.update(parse_digest(c)["nonce"] for c in challenges)
    assert len(nonces) == len(algorithms) ** 2  # fresh ones, every time


def test_digest_refuses_what_is_wrong_and_calls_a_replay_stale() -> None:
    guard = DigestGuard("r", "alice", "secret")
    challenge = guard.challenges(["MD5"])[0]

    def check(answer: str | None) -> str:
        return guard.check(answer, "GET", "/digest", ["MD5"])

    good = credentials(challenge)
    assert check(None) == check("") == check(ALICE) == check("Digest") == "denied"
    assert check(good.replace("Digest ", "Digest nonsense, ")) == "denied"
    assert check(credentials(challenge, "/other")) == "denied"
    for change in ("username", "realm", "opaque", "qop", "nc", "response", "cnonce", "algorithm"):
        assert check(credentials(challenge, **{change: "x"})) == "denied", change
    assert check(good) == "granted"
    assert check(good) == "stale"
    assert check(credentials(challenge, nc="00000003")) == "granted"
    assert check(credentials(challenge, nc="00000002")) == "stale"
    unknown = re.sub('nonce="[^"]+"', 'nonce="feed"', challenge)
    assert check(credentials(unknown)) == "stale"
    assert "stale=true" in guard.challenges(["MD5"], stale=True)[0]


def test_basic_credentials() -> None:
    assert basic_matches(ALICE, "alice", "secret")
    assert basic_matches("basic  YWxpY2U6c2VjcmV0", "alice", "secret")
    for wrong in (None, "", "Basic", "Basic !", "Basic YQ==", "Bearer YWxpY2U6c2VjcmV0"):
        assert not basic_matches(wrong, "alice", "secret")


async def test_basic_route(raw: Raw) -> None:
    status, headers, _ = await raw.ask("/basic")
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="whimbrel", charset="UTF-8"')
    assert await raw.get("/basic", f"Authorization: {ALICE}") == b"hello alice\n"


# Records


async def test_requests_are_recorded_within_bounds(origin: OriginServer, raw: Raw) -> None:
    await raw.get(
        "/hello", "Content-Length: 70000", "X-Key: hush", method="POST", body=b"x" * 70_000
    )
    record = origin.requests[-1]
    assert (record.method, record.target, record.connection) == ("POST", "/hello", 1)
    assert (len(record.body), record.body_size) == (65_536, 70_000)
    assert (record.get("x-key"), record.get_all("HOST"), record.get("no")) == ("hush", ["x"], None)
    assert repr(record) == "<RecordedRequest POST /hello on connection 1>"
    assert origin.requests.maxlen == 1000


# The proxy


@pytest.fixture
async def proxy() -> AsyncIterator[ProxyServer]:
    async with ProxyServer("alice", "secret") as server:
        yield server


@pytest.fixture
async def through(proxy: ProxyServer) -> AsyncIterator[Raw]:
    async with connect(proxy.port) as client:
        yield client


AUTH = f"Proxy-Authorization: {ALICE}"


async def test_the_proxy_forwards_and_keeps_its_secrets(
    origin: OriginServer, proxy: ProxyServer, through: Raw
) -> None:
    for size in (0, 10, 200_000):
        assert await through.get(origin.url(f"/bytes/{size}"), AUTH) == pattern(size)
        assert await through.get(origin.url(f"/stream/{size}"), AUTH) == pattern(size)
    received = json.loads(
        await through.get(
            origin.url("/echo?q"),
            AUTH,
            "Connection: X-Hop, keep-alive",
            "X-Hop: 1",
            "X-End: 2",
            "Proxy-Connection: keep-alive",
            "TE: trailers",
            "Transfer-Encoding: chunked",
            method="POST",
            body=b"2\r\nok\r\n0\r\n\r\n",
        )
    )
    assert received["target"] == "/echo?q"
    assert received["body"] == "ok"
    assert received["headers"] == [
        ["Host", f"127.0.0.1:{origin.port}"],
        ["X-End", "2"],
        ["Via", "1.1 whimbrel"],
        ["Connection", "close"],
        ["Transfer-Encoding", "chunked"],
    ]
    assert (proxy.connection_count, proxy.request_count, proxy.forward_count) == (1, 7, 7)
    assert (proxy.tunnel_count, proxy.refused_count) == (0, 0)
    assert proxy.requests[-1].get("proxy-authorization") == ALICE


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/", "127.0.0.1:1"])
@pytest.mark.parametrize("wrong", [[], ["Proxy-Authorization: Basic YWxpY2U6"], [AUTH, AUTH]])
async def test_407_comes_first_and_leaves_the_connection_usable(
    origin: OriginServer, proxy: ProxyServer, through: Raw, target: str, wrong: list[str]
) -> None:
    method = "CONNECT" if target[0] != "h" else "POST"
    status, headers, _ = await through.ask(
        target, *wrong, "Content-Length: 2", method=method, body=b"ok"
    )
    assert (status, headers["proxy-authenticate"]) == (
        407,
        'Basic realm="whimbrel proxy", charset="UTF-8"',
    )
    assert proxy.refused_count == 1
    assert await through.get(origin.url("/hello"), AUTH)


async def test_407_to_a_client_that_waits_for_100_closes(proxy: ProxyServer, through: Raw) -> None:
    status, headers, _ = await through.ask(
        "http://x/", "Expect: 100-continue", "Content-Length: 2", method="POST"
    )
    assert (status, headers["connection"]) == (407, "close")
    assert await through.reader.read() == b""


async def test_a_tunnel_is_blind_and_half_closes(origin: OriginServer, proxy: ProxyServer) -> None:
    async with connect(proxy.port) as client:
        await client.send(
            f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode()
        )
        assert await client.reader.readuntil(b"\r\n\r\n") == (
            b"HTTP/1.1 200 Connection established\r\n\r\n"
        )
        assert await client.get("/bytes/500000") == pattern(500_000)
        client.writer.write_eof()
        assert await client.reader.read() == b""
    assert (proxy.tunnel_count, proxy.forward_count, origin.connection_count) == (1, 0, 1)


async def test_an_origin_out_of_reach_is_502(through: Raw) -> None:
    with refused_port() as port:
        status, _, _ = await through.ask(f"http://127.0.0.1:{port}/", AUTH)
    assert status == 502


async def test_a_tunnel_to_nowhere_is_502(through: Raw) -> None:
    with refused_port() as port:
        status, _, _ = await through.ask(f"127.0.0.1:{port}", AUTH, method="CONNECT")
    assert status == 502


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/origin-form"),
        ("GET", "https://127.0.0.1/"),
        ("GET", "http://u:p@127.0.0.1/"),
        ("GET", "http://[::1/"),
        ("GET", "http://127.0.0.1:99999/"),
        ("CONNECT", "127.0.0.1"),
        ("CONNECT", "http://127.0.0.1:80"),
    ],
)
async def test_targets_no_proxy_can_serve_are_400(through: Raw, method: str, target: str) -> None:
    assert (await through.ask(target, AUTH, method=method))[0] == 400


async def test_a_port_out_of_range_is_502(through: Raw) -> None:
    assert (await through.ask("127.0.0.1:99999", AUTH, method="CONNECT"))[0] == 502


@contextlib.asynccontextmanager
async def scripted(*replies: bytes) -> AsyncIterator[int]:
    """An origin that sends `replies` after the request's head, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"".join(replies))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_nonsense_from_the_origin_is_502(through: Raw, reply: bytes) -> None:
    async with scripted(reply) as port:
        assert (await through.ask(f"http://127.0.0.1:{port}/", AUTH))[0] == 502


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_a_response_cut_short_stays_cut_short(through: Raw, reply: bytes) -> None:
    async with scripted(reply) as port:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await through.ask(f"http://127.0.0.1:{port}/", AUTH)


async def test_a_response_cut_short_is_no_orderly_end_for_http_1_0_either(through: Raw) -> None:
    """Its body ends with the connection: only a reset tells it from a whole one."""
    async with scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    ) as port:
        await through.send(f"GET http://127.0.0.1:{port}/ HTTP/1.0\r\n{AUTH}\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            await through.response()


async def test_interim_responses_and_bodies_without_length_pass(through: Raw) -> None:
    async with scripted(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.0 200 Fine\r\n\r\nbody"
    ) as port:
        await through.send(
            f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode()
        )
        assert await through.head() == (103, [("link", "</a>")])
        status, headers, body = await through.response()
    assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"body")


async def test_100_continue_travels_through_the_proxy(
    origin: OriginServer, proxy: ProxyServer, through: Raw
) -> None:
    await through.send(
        f"POST {origin.url('/echo')} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n"
        "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
    )
    assert (await through.head())[0] == 100
    await through.send(b"ok")
    assert json.loads((await through.response())[2])["body"] == "ok"
    assert await through.get(origin.url("/hello"), AUTH)


async def test_an_early_answer_ends_the_upload_and_the_connection(
    origin: OriginServer, through: Raw
) -> None:
    await through.send(
        f"POST {origin.url('/echo')} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n"
        "Content-Length: 67108865\r\n\r\nfirst bytes".encode()
    )
    assert (await through.response())[0] == 400
    assert await through.reader.read() == b""


async def test_malformed_chunks_towards_the_proxy_are_400(
    origin: OriginServer, through: Raw
) -> None:
    await through.send(
        f"POST {origin.url('/echo')} HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n"
        "Transfer-Encoding: chunked\r\n\r\nxyz\r\n".encode()
    )
    assert (await through.response())[0] == 400
    assert origin.request_count == 0


async def test_a_proxy_without_a_user_asks_nobody(origin: OriginServer) -> None:
    async with ProxyServer() as proxy, connect(proxy.port) as client:
        assert await client.get(origin.url("/hello"))
        assert proxy.url_with_credentials == proxy.url == f"http://127.0.0.1:{proxy.port}"


async def test_credentials_are_percent_encoded_in_the_url() -> None:
    async with ProxyServer("a@b", "c:/d") as proxy:
        assert proxy.url_with_credentials == f"http://a%40b:c%3A%2Fd@127.0.0.1:{proxy.port}"


# TLS


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=LOCALHOST_CERTIFICATE.decode())


async def test_tls_with_the_certificate_for_localhost() -> None:
    async with OriginServer(localhost_context()) as origin:
        assert origin.url("/x") == f"https://localhost:{origin.port}/x"
        async with connect(origin.port, client_context()) as client:
            assert await client.get("/bytes/300000") == pattern(300_000)
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connect(origin.port, ssl.create_default_context()):
                pass


@pytest.mark.parametrize(
    ("mode", "shows", "is_served"),
    [
        (ssl.CERT_OPTIONAL, "ours", True),
        (ssl.CERT_OPTIONAL, "none", True),
        (ssl.CERT_OPTIONAL, "another", False),
        (ssl.CERT_REQUIRED, "ours", True),
        (ssl.CERT_REQUIRED, "none", False),
    ],
)
async def test_client_certificates(
    mode: ssl.VerifyMode, shows: str, is_served: bool, tmp_path: Path, certificates: Certificates
) -> None:
    context = client_context()
    if shows == "ours":
        (tmp_path / "pair.pem").write_bytes(CLIENT_CERTIFICATE + CLIENT_KEY)
        context.load_cert_chain(tmp_path / "pair.pem")
    elif shows == "another":
        context.load_cert_chain(certificates.client_cert_file, certificates.client_key_file)
    async with OriginServer(localhost_context(mode)) as origin:
        with (
            contextlib.nullcontext()
            if is_served
            else pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError))
        ):
            async with connect(origin.port, context) as client:
                await client.get("/hello")


async def test_a_tunnel_through_a_tls_proxy_ends_with_the_origin(origin: OriginServer) -> None:
    async with (
        ProxyServer(ssl_context=localhost_context()) as proxy,
        connect(proxy.port, client_context()) as client,
    ):
        assert proxy.url.startswith("https://localhost:")
        await client.send(f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await client.head())[0] == 200
        await client.ask("/hello", "Connection: close")
        assert await client.reader.read() == b""


# Beginnings and ends


async def test_a_refused_port_refuses() -> None:
    with refused_port() as port:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_a_server_starts_once_and_closes_twice() -> None:
    server = OriginServer()
    with pytest.raises(RuntimeError, match="was not started"):
        server.url()
    await server.start()
    with pytest.raises(RuntimeError, match="was started before"):
        await server.start()
    await server.close()
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("kind", [OriginServer, ProxyServer, Socks5Server])
async def test_the_port_can_be_chosen(kind: type[OriginServer | ProxyServer]) -> None:
    """One that is taken is an error, after which there may be a second try."""
    async with kind() as first:
        second = kind(port=first.port)
        with pytest.raises(OSError, match=str(first.port)):
            await second.start()
    async with second:
        assert second.port == first.port


async def test_servers_show_where_they_are() -> None:
    origin, proxy = OriginServer(localhost_context()), ProxyServer("alice", "s3cret")
    assert repr(origin) == "<OriginServer not started>"
    async with origin, proxy, Socks5Server("alice", "s3cret") as socks:
        assert repr(origin) == f"<OriginServer https://localhost:{origin.port}>"
        assert repr(proxy) == f"<ProxyServer http://127.0.0.1:{proxy.port}>"
        assert repr(socks) == f"<Socks5Server socks5h://127.0.0.1:{socks.port}>"
    assert repr(proxy) == f"<ProxyServer http://127.0.0.1:{proxy.port}, closed>"


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("kind", [OriginServer, ProxyServer])
async def test_closing_while_a_connection_comes_in(
    kind: type[OriginServer | ProxyServer], turns: int
) -> None:
    """Accepted or not, its socket does not outlive the server, and nothing is logged."""
    before = open_sockets()
    server = await kind().start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is listening, whatever it takes for that
    with socket.create_connection(("127.0.0.1", server.port)):
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()
    gc.collect()
    assert server.open_connections == 0
    assert open_sockets() == before


def test_a_server_in_a_thread() -> None:
    """It answers a client that blocks; what it cannot start with is raised here."""
    with threaded(OriginServer()) as origin, HTTPClient(trust_env=False) as client:
        assert client.fetch(origin.url("/hello"), request_timeout=10).code == 200
        assert origin.request_count == 1
        with (
            pytest.raises(OSError, match=str(origin.port)),
            threaded(ProxyServer(port=origin.port)),
        ):
            pass
    assert repr(origin).endswith(", closed>")


async def test_closing_from_another_loop() -> None:
    """It is the server's own loop that does it."""
    with threaded(OriginServer()) as origin:
        async with connect(origin.port) as client:
            await client.get("/hello")
            await origin.close()
            assert await client.reader.read() == b""
        assert origin.open_connections == 0


def open_sockets() -> int:
    return open_files()["socket"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists descriptors in /proc")
async def test_closing_leaves_no_task_and_no_descriptor() -> None:
    """Closed in every phase: idle, slow handler, mid-body, TLS handshake, tunnel, upload."""
    asyncio.get_running_loop().set_debug(True)
    tasks, before = asyncio.all_tasks(), open_sockets()
    async with contextlib.AsyncExitStack() as clients:
        origin = await OriginServer().start()
        secure = await OriginServer(localhost_context()).start()
        proxy = await ProxyServer().start()

        async def client(port: int, data: bytes) -> Raw:
            raw = await clients.enter_async_context(connect(port))
            await raw.send(data)
            return raw

        await (await client(origin.port, b"")).get("/hello")
        await client(origin.port, b"GET /slow/60 HTTP/1.1\r\nHost: x\r\n\r\n")
        huge = await client(origin.port, b"GET /bytes/4000000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await huge.head()
        await client(secure.port, b"\x16\x03\x01")
        target = f"127.0.0.1:{origin.port}"
        tunnel = await client(proxy.port, f"CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await tunnel.head()
        await client(
            proxy.port,
            f"POST http://{target}/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1".encode(),
        )
        await client(
            proxy.port, f"GET http://{target}/slow/60 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            while origin.request_count < 4 or proxy.forward_count < 2:
                await (await client(origin.port, b"")).get("/slow/0.01")
        await proxy.close()
        await origin.close()
        await secure.close()
        assert (proxy.open_connections, origin.open_connections, secure.open_connections) == (
            0,
        ) * 3
        assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()
    gc.collect()
    assert open_sockets() == before
