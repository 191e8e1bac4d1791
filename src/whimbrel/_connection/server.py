"""A server's end: requests are received, responses sent."""

from __future__ import annotations

import functools
from asyncio import Future
from collections.abc import Callable
from typing import cast

from whimbrel._connection.channel import VERSIONS, AnsweringChannel, Channel, Parameters, log
from whimbrel._connection.heads import Framing
from whimbrel._http1.framing import CHUNKED, CLOSE, LENGTH, NONE, response_has_no_body
from whimbrel._http1.protocol import Head
from whimbrel._http1.state import BODY, DONE, HEAD, SWITCHED
from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream, StreamClosedError

# How long a connection is read from after its last response, so that what the peer has still sent
# does not make the system reset the connection before the response is read (RFC 9112 section 9.6).
_LINGER_SECONDS = 2.0

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ServerChannel(Channel):
    """What the connections of a server have in common."""

    def __init__(self, stream: IOStream, params: Parameters, context: object) -> None:
        super().__init__(stream, params, context)
        self._idle = False  # and the header timeout has not begun
        self._lingering = False
        self._winding_up = False
        self.output.watch(params.idle_timeout, self._stalled)

    def start(self) -> None:
        """Serve from now on."""
        # Responses go out in whole: nothing is gained by waiting for the acknowledgement of the
        # one before (RFC 896).
        self.stream.set_nodelay(True)
        self.deadline.set(self.params.header_timeout or self.params.idle_timeout)
        if self.stream.closed():
            self.loop.call_soon(self._stream_closed)
        else:
            self._attach()

    def data_received(self, data: bytes) -> None:
        # What nobody wants is taken nevertheless: the client may not read before it has sent all.
        if not (self._shutting or self._cut):
            self.protocol.receive(data)
            self._advance()

    def eof_received(self) -> None:
        super().eof_received()
        if self._shutting and self.output.flushed:
            self.stream.close()

    def drained(self) -> None:
        super().drained()
        if self._shutting and (self._eof or not self._lingering):
            self.stream.close()

    def _begin_request(self) -> HTTPMessageDelegate:
        """Return the delegate for a request whose head is here."""
        raise NotImplementedError

    def _next(self) -> None:
        """An exchange is over, and the connection stays."""
        raise NotImplementedError

    def _take_head(self, head: Head) -> None:
        self.deadline.clear()
        headers = HTTPHeaders.from_lines(head.lines[1:])
        self._prepare_body(head, headers)
        self._delegate = delegate = self._begin_request()
        start_line = RequestStartLine(head.method, head.target, VERSIONS[head.minor])
        result = delegate.headers_received(start_line, headers)
        if result is None:
            self._head_taken()
        else:
            self._then = self._head_taken
            self._await(result)

    def _head_taken(self) -> None:
        head = self._head
        assert head is not None
        if head.framing is NONE or self._finished or self.over:
            return
        self._expect_body(head)
        # RFC 9110 section 10.1.1: not where the body comes already, or the answer is there.
        if head.expects_continue and self._is_unanswered() and not self.protocol.buffered:
            self.output.send(_CONTINUE)
            head.expects_continue = False

    def _take_body(self, data: bytes) -> None:
        assert self._head is not None
        self._head.expects_continue = False
        super()._take_body(data)

    def _is_unanswered(self) -> bool:
        return self.protocol.our_state is HEAD

    def _starved(self) -> bool:
        if self._idle and self.protocol.buffered:
            self._idle = False
            self.deadline.set(self.params.header_timeout)
        return False

    def _message_sent(self) -> None:
        protocol = self.protocol
        if protocol.their_state is DONE:
            return
        # The response is finished before the request: nobody wants the rest of that.
        self.deadline.clear()
        self._pieces = self._decoder = None
        self._cut = not protocol.skip_body()

    def _settle(self) -> bool:
        protocol = self.protocol
        if not self._finished:
            if self._eof:  # nobody waits for the response any more
                self.abort()
                self._end(StreamClosedError())
            return False
        if not self.output.flushed:
            return False  # a client that does not read is not read from
        if (
            self._cut
            or self._winding_up
            or not protocol.keep_alive
            or protocol.our_state is SWITCHED  # and nobody has detached the stream
        ):
            self._shut()
            return False
        if self._delegate is not None:
            self._drop_delegate()
        self._next()
        return self._eof or protocol.buffered > 0  # or there is nothing to look at

    def _shut(self) -> None:
        self.output.uncork()
        self._shutting = True
        self.connection = None
        self._drop_delegate()
        if self.stream.closed():
            return
        protocol = self.protocol
        if self._eof or (protocol.their_state is DONE and not protocol.buffered):
            if self.output.flushed:
                self.stream.close()
            return
        # The rest of the request would be answered with a reset, which may destroy our response
        # on its way: it is read and thrown away, for a while.
        self._lingering = True
        self.deadline.set(_LINGER_SECONDS)
        protocol.take_rest()
        self.stream.write_eof()

    def _malformed(self, error: Exception) -> None:
        log.info("Malformed HTTP message from %s: %s", self.context, error)
        if not self._is_unanswered():
            self._fail(error)
            return
        self.output.send(_BAD_REQUEST)
        self._shut()

    def _timed_out(self) -> None:
        if self._delegate is not None:
            log.info("Timeout reading body from %s", self.context)
        self.abort()
        self._end(StreamClosedError(TimeoutError()))

    def _stalled(self) -> None:
        log.info("Timeout sending to %s", self.context)
        self._fail(TimeoutError("the client does not read its response"))

    def _frame(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        framing: Framing,
        chunk: bytes | None,
    ) -> bytes:
        request = self._head
        if request is None:
            raise HTTPOutputError("there is no request to respond to")
        _, code, reason = cast("ResponseStartLine", start_line)
        kind, length = self._frame_body(request, code, framing)
        keep_alive = (
            request.keep_alive
            and kind is not CLOSE
            and not self.params.no_keep_alive
            and not self._winding_up
            and not framing.close
            and not (self.protocol.their_state is BODY and self._cuts_short(kind, length, chunk))
        )
        if code >= 200 and not (request.method == "CONNECT" and code < 300):
            _tell_of_persistence(request, framing, keep_alive, kind)
        head = framing.response_head(code, reason)
        self.protocol.start_response(code, kind, length, keep_alive=keep_alive)
        self._drops_body = request.method == "HEAD"
        self._ends_by_close = kind is CLOSE
        return head

    def _frame_body(self, request: Head, code: int, framing: Framing) -> tuple[str, int]:
        """How the body of a response ends, and its length; the fields that tell are put right."""
        length = framing.length or 0
        if response_has_no_body(request.method, code):
            if code < 200 or code == 204 or (request.method == "CONNECT" and code < 300):
                # RFC 9110 sections 8.6 and 9.3.6, RFC 9112 section 6.1.
                framing.remove("content-length", "transfer-encoding")
            return NONE, length
        if framing.length is not None:
            return LENGTH, length
        if not request.minor:
            framing.remove("transfer-encoding")
            return CLOSE, 0
        if not framing.chunked:
            framing.add("Transfer-Encoding", "chunked")
        return CHUNKED, 0

    def _cuts_short(self, kind: str, length: int, chunk: bytes | None) -> bool:
        """Whether the connection ends with a response because its request is not here yet."""
        if self.protocol.rest_is_here:
            return False
        if kind is NONE or (kind is LENGTH and length == len(chunk or b"")):
            return True  # it is whole, and will be finished before the request
        # A client that waits for 100 may send the body still, or not: only closing tells what
        # follows.
        return self._head is not None and self._head.expects_continue


def _tell_of_persistence(request: Head, framing: Framing, keep_alive: bool, kind: str) -> None:
    """Add Connection where the client would assume the contrary (RFC 9112 section 9.3)."""
    if not keep_alive and request.minor and not framing.close:
        framing.remove("connection")
        framing.add("Connection", "close")
    elif keep_alive and not request.minor and not framing.keep_alive:
        framing.add("Connection", "Keep-Alive")


class ServingChannel(ServerChannel):
    """The connection of an :class:`HTTP1ServerConnection`, with request after request.

    `server` is what the delegate knows the connection by. `make_connection` makes what stands for
    an exchange; `served` is called when the connection is over.
    """

    def __init__(
        self,
        stream: IOStream,
        params: Parameters,
        context: object,
        *,
        server: object,
        delegate: HTTPServerConnectionDelegate,
        make_connection: Callable[[Channel], HTTPConnection],
        served: Callable[[], None],
    ) -> None:
        super().__init__(stream, params, context)
        self._server = server
        self._server_delegate = delegate
        self._make_connection = make_connection
        self._served = served

    def wind_up(self) -> None:
        """Close after the response under way, or now."""
        self._winding_up = True
        if self.connection is None and not self._shutting:
            self.stream.close()

    def _begin_request(self) -> HTTPMessageDelegate:
        connection = self._make_connection(self)
        self.connection = connection
        self._close_callback = None
        return self._server_delegate.start_request(self._server, connection)

    def _next(self) -> None:
        self.protocol.next_message()
        self.connection = None
        self._finished = False
        self._reset()
        if self.params.idle_timeout is None:
            self.deadline.set(self.params.header_timeout)
        else:
            self._idle = True
            self.deadline.set(self.params.idle_timeout)

    def _result(self, error: StreamClosedError | None) -> None:
        self._tell(functools.partial(self._server_delegate.on_close, self._server))
        self._served()


class OneRequestChannel(AnsweringChannel, ServerChannel):
    """A server's end of an :class:`HTTP1Connection` that is used on its own, for one request."""

    def read_message(self, delegate: HTTPMessageDelegate) -> Future[bool]:
        if self.over:
            raise RuntimeError("this connection has had its request")
        answer = self._ask(delegate)
        self.start()
        return answer

    def _begin_request(self) -> HTTPMessageDelegate:
        assert self._given is not None
        return self._given

    def _next(self) -> None:
        self.output.uncork()
        self._release()
        self._result(None, still_open=True)
        self._end(None)
