"""Programs that run the loop from within its own callbacks: notebooks, with nest_asyncio."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: the patch is for good.
_PROGRAM = """
import asyncio, importlib, sys
import nest_asyncio
from whimbrel.testing.scripted import ScriptedServer, ok, routes

nest_asyncio.apply()
name, where = sys.argv[1:]
module = importlib.import_module(f"whimbrel.{name}_httpclient")
reports = []

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    client = getattr(module, f"{name.capitalize()}AsyncHTTPClient")(force_instance=True)
    async with ScriptedServer(routes({"/": ok(b"body")})) as server:

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
