"""Where a name leads: hostname_mapping, a custom resolver, IPv6. CONTRACT 35."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPResolveError
from whimbrel.testing.scripted import ScriptedServer, canned, ok

from .support import error_of


class Resolver:
    """Answers every name with the addresses given, in one of the allowed ways."""

    def __init__(self, addresses: list[tuple[Any, ...]], how: str = "list") -> None:
        self.addresses = [(socket.AF_INET, address) for address in addresses]
        self.how = how
        self.asked: list[tuple[str, int, int]] = []

    def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> Any:
        self.asked.append((host, port, family))
        if self.how == "list":
            return self.addresses
        if self.how == "coroutine":
            return self._later()
        future = asyncio.get_running_loop().create_future()
        future.get_loop().call_soon(future.set_result, self.addresses)
        return future

    async def _later(self) -> Any:
        await asyncio.sleep(0)
        return self.addresses


@pytest.mark.parametrize("how", ["list", "coroutine", "future"])
async def test_resolver(make_client: Any, how: str) -> None:
    """CONTRACT 35: resolve(host, port, family) may return a list, or an awaitable of it."""
    async with ScriptedServer(canned(ok())) as server:
        resolver = Resolver([("127.0.0.1", server.port)], how)
        response = await make_client(resolver=resolver).fetch("http://name.test/")
        assert response.body == b"ok"
        assert resolver.asked == [("name.test", 80, socket.AF_UNSPEC)]
        assert server.requests[0].get("Host") == "name.test"
        assert response.effective_url == "http://name.test/"
        assert response.remote_address == ("127.0.0.1", server.port)


async def test_resolver_without_ipv6(make_client: Any) -> None:
    """CONTRACT 35: with allow_ipv6=False the resolver is asked for IPv4."""
    async with ScriptedServer(canned(ok())) as server:
        resolver = Resolver([("127.0.0.1", server.port)])
        await make_client(resolver=resolver).fetch("http://name.test/", allow_ipv6=False)
    assert resolver.asked == [("name.test", 80, socket.AF_INET)]


async def test_resolver_that_fails(make_client: Any) -> None:
    """A resolver's gaierror is an HTTPResolveError of stage "dns"; other errors stay themselves."""

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def resolve(self, host: str, port: int, family: int = 0) -> Any:
            raise self.error

    client = make_client(resolver=Failing(socket.gaierror(socket.EAI_NONAME, "unknown")))
    error = await error_of(client.fetch("http://name.test/"))
    assert isinstance(error, HTTPResolveError)
    assert error.stage == "dns"
    with pytest.raises(LookupError, match="mine"):
        await make_client(resolver=Failing(LookupError("mine"))).fetch("http://name.test/")
    assert isinstance(
        await error_of(make_client(resolver=Resolver([])).fetch("http://name.test/")),
        HTTPResolveError,
    )


async def test_resolver_that_finishes_after_the_timeout(make_client: Any) -> None:
    """CONTRACT 35: a resolver may finish after the time-out; nobody listens, nothing complains."""
    release, finished = asyncio.Event(), asyncio.Event()

    class Late:
        def resolve(self, host: str, port: int, family: int = 0) -> Any:
            return asyncio.ensure_future(asyncio.shield(self._late()))

        async def _late(self) -> Any:
            await release.wait()
            finished.set()
            return [(socket.AF_INET, ("127.0.0.1", 9))]

    client = make_client(resolver=Late())
    await error_of(client.fetch("http://name.test/", request_timeout=0.05))
    fetch = client.fetch("http://name.test/")
    await asyncio.sleep(0)
    fetch.cancel()
    release.set()
    await finished.wait()
    await asyncio.sleep(0)


async def test_matrix_39_dead_first_address(make_client: Any) -> None:
    """Matrix 39: of several addresses, one that refuses does not keep the next from being used."""
    async with ScriptedServer(canned(ok(b"second"))) as server:
        resolver = Resolver([("127.0.0.9", server.port), ("127.0.0.1", server.port)])
        assert (await make_client(resolver=resolver).fetch("http://name.test/")).body == b"second"


async def test_resolver_and_proxies(make_client: Any) -> None:
    """Behind a proxy that resolves names, the origin's name goes to the proxy as it is."""
    resolver = Resolver([("127.0.0.9", 9)])
    async with ScriptedServer(canned(ok())) as proxy:
        await make_client(resolver=resolver).fetch("http://name.test/", proxy=proxy.url())
    assert proxy.requests[0].target == "http://name.test/"
    assert ("name.test", 80, socket.AF_UNSPEC) not in resolver.asked


async def test_hostname_mapping_and_proxies(make_client: Any) -> None:
    """Nor does a mapping change what is asked of a proxy, or turn the request into a tunnel."""
    client = make_client(hostname_mapping={"name.test": ("127.0.0.9", 9)})
    async with ScriptedServer(canned(ok())) as proxy:
        await client.fetch("http://name.test/", proxy=proxy.url())
    assert [request.target for request in proxy.requests] == ["http://name.test/"]


@pytest.mark.parametrize("key", ["name.test", ("name.test", 80), ("name.test", 80, False)])
async def test_hostname_mapping(make_client: Any, key: Any) -> None:
    """CONTRACT 35: keys are host, (host, port) or (host, port, use_ssl); Host keeps the name."""
    async with ScriptedServer(canned(ok())) as server:
        client = make_client(hostname_mapping={key: ("127.0.0.1", server.port)})
        response = await client.fetch("http://name.test/")
        assert response.effective_url == "http://name.test/"
        assert server.requests[0].get("Host") == "name.test"


async def test_hostname_mapping_to_a_host(make_client: Any) -> None:
    """A mapping to a host alone keeps the port; other names are untouched."""
    async with ScriptedServer(canned(ok())) as server:
        client = make_client(hostname_mapping={"name.test": "127.0.0.1"})
        await client.fetch(server.url(host="name.test"))
        await client.fetch(server.url(host="NAME.test"))
        await client.fetch(server.url())
    assert [request.get("Host") for request in server.requests] == [
        f"name.test:{server.port}",
        f"name.test:{server.port}",
        server.address,
    ]


async def test_hostname_mapping_of_tls(
    make_client: Any, certificates: Any, server_context: Any
) -> None:
    """CONTRACT 35: a mapped https host is verified under its own name, and use_ssl tells."""
    context = certificates.server_context(certificates.ca.issue_cert("name.test"))
    names: list[Any] = []
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    async with (
        ScriptedServer(canned(ok()), context) as right,
        ScriptedServer(canned(ok(b"plain"))) as plain,
    ):
        client = make_client(
            hostname_mapping={
                ("name.test", 443, True): ("127.0.0.1", right.port),
                ("name.test", 443): ("127.0.0.1", plain.port),
            },
            defaults={"ca_certs": certificates.ca_file},
        )
        assert (await client.fetch("https://name.test/")).body == b"ok"
        assert (await client.fetch("http://name.test:443/")).body == b"plain"
    assert names == ["name.test"]
    async with ScriptedServer(canned(ok()), server_context) as wrong:
        client = make_client(hostname_mapping={"name.test": ("127.0.0.1", wrong.port)})
        with pytest.raises(HTTPError, match=r"name\.test"):
            await client.fetch("https://name.test/", ca_certs=certificates.ca_file)


async def test_mappings_of_a_name_do_not_mix(make_client: Any) -> None:
    """A connection made under one mapping does not serve another client's."""
    async with ScriptedServer(canned(ok(b"one"))) as one, ScriptedServer(canned(ok(b"two"))) as two:
        for server, body in ((one, b"one"), (two, b"two")):
            client = make_client(hostname_mapping={"name.test": ("127.0.0.1", server.port)})
            assert (await client.fetch("http://name.test/")).body == body


async def test_ipv6(client: Any) -> None:
    """CONTRACT 35: IPv6 is used by default; allow_ipv6=False fails for [::1]."""
    async with ScriptedServer(canned(ok()), host="::1") as server:
        response = await client.fetch(server.url())
        assert response.remote_address == ("::1", server.port)
        assert server.requests[0].get("Host") == server.address
        await error_of(client.fetch(server.url(), allow_ipv6=False))
        assert len(server.connections) == 1


async def test_localhost(client: Any) -> None:
    """localhost is found whichever of the loopback addresses listens."""
    async with ScriptedServer(canned(ok())) as server:
        assert (await client.fetch(server.url(host="localhost"))).body == b"ok"
