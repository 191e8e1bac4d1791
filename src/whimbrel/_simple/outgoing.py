"""The request of an exchange where it is more than its plan's head: a body, or credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from whimbrel._http1.framing import CHUNKED, LENGTH, NONE
from whimbrel._policy.exchange import Exchange
from whimbrel._simple.challenges import Challenges
from whimbrel._simple.plan import Plan
from whimbrel._simple.pool import Connection
from whimbrel._simple.turns import TURN_SECONDS, Turns
from whimbrel._upload import Upload, upload_of
from whimbrel.iostream import StreamClosedError

_PIECE = 64 * 1024
"""Bytes: of a body that is sent in one with its head, at most; and what is asked for at first of a
streamed one."""
_MOST_AT_ONCE = 1024 * 1024
"""Bytes of a streamed body that are asked for at a time, while the system takes them at once."""


class Outgoing:
    """One request on its way out; begun anew on each connection that it is sent on.

    Attributes:
        expecting: whether the body waits for 100.
        probing: whether the body is held back until all challenges are known. As in libcurl, the
            requests before go out with an empty one, so that the body travels once.
        unchallenged: whether a probe met no challenge, so that there is nothing to wait for.
        body_sent: whether some of the body has gone out, or all of an empty one.
        sending: whether some of it all waits in the stream, or was lost there.
    """

    __slots__ = (
        "_at_once",
        "_challenges",
        "_connection",
        "_exchange",
        "_failed",
        "_is_due",
        "_loop",
        "_lost",
        "_plan",
        "_produced",
        "_turns",
        "_upload",
        "body_sent",
        "expecting",
        "probing",
        "sending",
        "unchallenged",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turns: Turns,
        plan: Plan,
        exchange: Exchange,
        challenges: Challenges | None,
        lost: Callable[[Connection, BaseException], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`lost` is told, from the loop, of a connection that has closed under the body;
        `failed` of what the producer raises."""
        self._loop = loop
        self._turns = turns
        self._plan = plan
        self._exchange = exchange
        self._challenges = challenges
        self._lost = lost
        self._failed = failed
        self._connection: Connection | None = None
        self._upload: Upload | None = None
        self._produced = False  # the caller's code has been asked
        self._is_due = False  # its pump, in one of the next turns
        self._at_once = _PIECE
        self.expecting = False
        self.probing = self.unchallenged = False
        self.body_sent = False
        self.sending = False

    @property
    def unfinished(self) -> bool:
        """Whether some of a streamed body is still to be sent."""
        return self._upload is not None

    @property
    def is_sending(self) -> bool:
        """Whether some of the request is still to go, or was lost in the stream."""
        return self.sending or self.expecting or self._upload is not None

    @property
    def waiting(self) -> bool:
        """Whether the next piece of the body is the producer's to give, or waits for its turn."""
        return self._upload is not None and (self._is_due or self._upload.waiting)

    @property
    def repeatable(self) -> bool:
        """Whether the body can be had once more."""
        return not self._produced or self._exchange.replayable

    def begin(self, connection: Connection) -> None:
        """Send the head, and as much of the body as may go now. Raises StreamClosedError."""
        self._connection = connection
        exchange, plan = self._exchange, self._plan
        profile, http1, push = exchange.profile, connection.http1, self._push
        kind, keep = profile.body, plan.lines(exchange.fields).keep_alive
        challenges = self._challenges
        self.probing = kind != "none" and challenges is not None and self._is_probe(challenges)
        more = "" if challenges is None else challenges.field_lines(probing=self.probing)
        self.expecting = self.body_sent = self.sending = False
        if kind == "none":
            http1.start_request(profile.method, NONE, keep_alive=keep)
            push(plan.head(exchange, more))
            return
        if self.probing:
            http1.start_request(profile.method, LENGTH, 0, keep_alive=keep)
            http1.end_body()
            push(plan.head(exchange, f"{more}Content-Length: 0\r\n"))
            return
        length = len(exchange.body) if kind == "bytes" else exchange.content_length
        if length is None:
            http1.start_request(profile.method, CHUNKED, keep_alive=keep)
            more += "Transfer-Encoding: chunked\r\n"
        else:
            http1.start_request(profile.method, LENGTH, length, keep_alive=keep)
            more += f"Content-Length: {length}\r\n"
        if profile.expect_100_continue:
            self.expecting = True
            more += "Expect: 100-continue\r\n"
        head = plan.head(exchange, more)
        self.body_sent = length == 0
        if kind == "stream":
            self._upload = upload_of(self._loop, exchange, self._pump_soon, self._failed)
            push(head)
            self._pump_soon()
        elif self.expecting:
            push(head)
        else:
            body = self._whole_body(connection)
            if len(body) <= _PIECE:
                push(head + body)
            else:
                push(head)  # rather than a copy of it all
                push(body)

    def _push(self, data: bytes) -> None:
        assert self._connection is not None
        if not self._connection.stream.push(data):
            self.sending = True

    def _is_probe(self, challenges: Challenges) -> bool:
        if self.unchallenged or challenges.complete:
            return False
        return bool(self._exchange.body) or self._plan.profile.body == "stream"

    def _whole_body(self, connection: Connection) -> bytes:
        self.body_sent = True
        http1 = connection.http1
        body = http1.encode_body(self._exchange.body)
        http1.end_body()
        return body

    def go_on(self) -> None:
        """Send the body: 100 has come. Raises StreamClosedError."""
        self.expecting = False
        assert self._connection is not None
        if self._upload is None:
            self._push(self._whole_body(self._connection))
        else:
            self.pump()

    def drained(self) -> None:
        """The stream has sent what it had."""
        self.sending = False
        self.pump()

    def _pump_soon(self) -> None:
        """Send in the next turn of the loop.

        Not from within fetch(), for an iterable is asked when there is room; nor from within a
        producer's write(), for what it writes next can be sent with that.
        """
        self._is_due = True
        self._turns.soon(self.pump)

    def pump(self) -> None:
        """Send what the caller's code has, while the stream takes all of it at once."""
        self._is_due = False
        upload, connection = self._upload, self._connection
        if upload is None or connection is None or self.expecting:
            return
        http1, stream = connection.http1, connection.stream
        self._produced = True
        end = monotonic() + TURN_SECONDS
        try:
            while not (stream.unsent or stream.closed()):
                try:
                    pieces = upload.take(self._at_once)
                except BaseException as error:  # noqa: BLE001 (it is the caller's, and goes there)
                    self._failed(error)
                    return
                if self._upload is not upload or pieces is None:
                    return  # the caller's code has ended the exchange; or has nothing yet
                self.body_sent = True
                if not pieces:
                    self._upload = None
                    self._push(http1.end_body())
                    return
                if not stream.push_all(http1.encode_pieces(pieces)):
                    self.sending = True
                    self._at_once = _PIECE  # what waits for a slow peer is memory
                    return  # until it is drained, or lost
                self._at_once = min(2 * self._at_once, _MOST_AT_ONCE)
                if monotonic() > end:
                    self._pump_soon()  # the peer takes whatever comes
                    return
        except StreamClosedError as error:
            self._loop.call_soon(self._lost, connection, error)

    def stop(self) -> None:
        """Send no more; a producer is cancelled."""
        self._connection = None
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()
