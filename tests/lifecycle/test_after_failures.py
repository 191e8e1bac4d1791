"""Matrix 69, the other half: what requests that fail, or are cancelled, leave to the next: nothing.

With max_clients=1 the next request may get the handle of the one before, or its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Peer, ScriptedServer, chunked, ok, reply, silent_server


async def _serve(peer: Peer) -> None:
    while True:
        request = await peer.read_request()
        if request.target == "/silent":
            return await peer.closed()
        if request.target == "/broken":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nha")
            return
        if request.target == "/garbled":
            await peer.send(ok(b"no gzip", "Content-Encoding: gzip"))
        elif request.target == "/malformed":
            await peer.send(b"HTTP/1.1 99 OK\r\n\r\n")
        elif request.target == "/long":
            await peer.send(reply("200 OK", chunked(b"x" * 1000), "Transfer-Encoding: chunked"))
        else:
            await peer.send(ok(b"" if request.method == "HEAD" else b"0123456789" * 50))


def _raising(piece: bytes) -> None:
    raise ZeroDivisionError


FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "time-out": ("/silent", {"request_timeout": 0.05}),
    "cut short": ("/broken", {}),
    "bad encoding": ("/garbled", {}),
    "malformed": ("/malformed", {}),
    "too large": ("/long", {"max_body_size": 10}),
    "callback raises": ("/a", {"streaming_callback": _raising}),
    "header callback raises": ("/a", {"header_callback": lambda line: 1 / 0}),
    "bad option": ("/a", {"max_body_size": "many"}),
}
NEXT: dict[str, dict[str, Any]] = {
    "get": {},
    "head": {"method": "HEAD"},
    "post": {"method": "POST", "body": b"plain body"},
    "upload": {"method": "PUT", "body": [b"streamed"]},
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_matrix_69_after_a_failure(failure: str, make_client: Callable[..., Any]) -> None:
    """The bytes of the next request, and what it is given, are those of a fresh client."""
    target, arguments = FAILURES[failure]
    async with ScriptedServer(_serve) as server:
        client = make_client(max_clients=1)
        for plain in NEXT.values():
            with pytest.raises((HTTPError, ZeroDivisionError, ValueError)):
                await client.fetch(
                    server.url(target),
                    headers={"X-Failed": "1"},
                    user_agent="failed",
                    auth_username="u",
                    **arguments,
                )
            seen = []
            for user in (client, make_client()):
                response = await user.fetch(server.url("/next"), **plain)
                seen.append((server.requests[-1].raw, response.code, response.body))
            assert seen[0] == seen[1]


async def test_matrix_69_handles_in_a_crowd(make_client: Callable[..., Any]) -> None:
    """Mixed kinds, many at a time, in an order that shuffles handles: each sends its own."""
    client = make_client(max_clients=4)
    async with ScriptedServer(_serve) as server, silent_server() as quiet:

        async def one(number: int) -> None:
            url = server.url(f"/{number}")
            headers = {"X-Number": str(number)}
            kind = number % 5
            if kind == 0:
                await client.fetch(url, headers=headers)
            elif kind == 1:
                await client.fetch(url, method="POST", body=str(number), headers=headers)
            elif kind == 2:
                with pytest.raises(HTTPError):
                    await client.fetch(quiet.url(), request_timeout=0.02, headers=headers)
            elif kind == 3:
                fetch = client.fetch(url, auth_token=str(number))
                await asyncio.sleep(0)
                fetch.cancel()
            else:
                await client.fetch(url)

        await asyncio.gather(*(one(number) for number in range(100)))
        assert len(server.requests) >= 60
        for request in server.requests:
            number = int(request.target[1:])
            kind = number % 5
            assert request.get("X-Number") == (str(number) if kind < 2 else None)
            assert request.body == (str(number).encode() if kind == 1 else b"")
            assert request.method == ("POST" if kind == 1 else "GET")
            assert request.get("Authorization") == (f"Bearer {number}" if kind == 3 else None)
