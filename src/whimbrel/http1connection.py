"""HTTP/1.x on a stream, for clients and servers: :class:`HTTP1Connection`.

A client writes a request and reads the response::

    connection = HTTP1Connection(stream, is_client=True)
    connection.write_headers(RequestStartLine("GET", "/", ""), HTTPHeaders({"Host": "example.com"}))
    connection.finish()
    still_open = await connection.read_response(delegate)

A server hands the stream to :class:`HTTP1ServerConnection`, whose delegate is given each request.

What moves the messages is in :mod:`whimbrel._connection`.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import Any, cast

from whimbrel._connection.channel import Channel
from whimbrel._connection.client import ClientChannel
from whimbrel._connection.server import OneRequestChannel, ServingChannel
from whimbrel._http1.grammar import LIMITS
from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream

_DEFAULT_CHUNK_SIZE = 64 * 1024


class HTTP1ConnectionParameters:
    """Settings of :class:`HTTP1Connection` and :class:`HTTP1ServerConnection`.

    :param no_keep_alive: close the connection after one request.
    :param chunk_size: bytes that a delegate is given at once (64 KiB).
    :param max_header_size: bytes of a header block, start line included (64 KiB).
    :param header_timeout: seconds that a whole header block may take; of a server's connection this
        counts from the end of the message before. None, or 0, is no limit.
    :param max_body_size: bytes of a body, before and after decoding. None: the stream's
        ``max_buffer_size``.
    :param body_timeout: seconds that a whole body may take; the time in which a delegate is awaited
        does not count. None, or 0, is no limit.
    :param decompress: decode bodies by their ``Content-Encoding`` (gzip, deflate, and br where a
        brotli module is there). It is then taken from the headers, with ``Content-Length``, and
        stands in ``X-Consumed-Content-Encoding``.
    :param idle_timeout: seconds that a server waits for the first byte of another request, and
        for a client that reads nothing of its response (at most twice that). If it is given,
        ``header_timeout`` counts from the first byte of a request, and for the first request from
        the beginning. None, or 0, is no limit.
    """

    def __init__(
        self,
        no_keep_alive: bool = False,
        chunk_size: int | None = None,
        max_header_size: int | None = None,
        header_timeout: float | None = None,
        max_body_size: int | None = None,
        body_timeout: float | None = None,
        decompress: bool = False,
        *,
        idle_timeout: float | None = None,
    ) -> None:
        self.no_keep_alive = no_keep_alive
        self.chunk_size = chunk_size or _DEFAULT_CHUNK_SIZE
        self.max_header_size = max_header_size or LIMITS.header_block
        self.header_timeout = header_timeout
        self.max_body_size = max_body_size
        self.body_timeout = body_timeout
        self.decompress = decompress
        self.idle_timeout = idle_timeout


_DEFAULT_PARAMETERS = HTTP1ConnectionParameters()


class HTTP1Connection(HTTPConnection):
    """One message exchange: a client's request and response, or one request of a server.

    Made by a program for a client; a server's are made by :class:`HTTP1ServerConnection`. The
    stream belongs to it until the exchange is over: a client that has read the response may then
    use the stream again, also with this same object. The stream's close callback belongs to it as
    well, and one that was set before is dropped: see :meth:`set_close_callback`.

    What a delegate raises is logged and closes the connection, but for
    :class:`~whimbrel.httputil.HTTPInputError`, which says that the message is malformed.
    """

    def __init__(
        self,
        stream: IOStream,
        is_client: bool,
        params: HTTP1ConnectionParameters | None = None,
        context: object = None,
    ) -> None:
        """``context`` is the program's own, and what log lines call the peer."""
        channel_class = ClientChannel if is_client else OneRequestChannel
        self._channel: Channel = channel_class(stream, params or _DEFAULT_PARAMETERS, context)
        self._channel.connection = self

    @classmethod
    def _of(cls, channel: Channel) -> HTTP1Connection:
        self = cls.__new__(cls)
        self._channel = channel
        return self

    def __repr__(self) -> str:
        role = "client" if self.is_client else "server"
        return f"<{type(self).__name__} {role} {self.stream!r}>"

    @property
    def stream(self) -> IOStream:
        """The stream."""
        return self._channel.stream

    @property
    def is_client(self) -> bool:
        """Whether this is the client's end."""
        return self._channel.is_client

    @property
    def params(self) -> HTTP1ConnectionParameters:
        """The settings."""
        return cast("HTTP1ConnectionParameters", self._channel.params)

    @property
    def context(self) -> Any:
        """The program's own, as it was given."""
        return self._channel.context

    def read_response(self, delegate: HTTPMessageDelegate) -> Future[bool]:
        """Read one response (on a server's side: one request, and wait for its response).

        The future tells whether the stream is still open. It is False after :meth:`detach`, a
        time-out, or a malformed message (of which the log tells at INFO).
        :class:`~whimbrel.iostream.StreamClosedError` is raised if the connection ends before the
        message does.

        Of an interim response (1xx) the delegate receives the headers alone, before those of the
        final response. Cancelling the future closes the connection, which would be out of step.

        Raises ``RuntimeError`` while another is being read.
        """
        return self._channel.read_message(delegate)

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback`` if the connection closes while no message is being received.

        On a server that is the time between the end of the request and that of the response;
        before, ``on_connection_close`` of the delegate is called.
        """
        self._channel.set_close_callback(self, callback)

    def close(self) -> None:
        """Close the connection at once; a peer sees that a message under way is incomplete."""
        self._channel.abort()

    def detach(self) -> IOStream:
        """Give up the stream, for another protocol; nothing more is done here with it.

        To be called from the delegate's ``headers_received``, or by a server before the end of
        the response. What came behind the headers can be read from the stream. Neither ``finish``
        nor ``on_connection_close`` will be called.

        Raises ``RuntimeError`` if the exchange is over.
        """
        return self._channel.detach(self)

    def set_body_timeout(self, timeout: float) -> None:
        """Set the seconds that the body of this one message may take, from now on; 0: no limit."""
        self._channel.set_body_timeout(timeout)

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set how many bytes the body of this one message may have."""
        self._channel.max_body_size = max_body_size

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write a start line, the headers, and ``chunk`` as the first piece of the body.

        ``headers`` may be any mapping with ``get_all()``; it is not changed. Without a
        ``Content-Length`` the body is sent in chunks: of a response to HTTP/1.1, or of a request
        with POST, PUT, PATCH or a ``chunk``. ``Connection`` is added to a response where the
        client has to be told; it is "close" where the whole response is written here, and not all
        of the request has come. An interim response (1xx) may be written before the final one.
        Behind 101, and 2xx to CONNECT, another protocol follows: see :meth:`detach`.

        The future is done when everything has gone to the system; it fails with
        :class:`~whimbrel.iostream.StreamClosedError` if the connection is closed.

        Raises :class:`~whimbrel.httputil.HTTPOutputError` out of turn, for framing fields that
        contradict each other or the body, and (also a ``ValueError``) for characters that may not
        stand in a start line or header. Nothing has been written then; if it was for the body,
        the connection is closed.
        """
        return self._channel.write_headers(self, start_line, headers, chunk)

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body; the future and the errors are those of :meth:`write_headers`.

        A piece of more than ``Content-Length`` has left is not written, and the connection is
        closed. The body of a response to HEAD is not sent.

        Deprecated, as in Tornado: without :meth:`write_headers`, ``chunk`` begins with a whole
        header block, which is written as :meth:`write_headers` would.
        """
        return self._channel.write(self, chunk)

    def finish(self) -> None:
        """End the message.

        Raises :class:`~whimbrel.httputil.HTTPOutputError` if the body is shorter than its
        ``Content-Length``, after closing the connection, and if there are no headers yet.

        A server that ends its response before its delegate has been given the whole request gives
        it no more of that. If the rest is here already it is thrown away; else the connection is
        closed when the response has gone, as it is behind the head of another protocol that nobody
        has detached the stream for.
        """
        self._channel.finish(self)


class HTTP1ServerConnection:
    """A server's connection, on which requests come one after another."""

    def __init__(
        self,
        stream: IOStream,
        params: HTTP1ConnectionParameters | None = None,
        context: object = None,
    ) -> None:
        """``context`` is the program's own, and what log lines call the client."""
        self.stream = stream
        self.params = params or _DEFAULT_PARAMETERS
        self.context: Any = context
        self._served: Future[None] | None = None
        self._channel: ServingChannel | None = None

    def wind_up(self) -> None:
        """Take no more requests: close when the response under way has gone, or at once."""
        if self._channel is None:
            self.stream.close()
        else:
            self._channel.wind_up()

    async def close(self) -> None:
        """Close the connection at once; a client sees that a response under way is incomplete.

        Returns when the serving has ended.
        """
        if self._channel is None:
            self.stream.close()
        else:
            self._channel.abort()
        if self._served is not None:
            await asyncio.shield(self._served)

    def start_serving(self, delegate: HTTPServerConnectionDelegate) -> None:
        """Serve requests: ``delegate.start_request`` is called as the headers of each are there.

        ``delegate.on_close`` is called once, when the connection is closed or detached.
        """
        if self._served is not None:
            raise RuntimeError("start_serving() was called before")
        self._served = self.stream.loop.create_future()
        self._channel = ServingChannel(
            self.stream,
            self.params,
            self.context,
            server=self,
            delegate=delegate,
            make_connection=HTTP1Connection._of,
            served=self._serving_ended,
        )
        self._channel.start()

    def _serving_ended(self) -> None:
        self._channel = None
        if self._served is not None and not self._served.done():
            self._served.set_result(None)
