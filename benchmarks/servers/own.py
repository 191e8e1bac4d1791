"""Our own origin, where nginx is not to be had: slower than its clients, and good for a trial.

    python -m benchmarks.servers.own CORE

prints the URLs of its roles as JSON: an origin without and with TLS, and a forward proxy, which
answers by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from benchmarks.servers.certificate import CERTIFICATE, KEY
from benchmarks.servers.content import BODY, REQUEST_ID
from benchmarks.servers.process import core_of, pin, raise_file_limit
from whimbrel.testing import Handler, Limits, OriginServer, Reply, Request

_PIECE: Final = bytes(256 * 1024)


async def _small(request: Request) -> Reply:
    return Reply(200, BODY)


async def _varied(request: Request) -> Reply:
    return Reply(200, BODY, [(REQUEST_ID, request.head.get(REQUEST_ID) or "")])


async def _zeros(request: Request) -> Reply:
    size = int(request.arguments[0])
    return Reply(200, _iter_zeros(size), length=size)


async def _iter_zeros(size: int) -> AsyncIterator[bytes]:
    for offset in range(0, size, len(_PIECE)):
        yield _PIECE[: size - offset]


async def _proxied(request: Request) -> Reply:
    """As an origin's, for a client that means a proxy."""
    return Reply(200 if request.head.target.startswith("http://") else 400, BODY)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.TemporaryDirectory() as folder:  # load_cert_chain reads files only
        path = Path(folder, "certificate.pem")
        path.write_text(CERTIFICATE + KEY)
        context.load_cert_chain(path)
    return context


async def _serve() -> None:
    routes: dict[str, Handler] = {"/": _small, "/varied": _varied, "/zeros": _zeros}
    limits = Limits(connections=raise_file_limit())
    async with (
        OriginServer(routes=routes, limits=limits) as plain,
        OriginServer(_context(), routes=routes, limits=limits) as tls,
        OriginServer(routes={"/": _proxied}, limits=limits) as proxy,
    ):
        roles = {
            "plain": plain.url(""),
            "tls": tls.url("", host="127.0.0.1"),
            "proxy": proxy.url(""),
        }
        print(json.dumps(roles), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    pin(core_of(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
