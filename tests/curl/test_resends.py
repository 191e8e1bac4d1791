"""What libcurl sends again of its own accord, and on which connection it may.

It looks for one in the middle of serving sockets, among those that are kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import Certificates
from whimbrel._send_queue import unacknowledged
from whimbrel.httpclient import HTTPStreamClosedError
from whimbrel.testing.scripted import Peer, ScriptedServer, ok, reply

from .support import speak, until

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
CHALLENGE = reply(
    "401 Unauthorized",
    b"",
    'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=MD5',
    "Connection: close",
)


class Origin:
    """Answers with the target; two connections are kept, of which the one that a request to /die
    takes is closed, and the other one may have something to say."""

    def __init__(self, client: Any, *, dies: int = 1, answer: bytes = b"", **options: Any) -> None:
        self.server = ScriptedServer(self._serve, **options)
        self.bodies: list[bytes] = []
        self._client = client
        self._dies, self._answer = dies, answer
        self._both = asyncio.Event()

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/warm":
                if len(self.server.requests) == 2:
                    self._both.set()
                await self._both.wait()
            if request.target == "/die":
                self.bodies.append(request.body)
                if self._dies:
                    self._dies -= 1
                    if self._answer:
                        await peer.send(self._answer)
                    return
            await peer.send(ok(request.target.encode()))

    async def warm(self, **arguments: Any) -> Peer:
        """Have two connections kept; return the one that libcurl would not take next."""
        url = self.server.url("/warm")
        await asyncio.gather(*(self._client.fetch(url, **arguments) for _ in range(2)))
        response = await self._client.fetch(self.server.url("/which"), **arguments)
        (other,) = (
            peer for peer in self.server.connections if peer.address != response.local_address
        )
        return other


async def _pieces() -> AsyncIterator[bytes]:
    yield b"once"


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("PUT", b"body"), ("PUT", [b"bo", b"dy"])]
)
async def test_not_on_one_that_is_distrusted(curl_client: Any, method: str, body: Any) -> None:
    origin = Origin(curl_client)
    async with origin.server as server:
        other = await origin.warm()
        await speak(other, EVIL)
        response = await curl_client.fetch(server.url("/die"), method=method, body=body)
        assert response.body == b"/die"
        assert len(server.connections) == 3
    assert origin.bodies == [b"body" if body else b""] * 2


async def test_not_on_one_that_nobody_has_looked_at(curl_client: Any) -> None:
    """Its response ends, and what lies behind that, in the turn in which the other is closed."""
    go_on = asyncio.Event()
    targets: dict[str, Peer] = {}

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/warm":
                while len(server.connections) < 2:  # noqa: ASYNC110 (nothing tells of it)
                    await asyncio.sleep(0)
            elif request.target not in targets:
                targets[request.target] = peer
                if request.target == "/streamed":
                    # In two pieces: libcurl reads no more than what is missing of a body.
                    await peer.send(ok(b"good")[:-2])
                await go_on.wait()
                return await peer.closed()
            await peer.send(ok(b"good"))

    async with ScriptedServer(handler) as server:
        await asyncio.gather(*(curl_client.fetch(server.url("/warm")) for _ in range(2)))
        taken = bytearray()
        streamed = curl_client.fetch(server.url("/streamed"), streaming_callback=taken.extend)
        other = curl_client.fetch(server.url("/other"))
        await until(lambda: len(targets) == 2 and taken == b"go")
        # Else the system would hold the next piece back, until it has heard of this one.
        await until(lambda: not unacknowledged(targets["/streamed"]._sock.fileno()))
        targets["/streamed"]._sock.send(b"od" + EVIL)
        targets["/other"]._sock.shutdown(socket.SHUT_RDWR)
        assert (await other).body == b"good"
        await streamed
        assert taken == b"good"
        assert len(server.connections) == 3
        go_on.set()


async def test_once_at_most(curl_client: Any) -> None:
    origin = Origin(curl_client, dies=2)
    async with origin.server as server:
        await origin.warm()
        with pytest.raises(HTTPStreamClosedError) as caught:
            await curl_client.fetch(server.url("/die"))
        assert caught.value.retryable
        assert len(origin.bodies) == 2
        assert len(server.connections) == 3


async def test_not_what_may_have_been_carried_out(curl_client: Any) -> None:
    origin = Origin(curl_client)
    async with origin.server as server:
        await origin.warm()
        with pytest.raises(HTTPStreamClosedError) as caught:
            await curl_client.fetch(server.url("/die"), method="POST", body=b"once")
        assert not caught.value.retryable
    assert origin.bodies == [b"once"]


async def test_not_with_half_a_body(curl_client: Any) -> None:
    """One that cannot be had twice is not sent from its middle on."""
    origin = Origin(curl_client)
    async with origin.server as server:
        await origin.warm()
        with pytest.raises(HTTPStreamClosedError):
            await curl_client.fetch(server.url("/die"), method="PUT", body=_pieces())
    assert origin.bodies == [b"once"]


async def test_the_answer_to_a_challenge(curl_client: Any) -> None:
    """The connection that the challenge came on is closed, and another one is distrusted."""
    origin = Origin(curl_client, answer=CHALLENGE)
    async with origin.server as server:
        other = await origin.warm()
        await speak(other, EVIL)
        response = await curl_client.fetch(
            server.url("/die"),
            method="POST",
            body=b"body",
            auth_username="u",
            auth_password="p",
            auth_mode="digest",
        )
        assert response.body == b"/die"
        assert origin.bodies[-1] == b"body"
    assert "/die" not in [request.target for request in other.requests]


async def test_one_that_requests_share_will_do(curl_client: Any) -> None:
    """What comes on it belongs to a stream."""
    origin = Origin(curl_client)
    async with origin.server as server:
        other = await origin.warm()
        curl_client._versions[other.address] = "2"
        assert (await curl_client.fetch(server.url("/die"))).body == b"/die"
        assert len(server.connections) == 2


@pytest.mark.parametrize("answer", [b"", CHALLENGE])
async def test_through_a_second_tunnel(
    curl_client: Any, certificates: Certificates, answer: bytes
) -> None:
    """What the proxy says to that is not the origin's answer, and not lost."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        number = len(server.connections)
        connected = f"HTTP/1.1 200 Connected\r\nX-Number: {number}\r\n\r\n".encode()
        await peer.start_tls(certificates.server_context(), connected)
        await peer.read_request()
        await peer.send(ok(b"first" if number == 1 else b"second"))
        if number == 1:
            await peer.read_request()
            if answer:
                await peer.send(answer)
        else:
            await peer.closed()

    lines: list[str] = []
    async with ScriptedServer(handler) as server:
        for body, number in ((b"first", "1"), (b"second", "2")):
            lines.clear()
            taken = bytearray()
            response = await curl_client.fetch(
                "https://localhost/",
                proxy=server.url(""),
                ca_certs=certificates.ca_file,
                header_callback=lines.append,
                streaming_callback=taken.extend,
                auth_username="u",
                auth_password="p",
                auth_mode="digest",
            )
            assert taken == body
            assert [line for line in lines if line.startswith("HTTP/")] == ["HTTP/1.1 200 OK\r\n"]
            assert response.proxy_code == 200
            assert response.proxy_headers["X-Number"] == number
