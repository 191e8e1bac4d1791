"""One exchange on one easy handle: what libcurl calls, and what becomes of the response.

A Transfer lives as long as its handle and serves one exchange after another (`begin` … `_done`).
Everything an exchange sets is set anew by the next `begin`; the handle's options are set anew
unless the next plan is the very same (see `whimbrel._curl.handle`).

Rules:

1. Nothing here calls into libcurl from a callback, and nothing raises into it: an exception is
   kept in `_error`, libcurl is told to stop, and `_done` hands it to the awaiter.
2. Headers are collected by C (``list.append``). A Python function watches them only where
   somebody must know them early: streaming, header_callback, a login at a proxy that makes a
   tunnel, `expect_100_continue`, `max_header_size`.
3. PREREQFUNCTION is the one door through which every request passes on its way to a connection,
   new or reused. There a stale connection is turned away and a second sending is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pycurl

from whimbrel._curl.driver import FAILED
from whimbrel._curl.errors import (
    CurlLimitError,
    CurlProtocolError,
    CurlProxyError,
    CurlTimeoutError,
    Facts,
    classify,
    closed,
    garbled,
    malformed,
    too_long,
)
from whimbrel._curl.handle import SMALL_BODY, Callbacks, Handle
from whimbrel._curl.heads import (
    BLANK,
    MAX_INTERIM,
    NO_STATUS_LINE,
    SWITCHING,
    Head,
    block_at,
    content_length,
    last_status,
    parse_head,
    start_of_answer,
    start_of_last_block,
    status_of,
    too_many_interim,
)
from whimbrel._curl.large_body import LargeBody
from whimbrel._curl.options import Plan
from whimbrel._curl.room import Room
from whimbrel._curl.stall import Mark, StallWatch
from whimbrel._download import LARGE, Download
from whimbrel._policy.decoding import DecodingError
from whimbrel._policy.exchange import IDEMPOTENT_METHODS, Exchange
from whimbrel._send_queue import unacknowledged
from whimbrel._upload import Upload, upload_of
from whimbrel.httpclient import HTTPError, HTTPResponse
from whimbrel.httputil import HTTPHeaders

if TYPE_CHECKING:
    from whimbrel.curl_httpclient import CurlAsyncHTTPClient

MAX_ROUNDS = 5
"""Requests (or CONNECTs) of one exchange: digest with a stale nonce takes three; a server that
says stale=true for ever would get thousands."""
_FULL_PIECE = 16 * 1024  # what libcurl gives at most at once, whatever BUFFERSIZE says
_PROXY_ERROR = 0x200000 + 59  # CURLINFO_PROXY_ERROR; pycurl has no name for it
_ABORT = getattr(pycurl, "PREREQFUNC_ABORT", 1)
_SEEK_OK, _SEEK_FAIL = 0, 1


Address = tuple[str, int]
"""Host and port of one end of a connection."""
Ends = tuple[str, str, int, int]
"""Of a connection, as PREREQFUNCTION has them: remote and local host, remote and local port."""


class Transfer:
    """What libcurl calls for an easy handle, and the exchange it is on."""

    __slots__ = (
        "_answers",
        "_begun",
        "_block",
        "_callback",
        "_chunk",
        "_completion",
        "_continued",
        "_deadline",
        "_download",
        "_early",
        "_error",
        "_exchange",
        "_fresh",
        "_handle",
        "_head",
        "_head_bytes",
        "_head_done",
        "_head_pending",
        "_interim",
        "_lane",
        "_large",
        "_lines",
        "_local",
        "_mark",
        "_number",
        "_opened",
        "_owner",
        "_paused",
        "_plan",
        "_proxy_code",
        "_proxy_lines",
        "_remote",
        "_requests",
        "_resends",
        "_room",
        "_rounds",
        "_seems_small",
        "_seen",
        "_stale",
        "_stall",
        "_stirred",
        "_upload",
        "_was_paused",
        "easy",
    )

    def __init__(self, owner: CurlAsyncHTTPClient) -> None:
        self._owner = owner
        self._lines: list[bytes] = []
        self._handle = Handle()
        self.easy = self._handle.easy
        self._plan: Plan | None = None
        self._exchange: Exchange | None = None
        self._lane = 0

    # Begin

    def begin(self, exchange: Exchange, callback: Callable[[HTTPResponse], None]) -> None:
        """Apply the exchange's options and hand the handle to the driver.

        Raises what the options raise; then the handle must not be used again.
        """
        self._callback: Callable[[HTTPResponse], None] | None = callback
        self._exchange = exchange
        self._lines.clear()
        self._block = 0
        self._begun = False
        self._seems_small = True
        self._early: int | None = None
        self._head_done = False
        self._head_pending = False
        self._head_bytes = 0
        self._interim = 0
        self._continued = False
        self._mark = 0  # where the lines begin of what came on the socket that was opened last
        self._opened = 0  # the number of the request that a socket was opened for
        self._requests = 0
        self._resends = 0
        self._rounds = 0
        self._answers = 0  # to CONNECT
        self._seen = 0
        self._stale = self._fresh = False
        self._stall: StallWatch | None = None
        self._error: BaseException | None = None
        self._upload: Upload | None = None
        self._head: Head | None = None
        self._large: LargeBody | None = None
        self._chunk: bytes | None = None
        self._download: Download | None = None
        if exchange.on_head is not None:
            self._make_download()
        self._paused = 0
        self._was_paused = False
        self._stirred: int | None = None  # the socket, if something came on it meanwhile
        self._room: Room | None = None  # that its body takes of each turn's
        self._completion: tuple[int, str] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._proxy_code: int | None = None
        self._proxy_lines: list[bytes] = []
        self._remote: Address | None = None
        self._local: Address | None = None
        self._number: int | None = None
        handle = self._handle
        if handle.dirty or exchange is not handle.applied:
            self._apply(exchange)
        if exchange.prepare_curl_callback is not None:
            # Whatever it sets must not be met by another request: see _release.
            handle.dirty = True
            self._opened = 1  # or it is not known: SOCKOPTFUNCTION may be the caller's
            exchange.prepare_curl_callback(self.easy)
        self._owner._driver.start(
            self.easy,
            self._done,
            exchange.shared or not exchange.calls_back,
            exchange.prepare_curl_callback is not None,
        )
        assert self._plan is not None
        if self._plan.stall_timeout and self._callback is not None:
            self._stall = StallWatch(
                self._owner._driver_loop, self._plan.stall_timeout, self._progress, self._stalled
            )

    def _make_download(self) -> Download:
        """For a body that is more than one piece as it came."""
        exchange = self._exchange
        assert exchange is not None
        self._download = download = Download(
            self._owner._driver_loop,
            exchange,
            too_long,
            self._resume_receiving,
            self._fail_from_loop,
        )
        return download

    def _apply(self, exchange: Exchange) -> None:
        is_watched = exchange.on_head is not None or self._owner.max_header_size is not None
        try:
            self._plan = self._handle.apply(exchange, is_watched, self._callbacks)
        except pycurl.error as error:
            raise classify(Facts(error.args[0], error.args[-1], exchange)) from error
        if exchange.profile.body == "stream":
            self._upload = upload_of(
                self._owner._driver_loop, exchange, self._resume_sending, self._fail_from_loop
            )

    def _callbacks(self) -> Callbacks:
        return Callbacks(
            write=self._on_body,
            header=self._lines.append,
            watched_header=self._on_header,
            prereq=self._on_request,
            sockopt=self._on_socket,
            read=self._on_read,
            seek=self._on_seek,
        )

    # libcurl's callbacks

    def _on_socket(self, fd: int, purpose: int) -> int:
        """SOCKOPTFUNCTION: a socket was made for this transfer."""
        if self._opened <= self._requests:
            self._mark = len(self._lines)
        self._opened = self._requests + 1
        self._proxy_code = None  # what it said on a connection before
        self._proxy_lines = []
        self._owner._driver.opened(fd, self.easy)
        return 0

    def _on_request(self, *ends: Any) -> int:
        """PREREQFUNCTION: a request is about to be sent on a connection between these `Ends`."""
        owner = self._owner
        number: int | None
        known = owner._connections.get(ends)
        if known is not None:
            number, address, peer = known
        else:
            remote, local, remote_port, local_port = ends
            number, address, peer = None, (local, local_port), (remote, remote_port)
        assert self._plan is not None
        if self._plan.tunnel and self._opened > self._requests:
            if not self._handle.watching:
                self._take_answer_to_connect()
            # Here, for others may share it before this response has come.
            if self._answers or not self._handle.watching:
                owner._remember_tunnel((address, peer), self._proxy_code, self._proxy_lines)
        if self._requests:
            return self._on_further_request(number, address, peer)
        self._requests = 1
        self._number, self._local, self._remote = number, address, peer
        if number is None or self._opened:
            self._lane = owner._driver.lane_of(self.easy)
        tainted = owner._tainted
        if tainted and address in tainted:
            if not self._fresh:
                self._stale = True
                return _ABORT
            tainted.discard(address)  # a new connection that got the port of an old one
        self._seen = len(self._lines)
        return 0 if self._upload is None else self._begin_upload(self._upload)

    def _on_further_request(self, number: int | None, address: Address, peer: Address) -> int:
        """libcurl sends again, of its own accord: for a challenge, or because no answer came."""
        owner = self._owner
        exchange = self._exchange
        assert exchange is not None
        self._requests = requests = self._requests + 1
        before = self._local
        self._number, self._local, self._remote = number, address, peer
        self._lane = owner._driver.lane_of(self.easy)
        assert self._plan is not None
        status = self._status()
        # Where a caller's SOCKOPTFUNCTION hides a new tunnel, it may be the proxy's answer.
        is_hidden = exchange.prepare_curl_callback is not None and self._plan.tunnel
        is_proxys = is_hidden and (status // 100 == 2 or status == 407)
        if len(self._lines) > self._seen and not is_proxys:
            # An answer came, to which libcurl answers: the next round of an authentication.
            self._head_pending = False
            try:
                self._check_answered()
            except CurlProtocolError as error:
                self._error = error
                return _ABORT
            if exchange.profile.expect_100_continue and self._status() == 417:
                # libcurl would send the body that the server has just refused to read.
                self._stale = False
                self._completion = (0, "")
                return _ABORT
            self._rounds += 1
            if self._rounds >= MAX_ROUNDS:
                self._error = self._too_many_rounds(self._status())
                return _ABORT
        else:
            # None came: the connection was closed, and libcurl sends once more (RFC 9110 9.2.2).
            self._resends += 1
            retryable = exchange.profile.method in IDEMPOTENT_METHODS
            if self._resends > 1 or not retryable:
                self._error = closed(
                    f"{exchange.url.netloc} closed the connection before any response"
                    + ("" if retryable else "; the request may have been carried out"),
                    retryable,
                )
                return _ABORT
        if self._opened == requests:
            owner._tainted.discard(address)  # a new connection that got the port of an old one
        elif address != before and not owner._is_shared(address):
            # Another of those that are kept. libcurl chose it in the middle of serving sockets:
            # what was found on it may be known, what lies there since is not.
            self._stale = True
            return _ABORT
        self._block = self._seen = len(self._lines)
        self._interim = self._head_bytes = self._answers = 0
        self._continued = False
        return 0

    def _check_answered(self) -> None:
        """Look at the head of a challenge that libcurl answers of its own accord: whoever got its
        end wrong takes the rest of it for the answer to the next request."""
        exchange = self._exchange
        assert exchange is not None
        block = self._final_block()
        if block is None:
            raise garbled(exchange, NO_STATUS_LINE)
        parse_head(exchange, b"".join(block), block)

    def _begin_upload(self, upload: Upload) -> int:
        """Of a body that is to be empty libcurl asks nothing: whether it is, we have to ask."""
        assert self._exchange is not None
        if self._exchange.content_length == 0:
            try:
                upload.take(1)
            except BaseException as error:  # noqa: BLE001 (rule 1)
                self._error = error
                return _ABORT
        return 0

    def _on_header(self, line: bytes) -> int | None:
        """HEADERFUNCTION where headers are wanted early."""
        if self._error is not None:
            return 0
        lines = self._lines
        lines.append(line)
        self._head_bytes += len(line)
        limit = self._owner.max_header_size
        if limit is not None and self._head_bytes > limit:
            self._error = CurlLimitError(
                f"the header block passes max_header_size: {self._head_bytes} of {limit} bytes",
                stage="response",
            )
            return 0
        if self._begun or line not in BLANK:
            return None  # a trailer, or not yet the end of the block
        self._head_bytes = 0
        assert self._plan is not None
        if self._plan.tunnel and (not self._requests or self._opened > self._requests):
            return self._end_answer_to_connect()
        status = self._status()
        exchange = self._exchange
        assert exchange is not None
        if not status:
            self._error = garbled(exchange, NO_STATUS_LINE)
            return 0
        if status == 101 and exchange.prepare_curl_callback is None:  # who may ask for HTTP/2
            self._error = garbled(exchange, SWITCHING)  # libcurl would wait on
            return 0
        if 100 <= status < 200:
            self._interim += 1
            self._continued = self._continued or status == 100
            self._block = len(lines)
            if self._interim > MAX_INTERIM:
                self._error = too_many_interim(exchange)
                return 0
        elif status in (401, 407) and not self._plan.lasting:
            # libcurl may answer the challenge itself; the body, or the end, will tell.
            self._head_pending = exchange.on_head is not None
        else:
            if exchange.profile.expect_100_continue and not self._continued and status < 300:
                self._expect_no_more(status)
            if exchange.on_head is not None:
                return self._deliver_head()
        return None

    def _take_answer_to_connect(self) -> None:
        """Put aside all lines that came on a connection before the request is sent on it: they are
        the proxy's, whatever they look like, and none may pass for the origin's."""
        lines, start = self._lines, self._mark
        begun = start_of_answer(lines, start)
        status = status_of(lines[begun:])
        if status:
            self._proxy_code = status
            self._proxy_lines = lines[begun:]
        del lines[start:]

    def _end_answer_to_connect(self) -> int | None:
        """A proxy's header block is whole; it may be that of a second tunnel."""
        lines = self._lines
        begun = start_of_answer(lines, self._block)
        self._proxy_code = status = status_of(lines[begun:])
        self._proxy_lines = lines[begun:]
        self._answers += 1
        if not self._requests:
            self._block = len(lines)
        elif self._mark <= self._seen:
            # No answer came through the first one, and this is none.
            self._block = self._seen = len(lines)
        if status == 407:
            self._rounds += 1
        # Whatever its fields make of the status, no proxy is asked for ever.
        if self._rounds >= MAX_ROUNDS or self._answers > MAX_ROUNDS:
            self._error = self._too_many_rounds(407)
            return 0
        return None

    def _expect_no_more(self, status: int) -> None:
        """A final 2xx came instead of 100: libcurl would go on waiting for the 100.

        The end of the response is then ours to find, by Content-Length; a chunked one ends at
        the deadline. From 300 on libcurl gives up the request body itself.
        """
        length = HTTPHeaders.from_lines(self._lines[self._block + 1 :]).get("Content-Length", "")
        self._early = 0 if status == 204 else int(length) if length.isdigit() else None
        if self._early == 0:
            self._owner._driver_loop.call_soon(self._finish_early, self._exchange)

    def _finish_early(self, exchange: Exchange | None) -> None:
        """The response is whole, the request is not: this connection has had its day."""
        callback = self._callback
        if callback is None or self._exchange is not exchange:
            return  # libcurl found the end itself, and the handle may be on another exchange
        if self._download is not None and self._download.paused:
            self._completion = (0, "")
            return
        response = self._outcome(0, "")
        self.abort()
        callback(response)

    def _deliver_head(self) -> int | None:
        """Give the head to the pipeline; 0 stops libcurl."""
        self._head_done = True
        self._head_pending = False
        exchange = self._exchange
        assert exchange is not None
        assert exchange.on_head is not None
        assert self._download is not None
        block = self._lines[self._block :]
        try:
            head = self._look_at(block)
            wanted = exchange.on_head(head.code, head.version, block)
        except BaseException as error:  # noqa: BLE001 (rule 1)
            self._error = error
            return 0
        if not wanted:
            self._download.discard()
        if self._callback is None:
            return 0  # cancelled by the callback
        return None

    def _on_body(self, chunk: bytes) -> int | None:
        """WRITEFUNCTION: a piece of the body as it came, still encoded."""
        download = self._download
        if (
            download is None
            and not self._begun
            and self._early is None
            and self._is_all_as_ever(chunk)
        ):
            return None
        if download is not None and download.paused:
            return self._pause_receiving()
        if self._error is not None or self._callback is None:
            return 0
        is_full = len(chunk) >= _FULL_PIECE
        room = self._room
        if room is not None:
            if room.left <= 0:
                room.wait(self._go_on)
                return self._pause_receiving()
            room.left -= len(chunk)
        try:
            if not self._begun:
                if self._head_pending and self._deliver_head() == 0:
                    return 0
                self._begin_body()
            if is_full and self._seems_small:
                self._seems_small = False
                self._owner._driver_loop.call_soon(self._expect_much)
            if self._early is not None:
                self._early -= len(chunk)
                if self._early <= 0:
                    self._owner._driver_loop.call_soon(self._finish_early, self._exchange)
            download = self._download
            if download is None:
                self._feed(chunk)
            else:
                download.feed(chunk)
        except BaseException as error:  # noqa: BLE001 (rule 1)
            self._error = error
        return 0 if self._error is not None or self._callback is None else None

    def _its_room(self) -> Room | None:
        """Where its body waits for its turn, if it does: a stream of HTTP/2 that is paused is kept
        in memory by libcurl, and a handle that somebody else has as well may be paused by him."""
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        if head.version[0] != "1" or exchange.prepare_curl_callback is not None:
            return None
        return self._owner._driver.room

    def _is_all_as_ever(self, chunk: bytes) -> bool:
        """The short way: a head that is known, byte for byte, and a body of one piece.

        Whatever is not like that goes the long way, which does the same.
        """
        lines = self._lines
        known = self._owner._known_heads
        head = known.last
        block = b"".join(lines)
        if head is None or head.block != block:
            head = known.find(block)
        plan = self._plan
        assert plan is not None
        if head is None or 0 < plan.max_body_size < len(chunk) or head.content_encoding:
            return False
        self._begun = True
        self._head = head
        lines.append(b"")  # trailers are to stay out of the headers
        self._block = len(lines) - 1
        self._chunk = chunk
        return True

    def _feed(self, chunk: bytes) -> None:
        """The first piece of a body, or the second."""
        exchange = self._exchange
        assert exchange is not None
        if (
            self._chunk is None
            and len(chunk) < _FULL_PIECE
            and not 0 < exchange.profile.max_body_size < len(chunk)
        ):
            self._chunk = chunk  # all there will be, most often
            return
        download = self._make_download()
        self._room = self._its_room()  # its head may have been known: see above
        if self._chunk is not None:
            download.feed(self._chunk)
        download.feed(chunk)

    def _expect_much(self) -> None:
        """Of a large body there is a better way to take the rest."""
        exchange, download = self._exchange, self._download
        if exchange is None or self._callback is None or not self._begun or download is None:
            return  # it was over in that turn, and the handle may be on the next
        if self._owner._driver.is_inside:
            return  # a callback of libcurl's runs the loop
        if exchange.prepare_curl_callback is not None or self._early is not None:
            return  # a caller may let libcurl decode; we have to count
        length = content_length(self._lines[: self._block])
        if length < LARGE or self._error is not None:
            return
        self._large = LargeBody(
            self._handle,
            download,
            length,
            exchange.url.netloc,
            self._room,
            self._on_body,
            self._fail_from_callback,
        )
        self._large.begin(self._owner._driver_loop, self._is_plain_text(), self._fail_from_loop)

    def _is_plain_text(self) -> bool:
        """Whether the socket carries HTTP/1.1 for this exchange, and nothing around it."""
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        proxy = exchange.profile.proxy
        return (
            exchange.url.scheme == "http"
            and head.version in ("1.0", "1.1")
            and (proxy is None or proxy.scheme != "https")
        )

    def _begin_body(self) -> None:
        """The header block is whole: from here on, header lines are trailers."""
        self._begun = True
        lines = self._lines
        # One block, nearly always: it begins with the status line and ends with the blank one.
        if self._block or lines.count(b"\r\n") + lines.count(b"\n") != 1:
            final = self._final_block()
            if final is None:
                assert self._exchange is not None
                raise garbled(self._exchange, NO_STATUS_LINE)
            lines[:] = final
        self._block = 0
        self._head = head = self._look_at(lines)
        if head.content_encoding:
            (self._download or self._make_download()).begin(head.content_encoding)
        if self._local is not None and (self._number is None or self._opened):
            # Not with the response alone: its consumer may hold it while the connection idles.
            self._owner._note_version(self._local, head.version)
        self._room = self._its_room()
        # A copy is cheap, and trailers are to stay out of the headers.
        self._lines.append(b"")
        self._block = len(self._lines) - 1

    def _look_at(self, lines: list[bytes]) -> Head:
        """A whole header block that was found in order; what libcurl lets through and we do not
        raises CurlProtocolError."""
        exchange = self._exchange
        assert exchange is not None
        block = b"".join(lines)
        known = self._owner._known_heads
        head = known.find(block)
        if head is None:
            head = parse_head(exchange, block, lines)
            known.add(head)
        return head

    def _on_read(self, size: int) -> bytes | int:
        """READFUNCTION: libcurl wants at most `size` bytes more of the request body."""
        assert self._upload is not None
        try:
            pieces = self._upload.take(size)
            if pieces is not None:
                return b"".join(pieces)  # which copies nothing where it is one piece of bytes
        except BaseException as error:  # noqa: BLE001 (rule 1)
            self._error = error
            return int(pycurl.READFUNC_ABORT)
        return int(pycurl.READFUNC_ABORT if self._upload.stopped else pycurl.READFUNC_PAUSE)

    def _on_seek(self, offset: int, origin: int) -> int:
        """SEEKFUNCTION: libcurl wants to send the body from its beginning."""
        if offset or origin or self._upload is None:
            return _SEEK_FAIL
        try:
            return _SEEK_OK if self._upload.rewind() else _SEEK_FAIL
        except BaseException as error:  # noqa: BLE001 (rule 1)
            self._error = error
            return _SEEK_FAIL

    # Pauses

    def _resume_receiving(self) -> None:
        """The consumer has taken all that it was given."""
        if self._early is not None and self._completion is not None:
            self._finish_early(self._exchange)
        elif self._completion is not None:
            self._complete(*self._completion)
        else:
            self._go_on()

    def _pause_receiving(self) -> int:
        """What a WRITEFUNCTION returns that takes nothing now."""
        self._paused |= pycurl.PAUSE_RECV
        self._was_paused = True
        self._owner._paused[self._local, self._remote] = None
        return int(pycurl.WRITEFUNC_PAUSE)

    def _go_on(self) -> None:
        """More of the body can be taken; by a consumer that is busy, it is refused once more."""
        if self._paused & pycurl.PAUSE_RECV:
            self._end_pause()
            self._owner._driver.pause(self.easy, self._paused)

    def _end_pause(self) -> None:
        self._paused &= ~pycurl.PAUSE_RECV
        fd = self._owner._paused.pop((self._local, self._remote), None)
        if fd is not None:
            self._stirred = fd

    def _resume_sending(self) -> None:
        """The producer has written something, or come to its end."""
        if self._callback is not None:
            self._owner._driver.pause(self.easy, self._paused)

    # Stalls

    def _progress(self) -> tuple[Mark, bool]:
        """The byte counts, and whether it is for the peer to send or to take something."""
        exchange, download = self._exchange, self._download
        assert exchange is not None
        getinfo = self.easy.getinfo
        in_system = 0
        if self._is_http1(exchange):
            # What the system has taken is not sent yet: a whole body fits in there, and goes on for
            # seconds. On HTTP/2 it may be another stream's.
            in_system = unacknowledged(getinfo(pycurl.ACTIVESOCKET))
        mark = (
            getinfo(pycurl.SIZE_UPLOAD_T) - in_system,
            getinfo(pycurl.SIZE_DOWNLOAD_T),
            getinfo(pycurl.HEADER_SIZE),
            self._requests,
        )
        waits_for_us = (download is not None and download.paused) or (
            self._upload is not None and self._upload.waiting
        )
        return mark, bool(self._requests) and not waits_for_us

    def _stalled(self) -> None:
        facts = self._facts(pycurl.E_OPERATION_TIMEDOUT, "")._replace(stalled=True)
        self._fail_from_loop(self._error_of(facts))

    def _is_http1(self, exchange: Exchange) -> bool:
        """Whether the connection is this exchange's alone, as far as that is known by now."""
        wanted = exchange.profile.http_version
        return (
            wanted == "1.1"
            or (wanted is None and exchange.url.scheme == "http")
            or (self._local is not None and self._owner._versions.get(self._local) == "1.1")
        )

    # End

    def abort(self) -> None:
        """Drop the exchange at once; its callback is not called any more."""
        if self._callback is None:
            return
        self._callback = None
        self._owner._driver.cancel(self.easy)
        if self._download is not None:
            self._download.cancel()
        self._stop_helpers()
        self._large = None
        if self._upload is not None and self._exchange is not None:
            # libcurl's handle knows us until it is collected, a caller's generator it need not.
            self._exchange.pieces = self._exchange.producer = None

    def _fail_from_callback(self, error: BaseException) -> None:
        """Keep what a callback must not raise; it stops libcurl itself (rule 1)."""
        self._error = error

    def _fail_from_loop(self, error: BaseException) -> None:
        """Abort the exchange because of something outside libcurl."""
        callback = self._callback
        if callback is None:
            return
        response = self._failure(error)
        self.abort()
        callback(response)

    def _stop_helpers(self) -> None:
        if self._paused:
            self._end_pause()
        if self._large is not None:
            self._large.end()
        if self._upload is not None:
            self._upload.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._stall is not None:
            self._stall.stop()
            self._stall = None

    def _done(self, code: int, message: str) -> None:
        """The driver is done with the handle."""
        callback = self._callback
        if callback is None:
            return
        if (
            not code
            and self._begun
            and self._download is None
            and self._error is None
            and self._upload is None
            and self._stall is None
        ):
            # Nearly always. Nothing is to be checked, or stopped, at its end.
            try:
                response = self._response()
            except Exception as error:  # noqa: BLE001 (a fetch must end, whatever we got wrong)
                self._error = error
            else:
                self._callback = None
                self._release(0)
                callback(response)
                return
        if self._was_paused:
            # What came on its socket, unless libcurl has read it since, is a stranger's.
            self._end_pause()
            if self._stirred is not None:
                self._owner._driver.watch_idle(self._stirred)
        if code == pycurl.E_ABORTED_BY_CALLBACK and self._error is None:
            if self._stale:
                self._begin_afresh()
                return
            if self._completion is not None:
                code, message = self._completion
        if (
            self._download is not None
            and self._download.paused
            and not code
            and self._error is None
        ):
            # libcurl is through, the consumer is not. The deadline is now ours to keep.
            self._completion = (code, message)
            exchange = self._exchange
            assert exchange is not None
            if exchange.request_timeout:
                limits = self._handle.limits
                assert limits is not None
                spent = self.easy.getinfo(pycurl.TOTAL_TIME)
                self._deadline = self._owner._driver_loop.call_later(
                    max(0.0, limits[0] - spent),
                    self._fail_from_loop,
                    CurlTimeoutError(
                        f"Timeout during request to {exchange.url.netloc}", stage="body"
                    ),
                )
            return
        self._complete(code, message)

    def _begin_afresh(self) -> None:
        """The connection that libcurl chose is not to be trusted: take another one."""
        exchange = self._exchange
        assert exchange is not None
        owner = self._owner
        # Of an origin that speaks HTTP/2, as far as is known, one that others share will do: it is
        # looked at now. Each of hundreds that a server sent away must not get one of its own.
        fresh = self._local in owner._tainted or self._is_http1(exchange)
        self._stale = False
        self._fresh = fresh
        self._requests = 0
        self._opened = int(exchange.prepare_curl_callback is not None)
        self._handle.dirty = True
        self._lines.clear()
        self._block = self._seen = self._head_bytes = self._interim = self._answers = 0
        self._mark = 0
        self._continued = False
        self._proxy_code = None
        self._proxy_lines = []
        try:
            if self._upload is not None and not self._upload.rewind():
                self._error = closed(
                    f"{exchange.url.netloc} closed the connection before any response;"
                    " the body cannot be had once more",
                    retryable=True,
                )
                self._complete(0, "")
                return
            if fresh:
                self.easy.setopt(pycurl.FRESH_CONNECT, 1)
            if exchange.request_timeout:
                self._handle.take_off(self.easy.getinfo(pycurl.TOTAL_TIME))
            owner._driver.start(
                self.easy, self._done, is_shown=exchange.prepare_curl_callback is not None
            )
        except (pycurl.error, RuntimeError) as error:
            self._complete(FAILED, str(error))

    def _complete(self, code: int, message: str) -> None:
        try:
            response = self._outcome(code, message)
        except Exception as error:  # noqa: BLE001 (a fetch must end, whatever we got wrong)
            response = self._failure(error)
        if not code and response.error is not None and self._local is not None:
            # libcurl saw a success and keeps the connection; we know better.
            self._owner._taint(self._local)
        callback = self._callback
        assert callback is not None
        self._callback = None
        if self._download is not None and self._download.paused:
            self._download.cancel()  # it failed while the consumer was busy
        self._stop_helpers()
        self._release(code)
        callback(response)

    def _release(self, code: int) -> None:
        exchange = self._exchange
        assert exchange is not None
        if len(exchange.body) > SMALL_BODY:
            self._handle.forget()  # or the idle handle would hold on to it
        if self._large is not None:
            self._handle.restore(self._on_body)  # for the same reason
            self._large = None
        # A handle that served a caller's own options, or that failed, is not worth a risk.
        keep = exchange.prepare_curl_callback is None and (
            not code or code == pycurl.E_OPERATION_TIMEDOUT
        )
        self._exchange = None
        self._upload = None
        self._download = self._chunk = None
        self._error = None
        if keep and not self._owner._closed:
            self._owner._idle.append(self)
        else:
            self.easy.close()

    def _outcome(self, code: int, message: str) -> HTTPResponse:
        """What the exchange amounts to."""
        exchange = self._exchange
        assert exchange is not None
        if self._error is not None:
            return self._failure(self._error)
        if code:
            return self._failure(self._error_of(self._facts(code, message)))
        try:
            if not self._begun:
                self._end_without_body()
            elif self._download is not None:
                self._download.finish()
        except BaseException as error:  # noqa: BLE001 (a caller's header_callback may raise any)
            return self._failure(error)
        if self._error is not None:
            return self._failure(self._error)
        return self._response()

    def _end_without_body(self) -> None:
        """Check the header block of a response that brought no body."""
        exchange = self._exchange
        assert exchange is not None
        lines = self._final_block()
        if lines is None:
            # libcurl calls it a success when the connection ends inside the header block.
            raise closed(
                f"{exchange.url.netloc} closed the connection within the header block",
                exchange.profile.method in IDEMPOTENT_METHODS,
            )
        self._lines[:] = lines
        self._block = len(lines)
        self._head = head = self._look_at(lines)
        if (
            head.content_encoding
            and exchange.profile.method != "HEAD"
            and head.code not in (204, 304)
        ):
            (self._download or self._make_download()).begin(head.content_encoding)
        if exchange.on_head is not None and not self._head_done:
            self._block = 0
            self._deliver_head()
            self._block = len(lines)

    def _final_block(self) -> list[bytes] | None:
        """The last header block, without trailers behind it; None if it has no end."""
        exchange, lines, start = self._exchange, self._lines, self._block
        assert exchange is not None
        if not self._handle.watching:  # else it has moved on with each block that was not the last
            start = start_of_last_block(exchange, lines, start)
        return block_at(lines, start)

    def _response(self) -> HTTPResponse:
        exchange = self._exchange
        head = self._head
        assert exchange is not None
        assert head is not None
        owner = self._owner
        download = self._download
        getinfo = self.easy.getinfo
        response = HTTPResponse.__new__(HTTPResponse)
        response.code = head.code
        response.error = None
        response._block = head.block
        response.effective_url = exchange.url.href
        response.http_version = head.version
        response.remote_address = remote = self._remote
        response.local_address = local = self._local
        if download is None:
            response.body = self._chunk or b""
            response._decoded = False
        else:
            response.body = download.body
            response._decoded = self._begun and download.decoded
        number = self._number
        if number is None or (self._opened and getinfo(pycurl.NUM_CONNECTS)):
            # libcurl counts the connections of each multi for itself.
            response.connection_id = number = (self._lane << 32) + getinfo(_CONN_ID)
            response.reused = not getinfo(pycurl.NUM_CONNECTS)
            if local is not None and remote is not None:
                owner._remember_connection(local, remote, number, head.version)
            lookup = getinfo(pycurl.NAMELOOKUP_TIME)
            connect = getinfo(pycurl.CONNECT_TIME)
            secured = getinfo(pycurl.APPCONNECT_TIME)
        else:
            response.connection_id = number
            response.reused = True
            lookup = connect = secured = 0.0  # the connection stood already
        response._times = (
            lookup,
            connect,
            secured,
            getinfo(pycurl.PRETRANSFER_TIME),
            getinfo(pycurl.STARTTRANSFER_TIME),
            getinfo(pycurl.TOTAL_TIME),
        )
        assert self._plan is not None
        proxy = self._plan.proxy_url
        if proxy is not None:
            response.proxy = proxy
            self._add_answer_of_proxy(response)
        return response

    def _add_answer_of_proxy(self, response: HTTPResponse) -> None:
        assert self._plan is not None
        if self._plan.tunnel:
            tunnels = self._owner._tunnels
            if not self._proxy_lines:
                # A reused tunnel: what the proxy said when it was made.
                ends = self._local, self._remote
                self._proxy_code, self._proxy_lines = tunnels.get(ends, (None, []))
            response.proxy_code = self._proxy_code
            response._proxy_lines = self._proxy_lines
        elif response.code == 407:
            response.proxy_code = 407

    def _failure(self, error: BaseException) -> HTTPResponse:
        exchange = self._exchange
        assert exchange is not None
        proxy = exchange.profile.proxy
        if isinstance(error, DecodingError):
            error = malformed(exchange, error, "body")
        if isinstance(error, HTTPError) and proxy is not None:
            error.proxy = proxy.url
            if error.proxy_code is None:
                error.proxy_code = self._proxy_code
        return HTTPResponse.failed(error, exchange.url.href)

    def _error_of(self, facts: Facts) -> HTTPError:
        exchange = facts.exchange
        waited = self._requests > 0 and not self._begun and self._status() == 101
        if waited and exchange.prepare_curl_callback is None:
            return garbled(exchange, SWITCHING)
        return classify(facts)

    def _facts(self, code: int, message: str) -> Facts:
        exchange = self._exchange
        assert exchange is not None
        getinfo = self.easy.getinfo
        plan = self._plan
        reconnecting = 0 < self._requests < self._opened
        if plan is not None and plan.tunnel and self._opened > self._requests:
            self._take_answer_to_connect()
        return Facts(
            code,
            message,
            exchange,
            requested=self._requests,
            reconnecting=reconnecting,
            head=not reconnecting and (self._begun or self._has_final_head()),
            head_bytes=sum(map(len, self._lines)),
            head_lines=len(self._lines),
            body=self._begun,
            uploading=self._upload.unfinished
            if self._upload is not None
            else getinfo(pycurl.SIZE_UPLOAD_T) < len(exchange.body),
            namelookup=getinfo(pycurl.NAMELOOKUP_TIME),
            connect=getinfo(pycurl.CONNECT_TIME),
            appconnect=getinfo(pycurl.APPCONNECT_TIME),
            total=getinfo(pycurl.TOTAL_TIME),
            os_errno=getinfo(pycurl.OS_ERRNO),
            # libcurl's may be that of a connection before.
            connect_code=(0 if self._requests else getinfo(pycurl.HTTP_CONNECTCODE))
            or (self._proxy_code or 0),
            proxy_error=_info(self.easy, _PROXY_ERROR),
            proxy_verify=_info(self.easy, getattr(pycurl, "PROXY_SSL_VERIFYRESULT", 0)),
        )

    def _has_final_head(self) -> bool:
        """Whether the last lines are a header block, and not that of an interim response."""
        lines = self._lines
        came = self._requests > 0 and len(lines) > self._seen and lines[-1] in BLANK
        return came and self._status() >= 200

    def _too_many_rounds(self, status: int) -> HTTPError:
        exchange = self._exchange
        assert exchange is not None
        proxy = exchange.profile.proxy
        if status == 407 and proxy is not None:
            error: HTTPError = CurlProxyError(
                f"proxy {proxy.url} asked for credentials {MAX_ROUNDS} times (407)",
                stage="proxy-auth",
            )
            error.proxy_code = 407
            return error
        return CurlProtocolError(
            f"{exchange.url.netloc} asked for credentials {MAX_ROUNDS} times", stage="response"
        )

    def _status(self) -> int:
        """The status of the header block that is arriving, or of the last one."""
        lines = self._lines
        if self._handle.watching:
            return status_of(lines[self._block : self._block + 1])
        return last_status(lines, self._block)


_CONN_ID = getattr(pycurl, "CONN_ID", 0x600000 + 64)


def _info(easy: pycurl.Curl, number: int) -> int:
    """A number from getinfo, 0 where this libcurl does not know it."""
    try:
        value = easy.getinfo(number)
    except (pycurl.error, ValueError):
        return 0
    return value if isinstance(value, int) else 0
