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
    try:
        backend: type[Any] = import_object(BACKENDS[name])
    except ImportError as error:
        if name != "curl":
            raise
        raise ImportError(
            f"the curl backend needs pycurl: pip install pycurl, or use --backend simple ({error})"
        ) from error
    return backend


def name_of(kind: type[Any]) -> str | None:
    """The name of the backend whose class this is; None for any other."""
    dotted = f"{kind.__module__}.{kind.__qualname__}"
    return next((name for name, backend in BACKENDS.items() if backend == dotted), None)


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
