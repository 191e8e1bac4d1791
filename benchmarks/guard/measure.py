"""Counts what a request costs: instructions (valgrind's callgrind), and system calls (strace)."""

from __future__ import annotations

import os
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

from benchmarks.guard.server import running

CASES: Final = ("curl", "simple", "curl varied", "simple varied")
"""Backends, and the load where it is not the one of a single URL; see load.py."""
BARE: Final = "bare"
"""The exchange without a client, whose cost is the unit: one Python version, built in two ways,
takes numbers of instructions for the same code that differ by a tenth."""

PROGRAMS: Final = {"valgrind": "valgrind", "cc": "gcc", "strace": "strace"}
"""What has to be installed, and Debian's package with it."""

_PROGRAM_SECONDS: Final = 120.0
_INSTRUCTION_REQUESTS: Final = 100
_FEW_REQUESTS: Final = 10
_MANY_REQUESTS: Final = 60
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
# Locks between threads, taken or not as it happens; and what asyncio asks in Python 3.11 alone.
_NOT_COUNTED: Final = {"futex", "getpid"}


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
    with tempfile.TemporaryDirectory() as folder, running() as url:
        switch = f"{folder}/switch.so"
        _run(["cc", "-O1", "-shared", "-fPIC", "-o", switch, str(_SWITCH)])
        found = {}
        for what in (BARE, *cases):
            _run(_load(what, url, 1))  # what is compiled is stored: callgrind is slow
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
            found[what] = int(match[1]) / _INSTRUCTION_REQUESTS
        return found


def system_calls(cases: Sequence[str] = CASES) -> dict[str, dict[str, float]]:
    """System calls for a keep-alive request, by case and kind; a kind that is not there is 0.

    Raises:
        RuntimeError: a program failed.
        subprocess.TimeoutExpired: one hung.
    """
    with running() as url:
        return {case: _system_calls(case, url) for case in cases}


def _system_calls(case: str, url: str) -> dict[str, float]:
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
    # Neither proxies nor Python's own switches are to have a say in what is counted.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy")
        and (not name.startswith("PYTHON") or name == "PYTHONPATH")
    }
    environment["PYTHONHASHSEED"] = "0"
    done = subprocess.run(
        argv,
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROGRAM_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(argv)} failed:\n{done.stdout}{done.stderr}")
    return done.stderr
