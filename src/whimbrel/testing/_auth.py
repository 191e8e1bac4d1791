"""The server's half of Basic (RFC 7617) and Digest (RFC 7616) authentication."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

_ALGORITHMS: Final[dict[str, Callable[[bytes], Any]]] = {
    "MD5": hashlib.md5,
    "SHA-256": hashlib.sha256,
}
_NONCES: Final = 10_000
# auth-param of RFC 9110 section 11.2: a token, or a quoted string with backslash escapes.
_PARAMETER = re.compile(
    r"""[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*
        (?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+\-.^_`|~0-9A-Za-z]+))[ \t]*(?:,|$)""",
    re.VERBOSE,
)


def basic_matches(credentials: str | None, username: str, password: str) -> bool:
    """Whether the value of Authorization (or Proxy-Authorization) names this user and password."""
    scheme, _, encoded = (credentials or "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, f"{username}:{password}".encode())


class DigestGuard:
    """Challenges and checks for one user: qop=auth, nonces of its own, counted.

    A nonce is good for any number of requests as long as its count rises; one that is unknown
    (or was pushed out by 10,000 newer ones) is stale.

    Args:
        realm, username, password: as everywhere.
    """

    def __init__(self, realm: str, username: str, password: str) -> None:
        self.realm = realm
        self._username = username
        self._password = password
        self._opaque = secrets.token_hex(8)
        self._counts: OrderedDict[str, int] = OrderedDict()

    def challenges(self, algorithms: Sequence[str], *, stale: bool = False) -> list[str]:
        """Values of WWW-Authenticate, one per algorithm ("MD5", "SHA-256"), with fresh nonces."""
        return [self._challenge(algorithm, stale) for algorithm in algorithms]

    def check(
        self, credentials: str | None, method: str, target: str, algorithms: Sequence[str]
    ) -> Literal["granted", "stale", "denied"]:
        """Judge the value of Authorization for a request with this method and target.

        "stale" means: correct, but for a nonce that is unknown or a count that was used.
        """
        given = parse_digest(credentials)
        algorithm = given.get("algorithm", "MD5").upper()
        if algorithm not in algorithms or not re.fullmatch("[0-9a-fA-F]{8}", given.get("nc", "")):
            return "denied"
        nonce, uri = given.get("nonce", ""), given.get("uri", "")
        expected = digest_response(
            algorithm,
            username=self._username,
            realm=self.realm,
            password=self._password,
            nonce=nonce,
            nc=given["nc"],
            cnonce=given.get("cnonce", ""),
            method=method,
            uri=uri,
        )
        granted = (
            given.get("username") == self._username
            and given.get("realm") == self.realm
            and given.get("opaque") == self._opaque
            and given.get("qop") == "auth"
            and uri == target
            and hmac.compare_digest(given.get("response", "").encode(), expected.encode())
        )
        if not granted:
            return "denied"
        count = int(given["nc"], 16)
        if count <= self._counts.get(nonce, count):
            return "stale"
        self._counts[nonce] = count
        return "granted"

    def _challenge(self, algorithm: str, stale: bool) -> str:
        nonce = secrets.token_hex(16)
        self._counts[nonce] = 0
        if len(self._counts) > _NONCES:
            self._counts.popitem(last=False)
        return (
            f'Digest realm="{self.realm}", qop="auth", algorithm={algorithm}, nonce="{nonce}", '
            f'opaque="{self._opaque}"{", stale=true" if stale else ""}'
        )


def parse_digest(credentials: str | None) -> dict[str, str]:
    """The parameters of Digest credentials, names in lower case; {} for anything else."""
    scheme, _, rest = (credentials or "").partition(" ")
    if scheme.lower() != "digest":
        return {}
    found: dict[str, str] = {}
    at = 0
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if not match or match[1].lower() in found:
            return {}
        quoted, token = match[2], match[3]
        found[match[1].lower()] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = match.end()
    return found


def digest_response(
    algorithm: str,
    *,
    username: str,
    realm: str,
    password: str,
    nonce: str,
    nc: str,
    cnonce: str,
    method: str,
    uri: str,
) -> str:
    """`response` of RFC 7616 section 3.4.1 for qop=auth, in lower-case hex."""

    def h(*parts: str) -> str:
        return str(_ALGORITHMS[algorithm](":".join(parts).encode()).hexdigest())

    return h(h(username, realm, password), nonce, nc, cnonce, "auth", h(method, uri))
