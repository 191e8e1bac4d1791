"""Results say of which source they are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

facts: Any = pytest.importorskip("benchmarks.facts", reason="these are the tests alone")


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, check=True)


def made(folder: Path) -> Path:
    """A file in a checkout of its own."""
    folder.mkdir()
    file = folder / "__init__.py"
    file.touch()
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "all")
    return file


def measured(monkeypatch: pytest.MonkeyPatch, whimbrel: Path, benchmarks: Path) -> dict[str, str]:
    """What is said where they are there."""
    found = SimpleNamespace(origin=str(whimbrel))
    monkeypatch.setattr(facts, "importlib", SimpleNamespace(util=SimpleNamespace()))
    facts.importlib.util.find_spec = lambda name: found
    monkeypatch.setattr(facts, "__file__", str(benchmarks))
    source: dict[str, str] = facts.source()
    assert not [value for value in source.values() if "/" in value]
    return source


def test_one_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(tmp_path / "one")
    source = measured(monkeypatch, file, file)
    assert source["whimbrel of"] == "the checkout of the benchmarks"
    assert set(source) == {"commit", "whimbrel of"}
    file.write_text("changed")
    assert measured(monkeypatch, file, file)["commit"] == f"{source['commit']}-dirty"


def test_it_is_the_whimbrel_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    two.write_text("changed")
    source = measured(monkeypatch, one, two)
    checkouts = facts.checkout(one), facts.checkout(two)
    assert source == {
        "commit": checkouts[0].commit,
        "whimbrel of": "another checkout than the benchmarks",
        "commit of the benchmarks": checkouts[1].commit,
    }
    assert source["commit of the benchmarks"].endswith("-dirty")


def test_what_lies_in_a_checkout_is_not_always_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment, for instance."""
    file = made(tmp_path / "one")
    installed = tmp_path / "one" / "site-packages" / "whimbrel.py"
    installed.parent.mkdir()
    installed.touch()
    source = measured(monkeypatch, installed, file)
    assert source["whimbrel of"] == "no checkout"
    assert set(source) == {"whimbrel of", "commit of the benchmarks"}


def test_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "whimbrel.py"
    file.touch()
    assert measured(monkeypatch, file, file) == {"whimbrel of": "no checkout"}
