"""pycurl.AsyncCurlMulti, bare: handles that are used again, and what came out of them.

No request or response objects, and headers only where they are asked for, as lines: less than a
client does, and so a mark for what pycurl's own loop costs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import pycurl

from benchmarks.clients.session import Download, Options
from benchmarks.servers.content import REQUEST_ID

# libcurl's own 16 KiB would mean as many calls of Python again; larger ones leave the cache.
_DOWNLOAD_BUFFER = 512 << 10
# The most that libcurl takes.
_UPLOAD_BUFFER = 2 << 20
_REQUEST_ID = f"{REQUEST_ID.lower()}:".encode()


class _Session:
    def __init__(self, multi: pycurl.AsyncCurlMulti, options: Options) -> None:
        self._multi = multi
        self._options = options
        self._idle: list[pycurl.Curl] = []

    async def get(self, url: str) -> tuple[int, bytes]:
        return await self._get(self._taken(), url)

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        curl = self._taken()
        lines: list[bytes] = []
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
        curl.setopt(pycurl.HEADERFUNCTION, lines.append)
        status, body = await self._get(curl, url)
        curl.unsetopt(pycurl.HTTPHEADER)
        curl.unsetopt(pycurl.HEADERFUNCTION)
        for line in lines:
            if line.lower().startswith(_REQUEST_ID):
                return status, body, line[len(_REQUEST_ID) :].strip().decode("latin-1")
        return status, body, None

    async def download(self, url: str) -> Download:
        size = 0
        first = last = b""

        def take(chunk: bytes) -> None:
            nonlocal size, first, last
            first = first or chunk
            last = chunk
            size += len(chunk)

        curl = self._new()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEFUNCTION, take)
        return Download(await self._once(curl), size, first, last)

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        curl = self._new()
        curl.setopt(pycurl.POSTFIELDS, body)
        return await self._upload(curl, url)

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, bytes]:
        curl = self._new()
        curl.setopt(pycurl.POST, True)
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(chunk) * count)
        curl.setopt(pycurl.READFUNCTION, _Chunks(chunk, count).read)
        return await self._upload(curl, url)

    def _taken(self) -> pycurl.Curl:
        """A handle that nobody uses; `_get` puts it back."""
        return self._idle.pop() if self._idle else self._new()

    async def _get(self, curl: pycurl.Curl, url: str) -> tuple[int, bytes]:
        body = BytesIO()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEDATA, body)
        await self._multi.add_handle(curl)
        self._idle.append(curl)
        return curl.getinfo(pycurl.RESPONSE_CODE), body.getvalue()

    async def _upload(self, curl: pycurl.Curl, url: str) -> tuple[int, bytes]:
        answer = BytesIO()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, _UPLOAD_BUFFER)
        # Or it waits up to a second for 100 Continue.
        curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
        curl.setopt(pycurl.WRITEDATA, answer)
        return await self._once(curl), answer.getvalue()

    async def _once(self, curl: pycurl.Curl) -> int:
        try:
            await self._multi.add_handle(curl)
            status: int = curl.getinfo(pycurl.RESPONSE_CODE)
            return status
        finally:
            curl.close()

    def _new(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        options = self._options
        curl.setopt(pycurl.BUFFERSIZE, _DOWNLOAD_BUFFER)
        if options.http2:
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
            # A request that could share a connection waits for the handshake instead.
            curl.setopt(pycurl.PIPEWAIT, 1)
        else:
            curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        if options.proxy is not None:
            curl.setopt(pycurl.PROXY, options.proxy)
        if options.ca_file is not None:
            curl.setopt(pycurl.CAINFO, options.ca_file)
        return curl

    def close(self) -> None:
        for curl in self._idle:
            curl.close()


class _Chunks:
    """A body of `count` times `chunk`, in the pieces that libcurl asks for."""

    def __init__(self, chunk: bytes, count: int) -> None:
        self._chunk = chunk
        self._count = count
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._rest:
            if not self._count:
                return b""
            self._count -= 1
            if len(self._chunk) <= size:
                return self._chunk
            self._rest = memoryview(self._chunk)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)


@asynccontextmanager
async def open_session(options: Options) -> AsyncIterator[_Session]:
    """Open a multi handle that keeps a connection for every request in flight."""
    async with pycurl.AsyncCurlMulti() as multi:
        multi.setopt(pycurl.M_MAXCONNECTS, max(options.in_flight, 4))
        session = _Session(multi, options)
        yield session
        session.close()
