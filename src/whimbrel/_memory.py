"""Memory for a large body.

Where memory comes in pages of 4 KiB, the system spends more time on handing out the pages of a
body than on copying the body. So the memory is asked for at once, and on Linux in huge pages.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

HUGE = 4 * 1024 * 1024
"""From this size on, in bytes, huge pages are asked for: a whole one then fits in, anywhere."""

_MOST = 1024 * 1024 * 1024  # of what a peer only announces
_MADV_HUGEPAGE = 14

_advise: Callable[[int, int], object] | None = None


def room_for(size: int) -> BytesIO | None:
    """A buffer that is `size` zero bytes long, to be written over from its beginning.

    They take no memory before they are written to. Its ``getvalue()`` copies nothing, if no view
    of it is left. None for more than 1 GiB, and where so much cannot be had.
    """
    if size > _MOST:
        return None
    try:
        buffer = BytesIO(bytes(size))
    except MemoryError:
        return None
    if size >= HUGE and sys.platform == "linux":
        try:
            _ask_for_huge_pages(buffer, size)
        except (ImportError, OSError, AttributeError):
            pass  # no ctypes, or no madvise: small pages will do
    return buffer


def _ask_for_huge_pages(buffer: BytesIO, size: int) -> None:
    global _advise
    if _advise is None:
        _advise = _find_madvise()
    import ctypes

    with buffer.getbuffer() as view:
        # It holds the view for as long as it lives.
        first: Any = ctypes.c_char.from_buffer(view)
        start = ctypes.addressof(first)
        del first
        begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
        _advise(begin, end - begin)


def _find_madvise() -> Callable[[int, int], object]:
    import ctypes

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def advise(start: int, size: int) -> object:
        # Where the kernel knows no huge pages it says so, and that is all.
        return madvise(start, size, _MADV_HUGEPAGE)

    return advise
