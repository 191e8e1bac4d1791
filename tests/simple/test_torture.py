"""Matrix 85: every call that can fail is made to fail, one at a time, for every N.

The rule (matrix, "global pass rule"): a typed error or the right result, in time; the next request
on that client succeeds; after close() nothing is left behind.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import select
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from conftest import Certificates
from whimbrel._readiness import Readiness
from whimbrel._simple import lookout as lookout_module
from whimbrel._simple import tls as tls_module
from whimbrel._simple.sockets import Socket, TLSSocket
from whimbrel.httpclient import HTTPError, HTTPTimeoutError
from whimbrel.testing.scripted import Peer, ScriptedServer, chunked, ok, redirect, reply

# Seconds; what fails here fails at once, so that nothing is ever to come near it.
DEADLINE = 10.0
PROMPT = 5.0


class Sabotage(Exception):
    """What no library raises: it is to arrive as it is."""


def _os_error(number: int) -> Callable[[], Exception]:
    return lambda: OSError(number, "sabotage")


# What the backend calls that can fail, and as what.
FAILURES: dict[str, Callable[[], Exception]] = {
    "socket": _os_error(errno.EMFILE),
    "connect": _os_error(errno.EADDRNOTAVAIL),
    "setsockopt": _os_error(errno.EINVAL),
    "getsockname": _os_error(errno.ENOBUFS),
    "send": _os_error(errno.ENOBUFS),
    "recv": _os_error(errno.ENOBUFS),
    "poll": _os_error(errno.ENOMEM),
    "wrap": lambda: ssl.SSLError(1, "sabotage"),
    "do_handshake": lambda: ssl.SSLError(1, "sabotage"),
    "tls_send": lambda: ssl.SSLError(1, "sabotage"),
    "tls_recv": lambda: ssl.SSLError(1, "sabotage"),
    "unwrap": _os_error(errno.ENOTCONN),
    "add_reader": _os_error(errno.ENOSPC),
    "add_writer": _os_error(errno.ENOSPC),
    "create_task": lambda: Sabotage("create_task"),
    "callback": lambda: Sabotage("callback"),
    "producer": lambda: Sabotage("producer"),
}


class Saboteur:
    """Stands between the backend and what it calls: counts, and fails a call when told to.

    Attributes:
        hits: how often a call was made to fail.
    """

    def __init__(self, patch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.hits = 0
        self._name = ""
        self._nth = 0
        self._for_good = False
        names = ("connect", "setsockopt", "getsockname", "send", "recv")
        self._wrap_methods(patch, Socket, {name: name for name in names})
        self._wrap_methods(patch, Socket, {"__init__": "socket"})
        self._wrap_methods(
            patch,
            TLSSocket,
            {
                "do_handshake": "do_handshake",
                "send": "tls_send",
                "recv": "tls_recv",
                "unwrap": "unwrap",
            },
        )
        patch.setattr(tls_module, "wrap_tls", self._wrapped("wrap", tls_module.wrap_tls))
        patch.setattr(lookout_module, "select", _Select(self))
        for name in ("add_reader", "add_writer", "create_task"):
            patch.setattr(loop, name, self._of_backend(name, getattr(loop, name)), raising=False)
        for name in ("add_reader", "add_writer"):
            # Between the backend and the loop, where there is epoll.
            patch.setattr(Readiness, name, self._of_backend(name, getattr(Readiness, name)))

    def fail(self, name: str, nth: int = 1, *, for_good: bool = False) -> None:
        """Make the `nth` call of `name` from now on fail, and with `for_good` those after it.

        "" lets everything work again.
        """
        self._name, self._nth, self._for_good = name, nth, for_good

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._nth -= 1
            if self._nth == 0 or (self._nth < 0 and self._for_good):
                self.hits += 1
                raise FAILURES[name]()

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self(name)
            return function(*arguments, **more)

        return call

    def _wrap_methods(
        self, patch: pytest.MonkeyPatch, cls: type[Any], names: dict[str, str]
    ) -> None:
        for method, name in names.items():
            wrapped = self._wrapped(name, getattr(cls, method))
            patch.setattr(cls, method, wrapped, raising=False)

    def _of_backend(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            # The test and its servers share the loop; their calls are not meant.
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith(("whimbrel._simple.", "whimbrel._iostream.", "whimbrel.iostream")):
                self(name)
            return function(*arguments, **more)

        return call


class _Select:
    """The select module, with polls that ask the saboteur first."""

    def __init__(self, saboteur: Saboteur) -> None:
        self._saboteur = saboteur

    def __getattr__(self, name: str) -> Any:
        return getattr(select, name)

    def poll(self) -> Any:
        return _Poll(self._saboteur)


class _Poll:
    def __init__(self, saboteur: Saboteur) -> None:
        self._real = select.poll()
        self.register = self._real.register
        self.poll = saboteur._wrapped("poll", self._real.poll)


@pytest.fixture
async def saboteur() -> AsyncIterator[Saboteur]:
    """Counts and fails the calls of clients that are made from now on."""
    with pytest.MonkeyPatch.context() as patch:
        yield Saboteur(patch, asyncio.get_running_loop())


class World:
    """What a scenario talks to."""

    def __init__(
        self, server: ScriptedServer, secure: ScriptedServer, proxy: ScriptedServer, saboteur: Any
    ) -> None:
        self.server = server
        self.secure = secure
        self.proxy = proxy
        self.saboteur = saboteur


Scenario = Callable[[Any, World], Awaitable[None]]


async def _serve(peer: Peer) -> None:
    while True:
        request = await peer.read_head()
        if request.get("Expect"):
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        target = request.target
        if target == "/redirect":
            await peer.send(redirect("/target"))
        elif target == "/streamed":
            await peer.send(reply("200 OK", chunked(b"one", b"two"), "Transfer-Encoding: chunked"))
        elif target == "/close":
            await peer.send(ok(b"/close", "Connection: close"))
            return
        elif target == "/last":
            await peer.send(ok(b"/last"))
            await peer.read_request()
            return
        elif target == "/silence":
            return await peer.closed()
        elif target == "/secret" and not request.get("Authorization"):
            challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
            await peer.send(reply("401 No", b"who?", challenge))
        else:
            await peer.send(ok(target.encode() + request.body))


async def _plain(client: Any, world: World) -> None:
    """On a new connection, on a used one, and after the server has closed it."""
    for target in ("/one", "/two", "/close", "/three"):
        response = await client.fetch(world.server.url(target), request_timeout=DEADLINE)
        assert response.body == target.encode()


async def _secure(client: Any, world: World) -> None:
    """The same with TLS."""
    for target in ("/one", "/two", "/close", "/three"):
        response = await client.fetch(world.secure.url(target), request_timeout=DEADLINE)
        assert response.body == target.encode()


async def _tunnelled(client: Any, world: World) -> None:
    """TLS to the proxy, CONNECT, TLS to the origin."""
    for target in ("/one", "/two"):
        response = await client.fetch(
            f"https://localhost:{world.secure.port}{target}",
            proxy=world.proxy.url(),
            request_timeout=DEADLINE,
        )
        assert response.body == target.encode()


async def _sent_again(client: Any, world: World) -> None:
    """On a connection that closes under the second request."""
    for target in ("/last", "/two"):
        response = await client.fetch(world.server.url(target), request_timeout=DEADLINE)
        assert response.body == target.encode()


async def _redirected(client: Any, world: World) -> None:
    response = await client.fetch(world.server.url("/redirect"), request_timeout=DEADLINE)
    assert response.body == b"/target"


async def _digest(client: Any, world: World) -> None:
    for _ in range(2):
        response = await client.fetch(
            world.server.url("/secret"),
            method="PUT",
            body=b"-body",
            auth_username="u",
            auth_password="p",
            auth_mode="digest",
            request_timeout=DEADLINE,
        )
        assert response.body == b"/secret-body"


async def _streamed(client: Any, world: World) -> None:
    """With a consumer that makes the transfer pause."""
    pieces = []

    async def consume(piece: bytes) -> None:
        world.saboteur("callback")
        await asyncio.sleep(0)
        world.saboteur("callback")
        pieces.append(piece)

    await client.fetch(
        world.server.url("/streamed"),
        streaming_callback=consume,
        header_callback=lambda line: world.saboteur("callback"),
        request_timeout=DEADLINE,
    )
    assert b"".join(pieces) == b"onetwo"


async def _posted(client: Any, world: World) -> None:
    """With a body that takes the kernel several calls."""
    body = b"b" * 5_000_000
    response = await client.fetch(
        world.server.url("/post"), method="POST", body=body, request_timeout=DEADLINE
    )
    assert response.body == b"/post" + body


async def _uploaded(client: Any, world: World) -> None:
    """With a producer that makes the transfer pause, and that waits for 100."""

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        world.saboteur("producer")
        await asyncio.sleep(0)
        await write(b"-a")
        world.saboteur("producer")
        await asyncio.sleep(0)
        await write(b"-b")
        world.saboteur("producer")

    for expect in (False, True):
        response = await client.fetch(
            world.server.url("/put"),
            method="PUT",
            body_producer=produce,
            expect_100_continue=expect,
            request_timeout=DEADLINE,
        )
        assert response.body == b"/put-a-b"


async def _concurrent(client: Any, world: World) -> None:
    """Three at a time: what befalls one is to leave the others whole."""
    targets = ["/a", "/b", "/c"]
    for _ in range(2):
        fetches = [client.fetch(world.server.url(t), request_timeout=DEADLINE) for t in targets]
        outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for target, outcome in zip(targets, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                assert outcome.body == target.encode()
        assert len(failed) <= 1 or world.saboteur.hits > 1
        if failed:
            raise failed[0]


async def _cancelled(client: Any, world: World) -> None:
    """A fetch that waits for its answer, and one of which nothing has happened yet."""
    server = world.server
    asked = len(server.requests)
    waiting = client.fetch(server.url("/silence"), request_timeout=DEADLINE)
    asking = asyncio.ensure_future(server.requested(asked + 1))
    await asyncio.wait([waiting, asking], return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    begun = client.fetch(server.url("/silence"), request_timeout=DEADLINE)
    begun.cancel()
    if waiting.done():
        await waiting
    waiting.cancel()


SCENARIOS: dict[str, Scenario] = {
    "plain": _plain,
    "tls": _secure,
    "tunnel": _tunnelled,
    "sent again": _sent_again,
    "redirect": _redirected,
    "digest": _digest,
    "streamed": _streamed,
    "post": _posted,
    "upload": _uploaded,
    "concurrent": _concurrent,
    "cancelled": _cancelled,
}

# Which calls a scenario reaches, at the least.
REACHED = {
    "plain": {"socket", "connect", "setsockopt", "getsockname", "send", "recv", "poll"},
    "tls": {"wrap", "do_handshake", "tls_send", "tls_recv", "poll"},
    "tunnel": {"wrap", "tls_send", "tls_recv", "create_task"},
    "streamed": {"callback", "create_task"},
    "upload": {"producer", "create_task"},
    "post": {"add_writer", "send"},
    "concurrent": {"add_reader", "add_writer"},
}


@pytest.fixture
async def world(server_context: ssl.SSLContext, saboteur: Saboteur) -> AsyncIterator[World]:
    async with (
        ScriptedServer(_serve) as server,
        ScriptedServer(_serve, server_context) as secure,
        ScriptedServer(_tunnel_to(secure), server_context) as proxy,
    ):
        yield World(server, secure, proxy, saboteur)


def _tunnel_to(origin: ScriptedServer) -> Callable[[Peer], Awaitable[None]]:
    async def handler(peer: Peer) -> None:
        from .connecting import tunnel_to

        await tunnel_to(origin.port)(peer)

    return handler


@pytest.fixture
def make(make_client: Callable[..., Any], certificates: Certificates) -> Callable[[], Any]:
    """Make clients that trust the test's CA."""
    trust = {"ca_certs": certificates.ca_file, "proxy_ssl": {"ca_certs": certificates.ca_file}}
    return lambda: make_client(defaults=trust)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_matrix_85_every_call_fails_once(
    scenario: str, make: Callable[[], Any], world: World, saboteur: Saboteur
) -> None:
    """Whatever fails, at whichever call, ends in a typed error at most, and hurts no later one."""
    reached = set()
    for name in FAILURES:
        nth = 1
        while nth < 60:
            client = make()
            saboteur.hits = 0
            saboteur.fail(name, nth)
            await _typed_and_prompt(SCENARIOS[scenario](client, world), f"{name} {nth}")
            saboteur.fail("")
            await _recovered(client, world, f"{name} {nth}")
            client.close()
            if not saboteur.hits:
                break
            reached.add(name)
            nth += 1
    assert REACHED.get(scenario, set()) <= reached
    gc.collect()  # a coroutine that was never awaited tells of it


@pytest.mark.parametrize("scenario", ["plain", "tls", "streamed", "concurrent"])
async def test_matrix_85_nothing_works_for_a_while(
    scenario: str, make: Callable[[], Any], world: World, saboteur: Saboteur
) -> None:
    """From the Nth call on all fail; then all is well again."""
    for name in FAILURES:
        for nth in (1, 2, 3, 5, 8):
            client = make()
            saboteur.hits = 0
            saboteur.fail(name, nth, for_good=True)
            await _typed_and_prompt(SCENARIOS[scenario](client, world), f"{name} {nth}")
            saboteur.fail("")
            await _recovered(client, world, f"{name} {nth}")
            client.close()


async def _recovered(client: Any, world: World, what: str) -> None:
    """Slots and connections are back, and the next request succeeds."""
    assert not client.queue, what
    assert client._gate.active == 0, what
    assert len(client._pool) == len(client._pool.live), what
    assert not client._deadlines._due, what
    async with asyncio.timeout(PROMPT):
        response = await client.fetch(world.server.url("/next"), request_timeout=DEADLINE)
        assert response.body == b"/next", what
        response = await client.fetch(world.secure.url("/next"), request_timeout=DEADLINE)
        assert response.body == b"/next", what
    tasks = [t for t in asyncio.all_tasks() if "connect" in repr(t.get_coro())]
    assert not [t for t in tasks if "whimbrel/_simple" in repr(t)], what


async def _typed_and_prompt(scenario: Awaitable[None], what: str) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    (outcome,) = await asyncio.gather(scenario, return_exceptions=True)
    assert loop.time() - begun < PROMPT, what
    if outcome is None or isinstance(outcome, Sabotage):
        return
    if not isinstance(outcome, HTTPError):
        raise AssertionError(what) from outcome
    assert outcome.code == 599, what
    # A time-out would mean that the failure went unnoticed, and a wake-up was lost.
    assert not isinstance(outcome, HTTPTimeoutError), (what, outcome)
    assert outcome.stage, what
    assert isinstance(outcome, OSError), what
