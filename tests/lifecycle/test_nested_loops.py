"""Programs that run the loop from within its own callbacks: notebooks, with nest_asyncio."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: the patch is for good.
_PROGRAM = """
import asyncio, importlib, sys
import nest_asyncio
from whimbrel._curl import driver, transfer
from whimbrel.httpclient import HTTPTimeoutError
from whimbrel.testing.scripted import ScriptedServer, ok, routes, silent_server

nest_asyncio.apply()
name, where = sys.argv[1:]
module = importlib.import_module(f"whimbrel.{name}_httpclient")
reports = []
LARGE = bytes(1 << 20)

def turn_with(kind, name):
    # What runs the loop until `kind.name` has been called.
    called, method = asyncio.Event(), getattr(kind, name)

    def noting(self):
        method(self)
        called.set()

    setattr(kind, name, noting)

    def turn(run):
        called.clear()
        run(asyncio.wait_for(called.wait(), 5))

    return turn

async def timer_within(client, url, run):
    # Of another transfer, on another multi handle, which rings while libcurl is on the stack.
    driver.LANE = 1
    turn = turn_with(driver.Driver, "_on_soon")
    async with silent_server() as silent:
        late = client.fetch(silent.url(), request_timeout=0.1)
        await silent.accepted()
        await client.fetch(url, streaming_callback=lambda chunk: turn(run))
        try:
            await asyncio.wait_for(late, 5)
        except HTTPTimeoutError:
            return
    raise AssertionError("no time-out")

async def cancel_within(client, url, run):
    # What is put off until libcurl has returned, and comes up before.
    turn = turn_with(driver.Driver, "_after")
    async with silent_server() as silent:
        other = client.fetch(silent.url())
        await silent.accepted()

        def took(chunk):
            other.cancel()
            turn(run)

        assert (await client.fetch(url, streaming_callback=took)).code == 200
        await asyncio.wait_for(silent.connections[0].closed(), 5)

async def large_within(client, url, run):
    # What a large body brings about in the next turn, where that comes too early.
    turn = turn_with(transfer.Transfer, "_expect_much")
    pieces = []

    def took(chunk):
        if not pieces:
            turn(run)
        pieces.append(chunk)

    await client.fetch(url + "large", streaming_callback=took)
    assert b"".join(pieces) == LARGE

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    client = getattr(module, f"{name.capitalize()}AsyncHTTPClient")(force_instance=True)
    table = {"/": ok(b"body"), "/large": ok(LARGE)}
    async with ScriptedServer(routes(table)) as server:
        if where in ("timer", "cancel", "large"):
            await globals()[where + "_within"](client, server.url(), loop.run_until_complete)
            client.close()
            assert not reports, reports
            print("done")
            return

        def nested():
            if where == "within libcurl":
                # Where no other fetch can end.
                loop.run_until_complete(asyncio.sleep(0.02))
            else:
                again = client.fetch(server.url(), request_timeout=5)
                assert loop.run_until_complete(again).body == b"body"

        for _ in range(3):
            if where == "awaiting":
                await client.fetch(server.url(), request_timeout=5)
                nested()
            else:
                done = []

                def took(chunk):
                    nested()
                    done.append(chunk)

                fetches = [
                    client.fetch(server.url(), streaming_callback=took, request_timeout=5)
                    for _ in range(3 if where == "within libcurl" else 1)
                ]
                await asyncio.gather(*fetches)
                assert done == [b"body"] * len(fetches)
    client.close()
    assert not reports, reports
    print("done")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("simple", "awaiting"),
        ("curl", "awaiting"),
        ("simple", "callback"),
        ("curl", "within libcurl"),
        ("curl", "timer"),
        ("curl", "cancel"),
        ("curl", "large"),
    ],
)
def test_a_fetch_within(name: str, where: str) -> None:
    """Behind one that is awaited; and, where libcurl is not in between, from its callback."""
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, name, where],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.stdout, found.returncode) == ("done\n", 0), found.stderr
