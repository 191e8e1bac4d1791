"""The servers of the benchmarks, each a process of its own: what runs, and at which URLs.

| role        | what                                                                         |
|-------------|------------------------------------------------------------------------------|
| plain       | an origin over HTTP/1.1: / is `BODY`, /zeros/N are N bytes, N from `SIZES`;  |
|             | /varied/N is `BODY` for any N, with the request's `REQUEST_ID`               |
| tls         | the same with TLS                                                            |
| http2       | / with TLS, HTTP/2 and nothing else                                          |
| closing     | / on a connection that is closed after every response                        |
| closing_tls | the same with TLS                                                            |
| hosts       | / at every address of 127.0.0.0/8                                            |
| proxy       | a forward proxy for http, at every address of 127.0.0.0/8                    |
| tunnel      | a proxy for CONNECT to tunneled                                              |
| tunneled    | tls, by a URL that leads nowhere without the proxy                           |
| raw         | swallows uploads, and holds responses back; see `benchmarks.servers.raw`     |

nginx plays the first seven where it is found; our own origin has fewer of them.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.servers.certificate import AUTHORITY
from benchmarks.servers.nginx import find_nginx, nginx, nginx_version
from benchmarks.servers.process import run_module, running_line
from benchmarks.servers.tunnel import tunnel


class Servers(NamedTuple):
    """What runs.

    Attributes:
        names: what each program is, by what it does.
        urls: by role, without a path; a role that nobody plays is not in it.
        ca_file: the PEM file that a client of tls has to trust.
    """

    names: dict[str, str]
    urls: dict[str, str]
    ca_file: str


@contextlib.contextmanager
def running_servers(
    core: int | None, proxy_core: int | None, *, use_nginx: bool
) -> Iterator[Servers]:
    """Run all of them, pinned to `core`, but the proxy for CONNECT, which is on `proxy_core`.

    Raises:
        RuntimeError: one ended early, or did not accept connections in time.
    """
    program = find_nginx() if use_nginx else None
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="whimbrel-benchmarks-") as name,
    ):
        folder = Path(name)
        ca_file = folder / "authority.pem"
        ca_file.write_text(AUTHORITY)
        if program is None:
            origin = "whimbrel.testing.OriginServer (slower than its clients)"
            command = run_module("benchmarks.servers.own", core)
            urls = json.loads(stack.enter_context(running_line(command, "our own origin")))
        else:
            origin = nginx_version(program)
            urls = stack.enter_context(nginx(program, core, folder))
        port = urlsplit(urls["tls"]).port
        assert port is not None
        connect = stack.enter_context(tunnel(port, proxy_core, folder))
        urls |= {"tunnel": connect.url, "tunneled": connect.origin}
        command = run_module("benchmarks.servers.raw", core)
        urls["raw"] = stack.enter_context(running_line(command, "the raw server"))
        names = {
            "origin, and proxy for http": origin,
            "proxy for CONNECT": connect.name,
            "uploads, held responses": "bare sockets in Python",
        }
        yield Servers(names, urls, str(ca_file))
