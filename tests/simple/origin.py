"""An origin in a process of its own, so that neither its memory nor its time is the client's.

Targets: "/hold/N" is answered when N such requests are waiting; "/error" closes without a word;
"/never" is not answered; "/peak" tells how many requests have waited at the same time; any other
is answered at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


class _Connection(asyncio.Protocol):
    waiting: set[_Connection] = set()
    peak = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.received = b""

    def connection_lost(self, error: Exception | None) -> None:
        self.waiting.discard(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.endswith(b"\r\n\r\n"):
            return
        target = self.received.split(b" ", 2)[1]
        self.received = b""
        if target.startswith(b"/hold/"):
            self.waiting.add(self)
            _Connection.peak = max(self.peak, len(self.waiting))
            if len(self.waiting) >= int(target[6:]):
                for connection in self.waiting:
                    connection.answer(b"held")
                self.waiting.clear()
        elif target == b"/error":
            self.transport.close()
        elif target == b"/peak":
            self.answer(b"%d" % self.peak)
        elif target != b"/never":
            self.answer(target)

    def answer(self, body: bytes) -> None:
        self.transport.write(ANSWER % (len(body), body))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=20_000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it is done


@contextlib.contextmanager
def origin_process() -> Iterator[str]:
    """Start it; yield its URL, without a path."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


if __name__ == "__main__":
    asyncio.run(_main())
