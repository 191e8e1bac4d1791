"""httputil: headers, start lines, URLs, dates, cookies, forms; strict, bounded, linear."""

from __future__ import annotations

import copy
import datetime
import gc
import pickle
import time
import tracemalloc
import weakref
from collections.abc import Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from whimbrel import httputil
from whimbrel.httputil import (
    HTTPConnection,
    HTTPFile,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
    encode_username_password,
    format_timestamp,
    parse_body_arguments,
    parse_cookie,
    parse_multipart_form_data,
    parse_request_start_line,
    parse_response_start_line,
    qs_to_qsl,
    responses,
    split_host_and_port,
    url_concat,
)


def assert_linear(run: Callable[[int], object], size: int) -> None:
    """Ten times the input may take at most about twelve times the time; twice that is noise."""

    def seconds(scale: int) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            run(scale)
            best = min(best, time.process_time() - start)
        return best

    # A collection goes through all that the test run holds, and would count as ours.
    gc.disable()
    try:
        small = max(seconds(size), 1e-3)
        assert seconds(10 * size) < 25 * small
    finally:
        gc.enable()


# -- HTTPHeaders


def test_names_are_normalized_and_case_insensitive() -> None:
    """However a name is written, it is the same field, in Http-Header-Case."""
    headers = HTTPHeaders({"content-TYPE": "a"})
    assert list(headers) == ["Content-Type"]
    assert headers["CONTENT-type"] == headers.get("content-type") == "a"
    assert "conTENT-type" in headers
    assert "other" not in headers
    assert 5 not in headers
    assert headers.get("other") is None
    assert headers.get("other", "x") == "x"
    assert headers.get("content-type", 5) == "a"
    with pytest.raises(KeyError):
        headers["other"]


def test_several_values() -> None:
    """add() appends; item access joins by commas; get_list() and get_all() keep them apart."""
    headers = HTTPHeaders({"A": "1"})
    headers.add("b", "x")
    headers.add("a", "2")
    assert headers["a"] == headers.get("a") == "1,2"
    assert headers.get_list("A") == ["1", "2"]
    assert headers.get_list("none") == []
    assert list(headers.get_all()) == [("A", "1"), ("A", "2"), ("B", "x")]
    assert list(headers.items()) == [("A", "1,2"), ("B", "x")]
    assert len(headers) == 2
    assert str(headers) == "A: 1\nA: 2\nB: x\n"


def test_get_list_is_a_copy() -> None:
    """Changing the list that get_list() returned changes no header."""
    headers = HTTPHeaders({"A": "1"})
    headers.get_list("A").append("2")
    assert headers["A"] == "1"


def test_assignment_replaces_and_del_removes_every_value() -> None:
    """Assignment leaves one value; del none, and raises KeyError where there was none."""
    headers = HTTPHeaders()
    headers.add("A", "1")
    headers.add("A", "2")
    headers["a"] = "3"
    assert headers.get_list("A") == ["3"]
    headers.add("A", "4")
    del headers["a"]
    assert "A" not in headers
    assert headers.get_list("A") == []
    with pytest.raises(KeyError):
        del headers["A"]


def test_order_is_kept() -> None:
    """Fields come out in the order in which their names first came."""
    names = [f"X-{number}" for number in (5, 3, 9, 1)]
    headers = HTTPHeaders((name, "v") for name in names)
    assert list(headers) == names


def test_constructor_forms() -> None:
    """Nothing, a mapping, pairs, keywords and another HTTPHeaders; values str or bytes."""
    assert dict(HTTPHeaders()) == {}
    assert dict(HTTPHeaders({"a": "1"}, b="2")) == {"A": "1", "B": "2"}
    assert dict(HTTPHeaders([("a", "1"), ("A", "2")])) == {"A": "2"}
    assert dict(HTTPHeaders({"a": b"\xe9"})) == {"A": "\xe9"}
    source = HTTPHeaders()
    source.add("A", "1")
    source.add("A", b"2")
    assert HTTPHeaders(source, c="3").get_list("A") == ["1", "2"]


@pytest.mark.parametrize("value", [None, 5, ["a", "b"], bytearray(b"x")])
def test_other_types_of_values_are_refused(value: Any) -> None:
    """A value that is neither str nor bytes is a TypeError naming the header."""
    headers = HTTPHeaders()
    with pytest.raises(TypeError, match="header 'X-Field' must be str or bytes"):
        headers["X-Field"] = value
    with pytest.raises(TypeError, match="header 'X-Field' must be str or bytes"):
        headers.add("X-Field", value)
    assert len(headers) == 0


def test_names_must_be_str() -> None:
    """A name of another type is a TypeError."""
    with pytest.raises(TypeError, match="bytes"):
        HTTPHeaders()[b"a"] = "1"  # type: ignore[index]


BAD_NAMES = ["", " ", "a b", "a ", " a", "a:", "a\n", "a\r", "a\0", "a\t", "é", "(a)", "a/b", "a@"]
BAD_VALUES = ["b\r\nc", "b\nc", "b\r", "\0", "\x01", "\x0b", "\x1f", "a\x7f", "\u0100", " a", "a\t"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_add_refuses_names(name: str) -> None:
    """A name that is no token is an HTTPInputError, also the second time."""
    headers = HTTPHeaders()
    for _ in range(2):
        with pytest.raises(HTTPInputError, match="invalid header name"):
            headers.add(name, "x")
    assert len(headers) == 0


def test_add_refuses_names_that_were_looked_up() -> None:
    """A look-up of a bad name, which is remembered, does not make it a good one."""
    headers = HTTPHeaders()
    assert headers.get("bad name") is None
    with pytest.raises(HTTPInputError):
        headers.add("bad name", "x")


@pytest.mark.parametrize("value", BAD_VALUES)
def test_add_refuses_values(value: str) -> None:
    """Control characters, non-bytes and outer whitespace are an HTTPInputError."""
    headers = HTTPHeaders()
    with pytest.raises(HTTPInputError):
        headers.add("A", value)
    assert len(headers) == 0


@pytest.mark.parametrize("value", ["", "a b", "a\tb", "\x80\xff", "\xa0x\xa0", "~!\"'"])
def test_add_accepts_values(value: str) -> None:
    """Empty values, inner spaces and tabs, and bytes above 0x7F are fine."""
    headers = HTTPHeaders()
    headers.add("A", value)
    assert headers["A"] == value


def test_input_error_is_no_value_error_and_shows_no_value() -> None:
    """HTTPInputError is not a ValueError, and its text never holds the value."""
    assert not issubclass(HTTPInputError, ValueError)
    assert not issubclass(HTTPOutputError, ValueError)
    with pytest.raises(HTTPInputError) as caught:
        HTTPHeaders().add("Authorization", "secret\n")
    assert str(caught.value) == (
        "invalid value of header 'Authorization': character 0x0a at position 6"
    )


def test_long_names_are_abbreviated_in_errors() -> None:
    """An error message stays short however long the name is."""
    with pytest.raises(HTTPInputError) as caught:
        HTTPHeaders().add("x " * 10_000, "v")
    assert len(str(caught.value)) < 120


def test_assignment_stores_what_a_client_will_refuse() -> None:
    """As in Tornado, assignment does not validate: fetch() refuses, with a ValueError."""
    headers = HTTPHeaders({"A": "b\r\nc"})
    headers["bad name"] = "x"
    assert headers["A"] == "b\r\nc"
    assert headers["bad name"] == "x"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("", []),
        ("A: b\r\nC: d\r\n", [("A", "b"), ("C", "d")]),
        ("A: b\nC: d\n", [("A", "b"), ("C", "d")]),
        ("A: b\r\nC: d", [("A", "b"), ("C", "d")]),
        ("A: b\r\n\r\n", [("A", "b")]),
        ("A:b\r\nA:\r\n", [("A", "b"), ("A", "")]),
        ("A: \t b c \t \r\n", [("A", "b c")]),
        ("A: \xa0b\x85\r\n", [("A", "\xa0b\x85")]),
        ("A: b:c\r\n", [("A", "b:c")]),
    ],
)
def test_parse(block: str, expected: list[tuple[str, str]]) -> None:
    """CRLF and LF end lines; only spaces and tabs around a value are dropped."""
    assert list(HTTPHeaders.parse(block).get_all()) == expected


@pytest.mark.parametrize(
    "block",
    [
        *("A: b\r\n c\r\n", " A: b\r\n", "\tA: b\r\n", "A: b\r\n \r\n"),
        *("A: b\rC: d\r\n", "A: b\r\r\n", "A: b\r", "A: b\0\r\n", "A: \x0bb\r\n"),
        *("no colon\r\n", ": b\r\n", "A : b\r\n", "A\t: b\r\n", "A b: c\r\n", "\r: b\r\n"),
    ],
)
def test_parse_refuses(block: str) -> None:
    """Folding, bare CR, controls, missing colons and bad names are HTTPInputErrors."""
    with pytest.raises(HTTPInputError):
        HTTPHeaders.parse(block)


def test_parse_line() -> None:
    """One line is added, with or without its end; an empty one adds nothing."""
    headers = HTTPHeaders()
    for line in ("A: 1", "A: 2\r\n", "B:3\n", "", "\r\n", "\n"):
        headers.parse_line(line)
    assert list(headers.get_all()) == [("A", "1"), ("A", "2"), ("B", "3")]
    for line in (" folded", "no colon", "A: 1\r\nB: 2", "A: 1\r"):
        with pytest.raises(HTTPInputError):
            headers.parse_line(line)


def _headers() -> HTTPHeaders:
    headers = HTTPHeaders()
    headers.add("A", "1")
    headers.add("A", "2")
    headers.add("B", "3")
    return headers


def _lazy_headers() -> HTTPHeaders:
    return HTTPHeaders.from_lines([b"A: 1\r\n", b"a: 2\r\n", b"B: 3\r\n"])


@pytest.mark.parametrize("make", [_headers, _lazy_headers])
@pytest.mark.parametrize(
    "duplicate",
    [
        HTTPHeaders.copy,
        HTTPHeaders,
        copy.copy,
        copy.deepcopy,
        *[
            lambda headers, protocol=protocol: pickle.loads(pickle.dumps(headers, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ],
    ],
)
def test_copies_are_equal_and_independent(
    make: Callable[[], HTTPHeaders], duplicate: Callable[[HTTPHeaders], HTTPHeaders]
) -> None:
    """Copies and pickles hold every value, and changing one does not change the other."""
    headers = make()
    other = duplicate(headers)
    assert type(other) is HTTPHeaders
    assert list(other.get_all()) == [("A", "1"), ("A", "2"), ("B", "3")]
    assert other == headers
    other.add("A", "4")
    other["B"] = "5"
    assert list(headers.get_all()) == [("A", "1"), ("A", "2"), ("B", "3")]


def test_equality_and_hash() -> None:
    """Headers equal any mapping of the same joined values, and are not hashable."""
    assert _headers() == {"A": "1,2", "B": "3"}
    assert _headers() == _lazy_headers()
    assert _headers() != {"A": "1", "B": "3"}
    assert HTTPHeaders() == {}
    with pytest.raises(TypeError):
        hash(_headers())


def test_mapping_methods() -> None:
    """update, setdefault, pop, clear and truth work as those of any mapping."""
    headers = HTTPHeaders()
    assert not headers
    headers.update({"a": "1"}, b="2")
    assert headers
    assert headers.setdefault("A", "9") == "1"
    assert headers.setdefault("c", "3") == "3"
    assert headers.pop("B") == "2"
    assert headers.pop("B", None) is None
    headers.clear()
    assert list(headers) == []


def test_repr_hides_values() -> None:
    """The repr shows names only."""
    assert repr(HTTPHeaders({"Authorization": "secret"})) == "<HTTPHeaders ['Authorization']>"


def test_unknown_attributes_raise() -> None:
    """There is no attribute that was not defined, and none can be added by mistake."""
    for headers in (_headers(), _lazy_headers()):
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            headers.colour  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(AttributeError):
            headers.colour = 1  # type: ignore[attr-defined]


def test_add_is_linear() -> None:
    """Repeating one header (CVE-2025-67725), or sending many, costs linear time."""

    def same_name(count: int) -> None:
        headers = HTTPHeaders()
        for _ in range(count):
            headers.add("A", "x" * 50)
        assert len(headers["A"]) == 51 * count - 1

    assert_linear(same_name, 5_000)
    assert_linear(lambda count: HTTPHeaders.parse("A: b\r\n" * count), 2_000)
    assert_linear(
        lambda count: HTTPHeaders.parse("".join(f"A{n}: b\r\n" for n in range(count))), 2_000
    )


def test_remembered_names_are_bounded() -> None:
    """Names from the network cannot fill the memory: their number and length are bounded."""
    headers = HTTPHeaders()
    for number in range(5_000):
        headers.add(f"X-{number}", "v")
        headers.get(f"Y-{number}")
    headers.add("Z" * 100_000, "v")
    for number in range(5_000):
        HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n").get(f"W-{number}")
    HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n").get("W" * 65)
    for cache in (httputil._normal_names, httputil._normal_tokens, httputil._prefixes):
        assert 0 < len(cache) <= 2_048
        assert max(map(len, cache)) <= 64
    assert len(headers) == 5_001
    assert headers["x-17"] == "v"


# -- HTTPHeaders.from_lines


class _CountingLines(list[bytes]):
    """Lines that tell how often they were read."""

    reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        return super().__iter__()


@pytest.mark.parametrize(
    "look",
    [
        lambda headers: headers["a"],
        lambda headers: headers.get("A"),
        lambda headers: headers.get_list("A"),
        lambda headers: list(headers.get_all()),
        lambda headers: "A" in headers,
        len,
        list,
        bool,
        str,
        repr,
        lambda headers: headers == {},
        lambda headers: headers.add("X", "1"),
        lambda headers: headers.__setitem__("X", "1"),
        lambda headers: headers.__delitem__("A"),
        lambda headers: headers.parse_line("X: 1"),
        copy.copy,
        pickle.dumps,
    ],
)
def test_from_lines_parses_once_and_only_when_looked_at(look: Callable[[Any], object]) -> None:
    """Nothing is parsed until the first look of any kind, and then once."""
    lines = _CountingLines([b"A: 1\r\n", b"B: 2\r\n"])
    headers = HTTPHeaders.from_lines(lines)
    assert isinstance(headers, HTTPHeaders)
    assert isinstance(headers, Mapping)
    assert lines.reads == 0
    look(headers)
    assert lines.reads == 1
    look_again = headers.get("B")
    assert look_again == "2"
    assert lines.reads == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([b"A: b\r\n", b"a: c\n", b"D:e", b"\r\n"], [("A", "b"), ("A", "c"), ("D", "e")]),
        ([b"A: \t b \t\r\n"], [("A", "b")]),
        ([b"A: \xa0\xe9\r\n"], [("A", "\xa0\xe9")]),
        ([b"A: b:c\r\n"], [("A", "b:c")]),
        ([b"A:\r\n"], [("A", "")]),
        # skipped
        ([b"no colon\r\n", b"A: b\r\n"], [("A", "b")]),
        ([b"HTTP/1.1 200 OK: x\r\n", b": b\r\n", b"A b: c\r\n", b"A : b\r\n"], []),
        # folded
        ([b"A: b\r\n", b"  c\r\n", b"\td \r\n"], [("A", "b c d")]),
        ([b"A:\r\n", b" b\r\n"], [("A", "b")]),
        ([b"A: b\r\n", b" \r\n", b"C: d\r\n"], [("A", "b"), ("C", "d")]),
        ([b" b\r\n", b"A: c\r\n"], [("A", "c")]),
        ([b"A: b\r\n", b"junk\r\n", b" C: d\r\n"], [("A", "b")]),
        # odd bytes
        ([b"A: b\0c\r\n"], [("A", "b c")]),
        ([b"A: b\rC: d\r\n"], [("A", "b C: d")]),
        ([b"A: b\r\r\n"], [("A", "b")]),
        ([b"A: \x01\x7f\r\n"], [("A", "\x01\x7f")]),
    ],
)
def test_from_lines(lines: list[bytes], expected: list[tuple[str, str]]) -> None:
    """What a server sent is taken as it can be; what cannot be a field is skipped."""
    assert list(HTTPHeaders.from_lines(lines).get_all()) == expected


def test_from_lines_lets_the_lines_go() -> None:
    """Once parsed, the raw lines are not held any longer."""
    lines = _CountingLines([b"A: 1\r\n"])
    alive = weakref.ref(lines)
    headers = HTTPHeaders.from_lines(lines)
    del lines
    assert alive() is not None
    assert headers["A"] == "1"
    gc.collect()
    assert alive() is None


def test_from_lines_never_raises() -> None:
    """No two bytes, wherever they stand in a line, raise."""
    for first in range(256):
        for second in (0, 9, 10, 13, 32, 58, 127, 255, first):
            odd = bytes((first, second))
            lines = [b"A: b" + odd + b"c\r\n", b"A" + odd + b": b\r\n", odd, b"Last: 1\r\n"]
            assert HTTPHeaders.from_lines(lines).get("Last") == "1"


def test_from_lines_is_linear() -> None:
    """Repeated and endlessly folded lines cost linear time."""
    assert_linear(lambda count: len(HTTPHeaders.from_lines([b"A: b\r\n"] * count)), 2_000)
    assert_linear(
        lambda count: len(HTTPHeaders.from_lines([b"A: b\r\n", *[b" cccccc\r\n"] * count])), 20_000
    )


# -- HTTPHeaders.from_head


def _item(headers: Any, name: str) -> object:
    try:
        return headers[name]
    except KeyError as error:
        return error.args


_LOOKS: list[Callable[[Any, str], object]] = [
    lambda headers, name: headers.get(name, "none"),
    lambda headers, name: headers.get_list(name),
    lambda headers, name: name in headers,
    _item,
]


@pytest.mark.parametrize("look", _LOOKS)
@pytest.mark.parametrize(
    "name", ["A", "a", "Cc", "C-c", "X", "A b", "A:", "", "\n", "ß", "é", "x" * 99]
)
def test_a_name_is_looked_for_as_if_all_were_parsed(
    name: str, look: Callable[[Any, str], object]
) -> None:
    """A few names are looked for in the bytes of a head, whatever it looks like."""
    pieces = [
        b"A",
        b"Cc",
        b"C-c",
        b":",
        b": ",
        b"b",
        b" ",
        b"\t",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
    ]
    pieces += [b"\r\nA: b\r\n", b"\r\nSS: s", b"\xe9", b"\xa0"]
    rng = Random(name)
    for _ in range(3_000):
        head = b"HTTP/1.1 200 OK" + b"".join(rng.choices(pieces, k=rng.randrange(12)))
        parsed = HTTPHeaders.from_head(head)
        len(parsed)
        assert look(HTTPHeaders.from_head(head), name) == look(parsed, name), head


def test_a_head_is_parsed_for_whoever_asks_for_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for whoever changes it, or goes through it; else not."""
    parse = httputil._parse_leniently
    heads: list[object] = []
    monkeypatch.setattr(
        httputil, "_parse_leniently", lambda head: (heads.append(head), parse(head))[1]
    )
    head = b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nA: 3\r\n\r\n"
    headers = HTTPHeaders.from_head(head)
    assert (headers["a"], headers.get("B")) == ("1,3", "2")
    assert "C" not in headers
    assert not heads
    assert headers["B"] == "2"
    assert heads == [head]
    assert headers["A"] == "1,3"
    assert len(heads) == 1
    for change in (len, list, str, copy.copy, lambda headers: headers.add("X", "1")):
        headers = HTTPHeaders.from_head(head)
        assert headers["A"] == "1,3"
        change(headers)
        assert len(heads) == 2
        heads.pop()


def test_what_was_looked_for_and_then_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is changed, the bytes are not looked at again."""
    headers = HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n")
    values = headers.get_list("A")
    values.append("2")
    assert headers["A"] == "1"
    headers["A"] = "3"
    assert headers["A"] == "3"
    del headers["A"]
    assert "A" not in headers
    headers = HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n")
    headers.clear()
    assert "A" not in headers
    with pytest.raises(KeyError, match="No-Such"):
        HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n")["no-such"]


def test_a_head_of_one_line() -> None:
    """That is the start line, with or without its end."""
    for head in (b"K: k", b"K: k\r\n", b""):
        for headers in (HTTPHeaders.from_head(head), HTTPHeaders.from_head(head)):
            assert headers.get("K") is None
            assert not list(headers)
            assert headers.get("K") is None


def test_a_head_that_is_parsed_in_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them may have been here, and changed something, while the other was at it."""
    parse = httputil._parse_leniently
    headers = HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n")

    def parse_late(lines: bytes) -> Any:
        monkeypatch.setattr(httputil, "_parse_leniently", parse)
        headers["B"] = "2"
        return parse(lines)

    monkeypatch.setattr(httputil, "_parse_leniently", parse_late)
    assert dict(headers) == {"A": "1", "B": "2"}
    assert HTTPHeaders.__getattr__(headers, "_lists") == {"A": ["1"], "B": ["2"]}
    assert dict(headers) == {"A": "1", "B": "2"}


def test_looking_for_a_name_is_linear() -> None:
    """Of a field that comes a thousand times."""
    assert_linear(
        lambda count: HTTPHeaders.from_head(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * count)["A"],
        2_000,
    )


# -- start lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET / HTTP/1.1", ("GET", "/", "HTTP/1.1")),
        ("GET /?a=b HTTP/1.0", ("GET", "/?a=b", "HTTP/1.0")),
        ("OPTIONS * HTTP/1.1", ("OPTIONS", "*", "HTTP/1.1")),
        ("get http://a/ HTTP/1.1", ("get", "http://a/", "HTTP/1.1")),
        ("CONNECT a:443 HTTP/1.1", ("CONNECT", "a:443", "HTTP/1.1")),
        ("M-SEARCH /\xe9 HTTP/1.9", ("M-SEARCH", "/\xe9", "HTTP/1.9")),
    ],
)
def test_request_line(line: str, expected: tuple[str, str, str]) -> None:
    """A request line is three parts."""
    assert parse_request_start_line(line) == RequestStartLine(*expected)


@pytest.mark.parametrize(
    "line",
    [
        *("", "GET", "GET /", "GET / ", "GET  / HTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.1 "),
        *("GET /a b HTTP/1.1", "G(T / HTTP/1.1", "GET\t/ HTTP/1.1", "GET /\x7f HTTP/1.1"),
        *("GET /\0 HTTP/1.1", "GET / HTTP/1.1\n", "GET / http/1.1", "GET / HTTP/1.10"),
        *("GET / HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/1.\u0661", "GET /\u0100 HTTP/1.1"),
    ],
)
def test_request_line_refused(line: str) -> None:
    """Anything else is an HTTPInputError."""
    with pytest.raises(HTTPInputError):
        parse_request_start_line(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("HTTP/1.1 200 OK", ("HTTP/1.1", 200, "OK")),
        ("HTTP/1.0 404 Not  Found ", ("HTTP/1.0", 404, "Not  Found ")),
        ("HTTP/1.1 200 ", ("HTTP/1.1", 200, "")),
        ("HTTP/1.1 200", ("HTTP/1.1", 200, "")),
        ("HTTP/1.1 999 \xe9\t!", ("HTTP/1.1", 999, "\xe9\t!")),
    ],
)
def test_status_line(line: str, expected: tuple[str, int, str]) -> None:
    """A status line is a version, a code and a phrase, which may be empty or missing."""
    assert parse_response_start_line(line) == ResponseStartLine(*expected)


@pytest.mark.parametrize(
    "line",
    [
        *("", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 20 OK", "HTTP/1.1 099 x", "HTTP/1.1 2000 x"),
        *("HTTP/1.1  200 OK", " HTTP/1.1 200 OK", "HTTP/1.1 200OK", "HTTP/1.1 200 a\x7f"),
        *("HTTP/1.1 200 a\nb", "HTTP/1.1 200 OK\n", "HTTP/2 200", "HTTP/2.0 200 OK", "ICY 200 OK"),
        *("HTTP/3.1 200 OK", "HTTP/0.9 200 OK", "HTTP/1.1 \u0662\u0660\u0660 OK", "HTTP/1.1 +20 x"),
    ],
)
def test_status_line_refused(line: str) -> None:
    """Anything else is an HTTPInputError."""
    with pytest.raises(HTTPInputError):
        parse_response_start_line(line)


# -- URLs, hosts, dates, cookies, credentials


@pytest.mark.parametrize(
    ("url", "args", "expected"),
    [
        ("http://e/p", None, "http://e/p"),
        ("http://e/p?x#f", None, "http://e/p?x#f"),
        ("http://e/p?x#f", {}, "http://e/p?x=#f"),
        ("http://e/p", {}, "http://e/p"),
        ("http://e/p#f", {}, "http://e/p#f"),
        ("http://e/p", {"a": "b"}, "http://e/p?a=b"),
        ("http://e/p?", {"a": "b"}, "http://e/p?a=b"),
        ("http://e/p?x", {"a": "b"}, "http://e/p?x=&a=b"),
        ("http://e/p?x&", [("a", "b")], "http://e/p?x=&a=b"),
        ("http://e/p?r=1&t=2", [], "http://e/p?r=1&t=2"),
        ("http://e/p?r=1", [("a", "/b"), ("a", "c d")], "http://e/p?r=1&a=%2Fb&a=c+d"),
        ("http://e/p?r=1#f?g", (("a", 1),), "http://e/p?r=1&a=1#f?g"),
        ("http://e/p", {"é": "ü&="}, "http://e/p?%C3%A9=%C3%BC%26%3D"),
        ("http://e/p?q=%FF%20é", {"b": b"\xff"}, "http://e/p?q=%FF+%C3%A9&b=%FF"),
        ("/p;x", {"a": "b"}, "/p;x?a=b"),
    ],
)
def test_url_concat(url: str, args: Any, expected: str) -> None:
    """Arguments join the query, the fragment stays behind it."""
    assert url_concat(url, args) == expected


@pytest.mark.parametrize("args", ["a=b", 5, {"a"}, b"a"])
def test_url_concat_refuses(args: Any) -> None:
    """Arguments of another type are a TypeError."""
    with pytest.raises(TypeError, match="args must be"):
        url_concat("http://e/", args)


@pytest.mark.parametrize(
    ("netloc", "expected"),
    [
        ("a", ("a", None)),
        ("a:1", ("a", 1)),
        ("a.b:65535", ("a.b", 65535)),
        ("[::1]", ("[::1]", None)),
        ("[::1]:80", ("[::1]", 80)),
        ("::1", ("::1", None)),
        ("a:", ("a:", None)),
        ("a:x", ("a:x", None)),
        ("a:\u0661", ("a:\u0661", None)),
        ("", ("", None)),
        ("a:" + "1" * 5000, ("a:" + "1" * 5000, None)),
    ],
)
def test_split_host_and_port(netloc: str, expected: tuple[str, int | None]) -> None:
    """The port is split off where there is one; the colons of an IPv6 address are none."""
    assert split_host_and_port(netloc) == expected


CET = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    "ts",
    [
        1359312200,
        1359312200.9,
        datetime.datetime(2013, 1, 27, 18, 43, 20),
        datetime.datetime(2013, 1, 27, 18, 43, 20, 999_999, tzinfo=datetime.UTC),
        datetime.datetime(2013, 1, 27, 19, 43, 20, tzinfo=CET),
        time.gmtime(1359312200),
        (2013, 1, 27, 18, 43, 20, 0, 0, 0),
        (2013, 1, 27, 18, 42, 80, 0, 0, 0),
    ],
)
def test_format_timestamp(ts: Any) -> None:
    """Every way to tell a point in time gives the same IMF-fixdate."""
    assert format_timestamp(ts) == "Sun, 27 Jan 2013 18:43:20 GMT"


def test_format_timestamp_every_month_and_day() -> None:
    """Names of days and months agree with those of the standard library."""
    from email.utils import formatdate

    for day in range(0, 3000, 7):
        ts = day * 86400 + day * 61
        assert format_timestamp(ts) == formatdate(ts, usegmt=True)


@pytest.mark.parametrize("ts", ["2013", None, datetime.date(2013, 1, 27), b"1"])
def test_format_timestamp_refuses(ts: Any) -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError, match="unknown timestamp type"):
        format_timestamp(ts)


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        ("", {}),
        ("a=b; c=d", {"a": "b", "c": "d"}),
        ("a=b;c=d", {"a": "b", "c": "d"}),
        ("a=b; a=c", {"a": "c"}),
        (" a = b ;;", {"a": "b"}),
        ("a=b=c", {"a": "b=c"}),
        ("x", {"": "x"}),
        ("=x", {"": "x"}),
        ('a="b c"', {"a": "b c"}),
        ('a="b\\073\\054\\"\\\\"', {"a": 'b;,"\\'}),
        ('a="x', {"a": '"x'}),
        ('a="', {"a": '"'}),
        ('a=""', {"a": ""}),
        ("a=%20", {"a": "%20"}),
        ("a=b; expires=c; Path=/", {"a": "b", "expires": "c", "Path": "/"}),
    ],
)
def test_parse_cookie(cookie: str, expected: dict[str, str]) -> None:
    """Cookies are parsed as browsers do, and quotes undone as http.cookies writes them."""
    assert parse_cookie(cookie) == expected


def test_parse_cookie_undoes_what_http_cookies_writes() -> None:
    """Every character that http.cookies quotes comes back."""
    from http.cookies import SimpleCookie

    value = "".join(map(chr, range(1, 256)))
    cookie: SimpleCookie = SimpleCookie()
    cookie["a"] = value
    assert parse_cookie(cookie["a"].OutputString()) == {"a": value}


def test_parse_cookie_is_linear() -> None:
    """Quoted values full of backslashes cost linear time (CVE-2024-52804)."""
    assert_linear(lambda count: parse_cookie('a="' + "\\a" * count + '"'), 20_000)
    assert_linear(lambda count: parse_cookie("a=b;" * count), 20_000)


def test_encode_username_password() -> None:
    """str is normalised to NFC and encoded as UTF-8, bytes are left alone."""
    assert encode_username_password("u\u0308", "p\u00e9") == b"\xc3\xbc:p\xc3\xa9"
    assert encode_username_password(b"u\xff", "p") == b"u\xff:p"


def test_qs_to_qsl_and_responses() -> None:
    """Lists are flattened into pairs; reason phrases are found by number."""
    assert list(qs_to_qsl({"a": ["1", "2"], "b": []})) == [("a", "1"), ("a", "2")]
    assert responses[404] == "Not Found"
    assert type(next(iter(responses))) is int


# -- HTTPServerRequest


def make_request(uri: str = "/", method: str = "GET", **headers: str) -> HTTPServerRequest:
    headers.setdefault("Host", "example.com")
    line = RequestStartLine(method, uri, "HTTP/1.1")
    return HTTPServerRequest(start_line=line, headers=HTTPHeaders(headers))


def test_request_attributes() -> None:
    """Target, query and arguments are taken apart."""
    request = make_request("/p/q?a=1&a=2+%26&b&%FF=%ff")
    assert (request.method, request.version) == ("GET", "HTTP/1.1")
    assert (request.path, request.query) == ("/p/q", "a=1&a=2+%26&b&%FF=%ff")
    expected = {"a": [b"1", b"2 &"], "b": [b""], "\xff": [b"\xff"]}
    assert request.arguments == request.query_arguments == expected
    assert request.body_arguments == {}
    assert request.files == {}
    assert request.body == b""
    assert request.full_url() == "http://example.com/p/q?a=1&a=2+%26&b&%FF=%ff"
    request.arguments["a"].append(b"3")
    assert request.query_arguments == expected


def test_request_connection_context() -> None:
    """Address and protocol come from the connection's context."""

    class Context:
        remote_ip = "192.0.2.1"
        protocol = "https"

    connection = HTTPConnection()
    connection.context = Context()  # type: ignore[attr-defined]
    request = HTTPServerRequest("GET", "/", host="h", connection=connection)
    assert (request.remote_ip, request.protocol) == ("192.0.2.1", "https")
    assert request.full_url() == "https://h/"
    assert request.connection is connection


def test_request_time_stops_at_the_end() -> None:
    """request_time() grows until the request is finished, and never runs backwards."""
    request = make_request()
    first = request.request_time()
    assert 0 <= first <= request.request_time() < 60
    request._finish_time = request._start_time + 2.5
    assert request.request_time() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.com", "example.com"),
        ("example.com:8080", "example.com"),
        ("[::1]:80", "[::1]"),
        ("", ""),
    ],
)
def test_request_host(host: str, name: str) -> None:
    """The Host field is kept as it came; host_name is lower case and without the port."""
    request = make_request(Host=host)
    assert (request.host, request.host_name) == (host, name)


@pytest.mark.parametrize("host", ["a b", "a,b", "a/b", "user@a", "a:b", "a:80:90", "[::1", "a\x7f"])
def test_request_bad_host(host: str) -> None:
    """A malformed Host is an HTTPInputError."""
    with pytest.raises(HTTPInputError, match="Host"):
        make_request(Host=host)


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        ("http://Other.example:81/p?a=1", "Other.example:81", "/p", "a=1"),
        ("HTTP://other.example", "other.example", "/", ""),
        ("https://other.example?a=1", "other.example", "/", "a=1"),
        ("http://[::1]:81/", "[::1]:81", "/", ""),
    ],
)
def test_request_absolute_form(target: str, host: str, path: str, query: str) -> None:
    """The host of a target in absolute-form counts, not the Host field."""
    request = make_request(target)
    assert (request.uri, request.host, request.path, request.query) == (target, host, path, query)
    assert request.host_name == host.lower().removesuffix(":81")
    assert request.full_url() == f"http://{host}{path}" + (f"?{query}" if query else "")


@pytest.mark.parametrize(
    "target",
    [
        "ftp://a/",
        "http://user@a/",
        "http:///p",
        "http://a b/",
        "http://a,b/",
        "a:80",
        "mailto:a",
        "a",
    ],
)
def test_request_bad_absolute_form(target: str) -> None:
    """Another scheme, user information, no valid host, no URL: an HTTPInputError."""
    with pytest.raises(HTTPInputError, match="invalid request target"):
        make_request(target)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/http://a/?b=c://d"), ("OPTIONS", "*"), ("CONNECT", "host:443")],
)
def test_request_other_forms(method: str, target: str) -> None:
    """All other forms leave the host to the Host field."""
    request = make_request(target, method)
    assert request.host == "example.com"
    assert request.path == target.partition("?")[0]


def test_request_missing_or_repeated_host() -> None:
    """HTTP/1.1 needs exactly one Host; HTTP/1.0 may go without."""
    with pytest.raises(HTTPInputError, match="missing Host"):
        HTTPServerRequest("GET", "/", "HTTP/1.1")
    assert HTTPServerRequest("GET", "/", "HTTP/1.0").host == "127.0.0.1"
    headers = HTTPHeaders()
    headers.add("Host", "a")
    headers.add("Host", "a")
    with pytest.raises(HTTPInputError, match="multiple Host"):
        HTTPServerRequest("GET", "/", "HTTP/1.1", headers)


def test_request_cookies() -> None:
    """Cookies are a SimpleCookie, without the names that it refuses."""
    request = make_request(Cookie='a=b; bad name=x; c="d e"')
    assert {name: morsel.value for name, morsel in request.cookies.items()} == {
        "a": "b",
        "c": "d e",
    }
    assert request.cookies is request.cookies


def test_request_repr_hides_headers_and_body() -> None:
    """The repr shows neither headers nor body."""
    headers = HTTPHeaders({"Host": "a", "Authorization": "secret"})
    request = HTTPServerRequest("GET", "/x", "HTTP/1.1", headers, b"secret")
    assert repr(request) == (
        "HTTPServerRequest(protocol='http', host='a', method='GET', uri='/x', "
        "version='HTTP/1.1', remote_ip=None)"
    )


def test_request_form() -> None:
    """Arguments of the body join those of the query; they may be changed, as any dict."""
    content_type = "application/x-www-form-urlencoded"
    request = make_request("/?a=1", "POST", **{"Content-Type": content_type})
    request.body = b"a=2&b=3"
    assert request.arguments == {"a": [b"1", b"2"], "b": [b"3"]}
    assert request.body_arguments == {"a": [b"2"], "b": [b"3"]}
    assert request.query_arguments == {"a": [b"1"]}
    assert request.files == {}
    request.arguments["c"] = [b"4"]
    assert request.arguments["c"] == [b"4"]
    request.body_arguments = {}
    assert request.body_arguments == {}


def test_request_files() -> None:
    """Files of the body join those that the request was made with."""
    files = {"a": [HTTPFile(filename="x", body=b"1", content_type="text/plain")]}
    request = HTTPServerRequest(
        "POST",
        headers=HTTPHeaders({"Content-Type": "multipart/form-data; boundary=B"}),
        body=part('form-data; name="b"; filename="y"', b"2") + END,
        files=files,
    )
    assert {name: file.body for name, (file,) in request.files.items()} == {"a": b"1", "b": b"2"}
    assert request.body_arguments == {}


def test_a_malformed_form_is_refused_when_it_is_asked_for() -> None:
    """Each time, and not before; what else the request has is not touched by it."""
    headers = HTTPHeaders({"Content-Type": "multipart/form-data; boundary=B"})
    request = HTTPServerRequest("POST", "/?a=1", headers=headers, body=b"--C--\r\n")
    for name in ("arguments", "body_arguments", "files", "arguments"):
        with pytest.raises(HTTPInputError, match="does not start with its boundary"):
            getattr(request, name)
    assert request.query_arguments == {"a": [b"1"]}
    request.body = b""
    assert request.arguments == {"a": [b"1"]}


def test_query_of_too_many_arguments() -> None:
    """A query of 1,000 arguments is parsed, one of 1,001 refused."""
    assert len(make_request("/?" + "&".join(["a=1"] * 1000)).arguments["a"]) == 1000
    with pytest.raises(HTTPInputError, match="more than 1000 arguments in the query"):
        make_request("/?" + "&".join(["a=1"] * 1001))


def test_http_file() -> None:
    """A file's items are attributes as well."""
    file = HTTPFile(filename="a", body=b"b", content_type="c")
    assert (file.filename, file["body"], file.content_type) == ("a", b"b", "c")
    file.body = b"x"
    assert file["body"] == b"x"
    with pytest.raises(AttributeError):
        file.other  # type: ignore[attr-defined]  # noqa: B018
    assert copy.deepcopy(file) == file == pickle.loads(pickle.dumps(file))


# -- bodies of forms

Parsed = tuple[dict[str, list[bytes]], dict[str, list[HTTPFile]]]
URLENCODED = "application/x-www-form-urlencoded"


def parse_body(content_type: str, body: bytes, headers: HTTPHeaders | None = None) -> Parsed:
    arguments: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    parse_body_arguments(content_type, body, arguments, files, headers)
    return arguments, files


def parse_multipart(body: bytes, boundary: bytes = b"B") -> Parsed:
    arguments: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    parse_multipart_form_data(boundary, body, arguments, files)
    return arguments, files


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (URLENCODED, b"a=1&b=&c&a=2", {"a": [b"1", b"2"], "b": [b""], "c": [b""]}),
        (URLENCODED + "; charset=utf-8", b"a=%ff+%2b", {"a": [b"\xff +"]}),
        (
            "Application/X-WWW-Form-Urlencoded",
            b"\xe9=\xff&%zz=%",
            {"\xe9": [b"\xff"], "%zz": [b"%"]},
        ),
        (URLENCODED, b"", {}),
        (URLENCODED, b"&&=x&", {"": [b"x"]}),
        (URLENCODED + "x", b"a=1", {}),
        ("text/plain", b"a=1", {}),
        ("", b"a=1", {}),
    ],
)
def test_urlencoded(content_type: str, body: bytes, expected: dict[str, list[bytes]]) -> None:
    """Forms are parsed by media type; values are bytes, names Latin-1."""
    assert parse_body(content_type, body) == (expected, {})


def test_form_of_too_many_arguments() -> None:
    """A form of 1,000 arguments is parsed, one of 1,001 refused."""
    assert len(parse_body(URLENCODED, b"&".join([b"a=1"] * 1000))[0]["a"]) == 1000
    with pytest.raises(HTTPInputError, match="more than 1000 arguments in the form"):
        parse_body(URLENCODED, b"&".join([b"a=1"] * 1001))


def test_form_of_too_many_bytes() -> None:
    """A urlencoded form of 10 MiB is parsed, one of a byte more refused."""
    body = b"a=" + b"x" * (10 * 1024 * 1024 - 2)
    assert len(parse_body(URLENCODED, body)[0]["a"][0]) == len(body) - 2
    with pytest.raises(HTTPInputError, match="form of 10485761 bytes, more than 10485760"):
        parse_body(URLENCODED, body + b"x")


def test_percent_decoding_is_that_of_urllib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is escaped, and wherever a block ends."""
    monkeypatch.setattr(httputil, "_BLOCK", 4)
    random = Random(1)
    alphabet = (b"%", b"%", b"%41", b"%3d", b"%ff", b"a", b"F", b"=", b"\r\n", b"_", b" ", b"\xff")
    for _ in range(5_000):
        data = b"".join(random.choices(alphabet, k=random.randrange(12)))
        assert httputil._unquote(data) == unquote_to_bytes(data), data


@pytest.mark.parametrize("piece", [b"%41", b"a%41", b"%", b"%4", b"=", b"+"])
def test_a_form_takes_memory_of_its_size(piece: bytes) -> None:
    """A few copies of it, and not an object for each escape."""
    body = b"a=" + piece * (2**20 // len(piece))
    tracemalloc.start()
    try:
        parse_body(URLENCODED, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(body)


def test_encoded_form_is_refused() -> None:
    """A form under a Content-Encoding is refused; other bodies are not looked at."""
    headers = HTTPHeaders({"Content-Encoding": "gzip"})
    with pytest.raises(HTTPInputError, match="Content-Encoding 'gzip'"):
        parse_body(URLENCODED, b"a=1", headers)
    assert parse_body("text/plain", b"a=1", headers) == ({}, {})


def part(disposition: str, body: bytes = b"v", *more: str) -> bytes:
    lines = [f"Content-Disposition: {disposition}", *more]
    head = "".join(f"{line}\r\n" for line in lines).encode()
    return b"--B\r\n" + head + b"\r\n" + body + b"\r\n"


END = b"--B--\r\n"


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        (part('form-data; name="a"') + END, {"a": [b"v"]}),
        (part('form-data; name="a"') + b"--B--", {"a": [b"v"]}),
        (part('form-data; name="a"') + END + b"epilogue", {"a": [b"v"]}),
        (part("form-data; name=a") + END, {"a": [b"v"]}),
        (part('Form-Data ; NAME = "a" ;') + END, {"a": [b"v"]}),
        (part('form-data; name="a"', b"") + END, {"a": [b""]}),
        (part('form-data; name="a"', b"\r\n--\r\n-B\r\n") + END, {"a": [b"\r\n--\r\n-B\r\n"]}),
        (part('form-data; name="a;b=c"') + END, {"a;b=c": [b"v"]}),
        (part('form-data; name="a\\"b\\\\"') + END, {'a"b\\': [b"v"]}),
        (part('form-data; name="é"') + END, {"é": [b"v"]}),
        (part('form-data; name="a"; filename=""') + END, {"a": [b"v"]}),
        (
            part('form-data; name="a"') + part('form-data; name="a"', b"w") + END,
            {"a": [b"v", b"w"]},
        ),
        (END, {}),
        (b"--B--", {}),
    ],
)
def test_multipart_arguments(body: bytes, arguments: dict[str, list[bytes]]) -> None:
    """Parts without a filename are arguments."""
    assert parse_multipart(body) == (arguments, {})


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="f"; filename="a b.txt"', "a b.txt"),
        ('form-data; filename="a.txt"; name="f"', "a.txt"),
        ("form-data; name=f; filename=a.txt", "a.txt"),
        ('form-data; name="f"; filename="C:\\dir\\a.txt"', "C:\\dir\\a.txt"),
        ('form-data; name="f"; filename="é;\\".txt"', 'é;".txt'),
        ("form-data; name=\"f\"; filename*=UTF-8''%e2%82%ac.txt", "€.txt"),
        ("form-data; name=\"f\"; filename=x; filename*=iso-8859-1'en'%e9", "é"),
    ],
)
def test_multipart_files(disposition: str, filename: str) -> None:
    """Parts with a filename are files."""
    arguments, files = parse_multipart(part(disposition, b"body", "Content-Type: image/png") + END)
    assert arguments == {}
    expected = HTTPFile(filename=filename, body=b"body", content_type="image/png")
    assert files == {"f": [expected]}


def test_multipart_file_without_content_type() -> None:
    """A file without a type is of an unknown one."""
    _, files = parse_multipart(part('form-data; name="f"; filename="a"') + END)
    assert files["f"][0].content_type == "application/unknown"


GOOD = part('form-data; name="a"') + END


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"preamble\r\n" + GOOD,
        GOOD.replace(b"\r\n", b"\n"),
        GOOD[: -len(END)],
        GOOD.replace(b"--B--", b"--B"),
        GOOD.replace(b"\r\n--B--", b"--B--"),
        GOOD.replace(b"--B\r\n", b"--B \r\n"),
        GOOD.replace(b"--B\r\n", b"--Bx\r\n"),
        GOOD.replace(b"v\r\n", b"v\r\n--Bx y\r\n"),
        GOOD.replace(b"\r\n\r\n", b"\r\n"),
        GOOD.replace(b"\r\n\r\nv", b"\r\n folded\r\n\r\nv"),
        b"--B\r\n\r\nv\r\n--B--",
        b"--B\r\n--B--",
        b"--B\r\nX: y\r\n\r\nv\r\n--B--",
        part('attachment; name="a"') + END,
        part('form-data; name=""') + END,
        part("form-data") + END,
        part('form-data; name="a') + END,
        part('form-data; name="a"b') + END,
        part('form-data; name="a"; name="b"') + END,
        part('form-data; name="a" filename="b"') + END,
        part('form-data; name="a"; filename="\xff"').replace(b"\xc3\xbf", b"\xff") + END,
        part("form-data; name=\"a\"; filename*=UTF-8''%ff") + END,
        part("form-data; name=\"a\"; filename*=utf-7''a") + END,
        part('form-data; name="a"; filename*=a') + END,
    ],
)
def test_multipart_refused(body: bytes) -> None:
    """Anything that parsers might read in two ways is an HTTPInputError."""
    with pytest.raises(HTTPInputError):
        parse_multipart(body)


def test_multipart_failure_changes_nothing() -> None:
    """A body that is refused at its last part has added no argument before."""
    arguments: dict[str, list[bytes]] = {}
    body = part('form-data; name="a"') + part("form-data") + END
    with pytest.raises(HTTPInputError):
        parse_multipart_form_data(b"B", body, arguments, {})
    assert arguments == {}


def test_multipart_bounds() -> None:
    """100 parts are parsed and 101 refused; the headers of a part may take 10 KiB."""
    one = part('form-data; name="a"')
    assert len(parse_multipart(one * 100 + END)[0]["a"]) == 100
    with pytest.raises(HTTPInputError, match="more than 100 parts"):
        parse_multipart(one * 101 + END)
    big = part('form-data; name="a"', b"v", "X: " + "y" * 10_000)
    assert parse_multipart(big + END)[0] == {"a": [b"v"]}
    big = part('form-data; name="a"', b"v", "X: " + "y" * 10_240)
    with pytest.raises(HTTPInputError, match="within 10240 bytes"):
        parse_multipart(big + END)


@pytest.mark.parametrize("boundary", ["B", '"B"', "B; charset=x"])
def test_multipart_by_content_type(boundary: str) -> None:
    """The boundary is found in the Content-Type, quoted or not, in any case."""
    assert parse_body(f"Multipart/Form-Data; Boundary={boundary}", GOOD) == ({"a": [b"v"]}, {})


@pytest.mark.parametrize("size", [0, 71])
def test_multipart_boundary_size(size: int) -> None:
    """A boundary of no byte, or of more than 70, is refused even where the body goes by it."""
    boundary = b"B" * size
    with pytest.raises(HTTPInputError, match=f"boundary of {size} bytes"):
        parse_multipart(GOOD.replace(b"--B", b"--" + boundary), boundary)
    boundary = b"B" * 70
    assert parse_multipart(GOOD.replace(b"--B", b"--" + boundary), boundary)[0] == {"a": [b"v"]}


def test_multipart_quoted_boundary() -> None:
    """parse_multipart_form_data() takes a boundary that is still quoted."""
    assert parse_multipart(GOOD, b'"B"') == ({"a": [b"v"]}, {})


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=B; boundary=C",
    ],
)
def test_multipart_bad_boundary(content_type: str) -> None:
    """A missing, empty, repeated or too long boundary is an HTTPInputError."""
    with pytest.raises(HTTPInputError):
        parse_body(content_type, GOOD)


def test_forms_are_parsed_in_linear_time() -> None:
    """Bodies made to be slow cost linear time (CVE-2025-67726)."""

    def refused(body: Callable[[int], bytes]) -> Callable[[int], None]:
        def run(count: int) -> None:
            with pytest.raises(HTTPInputError):
                parse_multipart(body(count))

        return run

    assert_linear(refused(lambda count: b"--B\r\n" * count), 20_000)
    assert_linear(refused(lambda count: b"--B\r\n" + b"\r\n-" * count), 200_000)
    assert_linear(
        lambda count: parse_multipart(part("form-data; name=a", b"x" * count) + END), 10**6
    )
    for tail in (";" * 10, ' ;a="', "\\", '"', "; a=" + "b;" * 10):
        # Not through a part, whose headers are bounded.
        def parse(count: int, tail: str = tail) -> None:
            try:
                httputil._parse_parameters("form-data" + tail * count)
            except HTTPInputError:
                pass

        assert_linear(parse, 2_000)
    for piece in (b"%41+", b"%", b"%4", b"="):
        assert_linear(lambda count, p=piece: parse_body(URLENCODED, b"a=" + p * count), 50_000)


# -- interfaces


def test_delegates() -> None:
    """Message delegates do nothing unless told; connections and servers must be implemented."""
    line = ResponseStartLine("HTTP/1.1", 200, "OK")
    delegate = HTTPMessageDelegate()
    assert delegate.headers_received(line, HTTPHeaders()) is None
    assert delegate.data_received(b"") is None
    delegate.finish()
    delegate.on_connection_close()
    HTTPServerConnectionDelegate().on_close(object())
    connection = HTTPConnection()
    for call in (
        lambda: HTTPServerConnectionDelegate().start_request(object(), connection),
        lambda: connection.write_headers(line, HTTPHeaders()),
        lambda: connection.write(b""),
        connection.finish,
    ):
        with pytest.raises(NotImplementedError):
            call()
