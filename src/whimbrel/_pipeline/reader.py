"""Between a fetch that delivers chunks and the coroutine that reads them (`client.stream`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from whimbrel._pipeline.response import HTTPResponse, StreamedResponse, status_error
from whimbrel._streaming import ChunkQueue

if TYPE_CHECKING:
    from whimbrel._pipeline.fetch import Fetch

# How much decoded body may wait for the reader of a stream before the transfer is paused.
STREAM_BUFFER = 256 * 1024

_KNOWN_AT_THE_END = (
    "_times",
    "connection_id",
    "http_version",
    "local_address",
    "proxy_code",
    "proxy_headers",
    "queue_time",
    "redirect_time",
    "remote_address",
    "request_time",
    "reused",
)


class StreamReader:
    """Between a fetch that delivers chunks and the coroutine that reads them."""

    def __init__(self, fetch: Fetch, raise_error: bool) -> None:
        self._fetch = fetch
        self._raise_error = raise_error
        self._chunks = ChunkQueue(fetch.get_loop(), STREAM_BUFFER)
        self._response: StreamedResponse | None = None
        self.on_data = self._chunks.put
        fetch.add_done_callback(self._done)

    def on_head(self, response: HTTPResponse) -> None:
        """The fetch has status and headers."""
        response.__class__ = StreamedResponse
        assert isinstance(response, StreamedResponse)
        response._chunks = self._chunks
        self._response = response
        self._chunks.wake()

    def _done(self, fetch: asyncio.Future[HTTPResponse]) -> None:
        failure = None if fetch.cancelled() else fetch.exception()
        self._chunks.end(failure)

    def on_end(self, final: HTTPResponse) -> None:
        """The body is whole; `final` knows what the head did not: timings and addresses."""
        if self._response is not None:
            for name in _KNOWN_AT_THE_END:
                setattr(self._response, name, getattr(final, name))
            self._response.time_info = final.time_info

    async def start(self) -> StreamedResponse:
        """Wait for the head."""
        await self._chunks.changed(lambda: self._response is not None)
        response = self._response
        assert response is not None
        error = status_error(response)
        if error is not None and self._raise_error:
            raise error
        return response

    def leave(self) -> None:
        """Abort the transfer if it still runs."""
        self._chunks.abandon()
        self._fetch.cancel()


class Stream:
    """The context manager that :meth:`AsyncHTTPClient.stream` returns."""

    def __init__(self, start: Callable[[], StreamReader]) -> None:
        self._start = start
        self._reader: StreamReader | None = None

    async def __aenter__(self) -> StreamedResponse:
        if self._reader is not None:
            raise RuntimeError("a stream can be entered once")
        self._reader = self._start()
        try:
            return await self._reader.start()
        except BaseException:
            self._reader.leave()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._reader is not None
        self._reader.leave()

    def __await__(self) -> Generator[Any, None, NoReturn]:
        raise TypeError(
            "a stream is entered, not awaited: async with client.stream(...) as response"
        )
