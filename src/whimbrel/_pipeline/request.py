"""HTTPRequest, which `whimbrel.httpclient` shows, and the names of its parameters."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from time import time
from typing import Any, Literal

from whimbrel._policy.urls import redact
from whimbrel._version import __version__
from whimbrel.httputil import HTTPHeaders


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
    def _short(cls, asked: Asked, start_time: float) -> HTTPRequest:
        """``HTTPRequest(url, **given)``, without a look at forty parameters that were not given."""
        request = cls.__new__(cls)
        if isinstance(asked, str):
            request.url = asked
        else:
            request.url, given = asked
            request.__dict__.update(
                {name: value for name, value in given.items() if value is not None}
            )
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


BUILT_IN_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 20.0,
    "request_timeout": 20.0,
    "follow_redirects": True,
    "max_redirects": 5,
    "user_agent": f"whimbrel/{__version__}",
}


def is_plain(given: dict[str, Any]) -> bool:
    """Whether a request stores nothing but url, method and start_time, and maybe header fields, a
    body of bytes and a proxy's URL."""
    more = len(given) - 3
    if more:
        # Any other mapping may answer differently each time, or raise.
        more -= type(given.get("headers")) in (dict, HTTPHeaders)
        more -= type(given.get("body")) is bytes
        more -= type(given.get("proxy")) is str
    return not more and "start_time" in given and "method" in given


def is_short(proxy: Any, headers: Any) -> bool:
    """Whether a request that gives nothing but these two is plain; None is for one not given."""
    return (proxy is None or type(proxy) is str) and (
        headers is None or type(headers) in (dict, HTTPHeaders)
    )


SHORT = frozenset(("headers", "proxy"))
"""Parameters that an HTTPRequest stores as they are given."""

Asked = str | tuple[str, dict[str, Any]]
"""The URL of a request that has not been made yet, alone or with some of those."""

PARAMETERS = frozenset(
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


def did_you_mean(name: str, known: Iterable[str] = PARAMETERS) -> str:
    """``"; did you mean …?"`` for a name that is not known, "" where nothing comes close."""
    import difflib

    # Or the beginning of one: "requst" is meant to be request_timeout.
    begun = {full[: len(name) + 1]: full for full in sorted(known, reverse=True)}
    meant = difflib.get_close_matches(name, known, 1) or [
        begun[start] for start in difflib.get_close_matches(name, begun, 1, 0.8)
    ]
    if known is PARAMETERS and name in _ELSEWHERE:
        meant = [_ELSEWHERE[name]]
    return f"; did you mean {meant[0]}?" if meant else ""


def explained(error: Exception, kwargs: Mapping[str, Any]) -> Exception:
    """The error of HTTPRequest(url, **kwargs), with more to say of a name that it does not know."""
    for name in kwargs:
        if name not in PARAMETERS:
            return TypeError(
                f"HTTPRequest() got an unexpected keyword argument {name!r}{did_you_mean(name)}"
            )
    return error
