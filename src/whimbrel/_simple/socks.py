"""The SOCKS handshakes, without I/O: SOCKS4, 4a, 5 (RFC 1928) and its login (RFC 1929).

A handshake is a generator that yields what is to happen next: bytes to send, or a number of bytes
to receive, which are sent into it. Where the proxy closes the connection, EOFError is thrown into
it. It ends when the tunnel stands, and raises HTTPProxyError where there will be none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from whimbrel._policy.proxies import Proxy
from whimbrel.httpclient import HTTPProxyError

Handshake = Generator[bytes | int, bytes, None]

_CONNECT: Final = 1
_NO_AUTHENTICATION: Final = 0
_GSSAPI: Final = 1
_USERNAME_PASSWORD: Final = 2
_NO_ACCEPTABLE_METHOD: Final = 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4  # ATYP
_LONGEST: Final = 255
"""Bytes of a name, a user name or a password: a single byte holds the length."""

# RFC 1928 section 6.
_REPLIES = {
    1: "a general failure, such as an unknown name",
    2: "it does not allow the connection",
    3: "it cannot reach the network",
    4: "it cannot reach the host",
    5: "the origin refused its connection",
    6: "its connection's TTL expired",
    7: "it does not support the command",
    8: "it does not support the address type",
}
_CLOSED: Final = "it closed the connection"
_UNRESOLVED: Final = "the origin's name has no address here, and this kind of proxy resolves none"


def handshake(proxy: Proxy, host: str, port: int, address: str | None) -> Handshake:
    """Ask `proxy` for a tunnel to ``host:port``.

    :param host: the origin's host, a name or an address without brackets. "socks4a" and "socks5h"
        let the proxy resolve a name.
    :param address: what `host` was resolved to here, for "socks4" and "socks5"; None if that gave
        no address (and, of "socks4", no IPv4 address).
    :raises HTTPProxyError: stage "proxy-auth" where other credentials might help, else "tunnel".
    """
    try:
        yield from _VERSIONS[proxy.scheme](proxy, _destination(proxy, host, address), port)
    except EOFError:
        raise _failure(proxy, _CLOSED) from None


class _Destination(NamedTuple):
    """What the proxy is told: the octets of an address or of a name."""

    kind: int
    octets: bytes


def _destination(proxy: Proxy, host: str, address: str | None) -> _Destination:
    remote = proxy.scheme in ("socks4a", "socks5h")
    try:
        # A proxy that resolves names need not take an address for one.
        literal = ipaddress.ip_address(host if remote else address or "")
    except ValueError:
        if not remote:
            raise _failure(proxy, _UNRESOLVED) from None
        name = host.encode("ascii")
        if len(name) > _LONGEST:
            raise _failure(proxy, f"the origin's name is longer than {_LONGEST} bytes") from None
        return _Destination(_NAME, name)
    if literal.version == 4:
        return _Destination(_IPV4, literal.packed)
    if proxy.scheme == "socks4":
        raise _failure(proxy, _UNRESOLVED)
    if proxy.scheme == "socks4a":
        return _Destination(_NAME, host.encode("ascii"))  # the only form that can hold it
    return _Destination(_IPV6, literal.packed)


def _socks4(proxy: Proxy, destination: _Destination, port: int) -> Handshake:
    """SOCKS 4, and 4a for names: the address 0.0.0.1 says that one follows the user id."""
    user = _login_part(proxy, "user id", proxy.username or "")
    named = destination.kind == _NAME
    request = bytes((4, _CONNECT)) + port.to_bytes(2)
    request += (b"\0\0\0\1" if named else destination.octets) + user + b"\0"
    yield request + destination.octets + b"\0" if named else request
    reply = yield 8
    if reply[0] != 0:
        raise _failure(proxy, "it does not speak SOCKS4")
    code = reply[1]
    if code in (92, 93):
        raise _failure(proxy, "it does not accept the user id", refused=True)
    if code != 90:
        raise _failure(
            proxy, "it rejected the request" if code == 91 else f"it failed (code {code})"
        )


def _socks5(proxy: Proxy, destination: _Destination, port: int) -> Handshake:
    methods = [_NO_AUTHENTICATION]
    if proxy.username is not None:
        methods.append(_USERNAME_PASSWORD)
    yield bytes((5, len(methods), *methods))
    version, method = yield 2
    if version != 5:
        raise _failure(proxy, "it does not speak SOCKS5")
    if method == _NO_ACCEPTABLE_METHOD or (method == _USERNAME_PASSWORD and proxy.username is None):
        reason = "it accepts no authentication method that was offered"
        if proxy.username is None:
            reason += "; it wants a user name and password"
        raise _failure(proxy, reason, refused=True)
    if method not in methods:
        raise _failure(
            proxy,
            f"it chose authentication method {method}, which was not offered",
            refused=method == _GSSAPI,
        )
    if method == _USERNAME_PASSWORD:
        yield from _log_in(proxy)

    kind, octets = destination
    if kind == _NAME:
        octets = bytes((len(octets),)) + octets
    yield bytes((5, _CONNECT, 0, kind)) + octets + port.to_bytes(2)
    version, code, _reserved, kind = yield 4
    if version != 5:
        raise _failure(proxy, "it does not speak SOCKS5")
    if code:
        raise _failure(proxy, _REPLIES.get(code, f"it failed (code {code})"))
    # BND.ADDR and BND.PORT mean nothing to us, but what follows them is the origin's.
    if kind == _NAME:
        (length,) = yield 1
        yield length + 2
    elif kind in (_IPV4, _IPV6):
        yield (4 if kind == _IPV4 else 16) + 2
    else:
        raise _failure(proxy, f"it answered with an unknown address type ({kind})")


def _log_in(proxy: Proxy) -> Handshake:
    """RFC 1929."""
    user = _login_part(proxy, "user name", proxy.username or "")
    password = _login_part(proxy, "password", proxy.password or "")
    yield bytes((1, len(user))) + user + bytes((len(password),)) + password
    # Its version is not looked at: some servers send their own, 5.
    _version, status = yield 2
    if status:
        raise _failure(proxy, "it rejected the credentials", refused=True)


_VERSIONS: dict[str, Callable[[Proxy, _Destination, int], Handshake]] = {
    "socks4": _socks4,
    "socks4a": _socks4,
    "socks5": _socks5,
    "socks5h": _socks5,
}


def _login_part(proxy: Proxy, what: str, text: str) -> bytes:
    octets = text.encode()
    if len(octets) > _LONGEST:
        raise _failure(proxy, f"the {what} is longer than {_LONGEST} bytes", refused=True)
    return octets


def _failure(proxy: Proxy, reason: str, *, refused: bool = False) -> HTTPProxyError:
    """`refused`: other credentials might help. Nothing has reached the origin in any case."""
    error = HTTPProxyError(
        f"proxy {proxy.url}: {reason}",
        stage="proxy-auth" if refused else "tunnel",
        retryable=not refused,
    )
    error.proxy = proxy.url
    return error
