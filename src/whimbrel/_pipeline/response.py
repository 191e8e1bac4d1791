"""HTTPResponse, and the one that is read while it arrives. Public in `whimbrel.httpclient`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from whimbrel._pipeline.errors import HTTPError
from whimbrel._pipeline.request import Asked, HTTPRequest
from whimbrel._policy.urls import redact
from whimbrel.httputil import HTTPHeaders, responses

if TYPE_CHECKING:
    from whimbrel._streaming import ChunkQueue


class HTTPResponse:
    """An HTTP response.

    Attributes: `request` (the caller's :class:`HTTPRequest`), `code`, `reason`, `headers`
    (:class:`~whimbrel.httputil.HTTPHeaders`), `effective_url` (after redirects), `buffer`
    (BytesIO at 0), `body` (bytes; ``b""`` without one), `text`, `error` (an exception, or None
    for a 2xx), `request_time` (seconds from the start to the end, without the queue),
    `start_time` (wall clock), `time_info` (seconds: queue, namelookup, connect, appconnect,
    pretransfer, starttransfer, total, redirect), `history` (the redirects that led here),
    `http_version` ("1.0", "1.1", "2" or "3"), `remote_address` and `local_address` (host and
    port), `connection_id`, `reused` (whether the connection had served before), `proxy` (URL
    without credentials), `proxy_code` and `proxy_headers` (of the proxy's answer to CONNECT).

    Headers, body, reason and timings are worked out when they are first looked at.
    """

    # Slots, because one is made for every request. What was never set is answered by __getattr__:
    # a default, or what is worked out on demand, from what a backend leaves for later: the final
    # header block, as it came (_block) or cut into lines (_lines), timings (_times), and what was
    # asked for (_asked), of which no request has been made yet.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_asked",
        "_block",
        "_decoded",
        "_lines",
        "_proxy_lines",
        "_times",
        "body",
        "buffer",
        "code",
        "connection_id",
        "effective_url",
        "error",
        "headers",
        "history",
        "http_version",
        "local_address",
        "proxy",
        "proxy_code",
        "proxy_headers",
        "queue_time",
        "reason",
        "redirect_time",
        "remote_address",
        "request",
        "request_time",
        "reused",
        "start_time",
        "time_info",
    )

    _asked: Asked
    _block: bytes
    _decoded: bool
    _lines: Sequence[bytes]
    _proxy_lines: Sequence[bytes] | None
    _times: tuple[float, ...] | None

    request: HTTPRequest
    code: int
    headers: HTTPHeaders
    buffer: BytesIO
    body: bytes
    reason: str
    effective_url: str
    error: BaseException | None
    request_time: float | None
    start_time: float | None
    queue_time: float
    redirect_time: float
    time_info: dict[str, float]
    history: Sequence[HTTPResponse]
    http_version: str | None
    remote_address: tuple[str, int] | None
    local_address: tuple[str, int] | None
    connection_id: int | None
    reused: bool
    proxy: str | None
    proxy_code: int | None
    proxy_headers: HTTPHeaders | None

    def __init__(
        self,
        request: HTTPRequest,
        code: int,
        headers: HTTPHeaders | None = None,
        buffer: BytesIO | None = None,
        effective_url: str | None = None,
        error: BaseException | None = None,
        request_time: float | None = None,
        time_info: dict[str, float] | None = None,
        reason: str | None = None,
        start_time: float | None = None,
    ) -> None:
        self.request = request
        self.code = code
        self.headers = headers if headers is not None else HTTPHeaders()
        if buffer is not None:
            self.buffer = buffer
        self.effective_url = request.url if effective_url is None else effective_url
        self.request_time = request_time
        self.time_info = time_info or {}
        self.reason = reason or responses.get(code, "Unknown")
        self.start_time = start_time
        if error is not None:
            self.error = error
        elif code < 200 or code >= 300:
            self.error = HTTPError(code, self.reason, self)

    @classmethod
    def failed(cls, error: BaseException, effective_url: str) -> HTTPResponse:
        """A backend's answer where there is none: code 599, and the error."""
        response = cls.__new__(cls)
        response.code = 599
        response.error = error
        response.effective_url = effective_url
        response.body = b""
        return response

    if not TYPE_CHECKING:  # or every misspelt attribute would pass the type checker

        def __getattr__(self, name: str) -> Any:
            if name in _DEFAULTS:
                return _DEFAULTS[name]
            work_out = _ON_DEMAND.get(name)
            if work_out is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = work_out(self)
            setattr(self, name, value)
            return value

    def _parse_headers(self) -> HTTPHeaders:
        head = self._block
        headers = HTTPHeaders.from_head(head) if head else HTTPHeaders.from_lines(self._lines[1:])
        if self._decoded:
            # What the fields told of is gone with the encoding.
            encodings = headers.get_list("Content-Encoding")
            if encodings:
                del headers["Content-Encoding"]
                for encoding in encodings:
                    headers.add("X-Consumed-Content-Encoding", encoding)
                if "Content-Length" in headers:
                    del headers["Content-Length"]
        return headers

    def _parse_proxy_headers(self) -> HTTPHeaders | None:
        lines = self._proxy_lines
        return None if lines is None else HTTPHeaders.from_lines(lines[1:])

    def _find_body(self) -> bytes:
        try:
            buffer = _BUFFER.__get__(self)
        except AttributeError:
            return b""  # nothing was set
        body: bytes = buffer.getvalue()
        return body

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # What was set, and no more: object's own would work out the rest. But for the request, of
        # which a copy has the same, and not what it is made of.
        getattr(self, "request", None)
        state = {}
        for name in HTTPResponse.__slots__[2:]:
            if name == "_asked":
                continue
            try:
                state[name] = getattr(HTTPResponse, name).__get__(self)
            except AttributeError:
                pass
        return dict(self.__dict__), state

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(max(int(protocol), 2))  # the first that knows slots

    def _make_request(self) -> HTTPRequest:
        return HTTPRequest._short(self._asked, self.start_time or 0.0)

    def _find_reason(self) -> str:
        if self._lines:
            parts = self._lines[0].rstrip(b"\r\n").split(b" ", 2)
            if len(parts) == 3 and parts[2].strip():
                return parts[2].strip().decode("latin-1")
        return responses.get(self.code, "Unknown")

    def _name_times(self) -> dict[str, float]:
        info = {"queue": self.queue_time, "redirect": self.redirect_time}
        if self._times is not None:
            info.update(zip(_TIMINGS, self._times, strict=True))
        return info

    @property
    def text(self) -> str:
        """The body as str, by the charset of Content-Type, else UTF-8; undecodable bytes become
        U+FFFD."""
        charset = "utf-8"
        for parameter in self.headers.get("Content-Type", "").split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                charset = value.strip().strip("\"'")
        try:
            return self.body.decode(charset, "replace")
        except (LookupError, ValueError):
            # Unknown, or one of Python's codecs that are no character sets ("idna", "undefined").
            return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body parsed as JSON (RFC 8259: UTF-8, 16 or 32). Raises ValueError if it is not."""
        import json

        return json.loads(self.body)

    def rethrow(self) -> None:
        """Raise :attr:`error` if there is one."""
        if self.error is not None:
            raise self.error

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(code={self.code}, reason={self.reason!r},"
            f" effective_url={redact(self.effective_url)!r}, request_time={self.request_time})"
        )


_BUFFER: Any = HTTPResponse.__dict__["buffer"]  # the slot

_TIMINGS = ("namelookup", "connect", "appconnect", "pretransfer", "starttransfer", "total")

_DEFAULTS: dict[str, Any] = {
    "_block": b"",
    "_decoded": False,
    "_proxy_lines": None,
    "_times": None,
    "connection_id": None,
    "error": None,
    "history": (),
    "http_version": None,
    "local_address": None,
    "proxy": None,
    "proxy_code": None,
    "queue_time": 0.0,
    "redirect_time": 0.0,
    "remote_address": None,
    "request_time": None,
    "reused": False,
    "start_time": None,
}
"""Of a response's attributes, what those are that were not set."""

_ON_DEMAND: dict[str, Callable[[HTTPResponse], Any]] = {
    "_lines": lambda response: response._block.splitlines(True),
    "body": HTTPResponse._find_body,
    "buffer": lambda response: BytesIO(response.body),
    "headers": HTTPResponse._parse_headers,
    "proxy_headers": HTTPResponse._parse_proxy_headers,
    "reason": HTTPResponse._find_reason,
    "request": HTTPResponse._make_request,
    "time_info": HTTPResponse._name_times,
}
"""And what is worked out at the first look."""


class StreamedResponse(HTTPResponse):
    """A response whose body is read while it arrives; see :meth:`AsyncHTTPClient.stream`.

    Iterate over it (``async for chunk in response``) or call :meth:`read`; `body` stays empty.
    The transfer is paused while more than 256 KiB wait to be read. Timings are those of the
    start until the body has ended.
    """

    __slots__ = ()

    _chunks: ChunkQueue

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def read(self) -> bytes:
        """Return the rest of the body."""
        return b"".join([chunk async for chunk in self._chunks])


def status_error(response: HTTPResponse) -> HTTPError | None:
    """Set and return the error of a response whose status is not 2xx."""
    code = response.code
    if 200 <= code < 300:
        return None
    response.error = error = HTTPError(code, response.reason, response)
    error.proxy = response.proxy
    if code == 407 and response.proxy is not None:
        error.stage = "proxy-auth"
        error.proxy_code = code
    return error
