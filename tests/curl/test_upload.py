"""What READFUNCTION answers for a body that is produced while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pycurl

from whimbrel.testing.scripted import ScriptedServer, silent


async def test_libcurl_is_told_to_wait_and_to_stop(curl_client: Any) -> None:
    """PAUSE while the producer has nothing, ABORT once nobody wants the body."""
    begun = asyncio.Event()

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async with ScriptedServer(silent) as server:
        fetch = curl_client.fetch(server.url("/"), method="PUT", body_producer=produce)
        await begun.wait()
        (done,) = curl_client._driver._transfers.values()
        transfer = done.__self__
        assert transfer._on_read(100) == pycurl.READFUNC_PAUSE
        fetch.cancel()
        assert transfer._on_read(100) == pycurl.READFUNC_ABORT
