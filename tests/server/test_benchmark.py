"""benchmarks/hello_server.py runs, and judges rightly. What it measures is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "hello_server.py").exists(),
    reason="these are the tests alone, without the benchmarks",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.hello_server", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


BRIEF = ("--rounds", "2", "--seconds", "0.05", "--warm-up", "0", "--connections", "3")


@pytest.mark.parametrize("more", [[], ["--uvloop"]])
def test_it_measures(more: list[str], tmp_path: Path) -> None:
    """A moment of it, on our own server: a report, and every sample as JSON."""
    if more:
        pytest.importorskip("uvloop")
    result = tmp_path / "result.json"
    done = run(*BRIEF, "--server", "whimbrel", "--json", str(result), *more)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(result.read_text())
    (entry,) = written["results"]
    assert entry["server"] == "whimbrel"
    assert len(entry["samples"]) == 2
    assert all(sample["requests"] > 0 for sample in entry["samples"])
    assert written["event loop"] == ("uvloop" if more else "asyncio")


def test_check_fails_where_tornado_was_not_measured() -> None:
    done = run(*BRIEF, "--server", "whimbrel", "--check")
    assert done.returncode == 1, done.stderr
    assert "floor: 1.5 x tornado: not measured" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "must be above 0"),
        (["--connections", "0"], "must be above 0"),
        (["--server", "nobody"], "invalid choice"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


SAMPLES = """
from benchmarks.hello_server import Sample, _check, ratio
def rates(*values): return [Sample(value, 1.0, 1.0) for value in values]
samples = {"whimbrel": rates(*WHIMBREL), "tornado": rates(10, 20, 10)}
print(ratio(samples))
raise SystemExit(_check(samples))
"""


@pytest.mark.parametrize(
    ("rates", "median", "code", "verdict"),
    [
        # Round by round 1.5, 1.0, 4.0; not 15 to 10, the ratio of the medians.
        ((15, 20, 40), 1.5, 0, "floor: 1.5 x tornado: 1.50, met"),
        ((14, 60, 14), 1.4, 1, "floor: 1.5 x tornado: 1.40, MISSED"),
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
