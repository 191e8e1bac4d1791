"""Matrix 51-53: loops that close first, forgotten clients, loops and threads not theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.testing.scripted import ScriptedServer, canned, ok, silent_server

from .support import complaints, run_program

# Each scenario ends `main()` in its own way; the server is in the same process and loop.
PROGRAM = """
import asyncio, gc, os, socket, sys, weakref
from {module} import {name} as Client
from whimbrel.testing.scripted import ScriptedServer, canned, ok

private = sys.argv[2] == "private"
kept = []
peers = []

def make(**arguments):
    if private:
        return Client(force_instance=True, trust_env=False, **arguments)
    return Client(trust_env=False, **arguments)

# A peer that needs no loop, for what is in flight when the loop is gone.
listener = socket.create_server(("127.0.0.1", 0))
silent = "http://127.0.0.1:%d/" % listener.getsockname()[1]
listener.setblocking(False)

async def used():
    client = make()
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
    return client

async def in_flight(client, **arguments):
    fetch = client.fetch(silent, **arguments)
    peers.append((await asyncio.get_running_loop().sock_accept(listener))[0])
    return fetch

async def loop_closed_in_flight():
    client = await used()
    kept.extend((client, await in_flight(client)))

async def loop_closed_then_close():
    await loop_closed_in_flight()

async def collected_after_the_loop():
    await loop_closed_in_flight()

async def collected_idle():
    client = await used()
    del client
    gc.collect()
    await asyncio.sleep(0.01)

async def collected_in_flight():
    client = await used()
    fetch = await in_flight(client)
    del client, fetch
    gc.collect()
    await asyncio.sleep(0.01)

async def collected_while_paused():
    client = await used()
    async def consume(piece):
        await asyncio.get_running_loop().create_future()
    fetch = await in_flight(client, streaming_callback=consume)
    peers[0].send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
    await asyncio.sleep(0.01)
    del client, fetch
    gc.collect()
    await asyncio.sleep(0.01)

async def closed_again_and_again():
    gone = []
    for _ in range(100):
        client = await used()
        fetch = await in_flight(client)
        client.close()
        assert fetch.exception() is not None
        gone.append(weakref.ref(client))
        peers.pop().close()
        del client, fetch
    while any(client() for client in gone):
        gc.collect()
        await asyncio.sleep(0.01)

async def at_exit():
    await loop_closed_in_flight()

scenario = sys.argv[1]
asyncio.run(globals()[scenario]())
if scenario.startswith("loop_closed"):
    if scenario == "loop_closed_then_close":
        kept[0].close()
        kept[0].close()
    try:
        kept[0].fetch(silent)
    except RuntimeError as error:
        assert "closed" in str(error), error
    else:
        raise AssertionError
elif scenario == "collected_after_the_loop":
    del kept[:]
    gc.collect()
for peer in (*peers, listener):
    peer.close()
print("end", flush=True)
"""


SCENARIOS = {
    "loop_closed_in_flight": 1,
    "loop_closed_then_close": 0,
    "collected_after_the_loop": 1,
    "collected_idle": 1,
    "collected_in_flight": 1,
    "collected_while_paused": 1,
    "closed_again_and_again": 0,
    "at_exit": 1,
}


@pytest.mark.parametrize("owner", ["private", "shared"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_matrix_51_52_forgotten_clients(scenario: str, owner: str, client_class: type[Any]) -> None:
    """No crash and no traceback, and a ResourceWarning for private clients that nobody closed."""
    program = PROGRAM.replace("{module}", client_class.__module__).replace(
        "{name}", client_class.__qualname__
    )
    done = run_program(program, scenario, owner, options=("-X", "dev", "-W", "default"))
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    warnings = [line for line in done.stderr.splitlines() if "ResourceWarning: unclosed" in line]
    # What a warning brings along: the line of the program, and a hint.
    others = [
        line
        for line in complaints(done.stderr)
        if line not in warnings and not line.startswith(" ") and "Enable tracemalloc" not in line
    ]
    assert others == []
    expected = SCENARIOS[scenario] if owner == "private" else 0
    assert len(warnings) == expected, done.stderr
    assert all(client_class.__name__ in line for line in warnings)


@pytest.mark.parametrize("owner", ["private", "shared"])
def test_matrix_51_close_after_the_loop_frees_all(owner: str, client_class: type[Any]) -> None:
    """close() after its loop is closed still closes every connection."""
    program = f"""
        import asyncio, os, socket, sys, threading
        from {client_class.__module__} import {client_class.__qualname__} as Client

        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)

        async def main():
            client = Client(force_instance=sys.argv[1] == "private", trust_env=False)
            fetch = client.fetch("http://127.0.0.1:%d/" % listener.getsockname()[1])
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            return client, fetch, peer

        before = set(os.listdir("/proc/self/fd"))
        client, fetch, peer = asyncio.run(main())
        client.close()
        peer.settimeout(10)
        while peer.recv(1000):
            pass
        peer.close()
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        left = []
        for fd in set(os.listdir("/proc/self/fd")) - before:
            try:
                left.append(os.readlink("/proc/self/fd/" + fd))
            except OSError:
                pass  # the one that listed the folder
        assert not left, left
        listener.close()
    """
    done = run_program(program, owner)
    assert (done.returncode, done.stdout, complaints(done.stderr)) == (0, "", [])


# -- 53: loops and threads


def test_matrix_53_a_second_loop(client_class: type[Any]) -> None:
    """A client is one loop's, also when that loop is over; the error says so."""
    made: list[Any] = []

    async def first() -> None:
        async with ScriptedServer(canned(ok())) as server:
            made.append(client_class(force_instance=True))
            await made[0].fetch(server.url())

    async def second() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            made[0].fetch("http://127.0.0.1:9/")
        with pytest.raises(RuntimeError, match="another event loop"):
            async with made[0].stream("http://127.0.0.1:9/"):
                pass

    asyncio.run(first())
    asyncio.run(second())
    made[0].close()


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
async def test_matrix_53_another_thread(
    bound: bool, make_client: Callable[..., Any], client_class: type[Any]
) -> None:
    """fetch() from a thread without a loop, while the client's runs elsewhere, is an error."""
    client = make_client()
    outcome: list[BaseException | None] = []

    def elsewhere(url: str) -> None:
        try:
            client.fetch(url)
        except RuntimeError as error:
            outcome.append(error)
        else:
            outcome.append(None)

    async with ScriptedServer(canned(ok())) as server, silent_server() as quiet:
        fetch = None
        if bound:
            await client.fetch(server.url())
            fetch = client.fetch(quiet.url())
            await quiet.accepted()
        thread = threading.Thread(target=elsewhere, args=(server.url(),))
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        assert isinstance(outcome[0], RuntimeError)
        assert "loop" in str(outcome[0])
        # The client is none the worse.
        assert (await client.fetch(server.url())).body == b"ok"
        if fetch is not None:
            assert not fetch.done()
            fetch.cancel()
    await asyncio.get_running_loop().shutdown_default_executor()
