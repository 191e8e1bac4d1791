"""What the guard has to say beyond pass and fail stands at the very end, where nobody misses it."""

from __future__ import annotations

import pytest

NOTES: list[str] = []
"""Of this session's comparisons."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NOTES:
        terminalreporter.section("THE COST OF A REQUEST", sep="!", yellow=True, bold=True)
        for note in NOTES:
            terminalreporter.line(note, yellow=True)


@pytest.fixture(scope="session")
def notes() -> list[str]:
    """Sentences to be shown at the end."""
    return NOTES
