"""`python -m benchmarks` measures, and refuses what it cannot. The numbers are not looked at."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("benchmarks.command", reason="these are the tests alone")

from benchmarks.clients import CLIENTS
from benchmarks.facts import source
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers.nginx import find_nginx
from benchmarks.targets import REPORTED, TARGETS

from benchmarks import command

ROOT = Path(command.__file__).parents[1]
BACKENDS = ("--client", "whimbrel curl", "--client", "whimbrel simple")
BRIEF = ("--rounds", "2", "--seconds", "0.02")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """All of it, warnings being errors in every process."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def scenarios(*names: str) -> list[str]:
    return [word for name in names for word in ("--scenario", name)]


def check_samples(written: dict[str, Any], clients: set[str], *names: str) -> None:
    """Two rounds of every client in every scenario, and no failure."""
    assert [scenario["name"] for scenario in written["scenarios"]] == list(names)
    for scenario in written["scenarios"]:
        assert scenario["failures"] == []
        assert {series["client"] for series in scenario["series"]} == clients
        for series in scenario["series"]:
            assert len(series["samples"]) == 2
            assert all(sample["requests"] > 0 for sample in series["samples"])


def test_both_backends_on_our_own_server(tmp_path: Path) -> None:
    """A report, the same in Markdown, and every sample as JSON."""
    names = ("get-10", "get-100-varied", "https", "proxy", "tunnel", "upload-stream")
    files = tmp_path / "result.json", tmp_path / "result.md"
    done = run(
        *BRIEF,
        *BACKENDS,
        *scenarios(*names),
        *("--own-server", "--json", str(files[0]), "--markdown", str(files[1])),
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(files[0].read_text())
    check_samples(written, {"whimbrel curl", "whimbrel simple"}, *names)
    facts = written["facts"]
    assert "OriginServer" in facts["origin, and proxy for http"]
    assert "whimbrel " in facts["versions"]
    assert source().items() <= facts.items()
    assert facts["rounds"] == "2 of 0.02 s, after 0.006 s of warm-up"
    for text in (done.stdout, files[1].read_text()):
        assert "- client: " in text
        assert "## small GET, keep-alive, 10 in flight" in text


def test_nginx_where_it_is_found(tmp_path: Path) -> None:
    """What our own server does not do: HTTP/2, and new connections."""
    if find_nginx() is None:
        pytest.skip("nginx is not installed")
    names = ("http2", "connect-https")
    result = tmp_path / "result.json"
    done = run(*BRIEF, "--client", "whimbrel curl", *scenarios(*names), "--json", str(result))
    assert (done.returncode, done.stderr) == (0, "")
    check_samples(written := json.loads(result.read_text()), {"whimbrel curl"}, *names)
    assert written["facts"]["origin, and proxy for http"].startswith("nginx/")


def test_what_a_server_cannot_is_left_out() -> None:
    done = run(*BRIEF, *BACKENDS, *scenarios("http2", "get-1"), "--own-server")
    assert (done.returncode, done.stderr) == (0, "")
    assert "- http2: the server has no http2; nginx has" in done.stdout
    assert "## small GET, keep-alive, 1 in flight" in done.stdout


def test_memory_growth_and_stall_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small: the work is the same."""
    result = tmp_path / "result.json"
    small: Any = SCENARIOS["memory"]
    few: Any = SCENARIOS["million"]
    grown: Any = SCENARIOS["growth-in-flight"]
    stall: Any = SCENARIOS["stall"]
    replaced = {
        "memory": dataclasses.replace(small, in_flight=20, parameters={"count": 20}),
        "million": dataclasses.replace(few, parameters={"count": 1000}),
        "growth-in-flight": dataclasses.replace(grown, points=(1, 5)),
        "stall": dataclasses.replace(stall, in_flight=20),
    }
    for name, scenario in replaced.items():
        monkeypatch.setitem(command.SCENARIOS, name, scenario)
    arguments = [*BRIEF, *BACKENDS, *scenarios(*replaced), "--own-server", "--json", str(result)]
    assert command.main([*arguments, "--no-pin"]) == 0
    memory, million, growth, stall = json.loads(result.read_text())["scenarios"]
    for series in memory["series"]:
        assert all(s["during"] >= s["before"] > 1_000_000 for s in series["samples"])
    for series in million["series"]:
        (sample,) = series["samples"]  # one round is enough
        assert sample["requests"] == 1000
        assert len(sample["memory"]) == 100
    assert sorted({series["point"] for series in growth["series"]}) == [1, 5]
    for series in stall["series"]:
        assert all(0 < s["stall"] < 10 for s in series["samples"])
    assert not [f for each in (memory, million, growth, stall) for f in each["failures"]]


@pytest.mark.parametrize("loop", ["", ", uvloop"], ids=["asyncio", "uvloop"])
def test_hello_server(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside Tornado's, whose absence would be named; the floor is what `--check` judges.

    Python's own switches, such as one that tells of each import, do not get there.
    """
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    scenario: Any = SCENARIOS["hello-server"]
    entrants = (f"whimbrel server{loop}", f"Tornado server{loop}")
    monkeypatch.setitem(
        command.SCENARIOS, "hello-server", dataclasses.replace(scenario, entrants=entrants)
    )
    result = tmp_path / "result.json"
    code = command.main([*BRIEF, *scenarios("hello-server"), "--json", str(result), "--check"])
    check_samples(json.loads(result.read_text()), set(entrants), "hello-server")
    said = capfd.readouterr()
    assert said.err == ""
    (line,) = [line for line in said.out.splitlines() if "≥ 1.5 x Tornado" in line]
    if loop:
        assert "not measured" in line
        assert code == 1
    else:
        assert ("met |" in line) is (code == 0)


def test_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scenario: Any = SCENARIOS["import"]
    entrants = ("import whimbrel", "import nothing_of_that_name")
    monkeypatch.setitem(
        command.SCENARIOS, "import", dataclasses.replace(scenario, entrants=entrants)
    )
    assert command.main([*BRIEF, *scenarios("import")]) == 0
    said = capsys.readouterr().out
    assert "| import whimbrel |" in said
    assert "- cannot: import nothing_of_that_name — not installed" in said


def test_check_fails_where_peers_were_not_measured() -> None:
    done = run(*BRIEF, *BACKENDS, *scenarios("get-100"), "--own-server", "--check")
    assert (done.returncode, done.stderr) == (1, "")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| get-100")]
    assert len(rows) == 7
    assert all("not measured" in row for row in rows)


def test_check_judges_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else where scenarios are named."""
    easy, hard = (
        command.TARGETS[0].__class__("get-1", "whimbrel simple", f, "whimbrel curl")
        for f in (0.0, 1e6)
    )
    arguments = [*BRIEF, *BACKENDS, *scenarios("get-1"), "--own-server", "--no-pin", "--check"]
    monkeypatch.setattr(command, "TARGETS", (easy, command.TARGETS[0]))
    assert command.main(arguments) == 0
    monkeypatch.setattr(command, "TARGETS", (easy, hard))
    assert command.main(arguments) == 1


def test_quick_says_what_it_leaves_out() -> None:
    done = run("--quick", "--seconds", "0.02", *scenarios("get-1"), "--own-server")
    assert (done.returncode, done.stderr) == (0, "")
    assert "- clients: --quick leaves out whimbrel curl, uvloop; " in done.stdout


def test_quick_begins_nothing_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK_ENDS", -1.0)
    assert command.main(["--quick", *scenarios("get-1", "import"), "--own-server"]) == 0
    said = capsys.readouterr().out
    assert "- get-1: --quick had no time left for it" in said
    assert "- import: --quick had no time left for it" in said


def test_quick_is_less_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it measures something, that is a part of what is measured without it."""
    for scenario in SCENARIOS.values():
        assert set(scenario.quick) <= set(scenario.points)
    options = command._parse(["--quick"])
    results = command.Results({})
    plans = command._plans(options, results)
    assert {plan.scenario.name for plan in plans} == set(SCENARIOS) - {
        *("million", "growth-size", "growth-hosts", "growth-proxies")
    }
    assert results.left_out["million"] == "--quick leaves it out"
    assert results.left_out["growth-in-flight"] == "--quick leaves it out at 10, 1,000, 10,000"
    # Who names it gets it.
    options = command._parse(["--quick", "--scenario", "million"])
    assert [plan.points for plan in command._plans(options, command.Results({}))] == [[None]]


def test_targets_are_all_that_is_measured() -> None:
    """In one command: every scenario with a target, and everyone whom a target names.

    And what is only reported beside them.
    """
    options = command._parse(["--targets"])
    assert options.check
    plans = {plan.scenario.name: plan for plan in command._plans(options, command.Results({}))}
    assert set(plans) == {target.scenario for target in TARGETS} | set(REPORTED)
    for name, entrants in REPORTED.items():
        assert plans[name].entrants == [
            client for client in CLIENTS if client in entrants and not CLIENTS[client].missing
        ]
    for target in TARGETS:
        plan = plans[target.scenario]
        missing = {name for name in target.entrants if name in CLIENTS and CLIENTS[name].missing}
        assert set(target.entrants) - missing <= set(plan.entrants)
        assert plan.points == list(plan.scenario.points)
    assert "httpx" not in plans["get-100"].entrants
    assert set(plans["stall"].entrants) == {"whimbrel curl", "whimbrel simple"}
    options = command._parse(["--targets", "--scenario", "stall"])
    assert [plan.scenario.name for plan in command._plans(options, command.Results({}))] == [
        "stall"
    ]


# -- what is refused, before anything is started


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
        (["--seconds", "0"], "--rounds and --seconds must be above 0"),
        (["--seconds", "nan"], "--rounds and --seconds must be above 0"),
        (["--seconds", "1e9"], "--seconds below an hour"),
        (["--rounds", "many"], "invalid int value"),
        (
            ["--client", "nobody"],
            "there are: whimbrel curl; whimbrel curl, uvloop; whimbrel simple; ",
        ),
        (["--scenario", "nothing"], "--scenario: no 'nothing'; there are: get-1; "),
        (["--json", "no/such/folder/file"], "no/such/folder/file: its folder does not exist"),
        (["--markdown", "no/such/file"], "no/such/file: its folder does not exist"),
        (["get-1"], "unrecognized arguments: get-1"),
        (["--targets", "--quick"], "--targets measures what the targets need: no --quick"),
        (["--targets", "--client", "aiohttp"], "no --client"),
        (
            ["--check", "--scenario", "get-10", "--scenario", "connect-http"],
            "--check has nothing to judge: no target for get-10; connect-http",
        ),
        (
            ["--client", "whimbrel curl", "--scenario", "get-1", "--scenario", "import"],
            "--client has no say in import, whose entrants are no clients",
        ),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--json", "it is a folder, and has to be a file"),
        ("--markdown", "it is a folder, and has to be a file"),
        ("--plots", "it is a file, and has to be a folder"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_measured(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "there"
    if option == "--plots":
        path.touch()
    else:
        path.mkdir()
    with pytest.raises(SystemExit) as caught:
        command.main([option, str(path)])
    assert caught.value.code == 2
    assert f"{path}: {message}" in capsys.readouterr().err


def test_broken_plots_are_noticed_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is there, but what it is built on is not as it should be."""
    (tmp_path / "matplotlib.py").write_text("raise AttributeError('no such array')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    with pytest.raises(SystemExit) as caught:
        command.main(["--plots", str(tmp_path)])
    assert caught.value.code == 2
    assert "(AttributeError: no such array)" in capsys.readouterr().err


def test_a_client_that_fails_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever it is, and without ``--check``."""
    scenario: Any = SCENARIOS["get-1"]
    wrong = dataclasses.replace(scenario, path="/zeros/1000")
    monkeypatch.setitem(command.SCENARIOS, "get-1", wrong)
    assert command.main([*BRIEF, *BACKENDS, *scenarios("get-1"), "--own-server"]) == 1
    assert "- FAILED: whimbrel simple: WrongResponse: status 200" in capsys.readouterr().out


def test_plots_need_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as caught:
        command.main(["--plots", str(tmp_path)])
    assert caught.value.code == 2
    assert "pip install 'whimbrel[bench]'" in capsys.readouterr().err


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> str:
    """A client that is not installed."""
    name = "aiohttp"
    packages = ("no-such-distribution-as-this",)
    monkeypatch.setitem(CLIENTS, name, CLIENTS[name]._replace(packages=packages))
    return name


def test_a_missing_client_that_is_asked_for_is_refused(
    lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--client", lost])
    assert caught.value.code == 2
    assert f"{lost} needs no-such-distribution-as-this" in capsys.readouterr().err


def test_a_missing_client_is_named(lost: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the others are measured."""
    code = command.main(["--quick", "--seconds", "0.02", *scenarios("get-1"), "--own-server"])
    assert code == 0
    said = capsys.readouterr().out
    assert f"{lost} (needs no-such-distribution-as-this)" in said
    assert "| whimbrel simple |" in said
    assert f"| {lost} " not in said
