"""One exchange on a connection, from the pool or a new one: send, receive, and what may go wrong.

Rules:

1. Everything runs in callbacks of the loop: a request on a connection that stands costs no task,
   no future and no timer of its own. Only the making of a connection is a coroutine.
2. There are three ways out, and each lets go of connection, timers and helpers first: `_complete`
   (a response), `_fail` (an error) and `abort` (nobody wants to know).
3. After a call into code of the caller's (`on_head`, `on_data`, a producer) the exchange may be
   over: `_callback` is None then, and nothing more may be touched.
4. A request is sent a second time in two cases only: on a new connection if the kept one turns out
   to have been closed (`_may_resend`), and with credentials after a challenge (`Challenges`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from whimbrel._download import LARGE, Download
from whimbrel._http1.framing import NONE
from whimbrel._http1.protocol import END, Head
from whimbrel._low_water import MARK, LowWater
from whimbrel._policy.exchange import IDEMPOTENT_METHODS, Exchange
from whimbrel._send_queue import unacknowledged
from whimbrel._simple.challenges import Challenges
from whimbrel._simple.connect import Connected, connect
from whimbrel._simple.errors import (
    Situation,
    body_limit_error,
    connection_closed,
    timed_out,
    translate,
)
from whimbrel._simple.outgoing import Outgoing
from whimbrel._simple.plan import Ready
from whimbrel._simple.pool import Connection
from whimbrel._simple.route import Progress
from whimbrel._simple.tls import refuses_client, tls_error
from whimbrel.httpclient import HTTPError, HTTPResponse
from whimbrel.iostream import StreamClosedError

if TYPE_CHECKING:
    from whimbrel.simple_httpclient import SimpleAsyncHTTPClient

MAX_DRAINED = 64 * 1024
"""Bytes of a challenge's body worth reading to keep the connection."""
_LOOKS = 4  # at the byte counts, in stall_timeout


class Transfer:
    """One exchange."""

    # Slots: a new one is made for every request, and CPython finds nothing faster.
    __slots__ = (
        "_arrived",
        "_began",
        "_bucket",
        "_bulk",
        "_callback",
        "_challenged",
        "_challenges",
        "_connect_timer",
        "_connection",
        "_download",
        "_drained",
        "_ended",
        "_exchange",
        "_first_byte",
        "_got_body",
        "_has_helpers",
        "_head",
        "_held",
        "_low_water",
        "_outgoing",
        "_owner",
        "_plan",
        "_progress",
        "_ready",
        "_received",
        "_reused",
        "_sent",
        "_stall",
        "_task",
    )

    def __init__(
        self,
        owner: SimpleAsyncHTTPClient,
        exchange: Exchange,
        ready: Ready,
        callback: Callable[[HTTPResponse], None],
    ) -> None:
        self._owner = owner
        self._exchange = exchange
        self._ready = ready
        self._plan = ready.plan
        self._bucket = ready.bucket
        self._callback: Callable[[HTTPResponse], None] | None = callback
        self._connection: Connection | None = None
        # Any of the next three, `_stall`, `_outgoing`, `_download` or `_low_water`.
        self._has_helpers = False
        self._task: asyncio.Task[Connected] | None = None
        self._progress: Progress | None = None
        self._connect_timer: asyncio.TimerHandle | None = None
        self._head: Head | None = None
        self._download: Download | None = None
        self._outgoing: Outgoing | None = None  # the request, where it is more than a head
        self._challenges: Challenges | None = None
        self._low_water: LowWater | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._held = False  # reading is paused by us
        self._ended = False  # the response is whole, its consumer is not done
        self._reused = False
        self._challenged = False  # the response is a challenge that will be answered
        self._got_body = False
        self._bulk = False  # the stream reads large pieces
        self._drained = self._received = 0
        self._sent = 0.0  # when the request was begun on its connection
        self._first_byte = 0.0
        self._arrived = 0.0  # when the last piece of the head came
        self._began = monotonic()

    # Begin

    def begin(self) -> None:
        """Send the request on a connection that idles, or make one."""
        exchange = self._exchange
        now = self._began
        if exchange.request_timeout:
            owner = self._owner
            clock = owner._clock
            due = (now if clock is monotonic else clock()) + exchange.request_timeout
            owner._deadlines.add(self, due)
        plan = self._plan
        if not plan.is_plain:
            self._has_helpers = True
            self._challenges = Challenges(plan, exchange) if plan.has_digest else None
            self._outgoing = Outgoing(
                self._owner._transfer_loop,
                self._owner._turns,
                plan,
                exchange,
                self._challenges,
                self._lost,
                self._fail,
            )
        if plan.stall_timeout:
            self._watch_for_stall([])
        connection = self._bucket.take(now)
        if connection is None:
            self._connect()
        else:
            self._reused = True
            self._send(connection)

    def _connect(self) -> None:
        loop = self._owner._transfer_loop
        exchange = self._exchange
        route = self._bucket.route
        self._reused = False
        self._progress = progress = Progress(route)
        owner = self._owner
        coroutine = connect(
            route, exchange, owner._resolver, progress, owner._watcher, owner._pool.sessions
        )
        self._has_helpers = True
        try:
            self._task = task = loop.create_task(coroutine)
        except BaseException:
            coroutine.close()
            raise
        task.add_done_callback(self._connected)
        if exchange.connect_timeout and self._connect_timer is None:
            self._connect_timer = loop.call_later(exchange.connect_timeout, self._connect_expired)

    def _connected(self, task: asyncio.Task[Connected]) -> None:
        self._task = None
        if self._connect_timer is not None:
            self._connect_timer.cancel()
            self._connect_timer = None
        if task.cancelled():
            # By whoever ends the loop: an abort of ours does not come here.
            self._fail(asyncio.CancelledError("the connection's task was cancelled"))
            return
        error = task.exception()
        if error is not None:
            self._fail(error)
            return
        if self._callback is None:
            return  # ended in the same turn of the loop; `_close_late` sees to the connection
        owner = self._owner
        connection = Connection(self._bucket, task.result(), owner._limits, owner._known_heads)
        try:
            connection.stream.attach(connection)
            self._send(connection)
        except BaseException as raised:  # noqa: BLE001 (a fetch must end, whatever we got wrong)
            connection.close()
            self._fail(self._closed(raised) if isinstance(raised, StreamClosedError) else raised)

    def _connect_expired(self) -> None:
        assert self._progress is not None
        self._fail(self._progress.timeout_error(self._exchange))

    # Sending

    def _send(self, connection: Connection) -> None:
        connection.holder = self
        self._connection = connection
        outgoing = self._outgoing
        self._sent = now = monotonic()
        try:
            if outgoing is not None:
                outgoing.begin(connection)
            else:
                ready = self._ready
                connection.http1.start_request(self._plan.method, NONE, 0, ready.keep_alive)
                connection.stream.push(ready.head)
                watcher = self._owner._watcher
                if watcher is not None:
                    watcher.busy_poll.expect(now)
        except StreamClosedError as error:
            # Its end is known, and not to us: from the loop, where a failure may be told.
            self._owner._transfer_loop.call_soon(self._lost, connection, error)

    def drained(self) -> None:
        """The stream has sent what it had."""
        if self._outgoing is not None:
            self._outgoing.drained()

    # Receiving

    def data_received(self, data: bytes) -> None:
        connection = self._connection
        assert connection is not None
        if self._stall is not None:
            self._received += len(data)
        try:
            if self._head is not None:
                if connection.http1.receive_body(data):
                    self._take_piece(connection, data)
                    return
                connection.http1.receive(data)
            else:
                self._arrived = now = monotonic()
                if not self._first_byte:
                    self._first_byte = now
                whole = connection.http1.receive_whole(data)
                if whole is not None:
                    head, body = whole
                    self._take_whole(head, body)
                    return
            self._pump()
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            self._fail(error)

    def eof_received(self) -> None:
        connection = self._connection
        assert connection is not None
        connection.http1.receive_eof()
        try:
            self._pump()
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            if self._may_resend():
                self._resend()
            else:
                self._fail(error)

    def connection_lost(self, error: BaseException | None) -> None:
        assert self._connection is not None
        self._lost(self._connection, error)

    def _lost(self, connection: Connection, error: BaseException | None) -> None:
        if self._callback is None or self._connection is not connection:
            return
        if self._ended:
            return  # the response is whole; only its consumer is not
        if self._may_resend():
            self._resend()
        else:
            self._fail(self._closed(error))

    def _take_whole(self, head: Head, body: bytes) -> None:
        """A final head and all of its body have come in one piece."""
        plan = self._plan
        limit = plan.max_body_size
        if (
            self._exchange.on_head is None
            and not (head.content_encoding and plan.decompress)
            and (self._outgoing is None or not self._outgoing.unfinished)
            and self._challenges is None
            and not (limit and len(body) > limit)
        ):
            self._head = head
            self._complete(body, self._arrived)
            return
        self._on_head(head)
        if self._callback is None:
            return
        if body and (self._challenged or self._download is not None):
            self._feed(body)
            if self._callback is None:
                return
        self._on_end()

    def _take_piece(self, connection: Connection, data: bytes) -> None:
        """A piece of the body has come, and nothing else; more is to come."""
        self._feed(data)
        download = self._download
        if download is None or self._connection is not connection:
            return
        if download.paused:
            self._pump()
        elif self._low_water is not None:
            self._watch_the_end(connection)
        elif not self._bulk and len(data) >= connection.stream.read_chunk_size:
            # More was there than is read at once.
            self._begin_bulk(connection)
            self._fill(connection, download)

    def _begin_bulk(self, connection: Connection) -> None:
        self._bulk = True
        stream = connection.stream
        stream.set_bulk(True)
        if not connection.is_secure:
            self._has_helpers = True
            self._low_water = LowWater.where_it_pays(
                self._owner._transfer_loop,
                stream.socket.setsockopt,
                lambda: connection.http1.rest,
                lambda error: self._fail(self._closed(error)),
            )

    def _watch_the_end(self, connection: Connection) -> None:
        """Nobody is to wait for more than there will be."""
        if self._low_water is not None and connection.http1.rest < MARK:
            try:
                self._low_water.end()
            except OSError as error:
                self._fail(self._closed(error))
            self._low_water = None

    def _end_bulk(self, connection: Connection) -> bool:
        """Whether the connection is as it was before."""
        connection.stream.set_bulk(False)
        if self._low_water is not None:
            try:
                self._low_water.end()
            except OSError:
                return False
            self._low_water = None
        self._bulk = False
        return True

    def _fill(self, connection: Connection, download: Download) -> None:
        """Let the stream put the rest of a large body right where it is kept."""
        head = self._head
        assert head is not None
        if connection.http1.rest >= LARGE:
            room = download.room(head.length)
            if room is not None and not connection.stream.fill(room, self._filled):
                room.release()

    def _filled(self, count: int) -> None:
        """The stream has put more of the body where it is kept."""
        connection, download = self._connection, self._download
        assert connection is not None
        assert download is not None
        if self._stall is not None:
            self._received += count
        download.filled(count)
        connection.http1.received_elsewhere(count)
        try:
            if connection.http1.rest:
                self._watch_the_end(connection)
            else:
                self._pump()
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            self._fail(error)

    def _pump(self) -> None:
        """Go through what has come, until there is no more or the consumer wants a pause."""
        connection = self._connection
        assert connection is not None
        http1 = connection.http1
        while self._callback is not None:
            if self._download is not None and self._download.paused:
                if not self._held:
                    self._held = True
                    connection.stream.pause_reading()
                return
            event = http1.next_event()
            if event is None:
                return
            if isinstance(event, bytes):
                self._feed(event)
            elif event is END:
                self._on_end()
                return
            elif isinstance(event, Head):
                self._on_head(event)
            if self._connection is not connection:
                return  # a challenge is being answered

    def _feed(self, data: bytes) -> None:
        if self._challenged:
            self._drained += len(data)
            if self._drained > MAX_DRAINED:
                self._answer_challenge()
            return
        assert self._download is not None
        self._got_body = True
        self._download.feed(data)

    def _on_head(self, head: Head) -> None:
        outgoing = self._outgoing
        if head.code < 200:
            if head.code == 100 and outgoing is not None and outgoing.expecting:
                outgoing.go_on()
            return
        self._head = head
        exchange = self._exchange
        if outgoing is not None:
            outgoing.expecting = False
            # Where a probe meets no challenge, the request is sent once more, with its body.
            self._challenged = self._will_answer(head, outgoing)
            if outgoing.probing and head.code < 300:
                self._challenged = outgoing.unchallenged = True
            if self._challenged or head.code >= 300:
                outgoing.stop()  # RFC 9112 section 9.3: it will not be read
        if self._challenged:
            return
        if exchange.on_head is not None:
            wanted = exchange.on_head(head.code, head.version, head.lines)
            if self._callback is None:
                return
            if not wanted:
                self._make_download().discard()
                return
        if head.framing is not NONE:
            self._make_download().begin(head.content_encoding)

    def _will_answer(self, head: Head, outgoing: Outgoing) -> bool:
        challenges = self._challenges
        return challenges is not None and challenges.can_answer(head) and outgoing.repeatable

    def _make_download(self) -> Download:
        self._has_helpers = True
        self._download = download = Download(
            self._owner._transfer_loop, self._exchange, body_limit_error, self._resume, self._fail
        )
        return download

    def _resume(self) -> None:
        """The consumer is done with what it got."""
        connection = self._connection
        if self._callback is None or connection is None:
            return
        try:
            if self._ended:
                self._finish()
                return
            self._pump()
        except BaseException as error:  # noqa: BLE001 (it goes to the awaiter of the fetch)
            self._fail(error)
            return
        if self._held and self._download is not None and not self._download.paused:
            self._held = False
            connection.stream.resume_reading()

    def _on_end(self) -> None:
        """The response is whole."""
        if self._challenged:
            self._answer_challenge()
        elif self._download is not None and self._download.paused:
            self._ended = True
        else:
            self._finish()

    def _finish(self) -> None:
        download = self._download
        if download is None:
            self._complete(b"", monotonic())
        else:
            download.finish()
            self._complete(download.body, monotonic())

    # Another round

    def _answer_challenge(self) -> None:
        connection = self._connection
        assert connection is not None
        assert self._challenges is not None
        self._challenges.rounds += 1
        self._challenged = False
        self._head = None
        self._first_byte = 0.0
        self._drained = 0
        self._got_body = False
        if self._download is not None:
            self._download.cancel()
            self._download = None
        self._connection = None
        connection.holder = None
        if (
            not connection.stream.unsent
            and connection.http1.next_exchange()
            and connection.is_quiet()
        ):
            self._reused = True
            self._send(connection)
        else:
            connection.close()
            self._connect()

    def _may_resend(self) -> bool:
        """RFC 9112 section 9.3.1: if a kept connection was closed before a byte came, and the
        request is idempotent or its body has not been sent. The second goes on a new connection,
        so that there is no third."""
        outgoing = self._outgoing
        return (
            self._callback is not None
            and self._reused
            and not self._first_byte
            and (
                self._exchange.profile.method in IDEMPOTENT_METHODS
                or (
                    outgoing is not None
                    and self._exchange.profile.body != "none"
                    and not outgoing.body_sent
                )
            )
            and (outgoing is None or outgoing.repeatable)
        )

    def _resend(self) -> None:
        connection = self._connection
        assert connection is not None
        if self._outgoing is not None:
            self._outgoing.stop()
        self._connection = None
        connection.holder = None
        connection.close()
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001 (a fetch must end)
            self._fail(error)

    # Deadlines

    def expired(self) -> None:
        """request_timeout has passed."""
        if self._connection is None and self._progress is not None:
            self._fail(self._progress.timeout_error(self._exchange))
        else:
            self._fail(timed_out(self._situation()))

    def _watch_for_stall(self, marks: list[tuple[int, int]]) -> None:
        """Look at the byte counts four times in stall_timeout."""
        if self._callback is None:
            return
        connection = self._connection
        limit = self._plan.stall_timeout
        mark = self._received, 0
        if connection is not None:
            # Not what the system has taken: a whole body fits in there, and goes on for seconds.
            mark = self._received, connection.stream.sent - unacknowledged(connection.fd)
        waits_for_us = (
            connection is None
            or (self._download is not None and self._download.paused)
            or (self._outgoing is not None and self._outgoing.waiting)
        )
        if waits_for_us or (marks and marks[-1] != mark):
            marks.clear()
        marks.append(mark)
        if len(marks) > _LOOKS:
            self._fail(timed_out(self._situation(), stalled=True))
            return
        self._has_helpers = True
        self._stall = self._owner._transfer_loop.call_later(
            limit / _LOOKS, self._watch_for_stall, marks
        )

    # End

    def abort(self) -> None:
        """Drop the exchange at once; its callback is not called any more."""
        if self._callback is None:
            return
        self._callback = None
        self._let_go()

    def _let_go(self) -> None:
        """Free connection, timers and helpers."""
        self._owner._deadlines.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.holder = None
            connection.close()
        if not self._has_helpers:
            return
        if self._task is not None:
            task, self._task = self._task, None
            task.remove_done_callback(self._connected)
            task.add_done_callback(_close_late)
            task.cancel()
        if self._connect_timer is not None:
            self._connect_timer.cancel()
            self._connect_timer = None
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if self._low_water is not None:
            self._low_water.forget()
            self._low_water = None
        if self._outgoing is not None:
            self._outgoing.stop()
            self._outgoing = None  # it knows us: a cycle would keep the body
        if self._download is not None:
            self._download.cancel()
            self._download = None

    def _fail(self, error: BaseException) -> None:
        callback = self._callback
        if callback is None:
            return
        error = translate(error, self._situation())
        exchange = self._exchange
        proxy = self._plan.proxy_url
        if isinstance(error, HTTPError) and proxy is not None:
            error.proxy = proxy
            if error.proxy_code is None and self._connection is not None:
                error.proxy_code = self._connection.proxy_code
        self._callback = None
        self._let_go()
        try:
            callback(HTTPResponse.failed(error, exchange.url.href))
        except Exception as failure:  # noqa: BLE001 (as in `_complete`)
            self._could_not_tell(failure)

    def _could_not_tell(self, error: Exception) -> None:
        self._owner._transfer_loop.call_exception_handler(
            {"message": "the outcome of a fetch could not be told", "exception": error}
        )

    def _closed(self, error: BaseException | None) -> BaseException:
        if isinstance(error, StreamClosedError):
            error = error.real_error
        situation = self._situation()
        if isinstance(error, ssl.SSLError) and not situation.answered and refuses_client(error):
            return tls_error(error, situation.peer)
        return connection_closed(situation, error)

    def _situation(self) -> Situation:
        connection = self._connection
        http1 = None if connection is None else connection.http1
        if self._head is not None:
            stage = "body"
        elif self._outgoing is not None and self._outgoing.is_sending:
            stage = "send"
        else:
            stage = "response"
        return Situation(
            self._exchange, stage, bool(self._first_byte) or bool(http1 and http1.buffered)
        )

    def _complete(self, body: bytes, now: float) -> None:
        connection = self._connection
        head = self._head
        callback = self._callback
        assert connection is not None
        assert head is not None
        assert callback is not None
        exchange = self._exchange
        response = HTTPResponse.__new__(HTTPResponse)
        response.code = head.code
        response.error = None
        response._block = head.block
        response.body = body
        response.effective_url = exchange.url.href
        response.http_version = "1.1" if head.minor else "1.0"
        response.remote_address = connection.remote
        response.local_address = connection.local
        response.connection_id = connection.number
        began = self._began
        sent, first = self._sent - began, self._first_byte - began
        if self._progress is None:
            response.reused = True
            response._times = 0.0, 0.0, 0.0, sent, first, now - began
        else:
            response._times = *self._times(self._progress), sent, first, now - began
        download = self._download
        response._decoded = download is not None and download.decoded and self._got_body
        proxy = self._plan.proxy_url
        if proxy is not None:
            response.proxy = proxy
            self._add_answer_of_proxy(response, connection)
        self._callback = None
        if self._give_back(connection, now) and not self._has_helpers:
            self._owner._deadlines.discard(self)
        else:
            self._let_go()
        try:
            callback(response)
        except Exception as error:  # noqa: BLE001 (else it would pass for a failure of this exchange)
            self._could_not_tell(error)

    def _times(self, progress: Progress) -> tuple[float, float, float]:
        """Seconds from the beginning to the end of look-up, connect and TLS, 0 without."""
        offset = progress.started - self._began
        lookup, connected, secured = (
            offset + seconds if seconds else 0.0
            for seconds in (progress.namelookup, progress.connect, progress.appconnect)
        )
        return lookup, connected, secured

    def _add_answer_of_proxy(self, response: HTTPResponse, connection: Connection) -> None:
        if self._bucket.route.is_tunnel:
            response.proxy_code = connection.proxy_code
            response._proxy_lines = connection.proxy_lines
        elif response.code == 407:
            response.proxy_code = 407

    def _give_back(self, connection: Connection, now: float) -> bool:
        """Keep the connection, if it can carry another exchange; else `_let_go` closes it."""
        stream = connection.stream
        if stream.unsent or stream.closed() or not connection.http1.next_exchange():
            return False
        if self._held:
            stream.resume_reading()
        if self._bulk and not self._end_bulk(connection):
            return False
        self._connection = None
        connection.bucket.pool.give_back(connection, now)
        return True


def _close_late(task: asyncio.Task[Connected]) -> None:
    """A connection that stood in the moment in which it was given up."""
    if not task.cancelled() and task.exception() is None:
        task.result().stream.close()
