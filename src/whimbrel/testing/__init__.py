"""What tests of HTTP clients need, whimbrel's own and its users': servers, faults, a mock client.

`OriginServer` and `ProxyServer` behave, on loopback; they count and record what clients do, are
strict about what they receive, and close without a trace. `mock_client` replaces the network by
routes. Modules of their own: `whimbrel.testing.misbehaving` (servers and proxies with faults),
`whimbrel.testing.scripted` (a server that a test scripts byte by byte), `whimbrel.testing.fixtures`
(a pytest plugin).

    async with OriginServer() as origin, ProxyServer("alice", "secret") as proxy:
        response = await client.fetch(origin.url("/hello"), proxy=proxy.url_with_credentials)
        assert proxy.forward_count == 1
"""

from __future__ import annotations

from whimbrel.testing._certificate import LOCALHOST_CERTIFICATE, localhost_context
from whimbrel.testing._server import Limits, RecordedRequest
from whimbrel.testing.mock import (
    MockAsyncHTTPClient,
    MockRequest,
    MockResponse,
    MockRoutes,
    Route,
    UnexpectedRequest,
    mock_client,
)
from whimbrel.testing.origin import Handler, OriginServer, Reply, Request, pattern
from whimbrel.testing.proxy import ProxyServer
from whimbrel.testing.scripted import refused_port

__all__ = [
    "LOCALHOST_CERTIFICATE",
    "Handler",
    "Limits",
    "MockAsyncHTTPClient",
    "MockRequest",
    "MockResponse",
    "MockRoutes",
    "OriginServer",
    "ProxyServer",
    "RecordedRequest",
    "Reply",
    "Request",
    "Route",
    "UnexpectedRequest",
    "localhost_context",
    "mock_client",
    "pattern",
    "refused_port",
]
