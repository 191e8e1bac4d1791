"""Runs the command line as its users do: as a process of its own, warnings being errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import whimbrel

_SOURCE = str(Path(whimbrel.__file__).parents[1])
_SECONDS = 30


class Ran(NamedTuple):
    """A process that has ended: its exit code and what it printed."""

    code: int
    out: bytes
    err: str


def environment(**variables: str) -> dict[str, str]:
    """This process's, without what the command reads from it, and with `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("WHIMBREL_", "PYTHON"))
    }
    return {**kept, "PYTHONPATH": _SOURCE, "LC_ALL": "C.UTF-8", **variables}


@contextlib.asynccontextmanager
async def started(
    *arguments: str,
    module: str = "whimbrel",
    env: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running process, which is to end by itself, or to be killed, within the block.

    `launcher` is a command that executes its further arguments.
    """
    process = await asyncio.create_subprocess_exec(
        *launcher,
        *(sys.executable, "-X", "dev", "-W", "error", "-m", module, *arguments),
        env=environment(**(env or {})),
        start_new_session=True,  # no terminal to ask for passwords
        **{
            "stdin": asyncio.subprocess.PIPE,
            "stdout": asyncio.subprocess.PIPE,
            "stderr": asyncio.subprocess.PIPE,
            **options,
        },
    )
    try:
        async with asyncio.timeout(_SECONDS):
            yield process
            # Closes the pipes too, which nobody else does.
            await process.communicate()
    except BaseException:
        # Never a process that may just be ending: kill() would reap it before asyncio does.
        if process.returncode is None:
            process.kill()
        await process.communicate()
        raise


async def run(
    *arguments: str,
    module: str = "whimbrel",
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Ran:
    """Run ``python -m whimbrel`` (or another module) to its end."""
    async with started(*arguments, module=module, env=env, **options) as process:
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        # asyncio's debug mode tells of every step that took over 0.1 s; this machine may be busy.
        lines = (err or b"").decode().splitlines(keepends=True)
        told = "".join(line for line in lines if not line.startswith("Executing <"))
        return Ran(process.returncode, out or b"", told)
