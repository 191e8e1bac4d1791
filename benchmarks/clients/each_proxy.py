"""Sessions that go through the next of several proxies each time, where a library lets one choose.

That is whimbrel and aiohttp: elsewhere a proxy belongs to the client.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.clients import FEW
from benchmarks.clients.session import Body, Options

CLIENTS: Final = FEW
"""Who can."""


class _Whimbrel:
    def __init__(self, client: Any, proxies: Sequence[str]) -> None:
        self._client = client
        self._proxies = itertools.cycle(proxies)

    async def get(self, url: str) -> tuple[int, Body]:
        response = await self._client.fetch(url, raise_error=False, proxy=next(self._proxies))
        return response.code, response.body


class _Aiohttp:
    def __init__(self, session: Any, proxies: Sequence[str]) -> None:
        self._session = session
        self._proxies = itertools.cycle(proxies)

    async def get(self, url: str) -> tuple[int, Body]:
        async with self._session.get(url, proxy=next(self._proxies)) as response:
            return response.status, await response.read()


@asynccontextmanager
async def open_session(client: str, options: Options, proxies: Sequence[str]) -> AsyncIterator[Any]:
    """Open one of `CLIENTS`. Of `benchmarks.clients.Session` it has ``get`` alone."""
    if client == "aiohttp":
        import aiohttp

        connector = aiohttp.TCPConnector(limit=options.in_flight)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield _Aiohttp(session, proxies)
    else:
        from benchmarks.clients.whimbrel_client import backend

        make = backend(client.removeprefix("whimbrel "))
        async with make(force_instance=True, max_clients=options.in_flight) as opened:
            yield _Whimbrel(opened, proxies)
