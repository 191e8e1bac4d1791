"""A server on bare sockets for what nginx does not do: swallow bodies, and hold responses back.

    python -m benchmarks.servers.raw CORE

prints its URL.

| path         | answer                                                                     |
|--------------|----------------------------------------------------------------------------|
| /swallow     | how many bytes the body had, once all of it was read                       |
| /now         | `BODY`                                                                     |
| /held        | `BODY`, but only when somebody asks for /release                           |
| /wait/N      | `BODY`, once N requests for /held are waiting                              |
| /release     | `BODY`, when all that waited were answered                                 |

Of HTTP it knows what the clients of the benchmarks send: a Content-Length or chunks, and
``Expect: 100-continue``.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import sys
from typing import Final

from benchmarks.servers.content import BODY
from benchmarks.servers.process import core_of, pin, raise_file_limit

_HEAD: Final = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.1")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_EXPECT: Final = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)

_buffer: Final = bytearray(1024 * 1024)
_view: Final = memoryview(_buffer)


class Chunks:
    """Counts what a chunked body holds, without keeping it."""

    def __init__(self) -> None:
        self.size = 0
        self.ended = False
        self._left = 0  # of the current chunk, with the line end behind it
        self._is_last = False
        self._line = b""  # what has come of a line

    def take(self, data: bytes | bytearray | memoryview, length: int) -> None:
        """The next `length` bytes of the message."""
        at = 0
        while at < length and not self.ended:
            if self._left:
                step = min(self._left, length - at)
                self._left -= step
                at += step
                self.ended = self._is_last and not self._left
                continue
            piece = bytes(data[at : min(length, at + 64)])
            end = piece.find(b"\n")
            if end < 0:
                self._line += piece
                at += len(piece)
                continue
            line, self._line = self._line + piece[:end], b""
            at += end + 1
            size = int(line.strip(), 16)
            self.size += size
            self._left = size + 2
            self._is_last = not size  # and nothing but a line end follows: no client sends trailers


class Connection:
    """One client's."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self.sock = sock
        self._head = b""
        self._left = 0
        self._size = 0
        self._chunks: Chunks | None = None

    def readable(self) -> bool:
        """Read what there is; whether the connection goes on."""
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not count:
            return False
        if self._left or self._chunks:
            self._body(_view, count)
        else:
            self._head += _buffer[:count]
            if b"\r\n\r\n" in self._head:
                self._start()
        return True

    def answer(self, body: bytes) -> None:
        """Send a response; the client may have left."""
        with contextlib.suppress(ConnectionError):
            self.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def _start(self) -> None:
        head, _, rest = self._head.partition(b"\r\n\r\n")
        self._head = b""
        found = _HEAD.match(head)
        if found is None:
            raise ValueError(f"no request: {head!r}")
        path = found[1]
        length = _LENGTH.search(head)
        self._left = self._size = int(length[1]) if length else 0
        self._chunks = Chunks() if _CHUNKED.search(head) else None
        if _EXPECT.search(head):
            self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._left or self._chunks:
            self._body(rest, len(rest))
        else:
            self._server.requested(self, path.decode())

    def _body(self, data: bytes | memoryview, length: int) -> None:
        if self._chunks is not None:
            self._chunks.take(data, length)
            if not self._chunks.ended:
                return
            self._size = self._chunks.size
            self._chunks = None
        else:
            self._left -= length
            if self._left:
                return
        self.answer(b"%d" % self._size)


class Server:
    """All connections, and the requests that wait."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._held: dict[Connection, None] = {}  # in the order in which they came
        self._waiting: dict[Connection, int] = {}
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def requested(self, connection: Connection, path: str) -> None:
        """A whole request for `path` has come."""
        if path == "/held":
            self._held[connection] = None
            self._tell()
        elif path.startswith("/wait/"):
            self._waiting[connection] = int(path.removeprefix("/wait/"))
            self._tell()
        elif path == "/release":
            for held in self._held:
                held.answer(BODY)
            self._held.clear()
            connection.answer(BODY)
        else:
            connection.answer(BODY)

    def serve(self) -> None:
        """Until the process ends."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    connection: Connection | None = key.data
                    if connection is None:
                        self._accept(selector)
                    elif not connection.readable():
                        # A client that gave up must not count for the next one.
                        self._held.pop(connection, None)
                        self._waiting.pop(connection, None)
                        selector.unregister(connection.sock)
                        connection.sock.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ, Connection(self, sock))

    def _tell(self) -> None:
        for connection, count in list(self._waiting.items()):
            if len(self._held) >= count:
                del self._waiting[connection]
                connection.answer(BODY)


def _main() -> None:
    pin(core_of(sys.argv[1]))
    raise_file_limit()
    server = Server()
    print(server.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


if __name__ == "__main__":
    _main()
