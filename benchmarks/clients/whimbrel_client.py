"""whimbrel, both backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

from benchmarks.clients import Options
from whimbrel.httpclient import AsyncHTTPClient
from whimbrel.util import import_object

_BACKENDS = {
    "curl": "whimbrel.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "whimbrel.simple_httpclient.SimpleAsyncHTTPClient",
}


class _Session:
    def __init__(self, client: AsyncHTTPClient) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self._client.fetch(url, raise_error=False)
        return response.code, response.body

    async def download(self, url: str) -> tuple[int, int]:
        size = 0

        def take(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)

        response = await self._client.fetch(
            url, raise_error=False, streaming_callback=take, request_timeout=0
        )
        return response.code, size

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        response = await self._client.fetch(
            url, raise_error=False, method="POST", body=body, request_timeout=0
        )
        return response.code, response.body

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        response = await self._client.fetch(
            url,
            raise_error=False,
            method="POST",
            headers={"Content-Length": str(len(chunk) * count)},
            body=repeat(chunk, count),
            request_timeout=0,
        )
        return response.code, response.body


@asynccontextmanager
async def open_session(options: Options, backend: str) -> AsyncIterator[_Session]:
    """Open a client of `backend`, "curl" or "simple"."""
    defaults: dict[str, Any] = {
        "ca_certs": options.ca_file,
        "http_version": "2" if options.http2 else "1.1",
        "proxy": options.proxy,
    }
    async with import_object(_BACKENDS[backend])(
        force_instance=True, max_clients=options.in_flight, max_body_size=0, defaults=defaults
    ) as client:
        yield _Session(client)
