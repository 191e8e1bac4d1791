"""The benchmarks run, and judge rightly. What they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.small_get", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_small_get_measures(tmp_path: Path) -> None:
    """A moment of it, on our own server: a report, and every sample as JSON."""
    result = tmp_path / "result.json"
    done = run(
        *("--rounds", "2", "--in-flight", "1,8", "--seconds", "0.02", "--warm-up", "0"),
        *("--client", "whimbrel curl", "--own-server", "--json", str(result)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "8 in flight" in done.stdout
    written = json.loads(result.read_text())
    assert "OriginServer" in written["server"]
    assert [entry["in_flight"] for entry in written["results"]] == [1, 8]
    for entry in written["results"]:
        assert len(entry["samples"]) == 2
        assert all(s["requests"] >= entry["in_flight"] > 0 for s in entry["samples"])


def test_check_fails_where_peers_were_not_measured() -> None:
    done = run(
        *("--rounds", "1", "--seconds", "0.01", "--warm-up", "0"),
        *("--client", "whimbrel curl", "--own-server", "--check"),
    )
    assert done.returncode == 1, done.stderr
    assert "floor of whimbrel curl: 2.0 x aiohttp: not measured" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "--in-flight", "1"], "--check needs 100"),
        (["--rounds", "0"], "must be above 0"),
        (["--client", "nobody"], "invalid choice"),
        (["--in-flight", "0"], "use numbers of 1 and above"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


SAMPLES = """
from benchmarks.clients import Sample
from benchmarks.small_get import FLOOR_IN_FLIGHT, _check, ratio
def rates(*values): return [Sample(value, 1.0, 1.0) for value in values]
samples = {"whimbrel curl": rates(*WHIMBREL), "aiohttp": rates(10, 20, 10),
           "Tornado curl": rates(10, 10, 10), "Tornado simple": rates(4, 4, 4),
           "whimbrel simple": rates(40, 60, 40)}
print(ratio(samples, "whimbrel curl", "aiohttp"))
raise SystemExit(_check({FLOOR_IN_FLIGHT: samples}))
"""


@pytest.mark.parametrize(
    ("rates", "median", "code", "verdict"),
    [
        # Round by round 3.0, 2.0, 4.0; not 30 to 10, the ratio of the medians.
        ((30, 40, 40), 3.0, 0, "floor of whimbrel curl: 3.0 x Tornado curl: 4.00, met"),
        ((29, 29, 29), 2.9, 1, "floor of whimbrel curl: 3.0 x Tornado curl: 2.90, MISSED"),
        ((19, 60, 19), 1.9, 1, "floor of whimbrel curl: 2.0 x aiohttp: 1.90, MISSED"),
    ],
)
def test_check_compares_medians_of_ratios(
    rates: tuple[int, ...], median: float, code: int, verdict: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAMPLES.replace("WHIMBREL", repr(rates))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert f"median={median}" in done.stdout
    assert verdict in done.stdout
