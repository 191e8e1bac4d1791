"""What holds for every kind of proxy: it is used, it is reported, and the origin never meets it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPProxyError

from .servers import apache, process, socks, squid, tinyproxy
from .servers.nginx import Nginx
from .support import MakeClient, Origin

HTTP, SOCKS = "http", "socks"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way through a real proxy.

    ``refusals`` is the status a wrong and an absent login are met with. ``tells``: whether the
    proxy says that the origin cannot be reached, rather than make a tunnel first or just hang up.
    """

    family: str
    scheme: str
    port: Callable[[Callable[[str], Any]], int]
    login: tuple[str, str] | None = None
    wrong: tuple[str, str] = (squid.USER_OF_WRONG_PASSWORDS, "wrong")
    auth_mode: str | None = None
    refusals: tuple[int, int] = (407, 407)
    tells: bool = True


KINDS = {
    "squid basic": Kind(
        HTTP, "http", lambda get: get("squid_basic").plain, ("alice", squid.USERS["alice"])
    ),
    "squid basic over tls": Kind(
        HTTP, "https", lambda get: get("squid_basic").tls, ("alice", squid.USERS["alice"])
    ),
    "squid digest": Kind(
        HTTP,
        "http",
        lambda get: get("squid_digest").plain,
        ("alice", squid.USERS["alice"]),
        auth_mode="digest",
    ),
    "squid digest over tls": Kind(
        HTTP,
        "https",
        lambda get: get("squid_digest").tls,
        ("alice", squid.USERS["alice"]),
        auth_mode="digest",
    ),
    "apache digest": Kind(
        HTTP,
        "http",
        lambda get: get("apache_server").proxy,
        ("zoe", apache.USERS["zoe"]),
        ("zoe", "wrong"),
        auth_mode="digest",
    ),
    "tinyproxy basic": Kind(
        HTTP,
        "http",
        lambda get: get("tinyproxy_server").port,
        (tinyproxy.USER, tinyproxy.PASSWORD),
        # It answers a wrong login as if it were the origin.
        refusals=(401, 407),
    ),
    "pproxy basic": Kind(
        HTTP,
        "http",
        lambda get: get("pproxy_http").port,
        (socks.USER, socks.PASSWORD),
        tells=False,
    ),
    "socks5": Kind(SOCKS, "socks5", lambda get: get("socks5").port),
    "socks5h": Kind(SOCKS, "socks5h", lambda get: get("socks5").port),
    "socks5 login": Kind(
        SOCKS, "socks5", lambda get: get("socks5_auth").port, (socks.USER, socks.PASSWORD)
    ),
    "socks5h login": Kind(
        SOCKS, "socks5h", lambda get: get("socks5_auth").port, (socks.USER, socks.PASSWORD)
    ),
    "socks4": Kind(SOCKS, "socks4", lambda get: get("socks4").port, tells=False),
    "socks4 user id": Kind(
        SOCKS, "socks4", lambda get: get("socks4_auth").port, (socks.USER, ""), tells=False
    ),
    "dante socks5": Kind(SOCKS, "socks5", lambda get: get("dante").port),
    "dante socks5h": Kind(SOCKS, "socks5h", lambda get: get("dante").port),
    "dante socks4": Kind(SOCKS, "socks4", lambda get: get("dante").port),
}
WITH_LOGIN = [name for name, kind in KINDS.items() if kind.login]
#: A login is sent with the whole request or with CONNECT; SOCKS always makes a tunnel.
HTTP_KINDS = [name for name, kind in KINDS.items() if kind.family == HTTP]


@dataclasses.dataclass(frozen=True)
class Route:
    """A running proxy, and the options that lead through it."""

    name: str
    kind: Kind
    port: int
    trust: dict[str, Any]

    @property
    def url(self) -> str:
        host = "localhost" if self.kind.scheme == "https" else process.HOST
        return f"{self.kind.scheme}://{host}:{self.port}"

    def through(self, login: tuple[str, str] | None) -> dict[str, Any]:
        options: dict[str, Any] = {"proxy": self.url, **self.trust}
        if login is not None:
            options |= {"proxy_username": login[0], "proxy_password": login[1]}
        if self.kind.auth_mode is not None:
            options["proxy_auth_mode"] = self.kind.auth_mode
        return options

    @property
    def right(self) -> dict[str, Any]:
        return self.through(self.kind.login)


@pytest.fixture(params=sorted(KINDS))
def route(request: pytest.FixtureRequest) -> Route:
    kind = KINDS[request.param]
    trust: dict[str, Any] = {}
    if kind.scheme == "https":
        trust["ca_certs"] = str(request.getfixturevalue("certs").ca)
    return Route(request.param, kind, kind.port(request.getfixturevalue), trust)


def only(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", names, indirect=True)


async def fetch_seen(
    client: AsyncHTTPClient, origin: Origin, options: dict[str, Any]
) -> dict[str, str]:
    """What the origin saw of a request that went through."""
    response = await client.fetch(origin.url + "/seen", **{**origin.options, **options})
    seen: dict[str, str] = response.json()
    return seen


async def test_right_login(client: AsyncHTTPClient, seen_origin: Origin, route: Route) -> None:
    for _ in range(2):
        response = await client.fetch(
            seen_origin.url + "/seen", **{**seen_origin.options, **route.right}
        )
        assert response.code == 200
        assert response.json()["proxy_authorization"] == ""
        assert response.json()["authorization"] == ""
        assert response.proxy == route.url
        tunnel = seen_origin.secure and route.kind.family == HTTP
        assert response.proxy_code == (200 if tunnel else None)


async def test_post_of_a_large_body(client: AsyncHTTPClient, origin: Origin, route: Route) -> None:
    """Digest asks before it takes the body; nothing of it may get lost on the way."""
    body = b"0123456789" * 20_000
    response = await client.fetch(
        origin.url + "/post",
        method="POST",
        body=body,
        headers={"Content-Type": "text/plain"},
        **{**origin.options, **route.right},
    )
    assert response.json()["data"] == body.decode()
    assert "Proxy-Authorization" not in response.json()["headers"]


@only(WITH_LOGIN)
async def test_login_in_the_proxy_url(
    client: AsyncHTTPClient, seen_origin: Origin, route: Route
) -> None:
    assert route.kind.login is not None
    userinfo = ":".join(quote(part, safe="") for part in route.kind.login)
    options = {**route.right, "proxy": route.url.replace("://", f"://{userinfo}@")}
    del options["proxy_username"], options["proxy_password"]
    seen = await fetch_seen(client, seen_origin, options)
    assert seen["proxy_authorization"] == ""


@only(WITH_LOGIN)
@pytest.mark.parametrize("absent", [False, True], ids=["wrong", "absent"])
async def test_refused_login(
    client: AsyncHTTPClient, seen_origin: Origin, route: Route, absent: bool
) -> None:
    login = None if absent else route.kind.wrong
    url = seen_origin.url + "/seen"
    options = {**seen_origin.options, **route.through(login)}
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(url, **options)
    error = caught.value
    if route.kind.family == SOCKS:
        assert isinstance(error, HTTPProxyError)
        # A SOCKS4 proxy that does not like the user id just hangs up.
        stage = "tunnel" if route.kind.scheme == "socks4" else "proxy-auth"
        assert (error.code, error.proxy_code, error.stage) == (599, None, stage)
    else:
        status = route.kind.refusals[absent]
        if seen_origin.secure:
            assert isinstance(error, HTTPProxyError)
            assert error.code == 599
            assert error.proxy_code == status
        else:
            assert error.code == status
        if status == 407:
            assert (error.proxy_code, error.stage) == (407, "proxy-auth")
    assert route.kind.wrong[1] not in str(error).split()

    # The refusal is the request's, not the client's: the right login still works, and no more.
    assert (await fetch_seen(client, seen_origin, route.right))["proxy_authorization"] == ""
    with pytest.raises(HTTPClientError):
        await client.fetch(url, **options)


@only(WITH_LOGIN)
async def test_direct_after_proxied(
    client: AsyncHTTPClient, seen_origin: Origin, route: Route
) -> None:
    await fetch_seen(client, seen_origin, route.right)
    response = await client.fetch(seen_origin.url + "/seen", **seen_origin.options, proxy=False)
    assert response.json()["proxy_authorization"] == ""
    assert response.proxy is None
    assert response.proxy_code is None


@only(WITH_LOGIN)
async def test_proxy_login_and_origin_login(
    client: AsyncHTTPClient, seen_origin: Origin, route: Route
) -> None:
    options = {**route.right, "auth_username": "o", "auth_password": "p"}
    seen = await fetch_seen(client, seen_origin, options)
    assert seen["authorization"] == "Basic bzpw"
    assert seen["proxy_authorization"] == ""


@only([name for name, kind in KINDS.items() if kind.tells])
async def test_origin_refuses(client: AsyncHTTPClient, route: Route) -> None:
    """Nobody listens at the origin: a failure beyond the proxy, not of it."""
    (port,) = process.free_ports(1)
    with pytest.raises(HTTPProxyError) as caught:
        await client.fetch(f"https://127.0.0.1:{port}/", **route.right)
    assert caught.value.stage == "tunnel"
    if route.kind.family == HTTP:
        assert caught.value.proxy_code is not None
        assert 500 <= caught.value.proxy_code < 600


@pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks5", "socks5h"])
async def test_proxy_refuses(client: AsyncHTTPClient, seen_origin: Origin, scheme: str) -> None:
    (port,) = process.free_ports(1)
    with pytest.raises(HTTPProxyError) as caught:
        await seen_origin.fetch(client, "/seen", proxy=f"{scheme}://u:p@127.0.0.1:{port}")
    assert caught.value.stage == "proxy-connect"
    assert caught.value.code == 599
    assert caught.value.proxy == f"{scheme}://127.0.0.1:{port}"
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.retryable


@only(HTTP_KINDS)
async def test_environment(
    make_client: MakeClient,
    seen_origin: Origin,
    nginx_server: Nginx,
    route: Route,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert route.kind.login is not None
    userinfo = ":".join(quote(part, safe="") for part in route.kind.login)
    value = route.url.replace("://", f"://{userinfo}@")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy" if seen_origin.secure else "http_proxy", value)
    options: dict[str, Any] = {**seen_origin.options, **route.trust}
    if route.kind.auth_mode:
        options["proxy_auth_mode"] = route.kind.auth_mode
    url = seen_origin.url + "/seen"
    assert (await make_client(trust_env=True).fetch(url, **options)).proxy == route.url
    assert (await make_client(trust_env=False).fetch(url, **options)).proxy is None
    monkeypatch.setenv("no_proxy", "127.0.0.0/8,localhost")
    assert (await make_client(trust_env=True).fetch(url, **options)).proxy is None
