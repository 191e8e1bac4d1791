"""The clients of the benchmarks against nginx: HTTP/2 where it is asked for, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest

from conftest import LOOP

from .servers.certificates import Certificates
from .servers.nginx import BIG_SIZE, SMALL, Nginx
from .servers.process import require_program

clients: Any = pytest.importorskip("benchmarks.clients", reason="these are the tests alone")
session: Any = pytest.importorskip("benchmarks.clients.session")
libcurl_in_c: Any = pytest.importorskip("benchmarks.clients.libcurl_in_c")

IN_FLIGHT = 20
SESSIONS = [
    client
    for client in clients.CLIENTS.values()
    if client.open is not None and client.loop == LOOP and not client.missing
]


async def seen(opened: Any, url: str) -> tuple[set[str], set[str]]:
    """The protocols, and the connections, that nginx saw `IN_FLIGHT` requests come by."""
    answers = await asyncio.gather(*(opened.get(f"{url}/seen") for _ in range(IN_FLIGHT)))
    assert {status for status, _ in answers} == {200}
    told = [json.loads(bytes(body)) for _, body in answers]
    return {each["protocol"] for each in told}, {each["connection"] for each in told}


@pytest.mark.parametrize(
    "client", [c for c in SESSIONS if "http2" in c.features], ids=lambda client: client.name
)
async def test_http2(client: Any, nginx_server: Nginx, certs: Certificates) -> None:
    """All requests share one connection, and bodies come whole."""
    options = session.Options(IN_FLIGHT, http2=True, ca_file=str(certs.ca))
    async with client.open(options) as opened:
        protocols, connections = await seen(opened, nginx_server.tls_url)
        assert protocols == {"HTTP/2.0"}
        assert len(connections) == 1
        assert (await opened.download(f"{nginx_server.tls_url}/big"))[:2] == (200, BIG_SIZE)


@pytest.mark.parametrize("client", SESSIONS, ids=lambda client: client.name)
async def test_http1(client: Any, nginx_server: Nginx, certs: Certificates) -> None:
    """Over TLS HTTP/1.1 is spoken; with a server that offers HTTP/2 too, Tornado takes that."""
    tls_url = nginx_server.tls_url
    if client.name == "Tornado curl":
        tls_url = f"https://localhost:{nginx_server.tls_http1}"
    options = session.Options(IN_FLIGHT, ca_file=str(certs.ca))
    async with client.open(options) as opened:
        for url in (nginx_server.url, tls_url):
            protocols, _ = await seen(opened, url)
            assert protocols == {"HTTP/1.1"}
            assert (await opened.download(f"{url}/big"))[:2] == (200, BIG_SIZE)


async def test_program(nginx_server: Nginx, certs: Certificates) -> None:
    """The one in C speaks HTTP/2 when asked to, and HTTP/1.1 otherwise."""
    require_program("cc", "gcc")
    require_program("curl-config", "libcurl4-openssl-dev")
    client = clients.CLIENTS["libcurl in C"]
    assert client.missing == []
    log = nginx_server.unix_socket.with_name("access.log")
    for http2, version in ((True, "HTTP/2.0"), (False, "HTTP/1.1")):
        options = session.Options(2, http2=http2, ca_file=str(certs.ca))
        url = f"{nginx_server.tls_url}/small?http2={http2}"
        load = libcurl_in_c.Load(url, options, 0.1, 0.0, None, SMALL)
        process = await asyncio.create_subprocess_exec(
            *client.command(load), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert json.loads(output)["requests"] >= 2
        lines = [line for line in log.read_text().splitlines() if f"http2={http2}" in line]
        assert lines
        assert all(version in line for line in lines)
