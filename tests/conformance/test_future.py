"""What `fetch()` returns is an asyncio.Future to all who take one."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import selectors
import socket
import threading
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, silent_server

_FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
LOCAL: contextvars.ContextVar[str] = contextvars.ContextVar("LOCAL", default="nobody's")


async def test_callbacks_in_the_order_in_which_they_were_added(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(server.url("/"))
        seen: list[tuple[str, Any]] = []
        for name in ("one", "two", "three"):
            fetch.add_done_callback(lambda future, name=name: seen.append((name, future)))
        await fetch
        assert seen == [("one", fetch), ("two", fetch), ("three", fetch)]
        fetch.add_done_callback(lambda future: seen.append(("late", future)))
        assert len(seen) == 3
        await asyncio.sleep(0)
        assert seen[3] == ("late", fetch)


async def test_a_callback_that_was_removed_is_not_called(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(server.url("/"))
        seen: list[Any] = []
        assert fetch.remove_done_callback(seen.append) == 0
        append = seen.append
        for _ in range(2):
            fetch.add_done_callback(append)
        fetch.add_done_callback(lambda _: seen.append("kept"))
        assert fetch.remove_done_callback(append) == 2
        await fetch
        assert seen == ["kept"]
        assert fetch.remove_done_callback(append) == 0


@pytest.mark.parametrize("is_given", [True, False])
async def test_the_context_of_a_callback(client: Any, is_given: bool) -> None:
    """The one that is given, an empty one too, else that of whoever adds it."""
    async with ScriptedServer(canned(ok())) as server:
        fetch = client.fetch(server.url("/"))
        seen: list[str] = []
        LOCAL.set("mine")
        context = contextvars.Context() if is_given else None
        fetch.add_done_callback(lambda _: seen.append(LOCAL.get()), context=context)
        LOCAL.set("later")
        await fetch
        assert seen == ["nobody's" if is_given else "mine"]


async def test_callbacks_hear_of_failures_and_of_cancellations(client: Any) -> None:
    async with silent_server() as silent, ScriptedServer(canned(_FAILURE)) as server:
        failing, cancelled = client.fetch(server.url("/")), client.fetch(silent.url("/"))
        seen: list[Any] = []
        failing.add_done_callback(seen.append)
        cancelled.add_done_callback(seen.append)
        with pytest.raises(HTTPError):
            await failing
        cancelled.cancel()
        assert seen == [failing]
        await asyncio.sleep(0)
        assert seen == [failing, cancelled]


async def test_whoever_sets_the_outcome_wakes_those_who_wait(client: Any) -> None:
    async with silent_server() as server:
        one, two = client.fetch(server.url("/")), client.fetch(server.url("/"))
        waits = [asyncio.ensure_future(_outcome(fetch)) for fetch in (one, two)]
        await asyncio.sleep(0)
        one.set_result("made up")
        two.set_exception(ValueError("made up"))
        assert await asyncio.gather(*waits) == ["made up", "ValueError made up"]


async def _outcome(fetch: Any) -> Any:
    try:
        return await fetch
    except ValueError as error:
        return f"ValueError {error}"


async def test_what_asyncio_has_for_futures(client: Any) -> None:
    async def echo(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(ok(request.target.encode()))

    async with ScriptedServer(echo) as server, silent_server() as silent:
        gathered = await asyncio.gather(*(client.fetch(server.url(f"/{n}")) for n in range(3)))
        assert [response.body for response in gathered] == [b"/0", b"/1", b"/2"]
        done, waiting = await asyncio.wait(
            [client.fetch(server.url("/a")), slow := client.fetch(silent.url("/b"))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [fetch.result().body for fetch in done] == [b"/a"]
        assert waiting == {slow}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(slow), 0.01)
        assert not slow.done()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow, 0.01)
        assert slow.cancelled()
        for first in asyncio.as_completed([client.fetch(server.url("/c"))]):
            assert (await first).body == b"/c"
        task = asyncio.ensure_future(_outcome(client.fetch(silent.url("/d"))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_whom_the_callers_code_wakes_comes_before_the_end(client: Any) -> None:
    """The reader of a queue has the last chunk before whoever awaits the fetch goes on."""
    async with ScriptedServer(canned(ok(b"last"))) as server:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        read = bytearray()

        async def reader() -> None:
            while True:
                read.extend(await queue.get())

        reading = asyncio.ensure_future(reader())
        for _ in range(3):
            await asyncio.sleep(0)
            await client.fetch(server.url("/"), streaming_callback=queue.put_nowait)
        assert read == b"lastlastlast"
        heard: list[str] = []
        event = asyncio.Event()

        async def listener() -> None:
            await event.wait()
            heard.append("the listener")

        listening = asyncio.ensure_future(listener())
        await asyncio.sleep(0)
        await client.fetch(server.url("/"), header_callback=lambda line: event.set())
        assert heard == ["the listener"]
        reading.cancel()
        await asyncio.wait([reading, listening])


async def test_copies_have_the_same_request(client: Any) -> None:
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url("/"))
        assert copy.copy(response).request is response.request


def test_a_row_of_requests_takes_one_turn_of_the_loop_each(client_class: type[Any]) -> None:
    """Who waits is woken in the turn in which the answer came, and asks again in that."""
    turns = 0
    asleep = threading.Event()

    class Counting(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal turns
            turns += 1
            if timeout is None or timeout > 0:
                asleep.set()
            return super().select(timeout)

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            while peer.recv(65536):
                asleep.wait(10)  # an answer within fetch() would be another thing
                asleep.clear()
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main(url: str) -> int:
        async with client_class(force_instance=True, trust_env=False, busy_poll=0) as client:
            await client.fetch(url)
            before = turns
            for _ in range(50):
                await client.fetch(url)
            return turns - before

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Counting())) as runner:
            assert runner.run(main(f"http://127.0.0.1:{listener.getsockname()[1]}/")) < 75
        thread.join(10)


async def test_the_request_of_a_url_alone(client: Any) -> None:
    """It is made when somebody looks, and says what `HTTPRequest(url)` would have said."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url("/a b"))
        request = response.request
        assert request.url == server.url("/a b")
        assert request.method == "GET"
        assert request.start_time == response.start_time
        assert response.request is request
