"""What several files of the suite need: expected bytes, encodings, digest, memory, settling."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from whimbrel import __version__
from whimbrel.httpclient import HTTPError
from whimbrel.testing.scripted import RecordedRequest, ScriptedServer

MB = 1024 * 1024

FORM = b"Content-Type: application/x-www-form-urlencoded"
CHUNKED = b"Transfer-Encoding: chunked"

# brotli, by hand so that the suite needs no encoder: "hello brotli " * 40, and 64 MB of zeros.
BROTLI_TEXT = b"hello brotli " * 40
BROTLI = bytes.fromhex("1b0702f81da9539fbb702d5686262741d8e8922ded2d088c06aecd8c5f00")
BROTLI_BOMB_SIZE = 64 * MB
BROTLI_BOMB = base64.b64decode(
    "y///P/gnAOKxQCD3/o///3/wTwDEYRGA7v0f////4J8AiMMCAN37P/7//8E/ARCHBQC693/8//+DfwIg"
    "DgsAdO//+P//B/8EQBwWAOje//H//w/+CYA4LADQvf/L//8//BMAcVgAoHv/Bw=="
)


# -- exact bytes


def expected(request_line: str, server: ScriptedServer, *fields: bytes) -> bytes:
    """Return the request head that `sorted_head` is to give: the usual fields and `fields`.

    ``Accept-Encoding`` stands without its value: what it may hold is tested apart.
    """
    usual = [
        f"Host: {server.address}".encode(),
        f"User-Agent: whimbrel/{__version__}".encode(),
        b"Accept-Encoding: *",
    ]
    return b"\r\n".join([request_line.encode(), *sorted([*usual, *fields])])


def sorted_head(request: RecordedRequest) -> bytes:
    """Return the head of `request` with its fields in the order of their bytes."""
    head = re.sub(
        rb"\r\nAccept-Encoding: [a-z, ]+\r\n", b"\r\nAccept-Encoding: *\r\n", request.raw_head
    )
    line, *fields = head[:-4].split(b"\r\n")
    return b"\r\n".join([line, *sorted(fields)])


def basic(username: str, password: str) -> str:
    """Return the value of an Authorization field (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


# -- digest authentication, the server's side


def challenge(nonce: str = "n0nce", extra: str = "") -> str:
    """Return a Digest challenge (RFC 7616 section 3.3) without its field name."""
    return f'Digest realm="whim", nonce="{nonce}", qop="auth", algorithm=MD5{extra}'


def check_digest(value: str | None, request: RecordedRequest, username: str, password: str) -> None:
    """Assert that `value` is the right answer to `challenge` for `request` (section 3.4).

    For a request to a proxy its URI may be the path alone, as libcurl has it: proxies accept it.
    """
    assert value is not None
    assert value.startswith("Digest ")
    given = {
        key: quoted or bare
        for key, quoted, bare in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))', value)
    }

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    assert given["username"] == username
    path = re.sub(r"^http://[^/]*", "", request.target)
    assert given["uri"] in (request.target, path)
    assert given["qop"] == "auth"
    secret = md5(f"{username}:{given['realm']}:{password}")
    action = md5(f"{request.method}:{given['uri']}")
    assert given["response"] == md5(
        f"{secret}:{given['nonce']}:{given['nc']}:{given['cnonce']}:{given['qop']}:{action}"
    )


# -- encodings


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header, which some servers send as "deflate"."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def gzip_bomb(size: int) -> bytes:
    """A gzip member that decodes to `size` zeros (a multiple of a megabyte)."""
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    pieces = [compressor.compress(bytes(MB)) for _ in range(size // MB)]
    return b"".join([*pieces, compressor.flush()])


def gzipped(data: bytes) -> bytes:
    """A gzip member that is the same at every run."""
    return gzip.compress(data, mtime=0)


class FlushingGzip:
    """Gzip whose every piece can be decoded when it arrives."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)

    def piece(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._compressor.flush()


# -- memory and progress


class Peak:
    """Peak resident memory during a block, in bytes above what was resident before it."""

    above = 0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure `Peak.above` over the block, C allocations included (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts again from here
    before = _status("VmRSS")
    peak = Peak()
    yield peak
    peak.above = _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        found = re.search(rf"^{name}:\s+(\d+) kB$", file.read(), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024


async def settled(progress: Callable[[], int], quiet: float = 0.2) -> int:
    """Wait until `progress()` has not changed for `quiet` seconds; return it."""
    loop = asyncio.get_running_loop()
    last, since = progress(), loop.time()
    while loop.time() - since < quiet:
        await asyncio.sleep(quiet / 20)
        now = progress()
        if now != last:
            last, since = now, loop.time()
    return last


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds, where nothing tells of it; the test's limit bounds it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def error_of(fetch: Awaitable[object]) -> HTTPError:
    """Await a fetch that is to fail without a response, and return its error."""
    with pytest.raises(HTTPError) as caught:
        await fetch
    error = caught.value
    assert error.code == 599, error
    assert error.response is None or error.response.code == 599
    return error
