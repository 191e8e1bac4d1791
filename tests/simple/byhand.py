"""A server's end that is driven from the test itself, one system call at a time.

`ScriptedServer` lives on the client's loop, and so cannot act while that loop stands still. Here
everything is synchronous once the connection is accepted, with TLS and without.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator


class HandPeer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.requests: list[bytes] = []

    def read_head(self) -> bytes:
        """Read a request; a body that has come with it is thrown away."""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the client left")
            head += data
        self.requests.append(head)
        return head

    def send(self, *pieces: bytes) -> None:
        """Send the pieces in one segment; with TLS each is a record of its own, at least."""
        cork = (socket.IPPROTO_TCP, socket.TCP_CORK)
        self.socket.setsockopt(*cork, 1)
        for piece in pieces:
            self.socket.sendall(piece)
        self.socket.setsockopt(*cork, 0)

    def reset(self) -> None:
        """Send a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw_close()

    def drop(self) -> None:
        """Send a FIN; TLS says no goodbye."""
        self._raw_close()

    def _raw_close(self) -> None:
        if isinstance(self.socket, ssl.SSLSocket):
            socket.socket(fileno=self.socket.detach()).close()
        else:
            self.socket.close()

    def left(self) -> bool:
        """Wait until the client closes or resets; whatever it sends before is an error."""
        try:
            return self.socket.recv(1) == b""
        except OSError:
            return True


class HandServer:
    """Listens on loopback; `meet` accepts one connection."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.peers: list[HandPeer] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self.port: int = self._listener.getsockname()[1]

    def url(self, path: str = "/") -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}{path}"

    def _accept(self) -> HandPeer:
        sock, _ = self._listener.accept()
        sock.settimeout(10)
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        self.peers.append(HandPeer(sock))
        return self.peers[-1]

    async def meet(self) -> HandPeer:
        """Accept a connection while the loop runs: the handshake takes two."""
        return await asyncio.to_thread(self._accept)

    async def serve_one(self, *pieces: bytes) -> HandPeer:
        """Accept a connection, read a request and answer it."""

        def serve() -> HandPeer:
            peer = self._accept()
            peer.read_head()
            peer.send(*pieces)
            return peer

        return await asyncio.to_thread(serve)

    def close(self) -> None:
        self._listener.close()
        for peer in self.peers:
            peer.socket.close()


@contextlib.contextmanager
def hand_server(context: ssl.SSLContext | None = None) -> Iterator[HandServer]:
    """A `HandServer` that is closed at the end."""
    server = HandServer(context)
    try:
        yield server
    finally:
        server.close()
