"""Servers and proxies that misbehave, each in one way, to see what a client makes of it.

    @pytest.mark.parametrize("name", ORIGIN_FAULTS)
    async def test_my_code_survives(name):
        async with ORIGIN_FAULTS[name].serve() as address:
            await my_code(f"http://{address}/")

Three tables: the faults of an origin, of an HTTP proxy that is asked for a tunnel, and of a SOCKS 5
proxy. `cut`, `drip`, `endless` and `over_and_over` make more: they are handlers for the
`ScriptedServer` of `whimbrel.testing.scripted`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple

from whimbrel.testing.scripted import (
    Handler,
    Peer,
    ScriptedServer,
    chunk,
    ok,
    redirect,
    refused_port,
    reply,
    silent,
    unaccepting_port,
)

Ending = Literal["close", "reset", "stall"]
"""What follows the last byte: the end of the connection (FIN), its breaking off (RST), or nothing
until the client leaves."""


class Fault(NamedTuple):
    """One way to misbehave.

    Attributes:
        description: what a client meets, in a sentence.
        handler: for a `ScriptedServer`; None where `port` is given.
        port: makes a port that does not get so far as to accept.
    """

    description: str
    handler: Handler | None = None
    port: Callable[[], AbstractContextManager[int]] | None = None

    @contextlib.asynccontextmanager
    async def serve(self, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Misbehave on a free port of 127.0.0.1 while the block lasts; gives ``host:port``.

        Args:
            ssl_context: a server-side context puts the fault above TLS; a `port` needs none.
        """
        if self.handler is not None:
            async with ScriptedServer(self.handler, ssl_context) as server:
                yield server.address
        elif self.port is not None:
            with self.port() as port:
                yield f"127.0.0.1:{port}"


# -- handlers


def cut(data: bytes, ending: Ending = "close") -> Handler:
    """Read a request, send `data`, and leave it at that."""

    async def handler(peer: Peer) -> None:
        await _read_request(peer)
        await peer.send(data)
        await _end(peer, ending)

    return handler


def drip(start: bytes, piece: bytes, seconds: float = 0.05) -> Handler:
    """Read a request, send `start`, then a byte of `piece`, over and over, every `seconds`."""

    async def handler(peer: Peer) -> None:
        await _read_request(peer)
        await peer.send(start)
        while True:
            await peer.send_slowly(piece, 1, seconds)

    return handler


def endless(start: bytes, piece: bytes) -> Handler:
    """Read a request, send `start`, then `piece` without end, as fast as the client takes it."""

    async def handler(peer: Peer) -> None:
        await _read_request(peer)
        await peer.send(start)
        while True:
            await peer.send(piece)
            # While the kernel takes it all at once, send() does not wait.
            await asyncio.sleep(0)

    return handler


def over_and_over(answer: Callable[[int], bytes]) -> Handler:
    """Answer every request with what `answer` makes of its number, counted from 1 on."""
    numbers = itertools.count(1)

    async def handler(peer: Peer) -> None:
        while True:
            await _read_request(peer)
            await peer.send(answer(next(numbers)))

    return handler


def socks5(answer: bytes, ending: Ending = "close") -> Handler:
    """Be a SOCKS 5 proxy (RFC 1928) without authentication that answers CONNECT with `answer`."""

    async def handler(peer: Peer) -> None:
        await _read_greeting(peer)
        await peer.send(b"\x05\x00")
        *_, kind = await peer.read_exactly(4)
        length = {1: 4, 4: 16}.get(kind) or (await peer.read_exactly(1))[0]
        await peer.read_exactly(length + 2)
        await peer.send(answer)
        await _end(peer, ending)

    return handler


def socks5_method(answer: bytes, ending: Ending = "close") -> Handler:
    """Be a SOCKS 5 proxy that answers the greeting with `answer`."""

    async def handler(peer: Peer) -> None:
        await _read_greeting(peer)
        await peer.send(answer)
        await _end(peer, ending)

    return handler


async def close_at_once(peer: Peer) -> None:
    """Close as soon as the connection is accepted."""


async def reset_at_once(peer: Peer) -> None:
    """Reset as soon as the connection is accepted."""
    peer.reset()


async def speak_first(peer: Peer) -> None:
    """Send a response before there is a request, and read what comes."""
    await peer.send(ok(b"too early"))
    await peer.closed()


async def reject_password(peer: Peer) -> None:
    """Be a SOCKS 5 proxy that wants user name and password (RFC 1929), and accepts none."""
    await _read_greeting(peer)
    await peer.send(b"\x05\x02")
    _, length = await peer.read_exactly(2)
    await peer.read_exactly(length)
    (length,) = await peer.read_exactly(1)
    await peer.read_exactly(length)
    await peer.send(b"\x01\x01")


async def _read_request(peer: Peer) -> None:
    request = await peer.read_head()
    if request.get("Expect") is not None:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await peer.read_body(request)


async def _read_greeting(peer: Peer) -> None:
    _, count = await peer.read_exactly(2)
    await peer.read_exactly(count)


async def _end(peer: Peer, ending: Ending) -> None:
    if ending == "reset":
        peer.reset()
    elif ending == "stall":
        await peer.closed()


# -- the tables

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
_TEN: Final = _HEAD + b"Content-Length: 10\r\n\r\n"
_CHUNKED: Final = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_GZIPPED: Final = gzip.compress(b"whimbrel" * 100, mtime=0)
_FIELD: Final = b"X-Endless: " + b"x" * 1000 + b"\r\n"
_INTERIMS: Final = b"HTTP/1.1 102 Processing\r\n\r\n" * 100
_TUNNEL: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_LETTERS: Final = b"x" * 64 * 1024


def _gzip_body(data: bytes) -> bytes:
    return ok(data, "Content-Encoding: gzip")


def _bomb() -> Handler:
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    # After a full flush the same input makes the same output: one piece will do for ever.
    first, again = (
        compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in "12"
    )
    return endless(_HEAD + b"Content-Encoding: gzip\r\n\r\n" + first, again)


def _challenges(status: str, field: str) -> dict[str, Fault]:
    def digest(number: int, stale: str = "") -> bytes:
        scheme = f'Digest realm="whimbrel", qop="auth", algorithm=MD5, nonce="{number}"{stale}'
        return reply(status, b"", f"{field}: {scheme}")

    return {
        "basic-forever": Fault(
            "Any Basic credentials are answered with the same challenge.",
            over_and_over(lambda _: reply(status, b"", f'{field}: Basic realm="whimbrel"')),
        ),
        "digest-forever": Fault(
            "Any Digest credentials are answered with a new challenge.", over_and_over(digest)
        ),
        "stale-forever": Fault(
            "Any Digest credentials are answered with a new nonce and stale=true.",
            over_and_over(lambda number: digest(number, ", stale=true")),
        ),
    }


_UNREACHABLE: Final = {
    "refuse": Fault("The connection is refused.", port=refused_port),
    "accept-never": Fault("The connection is never accepted.", port=unaccepting_port),
    "close-at-once": Fault("The connection is closed once it is accepted.", close_at_once),
    "reset-at-once": Fault("The connection is reset once it is accepted.", reset_at_once),
    "silence": Fault("The connection is accepted, and nothing ever comes.", silent),
}

ORIGIN_FAULTS: Final[dict[str, Fault]] = {
    **_UNREACHABLE,
    "eof-before-head": Fault("The connection ends where a response is due.", cut(b"")),
    "eof-in-status-line": Fault("It ends within the status line.", cut(b"HTTP/1.1 20")),
    "eof-in-head": Fault("It ends within the header block.", cut(_HEAD)),
    "eof-in-body": Fault("It ends before Content-Length is reached.", cut(_TEN + b"half")),
    "eof-in-chunk": Fault("It ends within a chunk.", cut(_CHUNKED + b"a\r\nhalf")),
    "eof-before-last-chunk": Fault("It ends between two chunks.", cut(_CHUNKED + chunk(b"half"))),
    "eof-in-gzip": Fault(
        "The body has the right length; its gzip data is cut short.", cut(_gzip_body(_GZIPPED[:-9]))
    ),
    "reset-before-head": Fault("A reset comes where a response is due.", cut(b"", "reset")),
    "reset-in-head": Fault("A reset comes within the header block.", cut(_HEAD, "reset")),
    "reset-in-body": Fault("A reset comes within the body.", cut(_TEN + b"half", "reset")),
    "stall-in-head": Fault("Nothing follows a part of the header block.", cut(_HEAD, "stall")),
    "stall-in-body": Fault("Nothing follows a part of the body.", cut(_TEN + b"half", "stall")),
    "drip-head": Fault("Header lines come byte by byte, without end.", drip(_HEAD, b"A: b\r\n")),
    "drip-body": Fault("The body comes byte by byte, without end.", drip(_HEAD + b"\r\n", b"x")),
    "garbage": Fault("What comes is not HTTP.", cut(b"\x16\x03\x01 whimbrel?\r\n\r\n")),
    "garbage-in-head": Fault("A header line has no colon.", cut(_HEAD + b"no colon\r\n\r\n")),
    "garbage-chunk": Fault("A chunk size is no number.", cut(_CHUNKED + b"many\r\nx\r\n0\r\n\r\n")),
    "garbage-gzip": Fault("The body says it is gzip, and is not.", cut(_gzip_body(b"not gzip"))),
    "speak-first": Fault("A response comes before the request.", speak_first),
    "surplus": Fault(
        "A second response follows that nobody asked for.",
        cut(ok(b"first") + ok(b"second"), "stall"),
    ),
    "endless-head": Fault("Header lines come without end.", endless(_HEAD, _FIELD)),
    "endless-body": Fault("The body has no end.", endless(_HEAD + b"\r\n", _LETTERS)),
    "endless-chunks": Fault("Chunks come without end.", endless(_CHUNKED, chunk(_LETTERS))),
    "endless-interim": Fault("Interim responses come without end.", endless(b"", _INTERIMS)),
    "endless-redirects": Fault(
        "Each request is redirected to the same place.", over_and_over(lambda _: redirect("/again"))
    ),
    "gzip-bomb": Fault("A gzip body expands a thousandfold, without end.", _bomb()),
    **_challenges("401 Unauthorized", "WWW-Authenticate"),
}
"""What an origin can do wrong, by name."""

PROXY_FAULTS: Final[dict[str, Fault]] = {
    **_UNREACHABLE,
    "302": Fault("CONNECT is answered with a redirect.", cut(redirect("http://127.0.0.1:9/"))),
    "403": Fault("CONNECT is forbidden.", cut(reply("403 Forbidden", b"no"))),
    "502": Fault("The origin is out of the proxy's reach.", cut(reply("502 Bad Gateway", b"no"))),
    "eof-before-reply": Fault("The connection ends where a reply is due.", cut(b"")),
    "eof-in-reply": Fault("It ends within the reply's header block.", cut(_TUNNEL[:-2])),
    "eof-after-reply": Fault("It ends when the tunnel is made.", cut(_TUNNEL)),
    "reset-before-reply": Fault("A reset comes where a reply is due.", cut(b"", "reset")),
    "reset-in-reply": Fault("A reset comes within the reply.", cut(_TUNNEL[:-2], "reset")),
    "reset-after-reply": Fault("A reset comes when the tunnel is made.", cut(_TUNNEL, "reset")),
    "stall-in-reply": Fault("Nothing follows a part of the reply.", cut(_TUNNEL[:-2], "stall")),
    "stall-after-reply": Fault("The tunnel is made, and nothing comes.", cut(_TUNNEL, "stall")),
    "drip": Fault("Header lines come byte by byte, without end.", drip(_TUNNEL[:-2], b"A: b\r\n")),
    "garbage": Fault("What comes is not HTTP.", cut(b"\x05\x00 whimbrel?\r\n\r\n")),
    "garbage-in-tunnel": Fault(
        "The tunnel is made, and what comes is not TLS.", cut(_TUNNEL + b"not TLS\r\n", "stall")
    ),
    "endless-head": Fault("Header lines come without end.", endless(_TUNNEL[:-2], _FIELD)),
    "endless-interim": Fault("Interim responses come without end.", endless(b"", _INTERIMS)),
    "endless-407": Fault(
        "The body of a 407 has no end.",
        endless(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n"
            b'Proxy-Authenticate: Basic realm="whimbrel"\r\n\r\n',
            _LETTERS,
        ),
    ),
    **_challenges("407 Proxy Authentication Required", "Proxy-Authenticate"),
}
"""What an HTTP proxy can do wrong in its answer to CONNECT, by name."""

_SOCKS_REPLIES: Final = (
    "general failure",
    "not allowed by its rules",
    "network unreachable",
    "host unreachable",
    "connection refused",
    "TTL expired",
    "command not supported",
    "address type not supported",
)
_REST: Final = b"\x00\x01" + bytes(6)  # reserved, and 0.0.0.0:0 as the bound address

SOCKS_FAULTS: Final[dict[str, Fault]] = {
    **_UNREACHABLE,
    "garbage": Fault("What comes is not SOCKS.", socks5_method(b"HTTP/1.1 400 Bad Request\r\n")),
    "no-method": Fault("No way of authentication is accepted.", socks5_method(b"\x05\xff")),
    "bad-method": Fault("A way is chosen that was not offered.", socks5_method(b"\x05\x7f")),
    "bad-password": Fault("User name and password are asked for and rejected.", reject_password),
    "eof-in-greeting": Fault("The connection ends within the greeting.", socks5_method(b"\x05")),
    "stall-in-greeting": Fault(
        "Nothing follows a part of the greeting.", socks5_method(b"\x05", "stall")
    ),
    **{
        f"reply-{code}": Fault(f"The proxy reports: {text}.", socks5(bytes((5, code)) + _REST))
        for code, text in enumerate(_SOCKS_REPLIES, 1)
    },
    "eof-before-reply": Fault("The connection ends where a reply is due.", socks5(b"")),
    "eof-in-reply": Fault("It ends within the reply.", socks5(b"\x05\x00\x00\x01")),
    "eof-after-reply": Fault("It ends when the connection is made.", socks5(b"\x05\x00" + _REST)),
    "reset-before-reply": Fault("A reset comes where a reply is due.", socks5(b"", "reset")),
    "stall-before-reply": Fault("No reply comes.", socks5(b"", "stall")),
    "stall-in-reply": Fault(
        "Nothing follows a part of the reply.", socks5(b"\x05\x00\x00\x01", "stall")
    ),
    "stall-after-reply": Fault(
        "The connection is made, and nothing comes.", socks5(b"\x05\x00" + _REST, "stall")
    ),
    "bad-address-type": Fault(
        "The reply holds an address of a type that there is not.",
        socks5(b"\x05\x00\x00\x09" + bytes(6), "stall"),
    ),
}
"""What a SOCKS 5 proxy can do wrong, by name."""
