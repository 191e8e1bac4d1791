"""A certificate for localhost and one for a client, so that TLS can be tried without any set-up.

Their private keys are public: they stand below. Pass the certificate for localhost as `ca_certs` to
the request that talks to a server of this package, and trust neither anywhere else. (Go's
net/http/httptest ships such a pair for the same reason.) For anything beyond "does TLS work", make
your own with trustme.
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

CLIENT_CERTIFICATE: Final = b"""\
-----BEGIN CERTIFICATE-----
MIIBxDCCAWmgAwIBAgIUQyAZzhfYhIODB1LpYSRl1uFkrZkwCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXd2hpbWJyZWwudGVzdGluZyBjbGllbnQwIBcNMjAwMTAxMDAw
MDAwWhgPMjEyMDAxMDEwMDAwMDBaMCIxIDAeBgNVBAMMF3doaW1icmVsLnRlc3Rp
bmcgY2xpZW50MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEnxfqsgV8BBBQ842+
s/toMgOlw7BN0tM/9CjdhJceqWN+P9ceDUW6LD/danjA6GEwomiK7NykCxzLC+av
s+Os66N7MHkwEgYDVR0TAQH/BAgwBgEB/wIBADAOBgNVHQ8BAf8EBAMCAoQwEwYD
VR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0OBBYEFLn+bNAZ5/xGQY3AB6QTP4ioFsRc
MB8GA1UdIwQYMBaAFLn+bNAZ5/xGQY3AB6QTP4ioFsRcMAoGCCqGSM49BAMCA0kA
MEYCIQCXtGzdn11zprUc+ryAkCdkOA6zMjCXxhteE0Gk9y9R1gIhAMFXseyJNPGC
LWVq3Y+/gfzs4ivdkmj9ZFU+3LXQcU42
-----END CERTIFICATE-----
"""
"""PEM: a client's, self-signed, valid from 2020 to 2120; see `localhost_context`."""

CLIENT_KEY: Final = b"""\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgqxZ3HSUgSrMpnRC9
WCQ8Fm8yGM8+g/iwM+V1w4YvEBKhRANCAASfF+qyBXwEEFDzjb6z+2gyA6XDsE3S
0z/0KN2Elx6pY34/1x4NRbosP91qeMDoYTCiaIrs3KQLHMsL5q+z46zr
-----END PRIVATE KEY-----
"""
"""PEM: the private key of `CLIENT_CERTIFICATE`."""


def localhost_context(verify_mode: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    """A server-side context that shows `LOCALHOST_CERTIFICATE`; ALPN offers HTTP/1.1 only.

    Args:
        verify_mode: whether clients are to show `CLIENT_CERTIFICATE`: CERT_NONE does not ask,
            CERT_OPTIONAL takes no other, CERT_REQUIRED takes nobody without it.
    """
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
    if verify_mode is not ssl.CERT_NONE:
        context.load_verify_locations(cadata=CLIENT_CERTIFICATE.decode())
        context.verify_mode = verify_mode
    return context
