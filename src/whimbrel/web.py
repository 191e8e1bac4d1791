"""A small web framework with the interface of Tornado's ``web``: routes, handlers, streaming.

It is what a strict test server, a demo, a webhook or a small API needs, and no more: there are no
templates, no sessions, no signed cookies, no XSRF protection, no static files, no compression of
responses and no automatic ``Etag``. Settings that ask for one of these are refused.

A request becomes a new instance of the handler class that its path is routed to. The methods run on
the event loop; one that is a coroutine gets a task of its own, one that is not costs none.

What is logged: each response on ``whimbrel.access`` (INFO, WARNING from 400 on, ERROR from 500),
the ``log_message`` of an :class:`HTTPError` on ``whimbrel.general`` (WARNING), and any other
exception of a handler on ``whimbrel.application`` (ERROR, with its traceback).

A response that could not be sent whole is logged with what became of it, whatever status it had:
500 if the handler failed in the middle of the body, and 499 (INFO) if the connection was closed
before, because the client left, a time passed, or the server ended. Requests that the connection
refuses as malformed or too large are told of by ``whimbrel.http1connection`` alone.
"""

from __future__ import annotations

import asyncio
import datetime
import html
import json
import logging
import re
import socket
import time
import traceback
from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, overload
from urllib.parse import quote

from whimbrel._web.cookies import Moment, set_cookie_value
from whimbrel._web.dispatch import Dispatcher
from whimbrel._web.headers import checked_value, dated_headers
from whimbrel._web.routing import Routes, Rule, Target, URLSpec
from whimbrel.httputil import (
    HTTPConnection,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    ResponseStartLine,
    _FormError,
    responses,
)
from whimbrel.iostream import IOStream, StreamClosedError
from whimbrel.util import utf8

if TYPE_CHECKING:
    from http.cookies import Morsel

    from whimbrel.http1connection import HTTP1Connection
    from whimbrel.httpserver import HTTPServer

access_log = logging.getLogger("whimbrel.access")
app_log = logging.getLogger("whimbrel.application")
gen_log = logging.getLogger("whimbrel.general")

_Result = Awaitable[None] | None

# The statuses of responses that were not sent.
_REFUSED = 400  # by the connection, which has answered and logged that itself
_NO_RESPONSE = 499  # as nginx calls a client that leaves; its level is INFO: it is nobody's failure

url = URLSpec  # its older name

# What Tornado offers and this does not: an application that believes in it would be wrong.
_REFUSED_SETTINGS = (
    "xsrf_cookies",
    "compress_response",
    "gzip",
    "static_path",
    "template_path",
    "template_loader",
    "ui_modules",
    "transforms",
)


# --------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------


class HTTPError(Exception):
    """Raise it in a handler to answer with an error page of ``status_code``.

    ``log_message`` (with ``%`` and ``args``, if any are given) goes to the log and not to the
    client; ``reason`` replaces the reason phrase of the status.
    """

    def __init__(
        self,
        status_code: int = 500,
        log_message: str | None = None,
        *args: Any,
        reason: str | None = None,
    ) -> None:
        super().__init__()
        self.status_code = status_code
        self.log_message = log_message
        self.args = args
        self.reason = reason

    def get_message(self) -> str | None:
        """Return ``log_message`` with the arguments in it."""
        if self.log_message and self.args:
            return self.log_message % self.args
        return self.log_message

    def __str__(self) -> str:
        phrase = self.reason or responses.get(self.status_code, "Unknown")
        message = self.get_message()
        return f"HTTP {self.status_code}: {phrase}" + (f" ({message})" if message else "")


class MissingArgumentError(HTTPError):
    """A 400: the request lacks the argument ``arg_name``, for which there is no default."""

    def __init__(self, arg_name: str) -> None:
        super().__init__(400, "Missing argument %s", arg_name)
        self.arg_name = arg_name


class Finish(Exception):
    """Raise it to end the request without an error page.

    What the handler has set and written is sent, followed by the argument, if one is given.
    """


# --------------------------------------------------------------------------------------------
# Handlers
# --------------------------------------------------------------------------------------------


class _Required:
    """No default: the argument must be there."""


_REQUIRED = _Required()

# All control characters but tab, line feed and carriage return.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ), and none at all (RFC 9112 section 4).
_PHRASE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_BAD_IN_URL = re.compile(r"[\x00-\x1f\x7f\\]")
# What a URL may hold (RFC 3986 section 2), and "%", since the URL comes encoded.
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


class RequestHandler:
    """Answers one request; subclass it, and define ``get``, ``post`` and so on.

    A method is a plain function or a coroutine. When it has returned, the response is finished, if
    :meth:`finish` has not been called. What it raises becomes an error page.

    :meth:`initialize`, :meth:`prepare`, :meth:`on_finish` and :meth:`on_connection_close` may be
    overridden, as may :meth:`set_default_headers`, :meth:`write_error` and :meth:`log_exception`.

    Attributes:
        application: the :class:`Application` that routed the request here.
        request: the :class:`~whimbrel.httputil.HTTPServerRequest`.
        path_args: what the unnamed groups of the route's pattern matched, percent-decoded.
        path_kwargs: the same of named groups.
    """

    SUPPORTED_METHODS: ClassVar[tuple[str, ...]] = (
        "GET",
        "HEAD",
        "POST",
        "DELETE",
        "PATCH",
        "PUT",
        "OPTIONS",
    )

    _streams_body: ClassVar[bool] = False

    path_args: Sequence[str | None]
    path_kwargs: Mapping[str, str | None]

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        self.application = application
        self.request = request
        self.path_args = ()
        self.path_kwargs = {}
        self._connection = cast("HTTP1Connection", request.connection)
        self._headers_written = False
        self._finished = False
        self._lost: int | None = None  # why no response can be sent any more, as a status
        self._body: Future[None] | None = None  # of a streamed request: done when all has come
        self.clear()
        self._connection.set_close_callback(self._connection_lost)
        self.initialize(**kwargs)

    # -- for subclasses

    def _initialize(self) -> None:
        """Take the route's ``kwargs``; called when the handler is made."""

    # Not methods, so that subclasses may have parameters of their own.
    initialize: Callable[..., None] = _initialize

    def _not_allowed(self, *args: Any, **kwargs: Any) -> None:
        """Answer 405: the handler does not define this method."""
        raise HTTPError(405)

    def _get_without_body(self, *args: Any, **kwargs: Any) -> _Result:
        """Answer as ``get`` does; the body is left out (RFC 9110 section 9.3.2)."""
        return self.get(*args, **kwargs)

    get: Callable[..., _Result] = _not_allowed
    head: Callable[..., _Result] = _get_without_body
    post: Callable[..., _Result] = _not_allowed
    delete: Callable[..., _Result] = _not_allowed
    patch: Callable[..., _Result] = _not_allowed
    put: Callable[..., _Result] = _not_allowed
    options: Callable[..., _Result] = _not_allowed

    def prepare(self) -> _Result:
        """Called before the method, of whatever kind; may be a coroutine.

        If it finishes the response, the method is not called.
        """
        return None

    def data_received(self, chunk: bytes) -> _Result:
        """Take a piece of the body; for handlers with :func:`stream_request_body`.

        While an awaitable that it returns is not done, no more is read.
        """
        raise NotImplementedError

    def on_finish(self) -> None:
        """Called after the response has been handed to the connection."""

    def on_connection_close(self) -> None:
        """Called if the client leaves before the response is finished.

        The method goes on; what it writes from then on goes nowhere.
        """

    def set_default_headers(self) -> None:
        """Set headers that every response has, error pages included."""

    # -- the request

    @property
    def settings(self) -> dict[str, Any]:
        """The application's settings."""
        return self.application.settings

    @property
    def current_user(self) -> Any:
        """What :meth:`get_current_user` returned, which is asked once; may be set."""
        if not hasattr(self, "_current_user"):
            self._current_user = self.get_current_user()
        return self._current_user

    @current_user.setter
    def current_user(self, value: Any) -> None:
        self._current_user = value

    def get_current_user(self) -> Any:
        """Return whoever makes the request; override it. Without that it is nobody, None."""
        return None

    def reverse_url(self, name: str, *args: object) -> str:
        """Return the path of a route; see :meth:`Application.reverse_url`."""
        return self.application.reverse_url(name, *args)

    @property
    def cookies(self) -> Mapping[str, Morsel[str]]:
        """The cookies that came with the request."""
        return self.request.cookies

    @overload
    def get_cookie(self, name: str, default: str) -> str: ...
    @overload
    def get_cookie(self, name: str, default: None = None) -> str | None: ...
    def get_cookie(self, name: str, default: str | None = None) -> str | None:
        """Return the value of the request's cookie ``name``, or ``default``."""
        cookies = self.request.cookies
        return cookies[name].value if name in cookies else default

    @overload
    def get_argument(self, name: str, default: str, strip: bool = True) -> str: ...
    @overload
    def get_argument(
        self, name: str, default: _Required = _REQUIRED, strip: bool = True
    ) -> str: ...
    @overload
    def get_argument(self, name: str, default: None, strip: bool = True) -> str | None: ...
    def get_argument(
        self, name: str, default: str | _Required | None = _REQUIRED, strip: bool = True
    ) -> str | None:
        """Return the value of the query's or form's argument ``name``; of several, the last.

        ``strip`` removes whitespace at both ends. Control characters become spaces.

        Raises :class:`MissingArgumentError` if it is not there and no ``default`` is given,
        :class:`HTTPError` 400 if it is not UTF-8, and
        :class:`~whimbrel.httputil.HTTPInputError`, which is answered by 400 as well, if the form is
        malformed.
        """
        return self._last(self.request.arguments, name, default, strip)

    def get_arguments(self, name: str, strip: bool = True) -> list[str]:
        """Return all values of the argument ``name``; an empty list if there are none."""
        return self._all(self.request.arguments, name, strip)

    @overload
    def get_query_argument(self, name: str, default: str, strip: bool = True) -> str: ...
    @overload
    def get_query_argument(
        self, name: str, default: _Required = _REQUIRED, strip: bool = True
    ) -> str: ...
    @overload
    def get_query_argument(self, name: str, default: None, strip: bool = True) -> str | None: ...
    def get_query_argument(
        self, name: str, default: str | _Required | None = _REQUIRED, strip: bool = True
    ) -> str | None:
        """As :meth:`get_argument`, from the query only."""
        return self._last(self.request.query_arguments, name, default, strip)

    def get_query_arguments(self, name: str, strip: bool = True) -> list[str]:
        """As :meth:`get_arguments`, from the query only."""
        return self._all(self.request.query_arguments, name, strip)

    @overload
    def get_body_argument(self, name: str, default: str, strip: bool = True) -> str: ...
    @overload
    def get_body_argument(
        self, name: str, default: _Required = _REQUIRED, strip: bool = True
    ) -> str: ...
    @overload
    def get_body_argument(self, name: str, default: None, strip: bool = True) -> str | None: ...
    def get_body_argument(
        self, name: str, default: str | _Required | None = _REQUIRED, strip: bool = True
    ) -> str | None:
        """As :meth:`get_argument`, from the form in the body only."""
        return self._last(self.request.body_arguments, name, default, strip)

    def get_body_arguments(self, name: str, strip: bool = True) -> list[str]:
        """As :meth:`get_arguments`, from the form in the body only."""
        return self._all(self.request.body_arguments, name, strip)

    def _all(self, arguments: dict[str, list[bytes]], name: str, strip: bool) -> list[str]:
        if name not in arguments and not name.isascii():
            # The names of urlencoded arguments are kept as bytes, those of parts as UTF-8.
            name = name.encode("utf-8").decode("latin-1")
        values = []
        for raw in arguments.get(name, ()):
            value = _CONTROLS.sub(" ", self.decode_argument(raw, name))
            values.append(value.strip() if strip else value)
        return values

    def _last(
        self,
        arguments: dict[str, list[bytes]],
        name: str,
        default: str | _Required | None,
        strip: bool,
    ) -> str | None:
        values = self._all(arguments, name, strip)
        if values:
            return values[-1]
        if isinstance(default, _Required):
            raise MissingArgumentError(name)
        return default

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode an argument, or a part of the path, that came in the request: as UTF-8.

        ``name`` is None for an unnamed part of the path. Raises :class:`HTTPError` 400.
        """
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise HTTPError(400, "Invalid unicode in %s", name or "the path") from None

    # -- status and headers

    def clear(self) -> None:
        """Forget the status, headers, cookies and body set so far."""
        self._status_code = 200
        self._reason = "OK"
        self._headers = dated_headers().copy()
        self._cookies: dict[str, str] = {}
        self._write_buffer: list[bytes] = []
        self.set_default_headers()

    def set_status(self, status_code: int, reason: str | None = None) -> None:
        """Set the status; without ``reason``, with the phrase that it has (or "Unknown").

        Raises ``ValueError`` for a code outside 200 to 999 (interim responses are the connection's
        affair), and for a phrase with control characters, or characters above U+00FF.
        """
        if not 200 <= status_code <= 999:
            raise ValueError(f"invalid status {status_code!r}")
        if reason is None:
            reason = responses.get(status_code, "Unknown")
        elif not _PHRASE.fullmatch(reason):
            raise ValueError(f"invalid reason phrase {reason!r}")
        self._status_code = status_code
        self._reason = reason

    def get_status(self) -> int:
        """Return the status set so far."""
        return self._status_code

    def set_header(self, name: str, value: bytes | str | int | datetime.datetime) -> None:
        """Set a header of the response, in place of earlier values.

        A ``datetime`` is sent in HTTP's format. Raises ``ValueError`` for a name that is no token
        (RFC 9110 section 5.1) and for a value that may not stand in a header.
        """
        self._headers[name] = checked_value(name, value)

    def add_header(self, name: str, value: bytes | str | int | datetime.datetime) -> None:
        """Add a value to those of a header; otherwise as :meth:`set_header`."""
        self._headers.add(name, checked_value(name, value))

    def clear_header(self, name: str) -> None:
        """Remove a header, with all its values; nothing happens if it is not there."""
        self._headers.pop(name, None)

    def set_cookie(
        self,
        name: str,
        value: str | bytes,
        domain: str | None = None,
        expires: Moment | None = None,
        path: str = "/",
        expires_days: float | None = None,
        *,
        max_age: int | None = None,
        httponly: bool = False,
        secure: bool = False,
        samesite: str | None = None,
    ) -> None:
        """Set a cookie, in place of one of this name that has been set before.

        ``expires`` is as for :func:`~whimbrel.httputil.format_timestamp`; ``expires_days`` counts
        from now and is used without it. Values that may not stand in a cookie as they are, spaces
        and commas among them, are quoted; :meth:`get_cookie` undoes that. ``bytes`` are taken for
        Latin-1.

        Raises ``ValueError`` for what no quoting makes valid.
        """
        if expires is None and expires_days is not None:
            expires = time.time() + 86400 * expires_days
        self._cookies[name] = set_cookie_value(
            name,
            value if isinstance(value, str) else value.decode("latin-1"),
            domain=domain,
            path=path,
            expires=expires,
            max_age=max_age,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
        )

    def clear_cookie(self, name: str, path: str = "/", domain: str | None = None) -> None:
        """Have the client delete a cookie; ``path`` and ``domain`` are those it was set with."""
        self.set_cookie(name, "", domain=domain, path=path, expires=0)

    # -- the body

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        """Add to the body; it is sent by :meth:`flush` or :meth:`finish`.

        A ``str`` is sent as UTF-8. A dict is sent as JSON, with a Content-Type of
        ``application/json``.

        Raises ``RuntimeError`` after :meth:`finish`, ``TypeError`` for another type. Lists are
        refused as well: as a page's script, old browsers would run a JSON array.
        """
        if self._finished:
            raise RuntimeError("Cannot write() after finish()")
        if isinstance(chunk, dict):
            # A page into which the JSON is pasted must not see the end of its script.
            chunk = json.dumps(chunk).replace("</", "<\\/")
            self._headers["Content-Type"] = "application/json; charset=UTF-8"
        elif not isinstance(chunk, str | bytes):
            hint = "; wrap lists in a dict" if isinstance(chunk, list) else ""
            raise TypeError(f"write() takes bytes, str and dict, not {type(chunk).__name__}{hint}")
        self._write_buffer.append(utf8(chunk))

    def flush(self) -> Future[None]:
        """Send what has been written, and the headers before it; for bodies sent piece by piece.

        The body is chunked unless Content-Length has been set. The future is done when the bytes
        have been handed on: await it, and a slow client holds the handler back. It fails with
        :class:`~whimbrel.iostream.StreamClosedError` if the client has left.
        """
        chunk = b"".join(self._write_buffer)
        self._write_buffer = []
        if not self._headers_written:
            return self._write_headers(chunk)
        return self._connection.write(chunk)

    def _write_headers(self, chunk: bytes) -> Future[None]:
        headers = self._headers
        for cookie in self._cookies.values():
            headers.add("Set-Cookie", cookie)
        start_line = ResponseStartLine("", self._status_code, self._reason)
        # Of a response to HEAD the connection leaves the body out.
        written = self._connection.write_headers(start_line, headers, chunk)
        self._headers_written = True  # if they were refused, an error page can still be sent
        return written

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """End the response, after ``chunk``; the future is as for :meth:`flush`.

        Raises ``RuntimeError`` if it has been called before, or if a status that has no body
        (204 and 304) has been given one.
        """
        if self._finished:
            raise RuntimeError("finish() called twice")
        if chunk is not None:
            self.write(chunk)
        connection = self._connection
        if self._headers_written:
            written = self.flush()
        else:
            body = b"".join(self._write_buffer)
            if self._status_code in (204, 304):
                if body:
                    raise RuntimeError(f"a response with status {self._status_code} has no body")
                # They would describe a body (RFC 9110 section 15.3.5; 15.4.5 for 304).
                self.clear_header("Content-Type")
            elif not ("Content-Length" in self._headers or "Transfer-Encoding" in self._headers):
                self._headers["Content-Length"] = str(len(body))
            self._write_buffer = []
            written = self._write_headers(body)
        connection.set_close_callback(None)
        connection.finish()
        lost = written.done() and written.exception() is not None
        self._ended((self._lost or _NO_RESPONSE) if lost else None)
        return written

    def detach(self) -> IOStream:
        """Give up the connection, for another protocol, and return its stream.

        Nothing is sent for this request any more, nor is it logged, and ``on_finish`` is not
        called. An interim response, as 101, is written to ``request.connection`` before.

        Raises ``RuntimeError`` if the client has left.
        """
        stream = self._connection.detach()
        self._finished = True
        return stream

    def _ended(self, status: int | None = None) -> None:
        """The response is finished, or with ``status`` has failed."""
        self._finished = True
        self.request._finish_time = time.monotonic()
        if status is not None:
            self._status_code = status
        if self._lost != _REFUSED:  # the connection has told of that itself
            self.application.log_request(self)
        try:
            self.on_finish()
        except Exception:  # noqa: BLE001 (the response is out)
            app_log.exception("Exception in on_finish of %s", self._summary())

    def redirect(self, url: str, permanent: bool = False, status: int | None = None) -> None:
        """Send the client to ``url``, by 302, or 301 if ``permanent``, or another ``status``.

        ``url`` may be relative. Spaces and characters above U+007E in it are percent-encoded; what
        the application puts into it from outside is the application's to check.

        Raises ``ValueError`` for control characters and backslashes in ``url`` (browsers take the
        latter for slashes) and for a status outside 300 to 399, ``RuntimeError`` once the headers
        have been sent.
        """
        if self._headers_written:
            raise RuntimeError("cannot redirect after the headers have been sent")
        if status is None:
            status = 301 if permanent else 302
        if not 300 <= status <= 399:
            raise ValueError(f"{status} is no redirect")
        if _BAD_IN_URL.search(url):
            raise ValueError(f"invalid redirect target {url!r}")
        self.set_status(status)
        self._headers["Location"] = quote(url, safe=_URL_CHARACTERS)
        self.finish()

    # -- errors

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """End the request with an error page, made by :meth:`write_error` from ``kwargs``.

        What has been set and written before is dropped. If the headers have been sent already
        nothing can be told any more: the connection is closed, so that the client sees that the
        body is not whole.
        """
        if self._headers_written:
            gen_log.error("Cannot send error response after headers written")
            self._abort(status_code)
            return
        self.clear()
        error = kwargs.get("exc_info", (None, None, None))[1]
        reason = kwargs.get("reason")
        if isinstance(error, HTTPError) and error.reason:
            reason = error.reason
        if reason is not None and not _PHRASE.fullmatch(reason):
            # Often the text of some error. The status still says what is wrong.
            app_log.error("Invalid reason phrase %r for %s", reason, self._summary())
            reason = None
        self.set_status(status_code, reason)
        if status_code == 405:
            # RFC 9110 section 15.5.6 asks for it.
            self._headers["Allow"] = ", ".join(self._allowed_methods())
        try:
            self.write_error(status_code, **kwargs)
        except Exception:  # noqa: BLE001 (a caller's code)
            app_log.exception("Uncaught exception in write_error of %s", self._summary())
        if not self._finished:
            self.finish()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write the error page; override it for pages of one's own.

        ``exc_info`` among ``kwargs`` is the exception, if there was one. With the setting
        ``serve_traceback`` its traceback is the page, as plain text.
        """
        if "exc_info" in kwargs and self.settings.get("serve_traceback"):
            self.set_header("Content-Type", "text/plain; charset=UTF-8")
            self.finish("".join(traceback.format_exception(*kwargs["exc_info"])))
            return
        title = html.escape(f"{status_code}: {self._reason}")
        self.finish(f"<html><title>{title}</title><body>{title}</body></html>")

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what a method raised; see the module's docstring for where and how."""
        if isinstance(value, HTTPError):
            if message := value.get_message():
                gen_log.warning("%d %s: %s", value.status_code, self._summary(), message)
        elif isinstance(value, StreamClosedError) and self._is_cut_off():
            gen_log.debug("%s: the client has left", self._summary())
        else:
            app_log.error(
                "Uncaught exception %s\n%r",
                self._summary(),
                self.request,
                exc_info=(typ, value, tb),  # type: ignore[arg-type]
            )

    def _allowed_methods(self) -> list[str]:
        """Those that do not end in a 405."""
        kind = type(self)
        methods = {name: getattr(kind, name.lower()) for name in self.SUPPORTED_METHODS}
        if methods.get("HEAD") is RequestHandler._get_without_body:
            methods["HEAD"] = kind.get
        return [name for name, function in methods.items() if function is not kind._not_allowed]

    def _summary(self) -> str:
        request = self.request
        return f"{request.method} {request.uri} ({request.remote_ip})"

    # -- called by the dispatcher

    def _begin(
        self, args: Sequence[bytes | None], kwargs: Mapping[str, bytes | None]
    ) -> Callable[..., _Result]:
        """Return the request's method, and decode the parts of the path."""
        name = self.request.method
        if name not in self.SUPPORTED_METHODS:
            raise HTTPError(405)
        if args:
            self.path_args = [None if arg is None else self.decode_argument(arg) for arg in args]
        if kwargs:
            self.path_kwargs = {
                key: None if arg is None else self.decode_argument(arg, key)
                for key, arg in kwargs.items()
            }
        method: Callable[..., _Result] = getattr(self, name.lower())
        return method

    def _connection_lost(self) -> None:
        """The client has left, or the connection has refused the request in the middle of it."""
        if self._connection.stream.closed():
            self._lost = _NO_RESPONSE
        else:
            self._lost = _REFUSED
        self.on_connection_close()

    def _fail(self, error: Exception | asyncio.CancelledError) -> None:
        """Answer for what a method has raised."""
        if isinstance(error, asyncio.CancelledError):
            cancelled = RuntimeError("what the handler was waiting for has been cancelled")
            cancelled.__cause__ = error
            error = cancelled
        elif isinstance(error, _FormError):
            refused = HTTPError(400, "Invalid body: %s", error)
            refused.__cause__ = error
            error = refused
        try:
            if isinstance(error, Finish):
                if not self._finished:
                    self.finish(*error.args)
                return
            self.log_exception(type(error), error, error.__traceback__)
            if self._is_cut_off():
                self._abort(None if isinstance(error, StreamClosedError) else 500)
            elif not self._finished:
                status = error.status_code if isinstance(error, HTTPError) else 500
                self.send_error(status, exc_info=(type(error), error, error.__traceback__))
        except Exception:  # noqa: BLE001 (a caller's code)
            app_log.exception("Exception while answering with an error: %s", self._summary())
            self._abort(500)

    def _is_cut_off(self) -> bool:
        return self._lost is not None or self._connection.stream.closed()

    def _abort(self, status: int | None) -> None:
        """Close the connection in the middle of the response.

        ``status`` is for the log: of the handler's failure, or None if it is not to blame.
        """
        self._connection.set_close_callback(None)
        if self._lost is None:  # else it is closed, or busy with an answer of its own
            self._connection.close()
        if not self._finished:
            self._ended(self._lost or status or _NO_RESPONSE)


_H = TypeVar("_H", bound=type[RequestHandler])


def stream_request_body(cls: _H) -> _H:
    """Decorate a handler class to have the body in pieces, as it arrives.

    ``request.body`` stays empty; each piece goes to :meth:`RequestHandler.data_received`.
    :meth:`RequestHandler.prepare` is called before the first, and the method after the last. Forms
    are not parsed.

    Raises ``TypeError`` if ``cls`` is no handler class.
    """
    if not (isinstance(cls, type) and issubclass(cls, RequestHandler)):
        raise TypeError(f"expected a subclass of RequestHandler, got {cls!r}")
    cls._streams_body = True
    return cls


class RedirectHandler(RequestHandler):
    """Sends GET to ``url``, with the query of the request; by 301, or 302 if not ``permanent``.

    ``url`` is a format string for what the groups of the pattern matched:
    ``(r"/old/(.*)", RedirectHandler, {"url": "/new/{0}"})``.
    """

    def initialize(self, url: str, permanent: bool = True) -> None:
        self._url = url
        self._permanent = permanent

    def get(self, *args: str | None, **kwargs: str | None) -> None:
        url = self._url.format(
            *(quote(value or "") for value in args),
            **{name: quote(value or "") for name, value in kwargs.items()},
        )
        if url.startswith("//") and not self._url.startswith("//"):
            # The client's path must not make it the URL of another host.
            url = "/" + url.lstrip("/")
        if self.request.query:
            url, hash_mark, fragment = url.partition("#")
            query = quote(self.request.query, safe=_URL_CHARACTERS)
            url = f"{url}{'&' if '?' in url else '?'}{query}{hash_mark}{fragment}"
        self.redirect(url, permanent=self._permanent)


class ErrorHandler(RequestHandler):
    """Answers every request with an error page of ``status_code``."""

    def initialize(self, status_code: int) -> None:
        self._error = status_code

    def prepare(self) -> None:
        raise HTTPError(self._error)


# --------------------------------------------------------------------------------------------
# Routes and applications
# --------------------------------------------------------------------------------------------


class Application(HTTPServerConnectionDelegate):
    """Routes, and what their handlers share; give it to an ``HTTPServer``.

    ``handlers`` are :class:`URLSpec` objects, or tuples of their arguments; the first whose pattern
    matches is taken. Other paths go to the setting ``default_handler_class`` (with
    ``default_handler_args``), or are answered by 404. ``default_host`` is the host whose handlers
    serve requests for hosts that :meth:`add_handlers` has not been told of.

    Other settings with a meaning: ``log_function``, called with the handler in place of
    :meth:`log_request`; ``serve_traceback``, see :meth:`RequestHandler.write_error`; ``debug``,
    which turns that on. Any more are the application's own, in ``settings``.

    Raises ``ValueError`` for a setting of Tornado's that would promise what is not here,
    ``TypeError`` for a handler that is no subclass of :class:`RequestHandler`, such as the name of
    one, or another application.
    """

    def __init__(
        self,
        handlers: Iterable[Rule] | None = None,
        default_host: str | None = None,
        **settings: Any,
    ) -> None:
        for name in _REFUSED_SETTINGS:
            if settings.get(name):
                raise ValueError(f"the setting {name} is not supported by whimbrel.web")
        self.settings = settings
        self.default_host = default_host
        self._routes = Routes(RequestHandler)
        self._tasks: set[asyncio.Task[None]] = set()
        if settings.get("debug"):
            settings.setdefault("serve_traceback", True)
        self._routes.add(handlers or ())
        if (default := settings.get("default_handler_class")) is not None:
            self._routes.check(default, "default_handler_class")

    def add_handlers(self, host_pattern: str, host_handlers: Iterable[Rule]) -> None:
        """Add routes for the hosts (without port) that match ``host_pattern``.

        They come before those that the constructor was given.
        """
        self._routes.add(host_handlers, host_pattern)

    def listen(
        self,
        port: int,
        address: str | None = None,
        *,
        family: socket.AddressFamily = socket.AF_UNSPEC,
        backlog: int = 128,
        reuse_port: bool = False,
        **kwargs: Any,
    ) -> HTTPServer:
        """Start a server for this application, and return it.

        ``kwargs`` are the server's; the other arguments are those of its ``listen``.
        """
        from whimbrel.httpserver import HTTPServer

        server = HTTPServer(self, **kwargs)
        server.listen(port, address, family, backlog, reuse_port)
        return server

    def reverse_url(self, name: str, *args: object) -> str:
        """Return the path of the route called ``name``, with ``args`` in place of its groups.

        Raises ``KeyError`` for an unknown name; see also :meth:`URLSpec.reverse`.
        """
        return self._routes.named(name).reverse(*args)

    def log_request(self, handler: RequestHandler) -> None:
        """Log a response that is finished: status, method, target, client, milliseconds.

        The status is 499 if the connection was closed before; see the module's docstring.
        """
        log_function = self.settings.get("log_function")
        if log_function is not None:
            log_function(handler)
            return
        status = handler.get_status()
        level = logging.INFO
        if status >= 400 and status != _NO_RESPONSE:
            level = logging.WARNING if status < 500 else logging.ERROR
        if access_log.isEnabledFor(level):
            milliseconds = 1000 * handler.request.request_time()
            access_log.log(level, "%d %s %.2fms", status, handler._summary(), milliseconds)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """Return the delegate that takes one request; called by the server."""
        return Dispatcher(self, server_conn, request_conn)

    def _find(self, request: HTTPServerRequest) -> Target:
        target = self._routes.find(request.path, request.host_name, self.default_host)
        if target is not None:
            return target
        default = self.settings.get("default_handler_class")
        if default is not None:
            return Target(default, self.settings.get("default_handler_args") or {})
        return _NOT_FOUND

    def _answer_failure(
        self, request: HTTPServerRequest, error: Exception | asyncio.CancelledError
    ) -> None:
        """Answer for a handler that could not be made."""
        RequestHandler(self, request)._fail(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # The loop holds tasks weakly, and a request must not vanish half way.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_NOT_FOUND = Target(ErrorHandler, {"status_code": 404})
