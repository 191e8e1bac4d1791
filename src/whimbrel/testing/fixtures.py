"""Pytest fixtures: servers on loopback, a client per backend, a mock client.

In the top-level ``conftest.py``::

    pytest_plugins = ["whimbrel.testing.fixtures"]

They need pytest and pytest-asyncio, in auto or strict mode. The servers run in threads of their
own, so that they also answer code that blocks the test's loop, or has none. A test that uses
`http_client` runs once for each backend that can be imported here. Redefine `whimbrel_backend` to
choose::

    @pytest.fixture(params=["simple"])
    def whimbrel_backend(request):
        return request.param
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

try:
    import pytest_asyncio
except ModuleNotFoundError as error:
    raise ImportError(
        "whimbrel.testing.fixtures needs pytest-asyncio: pip install pytest-asyncio"
    ) from error

from whimbrel._backends import load, loadable
from whimbrel.httpclient import AsyncHTTPClient
from whimbrel.testing._certificate import localhost_context
from whimbrel.testing._threads import threaded
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


@pytest.fixture
def origin_server() -> Iterator[OriginServer]:
    """An `OriginServer`, http."""
    with threaded(OriginServer()) as server:
        yield server


@pytest.fixture
def secure_origin_server() -> Iterator[OriginServer]:
    """An `OriginServer`, https; clients need ``ca_certs=LOCALHOST_CERTIFICATE``."""
    with threaded(OriginServer(localhost_context())) as server:
        yield server


@pytest.fixture
def proxy_server() -> Iterator[ProxyServer]:
    """A `ProxyServer` that lets everybody through."""
    with threaded(ProxyServer()) as server:
        yield server


@pytest.fixture
def mock_http() -> Iterator[MockRoutes]:
    """The routes of `mock_client`: while the test runs, clients that it makes open no socket.

    A request without a route fails the test at its end, should the program have swallowed the
    `UnexpectedRequest`; ``mock_http.unexpected.clear()`` says that it was expected after all.
    """
    with mock_client() as routes:
        yield routes
    routes.assert_all_expected()
