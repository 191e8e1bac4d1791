"""From a request's arrival to its response: a handler is made, and its methods are called.

Rules of the file:

1. A request whose methods are plain functions is answered within the call that brought its last
   byte: it takes neither task nor future.
2. Whatever a handler raises ends in its ``_fail``. The one exception is the cancellation of its
   task, which comes from whoever ends the program.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, cast

from whimbrel.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from whimbrel.iostream import StreamClosedError

if TYPE_CHECKING:
    from whimbrel.web import Application, RequestHandler

_Args = Sequence[bytes | None]
_Kwargs = Mapping[str, bytes | None]

# A plain function that raises CancelledError has no task that could have been cancelled.
_FAILURES = (Exception, asyncio.CancelledError)


class Dispatcher(HTTPMessageDelegate):
    """Takes one request and has its handler answer."""

    def __init__(
        self, application: Application, server_connection: object, connection: HTTPConnection
    ) -> None:
        self._application = application
        self._server_connection = server_connection
        self._connection = connection
        self._chunks: list[bytes] = []
        self._handler: RequestHandler | None = None  # of a streamed request

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        request = self._request = HTTPServerRequest(
            connection=self._connection,
            server_connection=self._server_connection,
            start_line=cast("RequestStartLine", start_line),
            headers=headers,
        )
        target = self._target = self._application._find(request)
        if not target.handler_class._streams_body:
            return None
        handler = self._handler = self._make_handler()
        if handler is None:
            return None
        loop = asyncio.get_running_loop()
        handler._body = loop.create_future()
        prepared = loop.create_future()
        self._application._start(
            _execute_streaming(handler, target.args, target.path_kwargs, prepared)
        )
        return prepared

    def _make_handler(self) -> RequestHandler | None:
        """Construct the handler; where that fails, answer for it and return None."""
        target = self._target
        try:
            return target.handler_class(self._application, self._request, **target.kwargs)
        except _FAILURES as error:
            self._application._answer_failure(self._request, error)
            return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        handler = self._handler
        if handler is None:
            self._chunks.append(chunk)
        else:
            try:
                waiting = handler.data_received(chunk)
                return None if waiting is None else _taken(handler, waiting)
            except _FAILURES as error:
                handler._fail(error)
        return None

    def finish(self) -> None:
        target = self._target
        if target.handler_class._streams_body:
            if self._handler is not None:
                _end_body(self._handler, None)
            return
        self._request.body = b"".join(self._chunks)
        handler = self._make_handler()
        if handler is not None:
            _execute(handler, target.args, target.path_kwargs)

    def on_connection_close(self) -> None:
        handler = self._handler
        if handler is None:
            return
        if handler._finished:  # without waiting for all of the body
            _end_body(handler, None)
        else:
            try:
                handler._connection_lost()
            finally:
                _end_body(handler, StreamClosedError())


def _end_body(handler: RequestHandler, error: Exception | None) -> None:
    body = handler._body
    assert body is not None
    if not body.done():
        if error is None:
            body.set_result(None)
        else:
            body.set_exception(error)
            body.exception()  # a handler that has finished no longer waits for it


def _execute(handler: RequestHandler, args: _Args, kwargs: _Kwargs) -> None:
    """Run ``prepare`` and the method, the body being here."""
    try:
        method = handler._begin(args, kwargs)
        waiting = handler.prepare()
        if waiting is None:
            if handler._finished:
                return
            waiting = method(*handler.path_args, **handler.path_kwargs)
            if waiting is None:
                if not handler._finished:
                    handler.finish()
                return
            after = None
        else:
            after = method
    except _FAILURES as error:
        handler._fail(error)
    else:
        handler.application._start(_complete(handler, waiting, after))


async def _complete(
    handler: RequestHandler,
    waiting: Awaitable[None],
    after: Callable[..., Awaitable[None] | None] | None,
) -> None:
    """Wait for ``prepare``, then run ``after``; or for the method, where that is None."""
    with _Failures(handler):
        await waiting
        if after is not None and not handler._finished:
            waiting_for_method = after(*handler.path_args, **handler.path_kwargs)
            if waiting_for_method is not None:
                await waiting_for_method
        if not handler._finished:
            handler.finish()


async def _execute_streaming(
    handler: RequestHandler, args: _Args, kwargs: _Kwargs, prepared: Future[None]
) -> None:
    """Run ``prepare``, let the body come once that is done, then run the method."""
    with _Failures(handler):
        try:
            method = handler._begin(args, kwargs)
            waiting = handler.prepare()
            if waiting is not None:
                await waiting
        finally:
            if not prepared.done():
                prepared.set_result(None)
        if handler._finished:
            return
        assert handler._body is not None
        await handler._body
        if handler._finished:  # by data_received
            return
        waiting = method(*handler.path_args, **handler.path_kwargs)
        if waiting is not None:
            await waiting
        if not handler._finished:
            handler.finish()


async def _taken(handler: RequestHandler, waiting: Awaitable[None]) -> None:
    with _Failures(handler):
        await waiting


class _Failures:
    """Around what a handler's task does: answers for what is raised in it."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # By whoever ends the program: nobody is left to make an answer.
                self._handler._abort(None)
                return False
        if isinstance(error, _FAILURES):
            self._handler._fail(error)
            return True
        return False
