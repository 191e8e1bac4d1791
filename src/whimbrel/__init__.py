"""whimbrel: an asyncio HTTP client with Tornado's httpclient interface and libcurl's reach."""

from typing import TYPE_CHECKING, Any

from whimbrel._version import __version__

if TYPE_CHECKING:
    from whimbrel.httpclient import (
        AsyncHTTPClient,
        HTTPClient,
        HTTPClientError,
        HTTPConnectError,
        HTTPConnectionRefusedError,
        HTTPError,
        HTTPLimitError,
        HTTPProtocolError,
        HTTPProxyError,
        HTTPRedirectError,
        HTTPRequest,
        HTTPResolveError,
        HTTPResponse,
        HTTPStreamClosedError,
        HTTPTimeoutError,
        HTTPTLSError,
        StreamedResponse,
    )
    from whimbrel.httputil import HTTPHeaders

__all__ = [
    "AsyncHTTPClient",
    "HTTPClient",
    "HTTPClientError",
    "HTTPConnectError",
    "HTTPConnectionRefusedError",
    "HTTPError",
    "HTTPHeaders",
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
    "__version__",
]


def __getattr__(name: str) -> Any:
    # On demand (PEP 562): `python -m whimbrel.httpclient` must not find itself imported already.
    if name == "ioloop":
        # Programs say `tornado.ioloop.IOLoop` after no more than `import tornado.httpclient`.
        import whimbrel.ioloop

        return whimbrel.ioloop
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from whimbrel import httpclient, httputil

    value = getattr(httputil if name == "HTTPHeaders" else httpclient, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
