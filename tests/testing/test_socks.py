"""The SOCKS 5 proxy of the test kit: byte by byte, and with both backends."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from conftest import Baseline
from whimbrel.httpclient import HTTPProxyError
from whimbrel.testing import Limits, OriginServer, Socks5Server, refused_port

LOGIN = b"\x01\x05alice\x06secret"


@contextlib.asynccontextmanager
async def connected(
    proxy: Socks5Server, greeting: bytes = b"\x05\x01\x00"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which the greeting was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(greeting)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def connect_to(address: bytes, port: int, command: int = 1) -> bytes:
    return bytes([5, command, 0]) + address + struct.pack("!H", port)


def named(name: bytes) -> bytes:
    return bytes([3, len(name)]) + name


V4 = b"\x01\x7f\x00\x00\x01"
V6 = b"\x04" + bytes(15) + b"\x01"
NOTHING_BOUND = b"\x00\x01" + bytes(6)


@pytest.mark.parametrize(
    ("address", "shown"),
    [(V4, "127.0.0.1"), (named(b"localhost"), "localhost"), (named(b"127.0.0.1"), "127.0.0.1")],
)
async def test_tunnels(address: bytes, shown: str) -> None:
    """To names and addresses; the reply has our end of the connection, the record what was asked
    for."""
    baseline = Baseline.take()
    async with OriginServer() as origin, Socks5Server() as proxy:
        async with connected(proxy) as (reader, writer):
            assert await reader.readexactly(2) == b"\x05\x00"
            writer.write(connect_to(address, origin.port))
            assert await reader.readexactly(8) == b"\x05\x00\x00\x01\x7f\x00\x00\x01"
            assert struct.unpack("!H", await reader.readexactly(2)) != (0,)
            writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nHello from whimbrel\n")
        (request,) = proxy.requests
        assert (request.method, request.target) == ("CONNECT", f"{shown}:{origin.port}")
        assert (proxy.tunnel_count, proxy.refused_count) == (1, 0)
    await baseline.restored()


async def test_the_greeting_and_all_that_follows_in_one_piece() -> None:
    async with OriginServer() as origin, Socks5Server("alice", "secret") as proxy:
        request = b"GET /hello HTTP/1.0\r\n\r\n"
        greeting = b"\x05\x02\x00\x02" + LOGIN + connect_to(V4, origin.port) + request
        async with connected(proxy, greeting) as (reader, _):
            assert await reader.readexactly(4) == b"\x05\x02\x01\x00"
            assert (await reader.read()).endswith(b"Hello from whimbrel\n")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (connect_to(V4, 80, command=2), 7),
        (connect_to(named(b"origin.test"), 80, command=3), 7),
        (connect_to(b"\x05", 80), 8),
        (connect_to(named(b"no-such-name.invalid"), 80), 4),
        (connect_to(named(b"a..b"), 80), 4),
        (connect_to(named(b""), 80), 4),
        (connect_to(named(b"\x00\xff"), 80), 4),
    ],
)
async def test_what_is_refused(request_: bytes, code: int) -> None:
    async with Socks5Server() as proxy, connected(proxy) as (reader, writer):
        writer.write(request_)
        assert await reader.read() == b"\x05\x00" + bytes([5, code]) + NOTHING_BOUND
        assert proxy.tunnel_count == 0


@pytest.mark.parametrize("address", [V4, named(b"localhost")])
async def test_an_origin_that_refuses(address: bytes) -> None:
    with refused_port() as port:
        async with Socks5Server() as proxy, connected(proxy) as (reader, writer):
            writer.write(connect_to(address, port))
            assert (await reader.read())[2:4] == b"\x05\x05"


@pytest.mark.parametrize(
    ("greeting", "answer", "refused"),
    [
        (b"\x05\x01\x00", b"\x05\xff", 1),
        (b"\x05\x00", b"\x05\xff", 1),
        (b"\x05\x01\x02\x01\x05alice\x05guess", b"\x05\x02\x01\x01", 1),
        (b"\x05\x01\x02\x01\x03bob\x06secret", b"\x05\x02\x01\x01", 1),
        (b"\x05\x01\x02\x05\x05alice\x06secret", b"\x05\x02", 0),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b"", 0),
        (b"\x05\x01\x02" + LOGIN + b"\x04\x01\x00\x01", b"\x05\x02\x01\x00", 0),
    ],
)
async def test_who_is_refused(greeting: bytes, answer: bytes, refused: int) -> None:
    """Without the credentials, or speaking something else: the connection is closed."""
    async with Socks5Server("alice", "secret") as proxy, connected(proxy, greeting) as (reader, _):
        assert await reader.read() == answer
        assert proxy.refused_count == refused


async def test_a_client_that_stops_half_way() -> None:
    """By leaving, it ends the connection; by silence, after the time limit."""
    async with Socks5Server(limits=Limits(request_time=0.05)) as proxy:
        async with connected(proxy, b"\x05\x01\x00\x05\x01") as (reader, _):
            assert await reader.read() == b"\x05\x00"
        async with connected(proxy, b"\x05\x01\x00\x05\x01") as (reader, writer):
            writer.write_eof()
            assert await reader.read() == b"\x05\x00"


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_with_a_client(make_client: Callable[..., Any], scheme: str) -> None:
    """With socks5h it is the proxy that resolves the name."""
    client = make_client()
    async with OriginServer() as origin, Socks5Server("al:ice", "s/crt") as proxy:
        assert proxy.url_with_credentials == f"socks5h://al%3Aice:s%2Fcrt@127.0.0.1:{proxy.port}"
        url = proxy.url_with_credentials.replace("socks5h", scheme)
        response = await client.fetch(
            origin.url("/bytes/100000", host="localhost"), proxy=url, allow_ipv6=False
        )
        assert len(response.body) == 100_000
        host, _, port = proxy.requests[0].target.rpartition(":")
        assert port == str(origin.port)
        assert (host == "localhost") is (scheme == "socks5h")
        with pytest.raises(HTTPProxyError):
            await client.fetch(origin.url(), proxy=proxy.url)
    client.close()


async def test_closing_ends_tunnels_and_handshakes() -> None:
    baseline = Baseline.take()
    async with OriginServer() as origin:
        proxy = await Socks5Server().start()
        async with connected(proxy) as (tunnel, writer), connected(proxy, b"\x05") as (early, _):
            writer.write(connect_to(V4, origin.port) + b"GET /slow/60 HTTP/1.1\r\nHost: x\r\n\r\n")
            await tunnel.readexactly(12)
            await proxy.close()
            assert proxy.open_connections == 0
            for reader in (tunnel, early):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
    await baseline.restored()


async def test_ipv6_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are understood; whether there is IPv6 is the machine's business."""
    asked = []

    async def connect(host: str, port: int) -> Any:
        asked.append((host, port))
        raise OSError(101, "unreachable")

    monkeypatch.setattr("whimbrel.testing.socks.connect", connect)
    async with Socks5Server() as proxy, connected(proxy) as (reader, writer):
        writer.write(connect_to(V6, 80))
        assert (await reader.read())[2:4] == b"\x05\x03"
        assert asked == [("::1", 80)]
        assert proxy.requests[0].target == "[::1]:80"
