"""What a parameter's value may be: limits, switches, callbacks."""

from __future__ import annotations

import inspect
from typing import Any


def byte_limit(field: str, value: Any) -> int:
    """Return a limit in bytes; raise ValueError naming `field` unless it is 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{field} must be a number of bytes, 0 or more, not {value!r}")
    return value


def flag(field: str, value: Any) -> bool:
    """Return a switch; raise ValueError naming `field` for text, of which "false" is true."""
    if isinstance(value, str | bytes):
        raise ValueError(f"{field} must be True or False, not {value!r}")
    return bool(value)


def fault_of_callback(value: Any, *, is_awaited: bool = False) -> str | None:
    """Say, behind the parameter's name, why `value` is no callback; None if it is one.

    Unless what it returns `is_awaited`, a coroutine function is none: it would never run.
    """
    if not callable(value):
        return f"must be callable, not {type(value).__name__}"
    if not is_awaited and (
        inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)
    ):
        return "must be a plain function: nobody would await its coroutine"
    return None
