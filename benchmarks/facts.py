"""What the numbers depend on: machine, system, versions."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.clients import CLIENTS


def source() -> dict[str, str]:
    """Of which state the whimbrel is that gets measured, and whether these benchmarks are, too."""
    spec = importlib.util.find_spec("whimbrel")
    if spec is None or spec.origin is None:
        return {}
    measured = checkout(Path(spec.origin))
    here = checkout(Path(__file__))
    if measured is None:
        found = {"whimbrel of": "no checkout"}
    elif measured == here:
        return {"commit": measured.commit, "whimbrel of": "the checkout of the benchmarks"}
    else:
        found = {"commit": measured.commit, "whimbrel of": "another checkout than the benchmarks"}
    return found | ({"commit of the benchmarks": here.commit} if here else {})


class Checkout(NamedTuple):
    """A clone of a repository.

    Attributes:
        folder: where it is.
        commit: the name of its state.
    """

    folder: str
    commit: str


def checkout(file: Path) -> Checkout | None:
    """To which one a file belongs; None without git, and for a file that git does not keep."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=file.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A virtual environment within a checkout is no part of it.
        ask("ls-files", "--error-unmatch", file.name)
        return Checkout(ask("rev-parse", "--show-toplevel"), ask("describe", "--always", "--dirty"))
    except (OSError, subprocess.CalledProcessError):
        return None


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
