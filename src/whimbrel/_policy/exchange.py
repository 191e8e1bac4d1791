"""From a request's parameters to one exchange in which everything is decided.

`prepare` is pure: it checks, it never connects. All bad input ends here, before a socket opens.
"""

from __future__ import annotations

import datetime
import json as jsonlib
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextvars import Context, copy_context
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.fields import (
    Fields,
    basic_authorization,
    caller_fields,
    check_token,
    check_value,
    complete_fields,
    headers_of,
    names_in,
)
from whimbrel._policy.proxies import Proxy, decide_proxy
from whimbrel._policy.timeouts import seconds
from whimbrel._policy.tls import DEFAULT_TLS, TLS, decide_tls, refuse_control_bytes_in_files
from whimbrel._policy.urls import URL, check_text, parse_url, refuse_control_bytes
from whimbrel._policy.values import byte_limit, fault_of_callback, flag
from whimbrel.httputil import HTTPHeaders, format_timestamp, url_concat

Producer = Callable[[Callable[[bytes], Awaitable[None]]], Any]

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
_METHODS_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
IDEMPOTENT_METHODS = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
"""RFC 9110 section 9.2.2."""

AUTH_MODES = ("basic", "digest", "bearer", "negotiate")
HTTP_VERSIONS = ("1.1", "2", "2-prior-knowledge", "3", "3-only")

_FLAGS = frozenset(
    (
        "allow_ipv6",
        "allow_nonstandard_methods",
        "decompress_response",
        "expect_100_continue",
        "follow_redirects",
        "validate_cert",
    )
)
_CALLBACKS = {
    "header_callback": False,
    "prepare_curl_callback": False,
    "streaming_callback": True,
}
"""Parameters that are called, and whether what they return is awaited."""


ADDS_FIELDS = frozenset(
    ("auth_username", "auth_password", "auth_mode", "auth_token", "if_modified_since")
)
"""Parameters that become header fields, and depend on those that are given."""


class Auth(NamedTuple):
    """Credentials for the origin that take more than one round (digest, negotiate)."""

    mode: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Auth({self.mode!r})"


class Profile(NamedTuple):
    """Everything about an exchange but its URL, header fields, body and deadlines.

    Hashable, so that a backend may remember what it made of one: requests that differ in what is
    left out have the same.
    """

    scheme: str
    method: str
    body: str
    """``"none"``, ``"bytes"`` or ``"stream"``."""
    auth: Auth | None
    proxy: Proxy | None
    tls: TLS
    proxy_tls: TLS
    network_interface: str | None
    allow_ipv6: bool
    http_version: str | None
    expect_100_continue: bool
    stall_timeout: float
    max_body_size: int
    decompress: bool
    unix_socket: str | None

    def __repr__(self) -> str:
        # Never the credentials or the files.
        return f"Profile({self.method!r}, {self.scheme!r}, proxy={self.proxy!r})"


def lacks_address(profile: Profile, url: URL) -> bool:
    """Whether there is none to connect to: an IPv6 address is the host, and those are excluded."""
    return ":" in url.host and not profile.allow_ipv6 and profile.proxy is None


OnData = Callable[[bytes], Awaitable[None] | None]
"""What takes the pieces of a body; see `Exchange.on_data`."""


class Exchange:
    """One request/response exchange, as a backend's ``fetch_impl`` gets it."""

    __slots__ = (
        "addresses",
        "body",
        "connect_timeout",
        "connect_to",
        "content_length",
        "context",
        "fields",
        "memo",
        "on_data",
        "on_head",
        "pieces",
        "prepare_curl_callback",
        "producer",
        "profile",
        "replayable",
        "request_timeout",
        "shared",
        "url",
    )

    url: URL
    profile: Profile
    fields: Fields
    """The header fields. A backend adds those that frame the body, and Host if it is not here."""
    body: bytes
    """The body where ``profile.body`` is "bytes"."""
    producer: Producer | None
    """Writes the body where ``profile.body`` is "stream"; or else `pieces` has it."""
    pieces: Iterable[bytes] | None
    """The body where it comes from an iterable that nobody has to wait for."""
    context: Context | None
    """Of the caller of the fetch: in it a streamed body is made."""
    content_length: int | None
    """Of a streamed body; None means chunked."""
    replayable: bool
    """Whether a streamed body may be had a second time."""
    connect_timeout: float
    """Seconds for name, TCP, proxy and TLS together; 0 is no limit."""
    request_timeout: float
    """Seconds that remain for this exchange; 0 is no limit."""
    prepare_curl_callback: Callable[[Any], None] | None
    connect_to: tuple[str, int] | None
    """Where to connect instead of ``url.host`` and ``url.port``; TLS and Host keep the URL's."""
    addresses: tuple[str, ...]
    """What a custom resolver made of the host in `connect_to`; () leaves that to the backend."""
    on_head: Callable[[int, str, list[bytes]], bool] | None
    """Called once with code, reason and the raw lines of the final header block, before any
    body; answers whether the body is wanted through `on_data`. None: buffer the body."""
    on_data: OnData | None
    """Called with each piece of decoded body. While the awaitable that it may return is not
    done, the transfer is paused."""
    shared: bool
    """Whether several fetches are on it, so that nothing in it may be changed."""
    memo: Any
    """What a backend remembers of it for the next time; None at first."""

    @property
    def calls_back(self) -> bool:
        """Whether code of the caller's runs during the exchange."""
        return (
            self.on_head is not None
            or self.prepare_curl_callback is not None
            or self.profile.body == "stream"
        )

    def to(self, url: URL) -> Exchange:
        """The same exchange with another URL, of the same scheme and without credentials.

        Where everything else is equal: it skips `prepare`. It has no body yet.
        """
        twin = Exchange()
        twin.url = url
        twin.profile = self.profile
        twin.fields = self.fields
        twin.body = b""
        twin.producer = twin.pieces = twin.context = twin.content_length = None
        twin.replayable = True
        twin.connect_timeout = self.connect_timeout
        twin.request_timeout = self.request_timeout
        twin.prepare_curl_callback = twin.connect_to = None
        twin.addresses = ()
        twin.on_head = twin.on_data = twin.memo = None
        twin.shared = False
        return twin


F = TypeVar("F", bound=Callable[..., Any])


def takes_shared(fetch_impl: F) -> F:
    """Mark a ``fetch_impl`` that writes to no shared exchange; any other gets one of its own."""
    fetch_impl.takes_shared = True  # type: ignore[attr-defined]
    return fetch_impl


def prepare(
    options: Mapping[str, Any],
    environment: EnvironmentProxies | None = None,
    cookies: Callable[[URL], str | None] | None = None,
) -> Exchange:
    """Check a request's parameters and decide everything a backend needs.

    `options` maps HTTPRequest's parameter names to values, defaults already merged in.
    `environment` None ignores proxy variables; `cookies` gives the Cookie field of a URL.

    Raises ValueError naming the parameter, or KeyError for an unknown method.
    """
    get = options.get
    _check_kinds(options)
    text = get("url")
    if not isinstance(text, str):
        raise ValueError(f"url must be a str, not {type(text).__name__}")
    params = get("params")
    if params:
        text = url_concat(text, _pairs("params", params))
    url = parse_url(text)
    exchange = Exchange()
    exchange.url = url
    exchange.connect_timeout = seconds("connect_timeout", get("connect_timeout", 20.0))
    exchange.request_timeout = seconds("request_timeout", get("request_timeout", 20.0))
    exchange.prepare_curl_callback = get("prepare_curl_callback")
    exchange.connect_to = None
    exchange.addresses = ()
    exchange.on_head = exchange.on_data = exchange.memo = None
    exchange.shared = False

    method = get("method", "GET")
    nonstandard = get("allow_nonstandard_methods", False)
    if not isinstance(method, str):
        raise ValueError(f"method must be a str, not {type(method).__name__}")
    if method not in METHODS:
        check_token("method", method)
        if method == "CONNECT":
            # RFC 9110 section 9.3.6: it makes a tunnel, of which there is no response to be had.
            raise ValueError("method CONNECT cannot be fetched; a proxy is asked by proxy=")
        if not nonstandard:
            upper = method.upper()
            raise KeyError(
                f"unknown method {method};"
                + (f" did you mean {upper}? Or" if upper in METHODS else "")
                + " pass allow_nonstandard_methods=True to send it"
            )
    fields = caller_fields(get("headers"))
    body_kind = _decide_body(exchange, options, fields)
    empty = False
    if body_kind == "none":
        if method in _METHODS_WITH_BODY and not nonstandard:
            raise ValueError(
                f"Body must not be None for method {method} (unless "
                "allow_nonstandard_methods is true)"
            )
        if method in _METHODS_WITH_BODY:
            body_kind = "bytes"  # RFC 9110 section 8.6: Content-Length: 0
            empty = True
    elif method == "HEAD" or (method not in _METHODS_WITH_BODY and not nonstandard):
        raise ValueError(
            f"Body must be None for method {method}"
            + ("" if method == "HEAD" else " (unless allow_nonstandard_methods is true)")
        )
    decompress = bool(get("decompress_response", True))
    user_agent = options["user_agent"]
    if not isinstance(user_agent, str | bytes):
        raise ValueError(f"user_agent must be a str or bytes, not {type(user_agent).__name__}")
    expect = bool(get("expect_100_continue", False))
    auth = None
    if (
        fields
        or body_kind != "none"
        or url.username is not None
        or not ADDS_FIELDS.isdisjoint(options)
    ):
        expect = _check_fields(exchange, body_kind, fields) or expect
        auth = _decide_auth(options, url, fields)
        if "if_modified_since" in options and ":if-modified-since:" not in names_in(fields):
            since = _timestamp(options["if_modified_since"])
            fields.append(("If-Modified-Since", since))
    proxy = decide_proxy(options, url, fields, environment)
    is_form = method == "POST" and body_kind != "none" and not empty
    exchange.fields = complete_fields(
        fields, names_in(fields), user_agent, decompress, is_form=is_form
    )
    if cookies is not None:
        _add_cookies(exchange, cookies(url))
    interface = get("network_interface")
    if interface is not None:
        if not isinstance(interface, str) or not interface:
            raise ValueError(f"network_interface must be a name or an address, not {interface!r}")
        refuse_control_bytes("network_interface", interface)
    http_version = get("http_version")
    if http_version == "3-only" and url.scheme != "https":
        raise ValueError("http_version '3-only' needs an https URL: HTTP/3 is always encrypted")
    if http_version is not None and http_version not in HTTP_VERSIONS:
        raise ValueError(
            f"unknown http_version {http_version!r}: use one of {', '.join(HTTP_VERSIONS)}"
        )
    if proxy is not None and http_version in ("3", "3-only"):
        if http_version == "3-only":
            raise ValueError("http_version '3-only' cannot go through a proxy; use '3' or '2'")
        http_version = "2"  # "3" is allowed to fall back, and no proxy here carries QUIC
    unix_socket = get("unix_socket")
    if unix_socket is not None:
        if not isinstance(unix_socket, str) or not unix_socket:
            raise ValueError(f"unix_socket must be a path, not {unix_socket!r}")
        refuse_control_bytes("unix_socket", unix_socket)
        if get("proxy") or get("proxy_host"):
            raise ValueError("only one of unix_socket and a proxy may be given")
        proxy = None
    refuse_control_bytes_in_files(options)
    tls = proxy_tls = DEFAULT_TLS
    if url.scheme == "https" or (proxy is not None and proxy.scheme == "https"):
        tls, proxy_tls = decide_tls(options)
    exchange.profile = Profile(
        url.scheme,
        method,
        body_kind,
        auth,
        proxy,
        tls,
        proxy_tls,
        interface,
        bool(get("allow_ipv6", True)),
        http_version,
        expect and body_kind != "none",
        seconds("stall_timeout", get("stall_timeout", 0)),
        byte_limit("max_body_size", options["max_body_size"]),
        decompress,
        unix_socket,
    )
    return exchange


def _check_kinds(options: Mapping[str, Any]) -> None:
    """Refuse what would do something else than it says, or nothing, and only later."""
    for name in _FLAGS & options.keys():
        flag(name, options[name])
    for name in _CALLBACKS.keys() & options.keys():
        fault = fault_of_callback(options[name], is_awaited=_CALLBACKS[name])
        if fault is not None:
            raise ValueError(f"{name} {fault}")


def _decide_body(
    exchange: Exchange, options: Mapping[str, Any], fields: list[tuple[str, str]]
) -> str:
    exchange.body = b""
    exchange.producer = exchange.pieces = exchange.context = None
    exchange.content_length = None
    exchange.replayable = True
    given = [name for name in ("body", "body_producer", "json", "form") if name in options]
    if not given:
        return "none"
    if len(given) > 1:
        raise ValueError(f"only one of {' and '.join(given)} may be given")
    (name,) = given
    value = options[name]
    if name == "json":
        exchange.body = jsonlib.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()
        _default_content_type(fields, "application/json")
    elif name == "form":
        exchange.body = urlencode(_pairs("form", value)).encode()
        _default_content_type(fields, "application/x-www-form-urlencoded")
    elif name == "body_producer":
        if not callable(value):
            raise ValueError(f"body_producer must be callable, not {type(value).__name__}")
        exchange.producer = value
        exchange.context = copy_context()
        return "stream"
    elif isinstance(value, bytes):
        exchange.body = value
    elif isinstance(value, str):
        exchange.body = value.encode()
    elif isinstance(value, bytearray | memoryview):
        exchange.body = bytes(value)
    elif isinstance(value, AsyncIterable | Iterable) and not isinstance(value, Mapping):
        if isinstance(value, AsyncIterable):
            exchange.producer = _iterating(value)
        else:
            exchange.pieces = value
        exchange.context = copy_context()
        # An iterator runs once; a list or another re-iterable may be sent again.
        exchange.replayable = not hasattr(value, "__next__") and not hasattr(value, "__anext__")
        return "stream"
    else:
        raise ValueError(
            "body must be bytes, str or an iterable of bytes,"
            f" not {type(value).__name__}; see also json= and form="
        )
    return "bytes"


def _pairs(field: str, arguments: Any) -> list[tuple[str, Any]]:
    """Name and value pairs; a list or tuple as value stands for several of the same name."""
    pairs = list(arguments.items() if isinstance(arguments, Mapping) else _each(arguments))
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{field} must be a mapping or pairs of name and value")
    singles = [
        (name, single)
        for name, value in pairs
        for single in (value if isinstance(value, list | tuple) else (value,))
    ]
    for name, single in singles:
        # "None", "<_io.BufferedReader name=…>" and the like are what nobody wants to send.
        if single is None or (isinstance(single, Iterable) and not isinstance(single, str | bytes)):
            kind = "None" if single is None else f"a {type(single).__name__}"
            raise ValueError(
                f"{field} has {kind} as the value of {name!r}: use str, bytes or a number, or"
                " leave it out"
            )
    return singles


def _each(arguments: Any) -> Iterable[Any]:
    # A str would be taken apart; nothing of it is a pair.
    return arguments if isinstance(arguments, Iterable) else (None,)


def _iterating(body: AsyncIterable[bytes]) -> Producer:
    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        async for chunk in body:
            await write(chunk)

    return produce


def _default_content_type(fields: list[tuple[str, str]], content_type: str) -> None:
    if not any(name.lower() == "content-type" for name, _ in fields):
        fields.append(("Content-Type", content_type))


def _check_fields(exchange: Exchange, body_kind: str, fields: list[tuple[str, str]]) -> bool:
    """Settle framing (RFC 9112 section 6) and take its fields out; return Expect: 100-continue.

    A backend writes Content-Length and Transfer-Encoding itself, so that they cannot contradict
    what is sent.
    """
    expect = chunked = False
    hosts = 0
    kept = []
    for name, value in fields:
        lower = name.lower()
        if lower == "content-length":
            _check_content_length(exchange, body_kind, value)
            if body_kind == "none":
                kept.append((name, value))
        elif lower == "transfer-encoding":
            if value.strip().lower() != "chunked" or body_kind != "stream" or chunked:
                raise ValueError(
                    f"header Transfer-Encoding: {value!r} contradicts the body; only 'chunked',"
                    " once, with a streamed body is possible"
                )
            chunked = True
        elif lower == "expect":
            if value.strip().lower() != "100-continue":
                raise ValueError(f"header Expect: {value!r} is unknown; only '100-continue' is")
            expect = True
        else:
            if lower == "host":
                hosts += 1
                if hosts > 1:
                    raise ValueError("header Host is given twice")
                if not _HOST_FIELD.fullmatch(value):
                    raise ValueError(f"header Host {value!r} is not a host and port")
            kept.append((name, value))
    if chunked and exchange.content_length is not None:
        raise ValueError("headers Content-Length and Transfer-Encoding contradict each other")
    fields[:] = kept
    return expect


def _check_content_length(exchange: Exchange, body_kind: str, value: str) -> None:
    text = value.strip(" \t")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"header Content-Length {value!r} is not a number of bytes")
    length = int(text)
    if body_kind == "stream":
        if exchange.content_length not in (None, length):
            raise ValueError("header Content-Length is given twice with different values")
        exchange.content_length = length
    elif length != len(exchange.body):
        raise ValueError(
            f"header Content-Length {length} contradicts the body of {len(exchange.body)} bytes"
        )


def _decide_auth(
    options: Mapping[str, Any], url: URL, fields: list[tuple[str, str]]
) -> Auth | None:
    get = options.get
    mode = get("auth_mode")
    username, password = get("auth_username"), get("auth_password")
    token = get("auth_token")
    if mode is not None and mode not in AUTH_MODES:
        raise ValueError(f"unknown auth_mode {mode!r}: use one of {', '.join(AUTH_MODES)}")
    if token is not None:
        if mode not in (None, "bearer") or username is not None:
            raise ValueError("auth_token is for auth_mode 'bearer', without auth_username")
        mode = "bearer"
    for name, value in (
        ("auth_username", username),
        ("auth_password", password),
        ("auth_token", token),
    ):
        if value is not None:
            check_text(name, value)
    if password and username is None and url.username is None:
        raise ValueError("auth_password needs auth_username")
    explicit = username is not None or token is not None or mode == "negotiate"
    if not explicit:
        if mode == "bearer":
            raise ValueError("auth_mode 'bearer' needs auth_token")
        if url.username is None:
            return None  # a mode alone, from the defaults perhaps, asks for nothing
        if any(name.lower() == "authorization" for name, _ in fields):
            return None
        username = url.username
        password = url.password if url.password is not None else password
    fields[:] = [field for field in fields if field[0].lower() != "authorization"]
    if mode == "bearer":
        if not token:
            raise ValueError("auth_mode 'bearer' needs auth_token")
        fields.append(("Authorization", f"Bearer {check_value('auth_token', token)}"))
        return None
    if mode in ("digest", "negotiate"):
        return Auth(mode, username or "", password or "")
    fields.append(("Authorization", basic_authorization(username or "", password or "")))
    return None


def _add_cookies(exchange: Exchange, cookie: str | None) -> None:
    if not cookie:
        return
    check_value("cookie", cookie)
    fields = list(exchange.fields)
    for index, (name, value) in enumerate(fields):
        if name.lower() == "cookie":
            fields[index] = (name, f"{value}; {cookie}")
            break
    else:
        fields.append(("Cookie", cookie))
    exchange.fields = tuple(fields)


def _timestamp(since: Any) -> str:
    if isinstance(since, bool) or not isinstance(since, int | float | datetime.datetime):
        raise ValueError(
            f"if_modified_since must be a datetime or seconds since 1970, not {since!r}"
        )
    return format_timestamp(since)


# RFC 9110 section 7.2: uri-host and port, loosely; a value that splits or points elsewhere is out.
_HOST_FIELD = re.compile(r"[^\s/,@?#\\]+")


def headers_without(headers: Any, names: frozenset[str]) -> dict[str, str] | HTTPHeaders:
    """A copy of a caller's headers without the fields of those lower-case names."""
    return headers_of(
        [(name, value) for name, value in caller_fields(headers) if name.lower() not in names]
    )
