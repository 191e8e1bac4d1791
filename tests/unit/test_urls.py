"""One URL parser: what is checked is what libcurl connects to, and the rest is refused."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel._policy import urls
from whimbrel._policy.urls import check_text, normalise_host, parse_url, redact
from whimbrel.httpclient import HTTPProxyError
from whimbrel.testing.scripted import Peer, ScriptedServer, canned, ok

# The URL, and the host that is meant; None where it is refused.
HOSTILE: list[tuple[str, str | None]] = [
    # Nothing special.
    ("http://example.com/", "example.com"),
    ("HTTP://EXAMPLE.COM/", "example.com"),
    ("http://example.com", "example.com"),
    ("http://example.com?q", "example.com"),
    ("http://example.com#f", "example.com"),
    (" http://example.com/ ", "example.com"),
    ("http://example.com./", "example.com."),
    ("http://a_b.example/", "a_b.example"),
    ("http://-a.example/", "-a.example"),
    ("http://a~b.example/", "a~b.example"),
    # User information that looks like a host, and hosts that look like user information.
    ("http://good.example@evil.example/", "evil.example"),
    ("http://good.example:80@evil.example/", "evil.example"),
    ("http://good.example:80@evil.example:81/", "evil.example"),
    ("http://a@b@evil.example/", "evil.example"),
    ("http://user:p%40ss@evil.example/", "evil.example"),
    ("http://good.example%40evil.example/", None),
    ("http://good.example#@evil.example/", "good.example"),
    ("http://good.example?@evil.example/", "good.example"),
    ("http://good.example/@evil.example/", "good.example"),
    ("http://good.example\\@evil.example/", "evil.example"),
    ("http://good.example\\.evil.example/", None),
    ("http://good.example;@evil.example/", "evil.example"),
    ("http://good.example;evil.example/", None),
    ("http://good.example,evil.example/", None),
    ("http://good.example&evil.example/", None),
    ("http://@good.example/", "good.example"),
    ("http://:@good.example/", "good.example"),
    ("http://[::1]@evil.example/", "evil.example"),
    ("http://evil.example@[::1]/", "::1"),
    # Slashes.
    ("http:/good.example/", None),
    ("http:good.example/", None),
    ("http:///good.example/", None),
    ("http:////good.example/", None),
    ("http:\\\\good.example\\", None),
    ("//good.example/", None),
    ("/path", None),
    ("good.example", None),
    ("good.example:80/x", None),
    ("http://good.example//evil.example/", "good.example"),
    ("http://good.example/\\evil.example", "good.example"),
    ("http://good.example\\evil.example", None),
    # No host at all.
    ("", None),
    ("http://", None),
    ("http:///", None),
    ("http://:80/", None),
    ("http://user@/", None),
    ("http://?q", None),
    ("http://./", None),
    ("http://../", None),
    ("http://a..b/", None),
    ("http://.example/", None),
    # Bytes that split lines, requests or strings.
    ("http://good.example\r\nHost: evil.example/", None),
    ("http://good.example/\r\nX: y", None),
    ("http://good.example/\n", None),
    ("http://good.example\x00.evil.example/", None),
    ("http://good.example/\x00", None),
    ("http://good.example\t/", None),
    ("ht\ntp://good.example/", None),
    ("http://good.example\x7f/", None),
    ("http://u%0d%0a@good.example/", None),
    ("http://u:%00@good.example/", None),
    ("http://good example/", None),
    ("http://good.example%20/", None),
    ("http://good.example%00.evil.example/", None),
    ("http://good%2eexample/", None),
    ("http://good.example%2f.evil.example/", None),
    ("http://good.example%0d%0a/", None),
    ("http://*.example/", None),
    ("http://<good.example>/", None),
    ("http://good.example|x/", None),
    ("http://good.example^x/", None),
    ("http://good.example`x/", None),
    ("http://{good,evil}.example/", None),
    ("http://good[1-3].example/", None),
    # Ports.
    ("http://good.example:/", "good.example"),
    ("http://good.example:0/", "good.example"),
    ("http://good.example:65535/", "good.example"),
    ("http://good.example:65536/", None),
    ("http://good.example:-1/", None),
    ("http://good.example:+80/", None),
    ("http://good.example: 80/", None),
    ("http://good.example:8_0/", None),
    ("http://good.example:0x50/", None),
    ("http://good.example:٨٠/", None),
    ("http://good.example:80:81/", None),
    ("http://good.example:00000000000000000080/", "good.example"),
    ("http://good.example:80@81/", "0.0.0.81"),
    ("http://good.example:99999999999999999999/", None),
    # Numbers are addresses, in every notation, or nothing.
    ("http://127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1./", "127.0.0.1"),
    ("http://127.1/", "127.0.0.1"),
    ("http://127.0.1/", "127.0.0.1"),
    ("http://2130706433/", "127.0.0.1"),
    ("http://0x7f000001/", "127.0.0.1"),
    ("http://0X7F.1/", "127.0.0.1"),
    ("http://0177.0.0.1/", "127.0.0.1"),
    ("http://017700000001/", "127.0.0.1"),
    ("http://0x7f.0x0.0x0.0x1/", "127.0.0.1"),
    ("http://0/", "0.0.0.0"),
    ("http://127.0.0.1.example/", "127.0.0.1.example"),
    ("http://256.1.1.1/", None),
    ("http://127.0.0.256/", None),
    ("http://127.65536/", "127.1.0.0"),
    ("http://127.16777216/", None),
    ("http://4294967296/", None),
    ("http://1.2.3.4.5/", None),
    ("http://08/", None),
    ("http://0x/", None),
    ("http://example.0x1/", None),
    ("http://example.1/", None),
    ("http://1..2/", None),
    ("http://127.0.0.1%2f/", None),
    ("http://\uff11\uff12\uff17.0.0.1/", "127.0.0.1"),
    ("http://①②⑦.0.0.1/", "127.0.0.1"),
    # IPv6.
    ("http://[::1]/", "::1"),
    ("http://[0:0:0:0:0:0:0:1]:80/", "::1"),
    ("http://[::ffff:127.0.0.1]/", "::ffff:7f00:1"),
    ("http://[::FFFF:7F00:1]/", "::ffff:7f00:1"),
    ("http://[fe80::1%25lo]/", "fe80::1%25lo"),
    ("http://[fe80::1%lo]/", "fe80::1%25lo"),
    ("http://[fe80::1%25]/", "fe80::1%2525"),
    ("http://[fe80::1%]/", None),
    ("http://[fe80::1%25l%6f]/", None),
    ("http://[fe80::1%25lo]@evil.example]/", None),
    ("http://[fe80::1%25a/b]/", None),
    ("http://::1/", None),
    ("http://[::1/", None),
    ("http://::1]/", None),
    ("http://[]/", None),
    ("http://[::1]x/", None),
    ("http://[::1]:x/", None),
    ("http://[::1].evil.example/", None),
    ("http://[127.0.0.1]/", None),
    ("http://[good.example]/", None),
    ("http://[v1.x]/", None),
    ("http://[::1%00]/", "::1%2500"),
    ("http://[1:2:3:4:5:6:7:8:9]/", None),
    # Names beyond ASCII.
    ("http://bücher.example/", "xn--bcher-kva.example"),
    ("http://BÜCHER.example/", "xn--bcher-kva.example"),
    ("http://bu\u0308cher.example/", "xn--bcher-kva.example"),
    ("http://straße.example/", "xn--strae-oqa.example"),
    ("http://日本.example/", "xn--wgv71a.example"),
    ("http://good。example/", "good.example"),
    ("http://good\uff0eexample/", "good.example"),
    ("http://good\uff61example/", "good.example"),
    ("http://\uff47\uff4f\uff4f\uff44.example/", "good.example"),
    ("http://go\u00adod.example/", "good.example"),
    ("http://good.example\uff0fevil.example/", None),
    ("http://good.example\uff20evil.example/", None),
    ("http://good.example\uff1a80/", None),
    ("http://good.example\uff03.evil.example/", None),
    ("http://good.example\uff1f.evil.example/", None),
    ("http://good.example\u2100.evil.example/", None),
    ("http://\u202egood.example/", None),
    ("http://go\u00a0od.example/", None),
    ("http://\ud800.example/", None),
    ("http://" + "a" * 254 + "/", None),
    ("http://" + "ü" * 64 + ".example/", None),
    # Other schemes.
    ("file:///etc/passwd", None),
    ("ftp://good.example/", None),
    ("gopher://good.example/", None),
    ("javascript:alert(1)", None),
    ("ws://good.example/", None),
    ("https+unix://good.example/", None),
    ("://good.example/", None),
    ("1http://good.example/", None),
]

TAKEN = [(url, host) for url, host in HOSTILE if host is not None]
REFUSED = [url for url, host in HOSTILE if host is None]


def test_the_tables_are_long_enough() -> None:
    assert len(HOSTILE) >= 60
    assert len(TAKEN) >= 30
    assert len(dict(HOSTILE)) == len(HOSTILE)


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        parse_url(url)


@pytest.mark.parametrize(("url", "host"), TAKEN)
def test_our_host(url: str, host: str) -> None:
    assert parse_url(url).host == host


class Sought:
    """A SOCKS5 proxy that notes where libcurl wants to go (RFC 1928), and refuses."""

    def __init__(self) -> None:
        self.destinations: list[tuple[str, int]] = []

    async def __call__(self, peer: Peer) -> None:
        _, methods = await peer.read_exactly(2)
        await peer.read_exactly(methods)
        await peer.send(b"\x05\x00")
        kind = (await peer.read_exactly(4))[3]
        if kind == 3:
            (length,) = await peer.read_exactly(1)
            host = (await peer.read_exactly(length)).decode("ascii")
        else:
            size, family = (4, socket.AF_INET) if kind == 1 else (16, socket.AF_INET6)
            host = socket.inet_ntop(family, await peer.read_exactly(size))
        port = int.from_bytes(await peer.read_exactly(2), "big")
        self.destinations.append((host, port))
        await peer.send(b"\x05\x02\x00\x01" + bytes(6))


async def test_libcurl_connects_to_our_host(make_client: Callable[..., Any]) -> None:
    """Each URL that is taken, http and https: what SOCKS is asked for is what was checked."""
    client = make_client(max_clients=4)
    urls = [url.strip(" ") for url, _ in TAKEN]
    urls += [f"https{url[4:]}" for url in urls]
    sought = Sought()
    async with ScriptedServer(sought) as server:
        for url in urls:
            with pytest.raises(HTTPProxyError):
                await client.fetch(url, proxy=f"socks5h://{server.address}")
    for url, found in zip(urls, sought.destinations, strict=True):
        parsed = parse_url(url)
        # A zone is no part of the address, and ::ffff:1.2.3.4 is written so by inet_ntop.
        expected: Any = parsed.host.partition("%")[0]
        if ":" in expected:
            expected = ipaddress.ip_address(expected)
            assert (ipaddress.ip_address(found[0]), found[1]) == (expected, parsed.port), url
        else:
            assert found == (expected, parsed.port), url


def without_zone(netloc: str) -> str:
    return re.sub(r"%[^\]]*", "", netloc)


async def test_the_wire_names_our_host(make_client: Callable[..., Any]) -> None:
    """Through an http proxy: the absolute form and Host name what was checked."""
    client = make_client()
    async with ScriptedServer(canned(ok())) as proxy:
        for url, _ in TAKEN:
            await client.fetch(url, proxy=proxy.url())
            parsed = parse_url(url)
            request = proxy.requests[-1]
            # libcurl leaves the zone out of Host (RFC 6874 section 4).
            assert request.get("Host") == without_zone(parsed.netloc), url
            authority = request.target.removeprefix("http://").partition("/")[0]
            assert without_zone(authority) == without_zone(parsed.netloc), url


def test_both_spellings_of_a_zone_are_one() -> None:
    assert parse_url("http://[fe80::1%lo]/") == parse_url("http://[fe80::1%25lo]/")


# -- the parts


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "/"),
        ("http://h?q", "/?q"),
        ("http://h/?", "/?"),
        ("http://h/a/../b/./c", "/a/../b/./c"),
        ("http://h/%2F%2e%41", "/%2F%2e%41"),
        ("http://h/a b", "/a%20b"),
        ("http://h/é?ü=ß#ö", "/%C3%A9?%C3%BC=%C3%9F"),
        ("http://h/%", "/%"),
        ('http://h/<>"{}|\\^`', '/<>"{}|\\^`'),
        ("http://h//", "//"),
    ],
)
def test_targets(url: str, target: str) -> None:
    parsed = parse_url(url)
    assert parsed.target == target
    assert parsed.href == f"http://h{target}"


@pytest.mark.parametrize(
    ("url", "netloc", "port"),
    [
        ("http://h:80/", "h", 80),
        ("https://h:443/", "h", 443),
        ("http://h:443/", "h:443", 443),
        ("https://h:80/", "h:80", 80),
        ("http://h:0080/", "h", 80),
        ("http://h:0/", "h:0", 0),
        ("http://[::1]:8080/", "[::1]:8080", 8080),
        ("https://[::1]/", "[::1]", 443),
    ],
)
def test_ports(url: str, netloc: str, port: int) -> None:
    parsed = parse_url(url)
    assert (parsed.netloc, parsed.port) == (netloc, port)
    assert parsed.origin == (parsed.scheme, parsed.host, port)


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("http://h/", None, None),
        ("http://@h/", "", None),
        ("http://u@h/", "u", None),
        ("http://u:@h/", "u", ""),
        ("http://u:p:q@h/", "u", "p:q"),
        ("http://:p@h/", "", "p"),
        ("http://u%3A:p%40%2F@h/", "u:", "p@/"),
        ("http://%C3%BC:p@h/", "ü", "p"),
        ("http://u@x:p@h/", "u@x", "p"),
    ],
)
def test_user_information(url: str, username: str | None, password: str | None) -> None:
    parsed = parse_url(url)
    assert (parsed.username, parsed.password) == (username, password)
    assert parsed.href == "http://h/"


@pytest.mark.parametrize("control", [*map(chr, range(0x20)), "\x7f"])
def test_control_bytes_everywhere(control: str) -> None:
    for url in (f"{control}http://h/", f"http://h{control}/", f"http://h/{control}"):
        with pytest.raises(ValueError, match=r"control character .* at position") as caught:
            parse_url(url)
        assert control not in str(caught.value)
    with pytest.raises(ValueError, match="user name"):
        parse_url(f"http://a%{ord(control):02x}b@h/")
    with pytest.raises(ValueError, match="password"):
        parse_url(f"http://a:%{ord(control):02x}@h/")


@pytest.mark.parametrize("value", [None, b"http://h/", 1])
def test_not_a_str(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a str"):
        parse_url(value)


@pytest.mark.parametrize(("url", "field"), [("http://h:x/", "proxy"), ("ftp://h/", "redirect")])
def test_errors_name_the_field(url: str, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        parse_url(url, field)


ESCAPE = "; percent-encode '/', '?', '#' and '@' in a user name or password"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/hello", "url is not an absolute URL: begin '/hello' with http:// or https://"),
        ("http:///x", "url has no host: 'http:///x'"),
        ("http://user@/x", "url has no host"),
        ("http://h:x/", "url has an invalid port: use 0 to 65535, not 'x'"),
        ("http://h:65536/", "url has an invalid port: use 0 to 65535, not '65536'"),
        ("http://u:p/w@h/", f"url has an invalid port: use 0 to 65535{ESCAPE}"),
        (
            "/" + "x" * 500,
            f"url is not an absolute URL: begin '/{'x' * 79}...' with http:// or https://",
        ),
    ],
)
def test_messages_show_what_is_wrong(url: str, message: str) -> None:
    """Shortened if it is long, and not where it may be a password."""
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert str(caught.value) == message


def test_what_to_do_about_a_control_byte() -> None:
    """Percent-encoding is for URLs; elsewhere it would be another text."""
    for url in ("http://h/\n", "\nhttp://h/"):
        with pytest.raises(ValueError, match=r"; remove or percent-encode it$"):
            parse_url(url)
    with pytest.raises(ValueError, match=r"^token holds .* at position 1; remove it$"):
        check_text("token", "x\n")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2/x@h/",
        "http://user:hunter2#@h/",
        "http://user:hunter2?x@h/",
        "http://user:hunter2@h:x/",
        "user:hunter2@h",
        "http:user:hunter2@h",
        "http://user:hunter2@/",
        "http://user:hunter2@[::1/",
        "http://user:hunter2@h:99999/",
        "http://user:hunter2\\@h:/ü:x@",
    ],
)
def test_no_message_holds_a_password(url: str) -> None:
    try:
        shown = f"{parse_url(url)!r} {parse_url(url).href}"
    except ValueError as error:
        shown = str(error)
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("name", "host"),
    [("EXAMPLE", "example"), ("127.1", "127.0.0.1"), ("ü.example", "xn--tda.example")],
)
def test_normalise_host(name: str, host: str) -> None:
    assert normalise_host(name, "field") == host


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/", "http://h/"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("http://u:p@h/", "http://h/"),
        ("http://u@h:80/x?a=b@c", "http://h:80/x?a=b@c"),
        ("https://u:p@[::1]:80/", "https://[::1]:80/"),
        ("socks5h://u:p@h:1080", "socks5h://h:1080"),
        ("http://u:p/w@h/", "...@h/"),
        ("http://u:p#w@h/", "...@h/"),
        ("http://u:p?w@h/", "...@h/"),
        ("http://u:p@x@h/", "...@h/"),
        ("u:p@h", "...@h"),
        ("h", "h"),
        ("", ""),
        ("http://u:p@h/\nx", "http://h/\nx"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://short.test/",
        "http://short.test/a?b=c",
        "http://short.test/a#f",
        "http://short.test/a b",
        "http://short.test/\xe9",
        "http://short.test/a%2f../b",
        "http://short.test//c",
        "http://short.test",
        "http://short.test?x/y",
        "http://short.testx",
        "http://short.test:80/",
        "http://short.test:8080/x",
        "http://SHORT.test/",
        "HTTP://short.test/",
        " http://short.test/x ",
        "http://u:p@short.test/x",
        "http://127.1/x",
        "https://short.test/x",
        "https://[::1]:1/x",
    ],
)
def test_what_is_known_of_an_origin_changes_no_url(url: str) -> None:
    """All that stand for the same origin have been parsed before, and this one itself."""
    urls._origins.clear()
    expected = urls._parse_url(url, "url")
    for known in ("http://short.test/", "http://short.test:80/", "https://short.test/", url):
        urls.parse_url(known)
    assert urls._origins
    assert urls.parse_url(url) == expected


@pytest.mark.parametrize("tail", ["\0", "a\x7f", "a\r\nb", "\t"])
def test_a_known_origin_lets_no_control_byte_pass(tail: str) -> None:
    urls.parse_url("http://short.test/")
    with pytest.raises(ValueError, match="control character"):
        urls.parse_url(f"http://short.test/{tail}")


def test_origins_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_ORIGINS", 4)
    for number in range(20):
        urls.parse_url(f"http://{number}.test/")
        assert len(urls._origins) <= 4


def test_nothing_of_a_path_is_kept() -> None:
    urls._origins.clear()
    urls.parse_url("http://short.test/p?token=SECRET")
    assert urls._origins
    assert "SECRET" not in str(list(urls._origins.values()))
