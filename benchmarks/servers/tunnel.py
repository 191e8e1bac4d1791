"""The proxy for CONNECT: ours in C, built on the spot where a compiler is found, else in Python.

    python -m benchmarks.servers.tunnel CORE

runs the latter, which is slower than its clients, and prints its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.servers.process import (
    core_argument,
    core_of,
    pin,
    raise_file_limit,
    run_module,
    running_line,
)
from whimbrel.testing import Limits, ProxyServer

_SOURCE: Final = Path(__file__).with_suffix(".c")
_MODULE: Final = "benchmarks.servers.tunnel"

NAMED_PORT: Final = 1
"""What a CONNECT to the one in C has to name. Nobody listens there (it was tcpmux's), so whoever
does not go through the tunnel arrives nowhere."""


class Tunnel(NamedTuple):
    """What runs.

    Attributes:
        name: what it is.
        url: of the proxy.
        origin: of what is reached through it; through the one in C alone.
    """

    name: str
    url: str
    origin: str


@contextlib.contextmanager
def tunnel(origin_port: int, core: int | None, folder: Path) -> Iterator[Tunnel]:
    """Run it, built in `folder`.

    Raises:
        RuntimeError: it does not compile, or did not start.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        name = "whimbrel.testing.ProxyServer (slower than its clients)"
        command = run_module(_MODULE, core)
        named_port = origin_port
    else:
        name = "our own in C"
        program = folder / "tunnel"
        built = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(_SOURCE)], capture_output=True, text=True
        )
        if built.returncode:
            raise RuntimeError(f"{_SOURCE.name} does not compile:\n{built.stderr}")
        named_port = NAMED_PORT
        command = [str(program), str(named_port), str(origin_port), core_argument(core)]
    with running_line(command, "the proxy for CONNECT") as port:
        yield Tunnel(name, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{named_port}")


async def _serve() -> None:
    async with ProxyServer(limits=Limits(connections=raise_file_limit())) as proxy:
        print(proxy.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    pin(core_of(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
