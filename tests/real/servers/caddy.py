"""caddy: HTTP/1.1, 2 and 3 on one port, and listeners that end the handshake of strangers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .certificates import Certificates
from .process import HOST, free_ports, require_program, running

BIG_SIZE = 1_000_000

_CONFIG = """\
{{
    admin off
    auto_https off
    http_port {spare}
    https_port {tls}
    default_bind {host}
    servers {{
        protocols h1 h2 h3
    }}
}}
https://localhost:{tls}, https://{host}:{tls} {{
    tls {certificate} {key}
    header X-Protocol {{http.request.proto}}
    root * {folder}/www
    file_server
}}
https://localhost:{mutual12}, https://{host}:{mutual12} {{
    tls {certificate} {key} {{
        protocols tls1.2 tls1.2
        {client_auth}
    }}
    respond "client known"
}}
https://localhost:{mutual13}, https://{host}:{mutual13} {{
    tls {certificate} {key} {{
        protocols tls1.3 tls1.3
        {client_auth}
    }}
    respond "client known"
}}
"""
_CLIENT_AUTH = """client_auth {{
            mode require_and_verify
            trusted_ca_cert_file {ca}
        }}"""


@dataclass(frozen=True)
class Caddy:
    tls: int  #: TCP: HTTP/1.1 and 2; UDP: HTTP/3
    mutual12: int  #: TLS 1.2; the handshake fails without a trusted client certificate
    mutual13: int  #: TLS 1.3: the refusal comes after the client's side of the handshake

    @property
    def url(self) -> str:
        return f"https://localhost:{self.tls}"


@contextmanager
def serve(folder: Path, certificates: Certificates) -> Iterator[Caddy]:
    """Run caddy with everything on loopback and no storage outside its folder."""
    program = require_program("caddy", "caddy")
    (folder / "www").mkdir(parents=True)
    (folder / "www" / "index.html").write_text("caddy\n")
    (folder / "www" / "big").write_bytes(bytes(range(250)) * (BIG_SIZE // 250))
    spare, tls, mutual12, mutual13 = free_ports(4)
    config = folder / "Caddyfile"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            host=HOST,
            spare=spare,
            tls=tls,
            mutual12=mutual12,
            mutual13=mutual13,
            certificate=certificates.server.certificate,
            key=certificates.server.key,
            client_auth=_CLIENT_AUTH.format(ca=certificates.ca),
        )
    )
    argv = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    with running(argv, folder=folder, ports=[tls, mutual12, mutual13]):
        yield Caddy(tls, mutual12, mutual13)
