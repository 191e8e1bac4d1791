"""What tests of HTTP clients need, whimbrel's own and its users': servers, faults, a mock client.

`OriginServer`, `ProxyServer` and `Socks5Server` behave, on loopback; they count and record what
clients do, are strict about what they receive, and close without a trace; `threaded` runs them for
code that blocks. `mock_client` replaces the network by routes. Modules of their own:
`whimbrel.testing.misbehaving` (servers and proxies with faults), `whimbrel.testing.scripted` (a
server that a test scripts byte by byte), `whimbrel.testing.fixtures` (a pytest plugin),
`whimbrel.testing.examples` (the servers that the examples of the documentation talk to).

    async with OriginServer() as origin, ProxyServer("alice", "secret") as proxy:
        response = await client.fetch(origin.url("/hello"), proxy=proxy.url_with_credentials)
        assert proxy.forward_count == 1
"""

from __future__ import annotations

from whimbrel.testing._certificate import (
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    LOCALHOST_CERTIFICATE,
    localhost_context,
)
from whimbrel.testing._server import Limits, RecordedRequest
from whimbrel.testing._threads import threaded
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
from whimbrel.testing.socks import Socks5Server

__all__ = [
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
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
    "Socks5Server",
    "UnexpectedRequest",
    "localhost_context",
    "mock_client",
    "pattern",
    "refused_port",
    "threaded",
]
