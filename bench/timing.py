"""Rivals that alternate in one process: each runs once between two rounds of the timed function, which is ours.

A bench sets `benchmark.extra_info`, which `report.py` reads; `conftest.py` adds threads, target, torch, dtype, peak and
bandwidth, `alternate` adds rivals:

| key | what |
|---|---|
| case, step | what is timed, in words; a table has one line for each case, number of edges, step, dtype and threads |
| edges | the number of rows that the time is divided by |
| unit | what a row is: "edge" if not given, "atom" for models |
| flops, bytes | of one step, counted in the program; without flops there is no share of the peak (both optional) |
| dtype | "float32" if not given |
| threads, target, torch | of the run |
| peak, bandwidth | measured operations and bytes a second of these threads, from which the roofline is made |
| rivals | {name: seconds of each round} |
| skipped | {name: why this rival was not timed} (optional) |
| error | largest relative difference to the float64 reference (optional) |
| extra | {column: number}, further figures for the table (optional) |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SHORT, MOST = 0.01, 100


def seconds(step: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def alternate(benchmark: Any, ours: Callable[[], Any], rivals: dict[str, Callable[[], Any]], rounds: int = 7) -> None:
    """Time `ours` by pytest-benchmark and every rival between its rounds; rivals' seconds go to extra_info.

    There are as many rounds as take a second, from `rounds` to 100. Steps below 10 ms run once before each timed call:
    what the others left in the caches is not their time.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    steps = {"": ours, **rivals}
    for step in steps.values():
        step()
    took = {name: seconds(step) for name, step in steps.items()}
    short = {name: t < SHORT for name, t in took.items()}
    round_takes = sum(t * (2 if short[name] else 1) for name, t in took.items())

    def setup() -> None:
        for name, rival in rivals.items():
            if short[name]:
                rival()
            times[name].append(seconds(rival))
        if short[""]:
            ours()

    benchmark.pedantic(ours, setup=setup, rounds=max(rounds, min(MOST, int(1 / round_takes))), iterations=1)
    benchmark.extra_info["rivals"] = times
