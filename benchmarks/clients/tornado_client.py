"""Tornado's two clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from tornado.util import import_object

from benchmarks.clients.fetching import FetchSession
from benchmarks.clients.session import LONG_SECONDS, Options

_BACKENDS = {
    "curl": "tornado.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "tornado.simple_httpclient.SimpleAsyncHTTPClient",
}
_LARGEST_BODY = 1 << 40


class _Session(FetchSession):
    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
            for _ in range(count):
                await write(chunk)

        return await self._post(
            url,
            headers={"Content-Length": str(len(chunk) * count)},
            body_producer=produce,
        )


@asynccontextmanager
async def open_session(options: Options, name: str) -> AsyncIterator[_Session]:
    """Open a client of "curl" or "simple"."""
    defaults: dict[str, Any] = {"ca_certs": options.ca_file}
    if options.proxy is not None:
        proxy = urlsplit(options.proxy)
        defaults |= {"proxy_host": proxy.hostname, "proxy_port": proxy.port}
    limits: dict[str, Any] = {"max_clients": options.in_flight, "max_body_size": _LARGEST_BODY}
    if name == "simple":
        limits["max_buffer_size"] = _LARGEST_BODY
    client = import_object(_BACKENDS[name])(force_instance=True, defaults=defaults, **limits)
    try:
        yield _Session(client, LONG_SECONDS)
    finally:
        client.close()
