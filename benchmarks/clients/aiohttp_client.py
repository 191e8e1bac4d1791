"""aiohttp."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp

from benchmarks.clients.chunks import chunks
from benchmarks.clients.session import Download, Options
from benchmarks.servers.content import REQUEST_ID


class _Session:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: str) -> tuple[int, bytes]:
        async with self._session.get(url) as response:
            return response.status, await response.read()

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        async with self._session.get(url, headers=headers) as response:
            return response.status, await response.read(), response.headers.get(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first = chunk = b""
        async with self._session.get(url) as response:
            async for chunk in response.content.iter_any():
                first = first or chunk
                size += len(chunk)
        return Download(response.status, size, first, chunk)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        # Large bytes are to come as a file, says the warning that they otherwise get.
        data = body if len(body) < 1 << 20 else BytesIO(body)
        async with self._session.post(url, data=data) as response:
            return response.status, await response.read()

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        length = {"Content-Length": str(len(chunk) * count)}
        async with self._session.post(url, headers=length, data=chunks(chunk, count)) as response:
            return response.status, await response.read()


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a session whose connector has a connection for every request in flight."""
    context = ssl.create_default_context(cafile=options.ca_file) if options.ca_file else True
    connector = aiohttp.TCPConnector(limit=options.in_flight, ssl=context)
    async with aiohttp.ClientSession(connector=connector, proxy=options.proxy) as session:
        yield _Session(session)
