"""What the libcurl at hand can do, and what to say where it cannot."""

from __future__ import annotations

import logging
import socket
from functools import lru_cache

import pycurl

MINIMUM = (7, 68, 0)
"""The oldest libcurl this backend is written for."""
RECOMMENDED = (8, 21, 0)
"""Older ones reuse tunnels across proxy credentials (CVE-2026-3784, -7168, -8927)."""


class CapabilityError(NotImplementedError):
    """An option that this libcurl does not have; the message names both, and what has it."""


def version() -> tuple[int, int, int]:
    """Return the version of the libcurl that pycurl runs on."""
    number: int = pycurl.version_info()[2]
    return number >> 16 & 255, number >> 8 & 255, number & 255


@lru_cache(maxsize=1)
def describe() -> str:
    """``libcurl 8.23.0 (OpenSSL/3.6.5 …)``, for messages."""
    return str(pycurl.version).partition(" ")[2] or str(pycurl.version)


@lru_cache(maxsize=1)
def check() -> None:
    """Raise CapabilityError for a libcurl that is too old, log a warning for an unsafe one."""
    found = version()
    if found < MINIMUM:
        raise CapabilityError(
            f"whimbrel needs libcurl {_dotted(MINIMUM)} or newer; pycurl runs on {describe()}"
        )
    if found < RECOMMENDED:
        logging.getLogger("whimbrel").warning(
            "%s may reuse a tunnel that other proxy credentials made (CVE-2026-3784); libcurl %s"
            " or newer does not",
            describe(),
            _dotted(RECOMMENDED),
        )


def _dotted(number: tuple[int, int, int]) -> str:
    return ".".join(map(str, number))


def option(name: str, since: str, *, feature: str | None = None) -> int:
    """Return pycurl's number for the option `name`; raise CapabilityError if it has none."""
    number: int | None = getattr(pycurl, name, None)
    if number is None:
        raise lacking(name, since, feature=feature)
    return number


def lacking(name: str, since: str, *, feature: str | None = None) -> CapabilityError:
    """The error for an option or feature that is missing here."""
    # Values of options (CURL_HTTP_VERSION_3, HTTPAUTH_NEGOTIATE) have their own names.
    shown = name if name.startswith(("CURL", "HTTPAUTH_")) else f"CURLOPT_{name}"
    what = f"{feature} needs {shown}" if feature else f"{shown} is needed"
    return CapabilityError(
        f"{what}, which {describe()} does not offer; libcurl {since} or newer, built with it, does"
    )


def has_feature(bit: str) -> bool:
    """Whether libcurl was built with a feature, by the name of its VERSION_* bit."""
    return bool(pycurl.version_info()[4] & getattr(pycurl, bit, 0))


@lru_cache(maxsize=1)
def fallback_ca_bundle() -> str | None:
    """certifi's bundle where libcurl's own is missing on this machine, else None.

    A libcurl from a wheel carries the path of the distribution that it was built on.
    """
    if default_bundle_loads():
        return None
    import certifi

    return certifi.where()


def default_bundle_loads() -> bool:
    """Whether libcurl can load its own CA bundle.

    pycurl cannot ask for the bundle's path, so libcurl is asked to use it: the handshake of a
    TLS connection to a socket of ours fails with 77 before a byte is sent, or because we hang up.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        easy = pycurl.Curl()
        multi = pycurl.CurlMulti()
        try:
            easy.setopt(pycurl.URL, f"https://127.0.0.1:{listener.getsockname()[1]}/")
            easy.setopt(pycurl.PROXY, "")
            easy.setopt(pycurl.NOSIGNAL, 1)
            easy.setopt(pycurl.TIMEOUT_MS, 3000)
            multi.add_handle(easy)
            while True:
                multi.perform()
                _, succeeded, failed = multi.info_read()
                if failed or succeeded:
                    code: int = failed[0][1] if failed else 0
                    return bool(code != pycurl.E_SSL_CACERT_BADFILE)
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    multi.select(0.01)
        finally:
            easy.close()
            multi.close()
