"""The headers of responses: those that all begin with, and the check of those that are set."""

from __future__ import annotations

import datetime
import time

from whimbrel._version import __version__
from whimbrel.httputil import HTTPHeaders, HTTPInputError, format_timestamp

_dated = (0, HTTPHeaders())


def dated_headers() -> HTTPHeaders:
    """The headers that every response begins with; made anew each second, and to be copied."""
    global _dated
    second = int(time.time())
    if _dated[0] != second:
        _dated = (
            second,
            HTTPHeaders(
                {
                    "Server": f"whimbrel/{__version__}",
                    "Content-Type": "text/html; charset=UTF-8",
                    "Date": format_timestamp(second),
                }
            ),
        )
    return _dated[1]


def checked_value(name: str, value: bytes | str | int | datetime.datetime) -> str:
    """Return a header's value as it is sent. Raises ``ValueError`` if it may not be."""
    if isinstance(value, datetime.datetime):
        value = format_timestamp(value)
    elif isinstance(value, int):
        value = str(value)
    headers = HTTPHeaders()
    try:
        headers.add(name, value)
    except HTTPInputError as error:
        raise ValueError(str(error)) from None
    return headers[name]
