"""Servers where no loop runs: in a thread, on a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from whimbrel.testing._server import LoopbackServer

S = TypeVar("S", bound=LoopbackServer)
T = TypeVar("T")


@contextlib.contextmanager
def threaded(server: S) -> Iterator[S]:
    """Run a server of this package in a thread, on a loop of its own, while the block lasts.

    For code that blocks, such as a test of `HTTPClient`: a server on the loop of whoever blocks
    would answer nobody. Handlers of `routes` run in that thread.

        with threaded(OriginServer()) as origin, HTTPClient() as client:
            client.fetch(origin.url("/hello"))

    Raises:
        RuntimeError, OSError: it cannot be started; see `LoopbackServer.start`.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=type(server).__name__, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        run(server.start())
        try:
            yield server
        finally:
            run(server.close())
            run(loop.shutdown_asyncgens())
            run(loop.shutdown_default_executor())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
