"""What is to be reached, as data, and how it is judged.

Ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from benchmarks.clients import CLIENTS
from benchmarks.results import Result, Series
from benchmarks.scenarios import SCENARIOS

CURL: Final = "whimbrel curl"
SIMPLE: Final = "whimbrel simple"
PEERS: Final = tuple(
    name
    for name, client in CLIENTS.items()
    if not name.startswith("whimbrel") and client.command is None
)
"""Everything that is called from Python and is not ours."""

CONTENDERS: Final = (
    *("aiohttp", "aiohttp, uvloop", "wreq", "pyreqwest", "pycurl.AsyncCurlMulti"),
    "Tornado simple",
)
"""Of those, who has ever been the best: without one of them there is no telling who is."""

REPORTED: Final[dict[str, tuple[str, ...]]] = {
    "get-100-varied": (
        CURL,
        SIMPLE,
        "aiohttp",
        "wreq",
        "Tornado curl",
        "pycurl.AsyncCurlMulti",
    )
}
"""Scenarios that belong beside the targets without having one, and who is measured in them."""

LINEAR: Final = 1.25
"""The exponent up to which growth counts as linear: over a decade, a cost that is at most 1.8 times
as much an item. Caches and the machine's noise need some room; a square has 2."""
_APART: Final = 5
"""Points are compared with those that are a fifth or less: closer ones tell of noise."""


class Verdict(NamedTuple):
    """How a target was met.

    Attributes:
        met: whether; None where it was not measured.
        found: the number and how it came about, for people.
    """

    met: bool | None
    found: str

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


_NOT_MEASURED: Final = Verdict(None, "")


def _missing_contenders(result: Result) -> list[str]:
    """Those of `CONTENDERS` that can do the work and were not measured, installed or not."""
    cannot = SCENARIOS[result.name].cannot
    return [name for name in CONTENDERS if name not in result.clients and cannot(name) is None]


class Target(Protocol):
    """Something that is to be reached in one scenario by one client."""

    @property
    def scenario(self) -> str:
        """Its name."""

    @property
    def client(self) -> str:
        """Its name."""

    @property
    def text(self) -> str:
        """What is wanted, like "≥ 3 x aiohttp"."""

    @property
    def entrants(self) -> tuple[str, ...]:
        """Who has to be measured for it."""

    def judge(self, result: Result) -> Verdict:
        """Look at what was measured."""


@dataclass(frozen=True)
class Ratio:
    """So many times as much as a peer, or at most so many times.

    Attributes:
        peer: its name; None is the best of `PEERS`.
    """

    scenario: str
    client: str
    factor: float
    peer: str | None
    at_most: bool = False

    @property
    def entrants(self) -> tuple[str, ...]:
        return (self.client, self.peer) if self.peer else (self.client, *CONTENDERS)

    @property
    def text(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{sign} {self.factor:g} x {self.peer or 'the best peer'}"

    def judge(self, result: Result) -> Verdict:
        if not self.peer and (missing := _missing_contenders(result)):
            return Verdict(None, f"the best peer is not known without {'; '.join(missing)}")
        peer = self.peer or result.best(PEERS)
        if peer is None:
            return _NOT_MEASURED
        found = result.ratio(Series(self.client), Series(peer))
        if found is None:
            return _NOT_MEASURED
        met = found.median <= self.factor if self.at_most else found.median >= self.factor
        return Verdict(met, f"{found.text('.2f')}{'' if self.peer else f' x {peer}'}")


@dataclass(frozen=True)
class Bound:
    """At most so much, in the unit of the scenario."""

    scenario: str
    client: str
    most: float
    unit: str

    @property
    def entrants(self) -> tuple[str, ...]:
        return (self.client,)

    @property
    def text(self) -> str:
        return f"≤ {self.most:g} {self.unit}"

    def judge(self, result: Result) -> Verdict:
        found = result.spread(Series(self.client))
        if found is None:
            return _NOT_MEASURED
        return Verdict(
            found.median <= self.most, f"{found.text(result.metric.form)} {result.metric.unit}"
        )


@dataclass(frozen=True)
class Holds:
    """At one point at least a part of what is reached at another."""

    scenario: str
    client: str
    part: float
    point: int
    other: int

    @property
    def entrants(self) -> tuple[str, ...]:
        return (self.client,)

    @property
    def text(self) -> str:
        return f"at {self.point:,} ≥ {self.part:g} x that at {self.other:,}"

    def judge(self, result: Result) -> Verdict:
        found = result.ratio(Series(self.client, self.point), Series(self.client, self.other))
        if found is None:
            return _NOT_MEASURED
        return Verdict(found.median >= self.part, found.text(".2f"))


@dataclass(frozen=True)
class Linear:
    """The CPU time for work that grows does not grow faster than the work."""

    scenario: str
    client: str

    @property
    def entrants(self) -> tuple[str, ...]:
        return (self.client,)

    @property
    def text(self) -> str:
        return f"no worse than linear (exponent ≤ {LINEAR:g})"

    def judge(self, result: Result) -> Verdict:
        costs: dict[int, float] = {}
        for point in result.points:
            samples = result.samples.get(Series(self.client, point), {}).values()
            if point and samples:
                costs[point] = statistics.median(
                    s["cpu_seconds"] / s["seconds"] / s["value"] for s in samples
                )
        worst = steepest(costs)
        if worst is None:
            return _NOT_MEASURED
        exponent, low, high = worst
        return Verdict(exponent <= LINEAR, f"{exponent:.2f} at most, from {low:,} to {high:,}")


def steepest(costs: Mapping[int, float]) -> tuple[float, int, int] | None:
    """Where the cost of `n` items, at `costs[n]` each, grows most.

    As the exponent of a power of n, between which two points; None without two that are apart.
    """
    found = []
    for high in costs:
        lower = [point for point in costs if point * _APART <= high]
        if lower:
            low = max(lower)
            times = high * costs[high] / (low * costs[low])
            found.append((math.log(times) / math.log(high / low), low, high))
    return max(found, default=None)


TARGETS: Final[tuple[Target, ...]] = (
    Ratio("get-100", CURL, 3, "aiohttp"),
    Ratio("get-100", CURL, 4.5, "Tornado curl"),
    Ratio("get-100", CURL, 0.9, "wreq"),
    Ratio("get-100", CURL, 0.5, "libcurl in C"),
    Ratio("get-100", SIMPLE, 5, "aiohttp"),
    Ratio("get-100", SIMPLE, 15, "Tornado simple"),
    Ratio("get-100", SIMPLE, 1.3, "wreq"),
    Ratio("get-1", CURL, 2, "aiohttp"),
    Ratio("get-1", CURL, 0.9, "wreq"),
    Ratio("get-1", SIMPLE, 3, "aiohttp"),
    Ratio("get-1", SIMPLE, 1.2, "wreq"),
    Ratio("get-1000", CURL, 3, "aiohttp"),
    Ratio("get-1000", SIMPLE, 5, "aiohttp"),
    Ratio("https", CURL, 2.8, "aiohttp"),
    Ratio("https", SIMPLE, 2.5, "aiohttp"),
    Ratio("http2", CURL, 20, "httpx"),
    Ratio("http2", CURL, 0.9, "wreq"),
    Ratio("proxy", CURL, 2.8, "aiohttp"),
    Ratio("proxy", SIMPLE, 3, "aiohttp"),
    Ratio("tunnel", CURL, 2.8, "aiohttp"),
    Ratio("tunnel", SIMPLE, 3, "aiohttp"),
    Ratio("download-stream", CURL, 1, None),
    Ratio("download-stream", SIMPLE, 0.9, None),
    Ratio("download-memory", CURL, 1.2, None),
    Ratio("download-memory", SIMPLE, 1.2, None),
    Ratio("upload-memory", CURL, 1, None),
    Ratio("upload-memory", SIMPLE, 1, None),
    Ratio("upload-stream", CURL, 1, None),
    Ratio("upload-stream", SIMPLE, 1, None),
    Ratio("import", "import whimbrel", 0.5, "import aiohttp", at_most=True),
    Ratio("memory", CURL, 1, "aiohttp", at_most=True),
    Ratio("memory", SIMPLE, 0.5, "aiohttp", at_most=True),
    # Flat: a byte a request or so, which is what the allocator's whims may come to.
    Bound("million", CURL, 1, "MiB"),
    Bound("million", SIMPLE, 1, "MiB"),
    Bound("stall", CURL, 10, "ms"),
    Bound("stall", SIMPLE, 10, "ms"),
    *(Holds("growth-in-flight", client, 0.7, point=5000, other=100) for client in (CURL, SIMPLE)),
    *(
        Linear(scenario, client)
        for scenario in ("growth-in-flight", "growth-size", "growth-hosts", "growth-proxies")
        for client in (CURL, SIMPLE)
    ),
    Ratio("hello-server", "whimbrel server", 1.5, "Tornado server"),
)


def judge(target: Target, results: Mapping[str, Result]) -> Verdict:
    """Whether it was met in what was measured, by name of the scenario.

    Whoever fails in one round has missed it, however good the others were; and where that is a
    peer, it was not measured.
    """
    result = results.get(target.scenario)
    if result is None:
        return _NOT_MEASURED
    for failure in result.failures:
        if failure.client in target.entrants:
            met = False if failure.client == target.client else None
            return Verdict(met, f"FAILED: {failure.text}")
    return target.judge(result)
