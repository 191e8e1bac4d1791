"""The SOCKS handshakes, byte for byte, and every way in which a proxy says no (matrix 32)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from whimbrel._policy.proxies import Proxy, parse_proxy_url
from whimbrel._simple.socks import handshake
from whimbrel.httpclient import HTTPProxyError

HERE = b"\x7f\x00\x00\x01"
HERE6 = bytes(15) + b"\x01"
NAME = b"origin.test"
BOUND = b"\x01\x7f\x00\x00\x01\x00\x50"  # address type, address and port of a reply


def proxy(url: str) -> Proxy:
    return parse_proxy_url(url)


def play(
    proxy: Proxy, host: str, port: int, address: str | None, replies: bytes
) -> tuple[list[bytes], bytes]:
    """Run a handshake against a proxy that says `replies` and closes; return what was sent to it,
    and what of the replies was not read."""
    steps = handshake(proxy, host, port, address)
    sent: list[bytes] = []
    unread = replies
    step = next(steps)
    try:
        while True:
            if isinstance(step, bytes):
                sent.append(step)
                step = next(steps)
            elif len(unread) < step:
                step = steps.throw(EOFError())
            else:
                piece, unread = unread[:step], unread[step:]
                step = steps.send(piece)
    except StopIteration:
        return sent, unread


def refusal(url: str, replies: bytes, host: str = "127.0.0.1") -> HTTPProxyError:
    """The error of a handshake that fails."""
    given = proxy(url)
    with pytest.raises(HTTPProxyError) as caught:
        play(given, host, 80, host, replies)
    error = caught.value
    assert error.proxy == given.url
    assert error.proxy_code is None
    assert str(error).startswith(f"proxy {given.url}: ")
    assert error.retryable is (error.stage == "tunnel")
    return error


# -- what is sent

SOCKS5 = b"\x05\x00" + b"\x05\x00\x00" + BOUND
SOCKS4 = b"\x00\x5a\x00\x50" + HERE


@pytest.mark.parametrize(
    ("url", "host", "address", "replies", "sent"),
    [
        ("socks5h://p", "origin.test", None, SOCKS5, b"\x05\x01\x00\x03\x0b" + NAME + b"\x01\xbb"),
        ("socks5h://p", "127.0.0.1", None, SOCKS5, b"\x05\x01\x00\x01" + HERE + b"\x01\xbb"),
        ("socks5h://p", "::1", None, SOCKS5, b"\x05\x01\x00\x04" + HERE6 + b"\x01\xbb"),
        (
            "socks5://p",
            "origin.test",
            "127.0.0.1",
            SOCKS5,
            b"\x05\x01\x00\x01" + HERE + b"\x01\xbb",
        ),
        ("socks5://p", "origin.test", "::1", SOCKS5, b"\x05\x01\x00\x04" + HERE6 + b"\x01\xbb"),
        ("socks4://p", "origin.test", "127.0.0.1", SOCKS4, b"\x04\x01\x01\xbb" + HERE + b"\x00"),
        ("socks4://al%40:x@p", "h", "127.0.0.1", SOCKS4, b"\x04\x01\x01\xbb" + HERE + b"al@\x00"),
        ("socks4a://p", "127.0.0.1", None, SOCKS4, b"\x04\x01\x01\xbb" + HERE + b"\x00"),
        (
            "socks4a://bob@p",
            "origin.test",
            None,
            SOCKS4,
            b"\x04\x01\x01\xbb\x00\x00\x00\x01bob\x00" + NAME + b"\x00",
        ),
        ("socks4a://p", "::1", None, SOCKS4, b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00::1\x00"),
    ],
)
def test_requests(url: str, host: str, address: str | None, replies: bytes, sent: bytes) -> None:
    """Each scheme in its own bytes, with an address where there is one and a name elsewhere; what
    follows the reply is left alone."""
    log, unread = play(proxy(url), host, 443, address, replies + b"TLS")
    assert log[-1] == sent
    assert unread == b"TLS"
    if url.startswith("socks5"):
        assert log[0] == b"\x05\x01\x00"
    else:
        assert len(log) == 1


@pytest.mark.parametrize(
    "bound",
    [
        b"\x01" + HERE,
        b"\x04" + HERE6,
        b"\x03\x00",
        b"\x03\x0b" + NAME,
        b"\x03\xff" + b"x" * 255,
    ],
)
def test_bound_address_is_read_whole(bound: bytes) -> None:
    """Whatever address the proxy bound, not a byte of it is taken for the origin's."""
    replies = b"\x05\x00" + b"\x05\x00\x00" + bound + b"\x00\x50"
    assert play(proxy("socks5://p"), "h", 80, "127.0.0.1", replies + b"next")[1] == b"next"


def test_login() -> None:
    """RFC 1929, with what is not ASCII in UTF-8; the proxy may do without, too."""
    given = proxy("socks5h://jos%C3%A9:p%3Aw@p")
    log, _ = play(given, "127.0.0.1", 80, None, b"\x05\x02" + b"\x01\x00" + SOCKS5[2:])
    assert log[:2] == [b"\x05\x02\x00\x02", b"\x01\x05jos\xc3\xa9\x03p:w"]
    log, _ = play(given, "127.0.0.1", 80, None, SOCKS5)
    assert len(log) == 2


@pytest.mark.parametrize("version", [b"\x01", b"\x05", b"\x00"])
def test_version_of_the_login_reply_is_not_looked_at(version: bytes) -> None:
    """Some servers answer with the 5 of SOCKS instead of RFC 1929's 1."""
    replies = b"\x05\x02" + version + b"\x00" + SOCKS5[2:]
    assert play(proxy("socks5://u:p@p"), "h", 80, "127.0.0.1", replies)[1] == b""


# -- how proxies fail

AUTH, TUNNEL = "proxy-auth", "tunnel"
FAILURES = {
    # RFC 1928 section 6
    "reply 1": ("socks5", b"\x05\x00\x05\x01\x00", TUNNEL, "a general failure"),
    "reply 2": ("socks5", b"\x05\x00\x05\x02\x00", TUNNEL, "does not allow the connection"),
    "reply 3": ("socks5", b"\x05\x00\x05\x03\x00", TUNNEL, "cannot reach the network"),
    "reply 4": ("socks5", b"\x05\x00\x05\x04\x00", TUNNEL, "cannot reach the host"),
    "reply 5": ("socks5", b"\x05\x00\x05\x05\x00", TUNNEL, "the origin refused its connection"),
    "reply 6": ("socks5", b"\x05\x00\x05\x06\x00", TUNNEL, "TTL expired"),
    "reply 7": ("socks5", b"\x05\x00\x05\x07\x00", TUNNEL, "does not support the command"),
    "reply 8": ("socks5", b"\x05\x00\x05\x08\x00", TUNNEL, "does not support the address type"),
    "reply 9": ("socks5", b"\x05\x00\x05\x09\x00", TUNNEL, "it failed (code 9)"),
    "reply 255": ("socks5", b"\x05\x00\x05\xff\x00", TUNNEL, "it failed (code 255)"),
    "no method": ("socks5", b"\x05\xff", AUTH, "it wants a user name and password"),
    "login demanded": ("socks5", b"\x05\x02", AUTH, "it wants a user name and password"),
    "gssapi": ("socks5", b"\x05\x01", AUTH, "method 1, which was not offered"),
    "private method": ("socks5", b"\x05\x80", TUNNEL, "method 128, which was not offered"),
    "garbage": ("socks5", b"HTTP/1.1 400 Bad", TUNNEL, "it does not speak SOCKS5"),
    "garbage later": ("socks5", b"\x05\x00HTTP", TUNNEL, "it does not speak SOCKS5"),
    "address type": ("socks5", b"\x05\x00\x05\x00\x00\x02", TUNNEL, "address type (2)"),
    "no method with login": ("socks5 login", b"\x05\xff", AUTH, "method that was offered"),
    "wrong login": ("socks5 login", b"\x05\x02\x01\x01", AUTH, "it rejected the credentials"),
    "wrong user id 92": ("socks4", b"\x00\x5c", AUTH, "does not accept the user id"),
    "wrong user id 93": ("socks4", b"\x00\x5d", AUTH, "does not accept the user id"),
    "rejected": ("socks4", b"\x00\x5b", TUNNEL, "it rejected the request"),
    "unknown": ("socks4", b"\x00\x63", TUNNEL, "it failed (code 99)"),
    "garbage 4": ("socks4", b"HT", TUNNEL, "it does not speak SOCKS4"),
}
URLS = {"socks5 login": "socks5://alice:s3cret@p", "socks4": "socks4://alice@p"}


@pytest.mark.parametrize("case", FAILURES)
def test_matrix_32_refusals(case: str) -> None:
    """Matrix 32: each has its own words, and tells a login that may be changed from the rest."""
    kind, replies, stage, text = FAILURES[case]
    if kind == "socks4":
        replies += b"\x00\x50" + HERE
    elif len(replies) > 4:
        replies += BOUND
    error = refusal(URLS.get(kind, f"{kind}://p"), replies)
    assert error.stage == stage
    assert text in str(error)
    assert "s3cret" not in str(error) + repr(error)


def _short_replies() -> Iterator[tuple[str, bytes]]:
    whole = {
        "socks5://p": SOCKS5,
        "socks5h://p": b"\x05\x00" + b"\x05\x00\x00\x03\x0b" + NAME + b"\x00\x50",
        "socks5://u:p@p": b"\x05\x02\x01\x00" + SOCKS5[2:],
        "socks4://p": SOCKS4,
    }
    for url, replies in whole.items():
        for length in range(len(replies)):
            yield url, replies[:length]


@pytest.mark.parametrize(("url", "replies"), list(_short_replies()))
def test_matrix_32_end_within_a_reply(url: str, replies: bytes) -> None:
    """Matrix 32: a proxy that closes after any byte of its replies has closed the connection."""
    error = refusal(url, replies)
    assert error.stage == TUNNEL
    assert str(error).endswith(": it closed the connection")


@pytest.mark.parametrize("scheme", ["socks4a", "socks5h"])
def test_matrix_32_long_names(scheme: str) -> None:
    """Matrix 32: a name of 255 bytes is asked for, one of 256 is refused before it is sent."""
    replies = SOCKS5 if scheme == "socks5h" else SOCKS4
    log, _ = play(proxy(f"{scheme}://p"), "a" * 255, 80, None, replies)
    assert b"a" * 255 in log[-1]
    error = refusal(f"{scheme}://p", replies, "a" * 256)
    assert error.stage == TUNNEL
    assert "longer than 255 bytes" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        f"socks5://{'u' * 256}:p@p",
        f"socks5://u:{'%C3%A9' * 128}@p",
        f"socks4://{'u' * 256}@p",
    ],
)
def test_long_logins(url: str) -> None:
    """A login that its length byte cannot tell is refused, and is not shown."""
    error = refusal(url, b"\x05\x02\x01\x00" + SOCKS5[2:])
    assert error.stage == AUTH
    assert "longer than 255 bytes" in str(error)
    assert "uu" not in str(error)
    play(
        proxy(url.replace("u" * 256, "u" * 255).replace("%C3%A9" * 128, "p")),
        "h",
        80,
        "127.0.0.1",
        SOCKS4 if url.startswith("socks4") else b"\x05\x02\x01\x00" + SOCKS5[2:],
    )


@pytest.mark.parametrize(
    ("scheme", "address"), [("socks4", None), ("socks4", "::1"), ("socks5", None)]
)
def test_origin_without_a_usable_address(scheme: str, address: str | None) -> None:
    """What resolves names here needs an address, and SOCKS4 knows IPv4 alone."""
    with pytest.raises(HTTPProxyError, match="no address here") as caught:
        play(proxy(f"{scheme}://p"), "origin.test", 80, address, b"")
    assert (caught.value.stage, caught.value.proxy) == (TUNNEL, f"{scheme}://p:1080")
