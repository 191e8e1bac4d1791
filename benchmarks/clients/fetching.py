"""What clients with Tornado's interface have in common: `fetch`."""

from __future__ import annotations

from typing import Any

from benchmarks.clients.session import Download
from benchmarks.servers.content import REQUEST_ID


class FetchSession:
    """All of a session but streamed uploads. `longest`: seconds for what takes long."""

    def __init__(self, client: Any, longest: float) -> None:
        self._client = client
        self._longest = longest

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self._client.fetch(url, raise_error=False)
        return response.code, response.body

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        response = await self._client.fetch(url, raise_error=False, headers=headers)
        return response.code, response.body, response.headers.get(REQUEST_ID)

    async def download(self, url: str) -> Download:
        size = 0
        first = last = b""

        def take(chunk: bytes) -> None:
            nonlocal size, first, last
            first = first or chunk
            last = chunk
            size += len(chunk)

        response = await self._client.fetch(
            url, raise_error=False, streaming_callback=take, request_timeout=self._longest
        )
        return Download(response.code, size, first, last)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return await self._post(url, body=body)

    async def _post(self, url: str, **more: Any) -> tuple[int, bytes]:
        response = await self._client.fetch(
            url, raise_error=False, method="POST", request_timeout=self._longest, **more
        )
        return response.code, response.body
