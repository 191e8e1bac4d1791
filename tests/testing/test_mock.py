"""The mock client: routes answer, requests are recorded, and the pipeline above is the real one."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from conftest import Baseline
from whimbrel import AsyncHTTPClient, HTTPClient
from whimbrel.httpclient import (
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPResponse,
    HTTPStreamClosedError,
    HTTPTimeoutError,
)
from whimbrel.testing import (
    MockAsyncHTTPClient,
    MockRequest,
    MockResponse,
    MockRoutes,
    UnexpectedRequest,
    mock_client,
)

URL = "http://api.test/"
SHORT = 0.05


@pytest.fixture
def mock() -> Iterator[MockRoutes]:
    with mock_client() as routes:
        yield routes


@pytest.fixture
async def make(mock: MockRoutes) -> AsyncIterator[Callable[..., AsyncHTTPClient]]:
    """Makes private clients, after whose end nothing of theirs may be left."""
    baseline = Baseline.take()
    clients: list[AsyncHTTPClient] = []

    def made(**arguments: Any) -> AsyncHTTPClient:
        clients.append(AsyncHTTPClient(force_instance=True, trust_env=False, **arguments))
        return clients[-1]

    yield made
    for one in clients:
        one.close()
    await baseline.restored()


@pytest.fixture
async def mocked(make: Callable[..., AsyncHTTPClient]) -> AsyncHTTPClient:
    return make()


def always(body: bytes) -> MockResponse:
    return MockResponse(body=body)


# -- answers


async def test_canned_responses(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Status, reason, fields and body come as they were given."""
    mock.route(
        "GET",
        URL,
        MockResponse(203, b"body", [("X-A", "1"), ("X-A", "2")], reason="Quite"),
    )
    response = await mocked.fetch(URL)
    assert (response.code, response.reason, response.body) == (203, "Quite", b"body")
    assert response.headers.get_list("X-A") == ["1", "2"]
    assert response.headers["Content-Length"] == "4"
    assert "Content-Type" not in response.headers
    assert (response.effective_url, response.http_version, response.proxy) == (URL, "1.1", None)
    assert response.time_info["total"] >= response.time_info["starttransfer"] >= 0


@pytest.mark.parametrize(
    ("answer", "content_type", "body"),
    [
        (MockResponse(json={"a": [1]}), "application/json", b'{"a": [1]}'),
        (MockResponse(body="gr\u00fcn"), "text/plain; charset=utf-8", "gr\u00fcn".encode()),
        (MockResponse(body="{}", headers={"content-type": "x/y"}), "x/y", b"{}"),
        (MockResponse(body=[b"in ", b"pieces"]), "none", b"in pieces"),
    ],
)
async def test_kinds_of_bodies(
    mock: MockRoutes, mocked: AsyncHTTPClient, answer: MockResponse, content_type: str, body: bytes
) -> None:
    mock.route("GET", URL, answer)
    for _ in range(2):  # a canned response serves any number of requests
        response = await mocked.fetch(URL)
        assert response.body == body
        assert response.headers.get("Content-Type", "none") == content_type


async def test_without_an_answer_it_is_an_empty_200(
    mock: MockRoutes, mocked: AsyncHTTPClient
) -> None:
    mock.route("GET", URL)
    response = await mocked.fetch(URL)
    assert (response.code, response.body) == (200, b"")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": 101}, "final"),
        ({"status": 1000}, "final"),
        ({"body": b"x", "json": {}}, "only one"),
        ({"headers": {"A": "b\r\nc"}}, "control character"),
        ({"headers": {"A b": "c"}}, "does not allow"),
        ({"reason": "a\nb"}, "control character"),
    ],
)
def test_responses_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MockResponse(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": "200"}, "status must be an int such as 200, not '200'"),
        ({"status": b"x"}, "status must be an int"),
        ({"body": 5}, "an iterable of bytes, not 5"),
        ({"body": None}, "an iterable of bytes, not None"),
        ({"body": bytearray(b"x")}, "not bytearray"),
        ({"body": {"a": 1}}, "use json= for {'a': 1}"),
        ({"body": [b"a", "b"]}, "pieces of a body are bytes, functions or errors, not 'b'"),
        ({"json": {1}}, "json: Object of type set is not JSON serializable: {1}"),
        ({"headers": [1]}, "headers are pairs of name and value; 1 is none"),
        ({"headers": ["ab"]}, "headers are pairs of name and value; 'ab' is none"),
        ({"headers": "A: b"}, "a mapping or pairs of name and value, not 'A: b'"),
        ({"headers": 5}, "a mapping or pairs of name and value, not 5"),
        ({"reason": b"OK"}, "reason must be a str, not b'OK'"),
        ({"after": 5}, r"event.wait \(without parentheses\) .*, not 5"),
    ],
)
def test_responses_of_the_wrong_kinds(arguments: dict[str, Any], message: str) -> None:
    """They are refused where they are made, and the remedy is named."""
    with pytest.raises(TypeError, match=message):
        MockResponse(**arguments)


def test_a_coroutine_where_a_function_is_due() -> None:
    """``after=event.wait()``: refused, and without the warning that nobody has awaited it."""
    with pytest.raises(TypeError, match="without parentheses"):
        MockResponse(after=asyncio.sleep(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("GET", 5), "a target is a URL, a compiled pattern or a function .*, not 5"),
        (("GET", MockResponse()), "a target is a URL, .*, not <MockResponse 200>"),
        (("GET", MockResponse), "a target is a URL, .*, not <class"),
        (("GET", re.compile(b"x")), "a target's pattern is one of str, not b'x'"),
        ((5, URL), r'the method comes first: route\("GET", target, \*answers\).*; not 5'),
        (("GET", URL, {"a": 1}), r"not {'a': 1}; use MockResponse\(json=…\)"),
        (("GET", URL, "text"), r"not 'text'; use MockResponse\(body=…\)"),
        (("GET", URL, 503), r"not 503; use MockResponse\(status\)"),
        (("GET", URL, [MockResponse()]), r"use route\(method, target, first, second\)"),
        (("GET", URL, MockResponse(), OSError), r"OSError\(…\), not the class OSError"),
        (("GET", URL, MockResponse), r"MockResponse\(…\), not the class MockResponse"),
    ],
)
def test_routes_of_the_wrong_kinds(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MockRoutes().route(*arguments)


@pytest.mark.parametrize("rest", [(MockResponse(),), (URL,)])
def test_the_method_forgotten(rest: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=rf"the method comes first: .*; '{URL}' is none"):
        MockRoutes().route(URL, *rest)


def test_a_method_that_is_none() -> None:
    with pytest.raises(ValueError, match="method 'G T' holds characters"):
        MockRoutes().route("G T", URL)


async def test_handlers(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """A plain or a coroutine function makes the answer, and sees the whole request."""

    def plain(request: MockRequest) -> MockResponse:
        return MockResponse(body=request.body.upper())

    async def coroutine(request: MockRequest) -> MockResponse:
        await asyncio.sleep(0)
        return MockResponse(json={"url": request.url})

    mock.route("POST", URL, plain)
    mock.route("GET", URL, coroutine)
    assert (await mocked.fetch(URL, method="POST", body=b"loud")).body == b"LOUD"
    assert (await mocked.fetch(URL)).json() == {"url": URL}


async def test_a_handler_that_returns_something_else(
    mock: MockRoutes, mocked: AsyncHTTPClient
) -> None:
    mock.route("GET", URL, lambda request: b"bytes")  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="returns a MockResponse, not b'bytes'"):
        await mocked.fetch(URL)


@pytest.mark.parametrize(
    "error",
    [
        HTTPTimeoutError("too late", stage="connect", retryable=True),
        HTTPConnectionRefusedError("no", stage="connect"),
        OSError("a cable is loose"),
        asyncio.CancelledError("by the handler"),
        SystemExit(3),
    ],
)
async def test_errors_reach_the_awaiter(
    mock: MockRoutes, mocked: AsyncHTTPClient, error: BaseException
) -> None:
    """As answers, and raised by handlers, whatever they are."""

    def handler(request: MockRequest) -> MockResponse:
        raise error

    mock.route("GET", URL, error, handler)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            await mocked.fetch(URL, raise_error=False)
        assert caught.value is error


async def test_several_answers(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Each serves one request; afterwards the route is passed over."""
    route = mock.route("GET", URL, MockResponse(503), HTTPTimeoutError("late"), always(b"at last"))
    assert (await mocked.fetch(URL, raise_error=False)).code == 503
    with pytest.raises(HTTPTimeoutError):
        await mocked.fetch(URL)
    with pytest.raises(AssertionError, match=r"not called:\n  GET http://api.test/ \(asked 2 time"):
        mock.assert_all_called()
    assert (await mocked.fetch(URL)).body == b"at last"
    mock.assert_all_called()
    assert len(route.requests) == 3
    with pytest.raises(UnexpectedRequest, match="asked 3 times, used up"):
        await mocked.fetch(URL)


# -- which route


@pytest.mark.parametrize(
    ("target", "url", "is_met"),
    [
        ("http://api.test/a?b=1", "http://api.test/a?b=1", True),
        ("http://api.test/a", "http://api.test/a?b=1", False),
        ("http://API.test:80", "http://api.test/", True),
        ("http://api.test/", "https://api.test/", False),
        (re.compile(r"http://api\.test/\d+"), "http://api.test/17", True),
        (re.compile(r"http://api\.test/\d+"), "http://api.test/17?x", False),
        (re.compile(r"api"), "http://api.test/", False),
        (lambda request: request.headers["X-Me"] == "you", "http://api.test/", True),
        (lambda request: request.headers["X-Me"] == "me", "http://api.test/", False),
    ],
)
async def test_targets(
    mock: MockRoutes, mocked: AsyncHTTPClient, target: Any, url: str, is_met: bool
) -> None:
    mock.route("GET", target, always(b"met"))
    fetch = mocked.fetch(url, headers={"X-Me": "you"})
    if is_met:
        assert (await fetch).body == b"met"
    else:
        with pytest.raises(UnexpectedRequest):
            await fetch


async def test_methods(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route(None, URL, always(b"any"))
    mock.route("DELETE", URL, always(b"deleted"))
    assert (await mocked.fetch(URL, method="DELETE")).body == b"deleted"
    assert (await mocked.fetch(URL, method="PUT", body=b"")).body == b"any"
    mock.route("put", URL, always(b"lower case"))
    assert (await mocked.fetch(URL, method="PUT", body=b"")).body == b"lower case"


async def test_the_routes_show_themselves(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    assert repr(mock) == "<MockRoutes none>"
    mock.route("GET", URL)
    mock.route(None, re.compile("x.*"), MockResponse(), MockResponse(500))
    await mocked.fetch(URL)
    assert repr(mock) == f"<MockRoutes any method x.* (asked 0 times); GET {URL} (asked 1 times)>"


async def test_header_values_may_be_bytes(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route("GET", URL, MockResponse(headers=[("X-A", b"\xe9")]))  # type: ignore[list-item]
    assert (await mocked.fetch(URL)).headers["X-A"] == "\xe9"


async def test_the_newest_route_wins(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """As long as it has answers; then the older ones have their turn."""
    mock.route("GET", URL, always(b"old"))
    mock.route("GET", URL, always(b"new"), always(b"new"))
    bodies = [(await mocked.fetch(URL)).body for _ in range(4)]
    assert bodies == [b"new", b"new", b"old", b"old"]


def test_a_target_that_is_no_url() -> None:
    with pytest.raises(ValueError, match=r"begin ./path. with http"):
        MockRoutes().route("GET", "/path")


async def test_the_unexpected(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """It reaches the awaiter, names request and routes, and is not forgotten."""
    mock.route("GET", URL)
    mock.route(None, re.compile("http://b/.*"))

    def predicate(request: MockRequest) -> bool:
        return False

    mock.route("PUT", predicate)
    await mocked.fetch(URL)
    with pytest.raises(UnexpectedRequest) as caught:
        await mocked.fetch("http://alice:s3cret@other.test/x?y=1", raise_error=False)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == (
        "no route for GET http://other.test/x?y=1; routes:"
        f"\n  PUT {predicate.__qualname__} (asked 0 times)"
        "\n  any method http://b/.* (asked 0 times)"
        "\n  GET http://api.test/ (asked 1 times)"
    )
    assert caught.value.request is mock.requests[1] is mock.unexpected[0]
    for check in (mock.assert_all_called, mock.assert_all_expected):
        with pytest.raises(UnexpectedRequest, match=r"other\.test"):
            check()
    mock.reset()
    mock.assert_all_called()
    mock.assert_all_expected()
    assert not mock.requests
    with pytest.raises(UnexpectedRequest, match="routes: none"):
        await mocked.fetch(URL)


async def test_the_unexpected_in_other_styles(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Under callback= it is the response's error, and stream() raises it when it is entered."""
    seen: asyncio.Future[HTTPResponse] = asyncio.get_running_loop().create_future()
    mocked.fetch(URL, callback=seen.set_result)
    assert isinstance((await seen).error, UnexpectedRequest)
    with pytest.raises(UnexpectedRequest):
        async with mocked.stream(URL):
            pass


# -- what is recorded


async def test_requests_are_recorded(mock: MockRoutes, make: Callable[..., Any]) -> None:
    """With what the pipeline has made of them, in the order of their completion."""
    mock.route(None, re.compile(r"https?://api\.test/.*"))
    client = make(defaults={"user_agent": "tester"})
    await client.fetch(
        "http://api.test/a#fragment",
        params={"q": "\u00e4"},
        auth_username="u",
        auth_password="p",
        proxy="http://alice:s3cret@proxy.test:3128",
    )
    await client.fetch("https://api.test/b", method="POST", json={"c": 1}, proxy=False)
    first, second = mock.requests
    assert (first.method, first.url, first.body) == ("GET", "http://api.test/a?q=%C3%A4", b"")
    assert first.proxy == "http://proxy.test:3128"
    assert first.headers["Host"] == "api.test"
    assert first.headers["User-Agent"] == "tester"
    assert first.headers["Authorization"] == "Basic dTpw"
    assert "Content-Length" not in first.headers
    assert (second.method, second.url, second.json()) == ("POST", "https://api.test/b", {"c": 1})
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["Content-Length"] == "7"
    assert second.proxy is None
    assert repr(first) == "<MockRequest GET http://api.test/a?q=%C3%A4>"


async def test_bodies_that_are_produced(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Producers, iterables and async iterables are collected, whatever their size."""
    mock.route("POST", URL)

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        for _ in range(10):
            await write(b"x" * 50_000)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0)
        yield b"two"

    await mocked.fetch(URL, method="POST", body_producer=produce)
    await mocked.fetch(URL, method="POST", body=pieces())
    await mocked.fetch(URL, method="POST", body=[b"a", b"b"], headers={"Content-Length": "2"})
    await mocked.fetch(URL, method="POST", body=b"", expect_100_continue=True)
    produced, iterated, known, empty = mock.requests
    assert produced.body == b"x" * 500_000
    assert produced.headers["Transfer-Encoding"] == "chunked"
    assert iterated.body == b"onetwo"
    assert (known.body, known.headers["Content-Length"]) == (b"ab", "2")
    assert "Transfer-Encoding" not in known.headers
    assert (empty.headers["Content-Length"], empty.headers["Expect"]) == ("0", "100-continue")


async def test_producers_that_fail(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """What they raise reaches the awaiter, and no request is recorded."""

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        raise KeyError("no data")

    with pytest.raises(KeyError, match="no data"):
        await mocked.fetch(URL, method="POST", body_producer=produce)
    with pytest.raises(ValueError, match="Content-Length"):
        await mocked.fetch(URL, method="POST", body=[b"abc"], headers={"Content-Length": "2"})
    assert not mock.requests


# -- the pipeline above


async def test_redirects(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route("POST", URL, MockResponse(303, headers={"Location": "/next"}))
    mock.route("GET", URL + "next", MockResponse(302, headers={"Location": "//other.test/"}))
    mock.route("GET", "http://other.test/", always(b"here"))
    response = await mocked.fetch(URL, method="POST", body=b"x", headers={"Authorization": "s"})
    assert (response.body, response.effective_url) == (b"here", "http://other.test/")
    assert [hop.code for hop in response.history] == [303, 302]
    assert [request.method for request in mock.requests] == ["POST", "GET", "GET"]
    assert "Authorization" not in mock.requests[2].headers
    mock.assert_all_called()


async def test_the_body_of_a_redirect_is_not_streamed(
    mock: MockRoutes, mocked: AsyncHTTPClient
) -> None:
    mock.route("GET", URL, MockResponse(302, b"not this", {"Location": "/next"}))
    mock.route("GET", URL + "next", always(b"but this"))
    pieces: list[bytes] = []
    lines: list[str] = []
    await mocked.fetch(URL, streaming_callback=pieces.append, header_callback=lines.append)
    assert pieces == [b"but this"]
    assert lines == ["HTTP/1.1 200 OK\r\n", "Content-Length: 8\r\n", "\r\n"]


async def test_cookies(mock: MockRoutes, make: Callable[..., Any]) -> None:
    mock.route("GET", URL, MockResponse(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    client = make(cookies=True)
    await client.fetch(URL)
    await client.fetch(URL)
    assert "Cookie" not in mock.requests[0].headers
    assert sorted(mock.requests[1].headers["Cookie"].split("; ")) == ["a=1", "b=2"]


async def test_statuses(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route("GET", URL, MockResponse(404, b"nothing"))
    with pytest.raises(HTTPError, match="HTTP 404: Not Found") as caught:
        await mocked.fetch(URL)
    assert caught.value.response is not None
    assert caught.value.response.body == b"nothing"
    response = await mocked.fetch(URL, raise_error=False)
    assert response.code == 404


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body(
    mock: MockRoutes, mocked: AsyncHTTPClient, method: str, status: int
) -> None:
    mock.route(method, URL, MockResponse(status, b"unseen", {"Content-Encoding": "gzip"}))
    pieces: list[bytes] = []
    response = await mocked.fetch(
        URL, method=method, streaming_callback=pieces.append, raise_error=False
    )
    assert (response.code, response.body, pieces) == (status, b"", [])


async def test_encoded_bodies(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Are decoded where the request says so, and refused where they are damaged."""
    data = gzip.compress(b"decoded" * 1000)
    fields = {"Content-Encoding": "gzip"}
    mock.route("GET", URL, MockResponse(body=data, headers=fields))
    mock.route("GET", URL + "cut", MockResponse(body=data[:-3], headers=fields))
    response = await mocked.fetch(URL)
    assert response.body == b"decoded" * 1000
    assert response.headers["X-Consumed-Content-Encoding"] == "gzip"
    assert (await mocked.fetch(URL, decompress_response=False)).body == data
    with pytest.raises(HTTPProtocolError, match=r"api\.test: gzip body is cut short") as caught:
        await mocked.fetch(URL + "cut")
    assert caught.value.stage == "body"


async def test_limits(mock: MockRoutes, make: Callable[..., Any]) -> None:
    mock.route("GET", URL, MockResponse(body=[b"x" * 60, b"x" * 60], headers={"X": "y" * 100}))
    with pytest.raises(HTTPLimitError, match="more than 100 bytes, 120 so far"):
        await make().fetch(URL, max_body_size=100)
    assert len((await make().fetch(URL, max_body_size=120)).body) == 120
    with pytest.raises(HTTPLimitError, match="max_header_size: 1"):
        await make(max_header_size=100).fetch(URL)
    await make(max_header_size=1000).fetch(URL)


async def test_request_timeout(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Passes in every phase, and the error says in which; nothing here sleeps."""
    never = asyncio.Event()

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        await never.wait()

    async def hang(request: MockRequest) -> MockResponse:
        await never.wait()
        return MockResponse()

    mock.route("GET", URL, MockResponse(after=never.wait), hang, MockResponse(body=[never.wait]))
    for stage in ("response", "response", "body"):
        with pytest.raises(HTTPTimeoutError, match="Timeout during request") as caught:
            await mocked.fetch(URL, request_timeout=SHORT)
        assert (caught.value.stage, caught.value.retryable) == (stage, True)
    with pytest.raises(HTTPTimeoutError) as caught:
        await mocked.fetch(URL, method="POST", body_producer=produce, request_timeout=SHORT)
    assert (caught.value.stage, caught.value.retryable) == ("send", False)


async def test_request_timeout_while_the_consumer_is_busy(
    mock: MockRoutes, mocked: AsyncHTTPClient
) -> None:
    """The deadline holds there too; stall_timeout does not, it is not the server that stalls."""
    never = asyncio.Event()

    async def consume(piece: bytes) -> None:
        await never.wait()

    mock.route("GET", URL, always(b"x"))
    with pytest.raises(HTTPTimeoutError, match="Timeout during request"):
        await mocked.fetch(
            URL, streaming_callback=consume, request_timeout=4 * SHORT, stall_timeout=SHORT
        )


@pytest.mark.parametrize("stage", ["response", "body"])
async def test_stall_timeout(mock: MockRoutes, mocked: AsyncHTTPClient, stage: str) -> None:
    never = asyncio.Event()
    if stage == "response":
        mock.route("GET", URL, MockResponse(after=never.wait))
    else:
        mock.route("GET", URL, MockResponse(body=[b"half", never.wait]))
    with pytest.raises(HTTPTimeoutError, match=r"Stalled: not a byte for 0\.05") as caught:
        await mocked.fetch(URL, stall_timeout=SHORT)
    assert caught.value.stage == stage


async def test_queue(mock: MockRoutes, make: Callable[..., Any]) -> None:
    """max_clients and queue_timeout hold: what waits is not sent."""
    gate = asyncio.Event()
    mock.route("GET", URL, MockResponse(after=gate.wait))
    client = make(max_clients=1)
    first, second = client.fetch(URL), client.fetch(URL)
    with pytest.raises(HTTPTimeoutError, match="queue"):
        await client.fetch(URL, queue_timeout=SHORT)
    assert len(mock.requests) == 1
    gate.set()
    await asyncio.gather(first, second)
    assert len(mock.requests) == 2


async def test_gates_between_pieces(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """A stream gets what has come, and the rest when the test lets it."""
    gate = asyncio.Event()
    mock.route("GET", URL, MockResponse(body=[b"one", gate.wait, b"two"]))
    async with mocked.stream(URL) as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert await anext(aiter(response)) == b"one"
        gate.set()
        assert await response.read() == b"two"


async def test_bodies_that_break_off(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """What came before the error is delivered."""
    error = HTTPStreamClosedError("gone", stage="body")
    mock.route("GET", URL, MockResponse(body=[b"half", error]))
    async with mocked.stream(URL) as response:
        assert await anext(aiter(response)) == b"half"
        with pytest.raises(HTTPStreamClosedError) as caught:
            await response.read()
    assert caught.value is error


async def test_async_iterables_as_bodies(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """A generator is closed when the fetch ends before it does."""
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    mock.route("GET", URL, lambda request: MockResponse(body=endless()))
    with pytest.raises(HTTPLimitError):
        await mocked.fetch(URL, max_body_size=10_000)
    assert closed.is_set()
    closed.clear()
    async with mocked.stream(URL) as response:
        assert await anext(aiter(response)) == b"x" * 1000
    await closed.wait()


@pytest.mark.parametrize("piece", ["text", None])
async def test_bodies_of_the_wrong_type(
    mock: MockRoutes, mocked: AsyncHTTPClient, piece: Any
) -> None:
    """What cannot be told before the body is iterated."""
    mock.route("GET", URL, MockResponse(body=iter([piece])))
    with pytest.raises(TypeError, match="a body comes as bytes, not"):
        await mocked.fetch(URL)


async def test_large_bodies_come_in_pieces(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """Of at most 64 KiB, as from a socket."""
    mock.route("GET", URL, always(bytes(150_000)))
    pieces: list[bytes] = []
    await mocked.fetch(URL, streaming_callback=pieces.append)
    assert [len(piece) for piece in pieces] == [65536, 65536, 18928]


async def test_slow_consumers_hold_the_body_back(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """While streaming_callback's awaitable is not done, the next piece is not asked for."""
    gates = [asyncio.Event() for _ in range(3)]
    asked: list[int] = []

    def body() -> Iterator[bytes]:
        for number in range(3):
            asked.append(number)
            yield b"%d" % number

    async def consume(piece: bytes) -> None:
        await gates[int(piece)].wait()

    mock.route("GET", URL, MockResponse(body=body()))
    fetch = mocked.fetch(URL, streaming_callback=consume)
    for number, gate in enumerate(gates):
        for _ in range(20):  # as many turns of the loop as anyone may want
            await asyncio.sleep(0)
        assert asked == list(range(number + 1))
        assert not fetch.done()
        gate.set()
    assert (await fetch).code == 200


@pytest.mark.parametrize("phase", ["send", "handler", "after", "body", "consumer"])
async def test_cancellation(mock: MockRoutes, make: Callable[..., Any], phase: str) -> None:
    """Cancels whatever runs for the fetch, in each phase, and frees its slot."""
    entered, ended = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> Any:
        entered.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    arguments: dict[str, Any] = {}
    answers: dict[str, Any] = {
        "handler": hang,
        "after": MockResponse(after=hang),
        "body": MockResponse(body=[b"x", hang]),
    }
    mock.route("GET", URL + phase, answers.get(phase, always(b"x")))
    mock.route("GET", URL, always(b"next"))
    if phase == "send":
        arguments = {"method": "PUT", "body_producer": hang}
    elif phase == "consumer":
        arguments = {"streaming_callback": hang}
    client = make(max_clients=1)
    fetch = client.fetch(URL + phase, **arguments)
    await entered.wait()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert (await client.fetch(URL)).body == b"next"
    await ended.wait()


async def test_cancelled_before_it_began(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route("GET", URL)
    assert mocked.fetch(URL).cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not mock.requests


@pytest.mark.parametrize("kind", ["streaming_callback", "header_callback", "handler"])
async def test_cancelled_from_a_callback(
    mock: MockRoutes, mocked: AsyncHTTPClient, kind: str
) -> None:
    """Afterwards no callback is called any more."""
    calls: list[object] = []

    def cancel(argument: Any) -> Any:
        calls.append(argument)
        fetch.cancel()
        return MockResponse(body=[b"one", b"two"])

    mock.route("GET", URL, cancel if kind == "handler" else MockResponse(body=[b"one", b"two"]))
    arguments = {"header_callback": calls.append} if kind == "handler" else {kind: cancel}
    fetch = mocked.fetch(URL, **arguments)
    with pytest.raises(asyncio.CancelledError):
        await fetch
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(calls) == 1


async def test_bodies_that_never_wait(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    """They keep out neither a cancellation from a callback nor a deadline."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    mock.route("GET", URL, lambda request: MockResponse(body=endless()))
    fetch = mocked.fetch(URL, streaming_callback=lambda piece: fetch.cancel(), max_body_size=0)
    with pytest.raises(asyncio.CancelledError):
        await fetch
    with pytest.raises(HTTPTimeoutError):
        await mocked.fetch(URL, max_body_size=0, request_timeout=SHORT)


async def test_close_in_flight(mock: MockRoutes, make: Callable[..., Any]) -> None:
    never = asyncio.Event()
    mock.route("GET", URL, MockResponse(after=never.wait))
    client = make()
    fetch = client.fetch(URL)
    await asyncio.sleep(0)
    client.close()
    with pytest.raises(HTTPStreamClosedError, match="the client was closed"):
        await fetch


async def test_what_callbacks_raise(mock: MockRoutes, mocked: AsyncHTTPClient) -> None:
    mock.route("GET", URL, always(b"x"))

    def fail(_: object) -> None:
        raise LookupError("mine")

    for name in ("streaming_callback", "header_callback"):
        with pytest.raises(LookupError, match="mine"):
            await mocked.fetch(URL, **{name: fail})


@pytest.mark.parametrize("turns", [0, 3])
async def test_whoever_cancels_all_tasks_ends_the_fetch(
    mock: MockRoutes, mocked: AsyncHTTPClient, turns: int
) -> None:
    """At the end of a loop that is done to the tasks behind fetches, begun or not."""
    never = asyncio.Event()
    mock.route("GET", URL, MockResponse(after=never.wait))
    before = asyncio.all_tasks()
    fetch = mocked.fetch(URL)
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch


# -- how clients come to be mocked


async def test_no_socket_is_opened(
    mock: MockRoutes, mocked: AsyncHTTPClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.route("GET", "https://192.0.2.1/")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert (await mocked.fetch("https://192.0.2.1/")).code == 200


async def test_configure_by_name() -> None:
    """Each instance has routes of its own, or those that configure() was given."""
    saved = AsyncHTTPClient._save_configuration()
    try:
        AsyncHTTPClient.configure("whimbrel.testing.MockAsyncHTTPClient")
        async with AsyncHTTPClient(force_instance=True) as client:
            assert isinstance(client, MockAsyncHTTPClient)
            client.routes.route("GET", URL, always(b"its own"))
            assert (await client.fetch(URL)).body == b"its own"
        routes = MockRoutes()
        routes.route("GET", URL, always(b"shared"))
        AsyncHTTPClient.configure(MockAsyncHTTPClient, routes=routes)
        async with AsyncHTTPClient(force_instance=True) as client:
            assert (await client.fetch(URL)).body == b"shared"
        assert len(routes.requests) == 1
    finally:
        AsyncHTTPClient._restore_configuration(saved)


async def test_mock_client_restores_what_was_configured() -> None:
    """Blocks nest; each has its own shared client, which its end closes."""
    before = AsyncHTTPClient._save_configuration()
    with mock_client() as outer:
        outer.route("GET", URL, always(b"outer"))
        shared = AsyncHTTPClient()
        with mock_client() as inner:
            inner.route("GET", URL, always(b"inner"))
            assert (await AsyncHTTPClient().fetch(URL)).body == b"inner"
        assert AsyncHTTPClient() is shared
        assert (await AsyncHTTPClient().fetch(URL)).body == b"outer"
        assert isinstance(shared, MockAsyncHTTPClient)
        assert repr(shared).startswith("<MockAsyncHTTPClient [")
    with pytest.raises(RuntimeError, match="closed"):
        shared.fetch(URL)
    assert AsyncHTTPClient._save_configuration() == before


async def test_mock_client_leaves_private_clients_to_their_owner() -> None:
    """They must be closed as ever: forgetting it is what a test should find."""
    with mock_client() as mock:
        mock.route("GET", URL)
        client = AsyncHTTPClient(force_instance=True)
    assert (await client.fetch(URL)).code == 200
    client.close()


def test_the_blocking_client(mock: MockRoutes) -> None:
    mock.route("GET", URL, MockResponse(json=[1]))
    with HTTPClient() as client:
        assert json.loads(client.fetch(URL).body) == [1]


async def test_the_blocking_client_where_a_loop_runs(mock: MockRoutes) -> None:
    mock.route("GET", URL, always(b"x"))
    with HTTPClient() as client:
        assert client.fetch(URL).body == b"x"
