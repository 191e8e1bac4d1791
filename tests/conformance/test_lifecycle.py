"""How clients come into being, are shared, configured, used before the loop runs, and closed."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPError, HTTPResponse
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    canned,
    ok,
    redirect,
    silent,
    silent_server,
)

from .support import until


@pytest.fixture
def configured(client_class: type[Any]) -> Iterator[None]:
    """AsyncHTTPClient is the backend under test; configuration is restored at the end."""
    saved = AsyncHTTPClient._save_configuration()
    AsyncHTTPClient.configure(client_class)
    yield
    AsyncHTTPClient._restore_configuration(saved)


@pytest.fixture
def current_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is set as current and does not run."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


# -- 1: before the loop runs


def test_fetch_before_the_loop_runs(
    client_class: type[Any], current_loop: asyncio.AbstractEventLoop
) -> None:
    """CONTRACT 1: built and used before its loop runs, a client fetches once the loop does."""
    server = ScriptedServer(canned(ok(b"later")))
    client = client_class(force_instance=True)
    future = client.fetch(server.url())
    assert isinstance(future, asyncio.Future)
    assert not future.done()

    async def main() -> bytes:
        async with server:
            return bytes((await future).body)

    assert current_loop.run_until_complete(main()) == b"later"
    client.close()


def test_close_before_the_loop_runs(
    client_class: type[Any], current_loop: asyncio.AbstractEventLoop
) -> None:
    """CONTRACT 1, 5: a fetch of a client that is closed before the loop runs ends with an error."""
    client = client_class(force_instance=True)
    future = client.fetch("http://127.0.0.1:9/")
    client.close()
    with pytest.raises(HTTPError) as caught:
        current_loop.run_until_complete(future)
    assert caught.value.code == 599


def test_construction_without_a_loop(client_class: type[Any]) -> None:
    """CONTRACT 1: without any loop a client is built, and binds at its first fetch."""
    asyncio.set_event_loop(None)
    client = client_class(force_instance=True)

    async def main() -> bytes:
        async with ScriptedServer(canned(ok(b"bound"))) as server:
            try:
                return bytes((await client.fetch(server.url())).body)
            finally:
                client.close()

    assert asyncio.run(main()) == b"bound"


@pytest.mark.usefixtures("configured")
def test_construction_without_a_loop_shares_nothing(client_class: type[Any]) -> None:
    """CONTRACT 1, 2: sharing is by loop. Each is of the loop of its first fetch."""
    asyncio.set_event_loop(None)
    for kind in (AsyncHTTPClient, client_class):
        one, other = kind(), kind()
        assert one is not other

        async def main(one: Any = one, kind: Any = kind) -> bool:
            async with ScriptedServer(canned(ok())) as server:
                await one.fetch(server.url())
            shared = kind()
            try:
                return shared is one
            finally:
                shared.close()

        assert not asyncio.run(main())
        one.close()
        other.close()


def test_close_without_a_loop(client_class: type[Any]) -> None:
    """CONTRACT 1: a client that never saw a loop can be closed."""
    asyncio.set_event_loop(None)
    client = client_class(force_instance=True)
    client.close()
    client.close()


# -- 2: sharing


@pytest.mark.usefixtures("configured")
async def test_one_shared_instance_per_class_and_loop(client_class: type[Any]) -> None:
    """CONTRACT 2: constructing again returns the same instance; each class has its own."""
    backend = client_class()
    interface = AsyncHTTPClient()
    try:
        assert client_class() is backend
        assert AsyncHTTPClient() is interface
        assert isinstance(interface, client_class)
        assert interface is not backend
    finally:
        backend.close()
        interface.close()


@pytest.mark.usefixtures("configured")
async def test_force_instance_is_private(make_client: Any, client_class: type[Any]) -> None:
    """CONTRACT 2: force_instance makes another one at each call."""
    shared = client_class()
    one, two = make_client(), make_client()
    assert len({id(shared), id(one), id(two)}) == 3
    shared.close()


@pytest.mark.usefixtures("configured")
async def test_closed_shared_instance_is_replaced() -> None:
    """CONTRACT 2: after close() the next construction makes a new instance."""
    first = AsyncHTTPClient()
    first.close()
    second = AsyncHTTPClient()
    assert second is not first
    second.close()


@pytest.mark.usefixtures("configured")
def test_each_loop_has_its_own_shared_instance() -> None:
    """CONTRACT 2: two loops, two instances."""
    seen = []

    async def main() -> None:
        seen.append(AsyncHTTPClient())
        AsyncHTTPClient().close()

    asyncio.run(main())
    asyncio.run(main())
    assert seen[0] is not seen[1]


@pytest.mark.usefixtures("configured")
def test_shared_instance_does_not_keep_its_loop() -> None:
    """CONTRACT 2: the loop is held weakly: dropped by its owner, it is collected."""
    loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
    assert loop is not None

    async def main() -> bytes:
        async with ScriptedServer(canned(ok(b"x"))) as server:
            return bytes((await AsyncHTTPClient().fetch(server.url())).body)

    assert loop.run_until_complete(main()) == b"x"
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gone = weakref.ref(loop)
    loop = None
    gc.collect()
    assert gone() is None


async def test_another_instance_of_a_clients_class(client: Any) -> None:
    """CONTRACT 2: client.__class__(force_instance=True, defaults=…) works, as programs do."""
    other = client.__class__(force_instance=True, defaults={"user_agent": "Mine"})
    try:
        async with ScriptedServer(canned(ok())) as server:
            await other.fetch(server.url())
        assert server.requests[0].get("User-Agent") == "Mine"
    finally:
        other.close()


@pytest.mark.usefixtures("configured")
async def test_first_constructions_arguments_count() -> None:
    """The arguments of the first construction of a shared instance hold, later ones do not."""
    first = AsyncHTTPClient(max_clients=3)
    assert AsyncHTTPClient(max_clients=7).max_clients == 3
    first.close()


@pytest.mark.usefixtures("configured")
async def test_names_of_later_constructions_count(client_class: type[Any]) -> None:
    """A name that no argument has is a TypeError even where the instance exists already."""
    for kind in (AsyncHTTPClient, client_class):
        first = kind()
        try:
            with pytest.raises(TypeError, match=r"'max_client'; did you mean max_clients\?"):
                kind(max_client=5)
            known = ["max_clients", "defaults", "trust_env", "cookies", "resolver"]
            assert kind(**dict.fromkeys(known)) is first
        finally:
            first.close()


@pytest.mark.usefixtures("configured")
async def test_names_that_no_argument_has(client_class: type[Any]) -> None:
    """The first construction tells what was meant, too, and no name of ours but the class's."""
    for kind in (AsyncHTTPClient, client_class):
        for name, meant in {"maxclients": "max_clients", "force_instanc": "force_instance"}.items():
            for more in ({}, {"force_instance": True}):
                message = rf"^\w+\(\) got an .* '{name}'; did you mean {meant}\?$"
                with pytest.raises(TypeError, match=message):
                    kind(**{name: 3}, **more)
    with pytest.raises(ValueError, match=r"'requst', .*; did you mean request_timeout\?"):
        client_class(force_instance=True, defaults={"requst": 1})
    with pytest.raises(ValueError, match="'url', which each request gives for itself"):
        client_class(force_instance=True, defaults={"url": "http://h/"})
    AsyncHTTPClient.configure(client_class, maxclients=3)
    with pytest.raises(TypeError, match="did you mean max_clients"):
        AsyncHTTPClient()


async def test_names_of_a_subclass(client_class: type[Any]) -> None:
    """A subclass has arguments of its own; if it takes any, it knows best."""

    class Named(client_class):  # type: ignore[misc]
        def initialize(self, *, name: str = "", max_clients: int = 10) -> None:
            super().initialize(max_clients=max_clients)

    class Lenient(client_class):  # type: ignore[misc]
        def initialize(self, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().initialize(**kwargs)

    first, second = Named(name="a"), Lenient(name="a")
    try:
        assert Named(name="b") is first
        assert Lenient(name="b") is second
        with pytest.raises(TypeError, match="'defaults'"):
            Named(defaults={})
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hostname_mapping": [("a", "b")]}, "hostname_mapping must be a mapping, not list"),
        ({"hostname_mapping": "a=b"}, "hostname_mapping must be a mapping, not str"),
        ({"hostname_mapping": {5: "b"}}, "hostname_mapping has the key 5"),
        ({"hostname_mapping": {("a", "80"): "b"}}, "hostname_mapping has the key"),
        ({"hostname_mapping": {("a",): "b"}}, "hostname_mapping has the key"),
        ({"hostname_mapping": {("a", 80, True, 1): "b"}}, "hostname_mapping has the key"),
        ({"hostname_mapping": {"a": None}}, r"hostname_mapping\['a'\] must be a host"),
        ({"hostname_mapping": {"a": ("b",)}}, r"hostname_mapping\['a'\] must be a host"),
        ({"hostname_mapping": {"a": (b"b", 80)}}, r"hostname_mapping\['a'\] must be a host"),
        ({"hostname_mapping": {"a": ("b", "80")}}, r"hostname_mapping\['a'\] has the port '80'"),
        ({"hostname_mapping": {"a": ("b", 0)}}, r"hostname_mapping\['a'\] has the port 0"),
        ({"hostname_mapping": {"a": ("b", 65536)}}, r"hostname_mapping\['a'\] has the port 65536"),
        ({"hostname_mapping": {"a": ("b", True)}}, r"hostname_mapping\['a'\] has the port True"),
        ({"hostname_mapping": {"a": "127.0.0.1:80"}}, "a port goes into a pair"),
        ({"hostname_mapping": {"a": "b c"}}, r"hostname_mapping\['a'\] has an invalid host"),
        ({"resolver": object()}, "resolver must have a method resolve"),
        ({"resolver": "8.8.8.8"}, "resolver must have a method resolve"),
        ({"defaults": [("user_agent", "x")]}, "defaults must be a mapping, not list"),
        ({"defaults": "user_agent"}, "defaults must be a mapping, not str"),
        ({"max_clients": "3"}, "max_clients must be an int, 1 or more, not '3'"),
        ({"max_clients": 0}, "max_clients must be an int, 1 or more, not 0"),
        ({"trust_env": "false"}, "trust_env must be True or False, not 'false'"),
    ],
    ids=str,
)
async def test_arguments_of_the_wrong_kind(
    client_class: type[Any], arguments: dict[str, Any], words: str
) -> None:
    """What a constructor cannot use is a ValueError that names it, when the client is made."""
    with pytest.raises(ValueError, match=words):
        client_class(force_instance=True, **arguments)


# -- 3: configure


@pytest.mark.usefixtures("configured")
async def test_configure_takes_a_class_a_name_or_none(
    backend: str, client_class: type[Any]
) -> None:
    """CONTRACT 3: a class, its dotted name, or None for the default."""
    name = f"{client_class.__module__}.{client_class.__qualname__}"
    for impl in (client_class, name):
        AsyncHTTPClient.configure(impl)
        made = AsyncHTTPClient(force_instance=True)
        assert type(made) is client_class
        made.close()
    AsyncHTTPClient.configure(None)
    made = AsyncHTTPClient(force_instance=True)
    assert isinstance(made, AsyncHTTPClient)
    made.close()


@pytest.mark.usefixtures("configured")
async def test_configured_arguments_and_constructors(client_class: type[Any]) -> None:
    """CONTRACT 3: configure's arguments apply through the base class only; a constructor's win."""
    AsyncHTTPClient.configure(client_class, max_clients=3, defaults={"user_agent": "configured"})
    made = [
        AsyncHTTPClient(force_instance=True),
        AsyncHTTPClient(force_instance=True, max_clients=4),
        client_class(force_instance=True),
    ]
    assert [client.max_clients for client in made] == [3, 4, 10]
    assert made[0].defaults["user_agent"] == "configured"
    assert made[2].defaults["user_agent"] != "configured"
    for client in made:
        client.close()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("impl", [int, "builtins.int", HTTPResponse])
def test_configure_refuses_what_is_no_subclass(impl: object) -> None:
    """CONTRACT 3: a class that is no AsyncHTTPClient raises ValueError."""
    with pytest.raises(ValueError):
        AsyncHTTPClient.configure(impl)  # type: ignore[arg-type]


@pytest.mark.usefixtures("configured")
def test_configure_raises_for_a_backend_that_cannot_load() -> None:
    """A backend named in configure() that does not exist raises."""
    with pytest.raises(ImportError):
        AsyncHTTPClient.configure("whimbrel.no_such_httpclient.Client")
    with pytest.raises(ImportError, match="no backend 'libcurl': use 'curl' or 'simple'"):
        AsyncHTTPClient.configure("libcurl")


@pytest.mark.usefixtures("configured")
async def test_configure_takes_short_names(client_class: type[Any], backend: str) -> None:
    """ "curl" and "simple", as on the command line, stand for the backends' dotted names."""
    AsyncHTTPClient.configure(backend, max_clients=3)
    made = AsyncHTTPClient(force_instance=True)
    assert (type(made), made.max_clients) == (client_class, 3)
    made.close()


# -- 4: precedence


async def test_precedence_of_parameters(make_client: Any) -> None:
    """CONTRACT 4: the request's value if not None, then the client's defaults, then built-in."""
    async with ScriptedServer(canned(ok())) as server:
        client = make_client(defaults={"user_agent": "default"})
        await client.fetch(server.url(), user_agent="request")
        await client.fetch(server.url(), user_agent=None)
        await make_client(defaults={"user_agent": None}).fetch(server.url())
    agents = [request.get("User-Agent") for request in server.requests]
    assert agents[:2] == ["request", "default"]
    assert agents[2] is not None
    assert agents[2].startswith("whimbrel/")


async def test_false_and_zero_are_values(make_client: Any) -> None:
    """CONTRACT 4: False and 0 in a request win over defaults; only None does not."""
    client = make_client(defaults={"follow_redirects": True, "max_redirects": 3})
    async with ScriptedServer(canned(redirect("/"))) as server:
        for arguments in ({"follow_redirects": False}, {"max_redirects": 0}):
            response = await client.fetch(server.url(), raise_error=False, **arguments)
            assert response.code == 302
    assert len(server.requests) == 2


async def test_defaults_may_hold_any_parameter(make_client: Any) -> None:
    """Defaults hold for every parameter, whimbrel's own included, and refuse unknown names."""
    client = make_client(
        defaults={"headers": {"X-D": "1"}, "auth_mode": "bearer", "auth_token": "t"}
    )
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
    assert server.requests[0].get("X-D") == "1"
    assert server.requests[0].get("Authorization") == "Bearer t"


# -- 5: close


async def test_close_is_idempotent(make_client: Any) -> None:
    """CONTRACT 5: close() is synchronous and may be called again (Tornado's curl raises)."""
    client = make_client()
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
        assert client.close() is None
        assert client.close() is None
        await server.connections[0].closed()


async def test_fetch_after_close(make_client: Any) -> None:
    """CONTRACT 5: fetch() after close() raises RuntimeError."""
    client = make_client()
    client.close()
    with pytest.raises(RuntimeError):
        await client.fetch("http://127.0.0.1:9/")


async def test_close_ends_fetches_in_flight_and_in_queue(make_client: Any) -> None:
    """CONTRACT 5: every fetch ends with a typed error, the waiting ones too; the peer sees it."""
    async with silent_server() as server:
        client = make_client(max_clients=1)
        fetches = [client.fetch(server.url()) for _ in range(3)]
        await server.accepted()
        client.close()
        outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, HTTPError)
            assert outcome.code == 599
            assert isinstance(outcome, ConnectionError)
        await server.connections[0].closed()
        assert len(server.connections) == 1


async def test_closed_client_is_collectable(client_class: type[Any]) -> None:
    """CONTRACT 5: nothing holds a closed client, not even what it fetched."""
    client = client_class(force_instance=True)
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url())
        client.close()
        gone = weakref.ref(client)
        del client

        def collected() -> bool:
            gc.collect()
            return gone() is None

        await until(collected)
    assert response.body == b"ok"


def test_unclosed_private_client_warns(client_class: type[Any]) -> None:
    """CONTRACT 5: a private client that was never closed gives a ResourceWarning, no more."""

    async def main() -> None:
        async with ScriptedServer(canned(ok())) as server:
            await client_class(force_instance=True).fetch(server.url())

    with pytest.warns(ResourceWarning, match="unclosed") as caught:  # noqa: PT031
        asyncio.run(main())
        gc.collect()
    assert len(caught) == 1


@pytest.mark.parametrize("in_flight", [False, True])
def test_unclosed_shared_client_is_silent_at_exit(
    backend: str, client_class: type[Any], in_flight: bool
) -> None:
    """CONTRACT 5: a program that never closes its shared client ends without a word."""
    script = f"""
        import asyncio, socket
        from {client_class.__module__} import {client_class.__qualname__} as Client
        from whimbrel.testing.scripted import ScriptedServer, canned, ok

        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        kept = []

        async def main():
            async with ScriptedServer(canned(ok())) as server:
                await Client().fetch(server.url())
            if {in_flight}:
                kept.append(Client().fetch("http://127.0.0.1:%d/" % listener.getsockname()[1]))
                kept.append(await asyncio.get_running_loop().sock_accept(listener))

        asyncio.run(main())
        if kept:
            kept[1][0].close()
        listener.close()
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_async_with_closes(client_class: type[Any]) -> None:
    """`async with` on a private client closes it."""
    async with ScriptedServer(canned(ok())) as server:
        async with client_class(force_instance=True) as client:
            await client.fetch(server.url())
        await server.connections[0].closed()
        with pytest.raises(RuntimeError):
            await client.fetch(server.url())


async def test_forgotten_future_still_completes(client: Any) -> None:
    """CONTRACT 5: strong references hold a fetch whose future the caller dropped."""
    seen: list[HTTPResponse] = []
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await release.wait()
        await peer.send(ok(b"held"))

    async with ScriptedServer(handler) as server:
        client.fetch(server.url(), callback=seen.append)
        await server.requested()
        gc.collect()
        release.set()
        await until(lambda: seen)
    assert seen[0].body == b"held"


# -- 7: attributes


async def test_documented_attributes(client: Any, make_client: Any) -> None:
    """CONTRACT 7: max_clients is 10 by default; queue is sized; defaults is a mapping."""
    assert client.max_clients == 10
    assert len(client.queue) == 0
    assert client.defaults["connect_timeout"] == 20.0
    assert make_client(max_clients=2).max_clients == 2


async def test_max_clients_bounds_and_queue_counts(make_client: Any) -> None:
    """CONTRACT 7: max_clients exchanges run at a time, the rest stand in `queue`, in order."""
    running = 0
    most = 0
    release = asyncio.Event()

    async def handler(peer: Peer) -> None:
        nonlocal running, most
        while True:
            request = await peer.read_request()
            running += 1
            most = max(most, running)
            await release.wait()
            running -= 1
            await peer.send(ok(request.target.encode()))

    client = make_client(max_clients=2)
    async with ScriptedServer(handler) as server:
        fetches = [client.fetch(server.url(f"/{number}")) for number in range(6)]
        assert len(client.queue) == 4
        await server.requested(2)
        release.set()
        responses = await asyncio.gather(*fetches)
        assert [r.body for r in responses] == [f"/{number}".encode() for number in range(6)]
        assert len(client.queue) == 0
        assert most == 2
        assert len(server.connections) == 2


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "3", None])
async def test_bad_max_clients(client_class: type[Any], bad: Any) -> None:
    """max_clients below 1 or not a number is refused at construction."""
    with pytest.raises((ValueError, TypeError)):
        client_class(force_instance=True, max_clients=bad).close()


async def test_client_of_another_loop_is_refused(client: Any) -> None:
    """A client used from a second running loop raises a clear error instead of misbehaving."""
    async with ScriptedServer(silent) as server:
        fetch = client.fetch(server.url())
        await server.accepted()

        async def elsewhere() -> None:
            await client.fetch(server.url())

        with pytest.raises(RuntimeError, match="loop"):
            await asyncio.get_running_loop().run_in_executor(None, asyncio.run, elsewhere())
        fetch.cancel()
    await asyncio.get_running_loop().shutdown_default_executor()
