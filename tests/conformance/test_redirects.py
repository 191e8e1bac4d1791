"""Redirects: which are followed, with what method, body and secrets. CONTRACT 28 to 31."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPRequest
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import (
    RecordedRequest,
    ScriptedServer,
    canned,
    ok,
    redirect,
    reply,
    routes,
)

from .support import basic, challenge, check_digest, expected, sorted_head

# -- 28, matrix 65: method and body

_KEPT = {method: method for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE")}

# code: method before → method after. Where the method is kept, so is the body.
METHODS: dict[int, dict[str, str]] = {
    301: {**_KEPT, "POST": "GET"},
    302: {**_KEPT, "POST": "GET"},
    303: {**dict.fromkeys([*_KEPT, "POST"], "GET"), "HEAD": "HEAD"},
    307: {**_KEPT, "POST": "POST"},
    308: {**_KEPT, "POST": "POST"},
}


async def _produce(write: Callable[[bytes], Awaitable[None]]) -> None:
    await write(b"the ")
    await write(b"body")


BODIES: dict[str, dict[str, Any]] = {
    "none": {},
    "bytes": {"body": b"the body"},
    "producer": {"body_producer": _produce},
    "list": {"body": [b"the ", b"body"]},
}


@pytest.mark.parametrize(
    ("code", "before", "after", "body"),
    [
        (code, before, after, body)
        for code, table in METHODS.items()
        for before, after in table.items()
        for body in BODIES
        if before != "HEAD" or body == "none"
    ],
)
async def test_matrix_65_method_and_body(
    client: Any, code: int, before: str, after: str, body: str
) -> None:
    """CONTRACT 28, matrix 65: what each code makes of each method, and of its body and headers."""
    table = {"/": redirect("/end", f"{code} Moved"), "/end": ok(b"" if after == "HEAD" else b"end")}
    async with ScriptedServer(routes(table)) as server:
        response = await client.fetch(
            server.url(),
            method=before,
            headers={"Content-Type": "text/x", "X-Stays": "1"},
            allow_nonstandard_methods=True,
            **BODIES[body],
        )
    first, second = server.requests
    assert (first.method, first.target) == (before, "/")
    assert first.body == (b"" if body == "none" else b"the body")
    assert (second.method, second.target) == (after, "/end")
    assert second.get("X-Stays") == "1"
    rewritten = before != after or (code == 303 and before != "HEAD")
    if rewritten:
        assert sorted_head(second) == expected("GET /end HTTP/1.1", server, b"X-Stays: 1")
        assert second.raw_body == b""
    else:
        assert second.body == first.body
        assert second.get("Content-Type") == "text/x"
        assert second.get("Content-Length") == first.get("Content-Length")
        assert second.get("Transfer-Encoding") == first.get("Transfer-Encoding")
    assert response.effective_url == server.url("/end")
    assert response.code == 200


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", [None, ""])
async def test_no_location_no_redirect(client: Any, code: int, location: str | None) -> None:
    """CONTRACT 28: without a Location the response is returned as it is."""
    headers = [] if location is None else ["Location: "]
    async with ScriptedServer(canned(reply(f"{code} Moved", b"as it is", *headers))) as server:
        response = await client.fetch(server.url(), raise_error=False)
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url())
    assert (response.code, response.body) == (code, b"as it is")
    assert caught.value.code == code
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [201, 300, 304, 305, 306, 399])
async def test_codes_that_are_not_followed(client: Any, code: int) -> None:
    """CONTRACT 28: only the five codes are followed, whatever has a Location."""
    async with ScriptedServer(canned(reply(f"{code} X", b"", "Location: /end"))) as server:
        assert (await client.fetch(server.url(), raise_error=False)).code == code
    assert len(server.requests) == 1


async def test_follow_redirects_false(client: Any) -> None:
    """With follow_redirects=False a 3xx is an HTTPError that carries its Location."""
    async with ScriptedServer(canned(redirect("/end"))) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url(), follow_redirects=False)
    assert caught.value.code == 302
    assert caught.value.response.headers["Location"] == "/end"
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["iterator", "generator"])
async def test_body_that_cannot_be_sent_again(client: Any, body: str) -> None:
    """CONTRACT 28: a 307 wants the body again; one that ran out is an error, not an empty one."""

    async def generator() -> AsyncIterator[bytes]:
        yield b"once"

    table = {"/": redirect("/end", "307 Temporary"), "/end": ok()}
    async with ScriptedServer(routes(table)) as server:
        with pytest.raises((HTTPError, ValueError)):
            await client.fetch(
                server.url(),
                method="PUT",
                body=iter([b"once"]) if body == "iterator" else generator(),
            )
        assert [request.target for request in server.requests] == ["/"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/end", "/end"),
        ("end", "/a/b/end"),
        ("./end", "/a/b/end"),
        ("../end", "/a/end"),
        ("../../../end", "/end"),
        ("?q=2", "/a/b/c?q=2"),
        ("/end?x#frag", "/end?x"),
        ("/a%2fb%20c", "/a%2fb%20c"),
        ("/with space", "/with%20space"),
        ("/caf\xc3\xa9", "/caf%C3%A9"),
    ],
)
async def test_location_forms(client: Any, location: str, target: str) -> None:
    """A Location is resolved against the URL of its request (RFC 3986); raw UTF-8 is encoded."""
    table = {"/a/b/c?q=1": redirect(location), target: ok(b"end")}
    async with ScriptedServer(routes(table)) as server:
        assert (await client.fetch(server.url("/a/b/c?q=1"))).body == b"end"


async def test_location_forms_with_authority(client: Any) -> None:
    """Absolute and scheme-relative Locations, in any case, go where they say."""
    async with ScriptedServer(canned(ok(b"there"))) as there:
        for location in (
            there.url("/end"),
            f"//{there.address}/end",
            there.url("/end").replace("http", "HTTP"),
        ):
            async with ScriptedServer(canned(redirect(location))) as here:
                response = await client.fetch(here.url())
            assert response.body == b"there"
            assert response.effective_url == there.url("/end")
    assert [request.target for request in there.requests] == ["/end"] * 3


# -- 29, matrix 66: how many


def _chain(length: int) -> dict[str, bytes]:
    table = {f"/{n}": redirect(f"/{n + 1}", "302 Found", f"X-N: {n}") for n in range(length)}
    return {**table, f"/{length}": ok(b"end")}


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 10])
async def test_matrix_66_max_redirects_is_exact(client: Any, limit: int) -> None:
    """CONTRACT 29, matrix 66: `max_redirects` are followed; of one more, the 3xx is the outcome."""
    async with ScriptedServer(routes(_chain(limit))) as server:
        response = await client.fetch(server.url("/0"), max_redirects=limit)
        assert response.body == b"end"
        assert len(server.requests) == limit + 1
    async with ScriptedServer(routes(_chain(limit + 1))) as server:
        request = HTTPRequest(server.url("/0"), max_redirects=limit)
        with pytest.raises(HTTPError) as caught:
            await client.fetch(request)
        assert len(server.requests) == limit + 1
    response = caught.value.response
    assert caught.value.code == response.code == 302
    assert response.headers["X-N"] == str(limit)
    assert response.headers["Location"] == f"/{limit + 1}"
    assert response.request is request
    assert response.effective_url == server.url(f"/{limit}")


async def test_matrix_66_default_is_five(client: Any) -> None:
    """CONTRACT 29: five are followed by default, and a loop ends there."""
    async with ScriptedServer(canned(redirect("/"))) as server:
        assert (await client.fetch(server.url(), raise_error=False)).code == 302
    assert len(server.requests) == 6


async def test_history(client: Any) -> None:
    """response.history is the redirects that led here, first one first."""
    async with ScriptedServer(routes(_chain(2))) as server:
        response = await client.fetch(server.url("/0"))
    assert [hop.code for hop in response.history] == [302, 302]
    assert [hop.headers["X-N"] for hop in response.history] == ["0", "1"]
    assert [hop.effective_url for hop in response.history] == [server.url("/0"), server.url("/1")]


# -- 30, matrix 64: secrets

SECRETS: dict[str, dict[str, Any]] = {
    "authorization": {"headers": {"Authorization": "Secret s3cret"}},
    "authorization-mixed-case": {"headers": {"aUTHORIZATION": "Secret s3cret"}},
    "cookie": {"headers": {"Cookie": "a=s3cret"}},
    "cookie2": {"headers": {"COOKIE": "a=s3cret", "X-Open": "1"}},
    "basic": {"auth_username": "u", "auth_password": "s3cret"},
    "bearer": {"auth_mode": "bearer", "auth_token": "s3cret"},
    "url": {},
    "two-of-each": {},
}


def _carries(request: RecordedRequest) -> bool:
    raw = request.raw
    return (
        b"s3cret" in raw
        or basic("u", "s3cret").encode() in raw
        or request.get_all("Authorization") != []
        or request.get_all("Cookie") != []
        or request.get_all("Proxy-Authorization") != []
    )


def _arguments(kind: str) -> dict[str, Any]:
    if kind != "two-of-each":
        return SECRETS[kind]
    headers = HTTPHeaders()
    for name in ("Authorization", "authorization", "Cookie", "cookie"):
        headers.add(name, "s3cret")
    return {"headers": headers}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("change", ["none", "host", "port", "scheme"])
async def test_matrix_64_secrets_stay_with_their_origin(
    client: Any, kind: str, change: str, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """CONTRACT 30, matrix 64: to another scheme, host or port no secret goes; A→B→A none either."""
    userinfo = "u:s3cret" if kind == "url" else None
    async with contextlib.AsyncExitStack() as stack:
        table: dict[str, Any] = {"/again": redirect("/still"), "/still": ok(b"end")}
        origin = await stack.enter_async_context(ScriptedServer(routes(table)))
        back = redirect(origin.url("/again"))
        if change == "none":
            elsewhere, url = origin, origin.url("/elsewhere")
            table["/elsewhere"] = back
        elif change == "host":
            elsewhere, url = origin, origin.url("/elsewhere", host="localhost")
            table["/elsewhere"] = back
        else:
            elsewhere = await stack.enter_async_context(
                ScriptedServer(canned(back), server_context if change == "scheme" else None)
            )
            url = elsewhere.url("/elsewhere")
        table["/"] = redirect("/same")
        table["/same"] = redirect(url)
        arguments = _arguments(kind)
        response = await client.fetch(
            origin.url(userinfo=userinfo), ca_certs=certificates.ca_file, **arguments
        )
        assert response.body == b"end"
        found = {request.target: _carries(request) for request in origin.requests}
        found.update({request.target: _carries(request) for request in elsewhere.requests})
    stays = change == "none"
    assert found == {
        "/": True,
        "/same": True,
        "/elsewhere": stays,
        "/again": stays,
        "/still": stays,
    }


async def test_matrix_64_digest_is_not_answered_elsewhere(client: Any) -> None:
    """Matrix 64: digest credentials answer no challenge of another origin."""
    field = f"WWW-Authenticate: {challenge()}"
    async with ScriptedServer(canned(reply("401 Unauthorized", b"", field))) as trap:

        def answer(request: RecordedRequest) -> bytes:
            authorization = request.get("Authorization")
            if authorization is None:
                return reply("401 Unauthorized", b"", field)
            check_digest(authorization, request, "u", "s3cret")
            return redirect(trap.url())

        async with ScriptedServer(routes({"/": answer})) as server:
            with pytest.raises(HTTPError) as caught:
                await client.fetch(
                    server.url(), auth_mode="digest", auth_username="u", auth_password="s3cret"
                )
    assert caught.value.code == 401
    assert [request.get("Authorization") for request in trap.requests] == [None]


async def test_other_headers_cross_origins(client: Any) -> None:
    """CONTRACT 30: what is no secret goes along; a caller's Host does not."""
    async with ScriptedServer(canned(ok())) as there:
        async with ScriptedServer(canned(redirect(there.url()))) as here:
            await client.fetch(
                here.url(),
                headers={"X-Mine": "1", "Accept": "text/x", "Host": "virtual.example"},
                user_agent="mine",
            )
        request = there.requests[0]
        assert here.requests[0].get("Host") == "virtual.example"
        assert request.get("Host") == there.address
        assert (request.get("X-Mine"), request.get("Accept")) == ("1", "text/x")
        assert request.get("User-Agent") == "mine"
        assert request.get("Referer") is None


async def test_callers_headers_survive_a_redirect_that_strips(client: Any) -> None:
    """CONTRACT 11, 30: stripping works on a copy, the caller's headers stay as they are."""
    headers = HTTPHeaders({"Authorization": "Secret", "X-A": "b"})
    there = ScriptedServer(canned(ok()))
    async with there, ScriptedServer(canned(redirect(there.url()))) as here:
        await client.fetch(here.url(), headers=headers)
        assert there.requests[0].get("Authorization") is None
    assert dict(headers) == {"Authorization": "Secret", "X-A": "b"}


# -- 30, matrix 72: schemes


SCHEMES = [
    "file:///etc/hostname",
    "FILE:///etc/hostname",
    "file://localhost/etc/hostname",
    "ftp://{address}/",
    "ftps://{address}/",
    "gopher://{address}/_x",
    "dict://{address}/d",
    "smtp://{address}/",
    "telnet://{address}/",
    "ldap://{address}/",
    "imap://{address}/",
    "rtsp://{address}/",
    "scp://{address}/",
    "smb://{address}/",
    "mqtt://{address}/",
    "tftp://{address}/",
    "ws://{address}/",
    "data:text/plain,x",
    "javascript:alert(1)",
    "about:blank",
    "httpx://{address}/",
    "+http://{address}/",
]


@pytest.mark.parametrize("url", SCHEMES)
async def test_matrix_72_schemes_direct(client: Any, url: str) -> None:
    """Matrix 72: only http and https are fetched."""
    async with ScriptedServer(canned(ok())) as trap:
        with pytest.raises(ValueError):
            await client.fetch(url.format(address=trap.address), raise_error=False)
        assert trap.connections == []


@pytest.mark.parametrize("url", ["{address}/", "//{address}/", "ftp.{address}/", "localhost", ""])
async def test_matrix_72_no_scheme(client: Any, url: str) -> None:
    """Matrix 72: no scheme is guessed for a URL that has none."""
    async with ScriptedServer(canned(ok())) as trap:
        with pytest.raises(ValueError):
            await client.fetch(url.format(address=trap.address), raise_error=False)
        assert trap.connections == []


@pytest.mark.parametrize("url", SCHEMES[:-1])  # the last one is a relative path here
async def test_matrix_72_schemes_redirected(client: Any, url: str) -> None:
    """CONTRACT 30, matrix 72: a redirect to another scheme raises, even with raise_error=False."""
    async with ScriptedServer(canned(ok())) as trap:
        location = url.format(address=trap.address)
        async with ScriptedServer(canned(redirect(location))) as server:
            with pytest.raises((ValueError, HTTPError)):
                await client.fetch(server.url(), raise_error=False)
        assert len(server.requests) == 1
        assert trap.connections == []


@pytest.mark.parametrize(
    "location",
    [
        "http://",
        "http:///x",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://a b/",
        "http://%00/",
    ],
)
async def test_malformed_locations(client: Any, location: str) -> None:
    """A Location that is no URL is an error: no host is guessed (RFC 9110 section 4.2.1)."""
    async with ScriptedServer(canned(redirect(location))) as server:
        with pytest.raises((ValueError, HTTPError)):
            await client.fetch(server.url(), raise_error=False)
    assert len(server.requests) == 1


async def test_next_fetch_after_a_refused_redirect(make_client: Any) -> None:
    """A redirect that is refused gives its slot back."""
    client = make_client(max_clients=1)
    async with ScriptedServer(canned(redirect("ftp://h/"))) as server:
        for _ in range(2):
            with pytest.raises((ValueError, HTTPError)):
                await client.fetch(server.url())


# -- 31


async def test_one_slot_is_enough_for_redirects(make_client: Any) -> None:
    """CONTRACT 31: with max_clients=1 the hops share the slot, also when others wait."""
    client = make_client(max_clients=1)
    async with ScriptedServer(routes(_chain(5))) as server:
        fetches = [client.fetch(server.url("/0")) for _ in range(3)]
        for fetch in fetches:
            assert (await fetch).body == b"end"


async def test_redirect_bodies_are_skipped(client: Any) -> None:
    """The body of a redirect is read and forgotten; the connection serves the next hop."""
    big = reply("302 Found", b"x" * 100_000, "Location: /end")
    async with ScriptedServer(routes({"/": big, "/end": ok(b"end")})) as server:
        assert (await client.fetch(server.url())).body == b"end"
        assert len(server.connections) == 1
