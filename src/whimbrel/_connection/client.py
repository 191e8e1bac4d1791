"""A client's end: requests are sent, responses received."""

from __future__ import annotations

from asyncio import Future
from typing import cast

from whimbrel._connection.channel import VERSIONS, AnsweringChannel, Parameters, log
from whimbrel._connection.heads import Framing
from whimbrel._http1.framing import CHUNKED, LENGTH, NONE
from whimbrel._http1.protocol import Head, Role
from whimbrel._http1.protocol import Protocol as HTTP1
from whimbrel._http1.state import BODY, SWITCHED
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import IOStream, StreamClosedError

_METHODS_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


class ClientChannel(AnsweringChannel):
    """The client's end of an :class:`HTTP1Connection`, for one exchange after another."""

    is_client = True
    _role = Role.CLIENT

    def __init__(self, stream: IOStream, params: Parameters, context: object) -> None:
        super().__init__(stream, params, context)
        self._reading = False
        self._attached = False
        self._lost: StreamClosedError | None = None

    def read_message(self, delegate: HTTPMessageDelegate) -> Future[bool]:
        answer = self._ask(delegate)
        if self.over:
            self._result(StreamClosedError(self.stream.error))
            return answer
        self._reading = True
        self.deadline.set(self.params.header_timeout)
        self._begin()
        self._advance()
        return answer

    def _begin(self) -> None:
        """Take the stream. What comes before it is asked for is kept, up to a limit."""
        if self._attached:
            return
        if self.stream.closed():
            self._lost = self._lost or StreamClosedError(self.stream.error)
            return
        self._attached = True
        self._attach()

    def _stream_closed(self) -> None:
        error = StreamClosedError(self.stream.error)
        lost = self.stream.error is not None and not self._aborted
        if lost and (self._waiting is not None or not self._reading):
            # What had come before is still to be read.
            self._lost = error
        else:
            self._end(error)

    def _starved(self) -> bool:
        if self._lost is not None:
            self._end(self._lost)
        return False

    def _take_head(self, head: Head) -> None:
        assert self._given is not None
        headers = HTTPHeaders.from_lines(head.lines[1:])
        if head.code >= 200:
            self.deadline.clear()
            self._prepare_body(head, headers)
        self._head = head
        self._delegate = self._given
        start_line = ResponseStartLine(VERSIONS[head.minor], head.code, head.reason)
        result = self._given.headers_received(start_line, headers)
        if result is None:
            self._head_taken()
        else:
            self._then = self._head_taken
            self._await(result)

    def _head_taken(self) -> None:
        head = self._head
        assert head is not None
        if self.over:
            return
        if self.protocol.their_state is SWITCHED:
            # Another protocol follows, and the delegate did not take the stream for it.
            self.stream.close()
            self._end(StreamClosedError())
        elif head.code >= 200 and head.framing is not NONE:
            self._expect_body(head)

    def _settle(self) -> bool:
        protocol = self.protocol
        self.output.uncork()
        if not protocol.keep_alive or self._eof or self.stream.closed():
            self.stream.close()
            self._end(None)
        elif protocol.our_state is not BODY and self.output.flushed:
            self._complete()
        return False  # or the request has to be sent first

    def _complete(self) -> None:
        self._release()
        self._attached = self._reading = self._finished = False
        self.protocol = HTTP1(self._role, self._limits)
        self._reset()
        self.deadline.clear()
        self._given = None
        self._result(None, still_open=True)

    def _malformed(self, error: Exception) -> None:
        log.info("Malformed HTTP message from %s: %s", self.context, error)
        self.stream.close(error)
        self._end(None)

    def _timed_out(self) -> None:
        if self._delegate is not None:
            log.info("Timeout reading body from %s", self.context)
        self.stream.close(TimeoutError())
        self._end(None)

    def _frame(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        framing: Framing,
        chunk: bytes | None,
    ) -> bytes:
        method, target, _ = cast("RequestStartLine", start_line)
        kind, length = LENGTH, framing.length or 0
        if framing.length is None:
            kind = NONE
            if framing.chunked or chunk or method in _METHODS_WITH_BODY:
                kind = CHUNKED
                if not framing.chunked:
                    framing.add("Transfer-Encoding", "chunked")
        head = framing.request_head(method, target)
        self._begin()
        keep_alive = not (framing.close or self.params.no_keep_alive)
        self.protocol.start_request(
            method, kind, length, keep_alive=keep_alive, upgrade=framing.upgrade
        )
        self._finished = False
        return head
