"""The command line: `whimbrel URL…`, `whimbrel demo`, and Tornado's flags.

`main` is `python -m whimbrel` and the `whimbrel` command; `tornado_main` is
`python -m whimbrel.httpclient`. Both return exit codes (docs/cli.md) and print errors on stderr, in
one line each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from whimbrel._cli.failures import Exit, failure_of, report

__all__ = ["main", "run", "tornado_main"]


def run() -> None:
    """The `whimbrel` command: `main` with the process's arguments, then exit."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run `whimbrel` with `argv` (None: the process's arguments); return the exit code.

    Raises:
        SystemExit: after ``--help``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return _guarded(lambda: _whimbrel(arguments))


def tornado_main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m whimbrel.httpclient`` with `argv`, like `main`."""
    from whimbrel._cli.tornado import fetch_and_print

    arguments = sys.argv[1:] if argv is None else argv
    return _guarded(lambda: fetch_and_print(arguments))


def _whimbrel(argv: Sequence[str]) -> int:
    import asyncio

    from whimbrel._cli.arguments import parse, parse_demo
    from whimbrel.httpclient import AsyncHTTPClient

    if argv and argv[0] == "demo":
        backend = parse_demo(argv[1:])
        if backend is not None:
            AsyncHTTPClient.configure(backend)
        from whimbrel.demo import run_demo

        return run_demo()
    options = parse(argv)
    if options is None:
        return Exit.OK
    if options.backend is not None:
        AsyncHTTPClient.configure(options.backend)
    from whimbrel._cli.fetching import fetch_all

    return asyncio.run(fetch_all(options))


def _guarded(command: Callable[[], int]) -> int:
    """Turn what ends a command early into its exit code."""
    try:
        return int(command())
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out: give it something that takes it.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        return Exit.BROKEN_PIPE
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        report(failure)
        return failure.exit
