"""The backends by name, for people who choose one: on the command line, in a demo, in tests."""

from __future__ import annotations

from typing import Any, Final

from whimbrel.util import import_object

BACKENDS: Final = {
    "curl": "whimbrel.curl_httpclient.CurlAsyncHTTPClient",
    "simple": "whimbrel.simple_httpclient.SimpleAsyncHTTPClient",
}
"""Name to dotted name; the default, where it can be loaded, is the first."""


def load(name: str) -> type[Any]:
    """The class of a backend. Raises ImportError where it cannot be had, saying why."""
    backend: type[Any] = import_object(BACKENDS[name])
    return backend


def loadable() -> list[str]:
    """The names of the backends that can be loaded here."""
    found = []
    for name in BACKENDS:
        try:
            load(name)
        except ImportError:
            continue
        found.append(name)
    return found
