"""Large bodies: exact to the byte, bounded in memory, and no trace of one in the next."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
from typing import Any

import pytest

from whimbrel._download import Download
from whimbrel.httpclient import HTTPLimitError, HTTPStreamClosedError
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    chunked,
    ok,
    reply,
    respond,
    routes,
)

from .support import MB, gzipped, peak_memory, settled, until

# Nothing in it repeats itself, and its length is a multiple of nothing.
BODY = os.urandom(5 * MB + 12_345)
_HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


async def test_whole(client: Any) -> None:
    """The body is bytes, all of it; also of the next large response, and of a small one."""
    table = {"/": ok(BODY), "/other": ok(BODY[::-1]), "/small": ok(b"small")}
    async with ScriptedServer(routes(table)) as server:
        for path, body in (("/", BODY), ("/other", BODY[::-1]), ("/small", b"small"), ("/", BODY)):
            response = await client.fetch(server.url(path))
            assert type(response.body) is bytes
            assert response.body == body
            assert response.buffer.getvalue() == body
        assert len(server.connections) == 1


async def test_most_of_it_is_fed_to_nobody(client: Any, monkeypatch: Any) -> None:
    """It goes straight to where it is kept: no Python code sees it on its way."""
    feed, fed = Download.feed, 0

    def counting(self: Download, chunk: bytes) -> None:
        nonlocal fed
        fed += len(chunk)
        feed(self, chunk)

    monkeypatch.setattr(Download, "feed", counting)

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[:200_000])
        # Enough for the clients to tell that it is a large one.
        await until(lambda: fed >= 64 * 1024)
        await settled(lambda: fed, quiet=0.05)
        await peer.send(BODY[200_000:])

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url())).body == BODY
    assert fed <= 200_000


@pytest.mark.parametrize("length", [256 * 1024 - 1, 256 * 1024, 16_384, 65_536, 16 * MB])
async def test_lengths_around_which_things_change(client: Any, length: int) -> None:
    body = (BODY * 4)[:length]
    async with ScriptedServer(canned(ok(body))) as server:
        assert (await client.fetch(server.url())).body == body


async def test_many_at_a_time(client: Any) -> None:
    """Each gets its own."""
    bodies = {f"/{number}": BODY[number:] + b"%d" % number for number in range(8)}
    table = {path: ok(body) for path, body in bodies.items()}
    async with ScriptedServer(routes(table)) as server:
        responses = await asyncio.gather(*(client.fetch(server.url(path)) for path in bodies))
    assert [response.body for response in responses] == list(bodies.values())


async def test_over_tls(make_client: Any, certificates: Any) -> None:
    client = make_client()
    context = certificates.server_context()
    async with ScriptedServer(canned(ok(BODY)), ssl_context=context) as server:
        for _ in range(2):
            response = await client.fetch(server.url(), ca_certs=certificates.ca_file)
            assert response.body == BODY


_PIECES = [BODY[start : start + 100_000] for start in range(0, len(BODY), 100_000)]


@pytest.mark.parametrize(
    "answer",
    [
        reply("200 OK", chunked(*_PIECES), "Transfer-Encoding: chunked"),
        ok(gzipped(BODY), "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    ],
    ids=["chunked", "gzip", "until the end"],
)
async def test_in_other_shapes(client: Any, answer: bytes) -> None:
    """Where its length is not known, or is that of something else."""
    async with ScriptedServer(respond(answer, then="close")) as server:
        response = await client.fetch(server.url())
    assert response.body == BODY


async def test_encoded_and_left_so(client: Any) -> None:
    wire = gzipped(BODY)
    async with ScriptedServer(canned(ok(wire, "Content-Encoding: gzip"))) as server:
        response = await client.fetch(server.url(), decompress_response=False)
    assert response.body == wire


async def test_cut_short(client: Any) -> None:
    """However much had come."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[:-1])

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPStreamClosedError) as caught:
            await client.fetch(server.url())
    assert caught.value.stage == "body"


async def test_more_than_announced(client: Any) -> None:
    """What comes behind is not part of the body, nor of anything else."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url())).body == BODY
        assert (await client.fetch(server.url())).body == BODY
        assert len(server.connections) == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [len(BODY), len(BODY) - 1])
async def test_max_body_size(client: Any, limit: int, streamed: bool) -> None:
    """Also where the limit is passed long after the body has shown to be a large one."""
    pieces: list[bytes] = []
    arguments = {"streaming_callback": pieces.append} if streamed else {}
    async with ScriptedServer(canned(ok(BODY))) as server:
        fetch = client.fetch(server.url(), max_body_size=limit, **arguments)
        if limit == len(BODY):
            body = (await fetch).body
            assert (b"".join(pieces) if streamed else body) == BODY
        else:
            with pytest.raises(HTTPLimitError):
                await fetch
            assert sum(map(len, pieces)) <= limit


async def test_memory_for_a_body_is_its_length(client: Any) -> None:
    """There is no second copy at any time."""
    size = 64 * MB
    piece = bytes(MB)

    async def handler(peer: Peer) -> None:
        for _ in range(2):
            await peer.read_request()
            await peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for _ in range(size // MB):
                await peer.send(piece)

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url())
        with peak_memory() as peak:
            response = await client.fetch(server.url())
        assert len(response.body) == size
        assert peak.above < size + 12 * MB


async def test_an_idle_client_holds_on_to_nothing(client: Any) -> None:
    async with ScriptedServer(canned(ok(BODY))) as server:
        await client.fetch(server.url())
        tracemalloc.start()
        try:
            response = await client.fetch(server.url())
            assert tracemalloc.get_traced_memory()[0] > len(BODY)
            del response
            gc.collect()
            await asyncio.sleep(0)  # what the loop is at is still held
            assert tracemalloc.get_traced_memory()[0] < MB
        finally:
            tracemalloc.stop()


async def test_an_announced_length_costs_nothing(client: Any) -> None:
    """Until it comes; an impossible one does not matter at all."""
    begun = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000\r\n\r\n" + BODY)
        begun.set()

    async with ScriptedServer(handler) as server:
        with peak_memory() as peak, pytest.raises(HTTPStreamClosedError):
            await client.fetch(server.url(), max_body_size=0)
    assert begun.is_set()
    assert peak.above < 5 * len(BODY)


async def test_cancelled_in_the_middle(client: Any) -> None:
    half = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD + BODY[: len(BODY) // 2])
        half.set()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url())
        await half.wait()
        fetch.cancel()
        await server.connections[0].closed()


async def test_stalled_in_the_middle(client: Any) -> None:
    """stall_timeout sees a body that is put right where it is kept: it comes, and comes no more."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(_HEAD)
        step = 1 + len(BODY) // 8
        for start in range(0, len(BODY), step):
            await asyncio.sleep(0.1)
            await peer.send(BODY[start : start + step])

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), stall_timeout=0.4)
    assert response.body == BODY


async def test_instead_of_100(client: Any) -> None:
    """Where the request is never read, the response ends by its length all the same."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(_HEAD + BODY)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), method="POST", body=b"unwanted", expect_100_continue=True
        )
    assert response.body == BODY


@pytest.mark.parametrize("size", [65_536, 65_537, 5 * MB])
async def test_uploads(client: Any, size: int) -> None:
    """From memory and from a producer, one after the other on the same connection."""
    body = BODY[:size]
    pieces = [body[start : start + 50_001] for start in range(0, size, 50_001)]
    async with ScriptedServer(canned(ok())) as server:
        for given in (body, iter(pieces), b"small", body):
            await client.fetch(server.url(), method="POST", body=given)
        bodies = [request.body for request in server.requests]
        assert len(server.connections) == 1
    assert bodies == [body, body, b"small", body]


async def test_a_slow_consumer_keeps_its_connection(client: Any) -> None:
    """What comes while it is paused is its own, and not a stranger's on an idle connection."""
    sent = False

    async def consume(chunk: bytes) -> None:
        # Other requests meanwhile: before each of them, idle connections are looked at.
        if sent:
            assert (await client.fetch(server.url("/small"))).body == b"small"

    async with ScriptedServer(routes({"/": ok(BODY), "/small": ok(b"small")})) as server:
        await client.fetch(server.url("/small"))
        sent = True
        await client.fetch(server.url("/"), streaming_callback=consume)
        assert len(server.connections) == 2
        await asyncio.gather(*(client.fetch(server.url("/small")) for _ in range(2)))
        assert len(server.connections) == 2
