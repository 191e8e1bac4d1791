"""Hello, world: a server of ours or Tornado's, and the client that loads it.

    python -m benchmarks.servers.hello serve PACKAGE CORE LOOP
    python -m benchmarks.servers.hello load PORT CONNECTIONS WARM_UP SECONDS CORE

The server prints its port, and its CPU time for each line of stdin. The client sends the next
request of a connection when it has read the last response, and compares that byte by byte with what
is expected; it prints "begin" behind the warm-up, and at the end how many there were in how long.
"""

from __future__ import annotations

import importlib
import json
import re
import selectors
import socket
import sys
import time
from typing import Any, Final

from benchmarks.servers.process import core_of, pin

_BODY: Final = b"Hello, world"
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hello\r\nAccept: */*\r\n\r\n"
_DATE: Final = re.compile(rb"\r\nDate: [^\r]+")
_PATIENCE_SECONDS: Final = 10.0


def _serve(package: str, core: str, loop_name: str) -> None:
    pin(core_of(core))
    if loop_name == "uvloop":
        import asyncio

        asyncio.set_event_loop(importlib.import_module("uvloop").new_event_loop())
    web: Any = importlib.import_module(f"{package}.web")
    httpserver: Any = importlib.import_module(f"{package}.httpserver")
    ioloop: Any = importlib.import_module(f"{package}.ioloop")

    class MainHandler(web.RequestHandler):  # type: ignore[misc]
        def get(self) -> None:
            self.write("Hello, world")

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        sock.setblocking(False)
        httpserver.HTTPServer(web.Application([(r"/", MainHandler)])).add_socket(sock)
        loop = ioloop.IOLoop.current()

        def tell() -> None:
            if not sys.stdin.readline():
                loop.stop()
            print(time.process_time(), flush=True)

        loop.asyncio_loop.add_reader(sys.stdin.fileno(), tell)
        print(sock.getsockname()[1], flush=True)
        loop.start()


def _load(port: str, connections: str, warm_up: str, seconds: str, core: str) -> None:
    pin(core_of(core))
    expected = _ask(int(port))
    with selectors.DefaultSelector() as selector:
        for _ in range(int(connections)):
            sock = socket.create_connection(("127.0.0.1", int(port)), _PATIENCE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
            sock.send(_REQUEST)
        _answer(selector, expected, float(warm_up))
        print("begin", flush=True)
        print(json.dumps(_answer(selector, expected, float(seconds))), flush=True)


def _answer(
    selector: selectors.BaseSelector, expected: tuple[int, bytes], duration: float
) -> tuple[int, float]:
    """Read responses, and send the next requests, for so many seconds; how many, and how long."""
    size, same = expected
    clock = time.perf_counter
    requests = 0
    begun = clock()
    while clock() - begun < duration:
        for key, _ in selector.select():
            sock: Any = key.fileobj
            response = sock.recv(65536)
            # Short responses to single requests come whole over loopback.
            assert len(response) == size, response
            assert _DATE.sub(b"", response) == same, response
            requests += 1
            sock.send(_REQUEST)
    return requests, clock() - begun


def _ask(port: int) -> tuple[int, bytes]:
    """The size of a response, and its bytes without the Date."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_SECONDS) as sock:
        sock.sendall(_REQUEST)
        response = sock.recv(65536)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n"), response
    assert response.endswith(b"\r\n\r\n" + _BODY), response
    return len(response), _DATE.sub(b"", response)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(*sys.argv[2:])
    else:
        _load(*sys.argv[2:])
