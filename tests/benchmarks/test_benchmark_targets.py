"""Targets are judged by medians of ratios within a round, and say what they found."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("benchmarks.results", reason="these are the tests alone")

from benchmarks.clients import CLIENTS
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import (
    CONTENDERS,
    PEERS,
    REPORTED,
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


RATES = {
    CURL: [50],
    "whimbrel simple": [90],
    "niquests": [30],
    **{name: [10] for name in CONTENDERS},
    "wreq": [40],
}
BEST = Ratio("download-stream", CURL, 1.2, None)


def test_best_peer_is_the_fastest_that_is_not_ours() -> None:
    assert BEST.judge(result("download-stream", RATES)) == Verdict(True, "1.25 x wreq")
    assert BEST.text == "≥ 1.2 x the best peer"


@pytest.mark.parametrize(
    "packages",
    [("whimbrel",), ("no-such-distribution-as-this",)],
    ids=["installed", "not installed"],
)
@pytest.mark.parametrize("absent", CONTENDERS)
def test_best_peer_needs_all_who_might_be_it(
    absent: str, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason is for which one was not measured."""
    monkeypatch.setitem(CLIENTS, absent, CLIENTS[absent]._replace(packages=packages))
    measured = result("download-stream", {k: v for k, v in RATES.items() if k != absent})
    verdict = Verdict(None, f"the best peer is not known without {absent}")
    assert BEST.judge(measured) == verdict


def test_best_peer_is_known_without_who_cannot_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLIENTS, "wreq", CLIENTS["wreq"]._replace(features=frozenset()))
    measured = result("download-stream", {k: v for k, v in RATES.items() if k != "wreq"})
    assert BEST.judge(measured) == Verdict(True, "1.67 x niquests")


def test_contenders_take_part_wherever_the_best_peer_is_asked_for() -> None:
    for target in TARGETS:
        if isinstance(target, Ratio) and target.peer is None:
            entrants = SCENARIOS[target.scenario].entrants
            assert {"aiohttp, uvloop", "Tornado simple", *CONTENDERS} <= {*target.entrants}
            assert {*CONTENDERS} <= {*entrants}


@pytest.mark.parametrize(
    ("who", "word", "found"),
    [
        (CURL, "MISSED", "FAILED: whimbrel curl: it broke"),
        ("aiohttp", "not measured", "FAILED: aiohttp: it broke"),
        ("wreq", "met", "4.00"),
    ],
)
def test_who_fails_in_one_round_has_not_met_it(who: str, word: str, found: str) -> None:
    """However good the others were; and a peer that fails is nothing to be better than."""
    measured = result("get-100", {CURL: [40, 40], "aiohttp": [10, 10], "wreq": [1]})
    measured.failures.append(results.Failure(who, None, "it broke"))
    verdict = judge(Ratio("get-100", CURL, 3, "aiohttp"), {"get-100": measured})
    assert (verdict.word, verdict.found) == (word, found)


def test_who_fails_at_one_point_does_not_grow_well() -> None:
    measured = result("growth", {(CURL, 1): [50], (CURL, 10): [100]}, axis="hosts")
    measured.failures.append(results.Failure(CURL, 1000, "it broke"))
    verdict = judge(Linear("growth", CURL), {"growth": measured})
    assert verdict == Verdict(False, "FAILED: whimbrel curl at 1,000: it broke")


def test_what_is_reported_is_measured() -> None:
    for name, entrants in REPORTED.items():
        assert [entrant for entrant in entrants if SCENARIOS[name].cannot(entrant)] == []


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
