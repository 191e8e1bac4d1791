"""Multi handles: what the driver knows of one, and how they are closed."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pycurl


class Lane:
    """A multi handle, and what the driver knows of it.

    Attributes:
        add_handle, remove_handle, socket_action: of the multi. pycurl makes a new object each time
            that it is asked for one, and a request needs all three.
    """

    __slots__ = (
        "acted",
        "add_handle",
        "alarm",
        "alarm_due",
        "attached",
        "due",
        "idle_since",
        "is_new",
        "multi",
        "number",
        "own",
        "remove_handle",
        "running",
        "socket_action",
    )

    def __init__(self, multi: pycurl.CurlMulti, number: int) -> None:
        self.multi = multi
        self.add_handle: Callable[[pycurl.Curl], None] = multi.add_handle
        self.remove_handle: Callable[[pycurl.Curl], None] = multi.remove_handle
        self.socket_action: Callable[[int, int], tuple[int, int]] = multi.socket_action
        self.number = number  # never given twice by a driver
        # The eventfd by which libcurl wakes itself is open for as long as the multi is: it comes
        # and goes with the first and last transfer, and needs no new entry each time. It is the
        # first fd that libcurl tells of (while `is_new`), and among those that came with the multi.
        self.own: set[int] = set()
        self.is_new = True
        self.attached = 0
        self.acted = False  # libcurl has done something since it was asked for its timer
        # What libcurl counts as running may still hold what was cancelled in a callback, and not
        # yet what was started in one.
        self.running = 0
        self.due: float | None = None  # when libcurl wants to be called
        self.alarm: asyncio.TimerHandle | None = None
        self.alarm_due = math.inf  # when it rings
        self.idle_since = 0.0  # where `attached` is 0

    def drop_timer(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = self.due = None
        self.alarm_due = math.inf


def lowest_free_fd() -> int:
    """The descriptor that whoever opens one next will get."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1
    os.close(fd)
    return fd


def eventfds_from(fd: int) -> set[int]:
    """The eventfds among a few descriptors from `fd` on; -1 is no descriptor."""
    found = set()
    for number in range(fd, fd + 4) if fd >= 0 else ():
        try:
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventfd]":
                found.add(number)
        except OSError:
            pass  # no such descriptor, or no /proc
    return found


def keep_for_ever(thing: object) -> None:
    """Take a reference that is not given back when the interpreter exits either.

    For what the child of a fork inherited: curl_multi_cleanup would wait there, for ever, for
    threads that only the parent has.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _deaf(*arguments: Any) -> None:
    """What a multi handle calls that is on its way out."""


def close_multis(
    multis: Iterable[pycurl.CurlMulti],
    easies: Iterable[pycurl.Curl],
    *,
    close_handles: bool = True,
) -> None:
    """Close multi handles; each of `easies` is in one of them, or in none."""
    multis = tuple(multis)
    for multi in multis:
        # Not to the driver, which may have a new one by now, and not from the thread below.
        multi.setopt(pycurl.M_SOCKETFUNCTION, _deaf)
        multi.setopt(pycurl.M_TIMERFUNCTION, _deaf)
    for easy in easies:
        for multi in multis:
            try:
                multi.remove_handle(easy)
            except pycurl.error:
                continue
            break
        if close_handles:
            easy.close()

    def close() -> None:
        for multi in multis:
            multi.close()

    # curl_multi_cleanup waits for name look-ups that hang: seconds, in which a loop must not
    # stand still. Not a daemon thread: an interpreter that exits must not pull the ground away.
    closing = threading.Thread(target=close, name="whimbrel.close")
    try:
        closing.start()
    except RuntimeError:  # the interpreter exits, or no thread is to be had
        close()
