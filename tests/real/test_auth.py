"""Logins at the origin: httpbin's Basic, Bearer and Digest, apache's mod_auth_digest."""

from __future__ import annotations

from typing import Any

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError

from .servers import apache
from .support import Origin


def login(user: str, password: str, mode: str) -> dict[str, Any]:
    return {"auth_username": user, "auth_password": password, "auth_mode": mode}


async def test_basic(client: AsyncHTTPClient, origin: Origin) -> None:
    path = "/basic-auth/alice/secret"
    response = await origin.fetch(client, path, **login("alice", "secret", "basic"))
    assert response.json() == {"authenticated": True, "user": "alice"}
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, path, **login("alice", "wrong", "basic"))
    assert caught.value.code == 401
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, path)
    assert caught.value.code == 401


async def test_basic_from_url(client: AsyncHTTPClient, origin: Origin) -> None:
    url = origin.url.replace("://", "://alice:s%40crt@")
    response = await client.fetch(url + "/basic-auth/alice/s%40crt", **origin.options)
    assert response.json()["user"] == "alice"


async def test_basic_non_ascii(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/headers", **login("zoë", "pässwörd", "basic"))
    # "zoë:pässwörd" in UTF-8 (RFC 7617, section 2.1)
    expected = "Basic em/Dqzpww6Rzc3fDtnJk"
    assert response.json()["headers"]["Authorization"] == expected


async def test_bearer(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/bearer", auth_mode="bearer", auth_token="t0k.en")
    assert response.json() == {"authenticated": True, "token": "t0k.en"}


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_digest(client: AsyncHTTPClient, origin: Origin, algorithm: str) -> None:
    path = f"/digest-auth/auth/alice/secret/{algorithm}"
    for _ in range(2):
        response = await origin.fetch(client, path, **login("alice", "secret", "digest"))
        assert response.json()["user"] == "alice"
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, path, **login("alice", "wrong", "digest"))
    assert caught.value.code == 401
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, path)
    assert caught.value.code == 401


async def test_digest_auth_int(client: AsyncHTTPClient, origin: Origin) -> None:
    path = "/digest-auth/auth-int/alice/secret"
    response = await origin.fetch(client, path, **login("alice", "secret", "digest"))
    assert response.json()["authenticated"] is True


@pytest.mark.parametrize("user", sorted(apache.USERS))
async def test_apache_digest(
    client: AsyncHTTPClient, apache_server: apache.Apache, user: str
) -> None:
    url = apache_server.url + "/digest"
    for _ in range(3):
        response = await client.fetch(url, **login(user, apache.USERS[user], "digest"))
        assert response.body == b"apache digest\n"
    # One user's login opens nothing to the next request on the same connection.
    for options in (login(user, "wrong", "digest"), login(user, apache.USERS[user], "basic"), {}):
        with pytest.raises(HTTPClientError) as caught:
            await client.fetch(url, **options)
        assert caught.value.code == 401
    assert (await client.fetch(apache_server.url + "/open")).body == b"apache\n"


async def test_apache_digest_users_take_turns(
    client: AsyncHTTPClient, apache_server: apache.Apache
) -> None:
    url = apache_server.url + "/digest"
    for user in ("alice", "bob", "alice"):
        right = login(user, apache.USERS[user], "digest")
        other = login(user, apache.USERS["bob" if user == "alice" else "alice"], "digest")
        assert (await client.fetch(url, **right)).code == 200
        assert (await client.fetch(url, **other, raise_error=False)).code == 401
