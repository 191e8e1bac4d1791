"""Every client of the benchmarks does what it is listed for, with the result looked at.

The clients are those that are installed here; `missing` tells of the others. HTTP/2, which needs a
server from a package, is in tests/real.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from conftest import LOOP, Certificates
from whimbrel.testing import OriginServer, ProxyServer, Reply, Request
from whimbrel.testing.origin import pattern

clients: Any = pytest.importorskip("benchmarks.clients", reason="these are the tests alone")
content: Any = pytest.importorskip("benchmarks.servers.content")
session: Any = pytest.importorskip("benchmarks.clients.session")
libcurl_in_c: Any = pytest.importorskip("benchmarks.clients.libcurl_in_c")

IN_FLIGHT = 4
BODY = pattern(3_000_000)
CHUNK, COUNT = pattern(100_001), 30
SMALL = "a small body"


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


async def small(request: Request) -> Reply:
    return Reply(body=SMALL.encode())


async def echo(request: Request) -> Reply:
    sent = request.head.get(content.REQUEST_ID)
    headers = [] if sent is None else [(content.REQUEST_ID, sent)]
    return Reply(body=request.arguments[0].encode(), headers=headers)


async def digest(request: Request) -> Reply:
    """What came."""
    return Reply(body=hashlib.sha256(request.body).hexdigest().encode())


def digested(body: bytes) -> tuple[int, bytes]:
    return 200, hashlib.sha256(body).hexdigest().encode()


@pytest.fixture
async def place(certificates: Certificates) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        routes = {"/digest": digest, "/small": small, "/echo": echo}
        context = certificates.server_context()
        yield Place(
            await stack.enter_async_context(OriginServer(routes=routes)),
            await stack.enter_async_context(OriginServer(context, routes=routes)),
            await stack.enter_async_context(ProxyServer()),
            certificates.ca_file,
        )


def route(place: Place, way: Way) -> tuple[OriginServer, Any]:
    """The origin, and the options of a session that reaches it."""
    options = session.Options(
        IN_FLIGHT, proxy=place.proxy.url if way.proxied else None, ca_file=place.ca_file
    )
    return place.secure if way.secure else place.plain, options


@cases()
async def test_get(client: Any, way: Way, place: Place) -> None:
    """Status and body; connections are kept, and it is the proxy that they go through."""
    origin, options = route(place, way)
    async with client.open(options) as opened:
        for _ in range(3):
            answers = await asyncio.gather(
                *(opened.get(origin.url(f"/bytes/{1000 + i}")) for i in range(IN_FLIGHT))
            )
            assert answers == [(200, pattern(1000 + i)) for i in range(IN_FLIGHT)]
        status, body = await opened.get(origin.url("/status/404"))
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


@cases()
async def test_get_varied(client: Any, way: Way, place: Place) -> None:
    """Each request has a header of its own, and the response's is read; a plain GET has none."""
    origin, options = route(place, way)
    async with client.open(options) as opened:
        for _ in range(2):
            answers = await asyncio.gather(
                *(
                    opened.get_varied(origin.url(f"/echo/{i}"), {content.REQUEST_ID: f"id {i}"})
                    for i in range(IN_FLIGHT)
                )
            )
            assert answers == [(200, b"%d" % i, f"id {i}") for i in range(IN_FLIGHT)]
        assert await opened.get_varied(origin.url("/echo/5"), {}) == (200, b"5", None)
        assert await opened.get(origin.url("/echo/5")) == (200, b"5")


@cases(ways=[way for way in WAYS if way.secure])
async def test_tls_is_verified(client: Any, way: Way, place: Place) -> None:
    """Without the test's own authority a client refuses the certificate."""
    origin, options = route(place, way)
    async with client.open(options._replace(ca_file=None)) as opened:
        with pytest.raises(Exception, match=r"(?i)certificate"):
            await opened.get(origin.url("/bytes/10"))


@cases("stream")
async def test_download(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as opened:
        for path, size in (("/bytes/3000000", 3_000_000), ("/stream/300001", 300_001)):
            found = await opened.download(origin.url(path))
            assert (found.status, found.size) == (200, size)
            assert found.first
            assert found.last
            assert pattern(size).startswith(bytes(found.first))
            assert pattern(size).endswith(bytes(found.last))


@cases("upload")
async def test_upload(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as opened:
        assert await opened.post(origin.url("/digest"), BODY) == digested(BODY)
        assert await opened.post(origin.url("/digest"), b"small") == digested(b"small")


@cases("upload-stream")
async def test_streamed_upload(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    async with client.open(options) as opened:
        answer = await opened.post_chunks(origin.url("/digest"), CHUNK, COUNT)
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
    """It counts what it measured, without what came before and after.

    That is, of the warm-up: every slot's first response, as many until the clock stops, and what is
    on its way then; of the measurement the same, without those in the middle.
    """
    origin, options = route(place, way)
    load = libcurl_in_c.Load(origin.url("/small"), options, 0.1, 0.0, None, SMALL)
    code, output, errors = await run(client.command(load))
    assert (code, errors) == (0, b"")
    sample = json.loads(output)
    beside = (3 * IN_FLIGHT - 1) + (2 * IN_FLIGHT - 1)
    assert 0 < sample["requests"] <= origin.request_count - beside
    assert sample["seconds"] >= 0.1
    assert 0 < sample["cpu_seconds"] < sample["seconds"] + 0.1
    if way.proxied:
        assert place.proxy.forward_count + place.proxy.tunnel_count > 0


async def refused(client: Any, *load: Any) -> bool:
    """Whether the program ends with a word on stderr instead of numbers."""
    code, output, errors = await run(client.command(libcurl_in_c.Load(*load)))
    return (code, output, errors[:14]) == (1, b"", b"libcurl_in_c: ")


@cases(command=True)
async def test_program_checks_what_comes(client: Any, way: Way, place: Place) -> None:
    """Another status, and a body that is shorter, longer or another one."""
    origin, options = route(place, way)
    measured = (options, 0.1, 0.0, None)
    for body in (f"{SMALL}.", SMALL[:-1], SMALL.upper()):
        assert await refused(client, origin.url("/small"), *measured, body)
    assert await refused(client, origin.url("/status/404"), *measured, "Not Found\n")


@cases(ways=[way for way in WAYS if way.secure], command=True)
async def test_program_verifies_tls(client: Any, way: Way, place: Place) -> None:
    origin, options = route(place, way)
    options = options._replace(ca_file=None)
    assert await refused(client, origin.url("/small"), options, 0.1, 0.0, None, SMALL)


def test_what_is_missing_is_named() -> None:
    """A distribution that nobody has; what else is needed counts too."""
    client = clients.CLIENTS["aiohttp"]
    assert client._replace(packages=("whimbrel", "no-such-thing")).missing == ["no-such-thing"]
    also = client._replace(packages=("whimbrel",), also_missing=lambda: ["a compiler"])
    assert also.missing == ["a compiler"]
    assert client._replace(packages=("whimbrel",)).missing == []
    assert list(client._replace(packages=("whimbrel",)).versions) == ["whimbrel"]


def test_a_broken_pycurl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As missing, for all that need it; the others do not notice."""
    monkeypatch.setitem(sys.modules, "pycurl", None)
    for client in clients.CLIENTS.values():
        if client.packages and all(clients._version(name) for name in client.packages):
            broken = "pycurl" in client.packages
            assert any("a pycurl that can be imported" in name for name in client.missing) is broken


async def test_large_bodies_have_a_deadline() -> None:
    """As everywhere else: it is part of the work."""
    for name in ("whimbrel curl", "whimbrel simple"):
        asked: list[float] = []

        async def fetch(url: str, asked: list[float] = asked, **options: Any) -> Any:
            asked.append(options["request_timeout"])
            return SimpleNamespace(code=200, body=b"")

        async with clients.CLIENTS[name].open(session.Options(1)) as opened:
            opened._client = SimpleNamespace(fetch=fetch)
            await opened.download("http://localhost/")
            await opened.post("http://localhost/", b"")
            await opened.post_chunks("http://localhost/", b"a", 1)
        assert asked == [session.LONG_SECONDS] * 3
