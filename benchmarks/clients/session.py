"""What the work sees of a client: `Session`, and how one is opened."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

LONG_SECONDS: Final = 3600.0
"""For a large body, where a library's default, for the whole of a transfer, is soon over."""


class Options(NamedTuple):
    """What a session is opened for.

    Attributes:
        in_flight: requests that go on at a time; the client's own limits are raised to it.
        http2: speak HTTP/2 with https origins; HTTP/1.1 otherwise.
        proxy: ``http://host:port`` of a forward proxy for every request, with a CONNECT for https;
            None goes straight to the origin.
        ca_file: a PEM file with the only authority that is trusted; None is the client's default.
    """

    in_flight: int
    http2: bool = False
    proxy: str | None = None
    ca_file: str | None = None


Body = bytes | memoryview
"""What a library gives for a body: both have a length and are equal to the same bytes."""


class Download(NamedTuple):
    """A body that was thrown away as it came.

    Attributes:
        status: of the response.
        size: bytes of the body.
        first, last: the pieces that came first and last.
    """

    status: int
    size: int
    first: Body
    last: Body


class Session(Protocol):
    """A client that is open: connections are kept, and any number of calls go on at a time.

    What fails raises the library's own exception; a status never does.
    """

    async def get(self, url: str) -> tuple[int, Body]:
        """GET `url`; the status, and the body as a whole."""

    async def get_varied(self, url: str, headers: dict[str, str]) -> tuple[int, Body, str | None]:
        """GET `url` with `headers`; as :meth:`get`, and the response's header `REQUEST_ID`."""

    async def download(self, url: str) -> Download:
        """GET `url` and throw the body away as it comes."""

    async def post(self, url: str, body: bytes) -> tuple[int, Body]:
        """POST `body`; the status, and the body of the response."""

    async def post_chunks(self, url: str, chunk: bytes, count: int) -> tuple[int, Body]:
        """POST `count` times `chunk`, handed over piece by piece; as :meth:`post`.

        With a Content-Length where the library has a way to give one, chunked elsewhere.
        """
