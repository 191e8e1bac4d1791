"""Everyday requests against httpbin, over plain TCP and TLS."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable

import pytest

from whimbrel.httpclient import AsyncHTTPClient, HTTPClientError, HTTPTimeoutError

from .support import MakeClient, Origin, each_version


async def test_get(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(
        client, "/get", params={"a": "1 & 2", "ü": "ß"}, headers={"X-Token": "t"}
    )
    seen = response.json()
    assert response.code == 200
    assert response.reason == ("OK" if not origin.secure else response.reason)
    assert seen["args"] == {"a": "1 & 2", "ü": "ß"}
    assert seen["headers"]["X-Token"] == "t"
    assert seen["headers"]["User-Agent"].startswith("whimbrel/")
    assert response.headers["Content-Type"] == "application/json"
    assert response.effective_url.startswith(origin.url + "/get?")
    assert response.text == response.body.decode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_body(client: AsyncHTTPClient, origin: Origin, method: str) -> None:
    body = "snowman ☃".encode() * 10_000
    response = await origin.fetch(
        client,
        f"/{method.lower()}",
        method=method,
        body=body,
        headers={"Content-Type": "text/plain; charset=utf-8"},
    )
    seen = response.json()
    assert seen["data"] == body.decode()
    assert seen["headers"]["Content-Length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_empty_body(client: AsyncHTTPClient, origin: Origin, method: str) -> None:
    response = await origin.fetch(client, f"/{method.lower()}", method=method, body=b"")
    assert response.json()["data"] == ""
    assert response.json()["headers"]["Content-Length"] == "0"


async def test_form(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/post", method="POST", form={"a": "1 & 2", "b": "ü"})
    assert response.json()["form"] == {"a": "1 & 2", "b": "ü"}


async def test_json(client: AsyncHTTPClient, origin: Origin) -> None:
    document = {"a": [1, None, "ü"]}
    response = await origin.fetch(client, "/post", method="POST", json=document)
    assert response.json()["json"] == document


async def test_delete(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/delete", method="DELETE")
    assert response.json()["url"].endswith("/delete")


async def test_head(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/get", method="HEAD")
    assert response.code == 200
    assert response.body == b""
    assert int(response.headers["Content-Length"]) > 0
    # The length announced was for a body that never came: the next request is not confused by it.
    assert (await origin.fetch(client, "/get")).json()["url"].endswith("/get")


async def test_body_producer_with_length(client: AsyncHTTPClient, origin: Origin) -> None:
    pieces = [bytes([65 + number % 26]) * 4096 for number in range(50)]

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        for piece in pieces:
            await write(piece)

    response = await origin.fetch(
        client,
        "/post",
        method="POST",
        body_producer=produce,
        headers={"Content-Length": str(50 * 4096), "Content-Type": "text/plain"},
    )
    assert response.json()["data"] == b"".join(pieces).decode()


@pytest.mark.parametrize("origin", ["tls"], indirect=True)  # httpbin's own server takes no chunks
@each_version
async def test_body_producer_of_unknown_length(
    client: AsyncHTTPClient, origin: Origin, http_version: str
) -> None:
    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        for _ in range(50):
            await write(b"chunk of unknown length. ")

    response = await origin.fetch(
        client,
        "/post",
        method="POST",
        body_producer=produce,
        http_version=http_version,
        headers={"Content-Type": "text/plain"},
    )
    assert response.json()["data"] == "chunk of unknown length. " * 50
    assert response.http_version == http_version


async def test_redirects_are_followed(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/relative-redirect/3")
    assert response.code == 200
    assert response.effective_url == origin.url + "/get"
    assert len(response.history) == 3


async def test_redirect_limit(client: AsyncHTTPClient, origin: Origin) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, "/relative-redirect/3", max_redirects=2)
    assert caught.value.code == 302
    assert caught.value.response is not None
    assert caught.value.response.effective_url == origin.url + "/relative-redirect/1"
    assert (await origin.fetch(client, "/relative-redirect/3", max_redirects=3)).code == 200


async def test_redirect_not_followed(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(
        client, "/relative-redirect/3", follow_redirects=False, raise_error=False
    )
    assert response.code == 302
    assert response.headers["Location"] == "/relative-redirect/2"


@pytest.mark.parametrize(
    ("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
)
async def test_redirected_post(
    client: AsyncHTTPClient, origin: Origin, status: int, method: str
) -> None:
    response = await origin.fetch(
        client,
        "/redirect-to",
        params={"url": "/anything", "status_code": str(status)},
        method="POST",
        body=b"kept or dropped",
        headers={"Content-Type": "text/plain"},
    )
    seen = response.json()
    assert seen["method"] == method
    assert seen["data"] == ("kept or dropped" if method == "POST" else "")
    assert seen["headers"].get("Content-Type") == ("text/plain" if method == "POST" else None)


@pytest.mark.parametrize(
    ("path", "flag", "coding"),
    [
        ("/gzip", "gzipped", "gzip"),
        ("/deflate", "deflated", "deflate"),
        ("/brotli", "brotli", "br"),
    ],
)
async def test_content_coding(
    client: AsyncHTTPClient, origin: Origin, path: str, flag: str, coding: str
) -> None:
    response = await origin.fetch(client, path)
    assert response.json()[flag] is True
    assert "Content-Encoding" not in response.headers
    assert response.headers["X-Consumed-Content-Encoding"] == coding
    assert "Content-Length" not in response.headers


async def test_content_coding_left_alone(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/gzip", decompress_response=False)
    assert response.headers["Content-Encoding"] == "gzip"
    seen = json.loads(gzip.decompress(response.body))
    assert seen["gzipped"] is True
    assert "Accept-Encoding" not in seen["headers"]


@pytest.mark.parametrize("status", [304, 400, 404, 418, 500, 503])
async def test_status_is_raised(client: AsyncHTTPClient, origin: Origin, status: int) -> None:
    with pytest.raises(HTTPClientError) as caught:
        await origin.fetch(client, f"/status/{status}")
    assert caught.value.code == status
    response = await origin.fetch(client, f"/status/{status}", raise_error=False)
    assert response.code == status
    assert isinstance(response.error, HTTPClientError)


async def test_streaming_callback(client: AsyncHTTPClient, origin: Origin) -> None:
    chunks: list[bytes] = []
    response = await origin.fetch(client, "/stream/20", streaming_callback=chunks.append)
    lines = b"".join(chunks).splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(20))
    assert response.body == b""


async def test_coroutine_streaming_callback(client: AsyncHTTPClient, origin: Origin) -> None:
    chunks: list[bytes] = []

    async def consume(chunk: bytes) -> None:
        chunks.append(chunk)

    await origin.fetch(client, "/bytes/50000", params={"seed": "1"}, streaming_callback=consume)
    whole = await origin.fetch(client, "/bytes/50000", params={"seed": "1"})
    assert len(whole.body) == 50_000
    assert b"".join(chunks) == whole.body


async def test_stream(client: AsyncHTTPClient, origin: Origin) -> None:
    async with client.stream(origin.url + "/stream/20", **origin.options) as response:
        assert response.code == 200
        assert response.headers["Content-Type"] == "application/json"
        body = b"".join([chunk async for chunk in response])
    assert [json.loads(line)["id"] for line in body.splitlines()] == list(range(20))


async def test_stream_read(client: AsyncHTTPClient, origin: Origin) -> None:
    async with client.stream(origin.url + "/gzip", **origin.options) as response:
        assert json.loads(await response.read())["gzipped"] is True


async def test_streams_follow_redirects(client: AsyncHTTPClient, seen_origin: Origin) -> None:
    """A redirect that has a body of its own: none of it reaches the consumer."""
    chunks: list[bytes] = []
    response = await seen_origin.fetch(client, "/moved", streaming_callback=chunks.append)
    assert response.effective_url == seen_origin.url + "/seen"
    assert json.loads(b"".join(chunks))["connection"]

    async with client.stream(seen_origin.url + "/moved", **seen_origin.options) as streamed:
        assert streamed.effective_url == seen_origin.url + "/seen"
        assert json.loads(await streamed.read())["connection"]


async def test_stream_left_early(make_client: MakeClient, origin: Origin) -> None:
    client = make_client(max_clients=1)
    url = origin.url + "/drip?duration=60&numbytes=60&delay=0"
    async with client.stream(url, **origin.options) as response:
        async for chunk in response:
            assert chunk == b"*"
            break
    # The one slot is free again, and nothing of the old body is in the next.
    assert (await origin.fetch(client, "/get")).json()["url"].endswith("/get")


async def test_header_callback(client: AsyncHTTPClient, origin: Origin) -> None:
    lines: list[str] = []
    response = await origin.fetch(client, "/relative-redirect/1", header_callback=lines.append)
    assert lines[0].startswith("HTTP/")
    assert " 200" in lines[0]
    assert lines[-1] == "\r\n"
    assert len([line for line in lines if line.startswith("HTTP/")]) == 1
    assert response.headers["Content-Type"] == "application/json"


async def test_request_timeout(client: AsyncHTTPClient, origin: Origin) -> None:
    with pytest.raises(HTTPTimeoutError) as caught:
        await origin.fetch(client, "/delay/10", request_timeout=0.3)
    assert caught.value.stage == "response"
    assert caught.value.code == 599
    assert isinstance(caught.value, TimeoutError)
    assert (await origin.fetch(client, "/get")).code == 200


async def test_time_info(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(client, "/delay/1")
    times = response.time_info
    phases = ["namelookup", "connect", "appconnect", "pretransfer", "starttransfer", "total"]
    if not origin.secure:
        assert times["appconnect"] == 0
        phases.remove("appconnect")
    assert [times[phase] for phase in phases] == sorted(times[phase] for phase in phases)
    assert 0 <= times["queue"] < 1
    assert times["redirect"] == 0
    assert times["pretransfer"] < 1 <= times["starttransfer"]
    assert response.request_time == pytest.approx(times["total"], abs=0.2)
    assert response.start_time > 0


async def test_time_info_of_redirects(client: AsyncHTTPClient, origin: Origin) -> None:
    response = await origin.fetch(
        client, "/redirect-to", params={"url": "/delay/1", "status_code": "302"}
    )
    assert response.time_info["redirect"] > 0
    assert response.request_time >= 1


async def test_cookies(make_client: MakeClient, origin: Origin) -> None:
    with_jar, without = make_client(cookies=True), make_client()
    for client, expected in ((with_jar, {"flavour": "oat"}), (without, {})):
        response = await origin.fetch(client, "/cookies/set", params={"flavour": "oat"})
        assert response.effective_url == origin.url + "/cookies"
        assert response.json()["cookies"] == expected
        assert (await origin.fetch(client, "/cookies")).json()["cookies"] == expected
