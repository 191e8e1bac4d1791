"""Servers and proxies on loopback, for whimbrel's tests and demo and for its users' tests.

`OriginServer` and `ProxyServer` behave; they count and record what clients do. `refused_port` is a
port that refuses connections. All are strict about what they receive and close without a trace.

    async with OriginServer() as origin, ProxyServer("alice", "secret") as proxy:
        response = await client.fetch(origin.url("/hello"), proxy=proxy.url_with_credentials)
        assert proxy.forward_count == 1
"""

from __future__ import annotations

from whimbrel.testing._certificate import LOCALHOST_CERTIFICATE, localhost_context
from whimbrel.testing._ports import refused_port
from whimbrel.testing._server import RecordedRequest
from whimbrel.testing._wire import Limits
from whimbrel.testing.origin import Handler, OriginServer, Reply, Request, pattern
from whimbrel.testing.proxy import ProxyServer

__all__ = [
    "LOCALHOST_CERTIFICATE",
    "Handler",
    "Limits",
    "OriginServer",
    "ProxyServer",
    "RecordedRequest",
    "Reply",
    "Request",
    "localhost_context",
    "pattern",
    "refused_port",
]
