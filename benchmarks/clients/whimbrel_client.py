"""whimbrel, both backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

from benchmarks.clients import Options
from benchmarks.clients.fetching import FetchSession
from whimbrel.util import import_object

_BACKENDS = {
    "curl": "whimbrel.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "whimbrel.simple_httpclient.SimpleAsyncHTTPClient",
}


class _Session(FetchSession):
    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        return await self._post(
            url,
            headers={"Content-Length": str(len(chunk) * count)},
            body=repeat(chunk, count),
        )


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
        yield _Session(client, longest=0)
