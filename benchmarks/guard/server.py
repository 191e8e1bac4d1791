"""A server with one answer, in a process of its own.

It has the request's `REQUEST_ID` where there is one, and is always the same otherwise.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

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
# Before every answer. The client shall be asleep when it comes: were it a race, the number of its
# system calls, and of its turns of the loop, would be another one each time. valgrind is slow.
_LATE_SECONDS: Final = 0.01


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run the server while the block lasts; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.guard.server"],
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


def _main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                _serve(connection)


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while received := connection.recv(65536):
        head += received
        if head.endswith(b"\r\n\r\n"):
            sent = _REQUEST_ID.search(head)
            echoed = sent[0].removeprefix(b"\r\n") + b"\r\n" if sent else b""
            head = b""
            time.sleep(_LATE_SECONDS)
            connection.sendall(_HEAD + echoed + b"\r\n" + BODY)


if __name__ == "__main__":
    _main()
