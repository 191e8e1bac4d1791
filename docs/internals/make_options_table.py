"""Writes the table in options.md from `whimbrel._curl.options.FIELDS`.

    python docs/internals/make_options_table.py [--check]

With ``--check`` nothing is written; the exit code is 1 where the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from whimbrel._curl.options import FIELDS

BEGIN = "<!-- begin: written by make_options_table.py -->"
END = "<!-- end -->"


def table() -> str:
    """The table, in Markdown."""
    rows = ["| parameter | libcurl options |", "|---|---|"]
    rows += [f"| `{name}` | {options} |" for name, options in FIELDS.items()]
    return "\n".join(rows)


def rewritten(page: str) -> str:
    """`page` with the table between the two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("options.md"))
    options = parser.parse_args()
    old = options.page.read_text(encoding="utf-8")
    new = rewritten(old)
    if not options.check:
        options.page.write_text(new, encoding="utf-8")
    elif new != old:
        sys.exit(f"{options.page} is out of date: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
