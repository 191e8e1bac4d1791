"""The pages of docs: examples run as shown, links lead somewhere, the index is complete."""

from __future__ import annotations

import ast
import codeop
import inspect
import re
import subprocess
import sys
from pathlib import Path

import page_runner
import pytest
from pages import DOCS, ROOT, all_pages, anchors, blocks, links, page_name, prose

from backends import BACKENDS, KNOWN_DIFFERENCES
from whimbrel.testing.examples import FILES, Ports, write_files

RUNNABLE = [
    page
    for page in all_pages()
    if page.parent != ROOT and any(block.language == "python" for block in blocks(page))
]


@pytest.mark.parametrize("page", RUNNABLE, ids=page_name)
async def test_examples_run_as_shown(page: Path, tmp_path: Path) -> None:
    """Every Python block of the page runs, and prints what the page shows."""
    write_files(tmp_path)
    async with page_runner.servers() as ports:
        await page_runner.run_page(page, tmp_path, ports)


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_blocks_with_await_can_be_pasted(page: Path) -> None:
    """Line by line into ``python -m asyncio``, where a blank line ends a compound statement."""
    for block in blocks(page):
        if block.language != "python" or not has_top_level_await(block.source):
            continue
        if page_name(page) == "docs/server.md" and "\nclass " in block.source:
            continue  # for a file, as the page says
        paste(block.source)


def has_top_level_await(source: str) -> bool:
    code = compile(source, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return bool(code.co_flags & inspect.CO_COROUTINE)


def paste(source: str) -> None:
    """Compile `source` as the prompt does; raises SyntaxError where that would."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    typed: list[str] = []
    for line in [*source.splitlines(), ""]:
        typed.append(line)
        if compiler("\n".join(typed), symbol="single") is not None:
            typed.clear()
    assert not typed, "it waits for more"


def test_paste_notices() -> None:
    """What the prompt takes, and what it does not."""
    paste("async with a as b:\n    await c\n\nprint(b)\n")
    for source in ("async with a as b:\n    await c\nprint(b)\n", "def f():\n    a\n\n    b\n"):
        with pytest.raises(SyntaxError):
            paste(source)


# Pages whose examples show what is peculiar to the default backend.
OF_LIBCURL = {
    "docs/testing.md": "names the classes of the curl backend's errors",
    "docs/tls.md": "shows what of an SSLContext cannot be mapped onto libcurl",
}


@pytest.mark.parametrize(
    "page", [page for page in RUNNABLE if page_name(page) not in OF_LIBCURL], ids=page_name
)
async def test_examples_run_on_the_simple_backend_too(page: Path, tmp_path: Path) -> None:
    """What a page shows does not depend on the backend, down to the words of errors."""
    write_files(tmp_path)
    choice = f"import whimbrel\nwhimbrel.AsyncHTTPClient.configure({BACKENDS['simple']!r})\n"
    async with page_runner.servers() as ports:
        await page_runner.run_page(page, tmp_path, ports, before=choice)


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_python_is_called_python(page: Path) -> None:
    """A block of another language is not run: Python must not hide behind one."""
    languages = {block.language for block in blocks(page)}
    assert languages <= {"", "python", "text", "sh", "diff"}


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name files of this repository, and headings in them."""
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


# Names that are written in lower case wherever they stand.
LOWER_CASE = ("whimbrel", "libcurl", "pycurl", "asyncio", "uvloop")


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_paragraphs_are_whole(page: Path) -> None:
    """One that begins in lower case has lost its beginning, unless that is the heading above."""
    before = ""
    for paragraph in filter(None, re.split(r"\n{2,}", prose(page).strip("\n"))):
        is_whole = not paragraph[0].islower() or paragraph.startswith(LOWER_CASE)
        assert is_whole or before.startswith("#"), paragraph
        before = paragraph


@pytest.mark.parametrize("name", ["cli.md", "internals/documentation.md"])
def test_servers_and_files_of_the_examples_are_named(name: str) -> None:
    """The pages that list them list all."""
    page = (DOCS / name).read_text()
    for port in Ports():
        assert f"localhost:{port}` |" in page
    for file in FILES:
        assert f"`{file}`" in page


def test_index_names_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    assert set(DOCS.rglob("*.md")) - {index} <= linked


@pytest.mark.parametrize("page", all_pages(), ids=page_name)
def test_source_files_that_are_named_exist(page: Path) -> None:
    """A path in backquotes that begins with src/, docs/, tests/ or benchmarks/ is a real one."""
    for word in prose(page).split("`")[1::2]:
        if word.startswith(("src/", "docs/", "tests/", "benchmarks/")) and " " not in word:
            assert (ROOT / word).exists(), f"{word} does not exist"


# -- the runner itself: what it must notice


async def run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    monkeypatch.setattr(page_runner, "page_name", lambda page: page.name)
    await page_runner.run_page(page, tmp_path, {"8888": 1234})


async def test_runner_accepts_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One namespace a page, bare await, ports there and back, and ``...`` for what varies."""
    text = """
```python
import asyncio
port = "localhost:8888".partition(":")[2]
assert port == "1234"
```
Text.
```python
await asyncio.sleep(0)
print("http://localhost:8888/", 17)
```
```text
http://localhost:8888/ ...
```
"""
    await run(text, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("1 / 0", r'File "page.md", line 3'),
        ("print('not shown')", "prints\nnot shown\n"),
        ("import warnings\nwarnings.warn('old', stacklevel=1)", "UserWarning: old"),
        ("import sys\nprint('noise', file=sys.stderr)", "noise"),
        ("import asyncio\nawait asyncio.sleep(0)\nexit(3)", "SystemExit: 3"),
    ],
)
async def test_runner_notices(
    block: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(page_runner.Problem, match=message):
        await run(f"\n```python\n{block}\n```\n", tmp_path, monkeypatch)


async def test_runner_notices_other_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(page_runner.Problem, match="the page shows\n3"):
        await run("```python\nprint(2)\n```\n```text\n3\n```\n", tmp_path, monkeypatch)


# -- what is generated


def test_options_table_is_up_to_date() -> None:
    """docs/internals/options.md holds the table that its generator makes of FIELDS."""
    script = DOCS / "internals" / "make_options_table.py"
    subprocess.run([sys.executable, "-W", "error", str(script), "--check"], check=True)


def test_options_table_check_notices(tmp_path: Path) -> None:
    """``--check`` fails on a table that differs, and without it the table is written."""
    script = DOCS / "internals" / "make_options_table.py"
    original = (DOCS / "internals" / "options.md").read_text()
    page = tmp_path / "options.md"
    page.write_text(original.replace("| `stall_timeout` |", "| `stall` |"))
    command = [sys.executable, "-W", "error", str(script), "--page", str(page)]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert check.returncode == 1
    assert "out of date" in check.stderr
    subprocess.run(command, check=True)
    assert page.read_text() == original


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_table_of_known_differences(backend: str) -> None:
    """docs/differences.md has a row for each known difference of a backend, in the same words, and
    no other."""
    text = (DOCS / "differences.md").read_text()
    section = text.partition(f"\n## The {backend} backend alone\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        f"| {difference.name} | {difference.reason} |"
        for difference in KNOWN_DIFFERENCES
        if difference.backend == backend
    ]
