"""HTTPClient: blocking, on a private loop; in a thread of its own where a loop runs. CONTRACT 6."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from whimbrel.httpclient import (
    AsyncHTTPClient,
    HTTPClient,
    HTTPError,
    HTTPRequest,
    HTTPTimeoutError,
)
from whimbrel.testing.scripted import (
    Handler,
    ScriptedServer,
    canned,
    ok,
    redirect,
    refused_port,
    reply,
    routes,
    silent,
)


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[ScriptedServer]:
    """A scripted server on a loop of its own thread: the caller's thread is going to block."""
    server = ScriptedServer(handler)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def main() -> None:
        async with server:
            ready.set()
            await stop.wait()

    failures: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def blocking(client_class: type[Any]) -> Iterator[HTTPClient]:
    """A blocking client of the backend under test."""
    client = HTTPClient(client_class, trust_env=False)
    yield client
    client.close()


def test_fetch(blocking: HTTPClient) -> None:
    """fetch() blocks and returns the response."""
    with serving(canned(ok(b"blocking"))) as server:
        for _ in range(3):
            response = blocking.fetch(server.url())
            assert (response.code, response.body) == (200, b"blocking")
        assert len(server.connections) == 1


def test_fetch_takes_a_request_and_arguments(blocking: HTTPClient) -> None:
    """fetch() takes an HTTPRequest, or a URL with arguments; streaming and redirects included."""
    seen: list[bytes] = []
    table = {"/": redirect("/end", "307 T"), "/end": lambda request: ok(request.body)}
    with serving(routes(table)) as server:
        request = HTTPRequest(server.url(), "PUT", body=b"echo")
        assert blocking.fetch(request).body == b"echo"
        blocking.fetch(server.url(), method="PUT", body=b"echo", streaming_callback=seen.append)
    assert seen == [b"echo"]


def test_errors_are_raised_directly(blocking: HTTPClient) -> None:
    """CONTRACT 6: errors come out of fetch() as they are."""
    with serving(canned(reply("404 Not Found", b"no"))) as server:
        with pytest.raises(HTTPError, match="404") as caught:
            blocking.fetch(server.url())
        assert caught.value.response.body == b"no"
        assert blocking.fetch(server.url(), raise_error=False).code == 404
        with pytest.raises(ValueError):
            blocking.fetch(server.url(), method="POST")
        with pytest.raises(KeyError):
            blocking.fetch(server.url(), method="MOVE")
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        blocking.fetch(f"http://127.0.0.1:{port}/")
    with serving(silent) as server, pytest.raises(HTTPTimeoutError):
        blocking.fetch(server.url(), request_timeout=0.1)


def test_default_class_is_the_configured_one(client_class: type[Any]) -> None:
    """Without a class HTTPClient uses what AsyncHTTPClient is configured to be."""
    saved = AsyncHTTPClient._save_configuration()
    AsyncHTTPClient.configure(client_class, defaults={"user_agent": "configured"})
    try:
        with serving(canned(ok())) as server:
            client = HTTPClient()
            client.fetch(server.url())
            client.close()
        assert server.requests[0].get("User-Agent") == "configured"
    finally:
        AsyncHTTPClient._restore_configuration(saved)


def test_close_is_idempotent(client_class: type[Any]) -> None:
    """close() may be called again; fetch() afterwards raises RuntimeError."""
    client = HTTPClient(client_class)
    client.close()
    client.close()
    with pytest.raises(RuntimeError):
        client.fetch("http://127.0.0.1:9/")


def test_context_manager(client_class: type[Any]) -> None:
    """`with` closes it."""
    with serving(canned(ok())) as server:
        with HTTPClient(client_class) as client:
            client.fetch(server.url())
        with pytest.raises(RuntimeError):
            client.fetch(server.url())


def test_unclosed_client_warns(client_class: type[Any]) -> None:
    """A client that is dropped unclosed gives a ResourceWarning."""
    client: HTTPClient | None = HTTPClient(client_class)
    assert client is not None
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031
        client = None
        gc.collect()


def test_bad_arguments_leave_nothing(client_class: type[Any]) -> None:
    """A constructor that fails closes the loop it had made, and needs no close()."""
    with pytest.raises((TypeError, ValueError)):
        HTTPClient(client_class, max_clients=0)
    gc.collect()


def test_it_does_not_touch_the_current_loop(client_class: type[Any]) -> None:
    """CONTRACT 6: the private loop never becomes the thread's current one."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with serving(canned(ok())) as server, HTTPClient(client_class) as client:
            client.fetch(server.url())
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def test_inside_a_running_loop(client_class: type[Any]) -> None:
    """CONTRACT 6: inside a running loop, as in Jupyter, it works by a thread of its own."""
    with serving(canned(ok(b"inside"))) as server:
        client = HTTPClient(client_class)
        for _ in range(2):
            assert client.fetch(server.url()).body == b"inside"
        with pytest.raises(ValueError):
            client.fetch("ftp://h/")
        client.close()
        assert len(server.connections) == 1
    assert asyncio.get_running_loop().is_running()


def test_made_outside_used_inside(client_class: type[Any]) -> None:
    """CONTRACT 6: made without a loop and used inside one, and the other way round."""
    with serving(canned(ok())) as server:
        client = HTTPClient(client_class)
        client.fetch(server.url())

        async def inside() -> HTTPClient:
            client.fetch(server.url())
            client.close()
            return HTTPClient(client_class)

        made_inside = asyncio.run(inside())
        assert made_inside.fetch(server.url()).body == b"ok"
        made_inside.close()


def test_from_several_threads(blocking: HTTPClient) -> None:
    """Threads may share a client: each gets the answer to its own request."""
    found: dict[int, bytes] = {}

    def run(number: int) -> None:
        for _ in range(5):
            found[number] = blocking.fetch(server.url(f"/{number}")).body

    table = {f"/{number}": ok(f"answer {number}".encode()) for number in range(8)}
    with serving(routes(table)) as server:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: f"answer {number}".encode() for number in range(8)}
