"""README's table of benchmarks says what the page of the benchmarks says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import DOCS, README

scenarios = pytest.importorskip("benchmarks.scenarios", reason="these are the tests alone")

PAGE = DOCS / "benchmarks.md"
NAMES = {
    "whimbrel, pure Python": "whimbrel simple",
    "whimbrel, libcurl": "whimbrel curl",
    "libcurl from C": "libcurl in C",
    "wreq (Rust)": "wreq",
    "Tornado, libcurl": "Tornado curl",
    "Tornado, pure Python": "Tornado simple",
}
"""README's, where the benchmarks have others."""
RATIOS = ("get-100", "get-100-varied")
"""Of which scenarios README has a column with the ratio to aiohttp, in this order."""


PEER = "aiohttp"
NOTHING = "\u2013"  # a dash


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(page: Path, above: str) -> list[list[str]]:
    """The head and the rows of the first table of a page below the line that ends so."""
    lines = page.read_text(encoding="utf-8").splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.endswith(above))
    rows: list[list[str]] = []
    for line in lines[start + 1 :]:
        if line.lstrip().startswith("|"):
            rows.append(cells(line))
        elif rows:
            break
    head, _, *body = rows
    return [head, *body]


def measured(scenario: str) -> dict[str, float]:
    """The medians of the ratios to aiohttp on the page of the benchmarks, by client."""
    title = scenarios.SCENARIOS[scenario].title
    head, *rows = table(PAGE, f"### {title[0].upper()}{title[1:]}")
    column = head.index(f"x {PEER}")
    return {row[0]: 1.0 if row[0] == PEER else float(row[column].partition(" ")[0]) for row in rows}


def test_ratios_are_those_of_the_benchmarks() -> None:
    """Medians of the ratios within a round, rounded, which are not ratios of medians."""
    head, *rows = table(README, "with a URL, a header and an answer of its own:")
    columns = [number for number, title in enumerate(head) if title.endswith(f" {PEER}")]
    for column, scenario in zip(columns, RATIOS, strict=True):
        ratios = measured(scenario)
        assert len(rows) > 1
        for row in rows:
            name = NAMES.get(row[0], row[0])
            shown = row[column]
            assert (shown == NOTHING) is (name not in ratios), (scenario, name)
            if shown != NOTHING:
                unit = 10.0 ** -len(shown.partition(".")[2])
                assert float(shown) == pytest.approx(ratios[name], abs=unit / 2 + 1e-9), (
                    f"{scenario}: {name}: README has {shown}, and the benchmarks {ratios[name]}"
                )
