"""Which proxy a request goes through, from its own parameters or the environment."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from whimbrel._policy.urls import (
    _parse_authority,
    normalise_host,
    refuse_control_bytes,
)

PROXY_SCHEMES = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
PROXY_AUTH_MODES = ("basic", "digest", "negotiate")


class Proxy(NamedTuple):
    """A proxy and the identity used at it. Two different ones never share a connection."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    auth_mode: str = "basic"

    @property
    def url(self) -> str:
        """``scheme://host:port``, never with credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    def __repr__(self) -> str:
        return f"Proxy({self.url!r})"


@lru_cache(maxsize=2048)
def parse_proxy_url(url: str, auth_mode: str | None = None, field: str = "proxy") -> Proxy:
    """Parse ``scheme://[user[:password]@]host[:port]``; without a scheme it is an http proxy.

    Raises ValueError, naming `field` and never the credentials, for an unknown scheme, a
    malformed host or port, or a path.
    """
    if not isinstance(url, str):
        raise ValueError(f"{field} must be a URL, False or None, not {type(url).__name__}")
    refuse_control_bytes(field, url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    scheme = scheme.lower()
    if scheme not in PROXY_SCHEMES:
        raise ValueError(
            f"{field} has an unknown scheme {scheme!r}: use one of {', '.join(PROXY_SCHEMES)}"
        )
    authority, _slash, path = rest.partition("/")
    if path or "?" in authority or "#" in authority:
        # A path is most often a password with an unescaped "/" in it.
        raise ValueError(
            f"{field} has a path, which no proxy URL has; percent-encode '/', '?' and '#' in user"
            " name and password"
        )
    username, password, host, port = _parse_authority(authority, field)
    return Proxy(
        scheme,
        host,
        PROXY_SCHEMES[scheme] if port is None else port,
        username,
        password,
        check_auth_mode(auth_mode),
    )


def check_auth_mode(mode: str | None) -> str:
    """Return the proxy_auth_mode, "basic" for None; raise ValueError for an unknown one."""
    if mode is None:
        return "basic"
    if mode not in PROXY_AUTH_MODES:
        raise ValueError(
            f"unknown proxy_auth_mode {mode!r}: use one of {', '.join(PROXY_AUTH_MODES)}"
        )
    return mode


def proxy_from_host(
    host: str,
    port: int | None,
    username: str | None,
    password: str | None,
    auth_mode: str | None,
) -> Proxy:
    """Build the Proxy that Tornado's proxy_host, proxy_port, … describe."""
    if port is None:
        raise ValueError("proxy_host needs proxy_port too")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
        raise ValueError(f"proxy_port must be a number from 1 to 65535, not {port!r}")
    if not isinstance(host, str):
        raise ValueError(f"proxy_host must be a str, not {type(host).__name__}")
    refuse_control_bytes("proxy_host", host)
    if "://" in host:
        # Tornado hands the text to libcurl, which reads a scheme in it; keep that working.
        parsed = parse_proxy_url(f"{host}:{port}", None, "proxy_host")
        scheme, name = parsed.scheme, parsed.host
        username = username if username is not None else parsed.username
        password = password if password is not None else parsed.password
    else:
        scheme = "http"
        name = _parse_authority(host, "proxy_host")[2] if host[:1] == "[" else host
        if ":" not in name:
            name = normalise_host(name, "proxy_host")
        else:
            name = _parse_authority(f"[{name}]", "proxy_host")[2]
    for field, value in (("proxy_username", username), ("proxy_password", password)):
        if value is not None:
            if not isinstance(value, str):
                raise ValueError(f"{field} must be a str, not {type(value).__name__}")
            refuse_control_bytes(field, value)
    return Proxy(scheme, name, port, username, password, check_auth_mode(auth_mode))
