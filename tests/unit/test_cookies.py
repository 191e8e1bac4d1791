"""Cookies between exchanges: who may set what, and who gets it back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from http.cookiejar import CookieJar, DefaultCookiePolicy, MozillaCookieJar
from pathlib import Path
from typing import Any

import pytest

from whimbrel._policy.cookies import cookie_header, make_jar, store_cookies


@pytest.fixture(params=["ours", "stock"])
def jar(request: pytest.FixtureRequest) -> CookieJar:
    """The jar that cookies=True makes, and one that a program may bring along."""
    made = make_jar(True) if request.param == "ours" else make_jar(CookieJar())
    assert made is not None
    return made


def header(jar: CookieJar, url: str) -> str | None:
    return cookie_header(jar, url, is_secure=url.startswith("https:"))


def stored_then_sent(jar: CookieJar, url: str, set_cookie: str, to: str) -> str | None:
    store_cookies(jar, url, [set_cookie])
    return header(jar, to)


HTTP = "http://www.example.com/"
HTTPS = "https://www.example.com/"


@pytest.mark.parametrize(
    ("url", "set_cookie", "to", "expected"),
    [
        (HTTP, "a=b", HTTP, "a=b"),
        (HTTP, "a=b", HTTPS, "a=b"),
        (HTTP, "a=b", "http://WWW.Example.COM/x", "a=b"),
        (HTTP, "a=b", "http://user:pw@www.example.com/", "a=b"),
        ("http://user:pw@www.example.com/", "a=b", HTTP, "a=b"),
        (HTTP, "a=b", "http://www.example.com:8080/", "a=b"),  # ports do not matter
        (HTTP, "a=b", "http://www.example.com./", "a=b"),
        (HTTP, "a=b", "http://www.example.com?q=/", "a=b"),
        (HTTP, 'a="b c"', HTTP, 'a="b c"'),
        (HTTP, " a = b=c ; Path=/", HTTP, "a=b=c"),
        (HTTP, "a=", HTTP, "a="),
        (HTTP, "a=\xe9", HTTP, "a=\xe9"),
        # host-only
        (HTTP, "a=b", "http://example.com/", None),
        (HTTP, "a=b", "http://x.www.example.com/", None),
        (HTTP, "a=b", "http://other.org/", None),
        (HTTP, "a=b; Domain=", "http://x.www.example.com/", None),
        # Domain
        (HTTP, "a=b; Domain=example.com", "http://example.com/", "a=b"),
        (HTTP, "a=b; Domain=example.com", "http://x.y.example.com/", "a=b"),
        (HTTP, "a=b; domain = .EXAMPLE.com.", "http://x.example.com/", "a=b"),
        (HTTP, "a=b; Domain=www.example.com", "http://x.www.example.com/", "a=b"),
        (HTTP, "a=b; Domain=example.com", "http://notexample.com/", None),
        (HTTP, "a=b; Domain=example.com; Domain=other.org", HTTP, None),  # the last counts
        (HTTP, "a=b; Domain=x.www.example.com", HTTP, None),
        (HTTP, "a=b; Domain=other.org", "http://other.org/", None),
        (HTTP, "a=b; Domain=ample.com", HTTP, None),
        # public suffixes
        (HTTP, "a=b; Domain=com", HTTP, None),
        (HTTP, "a=b; Domain=.com", HTTP, None),
        (HTTP, "a=b; Domain=CoM.", HTTP, None),
        ("http://www.example.com./", "a=b; Domain=com", HTTP, None),
        # IP addresses
        ("http://127.0.0.1:81/", "a=b", "http://127.0.0.1:82/", "a=b"),
        ("http://127.0.0.1/", "a=b; Domain=127.0.0.1", "http://127.0.0.1/", "a=b"),
        ("http://127.0.0.1/", "a=b; Domain=0.0.1", "http://127.0.0.1/", None),
        ("http://127.0.0.1/", "a=b; Domain=.0.0.1", "http://10.0.0.1/", None),
        ("http://[::1]:81/", "a=b", "http://[::1]/", "a=b"),
        ("http://[::1]/", "a=b; Domain=[::1]", "http://[::1]/", "a=b"),
        ("http://[::1]/", "a=b", "http://[::2]/", None),
        # single labels
        ("http://localhost:81/", "a=b", "http://localhost:82/", "a=b"),
        ("http://localhost/", "a=b; Domain=localhost", "http://localhost/", "a=b"),
        ("http://localhost/", "a=b; Domain=localhost", "http://x.localhost/", None),
        ("http://x.localhost/", "a=b; Domain=localhost", "http://x.localhost/", None),
        # Path
        ("http://e.com/x/y", "a=b", "http://e.com/x/z", "a=b"),
        ("http://e.com/x/y", "a=b", "http://e.com/x", "a=b"),
        ("http://e.com/x/y", "a=b", "http://e.com/", None),
        ("http://e.com/x/y", "a=b", "http://e.com/xx", None),
        ("http://e.com/x", "a=b", "http://e.com/", "a=b"),
        ("http://e.com/", "a=b; Path=/x", "http://e.com/x", "a=b"),
        ("http://e.com/", "a=b; Path=/x", "http://e.com/x?q", "a=b"),
        ("http://e.com/", "a=b; Path=/x", "http://e.com/x/y", "a=b"),
        ("http://e.com/", "a=b; Path=/x/", "http://e.com/x/y", "a=b"),
        ("http://e.com/", "a=b; Path=/x", "http://e.com/xx", None),
        ("http://e.com/", "a=b; Path=/x/", "http://e.com/x", None),
        ("http://e.com/x/y", "a=b; Path=nonsense", "http://e.com/x/", "a=b"),
        # Secure
        (HTTPS, "a=b; Secure", HTTPS, "a=b"),
        (HTTPS, "a=b; secure", HTTP, None),
        (HTTP, "a=b; Secure", HTTPS, None),
        (HTTP, "__Secure-a=b", HTTP, None),
        (HTTPS, "__Secure-a=b; Secure", HTTPS, "__Secure-a=b"),
        (HTTPS, "__Host-a=b; Secure; Path=/", HTTPS, "__Host-a=b"),
        (HTTPS, "__Host-a=b; Secure; Path=/x", HTTPS + "x", None),
        (HTTPS, "__host-a=b; Secure; Path=/; Domain=www.example.com", HTTPS, None),
        # expiry
        (HTTP, "a=b; Max-Age=100", HTTP, "a=b"),
        (HTTP, "a=b; Max-Age=0", HTTP, None),
        (HTTP, "a=b; Max-Age=-1", HTTP, None),
        (HTTP, "a=b; Max-Age=" + "9" * 1000, HTTP, "a=b"),
        (HTTP, "a=b; Max-Age=nonsense", HTTP, "a=b"),
        (HTTP, "a=b; Expires=Wed, 01 Jan 2200 00:00:00 GMT", HTTP, "a=b"),
        (HTTP, "a=b; Expires=Thu, 01-Jan-1970 00:00:01 GMT", HTTP, None),
        (HTTP, "a=b; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=9", HTTP, "a=b"),
        (HTTP, "a=b; Expires=nonsense", HTTP, "a=b"),
        # malformed
        *((HTTP, line, HTTP, None) for line in ("", ";", "a", "=b", " =b", "a; b=c", "; a=b")),
        *((HTTP, line, HTTP, None) for line in ("a=b\r\nX: y", "a\0=b", "a=b; Path=/\x7f")),
        (HTTP, "a=b;;;=;HttpOnly;unknown=x", HTTP, "a=b"),
        (HTTP, "a=" + "b" * 4096, HTTP, None),
        (HTTP, "a=b; Path=/" + "x" * 2000, HTTP, "a=b"),  # too long an attribute is ignored
    ],
)
def test_set_and_sent(
    jar: CookieJar, url: str, set_cookie: str, to: str, expected: str | None
) -> None:
    """A cookie goes back to those to whom RFC 6265 gives it, and to nobody else."""
    assert stored_then_sent(jar, url, set_cookie, to) == expected


def test_two_level_public_suffix() -> None:
    """The jar that cookies=True makes refuses cookies for co.uk and the like."""
    jar = make_jar(True)
    assert jar is not None
    url = "http://www.example.co.uk/"
    assert stored_then_sent(jar, url, "a=b; Domain=co.uk", url) is None
    assert stored_then_sent(jar, url, "a=b; Domain=example.co.uk", url) == "a=b"


def test_replaced_deleted_and_ordered(jar: CookieJar) -> None:
    """A later cookie replaces, one with a past date deletes, longer paths are sent first."""
    url = "http://e.com/x/"
    store_cookies(jar, url, ["root=1; Path=/", "deep=1; Path=/x", "root=2; Path=/"])
    assert header(jar, url) == "deep=1; root=2"
    store_cookies(jar, url, ["deep=; Path=/x; Max-Age=0", "never=1; Max-Age=0"])
    assert header(jar, url) == "root=2"


def test_nobody_deletes_the_cookies_of_others(jar: CookieJar) -> None:
    """A past date deletes only what the same host could have set."""
    store_cookies(jar, "https://e.com/", ["a=b; Domain=e.com; Path=/"])
    for url in ("https://evil.org/", "https://evile.com/"):
        store_cookies(jar, url, ["a=; Domain=e.com; Path=/; Max-Age=0"])
    assert header(jar, "https://e.com/") == "a=b"


def test_expires_while_in_the_jar(jar: CookieJar, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie whose time has come is no longer sent, and leaves the jar at the next response."""
    store_cookies(jar, HTTP, ["a=b; Max-Age=100", "c=d"])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert header(jar, HTTP) == "c=d"
    store_cookies(jar, HTTP, ["e=f"])
    assert {cookie.name for cookie in jar} == {"c", "e"}


def test_count_is_bounded(jar: CookieJar) -> None:
    """Of one response 180 cookies count, and 150 or 8,190 bytes go into one request."""
    store_cookies(jar, HTTP, [f"c{number}=x" for number in range(1000)])
    assert len(jar) == 180
    sent = header(jar, HTTP)
    assert sent is not None
    assert sent.count(";") == 149
    store_cookies(jar, "http://big.org/", [f"c{number}={'x' * 1000}" for number in range(20)])
    sent = header(jar, "http://big.org/")
    assert sent is not None
    assert 7000 < len(sent) <= 8190


def test_ip_domain_put_in_by_hand(jar: CookieJar) -> None:
    """Even a cookie that a program stored for a part of an address is sent to no address."""
    store_cookies(jar, "http://x.0.1/", ["a=b; Domain=0.1"])
    assert len(jar) == 1
    assert header(jar, "http://127.0.0.1/") is None


def test_policy_of_the_jar_is_heard() -> None:
    """The policy of a jar that a program brings may refuse to store and to send."""
    jar = CookieJar(DefaultCookiePolicy(blocked_domains=["e.com"]))
    store_cookies(jar, "http://e.com/", ["a=b"])
    assert len(jar) == 0
    store_cookies(jar, "http://f.com/", ["a=b"])
    assert header(jar, "http://f.com/") == "a=b"
    jar.set_policy(DefaultCookiePolicy(blocked_domains=["f.com"]))
    assert header(jar, "http://f.com/") is None


def test_saving_keeps_host_only(tmp_path: Path) -> None:
    """Host-only cookies are still host-only after a jar was saved and loaded."""
    path = str(tmp_path / "cookies.txt")
    jar = MozillaCookieJar(path)
    store_cookies(jar, "http://e.com/", ["a=b; Max-Age=999", "c=d; Max-Age=999; Domain=e.com"])
    jar.save()
    loaded = MozillaCookieJar(path)
    loaded.load()
    assert header(loaded, "http://e.com/") in ("a=b; c=d", "c=d; a=b")
    assert header(loaded, "http://x.e.com/") == "c=d"


def test_jar_is_locked_while_it_is_read() -> None:
    """While a header is made, no other thread can change the jar under the iteration."""
    could_lock: list[bool] = []

    class Jar(CookieJar):
        def __iter__(self) -> Any:
            lock = self._cookies_lock  # type: ignore[attr-defined]
            thread = threading.Thread(
                target=lambda: could_lock.append(lock.acquire(blocking=False))
            )
            thread.start()
            thread.join()
            return super().__iter__()

    jar = Jar()
    store_cookies(jar, HTTP, ["a=b"])
    could_lock.clear()
    assert header(jar, HTTP) == "a=b"
    assert could_lock == [False]


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://127.0.0.1/", "0.0.1"),
        ("http://127.0.0.1/", "127.0.0.2"),
        ("http://[::ffff:10.0.0.1]/", "0.0.1"),
        (HTTP, "com"),
        (HTTP, "other.org"),
        ("http://localhost/", "local"),
    ],
)
def test_refused_domains_are_not_stored(jar: CookieJar, url: str, domain: str) -> None:
    """A domain that is not the host's to set does not even enter the jar."""
    store_cookies(jar, url, [f"a=b; Domain={domain}"])
    assert list(jar) == []


def test_url_without_host(jar: CookieJar) -> None:
    """A URL without a host sets and gets nothing."""
    store_cookies(jar, "http:///x", ["a=b"])
    assert len(jar) == 0
    assert header(jar, "http:///x") is None


def test_make_jar() -> None:
    """None and False are no jar, True a new one, and a jar, even an empty one, is itself."""
    assert make_jar(None) is None
    assert make_jar(False) is None
    assert isinstance(make_jar(True), CookieJar)
    assert make_jar(True) is not make_jar(True)
    own = CookieJar()
    assert make_jar(own) is own


@pytest.mark.parametrize("value", [{"session": "secret"}, "secret", 1, 0, "", object()])
def test_make_jar_refuses(value: Any) -> None:
    """Anything else is a TypeError naming the argument and the type, not what may be secret."""
    expected = f"cookies must be .* not {type(value).__name__}$"
    with pytest.raises(TypeError, match=expected) as caught:
        make_jar(value)
    assert "secret" not in str(caught.value)


def test_cookiejar_is_imported_only_when_used() -> None:
    """Importing the module, and a client without cookies, do not load http.cookiejar."""
    code = (
        "import sys; from whimbrel._policy.cookies import make_jar; make_jar(None);"
        "assert 'http.cookiejar' not in sys.modules; make_jar(True);"
        "assert 'http.cookiejar' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
