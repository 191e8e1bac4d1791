"""Memory: of requests in flight, and after a great many of them."""

from __future__ import annotations

from typing import Final

from benchmarks.results import Metric
from benchmarks.scenarios.base import ClientScenario
from benchmarks.work import Sample, Task

IN_FLIGHT: Final = 5000
REQUESTS: Final = 1_000_000
_MIB: Final = 1024 * 1024


def _kibibytes(sample: Sample, task: Task) -> float:
    return float((sample["during"] - sample["before"]) / task["count"] / 1024)


def _growth(sample: Sample, task: Task) -> float:
    """From the end of the first tenth, which is the warm-up, to the end."""
    sizes = sample["memory"]
    return float((sizes[-1] - sizes[len(sizes) // 10 - 1]) / _MIB)


MEMORY: Final = (
    ClientScenario(
        "memory",
        f"resident memory of a request in flight, {IN_FLIGHT:,} of them",
        work="held",
        role="raw",
        path="",
        in_flight=IN_FLIGHT,
        parameters={"count": IN_FLIGHT},
        metric=Metric("KiB", False, ",.1f"),
        value=_kibibytes,
    ),
    ClientScenario(
        "million",
        f"growth of resident memory over {REQUESTS:,} requests, 100 in flight",
        work="many",
        parameters={"count": REQUESTS},
        metric=Metric("MiB", False, ",.2f"),
        value=_growth,
        quick=(),
        rounds=1,
        entrants=("whimbrel curl", "whimbrel simple"),
        patience=1800.0,
    ),
)
