"""README: its two commands, and its examples run as shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import page_runner
from benchmarks.clients import CLIENTS
from pages import README, ROOT, blocks

from whimbrel.testing.examples import write_files

COMMANDS = {
    "demo": "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/whimbrel demo",
    "tests": "python3 -m venv .venv && .venv/bin/pip install -e '.[test]'"
    " && .venv/bin/python -m pytest",
}


async def test_examples_run_as_shown(tmp_path: Path) -> None:
    """Every Python block of README runs, and prints what README shows."""
    write_files(tmp_path)
    async with page_runner.servers() as ports:
        await page_runner.run_page(README, tmp_path, ports)


def test_the_two_commands() -> None:
    """The blocks marked demo and tests are one line of sh each; automation extracts them."""
    marked = {block.mark: block for block in blocks(README) if block.mark}
    assert {name: block.source.rstrip("\n") for name, block in marked.items()} == COMMANDS
    assert {block.language for block in marked.values()} == {"sh"}


def test_the_number_of_other_clients() -> None:
    """README and CHANGELOG count them as benchmarks.clients has them: uvloop makes no other one."""
    others = {name.partition(",")[0] for name in CLIENTS if not name.startswith("whimbrel")}
    numbers = {9: "nine", 10: "ten", 11: "eleven", 12: "twelve"}
    for page in (README, ROOT / "CHANGELOG.md"):
        assert f"{numbers[len(others)]} other clients" in page.read_text()


def test_the_commands_are_shell() -> None:
    for block in blocks(README):
        if block.language == "sh":
            subprocess.run(["sh", "-n", "-c", block.source], check=True, cwd=ROOT)
