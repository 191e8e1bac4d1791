"""curl_cffi."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from curl_cffi import CurlOpt
from curl_cffi.requests import AsyncSession

from benchmarks.clients.chunks import chunks
from benchmarks.clients.session import LONG_SECONDS, Download, Options
from benchmarks.servers.content import REQUEST_ID


class _Session:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self._session.get(url)
        return response.status_code, response.content

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        response = await self._session.get(url, headers=headers)
        return response.status_code, response.content, response.headers.get(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first = chunk = b""
        response = await self._session.get(url, stream=True, timeout=LONG_SECONDS)
        async for chunk in response.aiter_content():
            first = first or chunk
            size += len(chunk)
        return Download(response.status_code, size, first, chunk)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        response = await self._session.post(url, content=body, timeout=LONG_SECONDS)
        return response.status_code, response.content

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        response = await self._session.post(
            url,
            headers={"Content-Length": str(len(chunk) * count)},
            content=chunks(chunk, count),
            timeout=LONG_SECONDS,
        )
        return response.status_code, response.content


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a session with a handle for every request in flight."""
    async with AsyncSession(
        max_clients=options.in_flight,
        http_version="v2tls" if options.http2 else "v1",
        # A request that could share a connection waits for the handshake instead of making one.
        curl_options={CurlOpt.PIPEWAIT: 1} if options.http2 else None,
        proxy=options.proxy,
        verify=options.ca_file or True,
    ) as session:
        yield _Session(session)
