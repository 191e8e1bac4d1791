"""Matrix 50: close() with everything in flight, and where name look-ups hang."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPStreamClosedError
from whimbrel.testing.scripted import ScriptedServer, canned, ok

from .support import complaints, run_with_stuck_dns, until
from .test_cancellation import PHASES, rig

BLOCKED = 0.05
"""Seconds for which close() may hold the loop."""


async def test_matrix_50_close_in_every_phase(make_client: Callable[..., Any]) -> None:
    """Every future ends with a typed error at once, no connection stays, the loop is not held."""
    async with rig(make_client, max_clients=len(PHASES) - 1) as it:
        # Those whose callback cancels them are for other tests.
        phases = [phase for phase in PHASES if not phase.startswith("within")]
        fetches = [it.begin(phase, phase) for phase in phases]
        stuck = len(phases) - sum(
            p in ("resolver", "connect", "tls", "tunnel", "socks") for p in phases
        )
        await it.origin.requested(stuck)
        await until(lambda: it.reached and it.names.waiting)
        queued = [it.begin("waiting", f"queued{n}") for n in range(len(PHASES))]
        assert len(it.client.queue) > 0
        begun = time.perf_counter()
        it.client.close()
        assert time.perf_counter() - begun < BLOCKED
        assert all(fetch.done() for fetch in (*fetches, *queued))
        it.client.close()
        for fetch in (*fetches, *queued):
            error = fetch.exception()
            assert isinstance(error, HTTPStreamClosedError)
            assert error.code == 599
        for peer in (*it.origin.connections, *it.quiet.connections):
            await peer.closed()
        assert it.names.waiting == 0 or await _drains(it)
        with pytest.raises(RuntimeError, match="closed"):
            it.client.fetch(it.origin.url())


async def _drains(it: Any) -> bool:
    await until(lambda: it.names.waiting == 0)
    return True


async def test_matrix_50_close_from_a_done_callback(make_client: Callable[..., Any]) -> None:
    """close() when the first of several answers arrives: the others end, typed."""
    client = make_client(max_clients=3)
    async with ScriptedServer(canned(ok())) as server:
        fetches = [client.fetch(server.url(f"/{n}")) for n in range(6)]
        fetches[0].add_done_callback(lambda fetch: client.close())
        outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        assert outcomes[0].code == 200
        for outcome in outcomes[1:]:
            assert getattr(outcome, "code", None) in (200, 599)
            assert not isinstance(outcome, BaseException) or isinstance(outcome, HTTPError)
        assert any(isinstance(outcome, HTTPStreamClosedError) for outcome in outcomes)


def test_matrix_50_close_with_stuck_dns(client_class: type[Any], tmp_path: Path) -> None:
    """200 look-ups hang: a literal address is fetched at once, cancel() and close() do not wait."""
    program = f"""
        import asyncio, json, time
        from {client_class.__module__} import {client_class.__qualname__} as Client
        from whimbrel.httpclient import HTTPError
        from whimbrel.testing.scripted import ScriptedServer, canned, ok

        took = {{}}

        def clock(name, begun):
            took[name] = time.perf_counter() - begun

        async def main():
            client = Client(force_instance=True, max_clients=300, trust_env=False)
            async with ScriptedServer(canned(ok())) as server:
                stuck = [client.fetch(f"http://name{{n}}.example/") for n in range(200)]
                late = client.fetch("http://late.example/", connect_timeout=0.2)
                begun = time.perf_counter()
                assert (await client.fetch(server.url())).body == b"ok"
                clock("literal", begun)
                begun = time.perf_counter()
                try:
                    await late
                except TimeoutError as error:
                    assert error.stage == "dns", error.stage
                clock("timeout", begun)
                begun = time.perf_counter()
                for fetch in stuck[::2]:
                    fetch.cancel()
                clock("cancel", begun)
                assert (await client.fetch(server.url())).body == b"ok"
                begun = time.perf_counter()
                client.close()
                clock("close", begun)
                assert all(fetch.done() for fetch in stuck)
                for fetch in stuck[1::2]:
                    assert isinstance(fetch.exception(), HTTPError)
                # The loop runs on while the look-ups are given up.
                begun = time.perf_counter()
                for _ in range(10):
                    await asyncio.sleep(0.001)
                clock("loop", begun)

        asyncio.run(main())
        print(json.dumps(took))
    """
    done = run_with_stuck_dns(program, tmp_path)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    took = json.loads(done.stdout)
    assert took["literal"] < 0.5, took  # a look-up takes two seconds
    assert took["timeout"] < 0.7, took
    assert took["cancel"] < BLOCKED, took
    assert took["close"] < BLOCKED, took
    assert took["loop"] < 0.3, took
