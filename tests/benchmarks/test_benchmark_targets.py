"""Targets are judged by medians of ratios within a round, and say what they found."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("benchmarks.results", reason="these are the tests alone")

from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import (
    PEERS,
    TARGETS,
    Bound,
    Holds,
    Linear,
    Ratio,
    Verdict,
    judge,
    steepest,
)
from made_up import result, results

CURL = "whimbrel curl"
MS = results.Metric("ms", False, ".1f")


@pytest.mark.parametrize(
    ("rates", "met", "found"),
    [
        # Round by round 3, 2 and 4; not 40 to 10, the ratio of the medians.
        ((30, 40, 40), True, "3.00 (2.00-4.00)"),
        ((29, 29, 29), False, "2.90 (1.45-2.90)"),
        ((19, 90, 19), False, "1.90 (1.90-4.50)"),
    ],
)
def test_ratio(rates: tuple[int, ...], met: bool, found: str) -> None:
    measured = result("get-100", {CURL: rates, "aiohttp": (10, 20, 10)})
    assert Ratio("get-100", CURL, 3, "aiohttp").judge(measured) == Verdict(met, found)


@pytest.mark.parametrize(("value", "met"), [(5, True), (6, False)])
def test_ratio_at_most(value: int, met: bool) -> None:
    measured = result("memory", {CURL: [value], "aiohttp": [10]}, MS)
    target = Ratio("memory", CURL, 0.5, "aiohttp", at_most=True)
    assert target.judge(measured).met is met
    assert target.text == "≤ 0.5 x aiohttp"


def test_best_peer_is_the_fastest_that_is_not_ours() -> None:
    rates = {CURL: [50], "whimbrel simple": [90], "aiohttp": [10], "wreq": [40], "niquests": [30]}
    target = Ratio("download-stream", CURL, 1.2, None)
    assert target.judge(result("download-stream", rates)) == Verdict(True, "1.25 x wreq")
    assert target.text == "≥ 1.2 x the best peer"


def test_best_peer_is_none_of_ours_and_no_program() -> None:
    assert "aiohttp, uvloop" in PEERS
    assert not [name for name in PEERS if "whimbrel" in name or name == "libcurl in C"]


@pytest.mark.parametrize(("values", "met"), [((9, 11, 10), True), ((9, 11, 10.1), False)])
def test_bound(values: tuple[float, ...], met: bool) -> None:
    verdict = Bound("stall", CURL, 10, "ms").judge(result("stall", {CURL: values}, MS))
    assert verdict.met is met
    assert verdict.found.endswith(" ms")


@pytest.mark.parametrize(("rate", "met"), [(70, True), (69, False)])
def test_holds(rate: int, met: bool) -> None:
    measured = result("growth", {(CURL, 100): [100], (CURL, 5000): [rate]}, axis="in flight")
    assert Holds("growth", CURL, 0.7, 5000, 100).judge(measured).met is met


def test_linear() -> None:
    """Half the rate at ten times as much is a power of 1.3, with the same CPU time a second."""
    flat = {(CURL, 1): [50], (CURL, 10): [100], (CURL, 100): [100]}
    target = Linear("growth", CURL)
    verdict = target.judge(result("growth", flat, axis="hosts"))
    assert verdict == Verdict(True, "1.00 at most, from 10 to 100")
    steep = {**flat, (CURL, 1000): [50]}
    verdict = target.judge(result("growth", steep, axis="hosts"))
    assert verdict == Verdict(False, "1.30 at most, from 100 to 1,000")


def test_steepest_leaves_neighbours_alone() -> None:
    """What costs twice at 10,000 instead of 5,000 is compared with 1,000."""
    exponent, low, high = steepest({1000: 1.0, 5000: 1.0, 10_000: 2.0}) or (0, 0, 0)
    assert (round(exponent, 2), low, high) == (1.3, 1000, 10_000)
    assert steepest({1000: 1.0, 2000: 1.0}) is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.scenario} {target.text}")
def test_not_measured(target: Any) -> None:
    """No result, or one without the client: neither met nor missed."""
    assert judge(target, {}).word == "not measured"
    empty = result(target.scenario, {"somebody": [1]})
    assert judge(target, {target.scenario: empty}).word == "not measured"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.scenario} {target.text}")
def test_targets_are_of_what_is_measured(target: Any) -> None:
    """The scenario is there, its client and peer take part, and so do its points and its unit."""
    scenario = SCENARIOS[target.scenario]
    parties = [target.client, *filter(None, [getattr(target, "peer", None)])]
    assert [party for party in parties if party not in scenario.entrants] == []
    assert [party for party in parties if scenario.needs_servers and scenario.cannot(party)] == []
    if isinstance(target, Holds):
        assert {target.point, target.other} <= set(scenario.points)
    if isinstance(target, Bound):
        assert target.unit == scenario.metric.unit
    if isinstance(target, Linear):
        assert scenario.axis
