"""The command line of the guard; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.guard.measure import BARE, CASES, instructions, missing, system_calls
from benchmarks.guard.numbers import (
    FILE,
    PYTHON,
    Calls,
    Expected,
    Instructions,
    cost,
    judge_calls,
    judge_instructions,
    setting,
)
from benchmarks.report import table


def main(argv: Sequence[str] | None = None) -> int:
    """Count and compare; 0, or 1 where a number is too high and was not to be written down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard")
    parser.add_argument("--update", action="store_true", help="write what is found to numbers.json")
    options = parser.parse_args(argv)
    if lacking := missing():
        sys.exit(f"missing: {', '.join(lacking)}")
    try:
        expected = Expected.load()
    except (OSError, ValueError) as error:
        sys.exit(f"{FILE.name}: {error}")
    counted, calls = instructions(), system_calls()
    print(f"{setting()}\n\nInstructions for a request\n\n{_instructions(expected, counted)}")
    print(f"\nSystem calls for a request\n\n{_calls(expected, calls)}\n")
    verdicts = (
        judge_instructions(expected, counted),
        judge_calls(expected.system_calls, calls),
    )
    failures = [words for verdict in verdicts for words in verdict.failures]
    for words in [*failures, *(words for verdict in verdicts for words in verdict.notes)]:
        print(words)
    if options.update:
        expected.updated(counted, calls).save()
        print("numbers.json is written")
        return 0
    print("FAILED" if failures else "no regression")
    return int(bool(failures))


def _instructions(expected: Expected, found: Instructions) -> str:
    version = expected.version()
    then = expected.instructions.get(version, {})
    rows = [[BARE, f"{found[BARE]:,.0f}", f"{then.get(BARE, 0):,.0f}", "1", "1", ""]]
    for case in CASES:
        now = cost(found, case)
        row = [case, f"{found[case]:,.0f}", "", f"{now:.2f}", "", ""]
        if then.keys() >= {case, BARE}:
            before = cost(then, case)
            row[2], row[4:] = f"{then[case]:,.0f}", [f"{before:.2f}", f"{now / before - 1:+.1%}"]
        rows.append(row)
    old = "recorded" if version == PYTHON else f"recorded on {version}"
    return table(["", "now", old, "x bare now", f"x bare {old}", "change"], rows)


def _calls(expected: Expected, found: Calls) -> str:
    then = expected.system_calls
    kinds = sorted({kind for calls in (found, then) for each in calls.values() for kind in each})
    head = ["", *(f"{case} {when}" for case in CASES for when in ("now", "recorded"))]
    rows = [
        [
            kind,
            *(f"{calls.get(case, {}).get(kind, 0):g}" for case in CASES for calls in (found, then)),
        ]
        for kind in kinds
    ]
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main())
