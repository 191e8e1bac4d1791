"""Counts what a request costs: instructions (valgrind's callgrind), and system calls (strace)."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.guard.load import in_flight
from benchmarks.guard.server import running
from benchmarks.servers.process import measured_environment

CASES: Final = ("curl", "simple", "curl varied", "simple varied", "curl 20", "simple 20")
"""Backends, and the load where it is not the one of a single URL and request; see load.py."""
BARE: Final = "bare"
"""The exchange without a client, whose cost is the unit: one Python version, built in two ways,
takes numbers of instructions for the same code that differ by a tenth."""

PROGRAMS: Final = {"valgrind": "valgrind", "cc": "gcc", "strace": "strace"}
"""What has to be installed, and Debian's package with it."""

_PROGRAM_SECONDS: Final = 120.0
_INSTRUCTION_REQUESTS: Final = 100
_FEW_REQUESTS: Final = 20
_MANY_REQUESTS: Final = 80
_SWITCH: Final = Path(__file__).with_name("switch.c")
_ROOT: Final = Path(__file__).parents[2]
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
# "1234  recvfrom(6, ...) = 170"; what goes on on a line of its own counts where it began.
_CALL: Final = re.compile(r"^\d+ +(\w+)\(.*?( = -1 EAGAIN .*)?$")

# One name for the same thing done by this call or that.
_SAME: Final = {
    "sendto": "send",
    "sendmsg": "send",
    "write": "send",
    "writev": "send",
    "recvfrom": "recv",
    "recvmsg": "recv",
    "read": "recv",
    "readv": "recv",
    "epoll_pwait": "epoll_wait",
    "epoll_pwait2": "epoll_wait",
    "ppoll": "poll",
}
# Locks between threads, taken or not as it happens; what asyncio asks in Python 3.11 alone; and the
# sleep of load.py where several are in flight.
_NOT_COUNTED: Final = {"futex", "getpid", "clock_nanosleep"}


def missing() -> list[str]:
    """The programs that are not installed, each with its Debian package."""
    return [
        f"{program} (apt-get install {package})"
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]


def instructions(cases: Sequence[str] = CASES) -> dict[str, float]:
    """Instructions for a keep-alive request, outside the kernel: of `cases`, and of `BARE`.

    Raises:
        RuntimeError: a program failed.
        subprocess.TimeoutExpired: one hung.
    """
    with tempfile.TemporaryDirectory() as folder:
        switch = f"{folder}/switch.so"
        _run(["cc", "-O1", "-shared", "-fPIC", "-o", switch, str(_SWITCH)])
        return {what: _instructions(what, folder, switch) for what in (BARE, *cases)}


def _instructions(what: str, folder: str, switch: str) -> float:
    with running(in_flight(what)) as url:
        _run(_load(what, url, in_flight(what)))  # what is compiled is stored: callgrind is slow
        words = _run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
                f"--callgrind-out-file={folder}/out",
                *_load(what, url, _INSTRUCTION_REQUESTS),
                switch,
            ]
        )
    match = _COLLECTED.search(words)
    if match is None:
        raise RuntimeError(f"callgrind told no number:\n{words}")
    return int(match[1]) / _INSTRUCTION_REQUESTS


def system_calls(cases: Sequence[str] = CASES) -> dict[str, dict[str, float]]:
    """System calls for a keep-alive request, by case and kind; a kind that is not there is 0.

    Raises:
        RuntimeError: a program failed.
        subprocess.TimeoutExpired: one hung.
    """
    return {case: _system_calls(case) for case in cases}


def _system_calls(case: str) -> dict[str, float]:
    with running(in_flight(case)) as url:
        few, many = (_trace(case, url, count) for count in (_FEW_REQUESTS, _MANY_REQUESTS))
    requests = _MANY_REQUESTS - _FEW_REQUESTS
    each = {name: round((many[name] - few[name]) / requests, 1) for name in sorted(many | few)}
    return {name: count for name, count in each.items() if count}


def _trace(case: str, url: str, count: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        _run(["strace", "-f", "-qq", "-o", str(log), *_load(case, url, count)])
        return Counter(kinds(log.read_text(errors="replace")))


def kinds(log: str) -> Iterator[str]:
    """The kind of each call in what strace wrote; "recv in vain" where nothing was there."""
    for call in filter(None, map(_CALL.match, log.splitlines())):
        if call[1] not in _NOT_COUNTED:
            kind = _SAME.get(call[1], call[1])
            yield f"{kind} in vain" if call[2] else kind


def _load(what: str, url: str, count: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.guard.load", what, url, str(count)]


def _run(argv: list[str]) -> str:
    """Run a program to its end; what it wrote to stderr."""
    done = subprocess.run(
        argv,
        cwd=_ROOT,
        env={**measured_environment(), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROGRAM_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(argv)} failed:\n{done.stdout}{done.stderr}")
    return done.stderr
