"""HTTP/1.1 and 2 from nginx, HTTP/3 from caddy: asked for, got, and reported as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from whimbrel._curl import driver, room
from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPTLSError

from .servers import caddy, nginx
from .servers.certificates import Certificates
from .support import BEST_VERSION, MakeClient, curl_only, each_version

_ON_THE_WIRE = {"1.1": "HTTP/1.1", "2": "HTTP/2.0", "3": "HTTP/3.0"}


@each_version
async def test_over_tls(
    client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates, http_version: str
) -> None:
    response = await client.fetch(
        nginx_server.tls_url + "/seen", ca_certs=str(certs.ca), http_version=http_version
    )
    assert response.http_version == http_version
    assert response.json()["protocol"] == _ON_THE_WIRE[http_version]


async def test_best_version_is_the_default(
    backend: str, client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates
) -> None:
    response = await client.fetch(nginx_server.tls_url + "/seen", ca_certs=str(certs.ca))
    assert response.http_version == BEST_VERSION[backend]
    assert response.json()["protocol"] == _ON_THE_WIRE[BEST_VERSION[backend]]


@curl_only
async def test_version_is_asked_for_each_request(
    client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates
) -> None:
    for version in ("2", "1.1", "2", "1.1"):
        response = await client.fetch(
            nginx_server.tls_url + "/seen", ca_certs=str(certs.ca), http_version=version
        )
        assert response.json()["protocol"] == _ON_THE_WIRE[version]


@curl_only
@pytest.mark.parametrize("asked", [None, "2"])
async def test_falls_back_to_http1(
    client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates, asked: str | None
) -> None:
    url = f"https://localhost:{nginx_server.tls_http1}/seen"
    response = await client.fetch(url, ca_certs=str(certs.ca), http_version=asked)
    assert response.http_version == "1.1"
    assert response.json()["protocol"] == "HTTP/1.1"


async def test_plain_is_http1(client: AsyncHTTPClient, nginx_server: nginx.Nginx) -> None:
    response = await client.fetch(nginx_server.url + "/seen")
    assert response.http_version == "1.1"
    assert response.json()["protocol"] == "HTTP/1.1"


@curl_only
async def test_prior_knowledge(client: AsyncHTTPClient, nginx_server: nginx.Nginx) -> None:
    response = await client.fetch(
        f"http://127.0.0.1:{nginx_server.h2c}/seen", http_version="2-prior-knowledge"
    )
    assert response.http_version == "2"
    assert response.json()["protocol"] == "HTTP/2.0"


@curl_only
async def test_hundred_streams_share_one_connection(
    make_client: MakeClient, nginx_server: nginx.Nginx, certs: Certificates
) -> None:
    client = make_client(max_clients=100)
    url = nginx_server.tls_url + "/slow/file"
    start = time.monotonic()
    responses = await asyncio.gather(
        *(client.fetch(url, ca_certs=str(certs.ca), http_version="2") for _ in range(100))
    )
    elapsed = time.monotonic() - start
    assert {len(response.body) for response in responses} == {nginx.SLOW_SIZE}
    assert {response.http_version for response in responses} == {"2"}
    assert len({response.connection_id for response in responses}) == 1
    assert len({response.headers["X-Connection"] for response in responses}) == 1
    # One after the other they would take a hundred times as long as each.
    assert elapsed < 20 * nginx.SLOW_SECONDS


async def test_connections_are_kept(
    client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates
) -> None:
    url = nginx_server.tls_url + "/seen"
    responses = [
        await client.fetch(url, ca_certs=str(certs.ca), http_version="1.1") for _ in range(5)
    ]
    assert len({response.connection_id for response in responses}) == 1
    assert len({response.json()["connection"] for response in responses}) == 1
    assert [response.reused for response in responses] == [False, True, True, True, True]


@curl_only
@pytest.mark.parametrize("asked", ["3", "3-only"])
async def test_http3(
    client: AsyncHTTPClient, caddy_server: caddy.Caddy, certs: Certificates, asked: str
) -> None:
    response = await client.fetch(
        caddy_server.url + "/big", ca_certs=str(certs.ca), http_version=asked
    )
    assert response.http_version == "3"
    assert response.headers["X-Protocol"] == _ON_THE_WIRE["3"]
    assert response.body == bytes(range(250)) * (caddy.BIG_SIZE // 250)


@curl_only
async def test_http3_concurrent_on_one_connection(
    make_client: MakeClient, caddy_server: caddy.Caddy, certs: Certificates
) -> None:
    client = make_client(max_clients=20)
    responses = await asyncio.gather(
        *(
            client.fetch(caddy_server.url + "/big", ca_certs=str(certs.ca), http_version="3-only")
            for _ in range(20)
        )
    )
    assert {response.headers["X-Protocol"] for response in responses} == {_ON_THE_WIRE["3"]}
    assert {len(response.body) for response in responses} == {caddy.BIG_SIZE}
    assert len({response.connection_id for response in responses}) == 1


@curl_only
async def test_http3_status_and_errors(
    client: AsyncHTTPClient, caddy_server: caddy.Caddy, certs: Certificates
) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(
            caddy_server.url + "/none", ca_certs=str(certs.ca), http_version="3-only"
        )
    assert caught.value.code == 404
    with pytest.raises(HTTPTLSError):
        await client.fetch(
            caddy_server.url + "/", ca_certs=str(certs.stranger_ca), http_version="3-only"
        )


@curl_only
async def test_http3_falls_back(
    client: AsyncHTTPClient, nginx_server: nginx.Nginx, certs: Certificates
) -> None:
    """nginx has no HTTP/3 here: "3" settles for less, "3-only" does not."""
    url = nginx_server.tls_url + "/seen"
    response = await client.fetch(url, ca_certs=str(certs.ca), http_version="3")
    assert response.http_version == "2"
    assert response.json()["protocol"] == _ON_THE_WIRE["2"]
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(url, ca_certs=str(certs.ca), http_version="3-only", connect_timeout=2)
    assert caught.value.code == 599
    assert caught.value.stage == "connect"


@curl_only
@pytest.mark.parametrize("http_version", ["1.1", "2"])
async def test_streams_are_not_paused_for_room(
    client: AsyncHTTPClient,
    nginx_server: nginx.Nginx,
    certs: Certificates,
    http_version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libcurl would keep what comes of them in memory; on HTTP/1 the system does."""
    monkeypatch.setattr(driver, "ROOM", 16 * 1024)
    monkeypatch.setattr(room, "ROOM", 16 * 1024)
    waits: list[int] = []
    wait = room.Room.wait

    def noting(self: room.Room, go_on: Callable[[], None]) -> None:
        waits.append(self.left)
        wait(self, go_on)

    monkeypatch.setattr(room.Room, "wait", noting)
    sizes = [0, 0]

    def taker(number: int) -> Callable[[bytes], None]:
        def take(chunk: bytes) -> None:
            sizes[number] += len(chunk)

        return take

    await asyncio.gather(
        *(
            client.fetch(
                nginx_server.tls_url + "/big",
                ca_certs=str(certs.ca),
                http_version=http_version,
                streaming_callback=taker(number),
            )
            for number in range(2)
        )
    )
    assert sizes == [nginx.BIG_SIZE] * 2
    assert bool(waits) == (http_version == "1.1")
