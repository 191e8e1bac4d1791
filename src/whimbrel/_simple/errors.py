"""From what goes wrong on a connection to the errors that both backends raise.

The classes, the stages and what may be sent again are those of the curl backend, so that a program
may switch (docs/internals/errors.md); the texts begin alike.
"""

from __future__ import annotations

from typing import NamedTuple

from whimbrel._http1.errors import IncompleteError, LimitError, ProtocolError
from whimbrel._http1.grammar import LIMITS
from whimbrel._policy.decoding import DecodingError
from whimbrel._policy.exchange import IDEMPOTENT_METHODS, Exchange
from whimbrel._simple.tls import reason_of
from whimbrel.httpclient import (
    HTTPError,
    HTTPLimitError,
    HTTPProtocolError,
    HTTPStreamClosedError,
    HTTPTimeoutError,
)
from whimbrel.iostream import UnsatisfiableReadError


class SimpleLimitError(HTTPLimitError, UnsatisfiableReadError):
    """A reply passed a limit; also what an :class:`~whimbrel.iostream.IOStream` would raise."""


class CapabilityError(NotImplementedError):
    """A request asks for what pure Python cannot do; the message names the backend that can."""


def body_limit_error(message: str) -> SimpleLimitError:
    """The error for a body beyond max_body_size."""
    return SimpleLimitError(message, stage="body")


# What is forbidden rather than malformed says what was sent.
_WELL_FORMED = ("101 ", "204 ", "both ")


class Situation(NamedTuple):
    """How far an exchange was when it failed."""

    exchange: Exchange
    stage: str
    """"send", "response" or "body"."""
    answered: bool = False
    """Whether any byte of a response had come."""

    @property
    def peer(self) -> str:
        """Who was spoken to: the origin, or a proxy that answers for it."""
        profile = self.exchange.profile
        proxy = profile.proxy
        if proxy is not None and not proxy.is_socks and profile.scheme == "http":
            return proxy.url
        return self.exchange.url.netloc

    @property
    def safe(self) -> bool:
        """Whether the request may be sent again (RFC 9110 section 9.2.2)."""
        return self.exchange.profile.method in IDEMPOTENT_METHODS


def timed_out(situation: Situation, *, stalled: bool = False) -> HTTPTimeoutError:
    """A deadline passed after the connection stood."""
    if stalled:
        limit = situation.exchange.profile.stall_timeout
        text = f"Stalled: not a byte for {limit:g} seconds"
    else:
        text = f"Timeout during request to {situation.exchange.url.netloc}"
    return HTTPTimeoutError(text, stage=situation.stage, retryable=situation.safe)


def connection_closed(situation: Situation, cause: BaseException | None) -> HTTPStreamClosedError:
    """The connection ended, by a reset if there is a `cause`, before the response was whole."""
    peer = situation.peer
    if situation.stage == "body":
        text = f"{peer} closed the connection before the body's end"
    elif situation.answered:
        text = f"{peer} closed the connection within the header block"
    elif situation.stage == "send":
        text = f"the connection to {peer} broke while the request was sent"
    else:
        text = f"{peer} closed the connection without a response"
    if cause is not None and not isinstance(cause, IncompleteError):
        text = f"{text}: {reason_of(cause)}"
    error = HTTPStreamClosedError(text, stage=situation.stage, retryable=situation.safe)
    error.__cause__ = cause
    return error


def translate(error: BaseException, situation: Situation) -> BaseException:
    """Return the error to be raised for one that happened on a connection.

    What is not of the HTTP/1 core or a decoder is a caller's own, and stays what it is.
    """
    translated: HTTPError
    if isinstance(error, IncompleteError):
        return connection_closed(situation, error)
    if isinstance(error, LimitError) and error.unit != "responses":
        # The client's own setting bounds the start line where it is below what is usual.
        binds = error.what == "header block" or (
            error.what == "start line" and error.limit < LIMITS.start_line
        )
        name = " max_header_size" if binds else " its limit"
        translated = SimpleLimitError(
            f"the {error.what} passes{name}: {error.size} of {error.limit} {error.unit}",
            stage=situation.stage,
        )
    elif isinstance(error, LimitError):
        translated = HTTPProtocolError(
            f"{situation.peer} sent more than {error.limit} interim responses",
            stage=situation.stage,
        )
    elif isinstance(error, ProtocolError):
        text = str(error)
        what = text if text.startswith(_WELL_FORMED) else f"a malformed reply: {text}"
        translated = HTTPProtocolError(f"{situation.peer} sent {what}", stage=situation.stage)
    elif isinstance(error, DecodingError):
        translated = HTTPProtocolError(f"{situation.exchange.url.netloc}: {error}", stage="body")
    else:
        return error
    translated.__cause__ = error
    return translated
