"""whimbrel, both backends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

from benchmarks.clients.fetching import FetchSession
from benchmarks.clients.session import LONG_SECONDS, Options
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


def backend(name: str) -> Any:
    """The client class of "curl" or "simple"."""
    return import_object(_BACKENDS[name])


@asynccontextmanager
async def open_session(options: Options, name: str) -> AsyncIterator[_Session]:
    """Open a client of the backend that is called so."""
    defaults: dict[str, Any] = {
        "ca_certs": options.ca_file,
        "http_version": "2" if options.http2 else "1.1",
        "proxy": options.proxy,
    }
    async with backend(name)(
        force_instance=True, max_clients=options.in_flight, max_body_size=0, defaults=defaults
    ) as client:
        yield _Session(client, LONG_SECONDS)
