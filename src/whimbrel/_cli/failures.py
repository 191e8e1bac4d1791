"""What can go wrong on the command line: one table of exit codes, one line on stderr.

The numbers are curl's, so that scripts written around curl keep their tests; docs/cli.md and
``--help`` list them, and a test holds the three together.
"""

from __future__ import annotations

import ssl
import sys
from enum import IntEnum
from typing import Final

from whimbrel.httpclient import (
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPRedirectError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.httputil import HTTPInputError


class Exit(IntEnum):
    """Exit codes, with what they mean in the words of ``--help``."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "success"
    DEMO = 1, "demo: not everything did what it should"
    USAGE = 2, "bad arguments, or a request that cannot be made"
    CAPABILITY = 4, "the backend, or this libcurl, cannot do what was asked"
    PROXY = 5, "the proxy cannot be reached (stage proxy-connect)"
    DNS = 6, "the host name cannot be resolved"
    CONNECT = 7, "no connection to the host"
    PROTOCOL = 8, "the reply is not HTTP"
    PARTIAL = 18, "the body was cut short or is corrupt"
    STATUS = 22, "with --fail: the status is 400 or above"
    WRITE = 23, "the output cannot be written"
    READ = 26, "a file named by @ cannot be read"
    TIMEOUT = 28, "a time-out, in any stage"
    TLS = 35, "the TLS handshake failed"
    REDIRECT = 47, "a redirect that cannot be followed, or one too many"
    EMPTY = 52, "the host closed the connection without a reply"
    SEND = 55, "the request could not be sent"
    RECEIVE = 56, "the response could not be received"
    CERTIFICATE = 60, "the certificate was not accepted"
    LIMIT = 63, "the response is larger than allowed (--max-filesize)"
    PROXY_AUTH = 67, "the proxy refused the credentials (stage proxy-auth)"
    TUNNEL = 97, "the proxy did not open a tunnel"
    INTERRUPTED = 130, "interrupted (SIGINT)"
    BROKEN_PIPE = 141, "nobody reads the output any more (SIGPIPE)"
    TERMINATED = 143, "terminated (SIGTERM)"


class Failure(Exception):
    """A URL could not be fetched, or the arguments cannot be understood.

    Attributes:
        exit: the exit code it asks for.
        stage: a stage of `HTTPError`, or "usage", "read", "write", "serve".
    """

    def __init__(self, exit: Exit, stage: str, message: str) -> None:
        super().__init__(message)
        self.exit = exit
        self.stage = stage


# The first row that fits decides; None fits every kind, or every stage.
_CODES: Final[tuple[tuple[type[HTTPError] | None, str | None, Exit], ...]] = (
    (HTTPTimeoutError, None, Exit.TIMEOUT),
    (HTTPLimitError, None, Exit.LIMIT),
    (HTTPRedirectError, None, Exit.REDIRECT),
    (HTTPProtocolError, "body", Exit.PARTIAL),
    (HTTPProtocolError, None, Exit.PROTOCOL),
    (HTTPStreamClosedError, "response", Exit.EMPTY),
    (HTTPStreamClosedError, "body", Exit.PARTIAL),
    (None, "proxy-connect", Exit.PROXY),
    (None, "proxy-auth", Exit.PROXY_AUTH),
    (None, "tunnel", Exit.TUNNEL),
    (None, "dns", Exit.DNS),
    (None, "connect", Exit.CONNECT),
    (None, "tls", Exit.TLS),
    (None, "send", Exit.SEND),
    (None, None, Exit.RECEIVE),
)

# CURLE_PEER_FAILED_VERIFICATION: HTTPTLSError.errno is libcurl's code on that backend.
_CERTIFICATE_ERRNO: Final = 60


def _is_about_the_certificate(error: Exception) -> bool:
    return isinstance(error, HTTPTLSError) and (
        error.errno == _CERTIFICATE_ERRNO
        or isinstance(error.__cause__, ssl.SSLCertVerificationError)
    )


def failure_of(error: Exception) -> Failure | None:
    """What an exception of the client means here; None for one that is a bug."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, HTTPError):
        if _is_about_the_certificate(error):
            return Failure(Exit.CERTIFICATE, error.stage or "tls", str(error))
        # The option stands for the parameter that the client speaks of.
        text = str(error).replace("max_body_size", "--max-filesize")
        for kind, stage, code in _CODES:
            if (kind is None or isinstance(error, kind)) and stage in (None, error.stage):
                return Failure(code, error.stage or "response", text)
    if isinstance(error, NotImplementedError | ImportError):
        return Failure(Exit.CAPABILITY, "usage", str(error))
    if isinstance(error, ValueError | HTTPInputError):
        return Failure(Exit.USAGE, "usage", str(error))
    return None


def report(failure: Failure, about: str = "") -> None:
    """Print the one line: ``whimbrel: <stage>: <message>``, with `about` (a URL) in between."""
    middle = f"{about}: " if about else ""
    line = f"whimbrel: {failure.stage}: {middle}{failure}"
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # stderr is gone; the exit code is left


def printable(text: str) -> str:
    """`text` on one line, everything that could steer a terminal escaped.

    Part of it comes from peers: reason phrases, header lines, host names.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
