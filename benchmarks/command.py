"""The command line.

Method: the servers have a core to themselves, and so has the client, which is a new process for
every measurement. A round measures every client once; rounds alternate in direction, and ratios are
taken within a round. What is timed is the whole public call, and every response is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import compare, facts, plots, report
from benchmarks.clients import CLIENTS, FEW
from benchmarks.results import Results
from benchmarks.rounds import measure
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.base import WARM_UP, Scenario, Setting
from benchmarks.servers import Servers, running_servers
from benchmarks.servers.process import raise_file_limit
from benchmarks.targets import REPORTED, TARGETS, Target, judge

QUICK_ROUNDS: Final = 1
QUICK_SECONDS: Final = 0.3
QUICK_ENDS: Final = 95.0
"""Seconds after which ``--quick`` begins no other scenario: none takes longer than the rest of two
minutes."""
ROUNDS: Final = 5
SECONDS: Final = 1.0


class Plan(NamedTuple):
    """What is to be measured of one scenario."""

    scenario: Scenario
    entrants: list[str]
    points: list[int | None]


def main(argv: Sequence[str]) -> int:
    """Run what is asked for; 0, or 1 where a client failed, or ``--check`` or ``compare`` find
    something."""
    if argv[:1] == ["compare"]:
        return compare.main(argv[1:])
    options = _parse(argv)
    results = Results({})
    plans = _plans(options, results)
    cores = _cores(pin=options.pin)
    with _servers(options, plans, cores) as servers:
        results.facts = _facts(options, argv, plans, cores, servers)
        print(report.pairs(results.facts), flush=True)
        setting = Setting(options.seconds, cores.client, cores.server, servers, raise_file_limit())
        started = time.monotonic()
        for plan in plans:
            if options.quick and time.monotonic() - started > QUICK_ENDS:
                results.left_out[plan.scenario.name] = "--quick had no time left for it"
            else:
                _measure(plan, options, setting, results)
    if results.left_out:
        print(f"\nLeft out:\n\n{report.pairs(results.left_out)}")
    if options.markdown:
        Path(options.markdown).write_text(report.markdown(results), encoding="utf-8")
    if options.plots:
        print(f"\n{len(plots.draw(results, Path(options.plots)))} plots in {options.plots}")
    good = not any(result.failures for result in results)
    if options.check:
        targets = _targets(options)
        print(f"\n{report.verdicts(results, targets)}")
        good = good and all(judge(target, results.scenarios).met for target in targets)
    return 0 if good else 1


def _targets(options: argparse.Namespace) -> list[Target]:
    """What ``--check`` judges: the targets of the named scenarios, or all."""
    return [t for t in TARGETS if not options.scenarios or t.scenario in options.scenarios]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure HTTP clients beside one another; "
        "exit with 1 if one of them fails, whose words the report has.",
        epilog="To compare two results: python -m benchmarks compare OLD.json NEW.json",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"two minutes: one round of {QUICK_SECONDS:g} s, {len(FEW)} clients, "
        "fewer scenarios; it says what it leaves out",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        dest="scenarios",
        metavar="NAME",
        help=f"only this (repeat): {'; '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--client",
        action="append",
        dest="clients",
        metavar="NAME",
        help=f"only this (repeat): {'; '.join(CLIENTS)}",
    )
    parser.add_argument("--rounds", type=int, help=f"measurements of each client ({ROUNDS})")
    parser.add_argument("--seconds", type=float, help=f"of one measurement ({SECONDS:g})")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there")
    parser.add_argument("--plots", metavar="DIR", help="draw them there; needs matplotlib")
    parser.add_argument(
        "--check",
        action="store_true",
        help="judge the targets of what is measured; exit with 1 unless all are met",
    )
    parser.add_argument(
        "--targets",
        action="store_true",
        help="--check all targets, measuring no more than they need: a quarter of an hour, "
        "with --seconds 0.5",
    )
    parser.add_argument("--own-server", dest="nginx", action="store_false", help="do not use nginx")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="do not pin to cores")
    options = parser.parse_args(argv)
    _known(parser, "--scenario", options.scenarios, SCENARIOS)
    _known(parser, "--client", options.clients, CLIENTS)
    for name in options.scenarios or () if options.clients else ():
        if not SCENARIOS[name].needs_servers:
            parser.error(f"--client has no say in {name}, whose entrants are no clients")
    if options.targets:
        if options.quick or options.clients:
            parser.error("--targets measures what the targets need: no --quick, no --client")
        options.check = True
    if options.check and not _targets(options):
        parser.error(f"--check has nothing to judge: no target for {'; '.join(options.scenarios)}")
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    if options.rounds < 1 or not 0 < options.seconds < 3600:
        parser.error("--rounds and --seconds must be above 0, and --seconds below an hour")
    for name in (options.json, options.markdown, options.plots):
        if name and not Path(name).resolve().parent.is_dir():
            parser.error(f"{name}: its folder does not exist")
    for name in (options.json, options.markdown):
        if name and Path(name).is_dir():
            parser.error(f"{name}: it is a folder, and has to be a file")
    if options.plots and Path(options.plots).exists() and not Path(options.plots).is_dir():
        parser.error(f"{options.plots}: it is a file, and has to be a folder")
    if options.plots and (words := plots.missing()):
        parser.error(words)
    if missing := [name for name in options.clients or () if CLIENTS[name].missing]:
        parser.error("; ".join(f"{name} needs {_needs(name)}" for name in missing))
    return options


def _known(
    parser: argparse.ArgumentParser,
    option: str,
    names: list[str] | None,
    known: Sequence[str] | Any,
) -> None:
    for name in names or ():
        if name not in known:
            parser.error(f"{option}: no {name!r}; there are: {'; '.join(known)}")


def _plans(options: argparse.Namespace, results: Results) -> list[Plan]:
    """What to measure; what ``--quick`` does not is noted in `results`."""
    plans = []
    for name in options.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        points = list(scenario.points)
        # Who names a scenario wants it, quick or not.
        if options.quick and (scenario.quick or not options.scenarios):
            points = list(scenario.quick)
        if skipped := [point for point in scenario.points if point not in points]:
            results.left_out[name] = "--quick leaves it out" + (
                f" at {', '.join(f'{point:,}' for point in skipped if point)}" if points else ""
            )
        if points and (entrants := _entrants(options, scenario)):
            plans.append(Plan(scenario, entrants, points))
    if options.quick and not options.clients:
        others = [name for name in CLIENTS if name not in FEW]
        results.left_out["clients"] = f"--quick leaves out {'; '.join(others)}"
    return plans


def _entrants(options: argparse.Namespace, scenario: Scenario) -> list[str]:
    """Who takes part: who can be measured, and was asked for."""
    if not scenario.needs_servers:  # its entrants are not clients
        return [] if options.clients and not options.scenarios else list(scenario.entrants)
    if options.clients:
        return list(options.clients)
    wanted = [name for name in scenario.entrants if not CLIENTS[name].missing]
    if options.targets:
        needed = {name for t in TARGETS if t.scenario == scenario.name for name in t.entrants}
        needed.update(REPORTED.get(scenario.name, ()))
        return [name for name in wanted if name in needed]
    return [name for name in wanted if name in FEW] if options.quick else wanted


class _Cores(NamedTuple):
    server: int | None
    client: int | None
    proxy: int | None


def _cores(*, pin: bool) -> _Cores:
    """A core for the servers, one for the client, and one for CONNECT's proxy if there are three.

    None where processes cannot be pinned, or where there is one core only.
    """
    cores = sorted(os.sched_getaffinity(0)) if pin and hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return _Cores(None, None, None)
    return _Cores(cores[0], cores[1], cores[2] if len(cores) > 2 else cores[0])


@contextlib.contextmanager
def _servers(
    options: argparse.Namespace, plans: list[Plan], cores: _Cores
) -> Iterator[Servers | None]:
    """What the plans need, until the block ends, or the process is told to end."""
    if not any(plan.scenario.needs_servers for plan in plans):
        yield None
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with running_servers(cores.server, cores.proxy, use_nginx=options.nginx) as servers:
            yield servers
    finally:
        signal.signal(signal.SIGTERM, before)


def _facts(
    options: argparse.Namespace,
    argv: Sequence[str],
    plans: list[Plan],
    cores: _Cores,
    servers: Servers | None,
) -> dict[str, Any]:
    taking_part = [name for name in CLIENTS if any(name in plan.entrants for plan in plans)]
    missing = [name for name in CLIENTS if CLIENTS[name].missing]

    def where(core: int | None) -> str:
        return "not pinned" if core is None else f"core {core}"

    found = {
        "command": shlex.join(["python", "-m", "benchmarks", *argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts.source(),
        **facts.machine(),
        "versions": facts.versions(taking_part),
        "missing": "; ".join(f"{name} (needs {_needs(name)})" for name in missing) or "nothing",
        "rounds": f"{options.rounds} of {options.seconds:g} s,"
        f" after {options.seconds * WARM_UP:g} s of warm-up",
        "client": where(cores.client),
    }
    if servers is not None:
        found |= servers.names
        found["servers"] = where(cores.server)
        if cores.proxy != cores.server:
            found["proxy for CONNECT"] += f", {where(cores.proxy)}"
    return found


def _needs(name: str) -> str:
    return ", ".join(CLIENTS[name].missing)


def _measure(plan: Plan, options: argparse.Namespace, setting: Setting, results: Results) -> None:
    """Measure one scenario, print it, and save it: a run that breaks off leaves what it found."""
    scenario, points = plan.scenario, []
    for point in plan.points:
        reason = scenario.impossible(point, setting) if scenario.needs_servers else None
        if reason is None:
            points.append(point)
        else:
            where = "" if point is None else f" at {point:,}"
            results.left_out[scenario.name + where] = reason
    if not points:
        return
    result = measure(scenario, plan.entrants, points, options.rounds, setting)
    results.scenarios[scenario.name] = result
    print(f"\n{report.section(result)}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results.as_json(), indent=1), encoding="utf-8")
