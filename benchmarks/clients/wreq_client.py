"""wreq, in Rust."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import wreq

from benchmarks.clients.session import Body, Download, Options
from benchmarks.servers.content import REQUEST_ID


class _Session:
    def __init__(self, client: wreq.Client) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[int, Body]:
        async with self._client.get(url) as response:
            return response.status.as_int(), await response.bytes()

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, Body, str | None]:
        async with self._client.get(url, headers=headers) as response:
            value = response.headers.get(REQUEST_ID)
            text = None if value is None else str(value, "latin-1")
            return response.status.as_int(), await response.bytes(), text

    async def download(self, url: str) -> Download:
        size = 0
        first = chunk = b""
        async with self._client.get(url) as response, response.stream() as stream:
            async for chunk in stream:
                first = first or chunk
                size += len(chunk)
            return Download(response.status.as_int(), size, first, chunk)

    async def post(self, url: str, body: bytes) -> tuple[int, Body]:
        async with self._client.post(url, body=body) as response:
            return response.status.as_int(), await response.bytes()

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, Body]:
        length = {"Content-Length": str(len(chunk) * count)}
        async with self._client.post(url, headers=length, body=repeat(chunk, count)) as response:
            return response.status.as_int(), await response.bytes()


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a client."""
    config: dict[str, Any] = {
        "pool_max_idle_per_host": options.in_flight,
        # With both allowed, each of the first requests would open a connection before one knows.
        "http2_only" if options.http2 else "http1_only": True,
    }
    if options.proxy is not None:
        config["proxies"] = [wreq.Proxy.all(options.proxy)]
    if options.ca_file is not None:
        config["tls_verify"] = Path(options.ca_file)
    async with wreq.Client(**config) as client:
        yield _Session(client)
