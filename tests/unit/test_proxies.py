"""Which proxy a request goes through, and as whom."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from whimbrel._policy.environment import EnvironmentProxies
from whimbrel._policy.proxies import Proxy, decide_proxy, parse_proxy_url, proxy_from_host
from whimbrel._policy.urls import parse_url

HTTP = parse_url("http://origin.example/")
HTTPS = parse_url("https://origin.example/")
ENVIRONMENT = EnvironmentProxies.from_environ(
    {
        "http_proxy": "http://env:secret@env.example:1",
        "https_proxy": "env-tls.example:2",
        "no_proxy": "direct.example",
    }
)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


# -- one URL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("p.example", Proxy("http", "p.example", 80)),
        ("p.example:3128", Proxy("http", "p.example", 3128)),
        ("u:p@p.example:3128", Proxy("http", "p.example", 3128, "u", "p")),
        ("http://p.example", Proxy("http", "p.example", 80)),
        ("http://p.example/", Proxy("http", "p.example", 80)),
        ("HTTPS://P.EXAMPLE", Proxy("https", "p.example", 443)),
        ("socks4://p.example", Proxy("socks4", "p.example", 1080)),
        ("socks4a://p.example", Proxy("socks4a", "p.example", 1080)),
        ("socks5://p.example", Proxy("socks5", "p.example", 1080)),
        ("socks5h://u:p@p.example:9050", Proxy("socks5h", "p.example", 9050, "u", "p")),
        ("http://u@p.example", Proxy("http", "p.example", 80, "u", None)),
        ("http://u:@p.example", Proxy("http", "p.example", 80, "u", "")),
        ("http://:p@p.example", Proxy("http", "p.example", 80, "", "p")),
        ("http://u%40x:p%3A%2F@p.example", Proxy("http", "p.example", 80, "u@x", "p:/")),
        ("http://u:p@x@p.example", Proxy("http", "p.example", 80, "u", "p@x")),
        ("http://%C3%BC:p@p.example", Proxy("http", "p.example", 80, "ü", "p")),
        ("http://[::1]:8080", Proxy("http", "::1", 8080)),
        ("[::1]:8080", Proxy("http", "::1", 8080)),
        ("http://127.1:80", Proxy("http", "127.0.0.1", 80)),
        ("http://bücher.example", Proxy("http", "xn--bcher-kva.example", 80)),
    ],
)
def test_parse(url: str, expected: Proxy) -> None:
    assert parse_proxy_url(url) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no host"),
        ("http://", "no host: 'http://'"),
        ("http://u:hunter2@", "no host"),
        ("ftp://u:hunter2@p.example", "unknown scheme 'ftp'"),
        ("socks://u:hunter2@p.example", "unknown scheme"),
        ("u:hunter2://p.example", "unknown scheme"),
        ("://p.example", "unknown scheme"),
        ("http://p.example/path", "path"),
        ("http://u:hunter2/x@p.example", "percent-encode"),
        ("http://u:hunter2?x@p.example", "percent-encode"),
        ("http://u:hunter2#x@p.example", "percent-encode"),
        ("http://p.example?q", "path"),
        ("http://p.example:x", "invalid port: use 1 to 65535, not 'x'"),
        ("http://p.example:65536", "invalid port"),
        ("http://p.example:0", "use 1 to 65535"),
        ("http://u:hunter2@p.example:00", "use 1 to 65535"),
        ("http://[::1", "malformed IPv6"),
        ("http://p.example\r\nX: y", "remove or percent-encode it"),
        ("http://u%0d%0a:p@p.example", "control character"),
        ("http://u:p%00@p.example", "control character"),
        ("http://a b.example", "invalid host"),
    ],
)
def test_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^(user name in |password in )?proxy") as caught:
        parse_proxy_url(url)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [b"http://p", 1, {"http": "p"}])
def test_not_a_str(value: Any) -> None:
    error = ValueError if not isinstance(value, dict) else TypeError  # it cannot be hashed
    with pytest.raises(error):
        parse_proxy_url(value)
    with pytest.raises(ValueError, match="proxy must be a URL, False or None"):
        decide_proxy({"proxy": value}, HTTP, [], None)


def test_auth_modes() -> None:
    for mode in ("basic", "digest", "negotiate"):
        assert parse_proxy_url("http://p", mode).auth_mode == mode
    with pytest.raises(ValueError, match="unknown proxy_auth_mode 'ntlm'"):
        parse_proxy_url("http://p", "ntlm")


def test_url_and_repr_hide_the_identity() -> None:
    for text in ("http://user:hunter2@p.example:81", "socks5h://user:hunter2@[::1]"):
        proxy = parse_proxy_url(text)
        assert "hunter2" not in repr(proxy) + proxy.url
        assert "user" not in repr(proxy) + proxy.url
        assert parse_proxy_url(proxy.url) == proxy._replace(username=None, password=None)
    assert parse_proxy_url("http://[::1]:81").url == "http://[::1]:81"


@pytest.mark.parametrize(
    ("scheme", "is_socks"),
    [
        ("http", False),
        ("https", False),
        ("socks4", True),
        ("socks4a", True),
        ("socks5", True),
        ("socks5h", True),
    ],
)
def test_is_socks(scheme: str, is_socks: bool) -> None:
    assert parse_proxy_url(f"{scheme}://p").is_socks is is_socks


# -- Tornado's two halves


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("P.example", 3128, Proxy("http", "p.example", 3128)),
        ("::1", 3128, Proxy("http", "::1", 3128)),
        ("[::1]", 3128, Proxy("http", "::1", 3128)),
        ("socks5://p.example", 1080, Proxy("socks5", "p.example", 1080)),
        ("https://u:p@p.example", 443, Proxy("https", "p.example", 443, "u", "p")),
    ],
)
def test_from_host(host: str, port: int, expected: Proxy) -> None:
    assert proxy_from_host(host, port, None) == expected


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("p", None, "proxy_host needs proxy_port"),
        ("p", 0, "proxy_port must be"),
        ("p", 65536, "proxy_port must be"),
        ("p", "3128", "proxy_port must be"),
        ("p", True, "proxy_port must be"),
        ("p\r\n", 80, "proxy_host holds the control character"),
        ("p/x", 80, "proxy_host has an invalid host"),
        ("u@p", 80, "proxy_host has an invalid host"),
        ("p:80", 80, "proxy_host has an invalid IPv6 host"),
        ("ftp://p", 80, "proxy_host has an unknown scheme"),
        (b"p", 80, "proxy_host must be a str"),
    ],
)
def test_from_host_refused(host: Any, port: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        proxy_from_host(host, port, None)


# -- the decision

Options = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"proxy": None}, None),
        ({"proxy": False}, None),
        ({"proxy": "http://p"}, Proxy("http", "p", 80)),
        ({"proxy": "http://u:p@p"}, Proxy("http", "p", 80, "u", "p")),
        # The parameters win over the URL; a password alone takes the URL's user name.
        (
            {"proxy": "http://u:p@p", "proxy_username": "v", "proxy_password": "w"},
            Proxy("http", "p", 80, "v", "w"),
        ),
        ({"proxy": "http://u:p@p", "proxy_password": "w"}, Proxy("http", "p", 80, "u", "w")),
        # Another user has not the URL's password.
        ({"proxy": "http://u:p@p", "proxy_username": "v"}, Proxy("http", "p", 80, "v", "")),
        ({"proxy": "http://p", "proxy_username": "v"}, Proxy("http", "p", 80, "v", "")),
        ({"proxy_host": "p", "proxy_port": 1}, Proxy("http", "p", 1)),
        (
            {"proxy_host": "p", "proxy_port": 1, "proxy_username": "v", "proxy_password": "w"},
            Proxy("http", "p", 1, "v", "w"),
        ),
        ({"proxy_host": "", "proxy_port": 1}, None),
        ({"proxy": False, "proxy_port": 1}, None),
        ({"proxy_username": "v", "proxy_password": "w"}, None),
        ({"proxy_auth_mode": "digest"}, None),
        (
            {"proxy": "http://u:p@p", "proxy_auth_mode": "digest"},
            Proxy("http", "p", 80, "u", "p", "digest"),
        ),
        # What Basic cannot carry, the others can.
        (
            {"proxy": "http://a%3Ab:p@p", "proxy_auth_mode": "digest"},
            Proxy("http", "p", 80, "a:b", "p", "digest"),
        ),
        ({"proxy": "socks5://a%3Ab:p@p"}, Proxy("socks5", "p", 1080, "a:b", "p")),
    ],
)
@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_decide(options: Options, expected: Proxy | None, url: Any) -> None:
    assert decide_proxy(options, url, [], None) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proxy": "http://p", "proxy_host": "q"}, "only one of proxy and proxy_host"),
        ({"proxy": True}, "proxy must be a URL"),
        ({"proxy": ""}, "no host"),
        ({"proxy": "http://p", "proxy_password": "w"}, "proxy_password needs proxy_username"),
        ({"proxy": "http://p", "proxy_username": "a\nb"}, "proxy_username holds"),
        (
            {"proxy": "http://p", "proxy_username": "a", "proxy_password": "\0"},
            "proxy_password holds",
        ),
        ({"proxy": "http://p", "proxy_username": b"a"}, "proxy_username must be a str"),
        ({"proxy": "http://p", "proxy_username": "a:b"}, "':'"),
        ({"proxy": "http://a%3Ab:p@p"}, "':'"),
        ({"proxy": "http://p", "proxy_auth_mode": "x"}, "unknown proxy_auth_mode"),
        ({"proxy_auth_mode": "x"}, "unknown proxy_auth_mode 'x': use one of"),
        ({"proxy": False, "proxy_auth_mode": "x"}, "unknown proxy_auth_mode"),
        ({"proxy_port": 1}, "proxy_port needs proxy_host"),
        ({"proxy": "http://p", "proxy_port": 1}, "a proxy given as a URL has its port in it"),
    ],
)
def test_decide_refused(options: Options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decide_proxy(options, HTTP, [], None)


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        (HTTP, {}, Proxy("http", "env.example", 1, "env", "secret")),
        (HTTPS, {}, Proxy("http", "env-tls.example", 2)),
        (parse_url("http://direct.example/"), {}, None),
        (HTTP, {"proxy": False}, None),
        (HTTP, {"proxy": "http://p"}, Proxy("http", "p", 80)),
        # no_proxy is the environment's own affair.
        (parse_url("http://direct.example/"), {"proxy": "http://p"}, Proxy("http", "p", 80)),
        (HTTP, {"proxy_host": "p", "proxy_port": 1}, Proxy("http", "p", 1)),
        (
            HTTP,
            {"proxy_username": "v", "proxy_password": "w"},
            Proxy("http", "env.example", 1, "v", "w"),
        ),
        (
            HTTP,
            {"proxy_auth_mode": "digest"},
            Proxy("http", "env.example", 1, "env", "secret", "digest"),
        ),
    ],
)
def test_the_environment_comes_last(url: Any, options: Options, expected: Proxy | None) -> None:
    assert decide_proxy(options, url, [], ENVIRONMENT) == expected


def test_a_broken_variable_is_named_and_not_shown() -> None:
    broken = EnvironmentProxies.from_environ({"http_proxy": "ftp://u:hunter2@p"})
    with pytest.raises(ValueError, match="environment variable http_proxy") as caught:
        decide_proxy({}, HTTP, [], broken)
    assert "hunter2" not in str(caught.value)


# -- a caller's Proxy-Authorization


@pytest.mark.parametrize("name", ["Proxy-Authorization", "PROXY-authorization"])
@pytest.mark.parametrize("scheme", ["basic", "Basic", "BASIC"])
def test_the_header_becomes_credentials(name: str, scheme: str) -> None:
    fields = [("A", "b"), (name, scheme + basic("ü:p:q").removeprefix("Basic"))]
    proxy = decide_proxy({"proxy": "http://x:y@p"}, HTTP, fields, None)
    assert proxy == Proxy("http", "p", 80, "ü", "p:q")
    assert fields == [("A", "b")]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["Bearer abc"], "must be one Basic credential"),
        (["Digest username=x"], "must be one Basic credential"),
        (["Basic"], "must be one Basic credential"),
        (["Basic !!!"], "must be one Basic credential"),
        ([basic("nocolon")], "must be one Basic credential"),
        (["Basic /w=="], "must be one Basic credential"),
        ([basic("u:p"), basic("v:q")], "must be one Basic credential"),
        ([basic("u:\0")], "control character"),
        ([basic("u\n:p")], "control character"),
    ],
)
def test_other_headers_are_refused(values: list[str], words: str) -> None:
    fields = [("Proxy-Authorization", value) for value in values]
    with pytest.raises(ValueError, match=words):
        decide_proxy({"proxy": "http://p"}, HTTP, fields, None)


@pytest.mark.parametrize("options", [{}, {"proxy": False}])
def test_the_header_never_reaches_an_origin(options: Options) -> None:
    with pytest.raises(ValueError, match="would show the proxy's credentials"):
        decide_proxy(options, HTTP, [("proxy-authorization", basic("u:p"))], None)
