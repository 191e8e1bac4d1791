"""What a response tells: attributes, timings, connection, repr, copies. CONTRACT 17, 36, 37."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import ssl
import time
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPRequest, HTTPResponse
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, redirect, reply, routes

TIMINGS = {
    "queue",
    "namelookup",
    "connect",
    "appconnect",
    "pretransfer",
    "starttransfer",
    "total",
    "redirect",
}


async def test_types(client: Any) -> None:
    """The attributes have Tornado's types."""
    async with ScriptedServer(canned(ok(b"body", "Content-Type: text/plain"))) as server:
        response = await client.fetch(server.url("/p?q"))
    assert isinstance(response, HTTPResponse)
    assert type(response.code) is int
    assert type(response.reason) is str
    assert type(response.body) is bytes
    assert type(response.headers) is HTTPHeaders
    assert type(response.headers["Content-Type"]) is str
    assert response.effective_url == server.url("/p?q")
    assert response.error is None
    assert response.history == () or response.history == []


async def test_buffer(client: Any) -> None:
    """CONTRACT 17: body and buffer hold the same; the buffer stands at 0."""
    async with ScriptedServer(canned(ok(b"body"))) as server:
        response = await client.fetch(server.url())
    assert isinstance(response.buffer, io.BytesIO)
    assert response.buffer.tell() == 0
    assert response.buffer.read() == b"body"
    assert response.body == b"body"
    assert HTTPResponse(HTTPRequest("http://a/"), 200).body == b""


@pytest.mark.parametrize("phrase", ["OK", "Very Custom Phrase", "caf\xe9", "  spaced  "])
async def test_reason_phrase(client: Any, phrase: str) -> None:
    """CONTRACT 37: a custom reason phrase reaches response.reason and the error's text."""
    async with ScriptedServer(canned(reply(f"400 {phrase}"))) as server:
        response = await client.fetch(server.url(), raise_error=False)
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url())
    assert response.reason == phrase.strip()
    assert str(caught.value) == f"HTTP 400: {phrase.strip()}"


@pytest.mark.parametrize(
    ("line", "reason"), [("404 ", "Not Found"), ("404", "Not Found"), ("499", "Unknown")]
)
async def test_missing_reason_phrase(client: Any, line: str, reason: str) -> None:
    """Without a phrase the registered one stands in, or "Unknown"."""
    async with ScriptedServer(canned(reply(line))) as server:
        response = await client.fetch(server.url(), raise_error=False)
    assert response.reason == reason


async def test_headers(client: Any) -> None:
    """Headers keep order, repetitions and Latin-1; lookup ignores case."""
    lines = [
        "Set-Cookie: a=1",
        "X-Empty:",
        "x-lower:  padded \t",
        "SET-COOKIE: b=2, c",
        "X-L: \xe9",
    ]
    async with ScriptedServer(canned(ok(b"", *lines))) as server:
        headers = (await client.fetch(server.url())).headers
    assert headers.get_list("Set-Cookie") == ["a=1", "b=2, c"]
    assert headers["X-Lower"] == headers["x-LOWER"] == "padded"
    assert headers["X-Empty"] == ""
    assert headers["X-L"] == "\xe9"
    assert list(headers) == ["Set-Cookie", "X-Empty", "X-Lower", "X-L", "Content-Length"]


async def test_repr(client: Any) -> None:
    """CONTRACT 17: the repr begins "HTTPResponse(" and holds the code; no body, no secret."""
    async with ScriptedServer(canned(ok(b"s3cret", "X-S: s3cret"))) as server:
        response = await client.fetch(server.url(userinfo="u:s3cret"))
    assert repr(response).startswith("HTTPResponse(")
    assert "code=200" in repr(response)
    assert "s3cret" not in repr(response)


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("looked_at", [False, True])
async def test_responses_can_be_copied(client: Any, how: str, looked_at: bool) -> None:
    """A response survives pickle and copy, whatever of it was looked at before."""
    table = {"/": redirect("/end"), "/end": ok(b"body", "X-A: b")}
    async with ScriptedServer(routes(table)) as server:
        response = await client.fetch(server.url())
        if looked_at:
            assert (response.headers["X-A"], response.body) == ("b", b"body")
            assert response.time_info
        twin = {
            "pickle": lambda: pickle.loads(pickle.dumps(response)),
            "copy": lambda: copy.copy(response),
            "deepcopy": lambda: copy.deepcopy(response),
        }[how]()
    assert (twin.code, twin.body, twin.headers["X-A"]) == (200, b"body", "b")
    assert twin.effective_url == response.effective_url
    assert twin.time_info == response.time_info
    assert [hop.code for hop in twin.history] == [302]


async def test_response_outlives_its_client(make_client: Any) -> None:
    """What a response parses on demand does not need the client any more."""
    client = make_client()
    async with ScriptedServer(canned(ok(b"body", "X-A: b"))) as server:
        response = await client.fetch(server.url())
        client.close()
    assert response.headers["X-A"] == "b"
    assert response.body == b"body"
    assert response.time_info.keys() == TIMINGS
    assert response.remote_address == ("127.0.0.1", server.port)


# -- 36: times


async def test_time_info(client: Any) -> None:
    """CONTRACT 36: time_info has these eight, in seconds, in their order."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await asyncio.sleep(0.1)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.sleep(0.1)
        await peer.send(b"k")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url())
    info = response.time_info
    assert info.keys() == TIMINGS
    assert all(isinstance(value, float | int) and value >= 0 for value in info.values())
    assert info["namelookup"] <= info["connect"] <= info["pretransfer"] <= info["starttransfer"]
    assert info["starttransfer"] <= info["total"]
    assert info["appconnect"] == info["queue"] == info["redirect"] == 0
    assert 0.09 < info["starttransfer"] < 0.19
    assert 0.19 < info["total"] <= response.request_time + 0.01


async def test_time_info_of_tls(
    client: Any, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """CONTRACT 36: appconnect is the end of the TLS handshake."""
    async with ScriptedServer(canned(ok()), server_context) as server:
        response = await client.fetch(server.url(), ca_certs=certificates.ca_file)
    assert response.time_info["connect"] < response.time_info["appconnect"]
    assert response.time_info["appconnect"] <= response.time_info["pretransfer"]


async def test_request_time_leaves_out_the_queue(make_client: Any) -> None:
    """CONTRACT 36: request_time is the exchange, time_info["queue"] the wait before it."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(0.15)
            await peer.send(ok())

    client = make_client(max_clients=1)
    async with ScriptedServer(handler) as server:
        before = time.time()
        first, second = await asyncio.gather(client.fetch(server.url()), client.fetch(server.url()))
        after = time.time()
    assert first.time_info["queue"] < 0.05
    assert 0.14 < second.time_info["queue"] < 0.3
    for response in (first, second):
        assert 0.14 < response.request_time < 0.3
        assert before <= response.start_time <= after


async def test_request_time_is_monotonic(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRACT 36: a jump of the wall clock changes start_time, and no duration."""
    clock = iter([1_000_000.0, -5_000.0, 3.0])
    async with ScriptedServer(canned(ok())) as server:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: next(clock, 0.0))
            response = await client.fetch(server.url())
    assert 0 <= response.request_time < 1
    assert all(0 <= value < 1 for value in response.time_info.values())


async def test_times_of_redirects(client: Any) -> None:
    """CONTRACT 36: request_time spans all hops, and "redirect" is what the earlier ones took."""

    async def handler(peer: Peer) -> None:
        for answer in (redirect("/end"), ok()):
            await peer.read_request()
            await asyncio.sleep(0.1)
            await peer.send(answer)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url())
    assert response.request_time > 0.19
    assert 0.09 < response.time_info["redirect"] < response.request_time


# -- the connection


async def test_addresses(client: Any) -> None:
    """remote_address and local_address are the two ends of the connection."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url())
        (peer,) = server.connections
        assert response.remote_address == ("127.0.0.1", server.port)
        assert response.local_address == peer.address


async def test_connection_id_and_reused(client: Any) -> None:
    """connection_id tells connections apart, reused says whether it had served before."""
    async with ScriptedServer(canned(ok())) as server, ScriptedServer(canned(ok())) as other:
        first = await client.fetch(server.url())
        second = await client.fetch(server.url())
        third = await client.fetch(other.url())
    assert (first.reused, second.reused, third.reused) == (False, True, False)
    assert first.connection_id == second.connection_id != third.connection_id


@pytest.mark.parametrize(("version", "told"), [("HTTP/1.1", "1.1"), ("HTTP/1.0", "1.0")])
async def test_http_version(client: Any, version: str, told: str) -> None:
    """http_version is the version of the response."""
    answer = f"{version} 200 OK\r\nContent-Length: 0\r\n\r\n".encode()
    async with ScriptedServer(canned(answer)) as server:
        assert (await client.fetch(server.url())).http_version == told


async def test_no_proxy_no_proxy_attributes(client: Any) -> None:
    """Without a proxy its attributes are None."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url())
    assert (response.proxy, response.proxy_code, response.proxy_headers) == (None, None, None)


# -- built by a program, as tests of programs do


def test_constructor() -> None:
    """HTTPResponse(request, code, …) fills in what is not given, as in Tornado."""
    request = HTTPRequest("http://a/")
    response = HTTPResponse(request, 404)
    assert (response.code, response.reason, response.body) == (404, "Not Found", b"")
    assert response.effective_url == "http://a/"
    assert response.headers == {}
    assert response.time_info == {}
    assert isinstance(response.error, HTTPError)
    with pytest.raises(HTTPError, match="404"):
        response.rethrow()
    response = HTTPResponse(
        request,
        200,
        HTTPHeaders({"A": "b"}),
        io.BytesIO(b"body"),
        "http://b/",
        None,
        1.5,
        {"queue": 0.5},
        "Fine",
    )
    assert (response.code, response.reason, response.body) == (200, "Fine", b"body")
    assert (response.effective_url, response.request_time) == ("http://b/", 1.5)
    assert response.time_info == {"queue": 0.5}
    assert response.error is None
    assert response.json is not None
    assert HTTPResponse(request, 200, error=ValueError("x")).error is not None
