"""A certificate for localhost, so that TLS can be tried without any set-up.

Its private key is public: it stands below. Pass the certificate as `ca_certs` to the request that
talks to a server of this package, and trust it nowhere else. (Go's net/http/httptest ships such a
pair for the same reason.) For anything beyond "does TLS work", make your own with trustme.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from typing import Final

LOCALHOST_CERTIFICATE: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIB+TCCAZ+gAwIBAgIUdi9WyDic3E5ubBNjGFpMU31lkHkwCgYIKoZIzj0EAwIw
JTEjMCEGA1UEAwwad2hpbWJyZWwudGVzdGluZyBsb2NhbGhvc3QwIBcNMjAwMTAx
MDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMCUxIzAhBgNVBAMMGndoaW1icmVsLnRl
c3RpbmcgbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFcyR2uk4
Ucy+XkCc2zTIXYKfZS33SZkTYN95TT0pIv5bzWXFjJYdBxrPjcI6hqBnUpelHS1D
g+LNmjb0ivzd5KOBqjCBpzAsBgNVHREEJTAjgglsb2NhbGhvc3SHBH8AAAGHEAAA
AAAAAAAAAAAAAAAAAAEwEgYDVR0TAQH/BAgwBgEB/wIBADAOBgNVHQ8BAf8EBAMC
AoQwEwYDVR0lBAwwCgYIKwYBBQUHAwEwHQYDVR0OBBYEFG4BAc3MvXPT0XkvTK+M
E5GnNy53MB8GA1UdIwQYMBaAFG4BAc3MvXPT0XkvTK+ME5GnNy53MAoGCCqGSM49
BAMCA0gAMEUCIASN5JdtpSNyq+ynfGrlHd9732XCwcO4GbHkQZffu/PtAiEAu2yP
XTfBnJ3nhh2UA19Vm33j4HIPo2qx7ddHouoyfMc=
-----END CERTIFICATE-----
"""
"""PEM: self-signed, for localhost, 127.0.0.1 and ::1, valid from 2020 to 2120."""

_KEY: Final = b"""\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAE18vbzdB88Aw86U
8RcYoqVhl0AeClHb7/0Z6izWACShRANCAAQVzJHa6ThRzL5eQJzbNMhdgp9lLfdJ
mRNg33lNPSki/lvNZcWMlh0HGs+NwjqGoGdSl6UdLUOD4s2aNvSK/N3k
-----END PRIVATE KEY-----
"""


def localhost_context() -> ssl.SSLContext:
    """A server-side context that shows `LOCALHOST_CERTIFICATE`; ALPN offers HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # load_cert_chain reads files only.
    descriptor, path = tempfile.mkstemp(suffix=".pem")
    try:
        with open(descriptor, "wb") as file:
            file.write(LOCALHOST_CERTIFICATE + _KEY)
        context.load_cert_chain(path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    context.set_alpn_protocols(["http/1.1"])
    return context
