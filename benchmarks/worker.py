"""The process of one measurement, and how its parent starts it.

    python -m benchmarks.worker TASK

TASK is JSON; the sample is printed as JSON, or ``{"failed": words}``, and the exit code is 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.clients import CLIENTS, Client, each_proxy
from benchmarks.clients.libcurl_in_c import Load
from benchmarks.clients.session import Options
from benchmarks.servers.content import BODY
from benchmarks.servers.process import measured_environment, pin, raise_file_limit
from benchmarks.work import WORK, Sample, Task


class Failed(Exception):
    """A client did not do the work; the text is what it said."""


def run(task: Task, timeout: float) -> Sample:
    """Do a task in a process of its own: the client's program, where it is one.

    Raises:
        Failed: it could not, or not within `timeout` seconds.
    """
    client = CLIENTS[task["client"]]
    if client.command is None:
        return run_process(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(task)], task["client"], timeout
        )
    try:
        load = Load(
            task["urls"][0],
            Options(**task["options"]),
            task["seconds"],
            task["warm_up"],
            task["core"],
            BODY.decode(),
        )
        command = client.command(load)
    except RuntimeError as error:
        raise Failed(str(error)) from error
    return run_process(command, task["client"], timeout)


def run_process(command: list[str], name: str, timeout: float) -> Sample:
    """Run a program that prints a sample as JSON.

    Raises:
        Failed: see `run`.
    """
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=measured_environment(),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode().strip().splitlines()[-1:]
        raise Failed(": ".join([f"did not end within {timeout:.0f} s", *said])) from error
    if child.returncode:
        raise Failed(_words(child))
    if child.stderr:
        print(f"{name} says:\n{child.stderr}", file=sys.stderr)
    sample: Sample = json.loads(child.stdout)
    return sample


def _words(child: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(child.stdout)["failed"])
    except (ValueError, KeyError):
        lines = (child.stderr.strip() or "without a word").splitlines()
        # A traceback ends with the reason; who dies by a signal begins with it.
        return f"ended with code {child.returncode}: {lines[0 if child.returncode < 0 else -1]}"


async def _measure(client: Client, task: Task) -> Sample:
    options = Options(**task["options"])
    opened: AbstractAsyncContextManager[Any]
    if "proxies" in task:
        opened = each_proxy.open_session(client.name, options, task["proxies"])
    else:
        assert client.open is not None
        opened = client.open(options)
    async with opened as session:
        return await WORK[task["work"]](session, task)


def _main(argument: str) -> int:
    task: Task = json.loads(argument)
    raise_file_limit()
    pin(task["core"])
    client = CLIENTS[task["client"]]
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if client.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            sample = runner.run(_measure(client, task))
    except Exception as error:  # noqa: BLE001 - a library's own, whatever it is
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}))
        return 1
    print(json.dumps(sample), flush=True)
    # The end of the interpreter is not measured, and some libraries' threads do not survive it.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
