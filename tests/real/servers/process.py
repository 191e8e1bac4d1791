"""Start a real server on loopback, know when it is ready, and be sure that it ends.

Rules:
1. A server runs in a process group of its own; the whole group is ended, helpers included.
2. Ready means that its ports accept connections, never that some time has passed.
3. A server that ends early or is not ready in time raises with everything it logged.
4. Should the tests be killed outright, a guard process ends the servers they left behind.
5. A program that is not installed skips the test with the package to install, or fails it where
   ``WHIMBREL_REQUIRE_REAL=1`` says that the machine has to have it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

HOST = "127.0.0.1"
REQUIRE_REAL = "WHIMBREL_REQUIRE_REAL"

#: Below the range that Linux and macOS hand to outgoing connections (32768 and up), so that a
#: client's own socket cannot take a port between our probe and the server's bind.
_PORTS = range(20000, 30000)
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0
_POLL_INTERVAL = 0.02

_random = random.SystemRandom()
_handed_out: set[int] = set()

#: What was missing in this session, for the summary at its end: name -> how to get it.
missing: dict[str, str] = {}


class ServerStartError(Exception):
    """A server ended early, or did not accept connections in time; the text holds its logs."""


def real_required() -> bool:
    """Whether a missing server is a failure here rather than a skip."""
    return os.environ.get(REQUIRE_REAL) == "1"


def unavailable(name: str, remedy: str) -> NoReturn:
    """Skip the test, or fail it where real servers are required."""
    missing[name] = remedy
    reason = f"real server missing: {name} ({remedy})"
    if real_required():
        pytest.fail(f"{reason}; {REQUIRE_REAL}=1 demands it", pytrace=False)
    pytest.skip(reason)


def require_program(name: str, package: str) -> str:
    """The path of an installed program, which Debian keeps in ``package``."""
    # Debian's daemons live in sbin, which is not on an ordinary user's PATH.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        unavailable(name, f"apt-get install {package}")
    return path


def require_file(path: str, name: str, package: str) -> str:
    """The path of a file (a module, a helper) that Debian keeps in ``package``."""
    if not Path(path).exists():
        unavailable(name, f"apt-get install {package}; no {path}")
    return path


def require_module(name: str, distribution: str) -> None:
    """Demand that a Python module from PyPI can be imported."""
    if importlib.util.find_spec(name) is None:
        unavailable(name, f"pip install {distribution}, or the extra 'real'")


def free_ports(count: int) -> list[int]:
    """Ports that are free for TCP and UDP on 127.0.0.1 and ::1, and not handed out before."""
    ports: list[int] = []
    while len(ports) < count:
        port = _random.choice(_PORTS)
        if port not in _handed_out and _can_bind(port):
            _handed_out.add(port)
            ports.append(port)
    return ports


def _can_bind(port: int) -> bool:
    with ExitStack() as stack:
        for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, "::1")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                try:
                    stack.enter_context(socket.socket(family, kind)).bind((host, port))
                except OSError:
                    return False
    return True


def accepts_connections(port: int, host: str = HOST) -> bool:
    """Whether something listens on a TCP port right now."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Look again and again until the condition holds; False if it does not within seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


@contextmanager
def running(
    argv: Sequence[str],
    *,
    folder: Path,
    ports: Sequence[int],
    env: Mapping[str, str] | None = None,
    timeout: float = _START_TIMEOUT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground while the block lasts.

    Args:
        argv: the command; it must stay in the foreground.
        folder: its scratch folder, also its HOME and current folder. Output goes to
            ``output.log`` there; every ``*.log`` in it is shown if the start fails.
        ports: TCP ports that must accept connections before the block is entered.
        env: additions to a bare environment (no proxies, no Python settings).
        timeout: seconds it may take to get ready.

    Raises:
        ServerStartError: it ended, or was not ready in time.
    """
    environment = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        **(env or {}),
    }
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _tell_guard("+", process.pid)
        _wait_until_ready(process, argv, folder, ports, timeout)
        yield process
    finally:
        stop(process)
        _tell_guard("-", process.pid)


#: Reads the process groups that start and end. When its input ends it kills those that are left,
#: and removes the scratch folder: nobody else is there to do it. (A signal on the parent's death
#: will not do: the kernel forgets it when a server such as squid changes its user.)
_GUARD = """\
import os, shutil, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
_guard: subprocess.Popen[bytes] | None = None


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """While the block lasts, servers (and ``folder``) do not outlive a kill of this process."""
    global _guard
    # In a session of its own no Ctrl-C and no kill of our group reaches it.
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    previous, _guard = _guard, guard
    try:
        yield
    finally:
        _guard = previous
        guard.communicate(timeout=_STOP_TIMEOUT)


def _tell_guard(sign: str, group: int) -> None:
    if _guard is not None and _guard.stdin is not None:
        _guard.stdin.write(f"{sign}{group}\n".encode())
        _guard.stdin.flush()


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    argv: Sequence[str],
    folder: Path,
    ports: Sequence[int],
    timeout: float,
) -> None:
    deadline = time.monotonic() + timeout
    waiting = list(ports)
    while waiting := [port for port in waiting if not accepts_connections(port)]:
        # Waiting for the end of the process is also the pause between two looks.
        try:
            status = process.wait(_POLL_INTERVAL)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            problem = f"not listening on {waiting} after {timeout} s"
        else:
            problem = f"ended with status {status}"
        raise ServerStartError(f"{' '.join(argv)}: {problem}\n{logs(folder)}")


def logs(folder: Path, limit: int = 8192) -> str:
    """The ends of all logs in a server's folder, each under its name."""
    parts = []
    for path in sorted(folder.rglob("*.log")):
        text = path.read_text(errors="replace")[-limit:]
        parts.append(f"--- {path.name} ---\n{text.rstrip() or '(empty)'}")
    return "\n".join(parts)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything in its process group; return when the server is gone."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass
    # Also after an orderly end: helpers may have outlived their server.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait(_STOP_TIMEOUT)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
