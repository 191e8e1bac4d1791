"""The local end of a connection: `network_interface`, an address or the name of an interface.

An address is bound to. By name, the socket is tied to the device where the system lets us
(SO_BINDTODEVICE on Linux, IP_BOUND_IF on macOS); where it does not, an address of the interface
is bound to, which settles the source address and leaves the way to the routing table.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys

# <linux/sockios.h>; <netinet/in.h> and <netinet6/in6.h> of macOS.
_SIOCGIFADDR = 0x8915
_IP_BOUND_IF = 25
_IPV6_BOUND_IF = 125
_IF_INET6 = "/proc/net/if_inet6"
_LINK_LOCAL = b"20"
_LONGEST_NAME = 15


def is_address(interface: str) -> bool:
    """Whether `interface` is an address, and no name."""
    try:
        ipaddress.ip_address(interface)
    except ValueError:
        return False
    return True


def bind(sock: socket.socket, interface: str) -> None:
    """Make `interface` the local end of a socket that is not connected yet.

    Raises OSError: there is no such interface or address, or it has none of the socket's family.
    """
    if is_address(interface):
        _bind_to(sock, interface)
    elif sys.platform == "darwin":
        index = struct.pack("I", socket.if_nametoindex(interface))
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_BOUND_IF, index)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BOUND_IF, index)
    else:
        name = interface.encode("utf-8", "surrogatepass")
        if len(name) > _LONGEST_NAME:  # the kernel would cut it off, and take another interface
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        except PermissionError:
            _bind_to(sock, address_of(name, sock.family))


def _bind_to(sock: socket.socket, address: str) -> None:
    # getaddrinfo, for a zone becomes an index; of an address it asks nobody.
    (found, *_) = socket.getaddrinfo(
        address, 0, sock.family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    sock.bind(found[4])


def address_of(name: bytes, family: int) -> str:
    """An address of `family` that the interface has (Linux).

    Raises OSError if there is no such interface, or it has none.
    """
    if family == socket.AF_INET6:
        return _ipv6_address_of(name)
    import fcntl  # of no other use here, and not on every system

    request = struct.pack("16sH14x", name, socket.AF_INET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        reply = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
    return socket.inet_ntoa(reply[20:24])


def _ipv6_address_of(name: bytes) -> str:
    link_local = None
    with open(_IF_INET6, "rb") as lines:
        for line in lines:
            # An address in 32 figures, index, prefix length, scope, flags and name.
            figures, index, _length, scope, _flags, found = line.split()
            if found == name:
                address = str(ipaddress.IPv6Address(bytes.fromhex(figures.decode())))
                if scope != _LINK_LOCAL:
                    return address
                link_local = f"{address}%{int(index, 16)}"
    if link_local is None:
        raise OSError(errno.EADDRNOTAVAIL, "the interface has no IPv6 address")
    return link_local
