"""Markdown pages, as far as the tests need them: fenced blocks, headings, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"

_FENCE = re.compile(r"```(\S*)")
_COMMENT = re.compile(r"<!-- (.+) -->")
_HEADING = re.compile(r"#+ (.+)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def all_pages() -> list[Path]:
    """README, and every page of docs."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands behind the opening fence.
        source: the lines between the fences.
        line: the number of the opening fence's line, from 1.
        mark: the text of an HTML comment on the line before the fence, else "".
        follows: the language of the block right before it, with no other text between; else "".
    """

    language: str
    source: str
    line: int
    mark: str = ""
    follows: str = ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    mark = follows = language = ""
    start = 0
    inside: list[str] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None:
            if fence:
                found.append(Block(language, "\n".join(inside) + "\n", start, mark, follows))
                inside, mark, follows = None, "", language
            else:
                inside.append(line)
        elif fence:
            language, start, inside = fence[1], number, []
        elif comment := _COMMENT.fullmatch(line):
            mark, follows = comment[1], ""
        elif line.strip():
            mark = follows = ""
    assert inside is None, f"{page_name(page)}: the fence in line {start} is not closed"
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    kept = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def anchors(page: Path) -> set[str]:
    """What links to this page may name behind ``#``, by GitHub's rules."""
    headings = (_HEADING.fullmatch(line) for line in prose(page).splitlines())
    return {
        re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
        for heading in headings
        if heading
    }


def links(page: Path) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(prose(page))
