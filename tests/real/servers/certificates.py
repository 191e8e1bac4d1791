"""A certificate authority of our own, what it issued, and what must not be trusted."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class KeyPair:
    """A certificate chain and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """PEM files for every side of a TLS connection."""

    ca: Path  #: the authority that issued everything but what ``stranger_ca`` issued
    stranger_ca: Path  #: an authority that issued none of the servers' certificates
    server: KeyPair  #: for localhost, 127.0.0.1 and ::1
    wrong_name: KeyPair  #: valid, but for another host
    expired: KeyPair  #: for localhost, ended long ago
    client: KeyPair  #: for a client, trusted by the servers that ask for one
    stranger_client: KeyPair  #: for a client, from the authority that no server knows


def issue(folder: Path) -> Certificates:
    """Make all the certificates below ``folder``."""
    folder.mkdir()
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger-ca.pem"))
    past = datetime.datetime(2001, 1, 1)

    def keep(name: str, leaf: trustme.LeafCert) -> KeyPair:
        pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(pair.key))
        return pair

    names = ("localhost", "127.0.0.1", "::1")
    return Certificates(
        ca=folder / "ca.pem",
        stranger_ca=folder / "stranger-ca.pem",
        server=keep("server", authority.issue_cert(*names, common_name="localhost")),
        wrong_name=keep("wrong-name", authority.issue_cert("elsewhere.example")),
        expired=keep(
            "expired",
            authority.issue_cert(
                *names, not_before=past, not_after=past + datetime.timedelta(days=1)
            ),
        ),
        client=keep("client", authority.issue_cert("alice@example.org", common_name="alice")),
        stranger_client=keep(
            "stranger-client", stranger.issue_cert("mallory@example.org", common_name="mallory")
        ),
    )
