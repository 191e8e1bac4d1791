"""One corpus of replies, several parsers: the outcomes are those on record. Matrix 25, 86."""

from __future__ import annotations

from typing import Any

import pytest

from .corpus import CORPUS
from .make_page import BEGIN, END, PAGE, differs, recorded, rewritten
from .parsers import by_core, by_h11, by_tornado, by_whimbrel

OUTCOMES = recorded()
UNCODED = [name for name, reply in CORPUS.items() if not reply.coded]


def test_every_reply_is_on_record() -> None:
    """The record is of this corpus, of which there is enough."""
    assert list(OUTCOMES) == list(CORPUS)
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
async def test_matrix_25_86_clients(name: str, client: Any, backend: str) -> None:
    """Matrix 25 and 86: the outcome on each backend, over a socket."""
    assert await by_whimbrel(client, CORPUS[name]) == OUTCOMES[name][backend]


@pytest.mark.parametrize("name", UNCODED)
def test_matrix_86_the_core(name: str) -> None:
    """Matrix 86: the simple backend tells what its parser tells, neither more nor less."""
    assert by_core(CORPUS[name]) == OUTCOMES[name]["simple"]


@pytest.mark.parametrize("name", UNCODED)
def test_matrix_86_h11(name: str) -> None:
    """Matrix 86: what h11 makes of it."""
    assert by_h11(CORPUS[name]) == OUTCOMES[name]["h11"]


@pytest.mark.parametrize("name", CORPUS)
async def test_matrix_86_tornado(name: str) -> None:
    """Matrix 86: what the simple client of Tornado 6.6.1 makes of it, where that is installed."""
    tornado = pytest.importorskip("tornado")
    if tornado.version != "6.6.1":
        pytest.skip("the record is of Tornado 6.6.1")
    assert await by_tornado(CORPUS[name]) == OUTCOMES[name]["tornado"]


@pytest.mark.parametrize("name", CORPUS)
def test_disagreements_have_a_reason(name: str) -> None:
    """Where parsers disagree the corpus says why we do what we do, and only there."""
    assert bool(CORPUS[name].why) is differs(OUTCOMES[name])


def test_nobody_of_ours_waits() -> None:
    """A reply that the server has closed behind is accepted or rejected, at once."""
    assert not [
        name
        for name, of in OUTCOMES.items()
        if "waits" in (of["simple"], of["curl"], of.get("h11"))
    ]


def test_the_page_is_that_of_the_record() -> None:
    """docs/parser-differences.md is what make_page.py writes; it lists every reply."""
    page = PAGE.read_text("utf-8")
    assert rewritten(page, OUTCOMES) == page
    table = page[page.index(BEGIN) : page.index(END)]
    assert not [name for name in CORPUS if name not in table]
