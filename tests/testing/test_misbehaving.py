"""Each fault is what its table says: to a socket, byte for byte, and to a client."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from typing import Any

import pytest

from whimbrel.httpclient import (
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.testing import OriginServer, localhost_context
from whimbrel.testing.misbehaving import (
    ORIGIN_FAULTS,
    PROXY_FAULTS,
    SOCKS_FAULTS,
    Fault,
    cut,
    socks5_method,
)
from whimbrel.testing.scripted import ScriptedServer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CONNECT = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"
GREETING = b"\x05\x02\x00\x02"  # without authentication, or with user name and password
SOCKS_CONNECT = b"\x05\x01\x00\x03\x01a\x01\xbb"
QUIET = 0.2
ENOUGH = 200_000
"""Bytes after which what comes is taken to be endless."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
SOCKS_OK = b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)

# name -> what comes after the request (a prefix of it for "endless" and "drip"), and how it ends.
UNREACHABLE = {
    "refuse": (b"", "refused"),
    "accept-never": (b"", "unanswered"),
    "close-at-once": (b"", "gone"),
    "reset-at-once": (b"", "gone"),
    "silence": (b"", "silence"),
}
ORIGIN: dict[str, tuple[bytes, str]] = {
    **UNREACHABLE,
    "eof-before-head": (b"", "eof"),
    "eof-in-status-line": (b"HTTP/1.1 20", "eof"),
    "eof-in-head": (HEAD, "eof"),
    "eof-in-body": (HEAD + b"Content-Length: 10\r\n\r\nhalf", "eof"),
    "eof-in-chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\na\r\nhalf", "eof"),
    "eof-before-last-chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "eof"),
    "eof-in-gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ", "eof"),
    "reset-before-head": (b"", "reset"),
    "reset-in-head": (HEAD, "reset"),
    "reset-in-body": (HEAD + b"Content-Length: 10\r\n\r\nhalf", "reset"),
    "stall-in-head": (HEAD, "silence"),
    "stall-in-body": (HEAD + b"Content-Length: 10\r\n\r\nhalf", "silence"),
    "drip-head": (HEAD + b"A: b", "drip"),
    "drip-body": (HEAD + b"\r\nxxx", "drip"),
    "garbage": (b"\x16\x03\x01 whimbrel?\r\n\r\n", "eof"),
    "garbage-in-head": (HEAD + b"no colon\r\n\r\n", "eof"),
    "garbage-chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nmany\r\nx\r\n0\r\n\r\n", "eof"),
    "garbage-gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
        "eof",
    ),
    "speak-first": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntoo early", "silence"),
    "surplus": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond",
        "silence",
    ),
    "endless-head": (HEAD + b"X-Endless: xxx", "endless"),
    "endless-body": (HEAD + b"\r\nxxx", "endless"),
    "endless-chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\nxxx", "endless"),
    "endless-interim": (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 ", "endless"),
    "endless-redirects": (
        b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
        "silence",
    ),
    "gzip-bomb": (HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08", "endless"),
}
CHALLENGES = {
    "basic-forever": b'Basic realm="whimbrel"',
    "digest-forever": b'Digest realm="whimbrel", qop="auth", algorithm=MD5, nonce="#"',
    "stale-forever": b'Digest realm="whimbrel", qop="auth", algorithm=MD5, nonce="#", stale=true',
}
PROXY: dict[str, tuple[bytes, str]] = {
    **UNREACHABLE,
    "302": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0", "eof"),
    "403": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "eof"),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", "eof"),
    "eof-before-reply": (b"", "eof"),
    "eof-in-reply": (TUNNEL[:-2], "eof"),
    "eof-after-reply": (TUNNEL, "eof"),
    "reset-before-reply": (b"", "reset"),
    "reset-in-reply": (TUNNEL[:-2], "reset"),
    "reset-after-reply": (TUNNEL, "reset"),
    "stall-in-reply": (TUNNEL[:-2], "silence"),
    "stall-after-reply": (TUNNEL, "silence"),
    "drip": (TUNNEL[:-2] + b"A: b", "drip"),
    "garbage": (b"\x05\x00 whimbrel?\r\n\r\n", "eof"),
    "garbage-in-tunnel": (TUNNEL + b"not TLS\r\n", "silence"),
    "endless-head": (TUNNEL[:-2] + b"X-Endless: xxx", "endless"),
    "endless-interim": (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 ", "endless"),
    "endless-407": (
        b"HTTP/1.1 407 Proxy Authentication Required\r\n"
        b'Proxy-Authenticate: Basic realm="whimbrel"\r\n\r\nxxx',
        "endless",
    ),
}
SOCKS: dict[str, tuple[bytes, str]] = {
    **UNREACHABLE,
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n", "gone"),
    "no-method": (b"\x05\xff", "gone"),
    "bad-method": (b"\x05\x7f", "gone"),
    "eof-in-greeting": (b"\x05", "gone"),
    "stall-in-greeting": (b"\x05", "silence"),
    **{f"reply-{n}": (b"\x05\x00\x05%c\x00\x01" % n + bytes(6), "eof") for n in range(1, 9)},
    "eof-before-reply": (SOCKS_OK[:2], "eof"),
    "eof-in-reply": (SOCKS_OK[:6], "eof"),
    "eof-after-reply": (SOCKS_OK, "eof"),
    "reset-before-reply": (SOCKS_OK[:2], "reset"),
    "stall-before-reply": (SOCKS_OK[:2], "silence"),
    "stall-in-reply": (SOCKS_OK[:6], "silence"),
    "stall-after-reply": (SOCKS_OK, "silence"),
    "bad-address-type": (b"\x05\x00\x05\x00\x00\x09" + bytes(6), "silence"),
}
TABLES = {
    "origin": (ORIGIN_FAULTS, ORIGIN, GET),
    "proxy": (PROXY_FAULTS, PROXY, CONNECT),
    "socks": (SOCKS_FAULTS, SOCKS, GREETING + SOCKS_CONNECT),
}


async def ask(fault: Fault, request: bytes, size: int, ending: str) -> tuple[bytes, str]:
    """Send `request` in one go; what came, and how it ended.

    `ending` is what is expected; only for a silence is it that long waited.
    """
    drips = ending == "drip"
    quiet = QUIET if ending in ("silence", "unanswered") else None
    async with fault.serve() as address:
        host, _, port = address.partition(":")
        try:
            async with asyncio.timeout(quiet):
                reader, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return b"", "refused"
        except TimeoutError:
            return b"", "unanswered"
        received = b""
        try:
            writer.write(request)
            while True:
                async with asyncio.timeout(quiet):
                    piece = await reader.read(1 if drips else 65536)
                if not piece:
                    return received, "eof"
                received += piece
                if len(received) >= size:
                    return received, "drip" if drips else "endless"
        except ConnectionError:
            return received, "reset"
        except TimeoutError:
            return received, "silence"
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, table in TABLES.items() for name in table[1]]
)
async def test_what_comes_over_the_wire(kind: str, name: str) -> None:
    faults, expected, request = TABLES[kind]
    want, ending = expected[name]
    size = len(want) if ending == "drip" else ENOUGH
    got, ended = await ask(faults[name], request, size, ending)
    assert got.startswith(want)
    if ending == "gone":  # what the client has sent by then decides between the two
        assert ended in ("eof", "reset")
    else:
        assert ended == ending
    if ending not in ("endless", "drip") and name not in ("eof-in-gzip", "302"):
        assert got == want


@pytest.mark.parametrize("name", CHALLENGES)
@pytest.mark.parametrize("kind", ["origin", "proxy"])
async def test_challenges_without_end(kind: str, name: str) -> None:
    """Every request of a connection gets one, with a nonce of its own."""
    faults, _, request = TABLES[kind]
    status, field = (
        (b"401 Unauthorized", b"WWW-Authenticate")
        if kind == "origin"
        else (b"407 Proxy Authentication Required", b"Proxy-Authenticate")
    )
    async with faults[name].serve() as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        nonces = []
        for _ in range(10):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            nonces.append((head.partition(b'nonce="')[2] or b'"').partition(b'"')[0])
            challenge = CHALLENGES[name].replace(b"#", nonces[-1])
            assert head == (
                b"HTTP/1.1 " + status + b"\r\n" + field + b": " + challenge
                + b"\r\nContent-Length: 0\r\n\r\n"
            )  # fmt: skip
        assert len(set(nonces)) == (1 if name == "basic-forever" else 10)
        writer.transport.abort()


async def test_rejected_passwords() -> None:
    """RFC 1929: the sub-negotiation is asked for, read to its end, and fails."""
    async with SOCKS_FAULTS["bad-password"].serve() as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(GREETING)
        assert await reader.readexactly(2) == b"\x05\x02"
        writer.write(b"\x01\x05alice\x06secret")
        assert await reader.read() == b"\x01\x01"
        writer.transport.abort()


async def test_the_bomb_expands_a_thousandfold() -> None:
    got, _ = await ask(ORIGIN_FAULTS["gzip-bomb"], GET, ENOUGH, "endless")
    body = got.partition(b"\r\n\r\n")[2]
    decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
    size = sum(len(decoder.decompress(body[at : at + 1000])) for at in range(0, len(body), 1000))
    assert size > 500 * len(body)
    assert not decoder.eof


@pytest.mark.parametrize("kind", TABLES)
def test_every_fault_is_described_and_tested(kind: str) -> None:
    faults, expected, _ = TABLES[kind]
    apart = {"socks": {"bad-password"}}.get(kind, set(CHALLENGES))
    assert faults.keys() == expected.keys() | apart
    for fault in faults.values():
        assert fault.description.endswith(".")
        assert (fault.handler is None) != (fault.port is None)


async def test_faults_above_tls() -> None:
    """With a context the handshake succeeds, and the fault comes after it."""
    async with ORIGIN_FAULTS["eof-in-body"].serve(localhost_context()) as address:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(*address.split(":"), ssl=context)
        writer.write(GET)
        assert (await reader.read()).endswith(b"half")
        writer.close()
        await writer.wait_closed()


async def test_expect_and_bodies_are_read() -> None:
    """A request is read to its end first, after 100 Continue where that is waited for."""
    async with ScriptedServer(cut(b"cut")) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert await reader.read() == b"cut"
        assert server.requests[0].body == b"body"
        writer.transport.abort()


# -- what clients make of them

Closed = (HTTPStreamClosedError, HTTPProtocolError)
ORIGIN_ERRORS: dict[str, type[HTTPError] | tuple[type[HTTPError], ...] | None] = {
    "refuse": HTTPConnectionRefusedError,
    "accept-never": HTTPTimeoutError,
    "close-at-once": HTTPStreamClosedError,
    "reset-at-once": HTTPStreamClosedError,
    "silence": HTTPTimeoutError,
    "eof-before-head": HTTPStreamClosedError,
    "eof-in-status-line": Closed,
    "eof-in-head": HTTPStreamClosedError,
    "eof-in-body": Closed,
    "eof-in-chunk": Closed,
    "eof-before-last-chunk": Closed,
    "eof-in-gzip": HTTPProtocolError,
    "reset-before-head": HTTPStreamClosedError,
    "reset-in-head": HTTPStreamClosedError,
    "reset-in-body": HTTPStreamClosedError,
    "stall-in-head": HTTPTimeoutError,
    "stall-in-body": HTTPTimeoutError,
    "drip-head": HTTPTimeoutError,
    "drip-body": HTTPTimeoutError,
    "garbage": HTTPProtocolError,
    "garbage-in-head": HTTPProtocolError,
    "garbage-chunk": HTTPProtocolError,
    "garbage-gzip": HTTPProtocolError,
    "speak-first": None,
    "surplus": None,
    "endless-head": HTTPLimitError,
    "endless-body": HTTPLimitError,
    "endless-chunks": HTTPLimitError,
    "endless-interim": (HTTPProtocolError, HTTPLimitError),
    "endless-redirects": HTTPError,
    "gzip-bomb": HTTPLimitError,
    "basic-forever": HTTPError,
    "digest-forever": HTTPError,
    "stale-forever": HTTPProtocolError,
}
PROXY_ERRORS: dict[str, type[HTTPError] | tuple[type[HTTPError], ...]] = {
    "accept-never": HTTPTimeoutError,
    "silence": HTTPTimeoutError,
    "stall-in-reply": HTTPTimeoutError,
    "stall-after-reply": HTTPTimeoutError,
    "drip": HTTPTimeoutError,
    "eof-after-reply": (HTTPTLSError, HTTPStreamClosedError),
    "reset-after-reply": (HTTPTLSError, HTTPStreamClosedError),
    "garbage-in-tunnel": (HTTPTLSError, HTTPProxyError),
    "endless-407": (HTTPProxyError, HTTPTimeoutError, HTTPLimitError),
    "endless-head": (HTTPProxyError, HTTPTimeoutError, HTTPLimitError),
    "endless-interim": (HTTPProxyError, HTTPTimeoutError, HTTPLimitError),
}
SOCKS_ERRORS: dict[str, type[HTTPError] | tuple[type[HTTPError], ...]] = {
    "accept-never": HTTPTimeoutError,
    "silence": HTTPTimeoutError,
    "stall-in-greeting": HTTPTimeoutError,
    "stall-before-reply": HTTPTimeoutError,
    "stall-in-reply": HTTPTimeoutError,
    "stall-after-reply": HTTPTimeoutError,
    "eof-after-reply": (HTTPStreamClosedError, HTTPTLSError, HTTPProxyError),
}
CASES = [
    *(("origin", name) for name in ORIGIN_FAULTS),
    *(("proxy", name) for name in PROXY_FAULTS),
    *(("socks", name) for name in SOCKS_FAULTS),
]


@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_a_client_gets_a_typed_error_in_time(client: Any, kind: str, name: str) -> None:
    """And its next fetch succeeds."""
    faults = TABLES[kind][0]
    wanted: Any = {
        "origin": ORIGIN_ERRORS,
        "proxy": PROXY_ERRORS,
        "socks": SOCKS_ERRORS,
    }[kind].get(name, HTTPProxyError)
    arguments: dict[str, Any] = {
        "request_timeout": 0.3 if wanted is HTTPTimeoutError else 3,
        "max_body_size": 1_000_000,
    }
    if kind == "origin":
        arguments["auth_mode"] = "basic" if name == "basic-forever" else "digest"
        if "forever" in name:
            arguments.update(auth_username="alice", auth_password="secret")
    async with faults[name].serve() as address:
        if kind == "origin":
            url = f"http://{address}/"
        else:
            url = "https://origin.test/"
            scheme = "http" if kind == "proxy" else "socks5h"
            arguments["proxy"] = f"{scheme}://alice:secret@{address}"
            if "digest" in name or "stale" in name:
                arguments["proxy_auth_mode"] = "digest"
        fetch = client.fetch(url, **arguments)
        if wanted is None:
            assert (await fetch).code == 200
        else:
            with pytest.raises(wanted):
                await fetch
    async with OriginServer() as origin:
        assert (await client.fetch(origin.url("/hello"))).code == 200


async def test_a_greeting_may_be_answered_at_will(client: Any) -> None:
    """`socks5_method` takes any bytes, and any ending."""
    fault = Fault("A reset follows the greeting.", socks5_method(b"\x05\x00", "reset"))
    async with fault.serve() as address:
        with pytest.raises(HTTPProxyError):
            await client.fetch("http://origin.test/", proxy=f"socks5h://{address}")
