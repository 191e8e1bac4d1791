"""niquests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import niquests

from benchmarks.clients.chunks import chunks
from benchmarks.clients.session import Download, Options
from benchmarks.servers.content import REQUEST_ID


class _Session:
    def __init__(self, session: niquests.AsyncSession) -> None:
        self._session = session

    async def get(self, url: str) -> tuple[int, bytes]:
        return await self._answer(await self._session.get(url))

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        response = await self._session.get(url, headers=headers)
        status, body = await self._answer(response)
        return status, body, response.headers.get(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first = chunk = b""
        response = await self._session.get(url, stream=True)
        await self._session.gather(response)
        async for chunk in await response.iter_content():
            first = first or chunk
            size += len(chunk)
        return Download(_status(response), size, first, chunk)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return await self._answer(await self._session.post(url, data=body))

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        # Chunked: a Content-Length would be sent besides, and servers refuse both.
        return await self._answer(await self._session.post(url, data=chunks(chunk, count)))

    async def _answer(self, response: niquests.Response) -> tuple[int, bytes]:
        await self._session.gather(response)  # nothing, unless requests share a connection
        return _status(response), response.content or b""


def _status(response: niquests.Response | niquests.AsyncResponse) -> int:
    assert response.status_code is not None
    return response.status_code


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a session with a connection for every request in flight; with HTTP/2, one for all."""
    proxies = {"http": options.proxy, "https": options.proxy} if options.proxy else None
    async with niquests.AsyncSession(
        multiplexed=options.http2,
        pool_maxsize=1 if options.http2 else options.in_flight,
        disable_http2=not options.http2,
        disable_http3=True,
        proxies=proxies,
        verify=options.ca_file or True,
    ) as session:
        # A bundle named in the environment would have precedence over `verify`.
        session.trust_env = False
        yield _Session(session)
