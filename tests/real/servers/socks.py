"""SOCKS proxies: microsocks (SOCKS5) and pproxy (SOCKS4)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import HOST, free_ports, require_module, require_program, running

USER = "alice"
PASSWORD = "secret"

#: pproxy takes the current event loop, which uvloop (if installed) and new Pythons no longer make.
_PPROXY = """\
import asyncio, sys
sys.modules["uvloop"] = None
asyncio.set_event_loop(asyncio.new_event_loop())
from pproxy.server import main
main()
"""


@dataclass(frozen=True)
class Socks:
    port: int


@contextmanager
def microsocks(folder: Path, *, auth: bool) -> Iterator[Socks]:
    """Run microsocks: SOCKS5 with names looked up by the proxy, with or without a login."""
    program = require_program("microsocks", "microsocks")
    folder.mkdir()
    (port,) = free_ports(1)
    argv = [program, "-i", HOST, "-p", str(port)]
    if auth:
        argv += ["-u", USER, "-P", PASSWORD]
    with running(argv, folder=folder, ports=[port]):
        yield Socks(port)


@contextmanager
def pproxy(folder: Path, *, auth: bool) -> Iterator[Socks]:
    """Run pproxy: SOCKS4, with or without a user id."""
    require_module("pproxy", "pproxy")
    folder.mkdir()
    (port,) = free_ports(1)
    listen = f"socks4://{HOST}:{port}" + (f"#{USER}" if auth else "")
    # Without --auth 0 a login is remembered by address, so that the next one needs none.
    argv = [sys.executable, "-c", _PPROXY, "-l", listen, "--auth", "0", "-v"]
    with running(argv, folder=folder, ports=[port]):
        yield Socks(port)
