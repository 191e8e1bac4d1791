"""What a backend does not have: refused in words, before anything is sent, with no after-effect.

The table of known differences says which; each of its entries that raises has its rows here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends import KNOWN_DIFFERENCES
from whimbrel.httpclient import HTTPClient, HTTPError, HTTPRequest
from whimbrel.testing.scripted import ScriptedServer, canned, ok, redirect, routes
from whimbrel.util import import_object

from .support import until

LACKING: dict[str, list[dict[str, Any]]] = {
    "http-2-and-3": [
        {"http_version": version} for version in ("2", "2-prior-knowledge", "3", "3-only")
    ],
    "negotiate": [
        {"auth_mode": "negotiate"},
        {"auth_mode": "negotiate", "auth_username": "u", "auth_password": "SECRET"},
        {"proxy": "PROXY", "proxy_auth_mode": "negotiate"},
        {"proxy": "PROXY", "proxy_username": "u", "proxy_auth_mode": "negotiate"},
    ],
    "prepare_curl_callback": [{"prepare_curl_callback": lambda curl: None}],
}
REFUSED = [
    pytest.param(entry.backend, entry.raises, arguments, id=f"{entry.backend}-{entry.name}-{n}")
    for entry in KNOWN_DIFFERENCES
    if entry.raises is not None
    for n, arguments in enumerate(LACKING[entry.name])
]
refused = pytest.mark.parametrize(("backend", "kind", "arguments"), REFUSED)


def _placed(arguments: dict[str, Any], proxy: ScriptedServer) -> dict[str, Any]:
    return {name: proxy.url("") if value == "PROXY" else value for name, value in arguments.items()}


def _says_who_can(error: BaseException, kind: type[BaseException], arguments: Any) -> None:
    """The class, what was asked for, who has it; no HTTPError, for nothing went wrong."""
    assert isinstance(error, kind)
    assert not isinstance(error, HTTPError)
    text = str(error)
    assert "whimbrel.curl_httpclient.CurlAsyncHTTPClient" in text
    assert "AsyncHTTPClient.configure" in text
    assert any(name in text for name in arguments)
    assert "SECRET" not in text


@refused
async def test_refused_before_anything_is_sent(
    make_client: Callable[..., Any], kind: type[Exception], arguments: dict[str, Any]
) -> None:
    """Not even a name is looked up; the slot is free, and the next fetch is sound."""
    client = make_client(max_clients=1)
    # https, since only there "3-only" is a request at all.
    target = "https://no-such-host.invalid/"
    async with ScriptedServer(canned(ok(b"next"))) as server:
        given = _placed(arguments, server)
        if given.get("http_version") is not None or "proxy" in given:
            urls = [target]
        else:
            urls = [target, server.url()]
        for url in urls:
            with pytest.raises(kind) as caught:
                await client.fetch(url, **given)
            _says_who_can(caught.value, kind, arguments)
            with pytest.raises(kind):
                await client.fetch(HTTPRequest(url, **given), raise_error=False)
            with pytest.raises(kind):
                async with client.stream(url, **given):
                    pass
        assert server.connections == []
        assert client._gate.active == 0
        assert (await client.fetch(server.url())).body == b"next"


@refused
async def test_refused_where_the_defaults_ask_for_it(
    make_client: Callable[..., Any], kind: type[Exception], arguments: dict[str, Any]
) -> None:
    """defaults are held to it as well, and a request may take it back."""
    async with ScriptedServer(canned(ok(b"plain"))) as server:
        given = _placed(arguments, server)
        client = make_client(defaults=given)
        with pytest.raises(kind):
            await client.fetch("https://no-such-host.invalid/")
        assert server.connections == []
        if "http_version" in given:
            assert (await client.fetch(server.url(), http_version="1.1")).body == b"plain"


@refused
async def test_refused_to_a_callback(
    make_client: Callable[..., Any], kind: type[Exception], arguments: dict[str, Any]
) -> None:
    """With callback= the refusal is the error of a response of code 599."""
    client = make_client()
    async with ScriptedServer(canned(ok())) as server:
        heard: list[Any] = []
        url = "https://no-such-host.invalid/"
        await client.fetch(url, callback=heard.append, **_placed(arguments, server))
        await until(lambda: heard)
        assert [response.code for response in heard] == [599]
        _says_who_can(heard[0].error, kind, arguments)


@refused
def test_refused_by_a_client_that_blocks(
    client_class: type[Any], kind: type[Exception], arguments: dict[str, Any]
) -> None:
    with HTTPClient(client_class, trust_env=False) as client:
        given = {
            name: "http://127.0.0.1:9" if value == "PROXY" else value
            for name, value in arguments.items()
        }
        with pytest.raises(kind) as caught:
            client.fetch("https://no-such-host.invalid/", **given)
        _says_who_can(caught.value, kind, arguments)


@pytest.mark.known_difference("prepare_curl_callback")
async def test_prepare_curl_callback_at_every_hop(client: Any) -> None:
    """What only libcurl has works there: the callback sees the handle of each hop."""
    handles: list[Any] = []
    table = {"/": redirect("/end"), "/end": ok(b"end")}
    async with ScriptedServer(routes(table)) as server:
        response = await client.fetch(server.url(), prepare_curl_callback=handles.append)
        assert response.body == b"end"
        assert [hasattr(handle, "setopt") for handle in handles] == [True, True]


def test_the_backend_that_is_named_exists() -> None:
    """The refusals' advice can be followed: the class, and the method that chooses it."""
    base: Any = import_object("whimbrel.AsyncHTTPClient")
    named = import_object("whimbrel.curl_httpclient.CurlAsyncHTTPClient")
    assert issubclass(named, base)
    assert callable(base.configure)
