"""The clients of a benchmark: what each is called, needs and can do, and how it is opened.

Behind every name stands the same small interface, `Session` of session.py, so that the work is
written once. Each library has a module of its own here, which is imported when its client is
opened: a process that measures one of them does not load the others. Who can have another proxy for
each request has that in each_proxy.py.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple

from benchmarks.clients import libcurl_in_c
from benchmarks.clients.session import Options, Session

Opener = Callable[[Options], AbstractAsyncContextManager[Session]]

Feature = Literal["tls", "http2", "proxy", "connect", "stream", "upload", "upload-stream"]


def _none_missing() -> list[str]:
    return []


def _no_more_versions() -> dict[str, str]:
    return {}


class Client(NamedTuple):
    """A client and what it needs.

    Attributes:
        name: as it is used on the command line, in tables and in JSON.
        packages: the distributions whose versions count, the one that is measured first; all
            have to be installed.
        open: makes a session; None for a program of its own.
        features: what the session can do beyond ``get`` over plain HTTP/1.1.
        loop: what it runs on.
        command: builds a program that does the work of small GETs by itself, and gives the
            arguments to run it with; None for a session.
        also_missing: names what is missing beyond `packages`.
        also_versions: the versions of what is used beyond `packages`.
    """

    name: str
    packages: tuple[str, ...]
    open: Opener | None
    features: frozenset[Feature]
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    command: Callable[[libcurl_in_c.Load], list[str]] | None = None
    also_missing: Callable[[], list[str]] = _none_missing
    also_versions: Callable[[], dict[str, str]] = _no_more_versions

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed; empty if it can be measured."""
        return [name for name in self.packages if _version(name) is None] or self.also_missing()

    @property
    def versions(self) -> dict[str, str]:
        """Of what it needs, if nothing is missing; by name."""
        found = {name: _version(name) or "missing" for name in self.packages}
        return found | self.also_versions()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _module(module_name: str, **arguments: Any) -> Opener:
    """The `open_session` of a module here, which is imported when it is first called."""

    def open_session(options: Options) -> AbstractAsyncContextManager[Session]:
        module: Any = importlib.import_module(f"{__name__}.{module_name}")
        session: AbstractAsyncContextManager[Session] = module.open_session(options, **arguments)
        return session

    return open_session


def _missing_in_pycurl() -> list[str]:
    """What is installed may lack the libcurl that it was built with."""
    try:
        import pycurl  # noqa: F401
    except ImportError as error:
        return [f"a pycurl that can be imported ({error})"]
    return []


def _missing_in_pycurls_loop() -> list[str]:
    if missing := _missing_in_pycurl():
        return missing
    import pycurl

    return [] if hasattr(pycurl, "AsyncCurlMulti") else ["a pycurl with AsyncCurlMulti"]


_HTTP1: Final[frozenset[Feature]] = frozenset(
    {"tls", "proxy", "connect", "stream", "upload", "upload-stream"}
)
_HTTP2: Final[frozenset[Feature]] = _HTTP1 | {"http2"}

_whimbrel_curl = _module("whimbrel_client", name="curl")
_whimbrel_simple = _module("whimbrel_client", name="simple")
_aiohttp = _module("aiohttp_client")
_tornado_curl = _module("tornado_client", name="curl")
_tornado_simple = _module("tornado_client", name="simple")

_CLIENTS: Final = (
    Client(
        "whimbrel curl",
        ("whimbrel", "pycurl"),
        _whimbrel_curl,
        _HTTP2,
        also_missing=_missing_in_pycurl,
    ),
    Client(
        "whimbrel curl, uvloop",
        ("whimbrel", "pycurl", "uvloop"),
        _whimbrel_curl,
        _HTTP2,
        "uvloop",
        also_missing=_missing_in_pycurl,
    ),
    Client("whimbrel simple", ("whimbrel",), _whimbrel_simple, _HTTP1),
    Client("whimbrel simple, uvloop", ("whimbrel", "uvloop"), _whimbrel_simple, _HTTP1, "uvloop"),
    Client("aiohttp", ("aiohttp",), _aiohttp, _HTTP1),
    Client("aiohttp, uvloop", ("aiohttp", "uvloop"), _aiohttp, _HTTP1, "uvloop"),
    Client(
        "Tornado curl",
        ("tornado", "pycurl"),
        _tornado_curl,
        _HTTP1 - {"upload-stream"},
        also_missing=_missing_in_pycurl,
    ),
    Client("Tornado simple", ("tornado",), _tornado_simple, _HTTP1 - {"proxy", "connect"}),
    Client("httpx", ("httpx", "h2"), _module("httpx_client"), _HTTP2),
    Client("niquests", ("niquests",), _module("niquests_client"), _HTTP2),
    Client("curl_cffi", ("curl_cffi",), _module("curl_cffi_client"), _HTTP2),
    Client(
        "pycurl.AsyncCurlMulti",
        ("pycurl",),
        _module("pycurl_client"),
        _HTTP2,
        also_missing=_missing_in_pycurls_loop,
    ),
    Client("wreq", ("wreq",), _module("wreq_client"), _HTTP2),
    Client("pyreqwest", ("pyreqwest",), _module("pyreqwest_client"), _HTTP2),
    Client(
        "libcurl in C",
        (),
        None,
        frozenset({"tls", "http2", "proxy", "connect"}),
        command=libcurl_in_c.command,
        also_missing=libcurl_in_c.missing,
        also_versions=libcurl_in_c.versions,
    ),
)

CLIENTS: Final[dict[str, Client]] = {client.name: client for client in _CLIENTS}
"""By name."""

FEW: Final = ("whimbrel curl", "whimbrel simple", "aiohttp")
"""Who is measured where all of them would take too long."""
