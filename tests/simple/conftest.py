"""Fixtures for the simple backend."""

from __future__ import annotations

import pytest


@pytest.fixture
def backend() -> str:
    """These tests are about one backend."""
    return "simple"
