"""nginx, in one process and on one core, in every role that it can play."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.servers.certificate import CERTIFICATE, KEY
from benchmarks.servers.content import BODY, REQUEST_ID, SIZES
from benchmarks.servers.process import free_ports, raise_file_limit, running

# One process without a master, so that one call pins all of it.
#
# The proxy answers by itself, as one with a cache does: two hops on one core would measure nginx,
# not the client. It insists on the absolute form, which only a client that means a proxy sends.
#
# The hosts and proxies are addresses of 127.0.0.0/8. "allow" has no say over "return".
_CONFIG: Final = """\
daemon off;
master_process off;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type text/plain;
    sendfile on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    http2_max_concurrent_streams 1000;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    server {{
        listen 127.0.0.1:{plain} backlog=4096;
        listen 127.0.0.1:{tls} ssl backlog=4096;
        location = / {{ return 200 "{body}"; }}
        location /varied/ {{ add_header {request_id} ${request_id_variable}; return 200 "{body}"; }}
        location /zeros/ {{ root {folder}; }}
    }}
    server {{
        listen 127.0.0.1:{http2} ssl http2 backlog=4096;
        if ($server_protocol != "HTTP/2.0") {{ return 400; }}
        location = / {{ return 200 "{body}"; }}
    }}
    server {{
        listen 127.0.0.1:{closing} backlog=4096;
        listen 127.0.0.1:{closing_tls} ssl backlog=4096;
        keepalive_timeout 0;
        location = / {{ return 200 "{body}"; }}
    }}
    server {{
        listen {hosts} backlog=4096;
        if ($server_addr !~ "^127\\.") {{ return 403; }}
        location = / {{ return 200 "{body}"; }}
    }}
    server {{
        listen {proxy} backlog=4096;
        if ($server_addr !~ "^127\\.") {{ return 403; }}
        if ($request !~ "^GET http://") {{ return 400; }}
        location = / {{ return 200 "{body}"; }}
    }}
}}
"""
_SCHEMES: Final = {
    "plain": "http",
    "tls": "https",
    "http2": "https",
    "closing": "http",
    "closing_tls": "https",
    "hosts": "http",
    "proxy": "http",
}


@contextlib.contextmanager
def nginx(program: str, core: int | None, folder: Path) -> Iterator[dict[str, str]]:
    """Run it, with its files in `folder`; the URLs of its roles, without a path."""
    zeros = folder / "zeros"
    zeros.mkdir()
    for size in SIZES:
        with open(zeros / str(size), "wb") as file:
            file.truncate(size)  # a hole, which takes no room on the disk
        with open(zeros / str(size), "rb") as file:
            while file.read(1 << 20):
                pass  # into the system's cache, for which the first client would pay
    # Where it is started by root, it serves as another user, who has to get at them.
    folder.chmod(0o755)
    (folder / "certificate.pem").write_text(CERTIFICATE)
    (folder / "key.pem").write_text(KEY)
    ports = dict(zip(_SCHEMES, free_ports(len(_SCHEMES)), strict=True))
    files = raise_file_limit()
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            files=files,
            connections=files * 3 // 4,
            body=BODY.decode(),
            request_id=REQUEST_ID,
            request_id_variable=f"http_{REQUEST_ID.lower().replace('-', '_')}",
            **ports,
        )
    )
    command = [program, "-p", str(folder), "-c", str(config)]
    with running(command, "nginx", list(ports.values()), core):
        yield {role: f"{_SCHEMES[role]}://127.0.0.1:{port}" for role, port in ports.items()}


def find_nginx() -> str | None:
    """The path of nginx, which Debian keeps out of users' PATH; None without it."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def nginx_version(program: str) -> str:
    """What it calls itself, like "nginx/1.22.1"."""
    answer = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    return answer.stderr.strip().removeprefix("nginx version: ")
