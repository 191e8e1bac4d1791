"""Redirects: which responses are followed, and with what request (RFC 9110 section 15.4)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

from whimbrel._policy.exchange import Exchange, headers_without
from whimbrel._policy.fields import BODY_FIELDS, SECRET_FIELDS
from whimbrel._policy.urls import parse_url, refuse_control_bytes_in_url

REDIRECT_CODES = frozenset((301, 302, 303, 307, 308))
_BODY_OPTIONS = ("body", "body_producer", "json", "form", "expect_100_continue")
_AUTH_OPTIONS = ("auth_username", "auth_password", "auth_mode", "auth_token")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_CONTENT_TYPE = frozenset(("content-type",))
_HOST_FIELD = frozenset(("host",))


def is_redirect(code: int, location: str | None) -> bool:
    """Whether a response asks to be followed: one of five codes, and a Location."""
    return code in REDIRECT_CODES and bool(location)


def follow_up(
    options: dict[str, Any], exchange: Exchange, code: int, location: str
) -> dict[str, Any]:
    """Return the parameters of the request that a redirect asks for.

    `options` are those of the request just made, `exchange` what became of them. Raises
    ValueError if the Location cannot be fetched, or the body cannot be sent again.
    """
    try:
        # Fields are Latin-1 to us; servers that send raw bytes in a Location mean UTF-8.
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    location = location.strip(" \t")
    refuse_control_bytes_in_url("redirect Location", location)  # urljoin() would strip some
    if location.startswith("//"):
        location = f"{exchange.url.scheme}:{location}"
    # urljoin() takes an absolute URL without a host ("http:///x") for a relative one.
    url = location if _ABSOLUTE.match(location) else urljoin(exchange.url.href, location)
    target = parse_url(url, "redirect Location")
    following = dict(options)
    following["url"] = url
    following.pop("params", None)
    method = exchange.profile.method
    dropped: frozenset[str] = frozenset()
    # 15.4.2-15.4.4: a POST becomes a GET as browsers do; 303 makes a GET of all but HEAD.
    if (code == 303 and method != "HEAD") or (code in (301, 302) and method == "POST"):
        following["method"] = "GET"
        for name in _BODY_OPTIONS:
            following.pop(name, None)
        dropped = BODY_FIELDS
    elif exchange.profile.body == "stream" and not exchange.replayable:
        raise ValueError(
            f"redirect {code} asks for the body again, but it came from an iterator that ran"
            " out; pass bytes, a list or a body_producer"
        )
    elif "json" in options or "form" in options:
        # The bytes that were sent, whatever became of the object they were made from.
        following.pop("json", None)
        following.pop("form", None)
        following["body"] = exchange.body
        types = [value for name, value in exchange.fields if name.lower() == "content-type"]
        headers = headers_without(following.get("headers"), _CONTENT_TYPE)
        headers["Content-Type"] = types[0]
        following["headers"] = headers
    if target.origin != exchange.url.origin:
        dropped = dropped | SECRET_FIELDS | _HOST_FIELD
        for name in (*_AUTH_OPTIONS, "unix_socket"):
            following.pop(name, None)
    elif exchange.url.username is not None and "auth_username" not in options:
        # User information of the first URL holds for its origin.
        following["auth_username"] = exchange.url.username
        following["auth_password"] = exchange.url.password or ""
    if dropped and following.get("headers"):
        following["headers"] = headers_without(following["headers"], dropped)
    return following
