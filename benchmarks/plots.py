"""Plots of a run: how each scenario compares, and how work grows. With matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import Result, Results, Series


def missing() -> str | None:
    """What to install first; None where all is there, and works."""
    try:
        from matplotlib import pyplot  # noqa: F401
    except Exception as error:  # noqa: BLE001 - of what it is built on, whatever it is
        words = f"{type(error).__name__}: {error}"
        return f"--plots needs matplotlib: pip install 'whimbrel[bench]' ({words})"
    return None


def draw(results: Results, folder: Path) -> list[Path]:
    """One file for each scenario that has samples; their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for result in results:
        if not result.samples:
            continue
        figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
        if result.axis:
            _curves(result, axes)
        else:
            _bars(result, axes)
        axes.set_title(result.title)
        path = folder / f"{result.name}.svg"
        figure.savefig(path)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def _curves(result: Result, axes: Any) -> None:
    """Medians over the points, the range between least and greatest behind them."""
    for client in result.clients:
        spreads = {
            point: spread
            for point in result.points
            if (spread := result.spread(Series(client, point)))
        }
        points = list(spreads)
        axes.plot(points, [s.median for s in spreads.values()], marker="o", label=client)
        axes.fill_between(
            points,
            [s.least for s in spreads.values()],
            [s.greatest for s in spreads.values()],
            alpha=0.2,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(result.axis)
    axes.set_ylabel(result.metric.unit)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def _bars(result: Result, axes: Any) -> None:
    """Medians, the best on top, with a line from least to greatest."""
    spreads = {}
    for client in result.clients:
        spread = result.spread(Series(client))
        assert spread is not None
        spreads[client] = spread
    ordered = sorted(
        spreads.items(), key=lambda item: item[1].median, reverse=not result.metric.more_is_better
    )
    medians = [spread.median for _, spread in ordered]
    below = [spread.median - spread.least for _, spread in ordered]
    above = [spread.greatest - spread.median for _, spread in ordered]
    colors = ["tab:blue" if "whimbrel" in client else "tab:gray" for client, _ in ordered]
    names = [client for client, _ in ordered]
    axes.barh(names, medians, xerr=[below, above], color=colors, ecolor="black")
    axes.set_xlabel(result.metric.unit)
