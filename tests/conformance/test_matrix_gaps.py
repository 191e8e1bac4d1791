"""Rows of the acceptance matrix that no other file of the suite shows on both backends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shortage import no_descriptors
from whimbrel._policy.exchange import prepare
from whimbrel.httpclient import (
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPResolveError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
)
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    chunked,
    ok,
    redirect,
    reply,
    respond,
)

from .support import error_of, gzipped, until

CHUNKED = "Transfer-Encoding: chunked"
OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSED = None


def _status(line: bytes) -> bytes:
    return line + b"\r\nContent-Length: 2\r\n\r\nok"


def _fields(*lines: str, body: bytes = b"ok") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1") + body


def _length(value: str) -> bytes:
    return _fields(f"Content-Length: {value}")


def _coding(*values: str) -> bytes:
    return _fields(*(f"Transfer-Encoding: {v}" for v in values), body=chunked(b"ok"))


def _chunk_line(line: bytes) -> bytes:
    return OK_CHUNKED + line + b"\r\nok\r\n0\r\n\r\n"


LONG_FIELD = "A: " + "x" * 997

# Number of the row and case: the reply, what the simple backend makes of it, and libcurl where
# that is something else. REFUSED is an error, bytes are the body.
REPLIES: dict[str, tuple[bytes, bytes | None] | tuple[bytes, bytes | None, bytes | None]] = {
    "01 garbage": (b"garbage\r\n\r\n", REFUSED),
    "01 short": (_status(b"HTTP/1.1 20"), REFUSED),
    "01 099": (_status(b"HTTP/1.1 099 X"), REFUSED),
    "01 2000": (_status(b"HTTP/1.1 2000 X"), REFUSED),
    "01 no code": (_status(b"HTTP/1.1"), REFUSED),
    "01 two spaces": (_status(b"HTTP/1.1  200 OK"), REFUSED),
    "01 tab": (_status(b"HTTP/1.1\t200 OK"), REFUSED),
    "01 600": (_status(b"HTTP/1.1 600 X"), b"ok"),
    "02 0.9": (_status(b"HTTP/0.9 200 OK"), REFUSED),
    "02 no head": (b"hello world", REFUSED),
    "02 1.2": (_status(b"HTTP/1.2 200 OK"), REFUSED),
    "02 2": (_status(b"HTTP/2 200 OK"), REFUSED),
    "02 2.0": (_status(b"HTTP/2.0 200 OK"), REFUSED, b"ok"),
    "02 3.1": (_status(b"HTTP/3.1 200 OK"), REFUSED, b"ok"),
    "02 lower case": (_status(b"http/1.1 200 OK"), REFUSED),
    "02 ICY": (_status(b"ICY 200 OK"), REFUSED),
    "03 bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok"),
    "04 folded": (_fields("A: b\r\n c", "Content-Length: 2"), REFUSED, b"ok"),
    "04 folded first line": (_fields(" A: b", "Content-Length: 2"), REFUSED, b"ok"),
    "05 NUL in a value": (_fields("A: b\0c", "Content-Length: 2"), REFUSED),
    "05 CR in a value": (_fields("A: b\rc", "Content-Length: 2"), REFUSED),
    "05 BEL in a value": (_fields("A: b\x07", "Content-Length: 2"), REFUSED, b"ok"),
    "05 DEL in a value": (_fields("A: b\x7f", "Content-Length: 2"), REFUSED, b"ok"),
    "05 NUL in a name": (_fields("A\0: b", "Content-Length: 2"), REFUSED),
    "05 space in a name": (_fields("A B: c", "Content-Length: 2"), REFUSED, b"ok"),
    "05 NUL in the reason": (_status(b"HTTP/1.1 200 O\0K"), REFUSED),
    "05 BEL in the reason": (_status(b"HTTP/1.1 200 O\x07K"), REFUSED, b"ok"),
    "06 no colon": (_fields("nocolon", "Content-Length: 2"), REFUSED),
    "06 no name": (_fields(": x", "Content-Length: 2"), REFUSED, b"ok"),
    "06 space before the colon": (_fields("Content-Length : 2"), REFUSED, b"ok"),
    "06 tab before the colon": (_fields("Content-Length\t: 2"), REFUSED, b"ok"),
    "07 +2": (_length("+2"), REFUSED),
    "07 -2": (_length("-2"), REFUSED),
    "07 1_0": (_length("1_0"), REFUSED),
    "07 0x2": (_length("0x2"), REFUSED),
    "07 empty": (_length(""), REFUSED),
    "07 superscript": (_length("\xb2"), REFUSED),
    "07 10^23": (_length("1" + "0" * 23), REFUSED, b"ok"),
    "07 2^63": (_length(str(2**63)), REFUSED, b"ok"),
    "07 2^63-1": (_length(str(2**63 - 1)), REFUSED),
    "08 unequal": (_fields("Content-Length: 2", "Content-Length: 3"), REFUSED),
    "08 equal": (_fields("Content-Length: 2", "Content-Length: 2"), b"ok"),
    "08 list": (_length("2, 2"), b"ok"),
    "09 length first": (_fields("Content-Length: 2", CHUNKED, body=chunked(b"ok")), REFUSED),
    "09 length last": (_fields(CHUNKED, "Content-Length: 2", body=chunked(b"ok")), REFUSED),
    "10 xchunked": (_coding("xchunked"), REFUSED),
    "10 comma first": (_coding(",chunked"), REFUSED, b"ok"),
    "10 identity last": (_coding("chunked, identity"), REFUSED),
    "10 identity": (_coding("identity"), REFUSED, chunked(b"ok")),
    "10 twice": (_coding("chunked, chunked"), REFUSED, b"ok"),
    "10 two fields": (_coding("chunked", "chunked"), REFUSED, b"ok"),
    "10 parameter": (_coding("chunked;q=1"), REFUSED),
    "10 vertical tab": (_coding("\x0bchunked"), REFUSED),
    "10 upper case": (_coding("CHUNKED"), b"ok"),
    "10 in HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ok"),
        b"ok",
    ),
    "11 0x2": (_chunk_line(b"0x2"), REFUSED),
    "11 +2": (_chunk_line(b"+2"), REFUSED),
    "11 -2": (_chunk_line(b"-2"), REFUSED),
    "11 0_2": (_chunk_line(b"0_2"), REFUSED),
    "11 empty": (_chunk_line(b""), REFUSED),
    "11 17 digits": (_chunk_line(b"1" * 17), REFUSED),
    "11 space first": (_chunk_line(b" 2"), REFUSED),
    "11 space last": (_chunk_line(b"2 "), REFUSED, b"ok"),
    "12 no CRLF": (OK_CHUNKED + b"2\r\nokXX0\r\n\r\n", REFUSED),
    "12 LF behind a chunk": (OK_CHUNKED + b"2\r\nok\n0\r\n\r\n", REFUSED, b"ok"),
    "12 LF behind a size": (OK_CHUNKED + b"2\nok\r\n0\r\n\r\n", REFUSED, b"ok"),
    "12 CR behind a size": (OK_CHUNKED + b"2\rok\r\n0\r\n\r\n", REFUSED),
    "12 LF at the end": (OK_CHUNKED + b"2\r\nok\r\n0\n\n", REFUSED, b"ok"),
    "13 extensions": (_chunk_line(b'2;a=b;c="d;e"'), b"ok"),
    "13 5,000 bytes": (_chunk_line(b"2;" + b"a" * 5000), REFUSED, b"ok"),
    "13 LF inside": (_chunk_line(b"2;a\nb"), REFUSED),
    "14 trailers": (OK_CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 9\r\nA: b\r\n\r\n", b"ok"),
    "14 64 KB": (
        OK_CHUNKED + b"2\r\nok\r\n0\r\n" + b"A: bbbbbbbbbbbbb\r\n" * 4000 + b"\r\n",
        REFUSED,
        b"ok",
    ),
    "14 malformed": (OK_CHUNKED + b"2\r\nok\r\n0\r\nnocolon\r\n\r\n", REFUSED),
    "15 in the body": (_length("9"), REFUSED),
    "15 in a chunk": (OK_CHUNKED + b"9\r\nok", REFUSED),
    "15 before the last CRLF": (OK_CHUNKED + b"2\r\nok\r\n0\r\n", REFUSED),
    "15 in the head": (b"HTTP/1.1 200 OK\r\nA: b\r\n", REFUSED),
    "16 gzip cut short": (
        _fields("Content-Encoding: gzip", "Content-Length: 12", body=gzipped(b"ok")[:12]),
        REFUSED,
    ),
    "17 no gzip": (_fields("Content-Encoding: gzip", "Content-Length: 2"), REFUSED),
    "17 six codings": (
        _fields("Content-Encoding: " + ", ".join(["gzip"] * 6), "Content-Length: 2"),
        REFUSED,
    ),
    "20 ten interim": (b"HTTP/1.1 100 C\r\n\r\n" * 10 + ok(), b"ok"),
    "20 eleven interim": (b"HTTP/1.1 100 C\r\n\r\n" * 11 + ok(), REFUSED),
    "21 63 KB": (_fields(*[LONG_FIELD] * 62, "Content-Length: 2"), b"ok"),
    "21 66 KB": (_fields(*[LONG_FIELD] * 66, "Content-Length: 2"), REFUSED, b"ok"),
    "21 400 KB": (_fields(*[LONG_FIELD] * 400, "Content-Length: 2"), REFUSED),
    "21 1,900 lines": (_fields(*["A: x"] * 1900, "Content-Length: 2"), b"ok"),
    "21 2,100 lines": (_fields(*["A: x"] * 2100, "Content-Length: 2"), REFUSED, b"ok"),
    "21 5,100 lines": (_fields(*["A: x"] * 5100, "Content-Length: 2"), REFUSED),
}


@pytest.mark.parametrize("cut", ["whole", "in pieces"])
@pytest.mark.parametrize("case", REPLIES)
async def test_matrix_01_to_21_and_25_the_same_reply(
    client: Any, backend: str, case: str, cut: str
) -> None:
    """Matrix 1 to 21 and 25: both backends make the same of a reply, but for what is listed."""
    reply_bytes, *outcomes = REPLIES[case]
    outcome = outcomes[-1] if backend == "curl" else outcomes[0]

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        if cut == "whole":
            await peer.send(reply_bytes)
        else:
            await peer.send_slowly(reply_bytes, max(1, len(reply_bytes) // 100), 0)

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), request_timeout=5, raise_error=False)
        if outcome is REFUSED:
            error = await error_of(fetch)
            assert isinstance(error, HTTPProtocolError | HTTPLimitError | HTTPStreamClosedError)
            assert error.stage in ("response", "body")
        else:
            assert (await fetch).body == outcome
        assert len(server.requests) == 1
    async with ScriptedServer(canned(ok(b"sound"))) as server:
        assert (await client.fetch(server.url())).body == b"sound"


# -- 26 to 34: proxies


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5"],
        [CHUNKED],
        ["Content-Length: 5", "Content-Length: 5"],
    ],
)
async def test_matrix_29_framing_in_the_answer_to_connect(
    client: Any, certificates: Any, server_context: Any, fields: list[str]
) -> None:
    """Matrix 29: a 2xx to CONNECT has no body, whatever it says (RFC 9110 section 9.3.6)."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        head = "\r\n".join(["HTTP/1.1 200 Connected", *fields, "", ""]).encode()
        await peer.start_tls(server_context, head)
        await peer.read_request()
        await peer.send(ok(b"through"))
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        response = await client.fetch(
            "https://localhost/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert response.body == b"through"
        assert response.proxy_code == 200


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "fields": (b"HTTP/1.1 200 OK\r\n", b"A: " + b"x" * 1000 + b"\r\n"),
    "one line": (b"HTTP/1.1 200 OK\r\nA: ", b"x" * 4096),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 20),
    "body of a 407": (
        reply("407 No", b"", 'Proxy-Authenticate: Basic realm="r"', "Content-Length: 9999999999"),
        b"x" * 16384,
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_matrix_29_31_endless_answers_to_connect(
    client: Any, backend: str, what: str
) -> None:
    """Matrix 29 and 31: an answer without end is refused long before the deadline.

    But for the body of a 407, which libcurl reads to the deadline.
    """
    begin, piece = ENDLESS[what]
    endures = backend == "curl" and what == "body of a 407"

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(begin)
        while True:
            await peer.send(piece)

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch(
                "https://name.test/", proxy=proxy.url(), request_timeout=1 if endures else 20
            )
        )
        assert isinstance(error, HTTPTimeoutError) is endures
        assert error.proxy == proxy.url("")


# -- 38


@pytest.mark.parametrize("status", ["413 Too Large", "403 No"])
async def test_matrix_38_refused_during_the_upload(client: Any, status: str) -> None:
    """Matrix 38: a final 4xx and the close, while the body is being sent: it is the response."""

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            await write(b"x" * 16384)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_some()
        await peer.send(reply(status, b"no", "Connection: close"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), method="POST", body_producer=produce, raise_error=False
        )
        assert (response.code, response.body) == (int(status[:3]), b"no")
        await server.finished()


async def test_matrix_38_success_before_the_upload_ends(client: Any) -> None:
    """Matrix 38: a 200 with the body half sent is the response, and the next one is the next's."""
    answered = asyncio.Event()

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        await write(b"x" * 1000)
        await answered.wait()
        await write(b"y" * 1000)

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            if request.target == "/early":
                await peer.send(ok(b"enough"))
                answered.set()
                await peer.read_body(request)
            else:
                await peer.read_body(request)
                await peer.send(ok(request.body))

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url("/early"), method="POST", body_producer=produce, request_timeout=5
        )
        assert response.body == b"enough"
        for number in range(3):
            body = b"%d" % number
            response = await client.fetch(server.url(), method="POST", body=body)
            assert response.body == body


# -- 42: file descriptors


async def test_matrix_42_out_of_file_descriptors(client: Any) -> None:
    """Matrix 42: an error at once, no spinning; a kept connection goes on; then all is well."""
    async with (
        ScriptedServer(canned(ok(b"kept"))) as server,
        ScriptedServer(canned(ok(b"other"))) as other,
    ):
        await client.fetch(server.url())
        with no_descriptors():
            began, spent = time.monotonic(), time.process_time()
            error = await error_of(client.fetch(other.url(), request_timeout=5))
            assert time.monotonic() - began < 2
            assert not isinstance(error, HTTPTimeoutError)
            assert error.stage
            assert (await client.fetch(server.url())).body == b"kept"
            await asyncio.sleep(0.3)
            assert time.process_time() - spent < 0.25, "it spins"
        assert (await client.fetch(other.url())).body == b"other"
        assert (await client.fetch(server.url())).reused


# -- 44


async def test_matrix_44_rotating_proxies(client: Any) -> None:
    """Matrix 44: 200 identities at a proxy, one after the other: few connections are kept."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await peer.send(ok())

    async with ScriptedServer(handler) as proxy:
        for number in range(200):
            via = f"http://user{number}:secret@{proxy.address}"
            response = await client.fetch("http://origin.test/x", proxy=via)
            assert not response.reused
        await until(lambda: sum(not peer.is_closed for peer in proxy.connections) <= 100)
        assert len(proxy.connections) == 200


# -- 58


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
async def test_matrix_58_wall_clock_jumps(
    client: Any, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Matrix 58: time-outs and kept connections do not depend on the time of day."""
    real = time.time
    released = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/wait":
                await released.wait()
            if request.target == "/never":
                return await peer.closed()
            await peer.send(ok())

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url("/"))
        waiting = client.fetch(server.url("/wait"), request_timeout=5)
        never = client.fetch(server.url("/never"), request_timeout=0.5)
        await server.requested(3)
        began = time.monotonic()
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        await error_of(never)
        assert 0.3 < time.monotonic() - began < 3
        released.set()
        response = await waiting
        assert response.code == 200
        assert 0 < response.request_time < 5
        assert (await client.fetch(server.url("/"))).reused


# -- 66


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_matrix_66_body_limit_covers_the_chain(client: Any, size: int) -> None:
    """Matrix 66: the body of a redirect counts against max_body_size, and never reaches anyone."""
    pieces: list[bytes] = []
    hop = reply("302 Found", b"x" * size, "Location: /end")

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(ok(b"end") if request.target == "/end" else hop)

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), max_body_size=100_000, streaming_callback=pieces.append)
        if size > 100_000:
            with pytest.raises(HTTPError, match="max_body_size"):
                await fetch
            assert not pieces
        else:
            assert (await fetch).code == 200
            assert pieces == [b"end"]


# -- 73: where a connection may go


class _Filter:
    """A resolver that lets no connection go to this machine, except for one name."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []

    def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> Any:
        self.asked.append(host)
        if host == "front.test":
            return [(socket.AF_INET, ("127.0.0.1", self.port))]
        raise PermissionError(f"{host} is not allowed")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST.",
        "inner.test",
    ],
)
@pytest.mark.parametrize("hop", ["direct", "redirect"])
async def test_matrix_73_a_resolver_sees_every_hop(
    make_client: Callable[..., Any], host: str, hop: str
) -> None:
    """Matrix 73: it is asked for addresses, too, in their one form; nothing connects without it."""
    async with ScriptedServer(canned(ok(b"internal"))) as inner:
        target = f"http://{host}:{inner.port}/"
        async with ScriptedServer(canned(redirect(target))) as front:
            resolver = _Filter(front.port)
            client = make_client(resolver=resolver)
            with pytest.raises(Exception, match="is not allowed") as caught:
                await client.fetch("http://front.test/" if hop == "redirect" else target)
            assert isinstance(caught.value, OSError)
            assert not inner.connections
            assert resolver.asked[-1] in (
                "127.0.0.1",
                "::1",
                "::ffff:7f00:1",
                "localhost",
                "localhost.",
                "inner.test",
            )


# -- 75


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.test", "xn--bcher-kva.test"),
        ("straße.test", "xn--strae-oqa.test"),
        ("good\u3002test", "good.test"),
        ("good\uff0etest", "good.test"),
    ],
)
async def test_matrix_75_international_names(
    make_client: Callable[..., Any], host: str, encoded: str
) -> None:
    """Matrix 75: one form of a name, for the look-up, the mapping and the Host field."""
    async with ScriptedServer(canned(ok())) as server:
        client = make_client(hostname_mapping={encoded: ("127.0.0.1", server.port)})
        await client.fetch(f"http://{host}/")
        assert server.requests[0].get("Host") == encoded


@pytest.mark.parametrize(
    "host", ["a b", "a\0b", "a%00b", "a%20b", "a\tb", "a%2eb", "xn--a", "a\u2024b/"]
)
async def test_matrix_75_hosts_that_are_none(make_client: Callable[..., Any], host: str) -> None:
    """Matrix 75: refused before anything is looked up."""
    with pytest.raises((ValueError, HTTPResolveError)):
        await make_client().fetch(f"http://{host}.test/", connect_timeout=2)


# -- 77


async def test_matrix_77_netrc_is_not_read(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 77: whatever stands in ~/.netrc, nothing of it is sent."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
        await client.fetch(server.url(userinfo="user"))
        assert server.requests[0].get("Authorization") is None
        assert b"secret" not in server.requests[1].raw_head


# -- 80

NAMES = ("name.test", "sub.name.test")


@pytest.mark.parametrize(
    ("cookie", "kept"),
    [
        ("a=b; Domain=name.test", True),
        ("a=b; Domain=NAME.Test", True),
        ("a=b; Domain=.name.test", True),
        ("a=b; Domain=test", False),
        ("a=b; Domain=co.uk", False),
        ("a=b; Domain=other.test", False),
        ("a=b; Domain=sub.name.test", False),
    ],
)
async def test_matrix_80_domains_of_cookies(
    make_client: Callable[..., Any], cookie: str, kept: bool
) -> None:
    """Matrix 80: a host sets cookies for itself, and for no registry or stranger."""
    async with ScriptedServer(canned(ok(b"", f"Set-Cookie: {cookie}"))) as server:
        client = make_client(
            cookies=True,
            hostname_mapping=dict.fromkeys(NAMES, ("127.0.0.1", server.port)),
        )
        for _ in range(2):
            await client.fetch("http://name.test/")
        assert server.requests[1].get("Cookie") == ("a=b" if kept else None)
        await client.fetch("http://sub.name.test/")
        assert server.requests[2].get("Cookie") == ("a=b" if kept else None)


async def test_matrix_80_a_cookie_without_domain_is_the_hosts(
    make_client: Callable[..., Any],
) -> None:
    """Matrix 80: host-only stays host-only."""
    async with ScriptedServer(canned(ok(b"", "Set-Cookie: a=b"))) as server:
        client = make_client(
            cookies=True,
            hostname_mapping=dict.fromkeys(NAMES, ("127.0.0.1", server.port)),
        )
        await client.fetch("http://name.test/")
        await client.fetch("http://sub.name.test/")
        assert server.requests[1].get("Cookie") is None


# -- 35, and a guard for the whole file


async def test_matrix_35_reset_before_the_response(client: Any) -> None:
    """Matrix 35: a RST instead of a response is an error at once, a ConnectionError."""
    async with ScriptedServer(respond(b"", then="reset")) as server:
        error = await error_of(client.fetch(server.url(), request_timeout=5))
        assert isinstance(error, HTTPStreamClosedError)
        assert isinstance(error, ConnectionError)
        assert error.stage == "response"
        assert len(server.requests) == 1


# -- small things on which both backends agree


FORBIDDEN = {
    "204 with Content-Length 5": b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
    "both Content-Length and Transfer-Encoding": _fields(
        CHUNKED, "Content-Length: 2", body=chunked(b"ok")
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_what_was_sent_is_told(client: Any, what: str) -> None:
    """A reply that is forbidden, rather than malformed, is an error that says what it was."""
    async with ScriptedServer(respond(FORBIDDEN[what], then="close")) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPProtocolError)
        assert error.message.startswith(f"{server.address} sent {what}")


@pytest.mark.parametrize("nonstandard", [False, True])
async def test_connect_is_no_method_to_fetch(client: Any, nonstandard: bool) -> None:
    """A tunnel has no response; the error says what makes one."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match=r"CONNECT.*proxy="):
            await client.fetch(
                server.url(), method="CONNECT", allow_nonstandard_methods=nonstandard
            )
        assert server.connections == []


@pytest.mark.parametrize("name", ["request_timeout", "connect_timeout", "stall_timeout"])
async def test_time_outs_below_a_millisecond(name: str) -> None:
    """They are a millisecond; 0 stays none."""
    given = {"url": "http://a.test/", "user_agent": "", "max_body_size": 0}
    for seconds, meant in ((1e-9, 0.001), (0.0004, 0.001), (0.002, 0.002), (0, 0)):
        exchange = prepare({**given, name: seconds})
        found = exchange.profile if name == "stall_timeout" else exchange
        assert getattr(found, name) == meant


@pytest.mark.parametrize("body", [b"body", [b"bo", b"dy"]], ids=["bytes", "list"])
async def test_stage_while_100_is_awaited(client: Any, body: Any) -> None:
    """The body is still to be sent."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        error = await error_of(
            client.fetch(
                server.url(),
                method="PUT",
                body=body,
                expect_100_continue=True,
                request_timeout=0.3,
            )
        )
        assert isinstance(error, HTTPTimeoutError)
        assert (error.stage, error.retryable) == ("send", True)
        assert [request.body for request in server.requests] == [b""]


async def test_pretransfer_of_a_kept_connection(client: Any) -> None:
    """Nothing is looked up or connected; the request begins at some moment all the same."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
        response = await client.fetch(server.url())
        assert response.reused
        times = response.time_info
        assert times["namelookup"] == times["connect"] == 0
        assert 0 < times["pretransfer"] <= times["starttransfer"]
