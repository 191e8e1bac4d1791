"""Decisions about requests, one by one: merging, proxies, TLS, and reprs without secrets."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest

from whimbrel._curl.options import plan
from whimbrel._curl.tls import tls_options
from whimbrel._policy import fields
from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.exchange import Auth, prepare
from whimbrel._policy.options import merge_options
from whimbrel._policy.proxies import parse_proxy_url
from whimbrel._policy.tls import TLS
from whimbrel._policy.urls import parse_url, redact
from whimbrel._simple.plan import Lines, Ready
from whimbrel.httpclient import HTTPRequest, HTTPResponse
from whimbrel.httputil import HTTPHeaders

pycurl = pytest.importorskip("pycurl")

BUILT_IN: dict[str, Any] = {"user_agent": "ua", "max_body_size": 0}


def prepared(environment: EnvironmentProxies | None = None, **options: Any) -> Any:
    return prepare({**BUILT_IN, "url": "http://host.example/", **options}, environment)


# -- merging


def test_none_is_not_given() -> None:
    merged = merge_options({"user_agent": "default", "a": 1}, {"user_agent": None, "b": None})
    assert merged == {"user_agent": "default", "a": 1}


@pytest.mark.parametrize("make", [dict, HTTPHeaders])
def test_headers_are_copied(make: Any) -> None:
    headers = make({"A": "1"})
    merged = merge_options({}, {"headers": headers})
    headers["A"] = "2"
    headers["B"] = "3"
    assert dict(merged["headers"]) == {"A": "1"}


def test_one_way_of_naming_a_proxy_takes_the_others_place() -> None:
    parts = {"proxy_host": "h", "proxy_port": 1, "proxy_username": "u", "proxy_password": "p"}
    assert merge_options(parts, {"proxy": "http://x"}) == {"proxy": "http://x"}
    assert merge_options(parts, {"proxy": False}) == {"proxy": False}
    given = {"proxy_host": "h", "proxy_port": 1}
    assert merge_options({"proxy": "http://u:p@x"}, given) == given
    # Two in one request contradict each other: that is for the check, not for the merge.
    assert merge_options({}, {"proxy": "http://x", **given}) == {"proxy": "http://x", **given}


# -- proxies


@pytest.mark.parametrize(
    ("url", "options", "identity"),
    [
        ("http://proxy:1", {}, (None, None)),
        ("http://proxy:1", {"proxy_username": "u", "proxy_password": "p"}, ("u", "p")),
        ("http://proxy:1", {"proxy_username": "u"}, ("u", "")),
        ("http://x:y@proxy:1", {"proxy_username": "u", "proxy_password": "p"}, ("u", "p")),
        ("http://x@proxy:1", {"proxy_password": "p"}, ("x", "p")),
    ],
)
def test_credentials_for_a_proxy_of_the_environment(
    url: str, options: dict[str, Any], identity: tuple[str | None, str | None]
) -> None:
    environment = EnvironmentProxies.from_environ({"http_proxy": url})
    proxy = prepared(environment, **options).profile.proxy
    assert (proxy.host, proxy.username, proxy.password) == ("proxy", *identity)


def test_a_colon_in_a_users_name() -> None:
    """Basic cannot carry it; digest and SOCKS can."""
    with pytest.raises(ValueError, match="user name"):
        prepared(proxy="http://p:1", proxy_username="a:b")
    digest = prepared(proxy="http://p:1", proxy_username="a:b", proxy_auth_mode="digest")
    assert digest.profile.proxy.username == "a:b"
    assert prepared(proxy="socks5://p:1", proxy_username="a:b").profile.proxy.username == "a:b"


@pytest.mark.parametrize("url", ["http://host.example/", "https://host.example/"])
def test_http_3_and_proxies(url: str) -> None:
    assert prepared(url=url, http_version="3").profile.http_version == "3"
    through = prepared(url=url, http_version="3", proxy="http://p:1")
    assert through.profile.http_version in ("1.1", "2")


def test_params_expand_lists() -> None:
    exchange = prepared(params={"a": ["1", 2], "b": (), "c": "x"})
    assert exchange.url.target == "/?a=1&a=2&c=x"


# -- TLS


def ciphers(context: ssl.SSLContext) -> str | None:
    options = dict(tls_options(TLS(context=context), ""))
    return options.get(pycurl.SSL_CIPHER_LIST)


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE  # trust is for other tests
    return made


def test_the_security_level_of_a_context_is_mapped() -> None:
    """Also where the suites are the default ones and nothing else differs."""
    plain = context()
    assert ciphers(plain) is None
    names = [c["name"] for c in plain.get_ciphers() if not c["name"].startswith("TLS_")]
    for level in {0, 1, 2, 3} - {plain.security_level}:
        other = context()
        other.set_ciphers(":".join([*names, f"@SECLEVEL={level}"]))
        assert other.security_level == level
        assert ciphers(other) == ":".join([*names, f"@SECLEVEL={level}"])


def test_the_security_level_goes_with_suites_of_ones_own() -> None:
    """Without it libcurl's OpenSSL would take its own level, which may be another."""
    other = context()
    other.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    expected = f"ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL={other.security_level}"
    assert ciphers(other) == expected
    profile = prepared(url="https://host.example/", ssl_options=other).profile
    assert dict(plan(profile).options)[pycurl.SSL_CIPHER_LIST] == expected


# -- URLs


@pytest.mark.parametrize("url", ["example.com:80/x", "localhost:8080", "user:1@host/"])
def test_a_url_without_its_scheme(url: str) -> None:
    """What stands before the first colon is no scheme then. Beside an "@" it may be a secret."""
    with pytest.raises(ValueError) as found:
        parse_url(url)
    shown = "it" if "@" in url else repr(url)
    message = f"url is not an absolute URL: begin {shown} with http:// or https://"
    assert str(found.value) == message


def test_another_scheme() -> None:
    with pytest.raises(ValueError, match="scheme 'mailto'"):
        parse_url("mailto:someone")


# -- reprs


def test_no_repr_holds_a_secret() -> None:
    url = "https://user:SECRET@host.example/"
    exchange = prepared(
        url=url,
        auth_mode="digest",
        headers={"X-Key": "SECRET", "Cookie": "SECRET"},
        proxy="http://user:SECRET@proxy.example:1",
    )
    profile = exchange.profile
    assert profile.auth.password == profile.proxy.password == "SECRET"
    request = HTTPRequest(url, headers={"X-Key": "SECRET"}, auth_password="SECRET")
    things = [
        parse_url(url),
        exchange,
        profile,
        plan(profile),
        Lines("Authorization: SECRET\r\n", has_host=False, keep_alive=True),
        Ready(cast(Any, exchange), cast(Any, None), b"Authorization: SECRET", keep_alive=True),
        profile.proxy,
        parse_proxy_url("socks5://user:SECRET@h"),
        profile.auth,
        Auth("digest", "user", "SECRET"),
        request,
        HTTPRequest(url.encode()),  # type: ignore[arg-type]
        HTTPResponse(request, 200),
        HTTPResponse(request, 200, effective_url=url),
    ]
    for thing in things:
        assert "SECRET" not in repr(thing)
        assert "SECRET" not in str(thing)
    assert repr(parse_url(url)) == "URL('https://host.example/')"
    assert repr(profile.proxy) == "Proxy('http://proxy.example:1')"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/path?q", "http://host/path?q"),
        ("http://user:SECRET@host/path", "http://host/path"),
        ("http://u:SEC/RET@host/", "...@host/"),
        ("http://u:sec?ret@host/", "...@host/"),
        ("http:/user:SECRET@host/", "...@host/"),
        ("http:user:SECRET@host/", "...@host/"),
        ("http://host/@user", "http://host/@user"),
        ("http://a:SEC@RET@host/", "...@host/"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_names_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in length, and none passes for another."""
    monkeypatch.setattr(fields, "_CHECKED_NAMES", 4)
    for number in range(20):
        fields.caller_fields({f"X-{number}": "v", "X" * 1000: "v", f"X-{number}".encode(): b"v"})
        assert len(fields._checked_names) <= 4
    assert all(type(name) is str and len(name) < 100 for name in fields._checked_names)
    fields._checked_names.clear()
    fields.caller_fields({f"X-{number}": "v" for number in range(4)})
    fields.caller_fields({"X" * 1000: "v"})
    assert len(fields._checked_names) == 4, "what is not kept took the place of what was"
    for name in ("X Y", "X:", "", "X\n"):
        for _ in range(2):
            with pytest.raises(ValueError, match="header name"):
                fields.caller_fields({name: "v"})
