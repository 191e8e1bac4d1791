"""What a run found, as tables: Markdown that can be read as it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.results import BYTES, Result, Results, Series
from benchmarks.targets import PEERS, REPORTED, TARGETS, Ratio, Target, judge


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table in columns, the first flush left, the others flush right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def pairs(facts: Mapping[str, Any]) -> str:
    """A list of facts."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def section(result: Result) -> str:
    """One scenario: its table, and who is not in it, and why."""
    parts = [f"## {result.title}"]
    if result.samples:
        parts.append(_by_point(result) if result.axis else _by_client(result))
    if notes := _notes(result):
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def verdicts(results: Results, targets: Sequence[Target] = TARGETS) -> str:
    """Each target, and what was found."""
    rows = []
    for target in targets:
        verdict = judge(target, results.scenarios)
        rows.append([target.scenario, target.client, target.text, verdict.found, verdict.word])
    return f"## Targets\n\n{table(['scenario', 'client', 'target', 'found', 'verdict'], rows)}"


def markdown(results: Results) -> str:
    """All of it."""
    parts = ["# Benchmarks", pairs(results.facts)]
    if results.left_out:
        parts.append("Left out:\n\n" + pairs(results.left_out))
    parts += [section(result) for result in results]
    parts.append(verdicts(results))
    return "\n\n".join(parts) + "\n"


def _by_client(result: Result) -> str:
    """A row for each client, the best first."""
    metric = result.metric
    peers = [peer for peer in _compared_with(result) if peer in result.clients]
    columns: dict[str, Callable[[str], str]] = {metric.unit: lambda name: _value(result, name)}
    if any("requests" in s for samples in result.samples.values() for s in samples.values()):
        per = "MB" if metric == BYTES else "request"
        columns[f"CPU µs/{per}"] = lambda name: _cpu(result, name)
        columns["busy"] = lambda name: _busy(result, name)
    for peer in peers:
        columns[f"x {peer}"] = lambda name, peer=peer: _ratio(result, name, peer)  # type: ignore[misc]

    def median(client: str) -> float:
        spread = result.spread(Series(client))
        assert spread is not None
        return spread.median

    clients = sorted(result.clients, key=median, reverse=metric.more_is_better)
    rows = [[client, *(column(client) for column in columns.values())] for client in clients]
    return table(["client", *columns], rows)


def _by_point(result: Result) -> str:
    """A row for each point, a column for each client."""
    rows = []
    for point in result.points:
        cells = []
        for client in result.clients:
            spread = result.spread(Series(client, point))
            cells.append(spread.text(result.metric.form) if spread else "")
        rows.append([f"{point:,}", *cells])
    head = [str(result.axis), *(f"{client}, {result.metric.unit}" for client in result.clients)]
    return table(head, rows)


def _compared_with(result: Result) -> Iterator[str]:
    """The peers that the targets name, or that stand beside them, each once."""
    seen = set()
    for client in REPORTED.get(result.name, ()):
        if client in PEERS:
            seen.add(client)
            yield client
    for target in TARGETS:
        if isinstance(target, Ratio) and target.scenario == result.name:
            peer = target.peer or result.best(PEERS)
            if peer is not None and peer not in seen:
                seen.add(peer)
                yield peer


def _value(result: Result, client: str) -> str:
    spread = result.spread(Series(client))
    return spread.text(result.metric.form) if spread else ""


def _ratio(result: Result, client: str, peer: str) -> str:
    found = result.ratio(Series(client), Series(peer)) if client != peer else None
    return found.text(".2f") if found else ""


def _cpu(result: Result, client: str) -> str:
    """CPU time a request, or a megabyte, system calls included.

    Of the client's process, or of the server's where that is what is measured.
    """
    samples = result.samples[Series(client)].values()
    is_bytes = result.metric == BYTES
    amounts = [s["value"] * s["seconds"] if is_bytes else s["requests"] for s in samples]
    micros = [s["cpu_seconds"] / n * 1e6 for s, n in zip(samples, amounts, strict=True)]
    return f"{statistics.median(micros):,.1f}"


def _busy(result: Result, client: str) -> str:
    """The part of the time that the process had its core: well below 1, it waited for the other."""
    parts = [s["cpu_seconds"] / s["seconds"] for s in result.samples[Series(client)].values()]
    return f"{statistics.median(parts):.0%}"


def _notes(result: Result) -> list[str]:
    notes = [f"FAILED: {failure.text}" for failure in result.failures]
    by_reason: dict[str, list[str]] = {}
    for client, reason in result.left_out.items():
        by_reason.setdefault(reason, []).append(client)
    notes += [f"cannot: {'; '.join(names)} — {reason}" for reason, names in by_reason.items()]
    return notes
