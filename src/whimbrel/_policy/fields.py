"""The request's header fields: what the caller gave, checked, and what whimbrel adds."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from whimbrel._policy.decoding import accept_encoding
from whimbrel.httputil import HTTPHeaders, encode_username_password

Fields = tuple[tuple[str, str], ...]

# RFC 9110 section 5.6.2 token; section 5.5 field values: no control bytes but tab.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

BODY_FIELDS = frozenset(
    (
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-type",
        "digest",
        "expect",
        "last-modified",
        "transfer-encoding",
    )
)
"""Lower-case names of the fields that describe a body and go when the body goes."""

SECRET_FIELDS = frozenset(("authorization", "cookie", "cookie2", "proxy-authorization"))
"""Lower-case names of the fields that another origin must not see (RFC 9110 section 15.4)."""


def check_token(field: str, value: object) -> str:
    """Return `value` if it is a token (a method or field name); raise ValueError naming `field`."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a str, not {type(value).__name__}")
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{field} {value!r} holds characters that HTTP does not allow there")
    return str.__str__(value)  # an Enum's member has a format of its own


def check_value(field: str, value: object) -> str:
    """Return a header value as str; raise ValueError naming `field` for control bytes."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a str or bytes, not {type(value).__name__}")
    found = _BAD_VALUE.search(value)
    if found:
        raise ValueError(
            f"{field} holds the control character {found.group()!r} at position {found.start()}"
        )
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{field} holds {error.object[error.start]!r}, which Latin-1 cannot carry; encode it"
            " yourself and pass bytes"
        ) from None
    return str.__str__(value)


# Names that have been checked, bounded in number and in length.
_checked_names: set[str] = set()
_CHECKED_NAMES = 1024
_LONGEST_NAME = 64


def caller_fields(headers: Mapping[Any, Any] | None) -> list[tuple[str, str]]:
    """Return the caller's headers as checked (name, value) pairs, in order, duplicates kept."""
    if not headers:
        return []
    # The first asks less of the interpreter.
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise ValueError(
            f"headers must be an HTTPHeaders or a mapping, not {type(headers).__name__}"
        )
    pairs: Iterable[tuple[Any, Any]]
    pairs = headers.get_all() if isinstance(headers, HTTPHeaders) else headers.items()
    fields = []
    for name, value in pairs:
        if type(name) is not str or name not in _checked_names:
            name = check_token("header name", name)
            if len(name) <= _LONGEST_NAME:
                if len(_checked_names) >= _CHECKED_NAMES:
                    _checked_names.clear()
                _checked_names.add(name)
        # Two scans in C spare nearly every value the rest.
        if not (type(value) is str and value.isascii() and value.isprintable()):
            value = check_value(f"header {name}", value)
        fields.append((name, value))
    return fields


@lru_cache(maxsize=256)
def default_fields(user_agent: str | bytes, decompress: bool) -> Fields:
    """The fields of a request for which the caller gave none."""
    fields = [("User-Agent", check_value("user_agent", user_agent))]
    if decompress:
        fields.append(("Accept-Encoding", accept_encoding()))
    return tuple(fields)


def headers_of(fields: Sequence[tuple[str, str]]) -> dict[str, str] | HTTPHeaders:
    """What `caller_fields` makes `fields` of."""
    headers = dict(fields)
    if len(headers) == len(fields):
        return headers
    several = HTTPHeaders()
    for name, value in fields:
        several.add(name, value.strip(" \t"))
    return several


def complete_fields(
    fields: list[tuple[str, str]],
    names: str,
    user_agent: str | bytes,
    decompress: bool,
    *,
    is_form: bool,
) -> Fields:
    """`fields`, whose `names_in` are `names`, with those behind them that are not given.

    `is_form`: a body of which nothing is said is taken for a form, as in Tornado.
    """
    defaults = default_fields(user_agent, decompress)
    if not fields and not is_form:
        return defaults
    if ":user-agent:" not in names:
        fields.append(defaults[0])
    if decompress and ":accept-encoding:" not in names:
        fields.append(defaults[1])
    if is_form and ":content-type:" not in names:
        fields.append(("Content-Type", "application/x-www-form-urlencoded"))
    return tuple(fields)


def names_in(fields: Iterable[tuple[str, str]]) -> str:
    """The fields' names in lower case, with a colon before and behind each: ``:host:accept:``.

    To ask for several names costs less in such a text than in a set. Names are tokens, without
    colons.
    """
    return f":{':'.join([name for name, _ in fields])}:".lower()


def asks_to_close(fields: Fields, names: str) -> bool:
    """Whether a Connection field says that this request is its connection's last (RFC 9112 9.6).

    `names` is `names_in` of the fields.
    """
    return ":connection:" in names and any(
        name.lower() == "connection"
        and "close" in [option.strip(" \t") for option in value.lower().split(",")]
        for name, value in fields
    )


def basic_authorization(username: str, password: str) -> str:
    """Return ``Basic …`` credentials: NFC, then UTF-8 (RFC 7617 section 2.1).

    Raises ValueError if the user name holds a colon, which the scheme cannot carry.
    """
    if ":" in username:
        raise ValueError("auth_username holds ':', which Basic authentication cannot carry")
    return "Basic " + base64.b64encode(encode_username_password(username, password)).decode()
