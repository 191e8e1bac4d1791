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
import datetime
import inspect
import logging
import os
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextvars import Context, copy_context
from io import BytesIO
from threading import get_ident
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar

from whimbrel import _loops
from whimbrel._backends import BACKENDS
from whimbrel._busy_poll import DEFAULT_SECONDS, busy_poll_seconds
from whimbrel._loops import PrivateLoop, clock_of, current_loop, current_or_new_loop
from whimbrel._policy.cookies import cookie_header, make_jar, store_cookies
from whimbrel._policy.decoding import is_decodable
from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.exchange import Exchange, lacks_address, prepare
from whimbrel._policy.fields import headers_of
from whimbrel._policy.gate import Gate
from whimbrel._policy.options import merge_options
from whimbrel._policy.plain import PlainRequests
from whimbrel._policy.redirects import REDIRECT_CODES, follow_up, is_redirect
from whimbrel._policy.resolving import Resolver, address_book
from whimbrel._policy.timeouts import queue_limit
from whimbrel._policy.urls import URL, redact
from whimbrel._policy.values import byte_limit, fault_of_callback, flag
from whimbrel._streaming import ChunkQueue
from whimbrel._version import __version__
from whimbrel._wakeups import Callbacks, Wakeups
from whimbrel.httputil import HTTPHeaders, responses
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

# How much decoded body may wait for the reader of a stream before the transfer is paused.
STREAM_BUFFER = 256 * 1024


# ---------------------------------------------------------------------------------------------
# Errors


class HTTPError(Exception):
    """A response whose status is not 2xx, or, with code 599, no response at all.

    `code` is the status; `message` defaults to the reason phrase; `response` is the
    :class:`HTTPResponse`, None for 599.
    """

    stage: str | None = None
    """Where it failed: "queue", "dns", "proxy-connect", "proxy-auth", "tunnel", "connect",
    "tls", "send", "response" or "body"; None where a whole response came."""
    retryable: bool = False
    """True where the same request may be sent again without being carried out twice."""
    proxy: str | None = None
    """The proxy's URL without credentials, None if there was none."""
    proxy_code: int | None = None
    """The proxy's own status, from its answer to CONNECT or a 407."""

    def __init__(
        self, code: int, message: str | None = None, response: HTTPResponse | None = None
    ) -> None:
        self.code = code
        self.message = message or responses.get(code, "Unknown")
        self.response = response
        # Straight to Exception: the built-in halves of subclasses want other arguments.
        Exception.__init__(self, code, message, response)

    def __str__(self) -> str:
        return f"HTTP {self.code}: {_printable(self.message)}"

    # HTTPError is old enough to be pickled; stage and proxy must come along.
    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (type(self), self.code, self.message, self.response), self.__dict__


HTTPClientError = HTTPError


def _rebuild_error(kind: type[HTTPError], *args: Any) -> HTTPError:
    error = kind.__new__(kind)
    HTTPError.__init__(error, *args)
    return error


class _NoResponse(HTTPError):
    """An HTTPError of code 599: `str()` is the message alone."""

    def __init__(
        self,
        message: str,
        *,
        stage: str | None = None,
        retryable: bool = False,
        response: HTTPResponse | None = None,
    ) -> None:
        HTTPError.__init__(self, 599, message, response)
        self.stage = stage
        self.retryable = retryable

    def __str__(self) -> str:
        return _printable(self.message)

    def __repr__(self) -> str:
        return f"HTTP 599: {_printable(self.message)}"


class HTTPTimeoutError(_NoResponse, TimeoutError):
    """A deadline passed: queue_timeout, connect_timeout, request_timeout or stall_timeout."""


class HTTPResolveError(_NoResponse, socket.gaierror):
    """The name of the origin has no address."""


class HTTPConnectError(_NoResponse, ConnectionError):
    """No connection to the origin could be made (or the interface cannot be used)."""


class HTTPConnectionRefusedError(HTTPConnectError, ConnectionRefusedError):
    """The origin refused the connection; ``errno`` is ``errno.ECONNREFUSED``."""


class HTTPProxyError(_NoResponse, ConnectionError):
    """The proxy could not be reached, or did not let the request through."""


class HTTPTLSError(_NoResponse, ssl.SSLError):
    """The TLS handshake failed: the certificate was not accepted, by one side or the other."""


class HTTPStreamClosedError(_NoResponse, ConnectionError):
    """The peer closed the connection, or the client was closed, before the response was whole."""


class HTTPProtocolError(_NoResponse):
    """The reply is malformed, or was cut short."""


class HTTPLimitError(_NoResponse):
    """The reply passed max_body_size or max_header_size."""


class HTTPRedirectError(HTTPError, ValueError):
    """A redirect that cannot be followed; `code` and `response` are those of the 3xx."""

    def __str__(self) -> str:
        return f"HTTP {self.code}: {_printable(self.message)}"


def _printable(text: str) -> str:
    """Escape what a peer may have put into a text that is printed (control bytes)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---------------------------------------------------------------------------------------------
# Requests


class HTTPRequest:
    """An HTTP request; all parameters but `url` are optional, and None means "not given".

    A parameter that is not given comes from the client's ``defaults``, then from the built-in
    default named here.

    :param str url: absolute http or https URL. User information in it is used as `auth_username`
        and `auth_password`; non-ASCII hosts are encoded by UTS #46.
    :param str method: "GET" (default), "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS".
    :param headers: `HTTPHeaders` or a mapping of str to str or bytes (Latin-1).
    :param body: bytes, str (sent as UTF-8), or an iterable or async iterable of bytes. Without a
        Content-Type of yours, POST says ``application/x-www-form-urlencoded``, as in Tornado, and
        PUT and PATCH say nothing.
    :param str auth_username: user name for `auth_mode`.
    :param str auth_password: password; "" where only the user name is given.
    :param str auth_mode: "basic" (default), "digest", "bearer" (with `auth_token`) or
        "negotiate" (Kerberos; curl backend only). "basic" and "digest" without a user name, from
        here or the URL, ask for nothing.
    :param float connect_timeout: seconds for name look-up, TCP, proxy and TLS of one hop
        together; 20.0, 0 for no limit (CURLOPT_CONNECTTIMEOUT_MS).
    :param float request_timeout: seconds for the whole fetch, queue and redirects included;
        20.0, 0 for no limit (CURLOPT_TIMEOUT_MS).
    :param if_modified_since: datetime (naive is UTC) or seconds since 1970: If-Modified-Since.
    :param bool follow_redirects: follow 301, 302, 303, 307, 308 with a Location; True.
    :param int max_redirects: how many are followed; 5.
    :param str user_agent: ``whimbrel/<version>``.
    :param bool use_gzip: Tornado's old name of `decompress_response`.
    :param str network_interface: name or address of the local end (CURLOPT_INTERFACE).
    :param streaming_callback: called with each piece of the decoded body; the response's body is
        then empty. If it returns an awaitable, the transfer is paused until that is done.
    :param header_callback: called with each header line (str, CRLF included), status line first,
        ``"\\r\\n"`` last, before any of the body; of redirects only for the final response.
    :param prepare_curl_callback: called with the ``pycurl.Curl`` object for further ``setopt``
        calls; curl backend only.
    :param str proxy_host: with `proxy_port`: Tornado's way of naming an HTTP proxy.
    :param int proxy_port: see `proxy_host`.
    :param str proxy_username: user name for the proxy, whatever names it; no effect without one.
    :param str proxy_password: password for the proxy.
    :param str proxy_auth_mode: "basic" (default), "digest" or "negotiate" (curl backend only).
    :param bool allow_nonstandard_methods: allow any method, with or without a body.
    :param bool validate_cert: verify the origin's certificate and name; True.
    :param ca_certs: name of a PEM file, or the PEM bytes; None is the system's set, or certifi's.
    :param bool allow_ipv6: use IPv6 addresses too; True.
    :param str client_key: name of the PEM file of the client certificate's key.
    :param str client_cert: name of the PEM file of the client certificate.
    :param body_producer: called with ``write``; plain, coroutine or anything awaitable.
        ``write(data)`` returns an awaitable for flow control. Chunked unless the headers give
        Content-Length.
    :param bool expect_100_continue: send ``Expect: 100-continue``, and the body only after 100.
    :param bool decompress_response: ask for compressed bodies and decode them; True.
    :param ssl_options: `ssl.SSLContext`, or a dict of ``certfile``, ``keyfile``, ``ca_certs``,
        ``cert_reqs``, ``ciphers``. Overrides the four TLS parameters above.
    :param params: query arguments (mapping or pairs), appended to the URL. A value is str, bytes,
        a number, or a list of them, which repeats the name.
    :param json: an object; sent as JSON with its Content-Type.
    :param form: like `params`; sent as ``application/x-www-form-urlencoded``.
    :param proxy: ``scheme://[user:password@]host:port`` with http, https, socks4, socks4a,
        socks5 or socks5h; False connects directly; None reads the environment.
    :param proxy_ssl: like `ssl_options`, for the hop to an https proxy.
    :param str auth_token: for `auth_mode` "bearer".
    :param str http_version: "1.1", "2", "2-prior-knowledge", "3" (falls back) or "3-only"; None
        lets TLS choose between 1.1 and 2. On the simple backend it is 1.1, and only that can be
        asked for.
    :param float queue_timeout: seconds in the queue; None is the smaller of `connect_timeout`
        and `request_timeout`, 0 no limit of its own.
    :param float stall_timeout: seconds without a byte before a transfer is given up; 0, the
        default, is never.
    :param int max_body_size: decoded bytes of a response body, 104857600; 0 is no limit.
    :param str unix_socket: path of a Unix socket to connect to (CURLOPT_UNIX_SOCKET_PATH).

    Values are checked when the request is fetched. The object may be used again.
    """

    def __init__(
        self,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str | bytes] | HTTPHeaders | None = None,
        body: bytes | str | Iterable[bytes] | AsyncIterable[bytes] | None = None,
        auth_username: str | None = None,
        auth_password: str | None = None,
        auth_mode: str | None = None,
        connect_timeout: float | None = None,
        request_timeout: float | None = None,
        if_modified_since: float | datetime.datetime | None = None,
        follow_redirects: bool | None = None,
        max_redirects: int | None = None,
        user_agent: str | None = None,
        use_gzip: bool | None = None,
        network_interface: str | None = None,
        streaming_callback: Callable[[bytes], object] | None = None,
        header_callback: Callable[[str], object] | None = None,
        prepare_curl_callback: Callable[[Any], None] | None = None,
        proxy_host: str | None = None,
        proxy_port: int | None = None,
        proxy_username: str | None = None,
        proxy_password: str | None = None,
        proxy_auth_mode: str | None = None,
        allow_nonstandard_methods: bool | None = None,
        validate_cert: bool | None = None,
        ca_certs: str | os.PathLike[str] | bytes | None = None,
        allow_ipv6: bool | None = None,
        client_key: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        body_producer: Callable[[Callable[[bytes], Awaitable[None]]], Any] | None = None,
        expect_100_continue: bool = False,
        decompress_response: bool | None = None,
        ssl_options: dict[str, Any] | ssl.SSLContext | None = None,
        *,
        params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        proxy: str | Literal[False] | None = None,
        proxy_ssl: dict[str, Any] | ssl.SSLContext | None = None,
        auth_token: str | None = None,
        http_version: str | None = None,
        queue_timeout: float | None = None,
        stall_timeout: float | None = None,
        max_body_size: int | None = None,
        unix_socket: str | None = None,
    ) -> None:
        # Only what is given is stored (the class holds None for the rest): then merging the
        # defaults is one dict display, and a plain request stays small.
        self.url = url
        self.method = method
        # fmt: off
        if headers is not None: self.headers = headers
        if body is not None: self.body = body
        if auth_username is not None: self.auth_username = auth_username
        if auth_password is not None: self.auth_password = auth_password
        if auth_mode is not None: self.auth_mode = auth_mode
        if connect_timeout is not None: self.connect_timeout = connect_timeout
        if request_timeout is not None: self.request_timeout = request_timeout
        if if_modified_since is not None: self.if_modified_since = if_modified_since
        if follow_redirects is not None: self.follow_redirects = follow_redirects
        if max_redirects is not None: self.max_redirects = max_redirects
        if user_agent is not None: self.user_agent = user_agent
        if use_gzip is not None: self.decompress_response = use_gzip
        if network_interface is not None: self.network_interface = network_interface
        if streaming_callback is not None: self.streaming_callback = streaming_callback
        if header_callback is not None: self.header_callback = header_callback
        if prepare_curl_callback is not None: self.prepare_curl_callback = prepare_curl_callback
        if proxy_host is not None: self.proxy_host = proxy_host
        if proxy_port is not None: self.proxy_port = proxy_port
        if proxy_username is not None: self.proxy_username = proxy_username
        if proxy_password is not None: self.proxy_password = proxy_password
        if proxy_auth_mode is not None: self.proxy_auth_mode = proxy_auth_mode
        if allow_nonstandard_methods is not None:
            self.allow_nonstandard_methods = allow_nonstandard_methods
        if validate_cert is not None: self.validate_cert = validate_cert
        if ca_certs is not None: self.ca_certs = ca_certs
        if allow_ipv6 is not None: self.allow_ipv6 = allow_ipv6
        if client_key is not None: self.client_key = client_key
        if client_cert is not None: self.client_cert = client_cert
        if body_producer is not None: self.body_producer = body_producer
        if expect_100_continue: self.expect_100_continue = expect_100_continue
        if decompress_response is not None: self.decompress_response = decompress_response
        if ssl_options is not None: self.ssl_options = ssl_options
        if params is not None: self.params = params
        if json is not None: self.json = json
        if form is not None: self.form = form
        if proxy is not None: self.proxy = proxy
        if proxy_ssl is not None: self.proxy_ssl = proxy_ssl
        if auth_token is not None: self.auth_token = auth_token
        if http_version is not None: self.http_version = http_version
        if queue_timeout is not None: self.queue_timeout = queue_timeout
        if stall_timeout is not None: self.stall_timeout = stall_timeout
        if max_body_size is not None: self.max_body_size = max_body_size
        if unix_socket is not None: self.unix_socket = unix_socket
        # fmt: on
        self.start_time = time()

    @classmethod
    def _plain(cls, url: str, start_time: float) -> HTTPRequest:
        """``HTTPRequest(url)``, without looking at forty parameters that were not given."""
        request = cls.__new__(cls)
        request.url = url
        request.method = "GET"
        request.start_time = start_time
        return request

    # Instances store under these names what was given; a read of the rest finds None here.
    auth_username: str | None = None
    auth_password: str | None = None
    auth_mode: str | None = None
    connect_timeout: float | None = None
    request_timeout: float | None = None
    if_modified_since: float | datetime.datetime | None = None
    follow_redirects: bool | None = None
    max_redirects: int | None = None
    user_agent: str | None = None
    network_interface: str | None = None
    streaming_callback: Callable[[bytes], object] | None = None
    header_callback: Callable[[str], object] | None = None
    prepare_curl_callback: Callable[[Any], None] | None = None
    proxy_host: str | None = None
    proxy_port: int | None = None
    proxy_username: str | None = None
    proxy_password: str | None = None
    proxy_auth_mode: str | None = None
    allow_nonstandard_methods: bool | None = None
    validate_cert: bool | None = None
    ca_certs: str | os.PathLike[str] | bytes | None = None
    allow_ipv6: bool | None = None
    client_key: str | os.PathLike[str] | None = None
    client_cert: str | os.PathLike[str] | None = None
    body_producer: Callable[[Callable[[bytes], Awaitable[None]]], Any] | None = None
    expect_100_continue: bool = False
    decompress_response: bool | None = None
    ssl_options: dict[str, Any] | ssl.SSLContext | None = None
    params: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None
    json: Any = None
    form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None
    proxy: str | Literal[False] | None = None
    proxy_ssl: dict[str, Any] | ssl.SSLContext | None = None
    auth_token: str | None = None
    http_version: str | None = None
    queue_timeout: float | None = None
    stall_timeout: float | None = None
    max_body_size: int | None = None
    unix_socket: str | None = None

    @property
    def headers(self) -> Any:
        """The headers given; a new, empty `HTTPHeaders` if none were."""
        found = self.__dict__.get("headers")
        if found is None:
            found = self.__dict__["headers"] = HTTPHeaders()
        return found

    @headers.setter
    def headers(self, value: Any) -> None:
        self.__dict__["headers"] = HTTPHeaders() if value is None else value

    @property
    def body(self) -> Any:
        """The body: bytes (a str is encoded as UTF-8), an iterable of bytes, or None."""
        return self.__dict__.get("body")

    @body.setter
    def body(self, value: Any) -> None:
        self.__dict__["body"] = value.encode() if isinstance(value, str) else value

    def __repr__(self) -> str:
        url = redact(self.url) if isinstance(self.url, str) else type(self.url)
        return f"{type(self).__name__}({self.method!r}, {url!r})"


_BUILT_IN_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 20.0,
    "request_timeout": 20.0,
    "follow_redirects": True,
    "max_redirects": 5,
    "user_agent": f"whimbrel/{__version__}",
}


def _is_plain(given: dict[str, Any]) -> bool:
    """Whether a request stores nothing but url, method and start_time, and maybe header fields, a
    body of bytes and a proxy's URL."""
    more = len(given) - 3
    if more:
        # Any other mapping may answer differently each time, or raise.
        more -= type(given.get("headers")) in (dict, HTTPHeaders)
        more -= type(given.get("body")) is bytes
        more -= type(given.get("proxy")) is str
    return not more and "start_time" in given and "method" in given


_SHORT = frozenset(("headers", "proxy"))
"""Parameters that an HTTPRequest stores as they are given."""

_PARAMETERS = frozenset(
    HTTPRequest.__init__.__code__.co_varnames[1 : HTTPRequest.__init__.__code__.co_argcount]
    + HTTPRequest.__init__.__code__.co_varnames[
        HTTPRequest.__init__.__code__.co_argcount : HTTPRequest.__init__.__code__.co_argcount
        + HTTPRequest.__init__.__code__.co_kwonlyargcount
    ]
)


# What other libraries call it, for programs that come from there.
_ELSEWHERE = {
    "allow_redirects": "follow_redirects",
    "auth": "auth_username and auth_password",
    "cert": "client_cert",
    "content": "body",
    "data": "body or form",
    "proxies": "proxy",
    "timeout": "request_timeout",
    "verify": "validate_cert",
}


def _did_you_mean(name: str, known: Iterable[str] = _PARAMETERS) -> str:
    """``"; did you mean …?"`` for a name that is not known, "" where nothing comes close."""
    import difflib

    # Or the beginning of one: "requst" is meant to be request_timeout.
    begun = {full[: len(name) + 1]: full for full in sorted(known, reverse=True)}
    meant = difflib.get_close_matches(name, known, 1) or [
        begun[start] for start in difflib.get_close_matches(name, begun, 1, 0.8)
    ]
    if known is _PARAMETERS and name in _ELSEWHERE:
        meant = [_ELSEWHERE[name]]
    return f"; did you mean {meant[0]}?" if meant else ""


def _explained(error: Exception, kwargs: Mapping[str, Any]) -> Exception:
    """The error of HTTPRequest(url, **kwargs), with more to say of a name that it does not know."""
    for name in kwargs:
        if name not in _PARAMETERS:
            return TypeError(
                f"HTTPRequest() got an unexpected keyword argument {name!r}{_did_you_mean(name)}"
            )
    return error


# ---------------------------------------------------------------------------------------------
# Responses


class HTTPResponse:
    """An HTTP response.

    Attributes: `request` (the caller's :class:`HTTPRequest`), `code`, `reason`, `headers`
    (:class:`~whimbrel.httputil.HTTPHeaders`), `effective_url` (after redirects), `buffer`
    (BytesIO at 0), `body` (bytes; ``b""`` without one), `text`, `error` (an exception, or None
    for a 2xx), `request_time` (seconds from the start to the end, without the queue),
    `start_time` (wall clock), `time_info` (seconds: queue, namelookup, connect, appconnect,
    pretransfer, starttransfer, total, redirect), `history` (the redirects that led here),
    `http_version` ("1.0", "1.1", "2" or "3"), `remote_address` and `local_address` (host and
    port), `connection_id`, `reused` (whether the connection had served before), `proxy` (URL
    without credentials), `proxy_code` and `proxy_headers` (of the proxy's answer to CONNECT).

    Headers, body, reason and timings are worked out when they are first looked at.
    """

    # Slots, because one is made for every request. What was never set is answered by __getattr__:
    # a default, or what is worked out on demand, from what a backend leaves for later: the final
    # header block, as it came (_block) or cut into lines (_lines), timings (_times), and the URL
    # that was all there was to the request (_url).
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_block",
        "_decoded",
        "_lines",
        "_times",
        "_url",
        "body",
        "buffer",
        "code",
        "connection_id",
        "effective_url",
        "error",
        "headers",
        "history",
        "http_version",
        "local_address",
        "proxy",
        "proxy_code",
        "proxy_headers",
        "queue_time",
        "reason",
        "redirect_time",
        "remote_address",
        "request",
        "request_time",
        "reused",
        "start_time",
        "time_info",
    )

    _block: bytes
    _decoded: bool
    _lines: Sequence[bytes]
    _times: tuple[float, ...] | None
    _url: str

    request: HTTPRequest
    code: int
    headers: HTTPHeaders
    buffer: BytesIO
    body: bytes
    reason: str
    effective_url: str
    error: BaseException | None
    request_time: float | None
    start_time: float | None
    queue_time: float
    redirect_time: float
    time_info: dict[str, float]
    history: Sequence[HTTPResponse]
    http_version: str | None
    remote_address: tuple[str, int] | None
    local_address: tuple[str, int] | None
    connection_id: int | None
    reused: bool
    proxy: str | None
    proxy_code: int | None
    proxy_headers: HTTPHeaders | None

    def __init__(
        self,
        request: HTTPRequest,
        code: int,
        headers: HTTPHeaders | None = None,
        buffer: BytesIO | None = None,
        effective_url: str | None = None,
        error: BaseException | None = None,
        request_time: float | None = None,
        time_info: dict[str, float] | None = None,
        reason: str | None = None,
        start_time: float | None = None,
    ) -> None:
        self.request = request
        self.code = code
        self.headers = headers if headers is not None else HTTPHeaders()
        if buffer is not None:
            self.buffer = buffer
        self.effective_url = request.url if effective_url is None else effective_url
        self.request_time = request_time
        self.time_info = time_info or {}
        self.reason = reason or responses.get(code, "Unknown")
        self.start_time = start_time
        if error is not None:
            self.error = error
        elif code < 200 or code >= 300:
            self.error = HTTPError(code, self.reason, self)

    @classmethod
    def failed(cls, error: BaseException, effective_url: str) -> HTTPResponse:
        """A backend's answer where there is none: code 599, and the error."""
        response = cls.__new__(cls)
        response.code = 599
        response.error = error
        response.effective_url = effective_url
        response.body = b""
        return response

    if not TYPE_CHECKING:  # or every misspelt attribute would pass the type checker

        def __getattr__(self, name: str) -> Any:
            if name in _DEFAULTS:
                return _DEFAULTS[name]
            work_out = _ON_DEMAND.get(name)
            if work_out is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = work_out(self)
            setattr(self, name, value)
            return value

    def _parse_headers(self) -> HTTPHeaders:
        head = self._block
        headers = HTTPHeaders.from_head(head) if head else HTTPHeaders.from_lines(self._lines[1:])
        if self._decoded:
            # What the fields told of is gone with the encoding.
            encodings = headers.get_list("Content-Encoding")
            if encodings:
                del headers["Content-Encoding"]
                for encoding in encodings:
                    headers.add("X-Consumed-Content-Encoding", encoding)
                if "Content-Length" in headers:
                    del headers["Content-Length"]
        return headers

    def _find_body(self) -> bytes:
        try:
            buffer = _BUFFER.__get__(self)
        except AttributeError:
            return b""  # nothing was set
        body: bytes = buffer.getvalue()
        return body

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # What was set, and no more: object's own would work out the rest. But for the request, of
        # which a copy has the same.
        getattr(self, "request", None)
        state = {}
        for name in HTTPResponse.__slots__[2:]:
            try:
                state[name] = getattr(HTTPResponse, name).__get__(self)
            except AttributeError:
                pass
        return dict(self.__dict__), state

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(max(int(protocol), 2))  # the first that knows slots

    def _make_request(self) -> HTTPRequest:
        return HTTPRequest._plain(self._url, self.start_time or 0.0)

    def _find_reason(self) -> str:
        if self._lines:
            parts = self._lines[0].rstrip(b"\r\n").split(b" ", 2)
            if len(parts) == 3 and parts[2].strip():
                return parts[2].strip().decode("latin-1")
        return responses.get(self.code, "Unknown")

    def _name_times(self) -> dict[str, float]:
        info = {"queue": self.queue_time, "redirect": self.redirect_time}
        if self._times is not None:
            info.update(zip(_TIMINGS, self._times, strict=True))
        return info

    @property
    def text(self) -> str:
        """The body as str, by the charset of Content-Type, else UTF-8; undecodable bytes become
        U+FFFD."""
        charset = "utf-8"
        for parameter in self.headers.get("Content-Type", "").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                charset = value.strip().strip("\"'")
        try:
            return self.body.decode(charset, "replace")
        except (LookupError, ValueError):
            # Unknown, or one of Python's codecs that are no character sets ("idna", "undefined").
            return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body parsed as JSON (RFC 8259: UTF-8, 16 or 32). Raises ValueError if it is not."""
        import json

        return json.loads(self.body)

    def rethrow(self) -> None:
        """Raise :attr:`error` if there is one."""
        if self.error is not None:
            raise self.error

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(code={self.code}, reason={self.reason!r},"
            f" effective_url={redact(self.effective_url)!r}, request_time={self.request_time})"
        )


_BUFFER: Any = HTTPResponse.__dict__["buffer"]  # the slot

_TIMINGS = ("namelookup", "connect", "appconnect", "pretransfer", "starttransfer", "total")

_DEFAULTS: dict[str, Any] = {
    "_block": b"",
    "_decoded": False,
    "_times": None,
    "connection_id": None,
    "error": None,
    "history": (),
    "http_version": None,
    "local_address": None,
    "proxy": None,
    "proxy_code": None,
    "proxy_headers": None,
    "queue_time": 0.0,
    "redirect_time": 0.0,
    "remote_address": None,
    "request_time": None,
    "reused": False,
    "start_time": None,
}
"""Of a response's attributes, what those are that were not set."""

_ON_DEMAND: dict[str, Callable[[HTTPResponse], Any]] = {
    "_lines": lambda response: response._block.splitlines(True),
    "body": HTTPResponse._find_body,
    "buffer": lambda response: BytesIO(response.body),
    "headers": HTTPResponse._parse_headers,
    "reason": HTTPResponse._find_reason,
    "request": HTTPResponse._make_request,
    "time_info": HTTPResponse._name_times,
}
"""And what is worked out at the first look."""


class StreamedResponse(HTTPResponse):
    """A response whose body is read while it arrives; see :meth:`AsyncHTTPClient.stream`.

    Iterate over it (``async for chunk in response``) or call :meth:`read`; `body` stays empty.
    The transfer is paused while more than 256 KiB wait to be read. Timings are those of the
    start until the body has ended.
    """

    __slots__ = ()

    _chunks: ChunkQueue

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def read(self) -> bytes:
        """Return the rest of the body."""
        return b"".join([chunk async for chunk in self._chunks])


_KNOWN_AT_THE_END = (
    "_times",
    "connection_id",
    "http_version",
    "local_address",
    "proxy_code",
    "proxy_headers",
    "queue_time",
    "redirect_time",
    "remote_address",
    "request_time",
    "reused",
)


class _StreamReader:
    """Between a fetch that delivers chunks and the coroutine that reads them."""

    def __init__(self, fetch: _Fetch, raise_error: bool) -> None:
        self._fetch = fetch
        self._raise_error = raise_error
        self._chunks = ChunkQueue(fetch.get_loop(), STREAM_BUFFER)
        self._response: StreamedResponse | None = None
        self.on_data = self._chunks.put
        fetch.add_done_callback(self._done)

    def on_head(self, response: HTTPResponse) -> None:
        """The fetch has status and headers."""
        response.__class__ = StreamedResponse
        assert isinstance(response, StreamedResponse)
        response._chunks = self._chunks
        self._response = response
        self._chunks.wake()

    def _done(self, fetch: asyncio.Future[HTTPResponse]) -> None:
        failure = None if fetch.cancelled() else fetch.exception()
        self._chunks.end(failure)

    def on_end(self, final: HTTPResponse) -> None:
        """The body is whole; `final` knows what the head did not: timings and addresses."""
        if self._response is not None:
            for name in _KNOWN_AT_THE_END:
                setattr(self._response, name, getattr(final, name))
            self._response.time_info = final.time_info

    async def start(self) -> StreamedResponse:
        """Wait for the head."""
        await self._chunks.changed(lambda: self._response is not None)
        response = self._response
        assert response is not None
        error = _status_error(response)
        if error is not None and self._raise_error:
            raise error
        return response

    def leave(self) -> None:
        """Abort the transfer if it still runs."""
        self._chunks.abandon()
        self._fetch.cancel()


def _status_error(response: HTTPResponse) -> HTTPError | None:
    """Set and return the error of a response whose status is not 2xx."""
    code = response.code
    if 200 <= code < 300:
        return None
    response.error = error = HTTPError(code, response.reason, response)
    error.proxy = response.proxy
    if code == 407 and response.proxy is not None:
        error.stage = "proxy-auth"
        error.proxy_code = code
    return error


def _check_address(exchange: Exchange) -> None:
    if lacks_address(exchange.profile, exchange.url):
        raise HTTPResolveError(
            f"[{exchange.url.host}] is an IPv6 address and allow_ipv6 is False", stage="dns"
        )


def _is_of_status(error: BaseException, code: int) -> bool:
    """Whether it says no more than that status does: `HTTPResponse` makes one of its own."""
    return isinstance(error, HTTPError) and error.code == code


def _check_max_redirects(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"max_redirects must be an int, 0 or more, not {value!r}")


class _Stream:
    """The context manager that :meth:`AsyncHTTPClient.stream` returns."""

    def __init__(self, start: Callable[[], _StreamReader]) -> None:
        self._start = start
        self._reader: _StreamReader | None = None

    async def __aenter__(self) -> StreamedResponse:
        if self._reader is not None:
            raise RuntimeError("a stream can be entered once")
        self._reader = self._start()
        try:
            return await self._reader.start()
        except BaseException:
            self._reader.leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._reader is not None
        self._reader.leave()

    def __await__(self) -> Generator[Any, None, NoReturn]:
        raise TypeError(
            "a stream is entered, not awaited: async with client.stream(...) as response"
        )


# ---------------------------------------------------------------------------------------------
# The pipeline


_set_result = asyncio.Future.set_result


class _Fetch(asyncio.Future[HTTPResponse]):
    """One `fetch()`: the future that the caller awaits, and the state behind it.

    gate → prepare → fetch_impl → redirect? → result. Being the future itself, it needs no task,
    and a cancellation reaches the backend inside ``cancel()``, not an iteration later.
    """

    # Not the names of asyncio.Future's own attributes (_callbacks, _state, _result, …).
    __slots__ = (
        "_abort",
        "_asked",
        "_client",
        "_clock",
        "_deadline",
        "_defaults",
        "_enqueued",
        "_exchange",
        "_has_headers",
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
        request: HTTPRequest | str,
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
        self._sink: _StreamReader | None = None
        self._exchange: Exchange | None = None
        self._options: dict[str, Any] | None = None
        self._proxy: str | None = None  # of a plain request, which has these:
        self._has_headers: bool
        self._defaults: dict[str, Any]
        self._wall = time()
        self._clock = clock = client._clock
        self._enqueued = self._started = clock()

    @property
    def _request(self) -> HTTPRequest:
        """What was asked for; of a URL alone it is made when somebody wants to see it."""
        asked = self._asked
        if isinstance(asked, str):
            asked = self._asked = HTTPRequest._plain(asked, self._wall)
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
        if _is_plain(request.__dict__) and self._sink is None:
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
                # With what was added to them.
                "headers": headers_of(exchange.fields) if self._has_headers else None,
                "body": exchange.body if exchange.profile.body == "bytes" else None,
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
        if error is not None and (code == 599 or not _is_of_status(error, code)):
            self._fail(error)
            return
        if self._client._jar is not None:
            self._keep_cookies(response.effective_url, response.headers)
        if 300 <= code < 400 and self._is_redirected(response):
            return
        asked = self._asked
        if type(asked) is str:
            response._url = asked
        else:
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
        error = None if 200 <= code < 300 else _status_error(response)
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


# ---------------------------------------------------------------------------------------------
# Clients


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
                f"{_did_you_mean(name, known)}"
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
        self._fetches: set[_Fetch] = set()
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
            if name not in _PARAMETERS:
                raise ValueError(
                    f"defaults holds {name!r}, which is no parameter of HTTPRequest"
                    f"{_did_you_mean(str(name))}"
                )
        self.defaults: dict[str, Any] = {**_BUILT_IN_DEFAULTS, **given}
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
                fetch = _Fetch(loop=loop)
                fetch.set_up(self, asked, notify, True)
                fetch._fail(error)
                return fetch
        plain = proxy = headers = None
        made: HTTPRequest | str
        if not kwargs and type(request) is str:
            made = request
            plain = self._plain.find_url(self.defaults, request)
        else:
            if isinstance(request, HTTPRequest):
                if kwargs:
                    raise ValueError("kwargs can't be used if request is an HTTPRequest object")
                made = request
            elif kwargs.keys() <= _SHORT and type(request) is str:
                made = HTTPRequest._plain(request, time())
                made.__dict__.update(
                    {name: value for name, value in kwargs.items() if value is not None}
                )
            else:
                try:
                    made = HTTPRequest(request, **kwargs)
                except (TypeError, ValueError) as error:
                    fetch = _Fetch(loop=loop)
                    fetch.set_up(self, HTTPRequest(request), notify, raise_error)
                    fetch._fail(_explained(error, kwargs))
                    return fetch
            given = made.__dict__
            if _is_plain(given) and type(made.method) is str and type(made.url) is str:
                proxy, headers = given.get("proxy"), given.get("headers")
                plain = self._plain.find(
                    self.defaults, made.method, made.url, proxy, headers, given.get("body")
                )
        fetch = _Fetch(loop=loop)
        fetch.set_up(self, made, notify, raise_error)
        self._fetches.add(fetch)
        if plain is None:
            fetch.begin()
        else:
            fetch._proxy = proxy
            fetch._has_headers = bool(headers)
            fetch._defaults = self._plain.defaults
            exchange, queue_timeout = plain
            fetch._enter(exchange, queue_timeout)
        return fetch

    def stream(
        self, request: str | HTTPRequest, *, raise_error: bool = True, **kwargs: Any
    ) -> _Stream:
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

        def start() -> _StreamReader:
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
                    raise _explained(error, kwargs) from None
            if made.streaming_callback is not None:
                raise ValueError("stream() and streaming_callback exclude each other")
            fetch = _Fetch(loop=loop)
            fetch.set_up(self, made, None, False)
            fetch._sink = _StreamReader(fetch, raises)
            self._fetches.add(fetch)
            fetch.begin()
            return fetch._sink

        return _Stream(start)

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


if __name__ == "__main__":
    main()
