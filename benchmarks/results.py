"""What was measured: samples by client, point and round, and what follows from them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.work import Sample

FORMAT: Final = 1
"""Of the JSON; another one cannot be compared."""


class Metric(NamedTuple):
    """What the ``value`` of a sample is.

    Attributes:
        unit: its unit.
        more_is_better: whether a greater one is.
        form: a format specification for it.
    """

    unit: str
    more_is_better: bool
    form: str


RATE: Final = Metric("requests/s", True, ",.0f")
BYTES: Final = Metric("MB/s", True, ",.0f")


class Spread(NamedTuple):
    """Median, least and greatest of several samples."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str) -> str:
        """``median (least-greatest)``, each formatted by `form`; one value alone for one sample."""
        if self.least == self.greatest:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.least:{form}}-{self.greatest:{form}})"


class Series(NamedTuple):
    """Whose samples they are.

    Attributes:
        client: its name.
        point: where on the axis of a scenario that has one; else None.
    """

    client: str
    point: int | None = None


class Failure(NamedTuple):
    """A client that did not do the work, and its words."""

    client: str
    point: int | None
    words: str

    @property
    def text(self) -> str:
        where = "" if self.point is None else f" at {self.point:,}"
        return f"{self.client}{where}: {self.words}"


@dataclass
class Result:
    """Of one scenario.

    Attributes:
        name: of the scenario, as on the command line.
        title: of it, for people.
        metric: what ``value`` is in the samples.
        axis: what the points count; None where there are none.
        samples: by series, and by the number of the round.
        left_out: why a client was not measured, by name.
        failures: of clients that were.
    """

    name: str
    title: str
    metric: Metric
    axis: str | None = None
    samples: dict[Series, dict[int, Sample]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @property
    def clients(self) -> list[str]:
        """Those with a sample, in order."""
        return list(dict.fromkeys(series.client for series in self.samples))

    @property
    def points(self) -> list[int | None]:
        """Those with a sample, in order."""
        found = {series.point for series in self.samples}
        return sorted(found, key=lambda point: point or 0)

    def spread(self, series: Series, name: str = "value") -> Spread | None:
        """Of one number of the samples; None where it was not measured."""
        values = [s[name] for s in self.samples.get(series, {}).values() if name in s]
        return Spread.of(values) if values else None

    def ratio(self, series: Series, other: Series) -> Spread | None:
        """``value`` of `series` by that of `other`, round by round.

        None where there is no round that has both.
        """
        ours, theirs = self.samples.get(series, {}), self.samples.get(other, {})
        both = [(ours[number]["value"], theirs[number]["value"]) for number in ours.keys() & theirs]
        ratios = [one / two for one, two in both if two]
        return Spread.of(ratios) if ratios else None

    def best(self, clients: Iterable[str], point: int | None = None) -> str | None:
        """Which of the clients has the best median; None where none was measured."""
        medians = {
            client: spread.median
            for client in clients
            if (spread := self.spread(Series(client, point))) is not None
        }
        if not medians:
            return None
        choose = max if self.metric.more_is_better else min
        return choose(medians, key=lambda client: medians[client])

    def as_json(self) -> dict[str, Any]:
        series = []
        for key, samples in self.samples.items():
            spread = self.spread(key)
            assert spread is not None
            series.append(
                {
                    **key._asdict(),
                    **spread._asdict(),
                    "samples": [{"round": number, **s} for number, s in samples.items()],
                }
            )
        return {
            "name": self.name,
            "title": self.title,
            "metric": self.metric._asdict(),
            "axis": self.axis,
            "series": series,
            "left_out": self.left_out,
            "failures": [failure._asdict() for failure in self.failures],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        samples = {}
        for series in data["series"]:
            if not isinstance(series["client"], str) or not series["samples"]:
                raise ValueError(f"no samples of {series['client']}")
            samples[Series(series["client"], series["point"])] = {
                sample["round"]: _numbers(sample) for sample in series["samples"]
            }
        metric = Metric(**data["metric"])
        format(0.0, metric.form)  # fails here, and not where a table is made
        return cls(
            data["name"],
            data["title"],
            metric,
            data["axis"],
            samples,
            data["left_out"],
            [Failure(**failure) for failure in data["failures"]],
        )


def _numbers(sample: dict[str, Any]) -> Sample:
    """The sample, if its numbers are some: NaN is neither more nor less than anything."""
    for name in ("value", "requests", "seconds", "cpu_seconds"):
        if (name in sample or name == "value") and not math.isfinite(sample[name]):
            raise ValueError(f"{name} is {sample[name]}")
    return sample


@dataclass
class Results:
    """Of a run.

    Attributes:
        facts: machine, versions, command line, …
        scenarios: by name, in the order of the run.
        left_out: why a scenario was not measured, or not fully.
    """

    facts: dict[str, Any]
    scenarios: dict[str, Result] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.scenarios.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "facts": self.facts,
            "scenarios": [result.as_json() for result in self],
            "left_out": self.left_out,
        }

    @classmethod
    def load(cls, path: str) -> Results:
        """Read what ``--json`` has written.

        Raises:
            OSError: it cannot be read.
            ValueError, LookupError, TypeError, AttributeError: it is none of these.
        """
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a result of these benchmarks (format {FORMAT})")
        if not isinstance(data["facts"], dict) or not isinstance(data["left_out"], dict):
            raise ValueError("its facts, and what it leaves out, are no objects")
        results = [Result.from_json(scenario) for scenario in data["scenarios"]]
        return cls(data["facts"], {result.name: result for result in results}, data["left_out"])
