"""What an import costs: CPU time of a fresh interpreter, less that of a bare one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from benchmarks.results import Metric
from benchmarks.scenarios.base import Setting
from benchmarks.servers.process import measured_environment, pin
from benchmarks.work import Sample
from benchmarks.worker import Failed

_MODULES: Final = (
    "whimbrel",
    "whimbrel.curl_httpclient",
    "whimbrel.simple_httpclient",
    "aiohttp",
    "httpx",
    "tornado.httpclient",
    "niquests",
    "wreq",
)
_REPEATS: Final = 5
_MILLISECONDS: Final = Metric("ms", False, ",.1f")


def cpu_seconds(code: str, core: int | None) -> float:
    """What a new interpreter spends on running `code`, system calls included.

    Raises:
        Failed: it did not end well.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        env=measured_environment(),
        preexec_fn=lambda: pin(core),  # there are no threads here
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{code}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class ImportScenario:
    """``import X`` of each entrant, the least of several runs beside as many bare ones."""

    name: str = "import"
    title: str = "import, CPU time of a new interpreter less that of a bare one"
    metric: Metric = _MILLISECONDS
    axis: str | None = None
    points: tuple[int | None, ...] = (None,)
    quick: tuple[int | None, ...] = (None,)
    rounds: int | None = None
    needs_servers: bool = False
    entrants: tuple[str, ...] = tuple(f"import {module}" for module in _MODULES)

    def cannot(self, entrant: str) -> str | None:
        package = entrant.removeprefix("import ").partition(".")[0]
        return None if importlib.util.find_spec(package) else "not installed"

    def impossible(self, point: int | None, setting: Setting) -> str | None:
        return None

    def measure(self, entrant: str, point: int | None, setting: Setting) -> Sample:
        cpu_seconds(entrant, setting.core)  # compiles what is not compiled, and fills the cache
        bare, full = [], []
        for _ in range(_REPEATS):
            bare.append(cpu_seconds("pass", setting.core))
            full.append(cpu_seconds(entrant, setting.core))
        value = (min(full) - min(bare)) * 1000
        return {"cpu_seconds": min(full), "value": value}
