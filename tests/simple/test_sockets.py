"""Sockets that nobody closes: ``_simple/sockets.py``."""

from __future__ import annotations

import gc
import os
import select
import socket
import ssl
import struct
import sys
import threading
import warnings

import pytest

from conftest import Certificates
from whimbrel._simple import sockets
from whimbrel._simple.sockets import Socket, TLSSocket, wrap_tls


def test_a_forgotten_socket_closes_in_silence() -> None:
    """The client warns for itself; its sockets add nothing, and their descriptors are free."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, warnings.catch_warnings():
        warnings.simplefilter("error")
        sock = Socket(socket.AF_INET)
        sock.connect(listener.getsockname())
        peer, _ = listener.accept()
        with peer:
            del sock
            gc.collect()
            peer.settimeout(5)
            assert peer.recv(1) == b""


def test_a_forgotten_tls_socket_closes_in_silence(certificates: Certificates) -> None:
    """The same with TLS on it."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    ours, theirs = socket.socketpair()
    with theirs, warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = wrap_tls(ours, context, b"localhost")
        assert isinstance(wrapped, TLSSocket)
        del wrapped, ours
        gc.collect()
        theirs.settimeout(5)
        assert theirs.recv(1) == b""


def test_the_callers_context_stays_as_it_was(certificates: Certificates) -> None:
    """It may be used elsewhere; also when wrapping fails."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    ours, theirs = socket.socketpair()
    with theirs, wrap_tls(ours, context, b"localhost"):
        assert context.sslsocket_class is ssl.SSLSocket
    closed = socket.socket()
    closed.close()
    with pytest.raises(OSError):
        wrap_tls(closed, context, b"localhost")
    assert context.sslsocket_class is ssl.SSLSocket


def test_one_context_in_many_threads(certificates: Certificates) -> None:
    """Nothing of the context is changed, even for a moment: another thread may be wrapping."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    kinds: set[type] = set()
    theirs: set[type] = set()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(300):
                for wrap, found in ((_wrap_as_anyone, theirs), (wrap_tls, kinds)):
                    ours, peer = socket.socketpair()
                    with peer, wrap(ours, context, b"localhost") as wrapped:
                        found.add(type(wrapped))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures
    assert (kinds, theirs) == ({TLSSocket}, {ssl.SSLSocket})


def _wrap_as_anyone(sock: socket.socket, context: ssl.SSLContext, name: bytes) -> ssl.SSLSocket:
    return context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)


def test_a_socket_that_was_reset_stays_its_owners(certificates: Certificates) -> None:
    """Wrapping fails before anything is made of it, so that whoever has it can close it."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    with socket.create_server(("127.0.0.1", 0)) as listener, Socket(socket.AF_INET) as sock:
        sock.connect(listener.getsockname())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert select.select([sock], [], [], 5)[0]
        with pytest.raises(OSError):
            wrap_tls(sock, context, b"localhost")
        assert sock.fileno() != -1


def test_matrix_54_a_child_closes_its_copies() -> None:
    """So that the parent's close reaches the peer, though the child lives on."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        sock = Socket(socket.AF_INET)
        sock.connect(listener.getsockname())
        peer, _ = listener.accept()
        release, wait = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other tests' threads
            child = os.fork()
        if not child:  # pragma: no cover (another process)
            os.close(wait)
            os.read(release, 1)
            os._exit(0 if not sockets._open else 1)
        try:
            sock.close()
            with peer:
                assert select.select([peer], [], [], 5)[0]
                assert peer.recv(1) == b""
        finally:
            os.close(wait)
            os.close(release)
            assert os.waitpid(child, 0)[1] == 0
