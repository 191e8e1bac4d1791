"""What bad input gets: a ValueError that names the field, before a socket opens. Matrix 62, 63."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from whimbrel.httpclient import HTTPError, HTTPRequest
from whimbrel.httputil import HTTPHeaders
from whimbrel.testing.scripted import ScriptedServer, canned, ok

from .support import basic

CONTROL = [chr(code) for code in range(0x20)] + ["\x7f"]
NO_TAB = [byte for byte in CONTROL if byte != "\t"]

Arguments = Callable[[str, str], dict[str, Any]]
"""From (address of a live server, text with the bad byte) to the arguments of a fetch."""


def _headers(name: str, value: str) -> HTTPHeaders:
    headers = HTTPHeaders()
    headers[name] = value
    return headers


# case: (word that names the field, bytes that are refused, arguments).
STRINGS: dict[str, tuple[str, list[str], Arguments]] = {
    "method": (
        "method",
        CONTROL,
        lambda address, text: {"method": text, "allow_nonstandard_methods": True},
    ),
    "url": ("url", CONTROL, lambda address, text: {"request": f"http://{address}/{text}"}),
    "url query": ("url", CONTROL, lambda address, text: {"request": f"http://{address}/?{text}"}),
    "url fragment": (
        "url",
        CONTROL,
        lambda address, text: {"request": f"http://{address}/#{text}"},
    ),
    "url host": ("url", CONTROL, lambda address, text: {"request": f"http://{text}.test/"}),
    "url host encoded": (
        "url",
        CONTROL,
        lambda address, text: {"request": f"http://{_encode(text)}.test/"},
    ),
    "url port": ("url", CONTROL, lambda address, text: {"request": f"http://{address}{text}/"}),
    "url scheme": ("url", CONTROL, lambda address, text: {"request": f"{text}http://{address}/"}),
    "url user": ("url", CONTROL, lambda address, text: {"request": f"http://{text}:p@{address}/"}),
    "url user encoded": (
        "url",
        CONTROL,
        lambda address, text: {"request": f"http://{_encode(text)}:p@{address}/"},
    ),
    "url password encoded": (
        "url",
        CONTROL,
        lambda address, text: {"request": f"http://u:{_encode(text)}@{address}/"},
    ),
    "header name": ("header", CONTROL, lambda address, text: {"headers": {text: "x"}}),
    "header name in HTTPHeaders": (
        "header",
        CONTROL,
        lambda address, text: {"headers": _headers(text, "x")},
    ),
    "header value": ("X-Field", NO_TAB, lambda address, text: {"headers": {"X-Field": text}}),
    "header value as bytes": (
        "X-Field",
        NO_TAB,
        lambda address, text: {"headers": {"X-Field": text.encode()}},
    ),
    "header value in HTTPHeaders": (
        "X-Field",
        NO_TAB,
        lambda address, text: {"headers": _headers("X-Field", text)},
    ),
    "header value of a POST": (
        "X-Field",
        NO_TAB,
        lambda address, text: {"headers": {"X-Field": text}, "method": "POST", "body": b"x"},
    ),
    "cookie header": ("Cookie", NO_TAB, lambda address, text: {"headers": {"Cookie": text}}),
    "host header": ("Host", NO_TAB, lambda address, text: {"headers": {"Host": text}}),
    "user-agent header": (
        "User-Agent",
        NO_TAB,
        lambda address, text: {"headers": {"User-Agent": text}},
    ),
    "user_agent": ("user_agent", NO_TAB, lambda address, text: {"user_agent": text}),
    "auth_username": (
        "auth_username",
        CONTROL,
        lambda address, text: {"auth_username": text, "auth_password": "p"},
    ),
    "auth_password": (
        "auth_password",
        CONTROL,
        lambda address, text: {"auth_username": "u", "auth_password": text},
    ),
    "auth_username of digest": (
        "auth_username",
        CONTROL,
        lambda address, text: {
            "auth_username": text,
            "auth_password": "p",
            "auth_mode": "digest",
        },
    ),
    "auth_password of digest": (
        "auth_password",
        CONTROL,
        lambda address, text: {
            "auth_username": "u",
            "auth_password": text,
            "auth_mode": "digest",
        },
    ),
    "auth_token": (
        "auth_token",
        NO_TAB,
        lambda address, text: {"auth_mode": "bearer", "auth_token": text},
    ),
    "auth_mode": (
        "auth_mode",
        CONTROL,
        lambda address, text: {"auth_mode": text, "auth_username": "u", "auth_password": "p"},
    ),
    "proxy": ("proxy", CONTROL, lambda address, text: {"proxy": f"http://{address}{text}"}),
    "proxy host": ("proxy", CONTROL, lambda address, text: {"proxy": f"http://{text}.test:80"}),
    "proxy user": ("proxy", CONTROL, lambda address, text: {"proxy": f"http://{text}:p@{address}"}),
    "proxy user encoded": (
        "proxy",
        CONTROL,
        lambda address, text: {"proxy": f"http://{_encode(text)}:p@{address}"},
    ),
    "proxy password encoded": (
        "proxy",
        CONTROL,
        lambda address, text: {"proxy": f"socks5://u:{_encode(text)}@{address}"},
    ),
    "proxy_host": (
        "proxy_host",
        CONTROL,
        lambda address, text: {"proxy_host": text, "proxy_port": 80},
    ),
    "proxy_username": (
        "proxy_username",
        CONTROL,
        lambda address, text: _proxied(address, proxy_username=text, proxy_password="p"),
    ),
    "proxy_password": (
        "proxy_password",
        CONTROL,
        lambda address, text: _proxied(address, proxy_username="u", proxy_password=text),
    ),
    "proxy_auth_mode": (
        "proxy_auth_mode",
        CONTROL,
        lambda address, text: _proxied(address, proxy_auth_mode=text),
    ),
    "network_interface": (
        "network_interface",
        CONTROL,
        lambda address, text: {"network_interface": text},
    ),
    "unix_socket": ("unix_socket", CONTROL, lambda address, text: {"unix_socket": text}),
    "http_version": ("http_version", CONTROL, lambda address, text: {"http_version": text}),
    "ca_certs": (
        "ca_certs",
        CONTROL,
        lambda address, text: {"request": f"https://{address}/", "ca_certs": text},
    ),
    "client_cert": (
        "client_cert",
        CONTROL,
        lambda address, text: {"request": f"https://{address}/", "client_cert": text},
    ),
    "client_key": (
        "client_key",
        CONTROL,
        lambda address, text: {
            "request": f"https://{address}/",
            "client_cert": "cert.pem",
            "client_key": text,
        },
    ),
}


def _encode(text: str) -> str:
    return "".join(f"%{ord(c):02x}" if c in CONTROL else c for c in text)


def _proxied(address: str, **arguments: Any) -> dict[str, Any]:
    host, _, port = address.partition(":")
    return {"proxy_host": host, "proxy_port": int(port), **arguments}


@pytest.mark.parametrize("case", STRINGS)
async def test_matrix_62_control_bytes(client: Any, case: str) -> None:
    """Matrix 62: a control byte in any caller string is a ValueError naming it, and no socket."""
    field, refused, arguments = STRINGS[case]
    async with ScriptedServer(canned(ok())) as server:
        for byte in refused:
            # First and last are where a parser might strip, CRLF is what an attacker sends.
            texts = [f"a{byte}b", f"{byte}ab", f"ab{byte}"]
            if byte == "\r":
                texts.append("a\r\nX-Injected: yes\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
            for text in texts:
                given = {"request": server.url(), **arguments(server.address, text)}
                with pytest.raises(ValueError) as caught:
                    await client.fetch(given.pop("request"), **given)
                message = str(caught.value).lower()
                assert field.lower() in message, (text, message)
                assert not any(control in message for control in CONTROL), (text, message)
        assert server.connections == []


async def test_tab_is_allowed_inside_a_value(client: Any) -> None:
    """The one control byte that a header value may hold is a tab inside it."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), headers={"X-Field": "a\tb"}, user_agent="u\ta")
    assert server.requests[0].get("X-Field") == "a\tb"
    assert server.requests[0].get("User-Agent") == "u\ta"


async def test_control_bytes_in_defaults(make_client: Any) -> None:
    """Matrix 62: strings from the client's defaults are checked as well."""
    for defaults in ({"user_agent": "a\nb"}, {"headers": {"X-A": "a\r\nb: c"}}, {"proxy": "h\n:1"}):
        async with ScriptedServer(canned(ok())) as server:
            with pytest.raises(ValueError):
                await make_client(defaults=defaults).fetch(server.url())
            assert server.connections == []


async def test_control_bytes_in_the_environment(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix 62: a proxy variable with a control byte is refused, naming the variable."""
    async with ScriptedServer(canned(ok())) as server:
        monkeypatch.setenv("http_proxy", f"http://{server.address}\r\nX: y")
        with pytest.raises(ValueError, match="http_proxy"):
            await make_client(trust_env=True).fetch("http://origin.test/")
        assert server.connections == []


async def test_control_bytes_in_params_form_and_json_are_encoded(client: Any) -> None:
    """What is encoded anyway needs no refusal: params, form and json take any text."""
    text = "a\r\nb\x00\x7f"
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), params={text: text})
        await client.fetch(server.url(), method="POST", form={text: text})
        await client.fetch(server.url(), method="POST", json={text: text})
    assert server.requests[0].target == "/?a%0D%0Ab%00%7F=a%0D%0Ab%00%7F"
    assert server.requests[1].body == b"a%0D%0Ab%00%7F=a%0D%0Ab%00%7F"
    assert b"\r" not in server.requests[2].body


async def test_redirect_location_with_control_bytes(client: Any) -> None:
    """Matrix 62: what a server puts into Location cannot smuggle either."""
    async with ScriptedServer(canned(ok())) as trap:
        for byte in "\x01\x0b\x1f\x7f":
            answer = (
                f"HTTP/1.1 302 F\r\nLocation: {trap.url()}a{byte}b\r\nContent-Length: 0\r\n\r\n"
            )
            async with ScriptedServer(canned(answer.encode("latin-1"))) as server:
                with pytest.raises((HTTPError, ValueError)):
                    await client.fetch(server.url(), raise_error=False)
        assert trap.connections == []


@pytest.mark.parametrize(
    "value",
    ["\u20ac", "\u0100", "\ud800", "a\u2028b"],
    ids=["euro", "A-macron", "lone", "line-sep"],
)
@pytest.mark.parametrize("field", ["headers", "user_agent", "auth_token"])
async def test_values_that_latin_1_cannot_carry(client: Any, field: str, value: str) -> None:
    """A header value outside Latin-1 is a ValueError naming it, not mangled text on the wire."""
    given: dict[str, Any] = {field: value}
    name = field
    if field == "headers":
        given, name = {"headers": {"X-Field": value}}, "X-Field"
    elif field == "auth_token":
        given["auth_mode"] = "bearer"
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match=name):
            await client.fetch(server.url(), **given)
        assert server.connections == []


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:b", ":a", "a/b", "caf\xe9", "a\x80", '"a"', "(a)"]
)
async def test_names_that_are_no_tokens(client: Any, name: str) -> None:
    """A header name or method that is no token (RFC 9110 section 5.6.2) is refused."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError, match="header"):
            await client.fetch(server.url(), headers={name: "x"})
        with pytest.raises(ValueError, match="method"):
            await client.fetch(server.url(), method=name, allow_nonstandard_methods=True)
        assert server.connections == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": b"http://a/"},
        {"url": 5},
        {"headers": {"X-A": 5}},
        {"headers": {"X-A": None}},
        {"headers": {5: "x"}},
        {"method": 5},
        {"user_agent": 5},
        {"auth_username": 5},
        {"auth_username": "u", "auth_password": 5},
        {"auth_mode": "bearer", "auth_token": 5},
        {"proxy": 5},
        {"proxy": True},
        {"proxy_host": "127.0.0.1"},
        {"proxy_host": "127.0.0.1", "proxy_port": "80"},
        {"proxy_host": "127.0.0.1", "proxy_port": 0},
        {"proxy_host": "127.0.0.1", "proxy_port": 65536},
        {"proxy_host": "127.0.0.1", "proxy_port": 80, "proxy_username": 5},
        {"network_interface": 5},
        {"network_interface": ""},
        {"unix_socket": ""},
        {"http_version": 2},
        {"http_version": "1.0"},
        {"max_redirects": -1},
        {"max_redirects": "5"},
        {"max_body_size": -1},
        {"max_body_size": "big"},
        {"if_modified_since": "yesterday"},
        {"body": 5, "method": "POST"},
        {"body": {"a": "b"}, "method": "POST"},
        {"body_producer": b"x", "method": "POST"},
        {"json": object(), "method": "POST"},
        {"json": float("nan"), "method": "POST"},
        {"proxy": "http://127.0.0.1:0"},
        {"proxy_auth_mode": "ntlm"},
        {"proxy_auth_mode": ["basic"]},
    ],
    ids=str,
)
async def test_values_of_the_wrong_kind(client: Any, arguments: dict[str, Any]) -> None:
    """A value of the wrong kind is a ValueError or TypeError through the future, and no socket."""
    arguments = dict(arguments)
    async with ScriptedServer(canned(ok())) as server:
        future = client.fetch(arguments.pop("url", server.url()), **arguments)
        with pytest.raises((ValueError, TypeError)):
            await future
        assert server.connections == []


FLAGS = [
    "allow_ipv6",
    "allow_nonstandard_methods",
    "decompress_response",
    "expect_100_continue",
    "follow_redirects",
    "use_gzip",
    "validate_cert",
]


@pytest.mark.parametrize("name", FLAGS)
async def test_switches_that_are_text(make_client: Any, name: str) -> None:
    """Text is no switch: "false", from a file perhaps, would count as true. 0 and 1 are."""
    shown = "decompress_response" if name == "use_gzip" else name
    async with ScriptedServer(canned(ok())) as server:
        for value in ("false", b"0"):
            with pytest.raises(ValueError, match=f"{shown} must be True or False, not {value!r}"):
                await make_client().fetch(server.url(), **{name: value})
            with pytest.raises(ValueError, match=shown):
                await make_client(defaults={name: value}).fetch(server.url())
        assert server.connections == []
        await make_client().fetch(server.url(), **{name: 1})
        await make_client().fetch(server.url(), **{name: 0})


async def test_raise_error_that_is_text(client: Any) -> None:
    """It is a switch as well, wherever it stands, and in a stream."""
    failed: asyncio.Queue[Any] = asyncio.Queue()
    async with ScriptedServer(canned(ok())) as server:
        message = "raise_error must be True or False, not 'false'"
        for request in (server.url(), HTTPRequest(server.url())):
            with pytest.raises(ValueError, match=message):
                await client.fetch(request, raise_error="false")
            with pytest.raises(ValueError, match=message):
                await client.fetch(request, None, "false")
            client.fetch(request, failed.put_nowait, "false")
            assert str((await failed.get()).error) == message
            with pytest.raises(ValueError, match=message):
                async with client.stream(request, raise_error="false"):
                    pass
        assert server.connections == []
        assert (await client.fetch(server.url(), raise_error=0)).code == 200


def test_every_switch_is_tested() -> None:
    hints = inspect.signature(HTTPRequest.__init__).parameters.values()
    assert sorted(p.name for p in hints if str(p.annotation).startswith("bool")) == FLAGS


async def _never_awaited(argument: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize("name", ["header_callback", "prepare_curl_callback", "streaming_callback"])
async def test_callbacks_that_are_none(client: Any, name: str) -> None:
    """A callback that cannot be called, or would not be awaited, is refused when it is given."""
    values: list[Any] = [5, "name", b"x"]
    if name != "streaming_callback":
        values.append(_never_awaited)
    async with ScriptedServer(canned(ok())) as server:
        for value in values:
            with pytest.raises(ValueError, match=f"^{name} must be"):
                await client.fetch(server.url(), **{name: value})
        assert server.connections == []


@pytest.mark.parametrize("arguments", [{}, {"proxy": "http://127.0.0.1:9"}], ids=str)
async def test_proxy_port_without_proxy_host(
    make_client: Any, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    """A port that would be ignored is refused; beside "" or False it says what it has to."""
    async with ScriptedServer(canned(ok())) as server:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        for client in (make_client(trust_env=False), make_client(trust_env=True)):
            with pytest.raises(ValueError, match="proxy_port needs proxy_host"):
                await client.fetch(server.url(), proxy_port=3128, **arguments)
        assert server.connections == []
        direct = make_client(trust_env=False)
        await direct.fetch(server.url(), proxy_port=3128, proxy_host="")
        await direct.fetch(server.url(), proxy_port=3128, proxy=False)


async def test_proxy_credentials_without_a_proxy(make_client: Any) -> None:
    """They may stand in the defaults for the requests that name a proxy; others ignore them."""
    client = make_client(defaults={"proxy_username": "u", "proxy_password": "p"}, trust_env=False)
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url())
        await client.fetch(server.url(), proxy_host=server.host, proxy_port=server.port)
    direct, proxied = server.requests
    assert direct.get("Proxy-Authorization") is None
    assert proxied.get("Proxy-Authorization") == basic("u", "p")


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///path",
        "http://:80/",
        "http://user@/",
        "http://a b/",
        "http://a_b..c/",
        "http://.a/",
        "http://[::1/",
        "http://::1/",
        "http://[zz]/",
        "http://a:b/",
        "http://a:-1/",
        "http://a:65536/",
        "http://a:8 0/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://0x.1.1.1.1.1/",
        "http://a\\b/",
        "http://a%2eb/",
        "http://a%00b/",
        "http://" + "a" * 300 + "/",
        "http://\u2f4a\uff0e\u2488com\ufffd/",
        "http:/127.0.0.1/",
        "http:127.0.0.1/",
        "://a/",
        "//a/",
        "",
        " ",
    ],
)
async def test_matrix_74_urls_that_are_none(client: Any, url: str) -> None:
    """Matrix 74, 75: a URL without one clear host is refused, and nothing is looked up."""
    with pytest.raises(ValueError, match=r"url|header|scheme"):
        await client.fetch(url)


# -- 63: framing and Host


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("Content-Length", "5")], {"body": b"four"}),
        ([("Content-Length", "3")], {"body": b"four"}),
        ([("Content-Length", "0")], {"body": b"four"}),
        ([("Content-Length", "4"), ("Content-Length", "5")], {"body": b"four"}),
        ([("Content-Length", "4, 4")], {"body": b"four"}),
        ([("Content-Length", "+4")], {"body": b"four"}),
        ([("Content-Length", "-4")], {"body": b"four"}),
        ([("Content-Length", "four")], {"body": b"four"}),
        ([("Content-Length", "")], {"body": b"four"}),
        ([("Content-Length", "4_0")], {"body": [b"four"]}),
        ([("Content-Length", "\xb2")], {"body": [b"four"]}),
        ([("Content-Length", "4"), ("Content-Length", "5")], {"body": [b"four"]}),
        ([("Transfer-Encoding", "chunked")], {"body": b"four"}),
        ([("Transfer-Encoding", "identity")], {"body": b"four"}),
        ([("Transfer-Encoding", "gzip, chunked")], {"body": [b"four"]}),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], {"body": [b"x"]}),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", "4")], {"body": [b"four"]}),
        ([("content-length", "4"), ("TRANSFER-ENCODING", "chunked")], {"body": b"four"}),
        ([("Transfer-Encoding", "xchunked")], {"body": [b"four"]}),
        ([("Host", "a"), ("Host", "b")], {"body": b"x"}),
        ([("Host", "a"), ("Host", "a")], {"body": b"x"}),
        ([("Host", "")], {"body": b"x"}),
        ([("Host", "a, b")], {"body": b"x"}),
        ([("Host", "u@a")], {"body": b"x"}),
        ([("Host", "a/b")], {"body": b"x"}),
        ([("Host", "a b")], {"body": b"x"}),
        ([("Expect", "200-ok")], {"body": b"x"}),
    ],
)
async def test_matrix_63_contradicting_framing(
    client: Any, headers: list[tuple[str, str]], body: dict[str, Any]
) -> None:
    """Matrix 63: contradicting Content-Length, Transfer-Encoding or Host are refused."""
    given = HTTPHeaders()
    for name, value in headers:
        given.add(name, value)
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError) as caught:
            await client.fetch(server.url(), method="PUT", headers=given, **body)
        assert headers[-1][0].lower() in str(caught.value).lower()
        assert server.connections == []


@pytest.mark.parametrize("headers", [{"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}])
async def test_matrix_63_framing_without_body(client: Any, headers: dict[str, str]) -> None:
    """Matrix 63: a length without a body is refused: the server would wait, or take the next."""
    async with ScriptedServer(canned(ok())) as server:
        with pytest.raises(ValueError):
            await client.fetch(server.url(), headers=headers)
        assert server.connections == []


async def test_matrix_63_agreeing_framing(client: Any) -> None:
    """Matrix 63: what agrees with the body is accepted, and sent once."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url(), method="PUT", body=b"four", headers={"content-length": "4"}
        )
        await client.fetch(
            server.url(), method="PUT", body=[b"four"], headers={"transfer-encoding": "chunked"}
        )
        await client.fetch(server.url(), headers={"Content-Length": "0"})
    first, second, third = server.requests
    assert first.get("Content-Length") == "4"
    assert second.get("Transfer-Encoding") == "chunked"
    assert second.get("Content-Length") is None
    assert (first.body, second.body, third.body) == (b"four", b"four", b"")


async def test_unknown_arguments(client: Any) -> None:
    """An argument that HTTPRequest does not have is a TypeError that names it."""
    with pytest.raises(TypeError, match="no_such_argument"):
        await client.fetch("http://127.0.0.1:9/", no_such_argument=1)


async def test_unknown_defaults(client_class: type[Any]) -> None:
    """A default that is no parameter is refused when the client is made."""
    with pytest.raises((ValueError, TypeError), match="no_such_argument"):
        client_class(force_instance=True, defaults={"no_such_argument": 1})
