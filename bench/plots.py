"""Plots of the benches: time a row against rows, share of the roofline, peak memory; one small SVG each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from report import Row, each, floor

# Text as text, and the same bytes for the same numbers.
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "equikern", "font.size": 8, "axes.grid": True})
COLOURS = {"equikern": "C3"}


def colour(name: str) -> str:
    """The same colour for a name in all plots of a run."""
    return COLOURS.setdefault(name, ["C0", "C1", "C2", "C4", "C5", "C6", "C7", "C8", "C9"][(len(COLOURS) - 1) % 9])


def save(figure: Any, path: Path) -> str:
    """Write and close a figure; its file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path.name


def some(names: list[str], most: int = 3) -> list[str]:
    """At most a few of a list, its ends among them."""
    if len(names) <= most:
        return names
    return [names[round(n * (len(names) - 1) / (most - 1))] for n in range(most)]


def chosen(rows: list[Row]) -> list[Row]:
    """The rows of one dtype and number of threads: the first row's."""
    return [row for row in rows if all(row[key] == rows[0][key] for key in ("dtype", "threads"))]


def times(suite: str, rows: list[Row], folder: Path) -> list[str]:
    """Time a row against the number of rows: a column a step, a line of plots a case."""
    rows = chosen(rows)
    if len({row["edges"] for row in rows}) < 2:
        return []
    cases = some(list(dict.fromkeys(row["case"] for row in rows)))
    steps = some(list(dict.fromkeys(row["step"] for row in rows)))
    figure, axes = plt.subplots(len(cases), len(steps), figsize=(2.6 * len(steps), 1.9 * len(cases)), squeeze=False)
    for line, case in zip(axes, cases, strict=True):
        for ax, step in zip(line, steps, strict=True):
            here = sorted((r for r in rows if (r["case"], r["step"]) == (case, step)), key=lambda r: r["edges"])
            names = dict.fromkeys(name for row in here for name in row["rivals"])
            series = {"equikern": [(r["edges"], r["times"][0]) for r in here]}
            series |= {n: [(r["edges"], r["rivals"][n][0]) for r in here if n in r["rivals"]] for n in names}
            for name, points in series.items():
                x, y = [n for n, _ in points], [1e6 * seconds / n for n, seconds in points]
                ax.loglog(x, y, "o-", ms=3, lw=1, color=colour(name), label=name)
            ax.set_title(f"{case}, {step}", fontsize=8)
    unit = rows[0]["unit"]
    figure.supxlabel(f"{unit}s", fontsize=8)
    figure.supylabel(f"µs {each(unit)}", fontsize=8)
    axes[0][0].legend(fontsize=6)
    return [save(figure, folder / f"{suite}-time.svg")]


def roofline(suite: str, rows: list[Row], folder: Path) -> list[str]:
    """What share of the roofline each case reaches at the largest size."""
    rows = chosen(rows)
    largest = max(row["edges"] for row in rows)
    here = [(row, floor(row)) for row in rows if row["edges"] == largest]
    bars = [(f"{row['case']}, {row['step']}", 100 * least / row["times"][0]) for row, least in here if least]
    if not bars:
        return []
    figure, ax = plt.subplots(figsize=(5.2, 0.6 + 0.18 * len(bars)))
    ax.barh([name for name, _ in bars][::-1], [share for _, share in bars][::-1], color=colour("equikern"))
    ax.set_xlim(0, 100)
    ax.set_xlabel(f"% of the roofline (measured FMA peak and bandwidth), {largest} {rows[0]['unit']}s")
    return [save(figure, folder / f"{suite}-roofline.svg")]


def memory(suite: str, rows: list[Row], folder: Path) -> list[str]:
    """Peak memory of a step."""
    rows = [row for row in rows if "memory" in row]
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row["memory"]))
    figure, ax = plt.subplots(figsize=(5.2, 0.8 + 0.3 * len(rows)))
    for n, name in enumerate(names):
        at = [k + 0.4 * n for k in range(len(rows))]
        ax.barh(at, [row["memory"].get(name, 0) / 1e6 for row in rows], 0.35, color=colour(name), label=name)
    ax.set_yticks(range(len(rows)), [f"{row['case']}, {row['step']}, {row['edges']}" for row in rows])
    ax.set_xscale("log")
    ax.set_xlabel("MB beyond inputs and results")
    ax.legend(fontsize=6)
    return [save(figure, folder / f"{suite}-memory.svg")]


def draw(suite: str, rows: list[Row], folder: Path) -> list[str]:
    """All plots of a suite that its rows have numbers for; their file names."""
    timed = [row for row in rows if "memory" not in row]
    drawn = [*times(suite, timed, folder), *roofline(suite, timed, folder)] if timed else []
    return [*drawn, *memory(suite, rows, folder)]
