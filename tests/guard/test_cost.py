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

# Appended to modules of a copy of the client: work, and a system call, that nobody asked for.
BURDEN = """

import os

def _burdened(function):
    def burdened(*args, **kwargs):
        for _ in range(5000):
            pass
        os.getppid()
        return function(*args, **kwargs)

    return burdened

"""
# For each descriptor that is ready, where more than one is.
CROWD = """
def _burdened_by_crowd(serve):
    def burdened(self, found):
        if len(found) > 1:
            for _ in found:
                _burdened(int)()
        return serve(self, found)

    return burdened

"""
FETCH = {
    "httpclient.py": "AsyncHTTPClient.fetch = _burdened(AsyncHTTPClient.fetch)",
}
HEADERS = {
    "_pipeline/response.py": """
_ON_DEMAND['headers'] = _burdened(HTTPResponse._parse_headers)
""",
}
SEVERAL = {
    "_readiness.py": f"""{CROWD}
Readiness._call_who_waits = _burdened_by_crowd(Readiness._call_who_waits)
""",
    "_curl/pollers.py": f"""{CROWD}
EpollPoller._act = _burdened_by_crowd(EpollPoller._act)
""",
}


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
    [
        (FETCH, ["curl", "simple"]),
        (HEADERS, ["curl varied", "simple varied"]),
        (SEVERAL, ["curl 20", "simple 20"]),
    ],
    ids=["fetch", "headers", "several"],
)
def test_a_burden_is_noticed(
    burdened: dict[str, str],
    cases: list[str],
    instructions: Any,
    calls: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same client with a loop and a system call added, which is counted as such.

    What is added to the headers of a response is found by the load that reads them, and what comes
    with several that are ready by the one that has several in flight.
    """
    copy = tmp_path / "whimbrel"
    shutil.copytree(ROOT / "src" / "whimbrel", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in burdened.items():
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write(BURDEN + code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    expected = numbers.Expected.load().updated(instructions, calls)

    slower = numbers.judge_instructions(expected, measure.instructions(cases))
    assert [words.partition(":")[0] for words in slower.failures] == cases
    busier = numbers.judge_calls(expected.system_calls, measure.system_calls(cases))
    assert busier.failures == [f"{case}: 1 getppid for a request instead of 0" for case in cases]
