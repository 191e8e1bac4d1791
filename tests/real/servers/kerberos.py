"""A Kerberos realm (MIT krb5) on loopback; apache before an origin that wants its tickets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .apache import basics, modules_folder
from .process import HOST, ServerStartError, free_ports, require_file, require_program, running

REALM = "REAL.TEST"
USERS = ("alice", "bob")

_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
[realms]
    {realm} = {{
        kdc = {host}:{port}
    }}
[domain_realm]
    localhost = {realm}
"""
_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = {host}:{port}
    kdc_tcp_listen = {host}:{port}
[realms]
    {realm} = {{
        database_name = {folder}/principal
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
    }}
"""
_MODULES = [
    "mpm_event",
    "authn_core",
    "authz_core",
    "authz_user",
    "auth_gssapi",
    "headers",
    "proxy",
    "proxy_http",
]
_APACHE = """\
ServerRoot {folder}
ServerName localhost
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
LogLevel warn
Mutex file:{folder} default
{basics}
Listen {host}:{port}
ProxyPass / http://{host}:{backend}/
<Location />
    AuthType GSSAPI
    AuthName kerberos
    GssapiCredStore keytab:{keytab}
    Require valid-user
    RequestHeader set X-Remote-User expr=%{{REMOTE_USER}}
</Location>
"""


@dataclass(frozen=True)
class Realm:
    """Attributes:
    folder: holds a cache with the ticket of each user, and ``nobody``, which does not exist.
    keytab: the key of the service HTTP/localhost.
    """

    folder: Path
    keytab: Path

    @property
    def server_environment(self) -> dict[str, str]:
        return {"KRB5_CONFIG": str(self.folder / "krb5.conf"), "KRB5RCACHENAME": "none:"}

    def environment_of(self, user: str) -> dict[str, str]:
        """What makes a client a user of the realm."""
        return {
            "KRB5_CONFIG": str(self.folder / "krb5.conf"),
            "KRB5CCNAME": f"FILE:{self.folder / user}.cache",
        }


@contextmanager
def serve(folder: Path) -> Iterator[Realm]:
    """Run a realm in which every one of `USERS` has a ticket."""
    kdc = require_program("krb5kdc", "krb5-kdc")
    create = require_program("kdb5_util", "krb5-kdc")
    admin = require_program("kadmin.local", "krb5-admin-server")
    kinit = require_program("kinit", "krb5-user")
    folder.mkdir()
    (port,) = free_ports(1)
    values = {"folder": folder, "host": HOST, "port": port, "realm": REALM}
    (folder / "krb5.conf").write_text(_KRB5_CONF.format(**values))
    (folder / "kdc.conf").write_text(_KDC_CONF.format(**values))
    realm = Realm(folder, folder / "http.keytab")
    environment = {
        "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
        **realm.server_environment,
    }

    def run(*argv: str) -> None:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise ServerStartError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")

    run(create, "create", "-s", "-r", REALM, "-P", "a master key for nothing")
    for name, keytab in (
        ("HTTP/localhost", realm.keytab),
        *((user, folder / f"{user}.keytab") for user in USERS),
    ):
        run(admin, "-r", REALM, "-q", f"addprinc -randkey {name}")
        run(admin, "-r", REALM, "-q", f"ktadd -k {keytab} {name}")
    realm.keytab.chmod(0o644)  # apache and squid go on as users of their own
    with running(
        [kdc, "-n", "-r", REALM],
        folder=folder,
        ports=[port],
        env={name: value for name, value in environment.items() if name != "PATH"},
    ):
        for user in USERS:
            cache = realm.environment_of(user)["KRB5CCNAME"]
            run(kinit, "-k", "-t", str(folder / f"{user}.keytab"), "-c", cache, user)
        yield realm


@contextmanager
def apache_front(folder: Path, realm: Realm, backend: int) -> Iterator[int]:
    """Run apache on the port that is given: it wants a ticket, tells the origin at port `backend`
    whose it was, in ``X-Remote-User``, and hands its answer on."""
    program = require_program("apache2", "apache2")
    require_file(
        f"{modules_folder()}/mod_auth_gssapi.so", "mod_auth_gssapi", "libapache2-mod-auth-gssapi"
    )
    folder.mkdir()
    (port,) = free_ports(1)
    config = folder / "httpd.conf"
    config.write_text(
        _APACHE.format(
            folder=folder,
            host=HOST,
            port=port,
            backend=backend,
            keytab=realm.keytab,
            basics=basics(_MODULES),
        )
    )
    argv = [program, "-DFOREGROUND", "-f", str(config)]
    with running(argv, folder=folder, ports=[port], env=realm.server_environment):
        yield port
