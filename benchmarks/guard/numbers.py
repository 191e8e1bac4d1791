"""The numbers that are expected, and what is wrong with those that were found."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.guard.measure import BARE

FILE: Final = Path(__file__).with_name("numbers.json")
PYTHON: Final = ".".join(map(str, sys.version_info[:2]))

MARGIN: Final = 0.10
"""How much above the number of this Python version the instructions may be."""
FOREIGN_MARGIN: Final = 0.35
"""The same where only another version's number is known."""
LIMITS: Final = {
    # libcurl reads right after it has sent, when an answer cannot be there: "in vain".
    "curl": {"send": 1, "recv": 1, "recv in vain": 1, "epoll_ctl": 1},
    "simple": {"send": 1, "recv": 1, "recv in vain": 0},
}
"""System calls for a keep-alive request that no update of numbers.json may exceed, by backend."""
# Of calls that belong to no single request, such as those of malloc.
_STRAY_CALLS: Final = 0.25
_UNKNOWN: Final = "nothing is recorded; run `python -m benchmarks.guard --update`"

Instructions = Mapping[str, float]
"""For a request: of each case, and of the bare exchange."""
Calls = Mapping[str, Mapping[str, float]]
"""For a request, by case and kind."""


class Expected(NamedTuple):
    """What numbers.json says.

    Attributes:
        instructions: by Python version.
        system_calls: of every version.
        recorded_with: by Python version, what the instructions were counted with.
    """

    instructions: Mapping[str, Instructions]
    system_calls: Calls
    recorded_with: Mapping[str, str]

    @classmethod
    def load(cls, path: Path = FILE) -> Expected:
        """Read them; what the file does not have is not recorded.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no JSON, or no object.
        """
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise ValueError("not an object")
        return cls(*(data.get(name, {}) for name in cls._fields))

    def updated(self, instructions: Instructions, calls: Calls) -> Expected:
        """With what was found here."""
        rounded = {what: round(count) for what, count in instructions.items()}
        return Expected(
            {**self.instructions, PYTHON: rounded},
            {case: dict(found) for case, found in calls.items()},
            {**self.recorded_with, PYTHON: setting()},
        )

    def save(self, path: Path = FILE) -> None:
        path.write_text(json.dumps(self._asdict(), indent=2, sort_keys=True) + "\n")

    def version(self, python: str = PYTHON) -> str:
        """The Python version whose instructions count for `python`: its own, or the nearest."""
        if python in self.instructions or not self.instructions:
            return python
        return min(self.instructions, key=lambda known: abs(_minor(known) - _minor(python)))


class Verdict(NamedTuple):
    """What a comparison found.

    Attributes:
        failures: sentences, one for each number that is too high; none if all is well.
        notes: what somebody should know all the same.
    """

    failures: list[str]
    notes: list[str]


def cost(instructions: Instructions, case: str) -> float:
    """How many bare exchanges a request of `case` is worth."""
    return instructions[case] / instructions[BARE]


def judge_instructions(
    expected: Expected, found: Instructions, python: str = PYTHON, margin: float = MARGIN
) -> Verdict:
    """Compare the instructions for a request, of the cases that were counted.

    `python` is the version, such as "3.11", and `margin` what is let pass on a known one.
    """
    failures, notes = [], []
    version = expected.version(python)
    if version != python:
        margin = max(margin, FOREIGN_MARGIN)
        notes.append(
            f"no numbers for Python {python}: compared with those of {version}, which lets"
            f" {margin:.0%} pass; run `python -m benchmarks.guard --update`"
        )
    known = expected.instructions.get(version, {})
    for case in sorted(found.keys() - {BARE}):
        if not known.keys() >= {case, BARE}:
            failures.append(f"{case}: {_UNKNOWN}")
            continue
        change = cost(found, case) / cost(known, case) - 1
        words = (
            f"{case}: {found[case]:,.0f} instructions for a request,"
            f" {cost(found, case):.2f} x the bare exchange, {change:+.1%} against"
            f" {expected.recorded_with.get(version, version)}"
        )
        if change > margin:
            failures.append(f"{words}: more than {margin:.0%}")
        elif change < -margin:
            notes.append(f"{words}: record it, or the way back is free; `--update`")
    return Verdict(failures, notes)


def judge_calls(expected: Calls, found: Calls) -> Verdict:
    """Compare the system calls for a request, of the cases that were counted."""
    failures, notes = [], []
    for case in sorted(found):
        if case not in expected:
            failures.append(f"{case}: {_UNKNOWN}")
            continue
        limits = LIMITS[case.partition(" ")[0]]
        for kind in sorted({*found[case], *expected[case], *limits}):
            now, then = found[case].get(kind, 0.0), expected[case].get(kind, 0.0)
            limit = limits.get(kind)
            words = f"{case}: {now:g} {kind} for a request"
            if limit is not None and now > limit + _STRAY_CALLS:
                failures.append(f"{words}, and {limit} is the limit")
            elif now > then + _STRAY_CALLS:
                failures.append(f"{words} instead of {then:g}")
            elif now < then - _STRAY_CALLS:
                notes.append(f"{words} instead of {then:g}: record it with `--update`")
    return Verdict(failures, notes)


def setting() -> str:
    """What the instructions are counted with, as far as it has a say."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python} ({platform.python_compiler()}), pycurl {version('pycurl')}"


def _minor(python: str) -> int:
    return int(python.partition(".")[2])
