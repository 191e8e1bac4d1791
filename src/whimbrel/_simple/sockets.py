"""The sockets of the simple backend: how they end where nobody closes them.

1. A client that is dropped unclosed warns for itself, if it is a private one; its sockets add
   nothing to that, and close.
2. After a fork the child closes its copies at once. It says nothing on them, and the parent's
   close reaches the peer. The loop's selector is shared with the parent and is left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import weakref

_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class Socket(socket.socket):
    """A socket that closes in silence when it is collected."""

    def __init__(self, family: int, kind: int = socket.SOCK_STREAM) -> None:
        super().__init__(family, kind)
        _open.add(self)

    def __del__(self) -> None:
        if self.fileno() != -1:  # what could not be opened lacks what close() looks at
            self.close()


class TLSSocket(ssl.SSLSocket):
    """The same with TLS on it."""

    def __del__(self) -> None:
        self.close()


def wrap_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    name: bytes,
    session: ssl.SSLSession | None = None,
) -> TLSSocket:
    """Put TLS, whose handshake is still to come, on `sock`; `name` is whom to verify.

    `session` is one of the same context, to be resumed if the peer still knows it.
    """
    # Of a connection that the peer has reset already, wrap_socket() would make a half of a socket,
    # which stays open for as long as the exception lives.
    sock.getpeername()
    # What wrap_socket() calls, on the class in sslsocket_class. That is not ours to set, even for a
    # moment: the context may be the caller's own, in use by other threads.
    wrapped: TLSSocket = TLSSocket._create(  # type: ignore[attr-defined]
        sock=sock,
        context=context,
        server_hostname=name,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,  # a cut connection must not pass for an ended one
        session=session,
    )
    _open.add(wrapped)
    return wrapped


def _close_in_child() -> None:
    for sock in list(_open):
        with contextlib.suppress(OSError):
            sock.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
