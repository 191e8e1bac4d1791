"""Records what each parser makes of the corpus, and writes docs/parser-differences.md of it.

    python tests/differential/make_page.py            # writes both; needs h11 and Tornado 6.6.1
    python tests/differential/make_page.py --check    # 1 if the page is not that of the record

The record is outcomes.json beside this file. A change in it is one in somebody's behaviour: it is
to be looked at, and given a reason in corpus.py, before it is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from differential.corpus import CORPUS, Reply
from differential.parsers import REJECTED, WAITS, accepted, by_h11, by_tornado, by_whimbrel

RECORD = Path(__file__).with_name("outcomes.json")
PAGE = Path(__file__).parents[2] / "docs" / "parser-differences.md"
BEGIN = "<!-- begin: written by make_page.py -->"
END = "<!-- end -->"

PARSERS = {"simple": "simple", "curl": "curl", "h11": "h11", "tornado": "Tornado"}


def recorded() -> dict[str, dict[str, str]]:
    """Outcomes by the reply's name, then the parser's."""
    found: dict[str, dict[str, str]] = json.loads(RECORD.read_text("utf-8"))
    return found


async def record() -> dict[str, dict[str, str]]:
    """Ask every parser about every reply."""
    from whimbrel.curl_httpclient import CurlAsyncHTTPClient
    from whimbrel.simple_httpclient import SimpleAsyncHTTPClient

    found: dict[str, dict[str, str]] = {}
    for name, reply in CORPUS.items():
        found[name] = {}
        for parser, cls in (("simple", SimpleAsyncHTTPClient), ("curl", CurlAsyncHTTPClient)):
            async with cls(force_instance=True, trust_env=False) as client:
                found[name][parser] = await by_whimbrel(client, reply)
        if not reply.coded:
            found[name]["h11"] = by_h11(reply)
        found[name]["tornado"] = await by_tornado(reply)
    return found


def differs(outcomes: dict[str, str]) -> bool:
    return len(set(outcomes.values())) > 1


def text_of(reply: Reply, outcome: str | None) -> str:
    """An outcome as a cell of the table."""
    if outcome is None:
        return ""
    if outcome in (REJECTED, WAITS):
        return outcome
    code = int(outcome[:3])
    return "accepts" if outcome == accepted(code, reply.body) else f"accepts `{outcome[4:]!r}`"


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """What stands between the two marks of the page."""
    lines = [
        f"| reply | {' | '.join(PARSERS.values())} | what whimbrel does, and why |",
        "|---|" + len(PARSERS) * "---|" + "---|",
    ]
    agreed: dict[bool, list[str]] = {True: [], False: []}
    for name, of in outcomes.items():
        if differs(of):
            reply = CORPUS[name]
            cells = " | ".join(text_of(reply, of.get(parser)) for parser in PARSERS)
            lines.append(f"| {name} | {cells} | {reply.why} |")
        else:
            agreed[REJECTED in of.values()].append(name)
    for rejects, title in ((True, "All reject"), (False, "All accept")):
        lines += ["", f"**{title}:** {' · '.join(agreed[rejects])}."]
    return "\n".join(lines)


def rewritten(page: str, outcomes: dict[str, dict[str, str]]) -> str:
    """`page` with the table between the two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table(outcomes)}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    old = PAGE.read_text("utf-8")
    if not options.check:
        outcomes = asyncio.run(record())
        RECORD.write_text(json.dumps(outcomes, indent=2, ensure_ascii=False) + "\n", "utf-8")
        PAGE.write_text(rewritten(old, outcomes), "utf-8")
    elif rewritten(old, recorded()) != old:
        sys.exit(f"{PAGE} is out of date: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
