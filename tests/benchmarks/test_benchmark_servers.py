"""The servers of the benchmarks, where they are more than a configuration."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("benchmarks.servers", reason="these are the tests alone")

from benchmarks.scenarios.growth import addresses
from benchmarks.servers import running_servers
from benchmarks.servers.certificate import AUTHORITY
from benchmarks.servers.content import BODY
from benchmarks.servers.process import free_ports, run_module, running, running_line
from benchmarks.servers.raw import Chunks
from benchmarks.servers.tunnel import NAMED_PORT, tunnel

CHUNKED = b"5\r\nabcde\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, len(CHUNKED)])
def test_chunks_are_counted_however_they_come(step: int) -> None:
    chunks = Chunks()
    for at in range(0, len(CHUNKED), step):
        assert not chunks.ended
        piece = CHUNKED[at : at + step]
        chunks.take(piece, len(piece))
    assert chunks.ended
    assert chunks.size == 21


def exchange(sock: socket.socket, message: bytes) -> bytes:
    """Send a request, and read one response, which comes in one piece."""
    sock.sendall(message)
    return sock.recv(65536)


@pytest.fixture(scope="module")
def raw_port() -> Iterator[int]:
    with running_line(run_module("benchmarks.servers.raw", None), "the raw server") as url:
        yield int(url.rpartition(":")[2])


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def test_a_body_is_swallowed_and_counted(raw_port: int) -> None:
    """With a length, in chunks, and with nothing, on one connection."""
    with connect(raw_port) as sock:
        head = b"POST /swallow HTTP/1.1\r\ncontent-length: 3000000\r\n\r\n"
        assert exchange(sock, head + bytes(3_000_000)).endswith(b"\r\n\r\n3000000")
        head = b"POST /swallow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert exchange(sock, head + CHUNKED).endswith(b"\r\n\r\n21")
        assert exchange(sock, b"GET /now HTTP/1.1\r\n\r\n").endswith(BODY)


def test_an_answer_waits_for_the_last_byte(raw_port: int) -> None:
    with connect(raw_port) as sock:
        sock.sendall(b"POST /swallow HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcd")
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        assert exchange(sock, b"e").endswith(b"\r\n\r\n5")


def test_who_expects_a_100_gets_it(raw_port: int) -> None:
    with connect(raw_port) as sock:
        head = b"POST /swallow HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        assert exchange(sock, head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert exchange(sock, b"ab").endswith(b"\r\n\r\n2")


def test_responses_are_held_until_they_are_released(raw_port: int) -> None:
    """Two wait; one that gave up does not count."""
    with contextlib.ExitStack() as stack:
        left, *held, control = (stack.enter_context(connect(raw_port)) for _ in range(4))
        left.sendall(b"GET /held HTTP/1.1\r\n\r\n")
        assert exchange(control, b"GET /wait/1 HTTP/1.1\r\n\r\n").endswith(BODY)
        left.close()
        for sock in held:
            sock.sendall(b"GET /held HTTP/1.1\r\n\r\n")
        assert exchange(control, b"GET /wait/2 HTTP/1.1\r\n\r\n").endswith(BODY)
        control.sendall(b"GET /wait/3 HTTP/1.1\r\n\r\n")
        control.settimeout(0.1)
        with pytest.raises(TimeoutError):
            control.recv(1)
        with connect(raw_port) as other:
            assert exchange(other, b"GET /release HTTP/1.1\r\n\r\n").endswith(BODY)
        assert [sock.recv(1000).endswith(BODY) for sock in held] == [True, True]


def echo(listener: socket.socket) -> None:
    """Send back whatever one client sends, once it has sent all of it."""
    sock, _ = listener.accept()
    with sock:
        received = bytearray()
        while data := sock.recv(65536):
            received += data
            if received.endswith(b"end"):
                break
        sock.sendall(received)


def test_the_tunnel_moves_more_than_fits_into_its_buffers(tmp_path: Path) -> None:
    sent = os.urandom(8_000_000) + b"end"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        origin = threading.Thread(target=echo, args=(listener,))
        origin.start()
        with tunnel(port, None, tmp_path) as proxy, connect(port_of(proxy.url)) as sock:
            assert proxy.origin == f"https://127.0.0.1:{NAMED_PORT}"
            request = b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % NAMED_PORT
            assert exchange(sock, request).startswith(b"HTTP/1.1 200 ")
            sock.sendall(sent)
            with sock.makefile("rb") as file:
                assert file.read(len(sent)) == sent
        origin.join(10)
    assert not origin.is_alive()


def test_the_tunnel_leads_nowhere_else(tmp_path: Path) -> None:
    with tunnel(2, None, tmp_path) as proxy:
        assert proxy.name == "our own in C"
        for request in (b"GET http://127.0.0.1:1/", b"CONNECT 127.0.0.1:2"):
            with connect(port_of(proxy.url)) as sock:
                answer = exchange(sock, request + b" HTTP/1.1\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 403 ")


def test_a_tunnels_origin_is_not_reached_without_it(tmp_path: Path) -> None:
    with tunnel(2, None, tmp_path) as proxy, pytest.raises(ConnectionRefusedError):
        connect(port_of(proxy.origin))


def test_a_server_that_ends_early_is_named() -> None:
    (port,) = free_ports(1)
    with (
        pytest.raises(RuntimeError, match="somebody ended early"),
        running([sys.executable, "-c", "pass"], "somebody", [port], None),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match="somebody did not start"),
        running_line([sys.executable, "-c", "pass"], "somebody"),
    ):
        pass


def test_free_ports_are_free_and_distinct() -> None:
    first, second = free_ports(2)
    assert first != second
    with socket.create_server(("127.0.0.1", first)):
        assert first not in free_ports(2)


def test_addresses_are_of_loopback_and_distinct() -> None:
    found = addresses("http://127.0.0.1:8080", 1000)
    assert len(set(found)) == 1000
    assert found[0] == "http://127.0.1.1:8080"
    assert found[-1] == "http://127.0.4.250:8080"


@pytest.mark.parametrize("use_nginx", [False, True], ids=["own", "nginx"])
def test_roles(use_nginx: bool) -> None:
    """Each origin serves what it is to, the proxy wants the absolute form, and TLS is trusted."""
    with running_servers(None, None, use_nginx=use_nginx) as servers:
        roles: dict[str, Any] = {"plain": None, "tls": servers.ca_file}
        if use_nginx:
            assert servers.names["origin, and proxy for http"].startswith("nginx/")
            roles |= {"closing": None, "closing_tls": servers.ca_file, "hosts": None}
        else:
            assert "OriginServer" in servers.names["origin, and proxy for http"]
        for role, ca_file in roles.items():
            port = port_of(servers.urls[role])
            answer = b"".join(ask(port, b"/", ca_file))
            assert answer.startswith(b"HTTP/1.1 200 "), (role, answer)
            assert answer.endswith(b"\r\n\r\n" + BODY), (role, answer)
            assert (b"\r\nConnection: close" in answer) is True
        assert b"".join(ask(port_of(servers.urls["plain"]), b"/zeros/1000", None)).endswith(
            b"\r\n\r\n" + bytes(1000)
        )
        varied = b"".join(ask(port_of(servers.urls["plain"]), b"/varied/12", None, b"the id"))
        assert varied.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nX-Request-Id: the id\r\n" in varied
        assert varied.endswith(b"\r\n\r\n" + BODY)
        if use_nginx:
            refused = b"".join(ask(port_of(servers.urls["http2"]), b"/", servers.ca_file))
            assert refused.startswith(b"HTTP/1.1 400 ")
        proxy = port_of(servers.urls["proxy"])
        assert b"".join(ask(proxy, b"http://127.0.0.1:1/", None)).startswith(b"HTTP/1.1 200 ")
        assert b"".join(ask(proxy, b"/", None)).startswith(b"HTTP/1.1 400 ")


def ask(
    port: int, target: bytes, ca_file: str | None, request_id: bytes = b"none"
) -> Iterator[bytes]:
    """What a server sends until it closes."""
    with connect(port) as sock:
        if ca_file:
            assert Path(ca_file).read_text() == AUTHORITY
            context = ssl.create_default_context(cafile=ca_file)
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        with sock:
            sock.sendall(
                b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                b"X-Request-Id: %b\r\n\r\n" % (target, request_id)
            )
            while data := sock.recv(65536):
                yield data


def test_pythons_own_switches_are_kept_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that debugs itself would slow its clients down."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    code = "import sys, time; print(sys.flags.dev_mode, flush=True); time.sleep(60)"
    with running_line([sys.executable, "-c", code], "a server") as line:
        assert line == "False"
    (port,) = free_ports(1)
    serve = f"import socket, sys, time; socket.create_server(('127.0.0.1', {port}))"
    code = f"import sys; sys.exit(7) if sys.flags.dev_mode else 0; {serve}; time.sleep(60)"
    code = code.replace("; socket.create", "; listener = socket.create")
    with running([sys.executable, "-c", code], "a server", [port], None):
        pass
