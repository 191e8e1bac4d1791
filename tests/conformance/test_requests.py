"""Header values, credentials, the local end, streamed bodies, retries: CONTRACT 19 to 22."""

from __future__ import annotations

import asyncio
import datetime
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPProtocolError, HTTPRequest, HTTPStreamClosedError
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, reply, respond

from .support import MB, basic, challenge, check_digest, error_of, settled, until

Write = Callable[[bytes], Awaitable[None]]

# -- 19: headers and bodies


@pytest.mark.parametrize("make", [dict, HTTPHeaders])
@pytest.mark.parametrize("value", ["caf\xe9", b"caf\xe9"])
async def test_header_values_are_latin_1(client: Any, make: Any, value: str | bytes) -> None:
    """CONTRACT 19: values are str or bytes, in a dict or HTTPHeaders, and go out as Latin-1."""
    async with ScriptedServer(canned(ok(b"", "X-Back: na\xefve"))) as server:
        response = await client.fetch(server.url(), headers=make({"X-Name": value}))
    assert b"\r\nX-Name: caf\xe9\r\n" in server.requests[0].raw_head
    assert response.headers["X-Back"] == "na\xefve"


def test_request_headers_attribute() -> None:
    """CONTRACT 19: HTTPRequest.headers stays the object given; None compares equal to {}."""
    for given in ({"A": "b"}, HTTPHeaders({"A": "b"})):
        assert HTTPRequest("http://a/", headers=given).headers is given
    assert HTTPRequest("http://a/").headers == {}
    assert HTTPRequest("http://a/", headers=None).headers == {}


def test_request_body_attribute() -> None:
    """CONTRACT 19: a str body is UTF-8 bytes from the start."""
    assert HTTPRequest("http://a/", body="\u20ac").body == b"\xe2\x82\xac"
    assert HTTPRequest("http://a/", body=b"\xe9").body == b"\xe9"
    assert HTTPRequest("http://a/").body is None


@pytest.mark.parametrize(
    "since",
    [
        datetime.datetime(2020, 2, 3, 4, 5, 6),
        datetime.datetime(2020, 2, 3, 4, 5, 6, 999999),
        datetime.datetime(2020, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        datetime.datetime(
            2020, 2, 3, 6, 5, 6, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
        ),
        1580702706,
        1580702706.9,
    ],
)
async def test_if_modified_since(client: Any, since: Any) -> None:
    """CONTRACT 19: if_modified_since takes an aware or naive (UTC) datetime, or seconds."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), if_modified_since=since)
    assert server.requests[0].get("If-Modified-Since") == "Mon, 03 Feb 2020 04:05:06 GMT"


async def test_if_modified_since_epoch(client: Any) -> None:
    """0 is a time, not "unset"."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), if_modified_since=0)
    assert server.requests[0].get("If-Modified-Since") == "Thu, 01 Jan 1970 00:00:00 GMT"


# -- 20: credentials


@pytest.mark.parametrize(
    ("username", "password", "sent"),
    [
        ("test", "123\xa3", "Basic dGVzdDoxMjPCow=="),  # RFC 7617 section 2.1
        (unicodedata.normalize("NFD", "jos\xe9"), "s\u0259cr\u0259t", "Basic am9zw6k6c8mZY3LJmXQ="),
        ("user", "", basic("user", "")),
        ("user", "a:b c", basic("user", "a:b c")),
        ("", "pw", basic("", "pw")),
    ],
)
@pytest.mark.parametrize("mode", [None, "basic"])
async def test_basic_credentials(
    client: Any, username: str, password: str, sent: str, mode: str | None
) -> None:
    """CONTRACT 20: user name and password are NFC, then UTF-8, then base64."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url(), auth_username=username, auth_password=password, auth_mode=mode
        )
    assert server.requests[0].get_all("Authorization") == [sent]


async def test_user_name_alone(client: Any) -> None:
    """auth_username without auth_password has an empty password."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), auth_username="only")
        await client.fetch(server.url(userinfo="only"))
    assert [r.get("Authorization") for r in server.requests] == [basic("only", "")] * 2


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("me:secret", ("me", "secret")),
        ("me%40home:p%3Aw%2F%20", ("me@home", "p:w/ ")),
        ("jos%C3%A9:%E2%82%AC", ("jos\xe9", "\u20ac")),
        ("a:b:c", ("a", "b:c")),
        ("a@b:c", ("a@b", "c")),
    ],
)
async def test_credentials_in_the_url(client: Any, userinfo: str, pair: tuple[str, str]) -> None:
    """CONTRACT 20: user information of the URL is Basic credentials, and not in Host or target."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(userinfo=userinfo))
    request = server.requests[0]
    assert request.get_all("Authorization") == [basic(*pair)]
    assert request.get("Host") == server.address


async def test_which_credentials_win(client: Any) -> None:
    """Arguments win over the URL; so does a caller's Authorization header, sent once."""
    async with ScriptedServer(canned(ok())) as server:
        url = server.url(userinfo="url:url")
        await client.fetch(url, auth_username="arg", auth_password="arg")
        await client.fetch(url, headers={"Authorization": "Custom x"})
    sent = [request.get_all("Authorization") for request in server.requests]
    assert sent == [[basic("arg", "arg")], ["Custom x"]]


@pytest.mark.parametrize("mode", ["asdf", "Basic", "", "ntlm"])
async def test_unknown_auth_mode(client: Any, mode: str) -> None:
    """CONTRACT 20: an unknown auth_mode raises ValueError and never falls back to basic."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match="auth_mode"):
            await client.fetch(server.url(), auth_username="u", auth_password="p", auth_mode=mode)
        assert server.connections == []


async def test_bearer_needs_its_token(client: Any) -> None:
    """auth_mode="bearer" without auth_token is a clear error."""
    with pytest.raises(ValueError, match="auth_token"):
        await client.fetch("http://127.0.0.1:9/", auth_mode="bearer")


def _digest_server(username: str, password: str, extra: str = "") -> Any:
    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            authorization = request.get("Authorization")
            if authorization is None:
                field = f"WWW-Authenticate: {challenge(extra=extra)}"
                await peer.send(reply("401 Unauthorized", b"who?", field))
            else:
                check_digest(authorization, request, username, password)
                await peer.send(ok(b"welcome"))

    return handler


@pytest.mark.parametrize("password", ["secret", "gr\xfc\xdfe \u20ac", 'a"b\\c', "", "co:lon"])
async def test_digest_password(client: Any, password: str) -> None:
    """CONTRACT 20: digest works with any password, non-ASCII ones included (UTF-8)."""
    async with ScriptedServer(_digest_server("alice", password)) as server:
        response = await client.fetch(
            server.url("/x?y"), auth_mode="digest", auth_username="alice", auth_password=password
        )
    assert response.body == b"welcome"


async def test_digest_from_url_credentials(client: Any) -> None:
    """CONTRACT 20: credentials in the URL serve digest too."""
    async with ScriptedServer(_digest_server("alice", "in url")) as server:
        response = await client.fetch(server.url(userinfo="alice:in%20url"), auth_mode="digest")
    assert response.body == b"welcome"


async def test_digest_wrong_password_is_a_401(client: Any) -> None:
    """A refused digest answer is the 401 that the server gave, after two requests."""
    field = f"WWW-Authenticate: {challenge()}"
    async with ScriptedServer(canned(reply("401 Unauthorized", b"no", field))) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(
                server.url(), auth_mode="digest", auth_username="a", auth_password="b"
            )
    assert caught.value.code == 401
    assert len(server.requests) == 2


async def test_digest_needs_no_challenge(client: Any) -> None:
    """A server that asks for nothing gets no credentials, and its answer is the response."""
    async with ScriptedServer(canned(ok(b"open"))) as server:
        response = await client.fetch(
            server.url(), auth_mode="digest", auth_username="a", auth_password="b"
        )
    assert response.body == b"open"
    assert server.requests[0].get("Authorization") is None


async def test_basic_is_not_sent_for_digest(client: Any) -> None:
    """auth_mode="digest" never answers a Basic challenge: the password would go out in clear."""
    field = 'WWW-Authenticate: Basic realm="x"'
    async with ScriptedServer(canned(reply("401 Unauthorized", b"", field))) as server:
        with pytest.raises(HTTPError, match="401"):
            await client.fetch(
                server.url(), auth_mode="digest", auth_username="a", auth_password="b"
            )
    assert all(request.get("Authorization") is None for request in server.requests)


# -- 21: the local end


@pytest.mark.parametrize(
    ("interface", "address"), [("127.0.0.2", "127.0.0.2"), ("lo", "127.0.0.1")]
)
async def test_network_interface(client: Any, interface: str, address: str) -> None:
    """CONTRACT 21: network_interface takes an address or a name."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url(), network_interface=interface)
        assert server.connections[0].address[0] == address
        assert response.local_address == server.connections[0].address


@pytest.mark.parametrize("interface", ["nosuchif0", "192.0.2.1", "not an interface"])
async def test_bad_network_interface(client: Any, interface: str) -> None:
    """CONTRACT 21: a bad one gives an error that contains it."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises((HTTPError, ValueError, OSError)) as caught:
            await client.fetch(server.url(), network_interface=interface)
        assert interface in str(caught.value)
        assert server.connections == []


async def test_interfaces_do_not_share_connections(client: Any) -> None:
    """A kept connection from one source address does not serve a request that asks for another."""
    async with ScriptedServer(canned(ok())) as server:
        for interface in ("127.0.0.2", "127.0.0.3", "127.0.0.2", None):
            await client.fetch(server.url(), network_interface=interface)
        addresses = [peer.address[0] for peer in server.connections]
    assert addresses == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


# -- 22: streamed bodies


class _Thenable:
    """An awaitable that is neither coroutine nor future, as Tornado's coroutines may return."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._write(b"by await").__await__()


def _plain(write: Write) -> None:
    write(b"plain ")
    write(b"calls")


async def _coroutine(write: Write) -> None:
    await write(b"coro")
    await asyncio.sleep(0)
    await write(b"utine")


def _future(write: Write) -> asyncio.Future[None]:
    async def produce() -> None:
        await write(b"task")

    return asyncio.ensure_future(produce())


def _nothing(write: Write) -> None:
    return None


@pytest.mark.parametrize(
    ("producer", "body"),
    [
        (_plain, b"plain calls"),
        (_coroutine, b"coroutine"),
        (_future, b"task"),
        (_Thenable, b"by await"),
        (_nothing, b""),
    ],
)
@pytest.mark.parametrize("sized", [False, True])
async def test_kinds_of_producers(client: Any, producer: Any, body: bytes, sized: bool) -> None:
    """CONTRACT 22: a producer is plain, a coroutine, or returns anything awaitable."""
    headers = {"Content-Length": str(len(body))} if sized else {}
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="PUT", body_producer=producer, headers=headers)
    request = server.requests[0]
    assert request.body == body
    assert (request.get("Transfer-Encoding") is None) == sized
    assert request.get("Content-Length") == (str(len(body)) if sized else None)


async def test_write_gives_an_awaitable_and_takes_bytes_alikes(client: Any) -> None:
    """CONTRACT 22: write() returns an awaitable; bytes, bytearray and memoryview are written."""
    results = []

    async def produce(write: Write) -> None:
        for data in (b"a", bytearray(b"b"), memoryview(b"c"), b""):
            result = write(data)
            results.append(hasattr(result, "__await__"))
            await result

    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="PUT", body_producer=produce)
    assert results == [True] * 4
    assert server.requests[0].body == b"abc"


async def test_large_writes_arrive_whole(client: Any) -> None:
    """A single write of megabytes is sent completely, in order."""
    body = b"".join(b"%09d\n" % number for number in range(400_000))

    async def produce(write: Write) -> None:
        await write(body)

    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="PUT", body_producer=produce)
        await client.fetch(server.url(), method="PUT", body=[body])
    assert all(request.body == body for request in server.requests)


@pytest.mark.parametrize("sized", [False, True])
async def test_producer_is_held_back(client: Any, sized: bool) -> None:
    """CONTRACT 22: write() is flow control: a peer that does not read stops the producer."""
    total = 64 * MB
    written = 0

    async def produce(write: Write) -> None:
        nonlocal written
        while written < total:
            await write(bytes(64 * 1024))
            written += 64 * 1024

    go = asyncio.Event()

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        await go.wait()
        await peer.read_body(request)
        await peer.send(ok())

    headers = {"Content-Length": str(total)} if sized else {}
    async with ScriptedServer(handler, receive_buffer=64 * 1024) as server:
        future = client.fetch(server.url(), method="PUT", body_producer=produce, headers=headers)
        await server.requested()
        assert await settled(lambda: written) < 16 * MB
        future.cancel()


async def test_response_arrives_while_the_producer_waits(client: Any) -> None:
    """A producer that has nothing to say yet does not stop the response, and is cancelled by it."""
    ended: list[BaseException] = []

    async def produce(write: Write) -> None:
        await write(b"first")
        try:
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            ended.append(error)
            raise

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_until(b"first\r\n")
        await peer.send(reply("413 Content Too Large", b"enough", "Connection: close"))

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPError) as caught:
            await client.fetch(server.url(), method="PUT", body_producer=produce)
        assert caught.value.code == 413
        assert caught.value.response.body == b"enough"
        await until(lambda: ended)
    assert isinstance(ended[0], asyncio.CancelledError)


@pytest.mark.parametrize("length", [3, 8])
async def test_producer_and_content_length_disagree(client: Any, length: int) -> None:
    """CONTRACT 22: more or fewer bytes than Content-Length says is an error, never a short body."""

    async def produce(write: Write) -> None:
        await write(b"12345")

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        await peer.read_body(request)
        await peer.closed()
        assert peer.unread == b""

    async with ScriptedServer(handler) as server:
        with pytest.raises((HTTPError, ValueError)) as caught:
            await client.fetch(
                server.url(),
                method="PUT",
                body_producer=produce,
                headers={"Content-Length": str(length)},
                request_timeout=2,
            )
        assert not isinstance(caught.value, TimeoutError)
        await server.finished()
        # Nothing beyond the announced length may reach the server as another request.
        assert len(server.requests[0].raw_body) <= length


def _bad_pieces() -> Iterator[Any]:
    yield b"fine"
    yield "text"


@pytest.mark.parametrize("body", [["text"], [1], _bad_pieces, [None]], ids=str)
async def test_pieces_that_are_no_bytes(client: Any, body: Any) -> None:
    """An iterable of something else raises TypeError or ValueError, and no success."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises((TypeError, ValueError)):
            await client.fetch(server.url(), method="PUT", body=body() if callable(body) else body)


@pytest.mark.parametrize(
    "arguments",
    [
        {"body": b"x", "body_producer": _plain},
        {"body": b"x", "json": 1},
        {"form": {"a": "b"}, "body_producer": _plain},
        {"json": 1, "form": {"a": "b"}},
    ],
)
async def test_one_kind_of_body(client: Any, arguments: dict[str, Any]) -> None:
    """body, body_producer, json and form exclude each other."""
    with pytest.raises(ValueError):
        await client.fetch("http://127.0.0.1:9/", method="PUT", **arguments)


async def test_async_generator_is_closed_when_the_fetch_ends(client: Any) -> None:
    """A generator used as a body gets its finally when the transfer is aborted."""
    closed = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.read_some()
        peer.reset()

    async with ScriptedServer(handler) as server:
        with pytest.raises(HTTPError):
            await client.fetch(server.url(), method="PUT", body=pieces())
        await closed.wait()


# -- 22: Expect: 100-continue


async def test_body_only_after_100(client: Any) -> None:
    """CONTRACT 22: with expect_100_continue the producer is called only after 100."""
    called = asyncio.Event()

    async def produce(write: Write) -> None:
        called.set()
        await write(b"body")

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        assert request.get("Expect") == "100-continue"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(called.wait(), 0.1)
        assert peer.unread == b""
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        await peer.send(ok())

    async with ScriptedServer(handler) as server:
        await client.fetch(
            server.url(), method="PUT", body_producer=produce, expect_100_continue=True
        )
    assert server.requests[0].body == b"body"


async def test_bytes_body_after_100(client: Any) -> None:
    """CONTRACT 22: a bytes body waits for 100 as well."""

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        assert request.get("Expect") == "100-continue"
        assert peer.unread == b""
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        await peer.send(ok())

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url(), method="POST", body=b"body", expect_100_continue=True)
    assert server.requests[0].body == b"body"


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        pytest.param("417 Expectation Failed", marks=pytest.mark.known_difference("417-body")),
        "401 Unauthorized",
    ],
)
async def test_producer_is_not_called_on_an_early_final_response(client: Any, status: str) -> None:
    """CONTRACT 22: a final response instead of 100 ends it; the producer is never called."""
    called = []

    async def produce(write: Write) -> None:
        called.append(1)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply(status, b"final"))
        await peer.closed()
        assert peer.unread == b""

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body_producer=produce,
            expect_100_continue=True,
            raise_error=False,
        )
        assert (response.code, response.body) == (int(status[:3]), b"final")
        assert called == []
        assert len(server.requests) == 1
        # The announced body never came, so this connection cannot carry another request.
        async with ScriptedServer(canned(ok())) as other:
            await client.fetch(other.url())
        await server.finished()


@pytest.mark.known_difference("early-chunked-response")
async def test_early_chunked_response(client: Any) -> None:
    """CONTRACT 22: an early final response ends the exchange, chunked too."""

    async def produce(write: Write) -> None:
        raise AssertionError("nobody asked for the body")

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(b"2\r\nok\r\n0\r\n\r\n")
        await peer.closed()

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body_producer=produce,
            expect_100_continue=True,
            request_timeout=0.5,
        )
    assert response.body == b"ok"


async def test_producer_is_not_called_on_a_417(client: Any) -> None:
    """CONTRACT 22: a 417 ends it, with that status; nothing is sent again without Expect."""
    called = []

    async def produce(write: Write) -> None:
        called.append(1)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(reply("417 Expectation Failed", b"final"))
        await peer.closed()
        assert peer.unread == b""

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            server.url(),
            method="PUT",
            body_producer=produce,
            expect_100_continue=True,
            raise_error=False,
        )
        await server.finished()
        assert len(server.requests) == 1
    assert response.code == 417
    assert called == []


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
async def test_interim_responses(client: Any, interim: str) -> None:
    """CONTRACT 22: up to 10 interim responses are skipped, and one more is an error."""
    one = f"HTTP/1.1 {interim}\r\nX-Interim: yes\r\n\r\n".encode()
    async with ScriptedServer(respond(one * 10 + ok(b"final", "X-Final: yes"))) as server:
        response = await client.fetch(server.url())
    assert (response.code, response.body) == (200, b"final")
    assert list(response.headers) == ["X-Final", "Content-Length"]
    async with ScriptedServer(respond(one * 11 + ok())) as server:
        assert isinstance(await error_of(client.fetch(server.url())), HTTPProtocolError)


# -- retries: RELIABILITY section 3, matrix 37


def _closing_at_reuse(times: int) -> Any:
    """Answer the first request; close without a word on the next `times`; answer the rest."""
    count = 0

    async def handler(peer: Peer) -> None:
        nonlocal count
        while True:
            request = await peer.read_request()
            count += 1
            if 1 < count <= 1 + times:
                return
            await peer.send(ok(b"" if request.method == "HEAD" else b"answer"))

    return handler


@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", {}), ("HEAD", {}), ("OPTIONS", {}), ("DELETE", {}), ("PUT", {"body": b"x"})],
)
async def test_matrix_37_idempotent_request_is_sent_once_more(
    client: Any, method: str, body: dict[str, Any]
) -> None:
    """Matrix 37: a kept connection closed exactly at reuse: GET and its like go out once more."""
    async with ScriptedServer(_closing_at_reuse(1)) as server:
        await client.fetch(server.url("/first"))
        response = await client.fetch(server.url("/second"), method=method, **body)
    assert response.code == 200
    assert [r.target for r in server.requests] == ["/first", "/second", "/second"]
    assert [r.body for r in server.requests][1:] == [body.get("body", b"")] * 2
    assert len(server.connections) == 2


async def test_matrix_37_never_more_than_one_resend(client: Any) -> None:
    """Matrix 37: when the fresh connection fails as well, that is the outcome."""
    async with ScriptedServer(_closing_at_reuse(5)) as server:
        await client.fetch(server.url("/first"))
        assert isinstance(
            await error_of(client.fetch(server.url("/second"))), HTTPStreamClosedError
        )
    assert [r.target for r in server.requests] == ["/first", "/second", "/second"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("body", [b"x", b"", [b"x"]])
async def test_matrix_37_post_is_never_sent_twice(client: Any, method: str, body: Any) -> None:
    """Matrix 37: a POST that the server has read is not sent again; the caller decides."""
    async with ScriptedServer(_closing_at_reuse(1)) as server:
        await client.fetch(server.url("/first"))
        error = await error_of(client.fetch(server.url("/second"), method=method, body=body))
    assert isinstance(error, HTTPStreamClosedError)
    assert error.retryable is False
    assert [r.target for r in server.requests] == ["/first", "/second"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_matrix_37_connection_closed_while_idle(client: Any, method: str) -> None:
    """Matrix 37: a connection whose close has been seen is not used: any method just succeeds."""
    async with ScriptedServer(respond(ok(b"1"), then="close")) as server:
        await client.fetch(server.url())
        await server.finished()
        for _ in range(3):
            await asyncio.sleep(0)
        arguments = {"body": b"x"} if method == "POST" else {}
        response = await client.fetch(server.url(), method=method, **arguments)
        assert response.body == b"1"
        assert len(server.connections) == len(server.requests) == 2


@pytest.mark.known_difference("partial-status-line")
async def test_matrix_37_no_resend_after_the_first_byte(client: Any) -> None:
    """Matrix 37: once a byte of the response has come, nothing is sent again."""
    count = 0

    async def handler(peer: Peer) -> None:
        nonlocal count
        while True:
            await peer.read_request()
            count += 1
            if count == 2:
                await peer.send(b"H")
                return
            await peer.send(ok())

    async with ScriptedServer(handler) as server:
        await client.fetch(server.url("/first"))
        await error_of(client.fetch(server.url("/second")))
    assert [r.target for r in server.requests] == ["/first", "/second"]


async def test_matrix_37_no_resend_on_a_fresh_connection(client: Any) -> None:
    """Matrix 37: a first connection that closes without a word is an error, not a retry."""
    async with ScriptedServer(respond(b"", then="close")) as server:
        error = await error_of(client.fetch(server.url()))
        assert len(server.requests) == 1
    assert isinstance(error, HTTPStreamClosedError)
