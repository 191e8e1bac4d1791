"""TLS as nginx and caddy speak it: whom we trust, and who has to trust us."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPTLSError

from .servers.caddy import Caddy
from .servers.certificates import Certificates
from .servers.nginx import Nginx


def context(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


async def refused(client: AsyncHTTPClient, url: str, **options: Any) -> HTTPTLSError:
    """The error of a fetch that must fail in TLS."""
    with pytest.raises(HTTPTLSError) as caught:
        await client.fetch(url, **options)
    assert caught.value.code == 599
    assert caught.value.response is None
    assert caught.value.stage == "tls"
    assert isinstance(caught.value, ssl.SSLError)
    return caught.value


async def test_unknown_authority_is_refused(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    url = nginx_server.tls_url + "/seen"
    await refused(client, url)
    await refused(client, url, ca_certs=str(certs.stranger_ca))
    await refused(client, url, ca_certs=certs.stranger_ca.read_bytes())
    await refused(client, url, ssl_options=context(certs.stranger_ca))
    await refused(client, url, ssl_options=ssl.create_default_context())


@pytest.mark.parametrize("kind", ["file", "bytes", "context"])
async def test_known_authority_is_trusted(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates, kind: str
) -> None:
    options: dict[str, Any] = {
        "file": {"ca_certs": str(certs.ca)},
        "bytes": {"ca_certs": certs.ca.read_bytes()},
        "context": {"ssl_options": context(certs.ca)},
    }[kind]
    for host in ("localhost", "127.0.0.1", "[::1]"):
        response = await client.fetch(f"https://{host}:{nginx_server.tls}/seen", **options)
        seen = response.json()
        assert seen["tls"] == "TLSv1.3"
        assert seen["server_name"] == ("localhost" if host == "localhost" else "")


async def test_trust_does_not_stick(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    """A connection that one request trusts is no good for a request with other terms."""
    url = nginx_server.tls_url + "/seen"
    trusting: list[dict[str, Any]] = [
        {"validate_cert": False},
        {"ca_certs": str(certs.ca)},
        {"ca_certs": certs.ca.read_bytes()},
        {"ssl_options": context(certs.ca)},
    ]
    for options in trusting:
        assert (await client.fetch(url, **options)).code == 200
        await refused(client, url)
        await refused(client, url, ca_certs=str(certs.stranger_ca))


async def test_wrong_name_is_refused(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    url = f"https://localhost:{nginx_server.wrong_name}/seen"
    await refused(client, url, ca_certs=str(certs.ca))
    await refused(client, url, ssl_options=context(certs.ca))
    assert (await client.fetch(url, validate_cert=False)).code == 200
    lenient = context(certs.ca)
    lenient.check_hostname = False
    assert (await client.fetch(url, ssl_options=lenient)).code == 200


async def test_expired_is_refused(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    url = f"https://localhost:{nginx_server.expired}/seen"
    error = await refused(client, url, ca_certs=str(certs.ca))
    assert "expired" in str(error)
    assert (await client.fetch(url, validate_cert=False)).code == 200


async def test_versions_of_ssl_options(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    only_12 = context(certs.ca)
    only_12.maximum_version = ssl.TLSVersion.TLSv1_2
    response = await client.fetch(nginx_server.tls_url + "/seen", ssl_options=only_12)
    assert response.json()["tls"] == "TLSv1.2"

    only_13 = context(certs.ca)
    only_13.minimum_version = ssl.TLSVersion.TLSv1_3
    url = f"https://localhost:{nginx_server.tls12}/seen"
    assert (await client.fetch(url, ssl_options=context(certs.ca))).json()["tls"] == "TLSv1.2"
    await refused(client, url, ssl_options=only_13)


async def test_ciphers_of_ssl_options(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    one_cipher = context(certs.ca)
    one_cipher.maximum_version = ssl.TLSVersion.TLSv1_2
    one_cipher.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    response = await client.fetch(nginx_server.tls_url + "/seen", ssl_options=one_cipher)
    assert response.json()["cipher"] == "ECDHE-ECDSA-CHACHA20-POLY1305"


async def test_client_certificate(
    client: AsyncHTTPClient, nginx_server: Nginx, certs: Certificates
) -> None:
    """nginx ends the handshake first and then answers 400 to whom it does not know."""
    url = f"https://localhost:{nginx_server.client_certificate}/seen"
    ours = {"client_cert": str(certs.client.certificate), "client_key": str(certs.client.key)}
    strange = {
        "client_cert": str(certs.stranger_client.certificate),
        "client_key": str(certs.stranger_client.key),
    }
    for _ in range(2):
        response = await client.fetch(url, ca_certs=str(certs.ca), **ours)
        assert "CN=alice" in response.json()["client"]
        for options in (strange, {}):
            with pytest.raises(HTTPClientError) as caught:
                await client.fetch(url, ca_certs=str(certs.ca), **options)
            assert caught.value.code == 400


async def test_client_certificate_demanded_by_the_handshake(
    client: AsyncHTTPClient, caddy_server: Caddy, certs: Certificates
) -> None:
    url = f"https://localhost:{caddy_server.mutual12}/"
    ours = {"client_cert": str(certs.client.certificate), "client_key": str(certs.client.key)}
    strange = {
        "client_cert": str(certs.stranger_client.certificate),
        "client_key": str(certs.stranger_client.key),
    }
    await refused(client, url, ca_certs=str(certs.ca))
    await refused(client, url, ca_certs=str(certs.ca), **strange)
    response = await client.fetch(url, ca_certs=str(certs.ca), **ours)
    assert response.body == b"client known"
    await refused(client, url, ca_certs=str(certs.ca))


async def test_client_certificate_demanded_after_the_handshake(
    client: AsyncHTTPClient, caddy_server: Caddy, certs: Certificates
) -> None:
    """In TLS 1.3 the client is done before the server says no (RFC 8446, section 4.4.2.4).

    The refusal meets the request, so its form depends on which is faster: a TLS alert or a reset.
    It is an error of the connection either way, and never a response.
    """
    url = f"https://localhost:{caddy_server.mutual13}/"
    ours = {"client_cert": str(certs.client.certificate), "client_key": str(certs.client.key)}
    with pytest.raises(HTTPClientError) as caught:
        await client.fetch(url, ca_certs=str(certs.ca))
    assert caught.value.code == 599
    assert isinstance(caught.value, (ssl.SSLError, ConnectionError))
    response = await client.fetch(url, ca_certs=str(certs.ca), **ours)
    assert response.body == b"client known"
