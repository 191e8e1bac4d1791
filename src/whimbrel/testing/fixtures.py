"""Pytest fixtures: servers on loopback, a client per backend, a mock client.

In the top-level ``conftest.py``::

    pytest_plugins = ["whimbrel.testing.fixtures"]

They need pytest and pytest-asyncio, in auto or strict mode. A test that uses `http_client` runs
once for each backend that can be imported here. Redefine `whimbrel_backend` to choose::

    @pytest.fixture(params=["simple"])
    def whimbrel_backend(request):
        return request.param
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from whimbrel._backends import load, loadable
from whimbrel.httpclient import AsyncHTTPClient
from whimbrel.testing._certificate import localhost_context
from whimbrel.testing.mock import MockRoutes, mock_client
from whimbrel.testing.origin import OriginServer
from whimbrel.testing.proxy import ProxyServer


@pytest.fixture(params=loadable())
def whimbrel_backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend: each in turn of those that can be imported."""
    name: str = request.param
    return name


@pytest_asyncio.fixture
async def http_client(whimbrel_backend: str) -> AsyncIterator[AsyncHTTPClient]:
    """A private client of the backend, which ignores proxy variables; closed after the test.

    While the test runs, ``AsyncHTTPClient()`` and ``HTTPClient()`` make clients of that backend.
    """
    saved = AsyncHTTPClient._save_configuration()
    AsyncHTTPClient.configure(load(whimbrel_backend))
    try:
        async with AsyncHTTPClient(force_instance=True, trust_env=False) as client:
            yield client
    finally:
        AsyncHTTPClient._restore_configuration(saved)


@pytest_asyncio.fixture
async def origin_server() -> AsyncIterator[OriginServer]:
    """An `OriginServer`, http."""
    async with OriginServer() as server:
        yield server


@pytest_asyncio.fixture
async def secure_origin_server() -> AsyncIterator[OriginServer]:
    """An `OriginServer`, https; clients need ``ca_certs=LOCALHOST_CERTIFICATE``."""
    async with OriginServer(localhost_context()) as server:
        yield server


@pytest_asyncio.fixture
async def proxy_server() -> AsyncIterator[ProxyServer]:
    """A `ProxyServer` that lets everybody through."""
    async with ProxyServer() as server:
        yield server


@pytest.fixture
def mock_http() -> Iterator[MockRoutes]:
    """The routes of `mock_client`: while the test runs, no client opens a socket."""
    with mock_client() as routes:
        yield routes
