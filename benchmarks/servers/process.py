"""Processes that serve: started, pinned, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

_START_SECONDS: Final = 10.0
# Not from the range of ephemeral ports, where a client's own socket might already sit.
_PORTS: Final = range(20000, 32000)
_KEPT: Final = {"PYTHONPATH", "PYTHONWARNINGS"}
"""Of Python's variables: where modules are, and what is to be heard of them."""


def pin(core: int | None) -> None:
    """Keep this process to `core`; None leaves that to the system."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def raise_file_limit() -> int:
    """Let this process open as many files as it may; the number."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls "unlimited" what it refuses
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def measured_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a process that is measured: it has no say in what comes out.

    Without proxies, which some clients obey, and without Python's own switches: one that forbids to
    store what is compiled makes every import dearer, one for debugging every turn of a loop.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.lower().endswith("_proxy") and (not name.startswith("PYTHON") or name in _KEPT)
    }


def free_ports(count: int) -> list[int]:
    """So many TCP ports of loopback on which nobody listens.

    Raises:
        RuntimeError: there are not as many.
    """
    found: list[int] = []
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def running(command: list[str], name: str, ports: list[int], core: int | None) -> Iterator[None]:
    """Run a server until the block ends, which begins when it listens on all `ports`.

    It is pinned to `core` from outside, so it has to be one process and one thread.

    Raises:
        RuntimeError: it ended early, or did not accept connections in time.
    """
    process = subprocess.Popen(command, env=measured_environment())
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        for port in ports:
            _wait_for(process, name, port)
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def running_line(command: list[str], name: str) -> Iterator[str]:
    """Run a server that prints a line when it serves, until the block ends; the line.

    Raises:
        RuntimeError: it ended without that line.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=measured_environment()
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start; its words are above")
        yield line.strip()
    finally:
        process.terminate()
        process.communicate()


def run_module(module: str, core: int | None) -> list[str]:
    """The command that runs a module of ours on `core`."""
    return [sys.executable, "-m", module, core_argument(core)]


def core_argument(core: int | None) -> str:
    """A core on a command line; ``-`` is none."""
    return "-" if core is None else str(core)


def core_of(argument: str) -> int | None:
    """The inverse of `core_argument`."""
    return None if argument == "-" else int(argument)


def _wait_for(process: subprocess.Popen[bytes], name: str, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended early; its words are above")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not accept connections") from error
            time.sleep(0.02)
