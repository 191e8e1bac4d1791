"""Hello, world over kept connections: requests per second of our server, beside Tornado's.

Each server runs an ``Application`` with one handler, both written in the same words, in a new
process for every measurement and on a core of its own; so does the client. Access logs are off, as
they are by default.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from benchmarks.results import RATE, Metric
from benchmarks.scenarios.base import WARM_UP, Setting
from benchmarks.servers.process import core_argument, measured_environment
from benchmarks.work import Sample
from benchmarks.worker import Failed

_CONNECTIONS: Final = 50
_COMMAND: Final = (sys.executable, "-m", "benchmarks.servers.hello")
_ENTRANTS: Final = {
    "whimbrel server": ("whimbrel", "asyncio"),
    "whimbrel server, uvloop": ("whimbrel", "uvloop"),
    "Tornado server": ("tornado", "asyncio"),
    "Tornado server, uvloop": ("tornado", "uvloop"),
}
"""Packages that have the modules web, httpserver and ioloop, and the loop below."""


@dataclass(frozen=True)
class HelloScenario:
    """One server after the other."""

    name: str = "hello-server"
    title: str = f"server: hello, world, {_CONNECTIONS} kept connections"
    metric: Metric = RATE
    axis: str | None = None
    points: tuple[int | None, ...] = (None,)
    quick: tuple[int | None, ...] = (None,)
    rounds: int | None = None
    needs_servers: bool = False
    entrants: tuple[str, ...] = tuple(_ENTRANTS)

    def cannot(self, entrant: str) -> str | None:
        missing = [name for name in _ENTRANTS[entrant] if not importlib.util.find_spec(name)]
        return f"not installed: {', '.join(missing)}" if missing else None

    def impossible(self, point: int | None, setting: Setting) -> str | None:
        return None

    def measure(self, entrant: str, point: int | None, setting: Setting) -> Sample:
        package, loop = _ENTRANTS[entrant]
        server = subprocess.Popen(
            [*_COMMAND, "serve", package, core_argument(setting.server_core), loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=measured_environment(),
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip()
            if not port:
                raise Failed("it did not start; its words are above")
            load = [port, _CONNECTIONS, setting.seconds * WARM_UP, setting.seconds]
            command = [*_COMMAND, "load", *map(str, load), core_argument(setting.core)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=measured_environment()
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
                raise Failed("its client failed, whose words are above")
        finally:
            server.terminate()
            server.communicate()
        requests, seconds = json.loads(counted)
        return {
            "requests": requests,
            "seconds": seconds,
            "cpu_seconds": cpu[1] - cpu[0],
            "value": requests / seconds,
        }
