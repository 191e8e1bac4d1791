"""Runs a page's Python blocks against servers on loopback, and compares what they print.

The pages name the servers of whimbrel.testing.examples, and ``localhost:9``, a port that refuses.
Nothing is changed in a block but the port numbers (behind ``localhost:`` and ``proxy_port=``).
Blocks run in a folder that holds the files of that module. The rules for pages stand in
docs/internals/documentation.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from pages import Block, blocks, page_name

from whimbrel.testing import refused_port
from whimbrel.testing.examples import Ports, example_servers

_RUNNER: Final = Path(__file__).with_name("run_page.py")
_ADDRESS = re.compile(r"(localhost:|proxy_port=)(\d+)")


class Problem(AssertionError):
    """A page does not do what it shows."""


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[dict[str, int]]:
    """Start the servers; gives the real port for each that stands on the pages."""
    with refused_port() as refused:
        async with example_servers(Ports(0, 0, 0, 0)) as running:
            real = {str(shown): one.port for shown, one in zip(Ports(), running, strict=True)}
            yield {**real, "9": refused}


async def run_page(page: Path, folder: Path, ports: dict[str, int], before: str = "") -> None:
    """Run the Python blocks of `page`, and before them what `before` holds.

    Raises:
        Problem: one failed, warned, or printed something else than the text block behind it shows.
    """
    python, expected = _pair_up(page)
    sources = [(block.line, _ADDRESS.sub(_real(ports), block.source)) for block in python]
    sources.insert(0, (0, before))
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment.pop("PYTHONASYNCIODEBUG", None)  # it would log what is slow on a busy machine
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(_RUNNER), page_name(page)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=environment,
    )
    try:
        out, err = await process.communicate(json.dumps(sources).encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode or err:
        raise Problem(f"{page_name(page)}:\n{err.decode()}")
    shown_ports = {str(real): shown for shown, real in ports.items()}
    for block, want, got in zip(python, expected, json.loads(out)[1:], strict=True):
        got = _ADDRESS.sub(_real(shown_ports), got)
        if not doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
            raise Problem(
                f"{page_name(page)}: the block in line {block.line} prints\n{got}"
                f"and the page shows\n{want}"
            )


def _pair_up(page: Path) -> tuple[list[Block], list[str]]:
    """The Python blocks, and for each the output that a text block right behind it shows."""
    python: list[Block] = []
    expected: list[str] = []
    for block in blocks(page):
        if block.language == "python":
            python.append(block)
            expected.append("")
        elif block.language == "text" and block.follows == "python":
            expected[-1] = block.source
    return python, expected


def _real(ports: dict[str, Any]) -> Any:
    return lambda match: f"{match[1]}{ports.get(match[2], match[2])}"
