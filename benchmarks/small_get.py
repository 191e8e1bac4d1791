"""Small GETs over kept connections: requests per second, beside aiohttp and Tornado's clients.

    python -m benchmarks.small_get --rounds 5 --in-flight 1,100,1000 --json result.json

Method: the server (nginx where it is found) has a core to itself, and so has the client, which is
a new process for every measurement. A round measures every client once; rounds alternate in
direction, and ratios are taken within a round, so that a drift of the machine falls on all. What
is timed is the whole public call, and status and body are asserted for every response.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import pycurl

from benchmarks.clients import (
    AIOHTTP,
    CLIENTS,
    CURL,
    SIMPLE,
    TORNADO_CURL,
    TORNADO_SIMPLE,
    Sample,
    sample,
)
from benchmarks.report import Spread, machine, pairs, table
from benchmarks.servers import BODY, Server, server

PEERS: Final = (AIOHTTP, TORNADO_CURL, TORNADO_SIMPLE)
FLOORS: Final = (
    (CURL, 2.0, AIOHTTP),
    (CURL, 3.0, TORNADO_CURL),
    (SIMPLE, 3.0, AIOHTTP),
    (SIMPLE, 10.0, TORNADO_SIMPLE),
)
"""Who has to be faster, by what factor, than whom, at `FLOOR_IN_FLIGHT`."""
FLOOR_IN_FLIGHT: Final = 100

Samples = dict[str, list[Sample]]
"""By client, one a round."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where ``--check`` finds the floor missed or not shown."""
    options = _parse(argv)
    server_core, client_core = _cores() if options.pin else (None, None)
    missing = {name: client.missing for name, client in CLIENTS.items() if client.missing}
    names = [name for name in options.clients if name not in missing]
    if not names:
        sys.exit("none of the clients is installed")
    with server(server_core, nginx=options.nginx) as running:
        facts = _facts(options, running, names, missing, server_core, client_core)
        print(pairs(facts), flush=True)
        results: dict[int, Samples] = {}
        for in_flight in options.in_flight:
            results[in_flight] = _rounds(options, running, names, in_flight, client_core)
            print(f"\n{in_flight} in flight\n{_table(results[in_flight])}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**facts, "results": _as_json(results)}, file, indent=1)
    return _check(results) if options.check else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_get")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each client (5)")
    parser.add_argument(
        "--in-flight", type=_numbers, default=[100], metavar="N,N", help="concurrent requests (100)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement (2)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds before it (0.5)")
    parser.add_argument(
        "--client", action="append", dest="clients", choices=CLIENTS, help="only this (repeat)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    floor = ", ".join(f"{name} {factor:g} x {peer}" for name, factor, peer in FLOORS)
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 below the floor: {floor}"
    )
    parser.add_argument("--own-server", dest="nginx", action="store_false", help="do not use nginx")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="do not pin to cores")
    options = parser.parse_args(argv)
    options.clients = options.clients or list(CLIENTS)
    if options.rounds < 1 or options.seconds <= 0 or options.warm_up < 0:
        parser.error("--rounds and --seconds must be above 0")
    if options.check and FLOOR_IN_FLIGHT not in options.in_flight:
        parser.error(f"--check needs {FLOOR_IN_FLIGHT} among --in-flight")
    return options


def _numbers(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError("use numbers of 1 and above, separated by commas")
    return [int(part) for part in text.split(",")]


def _cores() -> tuple[int | None, int | None]:
    """A core for the server and one for the client; None where processes cannot be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _facts(
    options: argparse.Namespace,
    running: Server,
    names: list[str],
    missing: dict[str, list[str]],
    server_core: int | None,
    client_core: int | None,
) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for name in names:
        versions |= CLIENTS[name].versions
    pinned = "not pinned" if server_core is None else f"core {server_core}"
    return {
        **machine(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "libcurl": pycurl.version,
        "missing": "; ".join(
            f"{name} (needs {', '.join(packages)})" for name, packages in missing.items()
        )
        or "nothing",
        "server": f"{running.name}, {pinned}",
        "client": "not pinned" if client_core is None else f"core {client_core}",
        "work": f"GET, HTTP/1.1 keep-alive, {len(BODY)}-byte body",
        "rounds": f"{options.rounds} of {options.seconds:g} s, {options.warm_up:g} s warm-up",
    }


def _rounds(
    options: argparse.Namespace,
    running: Server,
    names: list[str],
    in_flight: int,
    core: int | None,
) -> Samples:
    samples: Samples = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found = sample(name, running.url, in_flight, options.seconds, options.warm_up, core)
            samples[name].append(found)
    return samples


def ratio(samples: Samples, name: str, peer: str) -> Spread:
    """How many times as many requests a second `name` made as `peer`, round by round."""
    pairs_of_rounds = zip(samples[name], samples[peer], strict=True)
    return Spread.of([ours.rate / theirs.rate for ours, theirs in pairs_of_rounds])


def _table(samples: Samples) -> str:
    peers = [peer for peer in PEERS if peer in samples]
    head = ["client", "requests/s", "CPU µs/request", *(f"x {peer}" for peer in peers)]
    rows = []
    for name, found in samples.items():
        rows.append(
            [
                name,
                Spread.of([s.rate for s in found]).text(",.0f"),
                Spread.of([s.microseconds for s in found]).text(".1f"),
                *("" if peer == name else ratio(samples, name, peer).text(".2f") for peer in peers),
            ]
        )
    return table(head, rows)


def _as_json(results: dict[int, Samples]) -> list[dict[str, Any]]:
    return [
        {
            "in_flight": in_flight,
            "client": name,
            "samples": [s._asdict() for s in found],
            "median_rate": Spread.of([s.rate for s in found]).median,
            "median_ratios": {
                peer: ratio(samples, name, peer).median
                for peer in PEERS
                if peer in samples and peer != name
            },
        }
        for in_flight, samples in results.items()
        for name, found in samples.items()
    ]


def _check(results: dict[int, Samples]) -> int:
    """Compare with `FLOORS`, and say what was found; the exit code."""
    samples = results[FLOOR_IN_FLIGHT]
    failed = False
    print()
    for name, wanted, peer in FLOORS:
        if name not in samples or peer not in samples:
            print(f"floor of {name}: {wanted} x {peer}: not measured")
            failed = True
            continue
        found = ratio(samples, name, peer).median
        met = found >= wanted
        failed = failed or not met
        print(f"floor of {name}: {wanted} x {peer}: {found:.2f}, {'met' if met else 'MISSED'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
