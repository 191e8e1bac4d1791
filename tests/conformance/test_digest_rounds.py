"""Digest over several requests: two who ask, bodies that wait, and what the answers are for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from whimbrel.testing.scripted import Peer, RecordedRequest, ScriptedServer, canned, ok, reply

from .support import challenge, check_digest

PROXY = f"Proxy-Authenticate: {challenge('proxy')}"
ORIGIN = f"WWW-Authenticate: {challenge('origin')}"
SIGNED = 'WWW-Authenticate: Digest realm="whim", nonce="n", qop="auth-int"'
CREDENTIALS = {"auth_username": "alice", "auth_password": "secret", "auth_mode": "digest"}


async def _proxy_and_origin(peer: Peer) -> None:
    """A proxy that wants credentials, and behind it an origin that does."""
    while True:
        request = await peer.read_request()
        if request.get("Proxy-Authorization") is None:
            await peer.send(reply("407 Who", b"", PROXY))
        elif request.get("Authorization") is None:
            await peer.send(reply("401 Who", b"", ORIGIN))
        else:
            await peer.send(ok(b"in:" + request.body))


def _uri(request: RecordedRequest) -> str:
    found = re.search(r'uri="([^"]*)"', request.get("Authorization") or "")
    assert found
    return found[1]


async def test_the_origin_is_told_the_target_that_it_sees(client: Any) -> None:
    """Through a proxy the request's target is the whole URL; the origin's is the path."""
    async with ScriptedServer(_proxy_and_origin) as proxy:
        response = await client.fetch(
            "http://origin.test/a?b",
            proxy=proxy.url(userinfo="bob:word"),
            proxy_auth_mode="digest",
            **CREDENTIALS,
        )
        assert response.body == b"in:"
        last = proxy.requests[-1]
        assert last.target == "http://origin.test/a?b"
        assert _uri(last) == "/a?b"
        check_digest(last.get("Authorization"), last, "alice", "secret")
        check_digest(last.get("Proxy-Authorization"), last, "bob", "word")


@pytest.mark.parametrize("kind", ["bytes", "list", "iterator"])
async def test_a_body_waits_for_both_challenges(client: Any, kind: str) -> None:
    """It travels once, so that an iterator, which runs once, is enough."""
    body = {"bytes": b"body", "list": [b"bo", b"dy"], "iterator": iter([b"bo", b"dy"])}[kind]
    async with ScriptedServer(_proxy_and_origin) as proxy:
        response = await client.fetch(
            "http://origin.test/",
            method="POST",
            body=body,
            proxy=proxy.url(userinfo="bob:word"),
            proxy_auth_mode="digest",
            **CREDENTIALS,
        )
        assert response.body == b"in:body"
        assert [request.body for request in proxy.requests] == [b"", b"", b"body"]


@pytest.mark.parametrize("body", [b"body", [b"bo", b"dy"]], ids=["bytes", "list"])
async def test_a_signature_that_is_never_enough(client: Any, body: Any) -> None:
    """A server that always wants the body signed gets a few requests, and its 401 is told."""
    async with ScriptedServer(canned(reply("401 No", b"no", SIGNED))) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body=body,
            request_timeout=5,
            raise_error=False,
            **CREDENTIALS,
        )
        assert (response.code, response.body) == (401, b"no")
        assert len(server.requests) <= 5
