"""What a fetch ends with where it does not end with a response. Public in `whimbrel.httpclient`."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

from whimbrel.httputil import responses

if TYPE_CHECKING:
    from whimbrel._pipeline.response import HTTPResponse


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
