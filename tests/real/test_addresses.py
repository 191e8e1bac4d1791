"""Where connections come from and go to: reported addresses, binding, IPv6, Unix sockets."""

from __future__ import annotations

import sys

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError

from .servers.nginx import Nginx
from .support import Origin

linux = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.0/8 and 'lo' are Linux's")


async def test_addresses_are_those_of_the_wire(
    client: AsyncHTTPClient, seen_origin: Origin
) -> None:
    response = await seen_origin.fetch(client, "/seen")
    seen = response.json()
    port = int(seen_origin.url.rpartition(":")[2])
    assert response.remote_address in (("127.0.0.1", port), ("::1", port))
    assert response.local_address == (seen["remote_address"], int(seen["remote_port"]))


@linux
async def test_source_address(client: AsyncHTTPClient, seen_origin: Origin) -> None:
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.2"):
        response = await seen_origin.fetch(
            client, "/seen", network_interface=address, allow_ipv6=False
        )
        assert response.json()["remote_address"] == address
        assert response.local_address is not None
        assert response.local_address[0] == address
    # Nor does the next request inherit it.
    response = await seen_origin.fetch(client, "/seen", allow_ipv6=False)
    assert response.json()["remote_address"] == "127.0.0.1"


@linux
async def test_interface_by_name(client: AsyncHTTPClient, seen_origin: Origin) -> None:
    response = await seen_origin.fetch(client, "/seen", network_interface="lo", allow_ipv6=False)
    assert response.json()["remote_address"] == "127.0.0.1"


async def test_source_address_ipv6(client: AsyncHTTPClient, nginx_server: Nginx) -> None:
    url = f"http://[::1]:{nginx_server.plain}/seen"
    response = await client.fetch(url, network_interface="::1")
    assert response.json()["remote_address"] == "::1"
    assert response.remote_address == ("::1", nginx_server.plain)


@pytest.mark.parametrize("name", ["no-such-if", "192.0.2.77", "2001:db8::77"])
async def test_bad_interface_is_named(
    client: AsyncHTTPClient, nginx_server: Nginx, name: str
) -> None:
    host = "[::1]" if ":" in name else "127.0.0.1"
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(f"http://{host}:{nginx_server.plain}/seen", network_interface=name)
    assert caught.value.code == 599
    assert name in str(caught.value)
    assert caught.value.stage == "connect"


async def test_unix_socket(client: AsyncHTTPClient, nginx_server: Nginx) -> None:
    path = str(nginx_server.unix_socket)
    response = await client.fetch("http://some.name/seen", unix_socket=path)
    assert response.json()["remote_address"] == "unix:"
    assert response.json()["host"] == "some.name"
    # The same URL without it is another place.
    response = await client.fetch(nginx_server.url + "/seen")
    assert response.json()["remote_address"] == "127.0.0.1"


async def test_ipv6_literal(client: AsyncHTTPClient, nginx_server: Nginx) -> None:
    response = await client.fetch(f"http://[::1]:{nginx_server.plain}/seen")
    assert response.json()["remote_address"] == "::1"
    assert response.json()["host"] == f"[::1]:{nginx_server.plain}"
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(f"http://[::1]:{nginx_server.plain}/seen", allow_ipv6=False)
    assert caught.value.code == 599
