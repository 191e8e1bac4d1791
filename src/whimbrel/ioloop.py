"""The few names of Tornado's ``IOLoop`` that programs use, over the asyncio loop.

There is no loop of our own: an :class:`IOLoop` is a view of an asyncio loop, which runs everything,
and whatever asyncio offers may be used beside it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, overload

from whimbrel._loops import current_loop

T = TypeVar("T")

_ATTRIBUTE = "_whimbrel_ioloop"


class IOLoop:
    """An asyncio loop under its Tornado names.

    ``IOLoop()`` makes a new loop, and makes it the thread's current one unless `make_current` is
    False. :meth:`current` is what programs use.
    """

    asyncio_loop: asyncio.AbstractEventLoop  #: the loop that does the work

    def __init__(self, make_current: bool = True) -> None:
        self._wrap(asyncio.new_event_loop())
        if make_current:
            self.make_current()

    def _wrap(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asyncio_loop = loop
        self._tasks: set[asyncio.Future[Any]] = set()
        # Kept by the loop, so that there is one IOLoop a loop and nothing of ours keeps it alive.
        setattr(loop, _ATTRIBUTE, self)

    @classmethod
    def _current(cls) -> IOLoop | None:
        loop = current_loop()
        if loop is None or loop.is_closed():
            return None
        found: IOLoop | None = getattr(loop, _ATTRIBUTE, None)
        if found is None:
            found = cls.__new__(cls)
            found._wrap(loop)
        return found

    @overload
    @classmethod
    def current(cls, instance: Literal[True] = True) -> IOLoop: ...
    @overload
    @classmethod
    def current(cls, instance: bool) -> IOLoop | None: ...
    @classmethod
    def current(cls, instance: bool = True) -> IOLoop | None:
        """Return the running loop, else the thread's current one.

        Where there is neither (or the current one is closed) a new one is made and set as current;
        with ``instance=False`` that is None.
        """
        found = cls._current()
        return cls() if found is None and instance else found

    @classmethod
    def instance(cls) -> IOLoop:
        """The old name of :meth:`current`."""
        return cls.current()

    def make_current(self) -> None:
        """Make this the thread's current loop: for :meth:`current`, and for asyncio."""
        asyncio.set_event_loop(self.asyncio_loop)

    # -- running

    def start(self) -> None:
        """Run the loop until :meth:`stop` is called; a stop that came before ends it at once.

        Raises ``RuntimeError`` if the loop is running already, or closed.
        """
        self.asyncio_loop.run_forever()

    def stop(self) -> None:
        """End :meth:`start`, after what is due now has run.

        For another thread: ``loop.add_callback(loop.stop)``.
        """
        self.asyncio_loop.stop()

    def run_sync(self, func: Callable[[], Awaitable[T] | T], timeout: float | None = None) -> T:
        """Run ``func()`` to its end, then stop the loop; return or raise what it does.

        `func` is a coroutine function, or returns an awaitable or the value itself. After `timeout`
        seconds (None: no limit) it is cancelled, and ``TimeoutError`` raised.

        Raises ``RuntimeError`` if the loop is running already.
        """
        if self.asyncio_loop.is_running():
            raise RuntimeError("run_sync() called while the loop is running: await instead")
        task = self.asyncio_loop.create_task(_call(func, timeout))
        try:
            return self.asyncio_loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                # Interrupted: it must not go on when the loop next runs.
                task.cancel()
                self.asyncio_loop.run_until_complete(asyncio.wait([task]))
            raise

    def close(self, all_fds: bool = False) -> None:
        """Free what the loop holds; it cannot be run again.

        ``all_fds`` is there for Tornado's sake: it would close what ``add_handler`` has been given,
        and there is none here.

        Raises ``RuntimeError`` while it runs.
        """
        self.asyncio_loop.close()
        if current_loop() is self.asyncio_loop:
            asyncio.set_event_loop(None)

    # -- callbacks: what they raise goes to the loop's exception handler

    def add_callback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call ``callback(*args, **kwargs)`` in the loop's next turn.

        The only method that any thread may call. If the callback returns an awaitable, as a
        coroutine function does, that is run to its end.
        """
        run = functools.partial(self._run, callback, *args, **kwargs)
        try:
            here = asyncio.get_running_loop() is self.asyncio_loop
        except RuntimeError:
            here = False
        if here:
            self.asyncio_loop.call_soon(run)
        else:
            self.asyncio_loop.call_soon_threadsafe(run)

    spawn_callback = add_callback  #: the same; Tornado once had contexts to tell apart

    def add_future(
        self,
        future: asyncio.Future[T] | concurrent.futures.Future[T],
        callback: Callable[[Any], Any],
    ) -> None:
        """Call ``callback(future)`` in the loop when `future` is done, whatever its outcome."""
        future.add_done_callback(functools.partial(self.add_callback, callback))

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call ``func(*args)`` in a thread of `executor`; None is the loop's own one."""
        return self.asyncio_loop.run_in_executor(executor, func, *args)

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.TimerHandle:
        """Call ``callback(*args, **kwargs)`` after `delay` seconds.

        The handle is for :meth:`remove_timeout`. Awaitables are as for :meth:`add_callback`.
        """
        return self.asyncio_loop.call_later(
            delay, functools.partial(self._run, callback, *args, **kwargs)
        )

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.TimerHandle:
        """As :meth:`call_later`, at a point in time of the clock of :meth:`time`."""
        # Counted from now on: setting the clock does not move the call.
        return self.call_later(max(0.0, when - self.time()), callback, *args, **kwargs)

    def add_timeout(
        self,
        deadline: float | datetime.timedelta,
        callback: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> asyncio.TimerHandle:
        """:meth:`call_at` for a number, :meth:`call_later` for a ``timedelta``."""
        if isinstance(deadline, datetime.timedelta):
            return self.call_later(deadline.total_seconds(), callback, *args, **kwargs)
        return self.call_at(deadline, callback, *args, **kwargs)

    def remove_timeout(self, timeout: asyncio.TimerHandle) -> None:
        """Take back what one of the three methods above returned, unless it has been called."""
        timeout.cancel()

    def time(self) -> float:
        """The time that deadlines are given in: ``time.time()``, as in Tornado."""
        return time.time()

    def _run(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        result = callback(*args, **kwargs)
        if inspect.isawaitable(result):
            future = asyncio.ensure_future(result, loop=self.asyncio_loop)
            self._tasks.add(future)
            future.add_done_callback(self._ran)

    def _ran(self, future: asyncio.Future[Any]) -> None:
        self._tasks.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            self.asyncio_loop.call_exception_handler(
                {"message": "Exception in an IOLoop callback", "exception": error}
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.asyncio_loop!r}>"


async def _call(func: Callable[[], Awaitable[T] | T], timeout: float | None) -> T:
    try:
        async with asyncio.timeout(timeout) as bound:
            result = func()
            if inspect.isawaitable(result):
                return await result
            return result
    except TimeoutError as error:
        if not bound.expired():
            raise  # it is func's own
        raise TimeoutError(f"operation timed out after {timeout} seconds") from error
