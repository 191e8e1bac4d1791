"""One fetch, from the check of its request to its outcome."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextvars import Context, copy_context
from time import time
from typing import TYPE_CHECKING, Any

from whimbrel._pipeline.errors import (
    HTTPError,
    HTTPRedirectError,
    HTTPResolveError,
    HTTPTimeoutError,
)
from whimbrel._pipeline.request import Asked, HTTPRequest, is_plain
from whimbrel._pipeline.response import HTTPResponse, status_error
from whimbrel._policy.cookies import store_cookies
from whimbrel._policy.decoding import is_decodable
from whimbrel._policy.exchange import Exchange, lacks_address, prepare
from whimbrel._policy.fields import Fields, headers_of
from whimbrel._policy.options import merge_options
from whimbrel._policy.redirects import REDIRECT_CODES, follow_up, is_redirect
from whimbrel._policy.timeouts import queue_limit
from whimbrel._wakeups import Callbacks
from whimbrel.httputil import HTTPHeaders

if TYPE_CHECKING:
    from whimbrel._pipeline.reader import StreamReader
    from whimbrel.httpclient import AsyncHTTPClient


_set_result = asyncio.Future.set_result


class Fetch(asyncio.Future[HTTPResponse]):
    """One `fetch()`: the future that the caller awaits, and the state behind it.

    gate → prepare → fetch_impl → redirect? → result. Being the future itself, it needs no task,
    and a cancellation reaches the backend inside ``cancel()``, not an iteration later.
    """

    # Not the names of asyncio.Future's own attributes (_callbacks, _state, _result, …).
    __slots__ = (
        "_abort",
        "_asked",
        "_body",
        "_client",
        "_clock",
        "_deadline",
        "_defaults",
        "_enqueued",
        "_exchange",
        "_fields",
        "_history",
        "_in_gate",
        "_notify",
        "_options",
        "_proxy",
        "_queued",
        "_raises",
        "_sink",
        "_started",
        "_waiters",
        "_wall",
    )

    def set_up(
        self,
        client: AsyncHTTPClient,
        request: HTTPRequest | Asked,
        notify: Callable[[HTTPResponse], None] | None,
        raises: bool,
    ) -> None:
        """Complete what the type has made of a loop alone: an `__init__` costs twice as much."""
        self._waiters: Callbacks | None = None
        self._client = client
        self._asked = request
        self._notify = notify
        self._raises = raises
        self._abort: Callable[[], None] | None = None
        self._history: tuple[HTTPResponse, ...] = ()
        self._in_gate = self._queued = False
        self._sink: StreamReader | None = None
        self._exchange: Exchange | None = None
        self._options: dict[str, Any] | None = None
        self._proxy: str | None = None  # of a plain request, which has these:
        self._fields: Fields | None  # None if it gave none
        self._body: bytes
        self._defaults: dict[str, Any]
        self._wall = time()
        self._clock = clock = client._clock
        self._enqueued = self._started = clock()

    @property
    def _request(self) -> HTTPRequest:
        """What was asked for; it may be made only when somebody wants to see it."""
        asked = self._asked
        if not isinstance(asked, HTTPRequest):
            asked = self._asked = HTTPRequest._short(asked, self._wall)
        return asked

    def begin(self) -> None:
        """Check the request and take a slot, or a place in the queue."""
        client = self._client
        request = self._request
        try:
            # Everything the caller gave is read here, once: `request` may change afterwards.
            self._options = options = merge_options(
                client._completed(client.defaults), request.__dict__
            )
            exchange = self._prepare(options)
            _check_max_redirects(options["max_redirects"])
            queue_timeout = queue_limit(
                options.get("queue_timeout"), exchange.connect_timeout, exchange.request_timeout
            )
            _check_address(exchange)
        except Exception as error:  # noqa: BLE001 (whatever it is, it goes to the awaiter)
            self._fail(error)
            return
        if is_plain(request.__dict__) and self._sink is None:
            client._plain.remember(
                exchange, queue_timeout, options, request.__dict__, client.defaults
            )
        self._enter(exchange, queue_timeout)

    def _enter(self, exchange: Exchange, queue_timeout: float) -> None:
        self._exchange = exchange
        total = exchange.request_timeout
        self._deadline = self._enqueued + total if total else None
        self._in_gate = True
        gate = self._client._gate
        assert gate is not None
        if gate.enter():
            self._launch(exchange)
        else:
            self._queued = True
            gate.wait(self, self._enqueued + queue_timeout if queue_timeout else None)

    def _prepare(self, options: dict[str, Any]) -> Exchange:
        client = self._client
        exchange = prepare(options, client._environment, client._cookie_header)
        if self._exchange is not None:
            exchange.context = self._exchange.context  # after a redirect, too, it is the caller's
        if "streaming_callback" in options or "header_callback" in options or self._sink:
            exchange.on_head = self._on_head
            if self._sink is not None:
                exchange.on_data = self._sink.on_data
            else:
                exchange.on_data = options.get("streaming_callback")
        return exchange

    # Gate

    def admitted(self) -> None:
        """The gate gives a slot."""
        self._queued = False
        self._started = self._clock()
        assert self._exchange is not None
        self._launch(self._exchange)

    def queue_expired(self) -> None:
        """The gate gives up."""
        self._in_gate = self._queued = False  # nothing to give back
        self._fail(HTTPTimeoutError("Timeout in request queue", stage="queue", retryable=True))

    # Exchange

    def _launch(self, exchange: Exchange, resolved: bool = False) -> None:
        """Hand the exchange to the backend; `resolved` by the client's own resolver."""
        client = self._client
        try:
            if not resolved:
                if self._deadline is not None and (
                    self._started != self._enqueued or self._history
                ):
                    exchange = self._own(exchange)
                    exchange.request_timeout = self._remaining(exchange, self._deadline)
                if client._address_book is not None:
                    exchange = self._own(exchange)
                    self._abort = client._address_book.look_up(
                        self.get_loop(), exchange, self._launch_resolved, self._unresolved
                    )
                    return
            abort = client.fetch_impl(exchange, self._received)
            if self._in_gate:
                self._abort = abort
            else:
                abort()  # cancelled by prepare_curl_callback
        except BaseException as error:  # noqa: BLE001 (prepare_curl_callback may raise any)
            # Later: the slot that a failure frees starts the next in the queue, and a row of
            # failures must not become a deep recursion.
            handle = self.get_loop().call_soon(self._fail, error)
            self._abort = handle.cancel

    def _own(self, exchange: Exchange) -> Exchange:
        """`exchange`, or a copy of a shared one, so that something in it may be changed."""
        if exchange.shared:
            memo = exchange.memo
            exchange = self._exchange = exchange.to(exchange.url)
            exchange.memo = memo
        return exchange

    def _remaining(self, exchange: Exchange, deadline: float) -> float:
        """Seconds until `deadline`. Raises HTTPTimeoutError if there are none left."""
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise HTTPTimeoutError(
                f"Timeout during request to {exchange.url.netloc}",
                stage="connect" if self._history else "queue",
                retryable=True,
            )
        return remaining

    def _launch_resolved(self, exchange: Exchange, spent: float) -> None:
        """The client's own resolver took `spent` seconds of the time-outs."""
        for name in ("request_timeout", "connect_timeout"):
            limit = getattr(exchange, name)
            if limit:
                setattr(exchange, name, max(limit - spent, 0.001))
        self._launch(exchange, resolved=True)

    def _unresolved(self, error: BaseException) -> None:
        """The client's own resolver failed."""
        assert self._exchange is not None
        host = self._exchange.url.host
        failure: BaseException = error
        if isinstance(error, TimeoutError):
            failure = HTTPTimeoutError(
                f"Timeout while resolving {host}", stage="dns", retryable=True
            )
        elif isinstance(error, socket.gaierror):
            failure = HTTPResolveError(str(error), stage="dns", retryable=True)
        if failure is not error:
            failure.__cause__ = error
        self._fail(failure)

    def _location(self, code: int, headers: HTTPHeaders) -> str | None:
        """The Location to be followed, or None."""
        options = self._options
        if options is None:
            # A plain request took the short way; now that it matters, merge after all.
            assert self._exchange is not None
            exchange = self._exchange
            given = {
                "url": exchange.url.href,
                "method": exchange.profile.method,
                "proxy": self._proxy,
                # With what was added to them; but not by an override of fetch_impl's.
                "headers": None if self._fields is None else headers_of(self._fields),
                "body": self._body if exchange.profile.body == "bytes" else None,
            }
            options = self._options = merge_options(self._client._completed(self._defaults), given)
        if code not in REDIRECT_CODES or not options["follow_redirects"]:
            return None
        location = headers.get("Location")
        if not is_redirect(code, location) or len(self._history) >= options["max_redirects"]:
            return None
        return location

    def _on_head(self, code: int, version: str, lines: list[bytes]) -> bool:
        """The backend has the final header block of an exchange; is its body wanted?"""
        if 300 <= code < 400 and self._location(code, HTTPHeaders.from_lines(lines[1:])):
            return False
        assert self._options is not None
        header_callback = self._options.get("header_callback")
        if header_callback is not None:
            for line in lines:
                header_callback(line.decode("latin-1"))
                if self.done():
                    return False  # cancelled by the callback
        if self._sink is not None:
            exchange = self._exchange
            assert exchange is not None
            profile = exchange.profile
            headers = HTTPHeaders.from_lines(lines[1:])
            self._keep_cookies(exchange.url.href, headers)
            proxy = profile.proxy
            response = HTTPResponse.__new__(HTTPResponse)
            response.request = self._request
            response.code = code
            response.proxy = None if proxy is None else proxy.url
            response._lines = lines
            response._decoded = (
                profile.decompress
                and profile.method != "HEAD"
                and is_decodable(headers.get("Content-Encoding", ""))
            )
            response.effective_url = exchange.url.href
            response.http_version = version
            response.start_time = self._wall
            response.queue_time = self._started - self._enqueued
            response.history = self._history
            response.body = b""
            self._sink.on_head(response)
        return True

    def _keep_cookies(self, url: str, headers: HTTPHeaders) -> None:
        jar = self._client._jar
        if jar is not None:
            store_cookies(jar, url, headers.get_list("Set-Cookie"))

    def _received(self, response: HTTPResponse) -> None:
        """The backend is done with one exchange."""
        self._abort = None
        code = response.code
        error = response.error
        if error is not None and (code == 599 or not _is_of_status(error, response)):
            self._fail(error)
            return
        if self._client._jar is not None:
            self._keep_cookies(response.effective_url, response.headers)
        if 300 <= code < 400 and self._is_redirected(response):
            return
        asked = self._asked
        if isinstance(asked, HTTPRequest):
            response.request = asked
        elif self._client._plain.shares:
            response._asked = asked
        else:
            # An override's own response, which may have a request already.
            response.request = self._request
        clock, started = self._clock, self._started
        response.start_time = self._wall
        response.request_time = clock() - started
        response.queue_time = started - self._enqueued
        if self._history:
            response.history = self._history
            response.redirect_time = response.request_time - (
                response._times[-1] if response._times else 0.0
            )
        error = None if 200 <= code < 300 else status_error(response)
        if self._sink is not None:
            self._sink.on_end(response)
        if not self.done():
            if self._notify is not None:
                self._hand_over(response, self._notify)
            elif error is not None and self._raises:
                self.set_exception(error)
            else:
                _set_result(self, response)
                if self._waiters is not None:
                    self._wake(self._waiters)
        self._release()

    def _is_redirected(self, response: HTTPResponse) -> bool:
        """Whether this is not the end yet: another exchange was begun, or the fetch has failed."""
        try:
            location = self._location(response.code, response.headers)
            if location is None:
                return False
            self._follow(response, location)
        except Exception as error:  # noqa: BLE001 (a fetch must end, whatever we got wrong)
            self._fail(error)
        return True

    def _follow(self, response: HTTPResponse, location: str) -> None:
        assert self._exchange is not None
        assert self._options is not None
        response.request = self._request
        try:
            self._options = follow_up(self._options, self._exchange, response.code, location)
            exchange = self._exchange = self._prepare(self._options)
            _check_address(exchange)
        except ValueError as error:
            failure = HTTPRedirectError(response.code, str(error), response)
            failure.__cause__ = error
            failure.stage = "response"
            self._fail(failure)
            return
        self._history = (*self._history, response)
        self._launch(exchange)

    # Outcome

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, HTTPError) and error.proxy is None and self._exchange is not None:
            proxy = self._exchange.profile.proxy
            error.proxy = None if proxy is None else proxy.url
        if isinstance(error, HTTPTimeoutError) and not hasattr(error, "__notes__"):
            error.add_note(self._limits())
        if not self.done():
            self._set_failure(error)
        self._release()

    def _limits(self) -> str:
        """What a traceback says of a time-out; the message alone is Tornado's."""
        now = self._clock()
        text = f"after {now - self._enqueued:.3g} s"
        exchange = self._exchange
        if exchange is not None:
            total = self._deadline - self._enqueued if self._deadline is not None else 0
            text += f" with request_timeout={total:g}, connect_timeout={exchange.connect_timeout:g}"
        queued = (self._started if self._in_gate else now) - self._enqueued
        if queued:
            text += f"; {queued:.3g} s in the queue, max_clients={self._client.max_clients}"
        return text

    def _set_failure(self, error: BaseException) -> None:
        if self._notify is not None:
            response = HTTPResponse(
                self._request,
                error.code if isinstance(error, HTTPError) else 599,
                effective_url=str(self._request.url),
                error=error,
                request_time=self._clock() - self._started,
                time_info={"queue": self._started - self._enqueued},
                reason=str(error) or type(error).__name__,
                start_time=self._wall,
            )
            self._hand_over(response, self._notify)
            return
        if isinstance(error, StopIteration):
            # A future cannot hold one: it would end the coroutine that awaits it.
            replacement = RuntimeError("a callback raised StopIteration")
            replacement.__cause__ = error
            error = replacement
        self.set_exception(error)
        if isinstance(error, asyncio.CancelledError):
            self.exception()  # seen: a cancellation that nobody awaits is no news, as with tasks

    def _hand_over(self, response: HTTPResponse, notify: Callable[[HTTPResponse], None]) -> None:
        """End as ``callback=`` wants it: with the response, whatever became of it."""
        # The future first, as in Tornado 5: whoever awaits it goes on before the callback.
        self.set_result(response)
        self.get_loop().call_soon(notify, response)

    def _release(self) -> None:
        """Let go of the backend's exchange and of the slot."""
        abort = self._abort
        if abort is not None:
            self._abort = None
            abort()
        client = self._client
        client._fetches.discard(self)
        if self._in_gate:
            self._in_gate = False
            gate = client._gate
            assert gate is not None
            if self._queued:
                gate.withdraw(self)
            else:
                gate.leave()

    # The future

    def cancel(self, msg: Any = None) -> bool:
        """Abort the exchange at once, free its slot, and cancel the future."""
        if self.done():
            return False
        cancelled = super().cancel(msg)
        if self._waiters is not None:
            self._wake(self._waiters)
        self._release()
        return cancelled

    def set_result(self, result: HTTPResponse) -> None:
        super().set_result(result)
        if self._waiters is not None:
            self._wake(self._waiters)

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        super().set_exception(exception)
        if self._waiters is not None:
            self._wake(self._waiters)

    def add_done_callback(
        self, fn: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        if context is None:
            context = copy_context()
        if self.done():
            super().add_done_callback(fn, context=context)
        elif self._waiters is None:
            self._waiters = [(self, fn, context)]
        else:
            self._waiters.append((self, fn, context))

    def remove_done_callback(self, fn: Callable[[Any], object]) -> int:
        before = self._waiters
        if before is None:
            return 0
        self._waiters = [waiter for waiter in before if waiter[1] != fn]
        return len(before) - len(self._waiters)

    def _wake(self, waiters: Callbacks) -> None:
        self._waiters = None
        exchange = self._exchange
        if exchange is None or (not exchange.shared and exchange.calls_back):
            # Whom the caller's code has woken, the reader of a queue for one, comes before.
            for _, callback, context in waiters:
                self.get_loop().call_soon(callback, self, context=context)
        else:
            wakeups = self._client._wakeups
            assert wakeups is not None
            wakeups.add(waiters)


def _check_address(exchange: Exchange) -> None:
    if lacks_address(exchange.profile, exchange.url):
        raise HTTPResolveError(
            f"[{exchange.url.host}] is an IPv6 address and allow_ipv6 is False", stage="dns"
        )


def _is_of_status(error: BaseException, response: HTTPResponse) -> bool:
    """Whether it is the one that a response makes of its status, and not an override's own."""
    return type(error) is HTTPError and error.code == response.code and error.response is response


def _check_max_redirects(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"max_redirects must be an int, 0 or more, not {value!r}")
