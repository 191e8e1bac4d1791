"""SOCKS proxies: microsocks (SOCKS5), dante (SOCKS5 and 4), pproxy (SOCKS4, and HTTP as well)."""

from __future__ import annotations

import os
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


_DANTE = """\
logoutput: {folder}/dante.log
internal: {host} port = {port}
external: lo
clientmethod: none
socksmethod: none
{user}
client pass {{ from: 0/0 to: 0/0 }}
socks pass {{ from: 0/0 to: 0/0 }}
"""


@contextmanager
def dante(folder: Path) -> Iterator[Socks]:
    """Run dante: SOCKS5 and SOCKS4 without a login, which would have to be one of the system's."""
    program = require_program("danted", "dante-server")
    folder.mkdir()
    (port,) = free_ports(1)
    config = folder / "danted.conf"
    # Started by root it would stay root, and warn of it.
    user = "user.privileged: root\nuser.unprivileged: nobody" if os.geteuid() == 0 else ""
    config.write_text(_DANTE.format(folder=folder, host=HOST, port=port, user=user))
    argv = [program, "-f", str(config), "-p", str(folder / "danted.pid")]
    with running(argv, folder=folder, ports=[port]):
        yield Socks(port)


@contextmanager
def pproxy(folder: Path, scheme: str, login: str = "") -> Iterator[Socks]:
    """Run pproxy for "http" or "socks4"; `login` is ``user:password`` there, a user id here."""
    require_module("pproxy", "pproxy")
    folder.mkdir()
    (port,) = free_ports(1)
    listen = f"{scheme}://{HOST}:{port}" + (f"#{login}" if login else "")
    # Without --auth 0 a login is remembered by address, so that the next one needs none.
    argv = [sys.executable, "-c", _PPROXY, "-l", listen, "--auth", "0", "-v"]
    with running(argv, folder=folder, ports=[port]):
        yield Socks(port)
