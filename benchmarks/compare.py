"""``python -m benchmarks compare OLD.json NEW.json``: what got slower, or larger.

It looks at the medians of the measure, and of the CPU time a request, which tells where a server or
another program set the pace. Peers are shown as well: where they changed, so did the machine or
they themselves, and a change of ours means less. Only what is ours counts as a regression: a median
that got worse, a failure in any round of the new run, and that it was measured before and is not
any more, alone or with its scenario.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.report import table
from benchmarks.results import Metric, Results, Series
from benchmarks.work import Sample

_OURS: Final = ("whimbrel", "import whimbrel")
_MUST_AGREE: Final = (
    "system",
    "processor",
    "cores",
    "Python",
    "rounds",
    "client",
    "servers",
    "origin, and proxy for http",
    "proxy for CONNECT",
    "uploads, held responses",
)
"""Facts of a run; with them, the versions of what is not ours."""

# What a process grows by over a million requests lies near 0, where a ratio tells nothing.
_WITHOUT_RATIO: Final = "MiB"
_TOLERANCE: Final = 1.0
"""What is let pass where there is no ratio, in the unit of the measure."""
_CPU: Final = Metric("µs", more_is_better=False, form=",.1f")


class Change(NamedTuple):
    """Of one median.

    Attributes:
        scenario: its name.
        series: whose.
        metric: what the medians are.
        old, new: the medians.
        what: of the sample, where it is not the measure of the scenario.
    """

    scenario: str
    series: Series
    metric: Metric
    old: float
    new: float
    what: str = ""

    @property
    def is_ours(self) -> bool:
        return _is_ours(self.series.client)

    @property
    def label(self) -> str:
        return f"{_label(self.scenario, self.series.client, self.series.point)}{self.what}"

    @property
    def part(self) -> float | None:
        """By what part of the old one it got worse, below 0 it got better; None without a ratio."""
        if self.metric.unit == _WITHOUT_RATIO or min(self.old, self.new) <= 0:
            return None
        # A tenth more time and a tenth fewer requests are to count alike.
        return (self.old / self.new if self.metric.more_is_better else self.new / self.old) - 1

    @property
    def words(self) -> str:
        """By what it got worse."""
        if self.part is None:
            return f"{self._worse_units:+{self.metric.form}} {self.metric.unit}"
        return f"{self.part:+.1%}"

    def is_beyond(self, threshold: float) -> bool:
        """Whether it got worse by more than so many percent, or than `_TOLERANCE`."""
        if self.part is None:
            return self._worse_units > _TOLERANCE
        return self.part * 100 > threshold

    @property
    def _worse_units(self) -> float:
        return self.old - self.new if self.metric.more_is_better else self.new - self.old


def _is_ours(client: str) -> bool:
    return client.startswith(_OURS)


def _label(scenario: str, client: str, point: int | None) -> str:
    return f"{scenario}{'' if point is None else f' at {point:,}'}: {client}"


def changes(old: Results, new: Results) -> Iterator[Change]:
    """Of everything that both have."""
    for result in new:
        before = old.scenarios.get(result.name)
        for series in result.samples:
            then = before.spread(series) if before else None
            now = result.spread(series)
            if then is None or now is None:
                continue
            yield Change(result.name, series, result.metric, then.median, now.median)
            cpu = [_cpu(each.samples[series]) for each in (before, result) if each]
            if all(cpu) and result.metric.more_is_better:
                yield Change(result.name, series, _CPU, *cpu, ", CPU µs a request")


def _cpu(samples: Mapping[int, Sample]) -> float:
    """The median CPU time a request, in microseconds; 0 where it was not measured."""
    found = [
        sample["cpu_seconds"] / sample["requests"] * 1e6
        for sample in samples.values()
        if sample.get("requests") and "cpu_seconds" in sample
    ]
    return statistics.median(found) if found else 0.0


def lost(old: Results, new: Results) -> list[str]:
    """What of ours `new` does not have any more."""
    return [
        _label(result.name, *series)
        for result in old
        for series in result.samples
        if _is_ours(series.client)
        and ((now := new.scenarios.get(result.name)) is None or series not in now.samples)
    ]


def failed(new: Results) -> list[str]:
    """What of ours failed in a round of `new`, and its words."""
    return [
        f"{result.name}: FAILED: {failure.text}"
        for result in new
        for failure in result.failures
        if _is_ours(failure.client)
    ]


def differing(old: Results, new: Results) -> Iterator[tuple[str, object, object]]:
    """Facts that make a comparison doubtful: each with what it was, and what it is."""
    for name in _MUST_AGREE:
        then, now = old.facts.get(name), new.facts.get(name)
        if then != now:
            yield name, then, now
    before, after = _versions(old), _versions(new)
    for name in before:
        # Who takes part in one of the runs alone is named as such.
        if name in after and before[name] != after[name] and name != "whimbrel":
            yield name, before[name], after[name]


def _versions(results: Results) -> dict[str, str]:
    """By name; see `benchmarks.facts.versions`."""
    found = {}
    for words in str(results.facts.get("versions", "")).split(", "):
        name, _, version = words.rpartition(" ")
        found[name] = version
    return found


def report(old: Results, new: Results, threshold: float) -> tuple[str, list[str]]:
    """What to print, and the regressions: ours that are worse by more than `threshold` percent,
    failed, or lost."""
    found = list(changes(old, new))
    regressions = [
        f"{change.label}: {change.words}"
        for change in found
        if change.is_ours and change.is_beyond(threshold)
    ]
    regressions += failed(new)
    regressions += [f"{label}: not measured any more" for label in lost(old, new)]
    rows = [
        [
            change.label,
            *(f"{n:{change.metric.form}}" for n in (change.old, change.new)),
            change.words,
        ]
        for change in sorted(found, key=lambda change: -(change.part or 0.0))
    ]
    parts = [
        f"careful: {name} differs: {then!r}, now {now!r}" for name, then, now in differing(old, new)
    ]
    parts.append(table(["what", "old", "new", "worse by"], rows) if rows else "nothing in common")
    peers = [
        change.part
        for change in found
        if not change.is_ours and not change.what and change.part is not None
    ]
    if peers:
        parts.append(f"peers: worse by {statistics.median(peers):+.1%} in the median")
    for title, one, two in (("only in the old", old, new), ("only in the new", new, old)):
        if names := _only(one, two):
            parts.append(f"{title}: {'; '.join(names)}")
    parts += [f"REGRESSION: {words}" for words in regressions]
    if not regressions:
        parts.append(f"no regression beyond {threshold:g} %")
    return "\n".join(parts), regressions


def main(argv: Sequence[str]) -> int:
    """Compare two files; 1 where there are regressions, or nothing to compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description="Name what got slower, or larger."
    )
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    parser.add_argument(
        "--threshold", type=float, default=10.0, help="percent that are no regression (10)"
    )
    options = parser.parse_args(argv)
    if not options.threshold >= 0:
        parser.error("--threshold must not be below 0, and has to be a number")
    old, new = _load(parser, options.old), _load(parser, options.new)
    text, regressions = report(old, new, options.threshold)
    print(text)
    return 1 if regressions or not any(changes(old, new)) else 0


def _load(parser: argparse.ArgumentParser, path: str) -> Results:
    try:
        return Results.load(path)
    except OSError as error:
        parser.error(f"{path}: {error}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        parser.error(f"{path}: not a result of these benchmarks: {type(error).__name__}: {error}")


def _only(one: Results, two: Results) -> list[str]:
    names = []
    for result in one:
        other = two.scenarios.get(result.name)
        if other is None:
            names.append(result.name)
        else:
            names += [
                f"{result.name}: {series.client}"
                for series in result.samples
                if series not in other.samples
            ]
    return list(dict.fromkeys(names))
