"""Non-blocking sockets and TLS sockets on an asyncio loop: :class:`IOStream`, :class:`SSLIOStream`.

Two ways to use a stream, one at a time:

- **Futures**, as in Tornado: ``await stream.read_until(b"\\r\\n")``, ``await stream.write(data)``.
- **Push mode**: :meth:`IOStream.attach` a :class:`Receiver`, which is called with whatever comes,
  and :meth:`IOStream.push` what is to go. No future and no callback of the loop is made per
  message. The HTTP/1.x connections work in this way.

Rules of the file:

1. The event loop watches the descriptor itself; there is no transport underneath, and nothing is
   read that nobody asked for.
2. The loop knows nothing of bytes that lie inside OpenSSL: whoever stops reading a TLS socket
   before it would block, looks there before waiting again.
3. A descriptor is taken from the loop before it is closed. Closing is final, and done once.
4. A pause is noted and carried out when the next byte comes, so that a pause that is over by then
   costs nothing.
5. uvloop calls a reader once, and never again, where an error waits behind the data (libuv's
   ``uv_poll`` stops itself): there, whoever stops reading before it would block stops watching.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import sys
from asyncio import Future
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, cast

from whimbrel._iostream.reads import (
    Read,
    ReadBytes,
    ReadInto,
    ReadUntil,
    ReadUntilClose,
    ReadUntilRegex,
    Unsatisfiable,
    cut,
)
from whimbrel._loops import current_loop
from whimbrel._readiness import Watcher

_DEFAULT_MAX_BUFFER_SIZE = 100 * 1024 * 1024
_DEFAULT_READ_CHUNK_SIZE = 64 * 1024

# Small pieces that wait to be sent are joined up to this size: a system call costs more.
_JOINED_SIZE = 64 * 1024

# Pieces that one system call takes at most; POSIX promises no more than 16.
_PIECES_AT_ONCE = 16

# What is sent at once, at most: a system call that is given more goes on for as long as the peer
# takes it, which was 30 MB in 10 ms. And for how long, in seconds, before others on the loop have
# their turn.
_LARGE_SEND = 8 * 1024 * 1024
_SENDING_SECONDS = 0.002

# Reads in a row before other sockets of the loop have their turn.
_READS_AT_ONCE = 16

# What is read at once of a large message. Below 128 KiB, from where malloc maps the memory of each
# piece and unmaps it again; but what goes into a buffer that is there needs none.
_LARGE_READ = 120 * 1024
_FILLING_READ = 256 * 1024

# "Not now": the four ways in which sockets and TLS sockets say it.
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# What most streams never have: something that waits to be sent, or a future of a write.
_NOTHING: deque[Any] = deque(maxlen=0)

_ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class StreamClosedError(OSError):
    """The stream was closed, by either side, before the operation was done.

    ``real_error`` is what closed it, None if that was no error.
    """

    def __init__(self, real_error: BaseException | None = None) -> None:
        text = "Stream is closed"
        super().__init__(text if real_error is None else f"{text}: {real_error}")
        self.real_error = real_error


class UnsatisfiableReadError(Exception):
    """What a read was waiting for did not come within its ``max_bytes``."""


class StreamBufferFullError(Exception):
    """A buffer would have grown beyond ``max_buffer_size`` or ``max_write_buffer_size``."""


class Receiver(Protocol):
    """What a stream in push mode calls.

    It may pause, detach or close the stream, or push to it, from within these calls. Whatever one
    of them raises closes the stream and goes to the loop's exception handler.
    """

    def data_received(self, data: bytes) -> None:
        """Take what came: not empty, and at most ``read_chunk_size`` bytes (see ``set_bulk``)."""

    def eof_received(self) -> None:
        """The peer sends no more; the stream is still open for writing."""

    def connection_lost(self, error: BaseException | None) -> None:
        """The stream has been closed by an error; not called after one's own ``close()``."""

    def drained(self) -> None:
        """All that was pushed has gone to the system; only after a ``push()`` that was False."""


def ssl_options_to_context(
    ssl_options: Mapping[str, Any] | ssl.SSLContext | None, server_side: bool
) -> ssl.SSLContext:
    """Return the context that ``ssl_options`` stands for.

    A context is returned as it is. A mapping has the keys ``certfile``, ``keyfile``,
    ``cert_reqs``, ``ca_certs`` and ``ciphers``, each as in :mod:`ssl`. None, or an empty mapping,
    verifies the peer's certificate and host name if the peer is a server.

    Raises ``ValueError`` for another key, ``OSError`` for a file that cannot be read.
    """
    if isinstance(ssl_options, ssl.SSLContext):
        return ssl_options
    options = dict(ssl_options or {})
    certfile, keyfile = options.pop("certfile", None), options.pop("keyfile", None)
    cert_reqs, ca_certs = options.pop("cert_reqs", None), options.pop("ca_certs", None)
    ciphers = options.pop("ciphers", None)
    if options:
        raise ValueError(f"unknown key {min(map(str, options))!r} in ssl_options")
    purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=ca_certs)
    if certfile is not None:
        context.load_cert_chain(certfile, keyfile)
    if cert_reqs is not None:
        if cert_reqs != ssl.CERT_REQUIRED:
            context.check_hostname = False  # which needs a certificate to look at
        context.verify_mode = cert_reqs
    if ciphers is not None:
        context.set_ciphers(ciphers)
    return context


class IOStream:
    """A connected, or to be connected, non-blocking socket.

    ``socket`` is made non-blocking and belongs to the stream from then on, which closes it.
    Anything with the methods of a stream socket will do.

    ``max_buffer_size`` (bytes, 100 MB) bounds what a read may gather before it is satisfied;
    ``read_chunk_size`` (bytes, 64 KiB) is what is read at once; ``max_write_buffer_size`` (bytes)
    bounds what :meth:`write` takes while the peer reads too slowly, None does not. ``watcher`` is
    what tells that the socket is ready, with the methods ``add_reader``, ``remove_reader``,
    ``add_writer`` and ``remove_writer`` of a loop; None is the loop itself.

    Lives on the running loop, or on the one that is set as current. Raises ``RuntimeError`` if
    there is none.

    Attributes:
        socket: the socket.
        loop: the event loop.
        error: what closed the stream, None while it is open or if that was no error.
        unsent: how many bytes wait to be sent.
    """

    # "__dict__" costs nothing until a program hangs something of its own on a stream.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_buffer",
        "_close_callback",
        "_closed",
        "_connecting",
        "_deliver",
        "_drains",
        "_eof",
        "_eof_after_flush",
        "_fd",
        "_filled",
        "_full_read",
        "_in_progress",
        "_on_filled",
        "_out",
        "_owes_drained",
        "_paused",
        "_read",
        "_reader_may_die",
        "_ready",
        "_receiver",
        "_recv",
        "_send",
        "_send_pieces",
        "_sent",
        "_small_chunk_size",
        "_target",
        "_wake_up",
        "_watcher",
        "_watches_reads",
        "_watches_writes",
        "_writes",
        "error",
        "loop",
        "max_buffer_size",
        "max_write_buffer_size",
        "read_chunk_size",
        "socket",
        "unsent",
    )

    def __init__(
        self,
        socket: socket.socket,
        max_buffer_size: int | None = None,
        read_chunk_size: int | None = None,
        max_write_buffer_size: int | None = None,
        *,
        watcher: Watcher | None = None,
    ) -> None:
        loop = current_loop()
        if loop is None:
            raise RuntimeError("an IOStream needs an event loop: construct it inside a coroutine")
        self.loop = loop
        self.socket = socket
        self.max_buffer_size = max_buffer_size or _DEFAULT_MAX_BUFFER_SIZE
        self.read_chunk_size = min(
            read_chunk_size or _DEFAULT_READ_CHUNK_SIZE, max(1, self.max_buffer_size // 2)
        )
        self.max_write_buffer_size = max_write_buffer_size
        self.error: BaseException | None = None
        socket.setblocking(False)
        self._fd = socket.fileno()
        self._recv: Callable[[int], bytes] = socket.recv
        self._send: Callable[[Any], int] = socket.send
        # None where pieces have to be joined: TLS, Windows, and what is only like a socket.
        self._send_pieces: Callable[[Any], int] | None = getattr(socket, "sendmsg", None)
        self._closed = False
        self._ready = True  # False until connected, and until the TLS handshake is done
        self._close_callback: Callable[[], object] | None = None
        self._in_progress = False  # connecting
        self._connecting: Future[Any] | None = None
        # Reading
        self._watches_reads = False
        self._watcher: Watcher = watcher or loop
        # Rule 5.
        self._reader_may_die = watcher is None and type(loop).__module__.startswith("uvloop")
        self._eof = False
        self._buffer = bytearray()
        self._read: Read | None = None
        self._receiver: Receiver | None = None
        self._deliver: Callable[[bytes], None] = _nobody
        self._paused = False
        self._wake_up: asyncio.Handle | None = None
        self._full_read = self.read_chunk_size  # more is likely to be there after one of this size
        self._small_chunk_size: int | None = None  # read_chunk_size again after set_bulk(False)
        self._drains = self._reader_may_die  # reads several times at a wake-up
        self._target: memoryview | None = None  # of fill()
        self._filled = 0
        self._on_filled: Callable[[int], None] = _nobody
        # Writing
        self._watches_writes = False
        self._out: deque[bytes | memoryview] = _NOTHING
        self.unsent = 0
        self._sent = 0  # bytes, since the beginning
        self._writes: deque[tuple[int, Future[None]]] = _NOTHING  # done when _sent is there
        self._owes_drained = False
        self._eof_after_flush = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"fd={self._fd}"
        return f"<{type(self).__name__} {state}>"

    # -- state

    def fileno(self) -> int:
        """Return the descriptor, -1 after the close."""
        return -1 if self._closed else self._fd

    def closed(self) -> bool:
        """Tell whether the stream has been closed, by either side."""
        return self._closed

    def reading(self) -> bool:
        """Tell whether a read is waiting for bytes."""
        return self._read is not None and not self._read.future.done()

    def writing(self) -> bool:
        """Tell whether some of what was written waits to be sent."""
        return bool(self._out)

    @property
    def sent(self) -> int:
        """How many bytes have been given to the system, since the beginning."""
        return self._sent

    def set_nodelay(self, value: bool) -> None:
        """Set or clear TCP_NODELAY, on sockets that have it: small writes then go at once."""
        if not self._closed and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            try:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(value))
            except OSError as error:
                # Where the peer has reset the connection already, as some systems tell.
                if error.errno not in (errno.EINVAL, errno.ECONNRESET):
                    raise

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback`` (from the loop, without arguments) when the stream is closed.

        While one is set, a stream that nobody reads from watches for the peer's close. In push
        mode the receiver is told what happens instead; the callback is still called.
        """
        self._close_callback = callback
        if callback is not None and not self._closed and self._ready:
            self._watch_reads()

    # -- opening and closing

    def connect(self, address: Any, server_hostname: str | None = None) -> Future[Any]:
        """Connect to ``address``, as of ``socket.connect``; the future gives the stream.

        A host name in ``address`` would be looked up by the system and block the loop: give an IP
        address. ``server_hostname`` is for TLS, and is not used here. Reads and writes may follow
        at once, and wait until the stream is connected.

        The future fails with :class:`StreamClosedError`, the system's error being its
        ``real_error``.
        """
        self._check_open()
        future = self._connecting = self.loop.create_future()
        self._ready = False
        try:
            self.socket.connect(address)
        except OSError as error:
            # A unix socket whose backlog is full says EAGAIN, and nothing comes of waiting.
            if error.errno == errno.EINPROGRESS:
                self._in_progress = True
                self._watch_writes()
            else:
                self.close(error)
        else:
            self._connected()
        return future

    def _connect_ended(self) -> None:
        self._in_progress = False
        self._unwatch_writes()
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.close(OSError(code, os.strerror(code)))
        else:
            self._connected()

    def _connected(self) -> None:
        self._start()
        future, self._connecting = self._connecting, None
        if future is not None and not future.done():
            future.set_result(self)

    def _start(self) -> None:
        """Begin to read and write: the stream is ready."""
        self._ready = True
        if self._out:
            self._flush()
        elif self._eof_after_flush:
            self._send_eof()
        if not self._closed and (self._receiver is not None or self._read or self._close_callback):
            self._watch_reads()
            self._wake_reader()

    def start_tls(
        self,
        server_side: bool,
        ssl_options: Mapping[str, Any] | ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Future[SSLIOStream]:
        """Go over to TLS; the future gives the :class:`SSLIOStream` that takes this one's place.

        This stream must not be used again. ``ssl_options`` is a context, or a mapping as of
        :func:`ssl_options_to_context`; None verifies the certificate of a server, for which
        ``server_hostname`` must be given.

        Raises ``ValueError`` if a read or a write is under way, or if unread data is there; the
        future fails with the error of the handshake, usually an ``ssl.SSLError``.
        """
        self._check_idle()
        context = ssl_options_to_context(ssl_options, server_side)
        _check_hostname_given(context, server_hostname)
        close_callback = self._close_callback
        raw = self.release()
        try:
            wrapped = _wrap(raw, context, server_side, server_hostname)
        except OSError as error:
            raw.close()
            failed: Future[SSLIOStream] = self.loop.create_future()
            self._fail(failed, error)
            return failed
        stream = SSLIOStream(
            wrapped,
            self.max_buffer_size,
            self.read_chunk_size,
            self.max_write_buffer_size,
            watcher=None if self._watcher is self.loop else self._watcher,
        )
        stream.set_close_callback(close_callback)
        return stream.wait_for_handshake()

    def release(self) -> socket.socket:
        """Give the socket away, which stays open and non-blocking; the stream is closed.

        No callback is called. Raises ``ValueError`` if a read or a write is under way, or if
        unread data is here.
        """
        self._check_idle()
        self._unwatch()
        self._close_callback = None
        self._closed = True
        return self.socket

    def _check_idle(self) -> None:
        self._check_open()
        if self.reading() or self._out or self._buffer or self._receiver or not self._ready:
            raise ValueError("the stream is not idle: it cannot give its socket away")

    def close(self, exc_info: bool | BaseException | _ExcInfo = False) -> None:
        """Close at once; what has not been sent is dropped. Closing twice does nothing.

        ``exc_info`` is the error that is the reason, if one is: an exception, ``sys.exc_info()``,
        or True for the exception being handled. It becomes :attr:`error`. Reads and writes under
        way fail with :class:`StreamClosedError`. Bytes that were received before can still be
        read.
        """
        if self._closed:
            return
        if exc_info is True:
            exc_info = sys.exc_info()
        if isinstance(exc_info, tuple):
            exc_info = exc_info[1] or False
        if isinstance(exc_info, BaseException):
            self.error = exc_info
        self._closed = True
        self._unwatch()
        self._shut()
        self._out.clear()
        self.unsent = 0
        self._receiver = None
        self._deliver = _nobody
        self._end_fill()
        if self.loop.is_closed():
            return  # nobody is there to be told
        self._fail_pending()
        if self._close_callback is not None:
            self.loop.call_soon(self._close_callback)
            self._close_callback = None

    def _shut(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _unwatch(self) -> None:
        """Take the descriptor from the loop."""
        if self._wake_up is not None:
            self._wake_up.cancel()
            self._wake_up = None
        if self.loop.is_closed():
            return
        self._unwatch_reads()
        self._unwatch_writes()

    def _fail_pending(self) -> None:
        if self._read is not None and not self._read.future.done():
            future = self._read.future
            try:
                self._end_read(self._read)
            except StreamClosedError as error:
                self._fail(future, error)
        while self._writes:
            self._fail(self._writes.popleft()[1])
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            self._fail(connecting, self._connect_error())

    def _connect_error(self) -> BaseException:
        return StreamClosedError(self.error)

    def _fail(self, future: Future[Any], error: BaseException | None = None) -> None:
        if not future.done():
            future.set_exception(error or StreamClosedError(self.error))
            future.exception()  # whoever dropped the future does not want to hear of it

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError(self.error)

    # -- reads that give futures

    def read_bytes(self, num_bytes: int, partial: bool = False) -> Future[bytes]:
        """Read ``num_bytes`` bytes; with ``partial`` at least one, and no more than that."""
        if num_bytes < 0:
            raise ValueError(f"cannot read {num_bytes} bytes")
        return self._begin_read(ReadBytes(num_bytes, partial))

    def read_into(self, buf: bytearray | memoryview, partial: bool = False) -> Future[int]:
        """Fill ``buf``; the future gives the number of bytes read.

        With ``partial`` it is done when at least one byte is there. ``buf`` must not be used
        until the future is done; what it holds after a cancellation will be read again.
        """
        return self._begin_read(ReadInto(memoryview(buf).cast("B"), partial))

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Future[bytes]:
        """Read up to ``delimiter`` and give it all, the delimiter included.

        If it does not end within ``max_bytes``, the stream is closed, and the future fails with
        a :class:`StreamClosedError` whose ``real_error`` is :class:`UnsatisfiableReadError`.
        """
        if not delimiter:
            raise ValueError("the delimiter is empty")
        return self._begin_read(ReadUntil(delimiter, max_bytes))

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Future[bytes]:
        """Read up to a match of ``regex`` and give it all, the match included.

        ``max_bytes`` is as for :meth:`read_until`. Each search begins at the first byte: for long
        data from a stranger, give a limit, or use :meth:`read_until`.
        """
        return self._begin_read(ReadUntilRegex(re.compile(regex), max_bytes))

    def read_until_close(self) -> Future[bytes]:
        """Read all that comes until the peer ends its side; at most ``max_buffer_size`` bytes.

        If an error ends the stream instead, a reset or TLS without its closing alert, the data
        may be cut short: the future fails with :class:`StreamClosedError`, and what came can
        still be read.
        """
        return self._begin_read(ReadUntilClose())

    def _begin_read(self, read: Read) -> Future[Any]:
        if self._receiver is not None:
            raise RuntimeError("the stream is in push mode: detach the receiver first")
        if self.reading():
            raise RuntimeError("a read is waiting already")
        self._drop_cancelled()
        read.future = self.loop.create_future()
        self._read = read
        if isinstance(read, ReadInto):
            # Runs before whoever awaited the future can touch the target.
            read.future.add_done_callback(self._read_done)
        self._try_read()
        if self._eof:
            self.close()
        if self._closed:
            if self._read is read:
                self._end_read(read)
        elif self._ready and (self._read is read or self._close_callback is not None):
            self._watch_reads()
            if self._read is read and self.hidden():
                self._pull()
        return read.future

    def _end_read(self, read: Read) -> None:
        """Nothing more will come: give what there is, or raise :class:`StreamClosedError`."""
        self._read = None
        outcome = read.take_at_end(self._buffer) if self.error is None else None
        if outcome is None:
            read.give_back(self._buffer)
            raise StreamClosedError(self.error)
        read.future.set_result(outcome)

    def _read_done(self, future: Future[Any]) -> None:
        if self._read is not None and self._read.future is future:
            self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        """Let go of a read that was cancelled: what came stays for the next."""
        read, self._read = self._read, None
        if read is not None:
            read.give_back(self._buffer)

    def _try_read(self) -> None:
        """Satisfy the read from the buffer, if that is possible."""
        read = self._read
        if read is None:
            return
        if read.future.done():
            self._drop_cancelled()
            return
        try:
            outcome = read.take(self._buffer)
        except Unsatisfiable as reason:
            error = UnsatisfiableReadError(*reason.args)
            if self._closed:
                self.error = error
            else:
                self.close(error)
            return
        if outcome is not None:
            self._read = None
            read.future.set_result(outcome)

    def unread(self, data: bytes) -> None:
        """Put ``data`` before what is to be read next: it belongs to another reader."""
        self._buffer[:0] = data

    # -- push mode

    def attach(self, receiver: Receiver) -> None:
        """Enter push mode: ``receiver`` is called with all that comes, from now on.

        What has been received but not read is delivered before this returns. Raises
        :class:`StreamClosedError` if the stream is closed, ``RuntimeError`` if a read is waiting
        or a receiver attached.
        """
        self._check_open()
        if self._receiver is not None or self.reading():
            raise RuntimeError("the stream has a reader already")
        self._drop_cancelled()
        self._receiver = receiver
        self._deliver = receiver.data_received
        self._paused = False
        if self._ready:
            self._watch_reads()
            if self._eof or self._buffer or self.hidden():
                self._catch_up()

    def detach_receiver(self) -> None:
        """Leave push mode; nothing is read until a read is begun, or a receiver attached."""
        self._receiver = None
        self._deliver = _nobody
        self._end_fill()
        self._paused = False
        self._owes_drained = False
        if self._wake_up is not None:
            self._wake_up.cancel()
            self._wake_up = None
        self._unwatch_reads()

    def set_bulk(self, bulk: bool) -> None:
        """Push mode: tell whether a large message is coming. Then more is read at once, up to
        120 KiB, and several times at a wake-up of the loop."""
        if bulk and self._small_chunk_size is None:
            self._small_chunk_size = self.read_chunk_size
            self.read_chunk_size = max(self.read_chunk_size, _LARGE_READ)
        elif not bulk and self._small_chunk_size is not None:
            self.read_chunk_size = self._small_chunk_size
            self._small_chunk_size = None
        self._choose_reading()

    def fill(self, target: memoryview, filled: Callable[[int], None]) -> bool:
        """Push mode: put what comes into `target` until it is full, instead of delivering it.

        ``filled(count)`` is called for each piece, in the order in which they lie there. The view
        is the stream's, which releases it when it is full (before the last call), or when the
        receiver leaves or the stream closes. False if what is here has to be delivered first;
        nothing has changed then, and the view is the caller's.
        """
        if self._buffer or self._closed or not len(target):
            return False
        self._target, self._filled, self._on_filled = target, 0, filled
        self._choose_reading()
        return True

    def _end_fill(self) -> None:
        if self._target is not None:
            self._target.release()
            self._target = None
            self._on_filled = _nobody
            self._choose_reading()

    def _choose_reading(self) -> None:
        self._drains = (
            self._reader_may_die or self._small_chunk_size is not None or self._target is not None
        )

    def pause_reading(self) -> None:
        """Deliver nothing until :meth:`resume_reading`; the peer is held back by TCP."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on after :meth:`pause_reading`; nothing is delivered from within this call."""
        if not self._paused:
            return
        self._paused = False
        if not self._closed and self._ready and self._receiver is not None:
            self._watch_reads()
            self._wake_reader()

    def _wake_reader(self) -> None:
        """See to it that what the loop cannot see is not waited for."""
        if self._wake_up is None and (self._buffer or self._eof or self.hidden()):
            self._wake_up = self.loop.call_soon(self._woken)

    def _woken(self) -> None:
        self._wake_up = None
        if self._receiver is not None:
            self._catch_up()
        else:
            self._pull()

    def _catch_up(self) -> None:
        """Deliver what is here already: the read buffer, the end, bytes inside OpenSSL."""
        receiver = self._receiver
        try:
            while self._buffer and not self._paused and self._receiver is receiver:
                self._deliver(cut(self._buffer, self.read_chunk_size))
            if self._paused or receiver is None or self._receiver is not receiver:
                return
            if self._eof:
                receiver.eof_received()
                return
        except Exception as error:  # noqa: BLE001 (whatever a receiver raises)
            self._receiver_failed(error)
            return
        if self.hidden() or self._reader_may_die:
            self._on_readable()

    def push(self, data: bytes | memoryview) -> bool:
        """Send ``data``, without a future; True if all of it went to the system at once.

        If it did not, the rest is kept, and the receiver's ``drained`` follows. The data of
        pushes and writes goes in the order of the calls.

        Raises :class:`StreamClosedError` if the stream is closed. If sending fails, False is
        returned; what the peer had sent by then is delivered, then the stream is closed and
        ``connection_lost`` called, all from the loop.
        """
        if self._closed:
            raise StreamClosedError(self.error)
        if self._transmit(data):
            return True
        self._owes_drained = True
        return False

    def push_all(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """:meth:`push` of pieces, none of them empty, in as few system calls as may be."""
        if len(pieces) == 1:
            return self.push(pieces[0])
        if self._send_pieces is None:
            return self.push(b"".join(pieces))
        if self._closed:
            raise StreamClosedError(self.error)
        waits = bool(self._out) or not self._ready
        for piece in pieces:
            self._keep(piece)
        if not waits and self._send_out() and not self._out:
            return True
        self._owes_drained = True
        return False

    def write_eof(self) -> None:
        """Tell the peer that no more comes, once everything has been sent; reading goes on.

        On TLS this ends the encrypted connection: what still comes can only be thrown away.
        """
        self._check_open()
        if self._out or not self._ready:
            self._eof_after_flush = True
        else:
            self._send_eof()

    def _send_eof(self) -> None:
        self._eof_after_flush = False
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already: reading will tell

    # -- writing

    def write(self, data: bytes | bytearray | memoryview) -> Future[None]:
        """Send ``data``; the future is done when all of it has gone to the system.

        Cancelling the future does not stop the data. Raises :class:`StreamClosedError` if the
        stream is closed, :class:`StreamBufferFullError` beyond ``max_write_buffer_size``.
        """
        self._check_open()
        if not isinstance(data, bytes):
            # The caller may change it as soon as this returns.
            data = bytes(data)
        limit = self.max_write_buffer_size
        if limit is not None and self.unsent + len(data) > limit:
            raise StreamBufferFullError("Reached maximum write buffer size")
        future: Future[None] = self.loop.create_future()
        if self._transmit(data):
            future.set_result(None)
        elif self._closed:
            self._fail(future)
        else:
            if self._writes is _NOTHING:
                self._writes = deque()
            self._writes.append((self._sent + self.unsent, future))
        return future

    def _transmit(self, data: bytes | memoryview) -> bool:
        """Send, or keep, ``data``; True if nothing is left to be sent."""
        if self._out or not self._ready:
            if data:
                self._keep(data)
            return not self._out
        if not data:
            return True
        if len(data) > _LARGE_SEND:
            self._keep(data)
            return self._send_out() and not self._out
        send = self._send
        try:
            sent = send(data)
        except _WOULD_BLOCK as reason:
            self._keep(data)
            self._send_blocked(reason)
            return False
        except OSError as error:
            self._send_failed(error)
            return False
        self._sent += sent
        if sent == len(data):
            return True
        self._keep(memoryview(data)[sent:])
        self._keep_sending()
        return not self._out

    def _keep(self, piece: bytes | memoryview) -> None:
        """Let `piece` wait behind what waits to be sent."""
        if self._out is _NOTHING:
            self._out = deque()
        self._out.append(piece)
        self.unsent += len(piece)

    def _keep_sending(self) -> None:
        """Send the rest of what went in part."""
        self._watch_writes()  # the system's buffer is full

    def _send_blocked(self, reason: BaseException) -> None:
        """Wait until sending is worth another try."""
        self._watch_writes()

    def _on_writable(self) -> None:
        if self._in_progress:
            self._connect_ended()
        else:
            self._flush()

    def _flush(self) -> None:
        """Send what waits, and tell whoever waited for that."""
        out = self._out
        if not self._send_out():
            return
        while self._writes and self._writes[0][0] <= self._sent:
            future = self._writes.popleft()[1]
            if not future.done():
                future.set_result(None)
        if out:
            return
        self._unwatch_writes()
        if self._eof_after_flush:
            self._send_eof()
        if self._owes_drained:
            self._owes_drained = False
            if self._receiver is not None:
                try:
                    self._receiver.drained()
                except Exception as error:  # noqa: BLE001 (whatever a receiver raises)
                    self._receiver_failed(error)

    def _send_out(self) -> bool:
        """Send what waits, until the system takes no more; False if that failed."""
        out = self._out
        end = monotonic() + _SENDING_SECONDS
        while out:
            piece = self._joined() if len(out) > 1 and len(out[0]) < _JOINED_SIZE else out[0]
            try:
                if len(piece) > _LARGE_SEND:
                    sent = self._send(memoryview(piece)[:_LARGE_SEND])
                elif len(out) > 1 and self._send_pieces is not None:
                    sent = self._send_pieces(_first_of(out))
                else:
                    sent = self._send(piece)
            except _WOULD_BLOCK as reason:
                self._send_blocked(reason)
                break
            except OSError as error:
                self._send_failed(error)
                return False
            self._sent += sent
            self.unsent -= sent
            while out and sent >= len(out[0]):
                sent -= len(out.popleft())
            if sent:
                out[0] = memoryview(out[0])[sent:]
            if out and monotonic() > end:
                self._watch_writes()
                break
        return True

    def _joined(self) -> bytes:
        """Make one piece of the first few small ones."""
        size, count = 0, 0
        for piece in self._out:
            if count and size + len(piece) > _JOINED_SIZE:
                break
            size += len(piece)
            count += 1
        joined = b"".join([self._out.popleft() for _ in range(count)])
        # It stays there until it is sent: TLS wants the same bytes again after "not now".
        self._out.appendleft(joined)
        return joined

    def _send_failed(self, error: OSError) -> None:
        if self._receiver is None:
            self.close(error)
            return
        # A server that answers and closes before it has read everything makes sending fail while
        # its answer lies here unread: it is delivered first. Nothing more is sent.
        self._out.clear()
        self.unsent = 0
        self._unwatch_writes()
        if self._send is not _refuse:
            self._send = _refuse
            self._send_pieces = None
            self.loop.call_soon(self._lost_by_sending, error)

    def _lost_by_sending(self, error: OSError) -> None:
        while self._receiver is not None and not (self._paused or self._eof):
            if not self._read_once():
                break
        self._lost(error)

    # -- reading

    def _watch_reads(self) -> None:
        if not (self._watches_reads or self._eof):
            try:
                self._watcher.add_reader(self._fd, self._on_readable)
            except OSError as error:  # out of memory, or of what epoll may watch
                self.loop.call_soon(self._lost, error)
            else:
                self._watches_reads = True

    def _unwatch_reads(self) -> None:
        if self._watches_reads:
            self._watches_reads = False
            self._watcher.remove_reader(self._fd)

    def _watch_writes(self) -> None:
        if not self._watches_writes:
            try:
                self._watcher.add_writer(self._fd, self._on_writable)
            except OSError as error:
                self.loop.call_soon(self._lost, error)
            else:
                self._watches_writes = True

    def _unwatch_writes(self) -> None:
        if self._watches_writes:
            self._watches_writes = False
            self._watcher.remove_writer(self._fd)

    def hidden(self) -> bool:
        """Tell whether bytes are here of which the loop knows nothing."""
        return False

    def _on_readable(self) -> None:
        if self._receiver is None:
            self._pull()
        elif self._paused:
            self._unwatch_reads()
        elif self._buffer:
            self._catch_up()
        elif self._drains:
            self._drain(0 if self._reader_may_die else self.read_chunk_size)
        else:
            self._receive()

    def _drain(self, enough: int) -> None:
        """Push mode: receive until that gives less than ``enough`` bytes, or nothing at all."""
        for _ in range(_READS_AT_ONCE):
            size = self._read_once()
            if not size or self._receiver is None:
                return
            if self._paused:
                if self._reader_may_die:
                    self._unwatch_reads()
                return
            if size < enough and not self.hidden():
                return
        if self._wake_up is None:
            self._wake_up = self.loop.call_soon(self._woken)

    def _read_once(self) -> int:
        """Push mode: take what one system call gives; return its size, 0 if there was nothing."""
        if self._target is not None:
            return self._receive_into(self._target)
        return self._receive()

    def _receive(self) -> int:
        """Push mode: deliver what one ``recv`` gives; return its size, 0 if there was nothing."""
        recv = self._recv
        try:
            data = recv(self.read_chunk_size)
        except _WOULD_BLOCK as reason:
            self._recv_blocked(reason)
            return 0
        except OSError as error:
            self._lost(error)
            return 0
        try:
            if data:
                deliver = self._deliver
                deliver(data)
                return len(data)
            self._end_received()
        except Exception as error:  # noqa: BLE001 (whatever a receiver raises)
            self._receiver_failed(error)
        return 0

    def _receive_into(self, target: memoryview) -> int:
        """The same for a target that is to be filled."""
        try:
            with target[self._filled : self._filled + _FILLING_READ] as part:
                size = self.socket.recv_into(part)
        except _WOULD_BLOCK as reason:
            self._recv_blocked(reason)
            return 0
        except OSError as error:
            self._lost(error)
            return 0
        try:
            if size:
                on_filled = self._on_filled
                self._filled += size
                if self._filled == len(target):
                    self._end_fill()
                on_filled(size)
                return size
            self._end_received()
        except Exception as error:  # noqa: BLE001 (whatever a receiver raises)
            self._receiver_failed(error)
        return 0

    def _end_received(self) -> None:
        self._eof = True
        self._unwatch_reads()
        if self._receiver is not None:
            self._receiver.eof_received()

    def _recv_blocked(self, reason: BaseException) -> None:
        """Wait until receiving is worth another try; the loop is watching for reads."""

    def _lost(self, error: BaseException) -> None:
        if self._closed:
            return
        receiver = self._receiver
        self.close(error)
        if receiver is not None:
            try:
                receiver.connection_lost(error)
            except Exception as failure:  # noqa: BLE001 (whatever a receiver raises)
                self._receiver_failed(failure)

    def _receiver_failed(self, error: Exception) -> None:
        self.close(error)
        self.loop.call_exception_handler(
            {"message": "Exception in the receiver of a stream", "exception": error, "stream": self}
        )

    def _pull(self) -> None:
        """Read for the future that waits, or just to notice the peer's close."""
        read = self._read
        if read is not None and read.future.done():  # cancelled
            self._try_read()
            read = None
        if read is None and (self._buffer or self._close_callback is None):
            self._unwatch_reads()
            return
        while True:
            try:
                data = self._recv(self.read_chunk_size)
            except _WOULD_BLOCK as reason:
                self._recv_blocked(reason)
                self._try_read()
                return
            except OSError as error:
                self._try_read()
                self.close(error)
                return
            if not data:
                self._try_read()
                self.close()
                return
            self._buffer += data
            if read is None:
                break
            if len(data) >= self._full_read and read.wants_more(self._buffer):
                full = len(self._buffer) > self.max_buffer_size
            else:
                self._try_read()
                if self._read is not read:
                    break
                full = len(self._buffer) > self.max_buffer_size
                short = len(data) < self._full_read
                if short and not (full or self.hidden() or self._reader_may_die):
                    return
            if full:
                self.close(StreamBufferFullError("Reached maximum read buffer size"))
                return
        if self._reader_may_die:
            self._unwatch_reads()
            if self._close_callback is not None and not self._buffer:
                self._watch_reads()


def _first_of(out: deque[Any]) -> list[Any]:
    """Of what waits, as much as one system call is given; the first piece fits."""
    pieces = []
    room = _LARGE_SEND
    for piece in islice(out, _PIECES_AT_ONCE):
        if len(piece) > room:
            break
        room -= len(piece)
        pieces.append(piece)
    return pieces


def _nobody(_: object) -> None:
    """Stands in for the receiver's ``data_received``, or for ``filled``, where there is none."""


def _refuse(data: object) -> int:
    """Stands in for ``send`` where sending has failed."""
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _wrap(
    sock: socket.socket,
    context: ssl.SSLContext,
    server_side: bool,
    server_hostname: str | None,
) -> ssl.SSLSocket:
    """Put TLS on a connected socket; raises ``OSError`` if it has been reset already."""
    sock.getpeername()  # wrap_socket() would take the descriptor away, and then fail
    return context.wrap_socket(
        sock,
        server_side=server_side,
        server_hostname=server_hostname,
        do_handshake_on_connect=False,
        # A connection that ends without the closing alert has been cut short.
        suppress_ragged_eofs=False,
    )


def _check_hostname_given(context: ssl.SSLContext, server_hostname: str | None) -> None:
    if context.check_hostname and not server_hostname:
        raise ValueError("the certificate is to be checked, but no server_hostname is given")


# What one TLS record holds at most (RFC 8446 section 5.1): after a full one, more is likely here.
_FULL_RECORD = 16 * 1024


class SSLIOStream(IOStream):
    """A stream over TLS.

    ``socket`` is a TLS socket (``ssl.SSLSocket``, made with ``do_handshake_on_connect=False``, or
    anything with its methods) that is connected: the handshake begins at once; or a socket for
    :meth:`connect`, of which ``ssl_options`` are the settings, as of
    :func:`ssl_options_to_context`. Reads and writes may begin before the handshake is done.
    """

    __slots__ = (
        "_reading_wants_write",
        "_server_hostname",
        "_shaking_hands",
        "_ssl_options",
        "_writing_wants_read",
    )

    def __init__(
        self,
        socket: socket.socket,
        max_buffer_size: int | None = None,
        read_chunk_size: int | None = None,
        max_write_buffer_size: int | None = None,
        ssl_options: Mapping[str, Any] | ssl.SSLContext | None = None,
        *,
        watcher: Watcher | None = None,
    ) -> None:
        super().__init__(
            socket, max_buffer_size, read_chunk_size, max_write_buffer_size, watcher=watcher
        )
        self._send_pieces = None
        self._ssl_options = ssl_options
        self._server_hostname: str | None = None
        self._full_read = min(self.read_chunk_size, _FULL_RECORD)
        # What TLS may ask for at any time, when it changes its keys.
        self._reading_wants_write = False
        self._writing_wants_read = False
        self._ready = False
        self._shaking_hands = hasattr(socket, "do_handshake")
        if self._shaking_hands:
            self._handshake()

    @property
    def _tls(self) -> ssl.SSLSocket:
        return cast("ssl.SSLSocket", self.socket)

    def connect(self, address: Any, server_hostname: str | None = None) -> Future[Any]:
        """Connect and shake hands; the future gives the stream.

        ``server_hostname`` is the name that the certificate must be for, and that the server is
        told (SNI). The rest is as for :meth:`IOStream.connect`, except that the future fails
        with the error itself, an ``OSError`` of the system or of TLS.

        Raises ``ValueError`` if a name is needed and not given.
        """
        self._ssl_options = ssl_options_to_context(self._ssl_options, server_side=False)
        _check_hostname_given(self._ssl_options, server_hostname)
        self._server_hostname = server_hostname
        return super().connect(address)

    def _connected(self) -> None:
        context = ssl_options_to_context(self._ssl_options, server_side=False)
        try:
            self.socket = _wrap(self.socket, context, False, self._server_hostname)
        except (OSError, ValueError) as error:
            self.close(error)
            return
        self._recv = self.socket.recv
        self._send = self.socket.send
        self._shaking_hands = True
        self._handshake()

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._unwatch_writes()
            self._watch_reads()
        except ssl.SSLWantWriteError:
            self._watch_writes()
        except OSError as error:
            self._lost(error)
        else:
            self._shaking_hands = False
            self._unwatch_writes()
            if self._reader_may_die:
                self._unwatch_reads()
            super()._connected()

    def wait_for_handshake(self) -> Future[SSLIOStream]:
        """Wait for the end of the handshake; the future gives the stream.

        It fails with what the handshake, or the connecting before it, failed with: usually an
        ``ssl.SSLError``.
        """
        if self._connecting is None or self._connecting.done():
            self._connecting = self.loop.create_future()
        future: Future[SSLIOStream] = self._connecting
        if self._closed:
            self._connecting = None
            self._fail(future, self._connect_error())
        elif self._ready:
            self._connecting = None
            future.set_result(self)
        return future

    def set_bulk(self, bulk: bool) -> None:
        """Nothing: one read gives a record at most, and several are made at a wake-up anyway."""

    def start_tls(
        self,
        server_side: bool,
        ssl_options: Mapping[str, Any] | ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Future[SSLIOStream]:
        """Raise ``ValueError``: a stream that is TLS already cannot go over to TLS."""
        raise ValueError("the stream uses TLS already")

    def _connect_error(self) -> BaseException:
        return self.error or StreamClosedError()

    def _shut(self) -> None:
        # The closing alert says that nothing is missing (RFC 8446 section 6.1): no word of it
        # where something is.
        if self._ready and self.error is None and not self._out and self._send is not _refuse:
            self._say_goodbye()
        super()._shut()

    def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except (OSError, ValueError):
            pass  # the peer's alert is not waited for, and the peer may be gone

    def _send_eof(self) -> None:
        self._say_goodbye()
        super()._send_eof()

    def hidden(self) -> bool:
        return not self._shaking_hands and self._ready and self._tls.pending() > 0

    def _on_readable(self) -> None:
        if self._shaking_hands:
            self._handshake()
            return
        if self._writing_wants_read:
            self._writing_wants_read = False
            self._flush()
        if self._receiver is None or self._paused or self._buffer:
            super()._on_readable()
            return
        self._drain(0 if self._reader_may_die else self._full_read)

    def _on_writable(self) -> None:
        if self._shaking_hands:
            self._handshake()
            return
        if self._reading_wants_write:
            self._reading_wants_write = False
            self._unwatch_writes()
            self._on_readable()
            if self._closed:
                return
        super()._on_writable()

    def _recv_blocked(self, reason: BaseException) -> None:
        if isinstance(reason, ssl.SSLWantWriteError):
            self._reading_wants_write = True
            self._watch_writes()

    def _send_blocked(self, reason: BaseException) -> None:
        if isinstance(reason, ssl.SSLWantReadError):
            self._writing_wants_read = True
            self._unwatch_writes()
            self._watch_reads()
        else:
            self._watch_writes()

    def _keep_sending(self) -> None:
        self._flush()  # a record has gone: the next may fit as well
