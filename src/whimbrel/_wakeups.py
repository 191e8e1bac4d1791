"""Who waits for a fetch is woken in the next turn of the loop, all of a turn by one handle.

asyncio makes a handle for each callback of a future: six Python frames, a twentieth of what a small
request costs. Here the callbacks keep their order, contexts and errors as with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

Callbacks = list[tuple[Callable[[Any], object], Context]]


class Wakeups:
    """The callbacks of futures that are due in the next turn of `loop`."""

    __slots__ = ("_due", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[tuple[asyncio.Future[Any], Callable[[Any], object], Context]] = deque()
        self._handle: asyncio.Handle | None = None

    def add(self, future: asyncio.Future[Any], callbacks: Callbacks) -> None:
        """Call each of `callbacks` with `future`, soon."""
        for callback, context in callbacks:
            self._due.append((future, callback, context))
        if self._handle is None:
            self._handle = self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._handle = None
        due = self._due
        for _ in range(len(due)):  # what these bring about has its turn later
            future, callback, context = due.popleft()
            try:
                context.run(callback, future)
            except (SystemExit, KeyboardInterrupt):
                # It ends the loop. Who is left is woken when that runs again.
                if due and self._handle is None:
                    self._handle = self._loop.call_soon(self._run)
                raise
            except BaseException as error:  # noqa: BLE001 (as asyncio does it)
                self._loop.call_exception_handler(
                    {
                        "message": f"Exception in callback {callback!r}",
                        "exception": error,
                        "future": future,
                    }
                )
