"""One URL parser: what is checked here is what is connected to.

Rules of this file:

1. A backend never sees the caller's text. It gets :attr:`URL.href`, rebuilt from the parts, so a
   second parser (libcurl's) finds in it exactly the host that was checked (RFC 3986 section 3).
2. Host names become ASCII by UTS #46 (the ``idna`` package) and lower case; numeric IPv4 hosts
   in any notation (``127.1``, ``0x7f.1``) become dotted quads.
3. Control bytes are refused, not repaired.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

DEFAULT_PORTS = {"http": 80, "https": 443}

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPLIT = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.S)
_HOST = re.compile(r"[a-z0-9_~\-]+(?:\.[a-z0-9_~\-]+)*\.?")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
_LONGEST_SHOWN = 80  # characters of a URL, in a message
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x21-\x7e]+")


class URL(NamedTuple):
    """The parts of an absolute http or https URL, normalised."""

    scheme: str
    """``"http"`` or ``"https"`` (or a proxy scheme, from :func:`parse_proxy_url`)."""
    host: str
    """Lower-case ASCII name or address; IPv6 without brackets."""
    port: int
    target: str
    """Origin-form request target: path and query (RFC 9112 section 3.2.1)."""
    username: str | None
    password: str | None
    netloc: str
    """Host field value: host, brackets for IPv6, port unless it is the scheme's own."""
    href: str
    """``scheme://netloc target``, without user information and fragment."""

    def __repr__(self) -> str:
        return f"URL({self.href!r})"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454 section 4)."""
        return self.scheme, self.host, self.port


def refuse_control_bytes(field: str, value: str, remedy: str = "remove it") -> None:
    """Raise ValueError naming `field` when `value` holds a byte 0x00-0x1F or 0x7F."""
    found = CONTROL.search(value)
    if found:
        raise ValueError(
            f"{field} holds the control character {found.group()!r} at position {found.start()};"
            f" {remedy}"
        )


def refuse_control_bytes_in_url(field: str, url: str) -> None:
    """The same of a URL, in which they can be percent-encoded."""
    refuse_control_bytes(field, url, "remove or percent-encode it")


def check_text(field: str, value: object) -> str:
    """Return `value` if it is a str without control bytes; raise ValueError naming `field`."""
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a str, not {type(value).__name__}")
    refuse_control_bytes(field, value)
    return value


# What stands before the path, as it was written, and the URL that it is alone: the same for many.
_origins: dict[str, URL] = {}
_ORIGINS = 1024


def parse_url(url: str, field: str = "url") -> URL:
    """Parse an absolute http or https URL.

    Raises ValueError, naming `field`, for control characters, another scheme, a missing or
    malformed host, or a port outside 0-65535.
    """
    if isinstance(url, str):
        end = url.find("/", 8)
        origin = _origins.get(url[:end]) if end > 0 else None
        if origin is not None:
            target = url[end:]
            # Nothing to refuse, to encode or to leave out.
            if target.isascii() and target.isprintable() and not (" " in target or "#" in target):
                scheme, host, port, _, _, _, netloc, _ = origin
                href = f"{scheme}://{netloc}{target}"
                # What URL() does, which is a call of Python's more.
                return tuple.__new__(URL, (scheme, host, port, target, None, None, netloc, href))
    return _parse_url(url, field)


def _parse_url(url: str, field: str) -> URL:
    scheme, authority, path, query = _split(url, field)
    if scheme not in DEFAULT_PORTS:
        raise ValueError(
            f"Unsupported {field} scheme {scheme!r}: only http and https URLs can be fetched"
        )
    username, password, host, port = parse_authority(authority, field, url)
    if port is None:
        port = DEFAULT_PORTS[scheme]
    bracketed = f"[{host}]" if ":" in host else host
    netloc = bracketed if port == DEFAULT_PORTS[scheme] else f"{bracketed}:{port}"
    target = _NOT_PRINTABLE_ASCII.sub(lambda text: quote(text.group()), (path or "/") + query)
    parsed = URL(
        scheme, host, port, target, username, password, netloc, f"{scheme}://{netloc}{target}"
    )
    before = f"{scheme}://{authority}"
    if path and username is None and url.startswith(before):
        if len(_origins) >= _ORIGINS:
            _origins.clear()
        _origins[before] = parsed._replace(target="/", href=f"{scheme}://{netloc}/")
    return parsed


def _split(url: str, field: str) -> tuple[str, str, str, str]:
    if not isinstance(url, str):
        raise ValueError(f"{field} must be a str, not {type(url).__name__}")
    refuse_control_bytes_in_url(field, url)
    found = _SPLIT.fullmatch(url.strip(" "))
    if not found or found.group(2) is None:
        scheme = found.group(1).lower() if found else ""
        if scheme and scheme not in DEFAULT_PORTS and "@" not in url and not _has_port(url):
            raise ValueError(
                f"Unsupported {field} scheme {scheme!r}: only http and https URLs can be fetched"
            )
        raise ValueError(
            f"{field} is not an absolute URL: begin {shown(url) or 'it'} with http:// or https://"
        )
    scheme, authority, path, query = found.groups()
    return scheme.lower(), authority, path, query or ""


def _has_port(url: str) -> bool:
    """Whether the text after the first colon looks like a port: ``example.com:80/x``."""
    return url.partition(":")[2][:1].isdigit()


def shown(url: str, value: str | None = None) -> str:
    """`url`, or a `value` taken from it, for a message about what is wrong with it.

    It is "" if there is an "@": what is no URL cannot be searched for a password.
    """
    if "@" in url:
        return ""
    text = url if value is None else value
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


def parse_authority(
    authority: str, field: str, url: str, lowest_port: int = 0
) -> tuple[str | None, str | None, str, int | None]:
    """Return user name, password, host and port of the authority of `url`, decoded."""
    userinfo, at, hostport = authority.rpartition("@")
    username = password = None
    if at:
        name, colon, secret = userinfo.partition(":")
        username = unquote(name)
        password = unquote(secret) if colon else None
        refuse_control_bytes(f"user name in {field}", username)
        refuse_control_bytes(f"password in {field}", password or "")
    if hostport.startswith("["):
        literal, bracket, rest = hostport[1:].partition("]")
        host = _ipv6(literal, field) if bracket else ""
        colon, port_text = rest[:1], rest[1:]
        if not bracket or (rest and colon != ":"):
            raise ValueError(f"{field} has a malformed IPv6 host {hostport!r}")
    else:
        name, _, port_text = hostport.partition(":")
        if not name:
            raise ValueError(f"{field} has no host" + (f": {shown(url)}" if shown(url) else ""))
        host = normalise_host(name, field)
    port = None
    if port_text:
        is_number = port_text.isascii() and port_text.isdigit()
        if not is_number or not lowest_port <= int(port_text) <= 65535:
            message = f"{field} has an invalid port: use {lowest_port} to 65535"
            if "@" in url:  # it may be a password with an unescaped "/" behind it
                message += "; percent-encode '/', '?', '#' and '@' in a user name or password"
            else:
                message += f", not {shown(url, port_text)}"
            raise ValueError(message)
        port = int(port_text)
    return username, password, host, port


def normalise_host(name: str, field: str) -> str:
    """Return `name` as lower-case ASCII, by UTS #46 where needed, numeric IPv4 as a dotted quad.

    Raises ValueError, naming `field`, when it is empty or not a host name.
    """
    if not name:
        raise ValueError(f"{field} has no host")
    host = name.lower()
    if not host.isascii():
        import idna  # a tenth of the import time of the package, needed by few

        try:
            host = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{field} has an invalid host {name!r}: {error}") from error
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError(f"{field} has an invalid host {name!r}")
    # WHATWG URL 3.5 "ends in a number": such a host is an IPv4 address or nothing.
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return _ipv4(host.rstrip("."), name, field)
    return host


def _ipv4(host: str, name: str, field: str) -> str:
    try:
        numbers = [
            int(part, 16)
            if part.startswith("0x") and len(part) > 2
            else int(part, 8 if len(part) > 1 and part[0] == "0" else 10)
            for part in host.split(".")
        ]
        *leading, last = numbers
        if len(numbers) > 4 or any(n > 255 for n in leading):
            raise ValueError
        value = last
        for index, number in enumerate(leading):
            value += number << (8 * (3 - index))
        if last >= 256 ** (5 - len(numbers)):
            raise ValueError
    except ValueError:
        raise ValueError(f"{field} has an invalid IPv4 host {name!r}") from None
    return str(ipaddress.IPv4Address(value))


def _ipv6(literal: str, field: str) -> str:
    address, percent, zone = literal.partition("%")
    try:
        # RFC 6874: a zone is written %25eth0 in a URL; the bare % of everyday use is taken too.
        normal = str(ipaddress.IPv6Address(address))
    except ValueError as error:
        raise ValueError(f"{field} has an invalid IPv6 host {literal!r}") from error
    zone = zone.removeprefix("25") if len(zone) > 2 else zone
    if percent and not re.fullmatch(r"[A-Za-z0-9._~\-]+", zone):
        raise ValueError(f"{field} has an invalid IPv6 zone {zone!r}")
    return f"{normal}%25{zone}" if percent else normal


_PLAIN_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*://)([^/?#@]*@)?"
    r"((?:\[[^\]@]*\]|[^/?#:@\[\]]+)(?::[0-9]*)?(?:[/?#].*)?)",
    re.S,
)


def redact(url: str) -> str:
    """Return `url` without user information, for messages and reprs.

    Of what is no well-formed URL, all up to the last "@" goes.
    """
    found = _PLAIN_URL.fullmatch(url)
    if found:
        return found.group(1) + found.group(3)
    _, at, rest = url.rpartition("@")
    return f"...@{rest}" if at else url
