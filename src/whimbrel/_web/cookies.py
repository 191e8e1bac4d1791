"""The value of a ``Set-Cookie`` field (RFC 6265 section 4.1)."""

from __future__ import annotations

import datetime
import re
import time

from whimbrel.httputil import format_timestamp

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# cookie-octet: no controls, whitespace, quotes, commas, semicolons or backslashes.
_PLAIN = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# av: any character but controls and ";".
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")
_SAME_SITE = ("strict", "lax", "none")

Moment = float | tuple[int, ...] | time.struct_time | datetime.datetime


def set_cookie_value(
    name: str,
    value: str,
    *,
    domain: str | None = None,
    path: str | None = None,
    expires: Moment | None = None,
    max_age: int | None = None,
    secure: bool = False,
    httponly: bool = False,
    samesite: str | None = None,
) -> str:
    """Return ``name=value; attribute...``; an attribute that is None or False is left out.

    A value that may not stand as it is comes in double quotes, escaped as ``http.cookies`` and
    :func:`whimbrel.httputil.parse_cookie` undo it.

    Raises ``ValueError`` for a name that is no token, for control characters, for characters above
    U+00FF in the value, for a ``;`` in `domain` or `path`, and for an unknown `samesite`.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"invalid cookie name {name!r}")
    parts = [f"{name}={value if _PLAIN.fullmatch(value) else _quoted(name, value)}"]
    for attribute, text in (("Domain", domain), ("Path", path)):
        if text is not None:
            if not _ATTRIBUTE.fullmatch(text):
                raise ValueError(f"invalid {attribute} {text!r} of cookie {name!r}")
            parts.append(f"{attribute}={text}")
    if expires is not None:
        parts.append(f"Expires={format_timestamp(expires)}")
    if max_age is not None:
        parts.append(f"Max-Age={max_age:d}")
    if secure:
        parts.append("Secure")
    if httponly:
        parts.append("HttpOnly")
    if samesite is not None:
        if samesite.lower() not in _SAME_SITE:
            raise ValueError(f"invalid SameSite {samesite!r} of cookie {name!r}")
        parts.append(f"SameSite={samesite.capitalize()}")
    return "; ".join(parts)


def _quoted(name: str, value: str) -> str:
    # The value may be a secret: messages name the cookie only.
    if _CONTROL.search(value):
        raise ValueError(f"control character in the value of cookie {name!r}")
    characters = []
    for character in value:
        if character in '"\\':
            characters.append(f"\\{character}")
        elif character in ",;" or character > "\x7e":
            if character > "\xff":
                raise ValueError(f"character above U+00FF in the value of cookie {name!r}")
            characters.append(f"\\{ord(character):03o}")
        else:
            characters.append(character)
    return f'"{"".join(characters)}"'
