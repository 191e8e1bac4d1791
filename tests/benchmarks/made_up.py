"""Results that nobody measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

results: Any = pytest.importorskip("benchmarks.results", reason="these are the tests alone")


def result(
    name: str,
    values: Mapping[Any, Sequence[float]],
    metric: Any = results.RATE,
    axis: str | None = None,
) -> Any:
    """Of a scenario: by client, or by client and point, a value for each round.

    Each sample took one second, half of it of CPU time.
    """
    samples = {}
    for key, found in values.items():
        client, point = key if isinstance(key, tuple) else (key, None)
        samples[results.Series(client, point)] = {
            number: {"requests": value, "seconds": 1.0, "cpu_seconds": 0.5, "value": value}
            for number, value in enumerate(found)
        }
    return results.Result(name, f"the title of {name}", metric, axis, samples)


def run(*found: Any, **facts: Any) -> Any:
    """A run that consists of these."""
    return results.Results(facts, {each.name: each for each in found})
