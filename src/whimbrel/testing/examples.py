"""What the examples of README and docs talk to, and the files that they read.

`whimbrel demo --serve` runs these servers on the ports that the pages name; the tests of the pages
run them on free ones.
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

from whimbrel.testing._certificate import (
    CLIENT_CERTIFICATE,
    CLIENT_KEY,
    LOCALHOST_CERTIFICATE,
    localhost_context,
)
from whimbrel.testing.origin import OriginServer
from whimbrel.testing.proxy import ProxyServer
from whimbrel.testing.socks import Socks5Server

USERNAME: Final = "alice"
PASSWORD: Final = "secret"

FILES: Final = {
    "ca.pem": LOCALHOST_CERTIFICATE,
    "client.pem": CLIENT_CERTIFICATE,
    "client.key": CLIENT_KEY,
    "upload.bin": bytes(range(256)) * 1000,
}
"""The files by name. They are the same everywhere, and the keys are public."""


class Ports(NamedTuple):
    """Where the servers listen; the defaults are what the pages name, 0 is a free port."""

    http: int = 8888
    https: int = 8443
    proxy: int = 3128
    socks: int = 1080


class ExampleServers(NamedTuple):
    """The servers, in the order of `Ports`.

    Attributes:
        origin: http.
        secure: https, with the certificate of ca.pem; it takes the client certificate of
            client.pem, and those who show none.
        proxy, socks: want `USERNAME` and `PASSWORD`.
    """

    origin: OriginServer
    secure: OriginServer
    proxy: ProxyServer
    socks: Socks5Server


@contextlib.asynccontextmanager
async def example_servers(ports: Ports) -> AsyncIterator[ExampleServers]:
    """Run the servers while the block lasts.

    Raises:
        OSError: a port cannot be had; the message names it.
    """
    servers = ExampleServers(
        OriginServer(port=ports.http),
        OriginServer(localhost_context(ssl.CERT_OPTIONAL), port=ports.https),
        ProxyServer(USERNAME, PASSWORD, port=ports.proxy),
        Socks5Server(USERNAME, PASSWORD, port=ports.socks),
    )
    async with contextlib.AsyncExitStack() as stack:
        for server, port in zip(servers, ports, strict=True):
            try:
                await stack.enter_async_context(server)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise OSError(error.errno, f"port {port} of 127.0.0.1: {reason}") from error
        yield servers


def write_files(folder: Path) -> None:
    """Put `FILES` into `folder`, which is made if it is not there.

    Raises:
        FileExistsError: a file of one of these names is there and holds something else; nothing
            was written.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, content in FILES.items():
        path = folder / name
        if not os.path.lexists(path):
            missing.append((path, content))
        elif not path.is_file() or path.read_bytes() != content:
            raise FileExistsError(errno.EEXIST, "there is another file of this name", str(path))
    for path, content in missing:
        with open(path, "xb") as file:
            file.write(content)
