"""Time-outs: what is a valid one, and how long a fetch may wait in the queue."""

from __future__ import annotations

import math
from typing import Any

_SHORTEST = 0.001


def seconds(field: str, value: Any) -> float:
    """Return a time-out in seconds; raise ValueError naming `field` unless it is 0 or more.

    Below a millisecond it is rounded up to one, which is as short as libcurl's can be.
    """
    if type(value) is not float and type(value) is not int:
        raise ValueError(f"{field} must be a number of seconds, not {value!r}")
    if not value >= 0 or math.isinf(value):
        raise ValueError(f"{field} must be 0 (no limit) or more seconds, not {value!r}")
    return value if value >= _SHORTEST or not value else _SHORTEST


def queue_limit(given: Any, connect_timeout: float, request_timeout: float) -> float:
    """Seconds a fetch may wait for a slot; 0 is no limit.

    Without a queue_timeout it is the smaller of the two others, as in Tornado; and never more
    than request_timeout, which covers the whole fetch. 0 is no limit in each of them.
    """
    if given is None:
        if connect_timeout and (connect_timeout < request_timeout or not request_timeout):
            return connect_timeout
        return request_timeout
    limit = seconds("queue_timeout", given)
    return request_timeout if request_timeout and not 0 < limit < request_timeout else limit
