"""Where a connection leads and by which way, and how far the making of one has come."""

from __future__ import annotations

import time
from typing import NamedTuple

from whimbrel._policy.exchange import Exchange
from whimbrel._policy.proxies import Proxy
from whimbrel._policy.tls import TLS
from whimbrel.httpclient import HTTPTimeoutError


class Route(NamedTuple):
    """Everything that decides a connection: what differs in any of it never shares one."""

    scheme: str
    host: str
    """The origin's; "" where an http or https proxy is spoken to in plain HTTP for any origin."""
    port: int
    """The origin's; 0 where `host` is ""."""
    proxy: Proxy | None
    """With its credentials."""
    tls: TLS | None
    """For the origin; None for http."""
    proxy_tls: TLS | None
    """For the hop to an https proxy, else None."""
    network_interface: str | None
    unix_socket: str | None
    allow_ipv6: bool
    connect_to: tuple[str, int] | None
    """As in `Exchange`, and so are `addresses`."""
    addresses: tuple[str, ...]

    @property
    def is_tunnel(self) -> bool:
        """Whether an http or https proxy is asked to CONNECT to the origin."""
        return self.proxy is not None and not self.proxy.is_socks and self.scheme == "https"


def route_of(exchange: Exchange) -> Route:
    """The route of a connection that can carry `exchange`."""
    profile, url = exchange.profile, exchange.url
    proxy = profile.proxy
    secure = profile.scheme == "https"
    host, port = url.host, url.port
    if proxy is not None and not secure and not proxy.is_socks:
        host, port = "", 0
    return Route(
        profile.scheme,
        host,
        port,
        proxy,
        profile.tls if secure else None,
        profile.proxy_tls if proxy is not None and proxy.scheme == "https" else None,
        profile.network_interface,
        profile.unix_socket,
        profile.allow_ipv6,
        exchange.connect_to,
        exchange.addresses,
    )


class Progress:
    """How far `connect` has come; whoever bounds it in time words the error by this."""

    __slots__ = ("appconnect", "connect", "namelookup", "proxy_code", "stage", "started")

    stage: str
    """"dns", "connect", "proxy-connect", "proxy-auth", "tunnel" or "tls"."""
    started: float
    """In `time.monotonic()`."""
    namelookup: float
    """Seconds from `started` until the first hop's address was known; 0 before."""
    connect: float
    """Seconds until the TCP connection of the first hop stood; 0 before."""
    appconnect: float
    """Seconds until TLS with the origin was established; 0 before, and without TLS."""
    proxy_code: int | None
    """The proxy's last status in answer to CONNECT."""

    def __init__(self, route: Route) -> None:
        self.started = time.monotonic()
        self.stage = "dns" if route.proxy is None else "proxy-connect"
        self.namelookup = self.connect = self.appconnect = 0.0
        self.proxy_code = None

    def elapsed(self) -> float:
        """Seconds since `started`, never 0: that would be "not yet"."""
        return max(time.monotonic() - self.started, 1e-6)

    def timeout_error(self, exchange: Exchange) -> HTTPTimeoutError:
        """The error of a time-out that strikes now."""
        url, proxy, stage = exchange.url, exchange.profile.proxy, self.stage
        if stage == "tls":
            text = f"Timeout during TLS handshake with {url.host}:{url.port}"
        elif proxy is None:
            if stage == "dns":
                text = f"Timeout while resolving {url.host}"
            else:
                text = f"Timeout while connecting to {url.netloc}"
        elif stage != "proxy-connect":
            text, stage = f"Timeout while proxy {proxy.url} was to make a tunnel", "tunnel"
        elif not self.namelookup:
            text = f"Timeout while resolving proxy {proxy.host}"
        else:
            text = f"Timeout while connecting to proxy {proxy.url}"
        error = HTTPTimeoutError(text, stage=stage, retryable=True)
        if proxy is not None:
            error.proxy, error.proxy_code = proxy.url, self.proxy_code
        return error
