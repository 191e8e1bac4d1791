"""Room for bodies in a turn of the loop: who waits for it, and that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import Any

import pycurl
import pytest

from whimbrel._curl import driver as driver_module
from whimbrel._curl import room as room_module
from whimbrel._curl.room import ROOM, Room
from whimbrel._send_queue import unacknowledged
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, chunked, ok, reply, routes

from .support import speak, until

MB = 1024 * 1024
BODY = os.urandom(8 * MB + 4_321)
SMALL = 64 * 1024


async def test_in_the_order_in_which_they_came() -> None:
    """As far as there is room; the others in the next turn."""
    room = Room(asyncio.get_running_loop())
    log: list[tuple[int, str]] = []
    turn = 0

    def taker(name: str, size: int) -> Any:
        def take() -> None:
            room.left -= size
            log.append((turn, name))

        return take

    room.left = 0
    room.wait(taker("a", ROOM // 2))
    room.wait(taker("b", ROOM))
    room.wait(taker("c", 1))
    assert log == []
    for turn in (1, 2, 3):  # noqa: B007
        await asyncio.sleep(0)
    assert log == [(1, "a"), (1, "b"), (2, "c")]
    assert room.left == ROOM - 1


async def test_who_waits_again_is_last() -> None:
    room = Room(asyncio.get_running_loop())
    log: list[str] = []

    def again() -> None:
        log.append("again")
        if len(log) < 4:
            room.wait(again)

    room.wait(again)
    room.wait(lambda: log.append("other"))
    await asyncio.sleep(0)
    assert log == ["again", "other"]
    for _ in range(4):
        await asyncio.sleep(0)
    assert log == ["again", "other", "again", "again"]


async def test_a_closed_one_calls_nobody() -> None:
    room = Room(asyncio.get_running_loop())
    log: list[str] = []
    room.wait(lambda: log.append("late"))
    room.close()
    room.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert log == []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often somebody waited, with little room for all."""
    monkeypatch.setattr(driver_module, "ROOM", SMALL)
    monkeypatch.setattr(room_module, "ROOM", SMALL)
    found: list[int] = []
    wait = Room.wait

    def noting(self: Room, go_on: Any) -> None:
        found.append(self.left)
        wait(self, go_on)

    monkeypatch.setattr(Room, "wait", noting)
    return found


async def test_bodies_arrive_whole(curl_client: Any, waits: list[int]) -> None:
    """Several at once, and small ones do not wait for them."""
    bodies = {f"/{number}": BODY[number:] for number in range(4)}
    table = {**{path: ok(body) for path, body in bodies.items()}, "/small": ok(b"small")}
    async with ScriptedServer(routes(table)) as server:
        taken: dict[str, bytearray] = {path: bytearray() for path in bodies}
        fetches = [
            curl_client.fetch(server.url(path), streaming_callback=taken[path].extend)
            for path in bodies
        ]
        count = 0
        while not all(fetch.done() for fetch in fetches):
            assert (await curl_client.fetch(server.url("/small"))).body == b"small"
            count += 1
        assert count >= 10
        for fetch in fetches:
            await fetch
    assert taken == bodies
    assert len(waits) >= 4 * len(BODY) // SMALL // 4
    assert all(left <= 0 for left in waits)


CHUNKS = [BODY[start : start + 8192] for start in range(0, len(BODY), 8192)]


@pytest.mark.parametrize(
    "answer",
    [ok(BODY), reply("200 OK", chunked(*CHUNKS), "Transfer-Encoding: chunked")],
    ids=["full pieces", "small pieces"],
)
async def test_a_turn_has_its_share(curl_client: Any, waits: list[int], answer: bytes) -> None:
    """Nor is it passed by much, whatever libcurl has in store."""
    loop = asyncio.get_running_loop()
    turn = 0
    took: dict[int, int] = {}

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if not over:
            loop.call_soon(next_turn)

    def take(chunk: bytes) -> None:
        took[turn] = took.get(turn, 0) + len(chunk)

    over = False
    loop.call_soon(next_turn)
    async with ScriptedServer(routes({"/": answer})) as server:
        await asyncio.gather(
            *(curl_client.fetch(server.url(), streaming_callback=take) for _ in range(4))
        )
    over = True
    assert sum(took.values()) == 4 * len(BODY)
    # What is renewed for those who waited, and for those whose sockets are ready; and what a
    # piece takes beyond it.
    assert max(took.values()) <= 2 * (SMALL + 16 * 1024)


async def test_sockets_of_one_turn_share_it(curl_client: Any, waits: list[int]) -> None:
    """Those that are ready at once, none of which has waited."""
    loop = asyncio.get_running_loop()
    taken = 0
    first: list[int] = []

    def take(chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)
        if taken > 4 * 100 and not first:
            loop.call_soon(lambda: first.append(taken))

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(BODY)[: -len(BODY)] + BODY[:100])
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetches = [curl_client.fetch(server.url(), streaming_callback=take) for _ in range(4)]
        await until(lambda: taken == 4 * 100)
        for peer in server.connections:
            await until(lambda peer=peer: not unacknowledged(peer._sock.fileno()))
        for peer in server.connections:
            assert peer._sock.send(BODY[100 : 2 * SMALL]) == 2 * SMALL - 100
        await until(lambda: first)
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
    # Two turns, it may be, and what a piece takes beyond each.
    assert first[0] <= 2 * (SMALL + 16 * 1024)


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_who_is_given_up_while_it_waits(make_client: Any, waits: list[int], how: str) -> None:
    client = make_client()
    gone = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target == "/small":
                await peer.send(ok(b"small"))
                continue
            try:
                await peer.send(ok(BODY)[: 4 * MB])
                await peer.closed()
            finally:
                gone.set()

    async with ScriptedServer(handler) as server:
        size = 0

        def take(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)

        fetch = client.fetch(server.url("/"), streaming_callback=take)
        while not waits:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0)
        if how == "cancel":
            fetch.cancel()
        else:
            client.close()
            assert not client._driver.room._waiting
        seen = size
        with pytest.raises((asyncio.CancelledError, Exception)):
            await fetch
        await gone.wait()
        assert size == seen
        if how == "cancel":
            assert (await client.fetch(server.url("/small"))).body == b"small"


def _pour(listener: socket.socket, count: int) -> None:
    """Answer with more than anybody takes, on connections whose buffers are always full."""

    def pour(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
            while True:
                sock.sendall(BODY)

    pouring = [threading.Thread(target=pour, args=listener.accept()[:1]) for _ in range(count)]
    for thread in pouring:
        thread.start()
    for thread in pouring:
        thread.join()


async def test_each_gets_its_share(curl_client: Any) -> None:
    """Of downloads that have as much to give, none gets much more than another.

    A busy machine may not let all servers run; of four times it does so once.
    """
    taken = [0] * 4
    enough = asyncio.Event()
    shares = []

    def taker(number: int) -> Any:
        def take(chunk: bytes) -> None:
            taken[number] += len(chunk)
            if sum(taken) >= 300 * MB:
                shares.append(min(taken) / max(taken))
                taken[:] = [0] * 4
                if len(shares) == 4:
                    enough.set()

        return take

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_pour, args=(listener, 4))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        fetches = [
            curl_client.fetch(url, streaming_callback=taker(number), max_body_size=10**12)
            for number in range(4)
        ]
        await enough.wait()
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        server.join()
    assert max(shares) >= 0.6


async def test_a_consumer_that_pauses(curl_client: Any, waits: list[int]) -> None:
    """Two reasons to wait, which do not get into each other's way."""
    body = bytearray()

    async def take(chunk: bytes) -> None:
        body.extend(chunk)
        await asyncio.sleep(0)

    async with ScriptedServer(routes({"/": ok(BODY)})) as server:
        await curl_client.fetch(server.url(), streaming_callback=take)
    assert body == BODY


async def test_a_handle_that_is_the_callers_too(curl_client: Any, waits: list[int]) -> None:
    """Its pauses are his: nobody else pauses it, or lets it go on."""
    taken = bytearray()
    async with ScriptedServer(routes({"/": ok(BODY)})) as server:
        await curl_client.fetch(
            server.url(), streaming_callback=taken.extend, prepare_curl_callback=lambda handle: None
        )
    assert taken == BODY
    assert not waits


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize("size", [100, 20_000, 100_000])  # more would not have arrived
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("how", ["evil", "close", "evil, and another multi ends"])
async def test_what_comes_on_a_paused_connection(
    curl_client: Any, how: str, is_first: bool, size: int
) -> None:
    """Behind the body, while its consumer takes its time: a stranger's bytes, or the end."""
    paused, arrived, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target != "/large":
                await peer.send(ok(b"good"))
                continue
            await peer.send(ok(BODY[:size]))
            await paused.wait()
            if how == "close":
                peer.half_close()
            else:
                await peer.send(EVIL)
            await until(lambda: not unacknowledged(peer._sock.fileno()))
            arrived.set()
            if how == "close":
                return

    async def take(chunk: bytes) -> None:
        paused.set()
        await go_on.wait()

    async with ScriptedServer(handler) as server:
        if not is_first:
            await curl_client.fetch(server.url("/warm"))
        large = curl_client.fetch(server.url("/large"), streaming_callback=take)
        await arrived.wait()
        assert (await curl_client.fetch(server.url("/other"))).body == b"good"
        if "multi" in how:
            driver = curl_client._driver
            lane = driver._open_lane()
            driver._remove_lane(lane)
            lane.multi.close()
        go_on.set()
        await large
        for _ in range(2):
            response = await curl_client.fetch(server.url("/post"), method="POST", body=b"once")
            assert response.body == b"good"
    assert not curl_client._paused


async def test_a_port_that_a_paused_connection_has_as_well(curl_client: Any) -> None:
    """One local port may have several peers: what comes from the one is not the other's."""
    paused, go_on = asyncio.Event(), asyncio.Event()
    # Bound to by both: one that connect() chooses may be shared already, with one that is not.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def prepare(easy: pycurl.Curl) -> None:
        def share(fd: int, purpose: int) -> int:
            sock = socket.socket(fileno=fd)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.detach()
            return 0

        easy.setopt(pycurl.SOCKOPTFUNCTION, share)
        easy.setopt(pycurl.LOCALPORT, port)

    async def take(chunk: bytes) -> None:
        paused.set()
        await go_on.wait()

    answers = routes({"/": ok(BODY[:100_000]), "/small": ok(b"good")})
    async with ScriptedServer(answers) as server, ScriptedServer(answers) as other:
        await curl_client.fetch(other.url("/small"), prepare_curl_callback=prepare)
        large = curl_client.fetch(
            server.url(), streaming_callback=take, prepare_curl_callback=prepare
        )
        await paused.wait()
        await until(lambda: curl_client._paused)
        assert server.connections[0].address == other.connections[0].address
        await speak(other.connections[0], EVIL)
        assert (await curl_client.fetch(other.url("/small"))).body == b"good"
        assert len(other.connections) == 2
        go_on.set()
        await large
    assert not curl_client._paused


async def test_bodies_whose_heads_are_known(curl_client: Any, waits: list[int]) -> None:
    """They wait for room like all others."""
    answer = reply("200 OK", chunked(*CHUNKS), "Transfer-Encoding: chunked")
    async with ScriptedServer(routes({"/": answer})) as server:
        for _ in range(2):
            waits.clear()
            assert (await curl_client.fetch(server.url())).body == BODY
            assert len(waits) >= 10


async def test_connections_are_looked_at_before_each_socket(make_client: Any) -> None:
    """A fetch that begins between two sockets of a turn, because one before it has ended."""
    client = make_client(max_clients=2, use_epoll=False)
    answer = asyncio.Event()

    async def handler(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            if request.target not in ("/a", "/b"):
                await peer.send(ok(b"good"))
                continue
            # In two pieces: libcurl reads no more than what is missing of a body.
            await peer.send(ok(b"good")[:-2])
            await answer.wait()
            await peer.send(b"od" + EVIL)

    async with ScriptedServer(handler) as server:
        await asyncio.gather(*(client.fetch(server.url("/warm")) for _ in range(2)))
        taken = bytearray()
        fetches = [
            client.fetch(server.url(target), streaming_callback=taken.extend)
            for target in ("/a", "/b")
        ]
        fetches.append(client.fetch(server.url("/c")))
        while len(taken) < 4:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0)
        answer.set()
        for fetch in fetches:
            await fetch
        assert taken == b"gogo" + b"odod"
        assert fetches[2].result().body == b"good"


@pytest.mark.parametrize("interim", [b"HTTP/1.1 103 Early Hints\n\n", b"HTTP/1.1 103 E\r\n\r\n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_blocks_with_other_line_ends(curl_client: Any, interim: bytes, end: bytes) -> None:
    final = b"HTTP/1.1 200 OK%(end)sContent-Length: 2%(end)s%(end)s" % {b"end": end}
    async with ScriptedServer(canned(interim + final + b"hi")) as server:
        for _ in range(2):
            response = await curl_client.fetch(server.url())
            assert (response.code, response.body) == (200, b"hi")
