"""Rounds: each measures every client once, at every point, and every other one goes backwards.

So a drift of the machine falls on all of them, and a ratio within a round compares neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Failure, Result, Series
from benchmarks.scenarios.base import Scenario, Setting
from benchmarks.work import Sample
from benchmarks.worker import Failed


def measure(
    scenario: Scenario,
    entrants: Sequence[str],
    points: Sequence[int | None],
    rounds: int,
    setting: Setting,
) -> Result:
    """Measure a scenario. A client that fails is named, and not measured again at that point."""
    result = Result(scenario.name, scenario.title, scenario.metric, scenario.axis)
    todo: list[Series] = []
    for entrant in entrants:
        reason = scenario.cannot(entrant)
        if reason is None:
            todo += [Series(entrant, point) for point in points]
        else:
            result.left_out[entrant] = reason
    todo.sort(key=lambda series: points.index(series.point))
    samples: dict[Series, dict[int, Sample]] = {series: {} for series in todo}
    for number in range(rounds if scenario.rounds is None else min(rounds, scenario.rounds)):
        for series in todo if number % 2 == 0 else todo[::-1]:
            if any(f.client == series.client and f.point == series.point for f in result.failures):
                continue
            try:
                samples[series][number] = scenario.measure(series.client, series.point, setting)
            except Failed as error:
                result.failures.append(Failure(series.client, series.point, str(error)))
    result.samples = {series: found for series, found in samples.items() if found}
    return result
