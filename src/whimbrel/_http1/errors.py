"""What can be wrong with a message, the peer's or our own::

ProtocolError              the peer's bytes are not HTTP/1.1
├─ LimitError              they are more than we take
└─ IncompleteError         they ended too soon
LocalProtocolError         our own side asked for what HTTP/1.1 does not allow
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer sent what is not HTTP/1.1.

    `status` is for a server that tells 414 and 431 from 400.
    """

    status = 400


class LimitError(ProtocolError):
    """A part of a message passes its limit.

    `what` is the part ("header block", …); `limit` and `size`, how much of it has come so far, are
    in `unit` ("bytes", "lines" or "responses").
    """

    def __init__(
        self, what: str, limit: int, size: int, *, status: int = 400, unit: str = "bytes"
    ) -> None:
        super().__init__(f"the {what} passes its limit: {size} of {limit} {unit}")
        self.what = what
        self.limit = limit
        self.size = size
        self.unit = unit
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.limit, self.size, self.status, self.unit)


def _rebuild(what: str, limit: int, size: int, status: int, unit: str) -> LimitError:
    return LimitError(what, limit, size, status=status, unit=unit)


class IncompleteError(ProtocolError):
    """The connection ended inside a message, or before one that was expected."""


class LocalProtocolError(Exception):
    """Our own side broke the rules: a body longer than announced, a head where none may stand."""
