"""nginx: HTTP/1.1 and 2, TLS in good and bad order, client certificates, a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .certificates import Certificates, KeyPair
from .process import HOST, free_ports, require_program, running

#: What ``/seen`` answers: the request as the server saw it (JSON, every value a string).
_SEEN = {
    "connection": "$connection",
    "connection_requests": "$connection_requests",
    "protocol": "$server_protocol",
    "remote_address": "$remote_addr",
    "remote_port": "$remote_port",
    "host": "$http_host",
    "authorization": "$http_authorization",
    "proxy_authorization": "$http_proxy_authorization",
    "tls": "$ssl_protocol",
    "cipher": "$ssl_cipher",
    "server_name": "$ssl_server_name",
    "client": "$ssl_client_s_dn",
}
BIG_SIZE = 1_000_000
SMALL = "a small file"
SLOW_SIZE = 32 * 1024
#: /slow/file takes about this long (nginx sends the first second's share, then pauses).
SLOW_SECONDS = 1.0

_MAIN = """\
daemon off;
master_process off;
worker_rlimit_nofile 4096;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    client_max_body_size 64m;
    keepalive_requests 100000;
    http2_max_concurrent_streams 128;
{servers}
}}
"""

_SERVER = """\
    server {{
{listen}
{directives}
    }}
"""

_CONTENT = """\
        root {folder}/www;
        add_header X-Connection $connection always;
        location = /seen {{ default_type application/json; return 200 '{seen}'; }}
        location /slow/ {{ alias {folder}/www/slow/; limit_rate {rate}; }}
        location = /moved {{ return 302 /seen; }}
"""


@dataclass(frozen=True)
class Nginx:
    """Ports by what listens there; all on 127.0.0.1, ``plain`` and ``tls`` also on ::1."""

    plain: int
    tls: int  #: HTTP/2 and HTTP/1.1
    tls_http1: int  #: HTTP/1.1 alone
    tls12: int  #: TLS 1.2 at most
    h2c: int  #: HTTP/2 without TLS, by prior knowledge
    client_certificate: int  #: answers 400 to a request without a trusted client certificate
    wrong_name: int
    expired: int
    unix_socket: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.plain}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls}"


def _tls(listen: str, pair: KeyPair, *extra: str) -> str:
    lines = [
        "ssl_protocols TLSv1.2 TLSv1.3;",
        f"ssl_certificate {pair.certificate};",
        f"ssl_certificate_key {pair.key};",
        *extra,
    ]
    if any(line.startswith("ssl_protocols") for line in extra):
        del lines[0]
    return "\n".join(f"        {line}" for line in [listen, *lines])


@contextmanager
def serve(folder: Path, certificates: Certificates) -> Iterator[Nginx]:
    """Run nginx with one listener for each case."""
    program = require_program("nginx", "nginx")
    content = folder / "www"
    (content / "slow").mkdir(parents=True)
    (content / "index.html").write_text("nginx\n")
    (content / "small").write_text(SMALL)
    (content / "big").write_bytes(bytes(range(250)) * (BIG_SIZE // 250))
    (content / "slow" / "file").write_bytes(b"s" * SLOW_SIZE)

    ports = free_ports(8)
    plain, tls, tls_http1, tls12, h2c, client_certificate, wrong_name, expired = ports
    nginx = Nginx(*ports, unix_socket=folder / "nginx.sock")
    server = certificates.server
    listeners = [
        f"        listen {HOST}:{plain};\n        listen [::1]:{plain};\n"
        f"        listen unix:{nginx.unix_socket};",
        _tls(f"listen {HOST}:{tls} ssl http2; listen [::1]:{tls} ssl http2;", server),
        _tls(f"listen {HOST}:{tls_http1} ssl;", server),
        _tls(f"listen {HOST}:{tls12} ssl;", server, "ssl_protocols TLSv1.2;"),
        f"        listen {HOST}:{h2c} http2;",
        _tls(
            f"listen {HOST}:{client_certificate} ssl http2;",
            server,
            f"ssl_client_certificate {certificates.ca};",
            "ssl_verify_client on;",
        ),
        _tls(f"listen {HOST}:{wrong_name} ssl;", certificates.wrong_name),
        _tls(f"listen {HOST}:{expired} ssl;", certificates.expired),
    ]
    seen = "{" + ", ".join(f'"{key}": "{value}"' for key, value in _SEEN.items()) + "}"
    directives = _CONTENT.format(folder=folder, seen=seen, rate=SLOW_SIZE)
    servers = "".join(_SERVER.format(listen=each, directives=directives) for each in listeners)
    with _running(program, folder, servers, ports):
        yield nginx


@contextmanager
def tls_front(folder: Path, certificates: Certificates, backend: int) -> Iterator[int]:
    """Run nginx as the TLS side (HTTP/2 and 1.1) of an origin; yields its port.

    Chunked uploads reach the origin with a Content-Length, and replies as they come.
    """
    program = require_program("nginx", "nginx")
    folder.mkdir()
    (port,) = free_ports(1)
    listen = _tls(
        f"listen {HOST}:{port} ssl http2; listen [::1]:{port} ssl http2;", certificates.server
    )
    directives = (
        f"        location / {{ proxy_pass http://{HOST}:{backend}; proxy_http_version 1.1;"
        " proxy_set_header Host $http_host; proxy_buffering off; }"
    )
    servers = _SERVER.format(listen=listen, directives=directives)
    with _running(program, folder, servers, [port]):
        yield port


@contextmanager
def _running(program: str, folder: Path, servers: str, ports: list[int]) -> Iterator[None]:
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(folder=folder, servers=servers))
    argv = [program, "-p", str(folder), "-e", str(folder / "start.log"), "-c", str(config)]
    with running(argv, folder=folder, ports=ports):
        yield
