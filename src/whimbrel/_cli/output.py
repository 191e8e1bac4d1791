"""Where responses go: stdout, or a file that appears only when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self, TextIO

from whimbrel._cli.failures import Exit, Failure

_REDRAW_SECONDS: Final = 0.1
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Sink(Protocol):
    """Takes the bytes of one response; used as a context manager, failure means: undo."""

    def write(self, data: bytes) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_sink(name: str) -> Sink:
    """The sink for an output file's name; "-" is stdout.

    Raises:
        Failure: it cannot be written to.
    """
    if name == "-":
        if sys.stdout is None:
            raise Failure(Exit.WRITE, "write", "stdout is closed")
        return StdoutSink()
    # What is no regular file (a device, a pipe) cannot be replaced, only written to.
    if os.path.exists(name) and not os.path.isfile(name):
        return DirectSink(name)
    return FileSink(name)


class StdoutSink:
    """Standard output, as bytes, as they come.

    Raises:
        BrokenPipeError: nobody reads any more.
        Failure: writing failed otherwise.
    """

    def write(self, data: bytes) -> None:
        with _write_failures("stdout"):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class DirectSink:
    """A file that exists and is not regular, /dev/null for instance."""

    def __init__(self, name: str) -> None:
        self._name = name
        with _write_failures(name):
            self._file = open(name, "wb", buffering=0)  # noqa: SIM115 (closed by __exit__)

    def write(self, data: bytes) -> None:
        with _write_failures(self._name):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _write_failures(self._name):
            self._file.close()


class FileSink:
    """A regular file: written under another name next to it, renamed when all has come.

    A file that was there keeps its content until then, and for ever if the transfer fails; its
    permissions are kept. Through a symbolic link it is the target that is replaced.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._target = os.path.realpath(name)
        folder, base = os.path.split(self._target)
        with _write_failures(name):
            descriptor, self._partial = tempfile.mkstemp(
                prefix=f".{base[:100]}.", suffix=".part", dir=folder
            )
        self._file: BinaryIO = open(descriptor, "wb")  # noqa: SIM115 (closed by __exit__)

    def write(self, data: bytes) -> None:
        with _write_failures(self._name):
            self._file.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with _write_failures(self._name):
                self._file.close()
                if kind is None:
                    os.chmod(self._partial, self._mode())
                    os.replace(self._partial, self._target)
        finally:
            # Still there when the transfer, or the rename, failed.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial)

    def _mode(self) -> int:
        """The permissions of the file that is replaced, else those that open() would give."""
        with contextlib.suppress(FileNotFoundError):
            return stat.S_IMODE(os.stat(self._target).st_mode)
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


@contextlib.contextmanager
def _write_failures(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(Exit.WRITE, "write", f"{name}: {error.strerror or error}") from error


class Progress:
    """A bar on a terminal: drawn over and over on one line, wiped at the end.

    Args:
        out: the terminal.
        total: bytes to come; None when the server does not say (or compressed them).
        clock: seconds, monotonic.
    """

    def __init__(
        self, out: TextIO, total: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out
        self._total = total
        self._clock = clock
        self._started = self._drawn = clock()
        self._size = 0

    def add(self, size: int) -> None:
        """Count `size` more bytes; draw, but not more than ten times a second."""
        self._size += size
        now = self._clock()
        if now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            width = shutil.get_terminal_size().columns - 1
            line = progress_line(self._size, self._total, now - self._started, width)
            self._show(f"\r{line:<{width}}")

    def wipe(self) -> None:
        """Leave an empty line."""
        self._show("\r\x1b[K")

    def _show(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal went away; the transfer goes on
            self._out.write(text)
            self._out.flush()


def progress_line(size: int, total: int | None, seconds: float, width: int) -> str:
    """``45% [####    ] 12.3 MiB of 27.0 MiB, 3.1 MiB/s, 5 s left``, at most `width` characters."""
    speed = size / seconds if seconds > 0 else 0.0
    if not total or size > total:
        return f"{amount(size)}, {amount(speed)}/s"[:width]
    left = (total - size) / speed if speed else 0.0
    text = f"{amount(size)} of {amount(total)}, {amount(speed)}/s, {left:.0f} s left"
    percent = f"{100 * size // total:3d}% "
    room = width - len(percent) - len(text) - 3
    if room >= 10:
        filled = room * size // total
        percent += f"[{'#' * filled:<{room}}] "
    return (percent + text)[:width]


def amount(size: float) -> str:
    """A number of bytes for people: ``512 B``, ``1.5 KiB``."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
