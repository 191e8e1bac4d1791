"""``python -m benchmarks compare OLD.json NEW.json``: what got slower, or larger.

It looks at the medians of the measure, and of the CPU time a request, which tells where a server or
another program set the pace. Peers are shown as well: where they changed, so did the machine or
they themselves, and a change of ours means less. Only what is ours counts as a regression; that it
was measured before and is not any more does, too.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.report import table
from benchmarks.results import Results, Series
from benchmarks.work import Sample

_OURS: Final = ("whimbrel", "import whimbrel")
_MUST_AGREE: Final = (
    "system",
    "processor",
    "cores",
    "Python",
    "rounds",
    "origin, and proxy for http",
)


class Change(NamedTuple):
    """Of one median.

    Attributes:
        scenario: its name.
        series: whose.
        old, new: the medians.
        worse: by what part of the old one it got worse; below 0 it got better.
        what: of the sample, where it is not the measure of the scenario.
    """

    scenario: str
    series: Series
    old: float
    new: float
    worse: float
    what: str = ""

    @property
    def is_ours(self) -> bool:
        return self.series.client.startswith(_OURS)

    @property
    def label(self) -> str:
        point = "" if self.series.point is None else f" at {self.series.point:,}"
        return f"{self.scenario}{point}: {self.series.client}{self.what}"


def changes(old: Results, new: Results) -> Iterator[Change]:
    """Of everything that both have."""
    for result in new:
        before = old.scenarios.get(result.name)
        for series in result.samples:
            then = before.spread(series) if before else None
            now = result.spread(series)
            if then is None or now is None:
                continue
            # A tenth more time and a tenth fewer requests are to count alike.
            first, last = (
                (now.median, then.median)
                if result.metric.more_is_better
                else (then.median, now.median)
            )
            if min(first, last) > 0:
                worse = last / first - 1
            else:
                # Memory that did not grow has no ratio; by a whole unit it may not grow either.
                worse = math.inf if last - first > 1 else 0.0
            yield Change(result.name, series, then.median, now.median, worse)
            cpu = [_cpu(each.samples[series]) for each in (before, result) if each]
            if all(cpu) and result.metric.more_is_better:
                worse = cpu[1] / cpu[0] - 1
                yield Change(result.name, series, cpu[0], cpu[1], worse, ", CPU µs a request")


def _cpu(samples: Mapping[int, Sample]) -> float:
    """The median CPU time a request, in microseconds; 0 where it was not measured."""
    found = [
        sample["cpu_seconds"] / sample["requests"] * 1e6
        for sample in samples.values()
        if sample.get("requests") and "cpu_seconds" in sample
    ]
    return statistics.median(found) if found else 0.0


def lost(old: Results, new: Results) -> list[str]:
    """What of ours the scenarios of `new` do not have any more."""
    return [
        Change(result.name, series, 0, 0, 0).label
        for result in old
        if (now := new.scenarios.get(result.name)) is not None
        for series in result.samples
        if series.client.startswith(_OURS) and series not in now.samples
    ]


def report(old: Results, new: Results, threshold: float) -> tuple[str, list[str]]:
    """What to print, and the regressions: ours that are worse by more than `threshold` percent, or
    lost."""
    found = list(changes(old, new))
    regressions = [
        f"{change.label}: {change.worse:+.1%}"
        for change in found
        if change.is_ours and change.worse * 100 > threshold
    ]
    regressions += [f"{label}: not measured any more" for label in lost(old, new)]
    rows = [
        [change.label, f"{change.old:,.4g}", f"{change.new:,.4g}", f"{change.worse:+.1%}"]
        for change in sorted(found, key=lambda change: -change.worse)
    ]
    parts = [
        f"careful: {name} differs: {old.facts.get(name)!r}, now {new.facts.get(name)!r}"
        for name in _MUST_AGREE
        if old.facts.get(name) != new.facts.get(name)
    ]
    parts.append(table(["what", "old", "new", "worse by"], rows) if rows else "nothing in common")
    peers = [change.worse for change in found if not change.is_ours and not change.what]
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
    if options.threshold < 0:
        parser.error("--threshold must not be below 0")
    old, new = _load(parser, options.old), _load(parser, options.new)
    text, regressions = report(old, new, options.threshold)
    print(text)
    return 1 if regressions or not any(changes(old, new)) else 0


def _load(parser: argparse.ArgumentParser, path: str) -> Results:
    try:
        return Results.load(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{path}: {error}")


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
