"""httpx, with h2 for HTTP/2."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from benchmarks.clients.chunks import chunks
from benchmarks.clients.session import Download, Options
from benchmarks.servers.content import REQUEST_ID

# The default, 5 s for any read, is over before the last of 1,000 requests in flight has its turn.
_TIMEOUT_SECONDS = 120.0


class _Session:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self._client.get(url)
        return response.status_code, response.content

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        response = await self._client.get(url, headers=headers)
        return response.status_code, response.content, response.headers.get(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first = chunk = b""
        async with self._client.stream("GET", url) as response:
            async for chunk in response.aiter_bytes():
                first = first or chunk
                size += len(chunk)
        return Download(response.status_code, size, first, chunk)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        response = await self._client.post(url, content=body)
        return response.status_code, response.content

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        length = {"Content-Length": str(len(chunk) * count)}
        response = await self._client.post(url, headers=length, content=chunks(chunk, count))
        return response.status_code, response.content


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a client that may keep a connection for every request in flight."""
    context = ssl.create_default_context(cafile=options.ca_file) if options.ca_file else True
    limits = httpx.Limits(
        max_connections=options.in_flight, max_keepalive_connections=options.in_flight
    )
    async with httpx.AsyncClient(
        verify=context,
        http2=options.http2,
        proxy=options.proxy,
        limits=limits,
        timeout=_TIMEOUT_SECONDS,
    ) as client:
        yield _Session(client)
