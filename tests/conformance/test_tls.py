"""TLS: what is verified, by what, and that no connection outlives the settings it was made with."""

from __future__ import annotations

import datetime
import os
import re
import ssl
import warnings
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import trustme

from whimbrel.httpclient import HTTPRequest, HTTPStreamClosedError, HTTPTLSError
from whimbrel.testing.proxy import ProxyServer
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok, silent

from .support import error_of


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    """A CA that signed nothing of ours."""
    return trustme.CA()


async def refused(
    client: Any, context: ssl.SSLContext, host: str = "127.0.0.1", **arguments: Any
) -> str:
    """A fetch from a server with `context` fails in the handshake; return the text of its error."""
    async with ScriptedServer(silent, context) as server:
        error = await error_of(client.fetch(server.url(host=host), **arguments))
        assert server.requests == []
    assert isinstance(error, HTTPTLSError)
    assert isinstance(error, ssl.SSLError)
    assert (error.stage, error.retryable) == ("tls", False)
    return str(error)


async def accepted(
    client: Any, context: ssl.SSLContext, host: str = "127.0.0.1", **arguments: Any
) -> Peer:
    """A fetch from a server with `context` succeeds; return the connection."""
    async with ScriptedServer(canned(ok(b"secure")), context) as server:
        response = await client.fetch(server.url(host=host), **arguments)
        assert response.body == b"secure"
        # The application data of TLS 1.3 comes before the server knows of a refused certificate.
        peer = server.connections[0]
        assert peer.ssl_object is not None
        return peer


# -- item 7: what verifies


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", ["file", "bytes", "context", "dict"])
async def test_ca_sources(
    client: Any, certificates: Any, server_context: ssl.SSLContext, kind: str, host: str
) -> None:
    """ca_certs takes a file name or PEM bytes; ssl_options a context or Tornado's dict."""
    arguments: dict[str, Any] = {
        "file": {"ca_certs": certificates.ca_file},
        "bytes": {"ca_certs": certificates.ca.cert_pem.bytes()},
        "context": {"ssl_options": ssl.create_default_context(cafile=certificates.ca_file)},
        "dict": {"ssl_options": {"ca_certs": certificates.ca_file}},
    }[kind]
    await accepted(client, server_context, host, **arguments)


async def test_certificates_are_verified_by_default(
    client: Any, server_context: ssl.SSLContext
) -> None:
    """Without any setting a certificate of an unknown CA is refused."""
    assert "127.0.0.1" in await refused(client, server_context)


async def test_wrong_ca(client: Any, server_context: ssl.SSLContext, other_ca: trustme.CA) -> None:
    """A CA set replaces the system's, and accepts only what it signed."""
    pem = other_ca.cert_pem.bytes()
    await refused(client, server_context, ca_certs=pem)
    context = ssl.create_default_context(cadata=pem.decode())
    await refused(client, server_context, ssl_options=context)


@pytest.mark.parametrize(
    "arguments",
    [
        {"validate_cert": False},
        {"ssl_options": {"cert_reqs": ssl.CERT_NONE}},
        {"ssl_options": ssl._create_unverified_context()},
    ],
    ids=["validate_cert", "dict", "context"],
)
async def test_verification_can_be_switched_off(
    client: Any, server_context: ssl.SSLContext, arguments: dict[str, Any]
) -> None:
    """validate_cert=False and CERT_NONE accept any certificate, under any name."""
    await accepted(client, server_context, **arguments)
    async with ScriptedServer(canned(ok()), server_context) as server:
        url = server.url(host="127.0.0.2").replace("127.0.0.2", "localhost")
        assert (await client.fetch(url, **arguments)).body == b"ok"


async def test_ssl_options_override_the_others(
    client: Any, certificates: Any, server_context: ssl.SSLContext, other_ca: trustme.CA
) -> None:
    """ssl_options wins over validate_cert and ca_certs."""
    strict = ssl.create_default_context(cadata=other_ca.cert_pem.bytes().decode())
    await refused(
        client,
        server_context,
        ssl_options=strict,
        validate_cert=False,
        ca_certs=certificates.ca_file,
    )
    right = ssl.create_default_context(cafile=certificates.ca_file)
    await accepted(client, server_context, ssl_options=right, ca_certs=other_ca.cert_pem.bytes())


async def test_context_without_host_name_check(client: Any, certificates: Any) -> None:
    """A context's check_hostname=False accepts another name, but no other CA."""
    context = certificates.server_context(certificates.ca.issue_cert("another.test"))
    lax = ssl.create_default_context(cafile=certificates.ca_file)
    lax.check_hostname = False
    await accepted(client, context, ssl_options=lax)
    await refused(
        client, context, ssl_options=ssl.create_default_context(cafile=certificates.ca_file)
    )
    nobody = ssl.create_default_context(cadata=trustme.CA().cert_pem.bytes().decode())
    nobody.check_hostname = False
    await refused(client, context, ssl_options=nobody)


# -- item 7: versions and ciphers


async def test_maximum_version(client: Any, certificates: Any, server_context: Any) -> None:
    """A context's maximum_version is kept to."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    peer = await accepted(client, server_context, ssl_options=context)
    assert peer.ssl_object is not None
    assert peer.ssl_object.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    peer = await accepted(client, server_context, ssl_options=context)
    assert peer.ssl_object is not None
    assert peer.ssl_object.version() == "TLSv1.2"


async def test_minimum_version(client: Any, certificates: Any) -> None:
    """A context's minimum_version is insisted on."""
    old = certificates.server_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    context = ssl.create_default_context(cafile=certificates.ca_file)
    await accepted(client, old, ssl_options=context)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    await refused(client, old, ssl_options=context)


async def test_ciphers(client: Any, certificates: Any, server_context: Any) -> None:
    """A context's ciphers are the ones offered."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
        context.set_ciphers(cipher)
        peer = await accepted(client, server_context, ssl_options=context)
        assert peer.ssl_object is not None
        assert peer.ssl_object.cipher() is not None
        assert peer.ssl_object.cipher()[0] == cipher  # type: ignore[index]


async def test_version_is_at_least_1_2_by_default(client: Any, certificates: Any) -> None:
    """Without any setting TLS 1.1 is refused."""
    old = certificates.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    await refused(client, old, ca_certs=certificates.ca_file)


@pytest.fixture(params=["crl", "keylog", "certificate", "server"])
def unmappable(request: pytest.FixtureRequest, certificates: Any, tmp_path: Path) -> ssl.SSLContext:
    """A context that libcurl cannot be made to follow."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    if request.param == "crl":
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    elif request.param == "certificate":
        certificates.client.configure_cert(context)
    elif request.param == "keylog":
        context.keylog_filename = str(tmp_path / "keys")
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return context


# The context before the client: it keeps a file open, which is no leak of the client's.
async def test_what_a_context_holds_is_honoured_or_refused(
    unmappable: ssl.SSLContext,
    request: pytest.FixtureRequest,
    client: Any,
    backend: str,
    certificates: Any,
) -> None:
    """No setting of a context is dropped: one that the backend cannot honour raises.

    libcurl can honour none of these, Python's own TLS all that are a client's.
    """
    case = request.node.callspec.params["unmappable"]
    server_context = certificates.server_context()
    certificates.ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with ScriptedServer(canned(ok(b"ok")), server_context) as server:
        fetch = client.fetch(server.url(), ssl_options=unmappable)
        if backend == "curl" or case == "server":
            with pytest.raises((ValueError, NotImplementedError), match="ssl_options"):
                await fetch
            assert server.connections == []
        elif case == "crl":  # which the context does not hold
            error = await error_of(fetch)
            assert isinstance(error, HTTPTLSError)
            assert "unable to get certificate CRL" in str(error)
            assert server.requests == []
        else:
            assert (await fetch).body == b"ok"
            seen = server.connections[0].ssl_object
            assert seen is not None
            assert bool(seen.getpeercert()) == (case == "certificate")
            assert ("CLIENT_TRAFFIC_SECRET_0" in _logged_keys(unmappable)) == (case == "keylog")


def _logged_keys(context: ssl.SSLContext) -> str:
    name = context.keylog_filename
    return "" if name is None else Path(str(name)).read_text()


@pytest.mark.parametrize(
    "options",
    [{"no_such_key": 1}, {"ca_certs": 5}, "ca.pem", 5, {"ssl_version": ssl.PROTOCOL_TLS_CLIENT}],
    ids=str,
)
async def test_bad_ssl_options(client: Any, options: Any) -> None:
    """ssl_options of another kind, or with unknown keys, is a ValueError."""
    with pytest.raises((ValueError, TypeError), match="ssl_options"):
        await client.fetch("https://127.0.0.1:9/", ssl_options=options)


@pytest.mark.parametrize("which", ["ca_certs", "client_cert", "client_key"])
async def test_files_that_cannot_be_read(
    client: Any, certificates: Any, server_context: Any, which: str, tmp_path: Any
) -> None:
    """A PEM file that is missing or is none fails the fetch with a TLS error or an OSError."""
    bad = tmp_path / "bad.pem"
    bad.write_text("this is no PEM")
    for name in (str(tmp_path / "missing.pem"), str(bad)):
        arguments: dict[str, Any] = {"ca_certs": certificates.ca_file}
        if which != "ca_certs":
            arguments["client_cert"] = certificates.client_cert_file
        arguments[which] = name
        async with ScriptedServer(canned(ok()), server_context) as server:
            with pytest.raises((OSError, ValueError)):
                await client.fetch(server.url(), **arguments)
            assert server.requests == []


@pytest.mark.parametrize("which", ["ca_certs", "client_cert", "client_key"])
async def test_what_is_no_file_name(
    client: Any, certificates: Any, server_context: Any, which: str, tmp_path: Any
) -> None:
    """PEM text and a directory: the message says what to give instead."""
    text = certificates.ca.cert_pem.bytes().decode()
    remedy = "pass it as bytes, or pass the name" if which == "ca_certs" else "pass the name"
    cert = {} if which == "ca_certs" else {"client_cert": certificates.client_cert_file}
    async with ScriptedServer(canned(ok()), server_context) as server:
        with pytest.raises(ValueError, match=f"^{which} holds PEM text: {remedy} of a file that"):
            await client.fetch(server.url(), **{**cert, which: text})
        message = re.escape(f"{which}: {str(tmp_path)!r} is a directory; name a single PEM file")
        with pytest.raises(ValueError, match=message):
            await client.fetch(server.url(), **{**cert, which: tmp_path})
        assert server.connections == []


# -- item 7: client certificates


async def test_files_named_by_paths(client: Any, certificates: Any) -> None:
    """What names a file may be a pathlib.Path, and is annotated so."""
    context = certificates.server_context(client_certs=True)
    peer = await accepted(
        client,
        context,
        ca_certs=Path(certificates.ca_file),
        client_cert=Path(certificates.client_cert_file),
        client_key=Path(certificates.client_key_file),
    )
    assert peer.ssl_object is not None
    assert peer.ssl_object.getpeercert()
    hints = get_type_hints(HTTPRequest.__init__)
    for name in ("ca_certs", "client_cert", "client_key"):
        assert os.PathLike[str] in get_args(hints[name]), name


@pytest.mark.parametrize("kind", ["arguments", "dict"])
async def test_client_certificate(client: Any, certificates: Any, kind: str) -> None:
    """client_cert and client_key, or certfile and keyfile, are presented to a server that asks."""
    cert, key, ca = (
        certificates.client_cert_file,
        certificates.client_key_file,
        certificates.ca_file,
    )
    arguments: dict[str, Any] = (
        {"client_cert": cert, "client_key": key, "ca_certs": ca}
        if kind == "arguments"
        else {"ssl_options": {"certfile": cert, "keyfile": key, "ca_certs": ca}}
    )
    context = certificates.server_context(client_certs=True)
    peer = await accepted(client, context, **arguments)
    assert peer.ssl_object is not None
    assert peer.ssl_object.getpeercert()["subjectAltName"] == (  # type: ignore[index]
        ("email", "client@example"),
    )


async def test_client_certificate_that_is_wanted(client: Any, certificates: Any) -> None:
    """Without one, a server that insists ends the connection; no request reaches it."""
    context = certificates.server_context(client_certs=True)
    async with ScriptedServer(canned(ok()), context) as server:
        error = await error_of(client.fetch(server.url(), ca_certs=certificates.ca_file))
        assert server.requests == []
    # asyncio's server drops the connection without the alert that would tell why.
    assert isinstance(error, HTTPTLSError | HTTPStreamClosedError)


# -- 71


async def test_matrix_71_host_name_mismatch(client: Any, certificates: Any) -> None:
    """Matrix 71: a certificate of a trusted CA for another name is refused."""
    context = certificates.server_context(certificates.ca.issue_cert("another.test"))
    for host in ("127.0.0.1", "localhost"):
        await refused(client, context, host, ca_certs=certificates.ca_file)


@pytest.mark.parametrize(("san", "host"), [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost")])
async def test_matrix_71_ip_and_dns_names_do_not_match(
    client: Any, certificates: Any, san: str, host: str
) -> None:
    """Matrix 71: an address needs an IP SAN and a name a DNS SAN, though both lead here."""
    context = certificates.server_context(certificates.ca.issue_cert(san))
    await refused(client, context, host, ca_certs=certificates.ca_file)
    await accepted(client, context, san, ca_certs=certificates.ca_file)


async def test_matrix_71_common_name_does_not_count(client: Any, certificates: Any) -> None:
    """Matrix 71: the host in the common name alone is no match."""
    leaf = certificates.ca.issue_cert("another.test", common_name="127.0.0.1")
    await refused(client, certificates.server_context(leaf), ca_certs=certificates.ca_file)


async def test_matrix_71_expired(client: Any, certificates: Any) -> None:
    """Matrix 71: an expired certificate is refused, and so is one not yet valid."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    for start, end in ((now - 9 * day, now - day), (now + day, now + 9 * day)):
        leaf = certificates.ca.issue_cert("127.0.0.1", not_before=start, not_after=end)
        await refused(client, certificates.server_context(leaf), ca_certs=certificates.ca_file)


async def test_matrix_71_self_signed(
    client: Any, certificates: Any, other_ca: trustme.CA, tmp_path: Any
) -> None:
    """Matrix 71: a certificate that signed itself is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    name = tmp_path / "self-signed.pem"
    name.write_bytes(other_ca.private_key_pem.bytes() + other_ca.cert_pem.bytes())
    context.load_cert_chain(name)
    await refused(client, context, ca_certs=certificates.ca_file)


async def test_matrix_71_https_proxy_is_verified(
    client: Any, certificates: Any, server_context: ssl.SSLContext, other_ca: trustme.CA
) -> None:
    """Matrix 71: an https proxy is verified: CA, name; validate_cert=False is not for it."""
    wrong_name = certificates.server_context(certificates.ca.issue_cert("another.test"))
    wrong_ca = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other_ca.issue_cert("127.0.0.1").configure_cert(wrong_ca)
    for context in (wrong_name, wrong_ca):
        async with ScriptedServer(canned(ok()), context) as proxy:
            for arguments in ({}, {"validate_cert": False}):
                error = await error_of(
                    client.fetch(
                        "http://origin.test/",
                        proxy=proxy.url(),
                        ca_certs=certificates.ca_file,
                        **arguments,
                    )
                )
                assert isinstance(error, HTTPTLSError)
                assert error.stage == "proxy-connect"
            assert proxy.requests == []
    async with ScriptedServer(canned(ok(b"proxied")), server_context) as proxy:
        response = await client.fetch(
            "http://origin.test/", proxy=proxy.url(), ca_certs=certificates.ca_file
        )
        assert response.body == b"proxied"
        assert proxy.requests[0].target == "http://origin.test/"


async def test_matrix_71_proxy_ssl(
    client: Any, server_context: ssl.SSLContext, certificates: Any
) -> None:
    """Matrix 71: proxy_ssl verifies the hop to the proxy by itself."""
    trusting = ssl.create_default_context(cafile=certificates.ca_file)
    async with ScriptedServer(canned(ok(b"proxied")), server_context) as proxy:
        response = await client.fetch("http://origin.test/", proxy=proxy.url(), proxy_ssl=trusting)
        assert response.body == b"proxied"
        error = await error_of(
            client.fetch(
                "http://origin.test/", proxy=proxy.url(), proxy_ssl=ssl.create_default_context()
            )
        )
        assert isinstance(error, HTTPTLSError)


@pytest.mark.parametrize("layer", ["proxy", "origin", "none"])
async def test_matrix_34_tls_in_tls(
    client: Any, certificates: Any, layer: str, other_ca: trustme.CA
) -> None:
    """Matrix 34: in a tunnel through an https proxy each layer is verified by its own settings."""
    # Each by another name too, so that neither layer can pass for the other.
    contexts = {}
    for name, host in (("proxy", "localhost"), ("origin", "127.0.0.1")):
        issuer = other_ca if name == layer else certificates.ca
        contexts[name] = certificates.server_context(issuer.issue_cert(host))
    async with (
        ScriptedServer(canned(ok(b"inside")), contexts["origin"]) as origin,
        ProxyServer(ssl_context=contexts["proxy"]) as proxy,
    ):
        fetch = client.fetch(origin.url(), proxy=proxy.url, ca_certs=certificates.ca_file)
        if layer == "none":
            assert (await fetch).body == b"inside"
        else:
            error = await error_of(fetch)
            assert isinstance(error, HTTPTLSError)
            assert error.stage == {"proxy": "proxy-connect", "origin": "tls"}[layer]
            assert origin.requests == []
        assert len(origin.connections) == (0 if layer == "proxy" else 1)


# -- 70: reuse


def _settings(certificates: Any, other_ca: trustme.CA) -> dict[str, dict[str, Any]]:
    ca = certificates.ca_file
    identity = {
        "client_cert": certificates.client_cert_file,
        "client_key": certificates.client_key_file,
    }
    old = ssl.create_default_context(cafile=ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    return {
        "ca": {"ca_certs": ca},
        "ca-bytes": {"ca_certs": certificates.ca.cert_pem.bytes()},
        "other-ca": {"ca_certs": other_ca.cert_pem.bytes()},
        "none": {},
        "insecure": {"validate_cert": False},
        "identity": {"ca_certs": ca, **identity},
        "context": {"ssl_options": ssl.create_default_context(cafile=ca)},
        "context-1.2": {"ssl_options": old},
        "other-context": {
            "ssl_options": ssl.create_default_context(cadata=other_ca.cert_pem.bytes().decode())
        },
    }


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("insecure", "none", "refused"),
        ("insecure", "ca", "new"),
        ("insecure", "other-ca", "refused"),
        ("insecure", "other-context", "refused"),
        ("ca", "other-ca", "refused"),
        ("ca", "none", "refused"),
        ("ca-bytes", "other-ca", "refused"),
        ("context", "other-context", "refused"),
        ("context", "none", "refused"),
        ("ca", "identity", "new"),
        ("identity", "ca", "new"),
        ("context", "context-1.2", "new"),
        ("context-1.2", "context", "new"),
        ("ca", "ca", "same"),
        ("ca-bytes", "ca-bytes", "same"),
        ("context", "context", "same"),
        ("identity", "identity", "same"),
        ("insecure", "insecure", "same"),
    ],
)
async def test_matrix_70_reuse(
    client: Any, certificates: Any, other_ca: trustme.CA, first: str, second: str, outcome: str
) -> None:
    """Matrix 70: other TLS settings never get a connection, or a session, of these."""
    settings = _settings(certificates, other_ca)
    context = certificates.server_context()
    certificates.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with ScriptedServer(canned(ok()), context) as server:
        await client.fetch(server.url("/first"), **settings[first])
        if outcome == "refused":
            assert isinstance(
                await error_of(client.fetch(server.url("/second"), **settings[second])),
                HTTPTLSError,
            )
            assert [request.target for request in server.requests] == ["/first"]
            return
        await client.fetch(server.url("/second"), **settings[second])
        assert len(server.connections) == (1 if outcome == "same" else 2)
        last = server.connections[-1].ssl_object
        assert last is not None
        assert bool(last.getpeercert()) == (second == "identity")
        assert (last.version() == "TLSv1.2") == (second == "context-1.2")


async def test_matrix_70_context_changed_in_place(
    client: Any, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Matrix 70: a context that was changed since is read again."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    async with ScriptedServer(canned(ok()), server_context) as server:
        await client.fetch(server.url(), ssl_options=context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        await client.fetch(server.url(), ssl_options=context)
        versions = [p.ssl_object.version() for p in server.connections if p.ssl_object]
    assert versions == ["TLSv1.3", "TLSv1.2"]


async def test_plain_http_ignores_tls_settings(client: Any) -> None:
    """TLS settings do not matter, and do not fail, without TLS."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url(), ca_certs="missing.pem", validate_cert=True)
        assert response.body == b"ok"


async def test_alpn_settles_on_http_1_1(
    client: Any, certificates: Any, server_context: ssl.SSLContext
) -> None:
    """Over TLS the versions are offered by ALPN; http_version="1.1" offers that one alone."""
    async with ScriptedServer(canned(ok()), server_context) as server:
        for arguments in ({}, {"http_version": "1.1"}):
            response = await client.fetch(server.url(), ca_certs=certificates.ca_file, **arguments)
            assert response.http_version == "1.1"
