"""params=, json=, form=, response.json() and response.text."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from whimbrel.httpclient import HTTPRequest
from whimbrel.testing.scripted import ScriptedServer, canned, ok


@pytest.mark.parametrize(
    ("path", "params", "target"),
    [
        ("/", {"a": "1"}, "/?a=1"),
        ("/", {"a": "1", "b": "2"}, "/?a=1&b=2"),
        ("/", [("a", "1"), ("a", "2")], "/?a=1&a=2"),
        ("/?x=0", {"a": "1"}, "/?x=0&a=1"),
        ("/?x=0#frag", {"a": "1"}, "/?x=0&a=1"),
        ("/#frag", {"a": "1"}, "/?a=1"),
        ("", {"a": "1"}, "/?a=1"),
        ("/", {"q": "a b&c=d/\u20ac"}, "/?q=a+b%26c%3Dd%2F%E2%82%AC"),
        ("/", {"n": 5, "f": 1.5}, "/?n=5&f=1.5"),
        ("/", {"empty": ""}, "/?empty="),
        ("/?x", {"a": "1"}, "/?x=&a=1"),
        ("/?keep=%2F", {}, "/?keep=%2F"),
        ("/?keep=%2F", None, "/?keep=%2F"),
    ],
)
async def test_params(client: Any, path: str, params: Any, target: str) -> None:
    """params are appended to the query, in order, percent-encoded; the fragment is left out."""
    async with ScriptedServer(canned(ok())) as server:
        response = await client.fetch(server.url(path), params=params)
    assert server.requests[0].target == target
    assert response.request.url == server.url(path)


async def test_params_of_redirects(client: Any) -> None:
    """params belong to the first URL; a redirect's Location says where it goes by itself."""
    answer = b"HTTP/1.1 302 F\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n"

    async with ScriptedServer(canned(answer)) as server:
        await client.fetch(server.url(), params={"a": "1"}, max_redirects=1, raise_error=False)
    assert [request.target for request in server.requests] == ["/?a=1", "/end"]


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [True, None, 1.5]},
        [1, 2],
        "text",
        0,
        False,
        {},
        [],
        "",
        {"\u20ac": "\u00fc\U0001f600"},
    ],
    ids=str,
)
async def test_json(client: Any, value: Any) -> None:
    """json= sends the value as JSON in UTF-8 with its Content-Type; falsy values are values."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method="POST", json=value)
    (request,) = server.requests
    assert json.loads(request.body.decode("utf-8")) == value
    assert request.get_all("Content-Type") == ["application/json"]
    assert request.get("Content-Length") == str(len(request.body))


async def test_json_keeps_a_callers_content_type(client: Any) -> None:
    """A caller's Content-Type stays, in whatever case it is written."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(
            server.url(), method="PATCH", json={}, headers={"content-type": "application/x+json"}
        )
    assert server.requests[0].get_all("Content-Type") == ["application/x+json"]


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ({"a": "1", "b": "x y"}, b"a=1&b=x+y"),
        ([("a", "1"), ("a", "2")], b"a=1&a=2"),
        ({"a": ["1", "2"]}, b"a=1&a=2"),
        ({"k": "\u20ac&="}, b"k=%E2%82%AC%26%3D"),
        ({"n": 5, "raw": b"\xff"}, b"n=5&raw=%FF"),
        ({}, b""),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_form(client: Any, form: Any, body: bytes, method: str) -> None:
    """form= sends application/x-www-form-urlencoded, whatever the method."""
    async with ScriptedServer(canned(ok())) as server:
        await client.fetch(server.url(), method=method, form=form)
    assert server.requests[0].body == body
    assert server.requests[0].get_all("Content-Type") == ["application/x-www-form-urlencoded"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ([b"x", None], "None"),
        ({"b": "c"}, "a dict"),
        ({"b"}, "a set"),
        (io.BytesIO(b"content"), "a BytesIO"),
        (bytearray(b"x"), "a bytearray"),
        ([["nested"]], "a list"),
    ],
    ids=["none", "none in a list", "dict", "set", "file", "bytearray", "nested list"],
)
@pytest.mark.parametrize("field", ["params", "form"])
async def test_values_that_have_no_text(client: Any, field: str, value: Any, shown: str) -> None:
    """None, files and containers are refused: nobody wants "None" or a repr to be sent."""
    body = {"body": b""} if field == "params" else {}
    async with ScriptedServer(canned(ok())) as server:
        for pairs in ({"name": value}, [("name", value)]):
            with pytest.raises(ValueError, match=f"^{field} has {shown} as the value of 'name'"):
                await client.fetch(server.url(), method="POST", **body, **{field: pairs})
        assert server.connections == []


async def test_conveniences_in_a_request_object(client: Any) -> None:
    """HTTPRequest takes them as well, and may be fetched again."""
    async with ScriptedServer(canned(ok())) as server:
        request = HTTPRequest(server.url(), "POST", params={"a": "1"}, json={"b": 2})
        for _ in range(2):
            await client.fetch(request)
    assert [(r.target, r.body) for r in server.requests] == [("/?a=1", b'{"b":2}')] * 2


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=utf-8", "caf\xe9".encode(), "caf\xe9"),
        ("text/plain; charset=ISO-8859-1", b"caf\xe9", "caf\xe9"),
        ('text/plain; format=flowed; CHARSET="latin-1"', b"caf\xe9", "caf\xe9"),
        ("text/plain", "\u20ac".encode(), "\u20ac"),
        ("application/octet-stream", b"\xff", "\ufffd"),
        ("text/plain; charset=no-such", "\u20ac".encode(), "\u20ac"),
        ("text/plain; charset=utf-8", b"bad \xff", "bad \ufffd"),
        ("text/plain; charset=utf-16-le", "hi".encode("utf-16-le"), "hi"),
        (None, b"plain", "plain"),
        # Codecs that make no text, or other text than a charset does, are no charsets.
        ("text/plain; charset=base64", b"aGk=", "aGk="),
        ("text/plain; charset=rot13", b"uryyb", "uryyb"),
        ("text/plain; charset=idna", b"xn--a", "xn--a"),
        ("text/plain; charset=undefined", b"text", "text"),
    ],
)
async def test_text(client: Any, content_type: str | None, body: bytes, text: str) -> None:
    """response.text decodes by the charset given, else UTF-8; it never raises."""
    headers = [] if content_type is None else [f"Content-Type: {content_type}"]
    async with ScriptedServer(canned(ok(body, *headers))) as server:
        response = await client.fetch(server.url())
    assert response.text == text
    assert response.body == body


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-8-sig"])
async def test_response_json(client: Any, encoding: str) -> None:
    """response.json() parses the body, in any of JSON's encodings."""
    value = {"a": [1, "\u20ac"]}
    body = json.dumps(value, ensure_ascii=False).encode(encoding)
    async with ScriptedServer(canned(ok(body))) as server:
        response = await client.fetch(server.url())
    assert response.json() == value
    assert response.json() == value


@pytest.mark.parametrize("body", [b"", b"not json", b'{"cut":', b"\xff\xfe\xfd"])
async def test_response_json_of_something_else(client: Any, body: bytes) -> None:
    """response.json() raises ValueError when the body is none."""
    async with ScriptedServer(canned(ok(body))) as server:
        response = await client.fetch(server.url())
    with pytest.raises(ValueError):
        response.json()
