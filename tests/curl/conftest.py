"""Fixtures for the curl backend: both ways of watching sockets, and calls that can be made to fail.

Everything here runs twice, once with libcurl's sockets in an epoll of their own, once with each
given to ``loop.add_reader``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .support import Saboteur


@pytest.fixture
def backend() -> str:
    """These tests are about one backend."""
    return "curl"


@pytest.fixture(params=[True, False], ids=["epoll", "add_reader"])
def use_epoll(request: pytest.FixtureRequest) -> bool:
    """How the driver watches sockets."""
    chosen: bool = request.param
    return chosen


@pytest.fixture
async def curl_client(make_client: Callable[..., Any], use_epoll: bool) -> Any:
    """A private client that watches sockets in the way of `use_epoll`."""
    return make_client(use_epoll=use_epoll)


@pytest.fixture
async def saboteur() -> AsyncIterator[Saboteur]:
    """Counts the calls of libcurl and the loop that clients made from now on make."""
    with pytest.MonkeyPatch.context() as patch:
        yield Saboteur(patch, asyncio.get_running_loop())


@pytest.fixture
async def debug_mode() -> AsyncIterator[None]:
    """The running loop in debug mode: calls from a foreign thread raise, slow ones are logged."""
    loop = asyncio.get_running_loop()
    before = loop.get_debug()
    loop.set_debug(True)
    yield
    loop.set_debug(before)
