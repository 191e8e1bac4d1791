"""The body of a streamed upload."""

from __future__ import annotations

from collections.abc import AsyncGenerator


async def chunks(chunk: bytes, count: int) -> AsyncGenerator[bytes, None]:
    """Give `chunk` `count` times, for libraries that take nothing but an async iterable."""
    for _ in range(count):
        yield chunk
