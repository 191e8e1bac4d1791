"""What a caller's own options may do to a large body."""

from __future__ import annotations

import gzip
import os
from typing import Any

import pycurl
import pytest

from whimbrel.httpclient import HTTPLimitError
from whimbrel.testing.scripted import Peer, ScriptedServer, ok

from .support import until

MB = 1024 * 1024


@pytest.mark.parametrize("limit", [65 * MB, 16 * MB])
async def test_libcurl_may_decode_and_max_body_size_holds(curl_client: Any, limit: int) -> None:
    """Then Content-Length says nothing of how much will be written."""
    body = bytes(64 * MB) + os.urandom(512 * 1024)
    answer = ok(gzip.compress(body, 1), "Content-Encoding: gzip")

    def prepare(easy: pycurl.Curl) -> None:
        easy.setopt(pycurl.ACCEPT_ENCODING, "gzip")

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer[:4096])
        (done,) = curl_client._driver._transfers.values()
        transfer = done.__self__
        await until(lambda: not transfer._seems_small)
        await peer.send(answer[4096:])

    async with ScriptedServer(handler) as server:
        fetch = curl_client.fetch(
            server.url(),
            prepare_curl_callback=prepare,
            decompress_response=False,
            max_body_size=limit,
        )
        if limit > len(body):
            assert (await fetch).body == body
        else:
            with pytest.raises(HTTPLimitError):
                await fetch
