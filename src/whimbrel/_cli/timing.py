"""`--timing`: the phases of a request as a waterfall in text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_WIDTH: Final = 50


class Phase(NamedTuple):
    """A stretch of a request's time, in seconds from the start of the whole."""

    name: str
    start: float
    end: float


def phases(time_info: Mapping[str, float]) -> list[Phase]:
    """Take `HTTPResponse.time_info` apart.

    Its values but queue and redirect count from the start of the last hop, each to the end of a
    phase (libcurl's CURLINFO_*_TIME); 0 where a phase did not take place, as on a reused
    connection. "handshake" is TLS, and the proxy's CONNECT before it.
    """
    offset = time_info.get("queue", 0.0)
    found = [Phase("queue", 0.0, offset)]
    if redirect := time_info.get("redirect", 0.0):
        found.append(Phase("redirects", offset, offset + redirect))
        offset += redirect
    reached = 0.0
    for name, key in (
        ("name look-up", "namelookup"),
        ("connect", "connect"),
        ("handshake", "appconnect"),
        ("prepare", "pretransfer"),
        ("wait", "starttransfer"),
        ("transfer", "total"),
    ):
        end = max(time_info.get(key, 0.0), reached)
        found.append(Phase(name, offset + reached, offset + end))
        reached = end
    return found


def waterfall(time_info: Mapping[str, float]) -> list[str]:
    """Lines with the length of each phase in milliseconds and a bar where it lay."""
    parts = phases(time_info)
    total = max(part.end for part in parts)
    lines = []
    for part in parts:
        start, end = (round(_WIDTH * at / total) if total else 0 for at in part[1:])
        # What took any time at all leaves a mark.
        bar = "#" * max(end - start, 1 if part.end > part.start else 0)
        bar = (" " * min(start, _WIDTH - len(bar)) + bar).ljust(_WIDTH)
        lines.append(f"  {part.name:<13}{(part.end - part.start) * 1000:>10.2f} ms  |{bar}|")
    lines.append(f"  {'total':<13}{total * 1000:>10.2f} ms")
    return lines
