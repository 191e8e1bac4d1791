"""The command line: `whimbrel URL…`, `whimbrel demo`, and Tornado's flags.

`main` is `python -m whimbrel` and the `whimbrel` command; `tornado_main` is
`python -m whimbrel.httpclient`. Both return exit codes (docs/cli.md) and print errors on stderr, in
one line each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from whimbrel._cli.failures import Exit, Failure, failure_of, report

if TYPE_CHECKING:
    from whimbrel._cli.arguments import DemoOptions

__all__ = ["main", "run", "tornado_main"]


def run() -> None:
    """The `whimbrel` command: `main` with the process's arguments, then exit."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run `whimbrel` with `argv` (None: the process's arguments); return the exit code."""
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

    if argv and argv[0] == "demo":
        return _demo(parse_demo(argv[1:]))
    options = parse(argv)
    if options is None:
        return Exit.OK
    from whimbrel._cli.fetching import fetch_all

    return asyncio.run(fetch_all(options))


def _demo(options: DemoOptions) -> int:
    from whimbrel.demo import run_demo, run_servers

    if options.serve is None:
        return run_demo(backends=options.backends)
    try:
        return run_servers(options.serve)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        raise Failure(Exit.DEMO, "serve", f"{about}{error.strerror or error}") from error


def _guarded(command: Callable[[], int]) -> int:
    """Run `command`; whatever ends it early becomes an exit code and at most one line."""
    code = _outcome(command)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more on its way out: give it something that takes it all.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        if isinstance(error, BrokenPipeError):
            return code or Exit.BROKEN_PIPE
        if not code:
            report(Failure(Exit.WRITE, "write", f"stdout: {error.strerror}"))
        return code or Exit.WRITE
    return code


def _outcome(command: Callable[[], int]) -> int:
    try:
        return int(command())
    except SystemExit as leaving:  # argparse has printed its help
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.BROKEN_PIPE
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        report(failure)
        return failure.exit
