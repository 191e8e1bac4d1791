"""A server with one answer, in a process of its own.

    python -m benchmarks.guard.server COUNT

The answer has the request's `REQUEST_ID` where there is one, and is always the same otherwise. It
is given when COUNT requests have come, to all of them at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

BODY: Final = b"abcdefghijklmnopqrstuvwxyz01"

REQUEST_ID: Final = "X-Request-Id"

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: canned\r\n"
    b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: keep-alive\r\n" % len(BODY)
)
_REQUEST_ID: Final = re.compile(rb"\r\n%b: [^\r]+" % REQUEST_ID.encode())
# Before the answers. The client shall be asleep when they come: were it a race, the number of its
# system calls, and of its turns of the loop, would be another one each time. valgrind is slow.
_LATE_SECONDS: Final = 0.01


@contextlib.contextmanager
def running(count: int) -> Iterator[str]:
    """Run the server while the block lasts, for so many requests in flight; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.guard.server", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the server did not start; its words are above")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _main(count: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as ready:
        print(listener.getsockname()[1], flush=True)
        ready.register(listener, selectors.EVENT_READ)
        asked: dict[socket.socket, bytes] = {}  # heads, some of which may not be whole yet
        while True:
            for key, _ in ready.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ready.register(connection, selectors.EVENT_READ)
                else:
                    _receive(key.fileobj, ready, asked)
            if sum(head.endswith(b"\r\n\r\n") for head in asked.values()) == count:
                time.sleep(_LATE_SECONDS)
                _answer(asked)


def _receive(connection: Any, ready: selectors.BaseSelector, asked: dict[Any, bytes]) -> None:
    """Add what came to `asked`, or close what has come to its end."""
    received = b""
    with contextlib.suppress(ConnectionError):
        received = connection.recv(65536)
    if received:
        asked[connection] = asked.get(connection, b"") + received
    else:
        asked.pop(connection, None)
        ready.unregister(connection)
        connection.close()


def _answer(asked: dict[socket.socket, bytes]) -> None:
    for connection, head in asked.items():
        sent = _REQUEST_ID.search(head)
        echoed = sent[0].removeprefix(b"\r\n") + b"\r\n" if sent else b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(_HEAD + echoed + b"\r\n" + BODY)
    asked.clear()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
