"""HTTP client interfaces: `AsyncHTTPClient`, `HTTPClient`, requests, responses and errors.

One interface, several backends. :class:`AsyncHTTPClient` chooses one
(:meth:`AsyncHTTPClient.configure`; libcurl by default) and does everything that is not a single
request/response exchange itself: defaults, slots and queue, deadline, redirects, cookies,
environment proxies, cancellation. A backend implements :meth:`AsyncHTTPClient.fetch_impl`.

Errors::

    HTTPError (= HTTPClientError)        a status outside 2xx, or code 599: no response
    ├─ HTTPTimeoutError                  also TimeoutError
    ├─ HTTPResolveError                  also socket.gaierror
    ├─ HTTPConnectError                  also ConnectionError
    │  └─ HTTPConnectionRefusedError     also ConnectionRefusedError
    ├─ HTTPProxyError                    also ConnectionError
    ├─ HTTPTLSError                      also ssl.SSLError
    ├─ HTTPStreamClosedError             also ConnectionError
    ├─ HTTPProtocolError                 a reply that is not HTTP, or is cut short
    ├─ HTTPLimitError                    a header or body limit was passed
    └─ HTTPRedirectError                 also ValueError; carries the 3xx response
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from whimbrel import _loops
from whimbrel._backends import BACKENDS
from whimbrel._busy_poll import DEFAULT_SECONDS, busy_poll_seconds
from whimbrel._loops import PrivateLoop, clock_of, current_loop, current_or_new_loop
from whimbrel._pipeline.errors import (
    HTTPClientError,
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPRedirectError,
    HTTPResolveError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel._pipeline.fetch import Fetch
from whimbrel._pipeline.reader import Stream, StreamReader
from whimbrel._pipeline.request import (
    BUILT_IN_DEFAULTS,
    PARAMETERS,
    SHORT,
    Asked,
    HTTPRequest,
    did_you_mean,
    explained,
    is_plain,
    is_short,
)
from whimbrel._pipeline.response import HTTPResponse, StreamedResponse
from whimbrel._policy.cookies import cookie_header, make_jar
from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.exchange import Exchange
from whimbrel._policy.gate import Gate
from whimbrel._policy.plain import PlainRequests
from whimbrel._policy.resolving import Resolver, address_book
from whimbrel._policy.urls import URL
from whimbrel._policy.values import byte_limit, fault_of_callback, flag
from whimbrel._wakeups import Wakeups
from whimbrel.util import Configurable

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

__all__ = [
    "AsyncHTTPClient",
    "HTTPClient",
    "HTTPClientError",
    "HTTPConnectError",
    "HTTPConnectionRefusedError",
    "HTTPError",
    "HTTPLimitError",
    "HTTPProtocolError",
    "HTTPProxyError",
    "HTTPRedirectError",
    "HTTPRequest",
    "HTTPResolveError",
    "HTTPResponse",
    "HTTPStreamClosedError",
    "HTTPTLSError",
    "HTTPTimeoutError",
    "StreamedResponse",
    "main",
]

T = TypeVar("T")


def _without_libcurl(error: ImportError) -> type[AsyncHTTPClient]:
    """The backend that takes over, and one log line that says why."""
    from whimbrel.simple_httpclient import SimpleAsyncHTTPClient

    global _told_why
    if not _told_why:
        _told_why = True
        logging.getLogger("whimbrel").warning(
            "AsyncHTTPClient runs in pure Python, with HTTP/1.1 only, because libcurl cannot be"
            " used: %s (to have it: pip install pycurl)",
            error,
        )
    return SimpleAsyncHTTPClient


_told_why = False

_REST = inspect.Parameter.VAR_KEYWORD


def _check_arguments(kind: type[AsyncHTTPClient], arguments: Iterable[str]) -> None:
    """Raise TypeError for a name that no `initialize` of the class takes."""
    known = {"force_instance"}
    for base in kind.__mro__:
        initialize = vars(base).get("initialize")
        if initialize is None:
            continue
        parameters = inspect.signature(initialize).parameters.values()
        rest = {parameter.name for parameter in parameters if parameter.kind is _REST}
        known.update(parameter.name for parameter in parameters if parameter.name not in rest)
        if not rest:
            break
        if not base.__module__.startswith("whimbrel."):
            return  # it may know any name
    for name in arguments:
        if name not in known:
            raise TypeError(
                f"{kind.__name__}() got an unexpected keyword argument {name!r}"
                f"{did_you_mean(name, known)}"
            ) from None  # what `initialize` said of it, less


class AsyncHTTPClient(Configurable):
    """A non-blocking HTTP client.

    ``AsyncHTTPClient()`` returns the running loop's shared instance of the configured class (one
    per loop and class); the arguments of its first construction count. With
    ``force_instance=True`` it makes a private one, to be closed with :meth:`close` or used as
    ``async with AsyncHTTPClient(force_instance=True) as client``. Built before the loop runs,
    it binds to it at the first fetch. Where there is no loop at all, at the top of a module for
    example, each call makes another client, which is shared with nobody.

    :param bool force_instance: make a private instance.
    :param int max_clients: fetches in flight at a time; more wait in a queue. 10.
    :param dict defaults: values for :class:`HTTPRequest` parameters that a request does not give.
    :param bool trust_env: read http_proxy, https_proxy, all_proxy and no_proxy, once, when the
        client is made. True.
    :param cookies: None (default) keeps no cookies; True, or an ``http.cookiejar.CookieJar``,
        keeps them for the life of the client.
    :param int max_body_size: decoded bytes of a response body, where a request does not say;
        None is `max_buffer_size`. 0 is no limit.
    :param int max_buffer_size: what `max_body_size` is where it is not given; 104857600.
    :param int max_header_size: bytes of a response's header block; None is the backend's own
        limit (curl: libcurl's 300 KiB; simple: 64 KiB).
    :param dict hostname_mapping: host, (host, port) or (host, port, use_ssl) to the host, or
        (host, port), to connect to instead. TLS and the Host field keep the URL's.
    :param resolver: an object whose ``resolve(host, port, family)`` returns, or returns an
        awaitable of, ``[(family, sockaddr), …]``.
    :param float busy_poll: seconds, at most 1, for which the loop may look for an answer again and
        again instead of sleeping, as Linux does with ``SO_BUSY_POLL``. Only after answers that came
        as fast as that, and everything else on the loop goes on meanwhile. 0.00005; 0 never does.
        Without epoll it is always 0.
    """

    _instance_of_loop = "_whimbrel_clients"

    def __new__(cls, force_instance: bool = False, **kwargs: Any) -> Self:
        loop = current_loop()
        if force_instance or loop is None:
            instance = cls._make(kwargs)
            instance._private = force_instance
            return instance
        # The loop owns its clients, so that nothing of ours keeps a loop alive.
        shared: dict[Any, Any] | None = getattr(loop, cls._instance_of_loop, None)
        if shared is None:
            shared = {}
            setattr(loop, cls._instance_of_loop, shared)
        # AsyncHTTPClient() stays apart from the class that it is configured to make.
        key = (cls, cls.configured_class() if cls is AsyncHTTPClient else cls)
        found: Self | None = shared.get(key)
        if found is not None:
            if kwargs:  # their values come too late; a typing error shows all the same
                _check_arguments(type(found), kwargs)
        else:
            found = cls._make(kwargs)
            found._private = False
            found._shared_in = (shared, key)
            shared[key] = found
        return found

    @classmethod
    def _make(cls, kwargs: dict[str, Any]) -> Self:
        """Make an instance; a name that is not known is not left to `initialize` to complain of."""
        try:
            return super().__new__(cls, **kwargs)
        except TypeError:
            names = list(kwargs)
            kind: type[Any] = cls
            if cls is AsyncHTTPClient:
                kind = cls.configured_class()
                names += cls._save_configuration().kwargs or ()
            _check_arguments(kind, names)
            raise

    @classmethod
    def configure(cls, impl: type[Any] | str | None, **kwargs: Any) -> None:
        """Choose the backend, and arguments of the constructor, for the clients made from now on.

        `impl` is a class, its dotted name, ``"curl"`` or ``"simple"``, or None for the default.
        `kwargs` are passed to every client made through :class:`AsyncHTTPClient` itself, where the
        constructor's own arguments win, `defaults` as a whole. Each call replaces all that earlier
        calls have set.

        Raises ValueError for a class that is no AsyncHTTPClient, ImportError for a name that
        cannot be imported.
        """
        if isinstance(impl, str) and "." not in impl:
            if impl not in BACKENDS:
                raise ImportError(
                    f"there is no backend {impl!r}: use {' or '.join(map(repr, BACKENDS))}, a"
                    " class, or its dotted name"
                )
            impl = BACKENDS[impl]
        super().configure(impl, **kwargs)

    @classmethod
    def configurable_base(cls) -> type[Configurable]:
        return AsyncHTTPClient

    @classmethod
    def configurable_default(cls) -> type[Configurable]:
        # The one upward import: the interface knows where its default backend lives.
        try:
            from whimbrel.curl_httpclient import CurlAsyncHTTPClient
        except ImportError as error:
            return _without_libcurl(error)
        return CurlAsyncHTTPClient

    def initialize(
        self,
        *,
        max_clients: int = 10,
        defaults: Mapping[str, Any] | None = None,
        trust_env: bool = True,
        cookies: bool | CookieJar | None = None,
        max_body_size: int | None = None,
        max_buffer_size: int | None = None,
        max_header_size: int | None = None,
        hostname_mapping: Mapping[Any, Any] | None = None,
        resolver: Resolver | None = None,
        busy_poll: float = DEFAULT_SECONDS,
    ) -> None:
        """Set up an instance; arguments as for the class. Backends extend it."""
        # First, so that what follows may raise and __del__ still finds its attributes.
        self._closed = True
        self._private = False
        self._shared_in: tuple[dict[Any, Any], Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate: Gate | None = None
        self._wakeups: Wakeups | None = None
        self._clock: Callable[[], float]  # with the loop
        self._fetches: set[Fetch] = set()
        self._born = _loops.forks
        if isinstance(max_clients, bool) or not isinstance(max_clients, int) or max_clients < 1:
            raise ValueError(f"max_clients must be an int, 1 or more, not {max_clients!r}")
        self.max_clients = max_clients
        if defaults is not None and not isinstance(defaults, Mapping):
            raise ValueError(f"defaults must be a mapping, not {type(defaults).__name__}")
        given = {name: value for name, value in (defaults or {}).items() if value is not None}
        if "use_gzip" in given:
            given["decompress_response"] = given.pop("use_gzip")
        for name in given:
            if name == "url":
                raise ValueError("defaults holds 'url', which each request gives for itself")
            if name not in PARAMETERS:
                raise ValueError(
                    f"defaults holds {name!r}, which is no parameter of HTTPRequest"
                    f"{did_you_mean(str(name))}"
                )
        self.defaults: dict[str, Any] = {**BUILT_IN_DEFAULTS, **given}
        if max_buffer_size is None:
            max_buffer_size = 104857600
        byte_limit("max_buffer_size", max_buffer_size)
        if max_body_size is None:
            max_body_size = max_buffer_size
        self.max_body_size = byte_limit("max_body_size", max_body_size)
        if max_header_size is not None and not byte_limit("max_header_size", max_header_size):
            raise ValueError("max_header_size must be 1 or more bytes, or None")
        self.max_header_size = max_header_size
        trusts = flag("trust_env", trust_env)
        self._environment = EnvironmentProxies.from_environ(os.environ) if trusts else None
        if not self._environment:
            self._environment = None
        self._jar = make_jar(cookies)
        # Most fetches of most programs are plain: a URL, a method, perhaps header fields, a body of
        # bytes or a proxy, and the defaults. What `prepare` made of one holds for the next.
        self._plain = PlainRequests(
            # An override of a subclass's may write to what it gets.
            shares=getattr(type(self).fetch_impl, "takes_shared", False),
            learns=self._environment is None and self._jar is None,
        )
        self._cookie_header = None if self._jar is None else self._cookies_for
        self._address_book = address_book(hostname_mapping, resolver)
        self.busy_poll = busy_poll_seconds(busy_poll)
        self._closed = False

    def _completed(self, defaults: dict[str, Any]) -> dict[str, Any]:
        # `defaults` is public and may be changed at any time; "merge once" is per fetch.
        if "max_body_size" in defaults:
            return defaults
        return {"max_body_size": self.max_body_size, **defaults}

    def _cookies_for(self, url: URL) -> str | None:
        assert self._jar is not None
        return cookie_header(self._jar, url.href, is_secure=url.scheme == "https")

    @property
    def cookies(self) -> CookieJar | None:
        """The cookie jar, or None."""
        return self._jar

    @property
    def queue(self) -> Sequence[Any]:
        """The fetches that wait for a slot, longest first."""
        gate = self._gate
        # Those for whom a slot is free only wait for their turn.
        return [] if gate is None else tuple(gate.waiting)[gate.limit - gate.active :]

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Check that this client may be used here and now; return its loop."""
        loop = self._loop
        if (
            loop is not None
            # asyncio's own note of where it runs. Not get_running_loop(): Python 3.11 makes a
            # system call there. A loop of another make goes the long way.
            and getattr(loop, "_thread_id", None) == get_ident()
            and self._born == _loops.forks
            and not self._closed
        ):
            return loop  # nearly always
        if self._closed:
            raise RuntimeError("fetch() called on a closed AsyncHTTPClient")
        if self._born != _loops.forks:
            raise RuntimeError(
                "this AsyncHTTPClient was made before a fork and its connections belong to the"
                " parent process; make a new one in the child"
            )
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if loop is not None:
            # A loop that runs, but not here, runs in another thread.
            if running is not loop and (running is not None or loop.is_running()):
                raise RuntimeError(
                    "this AsyncHTTPClient belongs to another event loop; make one client per loop"
                )
            if loop.is_closed():
                raise RuntimeError("the event loop of this AsyncHTTPClient is closed")
            return loop
        loop = running or current_loop()
        if loop is None:
            # As in Tornado: a script may fetch before it has begun to run a loop. In another
            # thread that is more likely a client that belongs elsewhere.
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError(
                    "fetch() needs an event loop in this thread: call it from a coroutine, or make"
                    " a loop the current one first (asyncio.set_event_loop)"
                )
            loop = current_or_new_loop()
        self._wakeups = Wakeups(loop)
        self.open_on(loop)
        self._gate = Gate(loop, self.max_clients)
        self._clock = clock_of(loop)
        self._loop = loop  # bound now: what fails before may be tried again
        return loop

    def open_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once, before the first exchange, with the loop to use. For backends."""

    def fetch(
        self,
        request: str | HTTPRequest,
        callback: Callable[[HTTPResponse], None] | bool | None = None,
        raise_error: bool = True,
        **kwargs: Any,
    ) -> asyncio.Future[HTTPResponse]:
        """Execute a request; return a Future of its :class:`HTTPResponse`.

        `request` is an :class:`HTTPRequest`, or a URL with `kwargs` for one. A status outside
        2xx raises :class:`HTTPError` unless `raise_error` is False; other failures always raise.
        With `callback`, a plain function, it is called with the response, failed or not
        (:attr:`HTTPResponse.error` tells), and nothing is raised. In the place of `callback`, True
        or False is `raise_error`, which stands there since Tornado 6.

        Cancelling the future aborts the exchange at once.

        Raises RuntimeError on a closed client, ValueError for an HTTPRequest together with
        `kwargs`, TypeError for a `callback` that cannot be called or is a coroutine function;
        every other error comes through the future.
        """
        loop = self._bind()
        notify = None
        if callback is not None:
            if isinstance(callback, bool):
                raise_error = callback
            else:
                fault = fault_of_callback(callback)
                if fault is not None:
                    raise TypeError(f"callback {fault}")
                notify = callback
        if raise_error is not True and raise_error is not False:
            try:
                raise_error = flag("raise_error", raise_error)
            except ValueError as error:
                asked = request if isinstance(request, HTTPRequest) else HTTPRequest(request)
                fetch = Fetch(loop=loop)
                fetch.set_up(self, asked, notify, True)
                fetch._fail(error)
                return fetch
        plain = proxy = headers = None
        made: HTTPRequest | Asked
        if not kwargs and type(request) is str:
            made = request
            plain = self._plain.find_url(self.defaults, request)
        elif kwargs.keys() <= SHORT and type(request) is str:
            made = request, kwargs
            proxy, headers = kwargs.get("proxy"), kwargs.get("headers")
            if is_short(proxy, headers):
                plain = self._plain.find(self.defaults, "GET", request, proxy, headers, None)
        else:
            if isinstance(request, HTTPRequest):
                if kwargs:
                    raise ValueError("kwargs can't be used if request is an HTTPRequest object")
                made = request
            else:
                try:
                    made = HTTPRequest(request, **kwargs)
                except (TypeError, ValueError) as error:
                    fetch = Fetch(loop=loop)
                    fetch.set_up(self, HTTPRequest(request), notify, raise_error)
                    fetch._fail(explained(error, kwargs))
                    return fetch
            given = made.__dict__
            if is_plain(given) and type(made.method) is str and type(made.url) is str:
                proxy, headers = given.get("proxy"), given.get("headers")
                plain = self._plain.find(
                    self.defaults, made.method, made.url, proxy, headers, given.get("body")
                )
        fetch = Fetch(loop=loop)
        fetch.set_up(self, made, notify, raise_error)
        self._fetches.add(fetch)
        if plain is None:
            fetch.begin()
        else:
            fetch._proxy = proxy
            fetch._defaults = self._plain.defaults
            exchange, queue_timeout = plain
            fetch._fields = exchange.fields if headers else None
            fetch._body = exchange.body
            fetch._enter(exchange, queue_timeout)
        return fetch

    def stream(
        self, request: str | HTTPRequest, *, raise_error: bool = True, **kwargs: Any
    ) -> Stream:
        """Fetch a response whose body is read while it arrives::

            async with client.stream(url) as response:
                async for chunk in response:
                    ...

        Entering waits for status and headers and gives a :class:`StreamedResponse`. The transfer
        is paused while the reader is slow, and aborted when the block is left before the end.
        `request_timeout` covers the whole, `max_body_size` too: set both for large bodies.

        Raises what :meth:`fetch` raises: from entering the block until the header block has
        come, from the iteration afterwards.
        """

        def start() -> StreamReader:
            loop = self._bind()
            raises = flag("raise_error", raise_error)
            if isinstance(request, HTTPRequest):
                if kwargs:
                    raise ValueError("kwargs can't be used if request is an HTTPRequest object")
                made = request
            else:
                try:
                    made = HTTPRequest(request, **kwargs)
                except TypeError as error:
                    raise explained(error, kwargs) from None
            if made.streaming_callback is not None:
                raise ValueError("stream() and streaming_callback exclude each other")
            fetch = Fetch(loop=loop)
            fetch.set_up(self, made, None, False)
            fetch._sink = StreamReader(fetch, raises)
            self._fetches.add(fetch)
            fetch.begin()
            return fetch._sink

        return Stream(start)

    def fetch_impl(
        self, request: Exchange, callback: Callable[[HTTPResponse], None]
    ) -> Callable[[], None]:
        """Perform one request/response exchange: no queue, redirect, cookie or env proxy.

        Calls callback(response) exactly once, from the event loop, never from inside this call;
        a failure is a response of code 599 with its `error`. The returned abort() releases the
        exchange's socket, handle and timers at once; after it the callback is never called.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Abort what is in flight and free every file descriptor; may be called again.

        Fetches in flight end with :class:`HTTPStreamClosedError`.
        """
        if self._closed:
            return
        self._closed = True
        if self._shared_in is not None:
            shared, key = self._shared_in
            shared.pop(key, None)
            self._shared_in = None
        if self._born == _loops.forks and not (self._loop and self._loop.is_closed()):
            # The waiting first: an abort would hand them its slot.
            for fetch in sorted(self._fetches, key=lambda fetch: fetch._abort is not None):
                fetch._fail(HTTPStreamClosedError("the client was closed", retryable=False))
        self._fetches.clear()

    async def __aenter__(self) -> Self:
        if not self._private:
            raise RuntimeError(
                "async with needs a client of its own: AsyncHTTPClient(force_instance=True)"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._private and self._born == _loops.forks:
            warnings.warn(
                f"unclosed {self!r}: call close(), or use it in async with",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._fetches)} in flight"
        return f"<{type(self).__name__} [{state}, max_clients={self.max_clients}]>"


class HTTPClient:
    """A blocking HTTP client, for scripts and tests.

    Runs an :class:`AsyncHTTPClient` of its own on a private event loop; where a loop is running
    in the calling thread (in Jupyter, for instance) it runs that private loop in another thread
    and waits. `async_client_class` None is the configured class; `kwargs` go to its constructor.
    """

    def __init__(
        self, async_client_class: type[AsyncHTTPClient] | None = None, **kwargs: Any
    ) -> None:
        self._closed = True
        self._loop = PrivateLoop()

        async def make() -> AsyncHTTPClient:
            kind = AsyncHTTPClient if async_client_class is None else async_client_class
            return kind(force_instance=True, **kwargs)

        try:
            self._client = self._loop.run(make)
        except BaseException:
            self._loop.close()
            raise
        self._closed = False

    def fetch(self, request: str | HTTPRequest, **kwargs: Any) -> HTTPResponse:
        """Execute a request; return its :class:`HTTPResponse`.

        `kwargs` go to :class:`HTTPRequest` where `request` is a URL; ``raise_error=False``
        returns responses whose status is not 2xx. Raises what
        :meth:`AsyncHTTPClient.fetch` raises.
        """
        if self._closed:
            raise RuntimeError("fetch() called on a closed HTTPClient")

        async def fetch() -> HTTPResponse:
            return await self._client.fetch(request, **kwargs)

        return self._loop.run(fetch)

    def close(self) -> None:
        """Free the client and its loop; may be called again."""
        if self._closed:
            return
        self._closed = True

        async def close() -> None:
            self._client.close()
            await asyncio.get_running_loop().shutdown_asyncgens()

        self._loop.run(close)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}: call close()", ResourceWarning, stacklevel=1)


def main() -> NoReturn:
    """The command line of ``python -m whimbrel.httpclient``: Tornado's flags."""
    from whimbrel.cli import tornado_main

    sys.exit(tornado_main())


for _name in __all__:
    # Where programs have them from: tracebacks and pickles name it.
    globals()[_name].__module__ = __name__


if __name__ == "__main__":
    main()
