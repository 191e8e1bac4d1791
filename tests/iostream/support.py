"""Streams with a plain socket at the other end, and a receiver that keeps what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from whimbrel.iostream import IOStream

Condition = Callable[[], object]


async def until(condition: Condition) -> None:
    """Let the loop run until `condition` holds."""
    while not condition():  # noqa: ASYNC110 (the test itself is bounded)
        await asyncio.sleep(0.001)


class Peer:
    """The other end: a non-blocking socket, driven by the test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer at the end of the stream."""
        received = bytearray()
        while len(received) < size:
            most = min(size - len(received), 1 << 20)
            data = await asyncio.get_running_loop().sock_recv(self.sock, most)
            if not data:
                break
            received += data
        return bytes(received)

    async def receive_all(self) -> bytes:
        return await self.receive(1 << 40)

    def reset(self) -> None:
        """Close with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets (socketpair() gives unix sockets, which know no reset).

    Their buffers are small: left alone the system lets them grow to many megabytes, by what it has
    seen of loopback before, and what is to wait in a stream would be gone at once.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)  # inherited
        one = socket.socket()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            one.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return one, other


_BUFFER = 64 * 1024


@contextlib.contextmanager
def connected(**settings: Any) -> Iterator[tuple[IOStream, Peer]]:
    """A stream and its peer, both closed at the end."""
    ours, theirs = tcp_pair()
    stream, peer = IOStream(ours, **settings), Peer(theirs)
    try:
        yield stream, peer
    finally:
        stream.close()
        peer.close()


class Told:
    """A receiver that notes what it is told."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.eof = False
        self.lost: list[BaseException | None] = []
        self.drains = 0

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def eof_received(self) -> None:
        assert not self.eof
        self.eof = True

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)

    def drained(self) -> None:
        self.drains += 1
