"""Which proxy a request goes through, from its own parameters or the environment."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.urls import (
    URL,
    check_text,
    normalise_host,
    parse_authority,
    refuse_control_bytes,
    refuse_control_bytes_in_url,
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
    refuse_control_bytes_in_url(field, url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url
    scheme = scheme.lower()
    if scheme not in PROXY_SCHEMES:
        # Shown only if it looks like one: it may be a user name and a password.
        shown = f" {scheme!r}" if scheme.isalnum() else ""
        raise ValueError(
            f"{field} has an unknown scheme{shown}: use one of {', '.join(PROXY_SCHEMES)}"
        )
    authority, _slash, path = rest.partition("/")
    if path or "?" in authority or "#" in authority:
        # A path is most often a password with an unescaped "/" in it.
        raise ValueError(
            f"{field} has a path, which no proxy URL has; percent-encode '/', '?' and '#' in user"
            " name and password"
        )
    username, password, host, port = parse_authority(authority, field, url, lowest_port=1)
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


def proxy_from_host(host: str, port: int | None, auth_mode: str | None) -> Proxy:
    """Build the Proxy that Tornado's proxy_host and proxy_port describe."""
    if port is None:
        raise ValueError("proxy_host needs proxy_port too")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
        raise ValueError(f"proxy_port must be a number from 1 to 65535, not {port!r}")
    host = check_text("proxy_host", host)
    if "://" in host:
        # Tornado hands the text to libcurl, which reads a scheme in it; keep that working.
        return parse_proxy_url(f"{host}:{port}", auth_mode, "proxy_host")
    if ":" in host:
        literal = host if host[:1] == "[" else f"[{host}]"
        name = parse_authority(literal, "proxy_host", literal)[2]
    else:
        name = normalise_host(host, "proxy_host")
    return Proxy("http", name, port, None, None, check_auth_mode(auth_mode))


def decide_proxy(
    options: Mapping[str, Any],
    url: URL,
    fields: list[tuple[str, str]],
    environment: EnvironmentProxies | None,
) -> Proxy | None:
    get = options.get
    given = get("proxy")
    auth_mode = get("proxy_auth_mode")
    check_auth_mode(auth_mode)  # wrong even where there is no proxy to tell it to
    if given is not False and "proxy_port" in options and "proxy_host" not in options:
        raise ValueError("proxy_port needs proxy_host; a proxy given as a URL has its port in it")
    proxy: Proxy | None = None
    if given is not None and given is not False:
        if "proxy_host" in options:
            raise ValueError("only one of proxy and proxy_host may be given")
        if not isinstance(given, str):
            raise ValueError(f"proxy must be a URL, False or None, not {type(given).__name__}")
        proxy = parse_proxy_url(given, auth_mode)
    elif given is None:
        if get("proxy_host"):
            proxy = proxy_from_host(options["proxy_host"], get("proxy_port"), auth_mode)
        elif environment:
            found = environment.proxy_for(url.scheme, url.host, url.port)
            if found is not None:
                proxy = parse_proxy_url(
                    found.url, auth_mode, f"environment variable {found.variable}"
                )
    if proxy is not None and ("proxy_username" in options or "proxy_password" in options):
        username = get("proxy_username", proxy.username)
        if username is None:
            if get("proxy_password"):
                raise ValueError("proxy_password needs proxy_username")
        else:
            proxy = proxy._replace(
                username=check_text("proxy_username", username),
                password=check_text("proxy_password", get("proxy_password") or ""),
            )
    if fields:
        proxy = _take_proxy_authorization(proxy, fields)
    if (
        proxy is not None
        and proxy.auth_mode == "basic"
        and not proxy.is_socks
        and ":" in (proxy.username or "")
    ):
        # As Basic it would be the identity of another user (RFC 7617 section 2).
        raise ValueError("the proxy's user name holds ':', which Basic authentication cannot carry")
    return proxy


def _take_proxy_authorization(proxy: Proxy | None, fields: list[tuple[str, str]]) -> Proxy | None:
    """Turn a caller's Proxy-Authorization into proxy credentials: as a header it would reach
    the origin, and two identities would share a tunnel."""
    values = [value for name, value in fields if name.lower() == "proxy-authorization"]
    if not values:
        return proxy
    if proxy is None:
        raise ValueError(
            "header Proxy-Authorization without a proxy would show the proxy's credentials to"
            " the origin; remove it"
        )
    scheme, _, encoded = values[0].partition(" ")
    try:
        if len(values) > 1 or scheme.lower() != "basic":
            raise ValueError
        username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        if not colon:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ValueError(
            "header Proxy-Authorization must be one Basic credential; use proxy_username,"
            " proxy_password and proxy_auth_mode"
        ) from None
    refuse_control_bytes("header Proxy-Authorization", username + password)
    fields[:] = [field for field in fields if field[0].lower() != "proxy-authorization"]
    return proxy._replace(username=username, password=password, auth_mode="basic")
