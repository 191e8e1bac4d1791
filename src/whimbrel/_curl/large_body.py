"""The rest of a large body of known length: by C to where it is kept, or by a short way to whoever
takes it, in larger pieces.

libcurl sees to it that no more comes than Content-Length says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from functools import partial

import pycurl

from whimbrel._curl.errors import CurlStreamClosedError, closed
from whimbrel._curl.handle import Handle
from whimbrel._curl.room import Room
from whimbrel._download import Download
from whimbrel._low_water import MARK, LowWater
from whimbrel._policy.exchange import OnData


class LargeBody:
    """What is done for one, from its first piece that is full until `end`."""

    __slots__ = (
        "_download",
        "_failed",
        "_handle",
        "_length",
        "_low_water",
        "_peer",
        "_refuse",
        "_room",
    )

    def __init__(
        self,
        handle: Handle,
        download: Download,
        length: int,
        peer: str,
        room: Room | None,
        refuse: Callable[[bytes], int | None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`length` is that of all of it, in bytes, of which `download` has had some. `peer` is whom
        errors name.

        `room` is what it takes of each turn's. `refuse` is the WRITEFUNCTION that knows what to do
        with a piece for which there is no room, or whose consumer is busy, or gone. `failed` is
        told what is raised while a piece is taken, within libcurl's callback.
        """
        self._handle = handle
        self._download = download
        self._length = length
        self._peer = peer
        self._room = room
        self._refuse = refuse
        self._failed = failed
        self._low_water: LowWater | None = None

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        is_plain: bool,
        broken: Callable[[BaseException], None],
    ) -> None:
        """Take the rest of it from here; libcurl must not be on the stack.

        `is_plain` tells whether its bytes come on the socket as they are, and nothing else.
        `broken` is called from the loop where the socket cannot be used any more.
        """
        handle, download = self._handle, self._download
        writer = download.writer(self._length)
        if writer is not None:
            handle.give_body_to(writer)
            return
        fd = handle.easy.getinfo(pycurl.ACTIVESOCKET)
        handle.read_more_at_once()
        if fd >= 0 and is_plain and not download.decoded:
            self._low_water = LowWater.where_it_pays(
                loop,
                partial(_setsockopt, fd),
                self._rest,
                lambda error: broken(self._unreadable(error)),
            )
        on_data = download.straight()
        if on_data is not None:
            pieces = self._take(on_data)
            next(pieces)  # to where it takes the first one
            handle.give_body_to(pieces.send)

    def end(self) -> None:
        """The exchange is over."""
        if self._low_water is not None:
            # libcurl has closed the socket, or is about to: more of the body was to come.
            self._low_water.forget()
            self._low_water = None

    def _rest(self) -> int:
        """Bytes that are still to come."""
        return self._length - self._download.size

    def _take(self, on_data: OnData) -> Generator[int | None, bytes, None]:
        """WRITEFUNCTION, by its ``send``.

        A generator, for what it needs lies in its own variables: a GB is 61,035 pieces.
        """
        download, room, refuse = self._download, self._room, self._refuse
        size = download.size
        most = download.limit or None
        low_water_ends = None if self._low_water is None else self._length - MARK
        answer: int | None = None
        while True:
            chunk = yield answer
            answer = None
            if (
                download.paused
                or download.cancelled  # by somebody else's callback
                or (room is not None and room.left <= 0)
            ):
                answer = refuse(chunk)
                continue
            length = len(chunk)
            if room is not None:
                room.left -= length
            download.size = size = size + length
            try:
                if most is not None and size > most:
                    raise download.too_long()
                waiting = on_data(chunk)
                if waiting is not None:
                    download.hold(waiting)
                if download.cancelled:
                    answer = 0
                elif low_water_ends is not None and size > low_water_ends:
                    low_water_ends = None
                    self._end_low_water()
            except BaseException as error:  # noqa: BLE001 (nothing may be raised into libcurl)
                self._failed(error)
                answer = 0

    def _end_low_water(self) -> None:
        assert self._low_water is not None
        try:
            self._low_water.end()
        except OSError as error:
            raise self._unreadable(error) from error
        self._low_water = None

    def _unreadable(self, error: OSError) -> CurlStreamClosedError:
        return closed(f"{self._peer}: {error}", retryable=False)


def _setsockopt(fd: int, level: int, option: int, value: int) -> None:
    """Of a socket of libcurl's."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        sock.setsockopt(level, option, value)
    finally:
        sock.detach()
