"""Event loops: which one is current, how to run one to completion, and what a fork does."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def current_loop() -> asyncio.AbstractEventLoop | None:
    """The running loop, else the one that is set as current, else None; never creates one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    if sys.version_info >= (3, 14):
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            return None
    # Before 3.14 get_event_loop() makes a loop where none is set; look where the policy looks.
    local = getattr(asyncio.get_event_loop_policy(), "_local", None)
    loop: asyncio.AbstractEventLoop | None = getattr(local, "_loop", None)
    return loop


def current_or_new_loop() -> asyncio.AbstractEventLoop:
    """As :func:`current_loop`; where there is none, or a closed one, a new one becomes current."""
    loop = current_loop()
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """What ``loop.time`` is, without the frame that asyncio puts around it."""
    own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    if own and "time" not in vars(loop):  # where a test may put a clock of its own
        return time.monotonic
    return loop.time


def may_nest(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether its callbacks may run the loop themselves (nest_asyncio, as in notebooks).

    Then what is under way is not over when others have their turn, and the handle of a descriptor
    cannot be entered again meanwhile.
    """
    return getattr(loop, "_nest_patched", False)


def _is_running_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


forks = 0
"""How many forks this process has come out of since import: what was made under another count
belongs to a parent process."""


def _count_fork() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class PrivateLoop:
    """A loop of one's own that runs one coroutine at a time, for blocking interfaces.

    Where a loop is running in the calling thread already, this one runs in another thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()

    def run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``function()`` to its end; return or raise what it does."""
        if not _is_running_here():
            with self._lock:
                return self._complete(function)
        outcome: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                with self._lock:
                    outcome.append(self._complete(function))
            except BaseException as error:  # noqa: BLE001 (re-raised in the calling thread)
                failure.append(error)

        thread = threading.Thread(target=run, name="whimbrel.HTTPClient", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def _complete(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._loop.create_task(function())
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                # Interrupted: the exchange must not go on when the loop next runs.
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task]))
            raise

    def close(self) -> None:
        self._loop.close()
