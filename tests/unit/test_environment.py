"""Proxies of the environment: which variable counts, and what no_proxy exempts."""

from __future__ import annotations

import pytest

from whimbrel._policy.environment import EnvironmentProxies, EnvironmentProxy

PROXY = "http://proxy:3128"


def named(environ: dict[str, str], scheme: str = "http") -> tuple[str, str] | None:
    proxy = EnvironmentProxies.from_environ(environ).proxy_for(scheme, "example.com", 80)
    return None if proxy is None else (proxy.url, proxy.variable)


def exempt(no_proxy: str, host: str, port: int = 80) -> bool:
    environ = {"http_proxy": PROXY, "no_proxy": no_proxy}
    return EnvironmentProxies.from_environ(environ).proxy_for("http", host, port) is None


@pytest.mark.parametrize(
    ("environ", "scheme", "expected"),
    [
        ({}, "http", None),
        ({"http_proxy": "http://a:1"}, "http", ("http://a:1", "http_proxy")),
        ({"http_proxy": "http://a:1"}, "https", None),
        ({"HTTP_PROXY": "http://a:1"}, "http", ("http://a:1", "HTTP_PROXY")),
        ({"https_proxy": "http://a:1"}, "https", ("http://a:1", "https_proxy")),
        ({"HTTPS_PROXY": "http://a:1"}, "https", ("http://a:1", "HTTPS_PROXY")),
        ({"https_proxy": "http://a:1"}, "http", None),
        ({"all_proxy": "http://a:1"}, "http", ("http://a:1", "all_proxy")),
        ({"ALL_PROXY": "http://a:1"}, "https", ("http://a:1", "ALL_PROXY")),
        # lower case first, the special before the general
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:1"}, "http", "http://a:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "https", "http://a:1"),
        ({"all_proxy": "http://a:1", "ALL_PROXY": "http://b:1"}, "https", "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "all_proxy": "http://b:1"}, "https", "http://a:1"),
        # an empty one is not set
        ({"http_proxy": "", "HTTP_PROXY": "http://b:1"}, "http", "http://b:1"),
        ({"http_proxy": " "}, "http", None),
        # schemes
        ({"http_proxy": "a:1"}, "http", "http://a:1"),
        ({"http_proxy": "user:pw@a:1"}, "http", "http://user:pw@a:1"),
        ({"http_proxy": "//a:1"}, "http", "http://a:1"),
        ({"http_proxy": "socks5h://a:1"}, "http", "socks5h://a:1"),
        ({"http_proxy": " http://a:1 "}, "http", "http://a:1"),
        # not validated here
        ({"http_proxy": "gopher://["}, "http", ("gopher://[", "http_proxy")),
        ({"all_proxy": "http://a:1"}, "gopher", None),
    ],
)
def test_which_variable_counts(
    environ: dict[str, str], scheme: str, expected: tuple[str, str] | str | None
) -> None:
    """The variable for the scheme counts before all_proxy, lower case before upper."""
    found = named(environ, scheme)
    if isinstance(expected, str):
        assert found is not None
        assert found[0] == expected
    else:
        assert found == expected


def test_httpoxy() -> None:
    """Under CGI the upper-case HTTP_PROXY is a request header, and is ignored; no other is."""
    cgi = {"REQUEST_METHOD": "GET"}
    assert named({"HTTP_PROXY": "http://evil:1", **cgi}) is None
    assert named({"HTTP_PROXY": "http://evil:1", "ALL_PROXY": "http://b:1", **cgi}) == (
        "http://b:1",
        "ALL_PROXY",
    )
    assert named({"http_proxy": "http://a:1", **cgi}) == ("http://a:1", "http_proxy")
    assert named({"HTTPS_PROXY": "http://a:1", **cgi}, "https") == ("http://a:1", "HTTPS_PROXY")


def test_truth() -> None:
    """The object is false exactly where no proxy is named, whatever no_proxy says."""
    assert not EnvironmentProxies.from_environ({})
    assert not EnvironmentProxies.from_environ({"no_proxy": "*"})
    assert EnvironmentProxies.from_environ({"https_proxy": "a"})


def test_environ_is_read_once() -> None:
    """Later changes of the environment do not show."""
    environ = {"http_proxy": PROXY}
    proxies = EnvironmentProxies.from_environ(environ)
    environ.clear()
    assert proxies.proxy_for("http", "a", 80) == EnvironmentProxy(PROXY, "http_proxy")


def test_reprs_hide_credentials() -> None:
    """No repr shows a proxy's URL."""
    proxies = EnvironmentProxies.from_environ({"http_proxy": "http://u:secret@a:1"})
    assert repr(proxies) == "<EnvironmentProxies ['http_proxy']>"
    assert repr(proxies.proxy_for("http", "x", 1)) == "EnvironmentProxy(variable='http_proxy')"


def test_no_proxy_lower_case_first() -> None:
    """no_proxy counts before NO_PROXY; an empty one is not set."""
    both = {"http_proxy": PROXY, "no_proxy": "other.org", "NO_PROXY": "example.com"}
    assert named(both) is not None
    assert named({"http_proxy": PROXY, "NO_PROXY": "example.com"}) is None
    assert named({**both, "no_proxy": ""}) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("*", "anything", 1),
        ("x.org, *", "1.2.3.4", 1),
        ("*", "::1", 1),
        ("*:8080", "a.com", 8080),
        ("example.com", "example.com", 80),
        ("example.com", "www.example.com", 80),
        ("example.com", "a.b.example.com", 443),
        (".example.com", "example.com", 80),
        (".example.com", "www.example.com", 80),
        ("*.example.com", "www.example.com", 80),
        ("EXAMPLE.Com", "example.com", 80),
        ("example.com.", "example.com", 80),
        ("example.com", "example.com.", 80),
        ("a.org,example.com", "example.com", 80),
        ("a.org example.com", "example.com", 80),
        (" a.org ,\texample.com ,, ", "example.com", 80),
        ("localhost", "localhost", 80),
        ("under_score.local", "under_score.local", 80),
        ("example.com:8080", "www.example.com", 8080),
        ("example.com:80,example.com:81", "example.com", 81),
        ("bücher.example", "xn--bcher-kva.example", 80),
        ("10.0.0.1", "10.0.0.1", 80),
        ("10.0.0.1:8080", "10.0.0.1", 8080),
        ("10.0.0.0/8", "10.255.0.1", 80),
        ("10.1.2.3/8", "10.255.0.1", 80),
        ("192.168.1.0/255.255.255.0", "192.168.1.9", 80),
        ("0.0.0.0/0", "8.8.8.8", 80),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 80),
        ("::1", "::1", 80),
        ("[::1]", "::1", 80),
        ("[::1]:8080", "::1", 8080),
        ("0:0:0:0:0:0:0:1", "::1", 80),
        ("FD00::/8", "fd12::1", 80),
        ("[fd00::]:80,fd00::/8", "fd00::1", 80),
        ("[fd00::/8]:80", "fd00::1", 80),
        ("fe80::1", "fe80::1%eth0", 80),
        ("fe80::1%eth0", "fe80::1%eth0", 80),
        ("fe80::1%eth0", "fe80::1%25eth0", 80),
        ("fe80::/10", "fe80::1%25eth0", 80),
    ],
)
def test_exempt(no_proxy: str, host: str, port: int) -> None:
    """Names, suffixes, ports, addresses and blocks exempt what they say."""
    assert exempt(no_proxy, host, port)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("", "example.com", 80),
        ("example.com", "notexample.com", 80),
        ("example.com", "example.com.evil.org", 80),
        ("www.example.com", "example.com", 80),
        ("example.com:8080", "example.com", 80),
        ("*:8080", "example.com", 80),
        ("10.0.0.1:8080", "10.0.0.1", 80),
        ("[::1]:8080", "::1", 80),
        ("10.0.0.0/8", "11.0.0.1", 80),
        ("fd00::/8", "fe00::1", 80),
        ("10.0.0.0/8", "10.0.0.1.example.com", 80),
        ("0.0.1", "127.0.0.1", 80),  # of an address no suffix counts
        ("1", "127.0.0.1", 80),
        ("::/0", "8.8.8.8", 80),
        ("fe80::1%eth0", "fe80::1%eth1", 80),
        ("fe80::1%eth0", "fe80::1", 80),
        # CVE-2025-22870: a zone is no part of a name
        ("*.example.com", "::1%25.example.com", 80),
        ("example.com", "::1%.example.com", 80),
        ("example.com", "fe80::zz%.example.com", 80),
    ],
)
def test_not_exempt(no_proxy: str, host: str, port: int) -> None:
    """Nothing else is exempted."""
    assert not exempt(no_proxy, host, port)


@pytest.mark.parametrize(
    "entry",
    [
        *("[", "]", "[]", "[]:80", "[::1", "::1]", "[::1]x", "[::1]:", "[::1]:x", "[1.2.3.4]"),
        *("host:", "host:x", "host:99999", "host:999999999999", "host:²", ":80", ":"),
        *(
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/x",
            "/8",
            "300.1.1.1",
            "1.2.3",
            "::g",
            "fd00::/129",
        ),
        *("10.0.0.0/8/8", "http://example.com", "exa*mple.com", "192.168.*", "**", ".", "..", "%"),
        *("a..b", "xn--\udcff", "\N{SNOWMAN}" * 80, "é.", "fe80::%eth0/10/", "10.0.0.1%eth0/8"),
    ],
)
def test_malformed_entries_are_skipped(entry: str) -> None:
    """An entry that makes no sense is skipped, and those around it count."""
    no_proxy = f"first.org,{entry},last.org"
    assert exempt(no_proxy, "first.org")
    assert exempt(no_proxy, "last.org")
    assert not exempt(no_proxy, "example.com")
    assert not exempt(no_proxy, "8.8.8.8")


def test_answers_are_kept_apart_and_bounded() -> None:
    """Remembered answers depend on scheme, host and port, and their number has a bound."""
    environ = {"all_proxy": PROXY, "no_proxy": "a.org:81"}
    proxies = EnvironmentProxies.from_environ(environ)
    for _ in range(2):
        assert proxies.proxy_for("http", "a.org", 80) is not None
        assert proxies.proxy_for("http", "a.org", 81) is None
        assert proxies.proxy_for("https", "b.org", 81) is not None
    for number in range(5000):
        proxies.proxy_for("http", f"{number}.org", 80)
    assert len(proxies._answers) <= 1024
