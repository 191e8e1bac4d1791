"""whimbrel: an asyncio HTTP client with Tornado's httpclient interface and libcurl's reach."""

from whimbrel._version import __version__
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
