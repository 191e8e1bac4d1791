"""What a keep-alive request costs has not grown: instructions and system calls, counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from real.servers.process import require_program

measure: Any = pytest.importorskip("benchmarks.guard.measure", reason="these are the tests alone")
numbers: Any = pytest.importorskip("benchmarks.guard.numbers")

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.real, pytest.mark.slow]

# Appended to a copy of the client: work, and a call of the system, that nobody asked for.
BURDEN = """

def _burdened(function):
    def burdened(*args, **kwargs):
        for _ in range(5000):
            pass
        os.getppid()
        return function(*args, **kwargs)

    return burdened

"""
FETCH = "AsyncHTTPClient.fetch = _burdened(AsyncHTTPClient.fetch)"
HEADERS = """
from whimbrel._pipeline.response import _ON_DEMAND
_ON_DEMAND['headers'] = _burdened(HTTPResponse._parse_headers)
"""


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    for program, package in measure.PROGRAMS.items():
        require_program(program, package)


@pytest.fixture(scope="module")
def instructions(programs: None) -> Any:
    return measure.instructions()


@pytest.fixture(scope="module")
def calls(programs: None) -> Any:
    return measure.system_calls()


def test_instructions(instructions: Any, notes: list[str]) -> None:
    verdict = numbers.judge_instructions(numbers.Expected.load(), instructions)
    notes += verdict.notes
    assert not verdict.failures


def test_system_calls(calls: Any, notes: list[str]) -> None:
    verdict = numbers.judge_calls(numbers.Expected.load().system_calls, calls)
    notes += verdict.notes
    assert not verdict.failures


@pytest.mark.parametrize(
    ("burdened", "cases"),
    [(FETCH, ["curl", "simple"]), (HEADERS, ["curl varied", "simple varied"])],
    ids=["fetch", "headers"],
)
def test_a_burden_is_noticed(
    burdened: str,
    cases: list[str],
    instructions: Any,
    calls: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same client with a loop and a system call added, which is counted as such.

    What is added to the headers of a response is found by the load that reads them.
    """
    copy = tmp_path / "whimbrel"
    shutil.copytree(ROOT / "src" / "whimbrel", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "httpclient.py").open("a", encoding="utf-8") as file:
        file.write(BURDEN + burdened)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    expected = numbers.Expected.load().updated(instructions, calls)

    slower = numbers.judge_instructions(expected, measure.instructions(cases))
    assert [words.partition(":")[0] for words in slower.failures] == cases
    busier = numbers.judge_calls(expected.system_calls, measure.system_calls(cases))
    assert busier.failures == [f"{case}: 1 getppid for a request instead of 0" for case in cases]
