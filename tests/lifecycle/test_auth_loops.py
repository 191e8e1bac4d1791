"""Matrix 30: an origin that is never content with the credentials; for proxies see conformance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Peer, ScriptedServer, ok, reply

Write = Callable[[bytes], Awaitable[None]]


async def _produce(write: Write) -> None:
    await write(b"body")


def _challenge(kind: str, count: int) -> str:
    if kind == "basic":
        return 'Basic realm="r"'
    stale = ", stale=true" if kind == "stale" else ""
    return f'Digest realm="r", nonce="nonce{count}", qop="auth"{stale}'


@pytest.mark.parametrize(
    "request_body",
    [{}, {"method": "POST", "body": b"body"}, {"method": "PUT", "body_producer": _produce}],
    ids=["GET", "POST", "producer"],
)
@pytest.mark.parametrize(
    ("mode", "kind", "most"),
    [("basic", "basic", 1), ("basic", "stale", 1), ("digest", "digest", 2), ("digest", "stale", 5)],
)
async def test_matrix_30_401_for_ever(
    mode: str, kind: str, most: int, request_body: dict[str, Any], client: Any
) -> None:
    """Basic is tried once, Digest twice, stale=true at most five times; the next fetch is sound."""
    count = 0

    async def handler(peer: Peer) -> None:
        nonlocal count
        while True:
            request = await peer.read_request()
            if request.target == "/open":
                await peer.send(ok(b"open"))
                continue
            count += 1
            field = f"WWW-Authenticate: {_challenge(kind, count)}"
            await peer.send(reply("401 Unauthorized", b"no", field))

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(
                server.url("/closed"),
                auth_username="u",
                auth_password="p",
                auth_mode=mode,
                **request_body,
            )
        assert 1 <= count <= most
        if kind != "stale" or mode == "basic":
            assert caught.value.code == 401
            assert count == most
        else:
            assert caught.value.code in (401, 599)
        assert (await client.fetch(server.url("/open"))).body == b"open"


async def test_matrix_30_stale_once_is_answered(client: Any) -> None:
    """A nonce that expired is no refusal: the request is signed anew and succeeds."""
    nonces: list[str | None] = []

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            nonces.append(request.get("Authorization"))
            if len(nonces) < 3:
                kind = "stale" if len(nonces) == 2 else "digest"
                field = f"WWW-Authenticate: {_challenge(kind, len(nonces))}"
                await peer.send(reply("401 Unauthorized", b"", field))
            else:
                await peer.send(ok(b"in"))

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), auth_username="u", auth_password="p", auth_mode="digest"
        )
        assert response.body == b"in"
    assert len(nonces) == 3
    assert 'nonce="nonce2"' in str(nonces[2])
