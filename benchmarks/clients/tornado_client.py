"""Tornado's two clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient
from tornado.util import import_object

from benchmarks.clients import Options

_BACKENDS = {
    "curl": "tornado.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "tornado.simple_httpclient.SimpleAsyncHTTPClient",
}
_LARGEST_BODY = 1 << 40
# Instead of 20 s for large bodies, where the simple client takes 0 for no time at all.
_LONG_SECONDS = 3600.0


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
            url, raise_error=False, streaming_callback=take, request_timeout=_LONG_SECONDS
        )
        return response.code, size

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        response = await self._client.fetch(
            url, raise_error=False, method="POST", body=body, request_timeout=_LONG_SECONDS
        )
        return response.code, response.body

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
            for _ in range(count):
                await write(chunk)

        response = await self._client.fetch(
            url,
            raise_error=False,
            method="POST",
            headers={"Content-Length": str(len(chunk) * count)},
            body_producer=produce,
            request_timeout=_LONG_SECONDS,
        )
        return response.code, response.body


@asynccontextmanager
async def open_session(options: Options, backend: str) -> AsyncIterator[_Session]:
    """Open a client of `backend`, "curl" or "simple"."""
    defaults: dict[str, Any] = {"ca_certs": options.ca_file}
    if options.proxy is not None:
        proxy = urlsplit(options.proxy)
        defaults |= {"proxy_host": proxy.hostname, "proxy_port": proxy.port}
    limits: dict[str, Any] = {"max_clients": options.in_flight}
    if backend == "simple":
        limits |= {"max_body_size": _LARGEST_BODY, "max_buffer_size": _LARGEST_BODY}
    client = import_object(_BACKENDS[backend])(force_instance=True, defaults=defaults, **limits)
    try:
        yield _Session(client)
    finally:
        client.close()
