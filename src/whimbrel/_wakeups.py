"""Who waits for a fetch is woken by the loop, all of a turn at once.

asyncio makes a handle for each callback of a future: six Python frames, a twentieth of what a small
request costs, and another turn of the loop. Here those whose answers come in one turn are called at
its end, when all sockets have been served; others in the next turn. Never from within whatever ends
the fetch. They keep their order, contexts and errors as with asyncio.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from whimbrel._loops import may_nest

Callbacks = list[tuple[asyncio.Future[Any], Callable[[Any], object], Context]]
"""Who is called with which future, and in which context."""


class Wakeups:
    """The callbacks of futures that are due on `loop`."""

    __slots__ = ("_due", "_handle", "_held", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[tuple[asyncio.Future[Any], Callable[[Any], object], Context]] = deque()
        self._handle: asyncio.Handle | None = None
        self._held = False

    def begin_turn(self) -> None:
        """Answers are about to come: who waits for them is called by `end_turn`.

        Where a turn may run the loop from within, that may be far off: then as soon as may be.
        """
        self._held = not may_nest(self._loop)

    def end_turn(self) -> None:
        """Call all who are due. Nothing else may be under way, in this turn of the loop."""
        self._held = False
        if self._due and self._handle is None:
            self._run()

    def add(self, callbacks: Callbacks) -> None:
        """Call each of `callbacks`, soon."""
        self._due.extend(callbacks)
        if self._handle is None and not self._held:
            self._handle = self._loop.call_soon(self._run)

    def _run(self) -> None:
        due = self._due
        count = len(due)  # what these bring about has its turn later
        # Whoever ends the loop, or runs it from within as notebooks do, leaves the rest to this.
        self._handle = rest = self._loop.call_soon(self._run) if count > 1 else None
        for _ in range(count):
            if not due:
                break
            future, callback, context = due.popleft()
            try:
                context.run(callback, future)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 (as asyncio does it)
                self._loop.call_exception_handler(
                    {
                        "message": f"Exception in callback {callback!r}",
                        "exception": error,
                        "future": future,
                    }
                )
        if rest is not None and not due and self._handle is rest:
            rest.cancel()
            self._handle = None
