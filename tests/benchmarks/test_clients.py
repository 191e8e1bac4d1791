"""Every client of the benchmarks does what it is listed for, with the result looked at.

The clients are those that are installed here; `missing` tells of the others. HTTP/2, which needs a
server from a package, is in tests/real.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest

from conftest import LOOP, Certificates
from whimbrel.testing import OriginServer, ProxyServer, Reply, Request
from whimbrel.testing.origin import pattern

clients: Any = pytest.importorskip("benchmarks.clients", reason="these are the tests alone")

IN_FLIGHT = 4
BODY = pattern(3_000_000)
CHUNK, COUNT = pattern(100_001), 30


class Place(NamedTuple):
    """The servers of a test."""

    plain: OriginServer
    secure: OriginServer
    proxy: ProxyServer
    ca_file: str


class Way(NamedTuple):
    """How a request gets there."""

    name: str
    features: frozenset[str]
    secure: bool = False
    proxied: bool = False


WAYS = (
    Way("http", frozenset()),
    Way("https", frozenset({"tls"}), secure=True),
    Way("proxy", frozenset({"proxy"}), proxied=True),
    Way("connect", frozenset({"connect", "tls"}), secure=True, proxied=True),
)


def installed(command: bool) -> list[Any]:
    """The clients that can be tried on this loop: programs of their own, or sessions."""
    return [
        client
        for client in clients.CLIENTS.values()
        if (client.command is not None) is command
        and (command or client.loop == LOOP)
        and not client.missing
    ]


def cases(*features: str, ways: Sequence[Way] = WAYS, command: bool = False) -> Any:
    """Every client with all of `features`, by each of `ways` that it knows."""
    return pytest.mark.parametrize(
        ("client", "way"),
        [
            pytest.param(client, way, id=f"{client.name}-{way.name}")
            for client in installed(command)
            for way in ways
            if client.features >= way.features.union(features)
        ],
    )


async def digest(request: Request) -> Reply:
    """What came."""
    return Reply(body=hashlib.sha256(request.body).hexdigest().encode())


def digested(body: bytes) -> tuple[int, bytes]:
    return 200, hashlib.sha256(body).hexdigest().encode()


@pytest.fixture
async def place(certificates: Certificates) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        routes = {"/digest": digest}
        context = certificates.server_context()
        yield Place(
            await stack.enter_async_context(OriginServer(routes=routes)),
            await stack.enter_async_context(OriginServer(context, routes=routes)),
            await stack.enter_async_context(ProxyServer()),
            certificates.ca_file,
        )


def route(place: Place, way: Way) -> tuple[OriginServer, Any]:
    """The origin, and the options of a session that reaches it."""
    options = clients.Options(
        IN_FLIGHT, proxy=place.proxy.url if way.proxied else None, ca_file=place.ca_file
    )
    return place.secure if way.secure else place.plain, options


@cases()
async def test_get(client: Any, way: Way, place: Place) -> None:
    """Status and body; connections are kept, and it is the proxy that they go through."""
    origin, options = route(place, way)
    async with client.open(options) as session:
        for _ in range(3):
            answers = await asyncio.gather(
                *(session.get(origin.url(f"/bytes/{1000 + i}")) for i in range(IN_FLIGHT))
            )
            assert answers == [(200, pattern(1000 + i)) for i in range(IN_FLIGHT)]
        status, body = await session.get(origin.url("/status/404"))
        assert (status, bytes(body)) == (404, b"Not Found\n")
    requests = 3 * IN_FLIGHT + 1
    assert place.proxy.forward_count == (requests if way.name == "proxy" else 0)
    assert (place.proxy.tunnel_count > 0) is (way.name == "connect")
    nearest = place.proxy if way.proxied else origin
    if client.name == "Tornado simple":
        assert nearest.connection_count == requests  # it closes after every response
    else:
        # niquests opens one more now and then.
        assert nearest.connection_count <= IN_FLIGHT + 2


@cases(ways=[way for way in WAYS if way.secure])
async def test_tls_is_verified(client: Any, way: Way, place: Place) -> None:
    """Without the test's own authority a client refuses the certificate."""
    origin, options = route(place, way)
    async with client.open(options._replace(ca_file=None)) as session:
        with pytest.raises(Exception, match=r"(?i)certificate"):
            await session.get(origin.url("/bytes/10"))


@cases("stream")
async def test_download(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as session:
        assert await session.download(origin.url("/bytes/3000000")) == (200, 3_000_000)
        assert await session.download(origin.url("/stream/300001")) == (200, 300_001)


@cases("upload")
async def test_upload(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as session:
        assert await session.post(origin.url("/digest"), BODY) == digested(BODY)
        assert await session.post(origin.url("/digest"), b"small") == digested(b"small")


@cases("upload-stream")
async def test_streamed_upload(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as session:
        answer = await session.post_chunks(origin.url("/digest"), CHUNK, COUNT)
        assert answer == digested(CHUNK * COUNT)


async def run(argv: list[str]) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output, errors


@cases(command=True)
async def test_program(client: Any, way: Way, place: Place) -> None:
    """It counts, and refuses another size, status or certificate."""
    origin, options = route(place, way)
    measured = (options, 0.1, 0.05, None)
    code, output, errors = await run(client.command(origin.url("/bytes/28"), *measured, 28))
    assert (code, errors) == (0, b"")
    sample = json.loads(output)
    assert 0 < sample["requests"] < origin.request_count
    assert sample["seconds"] >= 0.1
    assert 0 < sample["cpu_seconds"] < sample["seconds"] + 0.1
    if way.proxied:
        assert place.proxy.forward_count + place.proxy.tunnel_count > 0

    for path, size, trusted in (("/bytes/28", 27, True), ("/status/404", 10, True)) + (
        (("/bytes/28", 28, False),) if way.secure else ()
    ):
        other = options if trusted else options._replace(ca_file=None)
        argv = client.command(origin.url(path), other, 0.1, 0.0, None, size)
        code, output, errors = await run(argv)
        assert code == 1
        assert output == b""
        assert errors.startswith(b"libcurl_in_c: ")


def test_what_is_missing_is_named() -> None:
    """A distribution that nobody has; what else is needed counts too."""
    client = clients.CLIENTS["aiohttp"]
    assert client._replace(packages=("whimbrel", "no-such-thing")).missing == ["no-such-thing"]
    also = client._replace(packages=("whimbrel",), also_missing=lambda: ["a compiler"])
    assert also.missing == ["a compiler"]
    assert client._replace(packages=("whimbrel",)).missing == []
    assert list(client._replace(packages=("whimbrel",)).versions) == ["whimbrel"]
