"""A backend that opens no socket: requests go to routes, and routes have answers.

    with mock_client() as mock:
        mock.route("GET", "http://api.test/users/7", MockResponse(json={"name": "Ada"}))
        response = await AsyncHTTPClient().fetch("http://api.test/users/7")
        assert response.json() == {"name": "Ada"}
        mock.assert_all_called()

Everything above a backend is the real thing: defaults, the queue, redirects, cookies, time-outs,
`raise_error`, streaming, cancellation. What a backend does below that is not played: names, TLS,
proxies (a request only says which one it would have gone through), digest authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json as jsonlib
import re
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Final

from whimbrel._download import Download
from whimbrel._policy.decoding import DecodingError
from whimbrel._policy.exchange import IDEMPOTENT_METHODS, Exchange
from whimbrel._policy.fields import check_token, check_value
from whimbrel._policy.urls import parse_url
from whimbrel._upload import upload_of
from whimbrel.httpclient import (
    AsyncHTTPClient,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPResponse,
    HTTPTimeoutError,
)
from whimbrel.httputil import HTTPHeaders, responses

_PIECE: Final = 64 * 1024

Piece = bytes | Callable[[], Awaitable[object]] | BaseException
"""A piece of a body that comes in several: bytes, something to be called and awaited before the
next piece comes (``event.wait``), or an error with which the body breaks off."""


@dataclass(frozen=True, repr=False)
class MockRequest:
    """A request as a server would have received it.

    Attributes:
        method: as sent.
        url: the absolute URL, without user information and fragment.
        headers: all fields, Host and those that frame the body included.
        body: the whole body; what a producer or an iterable made is collected.
        proxy: the URL of the proxy that it would have gone through, without credentials; None for
            a direct connection.
    """

    method: str
    url: str
    headers: HTTPHeaders
    body: bytes
    proxy: str | None

    def json(self) -> Any:
        """The body parsed as JSON. Raises ValueError if it is not."""
        return jsonlib.loads(self.body)

    def __repr__(self) -> str:
        # Header values and bodies hold credentials; a failing test prints this.
        return f"<MockRequest {self.method} {self.url}>"


@dataclass(frozen=True, repr=False)
class MockResponse:
    """A canned response.

    Attributes:
        status: a final one, 200 to 999.
        body: bytes, a str (sent as UTF-8), pieces that come one by one, see `Piece`, or an async
            iterable of bytes. An iterator serves one request; a list serves any number.
        headers: a mapping or pairs. Content-Length, or Transfer-Encoding for a body in pieces, and
            the Content-Type of a str or of `json` are added where they are not given.
        json: an object that makes the body; None for none.
        reason: the reason phrase; None is the registered one.
        after: called and awaited before the response begins, ``event.wait`` for instance.

    Raises:
        TypeError: a value of another kind, or one that JSON does not know.
        ValueError: a status that is not final, `body` and `json` together, or characters that HTTP
            does not allow in a field.
    """

    status: int = 200
    body: bytes | str | Iterable[Piece] | AsyncIterable[bytes] = b""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    json: Any = None
    reason: str | None = None
    after: Callable[[], Awaitable[object]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.status, int):
            raise TypeError(f"status must be an int such as 200, not {self.status!r}")
        if not 200 <= self.status <= 999:
            raise ValueError(f"status must be a final one, 200 to 999, not {self.status!r}")
        if self.json is not None and self.body != b"":
            raise ValueError("only one of body and json may be given")
        _check_body(self.body)
        try:
            jsonlib.dumps(self.json)
        except TypeError as error:
            raise TypeError(f"json: {error}: {self.json!r}") from None
        self._pairs()
        if self.reason is not None:
            if not isinstance(self.reason, str):
                raise TypeError(f"reason must be a str, not {self.reason!r}")
            check_value("reason", self.reason)
        if self.after is not None and not callable(self.after):
            if inspect.iscoroutine(self.after):
                self.after.close()  # or it would warn that nobody has awaited it
            raise TypeError(
                "after is a function that is called and awaited, such as event.wait (without"
                f" parentheses) or lambda: asyncio.sleep(1), not {self.after!r}"
            )

    def _pairs(self) -> list[tuple[str, str]]:
        given = self.headers
        pairs = given.items() if isinstance(given, Mapping) else given
        if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
            raise TypeError(f"headers are a mapping or pairs of name and value, not {given!r}")
        checked = []
        for pair in pairs:
            if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
                raise TypeError(f"headers are pairs of name and value; {pair!r} is none")
            name = check_token("header name", pair[0])
            checked.append((name, check_value(f"header {name}", pair[1])))
        return checked

    def _content(self) -> bytes | Iterable[Piece] | AsyncIterable[bytes]:
        if self.json is not None:
            return jsonlib.dumps(self.json).encode()
        return self.body.encode() if isinstance(self.body, str) else self.body

    def _head(self, content: object) -> list[bytes]:
        """Status line, fields and the empty line, as they would come over the wire."""
        fields = self._pairs()
        names = {name.lower() for name, _ in fields}
        if "content-type" not in names:
            if self.json is not None:
                fields.append(("Content-Type", "application/json"))
            elif isinstance(self.body, str):
                fields.append(("Content-Type", "text/plain; charset=utf-8"))
        if not names & {"content-length", "transfer-encoding"} and self.status not in (204, 304):
            if isinstance(content, bytes):
                fields.append(("Content-Length", str(len(content))))
            else:
                fields.append(("Transfer-Encoding", "chunked"))
        reason = responses.get(self.status, "") if self.reason is None else self.reason
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{n}: {v}" for n, v in fields), ""]
        return [f"{line}\r\n".encode("latin-1") for line in lines]

    def __repr__(self) -> str:
        return f"<MockResponse {self.status}>"


def _check_body(body: object) -> None:
    """Refuse what cannot be a body, as far as can be told without iterating."""
    if isinstance(body, bytes | str | AsyncIterable):
        return
    if isinstance(body, Mapping):
        raise TypeError(f"body must be bytes, a str or pieces of bytes: use json= for {body!r}")
    if isinstance(body, bytearray | memoryview) or not isinstance(body, Iterable):
        raise TypeError(f"body must be bytes, a str or an iterable of bytes, not {body!r}")
    for piece in body if isinstance(body, Sequence) else ():
        if not (isinstance(piece, bytes | BaseException) or callable(piece)):
            raise TypeError(f"pieces of a body are bytes, functions or errors, not {piece!r}")


Handler = Callable[[MockRequest], MockResponse | Awaitable[MockResponse]]
"""Makes the answer to a request; what it raises reaches whoever awaits the fetch."""

Answer = MockResponse | BaseException | Handler
"""What a route gives: a canned response, an error to be raised, or what a handler makes of it."""

Target = str | re.Pattern[str] | Callable[[MockRequest], bool]
"""Which requests a route is for: those with this URL, query included; those whose whole URL the
pattern matches; those for which the function returns True."""


class UnexpectedRequest(AssertionError):
    """A request for which there is no route, or none with an answer left.

    It reaches whoever awaits the fetch, and is kept in `MockRoutes.unexpected`.

    Attributes:
        request: the request.
    """

    def __init__(self, request: MockRequest, routes: Sequence[Route]) -> None:
        known = "".join(f"\n  {route}" for route in routes) or " none"
        super().__init__(f"no route for {request.method} {request.url}; routes:{known}")
        self.request = request


class Route:
    """Where requests are answered; made by `MockRoutes.route`.

    Attributes:
        requests: those that it has answered, in order.
    """

    def __init__(self, method: str | None, target: Target, answers: Sequence[Answer]) -> None:
        self.requests: list[MockRequest] = []
        self._method = _checked_method(method)
        _check_target(target)
        for answer in answers:
            _check_answer(answer)
        # Normalised as the URL of a request is.
        self._target = parse_url(target).href if isinstance(target, str) else target
        self._answers = tuple(answers) or (MockResponse(),)

    @property
    def is_done(self) -> bool:
        """Whether it was asked, and each of several answers was given."""
        return len(self.requests) >= len(self._answers)

    @property
    def is_used_up(self) -> bool:
        """Whether it had several answers, and has given them all."""
        return len(self._answers) > 1 and self.is_done

    def matches(self, request: MockRequest) -> bool:
        """Whether it is for requests like this one, answers left or not."""
        if self._method not in (None, request.method):
            return False
        if isinstance(self._target, str):
            return self._target == request.url
        if isinstance(self._target, re.Pattern):
            return self._target.fullmatch(request.url) is not None
        return self._target(request)

    def _answer(self, request: MockRequest) -> Answer:
        index = len(self.requests) % len(self._answers)
        self.requests.append(request)
        return self._answers[index]

    def __str__(self) -> str:
        target = self._target
        if isinstance(target, re.Pattern):
            target = target.pattern
        elif not isinstance(target, str):
            target = getattr(target, "__qualname__", repr(target))
        asked = f"asked {len(self.requests)} times"
        return f"{self._method or 'any method'} {target} ({asked}{', used up' * self.is_used_up})"

    def __repr__(self) -> str:
        return f"<Route {self}>"


def _checked_method(method: object) -> str | None:
    if method is None:
        return None
    how = 'route("GET", target, *answers), or None for any method'
    if not isinstance(method, str):
        raise TypeError(f"the method comes first: {how}; not {method!r}")
    if "/" in method:
        raise ValueError(f"the method comes first: {how}; {method!r} is none")
    return check_token("method", method).upper()


def _check_target(target: object) -> None:
    if isinstance(target, re.Pattern):
        if isinstance(target.pattern, bytes):
            raise TypeError(f"a target's pattern is one of str, not {target.pattern!r}")
    elif not isinstance(target, str) and (isinstance(target, type) or not callable(target)):
        raise TypeError(
            "a target is a URL, a compiled pattern or a function that is given the request, not"
            f" {target!r}"
        )


def _check_answer(answer: object) -> None:
    if isinstance(answer, type):
        raise TypeError(
            f"an answer is an instance, {answer.__name__}(…), not the class {answer.__name__}"
        )
    if isinstance(answer, MockResponse | BaseException) or callable(answer):
        return
    remedy = "MockResponse(json=…)"
    if isinstance(answer, str | bytes):
        remedy = "MockResponse(body=…)"
    elif isinstance(answer, int):
        remedy = "MockResponse(status)"
    elif isinstance(answer, list | tuple):
        remedy = "route(method, target, first, second) for several"
    raise TypeError(
        "an answer is a MockResponse, an exception or a function that is given the request, not"
        f" {answer!r}; use {remedy}"
    )


class MockRoutes:
    """The routes of mock clients, and the requests that they have made.

    Attributes:
        requests: every request, in the order in which they were complete, redirects followed and
            unexpected ones included.
        unexpected: those that no route answered.
    """

    def __init__(self) -> None:
        self.requests: list[MockRequest] = []
        self.unexpected: list[MockRequest] = []
        self._routes: list[Route] = []

    def route(self, method: str | None, target: Target, *answers: Answer) -> Route:
        """Add a route; it goes before those that are there.

        One answer serves every request. Of several each serves one, in this order; after the last
        the route is passed over. Without any the answer is an empty 200.

        Args:
            method: the method, in upper case, which it is changed to; None for any.
            target: see `Target`.
            answers: see `Answer`.

        Raises:
            TypeError: one of them is of another kind.
            ValueError: `target` is a str and no absolute http or https URL, or `method` is none.
        """
        route = Route(method, target, answers)
        self._routes.insert(0, route)
        return route

    def assert_all_called(self) -> None:
        """Check that each route was asked, each of several answers given, and nothing else asked.

        Raises:
            UnexpectedRequest: there was a request without a route; an `except` may have hidden it.
            AssertionError: a route is not done, see `Route.is_done`.
        """
        self.assert_all_expected()
        waiting = [route for route in self._routes if not route.is_done]
        if waiting:
            raise AssertionError("not called:" + "".join(f"\n  {route}" for route in waiting))

    def assert_all_expected(self) -> None:
        """Check that nothing was asked for which there is no route.

        Raises:
            UnexpectedRequest: there was; an `except` may have hidden it.
        """
        if self.unexpected:
            raise UnexpectedRequest(self.unexpected[0], self._routes)

    def reset(self) -> None:
        """Forget all routes and requests."""
        self.requests.clear()
        self.unexpected.clear()
        self._routes.clear()

    def __repr__(self) -> str:
        routes = "; ".join(map(str, self._routes)) or "none"
        return f"<MockRoutes {routes}>"

    def answer(self, request: MockRequest) -> Answer:
        """Record a request and find its answer.

        Raises:
            UnexpectedRequest: there is none.
        """
        self.requests.append(request)
        for route in self._routes:
            if not route.is_used_up and route.matches(request):
                return route._answer(request)
        self.unexpected.append(request)
        raise UnexpectedRequest(request, self._routes)


class MockAsyncHTTPClient(AsyncHTTPClient):
    """An :class:`~whimbrel.httpclient.AsyncHTTPClient` that answers from routes.

    Takes the arguments of its base, and:

    :param MockRoutes routes: what it answers, shared with other clients perhaps; None makes new
        ones. They are the attribute `routes`.
    """

    routes: MockRoutes

    def initialize(self, *, routes: MockRoutes | None = None, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.routes = MockRoutes() if routes is None else routes

    def fetch_impl(
        self, request: Exchange, callback: Callable[[HTTPResponse], None]
    ) -> Callable[[], None]:
        assert self._loop is not None
        return _MockExchange(self, self._loop, request, callback).abort


@contextlib.contextmanager
def mock_client() -> Iterator[MockRoutes]:
    """Make ``AsyncHTTPClient()`` and ``HTTPClient()`` mock clients while the block lasts.

    Gives the routes that all of them share. At the end what was configured before is restored, and
    the loops' shared mock clients are closed.

    Clients that were made before the block are not touched by it, and **go to the network** within
    it too: a program under test has to make its client, or ask for the shared one, in the block.
    """
    routes = MockRoutes()
    made: weakref.WeakSet[AsyncHTTPClient] = weakref.WeakSet()

    class Bound(MockAsyncHTTPClient):
        # A class for each block: a loop shares one client per class.
        def initialize(self, **kwargs: Any) -> None:
            super().initialize(routes=routes, **kwargs)
            made.add(self)

    Bound.__name__ = Bound.__qualname__ = MockAsyncHTTPClient.__name__
    saved = AsyncHTTPClient._save_configuration()
    AsyncHTTPClient.configure(Bound)
    try:
        yield routes
    finally:
        AsyncHTTPClient._restore_configuration(saved)
        for client in list(made):
            if not client._private:
                client.close()


class _MockExchange:
    """One exchange: collects the request, finds its answer, and plays it."""

    def __init__(
        self,
        client: MockAsyncHTTPClient,
        loop: asyncio.AbstractEventLoop,
        exchange: Exchange,
        callback: Callable[[HTTPResponse], None],
    ) -> None:
        self._client = client
        self._loop = loop
        self._exchange = exchange
        self._callback: Callable[[HTTPResponse], None] | None = callback
        self._stage = "send"
        self._began = loop.time()
        self._upload = upload_of(loop, exchange, self._wake, self._fail)
        self._download = Download(loop, exchange, _over_the_limit, self._wake, self._fail)
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        if exchange.request_timeout:
            self._deadline = loop.call_later(
                exchange.request_timeout,
                self._time_out,
                f"Timeout during request to {exchange.url.netloc}",
            )
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    # Ends

    def abort(self) -> None:
        """Drop the exchange: its callback is not called any more."""
        if self._callback is not None:
            self._let_go()
            self._task.cancel()

    def _let_go(self) -> None:
        self._callback = None
        self._upload.cancel()
        self._download.cancel()
        self._stop_watching()
        if self._deadline is not None:
            self._deadline.cancel()

    def _fail(self, error: BaseException) -> None:
        """Abort the exchange because of something that its task does not see."""
        callback = self._callback
        if callback is not None:
            self.abort()
            callback(self._failure(error))

    def _time_out(self, text: str) -> None:
        retryable = self._exchange.profile.method in IDEMPOTENT_METHODS
        self._fail(HTTPTimeoutError(text, stage=self._stage, retryable=retryable))

    async def _run(self) -> None:
        try:
            response = await self._perform()
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            response = self._failure(error)
        callback = self._callback
        if callback is not None:
            self._let_go()
            callback(response)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not by us, perhaps before it began: by whoever cancels all tasks of the loop.
        if task.cancelled():
            self._fail(asyncio.CancelledError())

    # Waiting for a producer, or for a consumer

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _woken(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    # Stalls: waiting for the caller's own code is none

    def _watch(self) -> None:
        self._stop_watching()
        limit = self._exchange.profile.stall_timeout
        if limit:
            text = f"Stalled: not a byte for {limit:g} seconds"
            self._stall = self._loop.call_later(limit, self._time_out, text)

    def _stop_watching(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # The exchange

    async def _perform(self) -> HTTPResponse:
        request = await self._request()
        self._stage = "response"
        self._watch()
        answer = await _answer_of(self._client.routes.answer(request), request)
        if answer.after is not None:
            await answer.after()
        content = answer._content()
        head = answer._head(content)
        await asyncio.sleep(0)  # where this task ends if the handler has cancelled the fetch
        self._take_head(answer.status, head)
        first = self._loop.time()
        self._stage = "body"
        if self._exchange.profile.method != "HEAD" and answer.status not in (204, 304):
            try:
                await self._take_body(head, content)
            except DecodingError as error:
                text = f"{self._exchange.url.netloc}: {error}"
                raise HTTPProtocolError(text, stage="body") from error
        return self._response(answer.status, head, first)

    async def _request(self) -> MockRequest:
        exchange = self._exchange
        profile = exchange.profile
        body = exchange.body if profile.body != "stream" else await self._produced()
        fields = list(exchange.fields)
        if not any(name.lower() == "host" for name, _ in fields):
            fields.insert(0, ("Host", exchange.url.netloc))
        if profile.body == "bytes" or exchange.content_length is not None:
            fields.append(("Content-Length", str(len(body))))
        elif profile.body == "stream":
            fields.append(("Transfer-Encoding", "chunked"))
        if profile.expect_100_continue:
            fields.append(("Expect", "100-continue"))
        headers = HTTPHeaders()
        for name, value in fields:
            headers.add(name, value)
        proxy = None if profile.proxy is None else profile.proxy.url
        return MockRequest(profile.method, exchange.url.href, headers, body, proxy)

    async def _produced(self) -> bytes:
        body: list[bytes | memoryview] = []
        while (pieces := self._upload.take(_PIECE)) != []:
            if pieces is None:
                await self._woken()
            else:
                body += pieces
        return b"".join(body)

    def _take_head(self, status: int, head: list[bytes]) -> None:
        limit = self._client.max_header_size
        size = sum(map(len, head))
        if limit is not None and size > limit:
            raise HTTPLimitError(
                f"the header block passes max_header_size: {size} of {limit} bytes",
                stage="response",
            )
        on_head = self._exchange.on_head
        if on_head is not None and not on_head(status, "1.1", head):
            self._download.discard()

    async def _take_body(
        self, head: list[bytes], content: bytes | Iterable[Piece] | AsyncIterable[bytes]
    ) -> None:
        download = self._download
        encodings = HTTPHeaders.from_lines(head[1:]).get_list("Content-Encoding")
        download.begin(", ".join(encodings))
        self._watch()
        async with contextlib.aclosing(_pieces_of(content)) as pieces:
            async for piece in pieces:
                self._stop_watching()
                download.feed(piece)
                if download.paused:
                    await self._woken()
                else:
                    # A body that never waits must not keep out deadlines and cancellations.
                    await asyncio.sleep(0)
                self._watch()
        download.finish()

    def _response(self, status: int, head: list[bytes], first: float) -> HTTPResponse:
        response = HTTPResponse.__new__(HTTPResponse)
        response.code = status
        response._lines = head
        response._decoded = self._download.decoded
        response.body = self._download.body
        response.effective_url = self._exchange.url.href
        response.http_version = "1.1"
        total = self._loop.time() - self._began
        response._times = (0.0, 0.0, 0.0, 0.0, first - self._began, total)
        proxy = self._exchange.profile.proxy
        if proxy is not None:
            response.proxy = proxy.url
        return response

    def _failure(self, error: BaseException) -> HTTPResponse:
        return HTTPResponse.failed(error, self._exchange.url.href)


async def _answer_of(answer: Answer, request: MockRequest) -> MockResponse:
    """The response that an answer stands for; raises the error that it is, or what it raises."""
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, MockResponse):
        return answer
    made = answer(request)
    made = await made if inspect.isawaitable(made) else made
    if not isinstance(made, MockResponse):
        raise TypeError(f"a handler returns a MockResponse, not {made!r}")
    return made


async def _pieces_of(
    content: bytes | Iterable[Piece] | AsyncIterable[bytes],
) -> AsyncGenerator[bytes, None]:
    """The bytes of a body as they come."""
    if isinstance(content, bytes):
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]
    elif isinstance(content, AsyncIterable):
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(content, AsyncGenerator):
                await stack.enter_async_context(contextlib.aclosing(content))
            async for piece in content:
                yield _checked(piece)
    else:
        for step in content:
            if isinstance(step, BaseException):
                raise step
            if callable(step):
                await step()
            else:
                yield _checked(step)


def _checked(piece: object) -> bytes:
    if not isinstance(piece, bytes):
        raise TypeError(f"a body comes as bytes, not {type(piece).__name__}")
    return piece


def _over_the_limit(text: str) -> HTTPLimitError:
    return HTTPLimitError(text, stage="body")
