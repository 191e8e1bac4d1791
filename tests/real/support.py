"""What the tests of this lane share, beside the fixtures."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import pytest

from backends import BACKENDS
from whimbrel.httpclient import AsyncHTTPClient, HTTPResponse

#: The version that a backend and a server settle on when both may choose.
BEST_VERSION = {"curl": "2", "simple": "1.1"}

#: HTTP/2 and HTTP/3 are the curl backend's alone; the others refuse to be asked for them.
curl_only = pytest.mark.parametrize("backend", ["curl"], indirect=True)

#: Each backend with each version that it can be asked for over TLS.
each_version = pytest.mark.parametrize(
    ("backend", "http_version"),
    [
        (backend, version)
        for backend in BACKENDS
        for version in (("1.1", "2") if backend == "curl" else ("1.1",))
    ],
    indirect=["backend"],
)


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
