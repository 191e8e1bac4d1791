"""What clients with Tornado's interface have in common: `fetch`."""

from __future__ import annotations

from typing import Any


class FetchSession:
    """All of a session but streamed uploads. `longest`: seconds for what takes long."""

    def __init__(self, client: Any, longest: float) -> None:
        self._client = client
        self._longest = longest

    async def get(self, url: str) -> tuple[int, bytes]:
        response = await self._client.fetch(url, raise_error=False)
        return response.code, response.body

    async def download(self, url: str) -> tuple[int, int]:
        size = 0

        def take(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)

        response = await self._client.fetch(
            url, raise_error=False, streaming_callback=take, request_timeout=self._longest
        )
        return response.code, size

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        return await self._post(url, body=body)

    async def _post(self, url: str, **more: Any) -> tuple[int, bytes]:
        response = await self._client.fetch(
            url, raise_error=False, method="POST", request_timeout=self._longest, **more
        )
        return response.code, response.body
