"""Every test here leaves nothing behind: no descriptor, watcher, timer or task.

And each runs twice: with streams that the loop watches, and with an epoll between them and it.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator

import pytest

from conftest import Baseline
from whimbrel._readiness import Readiness
from whimbrel.iostream import IOStream, SSLIOStream


@pytest.fixture(autouse=True)
async def baseline() -> AsyncIterator[Baseline]:
    taken = Baseline.take()
    yield taken
    await taken.restored()


@pytest.fixture(autouse=True, params=["loop", "epoll"])
async def watcher(
    request: pytest.FixtureRequest, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """What watches the streams of a test that says nothing of it."""
    kind: str = request.param
    if kind == "loop":
        yield kind
        return
    if not hasattr(select, "epoll"):
        pytest.skip("this platform has no epoll")
    readiness = Readiness(asyncio.get_running_loop())
    for stream in (IOStream, SSLIOStream):
        monkeypatch.setattr(stream.__init__, "__kwdefaults__", {"watcher": readiness})
    yield kind
    readiness.close()
