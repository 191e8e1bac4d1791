"""What a read of a stream waits for: one class for each kind.

They look at the read buffer and take from it. They do not know of sockets.
"""

from __future__ import annotations

import re
from asyncio import Future
from typing import Any


class Unsatisfiable(Exception):
    """What a read waits for cannot come within its `max_bytes`."""


class Read:
    """One read that waits for bytes."""

    __slots__ = ("future",)

    future: Future[Any]

    def take(self, buffer: bytearray) -> bytes | int | None:
        """Take the outcome out of ``buffer``; None if it is not there yet.

        Raises `Unsatisfiable` if it never will be.
        """
        raise NotImplementedError

    def take_at_end(self, buffer: bytearray) -> bytes | int | None:
        """As `take`, where nothing more will come."""
        return None

    def give_back(self, buffer: bytearray) -> None:
        """Undo what was taken so far: the read is cancelled."""

    def wants_more(self, buffer: bytearray) -> bool:
        """Whether it is too early to try `take` again while more can be had at once."""
        return False


def cut(buffer: bytearray, size: int) -> bytes:
    """Take the first `size` bytes out of `buffer`."""
    with memoryview(buffer) as view:
        taken = bytes(view[:size])
    del buffer[:size]  # moves no byte: a bytearray remembers where it starts
    return taken


class ReadBytes(Read):
    """So many bytes, or with `partial` whatever is there."""

    __slots__ = ("partial", "size")

    def __init__(self, size: int, partial: bool) -> None:
        self.size = size
        self.partial = partial

    def take(self, buffer: bytearray) -> bytes | None:
        if len(buffer) >= self.size or (self.partial and buffer):
            return cut(buffer, self.size)
        return None


class ReadInto(Read):
    """So many bytes as `target` is long, put there."""

    __slots__ = ("filled", "partial", "target")

    def __init__(self, target: memoryview, partial: bool) -> None:
        self.target = target
        self.partial = partial
        self.filled = 0

    def take(self, buffer: bytearray) -> int | None:
        # Whatever is there moves at once, so that the target may be larger than max_buffer_size.
        size = min(len(buffer), len(self.target) - self.filled)
        with memoryview(buffer) as view:
            self.target[self.filled : self.filled + size] = view[:size]
        del buffer[:size]
        self.filled += size
        if self.filled == len(self.target) or (self.partial and self.filled):
            return self.filled
        return None

    def give_back(self, buffer: bytearray) -> None:
        buffer[:0] = self.target[: self.filled]
        self.filled = 0


class ReadUntil(Read):
    """Up to a delimiter, which is included."""

    __slots__ = ("delimiter", "max_bytes", "scanned")

    def __init__(self, delimiter: bytes, max_bytes: int | None) -> None:
        self.delimiter = delimiter
        self.max_bytes = max_bytes
        self.scanned = 0  # no delimiter starts before here

    def take(self, buffer: bytearray) -> bytes | None:
        place = buffer.find(self.delimiter, self.scanned)
        found = place >= 0
        size = place + len(self.delimiter) if found else len(buffer)
        if self.max_bytes is not None and size > self.max_bytes:
            raise Unsatisfiable(
                f"delimiter {self.delimiter!r} not found within {self.max_bytes} bytes"
            )
        if found:
            return cut(buffer, size)
        self.scanned = max(0, size - len(self.delimiter) + 1)
        return None


class ReadUntilRegex(Read):
    """Up to the end of a pattern's first match."""

    __slots__ = ("max_bytes", "pattern", "scanned")

    def __init__(self, pattern: re.Pattern[bytes], max_bytes: int | None) -> None:
        self.pattern = pattern
        self.max_bytes = max_bytes
        self.scanned = 0

    def take(self, buffer: bytearray) -> bytes | None:
        match = self.pattern.search(buffer)
        found, size = (False, len(buffer)) if match is None else (True, match.end())
        del match  # it holds the buffer, which could not change then
        if self.max_bytes is not None and size > self.max_bytes:
            raise Unsatisfiable(
                f"pattern {self.pattern.pattern!r} not found within {self.max_bytes} bytes"
            )
        if found:
            return cut(buffer, size)
        self.scanned = size
        return None

    def wants_more(self, buffer: bytearray) -> bool:
        # A search starts over each time: only twice as much data is worth another one.
        return len(buffer) < 2 * self.scanned


class ReadUntilClose(Read):
    """All that comes until the end."""

    __slots__ = ()

    def take(self, buffer: bytearray) -> bytes | None:
        return None

    def take_at_end(self, buffer: bytearray) -> bytes | None:
        return cut(buffer, len(buffer))
