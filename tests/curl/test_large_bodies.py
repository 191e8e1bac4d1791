"""What a caller's own options may do to a large body."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from typing import Any

import pycurl
import pytest

from whimbrel._curl.large_body import LargeBody
from whimbrel.httpclient import HTTPError, HTTPLimitError
from whimbrel.testing.scripted import Peer, ScriptedServer, ok, routes

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


@pytest.mark.parametrize("how", ["cancel", "cut", "raise"])
async def test_nothing_is_remembered_of_one_that_was_given_up(curl_client: Any, how: str) -> None:
    """Its connection is closed, and there is nothing left to be distrusted."""
    body = os.urandom(8 * MB)
    taken = 0

    def take(chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)
        if how == "raise" and taken >= 4 * MB:
            raise KeyError(taken)

    def low_water() -> Any:
        bodies = [done.__self__._large for done in curl_client._driver._transfers.values()]
        return [body._low_water for body in bodies if body is not None]

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(ok(body)[: 2 * MB])
        await until(lambda: any(low_water()))
        if how == "cancel":
            fetch.cancel()
        await peer.send(body[: 4 * MB])
        if how == "raise":
            await peer.closed()

    async with ScriptedServer(handler) as server:
        for _ in range(2):
            taken = 0
            fetch = curl_client.fetch(server.url(), streaming_callback=take)
            with pytest.raises((asyncio.CancelledError, HTTPError, KeyError)):
                await fetch
    assert not curl_client._tainted


@pytest.mark.parametrize("how", ["cancel", "raise"])
async def test_a_callback_that_gives_up_is_not_called_again(
    curl_client: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nor does libcurl go on reading what nobody wants, of which there may be 20 MB."""
    handed_over: list[int] = []
    take_pieces = LargeBody._take

    def noting(self: LargeBody, on_data: Any) -> Any:
        def noted(chunk: bytes) -> Any:
            handed_over.append(len(chunk))
            return on_data(chunk)

        return take_pieces(self, noted)

    monkeypatch.setattr(LargeBody, "_take", noting)

    def take(chunk: bytes) -> None:
        if handed_over and how == "cancel":
            fetch.cancel()
        elif handed_over:
            raise KeyError("enough")

    async with ScriptedServer(routes({"/": ok(bytes(64 * MB))})) as server:
        fetch = curl_client.fetch(server.url(), streaming_callback=take)
        with pytest.raises(asyncio.CancelledError if how == "cancel" else KeyError):
            await fetch
        await server.connections[0].closed()
        assert len(handed_over) == 1
        assert (await curl_client.fetch(server.url())).code == 200


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_callback_that_ends_another_fetch(curl_client: Any, how: str) -> None:
    """Of that no more is delivered, though its socket is the next to be served."""
    answer = ok(bytes(64 * MB))
    first = answer[: 4 * MB]
    body_of_first = 4 * MB - (len(answer) - 64 * MB)
    taken = [0, 0]
    ended: set[int] = set()
    late: list[int] = []

    def taker(number: int) -> Callable[[bytes], None]:
        def take(chunk: bytes) -> None:
            taken[number] += len(chunk)
            if number in ended:
                late.append(len(chunk))
            elif sum(taken) > 2 * body_of_first and not ended:
                if how == "cancel":
                    ended.add(1 - number)
                    fetches[1 - number].cancel()
                else:
                    ended.update((0, 1))
                    curl_client.close()

        return take

    peers: list[Peer] = []

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(first)
        peers.append(peer)
        await peer.closed()

    async with ScriptedServer(handler) as server:
        fetches = [
            curl_client.fetch(server.url(), streaming_callback=taker(number)) for number in (0, 1)
        ]
        await until(lambda: sum(taken) == 2 * body_of_first and len(peers) == 2)
        # Both sockets become ready in one turn.
        sent = [peer.send(bytes(256 * 1024)) for peer in peers]
        await asyncio.gather(*sent, return_exceptions=True)
        await until(lambda: bool(ended))
        await until(lambda: any(fetch.done() for fetch in fetches))
        for _ in range(5):
            await asyncio.sleep(0)
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
    assert not late


async def test_the_next_one_is_looked_at_from_its_head_on(curl_client: Any) -> None:
    """Of a large body that is delivered, what comes behind the first pieces is not."""
    small = ok(gzip.compress(b"small"), "Content-Encoding: gzip")
    async with ScriptedServer(routes({"/large": ok(bytes(8 * MB)), "/small": small})) as server:
        for _ in range(2):
            large: list[bytes] = []
            await curl_client.fetch(server.url("/large"), streaming_callback=large.append)
            assert b"".join(large) == bytes(8 * MB)
            pieces: list[bytes] = []
            await curl_client.fetch(server.url("/small"), streaming_callback=pieces.append)
            assert pieces == [b"small"]


async def test_the_next_one_has_the_usual_buffer(
    curl_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle that took a large body in large pieces does not do so for ever."""
    sizes: list[int] = []
    original = pycurl.Curl

    class Noting(original):  # type: ignore[misc, valid-type]
        def setopt(self, option: int, value: Any) -> None:
            super().setopt(option, value)
            if option == pycurl.BUFFERSIZE:
                sizes.append(value)

    monkeypatch.setattr(pycurl, "Curl", Noting)
    async with ScriptedServer(routes({"/": ok(os.urandom(8 * MB)), "/small": ok()})) as server:

        def fetch(path: str) -> Any:
            return curl_client.fetch(server.url(path), streaming_callback=lambda chunk: None)

        await fetch("/small")
        usual = sizes[-1]
        await fetch("/")
        if max(sizes) == usual:
            pytest.skip("this libcurl refuses it on a handle in use")
        assert sizes[-1] == usual
        count = len(sizes)
        await fetch("/small")
        assert len(sizes) == count  # it is the same handle, whose options were not set anew
