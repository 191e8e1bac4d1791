"""stall_timeout: a transfer of which no byte moves for so long has failed.

LOW_SPEED_TIME would count in whole seconds, and only after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOKS = 4  # in the time that it may stand still

Mark = tuple[float, ...]
"""The byte counts of a transfer, and whatever else tells that it moves."""


class StallWatch:
    """Looks at the counts of a transfer four times in `seconds`, from now on."""

    __slots__ = ("_counts", "_loop", "_marks", "_seconds", "_stalled", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        counts: Callable[[], tuple[Mark, bool]],
        stalled: Callable[[], None],
    ) -> None:
        """`counts` also tells whether it is the peer's turn: what waits for us does not stall.
        `stalled` is called once, from the loop."""
        self._loop = loop
        self._seconds = seconds
        self._counts = counts
        self._stalled = stalled
        self._marks: list[Mark] = []
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        """The transfer is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        marks = self._marks
        mark, waits_for_peer = self._counts()
        if not waits_for_peer or (marks and marks[-1] != mark):
            marks.clear()
        marks.append(mark)
        if len(marks) > _LOOKS:
            self._timer = None
            self._stalled()
            return
        self._timer = self._loop.call_later(self._seconds / _LOOKS, self._look)
