"""What the numbers depend on: machine, system, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.clients import CLIENTS

_ROOT: Final = Path(__file__).parents[1]


def commit() -> dict[str, str]:
    """Which state of the source it is, by its name; empty without git or outside a clone."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": answer.stdout.strip()}


def machine() -> dict[str, Any]:
    """The computer and its load."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    if hasattr(os, "getloadavg"):
        found["load average"] = round(os.getloadavg()[0], 2)
    return found


def versions(clients: Iterable[str]) -> str:
    """Of the clients' packages, each once, and of what lies beneath them."""
    found: dict[str, str] = {}
    for name in clients:
        found |= CLIENTS[name].versions
    if "pycurl" in found:
        import pycurl

        found["libcurl"] = pycurl.version_info()[1]
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
