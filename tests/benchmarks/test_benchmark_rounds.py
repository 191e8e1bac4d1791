"""Rounds alternate, and a client that fails is named while the others go on."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("benchmarks.results", reason="these are the tests alone")

from benchmarks.clients import CLIENTS
from benchmarks.rounds import measure
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import Setting
from benchmarks.scenarios.imports import cpu_seconds
from benchmarks.servers import Servers
from benchmarks.worker import Failed, run_process
from made_up import results

from benchmarks import worker
from whimbrel.testing import OriginServer, Reply, Request, refused_port

SETTING = Setting(0.02, None, None, None, 1024)


@dataclass
class Scripted:
    """A scenario that notes who is measured, and fails for whom it is told."""

    fails: dict[str, int] = field(default_factory=dict)
    name: str = "scripted"
    title: str = "scripted"
    metric: Any = results.RATE
    axis: str | None = None
    rounds: int | None = None
    measured: list[tuple[str, int | None]] = field(default_factory=list)

    def cannot(self, entrant: str) -> str | None:
        return "it is lame" if entrant == "lame" else None

    def measure(self, entrant: str, point: int | None, setting: Setting) -> dict[str, Any]:
        self.measured.append((entrant, point))
        count = self.measured.count((entrant, point))
        if self.fails.get(entrant) == count:
            raise Failed(f"not for the {count}. time")
        return {"value": count}


def test_every_other_round_goes_backwards() -> None:
    scenario: Any = Scripted()
    result = measure(scenario, ["a", "b", "c"], [None], 3, SETTING)
    assert "".join(name for name, _ in scenario.measured) == "abccbaabc"
    values = {key.client: [s["value"] for s in v.values()] for key, v in result.samples.items()}
    assert values == {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]}


def test_a_round_goes_over_all_points() -> None:
    """So that ratios between points are of one round, too."""
    scenario: Any = Scripted(axis="hosts")
    measure(scenario, ["a", "b"], [1, 10], 2, SETTING)
    there = [("a", 1), ("b", 1), ("a", 10), ("b", 10)]
    assert scenario.measured == there + there[::-1]


def test_a_scenario_may_do_with_fewer_rounds() -> None:
    scenario: Any = Scripted(rounds=1)
    measure(scenario, ["a"], [None], 5, SETTING)
    assert len(scenario.measured) == 1


def test_a_failing_client_is_named_and_the_others_go_on() -> None:
    scenario: Any = Scripted(fails={"b": 2})
    result = measure(scenario, ["a", "b", "lame"], [None], 4, SETTING)
    assert "".join(name for name, _ in scenario.measured) == "abbaaa"
    (failure,) = result.failures
    assert failure == ("b", None, "not for the 2. time")
    assert result.left_out == {"lame": "it is lame"}
    assert [len(samples) for samples in result.samples.values()] == [4, 1]


# -- what makes a client fail


def task(client: str, url: str, **changes: Any) -> dict[str, Any]:
    scenario: Any = SCENARIOS["get-10"]
    servers = Servers({}, {"plain": url}, "")
    return {**scenario.task(client, None, SETTING._replace(servers=servers)), **changes}


BACKENDS = ["whimbrel curl", "whimbrel simple"]


@pytest.mark.parametrize("client", BACKENDS)
async def test_a_wrong_body_is_a_failure(client: str) -> None:
    async def wrong(request: Request) -> Reply:
        return Reply(200, b"whimbrel: twenty-eight BYTES")

    async with OriginServer(routes={"/": wrong}) as origin:
        with pytest.raises(Failed, match="WrongResponse: status 200, b'whimbrel: twenty-eight BY"):
            await asyncio.to_thread(worker.run, task(client, origin.url("")), 20)


@pytest.mark.parametrize("client", BACKENDS)
async def test_a_response_to_another_request_is_a_failure(client: str) -> None:
    async def wrong(request: Request) -> Reply:
        return Reply(200, b"whimbrel: twenty-eight bytes", [("X-Request-Id", "another")])

    async with OriginServer(routes={"/varied": wrong}) as origin:
        changed = task(client, origin.url("/varied"), work="varied")
        with pytest.raises(Failed, match=r"X-Request-Id another instead of 10000\d\d$"):
            await asyncio.to_thread(worker.run, changed, 20)


@pytest.mark.parametrize("client", BACKENDS)
@pytest.mark.parametrize("work", ["read", "stream"])
@pytest.mark.parametrize("at", [0, -1], ids=["begins", "ends"])
async def test_a_body_that_begins_or_ends_otherwise_is_a_failure(
    client: str, work: str, at: int
) -> None:
    body = bytearray(1_000_000)
    body[at] = 1

    async def wrong(request: Request) -> Reply:
        return Reply(200, bytes(body))

    async with OriginServer(routes={"/": wrong}) as origin:
        changed = task(client, origin.url(""), work=work, size=len(body), at_least=1)
        with pytest.raises(Failed, match="WrongResponse: status 200, 1000000 bytes"):
            await asyncio.to_thread(worker.run, changed, 20)


@pytest.mark.parametrize("work", ["read", "stream", "upload", "upload_stream"])
async def test_bodies_have_a_warm_up(work: str) -> None:
    """One that is not timed, and then as many as there have to be."""
    size = 1_000_000

    async def serve(request: Request) -> Reply:
        return Reply(200, b"%d" % size if request.body else bytes(size))

    async with OriginServer(routes={"/": serve}) as origin:
        changed = task(
            "whimbrel simple",
            origin.url(""),
            **{"work": work, "size": size, "chunk": size // 10, "at_least": 3, "seconds": 0.0},
        )
        sample = await asyncio.to_thread(worker.run, changed, 20)
        assert sample["requests"] == 3
        assert origin.request_count == 4


def test_growth_is_counted_from_the_end_of_the_first_tenth() -> None:
    """Which is the tenth of a hundred samples."""
    million: Any = SCENARIOS["million"]
    sizes = [0] * 9 + [1 << 20] + [3 << 20] * 90
    assert million.value({"memory": sizes}, {}) == 2.0


@pytest.mark.parametrize("client", BACKENDS)
@pytest.mark.parametrize("work", ["read", "stream"])
async def test_a_short_body_is_a_failure(client: str, work: str) -> None:
    async def small(request: Request) -> Reply:
        return Reply(200, b"whimbrel: twenty-eight bytes")

    async with OriginServer(routes={"/": small}) as origin:
        changed = task(client, origin.url(""), work=work, size=100)
        with pytest.raises(Failed, match="WrongResponse: status 200, 28 bytes"):
            await asyncio.to_thread(worker.run, changed, 20)


def test_a_client_that_cannot_connect_is_a_failure() -> None:
    with refused_port() as port, pytest.raises(Failed, match="refused"):
        worker.run(task("whimbrel simple", f"http://127.0.0.1:{port}"), 20)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no luck')", "ended with code 1: no luck"),
        ("import os; os.abort()", "ended with code -6: without a word"),
        (
            "import os, sys; sys.stderr.write('why\\nwhere'); sys.stderr.flush(); os.abort()",
            "ended with code -6: why",
        ),
        ("import sys, time; sys.exit(time.sleep(60))", "did not end within 1 s"),
    ],
)
def test_a_program_that_fails_is_quoted(code: str, message: str) -> None:
    with pytest.raises(Failed, match=message):
        run_process([sys.executable, "-c", code], "somebody", 1.0 if "sleep" in code else 20)


def test_the_environments_proxies_are_kept_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    code = "import json, os; print(json.dumps([k for k in os.environ if 'proxy' in k.lower()]))"
    assert run_process([sys.executable, "-c", code], "somebody", 20) == []


def test_pythons_own_switches_are_kept_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """From clients, and from what is imported; where modules are, and warnings, is left."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    code = "import json, os; print(json.dumps([k for k in os.environ if k.startswith('PYTHON')]))"
    left = [name for name in ("PYTHONPATH", "PYTHONWARNINGS") if name in os.environ]
    assert sorted(run_process([sys.executable, "-c", code], "somebody", 20)) == left
    cpu_seconds("import sys; assert not sys.dont_write_bytecode", None)


def test_a_program_in_c_is_measured_through_proxies() -> None:
    """What it is listed for it is let do."""
    features = CLIENTS["libcurl in C"].features
    for name, feature in (("proxy", "proxy"), ("tunnel", "connect"), ("http2", "http2")):
        assert feature in features
        assert SCENARIOS[name].cannot("libcurl in C") is None
    assert SCENARIOS["get-100-varied"].cannot("libcurl in C")
