"""Cookies: off by default, one jar per client, sent where they belong."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from http.cookiejar import CookieJar
from typing import Any

import pytest

from whimbrel.testing.scripted import (
    RecordedRequest,
    ScriptedServer,
    canned,
    ok,
    redirect,
    reply,
    routes,
)


def setting(*cookies: str) -> bytes:
    """A response that sets `cookies`."""
    return ok(b"", *[f"Set-Cookie: {cookie}" for cookie in cookies])


def sent(request: RecordedRequest) -> list[str]:
    """The cookies of a request, in order; it has at most one Cookie field (RFC 6265 5.4)."""
    value = request.get("Cookie")
    return [] if value is None else value.split("; ")


async def test_off_by_default(client: Any) -> None:
    """Without cookies= nothing is kept: no Set-Cookie reaches a later request."""
    async with ScriptedServer(canned(setting("a=1"))) as server:
        for _ in range(2):
            response = await client.fetch(server.url())
    assert client.cookies is None
    assert response.headers.get_list("Set-Cookie") == ["a=1"]
    assert [sent(request) for request in server.requests] == [[], []]


async def test_kept_and_sent(make_client: Any) -> None:
    """With cookies=True what a response sets goes along from then on."""
    async with ScriptedServer(canned(setting("a=1", "b=2; Path=/; HttpOnly"))) as server:
        client = make_client(cookies=True)
        for _ in range(2):
            await client.fetch(server.url())
    assert sent(server.requests[0]) == []
    assert sorted(sent(server.requests[1])) == ["a=1", "b=2"]
    assert isinstance(client.cookies, CookieJar)


async def test_jar_of_the_caller(make_client: Any) -> None:
    """A given jar is used and filled; two clients may share one."""
    jar = CookieJar()
    async with ScriptedServer(canned(setting("a=1"))) as server:
        await make_client(cookies=jar).fetch(server.url())
        assert [cookie.value for cookie in jar] == ["1"]
        await make_client(cookies=jar).fetch(server.url())
    assert sent(server.requests[1]) == ["a=1"]


async def test_clients_are_apart(make_client: Any) -> None:
    """Each client with cookies=True has a jar of its own."""
    async with ScriptedServer(canned(setting("a=1"))) as server:
        await make_client(cookies=True).fetch(server.url())
        await make_client(cookies=True).fetch(server.url())
        await make_client().fetch(server.url())
    assert [sent(request) for request in server.requests] == [[], [], []]


@pytest.mark.parametrize("bad", ["a=1", {"a": "1"}, 5, ["a"]])
async def test_bad_jars(client_class: type[Any], bad: Any) -> None:
    """What is no jar is refused when the client is made, and not shown: it may be secret."""
    with pytest.raises((TypeError, ValueError), match="cookies") as caught:
        client_class(force_instance=True, cookies=bad)
    assert "a=1" not in str(caught.value)


async def test_redirect_sets_and_sends(make_client: Any) -> None:
    """A cookie set by a redirect goes with its next hop, as a login wants it."""
    table = {
        "/login": redirect("/home", "302 Found", "Set-Cookie: session=s1; Path=/"),
        "/home": ok(),
    }
    async with ScriptedServer(routes(table)) as server:
        await make_client(cookies=True).fetch(server.url("/login"), method="POST", body=b"")
    assert [sent(request) for request in server.requests] == [[], ["session=s1"]]


async def test_redirect_to_another_host(make_client: Any) -> None:
    """A hop to another host gets that host's cookies, not the first one's."""
    async with ScriptedServer(canned(ok())) as server:
        table: dict[str, bytes | Callable[[RecordedRequest], bytes]] = {
            "/": redirect(server.url("/end", host="localhost"), "302 F", "Set-Cookie: a=127"),
        }
        async with ScriptedServer(routes(table)) as first:
            client = make_client(cookies=True)
            await client.fetch(first.url())
            await client.fetch(server.url("/back"))
    assert [sent(request) for request in server.requests] == [[], ["a=127"]]


async def test_callers_cookie_field_is_kept(make_client: Any) -> None:
    """A Cookie header of the caller's goes along with the jar's, in one field."""
    async with ScriptedServer(canned(setting("a=1"))) as server:
        client = make_client(cookies=True)
        await client.fetch(server.url(), headers={"Cookie": "mine=0"})
        await client.fetch(server.url(), headers={"Cookie": "mine=0"})
    assert sent(server.requests[0]) == ["mine=0"]
    assert sorted(sent(server.requests[1])) == ["a=1", "mine=0"]


@pytest.mark.parametrize(
    ("cookie", "path", "goes"),
    [
        ("a=1; Path=/sub", "/sub", True),
        ("a=1; Path=/sub", "/sub/x", True),
        ("a=1; Path=/sub", "/subway", False),
        ("a=1; Path=/sub", "/", False),
        ("a=1", "/set/x", True),
        ("a=1", "/other", False),
        ("a=1; Max-Age=0", "/set/x", False),
        ("a=1; Max-Age=100", "/set/x", True),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/set/x", False),
        ("a=1; Expires=Fri, 31 Dec 9999 23:59:59 GMT", "/set/x", True),
        ("a=1; Domain=other.test", "/set/x", False),
        ("a=1; Secure", "/set/x", False),
        ("a=", "/set/x", True),
        ("a=x=y", "/set/x", True),
    ],
)
async def test_scope(make_client: Any, cookie: str, path: str, goes: bool) -> None:
    """Path, Max-Age, Expires, Domain and Secure decide where a cookie goes (RFC 6265)."""

    def answer(request: RecordedRequest) -> bytes:
        return ok()

    table = {"/set/here": setting(cookie), path: answer}
    async with ScriptedServer(routes(table)) as server:
        client = make_client(cookies=True)
        await client.fetch(server.url("/set/here"))
        await client.fetch(server.url(path))
    assert sent(server.requests[1]) == ([cookie.split(";")[0]] if goes else [])


async def test_deleted_by_the_server(make_client: Any) -> None:
    """A cookie that is set again with a date in the past is gone."""
    table = {
        "/set": setting("a=1; Path=/", "b=2; Path=/"),
        "/delete": setting("a=; Path=/; Max-Age=0"),
        "/": ok(),
    }
    async with ScriptedServer(routes(table)) as server:
        client = make_client(cookies=True)
        for path in ("/set", "/delete", "/"):
            await client.fetch(server.url(path))
    assert sent(server.requests[-1]) == ["b=2"]


async def test_secure_cookies(
    make_client: Any, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """A Secure cookie goes over https only."""
    async with ScriptedServer(canned(setting("s=1; Secure; Path=/")), server_context) as tls:
        client = make_client(cookies=True, defaults={"ca_certs": certificates.ca_file})
        for _ in range(2):
            await client.fetch(tls.url())
        async with ScriptedServer(canned(ok())) as plain:
            await client.fetch(plain.url())
    assert sent(tls.requests[1]) == ["s=1"]
    assert sent(plain.requests[0]) == []


async def test_domains_of_names(make_client: Any) -> None:
    """Domain cookies go to subdomains, host-only ones do not, and other sites see neither."""
    table = {"/set": setting("wide=1; Domain=site.test; Path=/", "narrow=2; Path=/"), "/": ok()}
    async with ScriptedServer(routes(table)) as server:
        here = ("127.0.0.1", server.port)
        names = ("www.site.test", "site.test", "deep.www.site.test", "evil-site.test")
        client = make_client(cookies=True, hostname_mapping=dict.fromkeys(names, here))
        await client.fetch("http://www.site.test/set")
        for name in names:
            await client.fetch(f"http://{name}/")
    found = {request.get("Host"): sorted(sent(request)) for request in server.requests[1:]}
    assert found == {
        "www.site.test": ["narrow=2", "wide=1"],
        "site.test": ["wide=1"],
        "deep.www.site.test": ["wide=1"],
        "evil-site.test": [],
    }


async def test_error_responses_set_cookies_too(make_client: Any) -> None:
    """A 401 may set a cookie as well."""
    async with ScriptedServer(canned(reply("401 No", b"", "Set-Cookie: a=1"))) as server:
        client = make_client(cookies=True)
        for _ in range(2):
            await client.fetch(server.url(), raise_error=False)
    assert sent(server.requests[1]) == ["a=1"]


async def test_malformed_cookies_are_skipped(make_client: Any) -> None:
    """Nonsense in Set-Cookie neither fails a fetch nor comes back."""
    nonsense = [
        "",
        ";",
        "=",
        "a",
        "a=1; Max-Age=x",
        "\xff=\xff",
        "a b=c",
        "x=\tq",
        "A" * 5000 + "=1",
    ]
    async with ScriptedServer(canned(setting(*nonsense, "good=1"))) as server:
        client = make_client(cookies=True)
        for _ in range(2):
            assert (await client.fetch(server.url())).code == 200
    assert "good=1" in sent(server.requests[1])
    assert all(len(cookie) < 5000 for cookie in sent(server.requests[1]))


async def test_streams_keep_cookies_too(make_client: Any) -> None:
    """client.stream() fills the jar like fetch()."""
    async with ScriptedServer(canned(setting("a=1"))) as server:
        client = make_client(cookies=True)
        async with client.stream(server.url()) as response:
            await response.read()
        await client.fetch(server.url())
    assert sent(server.requests[1]) == ["a=1"]
