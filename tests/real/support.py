"""What the tests of this lane share, beside the fixtures."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from whimbrel.httpclient import AsyncHTTPClient, HTTPResponse


class MakeClient(Protocol):
    """The ``make_client`` fixture: keyword arguments go to the client's constructor."""

    def __call__(self, **options: object) -> AsyncHTTPClient: ...


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an origin listens, and the request options that trust it."""

    url: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")

    async def fetch(self, client: AsyncHTTPClient, path: str, **options: Any) -> HTTPResponse:
        """Fetch ``path`` of this origin; ``options`` go to the request (and ``raise_error``)."""
        return await client.fetch(self.url + path, **self.options, **options)
