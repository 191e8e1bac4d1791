"""Fixtures for every test: backends and clients, certificates, and the watch for leaks and logs.

``WHIMBREL_TEST_LOOP=uvloop`` runs everything on uvloop, ``PYTHONASYNCIODEBUG=1`` in asyncio's debug
mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from backends import BACKENDS, known_difference
from whimbrel.util import import_object

LOOP = os.environ.get("WHIMBREL_TEST_LOOP", "asyncio")

# No test waits for anything that takes longer; a hang is to be a failure with a traceback.
TEST_SECONDS = 30.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "known_difference(name): fails on the backends that tests/backends.py names, with reasons",
    )
    if LOOP not in ("asyncio", "uvloop"):
        raise pytest.UsageError(f"WHIMBREL_TEST_LOOP={LOOP}: use asyncio or uvloop")


def pytest_report_header() -> str:
    return f"whimbrel: backends {', '.join(BACKENDS)}; event loop {LOOP}"


if LOOP == "uvloop":

    def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        import uvloop

        return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _bounded(item.obj)
        for marker in item.iter_markers("known_difference"):
            callspec = getattr(item, "callspec", None)
            entry = known_difference(marker.args[0], callspec.params["backend"])
            if entry is not None:
                item.add_marker(
                    pytest.mark.xfail(reason=entry.reason, raises=entry.raises, strict=True)
                )


def _bounded(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(TEST_SECONDS) as bound:
            try:
                return await test(*args, **kwargs)
            except asyncio.CancelledError:
                if bound.expired():
                    pytest.fail(f"the test hung for {TEST_SECONDS:.0f} s")
                raise

    return bounded


# -- stray logs


class StrayLogs(logging.Handler):
    """Collects what whimbrel and asyncio log at WARNING and above; the rest must be expected."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The slow-callback note of debug mode tells of the machine, not of the code.
        if not record.getMessage().startswith("Executing <"):
            self.records.append(record)

    def expect(self, logger: str, pattern: str) -> None:
        """Take out the records of `logger` that match `pattern`; there must be one at least."""
        matching = [
            record
            for record in self.records
            if record.name == logger and re.search(pattern, record.getMessage())
        ]
        assert matching, f"no {logger} log matches {pattern!r}: {self.texts}"
        self.records = [record for record in self.records if record not in matching]

    @property
    def texts(self) -> list[str]:
        return [f"{r.name} {r.levelname}: {r.getMessage()}" for r in self.records]


@pytest.fixture(autouse=True)
def stray_logs() -> Iterator[StrayLogs]:
    """Fail a test during which whimbrel or asyncio log a warning that it did not expect."""
    handler = StrayLogs()
    loggers = [logging.getLogger(name) for name in ("whimbrel", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
    assert not handler.texts


# -- leaks


def open_files() -> Counter[str]:
    """How many file descriptors of each kind this process has open ("socket", a path, …)."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the folder
            link = os.readlink(f"/proc/self/fd/{name}")
            # By kind: uvloop replaces its own socket pair each time that it is run.
            found[re.sub(r":\[\d+\]$", "", link)] += 1
    del found["/dev/null"]  # libuv keeps one to survive a shortage of descriptors
    return found


def pending_timers() -> list[object]:
    """Timers of the running loop that have not been cancelled (unknown on uvloop: none)."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return [handle for handle in scheduled if not handle.cancelled()]


def watched_files() -> list[int]:
    """File descriptors that the running loop watches (unknown on uvloop: none)."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    return [] if selector is None else [int(fd) for fd in selector.get_map()]


@dataclass
class Baseline:
    """What was open and scheduled when a client was made, to be found again after its close."""

    files: Counter[str]
    tasks: set[asyncio.Task[Any]]
    timers: list[object]
    watched: list[int]

    @classmethod
    def take(cls) -> Baseline:
        return cls(open_files(), asyncio.all_tasks(), pending_timers(), watched_files())

    def surplus(self) -> dict[str, Any]:
        """What is there now and was not then; empty when all is back."""
        current = asyncio.current_task()
        found = {
            "files": dict(open_files() - self.files),
            "tasks": [task for task in asyncio.all_tasks() - self.tasks if task is not current],
            "timers": [timer for timer in pending_timers() if timer not in self.timers],
            "watched": [fd for fd in watched_files() if fd not in self.watched],
        }
        return {kind: things for kind, things in found.items() if things}

    async def restored(self, within: float = 10.0) -> None:
        """Wait until all is back; AssertionError with the surplus after `within` seconds.

        libcurl is closed by a thread, so the files may follow a little later.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while (surplus := self.surplus()) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not surplus, f"left behind after close(): {surplus}"


# -- backends and clients


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """Name of the backend under test."""
    name: str = request.param
    return name


@pytest.fixture
def client_class(backend: str) -> type[Any]:
    """The class of the backend under test."""
    cls: type[Any] = import_object(BACKENDS[backend])
    return cls


@pytest.fixture
async def make_client(client_class: type[Any]) -> AsyncIterator[Callable[..., Any]]:
    """Make private clients that are closed at the end, where nothing of theirs may be left."""
    # The environment of whoever runs the tests must not send them through a proxy.
    baseline = Baseline.take()
    clients = []

    def make(**kwargs: Any) -> Any:
        kwargs.setdefault("trust_env", False)
        clients.append(client_class(force_instance=True, **kwargs))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    clients.clear()
    await baseline.restored()


@pytest.fixture
async def client(make_client: Callable[..., Any]) -> Any:
    """A private client with default settings, except that it does not read the environment."""
    return make_client()


# -- certificates


@dataclass(frozen=True)
class Certificates:
    """A private CA, and what it issued; `folder` holds the PEM files that libcurl wants."""

    ca: trustme.CA
    server: trustme.LeafCert
    client: trustme.LeafCert
    folder: Path

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    @property
    def client_cert_file(self) -> str:
        return str(self.folder / "client.pem")

    @property
    def client_key_file(self) -> str:
        return str(self.folder / "client.key")

    def server_context(
        self, leaf: trustme.LeafCert | None = None, *, client_certs: bool = False
    ) -> ssl.SSLContext:
        """A context for servers: with the certificate for loopback, or `leaf`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (leaf or self.server).configure_cert(context)
        context.set_alpn_protocols(["http/1.1"])
        if client_certs:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A CA, a server certificate for localhost, 127.0.0.1 and ::1, and a client certificate."""
    ca = trustme.CA()
    folder = tmp_path_factory.mktemp("certificates")
    made = Certificates(
        ca, ca.issue_cert("localhost", "127.0.0.1", "::1"), ca.issue_cert("client@example"), folder
    )
    ca.cert_pem.write_to_path(made.ca_file)
    made.client.private_key_pem.write_to_path(made.client_key_file)
    for index, pem in enumerate(made.client.cert_chain_pems):
        pem.write_to_path(made.client_cert_file, append=index > 0)
    return made


@pytest.fixture(scope="session")
def server_context(certificates: Certificates) -> ssl.SSLContext:
    """A TLS server's context with the certificate for loopback."""
    return certificates.server_context()
