"""The command line's pure parts: tables, bars and masks."""

from __future__ import annotations

import io
import itertools

import pytest

from whimbrel._cli.failures import Exit, Failure, failure_of, printable
from whimbrel._cli.fetching import shown
from whimbrel._cli.output import Progress, amount, progress_line
from whimbrel._cli.secrets import Argument, hide, mask
from whimbrel._cli.timing import Phase, phases, waterfall
from whimbrel.httpclient import (
    HTTPConnectError,
    HTTPConnectionRefusedError,
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPProxyError,
    HTTPRedirectError,
    HTTPResolveError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.httputil import HTTPInputError


def certificate_error() -> HTTPTLSError:
    error = HTTPTLSError("m", stage="tls")
    error.errno = 60
    return error


@pytest.mark.parametrize(
    ("error", "exit", "stage"),
    [
        *((HTTPTimeoutError("m", stage=stage), Exit.TIMEOUT, stage)
          for stage in ("queue", "dns", "connect", "tls", "tunnel", "response", "body")),
        (HTTPResolveError("m", stage="dns"), Exit.DNS, "dns"),
        (HTTPConnectionRefusedError("m", stage="connect"), Exit.CONNECT, "connect"),
        (HTTPConnectError("m", stage="connect"), Exit.CONNECT, "connect"),
        (HTTPProxyError("m", stage="proxy-connect"), Exit.PROXY, "proxy-connect"),
        (HTTPProxyError("m", stage="proxy-auth"), Exit.PROXY_AUTH, "proxy-auth"),
        (HTTPProxyError("m", stage="tunnel"), Exit.TUNNEL, "tunnel"),
        (HTTPTLSError("m", stage="tls"), Exit.TLS, "tls"),
        (certificate_error(), Exit.CERTIFICATE, "tls"),
        (HTTPStreamClosedError("m", stage="send"), Exit.SEND, "send"),
        (HTTPStreamClosedError("m", stage="response"), Exit.EMPTY, "response"),
        (HTTPStreamClosedError("m", stage="body"), Exit.PARTIAL, "body"),
        (HTTPProtocolError("m", stage="response"), Exit.PROTOCOL, "response"),
        (HTTPProtocolError("m", stage="body"), Exit.PARTIAL, "body"),
        (HTTPLimitError("m", stage="body"), Exit.LIMIT, "body"),
        (HTTPRedirectError(302, "m"), Exit.REDIRECT, "response"),
        (HTTPError(599, "m"), Exit.RECEIVE, "response"),
        (ValueError("m"), Exit.USAGE, "usage"),
        (HTTPInputError("m"), Exit.USAGE, "usage"),
        (NotImplementedError("m"), Exit.CAPABILITY, "usage"),
        (ImportError("m"), Exit.CAPABILITY, "usage"),
        (Failure(Exit.READ, "read", "m"), Exit.READ, "read"),
    ],
)  # fmt: skip
def test_every_error_has_its_code(error: Exception, exit: Exit, stage: str) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert (failure.exit, failure.stage) == (exit, stage)


def test_a_bug_is_not_explained_away() -> None:
    assert failure_of(ZeroDivisionError()) is None


def test_exit_codes_are_distinct() -> None:
    assert len({code.value for code in Exit}) == len(Exit)


def test_printable_leaves_one_line() -> None:
    assert printable("caf\u00e9 \u6f22") == "caf\u00e9 \u6f22"
    assert printable("a\x1b[2J\r\n\x9b\u202e\u2028\udce9") == (
        "a\\x1b[2J\\r\\n\\x9b\\u202e\\u2028\\udce9"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/p@q", "http://h/p@q"),
        ("http://u:p@h/", "http://h/"),
        ("http://u:p@@h/", "http://h/"),
        ("u:p@h:1", "h:1"),
        ("http://h?x@y", "http://h?x@y"),
    ],
)
def test_shown_urls_have_no_userinfo(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_mask_covers_secrets_wherever_they_stand() -> None:
    given = [
        Argument.after_colon("alice:alice"),
        Argument.after_colon("Authorization: x"),
        Argument.with_userinfo("socks5://u:p@h:1"),
        Argument("", "a=1"),
    ]
    before = b"python\0-u\0alice:alice\0-Uxalice:alice\0-HAuthorization: x\0"
    after = b"python\0-u\0alice:*****\0-Uxalice:*****\0-HAuthorization:**\0"
    assert mask(before, given) == after
    assert mask(b"--proxy=socks5://u:p@h:1\0a=1\0\0", given) == b"--proxy=socks5://***@h:1\0***\0\0"
    assert mask(b"alice\0h:1\0", given) == b"alice\0h:1\0"


def test_mask_counts_bytes() -> None:
    argument = Argument.after_colon("\u00e9:\u00e9")
    assert mask("\u00e9:\u00e9\0".encode(), [argument]) == "\u00e9:*\0".encode().replace(
        b"*", b"*" * len("\u00e9".encode())
    )


def test_nothing_to_hide_touches_nothing() -> None:
    assert hide([Argument.after_colon("alice"), Argument.with_userinfo("http://h/")])


def test_phases_follow_one_another() -> None:
    info = {
        "queue": 1.0,
        "redirect": 2.0,
        "namelookup": 0.5,
        "connect": 1.0,
        "appconnect": 0.0,
        "pretransfer": 1.5,
        "starttransfer": 3.5,
        "total": 4.0,
    }
    assert phases(info) == [
        Phase("queue", 0.0, 1.0),
        Phase("redirects", 1.0, 3.0),
        Phase("name look-up", 3.0, 3.5),
        Phase("connect", 3.5, 4.0),
        Phase("handshake", 4.0, 4.0),
        Phase("prepare", 4.0, 4.5),
        Phase("wait", 4.5, 6.5),
        Phase("transfer", 6.5, 7.0),
    ]


def test_the_waterfall_to_the_character() -> None:
    info = {"queue": 0.0, "namelookup": 0.01, "connect": 0.05, "pretransfer": 0.05}
    info |= {"starttransfer": 0.0999, "total": 0.1}
    assert waterfall(info) == [
        "  queue              0.00 ms  |                                                  |",
        "  name look-up      10.00 ms  |#####                                             |",
        "  connect           40.00 ms  |     ####################                         |",
        "  handshake          0.00 ms  |                                                  |",
        "  prepare            0.00 ms  |                                                  |",
        "  wait              49.90 ms  |                         #########################|",
        "  transfer           0.10 ms  |                                                 #|",
        "  total            100.00 ms",
    ]


def test_a_waterfall_of_nothing() -> None:
    assert waterfall({})[-1] == "  total              0.00 ms"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 100, 0.0, 60), "  0% [                    ] 0 B of 100 B, 0 B/s, 0 s left"),
        ((50, 100, 1.0, 60), " 50% [##########           ] 50 B of 100 B, 50 B/s, 1 s left"),
        ((100, 100, 1.0, 60), "100% [###################] 100 B of 100 B, 100 B/s, 0 s left"),
        ((50, 100, 1.0, 40), " 50% 50 B of 100 B, 50 B/s, 1 s left"),
        ((50, 100, 1.0, 10), " 50% 50 B "),
        ((2048, None, 2.0, 60), "2.0 KiB, 1.0 KiB/s"),
        ((200, 100, 1.0, 60), "200 B, 200 B/s"),
    ],
)
def test_progress_lines(arguments: tuple[int, int | None, float, int], expected: str) -> None:
    line = progress_line(*arguments)
    assert len(line) <= arguments[-1]
    assert line.split() == expected.split()


def test_progress_is_drawn_ten_times_a_second_at_most() -> None:
    ticks = itertools.count(0.0, 1 / 64)  # exact in binary; 7 of them pass 0.1 s
    out = io.StringIO()
    progress = Progress(out, 1000, clock=lambda: next(ticks))
    for _ in range(100):
        progress.add(10)
    progress.wipe()
    drawn = out.getvalue().split("\r")[1:]
    assert len(drawn) == 100 // 7 + 1
    assert drawn[-1] == "\x1b[K"
    assert drawn[0].lstrip().startswith("7% [")


def test_amounts() -> None:
    assert [amount(n) for n in (0, 1023, 1024, 1536, 1024**4 * 2000)] == [
        *("0 B", "1023 B", "1.0 KiB", "1.5 KiB", "2000.0 TiB")
    ]
