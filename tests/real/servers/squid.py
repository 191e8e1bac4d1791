"""squid: a forward proxy with Basic, Digest or Negotiate, on a plain and on a TLS port.

squid 5 may take a wrong password, or refuse the right one, while another login of the same user is
in flight (seen on raw sockets). So no two passwords of one user are ever sent at once: the tests
with a wrong password use ``USER_OF_WRONG_PASSWORDS``, which nobody else does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import kerberos
from .apache import ha1
from .certificates import Certificates
from .process import HOST, free_ports, require_file, require_program, running

REALM = "squid"
USER_OF_WRONG_PASSWORDS = "mallory"
USERS = {
    "alice": "secret",
    "bob": "hunter2",
    USER_OF_WRONG_PASSWORDS: "never sent",
}

_HELPERS = "/usr/lib/squid"
_AUTH = {
    "basic": """\
auth_param basic program {helpers}/basic_ncsa_auth {folder}/users
auth_param basic children 5 startup=1
auth_param basic realm {realm}
""",
    "digest": """\
auth_param digest program {helpers}/digest_file_auth -c {folder}/users
auth_param digest children 5 startup=1
auth_param digest realm {realm}
""",
    "negotiate": """\
auth_param negotiate program {helpers}/negotiate_kerberos_auth -k {keytab} -s HTTP/localhost@{realm}
auth_param negotiate children 5 startup=1
auth_param negotiate keep_alive on
""",
}
_CONFIG = """\
http_port {host}:{plain}
https_port {host}:{tls} tls-cert={certificate} tls-key={key}
{auth}
acl authed proxy_auth REQUIRED
http_access allow authed
http_access deny all
cache deny all
cache_mem 8 MB
pinger_enable off
netdb_filename none
max_filedescriptors 4096
shutdown_lifetime 0 seconds
pid_filename {folder}/squid.pid
logformat whimbrel %un %rm %ru %>Hs
access_log stdio:{folder}/access.log whimbrel
cache_log {folder}/cache.log
coredump_dir {folder}
visible_hostname squid.test
"""


@dataclass(frozen=True)
class Squid:
    plain: int
    tls: int  #: the same proxy, spoken to over TLS
    access_log: Path  #: a line for each request when it ends: user method target status

    def log_lines(self) -> list[list[str]]:
        """The access log so far, in fields."""
        return [line.split() for line in self.access_log.read_text().splitlines()]


@contextmanager
def serve(
    folder: Path,
    certificates: Certificates,
    auth: Literal["basic", "digest", "negotiate"],
    realm: kerberos.Realm | None = None,
) -> Iterator[Squid]:
    """Run squid with one authentication scheme; for "negotiate" in a `realm` of Kerberos."""
    program = require_program("squid", "squid")
    require_file(f"{_HELPERS}/digest_file_auth", "squid's login helpers", "squid")
    folder.mkdir()
    # Started by root, squid goes on as the user "proxy" and still has to write its logs here.
    folder.chmod(0o777)
    (folder / "users").write_text(_user_file(auth), encoding="utf-8")
    plain, tls = free_ports(2)
    config = folder / "squid.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            host=HOST,
            plain=plain,
            tls=tls,
            certificate=certificates.server.certificate,
            key=certificates.server.key,
            auth=_AUTH[auth].format(
                helpers=_HELPERS,
                folder=folder,
                realm=REALM if realm is None else kerberos.REALM,
                keytab=None if realm is None else realm.keytab,
            ),
        )
    )
    # The name keeps the shared memory of two squids apart.
    argv = [program, "-N", "-f", str(config), "-n", f"whimbrel{plain}"]
    environment = None if realm is None else realm.server_environment
    with running(argv, folder=folder, ports=[plain, tls], env=environment):
        yield Squid(plain, tls, folder / "access.log")


def _user_file(auth: str) -> str:
    if auth == "digest":
        return "".join(f"{user}:{REALM}:{ha1(user, pw, REALM)}\n" for user, pw in USERS.items())
    # basic_ncsa_auth takes a bare MD5 too, which needs neither htpasswd nor the crypt module.
    return "".join(f"{user}:{hashlib.md5(pw.encode()).hexdigest()}\n" for user, pw in USERS.items())
