"""TLS sessions: what is resumed, and what must not be, by the server's own count."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from conftest import Certificates
from whimbrel._simple import sessions as module
from whimbrel._simple.sessions import LIFETIME
from whimbrel.httpclient import HTTPTLSError
from whimbrel.testing.scripted import ScriptedServer, canned, ok

CLOSING = canned(ok(b"ok", "Connection: close"))


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def server(
    request: pytest.FixtureRequest, certificates: Certificates
) -> AsyncIterator[ScriptedServer]:
    """A server that gives tickets and closes each connection after one response."""
    context = certificates.server_context()
    context.maximum_version = request.param
    async with ScriptedServer(CLOSING, context) as server:
        server.context = context  # type: ignore[attr-defined]
        yield server


def resumed(server: Any) -> int:
    """How many handshakes were resumptions."""
    hits: int = server.context.session_stats()["hits"]
    return hits


@pytest.fixture
def client(make_client: Callable[..., Any], certificates: Certificates) -> Any:
    return make_client(defaults={"ca_certs": certificates.ca_file})


async def test_a_session_is_resumed(client: Any, server: ScriptedServer) -> None:
    for count in range(3):
        assert (await client.fetch(server.url())).body == b"ok"
        assert resumed(server) == count
    assert len(server.connections) == 3


async def test_not_for_another_client(
    make_client: Callable[..., Any], certificates: Certificates, server: ScriptedServer
) -> None:
    for _ in range(2):
        client = make_client(defaults={"ca_certs": certificates.ca_file})
        await client.fetch(server.url())
        client.close()
        assert not len(client._pool.sessions)
    assert resumed(server) == 0


async def test_rule_1_not_with_other_settings(client: Any, server: ScriptedServer) -> None:
    """A session that nobody verified is of no use to who wants it verified."""
    for _ in range(2):
        await client.fetch(server.url(), validate_cert=False)
    assert resumed(server) == 1
    strangers = trustme.CA().cert_pem.bytes()
    with pytest.raises(HTTPTLSError, match="was not accepted"):
        await client.fetch(server.url(), ca_certs=strangers)
    assert resumed(server) == 1


async def test_rule_1_not_for_another_name(client: Any, server: ScriptedServer) -> None:
    """The certificate is looked at again for each name that it has to hold."""
    await client.fetch(server.url())
    await client.fetch(server.url())
    with pytest.raises(HTTPTLSError, match="was not accepted"):
        await client.fetch(server.url().replace("127.0.0.1", "other.localhost"))
    assert resumed(server) == 1


async def test_rule_1_not_after_a_change_of_files(
    make_client: Callable[..., Any],
    certificates: Certificates,
    server: ScriptedServer,
    tmp_path: Path,
) -> None:
    trusted = tmp_path / "ca.pem"
    certificates.ca.cert_pem.write_to_path(str(trusted))
    client = make_client(defaults={"ca_certs": str(trusted)})
    await client.fetch(server.url())
    await client.fetch(server.url())
    assert resumed(server) == 1
    trustme.CA().cert_pem.write_to_path(str(trusted))
    with pytest.raises(HTTPTLSError, match="was not accepted"):
        await client.fetch(server.url())


async def test_rule_2_not_with_a_callers_own_context(
    make_client: Callable[..., Any], certificates: Certificates, server: ScriptedServer
) -> None:
    context = ssl.create_default_context(cafile=certificates.ca_file)
    client = make_client(defaults={"ssl_options": context})
    for _ in range(2):
        await client.fetch(server.url())
    assert resumed(server) == 0
    assert not len(client._pool.sessions)


async def test_rule_3_a_session_has_its_time(client: Any, server: ScriptedServer) -> None:
    now = 0.0
    await client.fetch(server.url())
    client._pool.sessions.clear()
    client._pool.sessions._clock = lambda: now
    await client.fetch(server.url())
    now = LIFETIME - 1
    await client.fetch(server.url())
    assert resumed(server) == 1
    now = LIFETIME + 1
    await client.fetch(server.url())
    assert resumed(server) == 1
    await client.fetch(server.url())
    assert resumed(server) == 2


async def test_so_many_and_no_more(
    make_client: Callable[..., Any],
    certificates: Certificates,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CAPACITY", 2)
    client = make_client()
    trust = certificates.ca.cert_pem.bytes()
    routes = [trust + b"\n" * number for number in range(3)]
    for ca_certs in routes:
        await client.fetch(server.url(), ca_certs=ca_certs)
    assert len(client._pool.sessions) == 2
    assert resumed(server) == 0
    for ca_certs in reversed(routes):
        await client.fetch(server.url(), ca_certs=ca_certs)
    assert resumed(server) == 2  # the first one's session had to go


async def test_rule_4_a_server_that_hangs_up_on_who_offers_a_session(
    client: Any, certificates: Certificates
) -> None:
    """It gets a handshake without, at once and from then on."""
    context = certificates.server_context()
    hellos: list[int] = []

    def serve(listener: socket.socket) -> None:
        for _ in range(5):
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(10)
                hellos.append(len(sock.recv(4096, socket.MSG_PEEK)))
                if hellos[-1] > hellos[0] + 20:  # a ticket is what makes it longer
                    continue
                with context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(4096)
                    secure.sendall(ok(b"ok", "Connection: close"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.ensure_future(asyncio.to_thread(serve, listener))
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        for _ in range(4):
            assert (await client.fetch(url)).body == b"ok"
        await serving
    assert sum(size > hellos[0] + 20 for size in hellos) == 1


def test_rule_4_for_a_while() -> None:
    clock = [0.0]
    sessions = module.Sessions(lambda: clock[0])
    route: Any = object()
    sessions.refuse(route)
    assert sessions._refused[route] == module.REFUSED_SECONDS
    for _ in range(2 * module.CAPACITY):
        other: Any = object()
        sessions.refuse(other)
    assert len(sessions._refused) == module.CAPACITY
