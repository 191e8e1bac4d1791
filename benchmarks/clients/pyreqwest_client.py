"""pyreqwest, in Rust."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import RequestBuilder

from benchmarks.clients.session import Body, Download, Options
from benchmarks.servers.content import REQUEST_ID


class _Session:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, url: str) -> tuple[int, Body]:
        return await _whole(self._client.get(url))

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, Body, str | None]:
        response = await self._client.get(url).headers(headers).build().send()
        body = memoryview(await response.bytes())
        return response.status, body, response.get_header(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first: Body = b""
        last: Body = b""
        async with self._client.get(url).build_streamed() as response:
            while (chunk := await response.body_reader.read_chunk()) is not None:
                first = first or chunk
                last = chunk
                size += len(chunk)
        return Download(response.status, size, memoryview(first), memoryview(last))

    async def post(self, url: str, body: bytes) -> tuple[int, Body]:
        return await _whole(self._client.post(url).body_bytes(body))

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, Body]:
        length = str(len(chunk) * count)
        request = self._client.post(url).header("Content-Length", length)
        return await _whole(request.body_stream(repeat(chunk, count)))


async def _whole(request: RequestBuilder) -> tuple[int, Body]:
    response = await request.build().send()
    return response.status, memoryview(await response.bytes())


def _make(options: Options) -> Client:
    builder = ClientBuilder().pool_max_idle_per_host(options.in_flight)
    if options.http2:
        # With both allowed, each of the first requests would open a connection before one knows.
        builder = builder.http2_prior_knowledge()
    if options.proxy is not None:
        builder = builder.proxy(ProxyBuilder.all(options.proxy))
    if options.ca_file is not None:
        builder = builder.add_root_certificate_pem(Path(options.ca_file).read_bytes())
    return builder.build()


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a client."""
    async with _make(options) as client:
        yield _Session(client)
