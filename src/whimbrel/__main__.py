"""`python -m whimbrel` is the `whimbrel` command."""

from __future__ import annotations

from whimbrel.cli import run

if __name__ == "__main__":
    run()
