"""Fixtures of the real-servers lane: a server runs once per session, and only when asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .servers import (
    apache,
    caddy,
    certificates,
    httpbin,
    kerberos,
    nginx,
    process,
    socks,
    squid,
    tinyproxy,
)
from .support import Origin

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.real)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the very end, where nobody misses it, what was not exercised."""
    if not process.missing:
        return
    terminalreporter.section("REAL SERVERS MISSING", sep="!", red=True, bold=True)
    for name, remedy in sorted(process.missing.items()):
        terminalreporter.line(f"not exercised: {name:<24} ({remedy})", red=True)
    terminalreporter.line(
        f"Tests that need them were skipped; with {process.REQUIRE_REAL}=1 they fail."
    )


@pytest.fixture(scope="session", autouse=True)
def scratch() -> Iterator[Path]:
    """A folder for the servers, which neither they nor it outlive.

    Not below pytest's own temporary folder, which only its owner may enter: servers that are
    started by root go on as users of their own and have to read their files.
    """
    folder = Path(tempfile.mkdtemp(prefix="whimbrel-real-"))
    folder.chmod(0o755)
    with process.guarded(folder):
        yield folder


@pytest.fixture(scope="session")
def certs(scratch: Path) -> certificates.Certificates:
    return certificates.issue(scratch / "certificates")


@pytest.fixture(scope="session")
def httpbin_server(scratch: Path) -> Iterator[httpbin.Httpbin]:
    with httpbin.serve(scratch / "httpbin") as server:
        yield server


@pytest.fixture(scope="session")
def httpbin_tls_port(
    scratch: Path, certs: certificates.Certificates, httpbin_server: httpbin.Httpbin
) -> Iterator[int]:
    with nginx.tls_front(scratch / "httpbin-tls", certs, httpbin_server.port) as port:
        yield port


@pytest.fixture(scope="session")
def nginx_server(scratch: Path, certs: certificates.Certificates) -> Iterator[nginx.Nginx]:
    with nginx.serve(scratch / "nginx", certs) as server:
        yield server


@pytest.fixture(scope="session")
def apache_server(scratch: Path) -> Iterator[apache.Apache]:
    with apache.serve(scratch / "apache") as server:
        yield server


@pytest.fixture(scope="session")
def squid_basic(scratch: Path, certs: certificates.Certificates) -> Iterator[squid.Squid]:
    with squid.serve(scratch / "squid-basic", certs, "basic") as server:
        yield server


@pytest.fixture(scope="session")
def squid_digest(scratch: Path, certs: certificates.Certificates) -> Iterator[squid.Squid]:
    with squid.serve(scratch / "squid-digest", certs, "digest") as server:
        yield server


@pytest.fixture(scope="session")
def kerberos_realm(scratch: Path) -> Iterator[kerberos.Realm]:
    with kerberos.serve(scratch / "kerberos") as realm:
        yield realm


@pytest.fixture(scope="session")
def kerberos_origin(
    scratch: Path, kerberos_realm: kerberos.Realm, httpbin_server: httpbin.Httpbin
) -> Iterator[str]:
    """httpbin, for whoever has a ticket."""
    with kerberos.apache_front(
        scratch / "apache-kerberos", kerberos_realm, httpbin_server.port
    ) as port:
        yield f"http://localhost:{port}"


@pytest.fixture(scope="session")
def squid_negotiate(
    scratch: Path, certs: certificates.Certificates, kerberos_realm: kerberos.Realm
) -> Iterator[squid.Squid]:
    with squid.serve(scratch / "squid-negotiate", certs, "negotiate", kerberos_realm) as server:
        yield server


@pytest.fixture(scope="session")
def socks5(scratch: Path) -> Iterator[socks.Socks]:
    """SOCKS5, no login asked."""
    with socks.microsocks(scratch / "socks5", auth=False) as server:
        yield server


@pytest.fixture(scope="session")
def socks5_auth(scratch: Path) -> Iterator[socks.Socks]:
    """SOCKS5 with user and password."""
    with socks.microsocks(scratch / "socks5-auth", auth=True) as server:
        yield server


@pytest.fixture(scope="session")
def socks4(scratch: Path) -> Iterator[socks.Socks]:
    with socks.pproxy(scratch / "socks4", "socks4") as server:
        yield server


@pytest.fixture(scope="session")
def socks4_auth(scratch: Path) -> Iterator[socks.Socks]:
    """SOCKS4 that knows one user id."""
    with socks.pproxy(scratch / "socks4-auth", "socks4", socks.USER) as server:
        yield server


@pytest.fixture(scope="session")
def dante(scratch: Path) -> Iterator[socks.Socks]:
    """SOCKS5 and SOCKS4, no login asked."""
    with socks.dante(scratch / "dante") as server:
        yield server


@pytest.fixture(scope="session")
def pproxy_http(scratch: Path) -> Iterator[socks.Socks]:
    """An HTTP proxy with Basic."""
    login = f"{socks.USER}:{socks.PASSWORD}"
    with socks.pproxy(scratch / "pproxy-http", "http", login) as server:
        yield server


@pytest.fixture(scope="session")
def tinyproxy_server(scratch: Path) -> Iterator[tinyproxy.Tinyproxy]:
    with tinyproxy.serve(scratch / "tinyproxy") as server:
        yield server


@pytest.fixture(scope="session")
def caddy_server(scratch: Path, certs: certificates.Certificates) -> Iterator[caddy.Caddy]:
    with caddy.serve(scratch / "caddy", certs) as server:
        yield server


@pytest.fixture(params=["plain", "tls"])
def origin(request: pytest.FixtureRequest, certs: certificates.Certificates) -> Origin:
    """httpbin, over plain TCP and behind TLS."""
    if request.param == "plain":
        return Origin(request.getfixturevalue("httpbin_server").url)
    port = request.getfixturevalue("httpbin_tls_port")
    return Origin(f"https://localhost:{port}", {"ca_certs": str(certs.ca)})


@pytest.fixture(params=["plain", "tls"])
def seen_origin(
    request: pytest.FixtureRequest, nginx_server: nginx.Nginx, certs: certificates.Certificates
) -> Origin:
    """nginx, over plain TCP and TLS: ``/seen`` tells what reached it."""
    if request.param == "plain":
        return Origin(nginx_server.url)
    return Origin(nginx_server.tls_url, {"ca_certs": str(certs.ca)})
