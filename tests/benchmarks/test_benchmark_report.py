"""Results keep every sample, and the tables show them, and whoever is not in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.results", reason="these are the tests alone")

from benchmarks.results import Failure, Result, Series, Spread
from made_up import result, results, run

from benchmarks import report

CURL = "whimbrel curl"


def test_json_keeps_everything(tmp_path: Path) -> None:
    found = result("growth", {(CURL, 10): [3, 1, 2], ("aiohttp", 10): [1]}, axis="hosts")
    found.left_out["httpx"] = "no http2"
    found.failures.append(Failure("wreq", 10, "it broke"))
    written = found.as_json()
    assert (written["series"][0]["median"], written["series"][0]["greatest"]) == (2, 3)
    assert [sample["value"] for sample in written["series"][0]["samples"]] == [3, 1, 2]
    read = Result.from_json(written)
    for series in found.samples:
        assert read.spread(series) == found.spread(series)
    assert (read.left_out, read.failures) == (found.left_out, found.failures)


def test_ratios_are_of_rounds_that_both_have() -> None:
    found = result("get-1", {CURL: [10, 20, 30], "aiohttp": [5, 4]})
    assert found.ratio(Series(CURL), Series("aiohttp")) == Spread(3.5, 2, 5)
    assert found.ratio(Series(CURL), Series("nobody")) is None


def test_best_depends_on_the_metric() -> None:
    values = {CURL: [5], "aiohttp": [7], "wreq": [6]}
    assert result("get-1", values).best(["aiohttp", "wreq"]) == "aiohttp"
    less = results.Metric("ms", False, ".1f")
    assert result("stall", values, less).best(["aiohttp", "wreq"]) == "wreq"
    assert result("get-1", values).best(["nobody"]) is None


def cells(text: str) -> list[list[str]]:
    """Of the rows of a Markdown table, its head included."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if row[0].strip(" -")]


def test_a_table_by_client() -> None:
    """The best first, its ratio to whom the targets name, and the CPU time a request."""
    text = report.section(result("get-100", {"aiohttp": [1000, 2000], CURL: [4000, 4000]}))
    assert text.splitlines()[0] == "## the title of get-100"
    assert cells(text) == [
        ["client", "requests/s", "CPU µs/request", "busy", "x aiohttp"],
        ["whimbrel curl", "4,000", "125.0", "50%", "3.00 (2.00-4.00)"],
        ["aiohttp", "1,500 (1,000-2,000)", "375.0", "50%", ""],
    ]


def test_what_stands_beside_the_targets_is_compared_too() -> None:
    text = report.section(result("get-100-varied", {"aiohttp": [10], CURL: [40], "wreq": [20]}))
    assert cells(text)[:2] == [
        ["client", "requests/s", "CPU µs/request", "busy", "x aiohttp", "x wreq"],
        ["whimbrel curl", "40", "12,500.0", "50%", "4.00", "2.00"],
    ]


def test_columns_are_aligned() -> None:
    assert report.table(["a", "bc"], [["def", "g"]]) == "| a   | bc |\n| --- | -: |\n| def |  g |"


def test_bytes_have_their_cpu_time_by_megabyte() -> None:
    text = report.section(result("download-stream", {CURL: [500]}, results.BYTES))
    assert "CPU µs/MB" in text
    assert cells(text)[1][2] == "1,000.0"


def test_a_table_by_point() -> None:
    values = {(CURL, 10_000): [2], (CURL, 1): [1], ("aiohttp", 1): [3]}
    assert cells(report.section(result("growth", values, axis="in flight"))) == [
        ["in flight", "whimbrel curl, requests/s", "aiohttp, requests/s"],
        ["1", "1", "3"],
        ["10,000", "2", ""],
    ]


def test_who_failed_and_who_cannot_is_named() -> None:
    found = result("http2", {})
    found.left_out = {"aiohttp": "no http2", "Tornado curl": "no http2"}
    found.failures = [Failure("httpx", None, "it broke"), Failure("wreq", 5000, "it hung")]
    text = report.section(found)
    assert "- FAILED: httpx: it broke" in text
    assert "- FAILED: wreq at 5,000: it hung" in text
    assert "- cannot: aiohttp; Tornado curl — no http2" in text


def test_markdown_has_facts_results_and_verdicts() -> None:
    measured = run(result("get-100", {CURL: [40], "aiohttp": [10]}), processor="a fast one")
    measured.left_out["million"] = "--quick leaves it out"
    text = report.markdown(measured)
    assert "- processor: a fast one" in text
    assert "- million: --quick leaves it out" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| get-100 | whimbrel curl | ≥ 3 x aiohttp | 4.00 | met |" in lines
    assert "| get-100 | whimbrel curl | ≥ 0.9 x wreq | | not measured |" in lines


if importlib.util.find_spec("matplotlib"):

    def test_plots(tmp_path: Path) -> None:
        """One for each scenario that was measured."""
        from benchmarks import plots

        curves = result("growth", {(CURL, 1): [1, 2], (CURL, 10): [3, 4]}, axis="hosts")
        bars = result("get-100", {CURL: [1, 3], "aiohttp": [1, 1]})
        drawn = plots.draw(run(curves, bars, result("https", {})), tmp_path / "new")
        assert [path.name for path in drawn] == ["growth.svg", "get-100.svg"]
        assert all(path.read_text().rstrip().endswith("</svg>") for path in drawn)
