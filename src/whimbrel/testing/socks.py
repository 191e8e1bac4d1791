"""A SOCKS 5 proxy on loopback, for demos and tests: CONNECT, with or without a password.

    async with Socks5Server("alice", "secret") as proxy:
        response = await client.fetch(url, proxy=proxy.url_with_credentials)

RFC 1928 and 1929. It connects to wherever it is asked, by name, IPv4 or IPv6 address, and answers
what fails with the code for it. BIND and UDP ASSOCIATE are refused.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from typing import Final

from whimbrel.testing._forwarding import ForwardingServer, Streams, connect, drop, relay
from whimbrel.testing._server import Limits, RequestHead

_VERSION: Final = 5
_PASSWORD_VERSION: Final = 1

_NO_AUTHENTICATION: Final = 0
_PASSWORD: Final = 2
_NO_METHOD: Final = 0xFF

_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4

_SUCCEEDED: Final = 0
_FAILED: Final = 1
_NETWORK_UNREACHABLE: Final = 3
_HOST_UNREACHABLE: Final = 4
_REFUSED: Final = 5
_NO_SUCH_COMMAND: Final = 7
_NO_SUCH_ADDRESS_TYPE: Final = 8


class Socks5Server(ForwardingServer):
    """The proxy described in this module's docstring.

    `requests` holds what it was asked for: method "CONNECT", version "5", and as target host:port,
    where host is the name or the address that the client has sent.

    Args:
        username, password: what clients must say; a `username` of None lets everybody through, a
            `password` of None is the empty one.
        limits: see `Limits`; `request_time` is for all that precedes the tunnel.
        port: the TCP port to listen on; 0 is a free one.
    """

    def __init__(
        self,
        username: str | None = None,
        password: str | None = None,
        *,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(username, password, limits=limits, port=port)

    @property
    def scheme(self) -> str:
        """ "socks5h": names are resolved here; "socks5" works as well."""
        return "socks5h"

    async def _serve(self, near: Streams, number: int) -> None:
        try:
            async with asyncio.timeout(self.limits.request_time):
                target = await self._handshake(near, number)
        except asyncio.IncompleteReadError:
            return  # the client has left
        if target is None:
            return
        try:
            far = await connect(*target)
        except (OSError, ValueError) as error:
            await _reply(near[1], _code_of(error))
            return
        try:
            await _reply(near[1], _SUCCEEDED, far[1].get_extra_info("sockname")[:2])
            self.tunnel_count += 1
            await relay(near, far)
        finally:
            await drop(far[1])

    async def _handshake(self, near: Streams, number: int) -> tuple[str, int] | None:
        """Where the client wants to go; None where it was refused, or speaks something else."""
        reader, writer = near
        version, count = await reader.readexactly(2)
        if version != _VERSION:
            return None
        wanted = _NO_AUTHENTICATION if self._username is None else _PASSWORD
        if wanted not in await reader.readexactly(count):
            self.refused_count += 1
            await _send(writer, _VERSION, _NO_METHOD)
            return None
        await _send(writer, _VERSION, wanted)
        if self._username is not None and not await self._authenticated(near, self._username):
            return None
        version, command, _, kind = await reader.readexactly(4)
        if version != _VERSION:
            return None
        if kind == _NAME:
            host = (await _string(reader)).decode("latin-1")
        elif kind in (_IPV4, _IPV6):
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == _IPV4 else 16)))
        else:
            await _reply(writer, _NO_SUCH_ADDRESS_TYPE)
            return None
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        if command != _CONNECT:
            await _reply(writer, _NO_SUCH_COMMAND)
            return None
        shown = f"[{host}]:{port}" if kind == _IPV6 else f"{host}:{port}"
        self._record(RequestHead("CONNECT", shown, str(_VERSION), ()), number, b"", -1)
        return host, port

    async def _authenticated(self, near: Streams, username: str) -> bool:
        """RFC 1929: whether user name and password are right, which the client is told."""
        reader, writer = near
        (version,) = await reader.readexactly(1)
        if version != _PASSWORD_VERSION:
            return False
        given = await _string(reader), await _string(reader)
        right = given == (username.encode(), self._password.encode())
        self.refused_count += not right
        await _send(writer, _PASSWORD_VERSION, not right)
        return right


def _code_of(error: Exception) -> int:
    """The reply for what has become of connecting (RFC 1928 section 6)."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ConnectionRefusedError):
        return _REFUSED
    if number == errno.ENETUNREACH:
        return _NETWORK_UNREACHABLE
    is_unknown = isinstance(error, socket.gaierror | TimeoutError | ValueError)
    return _HOST_UNREACHABLE if is_unknown or number == errno.EHOSTUNREACH else _FAILED


async def _reply(
    writer: asyncio.StreamWriter, code: int, bound: tuple[str, int] = ("0.0.0.0", 0)
) -> None:
    """Answer a request; `bound` is our end of the connection that was made for it."""
    address = ipaddress.ip_address(bound[0]).packed
    kind = _IPV4 if len(address) == 4 else _IPV6
    await _send(writer, _VERSION, code, 0, kind, *address, *struct.pack("!H", bound[1]))


async def _send(writer: asyncio.StreamWriter, *octets: int) -> None:
    writer.write(bytes(octets))
    await writer.drain()


async def _string(reader: asyncio.StreamReader) -> bytes:
    """A string behind a byte with its length."""
    (length,) = await reader.readexactly(1)
    return await reader.readexactly(length)
