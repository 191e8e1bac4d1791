"""Cookies between exchanges: RFC 6265 over the standard library's ``http.cookiejar``.

The jar stores, expires and persists, and its policy has a say in every decision. Parsing and
domain matching are done here. ``http.cookiejar`` by itself sends host-only cookies to subdomains
(in its default policy), lets one IP address set cookies for others, and lets any site delete the
cookies of another by setting them with a date in the past.

``http.cookiejar`` takes about 10 ms to import, which only programs that use cookies should pay:
it is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from http.cookiejar import Cookie, CookieJar
    from urllib.request import Request

# Browsers keep as many per domain (RFC 6265 section 6.1 asks for 50 at least); Go's parser
# without a bound was CVE-2025-58186.
_MAX_COOKIES_PER_RESPONSE = 180
# In bytes: of name and value together, and of an attribute's value (RFC 6265bis section 5.6).
_MAX_PAIR = 4096
_MAX_ATTRIBUTE = 1024
# What one request may carry: libcurl's bounds. Servers refuse longer header lines.
_MAX_COOKIES_SENT = 150
_MAX_HEADER = 8190

# Seconds; longer lifetimes are shortened to this. Keeps the sums within what files can hold.
_MAX_LIFETIME = 2**31

_SECURE_SCHEMES = ("https", "wss")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DELTA = re.compile(r"-?[0-9]+")


def make_jar(cookies: bool | CookieJar | None) -> CookieJar | None:
    """Return the jar that a client's ``cookies`` argument stands for.

    None and False: no jar. True: a new one. A jar: that one, with the policy that it has.

    Raises ``TypeError`` for anything else.
    """
    if cookies is None or cookies is False:
        return None
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    if cookies is True:
        return CookieJar(
            DefaultCookiePolicy(
                strict_domain=True,  # no cookies for co.uk and the like
                strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain,
            )
        )
    if isinstance(cookies, CookieJar):
        return cookies
    # Not its repr: what is passed by mistake is often a dict of cookies, and they are secrets.
    raise TypeError(
        "cookies must be True, False, None or an http.cookiejar.CookieJar, "
        f"not {type(cookies).__name__}"
    )


def cookie_header(jar: CookieJar, url: str, *, is_secure: bool) -> str | None:
    """Return the value of the ``Cookie`` header for a request, None if it gets none.

    ``url`` is absolute, with an ASCII host; ``is_secure`` tells whether the connection may carry
    ``Secure`` cookies. Longer paths come first (RFC 6265 section 5.4).
    """
    target = _Target.of(url, is_secure=is_secure)
    if target is None:
        return None
    with _locked(jar):
        policy = _policy_of(jar)
        cookies = [cookie for cookie in jar if _may_send(policy, cookie, target)]
    cookies.sort(key=lambda cookie: -len(cookie.path))
    pairs: list[str] = []
    size = 0
    for cookie in cookies[:_MAX_COOKIES_SENT]:
        pair = cookie.name if cookie.value is None else f"{cookie.name}={cookie.value}"
        size += len(pair) + 2
        if size > _MAX_HEADER + 2:
            break
        pairs.append(pair)
    return "; ".join(pairs) or None


def store_cookies(jar: CookieJar, url: str, set_cookie: Sequence[str]) -> None:
    """Store what the ``Set-Cookie`` headers of the response to ``url`` ask for.

    Each element of ``set_cookie`` is one header's value. What is malformed, or is not this
    host's to set, is ignored, and so is everything after the first 180 (RFC 6265 section 5.3).
    """
    if not set_cookie:
        return
    target = _Target.of(url, is_secure=urlsplit(url).scheme.lower() in _SECURE_SCHEMES)
    if target is None:
        return
    now = time.time()
    policy = _policy_of(jar)
    for line in set_cookie[:_MAX_COOKIES_PER_RESPONSE]:
        cookie = _parse_set_cookie(line, target, now)
        if cookie is None or not policy.set_ok(cookie, target.request):
            continue
        if cookie.is_expired(int(now)):
            with contextlib.suppress(KeyError):
                jar.clear(cookie.domain, cookie.path, cookie.name)
        else:
            jar.set_cookie(cookie)
    jar.clear_expired_cookies()  # a jar that only grows is a leak


# --------------------------------------------------------------------------------------------
# Where a request goes, and what http.cookiejar has to know of it
# --------------------------------------------------------------------------------------------


class _Request:
    """As much of a ``urllib.request.Request`` as cookie policies look at."""

    unverifiable = False  # every request counts as one that the user asked for
    origin_req_host = ""

    def __init__(self, url: str, scheme: str, host: str) -> None:
        self._url = url
        self.type = scheme
        self.host = host
        self.origin_req_host = host

    def get_full_url(self) -> str:
        return self._url

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return default  # the host is taken from the URL

    def has_header(self, name: str) -> bool:
        return False


class _Target(NamedTuple):
    """Host and path of a request, in the forms that are compared with a cookie's."""

    host: str  #: lower case, no trailing dot; an IPv6 address without brackets
    is_ip: bool
    stored_host: str  #: the form in which http.cookiejar holds a host-only cookie's domain
    path: str
    is_secure: bool
    request: Request

    @classmethod
    def of(cls, url: str, *, is_secure: bool) -> _Target | None:
        from http.cookiejar import (  # type: ignore[attr-defined]  # not in typeshed
            eff_request_host,
            request_path,
        )

        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if not host:
            return None
        # Rebuilt, since http.cookiejar would take the userinfo for a part of the host.
        netloc = f"[{host}]" if ":" in host else host
        scheme = "https" if is_secure else "http"
        request: Any = _Request(f"{scheme}://{netloc}{parts.path or '/'}", scheme, netloc)
        # "localhost.local" for localhost: http.cookiejar wants a dot in every name.
        _, stored_host = eff_request_host(request)
        return cls(host, _is_ip(host), stored_host, request_path(request), is_secure, request)

    def default_path(self) -> str:
        """The path of cookies that set none (RFC 6265 section 5.1.4)."""
        return self.path.rpartition("/")[0] or "/"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _policy_of(jar: CookieJar) -> Any:
    # The jar has no public way to ask its policy, and its own methods cannot be used: see the
    # top. They set the clock by which the policy judges expiry each time before they ask it.
    policy: Any = jar._policy  # type: ignore[attr-defined]
    policy._now = int(time.time())
    return policy


def _locked(jar: CookieJar) -> contextlib.AbstractContextManager[Any]:
    # Iterating over a jar does not lock it; another thread's client may share it.
    lock: contextlib.AbstractContextManager[Any] = jar._cookies_lock  # type: ignore[attr-defined]
    return lock


def _may_send(policy: Any, cookie: Cookie, target: _Target) -> bool:
    if cookie.domain_specified:
        # Of IP addresses no part is a domain (RFC 6265 section 5.1.3).
        if target.is_ip and cookie.domain.lstrip(".") not in (target.host, f"[{target.host}]"):
            return False
    elif cookie.domain != target.stored_host:
        return False  # host-only
    return bool(
        policy.domain_return_ok(cookie.domain, target.request)
        and policy.path_return_ok(cookie.path, target.request)
        and policy.return_ok(cookie, target.request)
    )


# --------------------------------------------------------------------------------------------
# Set-Cookie
# --------------------------------------------------------------------------------------------


def _parse_set_cookie(line: str, target: _Target, now: float) -> Cookie | None:
    """Parse one header's value (RFC 6265 section 5.2); None if it is to be ignored."""
    pair, _, rest = line.partition(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(" \t"), value.strip(" \t")
    if not equals or not name or len(name) + len(value) > _MAX_PAIR or _CONTROL.search(line):
        return None
    attributes: dict[str, str] = {}
    for attribute in rest.split(";"):
        key, _, content = attribute.partition("=")
        content = content.strip(" \t")
        if len(content) <= _MAX_ATTRIBUTE:
            attributes[key.strip(" \t").lower()] = content  # the last of equal ones counts

    domain = _domain_of(attributes.get("domain", ""), target)
    if domain is None:
        return None
    path = attributes.get("path", "")
    has_path = path.startswith("/")
    secure = "secure" in attributes
    # An insecure origin may not plant what only secure ones shall set, and the prefixes of a
    # name promise what the attributes must keep (RFC 6265bis sections 4.1.3 and 5.7).
    if secure and not target.is_secure:
        return None
    prefix = name.lower()
    if prefix.startswith(("__secure-", "__host-")) and not secure:
        return None
    if prefix.startswith("__host-") and (domain or path != "/"):
        return None

    from http.cookiejar import Cookie

    expires = _expires_of(attributes, now)
    return Cookie(
        version=0,
        name=name,
        value=value,
        port=None,
        port_specified=False,
        domain=f".{domain}" if domain else target.stored_host,
        domain_specified=bool(domain),
        domain_initial_dot=attributes.get("domain", "").startswith("."),
        path=path if has_path else target.default_path(),
        path_specified=has_path,
        secure=secure,
        expires=expires,
        discard=expires is None,
        comment=None,
        comment_url=None,
        rest={"HttpOnly": ""} if "httponly" in attributes else {},
    )


def _domain_of(attribute: str, target: _Target) -> str | None:
    """Return the domain of a cookie, ``""`` for a host-only one, None to ignore the cookie."""
    domain = attribute.removeprefix(".").rstrip(".").lower()
    if not domain:
        return ""
    if target.is_ip or domain.strip("[]") == target.host:
        if domain.strip("[]") != target.host:
            return None
        # The host itself: an address, or a name like localhost, has nothing below it.
        return "" if target.is_ip or "." not in domain else domain
    # A single label is a top-level domain: com, or a public suffix like it.
    if "." not in domain or not target.host.endswith(f".{domain}"):
        return None
    return domain


def _expires_of(attributes: dict[str, str], now: float) -> int | None:
    """Return the time at which a cookie ends, in seconds since the epoch; None: with the jar."""
    max_age = attributes.get("max-age", "")
    if _DELTA.fullmatch(max_age):  # wins over Expires (RFC 6265 section 5.3)
        seconds = max(min(int(max_age), _MAX_LIFETIME), 0)
        return int(now + seconds) if seconds else 0
    if date := attributes.get("expires"):
        from http.cookiejar import http2time  # type: ignore[attr-defined]  # not in typeshed

        when = http2time(date)
        return None if when is None else min(int(when), int(now) + _MAX_LIFETIME)
    return None
