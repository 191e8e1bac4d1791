"""Matrix 69: what one request sets, the next one on the same handle does not have.

With max_clients=1 there is one slot, and on the curl backend one easy handle. Request A sets all
that can be set together; B sets nothing, and its bytes are those of a fresh client.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pycurl
import pytest

from backends import known_difference
from conftest import Certificates
from whimbrel.httpclient import HTTPError
from whimbrel.testing.proxy import ProxyServer
from whimbrel.testing.scripted import Peer, ScriptedServer, ok, reply

Options = dict[str, Any]
MakeClient = Callable[..., Any]

DIGEST = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'


async def origin(peer: Peer) -> None:
    """Answers all, challenges /digest, sets cookies and HSTS, and sends 100 where it is asked."""
    while True:
        request = await peer.read_head()
        if request.get("Expect"):
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.read_body(request)
        headers = (
            "Set-Cookie: planted=1; Path=/",
            "Strict-Transport-Security: max-age=1000",
            'Alt-Svc: h2="127.0.0.1:1"; ma=1000',
        )
        if request.target.startswith("/digest") and request.get("Authorization") is None:
            await peer.send(reply("401 Unauthorized", b"", DIGEST, *headers))
        else:
            await peer.send(ok(b"ok", *headers))


async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
    await write(b"one")
    await write(b"two")


def plant(easy: Any) -> None:
    """All that a prepare_curl_callback can do to the requests that follow."""
    easy.setopt(pycurl.COOKIEFILE, "")
    easy.setopt(pycurl.COOKIE, "secret=1")
    easy.setopt(pycurl.COOKIELIST, "Set-Cookie: listed=1; Domain=localhost; Path=/")
    easy.setopt(pycurl.COOKIELIST, "Set-Cookie: listed=1; Domain=127.0.0.1; Path=/")
    easy.setopt(pycurl.REFERER, "http://secret.example/")
    easy.setopt(pycurl.RANGE, "0-1")
    easy.setopt(pycurl.USERAGENT, "planted")
    easy.setopt(pycurl.CUSTOMREQUEST, "PLANTED")
    easy.setopt(pycurl.ACCEPT_ENCODING, "gzip")
    easy.setopt(pycurl.HTTPHEADER, ["X-Planted: 1"])
    easy.setopt(pycurl.USERPWD, "planted:secret")
    easy.setopt(pycurl.HTTPAUTH, pycurl.HTTPAUTH_BASIC)
    easy.setopt(pycurl.XOAUTH2_BEARER, "secret")
    easy.setopt(pycurl.TIMECONDITION, pycurl.TIMECONDITION_IFMODSINCE)
    easy.setopt(pycurl.TIMEVALUE, 1)
    easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_0)
    easy.setopt(pycurl.FOLLOWLOCATION, 1)
    easy.setopt(pycurl.MAXFILESIZE, 10_000)
    if hasattr(pycurl, "HSTS_CTRL"):
        easy.setopt(pycurl.HSTS_CTRL, pycurl.CURLHSTS_ENABLE)


def plant_target(easy: Any) -> None:
    easy.setopt(pycurl.REQUEST_TARGET, "/planted")


def plant_upload(easy: Any) -> None:
    easy.setopt(pycurl.UPLOAD, 1)
    easy.setopt(pycurl.READFUNCTION, lambda size: b"")
    easy.setopt(pycurl.INFILESIZE_LARGE, 0)


def plant_post(easy: Any) -> None:
    easy.setopt(pycurl.POSTFIELDS, "planted")


def plant_and_raise(easy: Any) -> None:
    plant(easy)
    raise ZeroDivisionError


# What goes along with everything else.
COMMON: Options = {
    "headers": {"X-Secret": "1", "Cookie": "a=b", "Accept": "text/x", "Referer": "http://r/"},
    "params": {"q": "1"},
    "connect_timeout": 7,
    "request_timeout": 8,
    "queue_timeout": 6,
    "stall_timeout": 5,
    "max_body_size": 1000,
    "if_modified_since": 1,
    "follow_redirects": False,
    "max_redirects": 1,
    "user_agent": "secret agent",
    "decompress_response": False,
    "header_callback": lambda line: None,
    "streaming_callback": lambda chunk: None,
    "allow_ipv6": False,
    "network_interface": "127.0.0.1",
    "http_version": "1.1",
}

# The path of A, its options, and where it goes.
FIRST: dict[str, tuple[str, Options]] = {
    "common": ("/a", COMMON),
    "basic": ("/a", {**COMMON, "auth_username": "u", "auth_password": "p"}),
    "digest": (
        "/digest",
        {"auth_username": "u", "auth_password": "p", "auth_mode": "digest", **COMMON},
    ),
    "bearer": ("/a", {**COMMON, "auth_token": "secret"}),
    "post": ("/a", {**COMMON, "method": "POST", "body": b"secret"}),
    "json": ("/a", {**COMMON, "method": "PUT", "json": {"a": 1}}),
    "form": ("/a", {**COMMON, "method": "PATCH", "form": {"a": 1}}),
    "producer": ("/a", {**COMMON, "method": "POST", "body_producer": produce}),
    "sized-producer": (
        "/a",
        {
            **COMMON,
            "method": "PUT",
            "headers": {"Content-Length": "6"},
            "body_producer": produce,
        },
    ),
    "expect": (
        "/a",
        {**COMMON, "method": "PUT", "body": b"secret", "expect_100_continue": True},
    ),
    "head": ("/a", {**COMMON, "method": "HEAD"}),
    "custom-method": ("/a", {**COMMON, "method": "ODD", "allow_nonstandard_methods": True}),
    "escaped-target": ("/a%2Fb", COMMON),
    "escaped-target-alone": ("/a%2Fb", {}),
    "host": ("/a", {"headers": {"Host": "virtual.example"}}),
    "proxy": ("/a", {**COMMON, "proxy": "PROXY"}),
    "proxy-digest-mode": ("/a", {**COMMON, "proxy": "PROXY", "proxy_auth_mode": "digest"}),
    "proxy-in-two": (
        "/a",
        {"proxy_host": "127.0.0.1", "proxy_port": "PORT", "proxy_username": "u"},
    ),
    "unix-socket": ("/a", {"unix_socket": "SOCKET"}),
    "dead-interface": ("/a", {**COMMON, "network_interface": "nope0"}),
    "http-2": ("/a", {**COMMON, "http_version": "2"}),
    "curl-callback": ("/a", {"prepare_curl_callback": plant}),
    "curl-callback-and-more": ("/a", {**COMMON, "prepare_curl_callback": plant}),
    "curl-callback-target": ("/a", {"prepare_curl_callback": plant_target}),
    "curl-callback-upload": ("/a", {"prepare_curl_callback": plant_upload}),
    "curl-callback-post": ("/a", {"prepare_curl_callback": plant_post}),
    "curl-callback-raises": ("/a", {"prepare_curl_callback": plant_and_raise}),
    "tls-unverified": ("/a", {**COMMON, "validate_cert": False, "ca_certs": None}),
    "tls-files": ("/a", {**COMMON, "ca_certs": "CA", "client_cert": "CERT", "client_key": "KEY"}),
    "tls-dict": ("/a", {"ca_certs": None, "ssl_options": {"cert_reqs": ssl.CERT_NONE}}),
}
SECOND: dict[str, Options] = {
    "get": {},
    "head": {"method": "HEAD"},
    "delete": {"method": "DELETE"},
    "post": {"method": "POST", "body": b"b"},
    "put-stream": {"method": "PUT", "body": [b"b"]},
}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
async def test_the_next_request_is_as_from_a_fresh_client(
    make_client: MakeClient,
    backend: str,
    certificates: Certificates,
    server_context: ssl.SSLContext,
    tmp_path: Path,
    first: str,
    second: str,
    tls: bool,
) -> None:
    """B follows A as it would follow nothing, also where the backend refuses A."""
    refusal = known_difference(ONLY_SOME_HAVE[first], backend) if first in ONLY_SOME_HAVE else None
    # The mapping is the client's, so both have it; "localhost" takes part in it.
    settings: Options = {
        "max_clients": 1,
        "defaults": {"ca_certs": certificates.ca_file},
        "hostname_mapping": {"localhost": "127.0.0.1"},
    }
    client = make_client(**settings)
    path, options = FIRST[first]
    context = server_context if tls else None
    async with (
        ScriptedServer(origin, context) as server,
        ProxyServer("u", "p") as proxy,
    ):
        places = {
            "PROXY": proxy.url_with_credentials,
            "PORT": proxy.port,
            "SOCKET": str(tmp_path / "nobody-listens"),
            "CA": certificates.ca_file,
            "CERT": certificates.client_cert_file,
            "KEY": certificates.client_key_file,
        }
        given = {
            name: places.get(value, value) if isinstance(value, str) else value
            for name, value in options.items()
        }
        host = "localhost" if first == "common" else None
        fetch = client.fetch(server.url(path, host=host), raise_error=False, **given)
        if refusal is not None and refusal.raises is not None:
            with pytest.raises(refusal.raises):
                await fetch
        else:
            with contextlib.suppress(HTTPError, ZeroDivisionError):
                await fetch
        if refusal is None and first not in NOTHING_ARRIVES:
            assert server.requests, "A did not arrive, and says nothing of B"
        for target in (path, "/plain"):
            await client.fetch(server.url(target), raise_error=False, **SECOND[second])
            after = server.requests[-1]
            fresh = make_client(**settings)
            await fresh.fetch(server.url(target), raise_error=False, **SECOND[second])
            assert server.requests[-1] is not after
            assert after.raw == server.requests[-1].raw


# The known difference that a kind of request may meet.
ONLY_SOME_HAVE = {
    name: "http-2-and-3" if name == "http-2" else "prepare_curl_callback"
    for name in FIRST
    if name == "http-2" or name.startswith("curl-callback")
}
NOTHING_ARRIVES = {
    "unix-socket",
    "dead-interface",
    "curl-callback-raises",
    "proxy-digest-mode",  # the proxy speaks Basic only
    "proxy-in-two",  # and not without a password
}


@pytest.mark.parametrize("first", ["tls-unverified", "tls-dict"])
async def test_verification_comes_back(
    make_client: MakeClient, server_context: ssl.SSLContext, first: str
) -> None:
    """Nor does B go out on the connection that A did not verify."""
    client = make_client(max_clients=1)
    async with ScriptedServer(origin, server_context) as server:
        response = await client.fetch(server.url("/a"), **FIRST[first][1])
        assert response.code == 200
        with pytest.raises(ssl.SSLError):
            await client.fetch(server.url("/b"))
        assert [request.target.partition("?")[0] for request in server.requests] == ["/a"]


async def test_client_certificates_do_not_stay(
    make_client: MakeClient, certificates: Certificates
) -> None:
    context = certificates.server_context()
    certificates.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    client = make_client(max_clients=1, defaults={"ca_certs": certificates.ca_file})
    async with ScriptedServer(origin, context) as server:
        await client.fetch(
            server.url("/a"),
            client_cert=certificates.client_cert_file,
            client_key=certificates.client_key_file,
        )
        await client.fetch(server.url("/b"))
        shown = [
            bool(peer.ssl_object and peer.ssl_object.getpeercert()) for peer in server.connections
        ]
        assert shown == [True, False]


@pytest.mark.parametrize("users", [("first", "second"), ("first", "first")])
async def test_digest_state_does_not_stay(make_client: MakeClient, users: tuple[str, str]) -> None:
    """Not even the next digest request, or the very same one, begins with what is left."""
    client = make_client(max_clients=1)
    async with ScriptedServer(origin) as server:
        for user in users:
            await client.fetch(
                server.url("/digest"), auth_username=user, auth_password="p", auth_mode="digest"
            )
        sent = [request.get("Authorization") for request in server.requests]
        assert [value is None for value in sent] == [True, False, True, False]
        assert f'username="{users[0]}"' in str(sent[1])
        assert f'username="{users[1]}"' in str(sent[3])


async def test_digest_state_is_of_one_origin(make_client: MakeClient) -> None:
    """The very same options, another origin: it gets no answer to the first one's challenge."""
    client = make_client(max_clients=1)
    async with ScriptedServer(origin) as one, ScriptedServer(origin) as other:
        for server in (one, other):
            await client.fetch(
                server.url("/digest"), auth_username="u", auth_password="p", auth_mode="digest"
            )
            sent = [request.get("Authorization") for request in server.requests]
            assert [value is None for value in sent] == [True, False]
