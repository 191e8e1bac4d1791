"""Hello, world over kept connections: requests per second of our server, beside Tornado's.

    python -m benchmarks.hello_server --rounds 5 --connections 50 --json result.json

Method: each server runs an ``Application`` with one handler, both written in the same words, in a
new process for every measurement and on a core of its own; so does the client, which sends the next
request of a connection when it has read the last response, and compares that byte by byte with what
is expected. Rounds alternate in direction, and ratios are taken within a round, so that a drift of
the machine falls on both. Access logs are off, as they are by default.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from benchmarks.report import Spread, machine, pairs, table

WHIMBREL: Final = "whimbrel"
TORNADO: Final = "tornado"
SERVERS: Final = (WHIMBREL, TORNADO)
"""Packages that have the modules web, httpserver and ioloop."""
FLOOR: Final = 1.5
"""How many times as many requests a second as Tornado's our server has to serve."""

_BODY: Final = b"Hello, world"
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hello\r\nAccept: */*\r\n\r\n"
_DATE: Final = re.compile(rb"\r\nDate: [^\r]+")
_START_SECONDS: Final = 10.0


class Sample(NamedTuple):
    """One measurement.

    Attributes:
        requests: how many were answered.
        seconds: of wall clock.
        cpu_seconds: that the server spent, system calls included.
    """

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def microseconds(self) -> float:
        """CPU time of the server a request."""
        return self.cpu_seconds / self.requests * 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where ``--check`` finds the floor missed or not shown."""
    options = _parse(argv)
    names = [name for name in options.servers if importlib.util.find_spec(name)]
    missing = [name for name in options.servers if name not in names]
    if not names:
        sys.exit("none of the servers is installed")
    print(pairs(_facts(options, names, missing)), flush=True)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            samples[name].append(_measure(name, options))
    print(f"\n{_table(samples)}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(_as_json(options, names, missing, samples), file, indent=1)
    return _check(samples) if options.check else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hello_server")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server (5)")
    parser.add_argument("--connections", type=int, default=50, help="at a time (50)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement (2)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds before it (0.5)")
    parser.add_argument(
        "--server", action="append", dest="servers", choices=SERVERS, help="only this (repeat)"
    )
    parser.add_argument("--uvloop", action="store_true", help="run the servers on uvloop")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 below the floor: {FLOOR} x Tornado"
    )
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="do not pin to cores")
    options = parser.parse_args(argv)
    options.servers = options.servers or list(SERVERS)
    if min(options.rounds, options.connections) < 1 or options.seconds <= 0 or options.warm_up < 0:
        parser.error("--rounds, --connections and --seconds must be above 0")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    options.cores = cores[:2] if options.pin and len(cores) > 1 else [-1, -1]
    return options


def _facts(options: argparse.Namespace, names: list[str], missing: list[str]) -> dict[str, Any]:
    pinned = ["not pinned" if core < 0 else f"core {core}" for core in options.cores]
    return {
        **machine(),
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names),
        "missing": ", ".join(missing) or "nothing",
        "event loop": "uvloop" if options.uvloop else "asyncio",
        "server": pinned[0],
        "client": pinned[1],
        "work": f"GET, HTTP/1.1 keep-alive, {len(_BODY)}-byte body",
        "connections": options.connections,
        "rounds": f"{options.rounds} of {options.seconds:g} s, {options.warm_up:g} s warm-up",
    }


def _table(samples: dict[str, list[Sample]]) -> str:
    head = ["server", "requests/s", "CPU µs/request", f"x {TORNADO}"]
    rows = []
    for name, found in samples.items():
        compared = name != TORNADO and TORNADO in samples
        rows.append(
            [
                name,
                Spread.of([s.rate for s in found]).text(",.0f"),
                Spread.of([s.microseconds for s in found]).text(".1f"),
                ratio(samples).text(".2f") if compared else "",
            ]
        )
    return table(head, rows)


def ratio(samples: dict[str, list[Sample]]) -> Spread:
    """How many times as many requests a second as Tornado our server served, round by round."""
    rounds = zip(samples[WHIMBREL], samples[TORNADO], strict=True)
    return Spread.of([ours.rate / theirs.rate for ours, theirs in rounds])


def _as_json(
    options: argparse.Namespace,
    names: list[str],
    missing: list[str],
    samples: dict[str, list[Sample]],
) -> dict[str, Any]:
    results = [
        {"server": name, "samples": [sample._asdict() for sample in found]}
        for name, found in samples.items()
    ]
    return {**_facts(options, names, missing), "results": results}


def _check(samples: dict[str, list[Sample]]) -> int:
    """Compare with `FLOOR`, and say what was found; the exit code."""
    if set(samples) != set(SERVERS):
        print(f"\nfloor: {FLOOR} x {TORNADO}: not measured")
        return 1
    found = ratio(samples).median
    print(f"\nfloor: {FLOOR} x {TORNADO}: {found:.2f}, {'met' if found >= FLOOR else 'MISSED'}")
    return int(found < FLOOR)


# -- one measurement: two processes


def _measure(name: str, options: argparse.Namespace) -> Sample:
    this = [sys.executable, "-m", "benchmarks.hello_server"]
    server = subprocess.Popen(
        [*this, "serve", name, str(options.cores[0]), str(int(options.uvloop))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"{name} did not start; its words are above")
        load = [port, options.connections, options.warm_up, options.seconds, options.cores[1]]
        with subprocess.Popen(
            [*this, "load", *map(str, load)], stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout is not None
            cpu = []
            counted = ""
            for _ in ("it says begin behind the warm-up", "and at the end what it counted"):
                counted = client.stdout.readline()
                server.stdin.write("cpu\n")
                server.stdin.flush()
                cpu.append(float(server.stdout.readline()))
        if client.returncode:
            raise RuntimeError(f"the client of {name} failed; its words are above")
        requests, seconds = json.loads(counted)
        return Sample(requests, seconds, cpu[1] - cpu[0])
    finally:
        server.terminate()
        server.communicate()


def _serve(package: str, core: str, uvloop: str) -> None:
    """Be the server of `package`; tell the port, and the CPU time for each line of stdin."""
    _pin(core)
    if int(uvloop):
        import asyncio

        asyncio.set_event_loop(importlib.import_module("uvloop").new_event_loop())
    web: Any = importlib.import_module(f"{package}.web")
    httpserver: Any = importlib.import_module(f"{package}.httpserver")
    ioloop: Any = importlib.import_module(f"{package}.ioloop")

    class MainHandler(web.RequestHandler):  # type: ignore[misc]
        def get(self) -> None:
            self.write("Hello, world")

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        sock.setblocking(False)
        httpserver.HTTPServer(web.Application([(r"/", MainHandler)])).add_socket(sock)
        loop = ioloop.IOLoop.current()

        def tell() -> None:
            if not sys.stdin.readline():
                loop.stop()
            print(time.process_time(), flush=True)

        loop.asyncio_loop.add_reader(sys.stdin.fileno(), tell)
        print(sock.getsockname()[1], flush=True)
        loop.start()


def _load(port: str, connections: str, warm_up: str, seconds: str, core: str) -> None:
    """Be the client."""
    _pin(core)
    expected = _ask(int(port))
    with selectors.DefaultSelector() as selector:
        for _ in range(int(connections)):
            sock = socket.create_connection(("127.0.0.1", int(port)), _START_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
            sock.send(_REQUEST)
        _answer(selector, expected, float(warm_up))
        print("begin", flush=True)
        print(json.dumps(_answer(selector, expected, float(seconds))), flush=True)


def _answer(
    selector: selectors.BaseSelector, expected: tuple[int, bytes], duration: float
) -> tuple[int, float]:
    """Read responses, and send the next requests, for so many seconds; how many, and how long."""
    size, same = expected
    clock = time.perf_counter
    requests = 0
    begun = clock()
    while clock() - begun < duration:
        for key, _ in selector.select():
            sock: Any = key.fileobj
            response = sock.recv(65536)
            # Short responses to single requests come whole over loopback.
            assert len(response) == size, response
            assert _DATE.sub(b"", response) == same, response
            requests += 1
            sock.send(_REQUEST)
    return requests, clock() - begun


def _ask(port: int) -> tuple[int, bytes]:
    """The size of a response, and its bytes without the Date."""
    with socket.create_connection(("127.0.0.1", port), _START_SECONDS) as sock:
        sock.sendall(_REQUEST)
        response = sock.recv(65536)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n"), response
    assert response.endswith(b"\r\n\r\n" + _BODY), response
    return len(response), _DATE.sub(b"", response)


def _pin(core: str) -> None:
    if int(core) >= 0:
        os.sched_setaffinity(0, {int(core)})


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        _serve(*sys.argv[2:])
    elif sys.argv[1:2] == ["load"]:
        _load(*sys.argv[2:])
    else:
        sys.exit(main())
