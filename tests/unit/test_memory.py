"""Memory for a large body: there before it is needed, and never copied."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from whimbrel import _memory as memory_module
from whimbrel._memory import HUGE, room_for

MB = 1024 * 1024


def test_room_is_as_large_as_asked_for() -> None:
    room = room_for(1000)
    assert room is not None
    assert room.tell() == 0
    assert room.getvalue() == bytes(1000)


def test_what_was_written_is_not_copied() -> None:
    """The value is the very memory that was written to."""
    tracemalloc.start()
    try:
        room = room_for(8 * MB)
        assert room is not None
        room.write(b"x" * MB)
        with room.getbuffer() as view:
            view[MB : 8 * MB] = bytes(7 * MB)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        value = room.getvalue()
        assert tracemalloc.get_traced_memory()[1] - before < MB
    finally:
        tracemalloc.stop()
    assert value == b"x" * MB + bytes(7 * MB)


def test_no_room_for_what_is_only_announced() -> None:
    """A Content-Length of an exabyte costs nothing."""
    assert room_for(1 << 60) is None
    assert room_for((1 << 30) + 1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept on Linux")
def test_no_room_where_memory_is_short() -> None:
    script = """
import resource
from whimbrel._memory import room_for
limit = 512 * 1024 * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert room_for(1 << 30) is None
assert room_for(1 << 20) is not None
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux")
def test_a_large_room_asks_for_huge_pages() -> None:
    """The kernel notes "hg" for the memory that may have them."""
    large = room_for(16 * HUGE)
    assert large is not None
    with large.getbuffer() as view:
        # That holds the view no longer than this line.
        middle = ctypes.addressof(ctypes.c_char.from_buffer(view, 8 * HUGE))
    flags = _flags_at(middle)
    if flags is None:
        pytest.skip("this kernel does not tell")
    assert "hg" in flags


def _flags_at(address: int) -> list[str] | None:
    """The VmFlags of the mapping that `address` lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if mapping:
            inside = int(mapping[1], 16) <= address < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return None


def test_huge_pages_are_no_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without ctypes, or a C library without madvise, has room all the same."""
    monkeypatch.setattr(memory_module, "_advise", None)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    buffer = room_for(HUGE)
    assert buffer is not None
    assert len(buffer.getbuffer()) == HUGE
