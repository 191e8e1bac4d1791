"""Connections whose local port is that of one that must not be used again.

The curl backend knows connections by their ports, which the system gives out anew. What came of a
port that is distrusted by mistake, a test for each.
"""

from __future__ import annotations

import ssl
import time
from typing import Any

import pytest

from conftest import Certificates
from whimbrel.httpclient import HTTPTimeoutError
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, silent


def tainting(client: Any, context: ssl.SSLContext, slow: float, then: Any) -> ScriptedServer:
    """A proxy, its own origin in TLS, that makes `client` distrust each connection before a request
    goes out on it; its first answer to CONNECT takes `slow` seconds."""
    connected = b"HTTP/1.1 200 Connected\r\n\r\n"

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        client._tainted.add(peer.address)
        if len(server.connections) == 1:
            await peer.send_slowly(connected[:10], 1, slow / 10)
            await peer.start_tls(context, connected[10:])
        else:
            await peer.start_tls(context, connected)
        await then(peer)

    server = ScriptedServer(handler)
    return server


async def test_it_costs_one_connection(client: Any, certificates: Certificates) -> None:
    """New connections that get ports of old ones: a second connection is made, not a thousand."""
    server = tainting(client, certificates.server_context(), 0, canned(ok()))
    async with server:
        response = await client.fetch(
            "https://localhost/",
            proxy=server.url(""),
            ca_certs=certificates.ca_file,
            request_timeout=3,
        )
        assert response.body == b"ok"
        assert [request.method for request in server.requests] == ["CONNECT", "CONNECT", "GET"]
        assert len(server.connections) == 2


async def test_the_second_connection_has_what_remains_of_the_deadline(
    client: Any, certificates: Certificates
) -> None:
    """libcurl's clock starts again with the second connection; ours does not."""
    server = tainting(client, certificates.server_context(), 0.7, silent)
    async with server:
        begun = time.perf_counter()
        with pytest.raises(HTTPTimeoutError):
            await client.fetch(
                "https://localhost/",
                proxy=server.url(""),
                ca_certs=certificates.ca_file,
                request_timeout=1,
            )
        assert time.perf_counter() - begun < 1.4
        assert len(server.connections) == 2


async def test_what_the_proxy_said_is_that_of_the_second_connection(
    make_client: Any, certificates: Certificates
) -> None:
    """And the header block of the first is not counted once more."""
    connected = b"HTTP/1.1 200 Connected\r\nX-Number: %d\r\nX-Long: " + b"x" * 400 + b"\r\n\r\n"
    client = make_client(max_header_size=800)

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        client._tainted.add(peer.address)
        await peer.start_tls(certificates.server_context(), connected % len(server.connections))
        await canned(ok())(peer)

    async with ScriptedServer(handler) as server:
        response = await client.fetch(
            "https://localhost/", proxy=server.url(""), ca_certs=certificates.ca_file
        )
    assert len(server.connections) == 2
    assert response.proxy_code == 200
    assert response.proxy_headers["X-Number"] == "2"
