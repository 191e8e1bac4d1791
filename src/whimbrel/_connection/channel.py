"""What the two ends of a connection have in common: `Channel`.

Rules:

1. :mod:`whimbrel._http1` decides what the bytes mean, the stream moves them; here they are brought
   together with delegates, time and limits. One channel does that for a connection.
2. A message that needs no waiting takes neither task nor future nor timer: everything happens
   within the stream's ``data_received``, and what is written meanwhile goes out in one piece.
3. ``_advance`` is the only loop. Whoever changes something calls it; within itself it does nothing.
   It does a bounded amount of work in one turn of the event loop.
4. No byte is kept that nobody can take: a delegate that is being awaited, or a response under way,
   stops the reading (after a little read-ahead, which tells whether the peer is still there).
5. After a delegate's ``headers_received`` exactly one of ``finish`` and ``on_connection_close`` is
   called, or neither after ``detach``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import struct
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, cast

from whimbrel._connection.deadline import Deadline
from whimbrel._connection.heads import Framing, Headers
from whimbrel._connection.output import Output, fail, pass_on
from whimbrel._http1.errors import IncompleteError, LocalProtocolError, ProtocolError
from whimbrel._http1.framing import LENGTH, NONE
from whimbrel._http1.grammar import LIMITS, Limits
from whimbrel._http1.protocol import END, Event, Head, Role
from whimbrel._http1.protocol import Protocol as HTTP1
from whimbrel._http1.state import BODY, DONE, HEAD, SWITCHED
from whimbrel._policy.decoding import ContentDecoder, DecodingError, decoder_for
from whimbrel.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
    parse_request_start_line,
    parse_response_start_line,
)
from whimbrel.iostream import IOStream, StreamClosedError

log = logging.getLogger("whimbrel.http1connection")

# What is read ahead of a response under way.
_READ_AHEAD = 64 * 1024

# Events that are handled before other connections have their turn: about 16 pipelined requests,
# or 4 MiB of a body that decodes to far more than its size.
_STEPS_AT_ONCE = 64

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds

VERSIONS = ("HTTP/1.0", "HTTP/1.1")

# What a delegate can fail with. CancelledError is one of it: what the delegate waited for was
# cancelled, not the connection.
_FAILURES = (Exception, asyncio.CancelledError)


class Parameters(Protocol):
    """The settings of a channel; see `whimbrel.http1connection.HTTP1ConnectionParameters`."""

    no_keep_alive: bool
    chunk_size: int
    max_header_size: int
    header_timeout: float | None
    max_body_size: int | None
    body_timeout: float | None
    decompress: bool
    idle_timeout: float | None


@functools.lru_cache(maxsize=64)
def _limits(max_header_size: int) -> Limits:
    start_line = min(max_header_size, LIMITS.start_line)
    return LIMITS._replace(header_block=max_header_size, start_line=start_line)


class Channel:
    """What moves the messages of one connection; see the rules above."""

    is_client = False
    _role = Role.SERVER

    def __init__(self, stream: IOStream, params: Parameters, context: object) -> None:
        self.stream = stream
        self.loop = stream.loop
        self.params = params
        self.context = context
        # Whose exchange this is: who else writes or detaches is late.
        self.connection: object | None = None
        self._limits = _limits(params.max_header_size)
        self.protocol = HTTP1(self._role, self._limits)
        self.output = Output(stream)
        self.deadline = Deadline(self.loop, self._timed_out)
        self.over = False
        self._close_callback: Callable[[], object] | None = None
        self._chunk_size = params.chunk_size
        self._reset()
        # Receiving
        self._reading = True  # whether somebody wants the next message
        self._delegate: HTTPMessageDelegate | None = None  # after the head, before the end
        self._head: Head | None = None
        self._decoder: ContentDecoder | None = None
        self._pieces: Iterator[bytes] | None = None
        self._received = 0
        self._decoded_size = 0
        self._waiting: Future[Any] | None = None  # for the delegate
        self._then: Callable[[], None] | None = None
        self._eof = False
        self._aborted = False  # by us
        self._held = False
        self._advancing = False
        self._again: asyncio.Handle | None = None
        # Sending
        self._finished = False  # finish() was called
        self._cut = False  # and the rest of the peer's message is not wanted
        self._shutting = False  # the stream is closed when all has been sent
        self._drops_body = False
        self._ends_by_close = False  # the body that is being sent

    def _reset(self) -> None:
        """What was set for one message alone is forgotten."""
        limit = self.params.max_body_size
        self.max_body_size = self.stream.max_buffer_size if limit is None else limit
        self._body_timeout = self.params.body_timeout

    # -- what differs between the roles

    def read_message(self, delegate: HTTPMessageDelegate) -> Future[bool]:
        """Read one message; the future is that of :meth:`HTTP1Connection.read_response`."""
        raise NotImplementedError

    def _take_head(self, head: Head) -> None:
        """Hand the head of a message to the delegate."""
        raise NotImplementedError

    def _head_taken(self) -> None:
        """The delegate has taken the head."""
        raise NotImplementedError

    def _settle(self) -> bool:
        """End the exchange, if both messages are whole; tell whether anything changed."""
        raise NotImplementedError

    def _malformed(self, error: Exception) -> None:
        """The peer's message is malformed."""
        raise NotImplementedError

    def _result(self, error: StreamClosedError | None) -> None:
        """The connection is over, by `error`: tell whoever waits for that."""
        raise NotImplementedError

    def _timed_out(self) -> None:
        """The deadline for the peer's message passed."""
        raise NotImplementedError

    def _frame(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        framing: Framing,
        chunk: bytes | None,
    ) -> bytes:
        """Begin a message; return its head."""
        raise NotImplementedError

    # -- the stream's side

    def data_received(self, data: bytes) -> None:
        self.protocol.receive(data)
        self._advance()

    def eof_received(self) -> None:
        self._eof = True
        self.protocol.receive_eof()
        self._advance()

    def connection_lost(self, error: BaseException | None) -> None:
        pass  # as after any other close of the stream, _stream_closed follows

    def drained(self) -> None:
        self.output.drained()
        self._advance()

    def _attach(self) -> None:
        self.stream.set_close_callback(self._stream_closed)
        self.stream.attach(self)

    def _stream_closed(self) -> None:
        self._end(StreamClosedError(self.stream.error))

    def _release(self) -> None:
        """Leave the stream to whoever wants it next, with what belongs to them."""
        self.stream.set_close_callback(None)
        if not self.stream.closed():
            self.stream.detach_receiver()
        if rest := self.protocol.take_rest():
            self.stream.unread(rest)

    # -- receiving

    def _advance(self) -> None:
        """Handle what has come, as far as that is possible now."""
        if self._advancing or self.over:
            return
        self._advancing = self.output.corked = True
        try:
            for _ in range(_STEPS_AT_ONCE):
                if not self._step():
                    break
            else:
                if self._again is None:
                    self._again = self.loop.call_soon(self._go_on)
        except IncompleteError as error:
            self._fail(error)
        except (ProtocolError, HTTPInputError, DecodingError) as error:
            self._malformed(error)
        except _FAILURES as error:  # whatever a delegate raises
            self._delegate_failed(error)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._advancing = self.output.corked = False
            self.output.uncork()
        self._hold_back()

    def _go_on(self) -> None:
        self._again = None
        self._advance()

    def _step(self) -> bool:
        """Do the next thing that can be done now; False if there is none."""
        if self._waiting is not None or self._shutting or self.over:
            return False
        if self._then is not None:
            then, self._then = self._then, None
            then()
            return True
        if self._pieces is not None:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
            else:
                self._give(piece)
            return True
        if not self._reading:
            return False
        protocol = self.protocol
        if self._cut or protocol.their_state is DONE:
            return self._settle()
        event = protocol.next_event()
        if event is None:
            return self._starved()
        if type(event) is bytes:
            self._take_body(event)
        elif event is END:
            self._take_end()
        elif event is Event.CLOSED:
            self._shut()
        else:
            self._take_head(cast("Head", event))
        return True

    def _starved(self) -> bool:
        """More has to come from the peer."""
        return False

    def _prepare_body(self, head: Head, headers: HTTPHeaders) -> None:
        """Settle how the body behind ``head`` is received; ``headers`` are for the delegate."""
        self._head = head
        self._received = self._decoded_size = 0
        self._decoder = None
        if head.content_encoding and self.params.decompress and head.framing is not NONE:
            self._decoder = decoder_for(head.content_encoding)
            if self._decoder is not None:
                headers["X-Consumed-Content-Encoding"] = headers["Content-Encoding"]
                del headers["Content-Encoding"]
                if "Content-Length" in headers:
                    del headers["Content-Length"]

    def _expect_body(self, head: Head) -> None:
        """The delegate has taken the head, and may have changed the limits for the body."""
        if head.framing is LENGTH and head.length > self.max_body_size:
            raise HTTPInputError(
                f"Content-Length too long: {head.length} of {self.max_body_size} bytes"
            )
        self.deadline.set(self._body_timeout)

    def _take_body(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self.max_body_size:
            raise HTTPInputError(f"body too large: more than {self.max_body_size} bytes")
        if self._decoder is not None:
            self._pieces = self._decoded(self._decoder.feed(data))
        elif len(data) <= self._chunk_size:
            self._give(data)
        else:
            self._pieces = _split(data, self._chunk_size)

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._decoded_size += len(piece)
            if self._decoded_size > self.max_body_size:
                raise HTTPInputError(
                    f"body too large: more than {self.max_body_size} bytes when decoded"
                )
            yield from _split(piece, self._chunk_size)

    def _give(self, piece: bytes) -> None:
        delegate = self._delegate
        if delegate is not None:
            result = delegate.data_received(piece)
            if result is not None:
                self._await(result)

    def _take_end(self) -> None:
        self.deadline.clear()
        if self._decoder is not None:
            self._decoder.finish()
            self._decoder = None
        delegate, self._delegate = self._delegate, None
        if delegate is not None:
            delegate.finish()

    def _await(self, awaitable: Awaitable[Any]) -> None:
        """Do nothing until the delegate is done; its time is not the peer's."""
        self._waiting = future = asyncio.ensure_future(awaitable)
        self.deadline.hold()
        future.add_done_callback(self._awaited)

    def _awaited(self, future: Future[Any]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if self._waiting is not future:  # the connection has ended meanwhile
            if isinstance(error, Exception) and not isinstance(error, StreamClosedError):
                self._log_failure(error)
            return
        self._waiting = None
        self.deadline.go_on()
        if error is not None:
            self._then = functools.partial(_raise, error)
        self._advance()

    def _hold_back(self) -> None:
        """Stop or go on reading (rule 4)."""
        if self.over:
            return
        hold = not (self._shutting or self._cut) and (
            self._waiting is not None
            or self._pieces is not None
            or self._again is not None
            or (
                (not self._reading or self.protocol.their_state is DONE)
                and self.protocol.buffered > _READ_AHEAD
            )
        )
        if hold is not self._held:
            self._held = hold
            if hold:
                self.stream.pause_reading()
            else:
                self.stream.resume_reading()

    # -- the end

    def _shut(self) -> None:
        """Close, once everything has been sent."""
        self.stream.close()

    def abort(self, error: BaseException | None = None) -> None:
        """Close the stream, for `error`; the peer sees that a message under way is incomplete."""
        self._aborted = True
        self.output.uncork()
        if self.stream.closed():
            return
        if self.protocol.our_state is BODY or not self.output.flushed:
            error = error or ConnectionAbortedError("closed in the middle of a message")
            if self._ends_by_close:
                # Nothing but a reset tells the peer that this is not the end of the body.
                self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.stream.close(error or False)

    def _delegate_failed(self, error: BaseException) -> None:
        if not (isinstance(error, StreamClosedError) and self.stream.closed()):
            self._log_failure(error)
        self._fail(error)

    def _log_failure(self, error: BaseException) -> None:
        log.error("Uncaught exception of a delegate", exc_info=error)

    def _fail(self, error: BaseException) -> None:
        """Close the connection for `error`."""
        self.abort(error)
        self._end(StreamClosedError(error))

    def _end(self, error: StreamClosedError | None) -> None:
        """The exchange is over: `error` goes to whoever waits, unless it is None."""
        if self.over:
            return
        self.over = True
        self.deadline.cancel()
        if self._again is not None:
            self._again.cancel()
        self._waiting = self._then = self._pieces = None
        self.output.stop(error or StreamClosedError(self.stream.error))
        delegate, self._delegate = self._delegate, None
        callback, self._close_callback = self._close_callback, None
        connection, self.connection = self.connection, None
        if delegate is not None:
            self._tell(delegate.on_connection_close)
        elif callback is not None and connection is not None and error is not None:
            self._tell(callback)
        self._result(error)

    def _drop_delegate(self) -> None:
        """Tell a delegate that has not been given the whole message that no more of it comes."""
        delegate, self._delegate = self._delegate, None
        if delegate is not None:
            self._tell(delegate.on_connection_close)

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except _FAILURES as error:  # whatever a delegate raises
            self._log_failure(error)

    def set_close_callback(self, connection: object, callback: Callable[[], object] | None) -> None:
        """See :meth:`HTTP1Connection.set_close_callback`."""
        if connection is self.connection:
            self._close_callback = callback

    def detach(self, connection: object) -> IOStream:
        """See :meth:`HTTP1Connection.detach`."""
        if connection is not self.connection or self.over:
            raise RuntimeError("the exchange is over: there is nothing to detach from")
        self.output.uncork()
        writes = self.output.take_writes()
        self._release()
        if writes and not self.stream.closed():
            self.stream.write(b"").add_done_callback(functools.partial(pass_on, writes))
        self._delegate = None
        self._end(None)
        return self.stream

    def set_body_timeout(self, timeout: float) -> None:
        """See :meth:`HTTP1Connection.set_body_timeout`."""
        self._body_timeout = timeout
        if self._delegate is not None and self.protocol.their_state is BODY and not self._cut:
            self.deadline.set(timeout)

    # -- sending

    def write_headers(
        self,
        connection: object,
        start_line: RequestStartLine | ResponseStartLine,
        headers: Headers,
        chunk: bytes | None,
    ) -> Future[None]:
        """See :meth:`HTTP1Connection.write_headers`."""
        if self._is_closed_for(connection):
            return self.output.failed()
        framing = Framing(headers)
        try:
            head = self._frame(start_line, framing, chunk)
        except LocalProtocolError as error:
            raise HTTPOutputError(str(error)) from error
        self.output.send(head, self._encoded(chunk) if chunk else b"")
        return self.output.written()

    def write(self, connection: object, chunk: bytes) -> Future[None]:
        """See :meth:`HTTP1Connection.write`."""
        if self._is_closed_for(connection):
            return self.output.failed()
        if self.protocol.our_state is HEAD:
            return self._write_raw(connection, chunk)
        if chunk:
            self.output.send(self._encoded(chunk))
        return self.output.written()

    def _write_raw(self, connection: object, chunk: bytes) -> Future[None]:
        """Take the header block out of ``chunk``, so that all the rules for one hold."""
        block, blank, body = chunk.partition(b"\r\n\r\n")
        first, _, lines = block.decode("latin-1").partition("\r\n")
        if not blank:
            raise HTTPOutputError("a body is written before write_headers()")
        parse = parse_request_start_line if self.is_client else parse_response_start_line
        try:
            start_line, headers = parse(first), HTTPHeaders.parse(lines)
        except HTTPInputError as error:
            raise HTTPOutputError(f"malformed header block: {error}") from error
        return self.write_headers(connection, start_line, headers, body)

    def finish(self, connection: object) -> None:
        """See :meth:`HTTP1Connection.finish`."""
        if self.over or connection is not self.connection or self._finished:
            return  # the connection has ended, or this message has been finished
        state = self.protocol.our_state
        if state is HEAD:
            raise HTTPOutputError("finish() is called before write_headers()")
        if state is not SWITCHED:
            try:
                tail = self.protocol.end_body()
            except LocalProtocolError as error:
                raise self._broken(error) from error
            if tail and not self.stream.closed():
                self.output.send(tail)
        self._finished = True
        self._message_sent()
        self._advance()

    def _message_sent(self) -> None:
        """The message that is being sent has been finished."""

    def _is_closed_for(self, connection: object) -> bool:
        """Whether nothing can be written any more; raises where that is the program's fault."""
        if self.over or self._shutting or self.stream.closed():
            return True
        if connection is not self.connection or self._finished:
            raise HTTPOutputError("the message has been finished already")
        return False

    def _encoded(self, chunk: bytes) -> bytes:
        if self._drops_body:
            return b""
        if type(chunk) is not bytes:
            chunk = bytes(memoryview(chunk))  # which the caller may change
        try:
            if self.protocol.our_state is SWITCHED:
                raise LocalProtocolError(
                    "another protocol follows this head: detach() gives the stream for it"
                )
            return self.protocol.encode_body(chunk)
        except LocalProtocolError as error:
            raise self._broken(error) from error

    def _broken(self, error: LocalProtocolError) -> HTTPOutputError:
        """The message cannot be completed: the peer must see that."""
        self.abort(error)
        return HTTPOutputError(str(error))


class AnsweringChannel(Channel):
    """A channel of which :meth:`HTTP1Connection.read_response` reads one message."""

    _given: HTTPMessageDelegate | None = None
    _answer: Future[bool] | None = None

    def _ask(self, delegate: HTTPMessageDelegate) -> Future[bool]:
        if self._answer is not None and not self._answer.done():
            raise RuntimeError("a message is being read already")
        self._given = delegate
        self._answer = self.loop.create_future()
        self._answer.add_done_callback(self._answered)
        return self._answer

    def _answered(self, future: Future[bool]) -> None:
        if future.cancelled():
            # What nobody waits for any more would be taken for the answer to the next question.
            self.abort(asyncio.CancelledError())

    def _result(self, error: StreamClosedError | None, still_open: bool = False) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if error is None or self.protocol.their_state is DONE:
            answer.set_result(still_open)
        else:
            fail(answer, error)


def _split(data: bytes, size: int) -> Iterator[bytes]:
    if len(data) <= size:
        yield data
        return
    for position in range(0, len(data), size):
        yield data[position : position + size]


def _raise(error: BaseException) -> None:
    raise error
