"""From libcurl's result codes to typed errors: one table, and what a code alone does not tell.

Never by message text: a code, the phase the transfer was in, and the proxy's own answers decide
(docs/internals/errors.md).
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

import pycurl

from whimbrel._curl.driver import FAILED
from whimbrel._policy.exchange import IDEMPOTENT_METHODS, Exchange, Profile
from whimbrel.httpclient import (
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPResolveError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)


class CurlError(HTTPError):
    """An HTTPError of code 599 that libcurl reported.

    `errno` is libcurl's result code (``pycurl.E_*``), but the operating system's for a refused
    connection; `curl_code` is libcurl's always, -1 where the event loop failed under it.
    """

    errno: int | None = None
    curl_code: int = FAILED

    def __init__(self, errno: int, message: str) -> None:
        HTTPError.__init__(self, 599, message)
        self.errno = errno
        self.curl_code = errno


# Where whimbrel itself noticed, and libcurl had no objection, these are the codes it would use.


class CurlTimeoutError(HTTPTimeoutError, CurlError):
    errno = curl_code = pycurl.E_OPERATION_TIMEDOUT


class CurlResolveError(HTTPResolveError, CurlError):
    pass


class CurlConnectError(HTTPConnectError, CurlError):
    pass


class CurlConnectionRefusedError(HTTPConnectionRefusedError, CurlError):
    pass


class CurlProxyError(HTTPProxyError, CurlError):
    errno = curl_code = 97


class CurlTLSError(HTTPTLSError, CurlError):
    pass


class CurlStreamClosedError(HTTPStreamClosedError, CurlError):
    errno = curl_code = pycurl.E_RECV_ERROR


class CurlProtocolError(HTTPProtocolError, CurlError):
    errno = curl_code = 8


class CurlLimitError(HTTPLimitError, CurlError):
    errno = curl_code = pycurl.E_FILESIZE_EXCEEDED


# Of what we notice ourselves:


def garbled(exchange: Exchange, what: str) -> CurlProtocolError:
    """Its peer sent what cannot be a response."""
    return CurlProtocolError(f"{exchange.url.netloc} sent {what}", stage="response")


def malformed(exchange: Exchange, error: Exception, stage: str) -> CurlProtocolError:
    """The same, where a parser or a decoder said so."""
    failure = CurlProtocolError(f"{exchange.url.netloc}: {error}", stage=stage)
    failure.__cause__ = error
    return failure


def closed(message: str, retryable: bool) -> CurlStreamClosedError:
    """The connection ended before the response did."""
    return CurlStreamClosedError(message, stage="response", retryable=retryable)


def too_long(message: str) -> CurlLimitError:
    """The body passes a limit."""
    return CurlLimitError(message, stage="body")


_Kind = (
    type[CurlTimeoutError]
    | type[CurlResolveError]
    | type[CurlConnectError]
    | type[CurlProxyError]
    | type[CurlTLSError]
    | type[CurlStreamClosedError]
    | type[CurlProtocolError]
    | type[CurlLimitError]
)


class Facts(NamedTuple):
    """What is known of a transfer that failed."""

    code: int
    message: str
    """libcurl's own words; only ever appended to ours."""
    exchange: Exchange
    requested: int = 0
    """How often a request was begun on a connection (PREREQFUNCTION)."""
    reconnecting: bool = False
    """Whether a further one was to be sent, on a connection that did not stand yet."""
    head: bool = False
    """Whether the final header block had arrived."""
    body: bool = False
    """Whether any of the body had arrived."""
    head_bytes: int = 0
    head_lines: int = 0
    stalled: bool = False
    """Whether stall_timeout passed, not a deadline."""
    uploading: bool = False
    """Whether some of the request body was still to be sent."""
    namelookup: float = 0.0
    connect: float = 0.0
    appconnect: float = 0.0
    total: float = 0.0
    os_errno: int = 0
    connect_code: int = 0
    """The proxy's status for CONNECT; 0 if it gave none."""
    proxy_error: int = 0
    """CURLINFO_PROXY_ERROR, for SOCKS."""
    proxy_verify: int = 0
    """CURLINFO_PROXY_SSL_VERIFYRESULT."""


class Row(NamedTuple):
    kind: _Kind
    stage: str
    """"" for the phase the transfer was in."""
    text: str
    transient: bool = True
    """Whether the same request might succeed another time."""


_TLS = Row(CurlTLSError, "tls", "TLS handshake with {origin} failed", False)
_LOCAL_TLS = Row(CurlTLSError, "tls", "TLS cannot be set up", False)
_CLOSED = Row(CurlStreamClosedError, "", "{peer} closed the connection")
_GARBLED = Row(CurlProtocolError, "", "{peer} sent a malformed reply", False)
_UNKNOWN = Row(CurlProtocolError, "", "libcurl failed", False)
_UNSENT = Row(CurlStreamClosedError, "send", "the connection broke while the request was sent")

# "E_…" names: an older pycurl lacks some.
TABLE: dict[str, Row] = {
    "E_UNSUPPORTED_PROTOCOL": _GARBLED,  # HTTP/0.9: CURLE_UNSUPPORTED_PROTOCOL
    "E_COULDNT_RESOLVE_PROXY": Row(
        CurlProxyError, "proxy-connect", "the name of proxy {proxy} has no address"
    ),
    "E_COULDNT_RESOLVE_HOST": Row(CurlResolveError, "dns", "the name {host} has no address"),
    "E_COULDNT_CONNECT": Row(CurlConnectError, "connect", "cannot connect to {origin}"),
    "E_WEIRD_SERVER_REPLY": _GARBLED,
    "E_HTTP2": Row(CurlProtocolError, "", "HTTP/2 error from {peer}"),
    "E_PARTIAL_FILE": Row(
        CurlStreamClosedError, "body", "{peer} closed the connection before the body's end"
    ),
    "E_OUT_OF_MEMORY": Row(
        CurlConnectError, "connect", "libcurl is out of memory or of file descriptors"
    ),
    "E_OPERATION_TIMEDOUT": Row(CurlTimeoutError, "", "Timeout during request to {origin}"),
    "E_SSL_CONNECT_ERROR": Row(CurlTLSError, "tls", "TLS handshake with {origin} failed", False),
    "E_INTERFACE_FAILED": Row(
        CurlConnectError, "connect", "network_interface {interface!r} cannot be used", False
    ),
    "E_GOT_NOTHING": Row(
        CurlStreamClosedError, "response", "{peer} closed the connection without a response"
    ),
    "E_SSL_ENGINE_NOTFOUND": _LOCAL_TLS,
    "E_SSL_ENGINE_SETFAILED": _LOCAL_TLS,
    "E_SEND_ERROR": _UNSENT,
    "E_RECV_ERROR": _CLOSED,
    "E_SSL_CERTPROBLEM": Row(
        CurlTLSError, "tls", "client_cert or client_key cannot be used", False
    ),
    "E_SSL_CIPHER": Row(CurlTLSError, "tls", "none of the ciphers can be used", False),
    "E_PEER_FAILED_VERIFICATION": Row(
        CurlTLSError, "tls", "the certificate of {origin} was not accepted", False
    ),
    "E_SSL_CACERT": Row(CurlTLSError, "tls", "the certificate of {origin} was not accepted", False),
    "E_BAD_CONTENT_ENCODING": _GARBLED,
    "E_FILESIZE_EXCEEDED": Row(CurlLimitError, "body", "the body passes max_body_size", False),
    "E_SEND_FAIL_REWIND": _UNSENT,
    "E_SSL_ENGINE_INITFAILED": _LOCAL_TLS,
    "E_SSL_CACERT_BADFILE": Row(CurlTLSError, "tls", "the CA certificates cannot be read", False),
    "E_SSL_CRL_BADFILE": _LOCAL_TLS,
    "E_SSL_ISSUER_ERROR": _TLS,
    "E_SSL_PINNEDPUBKEYNOTMATCH": _TLS,
    "E_SSL_INVALIDCERTSTATUS": _TLS,
    "E_HTTP2_STREAM": Row(CurlStreamClosedError, "", "{peer} reset the HTTP/2 stream"),
    "E_AUTH_ERROR": Row(CurlConnectError, "send", "authentication cannot be set up", False),
    "E_HTTP3": Row(CurlProtocolError, "", "HTTP/3 error from {peer}"),
    "E_QUIC_CONNECT_ERROR": Row(CurlConnectError, "connect", "no QUIC connection to {origin}"),
    "E_SSL_CLIENTCERT": Row(
        CurlTLSError, "tls", "{origin} wants a client certificate: set client_cert", False
    ),
    "E_TOO_LARGE": Row(
        CurlLimitError, "response", "the header block passes libcurl's limit", False
    ),
}
# Codes that some pycurl versions have no name for.
_NUMBERS = {
    "E_WEIRD_SERVER_REPLY": 8,
    "E_HTTP2": 16,
    "E_HTTP3": 95,
    "E_QUIC_CONNECT_ERROR": 96,
    "E_SSL_CLIENTCERT": 98,
    "E_TOO_LARGE": 100,
    "E_AUTH_ERROR": 94,
    "E_HTTP2_STREAM": 92,
}
BY_CODE: dict[int, Row] = {
    getattr(pycurl, name, _NUMBERS.get(name, FAILED - 1)): row for name, row in TABLE.items()
}
E_PROXY = getattr(pycurl, "E_PROXY", 97)

# CURLproxycode values of a SOCKS proxy that wants other credentials (curl/curl.h).
_SOCKS_AUTH = frozenset((4, 5, 6, 7, 8, 10, 11, 12, 14, 28, 33))
_LEFT = "it closed the connection"
_USER_ID = "it does not accept the user id"
_SOCKS_TEXT = {
    1: "it answered with an unknown address type",
    2: "it does not speak {version}",
    3: _LEFT,
    4: "it chose authentication by GSSAPI, which failed",
    5: "it wants every message authenticated by GSSAPI, which libcurl cannot do",
    6: "it did not agree to a protection by GSSAPI",
    7: _USER_ID,
    8: _USER_ID,
    9: "the origin's name is longer than 255 bytes",
    10: "the password is longer than 255 bytes",
    11: "the user name is longer than 255 bytes",
    12: "it accepts no authentication method that was offered; it wants a user name and password",
    13: _LEFT,
    14: _LEFT,
    15: _LEFT,
    16: _LEFT,
    17: "it does not support the address type",
    18: "it does not support the command",
    19: "the origin refused its connection",
    20: "a general failure, such as an unknown name",
    21: "it cannot reach the host",
    22: "it cannot reach the network",
    23: "it does not allow the connection",
    24: "its connection's TTL expired",
    25: "it failed with a code that SOCKS5 does not define",
    26: "it rejected the request",
    27: "the origin's name has no address here, and this kind of proxy resolves none",
    28: _LEFT,
    29: _LEFT,
    30: _LEFT,
    31: "it failed with a code that {version} does not define",
    32: "it chose an authentication method that was not offered",
    33: "it rejected the credentials",
}


def classify(facts: Facts) -> HTTPError:
    """Return the error that `facts` amount to."""
    profile = facts.exchange.profile
    proxy = profile.proxy
    code = facts.code
    error: HTTPError
    if code == pycurl.E_OPERATION_TIMEDOUT:
        error = _timeout(facts)
    elif proxy is not None and (found := _proxy_failure(facts)) is not None:
        error = found
    elif code == pycurl.E_COULDNT_CONNECT and facts.os_errno == errno.ECONNREFUSED:
        error = CurlConnectionRefusedError(
            _text("Connection refused by {origin}", facts),
            stage="connect",
            retryable=_safe(facts),
        )
    elif code == FAILED:
        error = CurlConnectError(facts.message, stage=_phase(facts), retryable=_safe(facts))
    else:
        row = BY_CODE.get(code) or _UNKNOWN
        if code == pycurl.E_BAD_FUNCTION_ARGUMENT and profile.tls.client_cert:
            row = TABLE["E_SSL_CERTPROBLEM"]  # what OpenSSL's side of libcurl says of a bad key
        if code == pycurl.E_RECV_ERROR and not facts.os_errno:
            row = _without_an_errno(facts)
        if row in (_UNSENT, _CLOSED) and _phase(facts) == "connect":
            row = BY_CODE[pycurl.E_COULDNT_CONNECT]  # QUIC: a "send" that reached nobody
        error = row.kind(
            _text(row.text, facts),
            stage=_stage(row, facts),
            retryable=row.transient and _safe(facts),
        )
        if (
            isinstance(error, HTTPTLSError)
            and proxy is not None
            and proxy.scheme == "https"
            and (facts.proxy_verify or not facts.connect_code)
            and not (profile.scheme == "https" and facts.connect_code)
        ):
            error.stage = "proxy-connect"
            error.message = error.message.replace(facts.exchange.url.netloc, proxy.url)
    assert isinstance(error, CurlError)
    error.curl_code = code
    error.errno = facts.os_errno if isinstance(error, ConnectionRefusedError) else code
    if proxy is not None:
        error.proxy = proxy.url
        error.proxy_code = facts.connect_code or None
    return error


def _proxy_failure(facts: Facts) -> HTTPError | None:
    """The error, if it was the proxy that failed."""
    proxy = facts.exchange.profile.proxy
    assert proxy is not None
    code = facts.code
    if code == E_PROXY:
        refused = facts.proxy_error in _SOCKS_AUTH
        reason = _SOCKS_TEXT.get(facts.proxy_error, f"it failed (code {facts.proxy_error})")
        reason = reason.format(version=proxy.scheme[:6].upper())
        if facts.proxy_error == 12 and proxy.username is not None:
            reason = "it accepts no authentication method that was offered"
        return CurlProxyError(
            f"proxy {proxy.url}: {reason}",
            stage="proxy-auth" if refused else "tunnel",
            retryable=not refused and _safe(facts),
        )
    if _is_sent(facts):
        return None
    status = facts.connect_code
    if status and status // 100 != 2:
        # Only the proxy has answered so far: it refused the tunnel.
        if status == 407:
            return CurlProxyError(
                f"proxy {proxy.url} wants other credentials (407)",
                stage="proxy-auth",
            )
        return CurlProxyError(
            f"proxy {proxy.url} answered CONNECT {facts.exchange.url.netloc} with {status}",
            stage="tunnel",
            retryable=status >= 500 and _safe(facts),
        )
    if code == pycurl.E_COULDNT_CONNECT:
        reason = os.strerror(facts.os_errno) if facts.os_errno else "cannot connect"
        return CurlProxyError(
            f"{reason}: proxy {proxy.url}", stage="proxy-connect", retryable=_safe(facts)
        )
    if code in (
        pycurl.E_RECV_ERROR,
        pycurl.E_SEND_ERROR,
        pycurl.E_GOT_NOTHING,
        _NUMBERS["E_WEIRD_SERVER_REPLY"],
        pycurl.E_UNSUPPORTED_PROTOCOL,
    ):
        return CurlProxyError(
            f"proxy {proxy.url} broke the connection while it was to make a tunnel",
            stage="tunnel",
            retryable=_safe(facts),
        )
    return None


def _timeout(facts: Facts) -> HTTPError:
    exchange = facts.exchange
    profile = exchange.profile
    proxy = profile.proxy
    if _is_sent(facts):
        if facts.stalled:
            text = f"Stalled: not a byte for {profile.stall_timeout:g} seconds"
        else:
            text = f"Timeout during request to {exchange.url.netloc}"
        return CurlTimeoutError(text, stage=_phase(facts), retryable=_safe(facts))
    if proxy is not None:
        if not facts.namelookup:
            text, stage = f"Timeout while resolving proxy {proxy.host}", "proxy-connect"
        elif facts.connect_code // 100 == 2:
            text, stage = _text("Timeout during TLS handshake with {host}:{port}", facts), "tls"
        elif not facts.connect and not facts.proxy_error:
            text, stage = f"Timeout while connecting to proxy {proxy.url}", "proxy-connect"
        else:
            text, stage = f"Timeout while proxy {proxy.url} was to make a tunnel", "tunnel"
    elif not facts.namelookup:
        text, stage = _text("Timeout while resolving {host}", facts), "dns"
    elif not facts.connect:
        text, stage = _text("Timeout while connecting to {origin}", facts), "connect"
    elif profile.scheme == "https" and not facts.appconnect:
        text, stage = _text("Timeout during TLS handshake with {host}:{port}", facts), "tls"
    else:
        # QUIC reports its times before the handshake is through.
        text, stage = _text("Timeout while connecting to {origin}", facts), "connect"
    return CurlTimeoutError(text, stage=stage, retryable=_safe(facts))


def _without_an_errno(facts: Facts) -> Row:
    """E_RECV_ERROR where the operating system reported nothing: libcurl did not like the bytes.

    Over TLS it may be a connection that ended without a close_notify, too.
    """
    if not facts.head and (facts.head_bytes > 200 * 1024 or facts.head_lines >= 5000):
        return BY_CODE[_NUMBERS["E_TOO_LARGE"]]
    if facts.exchange.profile.scheme == "http" and facts.requested:
        return _GARBLED
    return _CLOSED


def _stage(row: Row, facts: Facts) -> str:
    if row.stage in ("", "send", "response", "body") and not _is_sent(facts):
        return _phase(facts)  # nothing was sent yet, whatever libcurl calls it
    return row.stage or _phase(facts)


def _phase(facts: Facts) -> str:
    """The stage a transfer was in."""
    if facts.head or facts.body:
        return "body"
    if _is_sent(facts):
        return "send" if facts.uploading else "response"
    if facts.exchange.profile.proxy is not None:
        return "tunnel" if facts.connect else "proxy-connect"
    if not facts.namelookup:
        return "dns"
    profile = facts.exchange.profile
    # QUIC reports a connect time before the handshake is through.
    if not facts.connect or (profile.http_version or "").startswith("3"):
        return "connect"
    return "tls" if profile.scheme == "https" else "connect"


def _is_sent(facts: Facts) -> bool:
    """Whether it was the origin's turn, and not still a matter of reaching it."""
    return facts.requested > 0 and not facts.reconnecting


def _safe(facts: Facts) -> bool:
    """Whether the request cannot be carried out twice if it is sent again (RFC 9110 9.2.2)."""
    return not facts.requested or facts.exchange.profile.method in IDEMPOTENT_METHODS


def _speaks_to_proxy(profile: Profile) -> bool:
    """Whether the response comes from the proxy's own HTTP side, not through a tunnel."""
    return profile.proxy is not None and not profile.proxy.is_socks and profile.scheme == "http"


def _text(template: str, facts: Facts) -> str:
    profile, url = facts.exchange.profile, facts.exchange.url
    proxy = profile.proxy
    text = template.format(
        origin=url.netloc,
        host=url.host,
        port=url.port,
        peer=proxy.url if _speaks_to_proxy(profile) and proxy else url.netloc,
        proxy=proxy.url if proxy else "",
        interface=profile.network_interface,
    )
    return f"{text}: {facts.message}" if facts.message and facts.code > 0 else text
