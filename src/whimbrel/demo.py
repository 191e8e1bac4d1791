"""`whimbrel demo`: the main job of this package, done on loopback in a few seconds.

An origin, an https origin and a proxy with authentication from `whimbrel.testing` run in this
process; each backend in turn fetches from them. Every check verifies what came back (bodies, and
what the servers counted) and prints one line; those that show a failure demand the right error.

`whimbrel demo --serve` runs what the examples of the documentation talk to instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from whimbrel._backends import load, loadable
from whimbrel._version import __version__
from whimbrel.httpclient import (
    AsyncHTTPClient,
    HTTPError,
    HTTPProxyError,
    HTTPTimeoutError,
    HTTPTLSError,
)
from whimbrel.testing import (
    LOCALHOST_CERTIFICATE,
    OriginServer,
    ProxyServer,
    localhost_context,
    pattern,
    refused_port,
)
from whimbrel.testing.examples import FILES, Ports, example_servers, write_files

USERNAME: Final = "alice"
PASSWORD: Final = "secret"

_CHECK_SECONDS: Final = 20.0
_DOWNLOAD_BYTES: Final = 32 * 1024 * 1024
_BACKEND_WIDTH: Final = 8
_NAME_WIDTH: Final = 42
# A fetch through our own proxy holds six descriptors of this one process.
_DESCRIPTORS_PER_FETCH: Final = 8
_DESCRIPTORS_WANTED: Final = 4096

_ONE_PROCESS: Final = """
Client, origins and proxy share this one process, and their time. So the figures below are mostly
the servers', and no measure of a backend: docs/benchmarks.md has those."""


class Unexpected(Exception):
    """A check did not see what it should; the message says what it saw."""


@dataclass(frozen=True)
class Playground:
    """What checks work with.

    Attributes:
        client: of the backend whose turn it is, blind to the environment.
        origin, secure: an http and an https origin.
        proxy: asks for `USERNAME` and `PASSWORD`.
        refused: a port where nobody listens.
        fetches: how many fetches a crowd is.
    """

    client: AsyncHTTPClient
    origin: OriginServer
    secure: OriginServer
    proxy: ProxyServer
    refused: int
    fetches: int


class Check(NamedTuple):
    """One line of the demo: a name, and a coroutine function.

    It returns what to print, and raises `Unexpected`, or whatever the client raises, on failure.
    """

    name: str
    run: Callable[[Playground], Awaitable[str]]


def run_demo(
    checks: Sequence[Check] | None = None,
    *,
    backends: Sequence[str] | None = None,
    fetches: int = 200,
    out: TextIO | None = None,
) -> int:
    """Run the demo with each backend; return 0, or 1 if a check failed.

    Args:
        checks: None is all of `CHECKS`.
        backends: their names; None is every one that can be loaded.
        fetches: how many concurrent fetches make a crowd.
        out: where the lines go; None is stdout.

    Raises:
        ImportError: a backend that was named cannot be loaded.
    """
    classes = {name: load(name) for name in backends or loadable()}
    checks = CHECKS if checks is None else checks
    return asyncio.run(_demo(classes, checks, fetches, out or sys.stdout))


def run_servers(folder: str = ".", *, ports: Ports | None = None, out: TextIO | None = None) -> int:
    """Run the servers of the documentation's examples until SIGINT or SIGTERM; return 0.

    Args:
        folder: where the files that the examples read are written; it is made if missing.
        ports: None are the ports that the pages name.
        out: where it says what is where; None is stdout.

    Raises:
        FileExistsError: the folder holds another file of the name of one of them.
        OSError: a port is taken, or a file cannot be written.
    """
    return asyncio.run(_serve(Path(folder).resolve(), ports or Ports(), out or sys.stdout))


async def _serve(folder: Path, ports: Ports, out: TextIO) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    async with example_servers(ports) as (origin, secure, proxy, socks):
        write_files(folder)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        print(f"whimbrel {__version__}: the servers of the documentation's examples\n", file=out)
        for url, what in (
            (f"http://localhost:{origin.port}", "an origin: /hello, /bytes/1000, /redirect/3, ..."),
            (f"https://localhost:{secure.port}", "the same, with the certificate of ca.pem"),
            (f"http://localhost:{proxy.port}", f"an HTTP proxy for {USERNAME}:{PASSWORD}"),
            (f"socks5h://localhost:{socks.port}", f"a SOCKS 5 proxy for {USERNAME}:{PASSWORD}"),
        ):
            print(f"  {url:<25} {what}", file=out)
        print(f"\n{', '.join(FILES)} are in {folder}\nCtrl-C ends it.", file=out, flush=True)
        await ended.wait()
    return 0


async def _demo(
    backends: Mapping[str, type[AsyncHTTPClient]],
    checks: Sequence[Check],
    fetches: int,
    out: TextIO,
) -> int:
    started = time.perf_counter()
    in_flight = min(fetches, max(1, (_raise_descriptor_limit() - 100) // _DESCRIPTORS_PER_FETCH))
    passed: list[bool] = []
    async with (
        OriginServer() as origin,
        OriginServer(localhost_context()) as secure,
        ProxyServer(USERNAME, PASSWORD) as proxy,
    ):
        print(f"whimbrel {__version__} demo", file=out)
        print(f"origins {origin.url('')} and {secure.url('')}", file=out)
        print(f"proxy   {proxy.url} (credentials wanted)", file=out)
        print(_ONE_PROCESS, file=out)
        with refused_port() as refused:
            for name, kind in backends.items():
                print(file=out, flush=True)
                options = {"max_clients": in_flight, "trust_env": False}
                async with kind(force_instance=True, **options) as client:
                    playground = Playground(client, origin, secure, proxy, refused, fetches)
                    passed += [await _show(name, check, playground, out) for check in checks]
    elapsed = time.perf_counter() - started
    print(f"\n{sum(passed)} of {len(passed)} as they should be, {elapsed:.1f} s", file=out)
    return 0 if all(passed) else 1


async def _show(backend: str, check: Check, playground: Playground, out: TextIO) -> bool:
    """Run one check and print its line; whether it passed."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            detail, passed = await check.run(playground), True
    except Unexpected as error:
        detail, passed = str(error), False
    except Exception as error:  # noqa: BLE001 (a demo reports whatever went wrong, and goes on)
        detail, passed = _describe(error), False
    milliseconds = (time.perf_counter() - started) * 1000
    mark = "ok  " if passed else "FAIL"
    name = f"{backend:<{_BACKEND_WIDTH}}{check.name:<{_NAME_WIDTH}}"
    line = f"{mark}  {name}{milliseconds:>8.1f} ms   {detail}"
    print(line, file=out, flush=True)
    return passed


def _describe(error: BaseException) -> str:
    stage = getattr(error, "stage", None)
    where = f" at stage {stage}" if stage else ""
    return f"{type(error).__name__}{where}: {error}"


def _raise_descriptor_limit() -> int:
    """Raise this process's limit on descriptors to what a crowd needs; return the limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unexpected(otherwise)


async def _crowd(playground: Playground, proxy: str | None) -> str:
    """Fetch bodies of different lengths all at once, verify each; say how fast."""
    count = playground.fetches
    started = time.perf_counter()
    responses = await asyncio.gather(
        *(
            playground.client.fetch(
                playground.origin.url(f"/bytes/{1000 + i}"), proxy=False if proxy is None else proxy
            )
            for i in range(count)
        )
    )
    elapsed = time.perf_counter() - started
    wrong = sum(response.body != pattern(1000 + i) for i, response in enumerate(responses))
    _expect(wrong == 0, f"{wrong} of {count} bodies are wrong")
    return f"{count} bodies verified, {count / elapsed:,.0f} fetches/s"


async def _direct(playground: Playground) -> str:
    before = playground.proxy.connection_count
    detail = await _crowd(playground, None)
    _expect(playground.proxy.connection_count == before, "the proxy was asked")
    return detail


async def _through_proxy(playground: Playground) -> str:
    before = playground.proxy.forward_count
    detail = await _crowd(playground, playground.proxy.url_with_credentials)
    forwarded = playground.proxy.forward_count - before
    _expect(forwarded == playground.fetches, f"the proxy forwarded {forwarded}")
    return detail


async def _tls(playground: Playground) -> str:
    url = playground.secure.url("/bytes/100000")
    response = await playground.client.fetch(url, ca_certs=LOCALHOST_CERTIFICATE)
    _expect(response.body == pattern(100_000), "the body is wrong")
    refused = await _error(playground.client.fetch(url), HTTPTLSError, "tls")
    return f"certificate verified; without its CA: {type(refused).__name__} at stage tls"


async def _tunnels(playground: Playground) -> str:
    proxy, count = playground.proxy, max(1, playground.fetches // 10)
    before = proxy.tunnel_count
    responses = await asyncio.gather(
        *(
            playground.client.fetch(
                playground.secure.url(f"/bytes/{i}"),
                proxy=proxy.url_with_credentials,
                ca_certs=LOCALHOST_CERTIFICATE,
            )
            for i in range(count)
        )
    )
    _expect(all(r.body == pattern(i) for i, r in enumerate(responses)), "a body is wrong")
    tunnels = proxy.tunnel_count - before
    _expect(0 < tunnels <= count, f"{tunnels} tunnels")
    return f"{count} bodies verified, through {tunnels} CONNECT tunnels"


async def _digest(playground: Playground) -> str:
    url = playground.origin.url("/digest")
    response = await playground.client.fetch(
        url, auth_username="alice", auth_password="secret", auth_mode="digest"
    )
    _expect(response.body == b"hello alice\n", "the body is wrong")
    wrong = await playground.client.fetch(
        url, auth_username="alice", auth_password="guess", auth_mode="digest", raise_error=False
    )
    _expect(wrong.code == 401, f"a wrong password got {wrong.code}")
    return "200 with the right password, 401 with a wrong one"


async def _download(playground: Playground) -> str:
    url = playground.origin.url(f"/stream/{_DOWNLOAD_BYTES}")
    size = chunks = 0
    started = time.perf_counter()
    async with playground.client.stream(url) as response:
        async for chunk in response:
            _expect(chunk == pattern(len(chunk), size), f"wrong bytes after {size}")
            size += len(chunk)
            chunks += 1
    elapsed = time.perf_counter() - started
    _expect(size == _DOWNLOAD_BYTES, f"{size} bytes instead of {_DOWNLOAD_BYTES}")
    mebibytes = size / 1024 / 1024
    return f"{mebibytes:.0f} MiB in {chunks} chunks verified, {mebibytes / elapsed:,.0f} MiB/s"


async def _redirect(playground: Playground) -> str:
    response = await playground.client.fetch(playground.origin.url("/redirect/3"))
    _expect(response.body == b"Hello from whimbrel\n", "the body is wrong")
    codes = [hop.code for hop in response.history]
    _expect(codes == [302, 302, 302], f"the redirects were {codes}")
    return f"3 redirects followed to {response.effective_url}"


async def _time_out(playground: Playground) -> str:
    slow = playground.client.fetch(playground.origin.url("/slow/10"), request_timeout=0.2)
    return _describe(await _error(slow, HTTPTimeoutError, "response"))


async def _wrong_password(playground: Playground) -> str:
    before = playground.proxy.tunnel_count
    wrong = playground.proxy.url.replace("://", f"://{USERNAME}:guess@")
    error = await _error(
        playground.client.fetch(playground.secure.url("/hello"), proxy=wrong),
        HTTPProxyError,
        "proxy-auth",
    )
    _expect(error.proxy_code == 407, f"proxy_code is {error.proxy_code}")
    _expect(playground.proxy.tunnel_count == before, "the proxy opened a tunnel")
    return _describe(error)


async def _refused_proxy(playground: Playground) -> str:
    fetch = playground.client.fetch(
        playground.origin.url("/hello"), proxy=f"http://127.0.0.1:{playground.refused}"
    )
    return _describe(await _error(fetch, HTTPProxyError, "proxy-connect"))


async def _error(fetch: Awaitable[object], kind: type[HTTPError], stage: str) -> HTTPError:
    """The error that `fetch` ends with, which must be a `kind` at `stage`."""
    try:
        await fetch
    except kind as error:
        _expect(error.stage == stage, f"{_describe(error)}, not at stage {stage}")
        return error
    raise Unexpected(f"it succeeded, where {kind.__name__} is due")


CHECKS: Final = (
    Check("concurrent fetches, direct", _direct),
    Check("concurrent fetches through the proxy", _through_proxy),
    Check("TLS", _tls),
    Check("TLS through the proxy", _tunnels),
    Check("digest authentication", _digest),
    Check("streamed download", _download),
    Check("redirects", _redirect),
    Check("a time-out, as the error it is", _time_out),
    Check("a wrong proxy password, as the error it is", _wrong_password),
    Check("a refused proxy, as the error it is", _refused_proxy),
)
"""What `run_demo` runs, in this order."""
