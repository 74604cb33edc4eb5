"""Rivals that alternate in one process: each runs once between two rounds of the timed function, which is ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def alternate(benchmark: Any, ours: Callable[[], Any], rivals: dict[str, Callable[[], Any]], rounds: int = 7) -> None:
    """Time `ours` by pytest-benchmark and every rival between its rounds; rivals' seconds go to extra_info."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for step in (ours, *rivals.values()):
        step()

    def setup() -> None:
        for name, rival in rivals.items():
            start = time.perf_counter()
            rival()
            times[name].append(time.perf_counter() - start)

    benchmark.pedantic(ours, setup=setup, rounds=rounds, iterations=1)
    benchmark.extra_info["rivals"] = times
