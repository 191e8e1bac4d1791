"""wreq, in Rust."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import wreq

from benchmarks.clients import Body, Options
from benchmarks.clients.chunks import chunks


class _Session:
    def __init__(self, client: wreq.Client) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[int, Body]:
        async with self._client.get(url) as response:
            return response.status.as_int(), await response.bytes()

    async def download(self, url: str) -> tuple[int, int]:
        size = 0
        async with self._client.get(url) as response, response.stream() as stream:
            async for chunk in stream:
                size += len(chunk)
            return response.status.as_int(), size

    async def post(self, url: str, body: bytes) -> tuple[int, Body]:
        async with self._client.post(url, body=body) as response:
            return response.status.as_int(), await response.bytes()

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, Body]:
        length = {"Content-Length": str(len(chunk) * count)}
        async with self._client.post(url, headers=length, body=chunks(chunk, count)) as response:
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
