"""Digest authentication, the client's half (RFC 7616), and the grammar of all challenges.

Pure: field values go in, an Authorization (or Proxy-Authorization) value comes out. Texts are field
values, one character for an octet (Latin-1), as they come from the wire and go to it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import quote

MAX_ANSWERS: Final = 4
"""Answers that one exchange gives: with the request that met the first challenge it makes five."""


class Challenge(NamedTuple):
    """One challenge of WWW-Authenticate or Proxy-Authenticate (RFC 9110 section 11.3)."""

    scheme: str
    """In lower case, as schemes are compared (section 11.1)."""
    token68: str | None
    parameters: Mapping[str, str]
    """By lower-case name, without quotes and escapes; the first of each name counts."""


# RFC 9110 sections 5.6.2, 5.6.4 and 11.2. No repetition here can give back what it took, so that
# a match costs no more than the bytes it looks at.
_SEPARATORS = re.compile(r"[ \t,]*+")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_TOKEN68 = re.compile(r"[ ]++([A-Za-z0-9\-._~+/]++=*+)[ \t]*+(?:,|\Z)")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def parse_challenges(field_values: Iterable[str]) -> list[Challenge]:
    """All challenges of the values of WWW-Authenticate (or Proxy-Authenticate), in order.

    Several may stand in one value. A parameter is what has a "=" and a value behind its name; what
    else is a token begins a challenge. Where a value stops to make sense its rest is left out;
    commas that are missing are not missed. Takes time linear in the length of the values.
    """
    challenges: list[Challenge] = []
    for text in field_values:
        challenges += _parse(text)
    return challenges


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = _end(_SEPARATORS, text, 0)
    while name := _TOKEN.match(text, at):
        equals = _EQUALS.match(text, name.end())
        if equals is None:
            token68 = _TOKEN68.match(text, name.end())
            parameters = {}
            found.append(Challenge(name[0].lower(), token68 and token68[1], parameters))
            at = token68.end() if token68 else name.end()
        else:
            quoted = _QUOTED.match(text, equals.end())
            value = quoted or _TOKEN.match(text, equals.end())
            if value is None or not found:
                break
            parameters.setdefault(
                name[0].lower(), _QUOTED_PAIR.sub(r"\1", quoted[1]) if quoted else value[0]
            )
            at = value.end()
        at = _end(_SEPARATORS, text, at)
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


class _Algorithm(NamedTuple):
    hash: Callable[[bytes], Any]
    strength: int
    session: bool = False


def _algorithms() -> dict[str, _Algorithm]:
    """By name in upper case (RFC 7616 section 3.4); what this Python's OpenSSL lacks is not there.

    SHA-512-256 resists no more than SHA-256 does, so that between the two the server's order
    decides.
    """
    found = {}
    for name, hash_name, strength in (
        ("MD5", "md5", 1),
        ("SHA-256", "sha256", 2),
        ("SHA-512-256", "sha512_256", 2),
    ):
        # Not for security: where MD5 is forbidden otherwise (FIPS), the server's choice stands.
        function = partial(hashlib.new, hash_name, usedforsecurity=False)
        try:
            function(b"")
        except ValueError:
            continue
        found[name] = _Algorithm(function, strength)
        found[f"{name}-SESS"] = _Algorithm(function, strength, session=True)
    return found


_ALGORITHMS = _algorithms()


class DigestState:
    """One user's side of Digest, for one exchange (all its rounds).

    :param username, password: as the user knows them, not yet encoded.
    """

    __slots__ = (
        "_answered",
        "_answers",
        "_challenge",
        "_cnonce",
        "_count",
        "_password",
        "_username",
    )

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._answers = 0
        self._answered = False  # the challenge
        self._challenge: Challenge | None = None
        # Of all answers to a challenge whose algorithm is a "-sess" one: the first answer's makes
        # the key (RFC 7616 section 3.4.2), and some servers look at each answer's own.
        self._cnonce = ""
        self._count = 0  # answers given to the challenge (nc)

    @property
    def exhausted(self) -> bool:
        """Whether all `MAX_ANSWERS` answers were given: the server says stale for ever."""
        return self._answers >= MAX_ANSWERS

    @property
    def is_challenged(self) -> bool:
        """Whether there is a challenge that :meth:`authorization` answers."""
        return self._challenge is not None

    def challenge(self, field_values: Iterable[str], body: bytes | None = b"") -> bool:
        """Take the challenges of a 401 (or 407); return whether :meth:`authorization` can answer.

        Of several the strongest is taken. False if none is usable Digest, if the answer that this
        exchange gave to an earlier challenge was refused and not for its nonce's age (the
        credentials are wrong), or if `MAX_ANSWERS` were given.

        :param body: what the next request carries, as for :meth:`authorization`.
        """
        chosen = choose(parse_challenges(field_values), body)
        if chosen is None or self.exhausted:
            return False
        stale = chosen.parameters.get("stale", "").lower() == "true"
        if self._answered and not stale:
            return False
        self._answered = False
        known = self._challenge
        if known is None or known.parameters["nonce"] != chosen.parameters["nonce"]:
            self._count = 0  # a nonce that comes again goes on counting: its counts are used up
            self._cnonce = _fresh_cnonce()
        self._challenge = chosen
        return True

    def authorization(self, method: str, target: str, body: bytes | None) -> str | None:
        """The credentials for a request; None before any challenge.

        :param target: the request target exactly as it is sent (RFC 9112 section 3.2).
        :param body: the whole body, b"" for none; None if it is streamed, where a server that
            wants it signed (only qop=auth-int) gets no answer.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        self._count += 1
        self._answers += 1
        self._answered = True
        return credentials(
            challenge,
            self._username,
            self._password,
            method,
            target,
            body,
            count=self._count,
            cnonce=self._cnonce if _algorithm(challenge).session else _fresh_cnonce(),
        )

    def __repr__(self) -> str:
        return f"<DigestState: {self._answers} answers>"


def choose(challenges: Iterable[Challenge], body: bytes | None = b"") -> Challenge | None:
    """The strongest Digest challenge that can be answered; of equals the first.

    :param body: None where it is streamed, and nothing can sign it.
    """
    usable = (
        challenge
        for challenge in challenges
        if challenge.scheme == "digest"
        and "nonce" in challenge.parameters
        and "realm" in challenge.parameters
        and challenge.parameters.get("algorithm", "MD5").upper() in _ALGORITHMS
        and _quality(challenge, body) is not None
    )
    return max(usable, key=lambda challenge: _algorithm(challenge).strength, default=None)


def _algorithm(challenge: Challenge) -> _Algorithm:
    return _ALGORITHMS[challenge.parameters.get("algorithm", "MD5").upper()]


def _quality(challenge: Challenge, body: bytes | None) -> str | None:
    """The qop to answer with; "" where the server knows none (RFC 2069), None where none fits."""
    offered = challenge.parameters.get("qop")
    if offered is None:
        return ""
    values = [value.strip().lower() for value in offered.split(",")]
    if "auth" in values:
        return "auth"
    return "auth-int" if "auth-int" in values and body is not None else None


def credentials(
    challenge: Challenge,
    username: str,
    password: str,
    method: str,
    target: str,
    body: bytes | None,
    *,
    count: int,
    cnonce: str,
) -> str:
    """The value of Authorization that answers `challenge` (RFC 7616 section 3.4).

    :param count: the nonce count, from 1.
    :raises ValueError: the challenge wants a body signed that is None.
    """
    given = challenge.parameters
    qop = _quality(challenge, body)
    if qop is None:
        raise ValueError("auth-int needs the whole body")
    algorithm = _algorithm(challenge)

    def h(*parts: bytes) -> bytes:
        return algorithm.hash(b":".join(parts)).hexdigest().encode()  # type: ignore[no-any-return]

    utf8 = given.get("charset", "").lower() == "utf-8"
    if utf8:  # section 4
        username = unicodedata.normalize("NFC", username)
        password = unicodedata.normalize("NFC", password)
    user, realm, nonce = username.encode(), _octets(given["realm"]), _octets(given["nonce"])
    nc = f"{count:08x}"
    secret = h(user, realm, password.encode())
    if algorithm.session:
        secret = h(secret, nonce, cnonce.encode())
    action = [method.encode(), target.encode()]
    if qop == "auth-int":
        action.append(h(body or b""))
    if qop:
        response = h(secret, nonce, nc.encode(), cnonce.encode(), qop.encode(), h(*action))
    else:
        response = h(secret, nonce, h(*action))

    userhash = given.get("userhash", "").lower() == "true"
    if userhash:
        fields = [("username", _quoted(h(user, realm).decode()))]
    elif utf8 and not username.isascii():
        fields = [("username*", f"UTF-8''{quote(username, safe='')}")]  # RFC 8187
    else:
        fields = [("username", _quoted(user.decode("latin-1")))]
    fields += [
        ("realm", _quoted(given["realm"])),
        ("nonce", _quoted(given["nonce"])),
        ("uri", _quoted(target)),
        ("response", _quoted(response.decode())),
    ]
    if "algorithm" in given:
        fields.append(("algorithm", given["algorithm"]))
    if "opaque" in given:
        fields.append(("opaque", _quoted(given["opaque"])))
    if qop:
        fields += [("qop", qop), ("nc", nc)]
    if qop or algorithm.session:
        fields.append(("cnonce", _quoted(cnonce)))
    if userhash:
        fields.append(("userhash", "true"))
    return "Digest " + ", ".join(f"{name}={value}" for name, value in fields)


def _fresh_cnonce() -> str:
    return secrets.token_urlsafe(16)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _octets(text: str) -> bytes:
    """The octets that the server sent."""
    return text.encode("latin-1")
