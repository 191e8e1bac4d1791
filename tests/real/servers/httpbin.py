"""httpbin (PyPI): an origin that tells what it was sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import HOST, free_ports, require_module, running


@dataclass(frozen=True)
class Httpbin:
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@contextmanager
def serve(folder: Path) -> Iterator[Httpbin]:
    """Run httpbin on its development server, HTTP/1.0 replies and all."""
    require_module("httpbin", "httpbin")
    folder.mkdir()
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "httpbin.core", "--host", HOST, "--port", str(port)]
    with running(argv, folder=folder, ports=[port]):
        yield Httpbin(port)
