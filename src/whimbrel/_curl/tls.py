"""TLS settings as libcurl options, and an `ssl.SSLContext` read into them.

What cannot be expressed is refused: a setting that is silently dropped is a hole.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from typing import Any

import pycurl

from whimbrel._curl import capabilities
from whimbrel._policy.tls import TLS

Pair = tuple[int, Any]

_MINIMUM = {
    ssl.TLSVersion.MINIMUM_SUPPORTED: "SSLVERSION_TLSv1_0",
    ssl.TLSVersion.TLSv1: "SSLVERSION_TLSv1_0",
    ssl.TLSVersion.TLSv1_1: "SSLVERSION_TLSv1_1",
    ssl.TLSVersion.TLSv1_2: "SSLVERSION_TLSv1_2",
    ssl.TLSVersion.TLSv1_3: "SSLVERSION_TLSv1_3",
}
_MAXIMUM = {
    ssl.TLSVersion.TLSv1: "SSLVERSION_MAX_TLSv1_0",
    ssl.TLSVersion.TLSv1_1: "SSLVERSION_MAX_TLSv1_1",
    ssl.TLSVersion.TLSv1_2: "SSLVERSION_MAX_TLSv1_2",
    ssl.TLSVersion.TLSv1_3: "SSLVERSION_MAX_TLSv1_3",
}
# From the oldest to the newest: a ban must leave a range.
_BANS = (
    (ssl.TLSVersion.TLSv1, ssl.OP_NO_TLSv1),
    (ssl.TLSVersion.TLSv1_1, ssl.OP_NO_TLSv1_1),
    (ssl.TLSVersion.TLSv1_2, ssl.OP_NO_TLSv1_2),
    (ssl.TLSVersion.TLSv1_3, ssl.OP_NO_TLSv1_3),
)
# Options that change nothing a client of libcurl could see, or that libcurl sets as well.
_HARMLESS = (
    ssl.OP_ALL
    | ssl.OP_NO_SSLv2
    | ssl.OP_NO_SSLv3
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_SINGLE_DH_USE
    | ssl.OP_SINGLE_ECDH_USE
    | ssl.OP_NO_TICKET
    | ssl.OP_NO_RENEGOTIATION
    | getattr(ssl, "OP_ENABLE_MIDDLEBOX_COMPAT", 0)
    | getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    | getattr(ssl, "OP_ENABLE_KTLS", 0)
    | sum(int(bit) for _, bit in _BANS)
)
_HARMLESS_FLAGS = (
    ssl.VERIFY_X509_TRUSTED_FIRST
    | getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)
    # create_default_context() sets it from Python 3.13 on; libcurl has no such switch.
    | ssl.VERIFY_X509_STRICT
)


def tls_options(tls: TLS, prefix: str) -> Iterator[Pair]:
    """The options of one TLS hop; `prefix` is "" for the origin, "PROXY_" for the proxy."""
    yield _option(prefix, "SSL_VERIFYPEER"), int(tls.validate)
    yield _option(prefix, "SSL_VERIFYHOST"), 2 if tls.validate and tls.check_hostname else 0
    if tls.context is not None:
        yield from _context_options(tls.context, prefix)
        return
    if isinstance(tls.ca_certs, bytes):
        yield _option(prefix, "CAINFO_BLOB", "7.77.0"), tls.ca_certs
    elif tls.ca_certs is not None:
        yield _option(prefix, "CAINFO"), tls.ca_certs
    elif tls.validate:
        yield from _system_trust(prefix)
    if tls.client_cert is not None:
        yield _option(prefix, "SSLCERT"), tls.client_cert
    if tls.client_key is not None:
        yield _option(prefix, "SSLKEY"), tls.client_key
    if tls.ciphers is not None:
        yield _option(prefix, "SSL_CIPHER_LIST"), tls.ciphers


def _option(prefix: str, name: str, since: str = "7.52.0") -> int:
    return capabilities.option(prefix + name, since)


def _system_trust(prefix: str) -> Iterator[Pair]:
    bundle = capabilities.fallback_ca_bundle()
    if bundle is not None:
        yield _option(prefix, "CAINFO"), bundle


def _context_options(context: ssl.SSLContext, prefix: str) -> Iterator[Pair]:
    field = "proxy_ssl" if prefix else "ssl_options"
    _refuse_unmappable(context, field)
    if context.verify_mode != ssl.CERT_NONE:
        certificates = context.get_ca_certs(binary_form=True)
        stored = context.cert_store_stats()
        if stored["x509"] > stored["x509_ca"]:
            raise ValueError(
                f"{field}: the context trusts a certificate that is no CA's, which Python does not"
                " give out again; pass it as ca_certs"
            )
        if certificates:
            pem = "".join(map(ssl.DER_cert_to_PEM_cert, certificates))
            yield _option(prefix, "CAINFO_BLOB", "7.77.0"), pem.encode()
        elif ssl.create_default_context().cert_store_stats()["x509_ca"]:
            raise ValueError(
                f"{field}: the context trusts no certificate that Python would give out; load"
                " CA certificates from a file, or pass ca_certs"
            )
        else:
            # Default locations that are directories are read on demand, and show no
            # certificates even in Python's own default context: the system's set it is.
            yield from _system_trust(prefix)
    yield _option(prefix, "SSLVERSION"), _versions(context, field)
    names = [cipher["name"] for cipher in context.get_ciphers()]
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    level = context.security_level
    if level != plain.security_level or names != [c["name"] for c in plain.get_ciphers()]:
        older = [name for name in names if not name.startswith("TLS_")]
        newer = [name for name in names if name.startswith("TLS_")]
        if older:
            yield _option(prefix, "SSL_CIPHER_LIST"), ":".join((*older, f"@SECLEVEL={level}"))
        if newer:
            yield _option(prefix, "TLS13_CIPHERS", "7.61.0"), ":".join(newer)


def _refuse_unmappable(context: ssl.SSLContext, field: str) -> None:
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{field} is a server's SSLContext: use PROTOCOL_TLS_CLIENT")
    if _holds_a_certificate(context):
        raise ValueError(
            f"{field}: the client certificate loaded into the SSLContext cannot be handed to"
            " libcurl; pass client_cert and client_key, or a dict with certfile and keyfile"
        )
    if context.keylog_filename:
        raise ValueError(
            f"{field}: keylog_filename cannot be mapped onto libcurl; set the environment"
            " variable SSLKEYLOGFILE before the first request instead"
        )
    if context.post_handshake_auth:
        raise ValueError(f"{field}: post_handshake_auth cannot be mapped onto libcurl")
    flags = int(context.verify_flags) & ~int(_HARMLESS_FLAGS)
    if flags:
        raise ValueError(
            f"{field}: verify_flags {ssl.VerifyFlags(flags)!r} cannot be mapped onto libcurl"
        )
    # ssl.Options shows bits as negative numbers where the platform's long is signed.
    options = int(context.options) & 0xFFFFFFFF & ~int(_HARMLESS)
    if options:
        raise ValueError(f"{field}: options {ssl.Options(options)!r} cannot be mapped onto libcurl")


def _holds_a_certificate(context: ssl.SSLContext) -> bool:
    """Whether load_cert_chain() was called.

    Python has no question for it, OpenSSL has: SSL_CTX_get0_certificate. CPython keeps the
    SSL_CTX pointer as the first member of the object, behind the header that every object has.
    Where that cannot be asked, the answer is no, and the handshake tells.
    """
    if sys.implementation.name != "cpython":
        return False
    try:
        import _ssl
        import ctypes

        library = ctypes.CDLL(_ssl.__file__)
        ask = library.SSL_CTX_get0_certificate
    except (ImportError, OSError, AttributeError):
        return False
    ask.restype = ctypes.c_void_p
    ask.argtypes = [ctypes.c_void_p]
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    return bool(pointer.value and ask(pointer.value))


def _versions(context: ssl.SSLContext, field: str) -> int:
    lowest = context.minimum_version
    highest = context.maximum_version
    allowed = [
        version
        for version, ban in _BANS
        if not context.options & ban
        and (lowest == ssl.TLSVersion.MINIMUM_SUPPORTED or version >= lowest)
        and (highest == ssl.TLSVersion.MAXIMUM_SUPPORTED or version <= highest)
    ]
    order = [version for version, _ in _BANS]
    if not allowed or order.index(allowed[-1]) - order.index(allowed[0]) + 1 != len(allowed):
        raise ValueError(
            f"{field}: the TLS versions it allows are no range, which is all that libcurl can map;"
            " use minimum_version and maximum_version"
        )
    minimum: int = getattr(pycurl, _MINIMUM[allowed[0]])
    if allowed[-1] == ssl.TLSVersion.TLSv1_3:
        return minimum
    return minimum | int(getattr(pycurl, _MAXIMUM[allowed[-1]]))
