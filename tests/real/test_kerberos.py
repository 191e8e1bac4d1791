"""Negotiate with tickets of a real realm: at an origin, at a proxy, and through its tunnel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifecycle.support import until
from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPError

from .servers import kerberos, squid
from .servers.certificates import Certificates
from .support import MakeClient, Origin, curl_only

pytestmark = curl_only

NEGOTIATE = {"auth_mode": "negotiate"}
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def become(
    kerberos_realm: kerberos.Realm, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Make this process a user of the realm; "nobody" has no ticket."""

    def become(user: str) -> None:
        for name, value in kerberos_realm.environment_of(user).items():
            monkeypatch.setenv(name, value)

    become("alice")
    return become


def via(squid_negotiate: squid.Squid, scheme: str, certs: Certificates) -> dict[str, Any]:
    port = squid_negotiate.plain if scheme == "http" else squid_negotiate.tls
    options: dict[str, Any] = {
        "proxy": f"{scheme}://localhost:{port}",
        "proxy_auth_mode": "negotiate",
    }
    if scheme == "https":
        options["proxy_ssl"] = {"ca_certs": str(certs.ca)}
    return options


async def test_an_origin(
    client: AsyncHTTPClient, kerberos_origin: str, become: Callable[[str], None]
) -> None:
    for _ in range(3):
        response = await client.fetch(kerberos_origin + "/headers", **NEGOTIATE)
        assert response.json()["headers"]["X-Remote-User"] == f"alice@{kerberos.REALM}"


@pytest.mark.parametrize("size", [0, 10, 300_000])
async def test_a_body_arrives_whole(
    client: AsyncHTTPClient, kerberos_origin: str, become: Callable[[str], None], size: int
) -> None:
    body = "x" * size
    headers = {**TEXT, "Content-Length": str(size)}  # httpbin knows no chunks
    halves = [body[: size // 2].encode(), body[size // 2 :].encode()]
    for sent in (body, halves):
        response = await client.fetch(
            kerberos_origin + "/anything", method="POST", headers=headers, body=sent, **NEGOTIATE
        )
        assert response.json()["data"] == body


async def test_users_take_turns(
    client: AsyncHTTPClient, kerberos_origin: str, become: Callable[[str], None]
) -> None:
    """No request is ever made with the ticket of the one before, and none without being asked."""
    url = kerberos_origin + "/headers"
    for user in ("alice", "bob", "alice"):
        become(user)
        response = await client.fetch(url, **NEGOTIATE)
        assert response.json()["headers"]["X-Remote-User"] == f"{user}@{kerberos.REALM}"
        plain = await client.fetch(url, raise_error=False)
        assert plain.code == 401
        assert plain.headers["WWW-Authenticate"] == "Negotiate"


async def test_one_user_after_another(
    client: AsyncHTTPClient, kerberos_origin: str, become: Callable[[str], None]
) -> None:
    """On the handle and the connection of the one before."""
    for user in ("alice", "bob", "bob", "alice"):
        become(user)
        response = await client.fetch(kerberos_origin + "/headers", **NEGOTIATE)
        assert response.json()["headers"]["X-Remote-User"] == f"{user}@{kerberos.REALM}"


async def test_no_ticket(
    client: AsyncHTTPClient, kerberos_origin: str, become: Callable[[str], None]
) -> None:
    become("nobody")
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(kerberos_origin + "/headers", **NEGOTIATE)
    assert caught.value.code == 401
    become("bob")
    response = await client.fetch(kerberos_origin + "/headers", **NEGOTIATE)
    assert response.json()["headers"]["X-Remote-User"] == f"bob@{kerberos.REALM}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy(
    make_client: MakeClient,
    origin: Origin,
    squid_negotiate: squid.Squid,
    certs: Certificates,
    become: Callable[[str], None],
    scheme: str,
) -> None:
    """Plain requests and tunnels, under the name of whose ticket it was."""
    before = len(squid_negotiate.log_lines())
    for user in ("alice", "bob"):
        become(user)
        client = make_client()
        for _ in range(2):
            response = await origin.fetch(client, "/headers", **via(squid_negotiate, scheme, certs))
            assert "Proxy-Authorization" not in response.json()["headers"]
        client.close()
    # A tunnel is logged when it ends, which the closed client has brought about.
    method = "CONNECT" if origin.secure else "GET"
    expected = [f"{user}@{kerberos.REALM}" for user in ("alice", "bob")]

    def came() -> list[str]:
        lines = squid_negotiate.log_lines()[before:]
        return sorted({line[0] for line in lines if line[1] == method and line[3] == "200"})

    await until(lambda: came() == expected)


async def test_a_body_through_a_proxy(
    client: AsyncHTTPClient,
    origin: Origin,
    squid_negotiate: squid.Squid,
    certs: Certificates,
    become: Callable[[str], None],
) -> None:
    body = "x" * 300_000
    response = await origin.fetch(
        client,
        "/anything",
        method="POST",
        headers=TEXT,
        body=body,
        **via(squid_negotiate, "http", certs),
    )
    assert response.json()["data"] == body


async def test_nobody_shares_what_a_ticket_opened(
    client: AsyncHTTPClient,
    origin: Origin,
    squid_negotiate: squid.Squid,
    certs: Certificates,
    become: Callable[[str], None],
) -> None:
    """Neither a request without credentials nor one with others, on a connection that stands."""
    options = via(squid_negotiate, "http", certs)
    strangers: list[dict[str, Any]] = [
        {"proxy": options["proxy"]},
        {"proxy": options["proxy"], "proxy_username": "alice", "proxy_password": "secret"},
    ]
    for stranger in strangers:
        assert (await origin.fetch(client, "/get", **options)).code == 200
        with pytest.raises(HTTPError) as caught:
            await origin.fetch(client, "/get", **stranger)
        assert caught.value.proxy_code == 407
        assert caught.value.stage == "proxy-auth"


async def test_no_ticket_for_a_proxy(
    client: AsyncHTTPClient,
    origin: Origin,
    squid_negotiate: squid.Squid,
    certs: Certificates,
    become: Callable[[str], None],
) -> None:
    options = via(squid_negotiate, "http", certs)
    become("nobody")
    with pytest.raises(HTTPError) as caught:
        await origin.fetch(client, "/get", **options)
    assert caught.value.proxy_code == 407
    assert caught.value.stage == "proxy-auth"
    become("alice")
    assert (await origin.fetch(client, "/get", **options)).code == 200
