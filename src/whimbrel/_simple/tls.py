"""TLS on the client's side: contexts from TLS settings, handshakes, and TLS inside of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

from whimbrel._policy.tls import TLS
from whimbrel._simple.sockets import wrap_tls
from whimbrel.httpclient import HTTPTLSError

CONTEXTS = 64
"""Contexts kept at most; making one may mean to read every CA of the system."""

_CHUNK = 64 * 1024

T = TypeVar("T")


# -- contexts


def context_for(tls: TLS, field: str = "ssl_options") -> ssl.SSLContext:
    """The context that a client needs for `tls`; a caller's own is returned as it is.

    Raises ValueError, naming `field`, for the context of a server; HTTPTLSError for files that
    hold no certificates or no key, and for unknown ciphers.
    """
    if tls.context is not None:
        if tls.context.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ValueError(f"{field} is a server's SSLContext: use PROTOCOL_TLS_CLIENT")
        return tls.context
    return _context(tls, tuple(map(_stamp, (tls.ca_certs, tls.client_cert, tls.client_key))))


def _stamp(file: str | bytes | None) -> tuple[int, ...] | None:
    """Changes when the file does: renewed certificates are read again."""
    if not isinstance(file, str):
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None  # opening it will tell
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=CONTEXTS)
def _context(tls: TLS, stamps: tuple[tuple[int, ...] | None, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # What is trusted ends the chain, whether it is a root or not; libcurl takes it so.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if keylog := os.environ.get("SSLKEYLOGFILE"):
        context.keylog_filename = keylog
    if not tls.validate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.check_hostname = tls.check_hostname
        _trust(context, tls.ca_certs)
    if tls.client_cert is not None:
        _present(context, tls.client_cert, tls.client_key)
    if tls.ciphers is not None:
        try:
            context.set_ciphers(tls.ciphers)
        except ssl.SSLError as error:
            raise _unusable("none of the ciphers can be used", error) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _present(context: ssl.SSLContext, client_cert: str, client_key: str | None) -> None:
    files = client_cert if client_key is None else f"{client_cert}, {client_key}"
    what = f"client_cert or client_key cannot be used: {files}"
    try:
        # An empty password: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(client_cert, client_key, password=str)
    except ssl.SSLError as error:
        # Of most that can be wrong OpenSSL's word is "PEM lib", of the rest a function's name.
        words = _KEY_REASONS.get(getattr(error, "reason", ""), _NO_KEY)
        raise HTTPTLSError(f"{what}: {words}", stage="tls", retryable=False) from error
    except (OSError, ValueError) as error:
        raise _unusable(what, error) from error


_NO_KEY = "no certificate with its key, in PEM and without a password"
_KEY_REASONS = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "KEY_TYPE_MISMATCH": "the key belongs to another certificate",
}


def _trust(context: ssl.SSLContext, ca_certs: str | bytes | None) -> None:
    if ca_certs is None:
        context.load_default_certs()
        if not context.cert_store_stats()["x509_ca"] and not _has_default_directory():
            import certifi

            context.load_verify_locations(certifi.where())
        return
    try:
        if isinstance(ca_certs, bytes):
            # Comments between the certificates are in whatever encoding; those are in ASCII.
            context.load_verify_locations(cadata=ca_certs.decode("ascii", "ignore"))
        else:
            context.load_verify_locations(ca_certs)
    except (OSError, ValueError) as error:
        where = "" if isinstance(ca_certs, bytes) else f": {ca_certs}"
        raise _unusable(f"the CA certificates cannot be read{where}", error) from error


def _has_default_directory() -> bool:
    """Whether OpenSSL finds certificates in its directory, of which it reads none in advance."""
    directory = ssl.get_default_verify_paths().capath
    return directory is not None and bool(os.listdir(directory))


def _unusable(text: str, error: Exception) -> HTTPTLSError:
    return HTTPTLSError(f"{text}: {reason_of(error)}", stage="tls", retryable=False)


# -- handshakes


def wrap(
    sock: socket.socket,
    context: ssl.SSLContext,
    host: str,
    session: ssl.SSLSession | None = None,
) -> socket.socket:
    """Put TLS, whose handshake is still to come, on a socket that may have TLS already.

    `host` is whom the certificate must name, as in a URL. The socket belongs to the result.
    `session` may be resumed, on a socket without TLS.
    """
    # Zone and root belong in no certificate. Bytes: a str would go through Python's IDNA codec.
    name = host.partition("%")[0].removesuffix(".").encode("ascii")
    if isinstance(sock, ssl.SSLSocket):
        return cast("socket.socket", NestedTLS(sock, context, name))
    return wrap_tls(sock, context, name, session)


async def ready(descriptor: int, *, write: bool) -> None:
    """Wait until a read, or a write, would not block."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    if write:
        watch, unwatch = loop.add_writer, loop.remove_writer
    else:
        watch, unwatch = loop.add_reader, loop.remove_reader
    watch(descriptor, _done, future)
    try:
        await future
    finally:
        unwatch(descriptor)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# -- errors

_CERTIFICATE_REQUIRED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
# RFC 8446 section 6.2, in OpenSSL's words: what a server may have against the client's certificate.
_CERTIFICATE_REFUSED = re.compile(
    r"ALERT_(?:\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)\Z"
)


def refuses_client(error: BaseException | None) -> bool:
    """Whether `error` is the peer's alert that it does not take the client's certificate.

    In TLS 1.3 a server looks at that after the client's handshake is through.
    """
    # Where Python itself raised it there is no reason.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return bool(reason and _CERTIFICATE_REFUSED.search(reason.upper().replace(" ", "_")))


def tls_error(error: Exception, peer: str, stage: str = "tls") -> HTTPTLSError:
    """What a failure of TLS with `peer` amounts to; the cause is for the caller to chain.

    `peer` is the origin's host and port, or the proxy's URL with the stage "proxy-connect".
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {peer} was not accepted"
    elif getattr(error, "reason", None) == _CERTIFICATE_REQUIRED:
        setting = "client_cert" if stage == "tls" else "proxy_ssl"
        text = f"{peer} wants a client certificate: set {setting}"
    else:
        text = f"TLS handshake with {peer} failed"
    return HTTPTLSError(f"{text}: {reason_of(error)}", stage=stage, retryable=False)


_TRIMMINGS = re.compile(r"^\[[^]]*\] | *\(_ssl\.c:\d+\)$")


def reason_of(error: BaseException) -> str:
    """The system's or OpenSSL's words for an error, without numbers."""
    # Attributes of an SSLError are missing where Python itself raised it.
    words: str | None = getattr(error, "verify_message", None)
    if words:
        return words
    words = getattr(error, "reason", None)
    if words and isinstance(error, ssl.SSLError):
        return str(words).replace("_", " ").lower()
    words = getattr(error, "strerror", None) or str(*error.args[-1:])
    return _TRIMMINGS.sub("", words)


# -- TLS in TLS


class NestedTLS:
    """The end of a TLS connection that runs inside of another, with a TLS socket's interface.

    For an origin behind an https proxy: the outer connection is to the proxy. As an SSLSocket
    does, the methods raise ssl.SSLWantReadError or ssl.SSLWantWriteError where they would block;
    that is the descriptor's readiness, which is the outer socket's.
    """

    def __init__(
        self, outer: ssl.SSLSocket, context: ssl.SSLContext, server_hostname: bytes
    ) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent = b""  # taken from _outgoing: TLS wants the same bytes again after "not now"
        self._accepted = 0  # bytes of the caller's that are encrypted, but not sent yet
        self._inner = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    def do_handshake(self) -> None:
        self._drive(self._inner.do_handshake)
        self._flush()

    def recv(self, size: int) -> bytes:
        """Return decrypted bytes; b"" once the peer has said that no more come.

        Raises ssl.SSLEOFError where it left without saying so.
        """
        data = self._drive(self._inner.read, size)
        if self._outgoing.pending or self._unsent:
            # The answer to a change of keys. Whatever keeps it back, the next send() will tell.
            with contextlib.suppress(OSError):
                self._flush()
        return data

    def recv_into(self, buffer: memoryview) -> int:
        """The same, into `buffer`; return their number."""
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: Any) -> int:
        """Encrypt and send the beginning of `data`; return how much of it is gone.

        After ssl.SSLWantWriteError the same bytes must be given again.
        """
        self._flush()
        if not self._accepted:
            with memoryview(data) as view:
                self._accepted = self._drive(self._inner.write, view[:_CHUNK])
            self._flush()
        accepted, self._accepted = self._accepted, 0
        return accepted

    def pending(self) -> int:
        """How many bytes at least lie here, at some stage, unseen by the event loop."""
        return self._inner.pending() or self._incoming.pending or self._outer.pending()

    def version(self) -> str | None:
        return self._inner.version()

    def cipher(self) -> tuple[str, str, int] | None:
        return self._inner.cipher()

    def unwrap(self) -> None:
        """Send the closing alerts of both layers, without waiting for the peers'."""
        with contextlib.suppress(ssl.SSLError):
            self._inner.unwrap()
        self._flush()
        self._outer.unwrap()

    def getpeercert(self, binary_form: bool = False) -> Any:
        return self._inner.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        return self._inner.selected_alpn_protocol()

    def __getattr__(self, name: str) -> Any:
        # Descriptor, addresses, options, shutdown and close are the outer socket's.
        return getattr(self._outer, name)

    def _drive(self, operation: Callable[..., T], *args: Any) -> T:
        """Run an operation of the inner TLS, carrying what it sends and wants to receive."""
        while True:
            try:
                return operation(*args)
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that tells the peer why
                raise

    def _flush(self) -> None:
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = self._outgoing.read()
            self._unsent = self._unsent[self._outer.send(self._unsent) :]

    def _fill(self) -> None:
        try:
            data = self._outer.recv(_CHUNK)
        except ssl.SSLEOFError:
            data = b""  # whether it may end here is for the inner TLS to judge
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
