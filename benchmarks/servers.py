"""The server of a benchmark: a process of its own, on a core of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

BODY: Final = b"whimbrel: twenty-eight bytes"
assert len(BODY) == 28

_START_SECONDS: Final = 10.0
# Not from the range of ephemeral ports, where a client's own socket might already sit.
_PORTS: Final = range(20000, 32000)

# One process without a master, so that one call pins all of it.
_NGINX: Final = """\
daemon off;
master_process off;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type text/plain;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "{body}"; }}
    }}
}}
"""


class Server(NamedTuple):
    """A running server.

    Attributes:
        name: what it is, with its version.
        url: what to fetch: status 200 and `BODY`.
    """

    name: str
    url: str


@contextlib.contextmanager
def server(core: int | None, *, nginx: bool = True) -> Iterator[Server]:
    """Run nginx where it is found (and wanted), else our own origin, pinned to `core`.

    Raises:
        RuntimeError: it ended early, or did not accept connections in time.
    """
    program = find_nginx() if nginx else None
    with tempfile.TemporaryDirectory(prefix="whimbrel-benchmark-") as name:
        if program is None:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.servers"], stdout=subprocess.PIPE
            )
        else:
            port = _free_port()
            folder = Path(name)
            config = folder / "nginx.conf"
            config.write_text(_NGINX.format(folder=folder, port=port, body=BODY.decode()))
            process = subprocess.Popen([program, "-p", name, "-c", str(config)])
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            if program is None:
                assert process.stdout is not None
                url = process.stdout.readline().decode().strip()
                if not url:
                    raise RuntimeError("our own origin did not start")
                yield Server("whimbrel.testing.OriginServer (slower than its clients)", url)
            else:
                _wait_until_ready(process, port)
                yield Server(_nginx_version(program), f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
            process.communicate()


def find_nginx() -> str | None:
    """The path of nginx, which Debian keeps out of users' PATH; None without it."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _nginx_version(program: str) -> str:
    answer = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    return answer.stderr.strip().removeprefix("nginx version: ")


def _free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError("nginx ended early; its words are above")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError("nginx does not accept connections") from error
            time.sleep(0.02)


async def _serve() -> None:
    from whimbrel.testing import Limits, OriginServer, Reply, Request

    async def small(request: Request) -> Reply:
        return Reply(200, BODY)

    async with OriginServer(routes={"/": small}, limits=Limits(connections=4096)) as origin:
        print(origin.url("/"), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
