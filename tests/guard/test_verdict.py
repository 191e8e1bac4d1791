"""The guard judges rightly; what it counts is looked at in test_cost.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

measure: Any = pytest.importorskip("benchmarks.guard.measure", reason="these are the tests alone")
numbers: Any = pytest.importorskip("benchmarks.guard.numbers")

CALLS = {
    "curl": {"send": 1.0, "recv": 1.0, "epoll_ctl": 1.0, "epoll_wait": 4.0},
    "simple": {"send": 1.0, "recv": 1.0, "epoll_wait": 2.0},
    "simple varied": {"send": 1.0, "recv": 1.0, "epoll_wait": 2.0},
}
EXPECTED = numbers.Expected(
    {
        "3.11": {"bare": 100.0, "curl": 400.0, "simple": 200.0},
        "3.12": {"bare": 100.0, "curl": 300.0, "simple": 150.0},
    },
    CALLS,
    {"3.11": "the one", "3.12": "the other"},
)


def instructions(curl: float = 400.0, simple: float = 200.0, bare: float = 100.0) -> Any:
    return {"bare": bare, "curl": curl, "simple": simple}


def judged(found: Any, python: str = "3.11") -> tuple[list[str], list[str]]:
    """Which backends fail, and of what the notes are."""
    verdict = numbers.judge_instructions(EXPECTED, found, python)
    failures, notes = ([words.partition(":")[0] for words in each] for each in verdict)
    return failures, notes


def test_what_is_as_it_was_passes() -> None:
    assert judged(instructions()) == ([], [])


def test_the_margin() -> None:
    assert judged(instructions(curl=439.0)) == ([], [])
    assert judged(instructions(curl=441.0)) == (["curl"], [])
    assert judged(instructions(simple=221.0, curl=441.0)) == (["curl", "simple"], [])


def test_it_is_the_bare_exchange_that_counts() -> None:
    """Another build of this Python may take twice the instructions for everything."""
    assert judged(instructions(800.0, 400.0, 200.0)) == ([], [])
    assert judged(instructions(800.0, 450.0, 200.0)) == (["simple"], [])


def test_an_improvement_is_told() -> None:
    assert judged(instructions(curl=361.0)) == ([], [])
    assert judged(instructions(curl=359.0)) == ([], ["curl"])


def test_each_version_has_its_own_numbers() -> None:
    assert judged(instructions(330.0, 150.0), "3.12") == ([], [])
    assert judged(instructions(331.0, 150.0), "3.12") == (["curl"], [])


@pytest.mark.parametrize(
    ("python", "nearest", "curl"), [("3.10", "3.11", 400.0), ("3.14", "3.12", 300.0)]
)
def test_a_version_without_numbers(python: str, nearest: str, curl: float) -> None:
    """It says so, and lets more pass, but not everything."""
    note = f"no numbers for Python {python}"
    simple = curl / 2
    verdict = numbers.judge_instructions(EXPECTED, instructions(curl * 1.34, simple), python)
    assert verdict.failures == []
    assert verdict.notes[0].startswith(f"{note}: compared with those of {nearest}")
    assert judged(instructions(curl * 1.36, simple), python) == (["curl"], [note])


@pytest.mark.parametrize(
    ("backend", "kind", "count", "failure"),
    [
        ("curl", "epoll_wait", 5.0, "curl: 5 epoll_wait for a request instead of 4"),
        ("curl", "epoll_wait", 4.2, None),
        ("curl", "poll", 1.0, "curl: 1 poll for a request instead of 0"),
        ("simple", "send", 2.0, "simple: 2 send for a request, and 1 is the limit"),
        ("simple", "mmap", 0.2, None),
        ("simple varied", "poll", 1.0, "simple varied: 1 poll for a request instead of 0"),
    ],
)
def test_system_calls(backend: str, kind: str, count: float, failure: str | None) -> None:
    found = {**CALLS, backend: {**CALLS[backend], kind: count}}
    verdict = numbers.judge_calls(CALLS, found)
    assert verdict == ([failure] if failure else [], [])


def test_a_limit_holds_whatever_is_written_down() -> None:
    found = {**CALLS, "curl": {**CALLS["curl"], "epoll_ctl": 2.0}}
    failure = "curl: 2 epoll_ctl for a request, and 1 is the limit"
    assert numbers.judge_calls(found, found).failures == [failure]


def test_a_limit_holds_for_every_load() -> None:
    found = {**CALLS, "simple varied": {**CALLS["simple"], "recv": 2.0}}
    failure = "simple varied: 2 recv for a request, and 1 is the limit"
    assert numbers.judge_calls(found, found).failures == [failure]


def test_a_case_that_nobody_recorded_is_no_success() -> None:
    words = "simple varied: nothing is recorded; run `python -m benchmarks.guard --update`"
    found = {**instructions(), "simple varied": 300.0}
    assert numbers.judge_instructions(EXPECTED, found, "3.11").failures == [words]
    known = {case: calls for case, calls in CALLS.items() if case != "simple varied"}
    assert numbers.judge_calls(known, CALLS).failures == [words]


def test_fewer_system_calls_are_told() -> None:
    found = {**CALLS, "curl": {"send": 1.0, "recv": 1.0, "epoll_wait": 3.0}}
    verdict = numbers.judge_calls(CALLS, found)
    assert verdict.failures == []
    assert [note.partition(" for")[0] for note in verdict.notes] == [
        "curl: 0 epoll_ctl",
        "curl: 3 epoll_wait",
    ]


def test_update(tmp_path: Path) -> None:
    """Numbers of this Python are replaced, those of the others are kept, and all can be read."""
    path = tmp_path / "numbers.json"
    EXPECTED.updated(instructions(1.4, 2.6, 3.0), {"simple": {"send": 1.0}}).save(path)
    read = numbers.Expected.load(path)
    assert read.instructions == {
        **EXPECTED.instructions,
        numbers.PYTHON: {"bare": 3, "curl": 1, "simple": 3},
    }
    assert read.system_calls == {"simple": {"send": 1.0}}
    assert read.recorded_with[numbers.PYTHON] == numbers.setting()


def test_what_strace_writes() -> None:
    """One name for calls that do the same; what found nothing is told apart."""
    log = """\
100 sendto(9, "GET / HTTP/1.1\\r\\nHost: x"..., 105, MSG_NOSIGNAL, NULL, 0) = 105
100 recvfrom(9, 0x7fc5, 262144, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
101 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
100 epoll_pwait(3, [{events=EPOLLIN, data={u32=8, u64=8}}], 2, 19314, NULL, 8) = 1
101 <... futex resumed>) = 0
100 read(9, "HTTP/1.1 200 OK", 65536) = 15
100 epoll_ctl(8, EPOLL_CTL_MOD, 9, {events=EPOLLIN}) = -1 ENOENT (No such file or directory)
100 --- SIGCHLD {si_signo=SIGCHLD} ---
100 +++ exited with 0 +++
"""
    assert list(measure.kinds(log)) == [
        "send",
        "recv in vain",
        "epoll_wait",
        "recv",
        "epoll_ctl",
    ]


@pytest.mark.parametrize("text", ["{}", '{"instructions": {"3.11": {}}}'])
def test_a_file_without_numbers_is_no_success(text: str, tmp_path: Path) -> None:
    """Every case is named, and can be recorded."""
    path = tmp_path / "numbers.json"
    path.write_text(text)
    expected = numbers.Expected.load(path)
    words = [f"{case}: nothing is recorded" for case in ("curl", "simple")]
    found = numbers.judge_instructions(expected, instructions(), "3.11").failures
    assert [failure.partition(";")[0] for failure in found] == words
    found = numbers.judge_calls(expected.system_calls, CALLS).failures
    assert [failure.partition(";")[0] for failure in found] == [
        *words,
        "simple varied: nothing is recorded",
    ]
    expected.updated(instructions(), CALLS).save(path)
    assert numbers.Expected.load(path).instructions[numbers.PYTHON]["curl"] == 400


@pytest.mark.parametrize(("text", "words"), [("[]", "not an object"), ("{", "Expecting property")])
def test_a_file_that_is_none_is_named(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Any = pytest.importorskip("benchmarks.guard.__main__")
    path = tmp_path / "numbers.json"
    path.write_text(text)
    monkeypatch.setattr(command, "missing", list)
    load = numbers.Expected.load
    monkeypatch.setattr(command.Expected, "load", lambda: load(path))
    with pytest.raises(SystemExit, match=f"^numbers.json: {words}"):
        command.main([])


def test_the_table_of_what_nobody_recorded() -> None:
    command: Any = pytest.importorskip("benchmarks.guard.__main__")
    nothing = numbers.Expected({}, {}, {})
    found = dict.fromkeys(["bare", *measure.CASES], 100.0)
    assert "| curl 20 " in command._instructions(nothing, found)
