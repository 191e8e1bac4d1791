"""`python -m benchmarks compare` names what got worse, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("benchmarks.results", reason="these are the tests alone")

from benchmarks.command import main
from made_up import result, results, run

CURL = "whimbrel curl"
KIB = results.Metric("KiB", False, ".1f")
MIB = results.Metric("MiB", False, ",.2f")


def write(path: Path, run: Any) -> str:
    path.write_text(json.dumps(run.as_json()))
    return str(path)


def compare(folder: Path, old: Any, new: Any, *options: str) -> int:
    files = [write(folder / "old.json", old), write(folder / "new.json", new)]
    return main(["compare", *files, *options])


@pytest.mark.parametrize(
    ("rate", "options", "code"),
    [
        (92, [], 0),
        (90, [], 1),
        (90, ["--threshold", "12"], 0),
        (99, ["--threshold", "0"], 1),
        (200, [], 0),
    ],
)
def test_fewer_requests_are_worse(
    rate: int, options: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(result("get-100", {CURL: [1, 100, 300]}))
    new = run(result("get-100", {CURL: [1, rate, 300]}))
    assert compare(tmp_path, old, new, *options) == code
    said = capsys.readouterr().out
    assert ("REGRESSION: get-100: whimbrel curl" in said) is bool(code)


@pytest.mark.parametrize(("size", "code"), [(11, 0), (11.2, 1), (5, 0)])
def test_more_memory_is_worse(size: float, code: int, tmp_path: Path) -> None:
    old = run(result("memory", {CURL: [10]}, KIB))
    assert (
        compare(tmp_path, old, run(result("memory", {CURL: [size]}, KIB)), "--threshold", "11")
        == code
    )


def test_a_peer_is_no_regression_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tells of the machine."""
    old = run(result("get-100", {CURL: [100], "aiohttp": [100]}))
    new = run(result("get-100", {CURL: [100], "aiohttp": [50]}))
    assert compare(tmp_path, old, new) == 0
    assert "peers: worse by +100.0% in the median" in capsys.readouterr().out


def test_points_are_compared_with_their_like(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(result("growth", {(CURL, 10): [100], (CURL, 1000): [50]}, axis="hosts"))
    new = run(result("growth", {(CURL, 10): [100], (CURL, 1000): [20]}, axis="hosts"))
    assert compare(tmp_path, old, new) == 1
    said = capsys.readouterr().out
    assert "REGRESSION: growth at 1,000: whimbrel curl: +150.0%" in said
    assert said.count("REGRESSION") == 2  # the rate, and the CPU time that is made up from it


def test_what_one_of_them_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(result("get-1", {CURL: [1], "wreq": [1]}), result("https", {"wreq": [1]}), cores=2)
    new = run(result("get-1", {CURL: [1]}), result("proxy", {CURL: [1]}), cores=4)
    assert compare(tmp_path, old, new) == 0
    said = capsys.readouterr().out
    assert "only in the old: get-1: wreq; https" in said
    assert "only in the new: proxy" in said
    assert "careful: cores differs: 2, now 4" in said


def test_nothing_in_common_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, run(result("get-1", {CURL: [1]})), run()) == 1
    assert "nothing in common" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("no JSON", "Expecting value"),
        ("{}", "not a result of these benchmarks"),
        ("[]", "not a result of these benchmarks"),
        ('{"format": 1}', "not a result of these benchmarks"),
        ('{"format": 1, "scenarios": 5}', "not a result of these benchmarks"),
        ('{"format": 1, "scenarios": [5]}', "not a result of these benchmarks"),
        ('{"format": 1, "scenarios": [], "facts": null, "left_out": {}}', "its facts"),
    ],
)
def test_bad_files(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.json", run())
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["compare", good, str(bad)])
    assert caught.value.code == 2
    assert f"{bad}: " in (said := capsys.readouterr().err)
    assert message in said


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["samples", 0, "value"], float("nan"), "value is nan"),
        (["samples", 0, "value"], "much", "must be real number"),
        (["samples", 0, "value"], None, "must be real number"),
        (["samples", 0, "cpu_seconds"], float("inf"), "cpu_seconds is inf"),
        (["samples", 0, "requests"], "many", "must be real number"),
        (["samples"], [], "no samples of whimbrel curl"),
        (["client"], 5, "no samples of 5"),
    ],
)
def test_bad_values(
    path: list[Any],
    value: Any,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are worse than nothing, and so no part of "no regression"."""
    good = write(tmp_path / "good.json", run(result("get-1", {CURL: [10]})))
    data = json.loads(Path(good).read_text())
    place = data["scenarios"][0]["series"][0]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(data))
    for files in ([good, str(bad)], [str(bad), good]):
        with pytest.raises(SystemExit) as caught:
            main(["compare", *files])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert f"{bad}: not a result of these benchmarks: " in said
        assert message in said


def test_a_bad_form_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write(tmp_path / "bad.json", run(result("get-1", {CURL: [10]}, KIB._replace(form="?!"))))
    with pytest.raises(SystemExit) as caught:
        main(["compare", bad, bad])
    assert caught.value.code == 2
    assert "ValueError" in capsys.readouterr().err


def test_what_makes_a_comparison_doubtful_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the programs ran, and what was measured beside ours, which is to have changed."""
    then = {
        "client": "core 1",
        "servers": "core 0",
        "proxy for CONNECT": "our own in C",
        "Python": "CPython 3.11.7",
        "versions": "whimbrel 0.1.0, aiohttp 3.14.5, wreq 0.13.0, libcurl in C 7.88.1",
    }
    now = {
        "client": "not pinned",
        "servers": "core 2",
        "proxy for CONNECT": "whimbrel.testing.ProxyServer (slower than its clients)",
        "Python": "CPython 3.12.1",
        "versions": "whimbrel 0.2.0, aiohttp 3.14.6, pyreqwest 0.15.1, libcurl in C 8.0.0",
    }
    measured = result("get-1", {CURL: [10]})
    assert compare(tmp_path, run(measured, **then), run(measured, **now)) == 0
    said = capsys.readouterr().out
    for name in ("client", "servers", "proxy for CONNECT", "Python"):
        assert f"careful: {name} differs: {then[name]!r}, now {now[name]!r}" in said
    assert "careful: aiohttp differs: '3.14.5', now '3.14.6'" in said
    assert "careful: libcurl in C differs: '7.88.1', now '8.0.0'" in said
    assert said.count("careful: ") == 6


@pytest.mark.parametrize("threshold", ["-1", "nan"])
def test_a_threshold_that_is_none_is_refused(
    threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "old.json", "new.json", "--threshold", threshold])
    assert caught.value.code == 2
    assert "--threshold must not be below 0" in capsys.readouterr().err


def test_what_is_not_measured_any_more_is_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client of ours, or a whole scenario with one; a peer may go."""
    old = run(
        result("get-100", {CURL: [100], "aiohttp": [50]}),
        result("https", {CURL: [100]}),
        result("http2", {"wreq": [100]}),
    )
    new = run(result("get-100", {"whimbrel simple": [100]}))
    assert compare(tmp_path, old, new) == 1
    said = capsys.readouterr().out
    assert "REGRESSION: get-100: whimbrel curl: not measured any more" in said
    assert "REGRESSION: https: whimbrel curl: not measured any more" in said
    assert said.count("REGRESSION") == 2


@pytest.mark.parametrize(
    ("then", "now", "code"),
    [(-0.1, 0.5, 0), (0.01, 0.5, 0), (0.01, 1.02, 1), (20.0, 21.5, 1), (21.5, 1.0, 0)],
)
def test_growth_of_memory_is_compared_by_its_difference(
    then: float, now: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies near 0 may well be fifty times as much."""
    old, new = (run(result("million", {CURL: [size]}, MIB)) for size in (then, now))
    assert compare(tmp_path, old, new) == code
    said = capsys.readouterr().out
    assert f"{now - then:+.2f} MiB" in said
    assert ("REGRESSION" in said) is bool(code)


@pytest.mark.parametrize(("now", "code"), [(-0.2, 0), (0.9, 0), (1.1, 1)])
def test_what_is_not_above_0_has_no_ratio(now: float, code: int, tmp_path: Path) -> None:
    old = run(result("import", {"import whimbrel": [0.0]}, KIB))
    assert compare(tmp_path, old, run(result("import", {"import whimbrel": [now]}, KIB))) == code


def test_a_row_has_one_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of its measure."""
    old, new = (run(result("get-1", {CURL: [rate]})) for rate in (10_600, 8665))
    compare(tmp_path, old, new)
    rows = [line for line in capsys.readouterr().out.splitlines() if "whimbrel curl" in line]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        *("get-1: whimbrel curl", "10,600", "8,665", "+22.3%")
    ]
    assert [cell.strip() for cell in rows[1].strip("|").split("|")][1:3] == ["47.2", "57.7"]


def test_a_failure_in_any_round_is_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the other rounds were as good as ever; a peer may fail."""
    old, new = (run(result("get-1", {CURL: [10], "wreq": [10]})) for _ in range(2))
    for client in (CURL, "wreq"):
        new.scenarios["get-1"].failures.append(results.Failure(client, None, "it broke"))
    assert compare(tmp_path, old, new) == 1
    said = capsys.readouterr().out
    assert "REGRESSION: get-1: FAILED: whimbrel curl: it broke" in said
    assert said.count("REGRESSION") == 1


def test_cpu_time_counts_where_the_rate_is_somebody_elses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (run(result("get-100", {CURL: [100, 100]})) for _ in range(2))
    for sample in new.scenarios["get-100"].samples[results.Series(CURL)].values():
        sample["cpu_seconds"] *= 1.5
    assert compare(tmp_path, old, new) == 1
    assert "get-100: whimbrel curl, CPU µs a request: +50.0%" in capsys.readouterr().out
