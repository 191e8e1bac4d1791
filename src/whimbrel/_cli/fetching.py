"""`whimbrel URL…`: fetch one after the other, stream each to where it goes."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import re
import signal
import sys
from collections.abc import Iterator
from typing import Final

from whimbrel._backends import load, name_of
from whimbrel._cli.arguments import Options
from whimbrel._cli.failures import Exit, Failure, failure_of, printable, report
from whimbrel._cli.output import Progress, Sink, amount, open_sink
from whimbrel._cli.secrets import Argument
from whimbrel._cli.timing import waterfall
from whimbrel.httpclient import AsyncHTTPClient, HTTPRequest, StreamedResponse
from whimbrel.httputil import HTTPHeaders

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
# What --verbose does not repeat: it ends up in logs.
_SECRET_FIELDS: Final = frozenset(
    ("authorization", "cookie", "proxy-authorization", "set-cookie", "set-cookie2")
)
_SUBCOMMANDS: Final = ("demo",)


async def fetch_all(options: Options) -> int:
    """Fetch every URL of `options`; the exit code of the first that failed, or 0.

    A failure is reported on stderr and does not keep the next URL from being fetched.

    Raises:
        BrokenPipeError: nobody reads stdout any more.
        Failure, ImportError: the backend cannot be used, or not for this.
    """
    code: int = Exit.OK
    kind = AsyncHTTPClient if options.backend is None else load(options.backend)
    with _cancelled_by_sigterm() as terminated:
        try:
            async with kind(force_instance=True, max_clients=1) as client:
                _check_version(client, options.request.get("http_version"))
                for index, given in enumerate(options.urls):
                    output = options.outputs[index] if options.outputs else "-"
                    outcome = await _attempt(client, options, given, output)
                    code = code or outcome
        except asyncio.CancelledError:
            if not terminated:
                raise
            return Exit.TERMINATED
    return code


@contextlib.contextmanager
def _cancelled_by_sigterm() -> Iterator[list[int]]:
    """Let SIGTERM cancel this task, so that unfinished files are removed; tells by a list."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    caught: list[int] = []

    def terminate() -> None:
        caught.append(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield caught
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _attempt(client: AsyncHTTPClient, options: Options, given: str, output: str) -> int:
    url = given if "://" in given else f"http://{given}"
    try:
        await _fetch(client, options, url, output)
    except BrokenPipeError:
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        failure = _with_suggestion(failure, given)
        report(failure, about=shown(url) if len(options.urls) > 1 else "")
        return failure.exit
    return Exit.OK


def _check_version(client: AsyncHTTPClient, version: str | None) -> None:
    """Say it in terms of options, where the client would speak of classes."""
    if name_of(type(client)) == "simple" and version not in (None, "1.1"):
        raise Failure(
            Exit.CAPABILITY,
            "usage",
            f"the simple backend speaks HTTP/1.1 only: for HTTP/{version[0]} use --backend curl",
        )


def _with_suggestion(failure: Failure, given: str) -> Failure:
    """Add what was perhaps meant, where a single word was not found as a host."""
    if failure.stage not in ("dns", "connect") or not re.fullmatch(r"\w+", given):
        return failure
    near = difflib.get_close_matches(given.lower(), _SUBCOMMANDS, n=1)
    if not near:
        return failure
    return Failure(failure.exit, failure.stage, f"{failure}; did you mean `whimbrel {near[0]}`?")


async def _fetch(client: AsyncHTTPClient, options: Options, url: str, output: str) -> None:
    head: list[str] = []
    request = _request(options, url, head)
    if options.verbose:
        _narrate(">", [f"{request.method} {shown(url)}", *_lines(request.headers)])
    size = 0
    async with client.stream(request, raise_error=False) as response:
        if options.verbose:
            _narrate("<", [line.rstrip("\r\n") for line in head])
        if options.fail and response.code >= 400 and response.code != 407:
            raise Failure(Exit.STATUS, "response", f"HTTP {response.code}: {response.reason}")
        with open_sink(output) as sink:
            if options.include:
                sink.write("".join(head).encode("latin-1"))
            size = await _copy(response, sink, _progress(options, output, response))
            _check(options, response)
    if options.timing:
        _show_timing(response, size)


def _request(options: Options, url: str, head: list[str]) -> HTTPRequest:
    arguments = dict(options.request)
    headers = HTTPHeaders()
    for name, value in arguments.pop("headers", ()):
        headers.add(name, value)
    return HTTPRequest(url, headers=headers, header_callback=head.append, **arguments)


async def _copy(response: StreamedResponse, sink: Sink, progress: Progress | None) -> int:
    size = 0
    try:
        async for chunk in response:
            sink.write(chunk)
            size += len(chunk)
            if progress is not None:
                progress.add(len(chunk))
    finally:
        if progress is not None:
            progress.wipe()
    return size


def _check(options: Options, response: StreamedResponse) -> None:
    """Raise for a status that means failure whatever the options say; the body was written."""
    if response.code == 407:
        # Only proxies send it (RFC 9110 section 15.5.8): the origin was never asked.
        raise Failure(Exit.PROXY_AUTH, "proxy-auth", f"HTTP 407: {response.reason}")
    if options.follow and response.code in _REDIRECTS and "Location" in response.headers:
        limit = options.request["max_redirects"]
        raise Failure(Exit.REDIRECT, "response", f"more than {limit} redirects (--max-redirs)")


def _progress(options: Options, output: str, response: StreamedResponse) -> Progress | None:
    if output == "-" or options.silent or not sys.stderr.isatty():
        return None
    length = response.headers.get("Content-Length", "")
    return Progress(sys.stderr, int(length) if length.isascii() and length.isdigit() else None)


def _lines(headers: HTTPHeaders) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.get_all()]


def _narrate(mark: str, lines: list[str]) -> None:
    for line in lines:
        name = line.partition(":")[0]
        text = f"{name}: ***" if name.lower() in _SECRET_FIELDS else line
        print(f"{mark} {printable(text)}".rstrip(), file=sys.stderr)


def _show_timing(response: StreamedResponse, size: int) -> None:
    about = [f"status {response.code}", f"HTTP/{response.http_version}", amount(size)]
    print(f"{printable(shown(response.effective_url))}: {', '.join(about)}", file=sys.stderr)
    for line in waterfall(response.time_info):
        print(line, file=sys.stderr)


def shown(url: str) -> str:
    """`url` without user information."""
    argument = Argument.with_userinfo(url)
    return argument.before + argument.after.removeprefix("@")
