"""Runs the Python blocks of one page, in order and in one namespace; started by page_runner.

Reads a JSON list of [line, source] from stdin and prints, for every block, what it printed. A block
with a bare ``await`` runs as in ``python -m asyncio``: on one loop for the whole page.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import traceback
from types import FunctionType
from typing import Any


def run(page: str, blocks: list[tuple[int, str]]) -> list[str]:
    """What the blocks printed, one string each; ends with SystemExit at the first that fails."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    with asyncio.Runner() as runner:
        for line, source in blocks:
            output = io.StringIO()
            try:
                with contextlib.redirect_stdout(output):
                    # The line numbers of tracebacks are those of the page.
                    code = compile(
                        "\n" * line + source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                    )
                    if code.co_flags & inspect.CO_COROUTINE:
                        runner.run(FunctionType(code, namespace)())
                    else:
                        exec(code, namespace)
            except BaseException:  # noqa: BLE001 (SystemExit of a block is a failure as well)
                traceback.print_exc()
                sys.exit(
                    f"{page}: the block in line {line} failed; it printed:\n{output.getvalue()}"
                )
            printed.append(output.getvalue())
    return printed


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], json.load(sys.stdin))))
