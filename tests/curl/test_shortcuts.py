"""What the short ways of the curl backend must not change: stray bytes, options, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import os
import select
import socket
import threading
from typing import Any

import pycurl
import pytest

from conftest import open_files
from whimbrel._curl import driver as driver_module
from whimbrel._curl import transfer
from whimbrel._curl.pollers import SHARE
from whimbrel.curl_httpclient import CurlAsyncHTTPClient
from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Peer, ScriptedServer, chunked, ok

from .support import until

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


async def _echo(peer: Peer) -> None:
    while True:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode()))


class Crowd:
    """A server on blocking sockets: one connection that is answered, and many that are held."""

    def __init__(self, count: int) -> None:
        self.all_read = threading.Event()
        self.answer, self.answered = threading.Event(), threading.Event()
        self._count = count
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        self.requests_on_first = 0

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            self._listener.settimeout(20)
            first = stack.enter_context(self._accept())
            self.requests_on_first += self._read(first)
            first.sendall(ok(b"ok"))
            held = [stack.enter_context(self._accept()) for _ in range(self._count)]
            for sock in held:
                self._read(sock)
            self.all_read.set()
            self.answer.wait(20)
            for sock in held:
                sock.sendall(ok(b"ok"))
            first.sendall(EVIL)
            self.answered.set()
            open_ones = {*held, first}
            while open_ones:
                for sock in select.select([*open_ones, self._listener], [], [], 20)[0]:
                    if sock is self._listener:
                        open_ones.add(stack.enter_context(self._accept()))
                        continue
                    if not self._read(sock):
                        open_ones.remove(sock)
                        continue
                    self.requests_on_first += sock is first
                    sock.sendall(ok(b"ok"))

    def _accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(20)
        return sock

    def _read(self, sock: socket.socket) -> bool:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            try:
                more = sock.recv(65536)
            except ConnectionError:
                return False
            if not more:
                return False
            data += more
        return True


@pytest.mark.parametrize("use_epoll", [True, False], ids=["epoll", "add_reader"])
async def test_stray_bytes_behind_more_than_a_turn_serves(
    make_client: Any, use_epoll: bool
) -> None:
    """The answers and the stray one are there at once, and the next requests begin in between."""
    count = 4 * SHARE
    client = make_client(max_clients=2 * count, use_epoll=use_epoll)
    crowd = Crowd(count)
    serving = asyncio.ensure_future(asyncio.to_thread(crowd.run))
    url = f"http://127.0.0.1:{crowd.port}/"
    await client.fetch(url)
    held = [
        client.fetch(url, prepare_curl_callback=lambda easy: easy.setopt(pycurl.FRESH_CONNECT, 1))
        for _ in range(count)
    ]
    await until(lambda: crowd.all_read.is_set())
    crowd.answer.set()
    crowd.answered.wait(20)  # while the loop stands still

    async def follow(fetch: Any) -> bytes:
        await fetch
        body: bytes = (await client.fetch(url)).body
        return body

    assert await asyncio.gather(*(follow(fetch) for fetch in held)) == [b"ok"] * count
    client.close()
    await serving
    assert crowd.requests_on_first == 1


async def test_a_stale_connection_leaves_nothing_in_the_handle(client: Any) -> None:
    """It was turned away for one request; the next ones share a connection again."""
    has_both = asyncio.Event()

    async def handler(peer: Peer) -> None:
        request = await peer.read_request()
        await peer.send(ok(request.target.encode()))
        if peer is server.connections[0]:
            await peer.read_request()
            await peer.send(ok(b"second"))
            await has_both.wait()
            await peer.send(b"stray")
            await peer.closed()
            return
        await _echo(peer)

    async with ScriptedServer(handler) as server:
        url = server.url("/")
        responses = [await client.fetch(url) for _ in range(2)]
        has_both.set()
        await until(lambda: client._tainted)
        # The same URL, so that the handle has these very options.
        responses += [await client.fetch(url) for _ in range(4)]
        assert [response.reused for response in responses] == [
            False,
            True,
            False,
            True,
            True,
            True,
        ]
        assert len(server.connections) == 2


async def test_what_is_known_as_a_connection_has_a_version(client: Any) -> None:
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
    client._remembered = 4
    for number in range(40):
        client._remember_connection(("a", number % 5), ("b", number % 7), number, "1.1")
        assert {local for _, local, _ in client._connections.values()} <= client._versions.keys()


async def test_an_event_on_what_is_no_socket_leaks_nothing(client: Any) -> None:
    """libcurl's eventfd, or a number that is somebody else's by now."""
    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        before = open_files()
        read, write = os.pipe()
        for _ in range(10):
            client._idle_event(read)
        with socket.socket() as unconnected:
            client._idle_event(unconnected.fileno())
        os.close(read)
        os.close(write)
        client._idle_event(read)
        assert open_files() == before


async def test_no_descriptor_for_another_multi(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multi that is full takes one more; the first of all is a typed failure."""
    monkeypatch.setattr(driver_module, "LANE", 2)
    client = make_client(max_clients=10)

    def refuse() -> Any:
        raise pycurl.error(2, "no descriptor left")

    async with ScriptedServer(_echo) as server:
        await client.fetch(server.url("/"))
        monkeypatch.setattr(driver_module.pycurl, "CurlMulti", refuse)
        responses = await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(8)))
        assert [response.body for response in responses] == [f"/{n}".encode() for n in range(8)]
        assert len(client._driver._lanes) == 1
        client._driver._rebuild(client._driver._lanes[0], "made up")
        with pytest.raises(HTTPError, match="no descriptor left"):
            await client.fetch(server.url("/"))
        monkeypatch.undo()
        assert (await client.fetch(server.url("/again"))).body == b"/again"
        assert len(client._driver) == 0


@pytest.mark.parametrize("use_epoll", [True, False])
async def test_a_caller_resumes_a_handle(use_epoll: bool) -> None:
    """What `prepare_curl_callback` was given may be paused and resumed by its owner."""
    loop = asyncio.get_running_loop()
    got: list[bytes] = []

    def prepare(easy: pycurl.Curl) -> None:
        paused = False

        def write(chunk: bytes) -> int | None:
            nonlocal paused
            if not paused:
                paused = True
                loop.call_later(0.05, easy.pause, pycurl.PAUSE_CONT)
                return int(pycurl.WRITEFUNC_PAUSE)
            got.append(chunk)
            return None

        easy.setopt(pycurl.WRITEFUNCTION, write)

    async with (
        ScriptedServer(_echo) as server,
        CurlAsyncHTTPClient(force_instance=True, use_epoll=use_epoll) as client,
    ):
        await client.fetch(server.url("/hello"), prepare_curl_callback=prepare, request_timeout=10)
        assert got == [b"/hello"]


async def test_a_handle_is_resumed_from_a_callback_on_another_multi(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "LANE", 1)
    paused: list[pycurl.Curl] = []
    got: list[bytes] = []

    def prepare(easy: pycurl.Curl) -> None:
        def write(chunk: bytes) -> int | None:
            if not paused:
                paused.append(easy)
                return int(pycurl.WRITEFUNC_PAUSE)
            got.append(chunk)
            return None

        easy.setopt(pycurl.WRITEFUNCTION, write)

    async with ScriptedServer(_echo) as server:
        held = client.fetch(server.url("/held"), prepare_curl_callback=prepare, request_timeout=10)
        await until(lambda: paused)
        await client.fetch(
            server.url("/other"),
            streaming_callback=lambda chunk: paused[0].pause(pycurl.PAUSE_CONT),
        )
        assert len(client._driver._lanes) == 2
        await held
        assert got == [b"/held"]


async def test_a_cancelled_handle_is_not_kept(client: Any) -> None:
    """One that was given away, and was to begin when libcurl returned."""

    async with ScriptedServer(_echo) as server:

        def header(line: str) -> None:
            client.fetch(server.url("/x"), prepare_curl_callback=lambda easy: None).cancel()

        await client.fetch(server.url("/"), header_callback=header)
        await until(lambda: not client._driver._deferred)
        assert not client._driver._shown


@pytest.mark.parametrize("end", ["cancelled", "cancelled in a large body", "failed", "prepared"])
async def test_a_handle_that_is_closed_is_gone(client: Any, end: str) -> None:
    """At once, with what it was to send: nothing waits for the collector."""

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        if end == "prepared":
            await peer.send(ok())
        elif end == "cancelled in a large body":
            await peer.send(ok(bytes(8_000_000))[:4_000_000])
        if end == "failed":
            peer.reset()
        else:
            await peer.closed()

    def there() -> int:
        return sum(type(found) is transfer.Transfer for found in gc.get_objects())

    taken = 0

    def take(chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)

    gc.collect()
    before = there()
    gc.disable()
    try:
        async with ScriptedServer(handler) as server:
            arguments: dict[str, Any] = {"method": "POST", "body": b"x"}
            if end == "prepared":
                arguments["prepare_curl_callback"] = lambda easy: None
            if end == "cancelled in a large body":
                arguments["streaming_callback"] = take
            fetch = client.fetch(server.url(), **arguments)
            await server.requested()
            if end == "cancelled in a large body":
                await until(lambda: taken > 1_000_000)
            if end.startswith("cancelled"):
                fetch.cancel()
            with contextlib.suppress(asyncio.CancelledError, HTTPError):
                await fetch
            del fetch
            await until(lambda: not len(client._driver))
            await until(lambda: there() == before)
    finally:
        gc.enable()


async def test_a_socket_option_function_of_the_callers(client: Any) -> None:
    """A new connection that got the port of an old one is not taken for that."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def once(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok())
        peer.reset()

    def prepare(easy: pycurl.Curl) -> None:
        easy.setopt(pycurl.LOCALPORT, port)
        easy.setopt(pycurl.SOCKOPTFUNCTION, lambda fd, purpose: 0)

    async with ScriptedServer(once) as server:
        responses = []
        for count in (1, 2):
            responses.append(await client.fetch(server.url("/"), prepare_curl_callback=prepare))
            await server.finished()
            assert len(server.connections) == count
        assert [response.reused for response in responses] == [False, False]
        assert len({response.connection_id for response in responses}) == 2


async def test_a_deadline_of_all_requests_ends_a_lone_one(make_client: Any) -> None:
    """libcurl is asked for its timer where a transfer begins within fetch(), too."""
    client = make_client(defaults={"request_timeout": 0.3})

    async def twice(peer: Peer) -> None:
        for _ in range(2):
            await peer.read_request()
            await peer.send(ok())
        await peer.closed()

    async with ScriptedServer(twice) as server:
        for _ in range(2):
            await client.fetch(server.url("/"))
        with pytest.raises(HTTPError, match="Timeout during request"):
            await asyncio.wait_for(client.fetch(server.url("/")), 5)


async def test_heads_of_several_servers_are_known(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is parsed once, however they take turns, and none is another's."""
    parsed: list[bytes] = []
    parse = transfer.parse_head

    def counted(exchange: Any, block: bytes, lines: list[bytes]) -> Any:
        parsed.append(block)
        return parse(exchange, block, lines)

    monkeypatch.setattr(transfer, "parse_head", counted)

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(ok(b"body", f"Server: {request.target}"))

    async with ScriptedServer(handler) as server:
        for _ in range(3):
            for name in ("/a", "/b", "/c"):
                response = await client.fetch(server.url(name))
                assert response.headers["Server"] == name
                assert response.body == b"body"
    assert len(parsed) == 3


async def test_the_limit_of_a_body_whose_head_is_known(make_client: Any) -> None:
    client = make_client(max_body_size=50)

    async def chunks(peer: Peer) -> None:
        for size in (4, 100):
            await peer.read_request()
            await peer.send(CHUNKED + chunked(b"x" * size))

    async with ScriptedServer(chunks) as server:
        assert (await client.fetch(server.url("/"))).body == b"xxxx"
        with pytest.raises(HTTPError, match="max_body_size"):
            await client.fetch(server.url("/"))


async def test_an_encoded_body_whose_head_is_known(client: Any) -> None:
    async def twice(peer: Peer) -> None:
        for text in (b"one", b"two"):
            await peer.read_request()
            packed = gzip.compress(text, mtime=0)
            await peer.send(ok(packed, "Content-Encoding: gzip"))

    async with ScriptedServer(twice) as server:
        assert [(await client.fetch(server.url("/"))).body for _ in "12"] == [b"one", b"two"]


async def test_an_early_answer_whose_head_is_known(client: Any) -> None:
    """200 instead of 100 Continue, twice: its end is ours to find each time."""

    async def early(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(ok(b"early"))
        await peer.closed()

    async with ScriptedServer(early) as server:
        for _ in range(2):
            response = await client.fetch(
                server.url("/"), method="POST", body=b"abc", expect_100_continue=True
            )
            assert response.body == b"early"


def test_the_backend_takes_shared_exchanges() -> None:
    assert CurlAsyncHTTPClient.fetch_impl.takes_shared  # type: ignore[attr-defined]
