"""Every test here leaves nothing behind: no descriptor, watcher, timer or task."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from conftest import Baseline


@pytest.fixture(autouse=True)
async def baseline() -> AsyncIterator[Baseline]:
    taken = Baseline.take()
    yield taken
    await taken.restored()
