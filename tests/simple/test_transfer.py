"""One exchange of the simple backend: what is sent again, rounds, 100-continue, deadlines, races.

Matrix 35, 37, 38, and the rules of ``_simple/transfer.py``; what both backends show stands in
``tests/conformance``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from conftest import Certificates
from whimbrel._simple.plan import Plan
from whimbrel._simple.transfer import MAX_DRAINED, Transfer
from whimbrel.httpclient import (
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.testing.scripted import (
    Peer,
    RecordedRequest,
    ScriptedServer,
    canned,
    chunk,
    chunked,
    ok,
    reply,
    respond,
    silent_server,
    unaccepting_port,
)

from .byhand import hand_server
from .connecting import exchange_of

Write = Callable[[bytes], Awaitable[None]]

CHALLENGE = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
CREDENTIALS = {"auth_username": "u", "auth_password": "p", "auth_mode": "digest"}


@pytest.fixture
async def client(make_client: Callable[..., Any]) -> Any:
    """A client whose fetches end before the test's own limit."""
    return make_client(defaults={"request_timeout": 8})


async def error_of(fetch: Awaitable[object]) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        await fetch
    assert caught.value.code == 599
    return caught.value


# -- 37: what is sent a second time (RFC 9112 section 9.3.1)


async def _never_writes(write: Write) -> None:
    await asyncio.get_running_loop().create_future()


async def _writes(write: Write) -> None:
    await write(b"body")


async def _writes_and_waits(write: Write) -> None:
    await write(b"body")
    await asyncio.get_running_loop().create_future()


async def _writes_nothing(write: Write) -> None:
    pass


def _iterator() -> AsyncIterator[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"body"

    return pieces()


def _streamed(producer: Any, **more: Any) -> dict[str, Any]:
    return {"body_producer": producer, **more}


EXPECT = {"expect_100_continue": True}

# Name: method, arguments, how much the server reads before it closes, whether it is sent again.
RESENDS: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "GET": ("GET", {}, "all", True),
    "DELETE": ("DELETE", {}, "all", True),
    "PUT bytes": ("PUT", {"body": b"body"}, "all", True),
    "PUT empty": ("PUT", {"body": b""}, "all", True),
    "PUT producer": ("PUT", _streamed(_writes), "all", True),
    "PUT unfinished": ("PUT", _streamed(_writes_and_waits), "head", True),
    "PUT list": ("PUT", {"body": [b"bo", b"dy"]}, "all", True),
    "PUT iterator": ("PUT", {"body": _iterator}, "all", False),
    "PUT iterator, 100 awaited": ("PUT", {"body": _iterator, **EXPECT}, "head", True),
    "POST bytes": ("POST", {"body": b"body"}, "all", False),
    "POST empty": ("POST", {"body": b""}, "all", False),
    "POST none": ("POST", {"allow_nonstandard_methods": True}, "all", False),
    "POST list": ("POST", {"body": [b"body"]}, "all", False),
    "POST empty list": ("POST", {"body": []}, "all", False),
    "POST empty producer": ("POST", _streamed(_writes_nothing), "all", False),
    "POST producer of length 0": (
        "POST",
        _streamed(_never_writes, headers={"Content-Length": "0"}),
        "all",
        False,
    ),
    "POST of which nothing has come": ("POST", _streamed(_never_writes), "head", True),
    "POST of which something has come": ("POST", _streamed(_writes_and_waits), "chunk", False),
    "POST, 100 awaited": ("POST", {"body": b"body", **EXPECT}, "head", True),
    "POST producer, 100 awaited": ("POST", _streamed(_writes, **EXPECT), "head", True),
    "POST iterator, 100 awaited": ("POST", {"body": _iterator, **EXPECT}, "head", True),
    "unknown method": (
        "FROB",
        {"allow_nonstandard_methods": True},
        "all",
        False,
    ),
}


async def _read(peer: Peer, how_much: str) -> RecordedRequest:
    request = await peer.read_head()
    if how_much == "all":
        if request.get("Expect"):
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
    elif how_much == "chunk":
        await peer.read_until(b"body\r\n")
    return request


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("case", RESENDS)
async def test_matrix_37_what_is_sent_again(client: Any, case: str, how: str) -> None:
    """On a kept connection that ends before a byte of a response: once, and only if it may be."""
    method, arguments, how_much, again = RESENDS[case]
    if callable(arguments.get("body")):
        arguments = {**arguments, "body": arguments["body"]()}

    async def handler(peer: Peer) -> None:
        if peer is server.connections[0]:
            await peer.read_request()
            await peer.send(ok())
            await _read(peer, how_much)
            getattr(peer, how)()
            return
        unfinished = "unfinished" in case or "nothing" in case
        await _read(peer, "head" if unfinished and peer is server.connections[1] else "all")
        await peer.send(ok(b"second"))
        if not unfinished:
            await peer.read_request()
            await peer.send(ok(b"third"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url("/first"))
        fetch = client.fetch(server.url("/second"), method=method, **arguments)
        if again:
            response = await fetch
            assert (response.body, response.reused) == (b"second", False)
            assert len(server.requests) == 3
            assert server.requests[2].raw_head == server.requests[1].raw_head
            if arguments.get("body"):
                assert server.requests[2].body == b"body"
        else:
            error = await error_of(fetch)
            assert isinstance(error, HTTPStreamClosedError)
            assert error.retryable is (method == "PUT")
            assert len(server.requests) == 2
        assert (await client.fetch(server.url("/third"))).body


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 ", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_matrix_37_not_after_a_byte(client: Any, begun: bytes, how: str) -> None:
    """Once anything has come the request was seen: it is not sent again."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        await peer.read_request()
        await peer.send(begun)
        if how == "reset":
            await taken.wait()  # a RST throws away what has not been read
        getattr(peer, how)()

    taken = asyncio.Event()
    async with ScriptedServer(handler) as server:
        await client.fetch(server.url("/first"))
        fetch = client.fetch(server.url("/second"))
        (connection,) = client._pool.live
        while how == "reset" and connection.holder is not None:
            if connection.holder._first_byte:
                taken.set()
            await asyncio.sleep(0.002)
        error = await error_of(fetch)
        assert isinstance(error, HTTPStreamClosedError)
        assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_matrix_37_fresh_connections_are_not_tried_again(client: Any, method: str) -> None:
    """Neither the first connection of a request nor the one it is sent on again."""
    count = 0

    async def handler(peer: Peer) -> None:
        nonlocal count
        await peer.read_request()
        count += 1
        if count == 1:
            await peer.send(ok())
            await peer.read_request()
            count += 1

    async with ScriptedServer(handler) as server:
        arguments = {"body": b"x"} if method == "POST" else {}
        await client.fetch(server.url("/first"))
        assert isinstance(
            await error_of(client.fetch(server.url("/a"), method=method, **arguments)),
            HTTPStreamClosedError,
        )
        assert count == (3 if method == "GET" else 2)
        await error_of(client.fetch(server.url("/b"), method=method, **arguments))
        assert count == (4 if method == "GET" else 3)


async def test_matrix_37_the_second_connection_is_a_new_one(client: Any) -> None:
    """Others that idle may be as dead as the first."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        if len(server.connections) <= 2:
            await both.wait()
        await peer.send(ok())
        if len(server.connections) <= 2:
            await peer.read_request()  # and close
        else:
            await peer.closed()

    both = asyncio.Event()
    async with ScriptedServer(handler) as server:
        fetches = [client.fetch(server.url("/first")) for _ in range(2)]
        await server.requested(2)
        both.set()
        await asyncio.gather(*fetches)
        assert len(client._pool) == 2
        assert (await client.fetch(server.url("/second"))).code == 200
        assert [len(peer.requests) for peer in server.connections] in ([2, 1, 1], [1, 2, 1])


async def test_matrix_37_no_answer_to_a_challenge_gets_lost(client: Any) -> None:
    """A connection that closes on the request with credentials: those go out once more."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.get("Authorization") is None:
                await peer.send(reply("401 No", b"", CHALLENGE))
            elif peer is server.connections[0]:
                return
            else:
                await peer.send(ok(b"in"))

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url(), **CREDENTIALS)).body == b"in"
        assert len(server.connections) == 2
        assert len(server.requests) == 3


# -- digest: rounds and probes


def _guard(challenge: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A server that answers what has no credentials with `challenge`, and the rest with 200."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            secret = request.get("Authorization") is not None
            await peer.send(ok(b"in:" + request.body) if secret else challenge)

    return handler


@pytest.mark.parametrize("body", [b"body", [b"bo", b"dy"], _iterator], ids=repr)
async def test_a_body_waits_for_the_challenge(client: Any, body: Any) -> None:
    """The first request goes out empty; so even an iterator can be sent with the second."""
    async with ScriptedServer(_guard(reply("401 No", b"who?", CHALLENGE))) as server:
        response = await client.fetch(
            server.url(),
            method="POST",
            body=body() if callable(body) else body,
            **CREDENTIALS,
        )
        assert response.body == b"in:body"
        assert [request.body for request in server.requests] == [b"", b"body"]
        assert server.requests[0].get("Content-Length") == "0"
        assert server.requests[0].get("Expect") is None
        assert len(server.connections) == 1


async def test_no_challenge_to_the_probe(client: Any) -> None:
    """A server that wants no credentials gets the same again, with the body."""
    async with ScriptedServer(canned(ok(b"fine"))) as server:
        response = await client.fetch(server.url(), method="PUT", body=b"body", **CREDENTIALS)
        assert response.body == b"fine"
        assert [request.body for request in server.requests] == [b"", b"body"]
        assert [r.get("Authorization") for r in server.requests] == [None, None]


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "500 Oops"])
async def test_failure_of_the_probe_is_the_outcome(client: Any, status: str) -> None:
    """It would fail with the body, too."""
    async with ScriptedServer(canned(reply(status, b"no"))) as server:
        response = await client.fetch(
            server.url(), method="PUT", body=b"body", raise_error=False, **CREDENTIALS
        )
        assert (response.code, response.body) == (int(status[:3]), b"no")
        assert len(server.requests) == 1


async def test_an_empty_body_needs_no_probe(client: Any) -> None:
    """Nothing is held back where there is nothing."""
    async with ScriptedServer(canned(ok(b"fine"))) as server:
        await client.fetch(server.url(), method="PUT", body=b"", **CREDENTIALS)
        await client.fetch(server.url(), **CREDENTIALS)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("size", "framing", "connections"),
    [
        (0, "length", 1),
        (MAX_DRAINED - 1000, "length", 1),
        (MAX_DRAINED + 1, "length", 2),
        (MAX_DRAINED + 1, "chunked", 2),
        (MAX_DRAINED - 1000, "chunked", 1),
        (10, "close", 2),
    ],
)
async def test_the_body_of_a_challenge_is_drained_or_left(
    client: Any, size: int, framing: str, connections: int
) -> None:
    """A small one keeps the connection; a large one is not worth reading; neither is delivered."""
    body = b"x" * size
    if framing == "length":
        challenge = reply("401 No", body, CHALLENGE)
    elif framing == "chunked":
        challenge = reply("401 No", chunked(body), CHALLENGE, "Transfer-Encoding: chunked")
    else:
        challenge = f"HTTP/1.1 401 No\r\n{CHALLENGE}\r\n\r\n".encode() + body

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.get("Authorization") is None:
                await peer.send(challenge)
                if framing == "close":
                    return
            else:
                await peer.send(ok(b"in"))

    pieces: list[bytes] = []
    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), streaming_callback=pieces.append, **CREDENTIALS)
        assert b"".join(pieces) == b"in"
        assert len(server.connections) == connections


async def test_matrix_31_endless_body_of_a_challenge(client: Any) -> None:
    """It is not read for long, whatever max_body_size says."""
    sent = 0

    async def handler(peer: Peer) -> None:
        nonlocal sent
        request = await peer.read_request()
        if request.get("Authorization") is not None:
            await peer.send(ok(b"in"))
            return await peer.closed()
        await peer.send(reply("401 No", b"", CHALLENGE, "Transfer-Encoding: chunked"))
        while True:
            await peer.send(chunk(b"x" * 16384))
            sent += 16384

    async with ScriptedServer(handler) as server:
        assert (await client.fetch(server.url(), **CREDENTIALS)).body == b"in"
        assert len(server.connections) == 2
        # What the kernel's buffers took, and no more.
        assert sent < 16 * 1024 * 1024


async def test_iterator_that_was_asked_cannot_answer_a_challenge(client: Any) -> None:
    """A nonce that goes stale in the second round: what is gone is not sent, and 401 it is."""
    stale = CHALLENGE + ", stale=true"

    async with ScriptedServer(canned(reply("401 No", b"no", stale))) as server:
        response = await client.fetch(
            server.url(), method="PUT", body=_iterator(), raise_error=False, **CREDENTIALS
        )
        assert (response.code, response.body) == (401, b"no")
        assert [request.body for request in server.requests] == [b"", b"body"]


async def test_matrix_30_challenges_for_ever(client: Any) -> None:
    """Nonces that are stale at once: five requests, then an error that says so."""
    stale = CHALLENGE + ", stale=true"
    async with ScriptedServer(canned(reply("401 No", b"", stale))) as server:
        error = await error_of(client.fetch(server.url(), **CREDENTIALS))
        assert isinstance(error, HTTPProtocolError)
        assert str(error) == f"{server.address} asked for credentials 5 times"
        assert len(server.requests) == 5
    stale = stale.replace("WWW-", "Proxy-")
    async with ScriptedServer(canned(reply("407 No", b"", stale))) as proxy:
        error = await error_of(
            client.fetch(
                "http://name.test/", proxy=proxy.url(userinfo="u:p"), proxy_auth_mode="digest"
            )
        )
        assert isinstance(error, HTTPProxyError)
        assert str(error) == f"proxy {proxy.url('')} asked for credentials 5 times (407)"
        assert (error.stage, error.proxy_code) == ("proxy-auth", 407)
        assert len(proxy.requests) == 5


SIGNED = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth-int"'


async def test_a_streamed_body_cannot_be_signed(client: Any) -> None:
    """Where only auth-int is offered there is no answer: the 401 to the probe stands."""
    async with ScriptedServer(canned(reply("401 No", b"no", SIGNED))) as server:
        response = await client.fetch(
            server.url(), method="PUT", body=[b"bo", b"dy"], raise_error=False, **CREDENTIALS
        )
        assert (response.code, response.body) == (401, b"no")
        assert [request.body for request in server.requests] == [b""]


async def test_a_body_of_bytes_is_signed(client: Any) -> None:
    """The signature is that of the body that is sent, also where a probe went before."""
    async with ScriptedServer(_guard(reply("401 No", b"no", SIGNED))) as server:
        response = await client.fetch(server.url(), method="PUT", body=b"body", **CREDENTIALS)
        assert response.body == b"in:body"
        last = server.requests[-1]
        _check_signature(last.get("Authorization") or "", last, "/", 1)


def _check_signature(value: str, request: RecordedRequest, target: str, count: int) -> None:
    """Assert that `value` is the answer to SIGNED (RFC 7616 section 3.4.3)."""
    given = dict(re.findall(r'(\w+)="?([^",]*)', value))
    action = _md5(f"{request.method}:{target}:{_md5(request.body.decode())}")
    proof = f"{_md5('u:r:p')}:n:{count:08x}:{given['cnonce']}:auth-int:{action}"
    assert given["response"] == _md5(proof)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def test_the_rounds_of_all_who_ask_are_bounded(client: Any) -> None:
    """One of the five requests was the proxy's to refuse: it leaves four for the origin."""
    stale = CHALLENGE + ", stale=true"

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.get("Proxy-Authorization") is None:
                await peer.send(reply("407 No", b"", CHALLENGE.replace("WWW-", "Proxy-")))
            else:
                await peer.send(reply("401 No", b"", stale))

    async with ScriptedServer(handler) as proxy:
        error = await error_of(
            client.fetch(
                "http://name.test/",
                proxy=proxy.url(userinfo="u:p"),
                proxy_auth_mode="digest",
                **CREDENTIALS,
            )
        )
        assert isinstance(error, HTTPProtocolError)
        assert len(proxy.requests) == 5


async def test_a_probe_is_signed_as_it_is(client: Any) -> None:
    """Where the proxy wants the body signed, and the origin has not asked yet: it is empty."""
    signed = SIGNED.replace("WWW-", "Proxy-")

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.get("Proxy-Authorization") is None:
                await peer.send(reply("407 No", b"", signed))
            elif request.get("Authorization") is None:
                await peer.send(reply("401 No", b"", CHALLENGE))
            else:
                await peer.send(ok(b"in"))

    async with ScriptedServer(handler) as proxy:
        await client.fetch(
            "http://name.test/",
            method="PUT",
            body=b"body",
            proxy=proxy.url(userinfo="u:p"),
            proxy_auth_mode="digest",
            **CREDENTIALS,
        )
        assert [request.body for request in proxy.requests] == [b"", b"", b"body"]
        for count, request in enumerate(proxy.requests[1:], 1):
            value = request.get("Proxy-Authorization") or ""
            _check_signature(value, request, "http://name.test/", count)


async def test_a_probe_that_meets_no_second_challenge(client: Any) -> None:
    """The proxy asks, the origin does not: the body goes out with the third request."""

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.get("Proxy-Authorization") is None:
                await peer.send(reply("407 No", b"", CHALLENGE.replace("WWW-", "Proxy-")))
            else:
                await peer.send(ok(b"in:" + request.body))

    async with ScriptedServer(handler) as proxy:
        response = await client.fetch(
            "http://name.test/",
            method="POST",
            body=b"body",
            proxy=proxy.url(userinfo="u:p"),
            proxy_auth_mode="digest",
            **CREDENTIALS,
        )
        assert response.body == b"in:body"
        assert [request.body for request in proxy.requests] == [b"", b"", b"body"]


async def test_a_challenge_while_the_body_waits_in_the_stream(client: Any) -> None:
    """The rest of a body that nobody reads would stand before the next request: a new connection
    is made for that."""
    body = b"x" * (32 * 1024 * 1024)
    stale = reply("401 No", b"", CHALLENGE.replace('"n"', '"n2"') + ", stale=true")

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            authorization = request.get("Authorization") or ""
            if not authorization:
                await peer.send(reply("401 No", b"", CHALLENGE))
            elif 'nonce="n2"' not in authorization:
                await peer.send(stale)
                return await peer.closed()
            else:
                await peer.read_body(request)
                await peer.send(ok(b"in"))

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), method="PUT", body=body, **CREDENTIALS)
        assert response.body == b"in"
        assert len(server.connections) == 2


# -- 38: answers that come early


async def test_matrix_38_server_speaks_first(client: Any) -> None:
    """A response before the request is taken for the answer or refused, but nothing hangs."""

    async def handler(peer: Peer) -> None:
        await peer.send(reply("503 Busy", b"later", "Connection: close"))

    async with ScriptedServer(handler) as server:
        try:
            response = await client.fetch(server.url(), raise_error=False, request_timeout=5)
            assert (response.code, response.body) == (503, b"later")
        except HTTPStreamClosedError:
            pass
        assert not client._pool.live


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
@pytest.mark.parametrize("status", ["200 OK", "413 Too Large", "417 No", "302 Found"])
async def test_matrix_38_final_response_instead_of_100(
    client: Any, status: str, interim: bytes
) -> None:
    """The body is not sent, and the connection, which waits for it, is closed."""
    for body in ({"body": b"body"}, {"body_producer": _writes}):

        async def handler(peer: Peer) -> None:
            await peer.read_head()
            await peer.send(interim + reply(status, b"final"))
            await peer.closed()
            assert peer.unread == b""

        async with ScriptedServer(handler) as server:
            response = await client.fetch(
                server.url(), method="POST", raise_error=False, **body, **EXPECT
            )
            assert (response.code, response.body) == (int(status[:3]), b"final")
            await server.finished()
            assert not client._pool.live


@pytest.mark.parametrize("apart", [True, False])
async def test_matrix_38_100_and_the_final_response(client: Any, apart: bool) -> None:
    """100 releases the body, also where the final response has come with it."""
    answers = [b"HTTP/1.1 100 Continue\r\n\r\n", ok(b"done")]

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        await peer.send(b"".join(answers) if not apart else answers[0])
        await peer.read_body(request)
        assert request.body == b"body"
        if apart:
            await peer.send(answers[1])
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), method="PUT", body=b"body", **EXPECT)
        assert response.body == b"done"


async def test_matrix_38_other_interim_responses_release_nothing(client: Any) -> None:
    """Only 100 does, and only once."""
    checked = asyncio.Event()

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await checked.wait()
        assert peer.unread == b""
        await peer.send(2 * b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        await peer.send(ok())
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), method="POST", body=b"body", **EXPECT)
        await server.requested()
        while not server.connections[0].bytes_sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0.001)
        checked.set()
        assert (await fetch).code == 200
        assert server.requests[0].body == b"body"


async def test_matrix_38_a_head_that_takes_its_time(client: Any) -> None:
    """That all of the head has gone is not the 100 that the producer waits for."""
    asked: list[int] = []

    async def produce(write: Write) -> None:
        asked.append(1)
        await write(b"body")

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        while client._pool.live and next(iter(client._pool.live)).stream.unsent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        await peer.send(ok(request.body))
        await peer.closed()

    async with ScriptedServer(handler, receive_buffer=4096) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body_producer=produce,
            headers={"X": "x" * 8_000_000},
            **EXPECT,
        )
        assert response.body == b"body"


@pytest.mark.parametrize("size", [10, 30_000_000])
@pytest.mark.parametrize("streamed", [False, True])
async def test_matrix_38_413_during_the_upload(client: Any, size: int, streamed: bool) -> None:
    """The answer is delivered; the producer is stopped and the connection closed."""
    stopped = asyncio.Event()

    async def produce(write: Write) -> None:
        try:
            while True:
                await write(b"x" * 65536)
        finally:
            stopped.set()

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply("413 Too Large", b"no", "Connection: close"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        body = {"body_producer": produce} if streamed else {"body": b"x" * size}
        response = await client.fetch(
            server.url(), method="POST", raise_error=False, request_timeout=10, **body
        )
        assert (response.code, response.body) == (413, b"no")
        if streamed:
            await stopped.wait()
        await server.finished()
        assert not client._pool.live


async def test_matrix_38_the_upload_stops_at_the_head_of_a_failure(client: Any) -> None:
    """Not only at the end of the response, for which it is not waited."""
    stopped = asyncio.Event()

    async def produce(write: Write) -> None:
        try:
            while True:
                await write(b"x" * 65536)
        finally:
            stopped.set()

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply("413 Too Large", b"", "Content-Length: 2"))
        await stopped.wait()
        await peer.send(b"no")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), method="POST", body_producer=produce, raise_error=False
        )
        assert (response.code, response.body) == (413, b"no")


async def test_a_challenge_during_the_upload(client: Any) -> None:
    """The body is produced anew for the next round, from its beginning, on a new connection."""
    runs = 0
    stale = reply("401 No", b"", CHALLENGE.replace('"n"', '"n2"') + ", stale=true")

    async def produce(write: Write) -> None:
        nonlocal runs
        runs += 1
        await write(b"begin")
        if runs == 1:
            await asyncio.get_running_loop().create_future()
        await write(b"-end")

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_head()
            authorization = request.get("Authorization") or ""
            if not authorization:
                await peer.send(reply("401 No", b"", CHALLENGE))
            elif 'nonce="n2"' not in authorization:
                await peer.read_until(b"begin\r\n")
                await peer.send(stale)
                return await peer.closed()
            else:
                await peer.send(ok(await peer.read_body(request)))

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(), method="PUT", body_producer=produce, **CREDENTIALS
        )
        assert response.body == b"begin-end"
        assert runs == 2
        assert len(server.connections) == 2


async def test_matrix_38_a_body_that_waits_in_the_stream(client: Any) -> None:
    """Answered before all of it has gone: the rest is dropped, with the connection."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        if len(server.connections) == 1:
            await peer.send(ok(b"enough"))
            await answered.wait()
            await peer.closed()
        else:
            await peer.send(ok(b"next"))
            await peer.closed()

    answered = asyncio.Event()
    async with ScriptedServer(handler, receive_buffer=4096) as server:
        response = await client.fetch(server.url(), method="PUT", body=b"x" * 30_000_000)
        assert response.body == b"enough"
        assert not client._pool.live
        answered.set()
        assert (await client.fetch(server.url())).body == b"next"


async def test_matrix_38_200_before_the_upload_ends(client: Any) -> None:
    """A success may be read while the rest is sent; the connection is not kept."""

    async def produce(write: Write) -> None:
        await write(b"begin")
        await answered.wait()

    answered = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_until(b"begin\r\n")
        await peer.send(ok(b"enough"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(server.url(), method="POST", body_producer=produce)
        assert response.body == b"enough"
        await server.finished()
        assert not client._pool.live


# -- 35: resets and half-closed connections, in each phase


@pytest.mark.parametrize("streamed", [False, True])
async def test_matrix_35_reset_while_sending(client: Any, streamed: bool) -> None:
    """An error of the stage "send", at once."""

    async def produce(write: Write) -> None:
        while True:
            await write(b"x" * 65536)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_some()
        peer.reset()

    async with ScriptedServer(handler) as server:
        body = {"body_producer": produce} if streamed else {"body": b"x" * 30_000_000}
        error = await error_of(
            client.fetch(server.url(), method="POST", request_timeout=10, **body)
        )
        assert isinstance(error, HTTPStreamClosedError)
        assert isinstance(error, ConnectionError)
        assert error.stage == "send"
        assert error.retryable is False
        assert len(server.requests) == 1


async def test_matrix_35_reset_after_sending(client: Any) -> None:
    """A large body that took the kernel several calls has gone: now the response is missing."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        peer.reset()

    async with ScriptedServer(handler, receive_buffer=4096) as server:
        error = await error_of(client.fetch(server.url(), method="PUT", body=b"x" * 10_000_000))
        assert isinstance(error, HTTPStreamClosedError)
        assert error.stage == "response"
        assert error.retryable is True


async def test_matrix_35_answer_and_reset_while_sending(client: Any) -> None:
    """The answer that came before the RST is read, or the RST is the error: no hang, no mixture."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply("413 Too Large", b"no", "Connection: close"))
        peer.close()  # unread bytes lie there: the kernel sends a RST

    async with ScriptedServer(handler) as server:
        for _ in range(5):
            try:
                response = await client.fetch(
                    server.url(),
                    method="POST",
                    body=b"x" * 5_000_000,
                    raise_error=False,
                    request_timeout=10,
                )
                assert (response.code, response.body) == (413, b"no")
            except HTTPStreamClosedError:
                pass
            assert not client._pool.live


async def _half_closing(peer: Peer, phase: str) -> None:
    if phase == "before the request":
        return peer.half_close()
    await peer.read_request()
    if phase == "in the head":
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-")
    elif phase == "after the head":
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
    elif phase == "in the body":
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
    elif phase == "in a chunk":
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nok")
    elif phase == "after the body":
        await peer.send(ok(b"full"))
    elif phase == "after a body without length":
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nfull")
    peer.half_close()


@pytest.mark.parametrize(
    "phase",
    [
        "before the request",
        "after the request",
        "in the head",
        "after the head",
        "in the body",
        "in a chunk",
        "after the body",
        "after a body without length",
    ],
)
async def test_matrix_35_half_closed_in_each_phase(client: Any, phase: str) -> None:
    """A peer that ends its side has ended the response; the client's side is closed, too."""

    async def handler(peer: Peer) -> None:
        await _half_closing(peer, phase)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), request_timeout=10)
        if phase.startswith("after a body") or phase == "after the body":
            assert (await fetch).body == b"full"
        else:
            error = await error_of(fetch)
            assert isinstance(error, HTTPStreamClosedError)
            assert error.stage == (
                "body" if phase in ("after the head", "in the body", "in a chunk") else "response"
            )
        await server.finished()
        assert not client._pool.live


# -- deadlines


async def test_both_limits_word_a_slow_connection_alike(client: Any, server_context: Any) -> None:
    """What hung is what matters, not which limit struck."""
    async with silent_server() as server:
        url = server.url(scheme="https")
        for limits in ({"connect_timeout": 0.3}, {"request_timeout": 0.3}):
            error = await error_of(client.fetch(url, **limits))
            assert isinstance(error, HTTPTimeoutError)
            assert error.stage == "tls"
            assert str(error) == f"Timeout during TLS handshake with {server.address}"
            assert error.retryable is True
    with unaccepting_port() as port:
        for limits in ({"connect_timeout": 0.3}, {"request_timeout": 0.3}):
            error = await error_of(client.fetch(f"http://127.0.0.1:{port}/", **limits))
            assert str(error) == f"Timeout while connecting to 127.0.0.1:{port}"
            assert error.stage == "connect"


async def test_the_limit_of_connecting_begins_anew_when_sent_again(client: Any) -> None:
    """The connection that is made instead of a dead one has connect_timeout for itself."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        await peer.read_request()
        server._listener.listen(0)
        await asyncio.sleep(0.15)

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), connect_timeout=0.1)
        error = None
        try:
            await client.fetch(server.url(), connect_timeout=0.1, request_timeout=5)
        except HTTPError as caught:
            error = caught
        assert not isinstance(error, HTTPTimeoutError)


async def test_stalled_while_sending(client: Any) -> None:
    """A server that reads nothing more, of a body that is all there."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await asyncio.get_running_loop().create_future()

    async with ScriptedServer(handler, receive_buffer=4096) as server:
        error = await error_of(
            client.fetch(
                server.url(),
                method="POST",
                body=b"x" * 20_000_000,
                stall_timeout=0.3,
                request_timeout=10,
            )
        )
        assert isinstance(error, HTTPTimeoutError)
        assert error.stage == "send"
        assert "Stalled: not a byte for 0.3 seconds" in str(error)


async def test_a_slow_producer_is_no_stall(client: Any) -> None:
    """While the request waits for us, the server owes nothing; once it is sent, it does."""

    async def produce(write: Write) -> None:
        await asyncio.sleep(0.5)
        await write(b"late")

    async with ScriptedServer(respond(ok(b"fine"))) as server:
        response = await client.fetch(
            server.url(), method="POST", body_producer=produce, stall_timeout=0.2
        )
        assert response.body == b"fine"
    async with silent_server() as server:
        error = await error_of(
            client.fetch(server.url(), method="POST", body_producer=_writes, stall_timeout=0.2)
        )
        assert isinstance(error, HTTPTimeoutError)


async def test_connecting_is_no_stall(client: Any) -> None:
    """Which is for connect_timeout to bound."""
    with unaccepting_port() as port:
        error = await error_of(
            client.fetch(f"http://127.0.0.1:{port}/", stall_timeout=0.1, connect_timeout=0.6)
        )
        assert "Timeout while connecting" in str(error)


# -- failures, and what is said of them


async def test_a_reset_is_told_without_numbers(client: Any) -> None:
    """The system's words, not Python's."""
    with hand_server() as server:
        fetch = client.fetch(server.url())
        peer = await server.meet()
        await asyncio.to_thread(peer.read_head)
        peer.reset()
        error = await error_of(fetch)
        assert error.message == (
            f"127.0.0.1:{server.port} closed the connection without a response:"
            " Connection reset by peer"
        )


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"HTTP/1.1 103 Early\r\n\r\n" * 11, "more than 10 interim responses"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "101 Switching Protocols, which was not asked for",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", "a malformed reply: "),
    ],
    ids=["interim", "101", "malformed"],
)
async def test_what_was_sent_that_may_not_be(client: Any, head: bytes, what: str) -> None:
    """A protocol that is broken: the error says by what, and is none of a caller's limit."""
    async with ScriptedServer(canned(head + ok())) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPProtocolError)
        assert not isinstance(error, HTTPLimitError)
        assert error.message.startswith(f"{server.address} sent {what}")


async def test_a_header_limit_below_the_status_line(make_client: Callable[..., Any]) -> None:
    """The error names the setting, whichever part of the head is beyond it."""
    client = make_client(max_header_size=10)
    async with ScriptedServer(canned(ok())) as server:
        error = await error_of(client.fetch(server.url()))
        assert isinstance(error, HTTPLimitError)
        assert "passes max_header_size" in str(error)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", OK_HEAD + b"b"], ids=repr)
async def test_tls_that_fails_after_the_handshake(
    make_client: Callable[..., Any],
    certificates: Certificates,
    server_context: ssl.SSLContext,
    method: str,
    begun: bytes,
) -> None:
    """The connection is lost, as by a reset; the handshake is not what failed."""
    client = make_client(defaults={"ca_certs": certificates.ca_file})
    body = None if method == "GET" else b"x"
    with hand_server(server_context) as server:
        fetch = client.fetch(server.url(), method=method, body=body)
        peer = await server.meet()
        await asyncio.to_thread(peer.read_head)
        if begun:
            peer.send(begun)
        os.write(peer.socket.fileno(), b"\x17\x03\x03\x00\x20" + b"z" * 32)
        error = await error_of(fetch)
        assert isinstance(error, HTTPStreamClosedError)
        assert error.stage == ("body" if begun.endswith(b"b") else "response")
        assert error.retryable is (method == "GET")
        assert "handshake" not in str(error)
        assert str(error).endswith(": decryption failed or bad record mac")


async def test_the_alert_about_a_client_certificate(
    make_client: Callable[..., Any], certificates: Certificates
) -> None:
    """In TLS 1.3 it comes after the client's handshake; it is an error of TLS all the same."""
    context = certificates.server_context(client_certs=True)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def refuse() -> None:
        sock, _ = listener.accept()
        sock.settimeout(10)
        # Closed only when the client has left: a RST would overtake the alert.
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLError):
                tls.do_handshake()
            with socket.socket(fileno=os.dup(tls.fileno())) as raw:
                raw.settimeout(10)
                with contextlib.suppress(ConnectionError):
                    while raw.recv(65536):
                        pass

    with listener:
        client = make_client(defaults={"ca_certs": certificates.ca_file})
        port = listener.getsockname()[1]
        fetch = client.fetch(f"https://127.0.0.1:{port}/")
        refusing = asyncio.ensure_future(asyncio.to_thread(refuse))
        error = await error_of(fetch)
        await refusing
        assert isinstance(error, HTTPTLSError)
        assert (error.stage, error.retryable) == ("tls", False)
        assert "wants a client certificate: set client_cert" in str(error)


# -- what a response tells


async def test_time_info_on_new_and_used_connections(client: Any) -> None:
    """In order, from the beginning of the exchange; 0 for what a kept connection did not do."""

    async def handler(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(0.05)
            await peer.send(ok())

    async with ScriptedServer(handler) as server:
        first = await client.fetch(server.url())
        times = first.time_info
        assert (
            0
            < times["namelookup"]
            <= times["connect"]
            <= times["pretransfer"]
            <= times["starttransfer"] - 0.04
            <= times["total"]
            <= first.request_time + 0.002
        )
        second = await client.fetch(server.url())
        times = second.time_info
        assert times["namelookup"] == times["connect"] == times["appconnect"] == 0
        assert 0 < times["pretransfer"] <= times["starttransfer"] - 0.04
        assert 0.04 < times["starttransfer"] <= times["total"] <= second.request_time + 0.002
        assert second.connection_id == first.connection_id
        assert second.local_address == first.local_address


async def test_time_info_of_the_connection_that_answered(client: Any) -> None:
    """When a request was sent again the times are those of the new connection."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        if peer is server.connections[0]:
            await peer.read_request()
            await asyncio.sleep(0.05)
        else:
            await peer.closed()

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url())
        response = await client.fetch(server.url())
        assert not response.reused
        times = response.time_info
        assert 0.04 < times["namelookup"] <= times["connect"] <= times["starttransfer"]


HEADS = [
    b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nB:\r\nC:  spaced out \t\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 404 \xe4\xf6\r\nX: \xfc\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.0 200 OK\nContent-Length: 2\nX: y\n\n",
    b"HTTP/1.1 299 A: b\r\nContent-Length: 2\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS)
async def test_headers_of_a_whole_response_and_of_its_pieces(client: Any, head: bytes) -> None:
    """The short way and the long way give one and the same response, and so do its callbacks."""

    async def handler(peer: Peer) -> None:
        number = 0
        while True:
            await peer.read_request()
            number += 1
            if number % 2:
                await peer.send(head + b"ok")
            else:
                await peer.send_slowly(head + b"ok", 1, 0)
            if b"HTTP/1.0" in head:
                return

    async with ScriptedServer(handler) as server:
        seen = []
        for callback in (None, None, "lines", "lines"):
            lines: list[str] = []
            response = await client.fetch(
                server.url(),
                raise_error=False,
                header_callback=lines.append if callback else None,
            )
            seen.append(
                (
                    response.code,
                    response.reason,
                    list(response.headers.get_all()),
                    response.http_version,
                    response.body,
                )
            )
            if callback:
                assert "".join(lines) == head.decode("latin-1")
                assert all(line.endswith("\n") for line in lines)
        assert seen[0] == seen[1] == seen[2] == seen[3]


async def test_the_same_head_with_another_body(client: Any) -> None:
    """What is known of a head is not mistaken for what follows it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    answers = [head + b"one", head + b"two", head, head + b"thr", head + b"fou"]

    async def handler(peer: Peer) -> None:
        for answer in answers:
            await peer.read_request()
            await peer.send(answer)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        for method, body in (
            ("GET", b"one"),
            ("GET", b"two"),
            ("HEAD", b""),
            ("GET", b"thr"),
            ("GET", b"fou"),
        ):
            response = await client.fetch(server.url(), method=method)
            assert response.body == body
            assert response.headers["Content-Length"] == "3"
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("value", "kept"),
    [("close", False), ("x,\tClose", False), ("keep-alive", True), ("closed", True)],
)
@pytest.mark.parametrize("body", [None, b"", b"body", [b"body"]])
async def test_a_callers_connection_close(client: Any, value: str, kept: bool, body: Any) -> None:
    """RFC 9112 section 9.6: no further request goes on a connection that is to be closed."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url(),
            method="GET" if body is None else "POST",
            body=body,
            headers={"Connection": value},
        )
        assert len(client._pool) == kept
        assert (await client.fetch(server.url())).reused is kept


# -- races


async def test_given_up_in_the_turn_in_which_the_connection_stands(client: Any) -> None:
    """The connection that nobody takes any more is closed, and not remembered."""
    async with silent_server() as server:
        await error_of(client.fetch(server.url(), request_timeout=0.05))
        exchange = exchange_of(server.url("/given-up"))
        outcomes: list[Any] = []
        transfer = Transfer(
            client, exchange, Plan(exchange.profile).ready(client._pool, exchange), outcomes.append
        )
        transfer.begin()
        task = transfer._task
        assert task is not None
        while not task.done():  # noqa: ASYNC110
            # Between the end of the task and the callback that it has scheduled.
            await asyncio.sleep(0)
        if transfer._task is None:
            pytest.fail("the callback ran first: this test shows nothing")
        transfer.abort()
        await server.accepted(2)
        await server.finished()
        assert not client._pool.live
        assert not outcomes
        assert len(server.requests) == 0


@pytest.mark.parametrize("how", ["close", "reset", "stray"])
async def test_end_of_the_connection_while_the_consumer_is_busy(client: Any, how: str) -> None:
    """The response is whole: what becomes of its connection does not matter any more."""
    consuming, release = asyncio.Event(), asyncio.Event()

    async def consume(piece: bytes) -> None:
        consuming.set()
        await release.wait()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(b"whole"))
        await consuming.wait()
        if how == "stray":
            await peer.send(ok(b"stray"))
        else:
            getattr(peer, how)()
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), streaming_callback=consume)
        await consuming.wait()
        (connection,) = client._pool.live
        while how != "stray" and not (connection.stream._eof or connection.stream.closed()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        for _ in range(5):
            await asyncio.sleep(0.002)
        release.set()
        assert (await fetch).code == 200
        while client._pool.live:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_connection_that_was_held_back_is_read_again(client: Any) -> None:
    """The end of the body came while its consumer was busy: the next response is read as ever."""
    consuming, release = asyncio.Event(), asyncio.Event()

    async def consume(piece: bytes) -> None:
        consuming.set()
        await release.wait()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(b"0123456789")[:-5])
        await consuming.wait()
        await peer.send(b"56789")
        await peer.read_request()
        await peer.send(ok(b"next"))
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetch = client.fetch(server.url(), streaming_callback=consume)
        await consuming.wait()
        (connection,) = client._pool.live
        while not connection.holder._held:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        release.set()
        await fetch
        response = await client.fetch(server.url())
        assert (response.body, response.reused) == (b"next", True)


async def test_a_malformed_second_response_hurts_nobody(client: Any) -> None:
    """The client goes on after a protocol error on a kept connection."""
    async with ScriptedServer(respond(ok(), b"HTTP/1.1 999999\r\n\r\n", then="close")) as server:
        await client.fetch(server.url())
        assert isinstance(await error_of(client.fetch(server.url())), HTTPProtocolError)
        assert not client._pool.live
        assert (await client.fetch(server.url())).code == 200
