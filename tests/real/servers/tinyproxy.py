"""tinyproxy: a small forward proxy with Basic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import HOST, free_ports, require_program, running

USER = "alice"
PASSWORD = "secret"

_CONFIG = """\
Port {port}
Listen {host}
Allow {host}
BasicAuth {user} {password}
MaxClients 500
Timeout 60
LogLevel Info
LogFile "{folder}/tinyproxy.log"
PidFile "{folder}/tinyproxy.pid"
"""


@dataclass(frozen=True)
class Tinyproxy:
    port: int


@contextmanager
def serve(folder: Path) -> Iterator[Tinyproxy]:
    """Run tinyproxy; it lets CONNECT reach every port."""
    program = require_program("tinyproxy", "tinyproxy-bin")
    folder.mkdir()
    (port,) = free_ports(1)
    config = folder / "tinyproxy.conf"
    config.write_text(
        _CONFIG.format(port=port, host=HOST, user=USER, password=PASSWORD, folder=folder)
    )
    with running([program, "-d", "-c", str(config)], folder=folder, ports=[port]):
        yield Tinyproxy(port)
