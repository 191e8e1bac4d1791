"""From a route to a connection: addresses, interfaces, proxies, errors, and nothing left open."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Baseline
from whimbrel._simple import interface
from whimbrel._simple.connect import open_socket, route_of, run_handshake
from whimbrel._simple.race import interleaved
from whimbrel._simple.resolve import Address, Addresses, Resolver
from whimbrel._simple.route import Progress, Route
from whimbrel.httpclient import (
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPProxyError,
    HTTPResolveError,
    HTTPTLSError,
)
from whimbrel.testing.scripted import (
    Peer,
    ScriptedServer,
    refused_port,
    silent,
    silent_server,
    unaccepting_port,
)

from .connecting import Connector, exchange_of, tunnel_to

linux = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.0/8 and 'lo' are Linux's")

SOCKS5_YES = b"\5\0", b"\5\0\0\1\0\0\0\0\0\0"


@pytest.fixture
async def connector() -> AsyncIterator[Connector]:
    """A `Connector`, after which nothing is left open."""
    baseline = Baseline.take()
    connector = Connector()
    yield connector
    connector.close()
    await baseline.restored()


async def greeter(peer: Peer) -> None:
    """Say hello, and wait for the end."""
    await peer.send(b"hello")
    await peer.closed()


def v4(*addresses: str) -> list[Address]:
    return [Address(socket.AF_INET, address) for address in addresses]


def v6(*addresses: str) -> list[Address]:
    return [Address(socket.AF_INET6, address) for address in addresses]


# -- routes


def test_route_tells_apart_what_must_not_share() -> None:
    """Whatever decides a connection is part of its route: credentials, TLS, source, address."""
    secure = "https://a.test/"
    variants: list[dict[str, Any]] = [
        {"url": secure},
        {"url": "http://a.test/"},
        {"url": "https://b.test/"},
        {"url": "https://a.test:444/"},
        {"url": secure, "validate_cert": False},
        {"url": secure, "ca_certs": b"x"},
        {"url": secure, "network_interface": "127.0.0.1"},
        {"url": secure, "unix_socket": "/s"},
        {"url": secure, "allow_ipv6": False},
        {"url": secure, "proxy": "http://p.test:1"},
        {"url": secure, "proxy": "http://u:1@p.test:1"},
        {"url": secure, "proxy": "http://u:2@p.test:1"},
        {"url": secure, "proxy": "http://u:1@p.test:1", "proxy_auth_mode": "digest"},
        {"url": secure, "proxy": "https://p.test:1"},
        {"url": secure, "proxy": "https://p.test:1", "proxy_ssl": {"cert_reqs": ssl.CERT_NONE}},
        {"url": secure, "proxy": "socks5://p.test:1"},
        {"url": secure, "proxy": "socks5h://p.test:1"},
    ]
    routes = [route_of(exchange_of(**variant)) for variant in variants]
    assert len(set(routes)) == len(routes)
    mapped = exchange_of(secure)
    mapped.connect_to = ("127.0.0.1", 1)
    resolved = exchange_of(secure)
    resolved.connect_to, resolved.addresses = ("127.0.0.1", 1), ("127.0.0.2",)
    assert len({routes[0], route_of(mapped), route_of(resolved)}) == 3


def test_route_ignores_what_does_not_decide() -> None:
    """Path, method, headers and TLS settings that are not used make no difference."""
    one = route_of(exchange_of("http://a.test/1", headers={"A": "1"}))
    two = route_of(exchange_of("http://a.test/2", method="HEAD", ca_certs=b"x"))
    assert one == two
    assert one.tls is one.proxy_tls is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_route_of_plain_http_through_a_proxy_has_no_origin(scheme: str) -> None:
    """One connection to an http or https proxy serves plain requests to every origin."""
    proxy = f"{scheme}://u:p@p.test:1"
    one = route_of(exchange_of("http://a.test/", proxy=proxy))
    two = route_of(exchange_of("http://b.test:81/", proxy=proxy))
    assert one == two
    assert (one.host, one.port, one.is_tunnel) == ("", 0, False)
    socks = [route_of(exchange_of(f"http://{h}/", proxy="socks5://p.test:1")) for h in "ab"]
    assert socks[0] != socks[1]


def test_route_keeps_secrets() -> None:
    """No password is in the text of a route."""
    route = route_of(exchange_of("https://a.test/", proxy="http://u:s3cret@p.test:1"))
    assert "s3cret" not in repr(route)


# -- addresses


def test_interleaved() -> None:
    """RFC 8305 section 4: the IP versions take turns, and begin with the preferred one."""
    assert interleaved(v6("::1", "::2", "::3") + v4("1.1.1.1")) == [
        *v6("::1"),
        *v4("1.1.1.1"),
        *v6("::2", "::3"),
    ]
    assert interleaved(v4("1.1.1.1", "2.2.2.2") + v6("::1")) == [
        *v4("1.1.1.1"),
        *v6("::1"),
        *v4("2.2.2.2"),
    ]


async def test_matrix_39_an_address_that_refuses(connector: Connector) -> None:
    """Matrix 39: a first address that refuses starts the second at once."""
    loop = asyncio.get_running_loop()
    async with ScriptedServer(greeter) as server:
        connector.names(name_test="127.0.0.9 127.0.0.1")
        started = loop.time()
        made = await connector.connect(f"http://name.test:{server.port}/")
        assert loop.time() - started < 0.2
        assert made.remote_address == ("127.0.0.1", server.port)
        assert made.local_address is not None
        assert made.local_address[1] == server.connections[0].address[1]
        assert await made.stream.read_bytes(5) == b"hello"


async def test_matrix_39_an_address_that_is_silent(connector: Connector) -> None:
    """Matrix 39: a first address that does not answer is overtaken after a quarter second."""
    loop = asyncio.get_running_loop()
    with unaccepting_port("127.0.0.2") as port:
        async with ScriptedServer(silent, port=port) as server:
            started = loop.time()
            sock, address = await open_socket(v4("127.0.0.2", "127.0.0.1"), port)
            with sock:
                assert 0.24 <= loop.time() - started < 1
                assert address.host == "127.0.0.1"
            assert len(await server.accepted()) == 1


async def test_the_first_to_answer_wins(connector: Connector) -> None:
    """An attempt that was overtaken still wins if it answers first; the others are closed."""
    with unaccepting_port("127.0.0.2") as port:
        baseline = Baseline.take()
        addresses = v4("127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2")
        async with ScriptedServer(silent, host="127.0.0.3", port=port):
            sock, address = await open_socket(addresses, port, delay=0.01)
            assert "timers" not in baseline.surplus()
            assert address.host == "127.0.0.3"
            sock.close()
        await baseline.restored()


async def test_nothing_answers(connector: Connector) -> None:
    """All attempts fail: the error is a refusal if there was one, for it says the most."""
    with refused_port() as port:
        for addresses in (
            v4("127.0.0.1", "255.255.255.255"),
            v4("255.255.255.255", "127.0.0.1"),
            v4("255.255.255.255", "127.0.0.1", "255.255.255.255"),
        ):
            with pytest.raises(ConnectionRefusedError):
                await open_socket(addresses, port)
        with pytest.raises(OSError, match="unreachable"):
            await open_socket(v4("255.255.255.255"), port)


async def test_sockets_send_at_once(connector: Connector) -> None:
    """TCP_NODELAY is set."""
    async with ScriptedServer(silent) as server:
        made = await connector.connect(server.url())
        sock = made.stream.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_localhost_is_found_at_either_address(connector: Connector) -> None:
    """localhost leads to whichever of the loopback addresses listens."""
    for host in ("127.0.0.1", "::1"):
        async with ScriptedServer(silent, host=host) as server:
            made = await connector.connect(server.url(host="localhost"))
            assert made.remote_address == (host, server.port)


async def test_mapped_and_resolved_elsewhere(connector: Connector) -> None:
    """`connect_to` and the addresses of a custom resolver say where to connect."""
    async with ScriptedServer(silent) as server:
        for addresses in ((), ("127.0.0.9", "::1", "127.0.0.1")):
            exchange = exchange_of("http://name.test/")
            exchange.connect_to = ("127.0.0.1" if not addresses else "name.test", server.port)
            exchange.addresses = addresses
            made = await connector.connect("", exchange=exchange)
            assert made.remote_address == ("127.0.0.1", server.port)
    exchange = exchange_of("http://name.test/", allow_ipv6=False)
    exchange.connect_to, exchange.addresses = ("name.test", 9), ("::1",)
    with pytest.raises(HTTPResolveError, match=r"the name name\.test has no address"):
        await connector.connect("", exchange=exchange)


# -- errors


async def test_refused(connector: Connector) -> None:
    """A refusal says by whom, and has the system's errno."""
    with refused_port() as port:
        error = await connector.error(f"http://127.0.0.1:{port}/")
        assert isinstance(error, HTTPConnectionRefusedError)
        assert str(error) == f"Connection refused by 127.0.0.1:{port}"
        assert (error.stage, error.retryable, error.proxy) == ("connect", True, None)
        assert error.errno == errno.ECONNREFUSED
        assert isinstance(error.__cause__, ConnectionRefusedError)
        error = await connector.error(f"http://localhost:{port}/")
        assert str(error) == f"Connection refused by localhost:{port}: ::1, 127.0.0.1"


async def test_unreachable(connector: Connector) -> None:
    """Another failure of the network is named."""
    error = await connector.error("http://255.255.255.255/")
    assert type(error) is HTTPConnectError
    assert str(error) == "cannot connect to 255.255.255.255: Network is unreachable"
    assert (error.stage, error.retryable, error.errno) == ("connect", True, errno.ENETUNREACH)


async def test_unknown_name(connector: Connector) -> None:
    """A name without an address is a HTTPResolveError with the resolver's errno."""
    connector.names()
    error = await connector.error("http://name.test/")
    assert isinstance(error, HTTPResolveError)
    assert str(error) == "the name name.test has no address: Name or service not known"
    assert (error.stage, error.retryable, error.errno) == ("dns", True, socket.EAI_NONAME)


async def test_matrix_33_failures_of_the_proxy_are_its_own(connector: Connector) -> None:
    """Matrix 33: name and port of a proxy fail as the proxy's, and name it without its login."""
    connector.names()
    error = await connector.error("http://a.test/", proxy="http://u:s3cret@p.test:1")
    assert isinstance(error, HTTPProxyError)
    assert str(error) == (
        "the name of proxy http://p.test:1 has no address: Name or service not known"
    )
    assert (error.stage, error.retryable) == ("proxy-connect", True)
    assert error.proxy == "http://p.test:1"
    with refused_port() as port:
        for scheme in ("http", "https", "socks4", "socks4a", "socks5", "socks5h"):
            proxy = f"{scheme}://127.0.0.1:{port}"
            error = await connector.error("https://a.test/", proxy=proxy)
            assert isinstance(error, HTTPProxyError)
            assert str(error) == f"Connection refused: proxy {proxy}"
            assert (error.stage, error.retryable) == ("proxy-connect", True)
            assert (error.proxy, error.proxy_code) == (proxy, None)


async def test_matrix_42_out_of_descriptors(connector: Connector) -> None:
    """Matrix 42: without a free descriptor a connection fails at once, and the next one works."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ScriptedServer(greeter) as server:
        await connector.connect(server.url())  # what is imported late needs descriptors, too
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        held = []
        try:
            while True:
                held.append(socket.socket())
        except OSError:
            pass
        try:
            error = await connector.error(server.url())
            through = await connector.error("http://a.test/", proxy=server.url())
        finally:
            for sock in held:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert type(error) is HTTPConnectError
        assert str(error) == f"cannot connect to {server.address}: Too many open files"
        assert (error.stage, error.retryable) == ("connect", True)
        assert isinstance(through, HTTPProxyError)
        made = await connector.connect(server.url())
        assert await made.stream.read_bytes(5) == b"hello"


class RefusingLoop:
    """The running loop, except that it can watch no descriptor for this."""

    def __init__(self, method: str) -> None:
        self._loop = asyncio.get_running_loop()
        setattr(self, method, self._refuse)

    def _refuse(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_matrix_56_a_loop_that_cannot_watch(
    connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 56: add_writer() or add_reader() that raises fails this connection, and closes it."""
    with unaccepting_port() as port, monkeypatch.context() as patch:
        refusing = RefusingLoop("add_writer")
        patch.setattr(asyncio, "get_running_loop", lambda: refusing)
        error = await connector.error(f"http://127.0.0.1:{port}/")
        assert str(error) == f"cannot connect to 127.0.0.1:{port}: No space left on device"
    async with silent_server() as server:
        with monkeypatch.context() as patch:
            refusing = RefusingLoop("add_reader")
            patch.setattr(asyncio, "get_running_loop", lambda: refusing)
            error = await connector.error("https://a.test/", proxy=server.url(""))
            assert isinstance(error, HTTPProxyError)
            assert error.proxy == server.url("")
        await server.finished()


async def test_what_the_system_denies_in_between(connector: Connector) -> None:
    """An error that no step expects is a failure to connect, to the proxy if there is one."""

    def deny(host: str, family: int) -> Addresses:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    connector.resolver = Resolver(deny)
    error = await connector.error("http://a.test/")
    assert type(error) is HTTPConnectError
    assert str(error) == "cannot connect to a.test: Operation not permitted"
    error = await connector.error("http://a.test/", proxy="http://p.test:1")
    assert isinstance(error, HTTPProxyError)
    assert str(error) == "Operation not permitted: proxy http://p.test:1"
    assert error.proxy == "http://p.test:1"


# -- the local end


@linux
@pytest.mark.parametrize(
    ("network_interface", "host", "source"),
    [
        ("127.0.0.2", "127.0.0.1", "127.0.0.2"),
        ("::1", "::1", "::1"),
        ("lo", "127.0.0.1", "127.0.0.1"),
        ("lo", "::1", "::1"),
    ],
)
async def test_network_interface(
    connector: Connector, network_interface: str, host: str, source: str
) -> None:
    """A connection comes from the address, or the interface, that was asked for."""
    async with ScriptedServer(silent, host=host) as server:
        made = await connector.connect(server.url(), network_interface=network_interface)
        (peer,) = await server.accepted()
        assert peer.address[0] == source
        assert made.local_address is not None
        assert made.local_address[0] == source


@linux
async def test_network_interface_ties_to_the_device(connector: Connector) -> None:
    """By name, what the device does not reach cannot be reached."""
    async with ScriptedServer(silent) as server:
        made = await connector.connect(server.url(), network_interface="lo")
        option = made.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert option.rstrip(b"\0") == b"lo"


async def test_network_interface_chooses_the_ip_version(connector: Connector) -> None:
    """Of a host's addresses only those of the interface's IP version are tried."""
    async with ScriptedServer(silent) as server:
        made = await connector.connect(server.url(host="localhost"), network_interface="127.0.0.1")
        assert made.remote_address == ("127.0.0.1", server.port)


@pytest.mark.parametrize(
    "name",
    ["nope0", "\xe9th0", "lo" + "x" * 20, "192.0.2.77", "2001:db8::77", "::1", "\ud800"],
)
async def test_bad_network_interface(connector: Connector, name: str) -> None:
    """An interface that cannot be used is named, through a proxy as well; nothing is tried."""
    async with ScriptedServer(silent) as server:
        host = "[::1]" if name == "2001:db8::77" else "127.0.0.1"
        error = await connector.error(f"http://{host}:{server.port}/", network_interface=name)
        through = await connector.error(
            "http://a.test/", network_interface=name, proxy=f"http://{host}:{server.port}"
        )
        assert server.connections == []
    for found in (error, through):
        assert type(found) is HTTPConnectError
        assert found.message.startswith(f"network_interface {name!r} cannot be used: ")
        assert (found.stage, found.retryable) == ("connect", False)
    assert through.proxy is not None


class Unprivileged(socket.socket):
    """A socket of a process that may not tie sockets to devices."""

    def setsockopt(self, level: int, option: int, value: Any) -> None:  # type: ignore[override]
        if option == socket.SO_BINDTODEVICE:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        super().setsockopt(level, option, value)


@linux
@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_interface_by_name_without_permission(family: int, address: str) -> None:
    """Where the system forbids the device, an address of it is bound to."""
    with Unprivileged(family, socket.SOCK_STREAM) as sock:
        interface.bind(sock, "lo")
        assert sock.getsockname()[0] == address
    with Unprivileged(family, socket.SOCK_STREAM) as sock, pytest.raises(OSError):
        interface.bind(sock, "nope0")


_LONG_NAME = """
import fcntl, socket, struct
from whimbrel._simple import interface
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8923, struct.pack("16s16s", b"lo", b"abcdefghijklmno"))  # SIOCSIFNAME
with socket.socket() as sock:
    interface.bind(sock, "abcdefghijklmno")
with socket.socket() as sock:
    try:
        interface.bind(sock, "abcdefghijklmnoX")
    except OSError as error:
        print(error)
"""


@linux
def test_interface_with_a_name_that_begins_like_another() -> None:
    """A name too long for Linux, which would cut it, is not taken for the one it begins with."""
    unshare = ["unshare", "-rn"]  # a network of its own, whose loopback can be renamed
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False).returncode
    ):
        pytest.skip("no network namespace can be made here")
    script = [*unshare, sys.executable, "-c", _LONG_NAME]
    done = subprocess.run(script, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("[Errno 19] No such device\n", "")


# -- Unix sockets


async def test_unix_socket(connector: Connector, tmp_path: Path) -> None:
    """A Unix socket is connected to instead of the host, which needs no address."""
    connector.names()
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        made = await connector.connect("http://any.test/", unix_socket=path)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"hello")
            assert await made.stream.read_bytes(5) == b"hello"
    assert (made.remote_address, made.local_address) == (None, None)


async def test_unix_socket_with_a_full_queue(connector: Connector, tmp_path: Path) -> None:
    """A Unix socket that accepts nobody is waited for, and connected to when it does."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        url = "http://any.test/"
        await connector.connect(url, unix_socket=path)
        error = await connector.timeout_error(url, 0.1, unix_socket=path)
        assert str(error) == "Timeout while connecting to any.test"
        assert error.stage == "connect"
        waiting = asyncio.ensure_future(connector.connect(url, unix_socket=path))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        listener.accept()[0].close()
        assert (await waiting).stream.closed() is False


@pytest.mark.parametrize("name", ["missing", "x" * 200])
async def test_bad_unix_socket(connector: Connector, tmp_path: Path, name: str) -> None:
    """A Unix socket that is not there, or cannot be named, is a failure to connect."""
    error = await connector.error("http://any.test/", unix_socket=str(tmp_path / name))
    assert type(error) is HTTPConnectError
    assert error.message.startswith("cannot connect to any.test: ")
    assert (error.stage, error.retryable) == ("connect", True)


# -- time-outs


def stuck_resolver() -> Resolver:
    """A resolver whose look-ups last for seconds."""
    never = threading.Event()

    def look_up(host: str, family: int) -> Addresses:
        never.wait(5)
        return ()

    return Resolver(look_up)


@pytest.mark.parametrize(
    ("options", "text", "stage"),
    [
        ({}, "Timeout while resolving name.test", "dns"),
        ({"proxy": "http://p.test:1"}, "Timeout while resolving proxy p.test", "proxy-connect"),
    ],
)
async def test_timeout_while_resolving(
    connector: Connector, options: dict[str, Any], text: str, stage: str
) -> None:
    """A look-up that never ends times out as one, of the origin or of the proxy."""
    connector.resolver = stuck_resolver()
    error = await connector.timeout_error("http://name.test/", 0.05, **options)
    assert (str(error), error.stage, error.retryable) == (text, stage, True)
    assert error.proxy == options.get("proxy")


async def test_timeout_while_connecting(connector: Connector) -> None:
    """So does a port that accepts nobody."""
    with unaccepting_port() as port:
        error = await connector.timeout_error(f"https://127.0.0.1:{port}/", 0.05)
        assert str(error) == f"Timeout while connecting to 127.0.0.1:{port}"
        assert error.stage == "connect"
        proxy = f"socks5://127.0.0.1:{port}"
        error = await connector.timeout_error("http://a.test/", 0.05, proxy=proxy)
        assert str(error) == f"Timeout while connecting to proxy {proxy}"
        assert error.stage == "proxy-connect"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("https://a.test/", "http"),
        ("https://a.test/", "https"),
        ("http://a.test/", "https"),
        ("http://a.test/", "socks5h"),
        ("https://a.test/", "socks4a"),
    ],
)
async def test_timeout_of_a_tunnel(connector: Connector, url: str, scheme: str) -> None:
    """A proxy that accepts and is silent was to make a tunnel."""
    async with silent_server() as server:
        proxy = server.url("", scheme=scheme)
        error = await connector.timeout_error(url, 0.05, proxy=proxy)
        assert str(error) == f"Timeout while proxy {proxy} was to make a tunnel"
        assert (error.stage, error.proxy) == ("tunnel", proxy)
        await server.finished()


async def test_timeout_of_tls(connector: Connector) -> None:
    """The handshake with the origin times out as such, directly and through a tunnel."""

    async def tunnel(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.closed()

    async with silent_server() as server:
        error = await connector.timeout_error(server.url(scheme="https"), 0.05)
        assert str(error) == f"Timeout during TLS handshake with {server.address}"
        assert error.stage == "tls"
    async with ScriptedServer(tunnel) as proxy:
        error = await connector.timeout_error("https://a.test/", 0.1, proxy=proxy.url())
        assert str(error) == "Timeout during TLS handshake with a.test:443"
        assert (error.stage, error.proxy_code) == ("tls", 200)


async def test_progress_keeps_time(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Each step has a time, later than the one before; what did not happen has none."""
    async with ScriptedServer(silent, server_context) as server:
        await connector.connect(server.url(), ca_certs=certificates.ca_file)
        progress = connector.progress
        assert progress is not None
        assert 0 < progress.namelookup < progress.connect < progress.appconnect < 5
    async with ScriptedServer(silent) as server:
        await connector.connect(server.url())
        progress = connector.progress
        assert progress is not None
        assert 0 < progress.namelookup < progress.connect
        assert progress.appconnect == 0


# -- SOCKS


def socks5(*, then: bytes = b"", seen: list[bytes] | None = None) -> Callable[[Peer], Any]:
    """A SOCKS5 proxy without login; `then` follows its last answer in the same piece."""

    async def handler(peer: Peer) -> None:
        method, connected = SOCKS5_YES
        await peer.read_exactly(3)
        await peer.send(method)
        request = await peer.read_some()
        if seen is not None:
            seen.append(request)
        await peer.send(connected + then)
        await peer.closed()

    return handler


async def test_socks_leaves_what_follows(connector: Connector) -> None:
    """What comes right behind the handshake of a SOCKS proxy is the origin's, and is not lost."""
    async with ScriptedServer(socks5(then=b"HTTP/1.1 ")) as proxy:
        made = await connector.connect("http://a.test/", proxy=proxy.url(scheme="socks5h"))
        assert await made.stream.read_bytes(9) == b"HTTP/1.1 "
        assert (made.proxy_code, made.proxy_lines) == (None, [])
        assert made.remote_address == ("127.0.0.1", proxy.port)


async def test_socks_bytes_are_not_taken_for_tls(connector: Connector) -> None:
    """What is no TLS right behind the handshake fails TLS, rather than to vanish."""
    async with ScriptedServer(socks5(then=b"garbage")) as proxy:
        error = await connector.error("https://a.test/", proxy=proxy.url(scheme="socks5h"))
        assert isinstance(error, HTTPTLSError)
        assert error.message.startswith("TLS handshake with a.test failed: ")


@pytest.mark.parametrize(
    ("scheme", "names", "destination"),
    [
        ("socks5h", {}, b"\3\6a.test"),
        ("socks5", {"a_test": "127.0.0.9"}, b"\1\x7f\0\0\x09"),
        ("socks5", {"a_test": "::9"}, b"\4" + bytes(15) + b"\x09"),
    ],
)
async def test_socks_names(
    connector: Connector, scheme: str, names: dict[str, str], destination: bytes
) -> None:
    """socks5 resolves the origin's name here, socks5h leaves that to the proxy."""
    connector.names(**names)
    seen: list[bytes] = []
    async with ScriptedServer(socks5(seen=seen)) as proxy:
        await connector.connect("http://a.test:81/", proxy=proxy.url(scheme=scheme))
    assert seen == [b"\5\1\0" + destination + b"\0\x51"]


async def test_socks_with_an_address_from_elsewhere(connector: Connector) -> None:
    """A mapping, and a resolver of one's own, count for socks5 as well."""
    seen: list[bytes] = []
    async with ScriptedServer(socks5(seen=seen)) as proxy:
        exchange = exchange_of("http://a.test/", proxy=proxy.url(scheme="socks5"))
        exchange.connect_to, exchange.addresses = ("a.test", 82), ("127.0.0.8",)
        await connector.connect("", exchange=exchange)
    assert seen == [b"\5\1\0\1\x7f\0\0\x08\0\x52"]


async def test_socks4_takes_ipv4_only(connector: Connector) -> None:
    """SOCKS4 gets an IPv4 address though IPv6 is preferred; of an IPv6 host it has none."""
    seen: list[bytes] = []

    async def socks4(peer: Peer) -> None:
        seen.append(await peer.read_exactly(9))
        await peer.send(b"\0\x5a" + bytes(6))
        await peer.closed()

    connector.names(a_test="::9 127.0.0.9")
    async with ScriptedServer(socks4) as proxy:
        url = proxy.url("", scheme="socks4")
        await connector.connect("http://a.test/", proxy=url)
        assert seen == [b"\4\1\0\x50\x7f\0\0\x09\0"]
        error = await connector.error("http://[::1]/", proxy=url)
        assert isinstance(error, HTTPProxyError)
        assert "has no address here" in str(error)
        assert error.stage == "tunnel"


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
async def test_socks_with_an_unknown_name(connector: Connector, scheme: str) -> None:
    """An origin whose name has no address fails as the origin's, though a proxy was to be used."""

    async def handler(peer: Peer) -> None:
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        connector.names()
        url = proxy.url("", scheme=scheme)
        error = await connector.error("http://a.test/", proxy=url)
        assert isinstance(error, HTTPResolveError)
        assert (error.stage, error.proxy) == ("dns", url)


async def test_socks_proxy_that_leaves(connector: Connector) -> None:
    """A proxy that closes, or resets, within its handshake has failed."""

    async def closes(peer: Peer) -> None:
        await peer.read_some()
        await peer.send(b"\5")

    async def resets(peer: Peer) -> None:
        await peer.read_some()
        peer.reset()

    for handler in (closes, resets):
        async with ScriptedServer(handler) as proxy:
            url = proxy.url("", scheme="socks5h")
            error = await connector.error("http://a.test/", proxy=url)
            assert isinstance(error, HTTPProxyError)
            assert str(error) == f"proxy {url}: it closed the connection"
            assert (error.stage, error.proxy) == ("tunnel", url)


async def test_handshake_in_pieces(connector: Connector) -> None:
    """Bytes are sent and gathered however the kernel takes and gives them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        received: list[bytes] = []

        def steps() -> Any:
            received.append((yield b"x" * 300_000))
            received.append((yield 3))
            received.append((yield 2))

        async def peer() -> None:
            left = 300_000
            while left:
                left -= len(await loop.sock_recv(theirs, left))
            for byte in (b"a", b"b", b"c", b"d", b"ef"):
                await loop.sock_sendall(theirs, byte)
                await asyncio.sleep(0.001)

        await asyncio.gather(run_handshake(ours, steps()), peer())
        assert received == [b"", b"abc", b"de"]
        assert ours.recv(10) == b"f"


# -- CONNECT


async def test_tunnel(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Through CONNECT the origin is spoken to in TLS, and the proxy's answer is kept."""

    async def handler(peer: Peer) -> None:
        assert (await peer.read_head()).target == "localhost:443"
        await peer.start_tls(server_context, b"HTTP/1.1 200 Fine\r\nX-Via: p\r\n\r\n")
        await greeter(peer)

    async with ScriptedServer(handler) as proxy:
        made = await connector.connect(
            "https://localhost/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert await made.stream.read_bytes(5) == b"hello"
        assert made.proxy_code == 200
        assert [line.rstrip() for line in made.proxy_lines][:2] == [
            b"HTTP/1.1 200 Fine",
            b"X-Via: p",
        ]


async def test_tunnel_refused(connector: Connector) -> None:
    """The status of a proxy that makes no tunnel is in the error."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await peer.closed()

    async with ScriptedServer(handler) as proxy:
        error = await connector.error("https://a.test/", proxy=proxy.url())
        assert isinstance(error, HTTPProxyError)
        assert (error.stage, error.proxy_code, error.retryable) == ("tunnel", 502, True)


async def test_digest_needs_a_second_connection(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """A proxy that closes after its challenge is answered on a new connection."""

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        if request.get("Proxy-Authorization") is None:
            await peer.send(
                b"HTTP/1.1 407 Who?\r\nConnection: close\r\nContent-Length: 0\r\n"
                b'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n'
            )
            return
        await peer.start_tls(server_context, b"HTTP/1.1 200 Fine\r\n\r\n")
        await greeter(peer)

    async with ScriptedServer(handler) as proxy:
        made = await connector.connect(
            "https://localhost/",
            proxy=proxy.url(userinfo="u:p"),
            proxy_auth_mode="digest",
            ca_certs=certificates.ca_file,
        )
        assert made.proxy_code == 200
        assert len(proxy.connections) == 2
        await made.stream.read_bytes(5)


# -- cancellation


async def test_matrix_46_cancelled_in_every_phase(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Matrix 46: whenever it is cancelled, an attempt to connect leaves no descriptor, no timer."""
    chance = random.Random(46)
    async with (
        ScriptedServer(silent, server_context) as origin,
        ScriptedServer(tunnel_to(origin.port), server_context) as proxy,
    ):
        options = {"proxy": proxy.url("", host="name.test"), "ca_certs": certificates.ca_file}
        options["proxy_ssl"] = ssl.create_default_context(cafile=certificates.ca_file)
        options["proxy_ssl"].check_hostname = False
        connector.names(name_test="127.0.0.9 127.0.0.1")
        baseline = Baseline.take()
        for _ in range(60):
            task = asyncio.ensure_future(connector.connect("https://localhost/", **options))
            await asyncio.wait([task], timeout=chance.uniform(0, 0.02))
            if task.cancel():
                await asyncio.wait([task])
            else:
                task.result().stream.close()
        made = await connector.connect("https://localhost/", **options)
        made.stream.close()
        await proxy.finished()
        await origin.finished()
        await baseline.restored()


async def test_cancelled_at_the_moment_of_success(connector: Connector) -> None:
    """A connection that stands when its caller is cancelled is closed."""
    async with ScriptedServer(silent) as server:
        baseline = Baseline.take()
        loop = asyncio.get_running_loop()
        for turns in range(6):
            task = loop.create_task(open_socket(v4("127.0.0.1"), server.port))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                await asyncio.wait([task])
                assert task.cancelled()
            else:
                task.result()[0].close()
        await server.finished()
        await baseline.restored()


def test_progress_of_a_fresh_route() -> None:
    """Nothing has happened yet: the first thing to time out is the name."""
    exchange = exchange_of("http://name.test/")
    route = route_of(exchange)
    assert isinstance(route, Route)
    progress = Progress(route)
    assert (progress.stage, progress.namelookup, progress.connect) == ("dns", 0, 0)
    assert progress.timeout_error(exchange).stage == "dns"
