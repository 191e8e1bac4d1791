"""squid: identities and their tunnels, trust in a proxy that is spoken to over TLS, load."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPProxyError, HTTPTLSError

from .servers import nginx, squid
from .servers.certificates import Certificates
from .support import BEST_VERSION, MakeClient, Origin

WRONG = (squid.USER_OF_WRONG_PASSWORDS, "wrong")


def via(port: int, user: str | None, password: str | None = None) -> dict[str, Any]:
    """Tornado's way to name a proxy; without a password, the right one."""
    options: dict[str, Any] = {"proxy_host": "127.0.0.1", "proxy_port": port}
    if user is not None:
        password = squid.USERS[user] if password is None else password
        options |= {"proxy_username": user, "proxy_password": password}
    return options


@pytest.mark.parametrize("mode", ["basic", "digest"])
async def test_tornado_parameters(
    client: AsyncHTTPClient, seen_origin: Origin, request: pytest.FixtureRequest, mode: str
) -> None:
    port = request.getfixturevalue(f"squid_{mode}").plain
    response = await seen_origin.fetch(client, "/seen", **via(port, "bob"), proxy_auth_mode=mode)
    assert response.code == 200
    assert response.proxy == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("login", [WRONG, (None, None)], ids=["wrong", "absent"])
async def test_refusal_of_a_plain_request_is_a_response(
    client: AsyncHTTPClient,
    nginx_server: nginx.Nginx,
    squid_basic: squid.Squid,
    login: tuple[str | None, str | None],
) -> None:
    response = await client.fetch(
        nginx_server.url + "/seen", **via(squid_basic.plain, *login), raise_error=False
    )
    assert response.code == 407
    assert response.proxy_code == 407
    assert response.headers["Proxy-Authenticate"] == 'Basic realm="squid"'
    assert isinstance(response.error, HTTPClientError)
    assert response.error.stage == "proxy-auth"


@pytest.mark.parametrize("mode", ["basic", "digest"])
async def test_identities_never_share_a_tunnel(
    client: AsyncHTTPClient,
    nginx_server: nginx.Nginx,
    certs: Certificates,
    request: pytest.FixtureRequest,
    mode: str,
) -> None:
    proxy: squid.Squid = request.getfixturevalue(f"squid_{mode}")
    options: dict[str, Any] = {"ca_certs": str(certs.ca), "proxy_auth_mode": mode}
    url = nginx_server.tls_url + "/seen"
    connections: dict[str, set[str]] = {"alice": set(), "bob": set()}
    ids: dict[str, set[object]] = {"alice": set(), "bob": set()}
    for user in ("alice", "bob", "alice", "bob"):
        response = await client.fetch(url, **via(proxy.plain, user), **options)
        connections[user].add(response.headers["X-Connection"])
        ids[user].add(response.connection_id)
        # Nor does anybody else get into a tunnel that stands open.
        for login in (WRONG, (None, None)):
            with pytest.raises(HTTPProxyError) as caught:
                await client.fetch(url, **via(proxy.plain, *login), **options)
            assert caught.value.proxy_code == 407
    assert not connections["alice"] & connections["bob"]
    assert not ids["alice"] & ids["bob"]
    # Each of the two kept its own.
    assert {len(seen) for seen in connections.values()} == {1}


async def test_squid_knows_who_came(
    make_client: MakeClient, seen_origin: Origin, squid_basic: squid.Squid
) -> None:
    """squid's own log: each request, and each tunnel, under the name that the caller gave."""
    before = len(squid_basic.log_lines())
    for user in ("alice", "bob"):
        client = make_client()
        await seen_origin.fetch(client, f"/seen?{user}", **via(squid_basic.plain, user))
        client.close()
    # A tunnel is logged when it ends, which the closed client has brought about.
    method = "CONNECT" if seen_origin.secure else "GET"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        lines = squid_basic.log_lines()[before:]
        came = [line[0] for line in lines if line[1] == method and line[3] == "200"]
        if len(came) >= 2:
            break
        await asyncio.sleep(0.02)
    assert sorted(came) == ["alice", "bob"]


async def test_proxy_over_tls_is_verified(
    client: AsyncHTTPClient, seen_origin: Origin, squid_basic: squid.Squid, certs: Certificates
) -> None:
    url = seen_origin.url + "/seen"
    proxy = f"https://alice:{squid.USERS['alice']}@localhost:{squid_basic.tls}"
    ours = ssl.create_default_context(cafile=str(certs.ca))
    strange = ssl.create_default_context(cafile=str(certs.stranger_ca))

    for trust in ({"ca_certs": str(certs.ca)}, {"ca_certs": str(certs.ca), "proxy_ssl": ours}):
        response = await client.fetch(url, proxy=proxy, **trust)
        assert response.proxy == f"https://localhost:{squid_basic.tls}"

    distrust: list[dict[str, Any]] = [
        {},
        {"ca_certs": str(certs.stranger_ca)},
        {"ca_certs": str(certs.ca), "proxy_ssl": strange},
    ]
    for options in distrust:
        with pytest.raises(HTTPTLSError) as caught:
            await client.fetch(url, proxy=proxy, **options)
        assert caught.value.code == 599
        assert caught.value.stage == "proxy-connect"
        assert caught.value.proxy == f"https://localhost:{squid_basic.tls}"


async def test_trust_in_proxy_is_not_trust_in_origin(
    client: AsyncHTTPClient,
    nginx_server: nginx.Nginx,
    squid_basic: squid.Squid,
    certs: Certificates,
) -> None:
    proxy = f"https://alice:{squid.USERS['alice']}@localhost:{squid_basic.tls}"
    with pytest.raises(HTTPTLSError) as caught:
        await client.fetch(
            nginx_server.tls_url + "/seen",
            proxy=proxy,
            proxy_ssl=ssl.create_default_context(cafile=str(certs.ca)),
            ca_certs=str(certs.stranger_ca),
        )
    assert caught.value.stage == "tls"


async def test_origin_sees_the_inner_tls(
    backend: str,
    client: AsyncHTTPClient,
    nginx_server: nginx.Nginx,
    squid_basic: squid.Squid,
    certs: Certificates,
) -> None:
    """TLS in TLS: ALPN inside the tunnel is the origin's, whatever the proxy's TLS has settled."""
    response = await client.fetch(
        nginx_server.tls_url + "/seen",
        proxy=f"https://alice:{squid.USERS['alice']}@localhost:{squid_basic.tls}",
        ca_certs=str(certs.ca),
    )
    assert response.http_version == BEST_VERSION[backend]
    assert (
        response.json()["protocol"] == {"1.1": "HTTP/1.1", "2": "HTTP/2.0"}[BEST_VERSION[backend]]
    )
    assert response.json()["server_name"] == "localhost"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_hundred_at_once(
    make_client: MakeClient,
    seen_origin: Origin,
    squid_basic: squid.Squid,
    certs: Certificates,
    scheme: str,
) -> None:
    client = make_client(max_clients=100)
    port = squid_basic.plain if scheme == "http" else squid_basic.tls
    options: dict[str, Any] = {
        "proxy": f"{scheme}://alice:{squid.USERS['alice']}@localhost:{port}",
        "ca_certs": str(certs.ca),
        "http_version": "1.1",
    }
    start = time.monotonic()
    responses = await asyncio.gather(
        *(client.fetch(seen_origin.url + "/slow/file", **options) for _ in range(100))
    )
    elapsed = time.monotonic() - start
    assert {response.code for response in responses} == {200}
    assert {len(response.body) for response in responses} == {nginx.SLOW_SIZE}
    assert elapsed < 20 * nginx.SLOW_SECONDS


async def test_two_users_at_once(
    make_client: MakeClient,
    nginx_server: nginx.Nginx,
    squid_basic: squid.Squid,
    certs: Certificates,
) -> None:
    client = make_client(max_clients=20)
    url = nginx_server.tls_url + "/seen"
    users = ["alice", "bob"] * 25
    responses = await asyncio.gather(
        *(client.fetch(url, ca_certs=str(certs.ca), **via(squid_basic.plain, u)) for u in users)
    )
    by_user: dict[str, set[str]] = {"alice": set(), "bob": set()}
    for user, response in zip(users, responses, strict=True):
        by_user[user].add(response.headers["X-Connection"])
    assert not by_user["alice"] & by_user["bob"]
