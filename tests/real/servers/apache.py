"""apache httpd: mod_auth_digest as an origin and as a forward proxy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import HOST, free_ports, require_file, require_program, running

REALM = "real servers"
USERS = {
    "alice": "secret",
    "bob": "hunter2",
    "zoe": "pässwörd-日本",
}

_MODULES = [
    "mpm_event",
    "authn_core",
    "authn_file",
    "authz_core",
    "authz_user",
    "auth_digest",
    "proxy",
    "proxy_http",
    "proxy_connect",
]
_MODULE_FOLDERS = ("/usr/lib/apache2/modules", "/usr/libexec/apache2", "/usr/lib64/httpd/modules")

_CONFIG = """\
ServerRoot {folder}
ServerName localhost
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
LogLevel warn
Mutex file:{folder} default
{basics}
Listen {host}:{origin}
Listen {host}:{proxy}
DocumentRoot {folder}/www
<Directory {folder}/www>
    Require all granted
</Directory>
<Location /digest>
    AuthType Digest
    AuthName "{realm}"
    AuthDigestProvider file
    AuthUserFile {folder}/users
    Require valid-user
</Location>
<VirtualHost {host}:{proxy}>
    ProxyRequests On
    ProxyVia Off
    AllowCONNECT 1-65535
    <Proxy *>
        AuthType Digest
        AuthName "{realm}"
        AuthDigestProvider file
        AuthUserFile {folder}/users
        Require valid-user
    </Proxy>
</VirtualHost>
"""


@dataclass(frozen=True)
class Apache:
    origin: int
    proxy: int  #: forward proxy: Digest, plain requests and CONNECT

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.origin}"


def modules_folder() -> str:
    """Where apache keeps its modules."""
    for folder in _MODULE_FOLDERS:
        if Path(folder, "mod_auth_digest.so").exists():
            return folder
    return require_file(f"{_MODULE_FOLDERS[0]}/mod_auth_digest.so", "mod_auth_digest", "apache2")


def basics(modules: Sequence[str]) -> str:
    """The lines of a configuration that load `modules`, and name the account to go on as."""
    folder = modules_folder()
    lines = [f"LoadModule {name}_module {folder}/mod_{name}.so" for name in modules]
    if os.geteuid() == 0:
        # Started by root it must give up root, and the account has to exist.
        lines += ["User www-data", "Group www-data"]
    return "\n".join(lines)


@contextmanager
def serve(folder: Path) -> Iterator[Apache]:
    """Run apache: ``/digest`` on the origin wants a login, and so does the whole proxy."""
    program = require_program("apache2", "apache2")
    (folder / "www").mkdir(parents=True)
    (folder / "www" / "open").write_text("apache\n")
    (folder / "www" / "digest").write_text("apache digest\n")
    (folder / "users").write_text(
        "".join(f"{user}:{REALM}:{ha1(user, password)}\n" for user, password in USERS.items()),
        encoding="utf-8",
    )
    origin, proxy = free_ports(2)
    config = folder / "httpd.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            host=HOST,
            origin=origin,
            proxy=proxy,
            realm=REALM,
            basics=basics(_MODULES),
        )
    )
    with running(
        [program, "-DFOREGROUND", "-f", str(config)], folder=folder, ports=[origin, proxy]
    ):
        yield Apache(origin, proxy)


def ha1(user: str, password: str, realm: str = REALM) -> str:
    """What a digest password file holds: MD5 of user:realm:password (RFC 7616, section 3.4.2)."""
    return hashlib.md5(f"{user}:{realm}:{password}".encode()).hexdigest()
