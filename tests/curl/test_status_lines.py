"""Status lines that libcurl lets through."""

from __future__ import annotations

from typing import Any

import pycurl
import pytest

from whimbrel.httpclient import HTTPProtocolError
from whimbrel.testing.scripted import ScriptedServer, canned, ok


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "line",
    [b"HTTP/1.1\t200 404 OK", b"HTTP/1.1\t101 200 OK", b"HTTP/1.1\t304 200 OK", b"HTTP/1.1\t200"],
)
async def test_no_tab_before_the_code(curl_client: Any, line: bytes, streamed: bool) -> None:
    """libcurl takes the first number for the code, and who splits at spaces the second."""
    arguments = {"streaming_callback": lambda chunk: None} if streamed else {}
    answer = line + b"\r\nContent-Length: 2\r\n\r\nok"
    async with ScriptedServer(canned(answer)) as server:
        with pytest.raises(HTTPProtocolError):
            await curl_client.fetch(server.url(), **arguments)


async def test_another_protocols_name(curl_client: Any) -> None:
    """A caller may let libcurl take it."""
    async with ScriptedServer(canned(b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok")) as server:
        response = await curl_client.fetch(
            server.url(),
            prepare_curl_callback=lambda easy: easy.setopt(pycurl.HTTP200ALIASES, ["ICY 200"]),
        )
        assert (response.code, response.body) == (200, b"ok")


async def test_no_head_at_all(curl_client: Any) -> None:
    """A caller may let libcurl take HTTP/0.9."""
    async with ScriptedServer(canned(b"hello world\n")) as server:
        with pytest.raises(HTTPProtocolError, match="status line"):
            await curl_client.fetch(
                server.url(),
                prepare_curl_callback=lambda easy: easy.setopt(pycurl.HTTP09_ALLOWED, 1),
            )
    async with ScriptedServer(canned(ok())) as server:
        assert (await curl_client.fetch(server.url())).code == 200
