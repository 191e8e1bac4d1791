"""From a libcurl code and what is known of the transfer to a typed error."""

from __future__ import annotations

import copy
import errno
import pickle
import socket
import ssl
from typing import Any, NamedTuple

import pycurl
import pytest

import whimbrel.httpclient
from whimbrel._curl import errors
from whimbrel._curl.driver import FAILED
from whimbrel._curl.errors import BY_CODE, TABLE, CurlError, Facts, classify
from whimbrel._policy.exchange import prepare
from whimbrel.httpclient import (
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

HTTP = "http://h.example/"
HTTPS = "https://h.example/"
PROXY = {"proxy": "http://u:hunter2@p.example:1"}
TLS_PROXY = {"proxy": "https://u:hunter2@p.example:1"}
SOCKS = {"proxy": "socks5h://u:hunter2@p.example:1"}
ANONYMOUS_SOCKS = {"proxy": "socks5h://p.example:1"}

# How far a transfer was.
LOOKED_UP = {"namelookup": 0.1}
CONNECTED = {**LOOKED_UP, "connect": 0.2}
SHAKEN = {**CONNECTED, "appconnect": 0.3}
REQUESTED = {**SHAKEN, "requested": 1}
RECONNECTING = {**CONNECTED, "requested": 1, "reconnecting": True}


class Case(NamedTuple):
    code: str | int
    kind: type[HTTPError]
    stage: str
    retryable: bool
    text: str
    facts: dict[str, Any] = {}
    url: str = HTTP
    options: dict[str, Any] = {}


SAFE, UNSAFE = True, False
POST = {"method": "POST", "body": b"x"}
H3 = {"http_version": "3"}

CASES = [
    # Names and connections.
    Case(
        "E_COULDNT_RESOLVE_HOST", HTTPResolveError, "dns", SAFE, "the name h.example has no address"
    ),
    Case("E_COULDNT_CONNECT", HTTPConnectError, "connect", SAFE, "cannot connect to h.example"),
    Case(
        "E_COULDNT_CONNECT",
        HTTPConnectionRefusedError,
        "connect",
        SAFE,
        "Connection refused by h.example",
        {**LOOKED_UP, "os_errno": errno.ECONNREFUSED},
    ),
    Case(
        "E_COULDNT_CONNECT",
        HTTPConnectError,
        "connect",
        SAFE,
        "cannot connect to h.example:81",
        {**LOOKED_UP, "os_errno": errno.EHOSTUNREACH},
        "http://h.example:81/",
    ),
    Case(
        "E_INTERFACE_FAILED",
        HTTPConnectError,
        "connect",
        UNSAFE,
        "network_interface 'nope0' cannot be used",
        options={"network_interface": "nope0"},
    ),
    Case(FAILED, HTTPConnectError, "dns", SAFE, ""),
    # TLS: trying again does not help.
    Case(
        "E_SSL_CONNECT_ERROR",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "TLS handshake with h.example failed",
        CONNECTED,
        HTTPS,
    ),
    Case(
        "E_PEER_FAILED_VERIFICATION",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "the certificate of h.example was not accepted",
        CONNECTED,
        HTTPS,
    ),
    Case(
        "E_SSL_CACERT_BADFILE",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "the CA certificates cannot be read",
        CONNECTED,
        HTTPS,
    ),
    Case(
        "E_SSL_CERTPROBLEM",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "client_cert or client_key cannot be used",
        CONNECTED,
        HTTPS,
    ),
    Case(
        "E_SSL_CIPHER",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "none of the ciphers can be used",
        CONNECTED,
        HTTPS,
    ),
    Case(
        98,
        HTTPTLSError,
        "tls",
        UNSAFE,
        "h.example wants a client certificate: set client_cert",
        CONNECTED,
        HTTPS,
    ),
    # Deadlines, by how far it was.
    Case(
        "E_OPERATION_TIMEDOUT", HTTPTimeoutError, "dns", SAFE, "Timeout while resolving h.example"
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "connect",
        SAFE,
        "Timeout while connecting to h.example",
        LOOKED_UP,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "tls",
        SAFE,
        "Timeout during TLS handshake with h.example:443",
        CONNECTED,
        HTTPS,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "connect",
        SAFE,
        "Timeout while connecting to h.example",
        SHAKEN,
        HTTPS,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "response",
        SAFE,
        "Timeout during request to h.example",
        REQUESTED,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "send",
        UNSAFE,
        "Timeout during request to h.example",
        {**REQUESTED, "uploading": True},
        HTTP,
        POST,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "body",
        SAFE,
        "Timeout during request to h.example",
        {**REQUESTED, "head": True},
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "response",
        UNSAFE,
        "Timeout during request to h.example",
        REQUESTED,
        HTTP,
        POST,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "response",
        SAFE,
        "Stalled: not a byte for 2.5 seconds",
        {**REQUESTED, "stalled": True},
        HTTP,
        {"stall_timeout": 2.5},
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "proxy-connect",
        SAFE,
        "Timeout while resolving proxy p.example",
        {},
        HTTP,
        PROXY,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "proxy-connect",
        SAFE,
        "Timeout while connecting to proxy http://p.example:1",
        LOOKED_UP,
        HTTP,
        PROXY,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "tunnel",
        SAFE,
        "Timeout while proxy http://p.example:1 was to make a tunnel",
        CONNECTED,
        HTTPS,
        PROXY,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "tls",
        SAFE,
        "Timeout during TLS handshake with h.example:443",
        {**CONNECTED, "connect_code": 200},
        HTTPS,
        PROXY,
    ),
    # The peer goes away.
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example closed the connection without a response",
        REQUESTED,
    ),
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "response",
        UNSAFE,
        "h.example closed the connection without a response",
        REQUESTED,
        HTTP,
        POST,
    ),
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example closed the connection without a response",
        REQUESTED,
        HTTP,
        {"method": "PUT", "body": b"x"},
    ),
    Case(
        "E_PARTIAL_FILE",
        HTTPStreamClosedError,
        "body",
        SAFE,
        "h.example closed the connection before the body's end",
        {**REQUESTED, "head": True},
    ),
    Case(
        "E_SEND_ERROR",
        HTTPStreamClosedError,
        "send",
        UNSAFE,
        "the connection broke while the request was sent",
        REQUESTED,
        HTTP,
        POST,
    ),
    Case(
        "E_SEND_ERROR",
        HTTPStreamClosedError,
        "tls",
        SAFE,
        "the connection broke while the request was sent",
        CONNECTED,
        HTTPS,
        POST,
    ),
    Case(
        "E_RECV_ERROR",
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example closed the connection",
        {**REQUESTED, "os_errno": errno.ECONNRESET},
    ),
    Case(
        "E_RECV_ERROR",
        HTTPStreamClosedError,
        "body",
        SAFE,
        "h.example closed the connection",
        {**REQUESTED, "os_errno": errno.ECONNRESET, "body": True},
    ),
    Case(
        "E_RECV_ERROR",
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example closed the connection",
        REQUESTED,
        HTTPS,
    ),
    Case(
        "E_SEND_ERROR",
        HTTPConnectError,
        "connect",
        SAFE,
        "cannot connect to h.example",
        LOOKED_UP,
        HTTPS,
        H3,
    ),
    Case(
        92,
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example reset the HTTP/2 stream",
        REQUESTED,
        HTTPS,
    ),
    # What it sends is no HTTP.
    Case(
        "E_RECV_ERROR",
        HTTPProtocolError,
        "response",
        UNSAFE,
        "h.example sent a malformed reply",
        REQUESTED,
    ),
    Case(8, HTTPProtocolError, "response", UNSAFE, "h.example sent a malformed reply", REQUESTED),
    Case(
        "E_UNSUPPORTED_PROTOCOL",
        HTTPProtocolError,
        "response",
        UNSAFE,
        "h.example sent a malformed reply",
        REQUESTED,
    ),
    Case(16, HTTPProtocolError, "response", SAFE, "HTTP/2 error from h.example", REQUESTED, HTTPS),
    Case(
        95, HTTPProtocolError, "response", SAFE, "HTTP/3 error from h.example", REQUESTED, HTTPS, H3
    ),
    Case(
        96,
        HTTPConnectError,
        "connect",
        SAFE,
        "no QUIC connection to h.example",
        LOOKED_UP,
        HTTPS,
        H3,
    ),
    Case(
        1,
        HTTPProtocolError,
        "response",
        UNSAFE,
        "http://p.example:1 sent a malformed reply",
        REQUESTED,
        HTTP,
        PROXY,
    ),
    Case(9999, HTTPProtocolError, "response", UNSAFE, "libcurl failed", REQUESTED),
    # Limits.
    Case(
        100,
        HTTPLimitError,
        "response",
        UNSAFE,
        "the header block passes libcurl's limit",
        REQUESTED,
    ),
    Case(
        "E_RECV_ERROR",
        HTTPLimitError,
        "response",
        UNSAFE,
        "the header block passes libcurl's limit",
        {**REQUESTED, "head_bytes": 200 * 1024 + 1},
    ),
    Case(
        "E_RECV_ERROR",
        HTTPLimitError,
        "response",
        UNSAFE,
        "the header block passes libcurl's limit",
        {**REQUESTED, "head_lines": 5000},
    ),
    Case(
        "E_RECV_ERROR",
        HTTPProtocolError,
        "response",
        UNSAFE,
        "h.example sent a malformed reply",
        {**REQUESTED, "head_bytes": 200 * 1024, "head_lines": 4999},
    ),
    Case(
        "E_FILESIZE_EXCEEDED",
        HTTPLimitError,
        "body",
        UNSAFE,
        "the body passes max_body_size",
        {**REQUESTED, "head": True},
    ),
    # The proxy, and never its credentials.
    Case(
        "E_COULDNT_RESOLVE_PROXY",
        HTTPProxyError,
        "proxy-connect",
        SAFE,
        "the name of proxy http://p.example:1 has no address",
        {},
        HTTP,
        PROXY,
    ),
    Case(
        "E_COULDNT_CONNECT",
        HTTPProxyError,
        "proxy-connect",
        SAFE,
        "Connection refused: proxy http://p.example:1",
        {**LOOKED_UP, "os_errno": errno.ECONNREFUSED},
        HTTP,
        PROXY,
    ),
    Case(
        "E_COULDNT_CONNECT",
        HTTPProxyError,
        "proxy-connect",
        SAFE,
        "cannot connect: proxy http://p.example:1",
        LOOKED_UP,
        HTTPS,
        PROXY,
    ),
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "proxy-auth",
        UNSAFE,
        "proxy http://p.example:1 wants other credentials (407)",
        {**CONNECTED, "connect_code": 407},
        HTTPS,
        PROXY,
    ),
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "tunnel",
        UNSAFE,
        "proxy http://p.example:1 answered CONNECT h.example with 403",
        {**CONNECTED, "connect_code": 403},
        HTTPS,
        PROXY,
    ),
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "tunnel",
        SAFE,
        "proxy http://p.example:1 answered CONNECT h.example with 502",
        {**CONNECTED, "connect_code": 502},
        HTTPS,
        PROXY,
    ),
    Case(
        "E_GOT_NOTHING",
        HTTPProxyError,
        "tunnel",
        SAFE,
        "proxy http://p.example:1 broke the connection while it was to make a tunnel",
        CONNECTED,
        HTTPS,
        PROXY,
    ),
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "response",
        SAFE,
        "h.example closed the connection without a response",
        {**REQUESTED, "connect_code": 200},
        HTTPS,
        PROXY,
    ),
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "response",
        UNSAFE,
        "http://p.example:1 closed the connection without a response",
        REQUESTED,
        HTTP,
        {**PROXY, **POST},
    ),
    Case(
        "E_SSL_CONNECT_ERROR",
        HTTPTLSError,
        "proxy-connect",
        UNSAFE,
        "TLS handshake with https://p.example:1 failed",
        CONNECTED,
        HTTPS,
        TLS_PROXY,
    ),
    Case(
        "E_SSL_CONNECT_ERROR",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "TLS handshake with h.example failed",
        {**CONNECTED, "connect_code": 200},
        HTTPS,
        TLS_PROXY,
    ),
    Case(
        "E_SSL_CONNECT_ERROR",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "TLS handshake with h.example failed",
        {**CONNECTED, "connect_code": 200},
        HTTPS,
        PROXY,
    ),
    Case(
        97,
        HTTPProxyError,
        "proxy-auth",
        UNSAFE,
        "proxy socks5h://p.example:1: it rejected the credentials",
        {**CONNECTED, "proxy_error": 33},
        HTTP,
        SOCKS,
    ),
    Case(
        97,
        HTTPProxyError,
        "proxy-auth",
        UNSAFE,
        "proxy socks5h://p.example:1: it accepts no authentication method that was offered",
        {**CONNECTED, "proxy_error": 12},
        HTTP,
        SOCKS,
    ),
    Case(
        97,
        HTTPProxyError,
        "proxy-auth",
        UNSAFE,
        "proxy socks5h://p.example:1: it accepts no authentication method that was offered;"
        " it wants a user name and password",
        {**CONNECTED, "proxy_error": 12},
        HTTP,
        ANONYMOUS_SOCKS,
    ),
    Case(
        97,
        HTTPProxyError,
        "tunnel",
        SAFE,
        "proxy socks5h://p.example:1: the origin refused its connection",
        {**CONNECTED, "proxy_error": 19},
        HTTP,
        SOCKS,
    ),
    Case(
        97,
        HTTPProxyError,
        "tunnel",
        SAFE,
        "proxy socks5h://p.example:1: it failed (code 99)",
        {**CONNECTED, "proxy_error": 99},
        HTTP,
        SOCKS,
    ),
    # A further request, which was still to be sent: a challenge came to the one before.
    Case(
        "E_GOT_NOTHING",
        HTTPStreamClosedError,
        "tls",
        SAFE,
        "h.example closed the connection without a response",
        RECONNECTING,
        HTTPS,
    ),
    Case(
        "E_SEND_ERROR",
        HTTPStreamClosedError,
        "tls",
        UNSAFE,
        "the connection broke while the request was sent",
        RECONNECTING,
        HTTPS,
        POST,
    ),
    Case(FAILED, HTTPConnectError, "tls", SAFE, "", RECONNECTING, HTTPS),
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "tunnel",
        SAFE,
        "proxy http://p.example:1 broke the connection while it was to make a tunnel",
        RECONNECTING,
        HTTPS,
        PROXY,
    ),
    # The one before may have been carried out, where it was answered by a close.
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "tunnel",
        UNSAFE,
        "proxy http://p.example:1 broke the connection while it was to make a tunnel",
        RECONNECTING,
        HTTPS,
        {**PROXY, **POST},
    ),
    Case(
        "E_RECV_ERROR",
        HTTPProxyError,
        "tunnel",
        UNSAFE,
        "proxy http://p.example:1 answered CONNECT h.example with 502",
        {**RECONNECTING, "connect_code": 502},
        HTTPS,
        {**PROXY, **POST},
    ),
    Case(
        "E_COULDNT_CONNECT",
        HTTPProxyError,
        "proxy-connect",
        UNSAFE,
        "cannot connect: proxy http://p.example:1",
        RECONNECTING,
        HTTPS,
        {**PROXY, **POST},
    ),
    Case(
        97,
        HTTPProxyError,
        "tunnel",
        UNSAFE,
        "proxy socks5h://p.example:1: it failed (code 99)",
        {**RECONNECTING, "proxy_error": 99},
        HTTP,
        {**SOCKS, **POST},
    ),
    Case(
        "E_COULDNT_CONNECT",
        HTTPConnectionRefusedError,
        "connect",
        UNSAFE,
        "Connection refused by h.example",
        {**RECONNECTING, "os_errno": errno.ECONNREFUSED},
        HTTP,
        POST,
    ),
    Case(
        "E_OPERATION_TIMEDOUT",
        HTTPTimeoutError,
        "tls",
        UNSAFE,
        "Timeout during TLS handshake with h.example:443",
        RECONNECTING,
        HTTPS,
        POST,
    ),
]


def code_of(code: str | int) -> int:
    return code if isinstance(code, int) else int(getattr(pycurl, code))


def facts_of(case: Case, message: str = "") -> Facts:
    exchange = prepare({"user_agent": "agent", "max_body_size": 0, "url": case.url, **case.options})
    return Facts(code_of(case.code), message, exchange, **case.facts)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c.code}" for n, c in enumerate(CASES)])
def test_classify(case: Case) -> None:
    error = classify(facts_of(case))
    assert isinstance(error, case.kind)
    assert (error.stage, error.retryable) == (case.stage, case.retryable)
    assert str(error) == case.text or (case.text == "" and case.code == FAILED)
    assert error.code == 599
    assert isinstance(error, CurlError)
    assert error.curl_code == code_of(case.code)
    if case.facts.get("os_errno") == errno.ECONNREFUSED and case.kind is HTTPConnectionRefusedError:
        assert error.errno == errno.ECONNREFUSED
    else:
        assert error.errno == code_of(case.code)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c.code}" for n, c in enumerate(CASES)])
def test_the_proxy_is_named_without_its_credentials(case: Case) -> None:
    error = classify(facts_of(case, "in libcurl's words"))
    proxy = case.options.get("proxy")
    if proxy is None:
        assert error.proxy is None
        assert error.proxy_code is None
    else:
        assert error.proxy == proxy.replace("u:hunter2@", "")
        assert error.proxy_code == case.facts.get("connect_code")
    for text in (str(error), repr(error), str(error.__dict__), str(error.args)):
        assert "hunter2" not in text


def test_libcurls_words_come_last() -> None:
    case = CASES[1]
    assert str(classify(facts_of(case, "so it says"))) == f"{case.text}: so it says"


def test_a_closed_loop_has_only_its_message() -> None:
    error = classify(facts_of(Case(FAILED, HTTPConnectError, "dns", SAFE, ""), "epoll failed"))
    assert str(error) == "epoll failed"
    assert isinstance(error, CurlError)
    assert error.curl_code == FAILED


def test_the_message_decides_nothing() -> None:
    for case in CASES:
        for lie in ("Connection timed out", "Operation timed out", "Could not resolve", "407"):
            error = classify(facts_of(case, lie))
            assert type(error) is type(classify(facts_of(case)))
            assert (error.stage, error.retryable) == (case.stage, case.retryable)


def test_a_bad_client_key_has_a_strange_code(certificates: Any) -> None:
    case = Case(
        "E_BAD_FUNCTION_ARGUMENT",
        HTTPTLSError,
        "tls",
        UNSAFE,
        "client_cert or client_key cannot be used",
        CONNECTED,
        HTTPS,
        {"client_cert": certificates.client_cert_file},
    )
    error = classify(facts_of(case))
    assert isinstance(error, HTTPTLSError)
    assert str(error) == case.text


def test_all_rows_are_found_by_their_code() -> None:
    assert len(set(BY_CODE)) >= len(TABLE) - 1  # E_SSL_CACERT is E_PEER_FAILED_VERIFICATION
    assert FAILED - 1 not in BY_CODE, "a code without a number"
    for name, number in errors._NUMBERS.items():
        assert getattr(pycurl, name, number) == number


@pytest.mark.parametrize("code", range(1, 120))
@pytest.mark.parametrize(
    "facts", [{}, LOOKED_UP, CONNECTED, REQUESTED, {**REQUESTED, "head": True}]
)
@pytest.mark.parametrize("options", [{}, PROXY, TLS_PROXY, SOCKS, POST])
def test_every_code_has_an_error_and_a_stage(
    code: int, facts: dict[str, Any], options: dict[str, Any]
) -> None:
    stages = {
        "dns",
        "proxy-connect",
        "proxy-auth",
        "tunnel",
        "connect",
        "tls",
        "send",
        "response",
        "body",
    }
    for url in (HTTP, HTTPS):
        error = classify(facts_of(Case(code, HTTPError, "", SAFE, "", facts, url, options)))
        assert isinstance(error, CurlError)
        assert error.stage in stages
        # What may have been carried out is never called safe to send again.
        if facts.get("requested") and options is POST:
            assert not error.retryable


# -- the classes

BUILT_IN: dict[type[HTTPError], type[BaseException]] = {
    HTTPTimeoutError: TimeoutError,
    HTTPResolveError: socket.gaierror,
    HTTPConnectError: ConnectionError,
    HTTPConnectionRefusedError: ConnectionRefusedError,
    HTTPProxyError: ConnectionError,
    HTTPTLSError: ssl.SSLError,
    HTTPStreamClosedError: ConnectionError,
    HTTPProtocolError: Exception,
    HTTPLimitError: Exception,
    HTTPRedirectError: ValueError,
}
CURL: list[type[CurlError]] = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, CurlError) and kind is not CurlError
    ),
    key=lambda kind: kind.__name__,
)


def test_the_lists_are_complete() -> None:
    public = {
        kind
        for name in whimbrel.httpclient.__all__
        if isinstance(kind := getattr(whimbrel.httpclient, name), type)
        and issubclass(kind, HTTPError)
    }
    assert public == {HTTPError, *BUILT_IN}
    assert HTTPClientError is HTTPError
    # Each kind that libcurl can cause has its curl twin.
    twins = {base for kind in CURL for base in kind.__mro__ if base in BUILT_IN}
    assert twins == BUILT_IN.keys() - {HTTPRedirectError}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_both_an_http_error_and_the_built_in_one(kind: type[HTTPError]) -> None:
    assert issubclass(kind, HTTPError)
    assert issubclass(kind, BUILT_IN[kind])


def make(kind: type[HTTPError]) -> HTTPError:
    build: Any = kind
    has_code = kind in (HTTPError, HTTPRedirectError)
    error: HTTPError = build(302, "text") if has_code else build("text")
    error.stage = "connect"
    error.retryable = True
    error.proxy = "http://p.example:1"
    error.proxy_code = 502
    if isinstance(error, CurlError):
        error.errno = 111
        error.curl_code = 7
    return error


def copies(error: HTTPError) -> list[HTTPError]:
    pickled = [pickle.loads(pickle.dumps(error, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]
    return [*pickled, copy.copy(error), copy.deepcopy(error)]


@pytest.mark.parametrize("kind", [HTTPError, *BUILT_IN, *CURL], ids=lambda kind: kind.__name__)
def test_copies_and_pickles(kind: type[HTTPError]) -> None:
    error = make(kind)
    for twin in copies(error):
        assert type(twin) is kind
        assert twin is not error
        assert str(twin) == str(error)
        assert repr(twin) == repr(error)
        for name in ("code", "message", "response", "stage", "retryable", "proxy", "proxy_code"):
            assert getattr(twin, name) == getattr(error, name), name
        if isinstance(error, CurlError):
            assert isinstance(twin, CurlError)
            assert (twin.errno, twin.curl_code) == (111, 7)


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{c.code}" for n, c in enumerate(CASES)])
def test_what_classify_returns_can_be_copied(case: Case) -> None:
    error = classify(facts_of(case, "words"))
    assert isinstance(error, CurlError)
    for twin in copies(error):
        assert type(twin) is type(error)
        assert twin.__dict__ == error.__dict__
        assert isinstance(twin, CurlError)
        assert (twin.errno, twin.curl_code) == (error.errno, error.curl_code)
        assert str(twin) == str(error)


def test_a_curl_error_by_hand() -> None:
    """Tornado's signature."""
    error = CurlError(7, "text")
    assert (error.code, error.errno, error.curl_code) == (599, 7, 7)
    assert str(error) == "HTTP 599: text"
    for twin in copies(error):
        assert isinstance(twin, CurlError)
        assert (twin.errno, twin.curl_code, twin.message) == (7, 7, "text")


@pytest.mark.parametrize("kind", [HTTPError, *BUILT_IN, *CURL], ids=lambda kind: kind.__name__)
def test_peers_words_are_escaped(kind: type[HTTPError]) -> None:
    error = make(kind)
    error.message = "a\x1b[31m\r\nb\x00\u202e"
    for text in (str(error), repr(error)):
        assert text.isprintable()
        assert "\\x1b[31m\\r\\nb\\x00\\u202e" in text
