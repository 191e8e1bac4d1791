"""TLS on the client's side: contexts, what is verified, errors, and TLS inside of TLS."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from conftest import Baseline
from whimbrel._policy.tls import TLS
from whimbrel._simple.tls import NestedTLS, context_for, reason_of, tls_error, wrap
from whimbrel.httpclient import HTTPProxyError, HTTPTLSError
from whimbrel.testing.scripted import Peer, ScriptedServer, silent

from .connecting import Connector, tunnel_to


@pytest.fixture
async def connector() -> AsyncIterator[Connector]:
    """A `Connector`, after which nothing is left open."""
    baseline = Baseline.take()
    connector = Connector()
    yield connector
    connector.close()
    await baseline.restored()


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    """A CA that signed nothing of ours."""
    return trustme.CA()


# -- contexts


def test_contexts_are_kept(certificates: Any) -> None:
    """The same settings give the same context, others another."""
    plain, insecure = TLS(), TLS(validate=False)
    ours = TLS(ca_certs=certificates.ca_file)
    assert context_for(plain) is context_for(TLS())
    assert context_for(ours) is context_for(TLS(ca_certs=certificates.ca_file))
    assert len({context_for(tls) for tls in (plain, insecure, ours)}) == 3


def test_a_renewed_file_is_read_again(tmp_path: Path, other_ca: trustme.CA) -> None:
    """A file that has changed makes a new context: renewed certificates need no restart."""
    name = tmp_path / "ca.pem"
    other_ca.cert_pem.write_to_path(name)
    before = context_for(TLS(ca_certs=str(name)))
    trustme.CA().cert_pem.write_to_path(name)
    after = context_for(TLS(ca_certs=str(name)))
    assert before.get_ca_certs() != after.get_ca_certs()


def test_own_contexts() -> None:
    """Contexts of our own verify, know the system's CAs, and begin with TLS 1.2."""
    context = context_for(TLS())
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    insecure = context_for(TLS(validate=False))
    assert insecure.verify_mode == ssl.CERT_NONE
    assert not insecure.check_hostname


def test_certifi_stands_in_for_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other_ca: trustme.CA
) -> None:
    """Where the system has no CA certificates, certifi's are used; not where it has a folder."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    # Ciphers make settings that no other test has used.
    bare = context_for(TLS(ciphers="ECDHE+AESGCM"))
    assert bare.cert_store_stats()["x509_ca"] > 50
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    other_ca.cert_pem.write_to_path(tmp_path / "0a0a0a0a.0")
    folder = context_for(TLS(ciphers="ECDHE+CHACHA20"))
    assert folder.cert_store_stats()["x509_ca"] == 0


def test_key_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SSLKEYLOGFILE is heeded, as by libcurl."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = context_for(TLS(ciphers="ECDHE+AES128"))
    assert context.keylog_filename == str(tmp_path / "keys")
    context.keylog_filename = None  # type: ignore[assignment]


def test_a_callers_context_is_used_as_it_is() -> None:
    """A context that was given is not copied; one of a server is refused, by its parameter."""
    mine = ssl.create_default_context()
    assert context_for(TLS(context=mine)) is mine
    server = TLS(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    for field in ("ssl_options", "proxy_ssl"):
        with pytest.raises(ValueError, match=field):
            context_for(server, field)


async def test_a_servers_context_opens_no_connection(connector: Connector) -> None:
    """It is refused before there is a socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with ScriptedServer(silent) as server:
        with pytest.raises(ValueError, match="ssl_options"):
            await connector.connect(server.url(scheme="https"), ssl_options=context)
        with pytest.raises(ValueError, match="proxy_ssl"):
            await connector.connect(
                "http://a.test/", proxy=server.url(scheme="https"), proxy_ssl=context
            )
        assert server.connections == []


def encrypted_key(leaf: trustme.LeafCert) -> bytes:
    """The key of `leaf`, behind a password."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("ca_certs", "the CA certificates cannot be read: FILE: "),
        ("client_cert", "client_cert or client_key cannot be used: FILE: "),
        ("client_key", "client_cert or client_key cannot be used: CERT, FILE: "),
    ],
)
@pytest.mark.parametrize("content", ["garbage", "empty", "another", "locked"])
async def test_files_that_are_of_no_use(
    connector: Connector,
    certificates: Any,
    tmp_path: Path,
    parameter: str,
    text: str,
    content: str,
) -> None:
    """A file without certificates or key is named, and no connection is made for it."""
    file = tmp_path / "file.pem"
    another = certificates.ca.issue_cert("another.test").private_key_pem.bytes()
    file.write_bytes(
        {
            "garbage": b"this is no PEM",
            "empty": b"",
            "another": another,
            "locked": encrypted_key(certificates.client),
        }[content]
    )
    options: dict[str, Any] = {"ca_certs": certificates.ca_file}
    if parameter == "client_key":
        options["client_cert"] = certificates.client_cert_file
    options[parameter] = str(file)
    async with ScriptedServer(silent) as server:
        error = await connector.error(server.url(scheme="https"), **options)
        assert server.connections == []
    assert isinstance(error, HTTPTLSError)
    expected = text.replace("FILE", str(file)).replace("CERT", certificates.client_cert_file)
    assert error.message.startswith(expected)
    assert "PEM lib" not in error.message
    assert (error.stage, error.retryable) == ("tls", False)
    assert error.__cause__ is not None


def test_a_key_that_belongs_to_another_certificate(certificates: Any, tmp_path: Path) -> None:
    """The error says so, and names both files."""
    key = tmp_path / "key.pem"
    key.write_bytes(certificates.ca.issue_cert("another.test").private_key_pem.bytes())
    cert = certificates.client_cert_file
    with pytest.raises(HTTPTLSError) as caught:
        context_for(TLS(client_cert=cert, client_key=str(key)))
    assert caught.value.message == (
        f"client_cert or client_key cannot be used: {cert}, {key}:"
        " the key belongs to another certificate"
    )


async def test_comments_between_ca_certificates(connector: Connector, certificates: Any) -> None:
    """What stands between them in a bundle is in any encoding."""
    pem = certificates.ca.cert_pem.bytes()
    for comment in ("# Autorit\xe9\n".encode(), b"# Autorit\xe9\n"):
        await accepted(
            connector, certificates.server_context(), "127.0.0.1", ca_certs=comment + pem
        )


@pytest.mark.parametrize("pem", [b"", b"this is no PEM", b"\xff\xfe"])
async def test_ca_bytes_that_are_of_no_use(connector: Connector, pem: bytes) -> None:
    """So are bytes, which are not shown."""
    error = await connector.error("https://127.0.0.1:9/", ca_certs=pem)
    assert error.message.startswith("the CA certificates cannot be read: ")


async def test_unknown_ciphers(connector: Connector) -> None:
    """Ciphers that OpenSSL does not know are refused; of the proxy's hop, as the proxy's."""
    options = {"ciphers": "NO-SUCH-CIPHER"}
    error = await connector.error("https://127.0.0.1:9/", ssl_options=options)
    assert str(error) == "none of the ciphers can be used: No cipher can be selected."
    assert error.stage == "tls"
    error = await connector.error("http://a/", proxy="https://127.0.0.1:9", proxy_ssl=options)
    assert isinstance(error, HTTPTLSError)
    assert (error.stage, error.proxy) == ("proxy-connect", "https://127.0.0.1:9")


# -- what is verified


async def refused(connector: Connector, context: ssl.SSLContext, host: str, **options: Any) -> str:
    """Why the certificate of a server with `context` is not accepted."""
    async with ScriptedServer(silent, context) as server:
        url = server.url(host=host)
        error = await connector.error(url, **options)
        prefix = f"the certificate of {host}:{server.port} was not accepted: "
        assert error.message.startswith(prefix)
        assert server.requests == []
    assert isinstance(error, HTTPTLSError)
    assert (error.stage, error.retryable) == ("tls", False)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return error.message.removeprefix(prefix)


async def accepted(
    connector: Connector, context: ssl.SSLContext, host: str, **options: Any
) -> ssl.SSLObject:
    """The server's end of a TLS connection that is made."""
    address = host.strip("[]").partition("%")[0]
    async with ScriptedServer(
        greeter, context, host=address if ":" in address else "127.0.0.1"
    ) as server:
        made = await connector.connect(server.url(host=host), **options)
        assert await made.stream.read_bytes(5) == b"hello"
        (peer,) = server.connections
        assert peer.ssl_object is not None
        return peer.ssl_object


async def greeter(peer: Peer) -> None:
    """Say hello, and wait for the end."""
    await peer.send(b"hello")
    await peer.closed()


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["localhost"], "localhost"),
        (["localhost"], "localhost."),
        (["a.localhost"], "a.localhost"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "[::1]"),
        (["::1"], "[::1%25lo]"),
        (["xn--bcher-kva.test"], "b\xfccher.test"),
    ],
)
async def test_names_that_match(
    connector: Connector, certificates: Any, names: list[str], host: str
) -> None:
    """The certificate is compared with the host alone: no root, no zone, IDNs in ASCII."""
    if "cher" in host:
        connector.names(**{"xn--bcher-kva_test": "127.0.0.1"})
    context = certificates.server_context(certificates.ca.issue_cert(*names))
    asked: list[Any] = []
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    await accepted(connector, context, host, ca_certs=certificates.ca_file)
    address = host.strip("[]").partition("%")[0].replace(".", "").isdigit() or ":" in host
    ascii_host = host.removesuffix(".").encode("idna").decode() if not address else None
    assert asked == [ascii_host]


@pytest.mark.parametrize(
    ("name", "host", "why"),
    [
        ("another.test", "localhost", "Hostname mismatch"),
        ("another.test", "127.0.0.1", "IP address mismatch"),
        ("localhost", "127.0.0.1", "IP address mismatch"),
        ("127.0.0.1", "localhost", "Hostname mismatch"),
    ],
)
async def test_matrix_71_names_that_do_not(
    connector: Connector, certificates: Any, name: str, host: str, why: str
) -> None:
    """Matrix 71: another name, or an address where a name is wanted, is refused."""
    context = certificates.server_context(certificates.ca.issue_cert(name))
    assert (await refused(connector, context, host, ca_certs=certificates.ca_file)).startswith(why)


async def test_matrix_71_time_and_signer(
    connector: Connector, certificates: Any, other_ca: trustme.CA, tmp_path: Path
) -> None:
    """Matrix 71: expired, not yet valid, signed by itself or by a stranger: each is refused."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    ca = certificates.ca_file
    for start, end, why in (
        (now - 9 * day, now - day, "certificate has expired"),
        (now + day, now + 9 * day, "certificate is not yet valid"),
    ):
        leaf = certificates.ca.issue_cert("127.0.0.1", not_before=start, not_after=end)
        context = certificates.server_context(leaf)
        assert await refused(connector, context, "127.0.0.1", ca_certs=ca) == why
    stranger = certificates.server_context(other_ca.issue_cert("127.0.0.1"))
    why = await refused(connector, stranger, "127.0.0.1", ca_certs=ca)
    assert why == "unable to get local issuer certificate"
    await refused(connector, stranger, "127.0.0.1")
    name = tmp_path / "self-signed.pem"
    name.write_bytes(other_ca.private_key_pem.bytes() + other_ca.cert_pem.bytes())
    itself = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    itself.load_cert_chain(name)
    assert "self-signed" in await refused(connector, itself, "127.0.0.1", ca_certs=ca)


async def test_verification_switched_off(connector: Connector, certificates: Any) -> None:
    """Without verification any certificate under any name will do; the server is told the name."""
    context = certificates.server_context(certificates.ca.issue_cert("another.test"))
    asked: list[Any] = []
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    await accepted(connector, context, "localhost", validate_cert=False)
    assert asked == ["localhost"]


async def test_an_intermediate_may_be_trusted_alone(connector: Connector) -> None:
    """Trusting a CA that is no root is enough, as it is for libcurl."""
    child = trustme.CA().create_child_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    child.issue_cert("127.0.0.1").configure_cert(context)
    await accepted(connector, context, "127.0.0.1", ca_certs=child.cert_pem.bytes())


async def test_client_certificate(connector: Connector, certificates: Any) -> None:
    """client_cert and client_key are shown to a server that asks."""
    context = certificates.server_context(client_certs=True)
    peer = await accepted(
        connector,
        context,
        "127.0.0.1",
        ca_certs=certificates.ca_file,
        client_cert=certificates.client_cert_file,
        client_key=certificates.client_key_file,
    )
    subject = cast("dict[str, Any]", peer.getpeercert())
    assert subject["subjectAltName"] == (("email", "client@example"),)


async def test_alpn(connector: Connector, certificates: Any) -> None:
    """Our own contexts offer HTTP/1.1; a caller's says what it was made to say."""
    context = certificates.server_context()
    peer = await accepted(connector, context, "127.0.0.1", ca_certs=certificates.ca_file)
    assert peer.selected_alpn_protocol() == "http/1.1"
    mine = ssl.create_default_context(cafile=certificates.ca_file)
    peer = await accepted(connector, context, "127.0.0.1", ssl_options=mine)
    assert peer.selected_alpn_protocol() is None


async def test_alpn_of_another_protocol(connector: Connector, certificates: Any) -> None:
    """A context that makes the server speak HTTP/2 is an error that says so, on either hop."""
    context = certificates.server_context()
    context.set_alpn_protocols(["h2"])
    mine = ssl.create_default_context(cafile=certificates.ca_file)
    mine.set_alpn_protocols(["h2", "http/1.1"])
    async with ScriptedServer(silent, context) as server:
        error = await connector.error(server.url(), ssl_options=mine)
        assert isinstance(error, HTTPTLSError)
        assert str(error) == (
            f"TLS with {server.address} settled on 'h2', and this backend speaks HTTP/1.1: let"
            " ssl_options offer no other protocol, or use the curl backend"
        )
        error = await connector.error("http://a.test/", proxy=server.url(), proxy_ssl=mine)
        assert "proxy_ssl" in str(error)
        assert error.stage == "proxy-connect"
        await server.finished()


async def test_a_name_that_pythons_codec_refuses(connector: Connector, certificates: Any) -> None:
    """A label of 64 letters is a name like any other where a proxy resolves it."""
    context = certificates.server_context()
    asked: list[Any] = []
    context.sni_callback = lambda sock, name, ctx: asked.append(name)
    host = "a" * 64 + ".test"
    for hop in (None, certificates.server_context()):
        async with (
            ScriptedServer(silent, context) as origin,
            ScriptedServer(tunnel_to(origin.port), hop) as proxy,
        ):
            await connector.connect(
                f"https://{host}/",
                proxy=proxy.url(),
                validate_cert=False,
                proxy_ssl={"cert_reqs": ssl.CERT_NONE},
            )
    assert asked == [host, host]


# -- handshakes that fail


async def leaves(peer: Peer) -> None:
    await peer.read_some()


async def resets(peer: Peer) -> None:
    await peer.read_some()
    peer.reset()


async def speaks_http(peer: Peer) -> None:
    await peer.read_some()
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.closed()


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (leaves, "unexpected eof while reading"),
        (resets, "Connection reset by peer"),
        (speaks_http, "wrong version number"),
    ],
)
async def test_handshakes_that_fail(connector: Connector, handler: Any, why: str) -> None:
    """A peer that is lost within the handshake, or speaks no TLS, fails it: origin or proxy."""
    async with ScriptedServer(handler) as server:
        error = await connector.error(server.url(scheme="https"))
        assert isinstance(error, HTTPTLSError)
        assert str(error) == f"TLS handshake with {server.address} failed: {why}"
        assert (error.stage, error.retryable, error.proxy) == ("tls", False, None)
        proxy = server.url("", scheme="https")
        for url in ("http://a.test/", "https://a.test/"):
            error = await connector.error(url, proxy=proxy)
            assert isinstance(error, HTTPTLSError)
            assert str(error) == f"TLS handshake with {proxy} failed: {why}"
            assert (error.stage, error.proxy) == ("proxy-connect", proxy)


async def test_version_that_is_too_old(connector: Connector, certificates: Any) -> None:
    """A server that speaks less than TLS 1.2 is refused."""
    old = certificates.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with ScriptedServer(silent, old) as server:
        error = await connector.error(server.url(), ca_certs=certificates.ca_file)
        assert error.message.startswith(f"TLS handshake with {server.address} failed: ")


def test_wanted_client_certificate_is_told(certificates: Any) -> None:
    """The alert of TLS 1.3 for a missing client certificate says which parameter to set."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = context_for(TLS(ca_certs=certificates.ca_file))
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    server = certificates.server_context(client_certs=True).wrap_bio(
        outgoing, incoming, server_side=True
    )
    for end in (client, server, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        server.do_handshake()
    with pytest.raises(ssl.SSLError) as caught:
        client.read(1)
    error = tls_error(caught.value, "a.test")
    assert error.message.startswith("a.test wants a client certificate: set client_cert: ")
    error = tls_error(caught.value, "https://p.test:1", "proxy-connect")
    assert error.message.startswith("https://p.test:1 wants a client certificate: set proxy_ssl: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ValueError("label too long"), "label too long"),
        (ssl.SSLError("No cipher can be selected."), "No cipher can be selected."),
        (ssl.SSLError(1, "[SSL] PEM lib (_ssl.c:3905)"), "PEM lib"),
        (OSError(), ""),
    ],
)
def test_reasons(error: Exception, words: str) -> None:
    """What is shown of an error is what a reader can use."""
    assert reason_of(error) == words


# -- TLS in TLS, by an https proxy


@pytest.mark.parametrize("layer", ["proxy", "origin", "none"])
async def test_matrix_34_each_layer_is_verified_by_itself(
    connector: Connector, certificates: Any, other_ca: trustme.CA, layer: str
) -> None:
    """Matrix 34: the proxy's certificate by its name and settings, the origin's by its own."""

    def issued(name: str, ca: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(name).configure_cert(context)
        return context

    ours: trustme.CA = certificates.ca
    inner = issued("origin.test", other_ca if layer == "origin" else ours)
    outer = issued("127.0.0.1", other_ca if layer == "proxy" else ours)
    async with (
        ScriptedServer(greeter, inner) as origin,
        ScriptedServer(tunnel_to(origin.port), outer) as proxy,
    ):
        url, options = "https://origin.test/", {"proxy": proxy.url("")}
        options["ca_certs"] = certificates.ca_file
        if layer == "none":
            made = await connector.connect(url, **options)
            assert await made.stream.read_bytes(5) == b"hello"
            assert made.proxy_code == 200
            assert made.remote_address == ("127.0.0.1", proxy.port)
            return
        error = await connector.error(url, **options)
        assert isinstance(error, HTTPTLSError)
        stage, peer = {
            "proxy": ("proxy-connect", proxy.url("")),
            "origin": ("tls", "origin.test"),
        }[layer]
        assert error.message.startswith(f"the certificate of {peer} was not accepted: ")
        assert (error.stage, error.proxy) == (stage, proxy.url(""))
        assert error.proxy_code == (None if layer == "proxy" else 200)
        await proxy.finished()
        assert origin.requests == []


async def test_proxy_that_leaves_within_tls(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """An https proxy that hangs up after CONNECT has broken the tunnel."""

    async def handler(peer: Peer) -> None:
        await peer.read_head()

    async with ScriptedServer(handler, server_context) as proxy:
        error = await connector.error(
            "https://a.test/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert isinstance(error, HTTPProxyError)
        assert error.stage == "tunnel"


async def test_large_transfers_in_both_directions(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Megabytes go through two layers of TLS at once, against peers that are slow to read."""
    size = 3_000_000
    data = bytes(range(251)) * (size // 251)

    async def echo(peer: Peer) -> None:
        left = len(data)
        while left:
            piece = await peer.read_some()
            left -= len(piece)
            await peer.send(piece)
        await peer.closed()

    async with (
        ScriptedServer(echo, server_context, receive_buffer=16_384) as origin,
        ScriptedServer(
            tunnel_to(origin.port), server_context, receive_buffer=16_384, send_buffer=16_384
        ) as proxy,
    ):
        made = await connector.connect(
            "https://localhost/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        written = made.stream.write(data)
        assert await made.stream.read_bytes(len(data)) == data
        await written
        made.stream.close()
        await origin.finished()


# -- TLS in TLS, by hand


class InnerServer:
    """The far end of two layers of TLS, on a blocking socket in a thread of its own."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock, self._context = sock, context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._steps: list[Callable[[], object]] = []
        self._thread: threading.Thread | None = None
        self.outer: ssl.SSLSocket | None = None

    def start(self) -> None:
        """Shake hands twice."""

        def shake() -> None:
            self._sock.settimeout(10)
            self.outer = self._context.wrap_socket(
                self._sock, server_side=True, suppress_ragged_eofs=False
            )
            self.run(self._inner.do_handshake)

        self._thread = threading.Thread(target=shake)
        self._thread.start()

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join()

    def run(self, operation: Callable[..., Any], *args: Any) -> Any:
        assert self.outer is not None
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                self.flush()
                self._incoming.write(self.outer.recv(65536))
            else:
                self.flush()
                return result

    def flush(self) -> None:
        assert self.outer is not None
        if self._outgoing.pending:
            self.outer.sendall(self._outgoing.read())

    def send(self, *pieces: bytes) -> None:
        """Each piece a record of the inner TLS, all together in one piece of the outer."""
        for piece in pieces:
            self._inner.write(piece)
        self.flush()

    def receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            piece = self.run(self._inner.read, size - len(received))
            if not piece:
                break
            received += piece
        return received

    def end_inner(self) -> None:
        """Send the closing alert of the inner TLS."""
        with pytest.raises(ssl.SSLWantReadError):
            self._inner.unwrap()
        self.flush()


def retried(sock: Any, operation: Callable[..., Any], *args: Any) -> Any:
    """Do a non-blocking operation, waiting as it wishes."""
    while True:
        try:
            return operation(*args)
        except ssl.SSLWantReadError:
            assert select.select([sock.fileno()], [], [], 10)[0]
        except ssl.SSLWantWriteError:
            assert select.select([], [sock.fileno()], [], 10)[1]


@pytest.fixture
def layers(certificates: Any) -> Iterator[tuple[NestedTLS, InnerServer]]:
    """Both ends of TLS in TLS, the handshakes done."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    ours.setblocking(False)
    server = InnerServer(theirs, certificates.server_context())
    server.start()
    context = context_for(TLS(ca_certs=certificates.ca_file))
    outer = wrap(ours, context, "localhost")
    retried(outer, outer.do_handshake)  # type: ignore[attr-defined]
    nested = cast("NestedTLS", wrap(outer, context, "127.0.0.1"))
    retried(nested, nested.do_handshake)
    server.join()
    assert server.outer is not None
    with server.outer:
        yield nested, server
        nested.close()


def test_nested_is_a_tls_socket(layers: tuple[NestedTLS, InnerServer]) -> None:
    """What a TLS socket can be asked, of the inner layer; what a socket can, of the descriptor."""
    nested, _ = layers
    assert nested.version() == "TLSv1.3"
    assert nested.cipher() is not None
    assert nested.selected_alpn_protocol() == "http/1.1"
    assert ("IP Address", "127.0.0.1") in nested.getpeercert()["subjectAltName"]
    assert nested.fileno() >= 0
    assert nested.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 0
    assert nested.family == socket.AF_UNIX


def test_nested_reads_what_is_hidden(layers: tuple[NestedTLS, InnerServer]) -> None:
    """pending() knows of records that the event loop cannot see, in either layer."""
    nested, server = layers
    with pytest.raises(ssl.SSLWantReadError):
        nested.recv(10)
    assert nested.pending() == 0
    server.send(b"one", b"two", b"three")
    assert retried(nested, nested.recv, 2) == b"on"
    received = b"on"
    while nested.pending():
        received += nested.recv(100)
    assert received == b"onetwothree"
    with pytest.raises(ssl.SSLWantReadError):
        nested.recv(1)


def test_nested_reads_into_a_buffer(layers: tuple[NestedTLS, InnerServer]) -> None:
    """recv_into() gives what recv() does: of the inner layer, and not more than there is room."""
    nested, server = layers
    buffer = bytearray(b"....")
    with memoryview(buffer)[1:3] as room:
        with pytest.raises(ssl.SSLWantReadError):
            nested.recv_into(room)
        server.send(b"one")
        assert retried(nested, nested.recv_into, room) == 2
        assert buffer == b".on."
        assert nested.recv_into(room) == 1
    assert buffer == b".en."


def test_nested_send_waits_for_the_kernel(layers: tuple[NestedTLS, InnerServer]) -> None:
    """send() blocks like a TLS socket's: not now, then the same bytes again, none of them twice."""
    nested, server = layers
    data = bytes(range(256)) * 4000
    sent = blocked = 0
    nested.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    while not blocked:
        try:
            sent += nested.send(data[sent:])
        except ssl.SSLWantWriteError:
            blocked += 1
    assert 0 < sent < len(data)  # in pieces: what is encrypted lies in memory until it is sent
    with pytest.raises(ssl.SSLWantWriteError):
        nested.send(data[sent:])
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(server.receive(len(data))))
    reader.start()
    while sent < len(data):
        sent += retried(nested, nested.send, memoryview(data)[sent:])
    reader.join()
    assert received == [data]


def test_nested_end(layers: tuple[NestedTLS, InnerServer]) -> None:
    """The inner layer's closing alert is the end; the outer layer's alone is a cut."""
    nested, server = layers
    server.send(b"all")
    server.end_inner()
    assert retried(nested, nested.recv, 10) == b"all"
    assert retried(nested, nested.recv, 10) == b""
    assert retried(nested, nested.recv, 10) == b""


@pytest.mark.parametrize("politely", [True, False])
def test_nested_cut(layers: tuple[NestedTLS, InnerServer], politely: bool) -> None:
    """Without the inner layer's alert something may be missing, whatever the proxy's layer says."""
    nested, server = layers
    assert server.outer is not None
    server.send(b"half")
    if politely:
        server.outer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            server.outer.unwrap()
    server.outer.shutdown(socket.SHUT_RDWR)
    assert retried(nested, nested.recv, 10) == b"half"
    with pytest.raises(ssl.SSLEOFError):
        retried(nested, nested.recv, 10)


def test_nested_says_goodbye(layers: tuple[NestedTLS, InnerServer]) -> None:
    """unwrap() ends both layers in order; it does not wait for the answers."""
    nested, server = layers
    with pytest.raises(ssl.SSLError):
        nested.unwrap()
    nested.close()
    assert server.receive(1) == b""
    assert server.outer is not None
    assert server.outer.recv(1) == b""


def test_nested_refusal_is_told(certificates: Any) -> None:
    """A certificate that is refused inside is told by an alert through the outer layer."""
    ours, theirs = socket.socketpair()
    failures: list[Exception] = []

    def hook(arguments: Any) -> None:
        failures.append(arguments.exc_value)

    context = context_for(TLS(ca_certs=certificates.ca_file))
    previous, threading.excepthook = threading.excepthook, hook
    try:
        server = InnerServer(theirs, certificates.server_context())
        server.start()
        ours.setblocking(False)
        outer = wrap(ours, context, "localhost")
        retried(outer, outer.do_handshake)  # type: ignore[attr-defined]
        nested = cast("NestedTLS", wrap(outer, context, "another.test"))
        with pytest.raises(ssl.SSLCertVerificationError):
            retried(nested, nested.do_handshake)
        server.join()
    finally:
        threading.excepthook = previous
    nested.close()
    assert server.outer is not None
    server.outer.close()
    (failure,) = failures
    assert isinstance(failure, ssl.SSLError)
    assert "alert" in str(failure).lower()


async def test_stream_of_two_layers_ends_in_order(
    connector: Connector, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """A body that the origin ends by closing reaches its end through both layers."""

    async def handler(peer: Peer) -> None:
        await peer.send(b"all of it")

    async with (
        ScriptedServer(handler, server_context) as origin,
        ScriptedServer(tunnel_to(origin.port), server_context) as proxy,
    ):
        made = await connector.connect(
            "https://localhost/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert await made.stream.read_until_close() == b"all of it"
