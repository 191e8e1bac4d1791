"""Proxies that the process environment names: ``http_proxy`` and its kin, and ``no_proxy``.

libcurl's own reading of these variables is not used: its NO_PROXY knows no ports and overrules a
proxy that a request names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class EnvironmentProxy(NamedTuple):
    """A proxy that a variable of the environment names."""

    url: str  #: as it was written, with ``http://`` in front where it had no scheme; not validated
    variable: str  #: the name of the variable, for error messages

    def __repr__(self) -> str:
        """Leave the URL out: it may hold a password."""
        return f"{type(self).__name__}(variable={self.variable!r})"


# For each scheme of a request: the variables asked, in this order. Lower case comes first, as it
# does everywhere; the plain http entry is special, see from_environ().
_VARIABLES = {
    "http": ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}

# The answers for this many (scheme, host, port) are remembered.
_MAX_ANSWERS = 1024


class EnvironmentProxies:
    """What the environment says of proxies, read once. False if it names none at all."""

    def __init__(self, proxies: Mapping[str, EnvironmentProxy], no_proxy: str = "") -> None:
        """Take the proxy for each scheme (``"http"``, ``"https"``), and the value of no_proxy."""
        self._proxies = dict(proxies)
        self._exceptions = _NoProxy(no_proxy)
        self._answers: dict[tuple[str, str, int], EnvironmentProxy | None] = {}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> EnvironmentProxies:
        """Read the variables of ``environ``; an empty one counts as not set.

        A CGI program gets the request header ``Proxy:`` as ``HTTP_PROXY``, under the control of
        whoever sends the request ("httpoxy", CVE-2016-5385), so that variable is ignored where
        ``REQUEST_METHOD`` shows a CGI environment.
        """
        proxies = {}
        for scheme, variables in _VARIABLES.items():
            for variable in variables:
                if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
                    continue
                if value := environ.get(variable, "").strip():
                    url = value if "://" in value else f"http://{value.removeprefix('//')}"
                    proxies[scheme] = EnvironmentProxy(url, variable)
                    break
        return cls(proxies, environ.get("no_proxy") or environ.get("NO_PROXY") or "")

    def __bool__(self) -> bool:
        return bool(self._proxies)

    def __repr__(self) -> str:
        variables = sorted({proxy.variable for proxy in self._proxies.values()})
        return f"<{type(self).__name__} {variables}>"

    def proxy_for(self, scheme: str, host: str, port: int) -> EnvironmentProxy | None:
        """Return the proxy for a request, or None if it goes straight to the origin.

        ``host`` is in lower case and ASCII, an IPv6 address without brackets; ``port`` is the
        origin's, the scheme's default filled in.
        """
        proxy = self._proxies.get(scheme)
        if proxy is None:
            return None
        key = (scheme, host, port)
        try:
            return self._answers[key]
        except KeyError:
            pass
        if self._exceptions.match(host, port):
            proxy = None
        if len(self._answers) >= _MAX_ANSWERS:
            self._answers.clear()
        self._answers[key] = proxy
        return proxy


# What a host name may consist of here; anything else in an entry (a URL, a glob) is no entry.
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::([0-9]+))?")


class _NoProxy:
    """The entries of ``no_proxy``, which commas or whitespace separate.

    An entry is ``*``, a host name, an IP address or a CIDR block; all but blocks may have a port.
    A name stands for itself and for every name below it, with or without ``.`` or ``*.`` before
    it. Entries of any other form are skipped: a typing error in the environment must not stop a
    program.
    """

    def __init__(self, value: str) -> None:
        # Each with the ports for which it holds; None stands for every port.
        self._all: set[int | None] = set()
        self._names: dict[str, set[int | None]] = {}
        self._networks: list[tuple[_IPNetwork, str | None, int | None]] = []
        for entry in re.split(r"[,\s]+", value.lower()):
            try:
                self._add(entry)
            except ValueError:
                pass

    def _add(self, entry: str) -> None:
        """Take in one entry; raises ``ValueError`` if it is none."""
        bare, port = _split_port(entry)
        if bare == "*":
            self._all.add(port)
        elif ":" in bare or _looks_numeric(bare):
            # An address is the block that holds it alone.
            address, slash, length = bare.partition("/")
            address, zone = _split_zone(address)
            network = ipaddress.ip_network(f"{address}{slash}{length}", strict=False)
            self._networks.append((network, zone, port))
        else:
            self._names.setdefault(_canonical_name(bare), set()).add(port)

    def match(self, host: str, port: int) -> bool:
        """Tell whether an entry holds for this host and port."""
        if _holds(self._all, port):
            return True
        host = host.rstrip(".")
        bare, zone = _split_zone(host)
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            # An IPv6 address must never be taken for a name: "::1%25.example.com" is not a
            # host of example.com (CVE-2025-22870 in Go). Nor is an IPv4 address.
            return ":" not in host and self._match_name(host, port)
        return self._match_address(address, zone, port)

    def _match_name(self, name: str, port: int) -> bool:
        while name:
            if _holds(self._names.get(name, ()), port):
                return True
            name = name.partition(".")[2]
        return False

    def _match_address(self, address: _IPAddress, zone: str | None, port: int) -> bool:
        addresses: list[_IPAddress] = [address]
        # ::ffff:10.0.0.1 connects to 10.0.0.1.
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            addresses.append(address.ipv4_mapped)
        return any(
            candidate in network
            for network, its_zone, its_port in self._networks
            if its_port in (None, port) and its_zone in (None, zone)
            for candidate in addresses
        )


def _holds(ports: set[int | None] | tuple[()], port: int) -> bool:
    return None in ports or port in ports


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split ``host:port``, ``[v6]:port`` or ``[v6]``; of an IPv6 without brackets all is host."""
    if entry.startswith("["):
        match = _BRACKETED.fullmatch(entry)
        if match is None or ":" not in match[1]:
            raise ValueError("malformed brackets")
        host, digits = match.groups()
    elif entry.count(":") == 1:
        host, _, digits = entry.partition(":")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("malformed port")
    else:
        return entry, None
    if digits is None:
        return host, None
    if len(digits) > 5 or int(digits) > 65535:
        raise ValueError("port out of range")
    return host, int(digits)


def _looks_numeric(text: str) -> bool:
    """Tell whether this can only be meant as an IPv4 address or block."""
    return "/" in text or text.replace(".", "").isdecimal()


def _split_zone(address: str) -> tuple[str, str | None]:
    """Split the zone from an IPv6 address; in URLs its ``%`` is ``%25`` (RFC 6874)."""
    address, percent, zone = address.partition("%")
    return address, zone.removeprefix("25") if percent else None


def _canonical_name(name: str) -> str:
    name = name.removeprefix("*").removeprefix(".").rstrip(".")
    if not name.isascii():
        import idna  # rarely needed here, and slow to load

        # IDNAError is a ValueError.
        name = idna.encode(name, uts46=True).decode("ascii")
    if _NAME.fullmatch(name) is None:
        raise ValueError("malformed name")
    return name
